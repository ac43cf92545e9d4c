//! Clients that send garbage, half a request, or never read: they harm nobody else, and cost a bounded amount of memory, of
//! which the controller has little.

use super::{Bench, Check, HALF_BYTES};
use crate::nbd::{self, Client, Stream, header};
use crate::process::{command, refused, wait_until};
use crate::random::Random;
use anyhow::{Result, bail, ensure};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub const CHECKS: &[(&str, Check)] = &[
    ("unknown export", unknown_export),
    ("unknown command", unknown_command),
    ("garbage", garbage),
    ("half requests", half_requests),
    ("clients that break off", break_off),
    ("a client that stops reading", stops_reading),
];

const SIZE: u64 = 64 << 20;
/// Longest that an orderly client may wait for 4 KiB while others misbehave.
const PATIENCE: Duration = Duration::from_secs(2);

/// Writes and reads back all the time, and measures the longest wait.
struct Orderly {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<(u64, Duration)>>,
}

impl Orderly {
    fn start(bench: &Bench, name: &str) -> Result<Orderly> {
        bench.server.create(name, &SIZE.to_string())?;
        let mut client = bench.server.connect(name)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let (mut random, mut rounds, mut longest) = (Random::new(5), 0, Duration::ZERO);
            let (mut wrote, mut read) = (vec![0u8; 4096], vec![0u8; 4096]);
            while !stopped.load(Ordering::Relaxed) {
                let offset = random.below(SIZE / 4096) * 4096;
                random.fill(&mut wrote);
                let start = Instant::now();
                client.write(offset, &wrote)?;
                client.read(offset, &mut read)?;
                longest = longest.max(start.elapsed());
                ensure!(wrote == read, "another content at {offset}");
                rounds += 1;
            }
            client.disconnect()?;
            Ok((rounds, longest))
        });
        Ok(Orderly { stop, thread })
    }

    fn finish(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let (rounds, longest) = self.thread.join().expect("the orderly client does not panic")?;
        ensure!(rounds > 0, "the orderly client got nothing done");
        ensure!(longest < PATIENCE, "the orderly client waited {longest:?}");
        Ok(())
    }
}

fn unknown_export(bench: &mut Bench) -> Result<()> {
    match Client::connect(&bench.server.nbd, "no-such-vdisk") {
        Ok(_) => bail!("an unknown export was opened"),
        // NBD_REP_ERR_UNKNOWN
        Err(error) => ensure!(format!("{error:#}").contains("0x80000006"), "{error:#}"),
    }
    refused(command("nbdinfo", &[&bench.server.uri("no-such-vdisk")]), &["no-such-vdisk"])?;
    // The old way of asking has no answer but a closed connection.
    let mut stream = Stream::connect(&bench.server.nbd)?;
    stream.set_timeout(Some(Duration::from_secs(5)))?;
    nbd::greet(&mut stream)?;
    let mut option = b"IHAVEOPT\0\0\0\x01\0\0\0\x04".to_vec();
    option.extend(b"nope");
    stream.write_all(&option)?;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest)?;
    ensure!(rest.is_empty(), "an answer to an unknown export: {rest:02x?}");
    Ok(())
}

fn unknown_command(bench: &mut Bench) -> Result<()> {
    bench.server.create("unknown-command", &SIZE.to_string())?;
    let mut client = bench.server.connect("unknown-command")?;
    for command in [8, 99, 0xffff] {
        client.send(command, 0, 77, 0, 4096, &[])?;
        let answer = client.answer()?;
        ensure!(answer.cookie == 77 && answer.error == 22, "command {command}: {answer:?}");
    }
    client.write(0, &[1; 512])?;
    // Out of step: nothing sensible can follow a wrong magic, so the connection ends.
    client.stream.write_all(&[0x55; 28])?;
    let mut rest = [0; 1];
    ensure!(matches!(client.stream.read(&mut rest), Ok(0) | Err(_)), "a wrong magic was answered");
    Ok(())
}

