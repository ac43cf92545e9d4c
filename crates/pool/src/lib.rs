//! Disks, extent groups, sync, space and the RAM cache: where appended bytes are kept.
//!
//! One [`Pool`] belongs to one shard (one worker): it owns a disk, keeps extent groups in the slots of a few big files
//! (slabs), and hands out appending handles, reads, syncs and space. What the bytes of a group mean beyond its header
//! page is the vDisk engine's affair. docs/format.md describes every byte that is written here.

mod cache;
mod config;
mod error;
mod group;
mod header;
mod pool;
mod usage;

pub use cache::{Cache, CacheStats};
pub use config::{FaultDomains, Identity, PoolConfig};
pub use error::{Error, Kind, Result};
pub use group::{NewGroup, OpenGroup, Purpose};
pub use header::{GroupHeader, HEADER_PAGE, Predecessor};
pub use pool::{Opened, Place, Pool, SlabId};
pub use usage::{SyncLatency, Usage};
