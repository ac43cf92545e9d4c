//! Takes the snapshots that are due, and deletes those that a schedule took and does not keep.
//!
//! Invariants: a snapshot is on record by name before it is taken and by id afterwards, and nothing is deleted but what is
//! there by id and still its target's; nothing is deleted while the last attempt to take one has not succeeded, but for a list
//! that holds no more, of which the newest is there. The target is an id too: what is called so when the turn comes may be something else.

use super::{Schedule, members};
use crate::controller::exports::shard_of;
use crate::controller::sets::{listed, now_wall_ns};
use crate::controller::verbs::Verbs;
use base::SnapshotId;
use control::rules::schedules::{Next, Now, Taken, check_taken_count, excess, next, snapshot_name};
use control::{Error, Kind, Result};
use meta::{ScheduleRecord, ScheduleTarget, ScheduledSnapshot, SetRecord};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// How late it is noticed that the wall clock has jumped.
const LOOK_PAUSE: Duration = Duration::from_secs(10);
/// Of a record that cannot be stored; the log would be full of it otherwise.
const TROUBLE_PAUSE: Duration = Duration::from_secs(1);

/// Until the controller stops.
pub async fn run(verbs: Arc<Verbs>) {
    while !verbs.is_stopping() {
        // VMs and groups may have other vDisks now.
        verbs.note_schedules(None).await;
        let mut pause = LOOK_PAUSE;
        for name in verbs.schedules.names() {
            if verbs.is_stopping() {
                return;
            }
            let left = match verbs.step(&name).await {
                Ok(left) => left,
                Err(error) => {
                    tracing::warn!(schedule = name, %error, "a schedule did not get on");
                    TROUBLE_PAUSE
                }
            };
            pause = pause.min(left);
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = verbs.schedules.changed.notified() => {}
        }
    }
}

impl Verbs {
    /// What one schedule has to do now, and when to ask again. An error: its record cannot be stored.
    pub(super) async fn step(&self, name: &str) -> Result<Duration> {
        let _turn = self.schedules.turn.lock().await;
        // It may have been deleted.
        let Ok(mut schedule) = self.schedules.find(name) else { return Ok(LOOK_PAUSE) };
        if let ScheduleTarget::Container(container) = schedule.record.target {
            // What is new is looked at next. One that is gone has nothing in it, and what was in it is no member.
            return match self.follow_container(&schedule, container).await {
                Ok(is_more) => {
                    (schedule.is_followed, schedule.trouble) = (true, None);
                    self.schedules.put(schedule);
                    Ok(if is_more { Duration::ZERO } else { LOOK_PAUSE })
                }
                Err(error) => {
                    self.fails(
                        &mut schedule,
                        format!("no snapshots are taken of what is new in its container: {error}"),
                    );
                    Ok(LOOK_PAUSE)
                }
            };
        }
        if !self.has_target(&schedule.record.target) || !self.is_taken_for(name, &schedule.record.target) {
            return Ok(LOOK_PAUSE);
        }
        if let Some(name) = schedule.record.taking.clone() {
            match self.scheduled_snapshot(&schedule.record.target, &name).await {
                Ok(found) => self.adopt(&mut schedule, name, found).await?,
                Err(error) => {
                    self.fails(
                        &mut schedule,
                        format!("whether snapshot {name:?} was taken cannot be found out: {error}"),
                    );
                    return Ok(LOOK_PAUSE);
                }
            }
        }
        let is_paused = |name: &str| self.schedules.find(name).is_ok_and(|given| given.record.paused);
        if schedule.record.paused || is_paused(members::given_name(name)) {
            return Ok(LOOK_PAUSE);
        }
        let now = self.now();
        match next(&schedule.rules(), &schedule.attempts, now) {
            Next::Take => match check_taken_count(schedule.record.taken.len()) {
                Ok(()) => self.take(&mut schedule, now).await?,
                Err(full) => return self.make_room(&mut schedule, full).await,
            },
            Next::Wait(ms) if ms > 0 && schedule.trouble.is_none() => return Ok(Duration::from_millis(ms)),
            Next::Wait(_) => {}
        }
        if schedule.attempts.failures == 0 {
            self.delete_excess(&mut schedule).await?;
        }
        match next(&schedule.rules(), &schedule.attempts, self.now()) {
            Next::Take => Ok(Duration::ZERO),
            Next::Wait(ms) => Ok(Duration::from_millis(ms)),
        }
    }

    /// There are so many that its record would not hold one more.
    pub(super) async fn make_room(&self, schedule: &mut Schedule, full: Error) -> Result<Duration> {
        // After attempts that failed there would be no other way to one that succeeds.
        if schedule.attempts.failures == 0 || self.has_newest(schedule).await {
            self.delete_excess(schedule).await?;
        }
        if check_taken_count(schedule.record.taken.len()).is_ok() {
            return Ok(Duration::ZERO);
        }
        self.fails(schedule, full.message);
        Ok(LOOK_PAUSE)
    }

