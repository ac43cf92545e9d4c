//! Keeps measurements apart from what other programs do at the time.

use anyhow::{Context, Result};
use std::fs;
use std::time::{Duration, Instant};

const LISTEN: Duration = Duration::from_millis(500);

/// What counts as quiet, and how long to wait for it over all measurements together.
pub struct Quiet {
    pub busy_percent_max: f64,
    pub patient_until: Instant,
}

impl Quiet {
    /// Runs `measure` until other programs used less than `busy_percent_max` of the processors meanwhile; when patience
    /// ends, the least disturbed run is taken. Only time in user mode is looked at: in the kernel it cannot be told who
    /// the work was for.
    pub fn insist<T>(&self, mut measure: impl FnMut() -> Result<T>) -> Result<T> {
        let mut best: Option<(f64, T)> = None;
        loop {
            while Instant::now() < self.patient_until {
                let before = Times::now()?;
                std::thread::sleep(LISTEN);
                if Times::now()?.others_percent_since(&before) < self.busy_percent_max {
                    break;
                }
            }
            let before = Times::now()?;
            let sample = measure()?;
            let busy_percent = Times::now()?.others_percent_since(&before);
            let (least_percent, sample) = match best.take() {
                Some((least_percent, best)) if least_percent < busy_percent => (least_percent, best),
                _ => (busy_percent, sample),
            };
            if least_percent < self.busy_percent_max || Instant::now() >= self.patient_until {
                eprint!("others had {least_percent:.0} % of the processors; ");
                return Ok(sample);
            }
            best = Some((least_percent, sample));
        }
    }
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
