//! One vDisk's engine: log, map, read, write, trim, flush, checkpoint, recovery, reclaim.
//!
//! Reading order: [`vdisk`] (the state and its invariants), [`write`] and [`log`] (how bytes get in), [`read`],
//! [`flush`], [`checkpoint`], [`recovery`], [`reclaim`].
//!
//! Must not know: NBD or any protocol, threads, the operating system, other vDisks.

mod account;
pub mod address;
mod checkpoint;
mod contents;
mod copy;
mod device;
mod difference;
mod error;
mod flush;
mod group_map;
mod image;
mod leftover;
mod lifecycle;
pub mod log;
pub mod map;
mod notes;
mod read;
mod reclaim;
mod recovery;
mod references;
mod rewind;
mod settings;
mod shares;
mod snapshot;
mod stats;
mod stored;
mod vdisk;
mod write;

pub use copy::Extents;
pub use difference::DifferenceDevice;
pub use error::{Error, Kind, Result};
pub use image::{Image, Needed, NeededGroups, Origin};
pub use leftover::{Leftover, free_deleted};
pub use lifecycle::Closed;
pub use log::SetRecord;
pub use notes::{NoteKind, Notes};
pub use recovery::{Found, Recovered};
pub use references::References;
pub use rewind::{Moment, Point, PointKind, Rewind, RewindInfo, WINDOW_NS_MIN};
pub use settings::Settings;
pub use shares::{Reached, Share, Shares, StoredMap, shares};
pub use snapshot::{Paused, Pin, SNAPSHOTS_MAX, SnapshotInfo};
pub use stats::{Histogram, OperationKind, Stats};
pub use stored::{Compared, Difference, Differences, Version};
pub use vdisk::{Attributes, Context, Health, Index, Load, Space, Vdisk, meta_hint};
pub use write::{ATOMIC_BYTES_MAX, TRANSFER_BYTES_MAX};
