//! The memory budget: a thousand vDisks in use at the same time, far more asked for at once than the budget holds, and
//! the process stays within what docs/operations.md promises. Before that they are idle, and keep no space to write into later.

use crate::content::{SECTOR, compose};
use crate::nbd::{self, Client};
use crate::process::{scratch, wait_until};
use crate::random::Random;
use crate::server::Server;
use crate::steps::Done;
use anyhow::{Context, Result, ensure};
use std::io::Read;
use std::thread;
use std::time::Duration;

const BUDGET_BYTES: u64 = 256 << 20;
/// docs/operations.md, "Memory": what the process may take besides its budget, and for each vDisk and connection.
const FIXED_BYTES: u64 = 128 << 20;
const BYTES_PER_VDISK: u64 = 64 << 10;
const VDISKS: u64 = 1000;
/// Each large or small write has a map page of its own.
const VDISK_BYTES: u64 = 64 << 30;
const THREADS: u64 = 8;
const ROUNDS: u64 = 2;
const LARGE: u32 = 1 << 20;
const SMALL: u32 = 4096;
/// Of each vDisk in a round.
const SMALL_WRITES: u64 = 16;
/// On the disk, for each idle vDisk with one block: its frames, a checkpoint, the metadata store's record, 39 KiB. While it is
/// written, 64 KiB are reserved for its group alone.
const IDLE_BYTES_PER_VDISK: u64 = 48 << 10;
/// A vDisk is quiet after 20 s.
const IDLE_LIMIT: Duration = Duration::from_secs(60);

pub fn run() -> Result<Done> {
    let dir = scratch("memory")?;
    let mut server = Server::new(&dir)?;
    server.options = vec!["--memory".into(), BUDGET_BYTES.to_string()];
    server.start()?;
    let empty = calm_space(&server)?;
    in_parallel(|mut part| {
        part.try_for_each(|disk| {
            server.create(&name(disk), &VDISK_BYTES.to_string())?;
            let mut client = server.connect(&name(disk))?;
            client.write(0, &[1; SMALL as usize])?;
            client.flush()?;
            client.disconnect()
        })
    })?;
    let busy = server.allocated_bytes()?.saturating_sub(empty);
    let mut space = busy;
    wait_until("idle vDisks hold no space to write into later", IDLE_LIMIT, || {
        thread::sleep(Duration::from_millis(200));
        space = server.allocated_bytes()?.saturating_sub(empty);
        Ok(space <= VDISKS * IDLE_BYTES_PER_VDISK)
    })
    .with_context(|| format!("{} KiB each, {} KiB when they were written", kib_each(space), kib_each(busy)))?;
    let idle = resident(server.pid())?;
    let seed = Random::seed_from_clock();
    in_parallel(|part| use_all(&server, part.collect(), seed)).with_context(|| format!("seed {seed}"))?;
    let peak = peak(server.pid())?;
    let allowed = promised(BUDGET_BYTES, VDISKS);
    let said =
        format!("{VDISKS} vDisks with {} MiB: {} MiB idle, {} MiB at most", mib(BUDGET_BYTES), mib(idle), mib(peak));
    ensure!(peak <= allowed, "{said}; {} MiB are promised", mib(allowed));
    server.stop()?;
    Ok(Done::new(
        2,
        format!("{said}; {} KiB of disk for each idle one, {} while in use", kib_each(space), kib_each(busy)),
    ))
}

fn name(disk: u64) -> String {
    format!("disk{disk}")
}

fn mib(bytes: u64) -> u64 {
    bytes >> 20
}

fn kib_each(bytes: u64) -> u64 {
    (bytes >> 10) / VDISKS
}

/// What the data directory takes when nothing is added to it any more: the reserve is made in the background.
fn calm_space(server: &Server) -> Result<u64> {
    let mut before = 0;
    let mut space = server.allocated_bytes()?;
    wait_until("a data directory that does not grow", IDLE_LIMIT, || {
        thread::sleep(Duration::from_millis(500));
        before = std::mem::replace(&mut space, server.allocated_bytes()?);
        Ok(before == space)
    })?;
    Ok(space)
}

