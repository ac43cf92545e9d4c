//! Where things are in the data directory, and how the settings are divided among the shards.

use crate::config::Config;
use node::ShardConfig;
use pool::PoolConfig;
use std::path::{Path, PathBuf};
use vdisk::Settings;

/// The format of the data directory as a whole.
pub const FORMAT: u32 = 1;

pub fn store_path(data: &Path) -> PathBuf {
    data.join("meta.redb")
}

pub fn shard_path(data: &Path, shard: u16) -> PathBuf {
    data.join(format!("shard-{shard:02}"))
}

/// Shard directories that are there, in order, without gaps expected.
pub fn shards_on_disk(data: &Path) -> std::io::Result<Vec<u16>> {
    let mut shards = Vec::new();
    for entry in std::fs::read_dir(data)? {
        let name = entry?.file_name();
        if let Some(number) = name.to_str().and_then(|name| name.strip_prefix("shard-")).and_then(|n| n.parse().ok()) {
            shards.push(number);
        }
    }
    shards.sort_unstable();
    Ok(shards)
}

/// More payload under way keeps no disk busier.
const PAYLOAD_BYTES_MAX: u64 = 256 << 20;

/// How the memory budget is divided: a quarter for map pages, at most an eighth each for what is unsynced and for
/// requests under way, the rest for the cache.
pub struct Memory {
    pub map_bytes: u64,
    pub unsynced_bytes: u64,
    pub payload_bytes: u64,
    pub cache_bytes: u64,
}

pub fn memory(config: &Config) -> Memory {
    let map_bytes = config.memory_bytes / 4;
    let unsynced_bytes = (config.engine.unsynced_bytes_max * u64::from(config.workers)).min(config.memory_bytes / 8);
    let payload_bytes = (config.memory_bytes / 8).min(PAYLOAD_BYTES_MAX);
    let rest = config.memory_bytes - map_bytes - unsynced_bytes - payload_bytes;
    Memory { map_bytes, unsynced_bytes, payload_bytes, cache_bytes: config.engine.cache_bytes.unwrap_or(rest) }
}

pub fn shard_config(config: &Config, shards: u16) -> ShardConfig {
    let defaults = Settings::default();
    let engine = &config.engine;
    let shards = u64::from(shards.max(1));
    let pool = PoolConfig { group_size: engine.group_bytes as u32, ..PoolConfig::default() };
    let memory = memory(config);
    let unsynced_bytes_max = (memory.unsynced_bytes / shards).min(engine.unsynced_bytes_max);
    let settings = Settings {
        unsynced_bytes_max,
        unsynced_bytes_soft: defaults.unsynced_bytes_soft.min(unsynced_bytes_max / 2),
        unsynced_age_ns_max: engine.unsynced_age_max.as_nanos() as u64,
        checkpoint_log_bytes_max: engine.checkpoint_interval_bytes,
        checkpoint_log_bytes_min: defaults.checkpoint_log_bytes_min.min(engine.checkpoint_interval_bytes),
        shard_log_bytes_max: (engine.checkpoint_interval_total_bytes / shards)
            .max(engine.checkpoint_interval_bytes / 2),
        // A sixteenth of the map's share is for the lists of what groups hold.
        map_bytes_max: memory.map_bytes / 16 * 15 / shards,
        contents_bytes_max: (memory.map_bytes / 16 / shards).min(defaults.contents_bytes_max),
        ..defaults
    };
    ShardConfig { pool, settings }
}
