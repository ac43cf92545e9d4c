//! VMs that are made whole, clones of VMs, and VMs that are rolled back: all of it or nothing, across a crash too.
//!
//! What is to be made is planned on record first; a start carries out what it finds there. A rollback likewise.

use super::directory::Listed;
use super::errors::from_node;
use super::exports::shard_of;
use super::pending::{Made, RollingBack};
use super::sets::members_of;
use super::snapshots::now_unix_ms;
use super::verbs::Verbs;
use super::vm_verbs::new_vm;
use base::{ContainerId, SnapshotId, VdiskId, VmId};
use control::rules::snapshots as names;
use control::rules::vms as rules;
use control::{Error, MakeClones, Result, VmInfo, VmRolledBack};
use futures_util::future::join_all;
use meta::{PlanRecord, PlannedVdisk, RollbackRecord, SetMember, SetRecord, Source, Transaction, VmRecord, keys};
use std::collections::{BTreeMap, BTreeSet};

/// The snapshot that a rollback takes of what is there before.
pub(super) struct Kept<'a> {
    pub name: String,
    pub group: Option<String>,
    pub vms: &'a [VmRecord],
}

impl Verbs {
    /// Names, and what their vDisks begin as; empty ones in this container. The caller has checked the names, and holds the
    /// turn.
    pub(super) async fn make_vms(
        &self,
        vms: Vec<(String, Vec<PlannedVdisk>)>,
        container: ContainerId,
    ) -> Result<Vec<VmRecord>> {
        rules::check_given_up(self.vms.given_up_count())?;
        let ids = self.new_ids(vms.len()).await?.into_iter().filter_map(VmId::from_raw);
        let plans = vms.into_iter().zip(ids).map(|((name, vdisks), vm)| PlanRecord { vm, name, vdisks, container });
        let plans: Vec<PlanRecord> = plans.collect();
        let planned = plans.iter().fold(Transaction::new(), |all, plan| all.put(keys::plan(plan.vm), plan.encode()));
        self.vms.put_plans(&plans);
        if let Err(error) = self.commit(planned).await {
            // They may be there all the same, and then nothing else is to get the names.
            self.take_back(&plans, Made::default()).await;
            return Err(error);
        }
        let mut made = Made { existing: self.names_of_existing(&plans), ..Made::default() };
        if let Err(error) = self.make_vdisks(&plans, &mut made.new).await {
            self.take_back(&plans, made).await;
            return Err(error);
        }
        // All of it is there but for this record, which may be there as well: what is left is to go on.
        self.commit_vms(&plans, &made.new).await.map_err(|error| {
            plans.iter().for_each(|plan| self.is_left(plan.vm, &error));
            let name = plans.first().map_or("", |plan| plan.name.as_str());
            Error::vm_on_record(name, plans.len(), &error)
        })
    }

