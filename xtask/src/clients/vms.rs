//! Snapshots, clones and VMs as a user meets them, and what a `kill -9` in the middle of a call leaves.

use super::kills::{Kills, begin, time_of};
use super::{Bench, Check};
use crate::nbd::{self, Client};
use crate::process::{output, wait_until};
use crate::server::Server;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

pub const CHECKS: &[(&str, Check)] = &[
    ("snapshots of a vDisk", snapshots),
    ("clones", clones),
    ("rollback", rollback),
    ("differences", differences),
    ("a VM", vm),
    ("templates", templates),
    ("chained writes on two vDisks", chained_writes),
    ("VMs after the loss of the metadata store", recovered),
    ("kill -9 while a VM is rolled back", killed_while_rolling_back),
    ("kill -9 while VMs are cloned", killed_while_cloning),
    ("kill -9 while snapshots of a VM are taken", killed_while_taking),
    // They leave hundreds of VMs, which every later start would recover.
    ("five hundred VMs in one call", many),
    ("callers that go away", gone_callers),
];

const BLOCK: usize = 4096;
/// What a start may take to carry out what was cut short, beyond being healthy.
const FINISH_LIMIT: Duration = Duration::from_secs(30);

fn put(client: &mut Client, block: u64, byte: u8) -> Result<()> {
    client.write(block * BLOCK as u64, &[byte; BLOCK])
}

fn first(client: &mut Client) -> Result<u8> {
    let mut bytes = [0; BLOCK];
    client.read(0, &mut bytes)?;
    ensure!(bytes.iter().all(|byte| *byte == bytes[0]), "a block of two writes");
    Ok(bytes[0])
}

/// The first byte of an export, from a connection of its own.
fn byte_of(server: &Server, export: &str) -> Result<u8> {
    let mut client = server.connect(export).with_context(|| export.to_string())?;
    let byte = first(&mut client)?;
    client.disconnect()?;
    Ok(byte)
}

/// One write from a connection of its own, which is gone afterwards.
fn write_first(server: &Server, export: &str, byte: u8) -> Result<()> {
    let mut client = server.connect(export)?;
    put(&mut client, 0, byte)?;
    client.flush()?;
    client.disconnect()?;
    unconnected(server, export)
}

fn unconnected(server: &Server, vdisk: &str) -> Result<()> {
    let gone = || Ok(server.json(&["vdisk", "show", vdisk])?["connections"] == 0);
    wait_until("the connection to be gone", FINISH_LIMIT, gone).map(drop)
}

fn names(list: &Value) -> Vec<String> {
    let entries = list.as_array().into_iter().flatten();
    entries.filter_map(|entry| Some(entry["name"].as_str()?.to_string())).collect()
}

fn snapshots(bench: &mut Bench) -> Result<()> {
    let server = &bench.server;
    server.create("s", "64MiB")?;
    let mut client = server.connect("s")?;
    put(&mut client, 0, 1)?;
    server.run(&["vdisk", "snapshot", "s", "one"])?;
    put(&mut client, 0, 2)?;
    server.refuses(&["vdisk", "snapshot", "s", "one"], &["already"])?;
    let listed = output("nbdinfo", &["--list", "--json", "--no-content", &bench.server.uri("")])?;
    ensure!(listed.contains("\"s@one\""), "{listed}");
    ensure!((byte_of(server, "s@one")?, byte_of(server, "s")?) == (1, 2));
    let mut reader = server.connect("s@one")?;
    ensure!(reader.flags & 2 != 0, "a snapshot is not told to be read-only");
    reader.send(nbd::WRITE, 0, 4, 0, 512, &[6; 512])?;
    let answer = reader.answer()?;
    ensure!(answer.error == 1, "a write to a snapshot: {answer:?}, expected EPERM");
    ensure!(server.connect("s@two").is_err(), "a snapshot that is not there is served");
    server.refuses(&["vdisk", "snapshot-delete", "s", "one"], &["1 client reads", "--force"])?;
    server.refuses(&["vdisk", "delete", "s", "--force"], &["1 snapshot", "--snapshots"])?;
    bench.server.kill9();
    bench.server.start()?;
    let server = &bench.server;
    wait_until("the snapshot to be served", FINISH_LIMIT, || Ok(server.connect("s@one").is_ok()))?;
    ensure!((byte_of(server, "s@one")?, byte_of(server, "s")?) == (1, 2), "after kill -9");
    server.run(&["vdisk", "snapshot-delete", "s", "one", "--force"])?;
    ensure!(server.connect("s@one").is_err(), "a deleted snapshot is served");
    server.refuses(&["vdisk", "snapshot-delete", "s", "one"], &["no snapshot"])?;
    server.run(&["vdisk", "snapshot", "s", "two"])?;
    server.run(&["vdisk", "delete", "s", "--snapshots", "--force"]).map(drop)
}

