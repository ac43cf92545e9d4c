//! Rewind as a user meets it: seconds of the past against what a recorder saw, while writes go on and across a `kill -9`.

use super::vms::{level, on_two_workers};
use super::{Bench, Check};
use crate::nbd::{Address, Client};
use crate::process::{output, wait_until};
use crate::random::Random;
use crate::server::Server;
use anyhow::{Context, Result, bail, ensure};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub const CHECKS: &[(&str, Check)] = &[
    ("rewind to twenty moments under load", twenty_moments),
    ("rewind refused, and switched off", refused),
    ("rewind of VMs", of_vms),
];

const BLOCK: usize = 4096;
/// Blocks that are written, in all of which something is overwritten again and again.
const BLOCKS: u64 = 512;
/// The load goes on for so long, with the `kill -9` in the middle.
const LOAD: Duration = Duration::from_secs(12);
const MOMENTS: u64 = 20;
const WAIT: Duration = Duration::from_secs(20);

/// What one write was: its block, and when it was begun and acknowledged, ns since 1970.
#[derive(Clone, Copy)]
struct Write {
    block: u64,
    begun_ns: u64,
    acknowledged_ns: u64,
}

/// One writer, one write after the other: at every moment the content is that of all writes up to one of them.
struct Recorder {
    address: Address,
    seed: u64,
    writes: Mutex<Vec<Write>>,
    ends: AtomicBool,
}

fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_nanos() as u64
}

/// What write `number` puts into its block; 0: nothing was written yet.
fn content(number: u64) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK];
    if number > 0 {
        Random::new(number).fill(&mut bytes);
        bytes[..8].copy_from_slice(&number.to_le_bytes());
    }
    bytes
}

impl Recorder {
    /// Writes until it is told to end. One that got no answer is written again when the controller is back.
    fn run(&self) -> Result<()> {
        let mut random = Random::new(self.seed);
        let mut client = Client::connect(&self.address, "past")?;
        while !self.ends.load(Ordering::Acquire) {
            let number = self.writes.lock().expect("nobody panics here").len() as u64 + 1;
            let (block, bytes, begun_ns) = (random.below(BLOCKS), content(number), now_ns());
            self.writes.lock().expect("as above").push(Write { block, begun_ns, acknowledged_ns: u64::MAX });
            while client.write(block * BLOCK as u64, &bytes).is_err() {
                let begun = Instant::now();
                client = loop {
                    match Client::connect(&self.address, "past") {
                        Ok(client) => break client,
                        Err(_) if begun.elapsed() < WAIT => std::thread::sleep(Duration::from_millis(20)),
                        Err(error) => return Err(error).context("the controller does not come back"),
                    }
                };
            }
            self.writes.lock().expect("as above")[number as usize - 1].acknowledged_ns = now_ns();
            if number % 64 == 0 {
                let _ = client.flush();
            }
            if random.chance(3) {
                std::thread::sleep(Duration::from_millis(random.between(1, 40)));
            }
        }
        client.disconnect()
    }

    /// The content is that after any number of writes from the first to the last of these.
    fn possible(&self, moment_ns: u64) -> (usize, usize) {
        let writes = self.writes.lock().expect("nobody panics here");
        let acknowledged = writes.iter().take_while(|write| write.acknowledged_ns <= moment_ns).count();
        let begun = writes.iter().take_while(|write| write.begun_ns <= moment_ns).count();
        (acknowledged, begun)
    }

    /// By block the write that it is of.
    fn after(&self, count: usize) -> Vec<u64> {
        let mut blocks = vec![0; BLOCKS as usize];
        for (write, number) in self.writes.lock().expect("nobody panics here")[..count].iter().zip(1..) {
            blocks[write.block as usize] = number;
        }
        blocks
    }
}

