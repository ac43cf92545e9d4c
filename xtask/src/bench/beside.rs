//! Random writes while a snapshot is taken every second, by those without: drystone, and qcow2 with internal and with external
//! snapshots, taken by QEMU's monitor while its NBD server goes on.

use super::Settings;
use super::client::{self, Until, Verb};
use super::report::{Report, Target};
use super::servers::{EXPORT, Name, Servers, fill_export, fill_file, socket_path};
use super::snapshots::{Api, start};
use crate::nbd::{Address, Client};
use crate::process::{Background, bound, command, output, wait_until};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// At least so many seconds, so that a run has some snapshots.
const RUN: Duration = Duration::from_secs(6);
const DEPTH: usize = 32;

/// Writes with, by writes without; and writes without, a second.
struct Compared {
    shares: Vec<f64>,
    rates: Vec<f64>,
}

pub fn row(settings: &Settings, _: &mut Servers, report: &mut Report) -> Result<()> {
    let dir = settings.dir.join("beside");
    std::fs::create_dir_all(&dir)?;
    let mut compared = Vec::new();
    if settings.with_drystone {
        compared.push((Name::Drystone, drystone(settings, &dir)?));
    }
    for (name, kind) in [(Name::Qcow2Internal, Kind::Internal), (Name::Qcow2External, Kind::External)] {
        match qcow2(settings, &dir, kind) {
            Ok(one) => compared.push((name, one)),
            Err(error) => report.note(format!("{} did not run: {error:#}", name.text())),
        }
    }
    let rates: Vec<_> = compared.iter().map(|(name, one)| (*name, one.rates.clone())).collect();
    report.snapshot_row("4k random write, depth 32, without snapshots", "IOPS", &rates, &[]);
    let shares: Vec<_> = compared.iter().map(|(name, one)| (*name, one.shares.clone())).collect();
    let label = "the same with a snapshot every second, by without";
    report.snapshot_row(label, "×", &shares, &[Target::Above(0.9)]);
    report.note("LVM thin and ZFS were not measured: this kernel has no device mapper and no ZFS".into());
    std::fs::remove_dir_all(&dir).map_err(Into::into)
}

/// Round after round on the same server: without, then with.
fn compare(
    settings: &Settings,
    target: &[(Address, String)],
    mut snapshot: impl FnMut(&str) -> Result<()> + Send,
    mut delete: impl FnMut(&str) -> Result<()>,
) -> Result<Compared> {
    let time = (settings.run * 2).max(RUN);
    let mut compared = Compared { shares: Vec::new(), rates: Vec::new() };
    for round in 0..settings.rounds as u64 {
        let without = client::run(target, Verb::Write, DEPTH, Until::Elapsed(time), round)?.per_second();
        let over = AtomicBool::new(false);
        let (with, names) = std::thread::scope(|scope| {
            let taking = scope.spawn(|| -> Result<Vec<String>> {
                let mut names = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    names.push(format!("r{round}-{}", names.len()));
                    snapshot(names.last().expect("pushed above"))?;
                    std::thread::sleep(Duration::from_secs(1));
                }
                Ok(names)
            });
            let with = client::run(target, Verb::Write, DEPTH, Until::Elapsed(time), 100 + round);
            over.store(true, Ordering::Relaxed);
            let names = taking.join().expect("it does not panic")?;
            anyhow::Ok((with?.per_second(), names))
        })?;
        ensure!(names.len() as u64 >= time.as_secs() / 2, "only {} snapshots were taken", names.len());
        names.iter().try_for_each(|name| delete(name))?;
        compared.rates.push(without);
        compared.shares.push(with / without);
    }
    Ok(compared)
}

fn drystone(settings: &Settings, dir: &Path) -> Result<Compared> {
    let server = start(settings, &dir.join("drystone"))?;
    let api = Api::of(&server)?;
    server.create("beside", &settings.size_bytes.to_string())?;
    fill_export(&server.socket, "beside")?;
    let target = [(server.socket.clone(), "beside".to_string())];
    let compared = compare(
        settings,
        &target,
        |name| api.snapshot("beside", name).map(drop),
        |name| api.delete_snapshot("beside", name).map(drop),
    )?;
    drop(server);
    std::fs::remove_dir_all(dir.join("drystone"))?;
    Ok(compared)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Internal,
    External,
}

