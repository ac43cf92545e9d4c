//! Task management (SAM-5 chapter 7). A function completes when what it named has ended: requests in the device cannot be taken back,
//! so it waits for them.

#[cfg(test)]
mod tests;

use crate::attention::Attention;
use crate::nexus::Nexus;
use crate::path::Path;
use crate::task_set::{Abort, Described};
use crate::unit::LogicalUnit;
use crate::{Function, Outcome};
use std::rc::Rc;
use world::Completion;

impl Nexus {
    /// Marks what the function names as aborted at once: none of it responds any more, except with TASK ABORTED to another nexus where
    /// the control mode page says so.
    pub fn manage(&self, function: Function, lun: [u8; 8]) -> Completion<Outcome> {
        match function {
            Function::TargetReset => return all(self.units().iter().map(reset)),
            Function::NexusReset => return all(self.seen().iter().map(|(unit, path)| reset_nexus(unit, path))),
            _ => {}
        }
        let Some((unit, path)) = &self.find(lun) else { return Completion::Ready(Outcome::IncorrectLun) };
        match function {
            Function::AbortTask { tag } => abort_task(unit, path, tag),
            Function::AbortTaskSet => wait(unit, |task| (task.path == path.id).then_some(Abort::Silent)),
            Function::ClearTaskSet => clear_task_set(unit, path),
            Function::LogicalUnitReset => reset(unit),
            // NORMACA is zero: there is never an auto contingent allegiance.
            Function::ClearAca => Completion::Ready(Outcome::NotSupported),
            Function::QueryTask { tag } => {
                let there = unit.tasks.borrow().find(path.id, tag).is_some();
                Completion::Ready(query(there, [0; 3]))
            }
            Function::QueryTaskSet => {
                let there = unit.tasks.borrow().any_of(path.id);
                Completion::Ready(query(there, [0; 3]))
            }
            Function::QueryAsynchronousEvent => Completion::Ready(asynchronous(path)),
            Function::TargetReset | Function::NexusReset => unreachable!("answered above"),
        }
    }
}

/// Complete when the last of them is.
fn all(resets: impl Iterator<Item = Completion<Outcome>>) -> Completion<Outcome> {
    let resets: Vec<_> = resets.collect();
    if resets.iter().all(|reset| matches!(reset, Completion::Ready(_))) {
        return Completion::Ready(Outcome::Complete);
    }
    Completion::pending(async move {
        for reset in resets {
            reset.await;
        }
        Outcome::Complete
    })
}

fn query(there: bool, additional: [u8; 3]) -> Outcome {
    if there { Outcome::Succeeded(additional) } else { Outcome::Complete }
}

/// SAM-5 7.9: UADE 01b (one of the unit attentions), the sense key, and the additional sense code and qualifier.
fn asynchronous(path: &Path) -> Outcome {
    match path.attention().map(|attention| attention.condition()) {
        Some(condition) => query(true, [0x10 | condition.key as u8, condition.code.0, condition.code.1]),
        None => query(false, [0; 3]),
    }
}

fn wait(unit: &Rc<LogicalUnit>, how: impl Fn(&Described) -> Option<Abort>) -> Completion<Outcome> {
    let running = unit.abort(how).running;
    if running.is_empty() {
        return Completion::Ready(Outcome::Complete);
    }
    let unit = unit.clone();
    Completion::pending(async move {
        unit.ended(running).await;
        Outcome::Complete
    })
}

/// A task that is being aborted already is waited for as well: to call it gone while it runs would be wrong.
fn abort_task(unit: &Rc<LogicalUnit>, path: &Path, tag: u64) -> Completion<Outcome> {
    let Some(key) = unit.tasks.borrow().find_any(path.id, tag) else {
        return Completion::Ready(Outcome::TaskDoesNotExist);
    };
    wait(unit, |task| (task.key == key).then_some(Abort::Silent))
}

/// All nexuses share the task set (TST 000b). The others hear of it: by the status of each task if TAS is one, else by a unit attention
/// (SAM-5 5.6, 7.5).
fn clear_task_set(unit: &Rc<LogicalUnit>, path: &Path) -> Completion<Outcome> {
    let tell = unit.mode.get().task_aborted_status;
    let how = |task: &Described| Some(if tell && task.path != path.id { Abort::Tell } else { Abort::Silent });
    let aborted = unit.abort(how);
    if !tell {
        for other in unit.paths().iter().filter(|other| other.id != path.id && aborted.paths.contains(&other.id)) {
            other.establish(Attention::CommandsCleared);
        }
    }
    wait(unit, how)
}

/// SAM-5 6.3.3: all tasks of all nexuses, RESERVE(6), the mode pages, PREVENT ALLOW MEDIUM REMOVAL; persistent reservations and a
/// sanitize operation stay.
fn reset(unit: &Rc<LogicalUnit>) -> Completion<Outcome> {
    unit.reserved.set(None);
    unit.mode.set(unit.saved_mode.get());
    for path in unit.paths() {
        path.prevents_removal.set(false);
        path.establish(Attention::Reset);
    }
    wait(unit, |_| Some(Abort::Silent))
}

/// SAM-5 6.3.4, of a nexus that goes on: what is kept for it is forgotten but for persistent registrations.
fn reset_nexus(unit: &Rc<LogicalUnit>, path: &Path) -> Completion<Outcome> {
    if unit.reserved.get() == Some(path.id) {
        unit.reserved.set(None);
    }
    path.prevents_removal.set(false);
    path.copies.forget_ended();
    path.establish(Attention::NexusLoss);
    wait(unit, |task| (task.path == path.id).then_some(Abort::Silent))
}