fn clones(bench: &mut Bench) -> Result<()> {
    let server = &bench.server;
    server.create("golden", "64MiB")?;
    write_first(server, "golden", 1)?;
    server.run(&["vdisk", "snapshot", "golden", "one"])?;
    write_first(server, "golden", 2)?;
    let begun = Instant::now();
    server.run(&["vdisk", "clone", "golden@one", "desk-{001..500}"])?;
    let took = begun.elapsed();
    server.run(&["vdisk", "clone", "golden", "now"])?;
    ensure!((byte_of(server, "desk-001")?, byte_of(server, "desk-500")?, byte_of(server, "now")?) == (1, 1, 2));
    write_first(server, "desk-250", 9)?;
    ensure!((byte_of(server, "golden@one")?, byte_of(server, "desk-251")?) == (1, 1), "a clone wrote into others");
    ensure!(names(&server.json(&["vdisk", "snapshots", "golden"])?) == ["one"], "a temporary snapshot stayed");
    check_space(server)?;
    server.refuses(&["vdisk", "clone", "golden", "x", "desk-500"], &["\"desk-500\" exists already"])?;
    server.refuses(&["vdisk", "clone", "golden", "x{1..1001}"], &["1001 clones are more"])?;
    server.refuses(&["vdisk", "clone", "golden@none", "x"], &["no snapshot \"none\""])?;
    server.refuses(&["vdisk", "show", "x"], &["no vDisk"])?;
    // In any order: first the source, with its snapshot.
    server.run(&["vdisk", "delete", "golden", "--snapshots"])?;
    bench.server.kill9();
    bench.server.start()?;
    ensure!((byte_of(&bench.server, "desk-250")?, byte_of(&bench.server, "desk-251")?) == (9, 1), "after kill -9");
    println!("  500 clones in {} ms", took.as_millis());
    // They are all on one worker, and what comes next would be on the other ones.
    (1..=500).try_for_each(|number| bench.server.run(&["vdisk", "delete", &format!("desk-{number:03}")]).map(drop))
}

/// One block and two pages of the map each: desk-250 has its own, the other clones share those of golden@one, and the
/// clone "now" those of golden.
fn check_space(server: &Server) -> Result<()> {
    let all = json!({"unique_bytes": 3 * 4096, "shared_bytes": 0});
    let none = json!({"unique_bytes": 0, "shared_bytes": 3 * 4096});
    let space = |vdisk: &str| server.json(&["vdisk", "space", vdisk]);
    for (vdisk, now, alone) in [("desk-250", &all, 3 * 4096), ("desk-251", &none, 0), ("golden", &none, 0)] {
        let space = space(vdisk)?;
        ensure!(space["now"] == *now && space["alone_bytes"] == alone, "{vdisk}: {space}");
    }
    let golden = space("golden")?;
    let one = &golden["snapshots"][0];
    ensure!(one["name"] == "one" && one["shared_bytes"] == 3 * 4096 && one["unique_bytes"] == 0, "{one}");
    Ok(())
}

fn rollback(bench: &mut Bench) -> Result<()> {
    let server = &bench.server;
    server.create("back", "64MiB")?;
    write_first(server, "back", 1)?;
    server.run(&["vdisk", "snapshot", "back", "one"])?;
    write_first(server, "back", 2)?;
    let client = server.connect("back")?;
    server.refuses(&["vdisk", "rollback", "back", "one"], &["1 client is connected", "stop the VM first"])?;
    client.disconnect()?;
    unconnected(server, "back")?;
    ensure!(names(&server.json(&["vdisk", "snapshots", "back"])?) == ["one"], "a refused rollback kept a snapshot");
    server.refuses(&["vdisk", "rollback", "back", "none"], &["no snapshot \"none\""])?;
    let done = server.json(&["vdisk", "rollback", "back", "one"])?;
    let kept = done["kept"]["name"].as_str().context("what was kept")?.to_string();
    ensure!(byte_of(server, "back")? == 1);
    unconnected(server, "back")?;
    ensure!(byte_of(server, &format!("back@{kept}"))? == 2, "what was replaced is lost");
    bench.server.kill9();
    bench.server.start()?;
    ensure!(byte_of(&bench.server, "back")? == 1, "after kill -9");
    unconnected(&bench.server, "back")?;
    bench.server.run(&["vdisk", "rollback", "back", &kept])?;
    ensure!(byte_of(&bench.server, "back")? == 2);
    Ok(())
}

