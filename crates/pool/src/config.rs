//! Settings of a shard's pool, and who the disk is.

use crate::superblock::TEXT_LEN_MAX;
use crate::{Error, Kind, Result};
use base::DiskId;
use base::units::{BLOCK, KIB, MIB};

/// Bits of an id's counter that belong to the shard's own count; the six above name the shard.
pub(crate) const COUNTER_BITS: u32 = 26;
/// The first count that does not exist.
pub(crate) const COUNTER_END: u32 = 1 << COUNTER_BITS;
/// Shards of one node: what is left of the counter's 32 bits.
pub const SHARDS_MAX: u16 = 1 << (32 - COUNTER_BITS);

/// Settings; plain data, checked by [`crate::Pool::format`] and [`crate::Pool::open`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolConfig {
    /// Bytes of an extent group with its header page. Only `format` looks at it: an existing disk keeps its own.
    pub group_size: u32,
    /// Groups in one slab file; then another file is begun.
    pub slots_per_slab_max: u32,
    /// Freed slots keep their blocks up to this many bytes, since written space is faster to write and to sync than fresh
    /// space.
    pub recycled_bytes_max: u64,
    /// As long as they are used again they keep more: as much as groups in use took not long ago, so that the pool takes no
    /// more of the disk by it, and up to this part of all that it takes. What a look at them (every half minute) finds
    /// unused since the one before goes back to the disk.
    pub recycled_percent_busy: u64,
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
            recycled_percent_busy: 8,
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

/// 4 to 256 MiB in production (256 MiB is as far as the map's offsets reach); down to 16 KiB for tests.
pub(crate) fn check_group_size(group_size: u32) -> Result<()> {
    let bytes = u64::from(group_size);
    if bytes.is_multiple_of(BLOCK) && (16 * KIB..=256 * MIB).contains(&bytes) {
        return Ok(());
    }
    Err(Error::new(Kind::Invalid, format!("group size {bytes}: must be a multiple of 4096 between 16 KiB and 256 MiB")))
}

impl PoolConfig {
    pub(crate) fn check(&self) -> Result<()> {
        check_group_size(self.group_size)?;
        let invalid = |text: &str| Err(Error::new(Kind::Invalid, text));
        if self.slots_per_slab_max == 0 {
            return invalid("slots_per_slab_max must be at least 1");
        }
        if !self.ballast_bytes.is_multiple_of(BLOCK) {
            return invalid("ballast_bytes must be a multiple of 4096");
        }
        if self.capacity_bytes.is_some_and(|capacity| capacity <= self.ballast_bytes) {
            return invalid("capacity_bytes must be larger than ballast_bytes");
        }
        Ok(())
    }
}

impl Identity {
    pub(crate) fn check(&self) -> Result<()> {
        if self.shard >= SHARDS_MAX {
            return Err(Error::new(Kind::Invalid, format!("shard {}: must be below {SHARDS_MAX}", self.shard)));
        }
        let domains = [&self.domains.disk, &self.domains.node, &self.domains.rack, &self.domains.site];
        let texts = [&self.pool, &self.tier].into_iter().chain(domains);
        match texts.into_iter().find(|text| text.len() > TEXT_LEN_MAX) {
            Some(text) => Err(Error::new(Kind::Invalid, format!("{text:?} is longer than {TEXT_LEN_MAX} bytes"))),
            None => Ok(()),
        }
    }
}
