//! What is on record and not carried out yet: VMs that are to be made, and VMs that are to be rolled back.
//!
//! A call that carries it out takes it off again. What a crash, an error or an earlier run left is tried again until it is
//! done: until then the snapshots that it names stay, and nothing else may put other content into the vDisks that it names.

use super::vms::{Vms, goes};
use base::{SnapshotId, VdiskId, VmId};
use control::rules::snapshots::is_temporary;
use meta::{PlanRecord, RollbackRecord, Source, VmRecord};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub struct Pending {
    plans: BTreeMap<VmId, PlanRecord>,
    /// Of these plans the calls were told that they failed: they are to be forgotten, never carried out.
    given_up: BTreeSet<VmId>,
    /// What is still to be undone of them.
    made: BTreeMap<VmId, Made>,
    /// Made by this run for VMs that are not there yet: nobody connects to them.
    kept_out: BTreeSet<VdiskId>,
    rollbacks: BTreeMap<VmId, RollingBack>,
    /// Why the last attempt did not carry it out, by VM. Of what a call is just doing for the first time there is none.
    troubles: BTreeMap<VmId, String>,
    /// Why the last attempt to delete a VM or a set did not delete all of it, by its id.
    not_gone: BTreeMap<u64, String>,
}

/// What a call that makes VMs has made, and what the vDisks were called that were there before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Made {
    pub new: Vec<VdiskId>,
    pub existing: Vec<(VdiskId, String)>,
}

/// A rollback that is on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RollingBack {
    pub record: RollbackRecord,
    /// What this run has put back. Nobody has written to it since, as nobody can connect.
    pub done: BTreeSet<VdiskId>,
}

impl Pending {
    pub(super) fn is_gone(&mut self, id: u64) {
        self.not_gone.remove(&id);
    }

    fn sources(&self) -> impl Iterator<Item = (VmId, VdiskId, SnapshotId)> {
        let plans = self.plans.iter().filter(|(vm, _)| !self.given_up.contains(vm));
        let sources = plans.flat_map(|(vm, plan)| plan.vdisks.iter().map(move |one| (*vm, one.source)));
        sources.filter_map(|(vm, source)| match source {
            Source::Snapshot { vdisk, snapshot } => Some((vm, vdisk, snapshot)),
            Source::Empty { .. } | Source::Existing { .. } => None,
        })
    }

    fn steps(&self) -> impl Iterator<Item = (VmId, VdiskId, SnapshotId)> {
        self.rollbacks
            .iter()
            .flat_map(|(vm, rolling)| rolling.record.steps.iter().map(|(vdisk, snapshot)| (*vm, *vdisk, *snapshot)))
    }

    fn needs(&self) -> impl Iterator<Item = (VmId, VdiskId, SnapshotId)> {
        self.sources().chain(self.steps())
    }
}

impl Vms {
    pub fn put_plans(&self, plans: &[PlanRecord]) {
        self.lock().pending.plans.extend(plans.iter().map(|plan| (plan.vm, plan.clone())));
    }

    pub fn remove_plans(&self, plans: &[PlanRecord]) {
        let pending = &mut self.lock().pending;
        for plan in plans {
            pending.plans.remove(&plan.vm);
            pending.given_up.remove(&plan.vm);
            pending.made.remove(&plan.vm);
            pending.troubles.remove(&plan.vm);
        }
    }

    /// It is kept until what was made for it is undone, and the metadata store, too, has forgotten them.
    pub fn give_up(&self, plan: &PlanRecord, made: Made) {
        let pending = &mut self.lock().pending;
        pending.given_up.insert(plan.vm);
        pending.made.insert(plan.vm, made);
    }

    pub fn made_for(&self, vm: VmId) -> Made {
        self.lock().pending.made.get(&vm).cloned().unwrap_or_default()
    }

    /// All that is still to be undone.
    pub fn set_made_for(&self, vm: VmId, made: Made) {
        self.lock().pending.made.insert(vm, made);
    }

    pub fn keep_out(&self, new: &[VdiskId]) {
        self.lock().pending.kept_out.extend(new);
    }

    pub fn kept_out(&self) -> Vec<VdiskId> {
        self.lock().pending.kept_out.iter().copied().collect()
    }

