//! Whether files follow each other: one full backup, then each incremental one since the snapshot of the file before.

use crate::header::{Header, Point};

/// Numbers count the files as they were given, from 0 on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    #[error("no backup file is given")]
    Empty,
    #[error(
        "the first file holds only what changed since snapshot {since:?} ({since_id}); a full backup, or the files up to that snapshot, come before it"
    )]
    NotFull { since: String, since_id: String },
    #[error("file {at} is a full backup; nothing can come before one")]
    FullAgain { at: usize },
    #[error("file {at} is of vDisk {name:?} ({id}), the first one of another")]
    OtherVdisk { at: usize, name: String, id: String },
    #[error(
        "file {at} holds what changed since snapshot {since:?} ({since_id}), but the file before it ends at {before:?} ({before_id}): a file is missing, or they are in another order"
    )]
    Gap { at: usize, since: String, since_id: String, before: String, before_id: String },
}

impl ChainError {
    /// The file that does not fit.
    pub fn file(&self) -> Option<usize> {
        match self {
            ChainError::Empty => None,
            ChainError::NotFull { .. } => Some(0),
            ChainError::FullAgain { at } | ChainError::OtherVdisk { at, .. } | ChainError::Gap { at, .. } => Some(*at),
        }
    }
}

/// The files, in this order, lead from nothing to the last one's snapshot.
pub fn check_chain(files: &[&Header]) -> Result<(), ChainError> {
    let (first, rest) = files.split_first().ok_or(ChainError::Empty)?;
    if let Some(Point { id, name, .. }) = &first.from {
        return Err(ChainError::NotFull { since: name.clone(), since_id: id.clone() });
    }
    let mut before = &first.to;
    for (index, file) in rest.iter().enumerate() {
        let at = index + 1;
        let (own, theirs) = (&first.vdisk, &file.vdisk);
        if (&own.id, own.created_unix_ms) != (&theirs.id, theirs.created_unix_ms) {
            return Err(ChainError::OtherVdisk { at, name: theirs.name.clone(), id: theirs.id.clone() });
        }
        let since = file.from.as_ref().ok_or(ChainError::FullAgain { at })?;
        if !since.is_same(before) {
            let (since, since_id) = (since.name.clone(), since.id.clone());
            let (before, before_id) = (before.name.clone(), before.id.clone());
            return Err(ChainError::Gap { at, since, since_id, before, before_id });
        }
        before = &file.to;
    }
    Ok(())
}