    /// Makes what is not there yet; what is made is told even of an attempt that fails.
    pub(super) async fn make_vdisks(&self, plans: &[PlanRecord], made: &mut Vec<VdiskId>) -> Result<()> {
        let mut clones: BTreeMap<(VdiskId, SnapshotId), Vec<String>> = BTreeMap::new();
        let planned: Vec<(&PlannedVdisk, ContainerId)> =
            plans.iter().flat_map(|plan| plan.vdisks.iter().map(|vdisk| (vdisk, plan.container))).collect();
        for (planned, container) in planned {
            if self.made_of(planned).await?.is_some() {
                continue;
            }
            match planned.source {
                Source::Empty { size_bytes, sector_bytes } => {
                    let id = self.make_vdisk(&planned.name, size_bytes, sector_bytes, container, None, None).await?;
                    made.push(id);
                    self.keep_out(&[id]).await;
                }
                Source::Existing { vdisk } => self.take_vdisk(vdisk, &planned.name).await?,
                Source::Snapshot { vdisk, snapshot } => {
                    clones.entry((vdisk, snapshot)).or_default().push(planned.name.clone());
                }
            }
        }
        let cloned = clones.into_iter().map(|((vdisk, snapshot), names)| {
            let (directory, containers) = (self.directory.clone(), self.containers.clone());
            self.shards.on(shard_of(vdisk), move |shard| {
                Box::pin(async move {
                    let container = containers.of_new(containers.container_of(vdisk));
                    let id = container.as_ref().map(|container| container.id);
                    let records = shard.clone_snapshot(vdisk, snapshot, names, container).await.map_err(from_node)?;
                    containers.put_new(id, records.iter().map(|record| record.id));
                    records.iter().for_each(|record| directory.put(record));
                    Ok(records.into_iter().map(|record| record.id).collect::<Vec<_>>())
                })
            })
        });
        let mut failed = None;
        for ids in join_all(cloned).await {
            match ids {
                Ok(ids) => {
                    self.keep_out(&ids).await;
                    self.carry_out_on_new(&ids).await;
                    made.extend(ids);
                }
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// The vDisk that was made for this plan; `Exists`: another one has the name. (An earlier run may have served without the
    /// plan, from a store that was brought back since.)
    async fn made_of(&self, planned: &PlannedVdisk) -> Result<Option<VdiskId>> {
        let Some(listed) = self.directory.find(&planned.name) else { return Ok(None) };
        let begins_so = match planned.source {
            Source::Empty { size_bytes, sector_bytes } => {
                let is_like_it = (listed.size_bytes, listed.sector_bytes) == (size_bytes, sector_bytes);
                listed.parent.is_none() && is_like_it && self.is_empty(listed.id).await?
            }
            Source::Snapshot { vdisk, .. } => listed.parent == Some(vdisk),
            Source::Existing { vdisk } => listed.id == vdisk,
        };
        let is_it = begins_so && self.vms.of_vdisk(listed.id).is_none();
        if is_it { Ok(Some(listed.id)) } else { Err(Error::exists(&planned.name)) }
    }

    fn names_of_existing(&self, plans: &[PlanRecord]) -> Vec<(VdiskId, String)> {
        let existing = plans.iter().flat_map(|plan| &plan.vdisks).filter_map(|planned| match planned.source {
            Source::Existing { vdisk } => Some((vdisk, self.directory.find_id(vdisk)?.0)),
            Source::Empty { .. } | Source::Snapshot { .. } => None,
        });
        existing.collect()
    }

    /// One that is there, for a VM that is to have it under this name.
    async fn take_vdisk(&self, id: VdiskId, name: &str) -> Result<()> {
        let (before, _) = self.directory.find_id(id).ok_or_else(|| Error::not_found(name))?;
        match self.vms.of_vdisk(id) {
            Some(other) => Err(Error::belongs_to_vm(&before, &other.name)),
            None => self.name_vdisk(id, name).await,
        }
    }

    /// The caller knows that the name is free, or its own.
    async fn name_vdisk(&self, id: VdiskId, name: &str) -> Result<()> {
        let (before, listed) = self.directory.find_id(id).ok_or_else(|| Error::not_found(name))?;
        if before == name {
            return Ok(());
        }
        let new = name.to_string();
        let renamed = self
            .change_listed(&before, &listed, move |shard, id| Box::pin(async move { shard.rename(id, &new).await }));
        renamed.await.map(drop)
    }

    /// It holds nothing, and no snapshot does that somebody took of it.
    async fn is_empty(&self, id: VdiskId) -> Result<bool> {
        let empty = self.shards.on(shard_of(id), move |shard| {
            Box::pin(async move {
                let vdisk = shard.vdisk(id).await.map_err(from_node)?;
                Ok(vdisk.space().mapped_bytes == 0 && vdisk.snapshots().is_empty())
            })
        });
        empty.await
    }

    /// One transaction: the VMs are there, and nothing is planned any more.
    /// `just_made`: by this attempt, so that it need not be looked at.
    pub(super) async fn commit_vms(&self, plans: &[PlanRecord], just_made: &[VdiskId]) -> Result<Vec<VmRecord>> {
        let just_made: BTreeSet<VdiskId> = just_made.iter().copied().collect();
        let mut vms = Vec::with_capacity(plans.len());
        for plan in plans {
            let mut vdisks = Vec::with_capacity(plan.vdisks.len());
            for planned in &plan.vdisks {
                let made =
                    self.directory.find(&planned.name).map(|listed| listed.id).filter(|id| just_made.contains(id));
                let made = match made {
                    Some(id) => Some(id),
                    None => self.made_of(planned).await?,
                };
                vdisks.push((planned.label.clone(), made.ok_or_else(|| Error::not_found(&planned.name))?));
            }
            vms.push(new_vm(plan, vdisks.into_iter()));
        }
        let there = vms.iter().fold(Transaction::new(), |all, vm| all.put(keys::vm(vm.id), vm.encode()));
        self.commit(plans.iter().fold(there, |all, plan| all.delete(keys::plan(plan.vm)))).await?;
        // In this order: a vDisk of theirs is never taken for one that is nobody's.
        vms.iter().for_each(|vm| self.vms.put(vm.clone()));
        self.vms.remove_plans(plans);
        self.let_new_in().await;
        self.note_vms(&vms).await;
        Ok(vms)
    }

    /// Nobody connects to what is made for VMs before they are there: what is written to it could be undone, or keep them from
    /// being made.
    async fn keep_out(&self, new: &[VdiskId]) {
        self.vms.keep_out(new);
        self.hold(new).await;
    }

    /// What was kept out for VMs that are there by now, or for plans that are no more.
    async fn let_new_in(&self) {
        let waits = |id: VdiskId| {
            let is_planned = |(name, _): (String, Listed)| self.vms.planned_for(&name).is_some();
            let is_to_be_had = self.vms.of_vdisk(id).is_none() && self.directory.find_id(id).is_some_and(is_planned);
            is_to_be_had || self.vms.undone_for(id).is_some()
        };
        let mut new = self.vms.kept_out();
        new.retain(|id| !waits(*id));
        if !new.is_empty() {
            self.vms.are_let_in(&new);
            self.let_in(&new).await;
        }
    }

    /// Of an attempt that failed, which its caller is told. This run never carries them out; if a crash comes in between, the
    /// next start does.
    async fn take_back(&self, plans: &[PlanRecord], made: Made) {
        for plan in plans {
            let is_planned = |id: &VdiskId| {
                let is_of = |(name, _): (String, Listed)| plan.vdisks.iter().any(|planned| planned.name == name);
                self.directory.find_id(*id).is_some_and(is_of)
            };
            let takes =
                |id: VdiskId| plan.vdisks.iter().any(|planned| planned.source == Source::Existing { vdisk: id });
            let new = made.new.iter().copied().filter(is_planned).collect();
            let existing = made.existing.iter().filter(|(id, _)| takes(*id)).cloned().collect();
            self.vms.give_up(plan, Made { new, existing });
        }
        self.end_plans(plans, true).await;
    }

    /// What was made for plans that are given up goes, then they do. What fails is tried again, and keeps back no other.
    /// `force`: nobody can have begun to use it.
    pub(super) async fn end_plans(&self, plans: &[PlanRecord], force: bool) {
        let mut undone = Vec::new();
        for plan in plans {
            match self.undo(plan, force).await {
                Ok(()) => undone.push(plan.clone()),
                Err(error) => self.is_left(plan.vm, &error),
            }
        }
        if let Err(error) = self.forget_plans(&undone).await {
            undone.iter().for_each(|plan| self.is_left(plan.vm, &error));
        }
    }

    async fn undo(&self, plan: &PlanRecord, force: bool) -> Result<()> {
        let mut result = Ok(());
        let Made { new, existing } = self.vms.made_for(plan.vm);
        let mut left = Made::default();
        for (id, before) in existing {
            if let Err(error) = self.name_as_before(id, &before).await {
                left.existing.push((id, before));
                result = result.and(Err(error));
            }
        }
        for id in new {
            let Some((name, listed)) = self.directory.find_id(id) else { continue };
            if let Some(vm) = self.vms.of_vdisk(id) {
                tracing::error!(
                    vdisk = name,
                    vm = vm.name,
                    "it was made for a VM that could not be made, and is in another one: it stays"
                );
                continue;
            }
            match self.delete_listed(&name, &listed, force).await {
                Ok(()) => {}
                Err(error) => {
                    left.new.push(id);
                    result = result.and(Err(error));
                }
            }
        }
        self.vms.set_made_for(plan.vm, left);
        result
    }

    async fn name_as_before(&self, id: VdiskId, before: &str) -> Result<()> {
        let Some((now, _)) = self.directory.find_id(id) else { return Ok(()) };
        if self.directory.find(before).is_some_and(|other| other.id != id) {
            tracing::warn!(vdisk = now, before, "its VM could not be made, and its old name is another one's by now");
            return Ok(());
        }
        self.name_vdisk(id, before).await
    }

    /// They are not to be carried out.
    pub(super) async fn forget_plans(&self, plans: &[PlanRecord]) -> Result<()> {
        if plans.is_empty() {
            return Ok(());
        }
        self.commit(plans.iter().fold(Transaction::new(), |all, plan| all.delete(keys::plan(plan.vm)))).await?;
        self.vms.remove_plans(plans);
        self.let_new_in().await;
        Ok(())
    }

    pub(super) async fn make_vm_clones(&self, name: &str, clones: MakeClones) -> Result<Vec<VmInfo>> {
        // Before anything is looked at; the vDisks are counted below.
        names::clone_names(&clones)?;
        let _one = self.changing.lock().await;
        let vm = self.find_vm(name)?;
        if clones.snapshot.is_none() {
            self.check_whole(&vm)?;
        }
        let known = clones.snapshot.as_ref().map(|snapshot| self.find_set(&vm, snapshot)).transpose()?;
        let labels: Vec<String> = match &known {
            Some(set) => members_of(&vm, set).map(|member| member.label.clone()).collect(),
            None => vm.vdisks.iter().map(|member| member.label.clone()).collect(),
        };
        if labels.is_empty() {
            return Err(Error::has_no_vdisks(name));
        }
        let vms = rules::vm_clone_names(&clones, &labels)?;
        self.check_names(&vms, &labels)?;
        let set = match &known {
            Some(set) => set.clone(),
            None => self.take_set(&names::temporary_name(now_unix_ms()), None, std::slice::from_ref(&vm)).await?,
        };
        let made = self.clone_set(&vm, &set, vms).await;
        if known.is_none()
            && let Err(error) = self.delete_set(&set, true).await
        {
            tracing::warn!(vm = name, %error, "a snapshot that clones were made of is not deleted yet");
        }
        Ok(made?.iter().map(|vm| self.vm_info(vm)).collect())
    }

    pub(super) async fn clone_set(&self, vm: &VmRecord, set: &SetRecord, vms: Vec<String>) -> Result<Vec<VmRecord>> {
        for member in members_of(vm, set) {
            if self.directory.find_id(member.vdisk).is_none() {
                let text = format!(
                    "the vDisk {:?} of this snapshot of VM {:?} was deleted; clone the snapshots of the others one by one",
                    member.label, vm.name
                );
                return Err(Error::invalid(text));
            }
        }
        let sources: Vec<_> = members_of(vm, set).map(|member| (member.vdisk, Some(member.snapshot))).collect();
        self.check_copies(&sources, vms.len()).await?;
        let planned = |vm_name: &str, member: &SetMember| {
            let name = rules::vdisk_name(vm_name, &member.label)?;
            let source = Source::Snapshot { vdisk: member.vdisk, snapshot: member.snapshot };
            Ok(PlannedVdisk { label: member.label.clone(), name, source })
        };
        let plans = vms.into_iter().map(|name| {
            let vdisks = members_of(vm, set).map(|member| planned(&name, member)).collect::<Result<Vec<_>>>()?;
            Ok((name, vdisks))
        });
        self.make_vms(plans.collect::<Result<Vec<_>>>()?, ContainerId::NONE).await
    }

    pub(super) async fn roll_vm_back(&self, name: &str, snapshot: &str) -> Result<VmRolledBack> {
        let _one = self.changing.lock().await;
        let vm = self.find_vm(name)?;
        let set = self.find_set(&vm, snapshot)?;
        self.check_can_roll_back(&vm, &set).await?;
        self.roll_vm_back_to(&vm, &set).await
    }

    /// The caller has checked that it may be.
    pub(super) async fn roll_vm_back_to(&self, vm: &VmRecord, set: &SetRecord) -> Result<VmRolledBack> {
        let kept = names::kept_name(now_unix_ms(), |name| self.is_taken(vm, name));
        self.check_new_set(vm, &kept)?;
        let kept = Kept { name: kept, group: None, vms: std::slice::from_ref(vm) };
        let steps = members_of(vm, set).map(|member| (member.vdisk, member.snapshot)).collect();
        let rollback = RollbackRecord { vm: vm.id, steps };
        let kept = self.put_back(&format!("VM {:?}", vm.name), &rollback, kept).await?;
        Ok(VmRolledBack { vm: self.vm_info(vm), kept: self.set_info(vm, &kept) })
    }

    /// Nobody can connect meanwhile. What is there before is kept: of that nothing is written any more when it is taken. From
    /// the record on a crash means that the next start goes on. `what` is rolled back, for people. The caller has checked that
    /// no vDisk of it is in another rollback that is on record.
    pub(super) async fn put_back(&self, what: &str, rollback: &RollbackRecord, kept: Kept<'_>) -> Result<SetRecord> {
        let ids: Vec<VdiskId> = rollback.steps.iter().map(|(id, _)| *id).collect();
        self.hold(&ids).await;
        let done = async {
            for vm in kept.vms {
                self.check_stopped(vm).await?;
            }
            self.until_idle(&ids).await?;
            let kept = self.take_set(&kept.name, kept.group.clone(), kept.vms).await?;
            self.vms.put_rollback(rollback.clone());
            self.try_put_back(what, rollback, &kept).await?;
            Ok(kept)
        };
        let done = done.await;
        if let Err(error) = &done {
            // If it is on record still.
            self.is_left(rollback.vm, error);
        }
        self.let_in(&ids).await;
        done
    }

    /// Nobody connects to these from here on.
    pub(super) async fn hold(&self, vdisks: &[VdiskId]) {
        self.directory.hold(vdisks, true);
        let held = self.by_shard(vdisks.iter().copied()).into_iter().map(|(shard, vdisks)| {
            self.shards.on(shard, move |shard| {
                shard.hold(&vdisks);
                Box::pin(async { Ok(()) })
            })
        });
        // Fails only while the workers end.
        join_all(held).await;
    }

    /// But for those whose rollback is on record still.
    async fn let_in(&self, vdisks: &[VdiskId]) {
        let free = vdisks.iter().copied().filter(|id| self.vms.rollback_of(*id).is_none());
        let free: Vec<VdiskId> = free.collect();
        let let_in = self.by_shard(free.iter().copied()).into_iter().map(|(shard, vdisks)| {
            self.shards.on(shard, move |shard| {
                shard.let_in(&vdisks);
                Box::pin(async { Ok(()) })
            })
        });
        // Fails only while the workers end.
        join_all(let_in).await;
        self.directory.hold(&free, false);
    }

    async fn until_idle(&self, vdisks: &[VdiskId]) -> Result<()> {
        for id in vdisks.iter().copied() {
            let Some((name, _)) = self.directory.find_id(id) else { continue };
            let idle = self.shards.on(shard_of(id), move |shard| {
                Box::pin(async move { super::snapshots::until_idle(&shard, id, &name).await })
            });
            idle.await?;
        }
        Ok(())
    }

    async fn try_put_back(&self, what: &str, rollback: &RollbackRecord, kept: &SetRecord) -> Result<()> {
        let record = Transaction::new().put(keys::rollback(rollback.vm), rollback.encode());
        if let Err(error) = self.commit(record).await {
            // It may be there all the same, and nobody is to write before it is certain that it is not.
            if let Err(worse) = self.end_rollback(rollback).await {
                let text = format!(
                    "{what} is to be rolled back, but that cannot be put on record: {error}; nor taken back: {worse}"
                );
                return Err(Error::new(worse.kind, text));
            }
            return Err(self.without_kept(kept, error).await);
        }
        let mut done = 0;
        let Err(error) = self.roll_back_each(&rollback.steps, &mut done).await else {
            return self.end_rollback(rollback).await;
        };
        let members = kept.vms.iter().flat_map(|vm| &vm.members);
        let before: Vec<_> = members.map(|member| (member.vdisk, member.snapshot)).collect();
        let of_done = |step: &&(VdiskId, SnapshotId)| rollback.steps.iter().take(done).any(|(id, _)| *id == step.0);
        let undo: Vec<_> = before.iter().filter(of_done).copied().collect();
        if let Err(worse) = self.roll_back_each(&undo, &mut 0).await {
            let text = format!(
                "{what} is rolled back in part: {error}; what was done cannot be taken back: {worse}. It is tried again; until \
                 it is done nobody can connect to its vDisks (`drystone status` says what is in the way)"
            );
            return Err(Error::internal(text));
        }
        self.end_rollback(rollback).await?;
        Err(self.without_kept(kept, error).await)
    }

    /// In their order, until one fails.
    async fn roll_back_each(&self, steps: &[(VdiskId, SnapshotId)], done: &mut usize) -> Result<()> {
        for (vdisk, snapshot) in steps.iter().copied() {
            self.roll_back_one(vdisk, snapshot).await?;
            *done += 1;
        }
        Ok(())
    }

    async fn roll_back_one(&self, vdisk: VdiskId, snapshot: SnapshotId) -> Result<()> {
        let one = self.shards.on(shard_of(vdisk), move |shard| {
            Box::pin(async move { shard.rollback(vdisk, snapshot).await.map_err(from_node) })
        });
        one.await
    }

    /// It is not on record any more, be it done, taken back or given up.
    async fn end_rollback(&self, rollback: &RollbackRecord) -> Result<()> {
        self.commit(Transaction::new().delete(keys::rollback(rollback.vm))).await?;
        self.vms.remove_rollback(rollback.vm);
        Ok(())
    }

    /// A snapshot that kept what is still there. The error is passed on.
    async fn without_kept(&self, kept: &SetRecord, error: Error) -> Error {
        if let Err(also) = self.delete_set(kept, true).await {
            tracing::warn!(snapshot = kept.name, error = %also, "a snapshot of a rollback that failed stays");
        }
        error
    }

    /// Goes on with a rollback that was cut short, while nobody can connect. vDisks that are gone are none of it any more.
    pub(super) async fn finish_rollback(&self, rolling: &RollingBack) -> Result<()> {
        let mut result = Ok(());
        for (vdisk, snapshot) in rolling.record.steps.iter().copied() {
            if rolling.done.contains(&vdisk) {
                continue;
            }
            let Some((name, _)) = self.directory.find_id(vdisk) else { continue };
            let rolled_back = async {
                self.until_idle(&[vdisk]).await?;
                self.roll_back_one(vdisk, snapshot).await
            };
            match rolled_back.await {
                Ok(()) => self.vms.put_back(rolling.record.vm, vdisk),
                Err(error) => result = result.and(Err(Error::new(error.kind, format!("vDisk {name:?}: {error}")))),
            }
        }
        result?;
        self.end_rollback(&rolling.record).await?;
        let ids: Vec<VdiskId> = rolling.record.steps.iter().map(|(id, _)| *id).collect();
        self.let_in(&ids).await;
        Ok(())
    }

    /// Of all VMs that it is of.
    pub(super) async fn abort_rollback_of(&self, name: &str) -> Result<VmInfo> {
        let (vm, ids) = {
            let _one = self.changing.lock().await;
            let vm = self.find_vm(name)?;
            let record = self.vms.rollback_of_vm(&vm).ok_or_else(|| Error::no_rollback(name))?;
            self.end_rollback(&record).await?;
            let ids: Vec<VdiskId> = record.steps.iter().map(|(id, _)| *id).collect();
            self.let_in(&ids).await;
            tracing::warn!(vm = name, "a rollback that was not complete is given up");
            (vm, ids)
        };
        self.forget_sources(&ids).await;
        Ok(self.vm_info(&vm))
    }

    /// Deletes a vDisk, its snapshots too. The caller has looked at what is in the way, and holds the turn.
    pub(super) async fn delete_listed(&self, name: &str, listed: &Listed, force: bool) -> Result<()> {
        let (id, named) = (listed.id, name.to_string());
        let deleted = self.shards.on(listed.shard, move |shard| {
            Box::pin(async move { super::snapshots::delete_with_snapshots(&shard, id, &named, force).await })
        });
        deleted.await?;
        self.directory.remove(id);
        self.containers.forget(id);
        Ok(())
    }
}
