//! Snapshots of several vDisks at one instant, as the control plane takes them
//! ([decision 0009](../../../../docs/decisions/0009-snapshots-and-clones.md)): pause, cut, put the set on record, confirm it in
//! the members' logs; and after a start those that were cut off on the way are taken back or confirmed.

use super::snapshots::snapshot_of;
use super::{id_of, to_block};
use base::{SnapshotId, VdiskId};
use block::Result;
use bytes::Bytes;
use meta::Transaction;
use node::Shard;
use std::collections::BTreeMap;
use std::rc::Rc;
use vdisk::SetRecord;

fn key(set: SnapshotId) -> Bytes {
    format!("set/{:012x}", set.raw()).into_bytes().into()
}

async fn commit(shard: &Rc<Shard>, transaction: Transaction) -> Result<()> {
    let committed = shard.store().commit(transaction).await;
    committed.map(|_| ()).map_err(|error| to_block(error.into()))
}

pub async fn pause(shard: Rc<Shard>, name: String, ids: Vec<u64>) -> Result<u64> {
    let set = shard.context.pool.next_snapshot_id().await.map_err(|error| to_block(error.into()))?;
    let ids = ids.into_iter().map(id_of).collect::<Result<_>>()?;
    shard.pause(set, &name, ids).await.map_err(to_block)?;
    Ok(set.raw())
}

pub async fn cut(shard: Rc<Shard>, set: u64, name: String, ids: Vec<u64>) -> Result<Vec<u64>> {
    let members: Vec<VdiskId> = ids.into_iter().map(id_of).collect::<Result<_>>()?;
    let set = snapshot_of(set)?;
    let made = shard.cut(set, &name, members.clone()).await.map_err(to_block)?;
    commit(&shard, Transaction::new().put(key(set), "")).await?;
    shard.confirm(set, members.clone()).await.map_err(to_block)?;
    // From here on the logs say it.
    commit(&shard, Transaction::new().delete(key(set))).await?;
    let of = |member| {
        let mut snapshots = made.iter().filter(|summary| summary.vdisk == member);
        let only = snapshots.next().expect("each member has its snapshot");
        assert!(snapshots.next().is_none(), "two snapshots of {member} in one set");
        only.id.raw()
    };
    Ok(members.into_iter().map(of).collect())
}

/// What the logs say of one set.
#[derive(Default)]
struct Found {
    record: Option<SetRecord>,
    is_confirmed: bool,
    /// Members that have it, and whether their logs confirm it.
    snapshots: Vec<(VdiskId, SnapshotId, bool)>,
}

/// Sets that nobody has confirmed and that are not on record are taken back; all others are confirmed everywhere. A store
/// that `was_lost` has no record of any: then those count that all members have.
pub async fn resolve(shard: &Rc<Shard>, was_lost: bool) -> Result<()> {
    for (id, found) in find(shard).await {
        let record = shard.store().get(&key(id)).await.map_err(|error| to_block(error.into()))?;
        let members = found.record.as_ref().map_or(0, |set| set.members.len());
        let is_whole = found.snapshots.len() == members;
        if found.is_confirmed || record.is_some() || was_lost && is_whole {
            let open = found.snapshots.iter().filter(|(.., confirmed)| !confirmed).map(|(vdisk, ..)| *vdisk);
            excused(shard.confirm(id, open.collect()).await)?;
        } else {
            for (vdisk, snapshot, _) in found.snapshots {
                excused(shard.delete_snapshot(vdisk, snapshot, true).await)?;
            }
        }
        commit(shard, Transaction::new().delete(key(id))).await?;
    }
    Ok(())
}

async fn find(shard: &Rc<Shard>) -> BTreeMap<SnapshotId, Found> {
    let mut sets: BTreeMap<SnapshotId, Found> = BTreeMap::new();
    for record in shard.records() {
        // Of one that cannot be read nothing is known, and nothing can be changed.
        let Ok(vdisk) = shard.vdisk(record.id).await else { continue };
        for snapshot in vdisk.snapshots() {
            if let Some(set) = snapshot.set {
                let found = sets.entry(set.id).or_default();
                found.is_confirmed |= set.confirmed;
                found.snapshots.push((record.id, snapshot.id, set.confirmed));
                found.record = Some(set);
            }
        }
    }
    sets.retain(|_, found| found.snapshots.iter().any(|(.., confirmed)| !confirmed));
    sets
}

/// Logs that are damaged take nothing more.
fn excused(result: node::Result<()>) -> Result<()> {
    match result {
        Err(error) if matches!(error.kind, node::Kind::ReadOnly | node::Kind::Damaged) => Ok(()),
        result => result.map_err(to_block),
    }
}
