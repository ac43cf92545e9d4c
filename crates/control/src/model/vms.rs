//! The verbs on VMs in memory.

use super::{Model, State, Vdisk, ready};
use crate::rules::snapshots as names;
use crate::rules::vms as rules;
use crate::{
    AttachVdisk, ControlFuture, CreateVdisk, CreateVm, DeleteVm, Error, ListVms, MakeClones, Result, VmControl, VmInfo,
    VmPage, VmRolledBack, VmSnapshotInfo, VmVdisk,
};

const NOW_UNIX_MS: u64 = 1_700_000_000_000;

#[derive(Clone)]
pub(super) struct Vm {
    id: String,
    template: bool,
    /// Label and id.
    vdisks: Vec<(String, String)>,
}

pub(super) struct Set {
    id: String,
    name: String,
    vm: String,
    /// Label and id of the vDisk.
    members: Vec<(String, String)>,
}

impl State {
    fn vm(&mut self, name: &str) -> Result<&mut Vm> {
        self.vms.get_mut(name).ok_or_else(|| Error::no_vm(name))
    }

    fn by_id(&mut self, id: &str) -> &mut Vdisk {
        self.vdisks.values_mut().find(|vdisk| vdisk.info.id == id).expect("a vDisk of a VM is not deleted")
    }

    /// The VM that a vDisk belongs to.
    fn vm_of(&self, vdisk: &Vdisk) -> Option<(&String, &Vm)> {
        self.vms.iter().find(|(_, vm)| vm.vdisks.iter().any(|(_, id)| *id == vdisk.info.id))
    }

    /// Refuses what would take a vDisk from its VM.
    pub(super) fn check_belongs_to_none(&self, vdisk: &str) -> Result<()> {
        let vm = self.vdisks.get(vdisk).and_then(|vdisk| self.vm_of(vdisk));
        vm.map_or(Ok(()), |(vm, _)| Err(Error::belongs_to_vm(vdisk, vm)))
    }

    /// Refuses what would change a template.
    pub(super) fn check_no_template(&self, vdisk: &str) -> Result<()> {
        let vm = self.vdisks.get(vdisk).and_then(|vdisk| self.vm_of(vdisk));
        vm.filter(|(_, vm)| vm.template).map_or(Ok(()), |(vm, _)| Err(Error::is_template(vm)))
    }

    /// Refuses what would take a part from the snapshot of a VM.
    pub(super) fn check_no_part(&self, vdisk: &str, snapshot: &str, set: Option<&str>) -> Result<()> {
        let set = self.sets.iter().find(|known| set == Some(&known.id));
        let vm = set.and_then(|set| self.vms.iter().find(|(_, vm)| vm.id == set.vm));
        vm.map_or(Ok(()), |(vm, _)| Err(Error::part_of_vm_snapshot(vdisk, snapshot, vm)))
    }

    pub(super) fn vm_info(&mut self, name: &str) -> Result<VmInfo> {
        let vm = self.vm(name)?.clone();
        let vdisks = vm.vdisks.iter().zip(0..).map(|((label, id), lun)| {
            let info = &self.by_id(id).info;
            VmVdisk { label: label.clone(), vdisk: info.name.clone(), size_bytes: info.size_bytes, lun }
        });
        Ok(VmInfo {
            vdisks: vdisks.collect(),
            snapshots: self.sets.iter().filter(|set| set.vm == vm.id).count() as u32,
            id: vm.id,
            name: name.to_string(),
            target_name: crate::vm_target_name(name),
            target_closed: None,
            template: vm.template,
            created_unix_ms: NOW_UNIX_MS,
        })
    }

    fn check_vm_names(&self, vms: &[String], labels: &[String]) -> Result<()> {
        for name in vms {
            if self.vms.contains_key(name) {
                return Err(Error::vm_exists(name));
            }
            for label in labels {
                let vdisk = rules::vdisk_name(name, label)?;
                if self.vdisks.contains_key(&vdisk) {
                    return Err(Error::exists(&vdisk));
                }
            }
        }
        Ok(())
    }

    fn insert_vm(&mut self, name: &str, vdisks: Vec<(String, String)>) {
        let id = format!("m1.{:x}", self.next_number());
        self.vms.insert(name.to_string(), Vm { id, template: false, vdisks });
    }

