//! Keeps measurements apart from what other programs do at the time.

use anyhow::{Context, Result};
use std::fs;
use std::time::Duration;

/// Attempts at a run in a quiet moment; after these the least disturbed one is taken.
const ATTEMPTS: usize = 12;
const LISTEN: Duration = Duration::from_millis(500);
/// How often to listen for a quiet moment before going on regardless.
const LISTEN_TIMES: usize = 60;

/// Runs `measure` until other programs used less than `busy_percent_max` of the processors meanwhile. Only time in user
/// mode is looked at: in the kernel it cannot be told who the work was for.
pub fn insist<T>(busy_percent_max: f64, mut measure: impl FnMut() -> Result<T>) -> Result<T> {
    let mut best: Option<(f64, T)> = None;
    for _ in 0..ATTEMPTS {
        for _ in 0..LISTEN_TIMES {
            let before = Times::now()?;
            std::thread::sleep(LISTEN);
            if Times::now()?.others_percent_since(&before) < busy_percent_max {
                break;
            }
        }
        let before = Times::now()?;
        let sample = measure()?;
        let busy_percent = Times::now()?.others_percent_since(&before);
        if best.as_ref().is_none_or(|(least, _)| busy_percent < *least) {
            best = Some((busy_percent, sample));
        }
        if busy_percent < busy_percent_max {
            break;
        }
    }
    let (busy_percent, sample) = best.context("at least one attempt was made")?;
    if busy_percent >= busy_percent_max {
        eprintln!("disturbed: other programs used {busy_percent:.0} % of the processors");
    }
    Ok(sample)
}

/// Clock ticks since boot, over all processors.
struct Times {
    user: u64,
    all: u64,
    own_user: u64,
}

impl Times {
    fn now() -> Result<Times> {
        let text = fs::read_to_string("/proc/stat")?;
        let line = text.lines().next().context("/proc/stat has a first line")?;
        let ticks: Vec<u64> = line.split_ascii_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
        // user, nice, system, idle, iowait, irq, softirq, steal; guest time is in user already.
        let user = ticks.iter().take(2).sum();
        let all = ticks.iter().take(8).sum();
        let own = fs::read_to_string("/proc/self/stat")?;
        let own = own.rsplit(')').next().context("/proc/self/stat has a name")?;
        let own_user = own.split_ascii_whitespace().nth(11).context("a field utime")?.parse()?;
        Ok(Times { user, all, own_user })
    }

    fn others_percent_since(&self, before: &Times) -> f64 {
        let others = (self.user - before.user).saturating_sub(self.own_user - before.own_user);
        others as f64 / (self.all - before.all).max(1) as f64 * 100.0
    }
}
