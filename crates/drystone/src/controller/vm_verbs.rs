//! The verbs on VMs. A change first goes into the metadata store, where it takes effect, then into the logs of the vDisks.

use super::directory::Listed;
use super::errors::from_node;
use super::exports::shard_of;
use super::sets::now_wall_ns;
use super::targets::vm_target_closed;
use super::verbs::Verbs;
use base::VdiskId;
use bytes::Bytes;
use control::rules::snapshots as names;
use control::rules::vms as rules;
use control::{
    AttachVdisk, ControlFuture, CreateVm, DeleteVm, Error, ExistingVdisk, ListVms, MakeClones, Result, VmControl,
    VmInfo, VmPage, VmRolledBack, VmSnapshotInfo, VmVdisk, vm_target_name,
};
use futures_util::future::join_all;
use meta::{PlanRecord, PlannedVdisk, SetRecord, Source, Transaction, VmRecord, keys};
use std::collections::BTreeMap;
use vdisk::NoteKind;

/// Notes written at once: each is a small frame, and syncs that begin together are shared.
const NOTES_AT_ONCE: usize = 64;

impl Verbs {
    pub(super) fn find_vm(&self, name: &str) -> Result<VmRecord> {
        self.vms.find(name).ok_or_else(|| Error::no_vm(name))
    }

    pub(super) fn vm_info(&self, vm: &VmRecord) -> VmInfo {
        let shown = |member: &meta::VmVdisk| {
            let (vdisk, listed) = self.directory.find_id(member.vdisk)?;
            Some(VmVdisk { label: member.label.clone(), vdisk, size_bytes: listed.size_bytes, lun: member.lun.into() })
        };
        let sets = self.vms.sets_of(vm.id);
        VmInfo {
            id: vm.id.to_string(),
            name: vm.name.clone(),
            template: vm.template,
            created_unix_ms: vm.created_wall_ns / 1_000_000,
            vdisks: vm.vdisks.iter().filter_map(shown).collect(),
            target_name: vm_target_name(&vm.name),
            target_closed: vm_target_closed(vm, &self.directory, &self.groups),
            snapshots: sets.iter().filter(|set| !names::is_temporary(&set.name)).count() as u32,
        }
    }

    /// Stores the change, then the copies in the logs. On a full disk too: a vDisk that is to go has to leave its VM first.
    pub(super) async fn store_vm(&self, vm: VmRecord) -> Result<VmInfo> {
        let vm = VmRecord { serial: vm.serial + 1, ..vm };
        self.commit_to_make_room(Transaction::new().put(keys::vm(vm.id), vm.encode())).await?;
        self.vms.put(vm.clone());
        self.note_vms(std::slice::from_ref(&vm)).await;
        Ok(self.vm_info(&vm))
    }

    /// Copies for `drystone recover`. What cannot be written now is written by the next start.
    pub(super) async fn note_vms(&self, vms: &[VmRecord]) {
        let notes = vms.iter().flat_map(|vm| vm.vdisks.iter().map(move |member| (member.vdisk, vm.encode())));
        self.note(notes.collect()).await;
    }

    /// An empty note: the vDisk belongs to no VM.
    pub(super) async fn note(&self, notes: Vec<(VdiskId, Bytes)>) {
        let mut by_shard: BTreeMap<u16, Vec<(VdiskId, Bytes)>> = BTreeMap::new();
        for (id, bytes) in notes {
            by_shard.entry(shard_of(id)).or_default().push((id, bytes));
        }
        let written = by_shard.into_iter().map(|(shard, notes)| {
            self.shards.on(shard, move |shard| {
                Box::pin(async move {
                    for some in notes.chunks(NOTES_AT_ONCE) {
                        let written = some.iter().map(|(id, bytes)| shard.set_note(*id, NoteKind::Vm, bytes.clone()));
                        for (written, (id, _)) in join_all(written).await.into_iter().zip(some) {
                            if let Err(error) = written {
                                tracing::warn!(vdisk = %id, %error, "its log does not say yet to which VM it belongs; the next start tries again");
                            }
                        }
                    }
                    Ok(())
                })
            })
        });
        // Fails only while the workers end.
        join_all(written).await;
    }

    fn check_vm_is_new(&self, name: &str) -> Result<()> {
        if self.vms.find(name).is_some() { Err(Error::vm_exists(name)) } else { Ok(()) }
    }

