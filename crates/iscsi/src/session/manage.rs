//! Task management (RFC 7143 section 11.5, RFC 7144 section 4): which tasks are meant, and what is answered.

use super::{IMMEDIATE_MAX, ManageTag, Next, Session, Stage, Task};
use crate::encode;
use crate::wire::{Answer, Header, Reason, before, flag, response};
use base::Output;
use scsi::{Function, Outcome};

/// Responses (11.6.1, RFC 7144 4.3).
mod code {
    pub const COMPLETE: u8 = 0;
    pub const NO_TASK: u8 = 1;
    pub const NO_LUN: u8 = 2;
    pub const NO_REASSIGNMENT: u8 = 4;
    pub const NOT_SUPPORTED: u8 = 5;
    pub const SUCCEEDED: u8 = 7;
    pub const REJECTED: u8 = 255;
}

/// Tasks that a function ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Affects {
    Nothing,
    Task(u32),
    Unit([u8; 8]),
    /// All of the session.
    Target,
}

/// Which of a target's resets.
const TARGET_WARM_RESET: u8 = 6;
const TARGET_COLD_RESET: u8 = 7;
/// RFC 7144 section 4.2: the session goes on.
const NEXUS_RESET: u8 = 11;

impl ManageTag {
    /// After the answer all sessions of the target are to end (11.5.1).
    pub fn is_cold_reset(&self) -> bool {
        self.cold
    }
}

impl<T> Session<T> {
    pub(super) fn manage(&mut self, header: &Header, out: &mut Output) -> Option<Next<T>> {
        if self.is_discovery() {
            return self.reject_none(header, Reason::Protocol, out);
        }
        if header.immediate() && self.immediate >= IMMEDIATE_MAX {
            return self.reject_none(header, Reason::TooManyImmediate, out);
        }
        if self.is_ahead(header) {
            // It concerns commands that have not come yet.
            self.count(true);
            self.postponed.push_back(header.clone());
            return None;
        }
        self.carry_out(header, out)
    }

    /// Whether an immediate function on more than one task has overtaken commands that it is to end: those with lower
    /// numbers, which are waited for (4.2.3.3).
    fn is_ahead(&self, header: &Header) -> bool {
        let own = header.command_number();
        let is_inside = before(self.expected_command, own) && !before(self.window_end().wrapping_add(1), own);
        header.immediate() && matches!(header.flags() & 0x7f, 2 | 4..=7 | NEXUS_RESET) && is_inside
    }

    /// A function that waited for the commands before it, once they are there.
    pub(super) fn take_postponed(&mut self, out: &mut Output) -> Option<Next<T>> {
        while let Some(header) =
            self.postponed.pop_front_if(|header| !before(self.expected_command, header.command_number()))
        {
            self.uncount(true);
            let next = self.carry_out(&header, out);
            if next.is_some() {
                return next;
            }
        }
        None
    }

    fn carry_out(&mut self, header: &Header, out: &mut Output) -> Option<Next<T>> {
        let lun = header.lun();
        let function = header.flags() & 0x7f;
        let (function, affects) = match function {
            1 => return self.abort_task(header, out),
            2 => (Function::AbortTaskSet, Affects::Unit(lun)),
            3 => (Function::ClearAca, Affects::Nothing),
            4 => (Function::ClearTaskSet, Affects::Unit(lun)),
            5 => (Function::LogicalUnitReset, Affects::Unit(lun)),
            TARGET_WARM_RESET | TARGET_COLD_RESET => (Function::TargetReset, Affects::Target),
            8 => return self.answer_none(header, code::NO_REASSIGNMENT, out),
            9..=12 if self.parameters.protocol_level < 2 => {
                return self.answer_none(header, code::NOT_SUPPORTED, out);
            }
            9 => return self.query_task(header, out),
            10 if self.tasks.values().any(|task| task.is_waiting() && task.lun == lun) => {
                return self.answer_none(header, code::SUCCEEDED, out);
            }
            10 => (Function::QueryTaskSet, Affects::Nothing),
            NEXUS_RESET => (Function::NexusReset, Affects::Target),
            12 => (Function::QueryAsynchronousEvent, Affects::Nothing),
            _ => return self.answer_none(header, code::NOT_SUPPORTED, out),
        };
        self.give_up_waiting(header, affects);
        Some(self.hand_out(header, function, affects))
    }

