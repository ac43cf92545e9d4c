//! VMs and sets of snapshots: kept in the metadata store, read from memory. Copies of VMs are notes of their vDisks.

use super::pending::Pending;
use base::{SnapshotId, VdiskId, VmId};
use bytes::Bytes;
use control::rules::snapshots::is_temporary;
use meta::{PlanRecord, RollbackRecord, ScheduleRecord, SetMember, SetRecord, Store, VmRecord, keys};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use tokio::sync::watch;

/// Records read by one scan.
const SCAN_PAGE: usize = 256;

/// What is on record of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Counts,
    /// It is being deleted.
    Going,
    Unknown,
}

/// All VMs and sets of the controller, readable from every thread.
#[derive(Default)]
pub struct Vms {
    state: Mutex<State>,
    /// Counts changes of VMs.
    changes: watch::Sender<u64>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) vms: BTreeMap<VmId, VmRecord>,
    pub(super) sets: BTreeMap<SnapshotId, SetRecord>,
    pub(super) pending: Pending,
}

/// It is not to stay: it is being deleted, or was taken by a call for itself.
pub(super) fn goes(set: &SetRecord) -> bool {
    set.deleting || is_temporary(&set.name)
}

/// What the metadata store has.
#[derive(Default)]
pub struct Stored {
    pub vms: Vec<VmRecord>,
    pub sets: Vec<SetRecord>,
    /// VMs that are being made.
    pub plans: Vec<PlanRecord>,
    /// VMs that are being rolled back.
    pub rollbacks: Vec<RollbackRecord>,
    pub schedules: Vec<ScheduleRecord>,
}