    /// VMs of these names, and their vDisks, are not there yet.
    pub(super) fn check_names(&self, vms: &[String], labels: &[String]) -> Result<()> {
        for vm in vms {
            self.check_vm_is_new(vm)?;
            for label in labels {
                let vdisk = rules::vdisk_name(vm, label)?;
                // A plan for a VM of the same name is given up once this one is there.
                if self.vms.planned_for(&vdisk).as_ref() != Some(vm) {
                    self.check_is_new(&vdisk)?;
                } else if self.directory.find(&vdisk).is_some() {
                    return Err(Error::exists(&vdisk));
                }
            }
        }
        Ok(())
    }

    async fn create_new_vm(&self, create: CreateVm) -> Result<VmInfo> {
        rules::check_create(&create)?;
        let _one = self.changing.lock().await;
        let labels: Vec<String> = create.vdisks.iter().map(|vdisk| vdisk.label.clone()).collect();
        self.check_names(std::slice::from_ref(&create.name), &labels)?;
        let planned = create.vdisks.iter().map(|vdisk| {
            let source = Source::Empty { size_bytes: vdisk.size_bytes, sector_bytes: vdisk.sector_bytes };
            let name = rules::vdisk_name(&create.name, &vdisk.label)?;
            Ok(PlannedVdisk { label: vdisk.label.clone(), name, source })
        });
        let mut vdisks = planned.collect::<Result<Vec<_>>>()?;
        for existing in &create.existing {
            vdisks.push(self.plan_existing(&create.name, existing)?);
        }
        let container = self.container_named(create.container.as_deref())?;
        self.check_capacity(container, 0).await?;
        let made = self.make_vms(vec![(create.name, vdisks)], container).await?;
        made.first().map(|vm| self.vm_info(vm)).ok_or_else(|| Error::internal("no VM was made"))
    }

    /// A vDisk that is there, as one of a VM that is to be made.
    fn plan_existing(&self, vm: &str, existing: &ExistingVdisk) -> Result<PlannedVdisk> {
        let ExistingVdisk { label, vdisk } = existing;
        let (name, listed) = (rules::vdisk_name(vm, label)?, self.find(vdisk)?);
        if let Some(other) = self.vms.of_vdisk(listed.id) {
            return Err(Error::belongs_to_vm(vdisk, &other.name));
        }
        if let Some(planned) = self.vms.planned_for(vdisk).filter(|planned| planned != vm) {
            return Err(Error::planned(vdisk, &planned));
        }
        self.check_is_free(vdisk, listed.id)?;
        if self.vms.rollback_of(listed.id).is_some() {
            return Err(Error::rollback_pending(vdisk));
        }
        if name != *vdisk {
            self.check_names(&[vm.to_string()], std::slice::from_ref(label))?;
        }
        Ok(PlannedVdisk { label: label.clone(), name, source: Source::Existing { vdisk: listed.id } })
    }

    fn vm_page(&self, request: ListVms) -> Result<VmPage> {
        control::rules::check_list_limit(request.limit)?;
        let after = request.after.unwrap_or_default();
        let mut vms: Vec<VmRecord> = self.vms.all().into_iter().filter(|vm| vm.name > after).collect();
        let more = vms.len() > request.limit as usize;
        vms.truncate(request.limit as usize);
        let next = vms.last().map(|vm| vm.name.clone()).filter(|_| more);
        Ok(VmPage { vms: vms.iter().map(|vm| self.vm_info(vm)).collect(), next })
    }

    async fn rename(&self, name: &str, new_name: &str) -> Result<VmInfo> {
        rules::check_vm_name(new_name)?;
        let _one = self.changing.lock().await;
        let vm = self.find_vm(name)?;
        if name == new_name {
            return Ok(self.vm_info(&vm));
        }
        self.check_vm_is_new(new_name)?;
        // Once this one had it, the other would be given up.
        if self.vms.is_planned(new_name) {
            return Err(Error::vm_planned(new_name));
        }
        self.store_vm(VmRecord { name: new_name.to_string(), ..vm }).await
    }

