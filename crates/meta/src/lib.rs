//! The metadata store: a small trait of ordered keys with transactions, its typed records, and the embedded store.
//!
//! The store is an index: everything in it can be rebuilt from the logs of the vDisks (but for initiator groups that none
//! of them uses, VMs and containers without vDisks, and what was under way). It holds small records only
//! (nodes, shards, vDisks, their notes), never anything per block. Watches and leases come with the cluster store (etcd), the first
//! that has something to watch: the embedded store has a single user.

mod store;

mod container;
pub mod keys;
mod record;
mod schedule;
mod vm;

mod embedded;
mod memory;
mod oneshot;

mod error;

pub use container::{ContainerNote, ContainerRecord, ContainerRewind, DEFAULT_CONTAINER, MemberRecord};
pub use embedded::{Job, RedbCore, RedbStore, Submit};
pub use error::{Error, Kind, Result};
pub use memory::MemStore;
pub use record::{
    BirthsRecord, CheckpointHint, CloneOf, InitiatorGroupRecord, NodeRecord, NoteRecord, ShardRecord, TailHint,
    VdiskRecord,
};
pub use schedule::{ScheduleNote, ScheduleRecord, ScheduleRule, ScheduleTarget, ScheduledSnapshot};
pub use store::{Compare, KEY_BYTES_MAX, Outcome, Store, Transaction, VALUE_BYTES_MAX};
pub use vm::{PlanRecord, PlannedVdisk, RollbackRecord, SetMember, SetRecord, SetVm, Source, VmRecord, VmVdisk};

#[cfg(test)]
mod tests;
