//! Schedules: what is known of them, and the verbs. They are records of the metadata store; what outlives its loss is in
//! `noted`. What takes the snapshots is in `scheduler`.

mod members;
mod noted;
mod scheduler;

pub(super) use noted::newest;
pub(super) use scheduler::run;

use super::sets::now_wall_ns;
use super::verbs::Verbs;
use base::SnapshotId;
use control::rules::schedules::{self as rules, Attempts, Now, period, shortest};
use control::{
    ControlFuture, CreateSchedule, Error, Result, ScheduleControl, ScheduleInfo, ScheduleMetrics, ScheduleRule,
    ScheduleState, ScheduleTarget,
};
use meta::{ScheduleRecord, ScheduledSnapshot, Transaction, keys};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use tokio::sync::Notify;

type All = BTreeMap<String, Schedule>;

/// All schedules of the controller, readable from every thread.
#[derive(Default)]
pub struct Schedules {
    all: Mutex<All>,
    /// One step of one schedule, or one verb, at a time.
    turn: tokio::sync::Mutex<()>,
    /// There is something new to look at.
    changed: Notify,
    noted: tokio::sync::Mutex<noted::Noted>,
}

#[derive(Clone)]
struct Schedule {
    record: ScheduleRecord,
    attempts: Attempts,
    /// Since the start.
    failures: u64,
    /// Why the last attempt, of taking one or of deleting one, did not succeed.
    trouble: Option<String>,
    /// Of a container: its members have a schedule each.
    is_followed: bool,
    /// Of a member of a container: it is none any more.
    has_left: bool,
}

impl Schedule {
    fn new(record: ScheduleRecord) -> Schedule {
        let attempts = Attempts { last_period: record.last_period, ..Attempts::default() };
        Schedule { record, attempts, failures: 0, trouble: None, is_followed: false, has_left: false }
    }

    /// What an attempt that failed has left under the name that it was to have. If that cannot be told it is looked for again.
    fn left_behind(&mut self, name: String, found: Result<Option<(SnapshotId, u64)>>) {
        let Ok(found) = found else { return };
        self.record.taking = None;
        if let Some((id, created_wall_ns)) = found {
            self.record.taken.push(ScheduledSnapshot { id, name, unix_seconds: created_wall_ns / 1_000_000_000 });
        }
    }

    fn rules(&self) -> Vec<ScheduleRule> {
        let rule = |rule: &meta::ScheduleRule| ScheduleRule { every_seconds: rule.every_seconds, keep: rule.keep };
        self.record.rules.iter().map(rule).collect()
    }
}

impl Schedules {
    fn lock(&self) -> MutexGuard<'_, All> {
        self.all.lock().expect("a panic under the lock ends the process")
    }

    pub fn fill(&self, records: Vec<ScheduleRecord>) {
        self.lock().extend(records.into_iter().map(|record| (record.name.clone(), Schedule::new(record))));
    }

    fn find(&self, name: &str) -> Result<Schedule> {
        self.lock().get(name).cloned().ok_or_else(|| Error::no_schedule(name))
    }

    /// One that a user made.
    fn find_given(&self, name: &str) -> Result<Schedule> {
        if members::is_of_member(name) { Err(Error::no_schedule(name)) } else { self.find(name) }
    }

    /// Those that users made, in the order of names. What `of` takes of each is all that is copied: each may know 640 snapshots.
    fn each<T>(&self, mut of: impl FnMut(&All, &Schedule) -> T) -> Vec<T> {
        let all = self.lock();
        let given = all.values().filter(|schedule| !members::is_of_member(&schedule.record.name));
        given.map(|schedule| of(&all, schedule)).collect()
    }

    /// Those of members of containers, too.
    fn names(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    fn put(&self, schedule: Schedule) {
        self.lock().insert(schedule.record.name.clone(), schedule);
    }
}

impl Verbs {
    pub(super) fn now(&self) -> Now {
        Now { unix_seconds: now_wall_ns() / 1_000_000_000, up_ms: self.started.elapsed().as_millis() as u64 }
    }

