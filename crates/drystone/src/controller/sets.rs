//! Snapshots that count and those that do not, and sets of them that are taken at one instant on all shards.
//!
//! A set: all members pause, then all are cut, then one record in the metadata store names it and its members. Only then
//! does it exist; until then its snapshots are hidden, and what is cut short is deleted, by the next start at the latest. Last
//! the logs are told that it counts, for who has lost the metadata store.

use super::errors::from_node;
use super::snapshots::by_name;
use super::verbs::Verbs;
use super::vms::{Standing, Vms};
use base::{SnapshotId, VdiskId};
use control::rules::snapshots as rules;
use control::{Error, Result};
use futures_util::future::join_all;
use meta::{SetMember, SetRecord, SetVm, Transaction, VmRecord, keys};
use node::{Shard, SnapshotSummary};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

/// What belongs to no vDisk is stored by the first shard's worker, and has ids of it.
pub(super) const STORING_SHARD: u16 = 0;

/// What a call that was cut short left there: of a set that was never committed or is being deleted, or of a clone. What the
/// log confirms counts although a store that is older than the log does not know it.
pub(super) fn is_left_behind(snapshot: &SnapshotSummary, standing: impl Fn(SnapshotId) -> Standing) -> bool {
    let temporary = rules::is_temporary(&snapshot.name);
    match snapshot.set.map(standing) {
        Some(Standing::Counts) => false,
        Some(Standing::Going) => true,
        Some(Standing::Unknown) => temporary || !snapshot.confirmed,
        None => temporary,
    }
}

/// Whether anybody is told of it.
fn is_shown(snapshot: &SnapshotSummary, standing: impl Fn(SnapshotId) -> Standing) -> bool {
    !is_left_behind(snapshot, standing) && !rules::is_temporary(&snapshot.name)
}

/// Snapshots that somebody asked for, in order of age.
pub(super) async fn listed(shard: &Rc<Shard>, id: VdiskId, vms: &Vms) -> Result<Vec<SnapshotSummary>> {
    let mut all = shard.snapshots(id).await.map_err(from_node)?;
    all.retain(|snapshot| is_shown(snapshot, |set| vms.standing(set)));
    Ok(all)
}

pub(super) fn now_wall_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
}

/// Ids of one shard each.
pub(super) type ByShard = BTreeMap<u16, Vec<VdiskId>>;

impl Verbs {
    /// Durable when it completes. A full disk refuses what deletes nothing.
    pub(super) async fn commit(&self, transaction: Transaction) -> Result<()> {
        let done = self.shards.on(STORING_SHARD, move |shard| {
            Box::pin(async move { shard.commit(transaction).await.map_err(from_node) })
        });
        done.await
    }

    /// The same of what a full disk has to take: it makes room, or something that does waits for it.
    pub(super) async fn commit_to_make_room(&self, transaction: Transaction) -> Result<()> {
        let done = self.shards.on(STORING_SHARD, move |shard| {
            Box::pin(async move { shard.commit_to_make_room(transaction).await.map_err(from_node) })
        });
        done.await
    }

    /// Numbers that were never used before.
    pub(super) async fn new_ids(&self, count: usize) -> Result<Vec<u64>> {
        let ids = self.shards.on(STORING_SHARD, move |shard| {
            Box::pin(async move {
                let mut ids = Vec::with_capacity(count);
                for _ in 0..count {
                    ids.push(shard.context.pool.next_vdisk_id().await.map_err(|error| from_node(error.into()))?.raw());
                }
                Ok(ids)
            })
        });
        ids.await
    }

    pub(super) fn by_shard(&self, vdisks: impl Iterator<Item = VdiskId>) -> ByShard {
        let mut by_shard = ByShard::new();
        for id in vdisks {
            by_shard.entry(super::exports::shard_of(id)).or_default().push(id);
        }
        by_shard
    }

    /// Takes a snapshot of all vDisks of the VMs at one instant. The caller has checked the name, and holds the turn.
    pub(super) async fn take_set(&self, name: &str, group: Option<String>, vms: &[VmRecord]) -> Result<SetRecord> {
        let id = self.new_set_id().await?;
        let members: Vec<VdiskId> = vms.iter().flat_map(|vm| &vm.vdisks).map(|member| member.vdisk).collect();
        let by_shard = self.by_shard(members.iter().copied());
        self.pause_all(id, name, &by_shard).await?;
        let taken = match self.cut_all(id, name, &members, &by_shard).await {
            Ok(taken) => taken,
            Err(error) => {
                self.take_back_set(id, &by_shard).await;
                return Err(error);
            }
        };
        let record = SetRecord {
            id,
            name: name.to_string(),
            created_wall_ns: now_wall_ns(),
            deleting: false,
            group,
            vms: vms.iter().map(|vm| set_vm(vm, &taken)).collect(),
        };
        self.put_on_record(record, &by_shard).await
    }

    pub(super) async fn new_set_id(&self) -> Result<SnapshotId> {
        let ids = self.new_ids(1).await?;
        ids.first().and_then(|raw| SnapshotId::from_raw(*raw)).ok_or_else(|| Error::internal("no id"))
    }