    fn create_vm(&mut self, create: CreateVm) -> Result<VmInfo> {
        rules::check_create(&create)?;
        let labels: Vec<String> = create.vdisks.iter().map(|vdisk| vdisk.label.clone()).collect();
        self.check_vm_names(std::slice::from_ref(&create.name), &labels)?;
        for existing in &create.existing {
            self.vdisk(&existing.vdisk)?;
            self.check_belongs_to_none(&existing.vdisk)?;
            let name = rules::vdisk_name(&create.name, &existing.label)?;
            if name != existing.vdisk && self.vdisks.contains_key(&name) {
                return Err(Error::exists(&name));
            }
        }
        create.container.as_ref().map_or(Ok(()), |name| self.check_room(name, 0))?;
        let made = create.vdisks.into_iter().map(|vdisk| {
            let name = rules::vdisk_name(&create.name, &vdisk.label)?;
            let container = create.container.clone();
            let new = CreateVdisk {
                name,
                size_bytes: vdisk.size_bytes,
                sector_bytes: vdisk.sector_bytes,
                container,
                near: None,
                rewind: None,
            };
            Ok((vdisk.label, self.create(new)?.id))
        });
        let mut made = made.collect::<Result<Vec<_>>>()?;
        for existing in create.existing {
            let name = rules::vdisk_name(&create.name, &existing.label)?;
            made.push((existing.label, self.rename(&existing.vdisk, &name)?.id));
        }
        self.insert_vm(&create.name, made);
        self.vm_info(&create.name)
    }

    fn list_vms(&mut self, request: ListVms) -> Result<VmPage> {
        crate::rules::check_list_limit(request.limit)?;
        let after = request.after.unwrap_or_default();
        let mut rest: Vec<String> = self.vms.keys().filter(|name| **name > after).cloned().collect();
        let more = rest.len() > request.limit as usize;
        rest.truncate(request.limit as usize);
        let next = rest.last().cloned().filter(|_| more);
        let vms = rest.iter().map(|name| self.vm_info(name)).collect::<Result<_>>()?;
        Ok(VmPage { vms, next })
    }

    fn rename_vm(&mut self, name: &str, new_name: &str) -> Result<VmInfo> {
        rules::check_vm_name(new_name)?;
        self.vm(name)?;
        if name != new_name && self.vms.contains_key(new_name) {
            return Err(Error::vm_exists(new_name));
        }
        let vm = self.vms.remove(name).ok_or_else(|| Error::no_vm(name))?;
        self.vms.insert(new_name.to_string(), vm);
        self.vm_info(new_name)
    }

    fn check_unconnected(&mut self, vm: &Vm) -> Result<()> {
        for (_, id) in &vm.vdisks {
            let info = &self.by_id(id).info;
            if info.connections > 0 {
                return Err(Error::busy(&info.name, info.connections));
            }
        }
        Ok(())
    }

    fn set_template(&mut self, name: &str, template: bool) -> Result<VmInfo> {
        let vm = self.vm(name)?.clone();
        if vm.template != template {
            self.check_unconnected(&vm)?;
            for (_, id) in &vm.vdisks {
                self.by_id(id).set_read_only(template);
            }
            self.vm(name)?.template = template;
        }
        self.vm_info(name)
    }

    fn delete_vm(&mut self, name: &str, delete: DeleteVm) -> Result<()> {
        let vm = self.vm(name)?.clone();
        if !delete.keep_vdisks {
            for (_, id) in &vm.vdisks {
                let vdisk = self.by_id(id);
                let (vdisk_name, count) = (vdisk.info.name.clone(), vdisk.snapshots.len());
                if count > 0 && !delete.snapshots {
                    return Err(Error::vm_has_snapshots(name, &vdisk_name, count));
                }
            }
            if !delete.force {
                self.check_unconnected(&vm)?;
            }
        }
        self.vms.remove(name);
        self.sets.retain(|set| set.vm != vm.id);
        if !delete.keep_vdisks {
            self.vdisks.retain(|_, vdisk| !vm.vdisks.iter().any(|(_, id)| *id == vdisk.info.id));
        }
        Ok(())
    }

    fn attach_vdisk(&mut self, name: &str, attach: AttachVdisk) -> Result<VmInfo> {
        let vm = self.vm(name)?.clone();
        let label = rules::label_of(name, &attach)?;
        let id = self.vdisk(&attach.vdisk)?.info.id.clone();
        self.check_belongs_to_none(&attach.vdisk)?;
        if vm.template {
            return Err(Error::is_template(name));
        }
        if vm.vdisks.iter().any(|(other, _)| *other == label) {
            return Err(Error::label_exists(name, &label));
        }
        rules::check_vdisk_count(name, vm.vdisks.len() + 1)?;
        self.vm(name)?.vdisks.push((label, id));
        self.vm_info(name)
    }

