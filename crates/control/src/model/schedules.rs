//! The verbs on schedules in memory: which there are. Nothing is taken.

use super::{Model, ready};
use crate::rules::schedules;
use crate::{ControlFuture, CreateSchedule, Error, ScheduleControl, ScheduleInfo, ScheduleState, ScheduleTarget};

impl ScheduleControl for Model {
    fn create_schedule(&self, create: CreateSchedule) -> ControlFuture<'_, ScheduleInfo> {
        ready((|| {
            schedules::check_schedule(&create)?;
            let mut state = self.lock();
            if state.schedules.contains_key(&create.name) {
                return Err(Error::schedule_exists(&create.name));
            }
            match &create.target {
                ScheduleTarget::Vdisk(vdisk) if !state.vdisks.contains_key(vdisk) => {
                    return Err(Error::not_found(vdisk));
                }
                ScheduleTarget::Vm(vm) if !state.vms.contains_key(vm) => return Err(Error::no_vm(vm)),
                ScheduleTarget::Group(group) => drop(state.groups_of_vms.info(group)?),
                ScheduleTarget::Container(container) => drop(state.container(container)?),
                _ => {}
            }
            let info = ScheduleInfo {
                name: create.name.clone(),
                target: Some(create.target),
                rules: create.rules,
                state: ScheduleState::Due,
                created_unix_ms: 1_700_000_000_000,
                last_success_unix_ms: None,
                failures: 0,
                snapshots: Vec::new(),
            };
            state.schedules.insert(create.name, info.clone());
            Ok(info)
        })())
    }

    fn list_schedules(&self) -> ControlFuture<'_, Vec<ScheduleInfo>> {
        ready(Ok(self.lock().schedules.values().cloned().collect()))
    }

    fn show_schedule<'a>(&'a self, name: &'a str) -> ControlFuture<'a, ScheduleInfo> {
        ready(self.lock().schedules.get(name).cloned().ok_or_else(|| Error::no_schedule(name)))
    }

    fn pause_schedule<'a>(&'a self, name: &'a str, paused: bool) -> ControlFuture<'a, ScheduleInfo> {
        ready((|| {
            let mut state = self.lock();
            let schedule = state.schedules.get_mut(name).ok_or_else(|| Error::no_schedule(name))?;
            schedule.state = if paused { ScheduleState::Paused } else { ScheduleState::Due };
            Ok(schedule.clone())
        })())
    }

    fn delete_schedule<'a>(&'a self, name: &'a str) -> ControlFuture<'a, ()> {
        let gone = self.lock().schedules.remove(name);
        ready(gone.map(drop).ok_or_else(|| Error::no_schedule(name)))
    }
}
