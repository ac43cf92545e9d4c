//! Containers, and which vDisk is in which: kept in the metadata store, read from memory. Copies lie in the logs of the vDisks.
//!
//! A vDisk of which nothing is on record is in the container `default`; its window is its own if it has one.

mod carry_out;

pub(super) use carry_out::run;

use super::vms::scan;
use base::{ContainerId, VdiskId};
use meta::{ContainerRecord, MemberRecord, Store, keys};
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard};

/// All containers of the controller, readable from every thread.
#[derive(Default)]
pub struct Containers {
    state: Mutex<State>,
    /// What the logs know that a metadata store of an earlier time does not was learned.
    pub(super) is_known: AtomicBool,
    /// Of what decides on windows of vDisks and changes them. Who holds the turn of the verbs, too, has taken that one first.
    pub(super) turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    containers: BTreeMap<ContainerId, ContainerRecord>,
    members: BTreeMap<VdiskId, MemberRecord>,
    /// What was carried out last on each vDisk.
    done: BTreeMap<VdiskId, Stamp>,
    /// Why it was not.
    troubles: BTreeMap<VdiskId, String>,
}

/// Serial numbers of what is on record of a vDisk and of its container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    member: u64,
    container: u64,
}

impl State {
    fn container_of(&self, vdisk: VdiskId) -> ContainerId {
        self.members.get(&vdisk).map_or(ContainerId::NONE, |member| member.container)
    }

    /// One that is not on record, as far as it can be told.
    fn get(&self, id: ContainerId) -> ContainerRecord {
        let unset = || match id {
            ContainerId::NONE => ContainerRecord::unset(),
            id => ContainerRecord { id, name: id.to_string(), ..ContainerRecord::unset() },
        };
        self.containers.get(&id).cloned().unwrap_or_else(unset)
    }

    fn stamp(&self, vdisk: VdiskId) -> Stamp {
        let container = self.containers.get(&self.container_of(vdisk)).map_or(0, |container| container.serial);
        Stamp { member: self.members.get(&vdisk).map_or(0, |member| member.serial), container }
    }
}

impl Containers {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("a panic under the lock ends the process")
    }

    pub fn fill(&self, containers: Vec<ContainerRecord>, members: Vec<MemberRecord>) {
        let mut state = self.lock();
        state.containers.extend(containers.into_iter().map(|container| (container.id, container)));
        state.members.extend(members.into_iter().map(|member| (member.vdisk, member)));
    }

    pub fn find(&self, name: &str) -> Option<ContainerRecord> {
        self.all().into_iter().find(|container| container.name == name)
    }

    pub fn get(&self, id: ContainerId) -> ContainerRecord {
        self.lock().get(id)
    }

    /// The default one always is.
    pub fn is_there(&self, id: ContainerId) -> bool {
        id.is_none() || self.lock().containers.contains_key(&id)
    }

    /// In the order of names.
    pub fn all(&self) -> Vec<ContainerRecord> {
        let state = self.lock();
        let mut all: Vec<ContainerRecord> = state.containers.values().cloned().collect();
        if !state.containers.contains_key(&ContainerId::NONE) {
            all.push(ContainerRecord::unset());
        }
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        all
    }

    pub fn count(&self) -> usize {
        self.lock().containers.len()
    }

    pub fn put(&self, container: ContainerRecord) {
        self.lock().containers.insert(container.id, container);
    }

    pub fn remove(&self, id: ContainerId) {
        self.lock().containers.remove(&id);
    }

    pub fn member(&self, vdisk: VdiskId) -> Option<MemberRecord> {
        self.lock().members.get(&vdisk).copied()
    }

    pub fn container_of(&self, vdisk: VdiskId) -> ContainerId {
        self.lock().container_of(vdisk)
    }

    pub fn name_of(&self, vdisk: VdiskId) -> String {
        let state = self.lock();
        state.get(state.container_of(vdisk)).name
    }

    pub fn put_member(&self, member: MemberRecord) {
        self.lock().members.insert(member.vdisk, member);
    }

    /// New vDisks that were put on record, and born, with this container.
    pub fn put_new(&self, container: Option<ContainerId>, vdisks: impl Iterator<Item = VdiskId>) {
        let Some(container) = container else { return };
        vdisks.for_each(|vdisk| self.put_member(MemberRecord::new(vdisk, container)));
    }

    /// A new vDisk that was put on record, and born, with this container and a window of its own: nothing is left to be carried out.
    pub fn put_born(&self, vdisk: VdiskId, container: &ContainerRecord) {
        let member = MemberRecord { inherits: false, ..MemberRecord::new(vdisk, container.id) };
        self.put_member(member);
        self.is_done(vdisk, Stamp { member: member.serial, container: container.serial });
    }

    /// What new vDisks of it are born with. Of `default` nothing is said before that has settings.
    pub fn of_new(&self, container: ContainerId) -> Option<ContainerRecord> {
        let state = self.lock();
        let is_said = !container.is_none() || state.containers.contains_key(&ContainerId::NONE);
        is_said.then(|| state.get(container))
    }

    pub fn forget(&self, vdisk: VdiskId) {
        let mut state = self.lock();
        state.members.remove(&vdisk);
        state.done.remove(&vdisk);
        state.troubles.remove(&vdisk);
    }

    fn is_done(&self, vdisk: VdiskId, stamp: Stamp) {
        let mut state = self.lock();
        state.done.insert(vdisk, stamp);
        state.troubles.remove(&vdisk);
    }

    /// Of new vDisks of which nothing is said, or all was done at their birth, there is nothing to carry out. The others.
    fn said_of_new(&self, vdisks: &[VdiskId]) -> Vec<VdiskId> {
        let mut state = self.lock();
        let unsaid = Stamp { member: 0, container: 0 };
        let mut said = Vec::new();
        for vdisk in vdisks.iter().copied() {
            let stamp = state.stamp(vdisk);
            if stamp == unsaid {
                state.done.insert(vdisk, unsaid);
            } else if state.done.get(&vdisk) != Some(&stamp) {
                said.push(vdisk);
            }
        }
        said
    }

    /// What is on record of the vDisk, and of its container, is not known to be carried out.
    pub fn is_behind(&self, vdisk: VdiskId) -> bool {
        let state = self.lock();
        state.done.get(&vdisk) != Some(&state.stamp(vdisk))
    }

    /// Those on which something could not be carried out.
    pub fn troubled(&self) -> Vec<VdiskId> {
        self.lock().troubles.keys().copied().collect()
    }

    pub fn trouble(&self, vdisk: VdiskId) -> Option<String> {
        self.lock().troubles.get(&vdisk).cloned()
    }
}

