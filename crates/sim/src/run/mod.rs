//! Whole runs: a profile and a seed become a history of work, crashes and recoveries, judged by the oracle.

mod audit;
mod client;
mod clones;
mod diff;
mod emptied;
pub mod exhaustive;
pub mod mischief;
mod model;
pub mod profile;
pub mod random;
mod rewind;
mod sets;
pub mod simulation;
mod snapshots;
mod verbs;

use crate::engine::Engine;
use crate::iscsi::OverIscsi;
use crate::journal::Journal;
use profile::Profile;
use simulation::{Simulation, Verdict};
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

/// Events shown with a failure, unless more are asked for.
pub const TRACE_LINES: usize = 60;

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub digest: u64,
    pub steps: u64,
    /// What went wrong, and the events that led to it.
    pub failure: Option<Failure>,
}

#[derive(Clone, Debug)]
pub struct Failure {
    pub what: String,
    pub trace: String,
}

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
    static COMMAND: RefCell<String> = const { RefCell::new(String::new()) };
}

/// What this thread runs from here on can be seen again so: said when a panic ends the process.
pub fn to_see_it_again(command: String) {
    COMMAND.with(|slot| *slot.borrow_mut() = command);
}

/// Panics of a simulated node become failures of its run; their text is kept instead of printed. In a build in which a panic ends
/// the process there is no run any more that could fail: the text is printed, with the command. Panics elsewhere are none of
/// its business.
pub fn keep_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !IS_GUARDED.get() {
                return usual(info);
            }
            let backtrace = std::backtrace::Backtrace::force_capture().to_string();
            let ours: Vec<&str> = backtrace.lines().filter(|line| line.contains("crates/")).take(12).collect();
            let text = format!("{info}\n{}", ours.join("\n"));
            if cfg!(panic = "abort") {
                println!("{text}\nto see it again: {}", COMMAND.with(|command| command.borrow().clone()));
            }
            PANIC.with(|slot| *slot.borrow_mut() = Some(text));
        }));
    });
}

/// Runs `body`; a panic in it is a failure like any other.
pub fn guarded<T>(journal: &Rc<Journal>, trace_lines: usize, body: impl FnOnce() -> Verdict<T>) -> Result<T, Failure> {
    IS_GUARDED.set(true);
    let result = catch_unwind(AssertUnwindSafe(body));
    IS_GUARDED.set(false);
    let result = result.unwrap_or_else(|payload| {
        let kept = PANIC.with(|slot| slot.borrow_mut().take());
        let text = payload.downcast_ref::<String>().cloned();
        let text = text.or_else(|| payload.downcast_ref::<&str>().map(|text| text.to_string()));
        Err(format!("panic: {}", kept.or(text).unwrap_or_default()))
    });
    result.map_err(|what| Failure { what, trace: journal.tail(trace_lines) })
}

/// One random history, at most `steps_max` steps of it.
pub fn run_random(seed: u64, profile: Profile, engine: Rc<dyn Engine>, steps_max: u64, trace_lines: usize) -> Outcome {
    let engine: Rc<dyn Engine> = match profile.over_iscsi {
        Some(network) => OverIscsi::new(engine, network, seed),
        None => engine,
    };
    let journal = Journal::new();
    // A panic takes the simulation with it, and how far it came is needed to see it again.
    let model = Rc::new(RefCell::new(None));
    let kept = model.clone();
    let result = guarded(&journal, trace_lines, || {
        let mut simulation = Simulation::new(seed, profile, engine, journal.clone());
        kept.replace(Some(simulation.model.clone()));
        random::run(&mut simulation, steps_max)
    });
    let steps = model.borrow().as_ref().map_or(0, |model| model.borrow().steps);
    // What the panic has left over may panic as well.
    let dropped = guarded(&journal, trace_lines, || {
        drop(model.take());
        Ok(())
    });
    Outcome { digest: journal.digest(), steps, failure: result.and(dropped).err() }
}
