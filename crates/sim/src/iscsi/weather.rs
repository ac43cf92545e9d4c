//! What goes wrong between an initiator and a target: at random, or at one chosen PDU.

use crate::rng::{Chance, Rng};
use std::cell::{Cell, RefCell};
use std::ops::Range;

/// Task management functions (RFC 7143 section 11.5.1, RFC 7144 section 4.2), by their code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Function {
    AbortTask = 1,
    AbortTaskSet = 2,
    ClearTaskSet = 4,
    LogicalUnitReset = 5,
    TargetWarmReset = 6,
    TargetColdReset = 7,
    NexusReset = 11,
}

impl Function {
    pub const ALL: [Function; 7] = [
        Function::AbortTask,
        Function::AbortTaskSet,
        Function::ClearTaskSet,
        Function::LogicalUnitReset,
        Function::TargetWarmReset,
        Function::TargetColdReset,
        Function::NexusReset,
    ];

    /// Whether it ends the tasks of other nexuses too.
    pub fn is_of_the_unit(self) -> bool {
        !matches!(self, Function::AbortTask | Function::AbortTaskSet | Function::NexusReset)
    }
}

/// Something that is done to one PDU, or when it has been sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mischief {
    /// The connection is lost at the boundary before it.
    CutBefore,
    /// The connection is lost when a part of it has arrived.
    CutInside,
    /// A bit of its header or header digest arrives changed.
    DamageHeader,
    /// A bit of its data or data digest arrives changed.
    DamageData,
    /// The initiator of the connection asks for a function.
    Manage(Function),
}

pub struct Weather {
    pub cut: Chance,
    pub damage: Chance,
    /// Of a command to be followed by task management.
    pub manage: Chance,
    /// Of a request with a number, or of a function, to be sent twice.
    pub twice: Chance,
    /// Of a function to be sent before the command that it names.
    pub ahead: Chance,
    /// Happens at this PDU, counted from zero over all connections and directions.
    pub planned: Option<(u64, Mischief)>,
    /// Header and data digest of every session; else each login chooses.
    pub digests: Option<(bool, bool)>,
    /// PDUs that were sent so far.
    pub pdus: Cell<u64>,
    /// Planned, and for the initiator to do.
    pub due: Cell<Option<Function>>,
    pub rng: RefCell<Rng>,
}

/// What becomes of a PDU.
#[derive(Debug)]
pub enum Fate {
    Arrives,
    /// The connection is lost when so many of its bytes have arrived.
    Cut(usize),
    /// This byte arrives changed.
    Damaged(usize),
}

/// Which parts of a PDU digests cover: outside of them damage could not be noticed.
pub struct Covered {
    pub header: Range<usize>,
    pub data: Range<usize>,
}

impl Weather {
    pub fn calm(seed: u64) -> Weather {
        Weather {
            cut: Chance::NEVER,
            damage: Chance::NEVER,
            manage: Chance::NEVER,
            twice: Chance::NEVER,
            ahead: Chance::NEVER,
            planned: None,
            digests: None,
            pdus: Cell::new(0),
            due: Cell::new(None),
            rng: RefCell::new(Rng::new(seed, 0x3ea7)),
        }
    }

    pub fn below(&self, bound: u64) -> u64 {
        self.rng.borrow_mut().below(bound)
    }

    pub fn chance(&self, chance: Chance) -> bool {
        self.rng.borrow_mut().chance(chance)
    }

    /// Any function; those that end the least come most often.
    pub fn function(&self) -> Function {
        match self.below(13) {
            0..6 => Function::AbortTask,
            6 | 7 => Function::AbortTaskSet,
            8 => Function::ClearTaskSet,
            9 | 10 => Function::LogicalUnitReset,
            11 => Function::NexusReset,
            _ if self.below(2) == 0 => Function::TargetWarmReset,
            _ => Function::TargetColdReset,
        }
    }

    /// What the initiator is to do now, once.
    pub fn take_due(&self) -> Option<Function> {
        self.due.take()
    }

    pub fn fate(&self, len: usize, covered: &Covered) -> Fate {
        let number = self.pdus.replace(self.pdus.get() + 1);
        if let Some((at, mischief)) = self.planned {
            return if at == number { self.carry_out(mischief, len, covered) } else { Fate::Arrives };
        }
        if self.chance(self.cut) {
            // At the boundary before it, behind it, or somewhere inside.
            let at = match self.below(3) {
                0 => 0,
                1 => len as u64,
                _ => self.below(len as u64),
            };
            return Fate::Cut(at as usize);
        }
        let parts = [&covered.header, &covered.data];
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        if bytes > 0 && self.chance(self.damage) {
            // Headers are short: without a preference for them only data would be damaged.
            let part = parts[usize::from(self.below(2) == 0)];
            let part =
                if part.is_empty() { parts.into_iter().find(|part| !part.is_empty()).unwrap_or(part) } else { part };
            return Fate::Damaged(self.inside(part));
        }
        Fate::Arrives
    }

    fn carry_out(&self, mischief: Mischief, len: usize, covered: &Covered) -> Fate {
        let damaged =
            |part: &Range<usize>| if part.is_empty() { Fate::Arrives } else { Fate::Damaged(self.inside(part)) };
        match mischief {
            Mischief::CutBefore => Fate::Cut(0),
            Mischief::CutInside => Fate::Cut(1 + self.below(len as u64 - 1) as usize),
            Mischief::DamageHeader => damaged(&covered.header),
            Mischief::DamageData => damaged(&covered.data),
            Mischief::Manage(function) => {
                self.due.set(Some(function));
                Fate::Arrives
            }
        }
    }

    fn inside(&self, part: &Range<usize>) -> usize {
        part.start + self.below(part.len() as u64) as usize
    }
}