/// By block the write that it is of, every byte compared.
fn found(server: &Server, export: &str) -> Result<Vec<u64>> {
    let mut client = server.connect(export)?;
    let mut all = vec![0; BLOCKS as usize * BLOCK];
    client.read(0, &mut all)?;
    client.disconnect()?;
    let blocks = all.chunks(BLOCK).enumerate().map(|(block, bytes)| {
        let number = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes"));
        ensure!(bytes == content(number), "block {block} of {export} is of no write: it begins with {number:#x}");
        Ok(number)
    });
    blocks.collect()
}

/// RFC 3339.
fn text(moment_ns: u64) -> Result<String> {
    let (seconds, fraction) = (moment_ns / 1_000_000_000, moment_ns % 1_000_000_000);
    let date = output("date", &["-u", "-d", &format!("@{seconds}"), "+%Y-%m-%dT%H:%M:%S"])?;
    Ok(format!("{}.{fraction:09}Z", date.trim()))
}

fn compare(server: &Server, recorder: &Recorder, moment_ns: u64, number: u64) -> Result<()> {
    let name = format!("past-{number}");
    let at = text(moment_ns)?;
    server.run(&["vdisk", "clone", "past", &name, "--at", &at])?;
    let found = found(server, &name)?;
    let (least, most) = recorder.possible(moment_ns);
    let is_one = (least..=most).any(|count| recorder.after(count) == found);
    let newest = found.iter().max().copied().unwrap_or_default();
    ensure!(is_one, "{name}, as of {at}, is no state after {least} to {most} writes; its newest write is {newest}");
    server.run(&["vdisk", "delete", &name, "--force"]).map(drop)
}

fn twenty_moments(bench: &mut Bench) -> Result<()> {
    let mut random = Random::new(Random::seed_from_clock());
    bench.server.run(&["vdisk", "create", "past", "--size", "64MiB", "--rewind", "1h"])?;
    let (since_ns, address) = (now_ns(), bench.server.nbd.clone());
    let (writes, ends) = (Mutex::default(), AtomicBool::new(false));
    let recorder = Arc::new(Recorder { address, seed: random.next(), writes, ends });
    let writer = std::thread::spawn({
        let recorder = recorder.clone();
        move || recorder.run()
    });
    let (begun, mut compared, mut killed) = (Instant::now(), 0, false);
    std::thread::sleep(Duration::from_millis(800));
    while begun.elapsed() < LOAD {
        if !killed && begun.elapsed() > LOAD / 2 {
            bench.server.kill9();
            bench.server.start()?;
            killed = true;
        }
        if compared < MOMENTS / 2 {
            compare(&bench.server, &recorder, random.between(since_ns, now_ns()), compared)?;
            compared += 1;
        }
        std::thread::sleep(Duration::from_millis(random.between(100, 600)));
    }
    recorder.ends.store(true, Ordering::Release);
    writer.join().expect("it does not panic")?;
    let ended_ns = now_ns();
    while compared < MOMENTS {
        compare(&bench.server, &recorder, random.between(since_ns, now_ns()), compared)?;
        compared += 1;
    }
    let count = recorder.writes.lock().expect("nobody panics here").len();
    ensure!(count > 500, "{count} writes are no load");
    let moment_ns = random.between(since_ns, ended_ns);
    rolled_back(&bench.server, &recorder, moment_ns)
}

/// To what was before a write of the history, and from there to another moment.
fn rolled_back(server: &Server, recorder: &Recorder, moment_ns: u64) -> Result<()> {
    let free = || Ok(server.json(&["vdisk", "show", "past"])?["connections"] == 0);
    wait_until("the connection to be gone", WAIT, free)?;
    let count = recorder.writes.lock().expect("nobody panics here").len();
    let history = server.json(&["vdisk", "history", "past"])?;
    let history = history.as_array().context("a list")?;
    let last = history.iter().rev().find(|point| point["kind"] == "checkpoint").context("there is a checkpoint")?;
    let write = last["before_write"].as_u64().context("a number")?.to_string();
    server.run(&["vdisk", "rollback", "past", "--before-write", &write])?;
    let found_now = found(server, "past")?;
    ensure!((0..=count).rev().any(|count| recorder.after(count) == found_now), "rolled back to no state there was");
    let (least, most) = recorder.possible(moment_ns);
    server.run(&["vdisk", "rollback", "past", "--at", &text(moment_ns)?])?;
    let found_now = found(server, "past")?;
    let is_one = (least..=most).any(|count| recorder.after(count) == found_now);
    ensure!(is_one, "rolled back to no state of that moment");
    let held = server.metric("drystone_vdisk_rewind_held_bytes")?;
    ensure!(held > 0.0, "what was overwritten is kept");
    server.run(&["vdisk", "delete", "past", "--force", "--snapshots"]).map(drop)
}

