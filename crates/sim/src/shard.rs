//! The engine under test that matters: the same `node::Shard` that production runs, on the simulated world, with
//! limits so small that groups change, checkpoints are taken and space is reclaimed within hundreds of requests.

mod quarry;
mod rewind;
mod sets;
mod snapshots;

use crate::disk::Crash;
use crate::engine::{Changed, Engine, Node, Past, Side, SnapshotInfo, VdiskInfo};
use crate::rng::Rng;
use base::{SnapshotId, VdiskId};
use block::{BlockDevice, Error, Kind, Result};
use bytes::Bytes;
use meta::MemStore;
use node::{BornWith, Shard, ShardConfig};
use quarry::Quarry;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use vdisk::{Health, NoteKind};
use world::{Disk, LocalFuture, World};

const KIB: u64 = 1 << 10;

/// What survives the node: its metadata store, and the settings of the seed.
pub struct ShardEngine {
    config: ShardConfig,
    cache_bytes: u64,
    commit_ns: u64,
    store: RefCell<Option<MemStore>>,
    formatted: Rc<Cell<bool>>,
    /// Node numbers are never used twice: each rebuilt store takes the next one.
    next_node: Cell<u16>,
}

impl ShardEngine {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed, 0x5ba6d);
        let mut pick = |values: &[u64]| *rng.pick(values).expect("the lists are not empty");
        let group_size = pick(&[64 * KIB, 128 * KIB, 256 * KIB, 1024 * KIB]);
        let pool = pool::PoolConfig {
            group_size: group_size as u32,
            slots_per_slab_max: pick(&[4, 16, 64]) as u32,
            recycled_bytes_max: pick(&[0, 256 * KIB, 1024 * KIB]),
            recycled_percent_busy: pick(&[0, 25]),
            ballast_bytes: pick(&[256 * KIB, 1024 * KIB]),
            capacity_bytes: None,
        };
        let log_max = pick(&[256 * KIB, 1024 * KIB, 4096 * KIB]);
        let settings = vdisk::Settings {
            frame_payload_bytes_max: pick(&[16 * KIB, 32 * KIB]) as u32,
            overlap_bytes_min: pick(&[4 * KIB, 8 * KIB, 64 * KIB]) as u32,
            unsynced_bytes_soft: pick(&[64 * KIB, 256 * KIB]),
            unsynced_bytes_max: pick(&[256 * KIB, 1024 * KIB]),
            unsynced_age_ns_max: pick(&[1_000_000, 100_000_000]),
            checkpoint_log_bytes_max: log_max,
            checkpoint_log_bytes_min: log_max / 8,
            checkpoint_quiet_ns: pick(&[50_000_000, 5_000_000_000]),
            shard_log_bytes_max: log_max * 2,
            space_percent: pick(&[110, 120, 150]),
            space_slack_bytes: group_size * pick(&[1, 2]),
            map_bytes_max: pick(&[64 * KIB, 1024 * KIB]),
            contents_bytes_max: pick(&[0, 1 << 10, 1 << 20]),
            cache_write_bytes_max: pick(&[0, 16 * KIB]) as u32,
        };
        ShardEngine {
            config: ShardConfig { pool, settings },
            cache_bytes: pick(&[0, 64 * KIB, 1024 * KIB]),
            commit_ns: pick(&[0, 300_000, 5_000_000]),
            store: RefCell::new(None),
            formatted: Rc::default(),
            next_node: Cell::new(1),
        }
    }

    fn store(&self, world: &World) -> Rc<MemStore> {
        let mut store = self.store.borrow_mut();
        Rc::new(store.get_or_insert_with(|| MemStore::new(world.clock.clone(), self.commit_ns)).clone())
    }

    fn start(&self, world: World, disk: Rc<dyn Disk>, rebuild: bool) -> LocalFuture<Result<Rc<dyn Node>>> {
        if rebuild {
            // An attempt that was cut off left half a store: begin anew.
            self.store.borrow_mut().take();
        }
        let (store, config, formatted) = (self.store(&world), self.config.clone(), self.formatted.clone());
        let cache = Arc::new(pool::Cache::new(self.cache_bytes));
        let node = self.next_node.get();
        self.next_node.set(node + u16::from(rebuild));
        Box::pin(async move {
            if !formatted.get() {
                match Shard::format(&world, &disk, &config, 0, 0).await {
                    // Or the attempt before was complete but for its answer.
                    Ok(()) => {}
                    Err(error) if error.kind == node::Kind::Invalid => {}
                    Err(error) => return Err(to_block(error)),
                }
            }
            if rebuild {
                let parts = (world.clone(), disk.clone(), store.clone(), cache.clone(), config.clone());
                Shard::rebuild(parts.0, parts.1, parts.2, parts.3, parts.4, node).await.map_err(to_block)?;
            }
            let clock = world.clock.clone();
            let opened = Shard::open(world, disk, store, cache, config, Rc::new(|_, _| {})).await;
            let shard = opened.map_err(to_block)?;
            // From here on the store knows of it; until then a power loss may take what was formatted.
            formatted.set(true);
            // Everything must be recovered before it can be compared.
            while shard.summary().to_recover > 0 {
                clock.sleep(1_000_000).await;
            }
            // After a clean stop vDisks are opened when they are asked for: only then is their health known.
            for record in shard.records() {
                if let Err(error) = shard.vdisk(record.id).await
                    && error.kind != node::Kind::Damaged
                {
                    return Err(to_block(error));
                }
            }
            sets::resolve(&shard, rebuild).await?;
            Ok(Rc::new(ShardNode { shard, quarry: RefCell::default() }) as Rc<dyn Node>)
        })
    }
}

