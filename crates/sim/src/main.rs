//! The binary `sim`: runs seeds, finds failures, says how to see them again.

mod cli;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    sim::run::keep_panics();
    match cli::Command::parse().verb {
        cli::Verb::Run(run) => cli::run::run(&run),
        cli::Verb::Many(many) => cli::many::run(&many),
        cli::Verb::Exhaustive(exhaustive) => cli::exhaustive::run(&exhaustive),
        cli::Verb::Iscsi(iscsi) => cli::iscsi::run(&iscsi),
    }
}
