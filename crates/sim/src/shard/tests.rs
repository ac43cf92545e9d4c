//! The real shards in the simulated world: repeatable, and a first few seeds of each profile.

use super::*;
use crate::journal::Journal;
use crate::run::exhaustive::{self, Failed, run_case};
use crate::run::profile::{NAMES, Profile};
use crate::run::{Outcome, TRACE_LINES, guarded, keep_panics, run_random};

fn run(name: &str, seed: u64) -> Outcome {
    let profile = Profile::named(name).expect("a profile of the list");
    run_random(seed, profile, Rc::new(ShardEngine::new(seed)), u64::MAX, TRACE_LINES)
}

#[test]
fn the_same_seed_gives_the_same_digest() {
    keep_panics();
    for name in NAMES {
        assert_eq!(run(name, 7).digest, run(name, 7).digest, "profile {name}");
    }
    assert_ne!(run("crash", 7).digest, run("crash", 8).digest);
}

/// Short histories of hardly anything but snapshots, clones and rollbacks, crashed at every few operations.
#[test]
fn snapshots_survive_a_crash_anywhere() {
    keep_panics();
    let profile = Profile::named("snap-often").expect("a profile of the list");
    for seed in 1..5 {
        let passed = exhaustive::run(false, 5, |case| {
            let (journal, engine) = (Journal::new(), Rc::new(ShardEngine::new(seed)));
            let run = || run_case(seed, 16, &profile, engine, journal.clone(), case);
            let result = guarded(&journal, TRACE_LINES, run);
            result.map(Some).map_err(|failure| Failed { case, report: format!("{}\n{}", failure.what, failure.trace) })
        });
        let passed = passed.unwrap_or_else(|failed| panic!("seed {seed}, {:?}: {}", failed.case, failed.report));
        assert!(passed > 30, "only {passed} cases");
    }
}
