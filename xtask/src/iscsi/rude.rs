//! Initiators that send garbage, half a login or half a write, or never read: they harm nobody else, and cost a bounded
//! amount of memory, of which the controller has little.

use super::initiator::{Initiator, TARGET, encode, login_request};
use crate::clients::{Bench, Check, HALF_BYTES};
use crate::random::Random;
use anyhow::{Result, ensure};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub const CHECKS: &[(&str, Check)] = &[
    ("garbage", garbage),
    ("half logins", half_logins),
    ("lengths that lie", lengths),
    ("half writes", half_writes),
    ("an initiator that never reads", never_reads),
    ("an initiator that never sends its data", never_sends),
];

/// Longest that an orderly initiator may wait for 4 KiB while others misbehave.
const PATIENCE: Duration = Duration::from_secs(2);
/// Rounds of the orderly one, however short the misbehaviour.
const ROUNDS_MIN: u64 = 20;

/// Misbehaves while an orderly initiator writes and reads; it must notice nothing.
fn beside_an_orderly_one(bench: &mut Bench, vdisk: &str, rude: impl FnOnce(&mut Bench) -> Result<()>) -> Result<()> {
    bench.server.create(vdisk, "64MiB")?;
    let mut orderly = Initiator::login(&bench.server.iscsi, "iqn.2026-11.com.example:orderly", 1, vdisk)?;
    orderly.ready()?;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let thread = std::thread::spawn(move || {
        let (mut random, mut rounds, mut longest) = (Random::new(7), 0, Duration::ZERO);
        let mut wrote = vec![0; 4096];
        // Some misbehaviour is over before the first round is.
        while !stopped.load(Ordering::Relaxed) || rounds < ROUNDS_MIN {
            let offset = random.below(1 << 14) * 4096;
            random.fill(&mut wrote);
            let start = Instant::now();
            orderly.write(offset, &wrote)?.good()?;
            ensure!(orderly.read(offset, 4096)?.good()? == wrote, "another content at {offset}");
            longest = longest.max(start.elapsed());
            rounds += 1;
        }
        Ok((rounds, longest))
    });
    let behaved = rude(bench);
    stop.store(true, Ordering::Relaxed);
    let (rounds, longest) = thread.join().expect("the orderly one does not panic")?;
    behaved?;
    ensure!(longest < PATIENCE, "{rounds} rounds, the longest took {longest:?}");
    bench.keeps_to_its_memory()
}

fn connect(bench: &Bench) -> Result<TcpStream> {
    let stream = TcpStream::connect(&bench.server.iscsi)?;
    stream.set_read_timeout(Some(Duration::from_secs(40)))?;
    stream.set_write_timeout(Some(Duration::from_secs(2)))?;
    Ok(stream)
}

/// Reads until the other side closes.
fn drain(stream: &mut TcpStream) {
    let mut sink = Vec::new();
    let _ = stream.read_to_end(&mut sink);
}

fn garbage(bench: &mut Bench) -> Result<()> {
    beside_an_orderly_one(bench, "beside-garbage", |bench| {
        let mut random = Random::new(11);
        for round in 0..60 {
            let mut stream = connect(bench)?;
            let mut bytes = vec![0; random.between(1, 4096) as usize];
            random.fill(&mut bytes);
            if round % 3 == 0 {
                // A login that is right up to somewhere.
                let login = login_request("iqn.2026-11.com.example:rude", 9, "beside-garbage");
                let keep = random.below(login.len() as u64) as usize;
                bytes = [&login[..keep], &bytes].concat();
            }
            let _ = stream.write_all(&bytes);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            drain(&mut stream);
        }
        Ok(())
    })
}

fn half_logins(bench: &mut Bench) -> Result<()> {
    beside_an_orderly_one(bench, "beside-halves", |bench| {
        let login = login_request("iqn.2026-11.com.example:rude", 9, "beside-halves");
        let held: Vec<_> = (0..200)
            .map(|index: usize| {
                let mut stream = connect(bench)?;
                stream.write_all(&login[..index % login.len()])?;
                Ok(stream)
            })
            .collect::<Result<_>>()?;
        std::thread::sleep(Duration::from_secs(1));
        drop(held);
        Ok(())
    })
}

