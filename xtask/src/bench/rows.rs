//! The rows of the table, one function each.

use super::client::{self, Until, Verb};
use super::jobs::{Fio, flushed_writes};
use super::report::{Report, Target};
use super::servers::{EXPORT, Name, Servers, fill_export, fill_file, qemu_nbd, socket_path, start_peer};
use super::{Settings, beside, iscsi, machine, snapshots, vast};
use crate::http::samples;
use crate::nbd::Address;
use crate::process::Background;
use crate::server::Server;
use anyhow::{Result, ensure};
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub type Row = fn(&Settings, &mut Servers, &mut Report) -> Result<()>;

pub const ROWS: &[(&str, &str, Row)] = &[
    ("read32", "4k random read, depth 32, in cache; and the server's CPU for each", read32),
    ("read1", "4k random read, depth 1", read1),
    ("flushed", "4k random write, depth 1, flush after each", flushed),
    ("flushed64", "the same on 64 vDisks at once", flushed64),
    ("seq", "256k sequential read and write, depth 8", sequential),
    ("write1", "4k random write, depth 1", write1),
    ("write32", "4k random write, depth 32", write32),
    ("amplify", "bytes written for each byte of 4k random write", amplify),
    ("replay", "replay after kill -9", replay),
    ("thousand", "start with 1,000 vDisks; idle CPU", thousand),
    ("snapshots", "500 clones, boot storm, clone depth 1,000, writes held back for a VM's snapshot", snapshots::row),
    ("vast", "snapshots, clones and differences of 1 TiB, every block mapped, and of 1 GiB", vast::row),
    ("beside", "random writes with a snapshot every second, against qcow2", beside::row),
    ("iscsi32", "iSCSI: 4k random read, depth 32; the server's CPU for each; header digests", iscsi::read32),
    ("iscsidigest", "iSCSI: the same with both digests and without", iscsi::digest),
    ("iscsiwrite", "iSCSI: 4k write, depth 32", iscsi::write32),
    ("iscsi1", "iSCSI: 4k read, depth 1", iscsi::read1),
    ("iscsiseq", "iSCSI: 256k sequential read and write, depth 8", iscsi::sequential),
    ("iscsifair", "iSCSI: two busy vDisks of one shard; depth 1 beside depth 32", iscsi::fair),
];

use Name::{Drystone, Nbdkit, QemuDirect, QemuQcow2, QemuRaw};

pub type Values = Vec<(Name, Vec<f64>)>;

/// A B A B: every server in turn, several rounds.
pub fn in_turn(
    settings: &Settings,
    servers: &mut Servers,
    names: &[Name],
    mut run: impl FnMut(&mut Servers, Name) -> Result<f64>,
) -> Result<Values> {
    let names = servers.chosen(names);
    let mut values: Values = names.iter().map(|name| (*name, Vec::new())).collect();
    for name in &names {
        servers.pid(*name)?;
    }
    for _ in 0..settings.rounds {
        for (name, all) in &mut values {
            settle(servers.pid(*name)?)?;
            all.push(run(servers, *name)?);
        }
    }
    Ok(values)
}

/// What the run before left to be written is written, and the server has nothing more to do of its own accord.
fn settle(pid: u32) -> Result<()> {
    const CALM: Duration = Duration::from_millis(10);
    rustix::fs::sync();
    for _ in 0..60 {
        let before = machine::cpu_time(pid)?;
        std::thread::sleep(Duration::from_millis(250));
        if machine::cpu_time(pid)? - before <= CALM {
            break;
        }
    }
    Ok(())
}

/// Whatever can be in a cache is there.
pub fn warm(servers: &mut Servers, names: &[Name]) -> Result<()> {
    servers.chosen(names).into_iter().try_for_each(|name| servers.warm(name, EXPORT))
}

fn read32(settings: &Settings, servers: &mut Servers, report: &mut Report) -> Result<()> {
    let names = [Drystone, QemuRaw, QemuQcow2, Nbdkit];
    warm(servers, &names)?;
    let job = Fio { pattern: "randread", block: "4k", depth: 32 };
    let mut cpu: Values = names.iter().map(|name| (*name, Vec::new())).collect();
    let values = in_turn(settings, servers, &names, |servers, name| {
        let before = servers.cpu_time(name)?;
        let speed = job.run(&servers.address(name)?, settings.run)?;
        let spent = servers.cpu_time(name)? - before;
        let all = cpu.iter_mut().find(|(of, _)| *of == name).map(|(_, all)| all).expect("every name is there");
        all.push(spent.as_secs_f64() * 1e6 / speed.total as f64);
        Ok(speed.operations)
    })?;
    let targets = [Target::AtLeast(1.5, QemuRaw), Target::AtLeast(1.2, Nbdkit)];
    report.row("4k random read, depth 32, in cache", "IOPS", &values, &targets);
    report.row("server CPU per 4k read at depth 32", "µs", &cpu, &[Target::AtMost(0.6, QemuRaw)]);
    Ok(())
}

