//! The log of a vDisk: frames in order, the truth from which everything else can be rebuilt.

mod append;
mod batch;
mod combine;
pub mod frame;
mod full;
mod overlap;
mod payload;
mod piece;
mod queue;
mod record;
mod rewrite;
mod take;
mod walk;
mod writer;

pub(crate) use combine::Combine;
pub(crate) use full::Room;
pub(crate) use payload::{Payload, Sums};
pub(crate) use piece::{piece_of, run_addresses};
pub(crate) use queue::{ControlPlace, Frozen, Item, Move, PageWrite, Queue, Replaced, closed};
pub use record::{
    CheckpointRecord, CopiedRun, CopyRecord, GroupEntry, PastRecord, PointRecord, Record, RewindEntry, SetRecord,
    SnapshotEntry, SnapshotRecord,
};
pub(crate) use rewrite::Unsynced;
pub(crate) use take::copied_log_bytes;
pub use walk::{GroupWalk, Step, WalkedFrame, frames_beyond};

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

impl Position {
    pub(crate) fn behind(frame: &frame::Frame) -> Position {
        Position { group: frame.group, end: frame.offset + frame.len, chain: frame.crc, sequence: frame.sequence }
    }
}
