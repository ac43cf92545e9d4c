//! Ids, units, checksums, byte cursors and aligned buffers.
//!
//! Knows nothing of the project: every other crate may use it, it uses none of them.

pub mod buffer;
pub mod crc;
pub mod cursor;
pub mod hash;
pub mod id;
pub mod latency;
pub mod output;
pub mod payload;
pub mod units;
pub mod utc;
pub mod varint;

pub use buffer::AlignedBuffer;
pub use cursor::{Reader, Truncated, Writer};
pub use id::{ContainerId, DiskId, Epoch, GroupId, Sequence, SnapshotId, VdiskId, VmId};
pub use output::Output;
pub use payload::{Held, Room};