    /// What is read of each vDisk of a VM, with its name.
    pub(super) async fn look_at_vdisks<T: Send + 'static>(
        &self,
        vm: &VmRecord,
        look: fn(&node::VdiskSummary) -> T,
    ) -> Result<Vec<(String, T)>> {
        let mut found = Vec::with_capacity(vm.vdisks.len());
        for member in &vm.vdisks {
            let id = member.vdisk;
            let Some((name, listed)) = self.directory.find_id(id) else { continue };
            let one = self.shards.on(listed.shard, move |shard| {
                let seen = shard.summary_of(id).map(|summary| look(&summary));
                Box::pin(async move { Ok(seen) })
            });
            found.extend(one.await?.map(|seen| (name, seen)));
        }
        Ok(found)
    }

    async fn check_unconnected(&self, vm: &VmRecord) -> Result<()> {
        let connected = self.look_at_vdisks(vm, |summary| summary.connections).await?;
        match connected.into_iter().find(|(_, connections)| *connections > 0) {
            Some((vdisk, connections)) => Err(Error::busy(&vdisk, connections)),
            None => Ok(()),
        }
    }

    async fn switch_template(&self, name: &str, template: bool) -> Result<VmInfo> {
        let _one = self.changing.lock().await;
        let vm = self.find_vm(name)?;
        if vm.template == template {
            return Ok(self.vm_info(&vm));
        }
        self.check_whole(&vm)?;
        self.check_unconnected(&vm).await?;
        let changed = VmRecord { template, ..vm.clone() };
        if template {
            // A crash in between: the next start goes on.
            let info = self.store_vm(changed).await?;
            self.set_read_only(&vm, true).await?;
            return Ok(info);
        }
        // A crash in between: it still is a template, and the next start takes this back.
        self.set_read_only(&vm, false).await?;
        self.store_vm(changed).await
    }

    pub(super) async fn set_read_only(&self, vm: &VmRecord, on: bool) -> Result<()> {
        for member in &vm.vdisks {
            let id = member.vdisk;
            let directory = self.directory.clone();
            let switched = self.shards.on(shard_of(id), move |shard| {
                Box::pin(async move {
                    shard.set_read_only(id, on).await.map_err(from_node)?;
                    shard.summary_of(id).into_iter().for_each(|summary| directory.put(&summary.record));
                    crate::iscsi::geometry_may_have_changed(id.raw());
                    Ok(())
                })
            });
            switched.await?;
        }
        Ok(())
    }

    async fn attach(&self, name: &str, attach: AttachVdisk) -> Result<VmInfo> {
        let label = rules::label_of(name, &attach)?;
        let _one = self.changing.lock().await;
        let mut vm = self.find_vm(name)?;
        let listed = self.find(&attach.vdisk)?;
        if let Some(other) = self.vms.of_vdisk(listed.id) {
            return Err(Error::belongs_to_vm(&attach.vdisk, &other.name));
        }
        if let Some(planned) = self.vms.planned_for(&attach.vdisk) {
            return Err(Error::planned(&attach.vdisk, &planned));
        }
        self.check_is_free(&attach.vdisk, listed.id)?;
        // It would be closed with the others.
        self.check_whole(&vm)?;
        // Of one that no VM has any more this is the way to a name by which it can be given up.
        if let Some(rollback) = self.vms.rollback_of(listed.id) {
            if self.vms.find_id(rollback.vm).is_some() {
                return Err(Error::rollback_pending(&attach.vdisk));
            }
            // Nobody could log in to one that has others, and of two rollbacks its name would not say which.
            if !vm.vdisks.is_empty() || self.vms.rollback_of_vm(&vm).is_some() {
                return Err(Error::rollback_of_gone_vm(&attach.vdisk));
            }
        }
        if vm.template {
            return Err(Error::is_template(name));
        }
        if vm.vdisks.iter().any(|member| member.label == label) {
            return Err(Error::label_exists(name, &label));
        }
        rules::check_vdisk_count(name, vm.vdisks.len() + 1)?;
        self.check_groups_take_one_more(&vm)?;
        vm.add(label, listed.id);
        self.store_vm(vm).await
    }

    async fn detach(&self, name: &str, label: &str) -> Result<VmInfo> {
        let _one = self.changing.lock().await;
        let mut vm = self.find_vm(name)?;
        if vm.template {
            return Err(Error::is_template(name));
        }
        let at = vm.vdisks.iter().position(|member| member.label == label);
        let gone = vm.vdisks.remove(at.ok_or_else(|| Error::no_label(name, label))?);
        if self.vms.rollback_of(gone.vdisk).is_some() {
            return Err(Error::vm_rollback_pending(name));
        }
        let info = self.store_vm(vm).await?;
        self.note(vec![(gone.vdisk, Bytes::new())]).await;
        Ok(info)
    }

    fn shown_sets(&self, vm: &VmRecord) -> Vec<SetRecord> {
        self.vms.sets_of(vm.id).into_iter().filter(|set| !names::is_temporary(&set.name)).collect()
    }

    pub(super) fn find_set(&self, vm: &VmRecord, snapshot: &str) -> Result<SetRecord> {
        let found = self.shown_sets(vm).into_iter().find(|set| set.name == snapshot);
        found.ok_or_else(|| Error::no_vm_snapshot(&vm.name, snapshot))
    }

    pub(super) fn set_info(&self, vm: &VmRecord, set: &SetRecord) -> VmSnapshotInfo {
        let of_it = set.vms.iter().filter(|one| one.vm == vm.id).flat_map(|one| &one.members);
        VmSnapshotInfo {
            id: set.id.to_string(),
            vm: vm.name.clone(),
            name: set.name.clone(),
            created_unix_ms: set.created_wall_ns / 1_000_000,
            labels: of_it.map(|member| member.label.clone()).collect(),
            group: set.group.clone(),
        }
    }

    /// The VM or one of its vDisks has a snapshot of this name.
    pub(super) fn is_taken(&self, vm: &VmRecord, snapshot: &str) -> bool {
        let has = |member: &meta::VmVdisk| {
            self.directory.find_id(member.vdisk).is_some_and(|(_, listed)| listed.snapshots.contains_key(snapshot))
        };
        self.find_set(vm, snapshot).is_ok() || vm.vdisks.iter().any(has)
    }

    /// A VM that is half rolled back is no VM.
    pub(super) fn check_whole(&self, vm: &VmRecord) -> Result<()> {
        match self.vms.rollback_of_vm(vm) {
            Some(_) => Err(Error::vm_rollback_pending(&vm.name)),
            None => Ok(()),
        }
    }

    /// Names and number of snapshots admit one more of this name, for the VM and for each of its vDisks.
    pub(super) fn check_new_set(&self, vm: &VmRecord, snapshot: &str) -> Result<()> {
        self.check_whole(vm)?;
        if self.find_set(vm, snapshot).is_ok() {
            return Err(Error::vm_snapshot_exists(&vm.name, snapshot));
        }
        if vm.vdisks.is_empty() {
            return Err(Error::has_no_vdisks(&vm.name));
        }
        for member in &vm.vdisks {
            let Some((vdisk, Listed { snapshots, .. })) = self.directory.find_id(member.vdisk) else { continue };
            if snapshots.contains_key(snapshot) {
                return Err(Error::snapshot_exists(&vdisk, snapshot));
            }
            names::check_snapshot_count(&vdisk, snapshots.len())?;
        }
        Ok(())
    }

    /// `find` is asked when the turn has come. With the VM as it was then.
    pub(super) async fn take_vm_set(
        &self,
        find: impl FnOnce() -> Result<VmRecord> + Send,
        snapshot: &str,
    ) -> Result<(VmRecord, SetRecord)> {
        names::check_snapshot_name(snapshot)?;
        let _one = self.changing.lock().await;
        let vm = find()?;
        self.check_new_set(&vm, snapshot)?;
        let set = self.take_set(snapshot, None, std::slice::from_ref(&vm)).await?;
        Ok((vm, set))
    }

    async fn drop_vm_snapshot(&self, name: &str, snapshot: &str, force: bool) -> Result<()> {
        let _one = self.changing.lock().await;
        let vm = self.find_vm(name)?;
        let set = self.find_set(&vm, snapshot)?;
        if let Some(group) = set.group.as_ref().filter(|group| self.vms_of_group(group).is_ok()) {
            return Err(Error::part_of_group_snapshot(name, snapshot, group));
        }
        if !force {
            self.check_unread(&set).await?;
        }
        self.delete_set(&set, force).await
    }

    pub(super) async fn check_unread(&self, set: &SetRecord) -> Result<()> {
        for member in set.vms.iter().flat_map(|vm| &vm.members) {
            let Some((vdisk, listed)) = self.directory.find_id(member.vdisk) else { continue };
            let (id, part) = (member.vdisk, member.snapshot);
            let readers = self.shards.on(listed.shard, move |shard| {
                Box::pin(async move {
                    let all = shard.snapshots(id).await.map_err(from_node)?;
                    Ok(all.iter().find(|snapshot| snapshot.id == part).map_or(0, |snapshot| snapshot.connections))
                })
            });
            let readers = readers.await?;
            if readers > 0 {
                return Err(Error::snapshot_busy(&vdisk, &set.name, readers));
            }
        }
        Ok(())
    }

    async fn remove_vm(&self, name: &str, delete: DeleteVm) -> Result<()> {
        let _one = self.changing.lock().await;
        let vm = self.find_vm(name)?;
        // By its name it can be given up. Of vDisks that it has no more, too.
        self.check_whole(&vm)?;
        if !delete.keep_vdisks {
            vm.vdisks.iter().try_for_each(|member| self.check_no_clone_of(member.vdisk))?;
        }
        if delete.keep_vdisks {
            self.commit(Transaction::new().delete(keys::vm(vm.id))).await?;
            self.vms.remove(vm.id);
            if vm.template {
                self.set_read_only(&vm, false).await?;
            }
            self.note(vm.vdisks.iter().map(|member| (member.vdisk, Bytes::new())).collect()).await;
            return Ok(());
        }
        if !delete.snapshots {
            self.check_without_snapshots(&vm).await?;
        }
        if !delete.force {
            self.check_unconnected(&vm).await?;
        }
        let going = VmRecord { deleting: true, serial: vm.serial + 1, ..vm };
        self.commit_to_make_room(Transaction::new().put(keys::vm(going.id), going.encode())).await?;
        self.vms.put(going.clone());
        self.finish_deletion(&going, delete.force).await
    }

    /// Nothing on record has to be made from a vDisk that is to go.
    pub(super) fn check_no_clone_of(&self, id: VdiskId) -> Result<()> {
        match (self.vms.clone_of(id), self.directory.find_id(id)) {
            (Some(what), Some((vdisk, _))) => Err(Error::vdisk_needed(&vdisk, &what)),
            _ => Ok(()),
        }
    }

    async fn check_without_snapshots(&self, vm: &VmRecord) -> Result<()> {
        for member in &vm.vdisks {
            let Some((vdisk, listed)) = self.directory.find_id(member.vdisk) else { continue };
            let count = self.count_snapshots(&listed, false).await?;
            if count > 0 {
                return Err(Error::vm_has_snapshots(&vm.name, &vdisk, count));
            }
        }
        Ok(())
    }

    /// The record says that it is to go; what is left of it when this is cut short goes later.
    pub(super) async fn finish_deletion(&self, vm: &VmRecord, force: bool) -> Result<()> {
        let gone = self.delete_vdisks_of(vm, force).await;
        gone.inspect_err(|error| self.is_not_gone(vm.id.raw(), error))
    }

    async fn delete_vdisks_of(&self, vm: &VmRecord, force: bool) -> Result<()> {
        let mut gone = Vec::with_capacity(vm.vdisks.len());
        for member in &vm.vdisks {
            let Some((name, listed)) = self.directory.find_id(member.vdisk) else {
                gone.push(member.vdisk);
                continue;
            };
            match self.delete_listed(&name, &listed, force).await {
                Ok(()) => {}
                Err(error) if gone.is_empty() => {
                    // Nothing has happened yet, so nothing is to happen.
                    self.store_vm(VmRecord { deleting: false, ..vm.clone() }).await?;
                    return Err(error);
                }
                Err(error) => {
                    let text =
                        format!("VM {:?} is deleted but for the vDisk {name:?}: {error}; that is tried again", vm.name);
                    return Err(Error::new(error.kind, text));
                }
            }
            gone.push(member.vdisk);
        }
        self.commit(Transaction::new().delete(keys::vm(vm.id))).await?;
        self.vms.remove(vm.id);
        self.forget_parts(|member| gone.contains(&member.vdisk)).await
    }
}

