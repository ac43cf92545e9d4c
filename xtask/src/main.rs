//! Checks, tests, benchmarks and measurements of this repository: `cargo xtask test`, `bench`, and their parts.

mod content;
mod guest;
mod guest_image;
mod http;
mod kill9;
mod load;
mod nbd;
mod packages;
mod powerloss;
mod process;
mod random;
mod server;
mod write_log;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Everything that CI runs: style, unit tests, simulation, other people's clients, crashes, power loss, a guest, fuzzing.
    /// Compares drystone with its peers on this machine and writes docs/benchmarks.md. Gates nothing.
    /// Layering, purpose lines, file lengths, licences.
    /// Rounds of kill -9 under load, against the release binary.
    Kill9(kill9::Options),
    /// Rebuilds disk images at random points of a recorded write log and checks every acknowledged flush.
    Powerloss(powerloss::Options),
    /// Boots a Debian guest on a vDisk, kills the controller under it, and looks for every synced file.
    Guest {
        /// Against nbdkit instead, to try the harness.
        #[arg(long)]
        peer: bool,
    },
    /// Prints the Debian packages the tests need; `--install` installs them.
    Packages {
        #[arg(long)]
        install: bool,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().verb {
        Verb::Kill9(options) => kill9::run_alone(&options),
        Verb::Powerloss(options) => powerloss::run_alone(&options),
        Verb::Guest { peer } => guest::run_alone(peer),
        Verb::Packages { install: true } => packages::install(),
        Verb::Packages { install: false } => {
            println!("{}", packages::NEEDED.join(" "));
            Ok(())
        }
    }
}
