//! Schedules of containers: for each VM that has a vDisk in it, and each vDisk in it that belongs to no VM, a schedule of its own
//! that takes the snapshots and knows which it took. It is called SCHEDULE/MEMBER, which no user can choose, and nobody is told
//! of it but through the container's.

use super::{All, Schedule};
use crate::controller::sets::now_wall_ns;
use crate::controller::verbs::Verbs;
use base::{ContainerId, VdiskId, VmId};
use control::rules::is_unfinished;
use control::rules::schedules::{SCHEDULED_MEMBERS_MAX, check_scheduled_members};
use control::{Result, ScheduleState, ScheduleTarget};
use meta::{ScheduleRecord, Transaction, VmRecord, keys};
use std::collections::{BTreeMap, BTreeSet};

const SEPARATOR: char = '/';

pub(super) fn is_of_member(name: &str) -> bool {
    name.contains(SEPARATOR)
}

/// The name that a user gave.
pub(super) fn given_name(name: &str) -> &str {
    name.split_once(SEPARATOR).map_or(name, |(schedule, _)| schedule)
}

/// Those of the members that a schedule has.
pub(super) fn of<'a>(all: &'a All, name: &str) -> impl Iterator<Item = &'a Schedule> {
    let prefix = format!("{name}{SEPARATOR}");
    all.range(prefix.clone()..).take_while(move |(name, _)| name.starts_with(&prefix)).map(|(_, member)| member)
}

/// Those of the members that have not left.
fn there<'a>(all: &'a All, name: &str) -> impl Iterator<Item = &'a Schedule> {
    of(all, name).filter(|member| !member.has_left)
}

pub(super) fn count_snapshots(all: &All, name: &str) -> usize {
    there(all, name).map(|member| member.record.taken.len()).sum()
}

impl Verbs {
    /// By ids: what they are called may change. What is being made is none yet: it may be a VM's, or only a part of what it will be.
    fn members_of(&self, container: ContainerId) -> BTreeMap<String, meta::ScheduleTarget> {
        let of_vm = |vm: &VmRecord| vm.vdisks.iter().map(|member| (member.vdisk, vm.id)).collect::<Vec<_>>();
        let of_vms: BTreeMap<VdiskId, VmId> = self.vms.all().iter().flat_map(of_vm).collect();
        let plans = self.vms.plans();
        let planned: BTreeSet<&str> = plans.iter().flat_map(|plan| &plan.vdisks).map(|vdisk| &*vdisk.name).collect();
        let is_made = |name: &str| !planned.contains(name) && !is_unfinished(name);
        let all = self.directory.all().into_iter();
        let of_it = all.filter(|(name, listed)| is_made(name) && self.containers.container_of(listed.id) == container);
        let member = |id: VdiskId| match of_vms.get(&id) {
            Some(vm) => (vm.to_string(), meta::ScheduleTarget::Vm(*vm)),
            None => (id.to_string(), meta::ScheduleTarget::Vdisk(id)),
        };
        of_it.map(|(_, listed)| member(listed.id)).collect()
    }

    /// The same of one, as it is now.
    fn is_member(&self, target: &meta::ScheduleTarget, container: ContainerId) -> bool {
        let is_in_it = |id: VdiskId| self.containers.container_of(id) == container;
        match target {
            meta::ScheduleTarget::Vm(id) => {
                self.vms.find_id(*id).is_some_and(|vm| vm.vdisks.iter().any(|member| is_in_it(member.vdisk)))
            }
            meta::ScheduleTarget::Vdisk(id) => self.directory.find_id(*id).is_some_and(|(name, _)| {
                let is_made = self.vms.planned_for(&name).is_none() && !is_unfinished(&name);
                is_made && is_in_it(*id) && self.vms.of_vdisk(*id).is_none()
            }),
            meta::ScheduleTarget::Group(_) | meta::ScheduleTarget::Container(_) => false,
        }
    }

    /// Whether snapshots are to be taken of it for the schedule of this name: always, but for what has left its container.
    pub(super) fn is_taken_for(&self, name: &str, target: &meta::ScheduleTarget) -> bool {
        if !is_of_member(name) {
            return true;
        }
        match self.schedules.find(given_name(name)).map(|given| given.record.target) {
            Ok(meta::ScheduleTarget::Container(container)) => self.is_member(target, container),
            _ => false,
        }
    }

