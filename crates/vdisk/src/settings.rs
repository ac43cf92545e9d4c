//! Limits of the engine, named in one place. Plain data; tests use tiny values to reach the edges quickly.

use base::units::{GIB, KIB, MIB};

#[derive(Debug, Clone)]
pub struct Settings {
    /// Payload of one frame. 1 MiB: large enough that headers cost nothing, small enough that a group of 4 MiB holds some.
    pub frame_payload_bytes_max: u32,
    /// From this payload on the next frame of a vDisk begins while one is still on its way. Shorter ones are done before
    /// it would pay, and share their pages; with half of this, sequential writes gained half as much (a tenth, not a fifth).
    pub overlap_bytes_min: u32,
    /// Unsynced bytes of one vDisk at which a sync is started unasked.
    pub unsynced_bytes_soft: u64,
    /// Unsynced bytes of one vDisk at which its writers wait: they are kept in memory, to be rewritten after a failed sync.
    pub unsynced_bytes_max: u64,
    /// Age of the oldest unsynced frame at which a sync is started unasked, ns.
    pub unsynced_age_ns_max: u64,
    /// Log behind the last checkpoint that starts the next one: bounds the replay. Smaller vDisks use an eighth of their
    /// live bytes, but not less than `checkpoint_log_bytes_min`, so that dead groups come free in time.
    pub checkpoint_log_bytes_max: u64,
    pub checkpoint_log_bytes_min: u64,
    /// A vDisk that has not been written for this long gets its checkpoint, ns.
    pub checkpoint_quiet_ns: u64,
    /// Sum of the logs behind their checkpoints, over all vDisks of the shard.
    pub shard_log_bytes_max: u64,
    /// Re-packing starts when the groups hold more than `live * percent / 100 + slack`.
    pub space_percent: u64,
    pub space_slack_bytes: u64,
    /// Map pages of one shard in memory.
    pub map_bytes_max: u64,
    /// Lists of what recent groups of one shard hold, so that they need not be read to be freed.
    pub contents_bytes_max: u64,
    /// Writes of one client request larger than this are not put in the cache: they would pin a large buffer or push out
    /// what is read.
    pub cache_write_bytes_max: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            frame_payload_bytes_max: MIB as u32,
            overlap_bytes_min: (512 * KIB) as u32,
            unsynced_bytes_soft: 16 * MIB,
            unsynced_bytes_max: 64 * MIB,
            unsynced_age_ns_max: 100_000_000,
            checkpoint_log_bytes_max: GIB,
            checkpoint_log_bytes_min: 128 * MIB,
            checkpoint_quiet_ns: 20_000_000_000,
            shard_log_bytes_max: 2 * GIB,
            space_percent: 124,
            space_slack_bytes: 128 * MIB,
            map_bytes_max: 256 * MIB,
            contents_bytes_max: 16 * MIB,
            cache_write_bytes_max: (128 * KIB) as u32,
        }
    }
}