    /// What it took last is there.
    async fn has_newest(&self, schedule: &Schedule) -> bool {
        let ScheduleRecord { target, taken, .. } = &schedule.record;
        let Some(newest) = taken.last() else { return false };
        let found = self.scheduled_snapshot(target, &newest.name).await;
        found.is_ok_and(|found| found.is_some_and(|(id, _)| id == newest.id))
    }

    /// It says so from here on, and once in the log.
    fn fails(&self, schedule: &mut Schedule, why: String) {
        let known = self.schedules.find(&schedule.record.name).ok().and_then(|known| known.trouble);
        if known.as_ref() != Some(&why) {
            tracing::warn!(schedule = schedule.record.name, why, "a schedule did not get on");
        }
        schedule.trouble = Some(why);
        self.schedules.put(schedule.clone());
    }

    /// A crash came between the record and the snapshot, or behind it.
    async fn adopt(&self, schedule: &mut Schedule, name: String, found: Option<(SnapshotId, u64)>) -> Result<()> {
        schedule.record.taking = None;
        if let Some((id, created_wall_ns)) = found {
            let unix_seconds = created_wall_ns / 1_000_000_000;
            tracing::info!(
                schedule = schedule.record.name,
                snapshot = name,
                "a snapshot that was being taken is there"
            );
            schedule.record.taken.push(ScheduledSnapshot { id, name, unix_seconds });
            schedule.record.last_success_wall_ns = created_wall_ns;
            let at = Now { unix_seconds, ..self.now() };
            schedule.attempts.succeeded(&schedule.rules(), at);
            schedule.record.last_period = schedule.attempts.last_period;
        }
        schedule.trouble = None;
        self.store_schedule(schedule).await
    }

    async fn take(&self, schedule: &mut Schedule, now: Now) -> Result<()> {
        let target = schedule.record.target.clone();
        let name = snapshot_name(members::given_name(&schedule.record.name), now.unix_seconds, |name| {
            self.is_name_taken(&target, name)
        });
        schedule.record.taking = Some(name.clone());
        let taken = async {
            self.store_schedule(schedule).await?;
            self.take_scheduled(&schedule.record.name, &target, &name).await
        };
        match taken.await {
            Ok(id) => {
                schedule.record.taking = None;
                schedule.record.taken.push(ScheduledSnapshot { id, name, unix_seconds: now.unix_seconds });
                schedule.record.last_success_wall_ns = now_wall_ns();
                schedule.attempts.succeeded(&schedule.rules(), now);
                schedule.record.last_period = schedule.attempts.last_period;
                schedule.trouble = None;
            }
            Err(error) => {
                tracing::warn!(schedule = schedule.record.name, %error, "a scheduled snapshot was not taken");
                // It may be there all the same: its sync failed, say. One of somebody else is not its own.
                let left = match error.kind {
                    Kind::Exists => Ok(None),
                    _ => self.scheduled_snapshot(&target, &name).await,
                };
                schedule.left_behind(name, left);
                schedule.attempts.failed(self.now());
                schedule.failures += 1;
                schedule.trouble = Some(format!("the snapshot of this period is not taken: {error}"));
            }
        }
        // What is not stored is known in this process all the same; a start finds the name that was being taken.
        self.schedules.put(schedule.clone());
        self.store_schedule(schedule).await
    }

    async fn delete_excess(&self, schedule: &mut Schedule) -> Result<()> {
        let before = schedule.record.taken.len();
        let target = schedule.record.target.clone();
        // A group of the same name is not the same group: its schedule takes nothing from the one before.
        schedule.record.taken.retain(|one| self.is_of_target(&target, one.id));
        let taken = |one: &ScheduledSnapshot| Taken { id: one.id.raw(), unix_seconds: one.unix_seconds };
        let taken: Vec<Taken> = schedule.record.taken.iter().map(taken).collect();
        let spared = self.newest_of_each_vm(&target, &schedule.record.taken);
        let mut trouble = None;
        let gone = excess(&schedule.rules(), &taken).into_iter().filter_map(SnapshotId::from_raw);
        for id in gone.filter(|id| !spared.contains(id)).collect::<Vec<_>>() {
            match self.drop_scheduled(&target, id).await {
                Ok(()) => schedule.record.taken.retain(|one| one.id != id),
                // Somebody reads it: it goes when he has gone.
                Err(error) if error.kind == Kind::Busy => {}
                Err(error) => trouble = Some(format!("an old snapshot is not deleted: {error}")),
            }
        }
        match trouble {
            Some(trouble) => self.fails(schedule, trouble),
            None => schedule.trouble = None,
        }
        self.schedules.put(schedule.clone());
        if schedule.record.taken.len() < before { self.store_schedule(schedule).await } else { Ok(()) }
    }