/// `work` on equal parts of the vDisks, each on a thread of its own.
fn in_parallel(work: impl Fn(std::ops::Range<u64>) -> Result<()> + Sync) -> Result<()> {
    thread::scope(|scope| {
        let work = &work;
        let part = VDISKS / THREADS;
        let threads: Vec<_> =
            (0..THREADS).map(|thread| scope.spawn(move || work(thread * part..(thread + 1) * part))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a worker does not panic"))
    })
}

struct Written {
    offset: u64,
    len: u32,
    write: u64,
}

struct Disk {
    number: u64,
    client: Client,
    written: Vec<Written>,
}

/// Everything is sent to all vDisks before the first answer is read: what the controller takes of that is up to it.
fn use_all(server: &Server, numbers: Vec<u64>, seed: u64) -> Result<()> {
    let open = |number: u64| -> Result<Disk> {
        Ok(Disk { number, client: server.connect(&name(number))?, written: Vec::new() })
    };
    let mut disks = numbers.iter().map(|number| open(*number)).collect::<Result<Vec<_>>>()?;
    let mut random = Random::new(seed ^ numbers[0]);
    for _ in 0..ROUNDS {
        disks.iter_mut().try_for_each(|disk| disk.send_writes(&mut random))?;
        disks.iter_mut().try_for_each(Disk::take_answers)?;
        disks.iter_mut().try_for_each(Disk::send_reads)?;
        disks.iter_mut().try_for_each(Disk::take_data)?;
    }
    disks.into_iter().try_for_each(|disk| disk.client.disconnect())
}

impl Disk {
    fn content(&self, of: &Written) -> Vec<u8> {
        let mut bytes = vec![0; of.len as usize];
        compose(&mut bytes, self.number + 1, of.offset / SECTOR as u64, of.write);
        bytes
    }

    fn send_writes(&mut self, random: &mut Random) -> Result<()> {
        self.written.clear();
        for write in 1..=SMALL_WRITES + 1 {
            let len = if write > SMALL_WRITES { LARGE } else { SMALL };
            // Each in a part of its own, so that they do not overlap.
            let part = VDISK_BYTES / (SMALL_WRITES + 1) / u64::from(LARGE);
            let offset = ((write - 1) * part + random.below(part)) * u64::from(LARGE);
            let written = Written { offset, len, write };
            self.client.send(nbd::WRITE, 0, write, offset, len, &self.content(&written))?;
            self.written.push(written);
        }
        Ok(())
    }

    fn take_answers(&mut self) -> Result<()> {
        for _ in 0..self.written.len() {
            let answer = self.client.answer()?;
            ensure!(answer.error == 0, "disk{}: NBD error {}", self.number, answer.error);
        }
        Ok(())
    }

    fn send_reads(&mut self) -> Result<()> {
        for (cookie, of) in self.written.iter().enumerate() {
            self.client.send(nbd::READ, 0, cookie as u64, of.offset, of.len, &[])?;
        }
        Ok(())
    }

    fn take_data(&mut self) -> Result<()> {
        for _ in 0..self.written.len() {
            let answer = self.client.answer()?;
            ensure!(answer.error == 0, "disk{}: NBD error {}", self.number, answer.error);
            let of = self.written.get(answer.cookie as usize).context("a reply to nothing that was asked")?;
            let mut bytes = vec![0; of.len as usize];
            self.client.stream.read_exact(&mut bytes)?;
            ensure!(bytes == self.content(of), "disk{}: {} bytes at {} are wrong", self.number, of.len, of.offset);
        }
        Ok(())
    }
}

/// What docs/operations.md allows a process with that budget and so many vDisks.
pub fn promised(budget_bytes: u64, vdisks: u64) -> u64 {
    budget_bytes + FIXED_BYTES + vdisks * BYTES_PER_VDISK
}

/// The most memory that a process had at any time.
pub fn peak(pid: u32) -> Result<u64> {
    status_bytes(pid, "VmHWM:")
}

/// What it has now.
pub fn resident(pid: u32) -> Result<u64> {
    status_bytes(pid, "VmRSS:")
}

/// A line of /proc/PID/status, in bytes.
fn status_bytes(pid: u32, key: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(key)).with_context(|| format!("no {key}"))?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().with_context(|| format!("{key} {line}"))?;
    Ok(kib << 10)
}