impl Engine for ShardEngine {
    fn open(&self, world: World, disk: Rc<dyn Disk>) -> LocalFuture<Result<Rc<dyn Node>>> {
        self.start(world, disk, false)
    }

    fn crash(&self, _crash: Crash, _rng: &mut Rng) {
        if let Some(store) = &*self.store.borrow() {
            store.crash();
        }
    }

    fn lose_metadata(&self) -> bool {
        self.formatted.get() && self.store.borrow_mut().take().is_some()
    }

    fn recover(&self, world: World, disk: Rc<dyn Disk>) -> LocalFuture<Result<Rc<dyn Node>>> {
        self.start(world, disk, true)
    }
}

fn to_block(error: node::Error) -> Error {
    let kind = match error.kind {
        node::Kind::Full => Kind::Full,
        node::Kind::ReadOnly => Kind::ReadOnly,
        node::Kind::Damaged => Kind::Corrupt,
        node::Kind::NotFound | node::Kind::Busy | node::Kind::Unavailable => Kind::Unavailable,
        node::Kind::Io => Kind::Io,
        node::Kind::NeedsRecover | node::Kind::UnsupportedFormat => Kind::Unsupported,
        node::Kind::Exists | node::Kind::Invalid => Kind::Invalid,
    };
    Error::new(kind, format!("{:?}: {}", error.kind, error.context))
}

struct ShardNode {
    shard: Rc<Shard>,
    /// Of runs with copies.
    quarry: RefCell<Option<Rc<Quarry>>>,
}

fn id_of(id: u64) -> Result<VdiskId> {
    VdiskId::from_raw(id).ok_or_else(|| Error::new(Kind::Invalid, "no id of a vDisk"))
}

impl ShardNode {
    fn verb<T: 'static, F>(&self, id: u64, verb: impl FnOnce(Rc<Shard>, VdiskId) -> F) -> LocalFuture<Result<T>>
    where
        F: Future<Output = node::Result<T>> + 'static,
    {
        match id_of(id) {
            Ok(id) => {
                let done = verb(self.shard.clone(), id);
                Box::pin(async move { done.await.map_err(to_block) })
            }
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }
}

impl ShardNode {
    fn snapshot_verb<T: 'static, F>(
        &self,
        id: u64,
        snapshot: u64,
        verb: impl FnOnce(Rc<Shard>, VdiskId, SnapshotId) -> F,
    ) -> LocalFuture<Result<T>>
    where
        F: Future<Output = node::Result<T>> + 'static,
    {
        match snapshots::snapshot_of(snapshot) {
            Ok(snapshot) => self.verb(id, |shard, id| verb(shard, id, snapshot)),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }
}

/// As those who ask for them find them. Of a vDisk that cannot be served only the index knows.
async fn notes(shard: &Rc<Shard>, id: VdiskId) -> BTreeMap<u8, Bytes> {
    let mut notes = BTreeMap::new();
    for kind in NoteKind::ALL {
        let note = match kind.is_indexed() {
            true => shard.indexed_note(id, kind),
            false => shard.note(id, kind).await.unwrap_or_default(),
        };
        notes.extend(note.map(|bytes| (kind as u8, bytes)));
    }
    notes
}

impl Node for ShardNode {
    fn list(&self) -> LocalFuture<Result<Vec<VdiskInfo>>> {
        let info = |record: meta::VdiskRecord| {
            let summary = self.shard.summary_of(record.id);
            let damaged = summary.is_some_and(|s| s.broken.is_some() || matches!(s.health, Some(Health::Damaged(_))));
            VdiskInfo {
                id: record.id.raw(),
                notes: BTreeMap::new(),
                name: record.name,
                size_bytes: record.size_bytes,
                read_only: record.read_only,
                damaged,
            }
        };
        let shown = self.shard.records().into_iter().filter(|record| !quarry::is_quarry(record));
        let infos: Vec<VdiskInfo> = shown.map(info).collect();
        let shard = self.shard.clone();
        Box::pin(async move {
            let mut listed = Vec::new();
            for mut info in infos {
                info.notes = notes(&shard, id_of(info.id)?).await;
                listed.push(info);
            }
            Ok(listed)
        })
    }