fn refused(bench: &mut Bench) -> Result<()> {
    let server = &bench.server;
    server.create("kept", "16MiB")?;
    let outside = ["vdisk", "snapshot", "kept", "s", "--at", "2020-01-01T00:00:00Z"];
    server.refuses(&outside, &["keeps no history"])?;
    server.refuses(&["vdisk", "set", "kept", "--rewind", "5s"], &["between 60 s and 90 days"])?;
    server.refuses(&["vdisk", "set", "kept", "--rewind", "1h", "--rewind-limit", "1MiB"], &["at least 1 GiB"])?;
    server.run(&["vdisk", "set", "kept", "--rewind", "24h", "--rewind-limit", "2GiB"])?;
    let shown = server.run(&["vdisk", "show", "kept"])?;
    ensure!(shown.contains("24h") || shown.contains("1d 0h"), "the window is shown: {shown}");
    server.refuses(&outside, &["outside the window", "reaches from"])?;
    server.refuses(&["vdisk", "snapshot", "kept", "s", "--at", "yesterday"], &["is no moment"])?;
    server.refuses(&["vdisk", "rollback", "kept", "--before-write", "99999"], &["outside the window"])?;
    let mut client = server.connect("kept")?;
    client.write(0, &content(1))?;
    client.flush()?;
    let now = text(now_ns())?;
    server.refuses(&["vdisk", "rollback", "kept", "--at", &now], &["connected"])?;
    client.disconnect()?;
    server.run(&["vdisk", "snapshot", "kept", "then", "--at", &now])?;
    server.refuses(&["vdisk", "snapshot", "kept", "then", "--at", &now], &["then"])?;
    server.run(&["vdisk", "set", "kept", "--rewind", "off"])?;
    server.refuses(&["vdisk", "snapshot", "kept", "s", "--at", &now], &["keeps no history"])?;
    let Some(0) = server.json(&["vdisk", "history", "kept"])?.as_array().map(Vec::len) else {
        bail!("it has a history")
    };
    server.run(&["vdisk", "delete", "kept", "--snapshots"]).map(drop)
}

