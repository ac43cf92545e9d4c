//! The RAM cache of extents: the one thing that all shards of a process share.
//!
//! Keyed by (group, offset in 16-byte grains). Ids of groups are never used twice and what is stored under a key never
//! changes, so that an entry is never stale. Each part of the cache has its own lock, held for a look-up or an
//! insertion; this is the only lock in the engine.
//!
//! Eviction is S3-FIFO (Yang et al., SOSP'23): new entries pass through a small queue, and only those that are asked
//! for again there get into the main one, so that a scan of everything does not wash out what is in use. A hit costs a
//! look-up and a saturating increment: nothing moves.

mod part;

use base::GroupId;
use bytes::Bytes;
use part::Part;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// More parts than any machine here has workers, so that two seldom want the same one.
const PARTS_MAX: u64 = 64;
/// A part smaller than this could not hold a few large extents at once.
const PART_BYTES_MIN: u64 = 4 << 20;
/// Grains that lie together are in the same part: 1 MiB of a group.
const PART_GRAIN_BITS: u32 = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheStats {
    pub hits: u64,
    pub misses: u64,
    /// Held now, with what the bookkeeping takes.
    pub bytes: u64,
    pub entries: u64,
    pub evictions: u64,
    pub budget_bytes: u64,
}

/// Where an entry's bytes stand: group, and offset in it in grains of 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub group: GroupId,
    pub grain: u32,
}

pub struct Cache {
    /// A power of two of them.
    parts: Box<[Mutex<Part>]>,
}

impl Cache {
    /// Holds at most `budget_bytes`, what the bookkeeping takes included. 0: holds nothing.
    pub fn new(budget_bytes: u64) -> Self {
        let wanted = (budget_bytes / PART_BYTES_MIN).clamp(1, PARTS_MAX);
        let count = 1_u64 << wanted.ilog2();
        Cache { parts: (0..count).map(|_| Mutex::new(Part::new(budget_bytes / count))).collect() }
    }

    fn part(&self, key: Key) -> MutexGuard<'_, Part> {
        let place = key.group.raw() ^ u64::from(key.grain >> PART_GRAIN_BITS) << 40;
        // The upper bits of the product depend on all bits of the place.
        let mixed = place.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
        lock(&self.parts[mixed as usize & (self.parts.len() - 1)])
    }

    pub fn get(&self, group: GroupId, grain: u32) -> Option<Bytes> {
        let key = Key { group, grain };
        self.part(key).get(key)
    }

    /// `bytes` keep alive whatever buffer they are a part of: insert a copy if that is larger. What is too large for
    /// its part of the cache (an eighth of it) is not kept.
    pub fn insert(&self, group: GroupId, grain: u32, bytes: Bytes) {
        let key = Key { group, grain };
        self.part(key).insert(key, bytes);
    }

    /// Forgets a group that was freed. Not needed for correctness, since its id never comes again.
    pub fn remove_group(&self, group: GroupId) {
        self.parts.iter().for_each(|part| lock(part).remove_group(group));
    }

    pub fn stats(&self) -> CacheStats {
        let each = self.parts.iter().map(|part| lock(part).stats());
        each.fold(CacheStats::default(), |sum, part| CacheStats {
            hits: sum.hits + part.hits,
            misses: sum.misses + part.misses,
            bytes: sum.bytes + part.bytes,
            entries: sum.entries + part.entries,
            evictions: sum.evictions + part.evictions,
            budget_bytes: sum.budget_bytes + part.budget_bytes,
        })
    }

    /// Takes effect at once: what is beyond a smaller budget is evicted.
    pub fn set_budget(&self, budget_bytes: u64) {
        let each = budget_bytes / self.parts.len() as u64;
        self.parts.iter().for_each(|part| lock(part).set_budget(each));
    }
}

/// A thread that panicked while it held the lock may have left a part half-changed, but an assertion there is a bug
/// that ends the process in production (panic = abort); in tests the others go on.
fn lock(part: &Mutex<Part>) -> MutexGuard<'_, Part> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