fn fio_row(
    (settings, servers, report): (&Settings, &mut Servers, &mut Report),
    label: &str,
    job: Fio,
    names: &[Name],
    targets: &[Target],
) -> Result<()> {
    let values = in_turn(settings, servers, names, |servers, name| {
        let speed = job.run(&servers.address(name)?, settings.run)?;
        Ok(if job.block == "4k" { speed.operations } else { speed.bytes / (1 << 20) as f64 })
    })?;
    report.row(label, if job.block == "4k" { "IOPS" } else { "MiB/s" }, &values, targets);
    Ok(())
}

fn read1(settings: &Settings, servers: &mut Servers, report: &mut Report) -> Result<()> {
    let names = [Drystone, QemuRaw, QemuQcow2, Nbdkit];
    warm(servers, &names)?;
    let job = Fio { pattern: "randread", block: "4k", depth: 1 };
    fio_row((settings, servers, report), "4k random read, depth 1", job, &names, &[Target::BestOfPeers(1.0)])
}

fn write32(settings: &Settings, servers: &mut Servers, report: &mut Report) -> Result<()> {
    let job = Fio { pattern: "randwrite", block: "4k", depth: 32 };
    let targets = [Target::AtLeast(2.0, QemuQcow2), Target::AtLeast(1.5, QemuRaw)];
    let names = [Drystone, QemuRaw, QemuQcow2, Nbdkit];
    fio_row((settings, servers, report), "4k random write, depth 32", job, &names, &targets)
}

fn write1(settings: &Settings, servers: &mut Servers, report: &mut Report) -> Result<()> {
    let job = Fio { pattern: "randwrite", block: "4k", depth: 1 };
    let names = [Drystone, QemuRaw, QemuQcow2, Nbdkit];
    fio_row((settings, servers, report), "4k random write, depth 1", job, &names, &[Target::AtLeast(1.0, QemuRaw)])
}

fn flushed(settings: &Settings, servers: &mut Servers, report: &mut Report) -> Result<()> {
    let count = if settings.quick { 3000 } else { 12_000 };
    let values = in_turn(settings, servers, &[Drystone, QemuRaw, QemuQcow2, Nbdkit], |servers, name| {
        flushed_writes(&servers.address(name)?, count)
    })?;
    let targets = [Target::AtLeast(0.9, QemuRaw), Target::AtLeast(1.5, QemuQcow2)];
    report.row("4k random write, depth 1, flush after each", "writes/s", &values, &targets);
    Ok(())
}

fn sequential(settings: &Settings, servers: &mut Servers, report: &mut Report) -> Result<()> {
    let names = [Drystone, QemuRaw, QemuQcow2, Nbdkit];
    warm(servers, &names)?;
    let read = Fio { pattern: "read", block: "256k", depth: 8 };
    let label = "256k sequential read, depth 8";
    fio_row((settings, servers, report), label, read, &names, &[Target::AtLeast(1.0, QemuRaw)])?;
    let write = Fio { pattern: "write", block: "256k", depth: 8 };
    let label = "256k sequential write, depth 8";
    fio_row((settings, servers, report), label, write, &names, &[Target::AtLeast(0.9, QemuRaw)])?;
    // What the page cache is worth to the peers, of which no byte need reach the disk while the row lasts. (Ours are large frames,
    // which go past it as well.)
    let values = in_turn(settings, servers, &[Drystone, QemuDirect], |servers, name| {
        Ok(write.run(&servers.address(name)?, settings.run)?.bytes / (1 << 20) as f64)
    })?;
    let [(_, ours), (_, theirs)] = values.as_slice() else { return Ok(()) };
    let shares = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
    report.row("the same by qemu-nbd raw past the page cache (cache=none)", "×", &[(Drystone, shares)], &[]);
    report.note(format!(
        "256k sequential write past the page cache: drystone {ours:.0?}, qemu-nbd raw {theirs:.0?} MiB/s"
    ));
    Ok(())
}

const MANY: usize = 64;
const MANY_BYTES: u64 = 64 << 20;