    fn abort_task(&mut self, header: &Header, out: &mut Output) -> Option<Next<T>> {
        let (wanted, number, own) = (header.fifth(), header.word(32), header.command_number());
        match self.tasks.get(&wanted) {
            Some(task) if task.lun != header.lun() => self.answer_none(header, code::NO_TASK, out),
            Some(task) if task.is_waiting() => {
                self.remove(wanted);
                self.answer_none(header, code::COMPLETE, out)
            }
            Some(task) => {
                let tag = task.serial;
                Some(self.hand_out(header, Function::AbortTask { tag }, Affects::Task(wanted)))
            }
            None if self.early.give_up_where(|early| early.task() == wanted) => {
                self.answer_none(header, code::COMPLETE, out)
            }
            // It was lost on the way: its number counts as received, and it never executes (11.5.5).
            None if !before(number, self.expected_command)
                && before(number, own)
                && !before(self.window_end(), number) =>
            {
                self.early.give_up(number);
                self.answer_none(header, code::COMPLETE, out)
            }
            None => self.answer_none(header, code::NO_TASK, out),
        }
    }

    fn query_task(&mut self, header: &Header, out: &mut Output) -> Option<Next<T>> {
        let wanted = header.fifth();
        match self.tasks.get(&wanted) {
            Some(task) if task.is_waiting() => self.answer_none(header, code::SUCCEEDED, out),
            Some(task) => {
                let tag = task.serial;
                Some(self.hand_out(header, Function::QueryTask { tag }, Affects::Nothing))
            }
            None => self.answer_none(header, code::COMPLETE, out),
        }
    }

    /// Ends those of the affected commands that the device server does not know.
    fn give_up_waiting(&mut self, header: &Header, affects: Affects) {
        let own = header.command_number();
        self.early
            .give_up_where(|early| before(early.command_number(), own) && affects.includes(early.task(), &early.lun()));
        let ended: Vec<u32> =
            self.affected(affects, u64::MAX).filter(|(_, task)| task.is_waiting()).map(|(n, _)| n).collect();
        for number in ended {
            self.remove(number);
        }
    }

    fn affected(&self, affects: Affects, before: u64) -> impl Iterator<Item = (u32, &Task<T>)> {
        let meant = move |number: u32, task: &Task<T>| task.serial < before && affects.includes(number, &task.lun);
        self.tasks.iter().map(|(number, task)| (*number, task)).filter(move |(number, task)| meant(*number, task))
    }

    fn hand_out(&mut self, header: &Header, function: Function, affects: Affects) -> Next<T> {
        self.started += 1;
        self.count(header.immediate());
        let tag = ManageTag {
            task: header.task(),
            serial: self.next_serial(),
            immediate: header.immediate(),
            cold: header.flags() & 0x7f == TARGET_COLD_RESET,
            affects,
        };
        Next::Manage { tag, lun: header.lun(), function }
    }

    /// Answers a function that the device server has carried out.
    pub fn managed(&mut self, tag: ManageTag, outcome: Outcome, out: &mut Output) {
        self.started -= 1;
        self.uncount(tag.immediate);
        // The device server is done with it, while its response has not been sent, and never will be now.
        let outcome = match (outcome, tag.affects) {
            (Outcome::TaskDoesNotExist, affects) if self.affected(affects, tag.serial).next().is_some() => {
                Outcome::Complete
            }
            (outcome, _) => outcome,
        };
        let (code, information) = match outcome {
            Outcome::Complete => (code::COMPLETE, [0; 3]),
            Outcome::Succeeded(information) => (code::SUCCEEDED, information),
            Outcome::TaskDoesNotExist => (code::NO_TASK, [0; 3]),
            Outcome::IncorrectLun => (code::NO_LUN, [0; 3]),
            Outcome::NotSupported => (code::NOT_SUPPORTED, [0; 3]),
            Outcome::Rejected => (code::REJECTED, [0; 3]),
        };
        if outcome == Outcome::Complete {
            // They have ended; whatever the device server still says of them is not sent.
            let ended: Vec<u32> = self.affected(tag.affects, tag.serial).map(|(number, _)| number).collect();
            for number in ended {
                self.remove(number);
            }
        }
        self.answer(tag.task, code, information, out);
    }

    fn answer_none(&mut self, header: &Header, code: u8, out: &mut Output) -> Option<Next<T>> {
        self.answer(header.task(), code, [0; 3], out);
        None
    }

    fn answer(&mut self, task: u32, code: u8, [a, b, c]: [u8; 3], out: &mut Output) {
        let answer = Answer::new(response::TASK_MANAGEMENT, flag::FINAL).byte(2, code).task(task);
        let answer = self.status_numbers(answer).byte(36, a).byte(37, b).byte(38, c);
        encode::put_bytes(answer, &[], self.parameters.digests, out);
    }
}

impl Affects {
    fn includes(self, number: u32, lun: &[u8; 8]) -> bool {
        match self {
            Affects::Nothing => false,
            Affects::Task(wanted) => wanted == number,
            Affects::Unit(wanted) => wanted == *lun,
            Affects::Target => true,
        }
    }
}

impl<T> Task<T> {
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.stage, Stage::Waiting(_))
    }
}
