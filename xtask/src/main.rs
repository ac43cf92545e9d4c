//! Checks, tests, benchmarks and measurements of this repository: `cargo xtask test`, `bench`, and their parts.

mod bench;
mod clients;
mod conformance;
mod content;
mod damage;
mod desks;
mod full;
mod fuse;
mod fuzz;
mod guest;
mod guest_image;
mod http;
mod initiator;
mod iscsi;
mod kill9;
mod layout;
mod load;
mod memory;
mod nbd;
mod packages;
mod postgres;
mod powerloss;
mod process;
mod random;
mod server;
mod steps;
mod test;
mod tidy;
mod write_log;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(about, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Everything that CI runs: style, unit tests, simulation, other people's clients, crashes, power loss, a guest, fuzzing.
    Test(test::Options),
    /// Compares drystone with its peers on this machine and writes docs/benchmarks.md. Gates nothing.
    Bench(bench::Options),
    /// Rounds of kill -9 under load, against the release binary.
    Kill9(kill9::Options),
    /// Rebuilds disk images at random points of a recorded write log and checks every acknowledged flush.
    Powerloss(powerloss::Options),
    /// PostgreSQL under load on two vDisks of a VM: every clone of its snapshots recovers and is whole.
    Postgres(postgres::Options),
    /// Five hundred clones of a Debian image in one call; some of them are booted.
    Desks(desks::Options),
    /// Boots a Debian guest on a vDisk, kills the controller under it, and looks for every synced file.
    Guest {
        /// Against nbdkit instead, to try the harness.
        #[arg(long)]
        peer: bool,
    },
    /// nbdinfo, nbdcopy, qemu-img, qemu-io, libnbd, fio, bad clients and bad input against the release binary.
    Clients(clients::Options),
    /// qemu-img, qemu-io and libiscsi's programs over iSCSI, access rules, what survives, bad initiators.
    Iscsi {
        /// Only checks whose name contains this.
        #[arg(long)]
        check: Option<String>,
    },
    /// A Debian guest that boots from an iSCSI vDisk uses Linux's initiator: CHAP, digests, multipath, reservations, kills.
    Initiator,
    /// libiscsi's conformance suite against the release binary; compares docs/conformance.md with what was found.
    Conformance,
    /// Layering, purpose lines, file lengths, licences.
    Tidy,
    /// Flipped bits, truncation, corrupt and newer superblocks.
    Damage,
    /// A full disk.
    Full,
    /// A short run of every fuzz target.
    Fuzz {
        #[arg(long, default_value_t = 30)]
        seconds: u64,
    },
    /// How flushed appends fare in different layouts on a file system; docs/decisions/0001 is built on it.
    Layout(layout::Options),
    /// Prints the Debian packages the tests need; `--install` installs them.
    Packages {
        #[arg(long)]
        install: bool,
        /// Those of the servers that the benchmark compares with, instead.
        #[arg(long)]
        peers: bool,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::Test(options) => test::run(&options),
        Verb::Bench(options) => bench::run(&options),
        Verb::Kill9(options) => kill9::run_alone(&options),
        Verb::Powerloss(options) => powerloss::run_alone(&options),
        Verb::Postgres(options) => postgres::run_alone(&options),
        Verb::Desks(options) => desks::run_alone(&options),
        Verb::Guest { peer } => guest::run_alone(peer),
        Verb::Clients(options) => clients::run_alone(&options),
        Verb::Iscsi { check } => iscsi::run_alone(check),
        Verb::Initiator => initiator::run_alone(),
        Verb::Conformance => said(server::build().and_then(|()| conformance::run())),
        Verb::Tidy => tidy::run().map(|report| println!("{report}")),
        Verb::Damage => said(server::build().and_then(|()| damage::run())),
        Verb::Full => said(server::build().and_then(|()| full::run())),
        Verb::Fuzz { seconds } => said(fuzz::run(seconds)),
        Verb::Layout(options) => layout::run(&options),
        Verb::Packages { install: true, peers: true } => packages::install_peers(),
        Verb::Packages { install: true, peers: false } => packages::install(),
        Verb::Packages { install: false, peers } => {
            let names = if peers { &packages::PEERS[..] } else { &packages::NEEDED };
            println!("{}", names.join(" "));
            Ok(())
        }
    }
}

fn said(done: Result<steps::Done>) -> Result<()> {
    done.map(|done| println!("{}", done.said))
}
