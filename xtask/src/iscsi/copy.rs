//! EXTENDED COPY between vDisks of one controller, whichever of its shards they are on.

use super::access::login;
use super::initiator::Initiator;
use crate::clients::{Bench, Check};
use crate::process::output;
use anyhow::{Context, Result, ensure};
use std::time::Duration;

pub const CHECKS: &[(&str, Check)] = &[
    ("a copy between vDisks", between),
    ("a copy of 1 GiB that moves nothing", shared),
    ("a copy that a reservation keeps out", reserved),
    ("a copy to a vDisk of others", of_others),
    ("a copy whose destination is reset", interrupted),
];

const OWNER: &str = "iqn.2026-11.com.example:copier";
const OTHER: &str = "iqn.2026-11.com.example:other";
const BLOCK: usize = 512;
/// COPY ABORTED, third party device failure.
const FAILED: Option<(u8, u8, u8)> = Some((0x0a, 0x0d, 1));
/// COPY ABORTED, copy target device not reachable.
const OUT_OF_REACH: Option<(u8, u8, u8)> = Some((0x0a, 0x0d, 2));

/// A source, a vDisk of the same shard, and one of another: the controller spreads them over its shards.
fn family(bench: &Bench, name: &str) -> Result<(String, Vec<String>)> {
    let shard = |vdisk: &str| -> Result<u64> {
        bench.server.json(&["vdisk", "show", vdisk])?["shard"].as_u64().context("a vDisk without a shard")
    };
    let (source, near) = (format!("{name}-source"), format!("{name}-near"));
    bench.server.create(&source, "64MiB")?;
    bench.server.run(&["vdisk", "create", &near, "--size", "64MiB", "--near", &source])?;
    let own = shard(&source)?;
    ensure!(shard(&near)? == own, "{near} is not on the shard of {source}");
    for number in 0..16 {
        let far = format!("{name}-{number}");
        bench.server.create(&far, "64MiB")?;
        if shard(&far)? != own {
            return Ok((source, vec![near, far]));
        }
    }
    anyhow::bail!("all vDisks are on one shard: is there one worker only?")
}

fn ready(bench: &Bench, initiator: &str, vdisk: &str) -> Result<Initiator> {
    let mut session = login(bench, initiator, vdisk)?;
    session.ready()?;
    Ok(session)
}

/// The NAA designator of VPD page 83h, in an identification target descriptor.
fn descriptor(session: &mut Initiator) -> Result<Vec<u8>> {
    let page = session.command(&[0x12, 1, 0x83, 1, 0, 0], &[], 256)?.good()?;
    let mut rest = page.get(4..).context("a short page")?;
    while let [codes, kind, _, len, tail @ ..] = rest {
        let designator = tail.get(..usize::from(*len)).context("a designator is cut off")?;
        if kind & 0x0f == 3 {
            let mut descriptor = [&[0xe4, 0, 0, 0, *codes & 0x0f, 3, 0, *len][..], designator].concat();
            descriptor.resize(32, 0);
            return Ok(descriptor);
        }
        rest = &tail[usize::from(*len)..];
    }
    anyhow::bail!("no NAA designator in {page:02x?}")
}

/// So many blocks from an address of the first target to one of the second.
fn segment(from: u64, to: u64, blocks: u16) -> Vec<u8> {
    let mut segment = vec![2, 0, 0, 0x18, 0, 0, 0, 1, 0, 0];
    segment.extend(blocks.to_be_bytes());
    segment.extend(from.to_be_bytes());
    segment.extend(to.to_be_bytes());
    segment
}

fn copy(session: &mut Initiator, targets: &[Vec<u8>; 2], segments: &[Vec<u8>]) -> Result<super::initiator::Ended> {
    let segments = segments.concat();
    let mut list = vec![1, 0, 0, 64, 0, 0, 0, 0];
    list.extend((segments.len() as u32).to_be_bytes());
    list.extend([0; 4]);
    let list = [list, targets.concat(), segments].concat();
    let mut cdb = [0; 16];
    cdb[0] = 0x83;
    cdb[10..14].copy_from_slice(&(list.len() as u32).to_be_bytes());
    session.command(&cdb, &list, 0)
}