    /// A set whose parts are durable counts from here on, or is taken back.
    pub(super) async fn put_on_record(&self, record: SetRecord, by_shard: &ByShard) -> Result<SetRecord> {
        let id = record.id;
        if let Err(error) = self.commit(Transaction::new().put(keys::set(id), record.encode())).await {
            // It may be there all the same, and then it is to go before its parts do.
            let going = SetRecord { deleting: true, ..record };
            self.vms.put_set(going.clone());
            if let Err(also) = self.delete_set(&going, true).await {
                tracing::warn!(set = %id, error = %also, "a set that was not taken is not deleted yet");
            }
            return Err(error);
        }
        self.vms.put_set(record.clone());
        if let Err(error) = self.confirm_all(id, by_shard).await {
            if let Err(also) = self.delete_set(&record, true).await {
                tracing::warn!(set = %id, error = %also, "a set that was not taken is not deleted yet");
            }
            return Err(error);
        }
        self.show_snapshots(by_shard.values().flatten().copied().collect()).await;
        Ok(record)
    }

    async fn confirm_all(&self, set: SnapshotId, by_shard: &ByShard) -> Result<()> {
        let confirmed = by_shard.iter().map(|(shard, vdisks)| {
            let vdisks = vdisks.clone();
            self.shards
                .on(*shard, move |shard| Box::pin(async move { shard.confirm(set, vdisks).await.map_err(from_node) }))
        });
        join_all(confirmed).await.into_iter().collect()
    }

    /// All of them, or none. In the order of shards, as [`Shard::pause`] wants it.
    async fn pause_all(&self, set: SnapshotId, name: &str, by_shard: &ByShard) -> Result<()> {
        let mut paused = Ok(());
        for (shard, vdisks) in by_shard {
            let (name, vdisks) = (name.to_string(), vdisks.clone());
            let one = self.shards.on(*shard, move |shard| {
                Box::pin(async move { shard.pause(set, &name, vdisks).await.map_err(from_node) })
            });
            paused = one.await;
            if paused.is_err() {
                break;
            }
        }
        if paused.is_err() {
            let released = by_shard.keys().map(|shard| {
                self.shards.on(*shard, move |shard| {
                    shard.release(set);
                    Box::pin(async { Ok(()) })
                })
            });
            // Fails only while the workers end.
            join_all(released).await;
        }
        paused
    }

    async fn cut_all(
        &self,
        set: SnapshotId,
        name: &str,
        members: &[VdiskId],
        by_shard: &ByShard,
    ) -> Result<Vec<SnapshotSummary>> {
        let cuts = by_shard.keys().map(|shard| {
            let (name, members) = (name.to_string(), members.to_vec());
            self.shards.on(*shard, move |shard| {
                Box::pin(async move { shard.cut(set, &name, members).await.map_err(from_node) })
            })
        });
        let taken: Result<Vec<Vec<SnapshotSummary>>> = join_all(cuts).await.into_iter().collect();
        Ok(taken?.into_iter().flatten().collect())
    }

    /// Deletes what there is of a set that does not count (any more). The first error, if something stays. Without `force`
    /// what somebody reads stays.
    async fn drop_snapshots_of(&self, set: SnapshotId, by_shard: &ByShard, force: bool) -> Result<()> {
        let dropped = by_shard.iter().map(|(shard, vdisks)| {
            let vdisks = vdisks.clone();
            self.shards.on(*shard, move |shard| {
                Box::pin(async move {
                    let mut result = Ok(());
                    for id in vdisks {
                        result = result.and(drop_part(&shard, id, set, force).await);
                    }
                    result
                })
            })
        });
        join_all(dropped).await.into_iter().collect()
    }

    /// Of a set that was never told of.
    pub(super) async fn take_back_set(&self, set: SnapshotId, by_shard: &ByShard) {
        if let Err(error) = self.drop_snapshots_of(set, by_shard, true).await {
            tracing::warn!(%set, %error, "snapshots of a set that was not taken stay until the next start");
        }
    }

    /// What on record has to be made from a part of it.
    pub(super) fn needed_part(&self, set: &SetRecord) -> Option<String> {
        set.vms.iter().flat_map(|vm| &vm.members).find_map(|member| self.vms.needed_for(member.snapshot))
    }

    /// Deletes a set: first the record says so, so that a crash leaves nothing that counts. An error: it counts no more, but
    /// not all of it is gone; that is tried again. `Busy` if something on record has to be made from it: then it stays as it
    /// is. Without `force` what somebody reads stays until he has gone.
    pub(super) async fn delete_set(&self, set: &SetRecord, force: bool) -> Result<()> {
        if let Some(what) = self.needed_part(set) {
            return Err(Error::snapshot_needed(&set.name, &what));
        }
        let gone = self.delete_parts(set, force).await;
        gone.inspect_err(|error| self.is_not_gone(set.id.raw(), error))
    }

