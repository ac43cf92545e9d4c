//! Differences to snapshots over NBD, as dirty bitmaps: with libnbd's and QEMU's own tools.

use super::{Bench, Check};
use crate::nbd::Client;
use crate::process::{command, output, refused};
use crate::random::Random;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

pub const CHECKS: &[(&str, Check)] =
    &[("dirty bitmaps", bitmaps), ("dirty bitmaps with QEMU", with_qemu), ("a dirty bitmap under load", under_load)];

const BLOCK: u64 = 4096;

fn put(client: &mut Client, block: u64, byte: u8) -> Result<()> {
    client.write(block * BLOCK, &[byte; BLOCK as usize])
}

/// Blocks that are dirty, as nbdinfo has them.
pub fn dirty(uri: &str, snapshot: &str) -> Result<BTreeSet<u64>> {
    let listed = output("nbdinfo", &["--json", &format!("--map=qemu:dirty-bitmap:{snapshot}"), uri])?;
    let extents: Value = serde_json::from_str(&listed).with_context(|| listed.clone())?;
    let (mut blocks, mut end) = (BTreeSet::new(), 0);
    for extent in extents.as_array().context("extents")? {
        let number = |key: &str| extent[key].as_u64().with_context(|| format!("{key}: {extent}"));
        let (offset, len, kind) = (number("offset")?, number("length")?, number("type")?);
        ensure!(offset == end && len > 0 && kind <= 1, "{listed}");
        end = offset + len;
        if kind == 1 {
            ensure!(offset % BLOCK == 0 && len % BLOCK == 0, "{listed}");
            blocks.extend(offset / BLOCK..end / BLOCK);
        }
    }
    Ok(blocks)
}

fn bitmaps(bench: &mut Bench) -> Result<()> {
    let server = &bench.server;
    server.create("bit", "1GiB")?;
    let mut client = server.connect("bit")?;
    [0, 7, 9, 9000].into_iter().try_for_each(|block| put(&mut client, block, 1))?;
    server.run(&["vdisk", "snapshot", "bit", "one"])?;
    ensure!(dirty(&server.uri("bit"), "one")?.is_empty(), "a snapshot that was just taken");
    put(&mut client, 7, 2)?;
    client.trim(9 * BLOCK, BLOCK as u32)?;
    server.run(&["vdisk", "snapshot", "bit", "two"])?;
    put(&mut client, 100, 3)?;
    put(&mut client, 200_000, 3)?;
    client.disconnect()?;
    let blocks = |export: &str, snapshot: &str| dirty(&server.uri(export), snapshot);
    ensure!(blocks("bit", "one")? == [7, 9, 100, 200_000].into(), "{:?}", blocks("bit", "one")?);
    ensure!(blocks("bit", "two")? == [100, 200_000].into(), "{:?}", blocks("bit", "two")?);
    ensure!(blocks("bit@two", "one")? == [7, 9].into(), "{:?}", blocks("bit@two", "one")?);
    ensure!(blocks("bit@one", "two")? == [7, 9].into(), "the other way round");
    let info: Value = serde_json::from_str(&output("nbdinfo", &["--json", &server.uri("bit")])?)?;
    let contexts = &info["exports"][0]["contexts"];
    let expect = ["base:allocation", "qemu:dirty-bitmap:one", "qemu:dirty-bitmap:two"];
    ensure!(*contexts == Value::from(expect.to_vec()), "{contexts}");
    refused(command("nbdinfo", &["--map=qemu:dirty-bitmap:three", &server.uri("bit")]), &["three"])?;
    // After kill -9 too, as soon as the snapshots are found.
    bench.server.kill9();
    bench.server.start()?;
    let uri = bench.server.uri("bit");
    crate::process::wait_until(
        "the snapshots to be found",
        Duration::from_secs(30),
        || Ok(dirty(&uri, "one").is_ok()),
    )?;
    ensure!(dirty(&uri, "one")? == [7, 9, 100, 200_000].into(), "after kill -9");
    Ok(())
}

