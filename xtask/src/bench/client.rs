//! A client of its own for what fio and qemu-img cannot do: writes with a flush behind each on many connections at once,
//! and a given volume of random writes. One thread, epoll, so that its cost is the same whatever it talks to.

use crate::nbd::{self, Address, Client, Stream, header, parse_answer};
use crate::random::Random;
use anyhow::{Context, Result, bail, ensure};
use rustix::event::epoll;
use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

const BLOCK: usize = 4096;
/// A simple reply without data.
const ANSWER: usize = 16;
/// Replies read at once.
const REPLIES: usize = 256;

/// What each connection does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Write,
    Read,
    /// A write, and when it is answered a flush; counted when that is answered. Depth 1.
    WriteFlush,
}

#[derive(Clone, Copy)]
pub enum Until {
    Elapsed(Duration),
    /// Operations in sum.
    Operations(u64),
}

struct Connection {
    stream: Stream,
    blocks: u64,
    random: Random,
    out: Vec<u8>,
    sent: usize,
    input: Vec<u8>,
    filled: usize,
    in_flight: usize,
    flushing: bool,
    wants_write: bool,
}

pub struct Rate {
    pub operations: u64,
    pub elapsed: Duration,
}

impl Rate {
    pub fn per_second(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64()
    }
}

/// Random 4 KiB reads or writes over each export's whole size.
pub fn run(targets: &[(Address, String)], verb: Verb, depth: usize, until: Until, seed: u64) -> Result<Rate> {
    ensure!(verb != Verb::WriteFlush || depth == 1, "write and flush go one by one");
    let answer_len = if verb == Verb::Read { ANSWER + BLOCK } else { ANSWER };
    let mut seeds = Random::new(seed);
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut connections = Vec::new();
    for (index, (address, export)) in targets.iter().enumerate() {
        let client = Client::connect(address, export)?;
        client.stream.set_nonblocking()?;
        let data = epoll::EventData::new_u64(index as u64);
        epoll::add(&poll, &client.stream, data, epoll::EventFlags::IN)?;
        connections.push(Connection::new(client, seeds.next(), answer_len * depth.min(REPLIES)));
    }
    let mut payload = vec![0; BLOCK];
    seeds.fill(&mut payload);
    let begin = Instant::now();
    let mut operations = 0;
    for (index, connection) in connections.iter_mut().enumerate() {
        connection.fill(verb, depth, &mut payload);
        connection.send(&poll, index as u64)?;
    }
    let mut events = Vec::with_capacity(targets.len().max(16));
    loop {
        let over = match until {
            Until::Elapsed(limit) => begin.elapsed() >= limit,
            Until::Operations(limit) => operations >= limit,
        };
        if over {
            return Ok(Rate { operations, elapsed: begin.elapsed() });
        }
        let patience = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), Some(&patience))?;
        if events.is_empty() {
            bail!("no answer within 10 s");
        }
        for event in events.drain(..) {
            let index = event.data.u64();
            let connection = &mut connections[index as usize];
            operations += connection.receive(verb)?;
            connection.fill(verb, depth, &mut payload);
            connection.send(&poll, index)?;
        }
    }
}

impl Connection {
    fn new(client: Client, seed: u64, input_len: usize) -> Connection {
        Connection {
            blocks: client.size_bytes / BLOCK as u64,
            stream: client.stream,
            random: Random::new(seed),
            out: Vec::new(),
            sent: 0,
            input: vec![0; input_len],
            filled: 0,
            in_flight: 0,
            flushing: false,
            wants_write: false,
        }
    }

    /// Queues requests up to the depth.
    fn fill(&mut self, verb: Verb, depth: usize, payload: &mut [u8]) {
        while self.in_flight < depth {
            if verb == Verb::WriteFlush && self.flushing {
                self.out.extend_from_slice(&header(nbd::FLUSH, 0, 1, 0, 0));
            } else {
                let offset = self.random.below(self.blocks) * BLOCK as u64;
                if verb == Verb::Read {
                    self.out.extend_from_slice(&header(nbd::READ, 0, 0, offset, BLOCK as u32));
                    self.in_flight += 1;
                    continue;
                }
                // Different content each time, at little cost.
                payload[..8].copy_from_slice(&self.random.next().to_le_bytes());
                self.out.extend_from_slice(&header(nbd::WRITE, 0, 0, offset, BLOCK as u32));
                self.out.extend_from_slice(payload);
            }
            self.in_flight += 1;
        }
    }

    fn send(&mut self, poll: &std::os::fd::OwnedFd, index: u64) -> Result<()> {
        while self.sent < self.out.len() {
            match self.stream.write(&self.out[self.sent..]) {
                Ok(sent) => self.sent += sent,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("send"),
            }
        }
        let blocked = self.sent < self.out.len();
        if !blocked {
            self.out.clear();
            self.sent = 0;
        }
        if blocked != self.wants_write {
            self.wants_write = blocked;
            let writable = if blocked { epoll::EventFlags::OUT } else { epoll::EventFlags::empty() };
            epoll::modify(poll, &self.stream, epoll::EventData::new_u64(index), epoll::EventFlags::IN | writable)?;
        }
        Ok(())
    }

    /// Operations that were completed.
    fn receive(&mut self, verb: Verb) -> Result<u64> {
        let mut completed = 0;
        match self.stream.read(&mut self.input[self.filled..]) {
            Ok(0) => bail!("the server hung up"),
            Ok(read) => self.filled += read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
            Err(error) => return Err(error).context("receive"),
        }
        let len = if verb == Verb::Read { ANSWER + BLOCK } else { ANSWER };
        let whole = self.filled / len;
        for reply in self.input[..whole * len].chunks_exact(len) {
            let answer = parse_answer(reply.first_chunk().expect("16 bytes and more"))?;
            // (A reply to a read that failed has no data, and ends the run here.)
            ensure!(answer.error == 0, "NBD error {}", answer.error);
            self.in_flight -= 1;
            match verb {
                Verb::Write | Verb::Read => completed += 1,
                Verb::WriteFlush => {
                    completed += u64::from(answer.cookie == 1);
                    self.flushing = answer.cookie == 0;
                }
            }
        }
        self.input.copy_within(whole * len..self.filled, 0);
        self.filled -= whole * len;
        Ok(completed)
    }
}
