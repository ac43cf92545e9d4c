//! Disks, extent groups, sync, space and the RAM cache: where appended bytes are kept.
//!
//! One [`Pool`] belongs to one shard (one worker): it owns a disk, keeps extent groups in the slots of a few big files
//! (slabs), and hands out appending handles, reads, syncs and space. What the bytes of a group mean beyond its header
//! page is the vDisk engine's affair. docs/format.md describes every byte that is written here.

mod config;
mod error;

mod pool;

mod open;
mod scan;

mod group;
mod pace;
mod sync;

mod ballast;
mod free;
mod space;

mod header;
mod ids;
mod slab;
mod slots;
mod superblock;

mod cache;
mod usage;

pub use cache::{Cache, CacheStats};
pub use config::{FaultDomains, Identity, PoolConfig, SHARDS_MAX};
pub use error::{Error, Kind, Result};
pub use group::{NewGroup, OpenGroup, Purpose};
pub use header::{GroupHeader, HEADER_PAGE, Predecessor, SlotPage, decode_slot_page};
pub use pool::{Opened, Peeked, Place, Pool};
pub use slab::SlabId;
pub use usage::{SyncLatency, Usage};

#[cfg(test)]
mod tests;
