//! The target as one initiator port sees it through one target port: where commands come in.

#[cfg(test)]
mod tests;

use crate::call::Call;
use crate::cdb::Cdb;
use crate::event::{Event, Events};
use crate::fault::Fault;
use crate::path::{Path, Ports};
use crate::sense::{Code, Condition, Format};
use crate::table::{self, Found};
use crate::task::{Accepted, Membership, Task, bare, check_condition};
use crate::unit::LogicalUnit;
use crate::{Attribute, Command, Response, Status, absent, lun};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::task::{Context, Poll};

/// A SCSI target device: logical units by number.
pub struct Target {
    luns: BTreeMap<u64, Rc<LogicalUnit>>,
}

impl Target {
    /// Numbers are at most 16,383.
    pub fn new(luns: BTreeMap<u64, Rc<LogicalUnit>>) -> Rc<Target> {
        assert!(luns.keys().all(|lun| *lun <= lun::LUN_MAX), "logical unit numbers: {:?}", luns.keys());
        Rc::new(Target { luns })
    }

    /// A nexus that begins. `initiator_port` is the initiator port's name (iSCSI: `iqn…,i,0x` and the ISID); the same names again are
    /// the same nexus for persistent reservations. The older of two nexuses with the same names has to be dropped first.
    pub fn nexus(self: &Rc<Self>, initiator_port: &str, relative_target_port: u16) -> Nexus {
        let ports = Ports { initiator: initiator_port.into(), relative_target_port };
        let events = Rc::new(Events::default());
        let luns: Rc<[u64]> = self.luns.keys().copied().collect();
        let attach = |(lun, unit): (&u64, &Rc<LogicalUnit>)| {
            let path = unit.attach(ports.clone(), *lun, luns.clone(), events.clone());
            (*lun, (unit.clone(), path))
        };
        Nexus { paths: self.luns.iter().map(attach).collect(), events }
    }
}

/// An I_T nexus. Dropping it is I_T nexus loss: its tasks are aborted, RESERVE(6) is released, persistent registrations stay.
pub struct Nexus {
    pub(crate) paths: BTreeMap<u64, (Rc<LogicalUnit>, Rc<Path>)>,
    pub(crate) events: Rc<Events>,
}

impl Drop for Nexus {
    fn drop(&mut self) {
        for (unit, path) in self.paths.values() {
            unit.detach(path);
        }
    }
}

impl Nexus {
    /// Takes a command into the task set, or answers it: everything that can be said without its data is checked here.
    pub fn start(&self, command: Command<'_>) -> Task {
        let found = lun::decode(command.lun).and_then(|lun| self.paths.get(&lun));
        let Some((unit, path)) = found else {
            return Task::answered(absent::answer(self, command.cdb));
        };
        unit.geometry_may_have_changed();
        match admit(unit, path, &command) {
            Ok(accepted) => Task::accepted(accepted),
            Err(response) => Task::answered(response),
        }
    }

    /// The next event, when there is one. One listener at a time.
    pub fn poll_event(&self, context: &mut Context<'_>) -> Poll<Event> {
        self.events.poll(context)
    }
    pub async fn next_event(&self) -> Event {
        std::future::poll_fn(|context| self.poll_event(context)).await
    }
}

/// In the order of SAM-5 5.3.3: TASK SET FULL and RESERVATION CONFLICT go before a unit attention, that before everything that is wrong
/// with the command.
fn admit(unit: &Rc<LogicalUnit>, path: &Rc<Path>, command: &Command<'_>) -> Result<Accepted, Response> {
    let check = |condition: &Condition| check_condition(unit, condition);
    let cdb = Cdb::new(command.cdb);
    let Some(key) = unit.tasks.borrow_mut().enter(path.id, command.tag, command.attribute) else {
        return Err(bare(Status::TaskSetFull));
    };
    let membership = Membership {
        call: Call { unit: unit.clone(), path: path.clone(), cdb, offered: command.data_out_offered, key },
    };
    let call = &membership.call;
    let entry = match table::find(command.cdb) {
        Found::Entry(entry) => entry,
        Found::Refused(condition) => {
            return Err(check(&path.take_attention().map_or(condition, |attention| attention.condition())));
        }
    };
    if !crate::reservation::admits(call, entry.access) {
        return Err(bare(Status::ReservationConflict));
    }
    if !entry.despite_attention
        && let Some(attention) = path.take_attention()
    {
        return Err(check(&attention.condition()));
    }
    // NORMACA is zero: there is no auto contingent allegiance in which such a command could be carried out.
    if command.attribute == Attribute::Aca {
        return Err(check(&Condition::illegal(Code::INVALID_MESSAGE)));
    }
    let checked = entry.check_reserved(&call.cdb).and_then(|()| {
        crate::sanitize::admits(unit, entry)?;
        (entry.check)(call)
    });
    match checked {
        Ok(data_out_bytes) => Ok(Accepted { entry, data_out_bytes, membership }),
        Err(Fault::Check(condition)) => Err(check(&condition)),
        Err(Fault::Status(status)) => Err(bare(status)),
        Err(Fault::Aborted) => unreachable!("it has only just arrived"),
    }
}

/// Sense data before any logical unit is known.
pub(crate) fn fixed(condition: &Condition) -> Response {
    Response { status: Status::CheckCondition, sense: Some(condition.encode(Format::Fixed)), data: Vec::new() }
}
