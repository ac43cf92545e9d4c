//! The command line of `sim`.

pub mod exhaustive;
pub mod iscsi;
pub mod many;
pub mod run;

use clap::{Args, Parser, Subcommand};
use sim::engine::Engine;
use sim::run::profile::{NAMES, Profile};
use sim::shard::ShardEngine;
use sim::toy::{Bug, Toy};
use std::rc::Rc;

/// Simulates whole nodes on faulty disks and checks that they keep their promises.
#[derive(Parser)]
#[command(name = "sim")]
pub struct Command {
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Subcommand)]
pub enum Verb {
    /// Runs one seed, twice, and compares the digests.
    Run(Run),
    /// Runs many seeds until the time is up.
    Many(Many),
    /// Crashes a short history at every disk operation.
    Exhaustive(Exhaustive),
    /// Over iSCSI, loses the connection of a short history at every PDU, damages every PDU, and has every task management
    /// function come behind every PDU.
    Iscsi(Iscsi),
}

#[derive(Args, Clone)]
pub struct Common {
    /// One of calm, crash, deep, wide, sync, error, full, corrupt, metadata, iscsi, iscsi-cut, iscsi-manage,
    /// iscsi-damage, or one of the first nine with snapshots (snap-calm
    /// and so on), or snap-often, or with the past as well (rewind-calm and so on), or with copies
    /// (copies-crash and so on); by default the seed chooses.
    #[arg(long)]
    pub profile: Option<String>,
    /// What to test: node, or toy (which is correct and only proves the simulation itself).
    #[arg(long, default_value = "node")]
    pub engine: String,
}

impl Common {
    pub fn profile(&self, seed: u64) -> Result<Profile, String> {
        match &self.profile {
            None => Ok(Profile::of_seed(seed)),
            Some(name) => {
                Profile::named(name).ok_or_else(|| format!("unknown profile {name:?}; there are {}", NAMES.join(", ")))
            }
        }
    }

    pub fn engine(&self, seed: u64) -> Result<Rc<dyn Engine>, String> {
        match self.engine.as_str() {
            "node" => Ok(Rc::new(ShardEngine::new(seed))),
            "toy" => Ok(Rc::new(Toy { bug: Bug::None })),
            other => Err(format!("unknown engine {other:?}; there are node, toy")),
        }
    }

    /// The flags that a command to reproduce needs besides the seed.
    pub fn flags(&self, profile: &Profile) -> String {
        format!("--profile {} --engine {}", profile.name, self.engine)
    }
}

/// A time of day as a seed: fresh seeds on every run, printed so that they can be run again.
#[expect(clippy::disallowed_methods, reason = "the binary's own clock, outside every simulation")]
fn fresh_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(1, |since| since.as_secs() * 1_000)
}

#[derive(Args)]
pub struct Run {
    #[arg(long)]
    pub seed: u64,
    /// Events shown with a failure.
    #[arg(long, default_value_t = sim::run::TRACE_LINES)]
    pub trace: usize,
    /// Prints what the node logs, of this level and above: error, warn, info, debug.
    #[arg(long)]
    pub log: Option<tracing_subscriber::filter::LevelFilter>,
    /// Stops after so many steps of the workload.
    #[arg(long, default_value_t = u64::MAX, hide_default_value = true)]
    pub steps: u64,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Args)]
pub struct Many {
    #[arg(long, default_value_t = u64::MAX, hide_default_value = true)]
    pub seeds: u64,
    /// First seed; without it one is drawn from the clock and printed.
    #[arg(long)]
    pub from: Option<u64>,
    #[arg(long, default_value_t = 180)]
    pub seconds: u64,
    #[arg(long, default_value_t = 2)]
    pub threads: u64,
    /// Goes on after a failure, to see how many there are.
    #[arg(long)]
    pub keep_going: bool,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Args)]
pub struct Exhaustive {
    /// Of the history; without it one is drawn from the clock and printed.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Length of the history.
    #[arg(long, default_value_t = 30)]
    pub steps: u64,
    /// Crashes at every n-th disk operation.
    #[arg(long, default_value_t = 1)]
    pub stride: u64,
    /// Also crashes at every operation of each recovery.
    #[arg(long)]
    pub deep: bool,
    #[arg(long, default_value_t = 180)]
    pub seconds: u64,
    /// Runs this case alone: DEATH,OPERATION or DEATH,OPERATION,OPERATION-IN-RECOVERY.
    #[arg(long)]
    pub case: Option<String>,
    /// Events shown with a failure.
    #[arg(long, default_value_t = sim::run::TRACE_LINES)]
    pub trace: usize,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Args)]
pub struct Iscsi {
    /// Of the history; without it one is drawn from the clock and printed.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Length of the history.
    #[arg(long, default_value_t = 12)]
    pub steps: u64,
    /// At every n-th PDU.
    #[arg(long, default_value_t = 1)]
    pub stride: u64,
    #[arg(long, default_value_t = 180)]
    pub seconds: u64,
    /// Runs this case alone: MISCHIEF,PDU.
    #[arg(long)]
    pub case: Option<String>,
    /// Events shown with a failure.
    #[arg(long, default_value_t = sim::run::TRACE_LINES)]
    pub trace: usize,
}
