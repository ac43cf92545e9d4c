//! `sim run`: one seed, twice, because a run that cannot be repeated proves nothing.

use super::{Common, Run};
use sim::run::profile::Profile;
use sim::run::{Outcome, run_random, to_see_it_again};
use std::process::ExitCode;

pub fn run(arguments: &Run) -> ExitCode {
    if let Some(level) = arguments.log {
        tracing_subscriber::fmt().with_max_level(level).without_time().init();
    }
    let once = || -> Result<(Profile, Outcome), String> {
        let profile = arguments.common.profile(arguments.seed)?;
        let (seed, flags) = (arguments.seed, arguments.common.flags(&profile));
        to_see_it_again(format!("cargo run -p sim -- run --seed {seed} {flags}"));
        let engine = arguments.common.engine(arguments.seed)?;
        Ok((profile.clone(), run_random(arguments.seed, profile, engine, arguments.steps, arguments.trace)))
    };
    let (profile, first, second) = match (once(), once()) {
        (Ok((profile, first)), Ok((_, second))) => (profile, first, second),
        (Err(error), _) | (_, Err(error)) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    if first.digest != second.digest {
        println!("seed {} is not repeatable: digests {:016x} and {:016x}", arguments.seed, first.digest, second.digest);
        return ExitCode::FAILURE;
    }
    println!("seed {} profile {}: {} steps, digest {:016x}", arguments.seed, profile.name, first.steps, first.digest);
    match first.failure {
        None => ExitCode::SUCCESS,
        Some(failure) => {
            println!("{}\n{}", failure.trace, failure.what);
            ExitCode::FAILURE
        }
    }
}

/// The fewest steps found with which the seed still fails, by halving and by single steps.
pub fn shorten(seed: u64, common: &Common, steps: u64) -> u64 {
    let fails = |steps: u64| {
        let (Ok(profile), Ok(engine)) = (common.profile(seed), common.engine(seed)) else { return false };
        run_random(seed, profile, engine, steps, 0).failure.is_some()
    };
    let (mut good, mut bad) = (0, steps);
    // Failing is not monotonous in the number of steps; halving finds some short run, if not the shortest.
    for _ in 0..12 {
        if bad - good < 2 {
            break;
        }
        let middle = good + (bad - good) / 2;
        if fails(middle) {
            bad = middle;
        } else {
            good = middle;
        }
    }
    bad
}