    pub(super) fn has_target(&self, target: &ScheduleTarget) -> bool {
        match target {
            ScheduleTarget::Vdisk(id) => self.directory.find_id(*id).is_some(),
            ScheduleTarget::Vm(id) => self.vms.find_id(*id).is_some(),
            ScheduleTarget::Group(name) => self.vms.has_group(name),
            ScheduleTarget::Container(id) => self.containers.is_there(*id),
        }
    }

    /// One that is gone is of no other either.
    fn is_of_target(&self, target: &ScheduleTarget, snapshot: SnapshotId) -> bool {
        let ScheduleTarget::Group(group) = target else { return true };
        self.vms.find_set(snapshot).is_none_or(|set| set.group.as_ref() == Some(group))
    }

    /// A VM of a group that has no vDisks at the moment is in none of the group's new snapshots; these do not drive out the last
    /// one that has it.
    fn newest_of_each_vm(&self, target: &ScheduleTarget, taken: &[ScheduledSnapshot]) -> BTreeSet<SnapshotId> {
        let ScheduleTarget::Group(group) = target else { return BTreeSet::new() };
        let sets: Vec<SetRecord> = taken.iter().filter_map(|one| self.vms.find_set(one.id)).collect();
        let vms = self.vms_of_group(group).unwrap_or_default();
        let has = |set: &SetRecord, vm| set.vms.iter().any(|of| of.vm == vm && !of.members.is_empty());
        vms.iter().filter_map(|vm| Some(sets.iter().rfind(|set| has(set, vm.id))?.id)).collect()
    }

    fn is_name_taken(&self, target: &ScheduleTarget, name: &str) -> bool {
        match target {
            ScheduleTarget::Vdisk(id) => {
                self.directory.find_id(*id).is_some_and(|(_, listed)| listed.snapshots.contains_key(name))
            }
            ScheduleTarget::Vm(id) => self.vms.find_id(*id).is_some_and(|vm| self.is_taken(&vm, name)),
            ScheduleTarget::Group(group) => self.is_taken_in(group, name),
            ScheduleTarget::Container(_) => false,
        }
    }

    /// Of what has the id when the turn comes: it may have another name by then, and something else that one.
    async fn take_scheduled(&self, schedule: &str, target: &ScheduleTarget, name: &str) -> Result<SnapshotId> {
        match target {
            ScheduleTarget::Vdisk(id) => self.take_snapshot_of(*id, name, || self.is_taken_for(schedule, target)).await,
            ScheduleTarget::Vm(id) => {
                let find = || {
                    let found = self.vms.find_id(*id).filter(|_| self.is_taken_for(schedule, target));
                    found.ok_or_else(|| Error::no_vm(&id.to_string()))
                };
                Ok(self.take_vm_set(find, name).await?.1.id)
            }
            ScheduleTarget::Group(group) => Ok(self.take_group_snapshot(group, name).await?.id),
            ScheduleTarget::Container(_) => Err(Error::internal("snapshots are taken of what is in a container")),
        }
    }

    /// The snapshot of this name, and when it was taken.
    async fn scheduled_snapshot(&self, target: &ScheduleTarget, name: &str) -> Result<Option<(SnapshotId, u64)>> {
        let of_set = |set: SetRecord| (set.id, set.created_wall_ns);
        match target {
            ScheduleTarget::Vdisk(id) => {
                let (id, vms) = (*id, self.vms.clone());
                let all = self.shards.on(shard_of(id), move |shard| {
                    Box::pin(async move {
                        match listed(&shard, id, &vms).await {
                            Err(error) if error.kind == Kind::NotFound => Ok(Vec::new()),
                            all => all,
                        }
                    })
                });
                let found = all.await?.into_iter().find(|snapshot| snapshot.name == name);
                Ok(found.map(|snapshot| (snapshot.id, snapshot.created_ns)))
            }
            ScheduleTarget::Vm(id) => {
                let set = self.vms.find_id(*id).and_then(|vm| self.find_set(&vm, name).ok());
                Ok(set.map(of_set))
            }
            ScheduleTarget::Group(group) => Ok(self.find_group_set(group, name).ok().map(of_set)),
            ScheduleTarget::Container(_) => Ok(None),
        }
    }

    /// One that is gone is no error. `Busy`: somebody reads it, or something on record needs it.
    async fn drop_scheduled(&self, target: &ScheduleTarget, id: SnapshotId) -> Result<()> {
        if let ScheduleTarget::Vdisk(vdisk) = target {
            return self.drop_snapshot_of(*vdisk, id).await;
        }
        let _one = self.changing.lock().await;
        // One that an earlier attempt did not delete whole is there until it is gone.
        let Some(set) = self.vms.find_set(id).or_else(|| self.vms.find_going(id)) else { return Ok(()) };
        self.check_unread(&set).await?;
        self.delete_set(&set, false).await
    }
}