    /// By the name that it has now; `None`: it is not there any more.
    fn schedule_target(&self, record: &ScheduleRecord) -> Option<ScheduleTarget> {
        match &record.target {
            meta::ScheduleTarget::Vdisk(id) => self.directory.find_id(*id).map(|(name, _)| ScheduleTarget::Vdisk(name)),
            meta::ScheduleTarget::Vm(id) => self.vms.find_id(*id).map(|vm| ScheduleTarget::Vm(vm.name)),
            meta::ScheduleTarget::Group(name) => self.vms.has_group(name).then(|| ScheduleTarget::Group(name.clone())),
            meta::ScheduleTarget::Container(id) => {
                self.containers.is_there(*id).then(|| ScheduleTarget::Container(self.containers.get(*id).name))
            }
        }
    }

    fn schedule_state(&self, all: &All, schedule: &Schedule, has_target: bool) -> ScheduleState {
        let of_container = matches!(schedule.record.target, meta::ScheduleTarget::Container(_));
        let now = period(shortest(&schedule.rules()), self.now().unix_seconds);
        match &schedule.trouble {
            _ if !has_target => ScheduleState::WithoutTarget,
            _ if schedule.record.paused => ScheduleState::Paused,
            None if of_container && !schedule.is_followed => ScheduleState::Due,
            None if of_container => self.state_of_members(all, &schedule.record.name),
            Some(reason) => ScheduleState::Failing { reason: reason.clone() },
            None if schedule.attempts.last_period == Some(now) => ScheduleState::Good,
            None => ScheduleState::Due,
        }
    }

    fn schedule_info(&self, schedule: &Schedule) -> ScheduleInfo {
        self.schedule_info_in(&self.schedules.lock(), schedule)
    }

    fn schedule_info_in(&self, all: &All, schedule: &Schedule) -> ScheduleInfo {
        let target = self.schedule_target(&schedule.record);
        let record = &schedule.record;
        let of_container = matches!(record.target, meta::ScheduleTarget::Container(_));
        let snapshots = match of_container {
            true => self.snapshots_of_members(all, &record.name),
            false => record.taken.iter().map(|one| one.name.clone()).collect(),
        };
        let last_success_ns = match of_container {
            true => members::last_success_wall_ns(all, &record.name),
            false => record.last_success_wall_ns,
        };
        ScheduleInfo {
            name: record.name.clone(),
            rules: schedule.rules(),
            state: self.schedule_state(all, schedule, target.is_some()),
            target,
            created_unix_ms: record.created_wall_ns / 1_000_000,
            last_success_unix_ms: Some(last_success_ns / 1_000_000).filter(|ms| *ms > 0),
            failures: schedule.failures + members::failures(all, &record.name),
            snapshots,
        }
    }

    /// What is wrong with schedules, for people.
    pub(super) fn schedule_troubles(&self) -> Vec<String> {
        let troubles = self.schedules.each(|all, schedule| {
            let name = &schedule.record.name;
            match self.schedule_state(all, schedule, self.has_target(&schedule.record.target)) {
                ScheduleState::Failing { reason } => Some(format!("schedule {name}: {reason}")),
                ScheduleState::WithoutTarget => {
                    Some(format!("schedule {name}: what it takes snapshots of was deleted; delete it, too"))
                }
                ScheduleState::Good | ScheduleState::Due | ScheduleState::Paused => None,
            }
        });
        troubles.into_iter().flatten().collect()
    }

    pub(super) fn schedule_metrics(&self) -> Vec<ScheduleMetrics> {
        self.schedules.each(|all, schedule| {
            let ScheduleRecord { name, target, .. } = &schedule.record;
            let (last_success_ns, count) = match target {
                meta::ScheduleTarget::Container(_) => {
                    (members::last_success_wall_ns(all, name), members::count_snapshots(all, name))
                }
                _ => (schedule.record.last_success_wall_ns, schedule.record.taken.len()),
            };
            ScheduleMetrics {
                state: self.schedule_state(all, schedule, self.has_target(target)).word().to_string(),
                last_success_unix_seconds: last_success_ns / 1_000_000_000,
                failures: schedule.failures + members::failures(all, name),
                snapshots: count as u32,
                name: name.clone(),
            }
        })
    }

    async fn store_schedule(&self, schedule: &Schedule) -> Result<()> {
        let record = &schedule.record;
        let stored = Transaction::new().put(keys::schedule(&record.name), record.encode());
        // One that is there makes room by what it deletes.
        match self.schedules.find(&record.name) {
            Ok(_) => self.commit_to_make_room(stored).await?,
            Err(_) => self.commit(stored).await?,
        }
        self.schedules.put(schedule.clone());
        Ok(())
    }