impl Vms {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("a panic under the lock ends the process")
    }

    pub fn fill(&self, vms: Vec<VmRecord>, sets: Vec<SetRecord>) {
        let mut state = self.lock();
        state.vms.extend(vms.into_iter().map(|vm| (vm.id, vm)));
        state.sets.extend(sets.into_iter().map(|set| (set.id, set)));
    }

    /// One that is being deleted is not there any more.
    pub fn find(&self, name: &str) -> Option<VmRecord> {
        self.lock().vms.values().find(|vm| vm.name == name && !vm.deleting).cloned()
    }

    /// The only one of this name, if case does not count.
    pub fn find_ignoring_case(&self, name: &str) -> Option<VmRecord> {
        let state = self.lock();
        let mut found = state.vms.values().filter(|vm| !vm.deleting && vm.name.eq_ignore_ascii_case(name));
        let only = found.next().cloned();
        only.filter(|_| found.next().is_none())
    }

    pub fn find_id(&self, id: VmId) -> Option<VmRecord> {
        self.lock().vms.get(&id).filter(|vm| !vm.deleting).cloned()
    }

    /// In the order of names.
    pub fn all(&self) -> Vec<VmRecord> {
        let mut vms: Vec<VmRecord> = self.lock().vms.values().filter(|vm| !vm.deleting).cloned().collect();
        vms.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        vms
    }

    /// Some VM is in this group.
    pub fn has_group(&self, name: &str) -> bool {
        self.lock().vms.values().any(|vm| !vm.deleting && vm.groups.iter().any(|group| group == name))
    }

    pub fn deleting(&self) -> Vec<VmRecord> {
        self.lock().vms.values().filter(|vm| vm.deleting).cloned().collect()
    }

    /// The VM that a vDisk belongs to.
    pub fn of_vdisk(&self, vdisk: VdiskId) -> Option<VmRecord> {
        self.lock().vms.values().find(|vm| vm.vdisks.iter().any(|member| member.vdisk == vdisk)).cloned()
    }

    pub fn put(&self, vm: VmRecord) {
        let mut state = self.lock();
        if !vm.deleting {
            state.pending.is_gone(vm.id.raw());
        }
        state.vms.insert(vm.id, vm);
        drop(state);
        self.changes.send_modify(|count| *count += 1);
    }

    pub fn remove(&self, id: VmId) {
        let mut state = self.lock();
        state.vms.remove(&id);
        state.pending.is_gone(id.raw());
        drop(state);
        self.changes.send_modify(|count| *count += 1);
    }

    /// Changes when a VM may have changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub fn standing(&self, set: SnapshotId) -> Standing {
        match self.lock().sets.get(&set) {
            None => Standing::Unknown,
            Some(set) if set.deleting => Standing::Going,
            Some(_) => Standing::Counts,
        }
    }

    /// Those that are not to stay.
    pub fn sets_to_go(&self) -> Vec<SetRecord> {
        self.lock().sets.values().filter(|set| goes(set)).cloned().collect()
    }

    /// Those that a VM is in, in order of age.
    pub fn sets_of(&self, vm: VmId) -> Vec<SetRecord> {
        let is_in = |set: &&SetRecord| !set.deleting && set.vms.iter().any(|member| member.vm == vm);
        let mut sets: Vec<SetRecord> = self.lock().sets.values().filter(is_in).cloned().collect();
        sets.sort_by_key(|set| (set.created_wall_ns, set.id));
        sets
    }

    /// Those of a group of VMs, in order of age.
    pub fn sets_of_group(&self, group: &str) -> Vec<SetRecord> {
        let is_of = |set: &&SetRecord| !set.deleting && set.group.as_deref() == Some(group);
        let mut sets: Vec<SetRecord> = self.lock().sets.values().filter(is_of).cloned().collect();
        sets.sort_by_key(|set| (set.created_wall_ns, set.id));
        sets
    }

    /// A VM that is there and that the set is a snapshot of.
    pub fn claimed_by(&self, set: SnapshotId) -> Option<VmRecord> {
        let state = self.lock();
        let vms = state.sets.get(&set)?.vms.iter();
        vms.filter_map(|member| state.vms.get(&member.vm)).find(|vm| !vm.deleting).cloned()
    }

    /// One that is being deleted.
    pub fn find_going(&self, id: SnapshotId) -> Option<SetRecord> {
        self.lock().sets.get(&id).filter(|set| set.deleting).cloned()
    }

    /// One that counts.
    pub fn find_set(&self, id: SnapshotId) -> Option<SetRecord> {
        self.lock().sets.get(&id).filter(|set| !set.deleting).cloned()
    }

    pub fn put_set(&self, set: SetRecord) {
        self.lock().sets.insert(set.id, set);
    }

    pub fn remove_set(&self, id: SnapshotId) {
        let mut state = self.lock();
        state.sets.remove(&id);
        state.pending.is_gone(id.raw());
    }

    /// What is left of the sets that have parts that are gone: of a VM that is there they tell all that it had. Changed
    /// sets, and those of which nothing is left.
    pub fn without(&self, gone: impl Fn(&SetMember) -> bool) -> (Vec<SetRecord>, Vec<SnapshotId>) {
        let state = self.lock();
        let lives = |vm: VmId| state.vms.get(&vm).is_some_and(|vm| !vm.deleting);
        let (mut changed, mut empty) = (Vec::new(), Vec::new());
        for set in state.sets.values() {
            let mut left = set.clone();
            for vm in left.vms.iter_mut().filter(|vm| !lives(vm.vm)) {
                vm.members.retain(|member| !gone(member));
            }
            left.vms.retain(|vm| lives(vm.vm) || !vm.members.is_empty());
            if left.vms.is_empty() {
                empty.push(set.id);
            } else if left != *set {
                changed.push(left);
            }
        }
        (changed, empty)
    }
}

pub async fn load(store: &dyn Store) -> meta::Result<Stored> {
    Ok(Stored {
        vms: scan(store, keys::VMS, VmRecord::decode).await?,
        sets: scan(store, keys::SETS, SetRecord::decode).await?,
        plans: scan(store, keys::PLANS, PlanRecord::decode).await?,
        rollbacks: scan(store, keys::ROLLBACKS, RollbackRecord::decode).await?,
        schedules: scan(store, keys::SCHEDULES, ScheduleRecord::decode).await?,
    })
}

