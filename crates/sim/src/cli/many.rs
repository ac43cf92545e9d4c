//! `sim many`: as many seeds as the time allows, on several threads, each seed a simulation of its own.

use super::run::shorten;
use super::{Many, fresh_seed};
use sim::run::{Outcome, TRACE_LINES, run_random, to_see_it_again};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// One seed in so many is run twice, to compare the digests.
const REPEATED: u64 = 16;

/// A healthy seed takes a tenth of it; worth a look even if it passes.
const SLOW: std::time::Duration = std::time::Duration::from_secs(5);

struct Progress {
    next: AtomicU64,
    steps: AtomicU64,
    stop: AtomicBool,
    /// Seeds run, by profile.
    passed: Mutex<BTreeMap<&'static str, u64>>,
    failed: Mutex<Vec<u64>>,
}

#[expect(clippy::disallowed_methods, reason = "the binary's own clock, outside every simulation")]
pub fn run(arguments: &Many) -> ExitCode {
    let from = arguments.from.unwrap_or_else(fresh_seed);
    if let Err(error) = arguments.common.engine(from).map(|_| ()).and(arguments.common.profile(from).map(|_| ())) {
        eprintln!("{error}");
        return ExitCode::from(2);
    }
    println!("seeds from {from}, at most {} s", arguments.seconds);
    let end = std::time::Instant::now() + std::time::Duration::from_secs(arguments.seconds);
    let progress = Progress {
        next: AtomicU64::new(from),
        steps: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        passed: Mutex::default(),
        failed: Mutex::default(),
    };
    let work = || {
        while std::time::Instant::now() < end && !progress.stop.load(Ordering::Relaxed) {
            let seed = progress.next.fetch_add(1, Ordering::Relaxed);
            if seed - from >= arguments.seeds {
                return;
            }
            one(arguments, seed, &progress);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads {
            scope.spawn(work);
        }
    });
    summarise(&progress)
}

#[expect(clippy::disallowed_methods, reason = "the binary's own clock, outside every simulation")]
fn one(arguments: &Many, seed: u64, progress: &Progress) {
    let lines = if arguments.keep_going { 0 } else { TRACE_LINES };
    let once = || -> Option<(&'static str, Outcome)> {
        let profile = arguments.common.profile(seed).ok()?;
        let flags = arguments.common.flags(&profile);
        to_see_it_again(format!("cargo run -p sim -- run --seed {seed} {flags}"));
        Some((profile.name, run_random(seed, profile, arguments.common.engine(seed).ok()?, u64::MAX, lines)))
    };
    let begun = std::time::Instant::now();
    let Some((name, outcome)) = once() else { return };
    let took = begun.elapsed();
    if took > SLOW {
        println!("seed {seed}, profile {name}, took {} s", took.as_secs());
    }
    progress.steps.fetch_add(outcome.steps, Ordering::Relaxed);
    if let Some(failure) = outcome.failure {
        report(arguments, seed, outcome.steps, &format!("{}\n{}", failure.what, failure.trace), progress);
        return;
    }
    if seed.is_multiple_of(REPEATED)
        && let Some((_, second)) = once()
        && second.digest != outcome.digest
    {
        let what = format!("not repeatable: digests {:016x} and {:016x}", outcome.digest, second.digest);
        report(arguments, seed, outcome.steps, &what, progress);
        return;
    }
    *progress.passed.lock().expect("no thread panics with the lock").entry(name).or_default() += 1;
}

fn report(arguments: &Many, seed: u64, steps: u64, what: &str, progress: &Progress) {
    let Ok(profile) = arguments.common.profile(seed) else { return };
    let fewer = if arguments.keep_going { steps } else { shorten(seed, &arguments.common, steps) };
    let mut failed = progress.failed.lock().expect("no thread panics with the lock");
    println!("\n--- seed {seed} failed ---\n{what}");
    let flags = arguments.common.flags(&profile);
    println!("to see it again: cargo run -p sim -- run --seed {seed} --steps {fewer} {flags}");
    failed.push(seed);
    if !arguments.keep_going {
        progress.stop.store(true, Ordering::Relaxed);
    }
}

fn summarise(progress: &Progress) -> ExitCode {
    let passed = progress.passed.lock().expect("the threads have ended");
    let failed = progress.failed.lock().expect("the threads have ended");
    let count: u64 = passed.values().sum();
    println!("{count} seeds passed, {} steps, by profile {passed:?}", progress.steps.load(Ordering::Relaxed));
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("{} seeds failed: {failed:?}", failed.len());
    ExitCode::FAILURE
}