    async fn delete_parts(&self, set: &SetRecord, force: bool) -> Result<()> {
        // Be it one that is known to go: that may not be on record.
        let going = SetRecord { deleting: true, ..set.clone() };
        self.commit_to_make_room(Transaction::new().put(keys::set(set.id), going.encode())).await?;
        self.vms.put_set(going);
        let members: BTreeSet<VdiskId> = set.vms.iter().flat_map(|vm| &vm.members).map(|member| member.vdisk).collect();
        let there = members.into_iter().filter(|id| self.directory.find_id(*id).is_some());
        let there: Vec<VdiskId> = there.collect();
        let dropped = self.drop_snapshots_of(set.id, &self.by_shard(there.iter().copied()), force).await;
        self.show_snapshots(there).await;
        dropped.map_err(|error| Error::set_not_gone(&set.name, &error))?;
        self.commit(Transaction::new().delete(keys::set(set.id))).await?;
        self.vms.remove_set(set.id);
        Ok(())
    }

    /// Parts of sets are gone.
    pub(super) async fn forget_parts(&self, gone: impl Fn(&SetMember) -> bool) -> Result<()> {
        let (changed, empty) = self.vms.without(gone);
        if changed.is_empty() && empty.is_empty() {
            return Ok(());
        }
        let transaction = changed.iter().fold(Transaction::new(), |all, set| all.put(keys::set(set.id), set.encode()));
        let transaction = empty.iter().fold(transaction, |all, id| all.delete(keys::set(*id)));
        self.commit_to_make_room(transaction).await?;
        changed.into_iter().for_each(|set| self.vms.put_set(set));
        empty.into_iter().for_each(|id| self.vms.remove_set(id));
        Ok(())
    }

    /// Tells front-ends which snapshots there are.
    pub(super) async fn show_snapshots(&self, vdisks: Vec<VdiskId>) {
        let shown = self.by_shard(vdisks.into_iter()).into_iter().map(|(shard, vdisks)| {
            let (directory, vms) = (self.directory.clone(), self.vms.clone());
            self.shards.on(shard, move |shard| {
                Box::pin(async move {
                    for id in vdisks {
                        if let Ok(snapshots) = listed(&shard, id, &vms).await {
                            directory.set_snapshots(id, by_name(&snapshots));
                        }
                    }
                    Ok(())
                })
            })
        });
        // Fails only while the workers end.
        join_all(shown).await;
    }
}

pub(super) fn set_vm(vm: &VmRecord, taken: &[SnapshotSummary]) -> SetVm {
    let member = |member: &meta::VmVdisk| {
        let part = taken.iter().find(|snapshot| snapshot.vdisk == member.vdisk)?;
        Some(SetMember { label: member.label.clone(), vdisk: member.vdisk, snapshot: part.id })
    };
    SetVm { vm: vm.id, members: vm.vdisks.iter().filter_map(member).collect() }
}

/// What a VM has in a set.
pub(super) fn members_of<'a>(vm: &VmRecord, set: &'a SetRecord) -> impl Iterator<Item = &'a SetMember> + use<'a> {
    let id = vm.id;
    set.vms.iter().filter(move |one| one.vm == id).flat_map(|one| &one.members)
}

async fn drop_part(shard: &Rc<Shard>, id: VdiskId, set: SnapshotId, force: bool) -> Result<()> {
    let all = shard.snapshots(id).await.map_err(from_node)?;
    for part in all.into_iter().filter(|snapshot| snapshot.set == Some(set)) {
        shard.delete_snapshot(id, part.id, force).await.map_err(from_node)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_snapshots_count() {
        let (known, going, unknown) = (SnapshotId::new(1, 7), SnapshotId::new(1, 8), SnapshotId::new(1, 9));
        let temporary = rules::temporary_name(5);
        for (name, set, confirmed, left_behind, shown) in [
            ("one", None, false, false, true),
            ("one", Some(known), false, false, true),
            ("one", Some(known), true, false, true),
            ("one", Some(going), true, true, false),
            ("one", Some(unknown), false, true, false),
            // The store is older than the log.
            ("one", Some(unknown), true, false, true),
            // Of a clone that was cut short.
            (temporary.as_str(), None, false, true, false),
            // Of VMs that are still to be cloned from it.
            (temporary.as_str(), Some(known), true, false, false),
            (temporary.as_str(), Some(unknown), true, true, false),
        ] {
            let snapshot = SnapshotSummary {
                id: SnapshotId::new(1, 9),
                vdisk: VdiskId::new(1, 2),
                name: name.to_string(),
                created_ns: 1,
                size_bytes: 4096,
                sector_bytes: 512,
                mapped_bytes: 0,
                set,
                confirmed,
                stored: true,
                connections: 0,
            };
            let standing = |set| match set {
                set if set == known => Standing::Counts,
                set if set == going => Standing::Going,
                _ => Standing::Unknown,
            };
            let found = (is_left_behind(&snapshot, standing), is_shown(&snapshot, standing));
            assert_eq!(found, (left_behind, shown), "{name} {set:?} {confirmed}");
        }
    }
}