fn differences(bench: &mut Bench) -> Result<()> {
    let server = &bench.server;
    server.create("diff", "1GiB")?;
    let mut client = server.connect("diff")?;
    [0, 7, 9].into_iter().try_for_each(|block| put(&mut client, block, 1))?;
    server.run(&["vdisk", "snapshot", "diff", "one"])?;
    put(&mut client, 7, 2)?;
    client.trim(9 * BLOCK as u64, BLOCK as u32)?;
    server.run(&["vdisk", "snapshot", "diff", "two"])?;
    put(&mut client, 100, 3)?;
    let diff = |from: &str, to: &[&str]| server.run(&[&["vdisk", "diff", "diff", from], to].concat());
    let line =
        |block: u64, data: bool| format!("{{\"offset\":{},\"length\":4096,\"data\":{data}}}\n", block * BLOCK as u64);
    ensure!(diff("", &["one"])? == [line(0, true), line(7, true), line(9, true)].concat(), "{}", diff("", &["one"])?);
    ensure!(diff("one", &["two"])? == [line(7, true), line(9, false)].concat(), "{}", diff("one", &["two"])?);
    ensure!(diff("two", &[])? == line(100, true), "{}", diff("two", &[])?);
    ensure!(diff("one", &["one"])?.is_empty());
    server.refuses(&["vdisk", "diff", "diff", "none"], &["no snapshot \"none\""])
}

fn vm(bench: &mut Bench) -> Result<()> {
    let server = &bench.server;
    server.run(&["vm", "create", "web01", "--vdisk", "root=64MiB", "--vdisk", "data=64MiB"])?;
    write_first(server, "web01-root", 1)?;
    write_first(server, "web01-data", 1)?;
    server.run(&["vm", "snapshot", "web01", "one"])?;
    write_first(server, "web01-root", 2)?;
    ensure!((byte_of(server, "web01-root@one")?, byte_of(server, "web01-data@one")?) == (1, 1));
    server.refuses(&["vm", "snapshot", "web01", "one"], &["already"])?;
    server.refuses(&["vdisk", "snapshot-delete", "web01-root", "one"], &["drystone vm snapshot-delete web01 one"])?;
    server.refuses(&["vdisk", "delete", "web01-root"], &["belongs to VM \"web01\""])?;
    server.run(&["vm", "clone", "web01@one", "web02"])?;
    ensure!((byte_of(server, "web02-root")?, byte_of(server, "web02-data")?) == (1, 1));
    let client = server.connect("web01-data")?;
    server.refuses(&["vm", "rollback", "web01", "one"], &["stop the VM first"])?;
    client.disconnect()?;
    unconnected(server, "web01-data")?;
    server.create("extra", "64MiB")?;
    server.run(&["vm", "attach", "web01", "extra"])?;
    server.refuses(&["vm", "attach", "web02", "extra"], &["belongs to VM \"web01\""])?;
    server.refuses(&["vm", "rollback", "web01", "one"], &["drystone vm detach web01 extra"])?;
    server.run(&["vm", "detach", "web01", "extra"])?;
    server.run(&["vm", "rollback", "web01", "one"])?;
    ensure!(byte_of(server, "web01-root")? == 1);
    unconnected(server, "web01-root")?;
    bench.server.stop()?;
    bench.server.start()?;
    let server = &bench.server;
    ensure!(names(&server.json(&["vm", "snapshots", "web01"])?).len() == 2, "snapshots after a restart");
    server.refuses(&["vm", "delete", "web01"], &["2 snapshots", "--keep-vdisks"])?;
    server.run(&["vm", "snapshot-delete", "web01", "one"])?;
    server.run(&["vm", "delete", "web01", "--snapshots"])?;
    server.refuses(&["vdisk", "show", "web01-data"], &["no vDisk"])?;
    ensure!(byte_of(server, "web02-root")? == 1, "a clone outlives its source");
    server.run(&["vm", "rename", "web02", "www"])?;
    server.run(&["vm", "delete", "www", "--keep-vdisks"])?;
    ensure!(byte_of(server, "web02-root")? == 1, "the vDisks were to stay");
    Ok(())
}