fn lengths(bench: &mut Bench) -> Result<()> {
    beside_an_orderly_one(bench, "beside-lies", |bench| {
        for (len, keys) in [(0xff_ffff, "InitiatorName=x\0"), (0x10_0000, ""), (64, "InitiatorName="), (48, "\0\0\0")] {
            let mut stream = connect(bench)?;
            let mut header = [0; 48];
            (header[0], header[1]) = (0x43, 0x87);
            let mut bytes = encode(&header, keys.as_bytes());
            bytes[5..8].copy_from_slice(&u32::to_be_bytes(len)[1..]);
            bytes.extend(vec![0; 70_000]);
            let _ = stream.write_all(&bytes);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            drain(&mut stream);
        }
        // In a session: more data than the session allows, a header with more bytes than there are.
        for bytes in [[0x01, 0xa0, 0, 0, 0, 0xff, 0xff, 0xff], [0x01, 0x80, 0, 0, 0xff, 0, 0, 0]] {
            let mut session = Initiator::login(&bench.server.iscsi, "iqn.2026-11.com.example:rude", 9, "beside-lies")?;
            let mut header = [0; 48];
            header[..8].copy_from_slice(&bytes);
            let _ = session.stream.write_all(&header);
            let _ = session.stream.write_all(&[0; 4096]);
            let _ = session.stream.shutdown(std::net::Shutdown::Write);
            drain(&mut session.stream);
        }
        Ok(())
    })
}

fn half_writes(bench: &mut Bench) -> Result<()> {
    beside_an_orderly_one(bench, "beside-halves-of-writes", |bench| {
        bench.server.create("half-written", "64MiB")?;
        bench.break_off(|bench, number| {
            let name = "iqn.2026-11.com.example:rude";
            let mut session = Initiator::login(&bench.server.iscsi, name, number as u8, "half-written")?;
            session.ready()?;
            session.half_a_write(HALF_BYTES)
        })?;
        let name = "iqn.2026-11.com.example:orderly";
        let mut session = Initiator::login(&bench.server.iscsi, name, 1, "half-written")?;
        session.ready()?;
        let read = session.read(0, 4096)?.good()?;
        ensure!(read.iter().all(|byte| *byte == 0), "half a write took effect");
        Ok(())
    })
}

fn never_reads(bench: &mut Bench) -> Result<()> {
    beside_an_orderly_one(bench, "beside-deaf", |bench| {
        let mut deaf = Vec::new();
        for isid in 20..28 {
            let session = Initiator::login(&bench.server.iscsi, "iqn.2026-11.com.example:deaf", isid, "beside-deaf")?;
            session.stream.set_write_timeout(Some(Duration::from_millis(200)))?;
            let mut stream = session.stream.try_clone()?;
            // Reads of 1 MiB, as many as the socket takes.
            for tag in 0..400u32 {
                let mut header = [0; 48];
                (header[0], header[1]) = (0x01, 0xc0);
                header[16..20].copy_from_slice(&tag.to_be_bytes());
                header[20..24].copy_from_slice(&(1u32 << 20).to_be_bytes());
                header[24..28].copy_from_slice(&tag.to_be_bytes());
                header[32] = 0x88;
                header[42..46].copy_from_slice(&2048u32.to_be_bytes());
                if stream.write_all(&header).is_err() {
                    break;
                }
            }
            deaf.push(session);
        }
        std::thread::sleep(Duration::from_secs(3));
        drop(deaf);
        Ok(())
    })
}

fn never_sends(bench: &mut Bench) -> Result<()> {
    beside_an_orderly_one(bench, "beside-mute", |bench| {
        let mut mute = Vec::new();
        for isid in 40..56 {
            let mut session =
                Initiator::login(&bench.server.iscsi, "iqn.2026-11.com.example:mute", isid, "beside-mute")?;
            for tag in 0..32u32 {
                let mut header = [0; 48];
                (header[0], header[1]) = (0x01, 0xa0);
                header[16..20].copy_from_slice(&tag.to_be_bytes());
                header[20..24].copy_from_slice(&(4u32 << 20).to_be_bytes());
                header[24..28].copy_from_slice(&tag.to_be_bytes());
                header[32] = 0x8a;
                header[42..46].copy_from_slice(&8192u32.to_be_bytes());
                let _ = session.stream.write_all(&header);
            }
            mute.push(session);
        }
        std::thread::sleep(Duration::from_secs(3));
        let list = bench.server.run(&["iscsi", "sessions"])?;
        ensure!(list.contains("beside-mute") && !list.contains(TARGET), "{list}");
        drop(mute);
        Ok(())
    })
}
