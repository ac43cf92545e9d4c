//! `drystone schedule`: its commands, flags and help texts.

use crate::config::OnOff;
use clap::{ArgGroup, Args, Subcommand};
use control::{ScheduleRule, ScheduleTarget};

#[derive(Subcommand, Debug)]
pub enum Schedule {
    /// Take snapshots regularly, and delete the oldest of them; the first one is taken at once
    #[command(after_help = "Examples:\n  \
        drystone schedule create nightly --vm web01 --every 1d --keep 14\n  \
        drystone schedule create web --vm web01 --hourly 24 --daily 7 --weekly 4\n  \
        drystone schedule create shop --group shop --every 15m --keep 96\n  \
        drystone schedule create gold --container gold --hourly 24\n\n\
        Its snapshots are called NAME-TIME (UTC). A rule keeps the first snapshot of each of its newest periods. What others \
        took is never deleted, nor anything while the newest snapshot is missing.")]
    Create {
        /// At most 40 characters
        name: String,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        rules: Rules,
    },
    /// List all schedules
    #[command(visible_alias = "ls")]
    List,
    /// Show a schedule and its snapshots
    Show { name: String },
    /// Take and delete nothing, or go on
    Pause {
        name: String,
        #[arg(value_enum, value_name = "SWITCH", default_value = "on")]
        on: OnOff,
    },
    /// Delete a schedule; its snapshots stay
    #[command(visible_alias = "rm")]
    Delete { name: String },
}

#[derive(Args, Debug)]
#[command(group(ArgGroup::new("target").required(true).args(["vdisk", "vm", "group", "container"])))]
pub struct Target {
    /// A vDisk
    #[arg(long, value_name = "NAME")]
    vdisk: Option<String>,
    /// A VM: all its vDisks at one instant
    #[arg(long, value_name = "NAME")]
    vm: Option<String>,
    /// A consistency group: all its VMs at one instant
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// A container: each VM that has a vDisk in it, and each vDisk in it that belongs to no VM, at its turn
    #[arg(long, value_name = "NAME")]
    container: Option<String>,
}

impl Target {
    pub fn target(self) -> ScheduleTarget {
        let vm = || self.vm.map(ScheduleTarget::Vm);
        let group = self.group.map(ScheduleTarget::Group);
        let container = self.container.map(ScheduleTarget::Container);
        self.vdisk.map(ScheduleTarget::Vdisk).or_else(vm).or(group).or(container).expect("one of them is required")
    }
}

#[derive(Args, Debug)]
pub struct Rules {
    /// Period such as 30s, 15m, 1h, 1d or 1w; goes with --keep, and may be given several times
    #[arg(long, value_name = "PERIOD", value_parser = parse_period, requires = "keep")]
    every: Vec<u32>,
    /// How many are kept of the --every before it
    #[arg(long, value_name = "NUMBER", requires = "every")]
    keep: Vec<u32>,
    /// One each hour, so many of which are kept
    #[arg(long, value_name = "NUMBER")]
    hourly: Option<u32>,
    /// One each day, so many of which are kept
    #[arg(long, value_name = "NUMBER")]
    daily: Option<u32>,
    /// One each week, so many of which are kept
    #[arg(long, value_name = "NUMBER")]
    weekly: Option<u32>,
}

const HOUR: u32 = 3_600;
const DAY: u32 = 24 * HOUR;
const WEEK: u32 = 7 * DAY;

impl Rules {
    pub fn rules(&self) -> anyhow::Result<Vec<ScheduleRule>> {
        anyhow::ensure!(
            self.every.len() == self.keep.len(),
            "each --every has one --keep: {} and {} are given",
            self.every.len(),
            self.keep.len()
        );
        let named = [(HOUR, self.hourly), (DAY, self.daily), (WEEK, self.weekly)];
        let named = named.into_iter().filter_map(|(every, keep)| keep.map(|keep| (every, keep)));
        let pairs = self.every.iter().copied().zip(self.keep.iter().copied()).chain(named);
        Ok(pairs.map(|(every_seconds, keep)| ScheduleRule { every_seconds, keep }).collect())
    }
}

/// `15m`; a bare number is refused, as nobody knows of what.
fn parse_period(text: &str) -> Result<u32, String> {
    let no_period = || format!("{text:?} is no period; write, for example, 30s, 15m, 1h, 1d or 1w");
    let unit = text.chars().last().ok_or_else(no_period)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => HOUR,
        'd' => DAY,
        'w' => WEEK,
        _ => return Err(no_period()),
    };
    let number: u32 = text.trim_end_matches(unit).parse().map_err(|_| no_period())?;
    number.checked_mul(seconds).ok_or_else(no_period)
}