fn templates(bench: &mut Bench) -> Result<()> {
    let server = &bench.server;
    server.run(&["vm", "create", "tpl", "--vdisk", "root=64MiB"])?;
    let mut client = server.connect("tpl-root")?;
    put(&mut client, 0, 1)?;
    server.refuses(&["vm", "template", "tpl", "on"], &["1 client is connected"])?;
    client.disconnect()?;
    unconnected(server, "tpl-root")?;
    server.run(&["vm", "template", "tpl", "on"])?;
    let mut client = server.connect("tpl-root")?;
    ensure!(client.flags & 2 != 0, "a template is not told to be read-only");
    client.send(nbd::WRITE, 0, 4, 0, 512, &[6; 512])?;
    ensure!(client.answer()?.error == 1, "a template was written to");
    client.disconnect()?;
    server.refuses(&["vdisk", "set", "tpl-root", "--read-only", "off"], &["drystone vm template tpl off"])?;
    server.refuses(&["vm", "detach", "tpl", "root"], &["is a template"])?;
    server.run(&["vm", "clone", "tpl", "of-tpl"])?;
    write_first(server, "of-tpl-root", 2)?;
    unconnected(server, "tpl-root")?;
    bench.server.kill9();
    bench.server.start()?;
    ensure!(bench.server.connect("tpl-root")?.flags & 2 != 0, "a template can be written to after kill -9");
    unconnected(&bench.server, "tpl-root")?;
    bench.server.run(&["vm", "template", "tpl", "off"])?;
    write_first(&bench.server, "tpl-root", 3)
}

/// So that the next two vDisks are on different workers: each goes to one with the fewest.
pub fn level(server: &Server, prefix: &str) -> Result<()> {
    let mut before = None;
    for number in 0..256 {
        let name = format!("{prefix}{number}");
        server.create(&name, "1MiB")?;
        let shard = shard_of(server, &name)?;
        if before.replace(shard).is_some_and(|before| before != shard) {
            return Ok(());
        }
    }
    anyhow::bail!("there is one worker only; an instant on several cannot be looked at")
}

fn shard_of(server: &Server, vdisk: &str) -> Result<u64> {
    server.json(&["vdisk", "show", vdisk])?["shard"].as_u64().context("a vDisk without a worker")
}

/// Or else one worker's order alone would make a snapshot of them one of an instant.
pub fn on_two_workers(server: &Server, vdisks: [&str; 2]) -> Result<()> {
    let [one, two] = [shard_of(server, vdisks[0])?, shard_of(server, vdisks[1])?];
    ensure!(one != two, "{vdisks:?} are both on worker {one}");
    Ok(())
}

/// The second write is issued when the first one has been acknowledged: no snapshot has the second alone.
fn chained_writes(bench: &mut Bench) -> Result<()> {
    let server = &bench.server;
    level(server, "level-db")?;
    server.run(&["vm", "create", "db", "--vdisk", "wal=64MiB", "--vdisk", "data=64MiB"])?;
    on_two_workers(server, ["db-wal", "db-data"])?;
    let (mut wal, mut data) = (server.connect("db-wal")?, server.connect("db-data")?);
    put(&mut wal, 0, 0)?;
    put(&mut data, 0, 0)?;
    let stop = std::sync::atomic::AtomicBool::new(false);
    let taken = std::thread::scope(|scope| {
        let writer = scope.spawn(|| -> Result<u64> {
            let mut count = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let byte = (count % 251) as u8;
                put(&mut wal, 0, byte)?;
                put(&mut data, 0, byte)?;
                count += 1;
            }
            Ok(count)
        });
        let taken = (0..30).try_for_each(|index| server.run(&["vm", "snapshot", "db", &format!("s{index}")]).map(drop));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let written = writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
        taken.map(|()| written)
    });
    let written = taken?;
    ensure!(written > 100, "only {written} writes came between the snapshots");
    for index in 0..30 {
        let wal = byte_of(server, &format!("db-wal@s{index}"))?;
        let data = byte_of(server, &format!("db-data@s{index}"))?;
        let ahead = (u16::from(wal) + 251 - u16::from(data)) % 251;
        ensure!(ahead <= 1, "s{index} has write {data} on data, and {wal} on wal, which was written first");
    }
    Ok(())
}

