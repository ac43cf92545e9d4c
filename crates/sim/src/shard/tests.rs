//! The real shards in the simulated world: repeatable, and a first few seeds of each profile.

use super::*;
use crate::run::profile::{NAMES, Profile};
use crate::run::{Outcome, TRACE_LINES, keep_panics, run_random};

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
