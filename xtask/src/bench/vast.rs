//! Snapshots, clones and differences of a vDisk of 1 TiB, every block of it mapped, beside one of 1 GiB.
//!
//! A terabyte is not written to the disk: `fill_sparse`, an example of the binary's crate, writes zeros through the engine, and
//! the slab files keep what is all zeros as holes. Groups, frames, checksums, accounts and map pages are those of a terabyte.

use super::Settings;
use super::client::{self, Until, Verb};
use super::report::{Report, Target};
use super::servers::{Name, Servers, fill_export};
use super::snapshots::{Api, median, start};
use crate::nbd::Client;
use crate::process::{command, logged, repository, target_dir};
use crate::server::Server;
use anyhow::Result;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Name, size and how it is called.
const SMALL: (&str, u64, &str) = ("small", 1 << 30, "1 GiB");
const VAST: (&str, u64, &str) = ("vast", 1 << 40, "1 TiB");
/// Calls that a median is of.
const CALLS: usize = 30;
/// Blocks that are written between two snapshots of the first rows, and of the comparison.
const SOME_BLOCKS: u64 = 16;
const CHANGED_BLOCKS: u64 = 1000;
const LIMIT: Duration = Duration::from_secs(3600);

pub fn row(settings: &Settings, _: &mut Servers, report: &mut Report) -> Result<()> {
    if !settings.with_drystone {
        return Ok(());
    }
    let dir = prepare(report)?;
    let begun = Instant::now();
    let mut server = start(settings, &dir)?;
    let api = Api::of(&server)?;
    let mut client = server.connect(VAST.0)?;
    client.read(VAST.1 / 2, &mut [0; 4096])?;
    client.disconnect()?;
    report.note(format!("1 TiB mapped: {:.2} s from start to the first read", begun.elapsed().as_secs_f64()));
    make(&api, &server, report)?;
    differences(&api, &mut server, report)?;
    server.stop()
}

/// Both vDisks, made now unless they are there from an earlier run, which leaves them as they are but for some blocks.
fn prepare(report: &mut Report) -> Result<PathBuf> {
    let dir = target_dir().join("vast");
    let complete = dir.join("complete");
    if complete.exists() {
        return Ok(dir);
    }
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::create_dir_all(&dir)?;
    let mut server = Server::new(&dir)?;
    // Both on one shard.
    server.options = vec!["--workers".into(), "1".into()];
    server.start()?;
    for (name, size, _) in [SMALL, VAST] {
        server.create(name, &size.to_string())?;
    }
    fill_export(&server.socket, SMALL.0)?;
    server.stop()?;
    let begun = Instant::now();
    let arguments = ["run", "--release", "--locked", "-p", "drystone", "--example", "fill_sparse", "--"];
    let mut fill = command("cargo", &arguments);
    fill.arg(&server.data).arg(VAST.0).current_dir(repository());
    logged(fill, &dir.join("fill.log"), LIMIT)?;
    report.note(format!("1 TiB mapped: filled in {} s, its build included", begun.elapsed().as_secs()));
    fs::write(complete, "")?;
    Ok(dir)
}

/// Writes blocks anywhere.
fn dirty(server: &Server, vdisk: &str, blocks: u64, seed: u64) -> Result<()> {
    let target = [(server.socket.clone(), vdisk.to_string())];
    client::run(&target, Verb::Write, 8, Until::Operations(blocks), seed).map(drop)
}

/// What one sync costs: a write of 4 KiB and a flush, milliseconds.
fn sync_ms(client: &mut Client, number: usize) -> Result<f64> {
    client.write(number as u64 * 4096, &[number as u8; 4096])?;
    let begun = Instant::now();
    client.flush()?;
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}

