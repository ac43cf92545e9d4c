//! One run of somebody else's load generator: fio's nbd engine, and `qemu-img bench` where flushes are timed (fio's
//! engine does not time those).

use crate::nbd::Address;
use crate::process::{command, succeed};
use anyhow::{Context, Result};
use serde_json::Value;
use std::time::Duration;

use super::servers::EXPORT;

#[derive(Clone, Copy)]
pub struct Fio {
    /// `randread`, `randwrite`, `read`, `write`.
    pub pattern: &'static str,
    pub block: &'static str,
    pub depth: u32,
}

/// Operations and bytes per second.
pub struct Speed {
    pub operations: f64,
    pub bytes: f64,
    /// In the whole run.
    pub total: u64,
}

impl Fio {
    pub fn run(self, address: &Address, time: Duration) -> Result<Speed> {
        self.run_on(address, EXPORT, time)
    }

    pub fn run_on(self, address: &Address, export: &str, time: Duration) -> Result<Speed> {
        let fio = command(
            "fio",
            &[
                "--name=bench",
                "--ioengine=nbd",
                &format!("--uri={}", address.uri(export)),
                &format!("--rw={}", self.pattern),
                &format!("--bs={}", self.block),
                &format!("--iodepth={}", self.depth),
                "--time_based",
                &format!("--runtime={}", time.as_secs()),
                "--norandommap",
                "--randrepeat=0",
                "--output-format=json",
            ],
        );
        let said = succeed(fio)?;
        // Warnings may come first.
        let json = said.find('{').map_or("", |at| &said[at..]);
        let result: Value = serde_json::from_str(json).with_context(|| format!("fio said: {said}"))?;
        let side = if self.pattern.ends_with("read") { "read" } else { "write" };
        let side = &result["jobs"][0][side];
        let number = |key: &str| side[key].as_f64().with_context(|| format!("fio reports no {key}: {side}"));
        Ok(Speed { operations: number("iops")?, bytes: number("bw_bytes")?, total: number("total_ios")? as u64 })
    }
}

/// 4 KiB writes with a flush behind each, depth 1, at addresses that jump by a large odd number of blocks.
pub fn flushed_writes(address: &Address, count: u64) -> Result<f64> {
    let step = (4096u64 * 130_003).to_string();
    let bench = command(
        "qemu-img",
        &[
            "bench",
            "-f",
            "raw",
            "-w",
            "-d",
            "1",
            "-s",
            "4096",
            "-S",
            &step,
            "--flush-interval=1",
            "-c",
            &count.to_string(),
            &address.uri(EXPORT),
        ],
    );
    Ok(count as f64 / seconds(&succeed(bench)?)?)
}

/// What a run took, as `qemu-img bench` says.
pub fn seconds(said: &str) -> Result<f64> {
    said.lines()
        .find_map(|line| line.strip_prefix("Run completed in ")?.split(' ').next()?.parse().ok())
        .with_context(|| format!("qemu-img bench said: {said}"))
}
