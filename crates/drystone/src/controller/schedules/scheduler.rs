//! Takes the snapshots that are due, and deletes those that a schedule took and does not keep.
//!
//! Invariants: a snapshot is on record by name before it is taken and by id afterwards, and nothing is deleted but what is
//! there by id; nothing is deleted while the last attempt to take one has not succeeded.

use super::Schedule;
use crate::controller::sets::now_wall_ns;
use crate::controller::verbs::Verbs;
use base::SnapshotId;
use control::rules::schedules::{Next, Now, Taken, excess, next, snapshot_name};
use control::{Error, Kind, Result, ScheduleTarget};
use meta::ScheduledSnapshot;
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
        for schedule in verbs.schedules.all() {
            if verbs.is_stopping() {
                return;
            }
            let left = match verbs.step(&schedule.record.name).await {
                Ok(left) => left,
                Err(error) => {
                    tracing::warn!(schedule = schedule.record.name, %error, "a schedule did not get on");
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
    async fn step(&self, name: &str) -> Result<Duration> {
        let _turn = self.schedules.turn.lock().await;
        // It may have been deleted.
        let Ok(mut schedule) = self.schedules.find(name) else { return Ok(LOOK_PAUSE) };
        let Some(target) = self.schedule_target(&schedule.record) else { return Ok(LOOK_PAUSE) };
        if schedule.record.taking.is_some() {
            self.adopt(&mut schedule, &target).await?;
        }
        if schedule.record.paused {
            return Ok(LOOK_PAUSE);
        }
        let now = self.now();
        match next(&schedule.rules(), &schedule.attempts, now) {
            Next::Take => self.take(&mut schedule, &target, now).await?,
            Next::Wait(ms) if ms > 0 && schedule.trouble.is_none() => return Ok(Duration::from_millis(ms)),
            Next::Wait(_) => {}
        }
        if schedule.attempts.failures == 0 {
            self.delete_excess(&mut schedule, &target).await?;
        }
        match next(&schedule.rules(), &schedule.attempts, self.now()) {
            Next::Take => Ok(Duration::ZERO),
            Next::Wait(ms) => Ok(Duration::from_millis(ms)),
        }
    }

    /// A crash came between the record and the snapshot, or behind it.
    async fn adopt(&self, schedule: &mut Schedule, target: &ScheduleTarget) -> Result<()> {
        let Some(name) = schedule.record.taking.take() else { return Ok(()) };
        if let Some((id, created_wall_ns)) = self.scheduled_snapshot(target, &name).await? {
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
        self.store_schedule(schedule).await
    }

    async fn take(&self, schedule: &mut Schedule, target: &ScheduleTarget, now: Now) -> Result<()> {
        let name = snapshot_name(&schedule.record.name, now.unix_seconds, |name| self.is_name_taken(target, name));
        schedule.record.taking = Some(name.clone());
        let taken = async {
            self.store_schedule(schedule).await?;
            self.take_scheduled(target, &name).await
        };
        let taken = taken.await;
        schedule.record.taking = None;
        match taken {
            Ok(id) => {
                schedule.record.taken.push(ScheduledSnapshot { id, name, unix_seconds: now.unix_seconds });
                schedule.record.last_success_wall_ns = now_wall_ns();
                schedule.attempts.succeeded(&schedule.rules(), now);
                schedule.record.last_period = schedule.attempts.last_period;
                schedule.trouble = None;
            }
            Err(error) => {
                tracing::warn!(schedule = schedule.record.name, %error, "a scheduled snapshot was not taken");
                schedule.attempts.failed(self.now());
                schedule.failures += 1;
                schedule.trouble = Some(format!("the snapshot of this period is not taken: {error}"));
            }
        }
        // What is not stored is known in this process all the same; a start finds the name that was being taken.
        self.schedules.put(schedule.clone());
        self.store_schedule(schedule).await
    }

    async fn delete_excess(&self, schedule: &mut Schedule, target: &ScheduleTarget) -> Result<()> {
        let taken = |one: &ScheduledSnapshot| Taken { id: one.id.raw(), unix_seconds: one.unix_seconds };
        let taken: Vec<Taken> = schedule.record.taken.iter().map(taken).collect();
        let mut trouble = None;
        let mut changed = false;
        for id in excess(&schedule.rules(), &taken).into_iter().filter_map(SnapshotId::from_raw) {
            match self.drop_scheduled(target, id).await {
                Ok(()) => {
                    schedule.record.taken.retain(|one| one.id != id);
                    changed = true;
                }
                // Somebody reads it: it goes when he has gone.
                Err(error) if error.kind == Kind::Busy => {}
                Err(error) => trouble = Some(format!("an old snapshot is not deleted: {error}")),
            }
        }
        if let Some(trouble) = &trouble {
            tracing::warn!(schedule = schedule.record.name, trouble, "a schedule did not get on");
        }
        schedule.trouble = trouble;
        self.schedules.put(schedule.clone());
        if changed { self.store_schedule(schedule).await } else { Ok(()) }
    }

    fn is_name_taken(&self, target: &ScheduleTarget, name: &str) -> bool {
        match target {
            ScheduleTarget::Vdisk(vdisk) => {
                self.directory.find(vdisk).is_some_and(|listed| listed.snapshots.contains_key(name))
            }
            ScheduleTarget::Vm(vm) => self.vms.find(vm).is_some_and(|vm| self.is_taken(&vm, name)),
            ScheduleTarget::Group(group) => {
                self.vms_of_group(group).unwrap_or_default().iter().any(|vm| self.is_taken(vm, name))
            }
        }
    }

    async fn take_scheduled(&self, target: &ScheduleTarget, name: &str) -> Result<SnapshotId> {
        match target {
            ScheduleTarget::Vdisk(vdisk) => Ok(self.take_vdisk_snapshot(vdisk, name).await?.id),
            ScheduleTarget::Vm(vm) => Ok(self.take_vm_set(vm, name).await?.id),
            ScheduleTarget::Group(group) => Ok(self.take_group_snapshot(group, name).await?.id),
        }
    }

    /// The snapshot of this name, and when it was taken.
    async fn scheduled_snapshot(&self, target: &ScheduleTarget, name: &str) -> Result<Option<(SnapshotId, u64)>> {
        let of_set = |set: Result<meta::SetRecord>| set.ok().map(|set| (set.id, set.created_wall_ns));
        match target {
            ScheduleTarget::Vdisk(vdisk) => {
                let all = self.snapshots_of(vdisk).await?;
                let found = all.into_iter().find(|snapshot| snapshot.name == name);
                Ok(found.map(|snapshot| (snapshot.id, snapshot.created_ns)))
            }
            ScheduleTarget::Vm(vm) => Ok(of_set(self.find_vm(vm).and_then(|vm| self.find_set(&vm, name)))),
            ScheduleTarget::Group(group) => Ok(of_set(self.find_group_set(group, name))),
        }
    }

    /// One that is gone is no error.
    async fn drop_scheduled(&self, target: &ScheduleTarget, id: SnapshotId) -> Result<()> {
        if let ScheduleTarget::Vdisk(vdisk) = target {
            return self.drop_vdisk_snapshot(vdisk, id).await;
        }
        let _one = self.changing.lock().await;
        let Some(set) = self.vms.find_set(id) else { return Ok(()) };
        self.check_unread(&set).await?;
        self.delete_set(&set).await.map_err(|error| Error::new(error.kind, format!("{}: {error}", set.name)))
    }
}
