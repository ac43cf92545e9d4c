//! Notes: what front-ends want to find again after a restart, and after the loss of everything but the disk. The engine
//! stores them and does not know what they say.

use crate::log::Record;
use crate::vdisk::Vdisk;
use crate::{Error, Kind, Result};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Longest note, bytes: 60 KiB. A copy of each has to fit into a value of the metadata store (64 KiB), and all of them
/// into every checkpoint.
pub const NOTE_BYTES_MAX: usize = 60 << 10;

/// What a note is about; the value is stored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum NoteKind {
    /// Who may log in over iSCSI.
    IscsiAccess = 1,
    /// SCSI-3 persistent reservations.
    Reservations = 2,
}

impl NoteKind {
    pub const ALL: [NoteKind; 2] = [NoteKind::IscsiAccess, NoteKind::Reservations];

    pub fn from_raw(raw: u8) -> Option<NoteKind> {
        NoteKind::ALL.into_iter().find(|kind| *kind as u8 == raw)
    }
}

/// One of each kind at most; none is empty.
pub type Notes = BTreeMap<NoteKind, Bytes>;

impl Vdisk {
    pub fn notes(&self) -> Notes {
        self.state.borrow().notes.clone()
    }

    pub fn note(&self, kind: NoteKind) -> Option<Bytes> {
        self.state.borrow().notes.get(&kind).cloned()
    }

    /// Groups that are small (in tests) must hold a checkpoint with all notes several times over.
    pub fn note_bytes_max(&self) -> usize {
        NOTE_BYTES_MAX.min(self.context.pool.group_size() as usize / 8)
    }

    /// Replaces the note of this kind; an empty one removes it. Durable when it completes. `Invalid`: too long.
    pub async fn set_note(self: &Rc<Self>, kind: NoteKind, bytes: Bytes) -> Result<()> {
        self.changeable()?;
        if bytes.len() > self.note_bytes_max() {
            let text = format!("a note of {} bytes: {} are allowed", bytes.len(), self.note_bytes_max());
            return Err(Error::new(Kind::Invalid, text));
        }
        if self.note(kind).unwrap_or_default() == bytes {
            // It may be the one of an attempt whose sync failed.
            return self.flush().await;
        }
        self.control(Record::Note(kind, bytes)).await
    }
}