    async fn new_schedule(&self, create: CreateSchedule) -> Result<ScheduleInfo> {
        rules::check_schedule(&create)?;
        let _turn = self.schedules.turn.lock().await;
        if self.schedules.find(&create.name).is_ok() {
            return Err(Error::schedule_exists(&create.name));
        }
        rules::check_schedule_count(self.schedules.each(|_, _| ()).len())?;
        let target = match &create.target {
            ScheduleTarget::Vdisk(name) => meta::ScheduleTarget::Vdisk(self.find(name)?.id),
            ScheduleTarget::Vm(name) => meta::ScheduleTarget::Vm(self.find_vm(name)?.id),
            ScheduleTarget::Group(name) => {
                self.vms_of_group(name)?;
                meta::ScheduleTarget::Group(name.clone())
            }
            ScheduleTarget::Container(name) => meta::ScheduleTarget::Container(self.find_container(name)?.id),
        };
        let of_target = self.schedules.each(|_, other| other.record.target == target);
        let of_target = of_target.into_iter().filter(|is_of_target| *is_of_target).count();
        rules::check_schedules_of_target(of_target)?;
        let rule = |rule: &ScheduleRule| meta::ScheduleRule { every_seconds: rule.every_seconds, keep: rule.keep };
        let rules = create.rules.iter().map(rule).collect();
        let schedule = Schedule::new(ScheduleRecord::new(create.name, now_wall_ns(), target, rules));
        self.store_schedule(&schedule).await?;
        let vdisks = self.vdisks_of_target(&schedule.record.target);
        self.note_schedules(Some(&vdisks)).await;
        self.schedules.changed.notify_one();
        Ok(self.schedule_info(&schedule))
    }

    async fn pause(&self, name: &str, paused: bool) -> Result<ScheduleInfo> {
        let _turn = self.schedules.turn.lock().await;
        let mut schedule = self.schedules.find_given(name)?;
        schedule.record.paused = paused;
        schedule.record.serial += 1;
        self.store_schedule(&schedule).await?;
        let vdisks = self.vdisks_of_target(&schedule.record.target);
        self.note_schedules(Some(&vdisks)).await;
        self.schedules.changed.notify_one();
        Ok(self.schedule_info(&schedule))
    }

    async fn remove_schedule(&self, name: &str) -> Result<()> {
        let _turn = self.schedules.turn.lock().await;
        let vdisks = self.vdisks_of_target(&self.schedules.find_given(name)?.record.target);
        let mut gone: Vec<String> =
            members::of(&self.schedules.lock(), name).map(|member| member.record.name.clone()).collect();
        gone.push(name.to_string());
        self.commit(gone.iter().fold(Transaction::new(), |all, name| all.delete(keys::schedule(name)))).await?;
        gone.iter().for_each(|name| drop(self.schedules.lock().remove(name)));
        self.note_schedules(Some(&vdisks)).await;
        Ok(())
    }
}

impl ScheduleControl for Verbs {
    fn create_schedule(&self, create: CreateSchedule) -> ControlFuture<'_, ScheduleInfo> {
        self.to_its_end(|verbs| async move { verbs.new_schedule(create).await })
    }

    fn list_schedules(&self) -> ControlFuture<'_, Vec<ScheduleInfo>> {
        Box::pin(async move { Ok(self.schedules.each(|all, schedule| self.schedule_info_in(all, schedule))) })
    }

    fn show_schedule<'a>(&'a self, name: &'a str) -> ControlFuture<'a, ScheduleInfo> {
        Box::pin(async move { Ok(self.schedule_info(&self.schedules.find_given(name)?)) })
    }

    fn pause_schedule<'a>(&'a self, name: &'a str, paused: bool) -> ControlFuture<'a, ScheduleInfo> {
        let name = name.to_string();
        self.to_its_end(move |verbs| async move { verbs.pause(&name, paused).await })
    }

    fn delete_schedule<'a>(&'a self, name: &'a str) -> ControlFuture<'a, ()> {
        let name = name.to_string();
        self.to_its_end(|verbs| async move { verbs.remove_schedule(&name).await })
    }
}

#[cfg(test)]
mod tests;