/// How long a snapshot and a clone take, of the small vDisk and of the large one in turn.
fn make(api: &Api, server: &Server, report: &mut Report) -> Result<()> {
    let (mut snapshots, mut clones, mut syncs) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()], Vec::new());
    for call in 0..CALLS {
        for (of, (vdisk, ..)) in [SMALL, VAST].into_iter().enumerate() {
            let (snapshot, clone) = (format!("s{call}"), format!("{vdisk}-c{call}"));
            dirty(server, vdisk, SOME_BLOCKS, call as u64)?;
            let mut client = server.connect(vdisk)?;
            syncs.push(sync_ms(&mut client, call)?);
            client.disconnect()?;
            snapshots[of].push(api.snapshot(vdisk, &snapshot)?);
            clones[of].push(api.clone(vdisk, &snapshot, &clone)?);
        }
    }
    let sync = median(&syncs);
    report.row("one sync: the flush behind a write of 4 KiB", "ms", &[(Name::Drystone, syncs)], &[]);
    for (what, times) in [("snapshot", &snapshots), ("clone of a new snapshot", &clones)] {
        for ((.., size), times) in [SMALL, VAST].into_iter().zip(times) {
            report.row(&format!("{what}, {size} mapped: the call"), "ms", &[(Name::Drystone, times.clone())], &[]);
            let less: Vec<f64> = times.iter().map(|time| time - sync).collect();
            let label = format!("{what}, {size} mapped: less one sync");
            report.row(&label, "ms", &[(Name::Drystone, less)], &[Target::Below(5.0)]);
        }
        let ratio = vec![median(&times[1]) / median(&times[0])];
        report.row(&format!("{what}: 1 TiB by 1 GiB"), "×", &[(Name::Drystone, ratio)], &[Target::Below(1.5)]);
    }
    let mut again = [Vec::new(), Vec::new()];
    for call in 0..CALLS {
        for (of, (vdisk, ..)) in [SMALL, VAST].into_iter().enumerate() {
            again[of].push(api.clone(vdisk, "s0", &format!("{vdisk}-again-{call}"))?);
        }
    }
    for ((.., size), times) in [SMALL, VAST].into_iter().zip(&again) {
        let label = format!("clone of a snapshot that is stored, {size} mapped: the call");
        report.row(&label, "ms", &[(Name::Drystone, times.clone())], &[]);
    }
    let ratio = vec![median(&again[1]) / median(&again[0])];
    let label = "clone of a snapshot that is stored: 1 TiB by 1 GiB";
    report.row(label, "×", &[(Name::Drystone, ratio)], &[Target::Below(1.5)]);
    for call in 0..CALLS {
        for (vdisk, ..) in [SMALL, VAST] {
            api.delete_vdisk(&format!("{vdisk}-again-{call}"))?;
            api.delete_vdisk(&format!("{vdisk}-c{call}"))?;
            api.delete_snapshot(vdisk, &format!("s{call}"))?;
        }
    }
    Ok(())
}

/// Of two snapshots of the large vDisk between which some blocks were written.
fn differences(api: &Api, server: &mut Server, report: &mut Report) -> Result<()> {
    api.snapshot(VAST.0, "before")?;
    dirty(server, VAST.0, CHANGED_BLOCKS, 7)?;
    api.snapshot(VAST.0, "after")?;
    let path = format!("/api/v1/vdisks/{}/changes?from=before&to=after&limit=10000", VAST.0);
    api.timed("GET", &path, None)?;
    let warm: Vec<f64> = (0..CALLS).map(|_| api.timed("GET", &path, None)).collect::<Result<_>>()?;
    let label = "difference of two snapshots of 1 TiB, 1,000 blocks written between, pages in memory";
    report.row(label, "ms", &[(Name::Drystone, warm)], &[Target::Below(100.0)]);
    let mut cold = Vec::new();
    for _ in 0..3 {
        server.stop()?;
        forget_page_cache(&server.data)?;
        server.start()?;
        cold.push(api.timed("GET", &path, None)? / 1e3);
    }
    report.row("the same after a start, nothing in memory", "s", &[(Name::Drystone, cold)], &[Target::Below(1.0)]);
    for snapshot in ["before", "after"] {
        api.delete_snapshot(VAST.0, snapshot)?;
    }
    Ok(())
}

/// What the kernel has of these files.
fn forget_page_cache(data: &Path) -> Result<()> {
    rustix::fs::sync();
    for shard in fs::read_dir(data)? {
        let shard = shard?.path();
        for file in fs::read_dir(&shard).into_iter().flatten() {
            let file = fs::File::open(file?.path())?;
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        }
    }
    Ok(())
}