pub(super) async fn scan<T>(
    store: &dyn Store,
    prefix: &[u8],
    decode: fn(&[u8]) -> meta::Result<T>,
) -> meta::Result<Vec<T>> {
    let mut records = Vec::new();
    let mut after: Option<Bytes> = None;
    loop {
        let page = store.scan(prefix, after.as_deref(), SCAN_PAGE).await?;
        for (_, value) in &page {
            records.push(decode(value)?);
        }
        after = page.last().map(|(key, _)| key.clone()).filter(|_| page.len() == SCAN_PAGE);
        if after.is_none() {
            return Ok(records);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meta::{SetVm, VmVdisk};

    fn vdisk(number: u32) -> VdiskId {
        VdiskId::new(1, number)
    }

    fn vm(number: u32, name: &str, vdisks: &[u32], deleting: bool) -> VmRecord {
        let member = |number: &u32| VmVdisk { label: format!("d{number}"), vdisk: vdisk(*number), lun: 0 };
        VmRecord {
            id: VmId::new(1, number),
            name: name.into(),
            serial: 1,
            created_wall_ns: 0,
            template: false,
            deleting,
            groups: Vec::new(),
            lun_next: 1,
            vdisks: vdisks.iter().map(member).collect(),
        }
    }

    fn set(number: u32, created_wall_ns: u64, vms: &[(u32, &[u32])]) -> SetRecord {
        let member = |number: &u32| SetMember {
            label: format!("d{number}"),
            vdisk: vdisk(*number),
            snapshot: SnapshotId::new(1, 1000 + number),
        };
        let vms = vms
            .iter()
            .map(|(vm, vdisks)| SetVm { vm: VmId::new(1, *vm), members: vdisks.iter().map(member).collect() });
        let vms = vms.collect();
        let (id, name) = (SnapshotId::new(1, number), format!("s{number}"));
        SetRecord { id, name, created_wall_ns, deleting: false, group: None, vms }
    }

    #[test]
    fn vms_are_found_until_they_are_deleted() {
        let vms = Vms::default();
        vms.fill(vec![vm(1, "b", &[11], false), vm(2, "a", &[12, 13], false), vm(3, "c", &[14], true)], Vec::new());
        let names = |vms: Vec<VmRecord>| vms.into_iter().map(|vm| vm.name).collect::<Vec<_>>();
        assert_eq!((names(vms.all()), names(vms.deleting())), (vec!["a".into(), "b".into()], vec!["c".into()]));
        assert!(vms.find("a").is_some() && vms.find("c").is_none());
        assert_eq!(vms.of_vdisk(vdisk(13)).map(|vm| vm.name), Some("a".into()));
        assert_eq!(vms.of_vdisk(vdisk(15)), None);
        vms.remove(VmId::new(1, 2));
        assert!(vms.find("a").is_none());
    }

    #[test]
    fn sets_are_claimed_by_vms_that_are_there() {
        let vms = Vms::default();
        let sets = vec![set(21, 9, &[(1, &[11]), (2, &[12])]), set(22, 5, &[(1, &[11])]), set(23, 7, &[(3, &[14])])];
        vms.fill(vec![vm(1, "a", &[11], false), vm(3, "c", &[14], true)], sets);
        let ages: Vec<String> = vms.sets_of(VmId::new(1, 1)).into_iter().map(|set| set.name).collect();
        assert_eq!(ages, ["s22", "s21"]);
        let claimed = |number: u32| vms.claimed_by(SnapshotId::new(1, number)).map(|vm| vm.name);
        assert_eq!((claimed(21), claimed(23), claimed(99)), (Some("a".into()), None, None));
        vms.put_set(SetRecord { deleting: true, ..set(22, 5, &[(1, &[11])]) });
        let standing = |number: u32| vms.standing(SnapshotId::new(1, number));
        assert_eq!((standing(23), standing(22), standing(99)), (Standing::Counts, Standing::Going, Standing::Unknown));
        assert_eq!((vms.sets_of(VmId::new(1, 1)).len(), vms.sets_to_go().len()), (1, 1));
    }

    #[test]
    fn what_is_left_of_sets_when_vdisks_are_gone() {
        let vms = Vms::default();
        let sets = vec![
            set(21, 1, &[(1, &[11, 12])]),
            set(22, 2, &[(2, &[13, 14])]),
            set(23, 3, &[(2, &[13])]),
            set(24, 4, &[(1, &[12]), (2, &[13])]),
        ];
        vms.fill(vec![vm(1, "a", &[11], false)], sets);
        let (changed, empty) = vms.without(|part| [vdisk(12), vdisk(13)].contains(&part.vdisk));
        assert_eq!(changed, [set(22, 2, &[(2, &[14])]), set(24, 4, &[(1, &[12])])]);
        assert_eq!(empty, [SnapshotId::new(1, 23)]);
        assert_eq!(vms.without(|_| false), (Vec::new(), Vec::new()));
    }
}
