//! Composition root: configuration and world become running shards; wiring only.
//!
//! A [`Shard`] is what one worker runs: one pool, the vDisks that live on it, their entries in the metadata store. The
//! controller binary runs one on each worker thread, the simulator runs the same ones on its own world.
//! Must not know: threads, protocols, REST.

mod attach;
mod error;
mod index;
mod maintenance;
mod open;
mod rebuild;
mod recover;
mod rewind;
mod shard;
mod snapshots;
mod space;
mod verbs;

pub use attach::{Attachment, Hold};
pub use error::{Error, Kind, Result};
pub use open::ShardConfig;
pub use rebuild::{Rebuilt, RebuiltVdisk};
pub use shard::{Entry, Listener, Shard, ShardSummary, Told, Totals, VdiskSummary};
pub use snapshots::{Changed, ChangedPage, HoldTimes, Side, SnapshotSummary};
pub use verbs::BornWith;
