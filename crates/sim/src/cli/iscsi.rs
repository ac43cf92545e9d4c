//! `sim iscsi`: one short history over iSCSI, with every mischief at every PDU.

use super::Iscsi;
use sim::journal::Journal;
use sim::run::mischief::{self, Case, Failed, KINDS, run_case};
use sim::run::{guarded, to_see_it_again};
use sim::shard::ShardEngine;
use std::process::ExitCode;
use std::rc::Rc;

#[expect(clippy::disallowed_methods, reason = "the binary's own clock, outside every simulation")]
fn run_all(arguments: &Iscsi) -> Result<(u64, bool), Failed> {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(arguments.seconds);
    let mut in_time = true;
    let passed = mischief::run(arguments.stride.max(1), |case| {
        if std::time::Instant::now() > end {
            in_time = false;
            return Ok(0);
        }
        one(arguments, case)
    })?;
    Ok((passed, in_time))
}

fn command(arguments: &Iscsi, case: Case) -> String {
    let Iscsi { seed, steps, .. } = arguments;
    format!("cargo run -p sim -- iscsi --seed {seed} --steps {steps} --case {},{}", case.kind, case.pdu)
}

fn one(arguments: &Iscsi, case: Case) -> Result<u64, Failed> {
    to_see_it_again(command(arguments, case));
    let journal = Journal::new();
    let engine = Rc::new(ShardEngine::new(arguments.seed));
    guarded(&journal, arguments.trace, || run_case(arguments.seed, arguments.steps, engine, journal.clone(), case))
        .map_err(|failure| Failed { case, report: format!("{}\n{}", failure.trace, failure.what) })
}

fn parse_case(text: &str) -> Option<Case> {
    let (kind, pdu) = text.split_once(',')?;
    let kind = kind.trim().parse().ok().filter(|kind| *kind < KINDS.len())?;
    Some(Case { kind, pdu: pdu.trim().parse().ok()? })
}

pub fn run(arguments: &Iscsi) -> ExitCode {
    let result = match &arguments.case {
        None => run_all(arguments),
        Some(text) => match parse_case(text) {
            Some(case) => one(arguments, case).map(|_| (1, true)),
            None => {
                eprintln!("{text:?} is no case; write for example 4,120");
                return ExitCode::from(2);
            }
        },
    };
    match result {
        Ok((passed, in_time)) => {
            let end = if in_time { "all of them" } else { "the time was up" };
            println!("{passed} mischiefs survived over iSCSI, {end}");
            ExitCode::SUCCESS
        }
        Err(Failed { case, report }) => {
            println!("{report}");
            println!("{:?} at PDU {}", KINDS[case.kind], case.pdu);
            println!("to see it again: {}", command(arguments, case));
            ExitCode::FAILURE
        }
    }
}
