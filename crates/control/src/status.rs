//! What is said of the node: version, shards, disks, memory, health.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NodeStatus {
    #[cfg_attr(feature = "openapi", schema(example = "0.1.0"))]
    pub version: String,
    /// Part of every id that this node makes; a new one is taken after the metadata store was rebuilt.
    pub node: u16,
    pub data_directory: String,
    /// Milliseconds since 1970 (UTC).
    pub started_unix_ms: u64,
    pub uptime_seconds: u64,
    pub health: Health,
    pub listeners: Vec<Listener>,
    pub shards: Vec<ShardStatus>,
    pub disks: Vec<DiskStatus>,
    pub memory: MemoryStatus,
    pub vdisks: VdiskCounts,
    /// NBD connections and iSCSI sessions at this moment.
    pub connections: u32,
}

/// Whether the promises are kept at this moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Health {
    Healthy,
    /// vDisks are being found or replayed.
    Starting {
        /// Sentences for people.
        reasons: Vec<String>,
    },
    /// Something is served less well than promised.
    Degraded {
        /// Sentences for people.
        reasons: Vec<String>,
    },
    Stopping,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Listener {
    pub protocol: Protocol,
    /// `127.0.0.1:10809`, or the path of a unix socket.
    pub address: String,
    pub tls: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    Api,
    Nbd,
    NbdUnix,
    Iscsi,
}

/// One worker thread and what lives on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ShardStatus {
    pub shard: u32,
    pub vdisks: u32,
    pub connections: u32,
    /// Block requests under way.
    pub in_flight: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DiskStatus {
    pub id: String,
    pub path: String,
    pub state: DiskState,
    /// Size of the file system (or device) under it.
    pub capacity_bytes: u64,
    /// Taken by extent groups.
    pub used_bytes: u64,
    /// What may still be written before writes fail with "no space left"; the reserve is taken off already.
    pub available_bytes: u64,
    /// Kept for trims, deletes, checkpoints and metadata.
    pub reserve_bytes: u64,
    /// Extent groups on it.
    pub groups: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum DiskState {
    Online,
    /// Only the reserve is left, or less than 32 MiB besides it.
    Full,
    /// It refused I/O or a sync.
    Failed {
        reason: String,
    },
}

/// Bytes. `used` is the sum of the parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MemoryStatus {
    pub budget_bytes: u64,
    pub used_bytes: u64,
    /// Data and map pages that could be read again from disk.
    pub cache_bytes: u64,
    /// Map pages changed since the last checkpoint.
    pub dirty_map_bytes: u64,
    /// Frames not yet synced, and requests under way.
    pub buffer_bytes: u64,
}

/// `total` is the sum of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VdiskCounts {
    pub total: u32,
    pub online: u32,
    pub recovering: u32,
    pub damaged: u32,
    pub read_only: u32,
    pub full: u32,
}
