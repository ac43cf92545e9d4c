//! The verbs on consistency groups of VMs. A group is a name in the records of its VMs: it is stored, renamed in the logs and
//! found again as these are.

use super::sets::members_of;
use super::snapshots::now_unix_ms;
use super::verbs::Verbs;
use super::vm_copies::Kept;
use base::VdiskId;
use control::rules::groups as rules;
use control::rules::snapshots as names;
use control::rules::vms::check_same_vdisks;
use control::{
    ControlFuture, CreateVmGroup, Error, GroupControl, GroupRolledBack, GroupSnapshotInfo, Result, VmGroupInfo,
};
use meta::{RollbackRecord, SetRecord, Transaction, VmRecord, keys};

impl Verbs {
    /// In the order of names.
    pub(super) fn vms_of_group(&self, name: &str) -> Result<Vec<VmRecord>> {
        let vms: Vec<VmRecord> = self.vms.all().into_iter().filter(|vm| is_in(vm, name)).collect();
        if vms.is_empty() { Err(Error::no_vm_group(name)) } else { Ok(vms) }
    }

    fn group_info(&self, name: &str) -> Result<VmGroupInfo> {
        let vms = self.vms_of_group(name)?;
        Ok(VmGroupInfo {
            name: name.to_string(),
            vms: vms.into_iter().map(|vm| vm.name).collect(),
            snapshots: self.sets_of_group(name).len() as u32,
        })
    }

    fn sets_of_group(&self, name: &str) -> Vec<SetRecord> {
        let mut sets = self.vms.sets_of_group(name);
        sets.retain(|set| !names::is_temporary(&set.name));
        sets
    }

    pub(super) fn find_group_set(&self, group: &str, snapshot: &str) -> Result<SetRecord> {
        let found = self.sets_of_group(group).into_iter().find(|set| set.name == snapshot);
        found.ok_or_else(|| Error::no_group_snapshot(group, snapshot))
    }

    pub(super) fn group_set_info(&self, group: &str, set: &SetRecord) -> GroupSnapshotInfo {
        let vms = set.vms.iter().filter_map(|one| self.vms.find_id(one.vm));
        GroupSnapshotInfo {
            id: set.id.to_string(),
            group: group.to_string(),
            name: set.name.clone(),
            created_unix_ms: set.created_wall_ns / 1_000_000,
            vms: vms.map(|vm| self.set_info(&vm, set)).collect(),
        }
    }

    /// The group has a snapshot of this name, or one of its VMs or of their vDisks has.
    pub(super) fn is_taken_in(&self, group: &str, snapshot: &str) -> bool {
        let vms = self.vms_of_group(group).unwrap_or_default();
        self.find_group_set(group, snapshot).is_ok() || vms.iter().any(|vm| self.is_taken(vm, snapshot))
    }

    /// Takes effect by one transaction.
    async fn change_groups(&self, vms: Vec<VmRecord>, sets: Vec<SetRecord>) -> Result<()> {
        let vms: Vec<VmRecord> = vms.into_iter().map(|vm| VmRecord { serial: vm.serial + 1, ..vm }).collect();
        let all = vms.iter().fold(Transaction::new(), |all, vm| all.put(keys::vm(vm.id), vm.encode()));
        // Leaving a group is among it, on a disk that is full, too.
        self.commit_to_make_room(sets.iter().fold(all, |all, set| all.put(keys::set(set.id), set.encode()))).await?;
        vms.iter().for_each(|vm| self.vms.put(vm.clone()));
        sets.into_iter().for_each(|set| self.vms.put_set(set));
        self.note_vms(&vms).await;
        Ok(())
    }

    async fn create_group_of(&self, create: CreateVmGroup) -> Result<VmGroupInfo> {
        rules::check_create(&create)?;
        let _one = self.changing.lock().await;
        if self.vms_of_group(&create.name).is_ok() {
            return Err(Error::vm_group_exists(&create.name));
        }
        let vms = create.vms.iter().map(|vm| joined(self.find_vm(vm)?, &create.name)).collect::<Result<Vec<_>>>()?;
        rules::check_group_vdisks(&create.name, vdisk_count(&vms))?;
        // Those of an earlier group of this name, which went with its last VM.
        let sets = without_group(self.vms.sets_of_group(&create.name));
        self.change_groups(vms, sets).await?;
        self.group_info(&create.name)
    }

    async fn add_vm(&self, name: &str, vm: &str) -> Result<VmGroupInfo> {
        let _one = self.changing.lock().await;
        let members = self.vms_of_group(name)?;
        let vm = self.find_vm(vm)?;
        if !is_in(&vm, name) {
            rules::check_group_size(name, members.len() + 1)?;
            rules::check_group_vdisks(name, vdisk_count(&members) + vm.vdisks.len())?;
            self.change_groups(vec![joined(vm, name)?], Vec::new()).await?;
        }
        self.group_info(name)
    }

