//! Short histories over iSCSI, with one mischief at one PDU: every kind of it, at every PDU.

use super::profile::Profile;
use super::simulation::{Opened, Simulation, Verdict};
use crate::disk::{Crash, InFlight};
use crate::engine::Engine;
use crate::iscsi::OverIscsi;
use crate::iscsi::weather::{Function, Mischief, Weather};
use crate::journal::Journal;
use std::rc::Rc;

pub const KINDS: [Mischief; 11] = [
    Mischief::CutBefore,
    Mischief::CutInside,
    Mischief::DamageHeader,
    Mischief::DamageData,
    Mischief::Manage(Function::AbortTask),
    Mischief::Manage(Function::AbortTaskSet),
    Mischief::Manage(Function::ClearTaskSet),
    Mischief::Manage(Function::LogicalUnitReset),
    Mischief::Manage(Function::TargetWarmReset),
    Mischief::Manage(Function::TargetColdReset),
    Mischief::Manage(Function::NexusReset),
];

/// What is done, and at which PDU, counted from the first over all connections and directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    pub kind: usize,
    pub pdu: u64,
}

/// Plays the history of `seed`, with the mischief of the case; what was acknowledged must be there afterwards, and after a
/// kill of the node again. PDUs that the history took.
pub fn run_case(seed: u64, steps: u64, engine: Rc<dyn Engine>, journal: Rc<Journal>, case: Case) -> Verdict<u64> {
    let planned = Some((case.pdu, KINDS[case.kind]));
    let weather = Rc::new(Weather { planned, digests: Some((true, true)), ..Weather::calm(seed) });
    let engine = OverIscsi::in_weather(engine, weather.clone(), seed);
    let profile = Profile::named("iscsi").expect("it is in the list");
    // One vDisk and few clients: what is under way is to meet.
    let profile = Profile { verbs: false, vdisks_max: 1, request_bytes_max: 24 << 10, depth_max: 4, ..profile };
    let mut simulation = Simulation::new(seed, profile, engine, journal);
    expect_serving(simulation.open(None, false)?)?;
    simulation.audit()?;
    simulation.work(steps, None)?;
    let pdus = weather.pdus.get();
    simulation.audit()?;
    simulation.crash(Crash::Kill, InFlight::Chance);
    expect_serving(simulation.open(None, false)?)?;
    simulation.audit()?;
    Ok(pdus)
}

fn expect_serving(opened: Opened) -> Verdict<()> {
    if opened == Opened::Serving { Ok(()) } else { Err(format!("a start ended as {opened:?}")) }
}

/// Every kind at every `stride`-th PDU, in the order of PDUs, until the histories are over before the mischief, or a case is
/// `None`. The number of cases that passed, or the first that did not.
pub fn run(stride: u64, mut case: impl FnMut(Case) -> Result<Option<u64>, Failed>) -> Result<u64, Failed> {
    let mut passed = 0;
    let mut left: Vec<usize> = (0..KINDS.len()).collect();
    for pdu in (0..).step_by(stride as usize) {
        let mut longer = Vec::new();
        for kind in left {
            let Some(pdus) = case(Case { kind, pdu })? else { return Ok(passed) };
            if pdus > pdu {
                longer.push(kind);
            }
            passed += 1;
        }
        left = longer;
        if left.is_empty() {
            break;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::{guarded, keep_panics};
    use crate::shard::ShardEngine;

    #[test]
    fn the_engine_keeps_what_it_acknowledged_over_iscsi_whatever_happens_to_one_pdu() {
        keep_panics();
        let passed = run(31, |case| {
            let journal = Journal::new();
            let engine = Rc::new(ShardEngine::new(3));
            let result = guarded(&journal, 60, || run_case(3, 6, engine, journal.clone(), case));
            result.map(Some).map_err(|failure| Failed { case, report: format!("{}\n{}", failure.trace, failure.what) })
        });
        let passed = passed.unwrap_or_else(|failed| panic!("{:?}: {}", failed.case, failed.report));
        assert!(passed > 20, "{passed} cases");
    }
}
