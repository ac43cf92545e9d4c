//! `sim exhaustive`: one short history, crashed at every disk operation, and in every recovery.

use super::{Exhaustive, fresh_seed};
use sim::journal::Journal;
use sim::run::exhaustive::{self as cases, Case, DEATHS, Failed, Seen, run_case};
use sim::run::{guarded, to_see_it_again};
use std::process::ExitCode;

#[expect(clippy::disallowed_methods, reason = "the binary's own clock, outside every simulation")]
fn run_all(arguments: &Exhaustive, seed: u64) -> Result<(u64, bool), Failed> {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(arguments.seconds);
    let mut in_time = true;
    let passed = cases::run(arguments.deep, arguments.stride.max(1), |case| {
        if std::time::Instant::now() > end {
            in_time = false;
            return Ok(None);
        }
        one(arguments, seed, case).map(Some)
    })?;
    Ok((passed, in_time))
}

fn command(arguments: &Exhaustive, seed: u64, case: Case) -> String {
    let Exhaustive { steps, common, .. } = arguments;
    let profile = common.profile.as_deref().unwrap_or("crash");
    let recovery = case.in_recovery.map_or(String::new(), |number| format!(",{number}"));
    let case = format!("{},{}{recovery}", case.death, case.operation);
    let flags = format!("--profile {profile} --engine {}", common.engine);
    format!("cargo run -p sim -- exhaustive --seed {seed} --steps {steps} {flags} --case {case}")
}

fn one(arguments: &Exhaustive, seed: u64, case: Case) -> Result<Seen, Failed> {
    to_see_it_again(command(arguments, seed, case));
    let failed = |report| Failed { case, report };
    let mut profile = arguments.common.profile(1).map_err(failed)?;
    if arguments.common.profile.is_none() {
        profile = sim::run::profile::Profile::named("crash").expect("it is in the list");
    }
    let engine = arguments.common.engine(seed).map_err(failed)?;
    let journal = Journal::new();
    guarded(&journal, arguments.trace, || run_case(seed, arguments.steps, &profile, engine, journal.clone(), case))
        .map_err(|failure| failed(format!("{}\n{}", failure.trace, failure.what)))
}

fn parse_case(text: &str) -> Option<Case> {
    let numbers: Vec<u64> = text.split(',').map(|part| part.trim().parse().ok()).collect::<Option<_>>()?;
    let death = |number: u64| usize::try_from(number).ok().filter(|death| *death < DEATHS.len());
    match numbers[..] {
        [number, operation] => Some(Case { death: death(number)?, operation, in_recovery: None }),
        [number, operation, recovery] => Some(Case { death: death(number)?, operation, in_recovery: Some(recovery) }),
        _ => None,
    }
}

pub fn run(arguments: &Exhaustive) -> ExitCode {
    let seed = arguments.seed.unwrap_or_else(fresh_seed);
    let result = match &arguments.case {
        None => run_all(arguments, seed),
        Some(text) => match parse_case(text) {
            Some(case) => one(arguments, seed, case).map(|_| (1, true)),
            None => {
                eprintln!("{text:?} is no case; write for example 4,120 or 4,120,7");
                return ExitCode::from(2);
            }
        },
    };
    match result {
        Ok((passed, in_time)) => {
            let end = if in_time { "all of them" } else { "the time was up" };
            println!("{passed} crashes survived, {end}, seed {seed}");
            ExitCode::SUCCESS
        }
        Err(Failed { case, report }) => {
            println!("{report}");
            println!("died as {:?}", DEATHS[case.death]);
            println!("to see it again: {}", command(arguments, seed, case));
            ExitCode::FAILURE
        }
    }
}
