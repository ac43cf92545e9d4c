//! Power loss on the real binary: its data directory lies on ext4 on a loop device over a QEMU export that records
//! every request; images are rebuilt at random points of that record, and every flush acknowledged before the point
//! must be there.
//!
//! Behind the last flush in the record the disk's cache decides: each write arrives, is torn, or is lost. What ties an
//! acknowledged flush to the record is the record's length when the reply arrived. Needs root (loop devices, mount).

use crate::content::Journal;
use crate::load::{Event, Load, Plan, Target, check_against};
use crate::process::{Background, command, finish, output, scratch, succeed, wait_until};
use crate::random::Random;
use crate::server::{Server, Subject};
use crate::write_log::WriteLog;
use anyhow::{Context, Result, bail, ensure};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The disk: room for what a few seconds of appending write.
const DISK_BYTES: u64 = 4 << 30;
const SIZE_BYTES: u64 = 32 << 20;
const CONNECTIONS: usize = 2;

#[derive(clap::Args, Clone)]
pub struct Options {
    /// Points at which the power fails.
    #[arg(long, default_value_t = 12)]
    pub points: u64,
    #[arg(long)]
    pub seed: Option<u64>,
    /// Length of the load, milliseconds.
    #[arg(long, default_value_t = 6000)]
    pub load_ms: u64,
    /// Against nbdkit instead, to try the harness.
    #[arg(long)]
    pub peer: bool,
}

pub fn run_alone(options: &Options) -> Result<()> {
    if !options.peer {
        crate::server::build()?;
    }
    println!("{}", run(options)?);
    Ok(())
}

/// One sentence on what was done.
pub fn run(options: &Options) -> Result<String> {
    ensure!(rustix::process::geteuid().is_root(), "loop devices and mounts need root");
    let seed = options.seed.unwrap_or_else(Random::seed_from_clock);
    let mut random = Random::new(seed);
    let dir = scratch("powerloss")?;
    let subject = if options.peer { Subject::Nbdkit } else { Subject::Drystone };
    let recorded = record(subject, &dir, options.load_ms, &mut random)?;
    let log = WriteLog::open(&dir.join("log.img"))?;
    let images = Images { dir: &dir, log: &log, recorded: &recorded };
    let mut points: Vec<usize> =
        (0..options.points).map(|_| random.between(recorded.begin as u64, log.entries.len() as u64) as usize).collect();
    points.sort_unstable();
    let mut statistics = Statistics::default();
    images.start_over()?;
    let early = recorded.begin + (log.entries.len() - recorded.begin) / 3;
    let mut lied = false;
    for point in points {
        if point >= early && !lied {
            let image = images.at(early, &mut random, &mut Statistics::default())?;
            images.must_notice_a_lie(subject, &image)?;
            lied = true;
        }
        let image = images.at(point, &mut random, &mut statistics)?;
        images.examine(subject, &image, images.log.entries[point - 1].end, &mut statistics).with_context(|| {
            format!("power lost at entry {point} of {}, log at {}; seed {seed}", log.entries.len(), dir.display())
        })?;
    }
    ensure!(lied, "no point behind the first third of the record; ask for more points");
    fs::remove_dir_all(&dir)?;
    Ok(format!(
        "{} points in a record of {} requests, {} writes behind the last flush lost or torn, {} flushes had to be there; seed {seed}",
        options.points,
        log.entries.len(),
        statistics.lost,
        statistics.flushes
    ))
}

#[derive(Default)]
struct Statistics {
    lost: u64,
    flushes: u64,
}

/// A load's journal, and the entry of the record at which it began.
struct Recorded {
    targets: Vec<Arc<Target>>,
    begin: usize,
}

