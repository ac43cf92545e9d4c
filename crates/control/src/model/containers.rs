//! The verbs on containers in memory: which there are, and which vDisk is in which.

use super::{Model, State, ready};
use crate::rules::containers as rules;
use crate::{
    ContainerControl, ContainerInfo, ControlFuture, CreateContainer, Error, Result, SetContainer, SetRewind, VdiskInfo,
};
use std::collections::BTreeMap;

pub(super) struct Containers(BTreeMap<String, ContainerInfo>);

fn info(id: String, create: CreateContainer) -> ContainerInfo {
    let CreateContainer { name, rewind, capacity_bytes, comment } = create;
    let (used_bytes, vdisks, vdisks_behind, trouble) = (0, 0, 0, None);
    ContainerInfo { id, name, rewind, capacity_bytes, used_bytes, comment, vdisks, vdisks_behind, trouble }
}

impl Default for Containers {
    fn default() -> Containers {
        let name = rules::DEFAULT.to_string();
        let create = CreateContainer { name: name.clone(), rewind: None, capacity_bytes: 0, comment: String::new() };
        Containers(BTreeMap::from([(name, info("c0.0".into(), create))]))
    }
}

impl State {
    pub(super) fn container(&self, name: &str) -> Result<ContainerInfo> {
        let found = self.containers.0.get(name).ok_or_else(|| Error::no_container(name))?;
        let of_it: Vec<&VdiskInfo> =
            self.vdisks.values().map(|vdisk| &vdisk.info).filter(|info| info.container == name).collect();
        let used_bytes = of_it.iter().map(|info| info.mapped_bytes).sum();
        Ok(ContainerInfo { used_bytes, vdisks: of_it.len() as u32, ..found.clone() })
    }

    /// Refuses what would make something in it, or grow.
    pub(super) fn check_room(&self, name: &str, added_bytes: u64) -> Result<()> {
        let info = self.container(name)?;
        rules::check_capacity(name, info.capacity_bytes, info.used_bytes, added_bytes)
    }

    /// What its container wants of a vDisk that has no window of its own.
    pub(super) fn inherit(&mut self, vdisk: &str) -> Result<VdiskInfo> {
        let container = self.vdisk(vdisk)?.info.container.clone();
        let rewind = self.container(&container)?.rewind;
        let info = &mut self.vdisk(vdisk)?.info;
        info.rewind_inherited = true;
        info.rewind = rewind.map(super::rewind::kept);
        Ok(info.clone())
    }

    fn inherit_all(&mut self, container: &str) -> Result<()> {
        let inherits = |info: &VdiskInfo| info.container == container && info.rewind_inherited;
        let of_it = self.vdisks.values().filter(|vdisk| inherits(&vdisk.info)).map(|vdisk| vdisk.info.name.clone());
        of_it.collect::<Vec<_>>().iter().try_for_each(|vdisk| self.inherit(vdisk).map(drop))
    }

    fn create_container(&mut self, create: CreateContainer) -> Result<ContainerInfo> {
        rules::check_create(&create)?;
        rules::check_container_count(self.containers.0.len())?;
        if self.containers.0.contains_key(&create.name) {
            return Err(Error::container_exists(&create.name));
        }
        let (id, name) = (format!("c1.{:x}", self.next_number()), create.name.clone());
        self.containers.0.insert(name.clone(), info(id, create));
        self.container(&name)
    }

    fn set_container(&mut self, name: &str, set: SetContainer) -> Result<ContainerInfo> {
        rules::check_set(name, &set)?;
        let mut now = self.container(name)?;
        let new_name = set.name.unwrap_or_else(|| name.to_string());
        if new_name != name && self.containers.0.contains_key(&new_name) {
            return Err(Error::container_exists(&new_name));
        }
        let rewind: Option<SetRewind> = set.rewind.unwrap_or(now.rewind);
        now.capacity_bytes = set.capacity_bytes.unwrap_or(now.capacity_bytes);
        now.comment = set.comment.unwrap_or(now.comment);
        self.containers.0.remove(name);
        self.containers.0.insert(new_name.clone(), ContainerInfo { name: new_name.clone(), rewind, ..now });
        for vdisk in self.vdisks.values_mut().filter(|vdisk| vdisk.info.container == name) {
            vdisk.info.container = new_name.clone();
        }
        self.inherit_all(&new_name)?;
        self.container(&new_name)
    }

    fn delete_container(&mut self, name: &str) -> Result<()> {
        let now = self.container(name)?;
        if name == rules::DEFAULT {
            return Err(Error::default_container());
        }
        if now.vdisks > 0 {
            return Err(Error::container_in_use(name, now.vdisks as usize));
        }
        self.containers.0.remove(name);
        Ok(())
    }

    fn move_vdisk(&mut self, vdisk: &str, container: &str) -> Result<VdiskInfo> {
        let info = self.vdisk(vdisk)?.info.clone();
        if info.container != container {
            self.check_room(container, info.mapped_bytes)?;
            self.vdisk(vdisk)?.info.container = container.to_string();
        }
        if info.rewind_inherited { self.inherit(vdisk) } else { Ok(self.vdisk(vdisk)?.info.clone()) }
    }
}

impl ContainerControl for Model {
    fn create_container(&self, create: CreateContainer) -> ControlFuture<'_, ContainerInfo> {
        ready(self.lock().create_container(create))
    }

    fn list_containers(&self) -> ControlFuture<'_, Vec<ContainerInfo>> {
        let state = self.lock();
        ready(state.containers.0.keys().map(|name| state.container(name)).collect())
    }

    fn show_container<'a>(&'a self, name: &'a str) -> ControlFuture<'a, ContainerInfo> {
        ready(self.lock().container(name))
    }

    fn set_container<'a>(&'a self, name: &'a str, set: SetContainer) -> ControlFuture<'a, ContainerInfo> {
        ready(self.lock().set_container(name, set))
    }

    fn delete_container<'a>(&'a self, name: &'a str) -> ControlFuture<'a, ()> {
        ready(self.lock().delete_container(name))
    }

    fn move_vdisk<'a>(&'a self, vdisk: &'a str, container: &'a str) -> ControlFuture<'a, VdiskInfo> {
        ready(self.lock().move_vdisk(vdisk, container))
    }
}
