//! What a pool counts about itself.

use crate::Pool;
use base::latency;
use std::cell::Cell;
use world::DiskUsage;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SyncLatency {
    pub buckets: [u64; latency::BUCKETS],
    pub count: u64,
    pub total_ns: u64,
    pub max_ns: u64,
}

/// Counters since `open` and the state of space, bytes unless the name says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    pub slots_used: u64,
    /// Free, but still holding blocks.
    pub slots_recycled: u64,
    /// Room for appends in those that is there whatever else fills the disk.
    pub recycled_bytes: u64,
    pub slots_quarantined: u64,
    /// What the files of this pool take, the ballast included: an estimate from above, but for space that a run before
    /// had reserved and not written.
    pub allocated_bytes: u64,
    /// False: the reserve was touched, ordinary appends get `Full` until it is whole again.
    pub ballast_whole: bool,
    /// As last seen by `refresh_usage`.
    pub disk: DiskUsage,
    pub poisoned_slabs: usize,
    pub syncs: u64,
    pub sync_failures: u64,
    /// What callers appended.
    pub appended_bytes: u64,
    /// What syncs wrote more than that: header pages, gaps, the rest of a last page that was written more than once, and
    /// zeros ahead of the tail.
    pub padded_bytes: u64,
    /// The zeros ahead of the tail, as issued.
    pub prewritten_bytes: u64,
    pub sync_latency: SyncLatency,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub appended_bytes: Cell<u64>,
    pub dirtied_bytes: Cell<u64>,
    pub prewritten_bytes: Cell<u64>,
    pub sync_failures: Cell<u64>,
    pub sync_latency: Cell<SyncLatency>,
}

pub(crate) fn add(cell: &Cell<u64>, value: u64) {
    cell.set(cell.get() + value);
}

impl Counters {
    pub fn sync_took(&self, ns: u64) {
        let mut syncs = self.sync_latency.get();
        syncs.buckets[latency::bucket(ns)] += 1;
        syncs.count += 1;
        syncs.total_ns += ns;
        syncs.max_ns = syncs.max_ns.max(ns);
        self.sync_latency.set(syncs);
    }
}

impl Pool {
    /// What may still be appended in groups, as far as is known. `None`: the disk does not tell, and there is no limit.
    pub fn room_bytes(&self) -> Option<u64> {
        let usage = self.usage();
        if !usage.ballast_whole {
            return Some(0);
        }
        let of_disk = (usage.disk.capacity_bytes > 0).then_some(usage.disk.free_bytes);
        let of_limit = self.config.capacity_bytes.map(|limit| limit.saturating_sub(usage.allocated_bytes));
        of_disk.into_iter().chain(of_limit).min().map(|room| room + usage.recycled_bytes)
    }

    pub fn usage(&self) -> Usage {
        let mut usage = Usage {
            allocated_bytes: self.space.charged_bytes() + self.space.ballast_held(),
            ballast_whole: self.space.ballast_whole(),
            disk: self.disk_usage.get(),
            syncs: self.counters.sync_latency.get().count,
            sync_failures: self.counters.sync_failures.get(),
            appended_bytes: self.counters.appended_bytes.get(),
            padded_bytes: self.counters.dirtied_bytes.get().saturating_sub(self.counters.appended_bytes.get()),
            prewritten_bytes: self.counters.prewritten_bytes.get(),
            sync_latency: self.counters.sync_latency.get(),
            ..Usage::default()
        };
        for slab in self.slabs() {
            let slots = slab.slots.borrow();
            usage.slots_used += u64::from(slots.used());
            let (recycled, recycled_bytes) = slots.recycled();
            usage.slots_recycled += u64::from(recycled);
            usage.recycled_bytes += if slab.poisoned.get() { 0 } else { recycled_bytes };
            usage.slots_quarantined += u64::from(slots.quarantined());
            usage.poisoned_slabs += usize::from(slab.poisoned.get());
        }
        let unfreed = self.unfreed.borrow().len() as u64;
        usage.slots_used -= unfreed;
        usage.slots_quarantined += unfreed;
        usage
    }
}