/// 64 vDisks of one controller against 64 qemu-nbd processes on 64 files.
fn flushed64(settings: &Settings, servers: &mut Servers, report: &mut Report) -> Result<()> {
    let mut ours: Vec<(Address, String)> = Vec::new();
    if settings.with_drystone {
        let server = servers.drystone()?;
        for index in 0..MANY {
            let name = format!("many{index}");
            server.create(&name, &MANY_BYTES.to_string())?;
            fill_export(&server.socket, &name)?;
            ours.push((server.socket.clone(), name));
        }
    }
    let mut theirs: Vec<(Address, String)> = Vec::new();
    let mut processes: Vec<(Background, PathBuf)> = Vec::new();
    for index in 0..MANY {
        let (image, socket) = (settings.dir.join(format!("many{index}.raw")), socket_path(&format!("many{index}")));
        fill_file(&image, MANY_BYTES)?;
        let process =
            start_peer(qemu_nbd("writeback", "raw", &image, &socket), &socket, &settings.dir.join("many.log"))?;
        theirs.push((Address::Unix(socket.clone()), EXPORT.to_string()));
        processes.push((process, socket));
    }
    let mut seed = 0;
    let values = in_turn(settings, servers, &[Drystone, QemuRaw], |_, name| {
        seed += 1;
        let targets = if name == Drystone { &ours } else { &theirs };
        Ok(client::run(targets, Verb::WriteFlush, 1, Until::Elapsed(settings.run), seed)?.per_second())
    })?;
    for (process, socket) in &mut processes {
        process.kill9();
        let _ = std::fs::remove_file(socket);
    }
    for index in 0..MANY {
        std::fs::remove_file(settings.dir.join(format!("many{index}.raw")))?;
        if settings.with_drystone {
            servers.drystone()?.run(&["vdisk", "delete", &format!("many{index}"), "--force"])?;
        }
    }
    let targets = [Target::AtLeast(1.5, QemuRaw)];
    report.row("4k random write, flush after each, on 64 vDisks at once, in sum", "writes/s", &values, &targets);
    Ok(())
}

/// Re-packing and the journal of the file system are listed apart.
fn amplify(settings: &Settings, servers: &mut Servers, report: &mut Report) -> Result<()> {
    if !settings.with_drystone {
        return Ok(());
    }
    let volume: u64 = if settings.quick { 1 << 30 } else { 16 << 30 };
    for (depth, most) in [(32, 1.1), (1, 1.2)] {
        let server = servers.drystone()?;
        let pid = server.pid();
        rustix::fs::sync();
        let classes = |server: &Server| -> Result<Vec<(String, f64)>> {
            Ok(samples(&server.metrics()?, "drystone_written_bytes_total{"))
        };
        let before = (classes(server)?, machine::written_by(pid)?, machine::written_to_device(&settings.dir)?);
        let target = [(server.socket.clone(), EXPORT.to_string())];
        let rate = client::run(&target, Verb::Write, depth, Until::Operations(volume / 4096), 7)?;
        server.connect(EXPORT)?.flush()?;
        // What is written behind the last request counts too.
        std::thread::sleep(Duration::from_secs(2));
        rustix::fs::sync();
        let after = (classes(server)?, machine::written_by(pid)?, machine::written_to_device(&settings.dir)?);
        let bytes = (rate.operations * 4096) as f64;
        let grown: Vec<(String, f64)> = after
            .0
            .iter()
            .map(|(class, now)| {
                let was = before.0.iter().find(|(other, _)| other == class).map_or(0.0, |(_, was)| *was);
                (class.split('"').nth(1).unwrap_or(class).to_string(), (now - was) / bytes)
            })
            .collect();
        let sum: f64 = grown.iter().filter(|(class, _)| class != "repacked").map(|(_, share)| share).sum();
        let label = format!("bytes written per byte of 4k random write, {} GiB at depth {depth}", volume >> 30);
        report.row(&label, "bytes", &[(Drystone, vec![sum])], &[Target::Below(most)]);
        let classes: Vec<String> = grown.iter().map(|(class, share)| format!("{class} {share:.3}")).collect();
        report.note(format!(
            "depth {depth}: by class {}; the process caused {:.3}, the block device took {:.3} (re-packing, the file \
             system's journal and everybody else included); {:.0} writes/s",
            classes.join(", "),
            (after.1 - before.1) as f64 / bytes,
            (after.2 - before.2) as f64 / bytes,
            rate.per_second()
        ));
    }
    space(settings, servers.drystone()?, 2 * volume, report)
}

/// Times that all of it is overwritten before its space is looked at.
const OVERWRITTEN: u64 = 10;

