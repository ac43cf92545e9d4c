//! A full disk: writes fail with "no space left", reads go on, nothing acknowledged is lost, and once space is freed
//! writes go on without a restart.

use crate::content::{SECTOR, compose};
use crate::iscsi::initiator::Initiator;
use crate::nbd::{self, Client};
use crate::powerloss::Mount;
use crate::process::{output, scratch, wait_until};
use crate::server::{Health, Server};
use crate::steps::Done;
use anyhow::{Context, Result, bail, ensure};
use std::fs::File;
use std::time::Duration;

/// The disk. What a controller keeps in reserve must fit several times.
const DISK_BYTES: u64 = 2 << 30;
/// A file beside the data directory, whose deletion frees space from outside.
const BALLAST_BYTES: u64 = 400 << 20;
const CHUNK: u64 = 1 << 20;
/// Of the large vDisk, behind all that the checks fill.
const BEYOND: u64 = 6 << 30;
const SALT: u64 = 77;
const ENOSPC: u32 = 28;
/// From freeing space to the first write that goes on.
const PATIENCE: Duration = Duration::from_secs(30);

pub fn run() -> Result<Done> {
    ensure!(rustix::process::geteuid().is_root(), "loop devices and mounts need root");
    let dir = scratch("full")?;
    let image = dir.join("disk.img");
    File::create(&image)?.set_len(DISK_BYTES)?;
    // No blocks for root alone: nobody else could write them, so they are not shown as available.
    output("mkfs.ext4", &["-q", "-m", "0", &image.to_string_lossy()])?;
    let mount = Mount::new(&image, &dir.join("mnt"))?;
    let ballast = mount.path.join("ballast");
    output("fallocate", &["-l", &BALLAST_BYTES.to_string(), &ballast.to_string_lossy()])?;
    let mut server = Server::new(&mount.path)?;
    server.log_to(&dir.join("drystone.log"));
    server.start()?;
    for (name, size) in [("big", "8GiB"), ("other", "1GiB"), ("victim", "1GiB")] {
        server.create(name, size)?;
    }
    let mut other = Region::new(&server, "other")?;
    other.grow(16)?;
    Region::new(&server, "victim")?.grow(300)?;
    let mut big = Region::new(&server, "big")?;
    server.run(&["schedule", "create", "often", "--vdisk", "other", "--every", "1s", "--keep", "2"])?;

    // From outside.
    let filled = big.fill()?;
    ensure!(filled > 100, "the disk was full after {filled} MiB");
    big.verify()?;
    other.verify()?;
    big.client.flush()?;
    must_show_full(&server)?;
    let mut initiator = Initiator::login(&server.iscsi, "iqn.2026-11.com.example:full", 1, "big")?;
    initiator.ready()?;
    must_refuse_an_initiator(&mut initiator)?;
    let newest = scheduled_while_full(&server)?;
    std::fs::remove_file(&ballast)?;
    big.wait_for_space("after a file was deleted")?;
    // The same session.
    wait_until("a write over iSCSI after a file was deleted", PATIENCE, || {
        Ok(initiator.write(BEYOND, &[5; 4096])?.status == 0)
    })?;
    ensure!(initiator.read(BEYOND, 4096)?.good()? == [5; 4096], "what was written over iSCSI is not there");
    drop(initiator);
    let goes_on = || {
        let (state, names) = schedule(&server)?;
        Ok(state != "failing" && names.last() > newest.as_ref())
    };
    wait_until("the schedule to go on", PATIENCE, goes_on)?;
    server.run(&["schedule", "delete", "often"])?;
    must_show_health(&server, "after a file was deleted")?;

    // By trimming.
    big.fill()?;
    big.trim(200)?;
    big.wait_for_space("after a trim")?;
    must_show_health(&server, "after a trim")?;

    // By deleting a vDisk; that must work on a full disk.
    big.fill()?;
    server.run(&["vdisk", "delete", "victim"])?;
    big.wait_for_space("after a vDisk was deleted")?;

    // A crash while full.
    big.fill()?;
    let (grown, trimmed) = (big.grown, big.trimmed);
    must_show_full(&server)?;
    server.kill9();
    server.start_in_any_health()?;
    must_show_full(&server)?;
    let mut big = Region { grown, trimmed, client: server.connect("big")? };
    big.verify()?;
    let mut other = Region { grown: other.grown, trimmed: 0, client: server.connect("other")? };
    other.verify()?;
    server.stop()?;
    mount.unmount()?;
    std::fs::remove_file(&image)?;
    Ok(Done::new(6, format!("{grown} MiB written to a disk of {} MiB, 4 times full", DISK_BYTES >> 20)))
}