fn recovered(bench: &mut Bench) -> Result<()> {
    let server = &bench.server;
    server.run(&["vm", "create", "kept", "--vdisk", "root=64MiB", "--vdisk", "data=64MiB"])?;
    write_first(server, "kept-root", 1)?;
    server.run(&["vm", "snapshot", "kept", "one"])?;
    write_first(server, "kept-root", 2)?;
    server.run(&["vm", "clone", "kept@one", "copy"])?;
    server.run(&["vm", "rename", "kept", "found"])?;
    server.run(&["vm", "template", "copy", "on"])?;
    bench.server.stop()?;
    std::fs::remove_file(bench.server.data.join("meta.redb"))?;
    let data = bench.server.data.to_string_lossy().into_owned();
    let said = bench.server.run(&["recover", "--data", &data])?;
    ensure!(said.contains("VMs found in the logs"), "{said}");
    bench.server.start()?;
    let server = &bench.server;
    let vm = server.json(&["vm", "show", "found"])?;
    let labels: Vec<&str> =
        vm["vdisks"].as_array().into_iter().flatten().filter_map(|one| one["label"].as_str()).collect();
    ensure!(labels == ["root", "data"], "{vm}");
    ensure!(server.json(&["vm", "show", "copy"])?["template"] == true, "it was a template");
    ensure!(names(&server.json(&["vm", "snapshots", "found"])?) == ["one"], "its snapshot");
    wait_until("the snapshot to be served", FINISH_LIMIT, || Ok(server.connect("kept-root@one").is_ok()))?;
    ensure!((byte_of(server, "kept-root@one")?, byte_of(server, "copy-root")?) == (1, 1));
    unconnected(server, "kept-root")?;
    server.run(&["vm", "rollback", "found", "one"])?;
    ensure!(byte_of(server, "kept-root")? == 1);
    Ok(())
}

/// Names of VMs and of vDisks that begin so.
fn made(server: &Server, prefix: &str) -> Result<(usize, usize)> {
    let count = |names: Vec<String>| names.iter().filter(|name| name.starts_with(prefix)).count();
    Ok((count(names(&server.json(&["vm", "list"])?)), count(names(&server.json(&["vdisk", "list"])?))))
}

/// The steps of a call go on when nobody waits for its answer any more, and the next call finds all of it or nothing.
fn gone_callers(bench: &mut Bench) -> Result<()> {
    const CLONES: usize = 50;
    let server = &bench.server;
    server.run(&["vm", "create", "left", "--vdisk", "root=64MiB", "--vdisk", "data=64MiB"])?;
    // The request is on its way soon.
    let mut kills = Kills::new(6, time_of(server, |name| clones_of("left", name, CLONES))? / 4, 20);
    while kills.go_on() {
        let round = kills.round();
        let prefix = format!("l{round}-");
        let line = clones_of("left", &prefix, CLONES);
        let mut call = begin(server, &line.iter().map(String::as_str).collect::<Vec<_>>())?;
        kills.wait();
        call.kill()?;
        call.wait()?;
        // It takes its turn behind what was left.
        server.run(&["vm", "snapshot", "left", &format!("s{round}")])?;
        let there = made(server, &prefix)?;
        ensure!(there == (0, 0) || there == (CLONES, 2 * CLONES), "round {round}: {there:?} VMs and vDisks");
        let taken = names(&server.json(&["vdisk", "snapshots", "left-root"])?).len() as u64;
        ensure!(taken == round + 1, "round {round}: {taken} snapshots");
        kills.found(there.0 > 0);
    }
    println!("  {}", kills.check()?);
    Ok(())
}

fn clones_of(vm: &str, prefix: &str, count: usize) -> Vec<String> {
    ["vm", "clone", vm, &format!("{prefix}{{1..{count}}}")].map(String::from).to_vec()
}