    /// A vDisk of this VM.
    pub(super) fn check_groups_take_one_more(&self, vm: &VmRecord) -> Result<()> {
        vm.groups.iter().try_for_each(|group| {
            let vdisks = vdisk_count(&self.vms_of_group(group).unwrap_or_default());
            rules::check_group_vdisks(group, vdisks + 1)
        })
    }

    async fn remove_from(&self, name: &str, vm: &str) -> Result<VmGroupInfo> {
        let _one = self.changing.lock().await;
        rules::check_removal(&self.group_info(name)?, vm)?;
        self.change_groups(vec![left(self.find_vm(vm)?, name)], Vec::new()).await?;
        self.group_info(name)
    }

    /// Its snapshots are those of its VMs from then on: a new group of this name does not have them.
    async fn delete_group_of(&self, name: &str) -> Result<()> {
        let _one = self.changing.lock().await;
        let vms = self.vms_of_group(name)?.into_iter().map(|vm| left(vm, name)).collect();
        self.change_groups(vms, without_group(self.vms.sets_of_group(name))).await
    }

    /// Those that have something to take a snapshot of. The caller holds the turn.
    fn vms_to_take(&self, name: &str, snapshot: &str) -> Result<Vec<VmRecord>> {
        let all = self.vms_of_group(name)?;
        let vms: Vec<VmRecord> = all.iter().filter(|vm| !vm.vdisks.is_empty()).cloned().collect();
        if let (true, Some(vm)) = (vms.is_empty(), all.first()) {
            return Err(Error::has_no_vdisks(&vm.name));
        }
        // It may have grown so large in an earlier build.
        rules::check_group_vdisks(name, vdisk_count(&vms))?;
        // A VM that has left may have had it, so that none that is here does.
        if self.find_group_set(name, snapshot).is_ok() {
            return Err(Error::group_snapshot_exists(name, snapshot));
        }
        vms.iter().try_for_each(|vm| self.check_new_set(vm, snapshot))?;
        Ok(vms)
    }

    pub(super) async fn take_group_snapshot(&self, name: &str, snapshot: &str) -> Result<SetRecord> {
        names::check_snapshot_name(snapshot)?;
        let _one = self.changing.lock().await;
        let vms = self.vms_to_take(name, snapshot)?;
        self.take_set(snapshot, Some(name.to_string()), &vms).await
    }

    async fn drop_group_snapshot(&self, name: &str, snapshot: &str, force: bool) -> Result<()> {
        let _one = self.changing.lock().await;
        self.vms_of_group(name)?;
        let set = self.find_group_set(name, snapshot)?;
        if !force {
            self.check_unread(&set).await?;
        }
        self.delete_set(&set, force).await
    }

    /// The rollback of all VMs is one record, under the first one's id.
    async fn roll_group_back(&self, name: &str, snapshot: &str) -> Result<GroupRolledBack> {
        let _one = self.changing.lock().await;
        let vms: Vec<VmRecord> = self.vms_of_group(name)?.into_iter().filter(|vm| !vm.vdisks.is_empty()).collect();
        let set = self.find_group_set(name, snapshot)?;
        let first = vms.first().ok_or_else(|| Error::no_vm_group(name))?;
        let is_other = set.vms.len() != vms.len() || !vms.iter().all(|vm| set.vms.iter().any(|one| one.vm == vm.id));
        if is_other {
            return Err(Error::invalid(format!(
                "group {name:?} has other VMs now than snapshot {snapshot:?}; roll them back one by one (`drystone vm rollback`)"
            )));
        }
        for vm in &vms {
            self.check_can_roll_back(vm, &set).await?;
        }
        let kept = names::kept_name(now_unix_ms(), |kept| self.is_taken_in(name, kept));
        vms.iter().try_for_each(|vm| self.check_new_set(vm, &kept))?;
        let steps = vms.iter().flat_map(|vm| members_of(vm, &set)).map(|member| (member.vdisk, member.snapshot));
        let rollback = RollbackRecord { vm: first.id, steps: steps.collect() };
        let kept = Kept { name: kept, group: Some(name.to_string()), vms: &vms };
        let kept = self.put_back(&format!("group {name:?}"), &rollback, kept).await?;
        Ok(GroupRolledBack {
            vms: vms.iter().map(|vm| self.vm_info(vm)).collect(),
            kept: self.group_set_info(name, &kept),
        })
    }

    /// It has the vDisks that it had then, and may be changed.
    pub(super) async fn check_can_roll_back(&self, vm: &VmRecord, set: &SetRecord) -> Result<()> {
        let then: Vec<(String, VdiskId)> =
            members_of(vm, set).map(|member| (member.label.clone(), member.vdisk)).collect();
        let now: Vec<_> = vm.vdisks.iter().map(|member| (member.label.clone(), member.vdisk)).collect();
        check_same_vdisks(&vm.name, &then, &now)?;
        self.check_stopped(vm).await
    }

