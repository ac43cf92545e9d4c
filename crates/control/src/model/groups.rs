//! The verbs on consistency groups in memory: who is in a group. Snapshots of groups need what is below a VM, which the model
//! does not have.

use super::{Model, ready};
use crate::rules::groups as rules;
use crate::{
    ControlFuture, CreateVmGroup, Error, GroupControl, GroupRolledBack, GroupSnapshotInfo, Result, VmGroupInfo,
};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub(super) struct Groups {
    members: BTreeMap<String, BTreeSet<String>>,
}

fn unsupported<T>() -> Result<T> {
    Err(Error::internal("the model takes no snapshots of groups"))
}

impl Groups {
    pub(super) fn info(&self, name: &str) -> Result<VmGroupInfo> {
        let vms = self.members.get(name).ok_or_else(|| Error::no_vm_group(name))?;
        Ok(VmGroupInfo { name: name.to_string(), vms: vms.iter().cloned().collect(), snapshots: 0 })
    }
}

impl GroupControl for Model {
    fn create_vm_group(&self, create: CreateVmGroup) -> ControlFuture<'_, VmGroupInfo> {
        ready((|| {
            rules::check_create(&create)?;
            let mut state = self.lock();
            if state.groups_of_vms.members.contains_key(&create.name) {
                return Err(Error::vm_group_exists(&create.name));
            }
            if let Some(missing) = create.vms.iter().find(|vm| !state.vms.contains_key(*vm)) {
                return Err(Error::no_vm(missing));
            }
            state.groups_of_vms.members.insert(create.name.clone(), create.vms.into_iter().collect());
            state.groups_of_vms.info(&create.name)
        })())
    }

    fn list_vm_groups(&self) -> ControlFuture<'_, Vec<VmGroupInfo>> {
        let state = self.lock();
        ready(state.groups_of_vms.members.keys().map(|name| state.groups_of_vms.info(name)).collect())
    }

    fn show_vm_group<'a>(&'a self, name: &'a str) -> ControlFuture<'a, VmGroupInfo> {
        ready(self.lock().groups_of_vms.info(name))
    }

    fn add_to_group<'a>(&'a self, name: &'a str, vm: &'a str) -> ControlFuture<'a, VmGroupInfo> {
        ready((|| {
            let mut state = self.lock();
            state.groups_of_vms.info(name)?;
            if !state.vms.contains_key(vm) {
                return Err(Error::no_vm(vm));
            }
            state.groups_of_vms.members.entry(name.to_string()).or_default().insert(vm.to_string());
            state.groups_of_vms.info(name)
        })())
    }

    fn remove_from_group<'a>(&'a self, name: &'a str, vm: &'a str) -> ControlFuture<'a, VmGroupInfo> {
        ready((|| {
            let groups = &mut self.lock().groups_of_vms;
            let info = groups.info(name)?;
            rules::check_removal(&info, vm)?;
            groups.members.entry(name.to_string()).or_default().remove(vm);
            groups.info(name)
        })())
    }

    fn delete_vm_group<'a>(&'a self, name: &'a str) -> ControlFuture<'a, ()> {
        let gone = self.lock().groups_of_vms.members.remove(name);
        ready(gone.map(drop).ok_or_else(|| Error::no_vm_group(name)))
    }

    fn group_snapshots<'a>(&'a self, name: &'a str) -> ControlFuture<'a, Vec<GroupSnapshotInfo>> {
        ready(self.lock().groups_of_vms.info(name).map(|_| Vec::new()))
    }

    fn create_group_snapshot<'a>(&'a self, name: &'a str, _: &'a str) -> ControlFuture<'a, GroupSnapshotInfo> {
        ready(self.lock().groups_of_vms.info(name).and_then(|_| unsupported()))
    }

    fn delete_group_snapshot<'a>(&'a self, name: &'a str, snapshot: &'a str, _: bool) -> ControlFuture<'a, ()> {
        let info = self.lock().groups_of_vms.info(name);
        ready(info.and_then(|_| Err(Error::no_group_snapshot(name, snapshot))))
    }

    fn roll_back_group<'a>(&'a self, name: &'a str, snapshot: &'a str) -> ControlFuture<'a, GroupRolledBack> {
        let info = self.lock().groups_of_vms.info(name);
        ready(info.and_then(|_| Err(Error::no_group_snapshot(name, snapshot))))
    }
}
