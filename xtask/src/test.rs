//! `cargo xtask test`: everything that CI runs, in order of what fails soonest.

use crate::process::{command, logged, repository, target_dir};
use crate::server::Subject;
use crate::steps::{self, Done, Step};
use crate::{
    clients, conformance, damage, desks, full, fuzz, guest, initiator, iscsi, kill9, memory, packages, postgres,
    powerloss, tidy,
};
use anyhow::{Result, bail, ensure};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// The steps behind it use what it builds, but for the last one.
const BUILD: &str = "build";
const FUZZ: &str = "fuzz";
const CARGO_LIMIT: Duration = Duration::from_secs(3600);
/// Of the operations of a history, one in so many is followed into its recovery: all six deaths are reached in the time.
const DEEP_STRIDE: u64 = 16;
const SIM_SECONDS: u64 = 150;

#[derive(clap::Args)]
pub struct Options {
    /// Only these steps, separated by commas.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// All but these steps.
    #[arg(long, value_delimiter = ',')]
    skip: Vec<String>,
    /// Go on behind a failed step.
    #[arg(long)]
    keep_going: bool,
    /// Names the steps and runs nothing.
    #[arg(long)]
    list: bool,
    /// Rounds of kill -9.
    #[arg(long, default_value_t = 25)]
    rounds: u64,
    /// Points at which the power fails.
    #[arg(long, default_value_t = 12)]
    points: u64,
    /// Snapshots of a VM on which PostgreSQL runs.
    #[arg(long, default_value_t = 6)]
    snapshots: u32,
    /// Clones of Debian that are booted.
    #[arg(long, default_value_t = 3)]
    boots: usize,
    /// Seconds for each fuzz target.
    #[arg(long, default_value_t = 30)]
    fuzz_seconds: u64,
    /// Seconds of fresh seeds in the simulation.
    #[arg(long, default_value_t = SIM_SECONDS)]
    sim_seconds: u64,
}

pub fn run(options: &Options) -> Result<()> {
    let all = all(options);
    if options.list {
        for step in &all {
            println!("{:<10} {}", step.name, step.what);
        }
        return Ok(());
    }
    for name in options.only.iter().chain(&options.skip) {
        if !all.iter().any(|step| step.name == name) {
            bail!("there is no step {name:?}; `cargo xtask test --list` names them");
        }
    }
    let names: Vec<&str> = all.iter().map(|step| step.name).collect();
    let chosen = chosen(&names, &options.only, &options.skip);
    let chosen: Vec<Step> = all.into_iter().filter(|step| chosen.contains(&step.name)).collect();
    std::fs::create_dir_all(target_dir().join("blackbox"))?;
    if !steps::run(&chosen, options.keep_going)? {
        // Said already, and nothing may follow the count.
        std::process::exit(1);
    }
    Ok(())
}

/// In order. Steps that are to run alone test what there is, not what was built some time ago.
fn chosen<'a>(all: &[&'a str], only: &[String], skip: &[String]) -> Vec<&'a str> {
    let is_in = |list: &[String], name: &str| list.iter().any(|listed| listed == name);
    let build = all.iter().position(|name| *name == BUILD).expect("it is a step");
    let needs_build = all.iter().skip(build + 1).any(|name| *name != FUZZ && is_in(only, name));
    let is_wanted = |name: &str| only.is_empty() || is_in(only, name) || needs_build && name == BUILD;
    all.iter().copied().filter(|name| is_wanted(name) && !is_in(skip, name)).collect()
}

