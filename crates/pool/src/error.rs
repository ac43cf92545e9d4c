//! The pool's error: what the caller may do about it, where it happened, and the disk's own words.

/// What the caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// No space (or only the reserve is left): free something, or come back with [`crate::Purpose::Emergency`].
    Full,
    /// The disk refused; the bytes in question are in doubt, everything else goes on.
    Io,
    /// Stored bytes fail their checksum or contradict each other.
    Corrupt,
    /// No such group, or no superblock.
    NotFound,
    /// The group takes no more appends, because one of them failed: open another one.
    Sealed,
    /// A sync of this slab failed, now or earlier: what was not synced before must be written to another group.
    SyncFailed,
    /// Written by a newer build.
    UnsupportedFormat,
    /// The caller asked for something that cannot be.
    Invalid,
    /// The id counter of this node number ended: the node needs a new number.
    IdsExhausted,
}

#[derive(Debug, Clone, thiserror::Error)]
#[error("{context}")]
pub struct Error {
    pub kind: Kind,
    pub context: String,
    pub source: Option<world::Error>,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn new(kind: Kind, context: impl Into<String>) -> Self {
        Error { kind, context: context.into(), source: None }
    }

    /// A refusal of the disk, with what was being done.
    pub fn from_disk(context: impl Into<String>, source: world::Error) -> Self {
        let kind = match source.kind {
            world::Kind::Full => Kind::Full,
            world::Kind::NotFound => Kind::NotFound,
            world::Kind::Io | world::Kind::Exists | world::Kind::Unsupported => Kind::Io,
        };
        Error { kind, context: context.into(), source: Some(source) }
    }

    pub(crate) fn sync_failed(what: &str, source: world::Error) -> Self {
        Error { kind: Kind::SyncFailed, context: format!("a sync of {what} failed"), source: Some(source) }
    }
}
