//! VMs, containers and sets of snapshots as the logs alone tell them, for `drystone recover`. Nothing is deleted here.

use super::containers;
use super::group_verbs::is_in;
use super::schedules;
use base::{SnapshotId, VdiskId, VmId};
use meta::{
    ContainerNote, ContainerRecord, MemberRecord, ScheduleNote, ScheduleRecord, ScheduleTarget, SetMember, SetRecord,
    SetVm, Transaction, VmRecord, keys,
};
use node::RebuiltVdisk;
use std::collections::{BTreeMap, BTreeSet};
use vdisk::{NoteKind, SnapshotInfo};

/// What is read of a vDisk.
#[derive(Default)]
pub struct Told {
    name: String,
    vm: Option<VmRecord>,
    snapshots: Vec<SnapshotInfo>,
    schedules: Vec<ScheduleRecord>,
    container: Option<ContainerNote>,
}

pub type AllTold = BTreeMap<VdiskId, Told>;

pub fn told(vdisk: &RebuiltVdisk) -> Told {
    let note = vdisk.notes.get(&NoteKind::Vm);
    let schedules = vdisk.notes.get(&NoteKind::Schedules);
    let container = vdisk.notes.get(&NoteKind::Container);
    Told {
        name: vdisk.name.clone(),
        container: container.and_then(|bytes| ContainerNote::decode(bytes).ok()),
        vm: note.and_then(|bytes| VmRecord::decode(bytes).ok()),
        snapshots: vdisk.snapshots.clone(),
        schedules: schedules.and_then(|bytes| ScheduleNote::decode(bytes).ok()).map_or_else(Vec::new, |note| note.0),
    }
}

/// Of several copies of a VM the newest counts, with those of its vDisks that are there. Two of one name: the one with the
/// higher id gets its id behind the name.
pub fn find_vms(all: &AllTold) -> Vec<VmRecord> {
    let mut newest: BTreeMap<VmId, VmRecord> = BTreeMap::new();
    for vm in all.values().filter_map(|told| told.vm.as_ref()) {
        let known = newest.entry(vm.id).or_insert_with(|| vm.clone());
        if vm.serial > known.serial {
            *known = vm.clone();
        }
    }
    let mut names = BTreeSet::new();
    let mut taken = BTreeSet::new();
    let mut vms: Vec<VmRecord> = newest.into_values().collect();
    for vm in &mut vms {
        if !names.insert(vm.name.clone()) {
            vm.name = format!("{}-{}", vm.name.chars().take(40).collect::<String>(), vm.id);
        }
        vm.vdisks.retain(|member| all.contains_key(&member.vdisk) && taken.insert(member.vdisk));
    }
    vms.retain(|vm| !vm.vdisks.is_empty());
    vms
}

/// Sets that all of their vDisks that are there have a part of are snapshots of the VMs which these belong to. Parts of
/// others stay as what they are, snapshots of one vDisk each: whether the set was ever complete nobody knows any more.
pub fn find_sets(all: &AllTold, vms: &[VmRecord]) -> Vec<SetRecord> {
    let mut parts: BTreeMap<SnapshotId, Vec<(VdiskId, &SnapshotInfo)>> = BTreeMap::new();
    for (id, told) in all {
        for snapshot in &told.snapshots {
            if let Some(set) = &snapshot.set {
                parts.entry(set.id).or_default().push((*id, snapshot));
            }
        }
    }
    parts.into_iter().filter_map(|(id, parts)| set_of(id, &parts, all, vms)).collect()
}

fn set_of(id: SnapshotId, parts: &[(VdiskId, &SnapshotInfo)], all: &AllTold, vms: &[VmRecord]) -> Option<SetRecord> {
    let (_, first) = parts.first()?;
    let has_part = |vdisk: &VdiskId| parts.iter().any(|(id, _)| id == vdisk);
    let members = &first.set.as_ref()?.members;
    let complete = members.iter().filter(|vdisk| all.contains_key(vdisk)).all(has_part);
    let mut of_vms: BTreeMap<VmId, Vec<SetMember>> = BTreeMap::new();
    for (vdisk, snapshot) in parts {
        let found = vms.iter().find_map(|vm| {
            let member = vm.vdisks.iter().find(|member| member.vdisk == *vdisk)?;
            Some((vm.id, member.label.clone()))
        });
        let of_none = || (VmId::NONE, all.get(vdisk).map(|told| told.name.clone()).unwrap_or_default());
        let (vm, label) = found.filter(|_| complete).unwrap_or_else(of_none);
        of_vms.entry(vm).or_default().push(SetMember { label, vdisk: *vdisk, snapshot: snapshot.id });
    }
    let group = common_group(vms.iter().filter(|vm| of_vms.contains_key(&vm.id)));
    let vms = of_vms.into_iter().map(|(vm, members)| SetVm { vm, members }).collect();
    Some(SetRecord { id, name: first.name.clone(), created_wall_ns: first.created_ns, deleting: false, group, vms })
}