    fn detach_vdisk(&mut self, name: &str, label: &str) -> Result<VmInfo> {
        let vm = self.vm(name)?;
        if vm.template {
            return Err(Error::is_template(name));
        }
        let at = vm.vdisks.iter().position(|(other, _)| other == label);
        vm.vdisks.remove(at.ok_or_else(|| Error::no_label(name, label))?);
        self.vm_info(name)
    }

    fn set_info(&self, vm: &str, set: &Set) -> VmSnapshotInfo {
        VmSnapshotInfo {
            id: set.id.clone(),
            vm: vm.to_string(),
            name: set.name.clone(),
            created_unix_ms: NOW_UNIX_MS,
            labels: set.members.iter().map(|(label, _)| label.clone()).collect(),
            group: None,
        }
    }

    fn vm_snapshots(&mut self, name: &str) -> Result<Vec<VmSnapshotInfo>> {
        let id = self.vm(name)?.id.clone();
        Ok(self.sets.iter().filter(|set| set.vm == id).map(|set| self.set_info(name, set)).collect())
    }

    fn set_of(&mut self, vm: &str, snapshot: &str) -> Result<&Set> {
        let id = self.vm(vm)?.id.clone();
        let found = self.sets.iter().find(|set| set.vm == id && set.name == snapshot);
        found.ok_or_else(|| Error::no_vm_snapshot(vm, snapshot))
    }

    pub(super) fn create_vm_snapshot(&mut self, name: &str, snapshot: &str) -> Result<VmSnapshotInfo> {
        names::check_snapshot_name(snapshot)?;
        let vm = self.vm(name)?.clone();
        if self.set_of(name, snapshot).is_ok() {
            return Err(Error::vm_snapshot_exists(name, snapshot));
        }
        if vm.vdisks.is_empty() {
            return Err(Error::has_no_vdisks(name));
        }
        for (_, id) in &vm.vdisks {
            let vdisk = self.by_id(id);
            let vdisk_name = vdisk.info.name.clone();
            if vdisk.snapshots.iter().any(|other| other.info.name == snapshot) {
                return Err(Error::snapshot_exists(&vdisk_name, snapshot));
            }
            names::check_snapshot_count(&vdisk_name, vdisk.snapshots.len())?;
        }
        let set = format!("s1.{:x}", self.next_number());
        for (_, id) in &vm.vdisks {
            let number = self.next_number();
            self.by_id(id).keep(snapshot, number, Some(set.clone()));
        }
        self.sets.push(Set { id: set, name: snapshot.to_string(), vm: vm.id, members: vm.vdisks });
        let set = self.sets.last().expect("just made");
        Ok(self.set_info(name, set))
    }

    fn delete_vm_snapshot(&mut self, name: &str, snapshot: &str, force: bool) -> Result<()> {
        let set = self.set_of(name, snapshot)?;
        let (set_id, members) = (set.id.clone(), set.members.clone());
        let of_set = |vdisk: &Vdisk| {
            vdisk.snapshots.iter().find(|one| one.info.set.as_ref() == Some(&set_id)).map(|one| one.info.clone())
        };
        for (_, id) in &members {
            let part = self.vdisks.values().find(|vdisk| vdisk.info.id == *id).and_then(of_set);
            if let Some(part) = part.filter(|part| part.connections > 0 && !force) {
                return Err(Error::snapshot_busy(&part.vdisk, snapshot, part.connections));
            }
        }
        for vdisk in self.vdisks.values_mut() {
            vdisk.snapshots.retain(|one| one.info.set.as_ref() != Some(&set_id));
        }
        self.sets.retain(|set| set.id != set_id);
        Ok(())
    }

    pub(super) fn clone_vm(&mut self, name: &str, clones: MakeClones) -> Result<Vec<VmInfo>> {
        let members = match &clones.snapshot {
            None => self.vm(name)?.vdisks.clone(),
            Some(snapshot) => self.set_of(name, snapshot)?.members.clone(),
        };
        if members.is_empty() {
            return Err(Error::has_no_vdisks(name));
        }
        let labels: Vec<String> = members.iter().map(|(label, _)| label.clone()).collect();
        let vms = rules::vm_clone_names(&clones, &labels)?;
        self.check_vm_names(&vms, &labels)?;
        for vm in &vms {
            let mut made = Vec::new();
            for (label, id) in &members {
                let source = self.by_id(id);
                let blocks = source.blocks_of(clones.snapshot.as_deref())?.clone();
                let like = source.as_writable();
                let vdisk = rules::vdisk_name(vm, label)?;
                made.push((label.clone(), self.insert_clone(&like, vdisk, &blocks).id));
            }
            self.insert_vm(vm, made);
        }
        vms.iter().map(|vm| self.vm_info(vm)).collect()
    }