/// The number of the last write of each vDisk of a VM.
fn newest(server: &Server, vm: &str, snapshot: &str) -> Result<(u64, u64)> {
    let of = |label: &str| -> Result<u64> {
        let mut client = server.connect(&format!("{vm}-{label}{snapshot}"))?;
        let mut bytes = [0; BLOCK];
        client.read(0, &mut bytes)?;
        client.disconnect()?;
        Ok(u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")))
    };
    Ok((of("a")?, of("b")?))
}

/// Of two vDisks the second is written when the write of the first has been acknowledged.
fn of_vms(bench: &mut Bench) -> Result<()> {
    let server = &bench.server;
    level(server, "level-pair")?;
    server.run(&["vm", "create", "pair", "--vdisk", "a=64MiB", "--vdisk", "b=64MiB"])?;
    on_two_workers(server, ["pair-a", "pair-b"])?;
    server.refuses(&["vm", "clone", "pair", "none", "--at", &text(now_ns())?], &["of VM", "history"])?;
    for vdisk in ["pair-a", "pair-b"] {
        server.run(&["vdisk", "set", vdisk, "--rewind", "1h"])?;
    }
    let (mut ahead, mut behind) = (server.connect("pair-a")?, server.connect("pair-b")?);
    let mut writes = Vec::new();
    for number in 1..=300u64 {
        let (mut block, begun_ns) = (vec![0; BLOCK], now_ns());
        block[..8].copy_from_slice(&number.to_le_bytes());
        ahead.write(0, &block)?;
        behind.write(0, &block)?;
        writes.push(Write { block: 0, begun_ns, acknowledged_ns: now_ns() });
        std::thread::sleep(Duration::from_millis(3));
    }
    let right = |found: (u64, u64), moment_ns: u64| {
        let least = writes.iter().filter(|write| write.acknowledged_ns <= moment_ns).count() as u64;
        let most = writes.iter().filter(|write| write.begun_ns <= moment_ns).count() as u64;
        let (first, second) = found;
        ensure!(second <= first && first <= second + 1, "the moment has write {second} of b, and {first} of a");
        ensure!(least <= second && first <= most, "{found:?} of writes {least} to {most}");
        Ok(())
    };
    for at in [40, 150, 151, 222, 290] {
        let moment_ns = (writes[at].begun_ns + writes[at].acknowledged_ns) / 2;
        let name = format!("pair{at}");
        server.run(&["vm", "clone", "pair", &name, "--at", &text(moment_ns)?])?;
        right(newest(server, &name, "")?, moment_ns).with_context(|| format!("clone at {at}"))?;
    }
    // A snapshot like others.
    let moment_ns = (writes[60].begun_ns + writes[60].acknowledged_ns) / 2;
    server.run(&["vm", "snapshot", "pair", "then", "--at", &text(moment_ns)?])?;
    right(newest(server, "pair", "@then")?, moment_ns).context("snapshot")?;
    server.refuses(&["vm", "snapshot", "pair", "then", "--at", &text(moment_ns)?], &["already"])?;
    server.refuses(&["vm", "snapshot", "pair", "never", "--at", "2020-01-01T00:00:00Z"], &["of VM"])?;
    server.refuses(&["vdisk", "snapshot-delete", "pair-a", "then"], &["drystone vm snapshot-delete pair then"])?;
    server.run(&["vm", "clone", "pair@then", "pairthen"])?;
    right(newest(server, "pairthen", "")?, moment_ns).context("clone of the snapshot")?;
    server.run(&["vm", "snapshot-delete", "pair", "then"])?;
    // Refused before anything is made.
    server.refuses(&["vm", "clone", "pair", "none", "--at", "2020-01-01T00:00:00Z"], &["of VM"])?;
    server.refuses(&["vm", "clone", "pair@one", "none", "--at", "2020-01-01T00:00:00Z"], &["names a snapshot"])?;
    server.refuses(&["vm", "show", "none"], &["no VM"])?;
    let moment_ns = writes[100].acknowledged_ns;
    let at = text(moment_ns)?;
    server.refuses(&["vm", "rollback", "pair", "--at", &at], &["stop the VM first"])?;
    ahead.disconnect()?;
    behind.disconnect()?;
    wait_until("the rollback of a VM", WAIT, || Ok(server.run(&["vm", "rollback", "pair", "--at", &at]).is_ok()))?;
    right(newest(server, "pair", "")?, moment_ns).context("rollback")?;
    let snapshots = server.json(&["vdisk", "snapshots", "pair-b"])?;
    let names: Vec<&str> = snapshots.as_array().into_iter().flatten().filter_map(|one| one["name"].as_str()).collect();
    ensure!(names.len() == 1 && names[0].starts_with("before-rollback-"), "there are the snapshots {names:?}");
    wait_until("another one", WAIT, || Ok(server.run(&["vm", "rollback", "pair", names[0]]).is_ok()))?;
    ensure!(newest(server, "pair", "")? == (300, 300), "what was there before the rollback is not what was written");
    Ok(())
}
