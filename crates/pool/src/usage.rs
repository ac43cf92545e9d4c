//! What a pool counts about itself.

use world::DiskUsage;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SyncLatency {
    pub count: u64,
    pub total_ns: u64,
    pub max_ns: u64,
}

/// Counters since `open` and the state of space, bytes unless the name says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    pub slots_used: u64,
    pub slots_recycled: u64,
    pub slots_quarantined: u64,
    /// Estimate of what the files of this pool take.
    pub allocated_bytes: u64,
    pub ballast_whole: bool,
    /// As last seen by `refresh_usage`.
    pub disk: DiskUsage,
    pub poisoned_slabs: usize,
    pub syncs: u64,
    pub sync_failures: u64,
    pub appended_bytes: u64,
    pub padded_bytes: u64,
    pub prewritten_bytes: u64,
    pub sync_latency: SyncLatency,
}
