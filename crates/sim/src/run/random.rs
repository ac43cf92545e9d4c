//! Long seeded histories: rounds of work, each ended by some crash, a recovery that may crash itself, and an audit.

use super::simulation::{Opened, SETTLE_NS, Simulation, Verdict};
use crate::disk::{Crash, FaultPlan, InFlight, Survival};
use crate::rng::Chance;

/// How often a start may be refused or cut off before the faults are switched off.
const STARTS_MAX: u64 = 4;

/// A full disk has this much less than it needs.
const ROOMY_BYTES: u64 = 64 << 20;

pub fn run(simulation: &mut Simulation, steps_max: u64) -> Verdict<()> {
    let profile = simulation.model.borrow().profile.clone();
    let rounds = simulation.rng.between(1, profile.rounds_max);
    start(simulation, false)?;
    simulation.audit()?;
    for _ in 0..rounds {
        let taken = simulation.model.borrow().steps;
        let steps = simulation.rng.between(1, profile.steps_per_round_max).min(steps_max.saturating_sub(taken));
        round(simulation, steps)?;
        if taken + steps >= steps_max {
            break;
        }
    }
    finish(simulation)
}

fn round(simulation: &mut Simulation, steps: u64) -> Verdict<()> {
    let profile = simulation.model.borrow().profile.clone();
    simulation.set_faults();
    if profile.fills_disk {
        squeeze(simulation);
    }
    // A third of the rounds end with everything answered; the others in the middle of something.
    let crash_after = match simulation.rng.below(3) {
        0 => None,
        _ => Some(simulation.rng.below(3 * steps + 2)),
    };
    let crashed = simulation.work(steps, crash_after)?;
    if !crashed && simulation.rng.below(2) == 0 {
        let duration_ns = simulation.rng.below(30_000_000_000);
        simulation.idle(duration_ns)?;
    }
    if !crashed && simulation.rng.below(3) == 0 {
        simulation.disk.set_faults(FaultPlan::none());
        simulation.shutdown()?;
    }
    let (crash, in_flight) = simulation.any_crash();
    simulation.crash(crash, in_flight);
    let mut lost = false;
    if profile.loses_metadata && simulation.rng.below(2) == 0 {
        lost = simulation.engine.lose_metadata();
    }
    if profile.rot_max > 0 && simulation.rng.below(2) == 0 && simulation.disk.damage().corruptions < 2 {
        simulation.disk.rot();
    }
    start(simulation, lost)?;
    simulation.audit()
}

/// Leaves room for a little more than there is.
fn squeeze(simulation: &mut Simulation) {
    let tight = simulation.rng.below(3) != 0;
    let capacity = match tight {
        true => simulation.disk.allocated_bytes() + (simulation.rng.below(512) << 10),
        false => ROOMY_BYTES,
    };
    simulation.disk.set_capacity(capacity);
    let mut model = simulation.model.borrow_mut();
    model.is_tight = tight;
}

/// Brings a node up, through crashes and injected errors on the way.
fn start(simulation: &mut Simulation, recover: bool) -> Verdict<()> {
    for attempt in 0.. {
        let last = attempt >= STARTS_MAX;
        if last {
            simulation.disk.set_faults(FaultPlan::none());
            simulation.disk.set_capacity(ROOMY_BYTES);
            simulation.model.borrow_mut().is_tight = false;
        }
        let crash_after = match simulation.rng.below(3) {
            0 if !last => Some(simulation.rng.below(30)),
            _ => None,
        };
        match simulation.open(crash_after, recover)? {
            Opened::Serving => return Ok(()),
            Opened::Refused if last => return Err("the node does not start although all faults are off".into()),
            Opened::Refused | Opened::Crashed => {
                let (crash, in_flight) = simulation.any_crash();
                simulation.crash(crash, in_flight);
            }
        }
    }
    unreachable!("the last attempt returns")
}

/// With all faults off everything must work again: write, restart cleanly, lose power, and find it all.
fn finish(simulation: &mut Simulation) -> Verdict<()> {
    simulation.disk.set_faults(FaultPlan::none());
    simulation.disk.set_capacity(ROOMY_BYTES);
    simulation.model.borrow_mut().is_tight = false;
    simulation.crash(Crash::Kill, InFlight::Chance);
    start(simulation, false)?;
    simulation.audit()?;
    simulation.work(20, None)?;
    simulation.shutdown()?;
    simulation.crash(Crash::PowerLoss(Survival::Nothing), InFlight::Undone);
    start(simulation, false)?;
    simulation.audit()?;
    let (snapshots, corruptions) = {
        let model = simulation.model.borrow();
        (model.profile.snapshots, model.disk.damage().corruptions)
    };
    if snapshots != Chance::NEVER && corruptions == 0 { empty(simulation) } else { Ok(()) }
}

/// Everything is deleted, in any order: nothing takes space afterwards, nor after a crash.
fn empty(simulation: &mut Simulation) -> Verdict<()> {
    simulation.delete_everything()?;
    let left = |simulation: &Simulation| match simulation.node().groups_used() {
        0 => Ok(()),
        count => Err(format!("everything is deleted, but {count} extent groups take space")),
    };
    simulation.idle(SETTLE_NS)?;
    left(simulation)?;
    let (crash, in_flight) = simulation.any_crash();
    simulation.crash(crash, in_flight);
    start(simulation, false)?;
    simulation.audit()?;
    simulation.idle(SETTLE_NS)?;
    left(simulation)
}