fn all(options: &Options) -> Vec<Step> {
    let kill9 = kill9::Options { rounds: options.rounds, seed: None, load_ms: 1500, peer: false };
    let powerloss = powerloss::Options { points: options.points, seed: None, load_ms: 6000, peer: false };
    let postgres = postgres::Options { snapshots: options.snapshots };
    let desks = desks::Options { boots: options.boots, compare_all: false };
    let (fuzz_seconds, sim_seconds) = (options.fuzz_seconds, options.sim_seconds);
    vec![
        Step::new("packages", "Debian packages that the tests need", || {
            packages::install()?;
            Ok(Done::new(0, ""))
        }),
        Step::new("fmt", "cargo fmt", || cargo("fmt", &["fmt", "--all", "--check"], 1)),
        Step::new("tidy", "purpose lines, layers, licences, documents", || Ok(Done::new(1, tidy::run()?))),
        Step::new("clippy", "cargo clippy, warnings are errors", || {
            cargo("clippy", &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"], 1)
        }),
        Step::new("unit", "unit and property tests", unit),
        Step::new(BUILD, "release build of drystone and sim", || {
            cargo("build", &["build", "--release", "--locked", "-p", "drystone", "-p", "sim"], 0)
        }),
        Step::new("sim", "simulated crashes and faults, fresh seeds", move || simulation(sim_seconds)),
        Step::new("clients", "other people's clients, and bad ones", || {
            clients::run(&clients::Options { check: None, peer: false })
        }),
        Step::new("iscsi", "iSCSI initiators, good and bad", || iscsi::run(None)),
        Step::new("conformance", "libiscsi's suite, every test of it", conformance::run),
        Step::new("damage", "flipped bits, truncation, newer formats", damage::run),
        Step::new("full", "a full disk", || as_root(full::run)),
        Step::new("memory", "a thousand busy vDisks, 256 MiB of memory", memory::run),
        Step::new("kill9", "kill -9 under load, metadata store deleted", move || {
            Ok(Done::new(kill9.rounds, kill9::run(&kill9)?))
        }),
        Step::new("powerloss", "power loss replayed from a recorded write log", move || {
            as_root(|| Ok(Done::new(powerloss.points, powerloss::run(&powerloss)?)))
        }),
        Step::new("postgres", "snapshots under PostgreSQL, each one recovered", move || {
            as_root(|| postgres::run(&postgres))
        }),
        Step::new("guest", "a Debian guest, its controller killed", || {
            as_root(|| Ok(Done::new(1, guest::run(Subject::Drystone)?)))
        }),
        Step::new("desks", "500 clones of Debian, some booted", move || as_root(|| desks::run(&desks))),
        Step::new("initiator", "Linux's iSCSI initiator, in a guest that boots so", || as_root(initiator::run)),
        Step::new(FUZZ, "a short run of each fuzz target", move || fuzz::run(fuzz_seconds)),
    ]
}

/// Loop devices, mounts and debootstrap: without root the step is left out, and says so.
fn as_root(run: impl Fn() -> Result<Done>) -> Result<Done> {
    if rustix::process::geteuid().is_root() { run() } else { Ok(Done::new(0, "LEFT OUT: needs root")) }
}

fn in_repository(arguments: &[&str]) -> Command {
    let mut cargo = command("cargo", arguments);
    cargo.current_dir(repository());
    cargo
}

fn log(name: &str) -> PathBuf {
    target_dir().join("blackbox").join(format!("{name}.log"))
}

fn cargo(name: &str, arguments: &[&str], checks: u64) -> Result<Done> {
    logged(in_repository(arguments), &log(name), CARGO_LIMIT)?;
    Ok(Done::new(checks, ""))
}

fn unit() -> Result<Done> {
    let said =
        logged(in_repository(&["test", "--workspace", "--locked", "--no-fail-fast"]), &log("unit"), CARGO_LIMIT)?;
    let passed = said
        .lines()
        .filter_map(|line| line.strip_prefix("test result: ok. ")?.split(' ').next()?.parse::<u64>().ok())
        .sum();
    Ok(Done::new(passed, format!("{passed} tests")))
}

/// The simulator prints the command that repeats a failure; it is in the log that a failed step shows.
/// Half of the time goes to random histories, an eighth to one short history crashed everywhere, a quarter to another one that is
/// crashed again at every operation of its recoveries, an eighth to one over iSCSI with every mischief at every PDU. All seeds are
/// fresh, and said.
fn simulation(seconds: u64) -> Result<Done> {
    let deep = DEEP_STRIDE.to_string();
    // The same work on every machine, if there is time for it; a third of that is the least.
    let least = |of_default: u64| of_default * seconds / SIM_SECONDS;
    let parts: [(&str, &str, u64, u64, &[&str]); 4] = [
        ("many", "many", seconds / 2, least(170), &["--engine", "node", "--seeds", "500"]),
        ("exhaustive", "exhaustive", seconds / 8, least(80), &["--engine", "node"]),
        ("deep", "exhaustive", seconds / 4, least(90), &["--engine", "node", "--deep", "--stride", &deep]),
        ("iscsi", "iscsi", seconds / 8, least(200), &[]),
    ];
    let said = parts.into_iter().map(|(name, verb, seconds, least, more)| simulate(name, verb, seconds, least, more));
    let said = said.collect::<Result<Vec<_>>>()?;
    Ok(Done::new(said.len() as u64, said.join("; ")))
}

/// Its last words, which begin with how much it did.
fn simulate(name: &str, verb: &str, seconds: u64, least: u64, more: &[&str]) -> Result<String> {
    let program = target_dir().join("release/sim");
    let time = seconds.to_string();
    let arguments = [&[verb, "--seconds", &time], more].concat();
    let said = logged(command(&program.to_string_lossy(), &arguments), &log(&format!("sim-{name}")), CARGO_LIMIT)?;
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("");
    let count = last.split(' ').next().and_then(|count| count.parse::<u64>().ok());
    ensure!(count.is_some_and(|count| count >= least), "{name}: less than {least} in {seconds} s: {last}");
    Ok(last.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_alone_is_built_before() {
        let chosen = |only: &[&str], skip: &[&str]| {
            let [only, skip] = [only, skip].map(|list| list.iter().map(|name| name.to_string()).collect::<Vec<_>>());
            chosen(&["fmt", "unit", BUILD, "sim", "kill9", FUZZ], &only, &skip).join(" ")
        };
        assert_eq!(chosen(&[], &["unit"]), "fmt build sim kill9 fuzz");
        assert_eq!(chosen(&["fmt", FUZZ], &[]), "fmt fuzz");
        assert_eq!(chosen(&["sim", "fmt"], &[]), "fmt build sim");
        assert_eq!(chosen(&["sim"], &[BUILD]), "sim");
    }
}