fn garbage(bench: &mut Bench) -> Result<()> {
    let orderly = Orderly::start(bench, "beside-garbage")?;
    bench.server.create("garbage", &SIZE.to_string())?;
    let mut random = Random::new(11);
    for round in 0..300 {
        let address = if round % 2 == 0 { &bench.server.nbd } else { &bench.server.socket };
        let mut stream = Stream::connect(address)?;
        stream.set_timeout(Some(Duration::from_secs(5)))?;
        if round % 3 != 0 {
            nbd::greet(&mut stream)?;
        }
        let mut bytes = vec![0; random.between(1, 5000) as usize];
        random.fill(&mut bytes);
        if round % 3 == 2 {
            // A valid option header with random option, length and content.
            let len = bytes.len().min(8);
            bytes[..len].copy_from_slice(&b"IHAVEOPT"[..len]);
        }
        // The server may hang up in the middle of it.
        let _ = stream.write_all(&bytes);
    }
    for _ in 0..100 {
        let mut client = bench.server.connect("garbage")?;
        let mut bytes = vec![0; random.between(1, 5000) as usize];
        random.fill(&mut bytes);
        let _ = client.stream.write_all(&bytes);
    }
    orderly.finish()
}

fn half_requests(bench: &mut Bench) -> Result<()> {
    let orderly = Orderly::start(bench, "beside-halves")?;
    bench.server.create("halves", &SIZE.to_string())?;
    let mut held = Vec::new();
    for round in 0..60u64 {
        let mut client = bench.server.connect("halves")?;
        // All that are held together are less than the controller lends: who wants more has to wait for their end.
        let whole = header(nbd::WRITE, 0, round, 0, 1 << 18);
        client.stream.write_all(&whole[..(round as usize % 28).max(1)])?;
        if round % 3 == 0 {
            client.stream.write_all(&whole[(round as usize % 28).max(1)..])?;
            client.stream.write_all(&vec![9; 1 << 17])?;
        }
        match &client.stream {
            _ if round % 2 == 0 => held.push(client),
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Both)?,
            Stream::Unix(stream) => stream.shutdown(Shutdown::Both)?,
        }
    }
    let mut client = bench.server.connect("halves")?;
    let mut bytes = vec![1; 1 << 20];
    client.read(0, &mut bytes)?;
    ensure!(bytes.iter().all(|byte| *byte == 0), "half a write took effect");
    drop(held);
    client.disconnect()?;
    orderly.finish()?;
    wait_until("the end of broken connections", Duration::from_secs(20), || {
        Ok(bench.server.metric("drystone_connections ")? <= 0.5)
    })?;
    Ok(())
}

fn break_off(bench: &mut Bench) -> Result<()> {
    let orderly = Orderly::start(bench, "beside-broken")?;
    bench.server.create("broken", &SIZE.to_string())?;
    let half = vec![9; HALF_BYTES];
    bench.break_off(|bench, number| {
        let mut client = bench.server.connect("broken")?;
        client.stream.write_all(&header(nbd::WRITE, 0, number, 0, 2 * HALF_BYTES as u32))?;
        client.stream.write_all(&half)?;
        match &client.stream {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write)?,
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write)?,
        }
        // Until the other side has closed: one that waits for memory is not gone yet.
        let mut rest = Vec::new();
        client.stream.read_to_end(&mut rest)?;
        ensure!(rest.is_empty(), "half a request was answered");
        Ok(())
    })?;
    let mut bytes = vec![1; 2 * HALF_BYTES];
    bench.server.connect("broken")?.read(0, &mut bytes)?;
    ensure!(bytes.iter().all(|byte| *byte == 0), "half a write took effect");
    orderly.finish()
}

fn stops_reading(bench: &mut Bench) -> Result<()> {
    let orderly = Orderly::start(bench, "beside-deaf")?;
    bench.server.create("deaf", &SIZE.to_string())?;
    bench.server.connect("deaf")?.write(0, &vec![3; 32 << 20])?;
    let mut deaf = Vec::new();
    for _ in 0..8 {
        let mut client = bench.server.connect("deaf")?;
        client.stream.set_timeout(Some(Duration::from_millis(300)))?;
        // 16 GiB of answers asked for; the server has to stop taking requests long before.
        for cookie in 0..512 {
            if client.send(nbd::READ, 0, cookie, 0, 32 << 20, &[]).is_err() {
                break;
            }
        }
        deaf.push(client);
    }
    std::thread::sleep(Duration::from_millis(1500));
    bench.keeps_to_its_memory()?;
    let mut client = bench.server.connect("deaf")?;
    let mut bytes = vec![0; 4096];
    let start = Instant::now();
    client.read(0, &mut bytes)?;
    ensure!(bytes[0] == 3 && start.elapsed() < PATIENCE, "the same vDisk waits for its deaf clients");
    orderly.finish()
}
