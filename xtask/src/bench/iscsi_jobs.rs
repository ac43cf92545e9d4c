//! One run of somebody else's iSCSI load generator: libiscsi's iscsi-perf for reads, and `qemu-img bench` for writes, which
//! iscsi-perf does not have, and for depth 1.

use super::tgt::Unit;
use crate::process::{command, succeed};
use anyhow::{Context, Result};
use std::time::Duration;

/// Reads by iscsi-perf.
#[derive(Clone, Copy)]
pub struct Perf {
    pub random: bool,
    /// Of 512 bytes.
    pub sectors: u32,
    pub depth: u32,
}

impl Perf {
    /// Reads per second. `arguments`: what follows the `?` of the URL.
    pub fn run(self, unit: &Unit, arguments: &str, time: Duration) -> Result<f64> {
        let (depth, sectors, seconds) = (self.depth.to_string(), self.sectors.to_string(), time.as_secs().to_string());
        let mut perf = command("iscsi-perf", &["-m", &depth, "-b", &sectors, "-t", &seconds]);
        if self.random {
            perf.arg("-r");
        }
        perf.arg(format!("{}{arguments}", unit.url()));
        let said = succeed(perf)?;
        // The last one is that of the whole run; the ones before it are written over by carriage returns.
        let (_, average) = said.rsplit_once("iops average ").with_context(|| format!("iscsi-perf said: {said}"))?;
        let number = average.split(' ').next().unwrap_or_default();
        number.parse().with_context(|| format!("iscsi-perf said: {said}"))
    }
}

/// Requests of `qemu-img bench`, each `step` bytes behind the one before, around the end of the unit.
#[derive(Clone, Copy)]
pub struct QemuBench {
    pub write: bool,
    pub depth: u32,
    pub bytes: u32,
    pub step: u64,
}

/// Requests by which the speed is found out: it takes their number, not a time.
const SAMPLE: u64 = 2000;

impl QemuBench {
    /// Requests per second, in a run of about `time`.
    pub fn run(self, unit: &Unit, time: Duration) -> Result<f64> {
        let sample = if self.bytes > 65536 { SAMPLE / 4 } else { SAMPLE };
        let speed = self.count(unit, sample)?;
        self.count(unit, ((speed * time.as_secs_f64()) as u64).max(sample))
    }

    fn count(self, unit: &Unit, count: u64) -> Result<f64> {
        let (depth, bytes, step) = (self.depth.to_string(), self.bytes.to_string(), self.step.to_string());
        let mut bench = command("qemu-img", &["bench", "-f", "raw", "-d", &depth, "-s", &bytes, "-S", &step]);
        if self.write {
            bench.arg("-w");
        }
        bench.args(["-c", &count.to_string(), &unit.url()]);
        let said = succeed(bench)?;
        Ok(count as f64 / super::jobs::seconds(&said)?)
    }
}
