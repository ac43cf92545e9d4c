//! Random load on several vDisks over several connections, every reply journaled, every read checked.

use crate::content::{Found, Issued, Journal, SECTOR, Value, compose, examine};
use crate::nbd::{self, Address, Client};
use crate::random::Random;
use anyhow::{Context, Result, bail, ensure};
use std::collections::HashMap;
use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

/// Longest request of any length, sectors: 256 KiB.
const SECTORS_MAX: u64 = 512;
/// Large requests of whole pages, in pages: 256 KiB, from where they go past the page cache, to 1 MiB.
const LARGE_PAGES: (u64, u64) = (64, 256);
const PAGE_SECTORS: u64 = 8;
/// Requests under way on one connection.
const DEPTH: usize = 8;
/// Bytes read at once when a whole vDisk is checked.
const CHECK_CHUNK: usize = 1 << 20;

/// What happened, in order; kept only where a crash at an earlier point is going to be examined.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    Issue {
        first: u64,
        count: u64,
        value: Value,
    },
    /// Of the issue at that index. `durable_at`: for FUA, the position in the disk's write log when the reply was here.
    Acknowledge {
        issue: usize,
        durable_at: Option<u64>,
    },
    FlushIssue,
    FlushAcknowledge {
        issue: usize,
        durable_at: u64,
    },
}

/// One vDisk under load.
pub struct Target {
    pub name: String,
    pub salt: u64,
    writes: AtomicU64,
    state: Mutex<State>,
}

pub struct State {
    pub journal: Journal,
    pub events: Vec<Event>,
}

impl Target {
    pub fn new(name: &str, salt: u64, size_bytes: u64) -> Arc<Target> {
        let state = State { journal: Journal::new(size_bytes / SECTOR as u64), events: Vec::new() };
        Arc::new(Target { name: name.to_string(), salt, writes: AtomicU64::new(0), state: Mutex::new(state) })
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics with the journal locked")
    }

    /// Reads the whole vDisk; every sector must hold a legal value, which is from now on the only legal one.
    /// The number of sectors that hold data.
    pub fn check(&self, client: &mut Client) -> Result<u64> {
        let mut state = self.state();
        check_against(&mut state.journal, self, client)
    }
}

/// As [`Target::check`], against another journal.
pub fn check_against(journal: &mut Journal, target: &Target, client: &mut Client) -> Result<u64> {
    let size = journal.sectors() * SECTOR as u64;
    ensure!(client.size_bytes >= size, "{} has shrunk to {}", target.name, client.size_bytes);
    let (mut bytes, mut offset, mut data) = (vec![0; CHECK_CHUNK], 0, 0);
    let since = journal.tick();
    let mut wrong: Vec<String> = Vec::new();
    while offset < size {
        let len = (size - offset).min(CHECK_CHUNK as u64) as usize;
        client.read(offset, &mut bytes[..len]).with_context(|| format!("read {} at {offset}", target.name))?;
        for (index, bytes) in bytes[..len].chunks_exact(SECTOR).enumerate() {
            let sector = offset / SECTOR as u64 + index as u64;
            let found = examine(bytes, target.salt, sector);
            if !journal.allows(sector, found, since) {
                wrong.push(format!("sector {sector} holds {found}, legal: {}", journal.legal(sector)));
            } else if let Found::Value(value) = found {
                data += u64::from(value != Value::Zero);
                journal.settle(sector, value);
            }
        }
        offset += len as u64;
    }
    if !wrong.is_empty() {
        let shown = wrong[..wrong.len().min(12)].join("\n  ");
        bail!("{}: {} sectors are wrong, among them\n  {shown}", target.name, wrong.len());
    }
    Ok(data)
}

/// Load in the background.
pub struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<Counts>>>,
}

#[derive(Default, Clone, Copy, Debug)]
pub struct Counts {
    pub acknowledged: u64,
    pub flushes: u64,
    pub reads: u64,
}