    /// It is no template, nobody uses it, and it is not in the middle of another rollback: that would be carried out over what
    /// is written later.
    pub(super) async fn check_stopped(&self, vm: &VmRecord) -> Result<()> {
        if vm.template {
            return Err(Error::is_template(&vm.name));
        }
        // Of vDisks that it has no more, too: of each VM there is one on record.
        self.check_whole(vm)?;
        for (vdisk, (read_only, connections)) in
            self.look_at_vdisks(vm, |summary| (summary.record.read_only, summary.connections)).await?
        {
            if read_only {
                return Err(Error::read_only(&vdisk));
            }
            if connections > 0 {
                return Err(Error::rollback_while_connected(&vdisk, connections));
            }
        }
        Ok(())
    }
}

pub(super) fn is_in(vm: &VmRecord, group: &str) -> bool {
    vm.groups.iter().any(|name| name == group)
}

fn vdisk_count(vms: &[VmRecord]) -> usize {
    vms.iter().map(|vm| vm.vdisks.len()).sum()
}

fn without_group(sets: Vec<SetRecord>) -> Vec<SetRecord> {
    sets.into_iter().map(|set| SetRecord { group: None, ..set }).collect()
}

fn joined(vm: VmRecord, group: &str) -> Result<VmRecord> {
    let mut groups = vm.groups.clone();
    groups.push(group.to_string());
    groups.sort_unstable();
    rules::check_groups_of(&vm.name, groups.len())?;
    Ok(VmRecord { groups, ..vm })
}

fn left(mut vm: VmRecord, group: &str) -> VmRecord {
    vm.groups.retain(|name| name != group);
    vm
}

impl GroupControl for Verbs {
    fn create_vm_group(&self, create: CreateVmGroup) -> ControlFuture<'_, VmGroupInfo> {
        self.to_its_end(|verbs| async move { verbs.create_group_of(create).await })
    }

    fn list_vm_groups(&self) -> ControlFuture<'_, Vec<VmGroupInfo>> {
        Box::pin(async move {
            let mut names: Vec<String> = self.vms.all().into_iter().flat_map(|vm| vm.groups).collect();
            names.sort_unstable();
            names.dedup();
            names.iter().map(|name| self.group_info(name)).collect()
        })
    }

    fn show_vm_group<'a>(&'a self, name: &'a str) -> ControlFuture<'a, VmGroupInfo> {
        Box::pin(async move { self.group_info(name) })
    }

    fn add_to_group<'a>(&'a self, name: &'a str, vm: &'a str) -> ControlFuture<'a, VmGroupInfo> {
        let (name, vm) = (name.to_string(), vm.to_string());
        self.to_its_end(|verbs| async move { verbs.add_vm(&name, &vm).await })
    }

    fn remove_from_group<'a>(&'a self, name: &'a str, vm: &'a str) -> ControlFuture<'a, VmGroupInfo> {
        let (name, vm) = (name.to_string(), vm.to_string());
        self.to_its_end(|verbs| async move { verbs.remove_from(&name, &vm).await })
    }

    fn delete_vm_group<'a>(&'a self, name: &'a str) -> ControlFuture<'a, ()> {
        let name = name.to_string();
        self.to_its_end(|verbs| async move { verbs.delete_group_of(&name).await })
    }

    fn group_snapshots<'a>(&'a self, name: &'a str) -> ControlFuture<'a, Vec<GroupSnapshotInfo>> {
        Box::pin(async move {
            self.vms_of_group(name)?;
            Ok(self.sets_of_group(name).iter().map(|set| self.group_set_info(name, set)).collect())
        })
    }

    fn create_group_snapshot<'a>(&'a self, name: &'a str, snapshot: &'a str) -> ControlFuture<'a, GroupSnapshotInfo> {
        let (name, snapshot) = (name.to_string(), snapshot.to_string());
        self.to_its_end(|verbs| async move {
            let set = verbs.take_group_snapshot(&name, &snapshot).await?;
            Ok(verbs.group_set_info(&name, &set))
        })
    }

    fn delete_group_snapshot<'a>(&'a self, name: &'a str, snapshot: &'a str, force: bool) -> ControlFuture<'a, ()> {
        let (name, snapshot) = (name.to_string(), snapshot.to_string());
        self.to_its_end(move |verbs| async move { verbs.drop_group_snapshot(&name, &snapshot, force).await })
    }

    fn roll_back_group<'a>(&'a self, name: &'a str, snapshot: &'a str) -> ControlFuture<'a, GroupRolledBack> {
        let (name, snapshot) = (name.to_string(), snapshot.to_string());
        self.to_its_end(|verbs| async move { verbs.roll_group_back(&name, &snapshot).await })
    }
}
