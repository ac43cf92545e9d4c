//! The RAM cache of extents that all shards of a process share.

use base::GroupId;
use bytes::Bytes;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheStats {
    pub hits: u64,
    pub misses: u64,
    pub bytes: u64,
    pub evictions: u64,
    pub budget_bytes: u64,
}

/// Keyed by (group, offset in 16-byte grains).
pub struct Cache {
    budget_bytes: u64,
}

impl Cache {
    pub fn new(budget_bytes: u64) -> Self {
        Cache { budget_bytes }
    }
    pub fn get(&self, _group: GroupId, _grain: u32) -> Option<Bytes> {
        None
    }
    pub fn insert(&self, _group: GroupId, _grain: u32, _bytes: Bytes) {}
    pub fn remove_group(&self, _group: GroupId) {}
    pub fn stats(&self) -> CacheStats {
        CacheStats { budget_bytes: self.budget_bytes, ..CacheStats::default() }
    }
    pub fn set_budget(&self, _budget_bytes: u64) {}
}