fn killed_while_cloning(bench: &mut Bench) -> Result<()> {
    const CLONES: usize = 50;
    bench.server.run(&["vm", "create", "seed", "--vdisk", "root=64MiB", "--vdisk", "data=64MiB"])?;
    write_first(&bench.server, "seed-root", 7)?;
    let mut kills =
        Kills::new(4, time_of(&bench.server, |name| clones_of("seed", &format!("{name}-"), CLONES))?, 12).with_middle();
    while kills.go_on() {
        let round = kills.round();
        let prefix = format!("r{round}-");
        let line = clones_of("seed", &prefix, CLONES);
        let mut call = begin(&bench.server, &line.iter().map(String::as_str).collect::<Vec<_>>())?;
        kills.wait();
        bench.server.kill9();
        let told = call.wait()?.success();
        bench.server.start()?;
        let server = &bench.server;
        let whole = || {
            let there = made(server, &prefix)?;
            Ok(there == (0, 0) || there == (CLONES, 2 * CLONES))
        };
        wait_until("all of it or nothing", FINISH_LIMIT, whole)
            .with_context(|| format!("round {round}: {:?}\n{}", made(server, &prefix), server.log()))?;
        let there = made(server, &prefix)?.0 > 0;
        ensure!(there || !told, "round {round}: clones that were acknowledged are not there");
        if there {
            ensure!(byte_of(server, &format!("{prefix}{CLONES}-root"))? == 7);
        }
        if there && !told {
            kills.found_middle();
        }
        let shown = names(&server.json(&["vdisk", "snapshots", "seed-root"])?);
        ensure!(shown.is_empty(), "a temporary snapshot is shown: {shown:?}");
        kills.found(there);
    }
    println!("  {}", kills.check()?);
    Ok(())
}

fn killed_while_taking(bench: &mut Bench) -> Result<()> {
    level(&bench.server, "level-cut")?;
    bench.server.run(&["vm", "create", "cut", "--vdisk", "wal=64MiB", "--vdisk", "data=64MiB"])?;
    kill_snapshots(bench, ["vm", "cut"], ["cut-wal", "cut-data"])
}

/// Kills the controller while snapshots of a VM or group are taken. The second vDisk is written when a write to the first one
/// was acknowledged.
pub fn kill_snapshots(bench: &mut Bench, of: [&str; 2], vdisks: [&str; 2]) -> Result<()> {
    on_two_workers(&bench.server, vdisks)?;
    let [verb, name] = of;
    let took_us = time_of(&bench.server, |snapshot| [verb, "snapshot", name, snapshot].map(String::from).to_vec())?;
    // Beside the writer it takes longer.
    let mut kills = Kills::new(7, 2 * took_us, 20);
    let mut told_of = 0;
    while kills.go_on() {
        let round = kills.round();
        let snapshot = format!("k{round}");
        let (mut wal, mut data) = (bench.server.connect(vdisks[0])?, bench.server.connect(vdisks[1])?);
        put(&mut wal, 0, 0)?;
        put(&mut data, 0, 0)?;
        let writer = std::thread::spawn(move || {
            // Until the controller is gone.
            let mut chain = (1..u64::MAX).map(|count| (count % 251) as u8);
            chain.position(|byte| put(&mut wal, 0, byte).and_then(|()| put(&mut data, 0, byte)).is_err())
        });
        let mut call = begin(&bench.server, &[verb, "snapshot", name, &snapshot])?;
        kills.wait();
        bench.server.kill9();
        let told = call.wait()?.success();
        writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?;
        bench.server.start()?;
        let server = &bench.server;
        let is_there = names(&server.json(&[verb, "snapshots", name])?).contains(&snapshot);
        ensure!(is_there || !told, "round {round}: a snapshot that was acknowledged is not there");
        let whole = || {
            let has = |vdisk: &str| -> Result<bool> {
                Ok(names(&server.json(&["vdisk", "snapshots", vdisk])?).contains(&snapshot))
            };
            Ok(has(vdisks[0])? == is_there && has(vdisks[1])? == is_there)
        };
        wait_until("all of it or nothing", FINISH_LIMIT, whole)
            .with_context(|| format!("round {round}, {is_there}"))?;
        if is_there {
            let [wal, data] = vdisks.map(|vdisk| byte_of(server, &format!("{vdisk}@{snapshot}")));
            let (wal, data) = (wal?, data?);
            let ahead = (u16::from(wal) + 251 - u16::from(data)) % 251;
            ensure!(ahead <= 1, "round {round}: write {data} on the second vDisk, and {wal} on the first");
        }
        told_of += u32::from(told);
        kills.found(is_there);
    }
    println!("  {}, {told_of} acknowledged", kills.check()?);
    Ok(())
}