/// QEMU's client takes the dirty bitmap in place of the allocation: dirty is what it says holds no data.
fn with_qemu(bench: &mut Bench) -> Result<()> {
    let server = &bench.server;
    server.create("qbit", "64MiB")?;
    let mut client = server.connect("qbit")?;
    put(&mut client, 1, 1)?;
    server.run(&["vdisk", "snapshot", "qbit", "one"])?;
    [3, 4, 5000].into_iter().try_for_each(|block| put(&mut client, block, 1))?;
    client.disconnect()?;
    let socket = server.socket.uri("");
    let path = socket.split_once("socket=").context("a unix socket")?.1;
    let options = |bitmap: &str| {
        format!("driver=nbd,server.type=unix,server.path={path},export=qbit,x-dirty-bitmap=qemu:dirty-bitmap:{bitmap}")
    };
    let map = output("qemu-img", &["map", "--output=json", "--image-opts", &options("one")])?;
    let map: Value = serde_json::from_str(&map)?;
    let is_dirty = |extent: &&Value| extent["data"] == false;
    let found: Vec<(Option<u64>, Option<u64>)> = map
        .as_array()
        .context("extents")?
        .iter()
        .filter(is_dirty)
        .map(|extent| (extent["start"].as_u64(), extent["length"].as_u64()))
        .collect();
    let expect = [(Some(3 * BLOCK), Some(2 * BLOCK)), (Some(5000 * BLOCK), Some(BLOCK))];
    ensure!(found == expect, "{map}");
    refused(command("qemu-img", &["map", "--image-opts", &options("none")]), &["none"])
}

/// What was acknowledged before the bitmap is asked for is in it, whatever is under way, while checkpoints come and the log
/// is re-packed; and what nobody wrote is not.
fn under_load(bench: &mut Bench) -> Result<()> {
    const BLOCKS: u64 = 4096;
    let server = &bench.server;
    server.create("busy", &(16 * BLOCKS * BLOCK).to_string())?;
    let mut client = server.connect("busy")?;
    let mut random = Random::new(4);
    let chunk = vec![1u8; 1 << 20];
    for at in 0..(BLOCKS * BLOCK) >> 20 {
        client.write(at << 20, &chunk)?;
    }
    server.run(&["vdisk", "snapshot", "busy", "one"])?;
    let uri = server.uri("busy");
    let (mut written, mut looks, begun) = (BTreeSet::new(), 0, Instant::now());
    std::thread::scope(|scope| -> Result<()> {
        let (sender, acknowledged) = std::sync::mpsc::channel();
        let writer = scope.spawn(move || -> Result<()> {
            while begun.elapsed() < Duration::from_secs(4) {
                let block = random.below(BLOCKS);
                if random.chance(10) {
                    client.trim(block * BLOCK, BLOCK as u32)?;
                } else {
                    put(&mut client, block, 2)?;
                }
                if sender.send(block).is_err() {
                    break;
                }
            }
            client.disconnect()
        });
        while !writer.is_finished() {
            written.extend(acknowledged.try_iter());
            let found = dirty(&uri, "one")?;
            let missing = written.difference(&found).next();
            ensure!(missing.is_none(), "block {missing:?} was written, and is said to be clean");
            looks += 1;
            // A checkpoint between two looks.
            if looks % 3 == 0 {
                server.run(&["vdisk", "snapshot", "busy", &format!("between-{looks}")])?;
                server.run(&["vdisk", "snapshot-delete", "busy", &format!("between-{looks}")])?;
            }
        }
        writer.join().expect("no panic")?;
        written.extend(acknowledged.try_iter());
        Ok(())
    })?;
    ensure!(dirty(&uri, "one")? == written, "at rest");
    println!("  {looks} looks, {} blocks", written.len());
    ensure!(looks > 3, "only {looks} looks");
    Ok(())
}
