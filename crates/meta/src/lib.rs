//! The metadata store: a small trait of ordered keys with transactions, its typed records, and the embedded store.
//!
//! The store is an index: everything in it can be rebuilt from the logs of the vDisks. It holds small records only
//! (nodes, shards, vDisks), never anything per block. Watches and leases come with the cluster store (etcd), which is
//! the first that can honour them; the embedded store has a single user.

mod error;
mod record;
mod store;

pub use error::{Error, Kind, Result};
pub use record::{CheckpointHint, NodeRecord, ShardRecord, TailHint, VdiskRecord, keys};
pub use store::{Compare, Outcome, Store, Transaction};