/// How long is the log of what the disk below was told, now? `None` without such a log.
pub type Position = Arc<dyn Fn() -> u64 + Send + Sync>;

#[derive(Clone)]
pub struct Plan {
    pub addresses: Vec<Address>,
    pub targets: Vec<Arc<Target>>,
    /// Connections to each vDisk.
    pub connections: usize,
    pub seed: u64,
    /// Percent of requests that are flushes.
    pub flush_percent: u64,
    pub position: Option<Position>,
}

impl Load {
    pub fn start(plan: &Plan) -> Result<Load> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        let mut seeds = Random::new(plan.seed);
        for target in &plan.targets {
            for connection in 0..plan.connections {
                let address = &plan.addresses[connection % plan.addresses.len()];
                let client = Client::connect(address, &target.name)?;
                ensure!(plan.connections == 1 || client.multi_conn(), "{} does not offer multi-conn", target.name);
                let mut worker = Worker {
                    client,
                    target: target.clone(),
                    random: Random::new(seeds.next()),
                    pending: HashMap::new(),
                    cookie: 0,
                    flush_percent: plan.flush_percent,
                    position: plan.position.clone(),
                    counts: Counts::default(),
                };
                let stop = stop.clone();
                threads.push(std::thread::spawn(move || worker.run(&stop)));
            }
        }
        Ok(Load { stop, threads })
    }

    /// After the server was killed: connections that broke are no error here, wrong content or NBD errors are.
    pub fn crashed(self) -> Result<Counts> {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = Counts::default();
        for thread in self.threads {
            let counts = thread.join().expect("a worker does not panic")?;
            sum.acknowledged += counts.acknowledged;
            sum.flushes += counts.flushes;
            sum.reads += counts.reads;
        }
        Ok(sum)
    }
}

enum Pending {
    Write { issued: Issued, event: usize, fua: bool },
    Read { first: u64, count: u64, since: u64 },
    Flush { event: usize },
}

struct Worker {
    client: Client,
    target: Arc<Target>,
    random: Random,
    pending: HashMap<u64, Pending>,
    cookie: u64,
    flush_percent: u64,
    position: Option<Position>,
    counts: Counts,
}

/// The connection ended; what was pending stays unanswered.
struct Broken;

impl Worker {
    fn run(&mut self, stop: &AtomicBool) -> Result<Counts> {
        loop {
            let stopping = stop.load(Ordering::Relaxed);
            if stopping && self.pending.is_empty() {
                return Ok(self.counts);
            }
            let full = self.pending.len() >= DEPTH;
            if !stopping && !full && (self.pending.is_empty() || self.random.chance(60)) {
                if self.send().is_err() {
                    return Ok(self.counts);
                }
            } else if self.receive()?.is_err() {
                return Ok(self.counts);
            }
        }
    }

    /// Mostly small, some large.
    fn range(&mut self) -> (u64, u64) {
        let sectors = self.target.state().journal.sectors();
        let longest = match self.random.below(10) {
            0..=4 => 8,
            5..=7 => 64,
            8 => SECTORS_MAX,
            _ => {
                let count = self.random.between(LARGE_PAGES.0, LARGE_PAGES.1) * PAGE_SECTORS;
                return (self.random.below(sectors - count) / PAGE_SECTORS * PAGE_SECTORS, count);
            }
        };
        let count = self.random.between(1, longest);
        let first = self.random.below(sectors - count);
        if self.random.chance(50) {
            ((first / 8) * 8, count.next_multiple_of(8).min(longest.max(8)))
        } else {
            (first, count)
        }
    }

