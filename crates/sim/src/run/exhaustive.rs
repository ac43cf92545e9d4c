//! Short histories, crashed at every single disk operation, and again at every operation of the recovery.

use super::profile::Profile;
use super::simulation::{Opened, Simulation, Verdict};
use crate::disk::{Crash, InFlight, Survival};
use crate::engine::Engine;
use crate::journal::Journal;
use std::rc::Rc;

/// One way to die.
pub type Death = (Crash, InFlight);

pub const DEATHS: [Death; 6] = [
    (Crash::Kill, InFlight::Undone),
    (Crash::Kill, InFlight::Done),
    (Crash::Kill, InFlight::Chance),
    (Crash::PowerLoss(Survival::Nothing), InFlight::Undone),
    (Crash::PowerLoss(Survival::Sectors), InFlight::Chance),
    (Crash::PowerLoss(Survival::Everything), InFlight::Undone),
];

/// Where a case crashes: at a disk operation counted from the first, and perhaps at one of the recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    pub death: usize,
    pub operation: u64,
    pub in_recovery: Option<u64>,
}

/// What a case has shown: how many operations the phases had, so that the next cases know how far to go.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// False: the history was over before its crash point.
    pub crashed: bool,
    pub recovery_operations: u64,
}

/// Replays the history of `seed` up to the case's crash, recovers, checks everything, and works on.
pub fn run_case(
    seed: u64,
    steps: u64,
    profile: &Profile,
    engine: Rc<dyn Engine>,
    journal: Rc<Journal>,
    case: Case,
) -> Verdict<Seen> {
    let mut simulation = Simulation::new(seed, profile.clone(), engine, journal);
    let mut crashed = match simulation.open(Some(case.operation), false)? {
        Opened::Serving => {
            simulation.audit()?;
            let done = simulation.disk.operations();
            simulation.work(steps, Some(case.operation.saturating_sub(done)))?
        }
        Opened::Crashed => true,
        Opened::Refused => return Err("the node does not start on an empty disk".into()),
    };
    let (crash, in_flight) = DEATHS[case.death];
    if !crashed && case.in_recovery.is_none() && simulation.model.borrow().steps == steps {
        // The end of the history: die at rest.
        crashed = false;
    }
    simulation.crash(crash, in_flight);
    let before = simulation.disk.operations();
    match simulation.open(case.in_recovery, false)? {
        Opened::Serving => {}
        Opened::Crashed => {
            simulation.crash(crash, in_flight);
            expect_serving(simulation.open(None, false)?)?;
        }
        Opened::Refused => return Err("the node refuses to start although nothing was injected".into()),
    }
    let recovery_operations = simulation.disk.operations() - before;
    simulation.audit()?;
    simulation.work(3, None)?;
    simulation.shutdown()?;
    simulation.crash(Crash::PowerLoss(Survival::Nothing), InFlight::Undone);
    expect_serving(simulation.open(None, false)?)?;
    simulation.audit()?;
    Ok(Seen { crashed, recovery_operations })
}

fn expect_serving(opened: Opened) -> Verdict<()> {
    if opened == Opened::Serving { Ok(()) } else { Err(format!("the second start ended as {opened:?}")) }
}

/// Every `stride`-th operation with every death; with `deep`, every operation of each recovery as well. Ends early when a
/// case is `None`. The number of cases that passed, or the first that did not.
pub fn run(deep: bool, stride: u64, mut case: impl FnMut(Case) -> Result<Option<Seen>, Failed>) -> Result<u64, Failed> {
    let mut passed = 0;
    for death in 0..DEATHS.len() {
        for operation in (0..).step_by(stride as usize) {
            let Some(seen) = case(Case { death, operation, in_recovery: None })? else { return Ok(passed) };
            passed += 1;
            let recovery = if deep { 0..seen.recovery_operations } else { 0..0 };
            for number in recovery {
                let Some(_) = case(Case { death, operation, in_recovery: Some(number) })? else { return Ok(passed) };
                passed += 1;
            }
            if !seen.crashed {
                break;
            }
        }
    }
    Ok(passed)
}

/// A case and what went wrong in it.
#[derive(Debug)]
pub struct Failed {
    pub case: Case,
    pub report: String,
}