fn between(bench: &mut Bench) -> Result<()> {
    let (source, destinations) = family(bench, "copied")?;
    let mut from = ready(bench, OWNER, &source)?;
    // Data, a hole, data: over several pieces and off their boundaries.
    let marks: Vec<u64> = vec![8, 4096 + 8, 9 * 4096];
    for (number, mark) in marks.iter().enumerate() {
        from.write(mark * BLOCK as u64, &[number as u8 + 1; 8 * BLOCK])?.good()?;
    }
    let own = descriptor(&mut from)?;
    for destination in &destinations {
        let mut to = ready(bench, OWNER, destination)?;
        let whole = [segment(0, 16, 20_000), segment(20_000, 20_016, 20_000)];
        copy(&mut from, &[own.clone(), descriptor(&mut to)?], &whole)?.good().with_context(|| destination.clone())?;
        for (number, mark) in marks.iter().enumerate() {
            let there = to.read((mark + 16) * BLOCK as u64, 8 * BLOCK)?.good()?;
            ensure!(there == [number as u8 + 1; 8 * BLOCK], "{destination}: something else is at {mark}");
        }
        let mapped = bench.server.json(&["vdisk", "show", destination])?["mapped_bytes"].as_u64();
        ensure!(mapped.is_some_and(|bytes| bytes <= 6 * 4096), "{destination}: holes were filled: {mapped:?}");
        // And back, carried out by the source for its own sake: it reads over there.
        let back = segment(marks[0] + 16, 60_000, 8);
        copy(&mut from, &[descriptor(&mut to)?, own.clone()], &[back])?.good()?;
        ensure!(from.read(60_000 * BLOCK as u64, BLOCK)?.good()? == [1; BLOCK], "{destination}: not read back");
        from.write(60_000 * BLOCK as u64, &[0; 8 * BLOCK])?.good()?;
    }
    Ok(())
}

/// Between vDisks of one shard, and within one: neither bytes of data nor time.
fn shared(bench: &mut Bench) -> Result<()> {
    const PIECE: u64 = 64 << 20;
    const WHOLE: u64 = 1 << 30;
    // What a command of this initiator takes along.
    const READ: usize = 8192;
    let (source, destinations) = family(bench, "shared")?;
    let near = &destinations[0];
    for vdisk in [&source, near] {
        bench.server.run(&["vdisk", "resize", vdisk, "--size", "2GiB"])?;
    }
    let mut from = ready(bench, OWNER, &source)?;
    let byte = |at: u64| (at / PIECE) as u8 + 1;
    let writes = (0..WHOLE).step_by(PIECE as usize).map(|at| format!("write -P {} {at} {PIECE}", byte(at)));
    let commands: Vec<String> = writes.flat_map(|write| ["-c".to_string(), write]).collect();
    let nbd = bench.server.uri(&source);
    let arguments = ["-f", "raw"].into_iter().chain(commands.iter().map(String::as_str)).chain([nbd.as_str()]);
    let said = output("qemu-io", &arguments.collect::<Vec<_>>())?;
    ensure!(!said.contains("failed"), "{said}");
    let mut to = ready(bench, OWNER, near)?;
    let targets = [descriptor(&mut from)?, descriptor(&mut to)?];
    let written = |bench: &Bench| bench.server.metric("drystone_written_bytes_total{class=\"data\"}");
    let (before, began) = (written(bench)?, std::time::Instant::now());
    let blocks = WHOLE / BLOCK as u64;
    let part = |at: u64, to: u64| segment(at, to + at, 32_768);
    let whole = |to: u64| (0..blocks).step_by(32_768).map(|at| part(at, to)).collect::<Vec<_>>();
    copy(&mut from, &targets, &whole(0))?.good()?;
    copy(&mut from, &[targets[0].clone(), targets[0].clone()], &whole(blocks))?.good()?;
    let (moved, took) = (written(bench)? - before, began.elapsed());
    ensure!(moved < READ as f64, "two copies of 1 GiB have written {moved} bytes of data");
    ensure!(took < Duration::from_secs(5), "two copies of 1 GiB took {took:?}");
    // What is overwritten in one is overwritten in that one alone.
    from.write(0, &[0xee; READ])?.good()?;
    to.write(PIECE, &[0xdd; READ])?.good()?;
    let is = |session: &mut Initiator, of: &str, at: u64, expected: u8| -> Result<()> {
        let found = session.read(at, READ)?.good()?;
        ensure!(found == [expected; READ], "{of} at {at} has {:02x?}, not {expected:02x}", &found[..8]);
        Ok(())
    };
    let pieces = || (2 * PIECE..WHOLE).step_by(PIECE as usize);
    let whole = |from: &mut Initiator| -> Result<()> {
        is(from, &source, 0, 0xee)?;
        is(from, &source, PIECE, byte(PIECE))?;
        pieces().chain([WHOLE - READ as u64]).try_for_each(|at| is(from, &source, at, byte(at)))?;
        (0..WHOLE).step_by(PIECE as usize).try_for_each(|at| is(from, "the copy within", WHOLE + at, byte(at)))?;
        is(from, "the copy within", 2 * WHOLE - READ as u64, byte(WHOLE - READ as u64))
    };
    let there = |to: &mut Initiator| -> Result<()> {
        is(to, near, 0, byte(0))?;
        is(to, near, PIECE, 0xdd)?;
        pieces().chain([WHOLE - READ as u64]).try_for_each(|at| is(to, near, at, byte(at)))
    };
    whole(&mut from)?;
    there(&mut to)?;
    drop((from, to));
    bench.server.kill9();
    bench.server.start()?;
    whole(&mut ready(bench, OWNER, &source)?).context("behind a kill")?;
    there(&mut ready(bench, OWNER, near)?).context("behind a kill")?;
    // Either may go: the other needs nothing of it.
    let (copied, far) = (near, &destinations[1]);
    bench.server.run(&["vdisk", "delete", &source, "--force"])?;
    there(&mut ready(bench, OWNER, copied)?).context("without its source")?;
    bench.server.kill9();
    bench.server.start()?;
    there(&mut ready(bench, OWNER, copied)?).context("without its source, behind a kill")?;
    for vdisk in [copied, far] {
        bench.server.run(&["vdisk", "delete", vdisk, "--force"])?;
    }
    println!("  two copies of 1 GiB: {took:?}, {moved} bytes of data");
    Ok(())
}

