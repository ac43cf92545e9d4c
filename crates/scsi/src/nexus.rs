//! The target as one initiator port sees it through one target port: where commands come in.

#[cfg(test)]
mod tests;

use crate::attention::Attention;
use crate::call::Call;
use crate::cdb::Cdb;
use crate::event::Event;
use crate::fault::Fault;
use crate::path::{Path, Ports, Through};
use crate::sense::{Code, Condition, Format};
use crate::table::{self, Found};
use crate::task::{Accepted, Membership, Task, bare, check_condition};
use crate::unit::LogicalUnit;
use crate::{Attribute, Command, Response, Status, absent, lun};
use std::cell::RefCell;
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
        let nexus = Nexus::new(initiator_port, relative_target_port, None);
        nexus.report(self.luns.keys().copied().collect());
        for (lun, unit) in &self.luns {
            nexus.put(*lun, unit.clone());
        }
        nexus
    }
}

/// An I_T nexus. Dropping it is I_T nexus loss: its tasks are aborted, RESERVE(6) is released, persistent registrations stay.
pub struct Nexus {
    through: Through,
    paths: RefCell<BTreeMap<u64, Seen>>,
}

/// The port of a target that shows logical units of others: the target's name, and the tag that its port's name ends with
/// (iSCSI: the portal group tag, RFC 7143 section 4.2.8).
#[derive(Debug, Clone, Copy)]
pub struct TargetPort<'a> {
    pub target_name: &'a str,
    pub tag: u16,
}

/// A logical unit, and what is kept for the nexus with it.
pub(crate) type Seen = (Rc<LogicalUnit>, Rc<Path>);

impl Drop for Nexus {
    fn drop(&mut self) {
        for (unit, path) in self.paths.borrow().values() {
            unit.detach(path);
        }
    }
}

/// A logical unit that a nexus does not see any more, but for the tasks that it has there. Dropping it aborts them.
pub struct Leaving(Seen);

impl Leaving {
    /// Completes when the last of these tasks has ended.
    pub async fn idle(&self) {
        let (unit, path) = &self.0;
        unit.idle(path.id).await;
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let (unit, path) = &self.0;
        unit.detach(path);
    }
}

/// A target whose logical units come and go, or are not all on one worker: [`Nexus::put`], [`Nexus::take`], and what REPORT
/// LUNS tells of all of them, [`Nexus::report`].
impl Nexus {
    /// Without logical units. `target`: the SCSI target device, where it is not that of the logical units' own. Where one
    /// logical unit is seen through several targets, their ports need different relative identifiers.
    pub fn new(initiator_port: &str, relative_target_port: u16, target: Option<TargetPort<'_>>) -> Nexus {
        let through = Through {
            ports: Ports { initiator: initiator_port.into(), relative_target_port },
            target: target.map(|target| (target.target_name.into(), target.tag)),
            all_ports: Rc::new([relative_target_port]),
            luns: Rc::default(),
            events: Rc::default(),
        };
        Nexus { through, paths: RefCell::default() }
    }

    /// The target has these ports, by their relative identifiers: a registration may be asked for at all of them. To be said
    /// before [`Nexus::put`].
    pub fn with_ports(mut self, all: &[u16]) -> Nexus {
        self.through.all_ports = all.into();
        self
    }

    /// From now on the logical unit has this number, at most 16,383, that no other has.
    pub fn put(&self, lun: u64, unit: Rc<LogicalUnit>) {
        assert!(lun <= lun::LUN_MAX, "logical unit number {lun}");
        let path = unit.attach(self.through.clone(), lun);
        let before = self.paths.borrow_mut().insert(lun, (unit, path));
        assert!(before.is_none(), "two logical units of number {lun}");
    }

    /// From now on there is nothing of this number.
    pub fn take(&self, lun: u64) -> Option<Leaving> {
        self.paths.borrow_mut().remove(&lun).map(Leaving)
    }

    /// All numbers of the target, in ascending order. Logical units tell the initiator of a change (SPC-4 6.33), but for those
    /// that it has not spoken to yet: it will ask them for everything. Whether there is one to be told of.
    pub fn report(&self, luns: Vec<u64>) -> bool {
        let before = self.through.luns.replace(luns.clone());
        if before.is_empty() || before == luns {
            return false;
        }
        let is_new = |path: &Path| matches!(path.attention(), Some(Attention::PowerOn | Attention::NexusLoss));
        for (_, path) in self.paths.borrow().values().filter(|(_, path)| !is_new(path)) {
            path.establish(Attention::LunsChanged);
        }
        true
    }

    /// The asynchronous event that goes with such a change, once for a target however many nexuses it is made of.
    pub fn announce_luns(&self) {
        let lun = self.luns().first().copied().unwrap_or(0);
        let sense = Attention::LunsChanged.condition().encode(Format::Fixed);
        self.through.events.push(Event::Asynchronous { lun: lun::encode(lun), sense });
    }

    pub(crate) fn luns(&self) -> Vec<u64> {
        self.through.luns.borrow().clone()
    }

    pub(crate) fn find(&self, lun: [u8; 8]) -> Option<Seen> {
        lun::decode(lun).and_then(|lun| self.paths.borrow().get(&lun).cloned())
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.paths.borrow().values().cloned().collect()
    }

    pub(crate) fn units(&self) -> Vec<Rc<LogicalUnit>> {
        self.paths.borrow().values().map(|(unit, _)| unit.clone()).collect()
    }
}

impl Nexus {
    /// Takes a command into the task set, or answers it: everything that can be said without its data is checked here.
    pub fn start(&self, command: Command<'_>) -> Task {
        let Some((unit, path)) = &self.find(command.lun) else {
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
        self.through.events.poll(context)
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