/// The one group that all of several VMs are in: a set of them is a snapshot of it.
fn common_group<'a>(mut vms: impl Iterator<Item = &'a VmRecord>) -> Option<String> {
    let first = vms.next()?;
    let others: Vec<&VmRecord> = vms.collect();
    let mut common = first.groups.iter().filter(|group| others.iter().all(|vm| is_in(vm, group)));
    let only = common.next().filter(|_| common.next().is_none() && !others.is_empty());
    only.cloned()
}

/// Those whose vDisk, VM, group or container is there. What they took before they do not know any more.
pub fn find_schedules(all: &AllTold, vms: &[VmRecord], containers: &[ContainerRecord]) -> Vec<ScheduleRecord> {
    let mut found = schedules::newest(all.values().flat_map(|told| told.schedules.iter().cloned()));
    found.retain(|schedule| match &schedule.target {
        ScheduleTarget::Vdisk(id) => all.contains_key(id),
        ScheduleTarget::Vm(id) => vms.iter().any(|vm| vm.id == *id),
        ScheduleTarget::Group(name) => vms.iter().any(|vm| is_in(vm, name)),
        ScheduleTarget::Container(id) => id.is_none() || containers.iter().any(|container| container.id == *id),
    });
    found
}

/// Of several copies of a container the newest counts.
pub fn find_containers(all: &AllTold) -> (Vec<ContainerRecord>, Vec<MemberRecord>) {
    let notes = || all.iter().filter_map(|(id, told)| Some((id, told.container.as_ref()?)));
    let members = notes().filter(|(id, note)| note.member.vdisk == **id).map(|(_, note)| note.member);
    (containers::newest(notes().map(|(_, note)| note.container.clone())), members.collect())
}

/// What was found.
#[derive(Default)]
pub struct FoundRecords {
    pub vms: Vec<VmRecord>,
    pub sets: Vec<SetRecord>,
    pub schedules: Vec<ScheduleRecord>,
    pub containers: Vec<ContainerRecord>,
    pub members: Vec<MemberRecord>,
}

impl FoundRecords {
    pub fn of(all: &AllTold) -> FoundRecords {
        let vms = find_vms(all);
        let (containers, members) = find_containers(all);
        let schedules = find_schedules(all, &vms, &containers);
        FoundRecords { sets: find_sets(all, &vms), schedules, vms, containers, members }
    }

