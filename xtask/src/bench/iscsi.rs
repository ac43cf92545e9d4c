//! The rows over iSCSI: drystone and tgt, by libiscsi's and QEMU's initiators.

use super::digests;
use super::iscsi_jobs::{Perf, QemuBench};
use super::report::{Report, Target};
use super::rows::{Values, in_turn, warm};
use super::servers::{Name, Servers};
use super::{Settings, servers::SMALL_BYTES};
use anyhow::{Result, anyhow};
use std::time::Duration;

use Name::{Drystone, TgtAio, TgtRdwr};

const ALL: [Name; 3] = [Drystone, TgtAio, TgtRdwr];
const RANDOM_32: Perf = Perf { random: true, sectors: 8, depth: 32 };
const HEADER_DIGEST: &str = "?header_digest=crc32c";
const LARGE: u32 = 256 << 10;
/// A large odd number of blocks: every block comes once before any comes again.
const JUMP: u64 = 4096 * 130_003;

/// Whatever can be in a cache is there.
fn ready(servers: &mut Servers) -> Result<()> {
    warm(servers, &[Drystone])?;
    servers.read_raw()
}

pub fn read32(settings: &Settings, servers: &mut Servers, report: &mut Report) -> Result<()> {
    ready(servers)?;
    let mut cpu: Values = ALL.iter().map(|name| (*name, Vec::new())).collect();
    let values = in_turn(settings, servers, &ALL, |servers, name| {
        let unit = servers.unit(name, 0)?;
        let before = servers.cpu_time(name)?;
        let speed = RANDOM_32.run(&unit, "", settings.run)?;
        let spent = (servers.cpu_time(name)? - before).as_secs_f64() * 1e6;
        let all = cpu.iter_mut().find(|(of, _)| *of == name).map(|(_, all)| all).expect("every name is there");
        all.push(spent / (speed * settings.run.as_secs_f64()));
        Ok(speed)
    })?;
    report.iscsi_row("4k random read, depth 32 (iscsi-perf)", "IOPS", &values, &[Target::AtLeast(2.5, TgtAio)]);
    report.iscsi_row("server CPU per 4k read at depth 32", "µs", &cpu, &[]);
    let values = in_turn(settings, servers, &ALL, |servers, name| {
        RANDOM_32.run(&servers.unit(name, 0)?, HEADER_DIGEST, settings.run)
    })?;
    report.iscsi_row("4k random read, depth 32 (iscsi-perf), header digests", "IOPS", &values, &[]);
    Ok(())
}

/// iscsi-perf has no data digests: an initiator of the benchmark's own, without and with both, in pairs.
pub fn digest(settings: &Settings, servers: &mut Servers, report: &mut Report) -> Result<()> {
    ready(servers)?;
    let names = [Drystone, TgtAio];
    let (mut both, mut cost): (Values, Values) = Default::default();
    for name in servers.chosen(&names) {
        both.push((name, Vec::new()));
        cost.push((name, Vec::new()));
    }
    let (mut seed, mut spent) = (0, Vec::new());
    let without = in_turn(settings, servers, &names, |servers, name| {
        let unit = servers.unit(name, 0)?;
        seed += 1;
        let mut run = |digests| -> Result<f64> {
            let before = servers.cpu_time(name)?;
            let speed = digests::read(&unit, settings.size_bytes, 32, digests, settings.run, seed)?;
            let cpu = (servers.cpu_time(name)? - before).as_secs_f64() * 1e6;
            spent.push(format!("{} {:.2} µs", name.text(), cpu / (speed * settings.run.as_secs_f64())));
            Ok(speed)
        };
        let (plain, checked) = (run(false)?, run(true)?);
        let index = both.iter().position(|(of, _)| *of == name).expect("every name is there");
        both[index].1.push(checked);
        cost[index].1.push((1.0 - checked / plain) * 100.0);
        Ok(plain)
    })?;
    report.iscsi_row("4k random read, depth 32 (own initiator), no digests", "IOPS", &without, &[]);
    report.iscsi_row("the same with header and data digests", "IOPS", &both, &[]);
    report.iscsi_row("what both digests cost", "%", &cost, &[Target::Below(15.0)]);
    report.note(format!("server CPU per read without digests, with both, and so on: {}", spent.join(", ")));
    Ok(())
}