/// A monitor, a person at `status` and one at `list` all learn that the disk is full.
fn must_show_full(server: &Server) -> Result<()> {
    let health = server.health()?;
    let said = matches!(&health, Health::Degraded(reasons) if reasons.iter().any(|reason| reason.contains("full")));
    ensure!(said, "the disk is full, /healthz says {health:?}");
    let status = server.run(&["status"])?;
    ensure!(!status.contains("healthy") && status.contains("the disk is full"), "the disk is full:\n{status}");
    let status = server.json(&["status"])?;
    for disk in status["disks"].as_array().context("status lists the disks")? {
        ensure!(disk["state"]["kind"] == "full", "the disk is full, but said to be {disk}");
    }
    let mut big = server.json(&["vdisk", "show", "big"])?;
    // After a start its log may still be read.
    for _ in 0..100 {
        if big["state"]["kind"] != "recovering" {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
        big = server.json(&["vdisk", "show", "big"])?;
    }
    ensure!(big["state"]["kind"] == "full", "the disk is full, its vDisk is said to be {big}");
    Ok(())
}

/// Writes are refused with the sense of a thin disk without room (SBC-3 4.7.3.6), and what was acknowledged is read. A small write may
/// still find room, where something has just come free.
fn must_refuse_an_initiator(initiator: &mut Initiator) -> Result<()> {
    const SPACE_ALLOCATION_FAILED: Option<(u8, u8, u8)> = Some((0x07, 0x27, 0x07));
    let mut at = BEYOND;
    let refused = loop {
        let ended = initiator.write(at, &[6; 8192])?;
        if ended.status != 0 {
            break ended;
        }
        at += 8192;
        ensure!(at < BEYOND + (64 << 20), "64 MiB were written over iSCSI to a full disk");
    };
    ensure!(refused.status == 2 && refused.sense == SPACE_ALLOCATION_FAILED, "a write to a full disk: {refused:?}");
    for written in (BEYOND..at).step_by(8192) {
        ensure!(initiator.read(written, 8192)?.good()? == [6; 8192], "{written} is not what was acknowledged");
    }
    ensure!(initiator.read(at, 8192)?.good()? == [0; 8192], "a write that was refused is there, in part");
    ensure!(initiator.read(0, 4096)?.good()? == Region::content(0)[..4096], "what NBD wrote is not read over iSCSI");
    Ok(())
}

/// Its state, and the names of its snapshots, the oldest first.
fn schedule(server: &Server) -> Result<(String, Vec<String>)> {
    let shown = server.json(&["schedule", "show", "often"])?;
    let names = shown["snapshots"].as_array().into_iter().flatten().filter_map(|name| name.as_str());
    let names = names.map(str::to_string).collect();
    Ok((shown["state"]["kind"].as_str().unwrap_or_default().to_string(), names))
}

/// It takes its snapshots, or says that it does not, and then deletes none. The name of the newest.
fn scheduled_while_full(server: &Server) -> Result<Option<String>> {
    let (_, before) = schedule(server)?;
    ensure!(!before.is_empty(), "nothing was taken before the disk was full");
    std::thread::sleep(Duration::from_secs(3));
    let (state, after) = schedule(server)?;
    must_show_full(server)?;
    let newest = |names: &[String]| names.last().cloned();
    if state == "failing" {
        ensure!(after.contains(&before[before.len() - 1]), "{before:?}, then {after:?}, and the newest is missing");
    } else {
        ensure!(newest(&after) > newest(&before), "nothing is taken, and it is said to be {state}");
    }
    Ok(newest(&after))
}

fn must_show_health(server: &Server, when: &str) -> Result<()> {
    let healthy = wait_until(&format!("health {when}"), PATIENCE, || Ok(server.health()? == Health::Healthy));
    healthy.with_context(|| server.run(&["status"]).unwrap_or_default()).map(drop)
}

/// A vDisk filled from its start on, MiB by MiB, trimmed from its start on.
struct Region {
    client: Client,
    /// MiB acknowledged.
    grown: u64,
    trimmed: u64,
}

impl Region {
    fn new(server: &Server, name: &str) -> Result<Region> {
        Ok(Region { client: server.connect(name)?, grown: 0, trimmed: 0 })
    }

    fn content(index: u64) -> Vec<u8> {
        let mut bytes = vec![0; CHUNK as usize];
        compose(&mut bytes, SALT, index * CHUNK / SECTOR as u64, index + 1);
        bytes
    }

    /// True if the write was acknowledged, false on ENOSPC; every other answer is an error.
    fn write_one(&mut self) -> Result<bool> {
        let data = Region::content(self.grown);
        self.client.send(nbd::WRITE, 0, 1, self.grown * CHUNK, CHUNK as u32, &data)?;
        match self.client.answer()?.error {
            0 => {
                self.grown += 1;
                Ok(true)
            }
            ENOSPC => Ok(false),
            error => bail!("a write to a full disk was answered with error {error}, expected ENOSPC ({ENOSPC})"),
        }
    }

    fn grow(&mut self, count: u64) -> Result<()> {
        for _ in 0..count {
            ensure!(self.write_one()?, "full after {} MiB already", self.grown);
        }
        Ok(())
    }

    /// Until it is full; how many MiB that took.
    fn fill(&mut self) -> Result<u64> {
        let before = self.grown;
        while self.write_one()? {
            ensure!(self.grown < DISK_BYTES / CHUNK * 2, "the disk never gets full");
        }
        Ok(self.grown - before)
    }

    fn trim(&mut self, count: u64) -> Result<()> {
        self.client.trim(self.trimmed * CHUNK, (count * CHUNK) as u32)?;
        self.trimmed += count;
        self.client.flush()
    }

    /// Several writes succeed; in between it may be full again for a moment, while space is given back bit by bit.
    fn wait_for_space(&mut self, when: &str) -> Result<()> {
        let mut written = 0;
        wait_until(&format!("writes {when}"), PATIENCE, || {
            if self.write_one()? {
                written += 1;
            } else {
                std::thread::sleep(Duration::from_millis(100));
            }
            Ok(written == 16)
        })
        .with_context(|| format!("{written} of 16 writes succeeded"))?;
        self.verify()
    }

    fn verify(&mut self) -> Result<()> {
        let mut bytes = vec![0; CHUNK as usize];
        for index in 0..self.grown {
            self.client.read(index * CHUNK, &mut bytes)?;
            let right = if index < self.trimmed {
                bytes.iter().all(|byte| *byte == 0)
            } else {
                bytes == Region::content(index)
            };
            ensure!(right, "MiB {index} of {} is not what was acknowledged", self.grown);
        }
        Ok(())
    }
}
