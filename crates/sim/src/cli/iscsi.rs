//! `sim iscsi`: one short history over iSCSI, with every mischief at every PDU.

use super::{Iscsi, fresh_seed};
use sim::journal::Journal;
use sim::run::mischief::{self, Case, Failed, KINDS, run_case};
use sim::run::{guarded, to_see_it_again};
use sim::shard::ShardEngine;
use std::process::ExitCode;
use std::rc::Rc;

#[expect(clippy::disallowed_methods, reason = "the binary's own clock, outside every simulation")]
fn run_all(arguments: &Iscsi, seed: u64) -> Result<(u64, bool), Failed> {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(arguments.seconds);
    let mut in_time = true;
    let passed = mischief::run(arguments.stride.max(1), |case| {
        if std::time::Instant::now() > end {
            in_time = false;
            return Ok(None);
        }
        one(arguments, seed, case).map(Some)
    })?;
    Ok((passed, in_time))
}

fn command(arguments: &Iscsi, seed: u64, case: Case) -> String {
    let steps = arguments.steps;
    format!("cargo run -p sim -- iscsi --seed {seed} --steps {steps} --case {},{}", case.kind, case.pdu)
}

fn one(arguments: &Iscsi, seed: u64, case: Case) -> Result<u64, Failed> {
    to_see_it_again(command(arguments, seed, case));
    let journal = Journal::new();
    let engine = Rc::new(ShardEngine::new(seed));
    guarded(&journal, arguments.trace, || run_case(seed, arguments.steps, engine, journal.clone(), case))
        .map_err(|failure| Failed { case, report: format!("{}\n{}", failure.trace, failure.what) })
}

fn parse_case(text: &str) -> Option<Case> {
    let (kind, pdu) = text.split_once(',')?;
    let kind = kind.trim().parse().ok().filter(|kind| *kind < KINDS.len())?;
    Some(Case { kind, pdu: pdu.trim().parse().ok()? })
}

pub fn run(arguments: &Iscsi) -> ExitCode {
    let seed = arguments.seed.unwrap_or_else(fresh_seed);
    let result = match &arguments.case {
        None => run_all(arguments, seed),
        Some(text) => match parse_case(text) {
            Some(case) => one(arguments, seed, case).map(|_| (1, true)),
            None => {
                eprintln!("{text:?} is no case; write for example 4,120");
                return ExitCode::from(2);
            }
        },
    };
    match result {
        Ok((passed, in_time)) => {
            let end = if in_time { "all of them" } else { "the time was up" };
            println!("{passed} mischiefs survived over iSCSI, {end}, seed {seed}");
            ExitCode::SUCCESS
        }
        Err(Failed { case, report }) => {
            println!("{report}");
            println!("{:?} at PDU {}", KINDS[case.kind], case.pdu);
            println!("to see it again: {}", command(arguments, seed, case));
            ExitCode::FAILURE
        }
    }
}
