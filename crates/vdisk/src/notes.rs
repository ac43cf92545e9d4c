//! Notes: what front-ends want to find again after a restart, and after the loss of everything but the disk. The engine
//! stores them and does not know what they say.

use crate::log::Record;
use crate::vdisk::Vdisk;
use crate::{Error, Kind, Result};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::rc::Rc;

/// What a note is about; the value is stored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum NoteKind {
    /// Who may log in over iSCSI.
    IscsiAccess = 1,
    /// SCSI-3 persistent reservations.
    Reservations = 2,
    /// The VM that the vDisk belongs to.
    Vm = 3,
    /// The schedules that take snapshots of the vDisk.
    Schedules = 4,
    /// The container that the vDisk is in.
    Container = 5,
}

impl NoteKind {
    pub const ALL: [NoteKind; 5] =
        [NoteKind::IscsiAccess, NoteKind::Reservations, NoteKind::Vm, NoteKind::Schedules, NoteKind::Container];

    /// Longest note of this kind. All of them have to fit into every checkpoint, and what the index holds into a value of
    /// the metadata store (64 KiB).
    pub fn bytes_max(self) -> usize {
        match self {
            NoteKind::IscsiAccess => 60 << 10,
            // Some hundred registrations with the longest names of initiators.
            NoteKind::Reservations => 256 << 10,
            // 64 vDisks with the longest labels.
            NoteKind::Vm => 8 << 10,
            // 8 of the vDisk, of its VM, of its container, and of each of 8 groups, with the longest names and the most rules.
            NoteKind::Schedules => 20 << 10,
            // The longest name and the longest comment.
            NoteKind::Container => 1 << 10,
        }
    }

    /// Whether the metadata store has a copy, for those who must not wait until the log is read.
    pub fn is_indexed(self) -> bool {
        self == NoteKind::IscsiAccess
    }

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

    /// Groups that are small (in tests) must hold a checkpoint with all notes.
    fn note_bytes_max(&self, kind: NoteKind) -> usize {
        kind.bytes_max().min(self.context.pool.group_size() as usize / 8)
    }

    /// Replaces the note of this kind; an empty one removes it. Durable when it completes. `Invalid`: too long.
    pub async fn set_note(self: &Rc<Self>, kind: NoteKind, bytes: Bytes) -> Result<()> {
        self.changeable()?;
        let bytes_max = self.note_bytes_max(kind);
        if bytes.len() > bytes_max {
            let text = format!("a note of {} bytes: {bytes_max} are allowed", bytes.len());
            return Err(Error::new(Kind::Invalid, text));
        }
        if self.note(kind).unwrap_or_default() == bytes {
            // It may be the one of an attempt whose sync failed.
            return self.flush().await;
        }
        self.control(Record::Note(kind, bytes)).await
    }
}