fn qcow2(settings: &Settings, dir: &Path, kind: Kind) -> Result<Compared> {
    let raw = dir.join("fill.raw");
    // Each file behind the first takes 64 KiB for each 4 KiB that is written at random, up to the whole size: of 4 GiB a round took 28.
    let size_bytes = if kind == Kind::External { settings.size_bytes / 8 } else { settings.size_bytes };
    fill_file(&raw, size_bytes)?;
    let image = dir.join("image.qcow2");
    output("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &raw.to_string_lossy(), &image.to_string_lossy()])?;
    let qemu = Qemu::start(dir, &image)?;
    let target = [(Address::Unix(qemu.socket.clone()), EXPORT.to_string())];
    let monitor = std::sync::Mutex::new(qemu.monitor()?);
    let take = |name: &str| {
        let mut monitor = monitor.lock().expect("no panic under the lock");
        match kind {
            Kind::Internal => monitor.run("blockdev-snapshot-internal-sync", json!({"device": "disk", "name": name})),
            Kind::External => {
                let file = dir.join(format!("{name}.qcow2"));
                let arguments = json!({"node-name": monitor.top, "snapshot-file": file, "snapshot-node-name": name, "format": "qcow2"});
                monitor.run("blockdev-snapshot-sync", arguments)?;
                monitor.top = name.to_string();
                Ok(())
            }
        }
    };
    let delete = |name: &str| match kind {
        Kind::Internal => {
            let mut monitor = monitor.lock().expect("no panic under the lock");
            monitor.run("blockdev-snapshot-delete-internal-sync", json!({"device": "disk", "name": name}))
        }
        // The chain stays: merging it is a job of its own.
        Kind::External => Ok(()),
    };
    let compared = compare(settings, &target, take, delete);
    drop(qemu);
    for file in std::fs::read_dir(dir)? {
        let path = file?.path();
        if path.extension().is_some_and(|kind| kind == "qcow2") {
            std::fs::remove_file(path)?;
        }
    }
    compared
}

/// A QEMU without a guest that serves an image; unlike qemu-nbd it takes snapshots meanwhile.
struct Qemu {
    process: Background,
    socket: PathBuf,
    control: PathBuf,
}

impl Qemu {
    fn start(dir: &Path, image: &Path) -> Result<Qemu> {
        let (socket, control) = (socket_path("beside"), socket_path("monitor"));
        let _ = (std::fs::remove_file(&socket), std::fs::remove_file(&control));
        let mut qemu = command("qemu-system-x86_64", &["-machine", "none", "-nodefaults", "-display", "none"]);
        qemu.arg("-blockdev").arg(format!(
            "driver=qcow2,node-name=disk,file.driver=file,file.aio=io_uring,file.filename={}",
            image.display()
        ));
        qemu.arg("-qmp").arg(format!("unix:{},server=on,wait=off", control.display()));
        let process = Background::start(bound(&qemu), &dir.join("qemu.log"))?;
        let mut qemu = Qemu { process, socket, control };
        wait_until("QEMU's monitor", Duration::from_secs(20), || {
            if let Some(status) = qemu.process.ended() {
                bail!("QEMU ended with {status}: {}", qemu.process.log());
            }
            Ok(UnixStream::connect(&qemu.control).is_ok())
        })?;
        let mut monitor = qemu.monitor()?;
        monitor.run("nbd-server-start", json!({"addr": {"type": "unix", "data": {"path": qemu.socket}}}))?;
        let export = json!({"type": "nbd", "id": "export", "node-name": "disk", "name": EXPORT, "writable": true});
        monitor.run("block-export-add", export)?;
        Client::connect(&Address::Unix(qemu.socket.clone()), EXPORT)?.disconnect()?;
        Ok(qemu)
    }

    fn monitor(&self) -> Result<Monitor> {
        let stream = UnixStream::connect(&self.control)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut monitor = Monitor { lines: BufReader::new(stream.try_clone()?), stream, top: "disk".into() };
        monitor.line()?;
        monitor.run("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.process.kill9();
        let _ = (std::fs::remove_file(&self.socket), std::fs::remove_file(&self.control));
    }
}

/// QEMU's monitor (QMP): a JSON object a line.
struct Monitor {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
    /// The node that is written to.
    top: String,
}

impl Monitor {
    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("QMP said {line:?}"))
    }

    fn run(&mut self, verb: &str, arguments: Value) -> Result<()> {
        writeln!(self.stream, "{}", json!({"execute": verb, "arguments": arguments}))?;
        loop {
            let answer = self.line()?;
            if let Some(error) = answer.get("error") {
                bail!("{verb}: {error}");
            }
            if answer.get("return").is_some() {
                return Ok(());
            }
        }
    }
}
