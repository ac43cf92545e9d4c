//! What the machine says: its description, a process's CPU time, bytes that reached the block device.

use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

pub struct Machine {
    pub text: String,
}

impl Machine {
    pub fn describe(dir: &Path) -> Result<Machine> {
        let cpu = fs::read_to_string("/proc/cpuinfo")?;
        let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("");
        let model = model.trim_start_matches(['\t', ' ', ':']);
        let cores = std::thread::available_parallelism()?;
        let memory = fs::read_to_string("/proc/meminfo")?;
        let memory: u64 = memory
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:")?.trim().split(' ').next()?.parse().ok())
            .unwrap_or(0);
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let dir = dir.canonicalize()?;
        let kind = mounts
            .lines()
            .filter_map(|line| {
                let mut words = line.split(' ');
                let (_, at, kind) = (words.next()?, words.next()?, words.next()?);
                dir.starts_with(at).then(|| (at.len(), kind.to_string()))
            })
            .max()
            .map_or(String::new(), |(_, kind)| kind);
        Ok(Machine {
            text: format!("{cores} cores ({model}), {} GiB memory, Linux {}, {kind}", memory >> 20, kernel.trim()),
        })
    }
}

/// User and system time of a process with all its threads.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let rest = stat.rsplit_once(')').context("the name in /proc/PID/stat ends with a parenthesis")?.1;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |index: usize| -> Result<u64> { Ok(fields.get(index).context("fields of /proc/PID/stat")?.parse()?) };
    // Fields 14 and 15 of proc(5); the first one here is field 3. USER_HZ is 100 on every Linux that we know.
    Ok(Duration::from_millis((ticks(11)? + ticks(12)?) * 10))
}

/// What a process caused to be written (`write_bytes`).
pub fn written_by(pid: u32) -> Result<u64> {
    let io = fs::read_to_string(format!("/proc/{pid}/io"))?;
    let value = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).context("write_bytes")?;
    Ok(value.trim().parse()?)
}

/// Bytes written to the device under `path` since boot, by everybody.
pub fn written_to_device(path: &Path) -> Result<u64> {
    let device = fs::metadata(path)?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat"))?;
    let sectors: u64 = stat.split_whitespace().nth(6).context("sectors written")?.parse()?;
    Ok(sectors * 512)
}