    pub fn is_kept_out(&self, vdisk: VdiskId) -> bool {
        self.lock().pending.kept_out.contains(&vdisk)
    }

    pub fn are_let_in(&self, new: &[VdiskId]) {
        self.lock().pending.kept_out.retain(|id| !new.contains(id));
    }

    pub fn is_given_up(&self, vm: VmId) -> bool {
        self.lock().pending.given_up.contains(&vm)
    }

    pub fn given_up_count(&self) -> usize {
        self.lock().pending.given_up.len()
    }

    pub fn plans(&self) -> Vec<PlanRecord> {
        self.lock().pending.plans.values().cloned().collect()
    }

    pub fn put_rollback(&self, record: RollbackRecord) {
        self.lock().pending.rollbacks.insert(record.vm, RollingBack { record, done: BTreeSet::new() });
    }

    pub fn remove_rollback(&self, vm: VmId) {
        let pending = &mut self.lock().pending;
        pending.rollbacks.remove(&vm);
        pending.troubles.remove(&vm);
    }

    pub fn rollbacks(&self) -> Vec<RollingBack> {
        self.lock().pending.rollbacks.values().cloned().collect()
    }

    /// A vDisk has got the content that the rollback of this VM wants.
    pub fn put_back(&self, vm: VmId, vdisk: VdiskId) {
        if let Some(rolling) = self.lock().pending.rollbacks.get_mut(&vm) {
            rolling.done.insert(vdisk);
        }
    }

    /// Why what is on record of a VM is not carried out. Whether that is news.
    pub fn set_trouble(&self, vm: VmId, trouble: &str) -> bool {
        let pending = &mut self.lock().pending;
        let is_there = pending.plans.contains_key(&vm) || pending.rollbacks.contains_key(&vm);
        is_there && pending.troubles.insert(vm, trouble.to_string()).as_deref() != Some(trouble)
    }

    /// The rollback of this vDisk is on record.
    pub fn rollback_of(&self, vdisk: VdiskId) -> Option<RollbackRecord> {
        let pending = &self.lock().pending;
        let (vm, ..) = pending.steps().find(|(_, of, _)| *of == vdisk)?;
        pending.rollbacks.get(&vm).map(|rolling| rolling.record.clone())
    }

    /// One of this VM that is on record, or of a vDisk that it has.
    pub fn rollback_of_vm(&self, vm: &VmRecord) -> Option<RollbackRecord> {
        let is_of = |id: VdiskId| vm.vdisks.iter().any(|member| member.vdisk == id);
        let of_vm = |record: &RollbackRecord| record.vm == vm.id || record.steps.iter().any(|(id, _)| is_of(*id));
        let pending = &self.lock().pending;
        pending.rollbacks.values().find(|rolling| of_vm(&rolling.record)).map(|rolling| rolling.record.clone())
    }

    /// Something that is on record has to be made from this snapshot.
    pub fn is_needed(&self, snapshot: SnapshotId) -> bool {
        self.lock().pending.needs().any(|(_, _, needed)| needed == snapshot)
    }

    /// What has to be made from it, for people.
    pub fn needed_for(&self, snapshot: SnapshotId) -> Option<String> {
        let vm = self.lock().pending.needs().find(|(_, _, needed)| *needed == snapshot)?.0;
        Some(self.pending_name(vm))
    }

    /// What has to be cloned from this vDisk, for people.
    pub fn clone_of(&self, vdisk: VdiskId) -> Option<String> {
        let vm = self.lock().pending.sources().find(|(_, of, _)| *of == vdisk)?.0;
        Some(self.pending_name(vm))
    }

    /// The VM for which a vDisk of this name is to be made.
    pub fn planned_for(&self, vdisk: &str) -> Option<String> {
        let is_of = |plan: &&PlanRecord| plan.vdisks.iter().any(|planned| planned.name == vdisk);
        self.lock().pending.plans.values().find(is_of).map(|plan| plan.name.clone())
    }

    /// A VM of this name is being made.
    pub fn is_planned(&self, vm: &str) -> bool {
        self.lock().pending.plans.values().any(|plan| plan.name == vm)
    }

