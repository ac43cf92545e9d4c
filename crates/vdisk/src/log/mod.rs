//! The log of a vDisk: frames in order, the truth from which everything else can be rebuilt.

pub mod frame;
mod record;
mod walk;
mod writer;

pub use record::{CheckpointRecord, GroupEntry, Record};
pub use walk::{GroupWalk, Step, WalkedFrame, frame_beyond};
pub(crate) use writer::{Frozen, Item, Move, PageWrite, Queue, Unsynced, apply_record, piece_of, run_addresses};

use base::{GroupId, Sequence};

/// The end of a frame: where the next one may start, and what it must name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Position {
    /// `NONE` before the first frame.
    pub group: GroupId,
    /// First byte behind the frame.
    pub end: u32,
    /// Checksum of the frame's header: the chain.
    pub chain: u32,
    pub sequence: Sequence,
}
