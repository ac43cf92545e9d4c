//! Counters since the start of the process, as a snapshot; the API turns them into Prometheus text.

use base::latency;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Metrics {
    pub vdisks: Vec<VdiskMetrics>,
    pub schedules: Vec<ScheduleMetrics>,
    pub engine: EngineMetrics,
    /// `None` where the kernel does not tell.
    pub process: Option<ProcessMetrics>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ScheduleMetrics {
    pub name: String,
    /// [`crate::ScheduleState::word`].
    pub state: String,
    /// Since 1970 (UTC); 0 before the first.
    pub last_success_unix_seconds: u64,
    pub failures: u64,
    pub snapshots: u32,
}

/// What every exporter of Prometheus says of its process.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct ProcessMetrics {
    /// User and system time of all threads.
    pub cpu_seconds: f64,
    pub resident_bytes: u64,
    pub open_descriptors: u64,
    pub descriptors_max: u64,
    pub threads: u64,
    /// Since 1970 (UTC).
    pub started_unix_seconds: f64,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct VdiskMetrics {
    pub name: String,
    /// `VdiskState::word`.
    pub state: String,
    pub size_bytes: u64,
    pub mapped_bytes: u64,
    pub stored_bytes: u64,
    /// Those of them that nothing in its map leads to, and that stay, since copies have taken over something beside them.
    pub copied_dead_bytes: u64,
    pub connections: u32,
    /// Those of them that are iSCSI sessions.
    pub iscsi_sessions: u32,
    /// Snapshots of it.
    pub snapshots: u32,
    /// What its history holds; `None`: none is kept.
    pub rewind: Option<crate::RewindInfo>,
    /// Requests taken and not yet answered.
    pub in_flight: u32,
    /// One entry for each kind that occurred.
    pub operations: Vec<OperationMetrics>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OperationMetrics {
    pub operation: OperationKind,
    /// Bytes of successful requests; 0 for flushes.
    pub bytes: u64,
    /// Requests answered with an error; they are in `latency` too.
    pub errors: u64,
    /// From taking the request to its answer; its count is the number of operations.
    pub latency: Histogram,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationKind {
    Read,
    Write,
    Flush,
    Trim,
    WriteZeroes,
    Prefetch,
    BlockStatus,
    CompareAndWrite,
    OrWrite,
    Lend,
    Take,
}

impl OperationKind {
    pub const ALL: [OperationKind; 11] = [
        OperationKind::Read,
        OperationKind::Write,
        OperationKind::Flush,
        OperationKind::Trim,
        OperationKind::WriteZeroes,
        OperationKind::Prefetch,
        OperationKind::BlockStatus,
        OperationKind::CompareAndWrite,
        OperationKind::OrWrite,
        OperationKind::Lend,
        OperationKind::Take,
    ];

    /// Value of the label `operation`.
    pub fn word(self) -> &'static str {
        match self {
            OperationKind::Read => "read",
            OperationKind::Write => "write",
            OperationKind::Flush => "flush",
            OperationKind::Trim => "trim",
            OperationKind::WriteZeroes => "write_zeroes",
            OperationKind::Prefetch => "prefetch",
            OperationKind::BlockStatus => "block_status",
            OperationKind::CompareAndWrite => "compare_and_write",
            OperationKind::OrWrite => "or_write",
            OperationKind::Lend => "lend",
            OperationKind::Take => "take",
        }
    }
}

/// Counts per bucket of [`base::latency`] (not cumulative) and the sum of all that was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Histogram {
    pub buckets: [u64; latency::BUCKETS],
    pub sum_ns: u64,
}

impl Histogram {
    pub fn record_ns(&mut self, ns: u64) {
        self.buckets[latency::bucket(ns)] += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
    }

    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Adds what another one recorded, so that shards can be summed.
    pub fn merge(&mut self, other: &Histogram) {
        for (mine, theirs) in self.buckets.iter_mut().zip(other.buckets) {
            *mine += theirs;
        }
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
    }
}

/// Sums over all shards. Counters unless said otherwise.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct EngineMetrics {
    /// Gauge: bytes of log behind the newest checkpoints, that is what a crash at this moment would replay.
    pub log_bytes: u64,
    /// Bytes that clients wrote.
    pub client_bytes_written: u64,
    pub bytes_written: BytesWritten,
    pub map_cache_hits: u64,
    pub map_cache_misses: u64,
    /// Gauge.
    pub map_cache_bytes: u64,
    pub ram_cache_hits: u64,
    pub ram_cache_misses: u64,
    /// Gauge.
    pub ram_cache_bytes: u64,
    pub checkpoints: u64,
    /// Bytes of log replayed since the start.
    pub replay_bytes: u64,
    /// Time spent on that, nanoseconds, as the sum over vDisks.
    pub replay_ns: u64,
    /// Syncs of a disk; its count is the number of them.
    pub sync_latency: Histogram,
    pub sync_errors: u64,
    /// For how long the vDisks of a shard held back writes for a snapshot of VMs; a sample for each shard and snapshot.
    pub snapshot_hold: Histogram,
    /// For how long clients' frames waited for re-packing, nanoseconds, as the sum over vDisks.
    pub writes_held_back_ns: u64,
    /// Dead bytes given back by re-packing.
    pub repack_freed_bytes: u64,
    /// Gauge: slabs whose sync failed, not used until restart.
    pub slabs_poisoned: u64,
    /// Gauge: extent groups that nobody knows, kept aside.
    pub groups_quarantined: u64,
    /// Gauge: vDisks that keep space of others from coming free, since what they need is not known.
    pub space_held_up: u64,
    /// Extents whose checksum failed when read.
    pub checksum_errors: u64,
    /// Gauge: NBD connections and iSCSI sessions.
    pub connections: u64,
    /// The same, since the start.
    pub connections_accepted: u64,
    /// Gauge: VMs, templates among them.
    pub vms: u64,
    /// Gauge: iSCSI sessions.
    pub iscsi_sessions: u64,
    /// iSCSI sessions since the start.
    pub iscsi_sessions_begun: u64,
    /// Gauge.
    pub memory_budget_bytes: u64,
    /// Gauge.
    pub memory_used_bytes: u64,
    /// Gauges of the one disk.
    pub disk_capacity_bytes: u64,
    pub disk_used_bytes: u64,
    pub disk_available_bytes: u64,
}

impl EngineMetrics {
    /// Bytes written to disk for each byte that clients wrote; `None` before the first one.
    pub fn write_amplification(&self) -> Option<f64> {
        (self.client_bytes_written > 0).then(|| self.bytes_written.total() as f64 / self.client_bytes_written as f64)
    }
}

/// What the controller wrote to its disks, by class; together every byte of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BytesWritten {
    /// Payload of clients' writes.
    pub data: u64,
    /// Frame headers of those.
    pub headers: u64,
    /// Map pages.
    pub pages: u64,
    /// Control frames, checkpoints, group headers, superblocks.
    pub control: u64,
    /// Live extents written again by re-packing.
    pub repacked: u64,
    /// Alignment.
    pub padding: u64,
}

impl BytesWritten {
    pub fn total(&self) -> u64 {
        self.by_class().iter().map(|(_, bytes)| bytes).sum()
    }

    /// Value of the label `class`, and the bytes.
    pub fn by_class(&self) -> [(&'static str, u64); 6] {
        [
            ("data", self.data),
            ("headers", self.headers),
            ("pages", self.pages),
            ("control", self.control),
            ("repacked", self.repacked),
            ("padding", self.padding),
        ]
    }
}

#[cfg(test)]
mod tests;