/// What it takes while it is overwritten, without a pause before; `written` is what was already.
fn space(settings: &Settings, server: &mut Server, written: u64, report: &mut Report) -> Result<()> {
    let target = [(server.socket.clone(), EXPORT.to_string())];
    let rest = (OVERWRITTEN * settings.size_bytes).saturating_sub(written);
    let rest = if settings.quick { 0 } else { rest };
    client::run(&target, Verb::Write, 32, Until::Operations(rest / 4096), 8)?;
    let times = (written + rest) / settings.size_bytes;
    let during = settings.run * SPACE_SAMPLES;
    let samples = std::thread::scope(|scope| {
        let writing = scope.spawn(|| client::run(&target, Verb::Write, 32, Until::Elapsed(during), 9));
        let mut samples = Vec::new();
        while !writing.is_finished() {
            samples.push(server.allocated_bytes()? as f64 / settings.size_bytes as f64);
            std::thread::sleep(during / SPACE_SAMPLES / 4);
        }
        writing.join().expect("the client does not panic")?;
        anyhow::Ok(samples)
    })?;
    let most = samples.iter().copied().fold(0.0, f64::max);
    let label = format!("space taken while it is overwritten at random, after {times} times, at most");
    report.row(&label, "× live", &[(Drystone, vec![most])], &[Target::Below(1.5)]);
    let least = samples.iter().copied().fold(most, f64::min);
    report.note(format!("space: {} looks under load, {least:.2} to {most:.2} × live", samples.len()));
    Ok(())
}

/// Runs that the looks at the space go over.
const SPACE_SAMPLES: u32 = 10;

/// Live bytes for which a checkpoint is due after 1 GiB.
const REPLAY_BYTES: u64 = 8 << 30;

/// On a vDisk that is full, of a size for which a checkpoint comes after 1 GiB of log.
fn replay(settings: &Settings, _: &mut Servers, report: &mut Report) -> Result<()> {
    if !settings.with_drystone {
        return Ok(());
    }
    let dir = settings.dir.join("replay");
    std::fs::create_dir_all(&dir)?;
    let mut server = Server::new(&dir)?;
    server.options = vec!["--memory".into(), settings.memory.clone()];
    server.start()?;
    let mut rates = Vec::new();
    for round in 0..settings.rounds {
        let name = format!("replay{round}");
        server.create(&name, &REPLAY_BYTES.to_string())?;
        fill_export(&server.socket, &name)?;
        // As much log as the checkpoints allow: stop shortly before one is due.
        let target = [(server.socket.clone(), name.clone())];
        let mut log = 0.0;
        for step in 0..1000 {
            client::run(&target, Verb::Write, 32, Until::Operations(4096), round as u64 * 1000 + step)?;
            log = server.metric("drystone_log_bytes ")?;
            if log > 900e6 {
                break;
            }
        }
        ensure!(log > 1e6, "there is never more than {log} bytes of log to replay");
        server.kill9();
        let start = Instant::now();
        server.start()?;
        let mut bytes = vec![0; 4096];
        server.connect(&name)?.read(0, &mut bytes)?;
        let took = start.elapsed();
        let replayed = server.metric("drystone_replay_bytes_total ")?;
        let seconds = server.metric("drystone_replay_seconds_total ")?;
        ensure!(replayed > 0.0, "nothing was replayed");
        server.run(&["vdisk", "delete", &name, "--force"])?;
        rates.push(replayed / f64::from(1 << 30) / took.as_secs_f64().max(seconds));
        report.note(format!(
            "replay: {:.0} MiB in {seconds:.2} s of replaying, {:.2} s from start to the first read",
            replayed / f64::from(1 << 20),
            took.as_secs_f64()
        ));
    }
    report.row("replay after kill -9", "GiB/s", &[(Drystone, rates)], &[Target::Above(1.0)]);
    Ok(())
}

fn thousand(settings: &Settings, _: &mut Servers, report: &mut Report) -> Result<()> {
    if !settings.with_drystone {
        return Ok(());
    }
    let dir = settings.dir.join("thousand");
    std::fs::create_dir_all(&dir)?;
    let mut server = Server::new(&dir)?;
    server.start()?;
    for index in 0..1000 {
        server.create(&format!("disk{index}"), "10GiB")?;
    }
    // Half of them were written to at some time.
    for index in (0..1000).step_by(2) {
        let mut client = server.connect(&format!("disk{index}"))?;
        client.write(0, &[1; 65536])?;
        client.flush()?;
    }
    server.stop()?;
    let mut starts = Vec::new();
    for round in 0..3 {
        let begin = Instant::now();
        server.start()?;
        let mut bytes = [0; 512];
        server.connect("disk998")?.read(0, &mut bytes)?;
        ensure!(bytes == [1; 512], "content after the start");
        starts.push(begin.elapsed().as_secs_f64());
        if round < 2 {
            server.stop()?;
        }
    }
    report.row("start with 1,000 vDisks, clean", "s", &[(Drystone, starts)], &[Target::Below(1.0)]);
    let idle = Duration::from_secs(if settings.quick { 10 } else { 30 });
    settle(server.pid())?;
    let before = machine::cpu_time(server.pid())?;
    std::thread::sleep(idle);
    let spent = machine::cpu_time(server.pid())? - before;
    let percent = spent.as_secs_f64() / idle.as_secs_f64() * 100.0;
    report.row("idle with 1,000 vDisks", "% of a core", &[(Drystone, vec![percent])], &[Target::Below(0.5)]);
    server.stop()
}
