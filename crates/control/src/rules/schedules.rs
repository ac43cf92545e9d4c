//! What schedules may be, when a snapshot is due, and which ones are to go: pure functions of what was taken and of two
//! clocks.
//!
//! The wall clock says which period it is, and may jump; the other one counts this process's milliseconds, and does not.
//! Snapshots are told apart by the order in which they were taken, never by their times, so that a clock that jumps makes
//! new periods but no old snapshots.

use super::check_name;
use crate::utc::Utc;
use crate::{CreateSchedule, Error, Result, ScheduleRule};
use std::collections::BTreeSet;

/// Of a schedule's name: what is left of a snapshot's name beside the time and a number.
pub const SCHEDULE_NAME_LEN_MAX: usize = 40;
/// Schedules of a controller: each is looked at several times a minute.
pub const SCHEDULES_MAX: usize = 1_000;
/// Schedules of one vDisk, VM, group or container: the logs of all vDisks in it have a copy of each.
pub const SCHEDULES_OF_TARGET_MAX: usize = 8;
/// VMs and vDisks of which schedules of containers take snapshots, in sum over these: each has a record with its snapshots in
/// memory, and is looked at several times a minute.
pub const SCHEDULED_MEMBERS_MAX: usize = 4_000;
pub const RULES_MAX: usize = 8;
/// Snapshots that one schedule keeps: half of what a vDisk may have, so that there is room for others.
pub const KEEP_MAX: u32 = 512;
/// Snapshots that one schedule may have, those among them that cannot be deleted for the moment: so many fit into its record,
/// with the longest names.
pub const TAKEN_MAX: usize = 640;
/// The longest period: a leap year.
pub const EVERY_SECONDS_MAX: u32 = 366 * DAY;
const DAY: u32 = 86_400;
const WEEK: u32 = 7 * DAY;
/// 1970 began on a Thursday.
const MONDAY: u64 = 3 * DAY as u64;

/// Pause after the first failure; doubled by each that follows.
const RETRY_MS: u64 = 1_000;
const RETRY_MS_MAX: u64 = 600_000;

/// Name, rules and numbers of a new schedule. Whether its target is there is for the caller to check.
pub fn check_schedule(create: &CreateSchedule) -> Result<()> {
    let name = &create.name;
    check_name(name)
        .map_err(|error| Error::invalid(error.message.replace("the name of a vDisk", "the name of a schedule")))?;
    if name.len() > SCHEDULE_NAME_LEN_MAX {
        return Err(Error::invalid(format!(
            "{name:?} has {} characters; the name of a schedule has at most {SCHEDULE_NAME_LEN_MAX}, as the time follows it \
             in the names of its snapshots",
            name.len()
        )));
    }
    if create.rules.is_empty() {
        return Err(Error::invalid(
            "a schedule needs to know how often and how many: --every 1h --keep 24, or --hourly 24",
        ));
    }
    if create.rules.len() > RULES_MAX {
        return Err(Error::invalid(format!("a schedule has at most {RULES_MAX} rules")));
    }
    let mut periods = BTreeSet::new();
    for rule in &create.rules {
        if rule.every_seconds == 0 || rule.every_seconds > EVERY_SECONDS_MAX {
            return Err(Error::invalid(format!(
                "a period of {} s is not between 1 s and 366 days",
                rule.every_seconds
            )));
        }
        if !periods.insert(rule.every_seconds) {
            return Err(Error::invalid(format!("there are two rules for a period of {} s", rule.every_seconds)));
        }
        if rule.keep == 0 {
            return Err(Error::invalid("a rule that keeps no snapshots would delete what it takes; keep at least 1"));
        }
    }
    let keep = create.rules.iter().fold(0u32, |sum, rule| sum.saturating_add(rule.keep));
    if keep > KEEP_MAX {
        return Err(Error::invalid(format!("a schedule would keep {keep} snapshots; at most {KEEP_MAX} are kept")));
    }
    Ok(())
}

pub fn check_schedule_count(count: usize) -> Result<()> {
    if count < SCHEDULES_MAX {
        return Ok(());
    }
    Err(Error::invalid(format!("there are {count} schedules, the most that there may be; delete some")))
}

/// `too_many`: those that there is no room for.
pub fn check_scheduled_members(too_many: usize) -> Result<()> {
    if too_many == 0 {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "of {too_many} VMs and vDisks no snapshots are taken: schedules of containers take them of {SCHEDULED_MEMBERS_MAX} \
         in all, of each once for each schedule"
    )))
}

/// `count`: those that the target has already.
pub fn check_schedules_of_target(count: usize) -> Result<()> {
    if count < SCHEDULES_OF_TARGET_MAX {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "it has {count} schedules, the most that there may be of one vDisk, VM, group or container; one schedule may have several rules"
    )))
}

/// Room for one more in the schedule's record.
pub fn check_taken_count(count: usize) -> Result<()> {
    if count < TAKEN_MAX {
        return Ok(());
    }
    Err(Error::invalid(format!("it has {count} snapshots and takes no more, as old ones are not deleted")))
}