    /// The VM that is being made and is to have this vDisk, which was there before.
    pub fn taken_for(&self, vdisk: VdiskId) -> Option<String> {
        let pending = &self.lock().pending;
        let takes = |plan: &&PlanRecord| plan.vdisks.iter().any(|planned| planned.source == Source::Existing { vdisk });
        pending
            .plans
            .values()
            .filter(|plan| !pending.given_up.contains(&plan.vm))
            .find(takes)
            .map(|plan| plan.name.clone())
    }

    /// The VM that could not be made, for which this vDisk was made or renamed, which is still to be undone.
    pub fn undone_for(&self, vdisk: VdiskId) -> Option<String> {
        let pending = &self.lock().pending;
        let is_of = |made: &Made| made.new.contains(&vdisk) || made.existing.iter().any(|(id, _)| *id == vdisk);
        let (vm, _) = pending.made.iter().find(|(_, made)| is_of(made))?;
        pending.plans.get(vm).map(|plan| plan.name.clone())
    }

    /// vDisks with snapshots that something on record has to be made from.
    pub fn needed_vdisks(&self) -> BTreeSet<VdiskId> {
        self.lock().pending.needs().map(|(_, vdisk, _)| vdisk).collect()
    }

    fn pending_name(&self, vm: VmId) -> String {
        let state = self.lock();
        if let Some(plan) = state.pending.plans.get(&vm) {
            let what = if state.pending.given_up.contains(&vm) { "the giving up" } else { "the making" };
            return format!("{what} of VM {:?}", plan.name);
        }
        let steps = state.pending.rollbacks.get(&vm).map(|rolling| rolling.record.steps.clone()).unwrap_or_default();
        let is_of = |id: VdiskId| state.vms.values().find(|vm| vm.vdisks.iter().any(|member| member.vdisk == id));
        // By whose name it can be given up: that of the VM that it lies under, whatever vDisks this one has now.
        let of_steps = steps.iter().filter_map(|(id, _)| is_of(*id));
        let names: BTreeSet<&str> = of_steps.chain(state.vms.get(&vm)).map(|vm| vm.name.as_str()).collect();
        match names.into_iter().collect::<Vec<_>>().as_slice() {
            [] => format!("the rollback of a VM that is gone ({vm})"),
            [one] => format!("the rollback of VM {one:?}"),
            several => format!("the rollback of the VMs {}", several.join(", ")),
        }
    }

    /// What is on record and could not be carried out, for people.
    pub fn pending_troubles(&self) -> Vec<String> {
        let (troubles, not_gone) = {
            let pending = &self.lock().pending;
            (pending.troubles.clone(), pending.not_gone.clone())
        };
        let of_vms = troubles.into_iter().map(|(vm, why)| (self.pending_name(vm), why));
        let deletions = not_gone.into_iter().map(|(id, why)| (self.deletion_name(id), why));
        of_vms.chain(deletions).map(|(what, why)| format!("{what} is not complete: {why}; it is tried again")).collect()
    }

    /// Why a VM or a set is not deleted whole, if it is on record that it is to be. Whether that is news.
    pub fn set_not_gone(&self, id: u64, trouble: &str) -> bool {
        let mut state = self.lock();
        let is_going = state.vms.values().any(|vm| vm.deleting && vm.id.raw() == id)
            || state.sets.values().any(|set| goes(set) && set.id.raw() == id);
        is_going && state.pending.not_gone.insert(id, trouble.to_string()).as_deref() != Some(trouble)
    }

    /// Of a VM or a set, for people.
    pub fn deletion_name(&self, id: u64) -> String {
        let state = self.lock();
        if let Some(vm) = state.vms.values().find(|vm| vm.id.raw() == id) {
            return format!("the deletion of VM {:?}", vm.name);
        }
        match state.sets.values().find(|set| set.id.raw() == id) {
            Some(set) if !is_temporary(&set.name) => format!("the deletion of snapshot {:?}", set.name),
            _ => "the deletion of a snapshot that a call needed".to_string(),
        }
    }

    /// Nothing was left by a call, or by an earlier run.
    pub fn is_settled(&self) -> bool {
        let state = self.lock();
        let pending = &state.pending;
        let is_going = state.vms.values().any(|vm| vm.deleting);
        pending.plans.is_empty() && pending.rollbacks.is_empty() && !is_going && !state.sets.values().any(goes)
    }
}