impl VmControl for Verbs {
    fn create_vm(&self, create: CreateVm) -> ControlFuture<'_, VmInfo> {
        self.to_its_end(|verbs| async move { verbs.create_new_vm(create).await })
    }

    fn list_vms(&self, request: ListVms) -> ControlFuture<'_, VmPage> {
        Box::pin(async move { self.vm_page(request) })
    }

    fn show_vm<'a>(&'a self, name: &'a str) -> ControlFuture<'a, VmInfo> {
        Box::pin(async move { Ok(self.vm_info(&self.find_vm(name)?)) })
    }

    fn rename_vm<'a>(&'a self, name: &'a str, new_name: &'a str) -> ControlFuture<'a, VmInfo> {
        let (name, new_name) = (name.to_string(), new_name.to_string());
        self.to_its_end(|verbs| async move { verbs.rename(&name, &new_name).await })
    }

    fn set_template<'a>(&'a self, name: &'a str, template: bool) -> ControlFuture<'a, VmInfo> {
        let name = name.to_string();
        self.to_its_end(move |verbs| async move { verbs.switch_template(&name, template).await })
    }

    fn delete_vm<'a>(&'a self, name: &'a str, delete: DeleteVm) -> ControlFuture<'a, ()> {
        let name = name.to_string();
        self.to_its_end(move |verbs| async move { verbs.remove_vm(&name, delete).await })
    }

    fn attach_vdisk<'a>(&'a self, name: &'a str, attach: AttachVdisk) -> ControlFuture<'a, VmInfo> {
        let name = name.to_string();
        self.to_its_end(|verbs| async move { verbs.attach(&name, attach).await })
    }

    fn detach_vdisk<'a>(&'a self, name: &'a str, label: &'a str) -> ControlFuture<'a, VmInfo> {
        let (name, label) = (name.to_string(), label.to_string());
        self.to_its_end(|verbs| async move { verbs.detach(&name, &label).await })
    }

    fn vm_snapshots<'a>(&'a self, name: &'a str) -> ControlFuture<'a, Vec<VmSnapshotInfo>> {
        Box::pin(async move {
            let vm = self.find_vm(name)?;
            Ok(self.shown_sets(&vm).iter().map(|set| self.set_info(&vm, set)).collect())
        })
    }

    fn create_vm_snapshot<'a>(&'a self, name: &'a str, snapshot: &'a str) -> ControlFuture<'a, VmSnapshotInfo> {
        let (name, snapshot) = (name.to_string(), snapshot.to_string());
        self.to_its_end(|verbs| async move {
            let (vm, set) = verbs.take_vm_set(|| verbs.find_vm(&name), &snapshot).await?;
            Ok(verbs.set_info(&vm, &set))
        })
    }

    fn delete_vm_snapshot<'a>(&'a self, name: &'a str, snapshot: &'a str, force: bool) -> ControlFuture<'a, ()> {
        let (name, snapshot) = (name.to_string(), snapshot.to_string());
        self.to_its_end(move |verbs| async move { verbs.drop_vm_snapshot(&name, &snapshot, force).await })
    }

    fn clone_vm<'a>(&'a self, name: &'a str, clones: MakeClones) -> ControlFuture<'a, Vec<VmInfo>> {
        let name = name.to_string();
        self.to_its_end(|verbs| async move { verbs.make_vm_clones(&name, clones).await })
    }

    fn roll_back_vm<'a>(&'a self, name: &'a str, snapshot: &'a str) -> ControlFuture<'a, VmRolledBack> {
        let (name, snapshot) = (name.to_string(), snapshot.to_string());
        self.to_its_end(|verbs| async move { verbs.roll_vm_back(&name, &snapshot).await })
    }

    fn abort_rollback<'a>(&'a self, name: &'a str) -> ControlFuture<'a, VmInfo> {
        let name = name.to_string();
        self.to_its_end(|verbs| async move { verbs.abort_rollback_of(&name).await })
    }
}

/// A VM that is new.
pub(super) fn new_vm(plan: &PlanRecord, vdisks: impl Iterator<Item = (String, VdiskId)>) -> VmRecord {
    let mut vm = VmRecord {
        id: plan.vm,
        name: plan.name.clone(),
        serial: 1,
        created_wall_ns: now_wall_ns(),
        template: false,
        deleting: false,
        groups: Vec::new(),
        lun_next: 0,
        vdisks: Vec::new(),
    };
    vdisks.for_each(|(label, vdisk)| vm.add(label, vdisk));
    vm
}
