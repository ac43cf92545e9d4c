//! Unit attention conditions of one I_T nexus with one logical unit (SAM-5 5.14).

#[cfg(test)]
mod tests;

use crate::sense::{Code, Condition, Key};
use std::collections::VecDeque;

/// More kinds than one nexus can have pending at once: each kind is kept once.
const PENDING_MAX: usize = 16;

/// What an initiator has to be told before its next command is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attention {
    /// The first thing that a nexus hears.
    PowerOn,
    /// Logical unit or target reset.
    Reset,
    /// The nexus was lost, and with it everything that is kept for a nexus.
    NexusLoss,
    CommandsCleared,
    ModeParametersChanged,
    ReservationsPreempted,
    ReservationsReleased,
    RegistrationsPreempted,
    CapacityChanged,
    /// REPORT LUNS tells something else now.
    LunsChanged,
}

impl Attention {
    pub(crate) fn condition(self) -> Condition {
        let code = match self {
            Attention::PowerOn => Code::POWER_ON_OR_RESET,
            Attention::Reset => Code::DEVICE_RESET,
            Attention::NexusLoss => Code::NEXUS_LOSS,
            Attention::CommandsCleared => Code::COMMANDS_CLEARED,
            Attention::ModeParametersChanged => Code::MODE_PARAMETERS_CHANGED,
            Attention::ReservationsPreempted => Code::RESERVATIONS_PREEMPTED,
            Attention::ReservationsReleased => Code::RESERVATIONS_RELEASED,
            Attention::RegistrationsPreempted => Code::REGISTRATIONS_PREEMPTED,
            Attention::CapacityChanged => Code::CAPACITY_CHANGED,
            Attention::LunsChanged => Code::LUNS_CHANGED,
        };
        Condition::new(Key::UnitAttention, code)
    }

    /// Lower is told first (SAM-5 5.14.2, table 45): what resets everything, then in order of arrival.
    fn rank(self) -> u8 {
        match self {
            Attention::PowerOn => 0,
            Attention::Reset => 1,
            Attention::NexusLoss => 2,
            _ => 3,
        }
    }
}

/// In the order in which they are told.
#[derive(Debug, Default)]
pub(crate) struct Attentions {
    pending: VecDeque<Attention>,
}

impl Attentions {
    /// One that is pending already stays where it is. A reset makes what came before it obsolete: whoever hears of it asks
    /// for everything anew (SAM-5 6.3).
    pub(crate) fn establish(&mut self, attention: Attention) {
        if self.pending.iter().any(|pending| *pending == attention || pending.rank() == 0 && attention.rank() < 3) {
            return;
        }
        if attention.rank() < 3 {
            self.pending.retain(|pending| pending.rank() <= attention.rank());
        }
        let at = self.pending.iter().position(|pending| pending.rank() > attention.rank());
        self.pending.insert(at.unwrap_or(self.pending.len()), attention);
        assert!(self.pending.len() <= PENDING_MAX, "each kind is kept once: {:?}", self.pending);
    }
    pub(crate) fn first(&self) -> Option<Attention> {
        self.pending.front().copied()
    }
    /// Tells the first one, which clears it.
    pub(crate) fn take(&mut self) -> Option<Attention> {
        self.pending.pop_front()
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }
}