fn many(bench: &mut Bench) -> Result<()> {
    const VMS: usize = 500;
    let server = &bench.server;
    server.run(&["vm", "create", "golden", "--vdisk", "root=64MiB", "--vdisk", "data=64MiB"])?;
    write_first(server, "golden-root", 7)?;
    server.run(&["vm", "template", "golden", "on"])?;
    let begun = Instant::now();
    server.run(&["vm", "clone", "golden", "desk-{001..500}"])?;
    println!("  {VMS} VMs of two vDisks in {} ms", begun.elapsed().as_millis());
    ensure!(made(server, "desk-")? == (VMS, 2 * VMS), "{:?}", made(server, "desk-")?);
    for (number, byte) in [(1, 1), (250, 2), (500, 3)] {
        write_first(server, &format!("desk-{number:03}-root"), byte)?;
    }
    server.refuses(&["vm", "clone", "golden", "desk-{500..501}"], &["exists already"])?;
    bench.server.kill9();
    bench.server.start()?;
    let server = &bench.server;
    ensure!(made(server, "desk-")? == (VMS, 2 * VMS), "after kill -9: {:?}", made(server, "desk-")?);
    for (number, byte) in [(1, 1), (2, 7), (250, 2), (499, 7), (500, 3)] {
        let found = byte_of(server, &format!("desk-{number:03}-root"))?;
        ensure!(found == byte, "desk-{number:03} has {found}, not {byte}");
    }
    ensure!(byte_of(server, "golden-root")? == 7, "a clone was written, and its template has it");
    Ok(())
}

fn killed_while_rolling_back(bench: &mut Bench) -> Result<()> {
    let labels: Vec<String> = (0..24).map(|index| format!("d{index}")).collect();
    let vdisks: Vec<String> = labels.iter().map(|label| format!("roll-{label}")).collect();
    let sizes: Vec<String> = labels.iter().map(|label| format!("{label}=64MiB")).collect();
    let options = sizes.iter().flat_map(|size| ["--vdisk", size.as_str()]);
    bench.server.run(&["vm", "create", "roll"].into_iter().chain(options).collect::<Vec<_>>())?;
    kill_rollbacks(bench, ["vm", "roll"], &vdisks)
}

/// Kills the controller while a VM or group is rolled back.
pub fn kill_rollbacks(bench: &mut Bench, of: [&str; 2], vdisks: &[String]) -> Result<()> {
    let [verb, name] = of;
    for byte in [1, 2] {
        vdisks.iter().try_for_each(|vdisk| write_first(&bench.server, vdisk, byte))?;
        bench.server.run(&[verb, "snapshot", name, &format!("s{byte}")])?;
    }
    // The first one is slower than the others.
    let mut took_us = u64::MAX;
    for byte in ["s1", "s2", "s1", "s2", "s1"] {
        let begun = Instant::now();
        bench.server.run(&[verb, "rollback", name, byte])?;
        took_us = took_us.min(begun.elapsed().as_micros() as u64);
    }
    let mut kills = Kills::new(5, took_us, 20).with_middle();
    let mut now = 1;
    let finished = |server: &Server| server.log().matches("a rollback that was cut short is complete").count();
    let mut before = finished(&bench.server);
    while kills.go_on() {
        let round = kills.round();
        let wanted = 3 - now;
        let mut call = begin(&bench.server, &[verb, "rollback", name, &format!("s{wanted}")])?;
        kills.wait();
        bench.server.kill9();
        let told = call.wait()?.success();
        bench.server.start()?;
        let found = vdisks.iter().map(|vdisk| byte_of(&bench.server, vdisk)).collect::<Result<Vec<u8>>>()?;
        let is_now = |byte: u8| found.iter().all(|found| *found == byte);
        ensure!(
            is_now(now) || is_now(wanted),
            "round {round}: it is rolled back in part: {found:?}\n{}",
            bench.server.log()
        );
        ensure!(is_now(wanted) || !told, "round {round}: an acknowledged rollback is undone");
        let all = finished(&bench.server);
        if std::mem::replace(&mut before, all) < all {
            kills.found_middle();
        }
        kills.found(is_now(wanted));
        now = if is_now(wanted) { wanted } else { now };
        vdisks.iter().try_for_each(|vdisk| unconnected(&bench.server, vdisk))?;
    }
    println!("  {}", kills.check()?);
    Ok(())
}