/// A snapshot that a schedule took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    pub id: u64,
    /// Seconds since 1970, as the wall clock had them.
    pub unix_seconds: u64,
}

/// The two clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    pub unix_seconds: u64,
    /// Of a clock that does not jump; from anywhere.
    pub up_ms: u64,
}

/// What is known of earlier attempts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attempts {
    /// The period of the last success, which outlives the process.
    pub last_period: Option<u64>,
    /// [`Now::up_ms`] of the last successes of this process: the last, and the one before.
    pub successes_up_ms: [Option<u64>; 2],
    /// In a row, with the time of the last.
    pub failures: u32,
    pub failed_up_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Take,
    /// To be asked again after so many milliseconds, or when the wall clock may have jumped.
    Wait(u64),
}

/// The number of a period; those of whole weeks begin on Mondays.
pub fn period(every_seconds: u32, unix_seconds: u64) -> u64 {
    let shift = if every_seconds.is_multiple_of(WEEK) { MONDAY } else { 0 };
    (unix_seconds + shift) / u64::from(every_seconds.max(1))
}

/// The shortest period of the rules: one snapshot is taken in each.
pub fn shortest(rules: &[ScheduleRule]) -> u32 {
    rules.iter().map(|rule| rule.every_seconds).min().unwrap_or(EVERY_SECONDS_MAX).max(1)
}

/// Periods that were missed are made up for by one snapshot: only this period counts. Whatever the wall clock does, no
/// more than two are taken within one period's time.
pub fn next(rules: &[ScheduleRule], attempts: &Attempts, now: Now) -> Next {
    let every = shortest(rules);
    if attempts.failures > 0 {
        let doubled = RETRY_MS << attempts.failures.saturating_sub(1).min(20);
        let pause = doubled.min(RETRY_MS_MAX).min(u64::from(every) * 1000);
        let since = now.up_ms.saturating_sub(attempts.failed_up_ms);
        if since < pause {
            return Next::Wait(pause - since);
        }
    } else if attempts.last_period == Some(period(every, now.unix_seconds)) {
        let shift = if every.is_multiple_of(WEEK) { MONDAY } else { 0 };
        let left = u64::from(every) - (now.unix_seconds + shift) % u64::from(every);
        return Next::Wait(left * 1000);
    }
    let [_, before] = attempts.successes_up_ms;
    // The clock that says when a period begins may be a little slower than the one that measures it.
    let span = u64::from(every) * 900;
    match before.map(|before| now.up_ms.saturating_sub(before)) {
        Some(since) if since < span => Next::Wait(span - since),
        _ => Next::Take,
    }
}

impl Attempts {
    pub fn succeeded(&mut self, rules: &[ScheduleRule], now: Now) {
        let [last, _] = self.successes_up_ms;
        *self = Attempts {
            last_period: Some(period(shortest(rules), now.unix_seconds)),
            successes_up_ms: [Some(now.up_ms), last],
            failures: 0,
            failed_up_ms: 0,
        };
    }

    pub fn failed(&mut self, now: Now) {
        self.failures = self.failures.saturating_add(1);
        self.failed_up_ms = now.up_ms;
    }
}

/// Which of its snapshots, given in the order in which they were taken, are to go. A rule keeps the first of each of the
/// newest `keep` periods; the newest snapshot of all always stays. To be asked only when the last attempt succeeded.
pub fn excess(rules: &[ScheduleRule], taken: &[Taken]) -> Vec<u64> {
    let mut kept: BTreeSet<usize> = taken.len().checked_sub(1).into_iter().collect();
    for rule in rules {
        let of = |index: usize| taken.get(index).map(|one| period(rule.every_seconds, one.unix_seconds));
        // Of equal ones in a row the first begins the period; a clock that went back begins another one.
        let firsts = (0..taken.len()).filter(|index| *index == 0 || of(*index) != of(*index - 1));
        let firsts: Vec<usize> = firsts.collect();
        kept.extend(firsts.iter().rev().take(rule.keep as usize));
    }
    taken.iter().enumerate().filter(|(index, _)| !kept.contains(index)).map(|(_, one)| one.id).collect()
}

/// `nightly-2026-11-27T21-00-00Z`: names sort by time.
pub fn snapshot_name(schedule: &str, unix_seconds: u64, is_taken: impl Fn(&str) -> bool) -> String {
    let Utc { year, month, day, hour, minute, second } = Utc::of_unix_seconds(unix_seconds);
    let name = format!("{schedule}-{year:04}-{month:02}-{day:02}T{hour:02}-{minute:02}-{second:02}Z");
    let numbered = (2_u32..).map(|number| format!("{name}.{number}"));
    let mut names = std::iter::once(name.clone()).chain(numbered);
    names.find(|name| !is_taken(name)).expect("the numbers do not end")
}

#[cfg(test)]
mod tests;