fn reserved(bench: &mut Bench) -> Result<()> {
    let (source, destinations) = family(bench, "kept-out")?;
    let mut from = ready(bench, OWNER, &source)?;
    from.write(0, &[7; 8 * BLOCK])?.good()?;
    let own = descriptor(&mut from)?;
    for destination in &destinations {
        let mut holder = ready(bench, OTHER, destination)?;
        holder.reserve_out(0, 0, 0, 5)?.good()?;
        holder.reserve_out(1, 1, 5, 0)?.good()?;
        let targets = [own.clone(), descriptor(&mut holder)?];
        let refused = copy(&mut from, &targets, &[segment(0, 0, 8)])?;
        ensure!(refused.sense == FAILED, "{destination}: {refused:?}");
        ensure!(holder.read(0, BLOCK)?.good()? == [0; BLOCK], "{destination}: it was written");
        holder.reserve_out(2, 1, 5, 0)?.good()?;
        copy(&mut from, &targets, &[segment(0, 0, 8)])?.good()?;
        ensure!(holder.read(0, BLOCK)?.good()? == [7; BLOCK], "{destination}");
    }
    Ok(())
}

fn of_others(bench: &mut Bench) -> Result<()> {
    let (source, destinations) = family(bench, "strange")?;
    let mut from = ready(bench, OWNER, &source)?;
    let own = descriptor(&mut from)?;
    for destination in &destinations {
        let theirs = descriptor(&mut ready(bench, OTHER, destination)?)?;
        bench.server.run(&["iscsi", "access", destination, "--initiator", OTHER])?;
        let refused = copy(&mut from, &[own.clone(), theirs], &[segment(0, 0, 8)])?;
        ensure!(refused.sense == OUT_OF_REACH, "{destination}: {refused:?}");
    }
    Ok(())
}

fn interrupted(bench: &mut Bench) -> Result<()> {
    let (source, destinations) = family(bench, "reset")?;
    for destination in &destinations {
        let mut from = ready(bench, OWNER, &source)?;
        let data = vec![9; 16 * BLOCK];
        // Data and holes by turns, and off the blocks, so that it takes its time; the same over and over.
        for at in (0..(32 << 20)).step_by(256 * BLOCK) {
            from.write(at, &data)?.good()?;
        }
        let mut to = ready(bench, OTHER, destination)?;
        let targets = [descriptor(&mut from)?, descriptor(&mut to)?];
        let copying = std::thread::spawn(move || copy(&mut from, &targets, &vec![segment(0, 1, 0xffff); 250]));
        std::thread::sleep(Duration::from_millis(300));
        ensure!(!copying.is_finished(), "{destination}: the copy was over too soon");
        to.reset_unit()?;
        let ended = copying.join().expect("it does not panic")?;
        ensure!(ended.sense == FAILED, "{destination}: the copy went on: {ended:?}");
        to.ready()?;
    }
    Ok(())
}
