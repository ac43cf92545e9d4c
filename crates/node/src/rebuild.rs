//! Rebuilding the metadata store from the logs alone.

use crate::index::{CheckpointIndex, MetaIndex};
use crate::open::by_vdisk;
use crate::shard::{free_name, record_of};
use crate::{Kind, Result, Shard, ShardConfig};
use base::{DiskId, VdiskId};
use meta::{ShardRecord, Store};
use pool::{Cache, FaultDomains, Identity, Pool};
use std::rc::Rc;
use std::sync::Arc;
use vdisk::{Context, Found, Health, Load, NoteKind, Recovered, Vdisk};
use world::{Disk, World};

/// What was found on one shard's disk.
#[derive(Debug, Default)]
pub struct Rebuilt {
    pub vdisks: Vec<RebuiltVdisk>,
    /// Ids of deleted vDisks whose groups are still there; the next start frees them.
    pub deleted: Vec<VdiskId>,
    /// vDisks of which not even a read-only view can be had, with the reason.
    pub lost: Vec<(VdiskId, String)>,
    pub groups: usize,
    pub quarantined: usize,
}

#[derive(Debug)]
pub struct RebuiltVdisk {
    pub id: VdiskId,
    pub name: String,
    pub size_bytes: u64,
    pub mapped_bytes: u64,
    pub notes: vdisk::Notes,
    pub snapshots: Vec<vdisk::SnapshotInfo>,
    /// Frames behind the checkpoint that were read again.
    pub frames: u64,
    pub replayed_bytes: u64,
    pub damage: Option<String>,
    /// It had the name of another one and got this one instead.
    pub renamed_from: Option<String>,
}

impl Shard {
    /// The highest node number that anything on the disk was made under. A lost superblock is made anew, under the first
    /// number from `node_if_lost` on that was never in use.
    pub async fn highest_node(
        world: World,
        disk: Rc<dyn Disk>,
        config: &ShardConfig,
        shard: u16,
        node_if_lost: u16,
    ) -> Result<u16> {
        let opened = match Pool::open(world.clone(), disk.clone(), config.pool.clone()).await {
            Err(error) if matches!(error.kind, pool::Kind::Corrupt | pool::Kind::NotFound) => {
                rebuild_superblock(&world, &disk, shard, node_if_lost).await?;
                Pool::open(world, disk, config.pool.clone()).await?
            }
            other => other?,
        };
        let of_groups = opened.groups.iter().map(|header| header.group.node().max(header.vdisk.node())).max();
        let highest = opened.pool.identity().node.max(of_groups.unwrap_or(0));
        opened.pool.close().await?;
        Ok(highest)
    }

    /// Reads every log of the disk and writes the records. `node` must be a number that was never in use: ids made after
    /// this must not meet ids made before. Nothing is freed.
    pub async fn rebuild(
        world: World,
        disk: Rc<dyn Disk>,
        store: Rc<dyn Store>,
        cache: Arc<Cache>,
        config: ShardConfig,
        node: u16,
    ) -> Result<Rebuilt> {
        let opened = Pool::open(world.clone(), disk, config.pool.clone()).await?;
        opened.pool.set_node(node).await?;
        let identity = opened.pool.identity();
        let index = MetaIndex::load(store, identity.shard, opened.pool.clone()).await?;
        let context = Context {
            world,
            pool: opened.pool.clone(),
            cache,
            settings: Rc::new(config.settings),
            load: Rc::new(Load::default()),
            references: Rc::default(),
        };
        let mut rebuilt =
            Rebuilt { groups: opened.groups.len(), quarantined: opened.quarantined.len(), ..Rebuilt::default() };
        for (id, headers) in by_vdisk(opened.groups) {
            let unread = crate::open::unread(&opened.quarantined);
            let found = Found { headers: headers.clone(), unread, look_only: true, ..Found::default() };
            let told = Rc::new(CheckpointIndex(index.clone()));
            match Vdisk::recover(context.clone(), told, id, found).await {
                Ok(recovered) => {
                    recovered.vdisk.stop().await;
                    if recovered.attributes.size_bytes == 0 {
                        // Of a creation that was cut short: the next start frees it, unless something was lost.
                        if recovered.vdisk.health() != Health::Online {
                            rebuilt.lost.push((id, "its birth record cannot be read".to_string()));
                        }
                        continue;
                    }
                    let damaged = recovered.vdisk.health() != Health::Online;
                    let half_deleted = damaged && Vdisk::find_tombstone(&context, id, &headers).await?.is_some();
                    if recovered.vdisk.health() == Health::Deleted || half_deleted {
                        rebuilt.deleted.push(id);
                        continue;
                    }
                    let record = record_of(&recovered, identity.shard, opened.pool.epoch());
                    rebuilt.vdisks.push(insert(&index, record, &recovered).await?);
                }
                Err(error) => match Vdisk::find_tombstone(&context, id, &headers).await {
                    Ok(Some(_)) => rebuilt.deleted.push(id),
                    // One vDisk that cannot be read does not keep the others from being found.
                    Ok(None) | Err(_) => rebuilt.lost.push((id, error.to_string())),
                },
            }
        }
        // One of which nothing could be read may need what others have.
        let may_hide = crate::open::unread(&opened.quarantined).is_some() && opened.pool.is_sharing();
        let (disk, generation) = (identity.disk, opened.pool.epoch().0);
        index.put_shard(ShardRecord { disk, generation, clean: false, begun: 0, may_hide }).await?;
        opened.pool.close().await?;
        Ok(rebuilt)
    }
}

async fn rebuild_superblock(world: &World, disk: &Rc<dyn Disk>, shard: u16, from: u16) -> Result<()> {
    let mut result = Ok(());
    // A handful of rebuilds in the life of a node at most; each takes the next number.
    for node in from..from.saturating_add(64) {
        let identity = Identity {
            disk: DiskId(0),
            node,
            shard,
            pool: "default".into(),
            tier: "ssd".into(),
            domains: FaultDomains::default(),
        };
        result = Pool::rebuild(world, disk, &identity).await;
        match &result {
            Err(error) if error.kind == pool::Kind::Invalid => {}
            _ => break,
        }
    }
    Ok(result?)
}

async fn insert(index: &MetaIndex, mut record: meta::VdiskRecord, recovered: &Recovered) -> Result<RebuiltVdisk> {
    let vdisk = &recovered.vdisk;
    let mut renamed_from = None;
    if let Err(error) = index.insert(record.clone(), None).await {
        if error.kind != Kind::Exists {
            return Err(error);
        }
        // The next start writes the name of the record into the log.
        renamed_from = Some(std::mem::take(&mut record.name));
        record.name = free_name(renamed_from.as_deref().unwrap_or_default(), record.id);
        index.insert(record.clone(), None).await?;
    }
    for kind in NoteKind::ALL {
        index.follow_note(record.id, kind, || vdisk.note(kind)).await?;
    }
    Ok(RebuiltVdisk {
        id: record.id,
        name: record.name,
        size_bytes: record.size_bytes,
        mapped_bytes: vdisk.space().mapped_bytes,
        notes: vdisk.notes(),
        snapshots: vdisk.snapshots(),
        frames: recovered.replayed_frames,
        replayed_bytes: recovered.replayed_bytes,
        damage: match vdisk.health() {
            Health::Damaged(reason) => Some(reason),
            _ => None,
        },
        renamed_from,
    })
}