    /// Puts all of it on record.
    pub fn transaction(&self) -> Transaction {
        let all = Transaction::new();
        let all = self.vms.iter().fold(all, |all, vm| all.put(keys::vm(vm.id), vm.encode()));
        let all = self.sets.iter().fold(all, |all, set| all.put(keys::set(set.id), set.encode()));
        let all = self.schedules.iter().fold(all, |all, one| all.put(keys::schedule(&one.name), one.encode()));
        let all = self.containers.iter().fold(all, |all, one| all.put(keys::container(one.id), one.encode()));
        self.members.iter().fold(all, |all, one| all.put(keys::member(one.vdisk), one.encode()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::{ContainerId, Sequence};
    use meta::VmVdisk;

    fn id(number: u32) -> VdiskId {
        VdiskId::new(1, number)
    }

    fn vm(number: u32, name: &str, serial: u64, vdisks: &[u32]) -> VmRecord {
        let member = |number: &u32| VmVdisk { label: format!("d{number}"), vdisk: id(*number), lun: 0 };
        VmRecord {
            id: VmId::new(1, number),
            name: name.into(),
            serial,
            created_wall_ns: 0,
            template: false,
            deleting: false,
            groups: Vec::new(),
            lun_next: 1,
            vdisks: vdisks.iter().map(member).collect(),
        }
    }

    fn snapshot(number: u32, set: Option<(u32, &[u32])>) -> SnapshotInfo {
        let set = set.map(|(set, members)| vdisk::SetRecord {
            id: SnapshotId::new(1, set),
            members: members.iter().map(|number| id(*number)).collect(),
            confirmed: true,
        });
        SnapshotInfo {
            id: SnapshotId::new(1, number),
            name: "s".into(),
            created_ns: 5,
            size_bytes: 4096,
            mapped_bytes: 0,
            sequence: Sequence(1),
            set,
            stored: true,
        }
    }

    fn all(vdisks: Vec<(u32, Option<VmRecord>, Vec<SnapshotInfo>)>) -> AllTold {
        let told = |(number, vm, snapshots)| {
            (id(number), Told { name: format!("v{number}"), vm, snapshots, ..Told::default() })
        };
        vdisks.into_iter().map(told).collect()
    }

    #[test]
    fn the_newest_copy_of_a_vm_counts() {
        let found = all(vec![
            (11, Some(vm(1, "old", 1, &[11])), vec![]),
            (12, Some(vm(1, "web", 3, &[12, 13, 99])), vec![]),
            (13, Some(vm(1, "www", 2, &[11, 12, 13])), vec![]),
            (14, Some(vm(2, "web", 1, &[14])), vec![]),
            // Gone but for a copy that is left in the log of what it had once.
            (15, Some(vm(3, "gone", 1, &[98])), vec![]),
            (16, None, vec![]),
        ]);
        let second = VmRecord { name: "web-m1.2".into(), ..vm(2, "", 1, &[14]) };
        assert_eq!(find_vms(&found), [vm(1, "web", 3, &[12, 13]), second]);
    }

    #[test]
    fn sets_are_found_by_their_parts() {
        let web = vm(1, "web", 1, &[11, 12]);
        let found = all(vec![
            (11, Some(web.clone()), vec![snapshot(21, Some((31, &[11, 12]))), snapshot(22, Some((32, &[11, 12])))]),
            (12, Some(web.clone()), vec![snapshot(23, Some((31, &[11, 12]))), snapshot(24, Some((33, &[12, 99])))]),
            (13, None, vec![snapshot(25, None)]),
        ]);
        let sets = find_sets(&found, &find_vms(&found));
        let told: Vec<(u32, u32, usize)> = sets
            .iter()
            .flat_map(|set| set.vms.iter().map(|one| (set.id.counter(), one.vm.counter(), one.members.len())))
            .collect();
        // One that is whole, one that is not, and one whose other vDisk is gone.
        assert_eq!(told, [(31, 1, 2), (32, 0, 1), (33, 1, 1)]);
        assert_eq!(sets[1].vms[0].members[0].label, "v11");
        let found = FoundRecords { vms: vec![web], sets, ..FoundRecords::default() };
        assert_eq!(found.transaction().puts.len(), 4);
    }

    #[test]
    fn schedules_need_what_they_are_of() {
        let of = |name: &str, target: ScheduleTarget| ScheduleRecord::new(name, 5, target, Vec::new());
        let mut found = all(vec![(11, Some(vm(1, "web", 1, &[11])), vec![]), (12, None, vec![])]);
        let schedules = vec![
            of("vdisk", ScheduleTarget::Vdisk(id(12))),
            of("no-vdisk", ScheduleTarget::Vdisk(id(13))),
            of("vm", ScheduleTarget::Vm(VmId::new(1, 1))),
            of("no-vm", ScheduleTarget::Vm(VmId::new(1, 2))),
            of("no-group", ScheduleTarget::Group("g".into())),
            of("default", ScheduleTarget::Container(ContainerId::NONE)),
            of("no-container", ScheduleTarget::Container(ContainerId::new(1, 5))),
        ];
        found.values_mut().for_each(|told| told.schedules = schedules.clone());
        let there = find_schedules(&found, &find_vms(&found), &[]);
        assert_eq!(there, [schedules[5].clone(), schedules[0].clone(), schedules[2].clone()]);
        let found = FoundRecords { schedules: there, ..FoundRecords::default() };
        assert_eq!(found.transaction().puts.len(), 3);
    }

    #[test]
    fn containers_are_found_by_the_newest_copy() {
        let gold = |serial| ContainerRecord {
            id: ContainerId::new(1, 5),
            name: format!("gold{serial}"),
            serial,
            ..ContainerRecord::unset()
        };
        let note = |number: u32, container: ContainerRecord| ContainerNote {
            member: MemberRecord { vdisk: id(number), container: container.id, serial: 1, inherits: true },
            container,
        };
        let mut found = all(vec![(11, None, vec![]), (12, None, vec![]), (13, None, vec![]), (14, None, vec![])]);
        for (number, container) in [(11, gold(1)), (12, gold(3)), (13, ContainerRecord::unset())] {
            found.get_mut(&id(number)).expect("told").container = Some(note(number, container));
        }
        let records = FoundRecords::of(&found);
        assert_eq!(records.containers, [gold(3)]);
        assert_eq!(records.members.iter().map(|member| member.vdisk).collect::<Vec<_>>(), [id(11), id(12), id(13)]);
        assert_eq!(records.transaction().puts.len(), 4);
    }

    #[test]
    fn sets_of_all_vms_of_a_group_are_its_snapshots() {
        let grouped = |number: u32, groups: &[&str], vdisk: u32| VmRecord {
            groups: groups.iter().map(|name| name.to_string()).collect(),
            ..vm(number, &format!("vm{number}"), 1, &[vdisk])
        };
        let group_of = |vms: [VmRecord; 2]| {
            let [one, two] = vms;
            let parts = || vec![snapshot(21, Some((31, &[11, 12])))];
            let found = all(vec![(11, Some(one), parts()), (12, Some(two), parts())]);
            let sets = find_sets(&found, &find_vms(&found));
            sets.into_iter().map(|set| set.group).collect::<Vec<_>>()
        };
        assert_eq!(group_of([grouped(1, &["a", "g"], 11), grouped(2, &["g"], 12)]), [Some("g".to_string())]);
        assert_eq!(group_of([grouped(1, &["a"], 11), grouped(2, &["g"], 12)]), [None]);
        // Nobody can say of which of the two.
        assert_eq!(group_of([grouped(1, &["a", "g"], 11), grouped(2, &["a", "g"], 12)]), [None]);
    }
}
