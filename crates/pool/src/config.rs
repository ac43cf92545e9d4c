//! Settings of a shard's pool, and who the disk is.

use base::DiskId;

/// Settings; plain data, checked by [`crate::Pool::format`] and [`crate::Pool::open`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolConfig {
    /// Bytes of an extent group with its header page. Only `format` looks at it: an existing disk keeps its own.
    pub group_size: u32,
    /// Groups in one slab file; then another file is begun.
    pub slots_per_slab_max: u32,
    /// Freed slots keep their blocks up to this many bytes, since written space is faster to sync than fresh space.
    pub recycled_bytes_max: u64,
    /// Allocated in advance and given up, piece by piece, when there is no other room to make room. 0: no reserve.
    pub ballast_bytes: u64,
    /// Files of this pool together never take more than this. `None`: as much as the disk has.
    pub capacity_bytes: Option<u64>,
}

impl Default for PoolConfig {
    fn default() -> Self {
        PoolConfig {
            group_size: 64 << 20,
            slots_per_slab_max: 1024,
            recycled_bytes_max: 256 << 20,
            ballast_bytes: 64 << 20,
            capacity_bytes: None,
        }
    }
}

/// Where the disk stands: copies of one thing are kept in different domains.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FaultDomains {
    pub disk: String,
    pub node: String,
    pub rack: String,
    pub site: String,
}

/// What a superblock says about its disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub disk: DiskId,
    pub node: u16,
    /// Below 64: six bits of every id.
    pub shard: u16,
    pub pool: String,
    pub tier: String,
    pub domains: FaultDomains,
}
