//! A command from its arrival to its end.

use crate::call::{Call, Ran};
use crate::cdb::Cdb;
use crate::fault::Fault;
use crate::sense::Condition;
use crate::table::Entry;
use crate::task_set::Abort;
use crate::unit::LogicalUnit;
use crate::{Ended, Response, Status, medium, range, sanitize};
use bytes::Bytes;
use world::Completion;

/// What [`crate::Nexus::start`] made of a command. Dropping it aborts it.
#[must_use = "a command is run, or dropped to abort it"]
pub struct Task(State);

enum State {
    /// Refused before anything was carried out.
    Answered(Response),
    Accepted(Accepted),
}

pub(crate) struct Accepted {
    pub entry: &'static Entry,
    pub data_out_bytes: u32,
    pub membership: Membership,
}

/// Keeps the task in the task set.
pub(crate) struct Membership {
    pub call: Call,
}

impl Drop for Membership {
    fn drop(&mut self) {
        let unit = &self.call.unit;
        unit.tasks.borrow_mut().leave(self.call.key);
        unit.tasks_changed.notify();
    }
}

impl Task {
    pub(crate) fn answered(response: Response) -> Task {
        Task(State::Answered(response))
    }
    pub(crate) fn accepted(accepted: Accepted) -> Task {
        Task(State::Accepted(accepted))
    }

    /// What the CDB asks the initiator to send; zero for a command that was refused.
    pub fn data_out_bytes(&self) -> u32 {
        match &self.0 {
            State::Answered(_) => 0,
            State::Accepted(accepted) => accepted.data_out_bytes,
        }
    }

    /// Memory that it takes beside its data-out, bytes, as far as its CDB says: what it reads, whatever the initiator has room
    /// for, or the piece that it moves at a time.
    pub fn memory_bytes(&self) -> u64 {
        let State::Accepted(Accepted { membership, .. }) = &self.0 else { return 0 };
        memory_of(&membership.call.cdb, membership.call.sector_bytes())
    }

    /// Whether it has been aborted since it was started: data need not be gathered any more, [`Task::run`] says how it ends.
    /// [`crate::Event::TaskAborted`] tells when.
    pub fn is_aborted(&self) -> bool {
        match &self.0 {
            State::Answered(_) => false,
            State::Accepted(accepted) => accepted.membership.aborted().is_some(),
        }
    }

    /// Carries it out. `data_out`: what the initiator sent, at most [`Task::data_out_bytes`]; less if it offered less, which is all
    /// that is written then. A task that has to wait for others (attribute ORDERED) completes after them.
    pub fn run(self, data_out: Bytes) -> Completion<Ended> {
        let accepted = match self.0 {
            State::Answered(response) => return Completion::Ready(Ended::Response(response)),
            State::Accepted(accepted) => accepted,
        };
        let Accepted { entry, membership, data_out_bytes } = accepted;
        let data_out =
            if data_out.len() > data_out_bytes as usize { data_out.slice(..data_out_bytes as usize) } else { data_out };
        if membership.aborted().is_some() {
            return Completion::Ready(membership.end(Err(Fault::Aborted)));
        }
        if membership.call.unit.tasks.borrow().may_run(membership.call.key) {
            return match membership.execute(entry, data_out) {
                Completion::Ready(ran) => Completion::Ready(membership.end(ran)),
                pending => Completion::pending(async move {
                    let ran = pending.await;
                    membership.end(ran)
                }),
            };
        }
        Completion::pending(async move {
            let ran = match membership.turn().await {
                Ok(()) => membership.execute(entry, data_out).await,
                Err(fault) => Err(fault),
            };
            membership.end(ran)
        })
    }
}

/// [`Task::memory_bytes`] of a command that has not been started, if it is for a logical unit with such sectors.
pub fn memory_bytes(cdb: &[u8], sector_bytes: u32) -> u64 {
    memory_of(&Cdb::new(cdb), sector_bytes)
}

fn memory_of(cdb: &Cdb, sector_bytes: u32) -> u64 {
    let bytes = || range::named(cdb).range.bytes(sector_bytes);
    match cdb.opcode() {
        // READ.
        0x08 | 0x28 | 0x88 | 0xa8 => bytes(),
        // VERIFY, WRITE AND VERIFY, WRITE SAME.
        0x2f | 0x8f | 0xaf | 0x2e | 0x8e | 0xae | 0x41 | 0x93 => bytes().min(medium::PIECE_BYTES.into()),
        // EXTENDED COPY.
        0x83 => medium::PIECE_BYTES.into(),
        _ => 0,
    }
}

impl Membership {
    fn aborted(&self) -> Option<Abort> {
        self.call.unit.tasks.borrow().aborted(self.call.key)
    }

    fn execute(&self, entry: &'static Entry, data_out: Bytes) -> Completion<Ran> {
        // It may have begun since the command arrived.
        if let Err(fault) = sanitize::admits(&self.call.unit, entry) {
            return Completion::Ready(Err(fault));
        }
        self.call.unit.tasks.borrow_mut().runs(self.call.key);
        (entry.execute)(&self.call, data_out)
    }

    /// Until nothing that goes first is in the task set.
    async fn turn(&self) -> Result<(), Fault> {
        let unit = &self.call.unit;
        loop {
            self.call.proceed()?;
            if unit.tasks.borrow().may_run(self.call.key) {
                return Ok(());
            }
            unit.tasks_changed.notified().await;
        }
    }

    /// The task leaves the task set with what this returns.
    fn end(self, ran: Ran) -> Ended {
        // Whatever it did meanwhile: the initiator has been told that it is aborted.
        match self.aborted() {
            Some(Abort::Silent) => return Ended::Aborted,
            Some(Abort::Tell) => return Ended::Response(bare(Status::TaskAborted)),
            None => {}
        }
        match ran {
            Ok(good) => Ended::Response(good.response()),
            Err(fault) => fault_ended(&self.call.unit, fault),
        }
    }
}

fn fault_ended(unit: &LogicalUnit, fault: Fault) -> Ended {
    match fault {
        Fault::Check(condition) => Ended::Response(check_condition(unit, &condition)),
        Fault::Status(status) => Ended::Response(bare(status)),
        Fault::Aborted => Ended::Aborted,
    }
}

pub(crate) fn check_condition(unit: &LogicalUnit, condition: &Condition) -> Response {
    let sense = condition.encode(unit.sense_format());
    Response { status: Status::CheckCondition, sense: Some(sense), data: Vec::new() }
}

pub(crate) fn bare(status: Status) -> Response {
    Response { status, sense: None, data: Vec::new() }
}