/// What the metadata store has.
pub async fn load(store: &dyn Store) -> meta::Result<(Vec<ContainerRecord>, Vec<MemberRecord>)> {
    let containers = scan(store, keys::CONTAINERS, ContainerRecord::decode).await?;
    Ok((containers, scan(store, keys::MEMBERS, MemberRecord::decode).await?))
}

/// The newest of several copies of each container. Two of one name: the one with the higher id gets its id behind the name.
pub fn newest(copies: impl Iterator<Item = ContainerRecord>) -> Vec<ContainerRecord> {
    let mut newest: BTreeMap<ContainerId, ContainerRecord> = BTreeMap::new();
    for copy in copies.filter(|copy| copy.serial > 0) {
        let known = newest.entry(copy.id).or_insert_with(|| copy.clone());
        if copy.serial > known.serial {
            *known = copy;
        }
    }
    let mut found: Vec<ContainerRecord> = Vec::new();
    for container in newest.into_values() {
        let name = free_name(&container, |name| found.iter().any(|other| other.name == name));
        found.push(ContainerRecord { name, ..container });
    }
    found
}

/// Its name, or that with the id behind it if another container has it.
fn free_name(container: &ContainerRecord, is_taken: impl Fn(&str) -> bool) -> String {
    let clashes = is_taken(&container.name) || (container.name == meta::DEFAULT_CONTAINER && !container.id.is_none());
    if !clashes {
        return container.name.clone();
    }
    let head: String = container.name.chars().take(40).collect();
    format!("{head}-{}", container.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(number: u32, name: &str, serial: u64) -> ContainerRecord {
        ContainerRecord { id: ContainerId::new(1, number), name: name.into(), serial, ..ContainerRecord::unset() }
    }

    #[test]
    fn the_newest_copies_count_and_names_are_unique() {
        let default = ContainerRecord { serial: 4, capacity_bytes: 7, ..ContainerRecord::unset() };
        let copies = [
            container(2, "gold", 3),
            container(1, "gold", 1),
            container(1, "silver", 2),
            ContainerRecord::unset(),
            default.clone(),
            container(3, "gold", 1),
            container(4, "default", 1),
        ];
        let found = newest(copies.into_iter());
        let names: Vec<&str> = found.iter().map(|container| container.name.as_str()).collect();
        assert_eq!(names, ["default", "silver", "gold", "gold-c1.3", "default-c1.4"]);
        assert_eq!(found[0], default);
    }

    #[test]
    fn what_is_behind() {
        let containers = Containers::default();
        let (one, other) = (VdiskId::new(1, 11), VdiskId::new(1, 12));
        containers.fill(vec![container(1, "gold", 1)], vec![MemberRecord::new(one, ContainerId::new(1, 1))]);
        assert!(containers.is_behind(one) && containers.is_behind(other), "nothing is known after a start");
        let done = |vdisk| {
            let stamp = containers.lock().stamp(vdisk);
            containers.lock().done.insert(vdisk, stamp);
        };
        done(one);
        done(other);
        assert!(!containers.is_behind(one) && !containers.is_behind(other));
        containers.put(container(1, "gold", 2));
        assert!(containers.is_behind(one) && !containers.is_behind(other));
        done(one);
        containers.put_member(MemberRecord { serial: 2, ..MemberRecord::new(one, ContainerId::NONE) });
        assert_eq!((containers.is_behind(one), containers.name_of(one)), (true, "default".into()));
        // Of the default container nothing is said until it has settings.
        assert!(containers.of_new(ContainerId::NONE).is_none() && containers.of_new(ContainerId::new(1, 1)).is_some());
        containers.put(ContainerRecord { serial: 1, ..ContainerRecord::unset() });
        assert!(containers.of_new(ContainerId::NONE).is_some() && containers.is_behind(other));
    }
}