    fn send(&mut self) -> std::result::Result<(), Broken> {
        self.cookie += 1;
        if self.random.chance(self.flush_percent) {
            let mut state = self.target.state();
            state.journal.tick();
            let event = self.record(&mut state, Event::FlushIssue);
            drop(state);
            self.pending.insert(self.cookie, Pending::Flush { event });
            return self.client.send(nbd::FLUSH, 0, self.cookie, 0, 0, &[]).map_err(|_| Broken);
        }
        let (first, count) = self.range();
        let (offset, len) = (first * SECTOR as u64, (count * SECTOR as u64) as u32);
        match self.random.below(100) {
            0..=19 => {
                let since = self.target.state().journal.tick();
                self.pending.insert(self.cookie, Pending::Read { first, count, since });
                self.client.send(nbd::READ, 0, self.cookie, offset, len, &[]).map_err(|_| Broken)
            }
            20..=26 => self.change(nbd::TRIM, 0, first / 8 * 8, count.next_multiple_of(8), Value::Zero),
            27..=34 => {
                let flags = if self.random.chance(50) { nbd::NO_HOLE } else { 0 };
                self.change(nbd::WRITE_ZEROES, flags, first, count, Value::Zero)
            }
            _ => {
                let write = self.target.writes.fetch_add(1, Ordering::Relaxed) + 1;
                self.change(nbd::WRITE, 0, first, count, Value::Write(write))
            }
        }
    }

    fn change(
        &mut self,
        verb: u16,
        flags: u16,
        first: u64,
        count: u64,
        value: Value,
    ) -> std::result::Result<(), Broken> {
        let fua = self.random.chance(8);
        let (offset, len) = (first * SECTOR as u64, (count * SECTOR as u64) as usize);
        let mut data = Vec::new();
        if let Value::Write(write) = value {
            data.resize(len, 0);
            compose(&mut data, self.target.salt, first, write);
        }
        let mut state = self.target.state();
        let issued = state.journal.issue(first, count, value);
        let event = self.record(&mut state, Event::Issue { first, count, value });
        drop(state);
        self.pending.insert(self.cookie, Pending::Write { issued, event, fua });
        let flags = flags | if fua { nbd::FUA } else { 0 };
        self.client.send(verb, flags, self.cookie, offset, len as u32, &data).map_err(|_| Broken)
    }

    /// Index of the event, where events are kept.
    fn record(&self, state: &mut State, event: Event) -> usize {
        if self.position.is_some() {
            state.events.push(event);
        }
        state.events.len().saturating_sub(1)
    }

    fn receive(&mut self) -> Result<std::result::Result<(), Broken>> {
        let mut reply = [0; 16];
        if self.client.stream.read_exact(&mut reply).is_err() {
            return Ok(Err(Broken));
        }
        let answer = nbd::parse_answer(&reply)?;
        let pending = self.pending.remove(&answer.cookie).context("a reply to nothing that was asked")?;
        ensure!(answer.error == 0, "{}: NBD error {}", self.target.name, answer.error);
        let target = self.target.clone();
        let position = self.position.as_ref().map(|position| position());
        match pending {
            Pending::Write { issued, event, fua } => {
                let mut state = target.state();
                state.journal.acknowledge(issued);
                self.record(&mut state, Event::Acknowledge { issue: event, durable_at: position.filter(|_| fua) });
                self.counts.acknowledged += 1;
            }
            Pending::Flush { event } => {
                let mut state = target.state();
                let durable_at = position.unwrap_or(0);
                self.record(&mut state, Event::FlushAcknowledge { issue: event, durable_at });
                self.counts.flushes += 1;
            }
            Pending::Read { first, count, since } => {
                let mut data = vec![0; count as usize * SECTOR];
                if self.client.stream.read_exact(&mut data).is_err() {
                    return Ok(Err(Broken));
                }
                let state = target.state();
                for (index, bytes) in data.chunks_exact(SECTOR).enumerate() {
                    let sector = first + index as u64;
                    let found = examine(bytes, target.salt, sector);
                    if !state.journal.allows(sector, found, since) {
                        let legal = state.journal.legal(sector);
                        bail!("{}: a read of sector {sector} found {found}, legal: {legal}", target.name);
                    }
                }
                self.counts.reads += 1;
            }
        }
        Ok(Ok(()))
    }
}