fn qemu(
    (settings, servers, report): (&Settings, &mut Servers, &mut Report),
    label: &str,
    job: QemuBench,
    least: f64,
) -> Result<()> {
    let values = in_turn(settings, servers, &ALL, |servers, name| {
        let speed = job.run(&servers.unit(name, 0)?, settings.run)?;
        Ok(if job.bytes == LARGE { mib(speed) } else { speed })
    })?;
    let unit = if job.bytes == LARGE { "MiB/s" } else { "IOPS" };
    report.iscsi_row(label, unit, &values, &[Target::AtLeast(least, TgtAio)]);
    Ok(())
}

/// Of requests per second.
fn mib(speed: f64) -> f64 {
    speed * f64::from(LARGE) / f64::from(1 << 20)
}

pub fn write32(settings: &Settings, servers: &mut Servers, report: &mut Report) -> Result<()> {
    let job = QemuBench { write: true, depth: 32, bytes: 4096, step: JUMP };
    qemu((settings, servers, report), "4k jumping write, depth 32 (qemu-img bench)", job, 2.0)
}

pub fn read1(settings: &Settings, servers: &mut Servers, report: &mut Report) -> Result<()> {
    ready(servers)?;
    let job = QemuBench { write: false, depth: 1, bytes: 4096, step: JUMP };
    qemu((settings, servers, report), "4k jumping read, depth 1 (qemu-img bench)", job, 1.2)
}

pub fn sequential(settings: &Settings, servers: &mut Servers, report: &mut Report) -> Result<()> {
    ready(servers)?;
    let read = Perf { random: false, sectors: LARGE / 512, depth: 8 };
    let values = in_turn(settings, servers, &ALL, |servers, name| {
        Ok(mib(read.run(&servers.unit(name, 0)?, "", settings.run)?))
    })?;
    let label = "256k sequential read, depth 8 (iscsi-perf)";
    report.iscsi_row(label, "MiB/s", &values, &[Target::AtLeast(1.0, TgtAio)]);
    let job = QemuBench { write: true, depth: 8, bytes: LARGE, step: LARGE.into() };
    qemu((settings, servers, report), "256k sequential write, depth 8 (qemu-img bench)", job, 1.0)
}

/// Two loads at the same time on units of these indexes; the reads per second of each.
fn beside(servers: &mut Servers, name: Name, jobs: [(usize, Perf); 2], time: Duration) -> Result<[f64; 2]> {
    let [(first, job), (second, beside)] = jobs;
    let (first, second) = (servers.unit(name, first)?, servers.unit(name, second)?);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| beside.run(&second, "", time));
        let one = job.run(&first, "", time)?;
        Ok([one, other.join().map_err(|_| anyhow!("the second load panicked"))??])
    })
}

/// Two vDisks of one shard, that is of one thread: who gets what. Both are in the cache whole: where one is not, its reads
/// wait for the disk as well.
pub fn fair(settings: &Settings, servers: &mut Servers, report: &mut Report) -> Result<()> {
    ready(servers)?;
    if settings.with_drystone {
        servers.warm_small()?;
    }
    let names = [Drystone, TgtAio];
    let mut pairs = Vec::new();
    let values = in_turn(settings, servers, &names, |servers, name| {
        let [one, other] = beside(servers, name, [(1, RANDOM_32), (2, RANDOM_32)], settings.run)?;
        pairs.push(format!("{} {one:.0} and {other:.0}", name.text()));
        Ok(one.min(other) / one.max(other))
    })?;
    let label = "two busy vDisks of one shard, depth 32 each: the slower by the faster";
    report.iscsi_row(label, "share", &values, &[Target::Above(0.8)]);
    report.note(format!("two busy vDisks of {} GiB, reads/s of each: {}", SMALL_BYTES >> 30, pairs.join("; ")));
    let single = Perf { depth: 1, ..RANDOM_32 };
    let mut alone: Values = servers.chosen(&names).iter().map(|name| (*name, Vec::new())).collect();
    let mut busy = Vec::new();
    let values = in_turn(settings, servers, &names, |servers, name| {
        let unit = servers.unit(name, 1)?;
        let by_itself = single.run(&unit, "", settings.run)?;
        alone.iter_mut().filter(|(of, _)| *of == name).for_each(|(_, all)| all.push(by_itself));
        let [one, other] = beside(servers, name, [(2, RANDOM_32), (1, single)], settings.run)?;
        busy.push(format!("{} {one:.0}", name.text()));
        Ok(other)
    })?;
    report.iscsi_row("4k random read, depth 1, alone (iscsi-perf)", "IOPS", &alone, &[]);
    report.iscsi_row("the same beside a session of depth 32 on the same shard", "IOPS", &values, &[]);
    report.note(format!("the session of depth 32 beside one of depth 1, reads/s: {}", busy.join("; ")));
    Ok(())
}
