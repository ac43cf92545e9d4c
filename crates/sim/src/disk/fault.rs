//! Which operations of a simulated disk go wrong, by chance or by number.

use crate::rng::{Chance, Rng};
use std::collections::BTreeMap;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The operation fails with EIO; of a write any part may have happened, and any part may be garbage.
    Error,
    /// A write is acknowledged, and so is its sync, but the medium keeps what it had.
    Lost,
    /// A write goes to another place of the same file.
    Misdirected,
    /// The operation takes seconds.
    Stall,
}

/// What an operation is, as far as faults differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    Create,
    Open,
    Remove,
    List,
    Write,
    Read,
    Sync,
    Allocate,
    Punch,
    Ranges,
}

/// Probabilities per operation, and faults set for operations by number (counted as [`super::SimDisk::operations`]).
#[derive(Clone, Debug, Default)]
pub struct FaultPlan {
    pub write_error: Chance,
    pub read_error: Chance,
    pub sync_error: Chance,
    pub name_error: Chance,
    /// Per page written.
    pub lost_write: Chance,
    pub misdirected_write: Chance,
    pub stall: Chance,
    pub at: BTreeMap<u64, Fault>,
}

impl FaultPlan {
    pub fn none() -> Self {
        FaultPlan::default()
    }

    /// A number that was set fires once: `at` is emptied as it is used.
    pub(super) fn decide(&mut self, verb: Verb, number: u64, rng: &mut Rng) -> Option<Fault> {
        if let Some(fault) = self.at.remove(&number) {
            return Some(fault);
        }
        let error = match verb {
            Verb::Write | Verb::Allocate | Verb::Punch => self.write_error,
            Verb::Read => self.read_error,
            Verb::Sync => self.sync_error,
            Verb::Create | Verb::Remove | Verb::Open | Verb::List | Verb::Ranges => self.name_error,
        };
        if rng.chance(error) {
            return Some(Fault::Error);
        }
        if verb == Verb::Write && rng.chance(self.lost_write) {
            return Some(Fault::Lost);
        }
        if verb == Verb::Write && rng.chance(self.misdirected_write) {
            return Some(Fault::Misdirected);
        }
        rng.chance(self.stall).then_some(Fault::Stall)
    }
}