fn record(subject: Subject, dir: &Path, load_ms: u64, random: &mut Random) -> Result<Recorded> {
    let base = dir.join("base.img");
    File::create(&base)?.set_len(DISK_BYTES)?;
    let text = base.to_string_lossy();
    output("mkfs.ext4", &["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", &text])?;
    output("cp", &["--sparse=always", &text, &dir.join("certain.img").to_string_lossy()])?;
    let log = dir.join("log.img");
    let disk = RecordingDisk::start(dir, &base, &log)?;
    let mount = Mount::new(&disk.export, &dir.join("mnt"))?;
    let mut server = Server::of(subject, &dir.join("mnt"))?;
    server.log_to(&dir.join("recorded.log"));
    server.start()?;
    let targets: Vec<Arc<Target>> =
        (0..2).map(|index| Target::new(&format!("load{index}"), index + 1, SIZE_BYTES)).collect();
    for target in &targets {
        server.create(&target.name, &SIZE_BYTES.to_string())?;
    }
    let length = {
        let log = log.clone();
        move || fs::metadata(&log).map_or(u64::MAX, |metadata| metadata.len())
    };
    let begin = length();
    let load = Load::start(&Plan {
        addresses: vec![server.nbd.clone(), server.socket.clone()],
        targets: targets.clone(),
        connections: CONNECTIONS,
        seed: random.next(),
        flush_percent: 6,
        position: Some(Arc::new(length)),
    })?;
    std::thread::sleep(Duration::from_millis(load_ms));
    ensure!(server.is_up(), "the controller ended by itself:\n{}", crate::process::tail(&server.log()));
    server.kill9();
    let counts = load.crashed()?;
    ensure!(counts.flushes > 20, "only {} flushes in {load_ms} ms", counts.flushes);
    mount.unmount()?;
    disk.stop()?;
    let begin = WriteLog::open(&log)?.entries_within(begin).max(1);
    Ok(Recorded { targets, begin })
}

/// `qemu-storage-daemon` that shows a recording disk as a file (FUSE).
struct RecordingDisk {
    daemon: Background,
    export: PathBuf,
}

impl Drop for RecordingDisk {
    fn drop(&mut self) {
        self.daemon.kill9();
        let _ = succeed(command("umount", &["--lazy", &self.export.to_string_lossy()]));
    }
}

impl RecordingDisk {
    fn start(dir: &Path, base: &Path, log: &Path) -> Result<RecordingDisk> {
        File::create(log)?;
        let export = dir.join("export.img");
        File::create(&export)?;
        let mut daemon = command("qemu-storage-daemon", &[]);
        daemon
            .args(["--blockdev", &format!("driver=file,node-name=base,discard=unmap,filename={}", base.display())])
            .args(["--blockdev", &format!("driver=file,node-name=log,filename={}", log.display())])
            .args(["--blockdev", "driver=blklogwrites,node-name=record,file=base,log=log,log-sector-size=512"])
            .arg("--export")
            .arg(format!("type=fuse,id=fuse,node-name=record,writable=on,mountpoint={}", export.display()));
        let mut daemon = Background::start(daemon, &dir.join("qemu.log"))?;
        wait_until("the FUSE export", Duration::from_secs(20), || {
            if let Some(status) = daemon.ended() {
                bail!("qemu-storage-daemon ended with {status}:\n{}", daemon.log());
            }
            Ok(fs::metadata(&export)?.len() == DISK_BYTES)
        })?;
        Ok(RecordingDisk { daemon, export })
    }

    fn stop(mut self) -> Result<()> {
        let status = self.daemon.terminate(Duration::from_secs(60))?;
        ensure!(status.success(), "qemu-storage-daemon ended with {status}");
        Ok(())
    }
}

/// An image mounted through a loop device until dropped.
pub struct Mount {
    device: String,
    pub path: PathBuf,
}

impl Mount {
    pub fn new(image: &Path, path: &Path) -> Result<Mount> {
        fs::create_dir_all(path)?;
        let device = output("losetup", &["--show", "--find", &image.to_string_lossy()])?.trim().to_string();
        let mount = Mount { device: device.clone(), path: path.to_path_buf() };
        output("mount", &["-t", "ext4", &device, &path.to_string_lossy()])?;
        Ok(mount)
    }