    /// Makes its schedules those of the members that it has now. One that has left is not taken any more, and goes on when it is
    /// back: what it knows goes with the last snapshot that it took, or with the vDisk or VM. Whether there are new ones. The
    /// caller holds the turn.
    pub(super) async fn follow_container(&self, schedule: &Schedule, container: ContainerId) -> Result<bool> {
        let name = &schedule.record.name;
        let rules = &schedule.record.rules;
        let wanted: BTreeMap<String, meta::ScheduleTarget> = self
            .members_of(container)
            .into_iter()
            .map(|(member, target)| (format!("{name}{SEPARATOR}{member}"), target))
            .collect();
        let there: BTreeMap<String, ScheduleRecord> = of(&self.schedules.lock(), name)
            .map(|member| (member.record.name.clone(), member.record.clone()))
            .collect();
        let has_nothing = |record: &ScheduleRecord| {
            (record.taken.is_empty() && record.taking.is_none()) || !self.has_target(&record.target)
        };
        let left = there.iter().filter(|(name, _)| !wanted.contains_key(*name));
        let gone: Vec<&String> = left.filter(|(_, record)| has_nothing(record)).map(|(name, _)| name).collect();
        let new = wanted.iter().filter(|(name, _)| !there.contains_key(*name));
        let mut new: Vec<ScheduleRecord> =
            new.map(|(name, target)| ScheduleRecord::new(name, now_wall_ns(), target.clone(), rules.clone())).collect();
        let count = self.schedules.names().iter().filter(|name| is_of_member(name)).count();
        let room = SCHEDULED_MEMBERS_MAX.saturating_sub(count - gone.len());
        let too_many = new.len().saturating_sub(room);
        new.truncate(room);
        if !gone.is_empty() || !new.is_empty() {
            let all = gone.iter().fold(Transaction::new(), |all, name| all.delete(keys::schedule(name)));
            self.commit(new.iter().fold(all, |all, one| all.put(keys::schedule(&one.name), one.encode()))).await?;
            gone.into_iter().for_each(|name| drop(self.schedules.lock().remove(name)));
        }
        let is_more = !new.is_empty();
        new.into_iter().for_each(|record| self.schedules.put(Schedule::new(record)));
        let prefix = format!("{name}{SEPARATOR}");
        for (name, member) in self.schedules.lock().range_mut(prefix.clone()..) {
            if !name.starts_with(&prefix) {
                break;
            }
            member.has_left = !wanted.contains_key(name);
        }
        check_scheduled_members(too_many)?;
        Ok(is_more)
    }

    fn member_text(&self, member: &Schedule) -> String {
        match self.schedule_target(&member.record) {
            Some(ScheduleTarget::Vm(name)) => format!("VM {name}"),
            Some(ScheduleTarget::Vdisk(name)) => format!("vDisk {name}"),
            _ => "one that was deleted".to_string(),
        }
    }

    /// The worst of its members.
    pub(super) fn state_of_members(&self, all: &All, name: &str) -> ScheduleState {
        let (mut failing, mut why, mut is_due) = (0, None, false);
        for member in there(all, name) {
            match self.schedule_state(all, member, true) {
                ScheduleState::Failing { reason } => {
                    failing += 1;
                    why.get_or_insert_with(|| format!("{}: {reason}", self.member_text(member)));
                }
                ScheduleState::Due => is_due = true,
                ScheduleState::Good | ScheduleState::Paused | ScheduleState::WithoutTarget => {}
            }
        }
        match why {
            Some(why) if failing > 1 => ScheduleState::Failing { reason: format!("{why} (and {} more)", failing - 1) },
            Some(reason) => ScheduleState::Failing { reason },
            None if is_due => ScheduleState::Due,
            None => ScheduleState::Good,
        }
    }

    /// In order of age, with what they are of: `MEMBER@SNAPSHOT`.
    pub(super) fn snapshots_of_members(&self, all: &All, name: &str) -> Vec<String> {
        let mut found = Vec::new();
        for member in there(all, name) {
            let of = match self.schedule_target(&member.record) {
                Some(ScheduleTarget::Vm(name) | ScheduleTarget::Vdisk(name)) => name,
                _ => continue,
            };
            let taken = member.record.taken.iter();
            found.extend(taken.map(|one| (one.unix_seconds, format!("{of}@{}", one.name))));
        }
        found.sort();
        found.into_iter().map(|(_, text)| text).collect()
    }
}

/// When the last one was taken of the member that waits for one longest; 0: of one none was taken yet.
pub(super) fn last_success_wall_ns(all: &All, name: &str) -> u64 {
    there(all, name).map(|member| member.record.last_success_wall_ns).min().unwrap_or(0)
}

pub(super) fn failures(all: &All, name: &str) -> u64 {
    of(all, name).map(|member| member.failures).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_of_members_are_those_behind_the_name() {
        let schedule = |name: &str| {
            let record = ScheduleRecord::new(name, 1, meta::ScheduleTarget::Vdisk(VdiskId::new(1, 2)), Vec::new());
            (name.to_string(), Schedule::new(record))
        };
        let all: All = ["a", "a-", "a/v1.2", "a/v1.3", "a0", "b", "b/v1.2"].into_iter().map(schedule).collect();
        let names = |name: &str| of(&all, name).map(|one| one.record.name.as_str()).collect::<Vec<_>>();
        assert_eq!((names("a"), names("b"), names("a-")), (vec!["a/v1.2", "a/v1.3"], vec!["b/v1.2"], vec![]));
        assert!(is_of_member("a/v1.2") && !is_of_member("a0"));
        assert_eq!((given_name("a/v1.2"), given_name("a0")), ("a", "a0"));
    }
}