    fn roll_back_vm(&mut self, name: &str, snapshot: &str) -> Result<VmRolledBack> {
        let vm = self.vm(name)?.clone();
        let members = self.set_of(name, snapshot)?.members.clone();
        if vm.template {
            return Err(Error::is_template(name));
        }
        rules::check_same_vdisks(name, &members, &vm.vdisks)?;
        for (_, id) in &vm.vdisks {
            let vdisk = self.by_id(id);
            vdisk.writable()?;
            if vdisk.info.connections > 0 {
                return Err(Error::rollback_while_connected(&vdisk.info.name, vdisk.info.connections));
            }
        }
        let kept = names::kept_name(NOW_UNIX_MS, |taken| {
            self.vdisks.values().any(|vdisk| vdisk.snapshots.iter().any(|one| one.info.name == taken))
        });
        let kept = self.create_vm_snapshot(name, &kept)?;
        for (_, id) in &vm.vdisks {
            self.by_id(id).put_back(snapshot)?;
        }
        Ok(VmRolledBack { vm: self.vm_info(name)?, kept })
    }
}

impl VmControl for Model {
    fn create_vm(&self, create: CreateVm) -> ControlFuture<'_, VmInfo> {
        ready(self.lock().create_vm(create))
    }

    fn list_vms(&self, request: ListVms) -> ControlFuture<'_, VmPage> {
        ready(self.lock().list_vms(request))
    }

    fn show_vm<'a>(&'a self, name: &'a str) -> ControlFuture<'a, VmInfo> {
        ready(self.lock().vm_info(name))
    }

    fn rename_vm<'a>(&'a self, name: &'a str, new_name: &'a str) -> ControlFuture<'a, VmInfo> {
        ready(self.lock().rename_vm(name, new_name))
    }

    fn set_template<'a>(&'a self, name: &'a str, template: bool) -> ControlFuture<'a, VmInfo> {
        ready(self.lock().set_template(name, template))
    }

    fn delete_vm<'a>(&'a self, name: &'a str, delete: DeleteVm) -> ControlFuture<'a, ()> {
        ready(self.lock().delete_vm(name, delete))
    }

    fn attach_vdisk<'a>(&'a self, name: &'a str, attach: AttachVdisk) -> ControlFuture<'a, VmInfo> {
        ready(self.lock().attach_vdisk(name, attach))
    }

    fn detach_vdisk<'a>(&'a self, name: &'a str, label: &'a str) -> ControlFuture<'a, VmInfo> {
        ready(self.lock().detach_vdisk(name, label))
    }

    fn vm_snapshots<'a>(&'a self, name: &'a str) -> ControlFuture<'a, Vec<VmSnapshotInfo>> {
        ready(self.lock().vm_snapshots(name))
    }

    fn create_vm_snapshot<'a>(&'a self, name: &'a str, snapshot: &'a str) -> ControlFuture<'a, VmSnapshotInfo> {
        ready(self.lock().create_vm_snapshot(name, snapshot))
    }

    fn delete_vm_snapshot<'a>(&'a self, name: &'a str, snapshot: &'a str, force: bool) -> ControlFuture<'a, ()> {
        ready(self.lock().delete_vm_snapshot(name, snapshot, force))
    }

    fn clone_vm<'a>(&'a self, name: &'a str, clones: MakeClones) -> ControlFuture<'a, Vec<VmInfo>> {
        ready(self.lock().clone_vm(name, clones))
    }

    fn roll_back_vm<'a>(&'a self, name: &'a str, snapshot: &'a str) -> ControlFuture<'a, VmRolledBack> {
        ready(self.lock().roll_back_vm(name, snapshot))
    }

    /// Here none is ever cut short.
    fn abort_rollback<'a>(&'a self, name: &'a str) -> ControlFuture<'a, VmInfo> {
        ready(self.lock().vm(name).and_then(|_| Err(Error::no_rollback(name))))
    }
}