    pub fn unmount(self) -> Result<()> {
        // A killed process that used io_uring lets go of its files a moment after it is gone.
        let path = self.path.to_string_lossy().into_owned();
        wait_until("umount", Duration::from_secs(20), || {
            let tried = finish(command("umount", &[&path]), Duration::from_secs(20))?;
            if !tried.status.success() && !tried.stderr.contains("busy") {
                bail!("umount {path}: {}", tried.stderr);
            }
            Ok(tried.status.success())
        })?;
        output("losetup", &["--detach", &self.device])?;
        std::mem::forget(self);
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = succeed(command("umount", &["--lazy", &self.path.to_string_lossy()]));
        let _ = succeed(command("losetup", &["--detach", &self.device]));
    }
}

struct Images<'a> {
    dir: &'a Path,
    log: &'a WriteLog,
    recorded: &'a Recorded,
}

impl Images<'_> {
    fn certain(&self) -> PathBuf {
        self.dir.join("certain.img")
    }

    /// How far `certain.img` has been brought is kept beside it.
    fn progress(&self) -> PathBuf {
        self.dir.join("certain.entries")
    }

    fn start_over(&self) -> Result<()> {
        Ok(fs::write(self.progress(), "0")?)
    }

    /// The disk as it may be when the power fails behind entry `point - 1`. Points must not decrease.
    fn at(&self, point: usize, random: &mut Random, statistics: &mut Statistics) -> Result<PathBuf> {
        let done: usize = fs::read_to_string(self.progress())?.parse()?;
        let certain = self.log.certain(point).max(done);
        self.log.replay(&File::options().write(true).open(self.certain())?, done, certain)?;
        fs::write(self.progress(), certain.to_string())?;
        let cut = self.dir.join("cut.img");
        output("cp", &["--sparse=always", &self.certain().to_string_lossy(), &cut.to_string_lossy()])?;
        let image = File::options().write(true).open(&cut)?;
        statistics.lost += self.log.replay_uncertain(&image, certain, point, random)?;
        Ok(cut)
    }

    /// Starts a controller on the image and reads everything.
    fn examine(&self, subject: Subject, image: &Path, length: u64, statistics: &mut Statistics) -> Result<()> {
        let mount = Mount::new(image, &self.dir.join("cut"))?;
        let mut server = Server::of(subject, &mount.path)?;
        server.log_to(&self.dir.join("examined.log"));
        server.start()?;
        for target in &self.recorded.targets {
            let mut journal = journal_at(&target.state().events, length, &mut statistics.flushes);
            let mut client = server.connect(&target.name)?;
            check_against(&mut journal, target, &mut client)?;
        }
        server.stop()?;
        mount.unmount()
    }

    /// The check itself is checked: the same image, taken for one from the end of the record, must be found wrong.
    fn must_notice_a_lie(&self, subject: Subject, image: &Path) -> Result<()> {
        match self.examine(subject, image, u64::MAX, &mut Statistics::default()) {
            Ok(()) => bail!("a disk that lost acknowledged flushes was found to be in order"),
            Err(error) if format!("{error:#}").contains("sectors are wrong") => Ok(()),
            Err(error) => Err(error.context("expected to find lost flushes")),
        }
    }
}

/// What must and may be there when the power fails with the record `length` long.
fn journal_at(events: &[Event], length: u64, flushes: &mut u64) -> Journal {
    let mut covered = 0;
    for event in events {
        if let Event::FlushAcknowledge { issue, durable_at } = *event
            && durable_at <= length
        {
            *flushes += 1;
            covered = covered.max(issue);
        }
    }
    let mut journal = Journal::new(SIZE_BYTES / crate::content::SECTOR as u64);
    let mut issued = std::collections::HashMap::new();
    for (index, event) in events.iter().enumerate() {
        match *event {
            Event::Issue { first, count, value } => {
                issued.insert(index, journal.issue(first, count, value));
            }
            Event::Acknowledge { issue, durable_at } => {
                let write = issued.remove(&issue).expect("a write is issued before it is acknowledged");
                if index < covered || durable_at.is_some_and(|at| at <= length) {
                    journal.acknowledge(write);
                }
            }
            Event::FlushIssue | Event::FlushAcknowledge { .. } => {}
        }
    }
    journal
}