    fn create(&self, name: String, size_bytes: u64) -> LocalFuture<Result<u64>> {
        let shard = self.shard.clone();
        Box::pin(async move {
            let record = shard.create(&name, size_bytes, 512, BornWith::default()).await.map_err(to_block)?;
            Ok(record.id.raw())
        })
    }

    fn device(&self, id: u64) -> LocalFuture<Result<Rc<dyn BlockDevice>>> {
        // The hold of a connection is let go at once: a deletion need not wait for the clients here.
        let quarry = self.quarry.borrow().clone();
        self.verb(id, |shard, id| async move {
            let device = shard.attach(id).await?.device;
            Ok(quarry.map_or(device.clone(), |quarry| quarry.serve(device)))
        })
    }

    fn rename(&self, id: u64, name: String) -> LocalFuture<Result<()>> {
        self.verb(id, |shard, id| async move { shard.rename(id, &name).await })
    }

    fn resize(&self, id: u64, size_bytes: u64) -> LocalFuture<Result<()>> {
        self.verb(id, |shard, id| async move { shard.resize(id, size_bytes).await })
    }

    fn set_read_only(&self, id: u64, read_only: bool) -> LocalFuture<Result<()>> {
        self.verb(id, move |shard, id| async move { shard.set_read_only(id, read_only).await })
    }

    fn set_note(&self, id: u64, kind: u8, bytes: Bytes) -> LocalFuture<Result<()>> {
        let kind = NoteKind::from_raw(kind).expect("the workload knows the kinds");
        self.verb(id, move |shard, id| async move { shard.set_note(id, kind, bytes).await })
    }

    fn delete(&self, id: u64) -> LocalFuture<Result<()>> {
        let quarry = self.quarry.borrow().clone();
        self.verb(id, |shard, id| async move {
            shard.delete(id, false).await?;
            if let Some(quarry) = quarry { quarry.deleted().await } else { Ok(()) }
        })
    }

    fn snapshots(&self, id: u64) -> LocalFuture<Result<Vec<SnapshotInfo>>> {
        self.verb(id, snapshots::list)
    }

    fn snapshot(&self, id: u64, name: String) -> LocalFuture<Result<u64>> {
        self.verb(id, |shard, id| async move { Ok(shard.snapshot(id, &name).await?.id.raw()) })
    }

    fn delete_snapshot(&self, id: u64, snapshot: u64, force: bool) -> LocalFuture<Result<()>> {
        self.snapshot_verb(id, snapshot, move |shard, id, snapshot| async move {
            shard.delete_snapshot(id, snapshot, force).await
        })
    }

    fn snapshot_device(&self, id: u64, snapshot: u64) -> LocalFuture<Result<Rc<dyn BlockDevice>>> {
        self.snapshot_verb(id, snapshot, |shard, id, snapshot| async move {
            let attachment = shard.attach_snapshot(id, snapshot).await?;
            Ok(snapshots::Reader::serve(&shard.context.world, attachment))
        })
    }

    fn clone_snapshot(&self, id: u64, snapshot: u64, names: Vec<String>) -> LocalFuture<Result<Vec<u64>>> {
        self.snapshot_verb(id, snapshot, |shard, id, snapshot| async move {
            let records = shard.clone_snapshot(id, snapshot, names, None).await?;
            Ok(records.into_iter().map(|record| record.id.raw()).collect())
        })
    }

    fn rollback(&self, id: u64, snapshot: u64) -> LocalFuture<Result<()>> {
        self.snapshot_verb(id, snapshot, |shard, id, snapshot| async move { shard.rollback(id, snapshot).await })
    }

    fn changed(&self, id: u64, from: Side, to: Side) -> LocalFuture<Result<Vec<Changed>>> {
        Box::pin(snapshots::changed(self.shard.clone(), id, from, to))
    }

    fn past(&self) -> Option<&dyn Past> {
        Some(self)
    }

    fn pause(&self, name: String, ids: Vec<u64>) -> LocalFuture<Result<u64>> {
        Box::pin(sets::pause(self.shard.clone(), name, ids))
    }

    fn cut(&self, set: u64, name: String, ids: Vec<u64>) -> LocalFuture<Result<Vec<u64>>> {
        Box::pin(sets::cut(self.shard.clone(), set, name, ids))
    }

    fn release(&self, set: u64) {
        self.shard.release(snapshots::snapshot_of(set).expect("the number came from here"));
    }

    fn begin_copies(&self) {
        self.quarry.replace(Some(Quarry::new(&self.shard)));
    }

    fn groups_used(&self) -> u64 {
        self.shard.context.pool.usage().slots_used
    }

    fn shutdown(&self) -> LocalFuture<Result<()>> {
        let shard = self.shard.clone();
        Box::pin(async move { shard.close().await.map_err(to_block) })
    }
}

#[cfg(test)]
mod tests;
