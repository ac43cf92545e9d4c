//! Consistency groups as a user meets them: one instant over several VMs, and what the loss of the metadata store leaves.

use super::vms::{kill_rollbacks, kill_snapshots, level, on_two_workers};
use super::{Bench, Check};
use crate::nbd::Client;
use crate::process::wait_until;
use crate::server::Server;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::time::Duration;

pub const CHECKS: &[(&str, Check)] = &[
    ("groups of VMs", groups),
    ("chained writes on two VMs of a group", chained_writes),
    ("kill -9 while snapshots of a group are taken", killed_while_taking),
    ("kill -9 while a group is rolled back", killed_while_rolling_back),
];

const BLOCK: usize = 4096;
const LIMIT: Duration = Duration::from_secs(30);

fn put(server: &Server, export: &str, byte: u8) -> Result<()> {
    let mut client = server.connect(export)?;
    client.write(0, &[byte; BLOCK])?;
    client.flush()?;
    client.disconnect()?;
    let gone = || Ok(server.json(&["vdisk", "show", export])?["connections"] == 0);
    wait_until("the connection to be gone", LIMIT, gone).map(drop)
}

fn first(client: &mut Client) -> Result<u8> {
    let mut bytes = [0; BLOCK];
    client.read(0, &mut bytes)?;
    Ok(bytes[0])
}

fn get(server: &Server, export: &str) -> Result<u8> {
    let mut client = server.connect(export).with_context(|| export.to_string())?;
    let byte = first(&mut client)?;
    client.disconnect()?;
    Ok(byte)
}

pub fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|one| one.as_str().map(str::to_string)).collect()
}

pub fn names(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|one| one["name"].as_str().map(str::to_string)).collect()
}

fn groups(bench: &mut Bench) -> Result<()> {
    let server = &bench.server;
    for vm in ["web", "db", "cron"] {
        server.run(&["vm", "create", vm, "--vdisk", "root=64MiB", "--vdisk", "data=64MiB"])?;
        put(server, &format!("{vm}-root"), 1)?;
    }
    server.refuses(&["group", "create", "shop", "--vm", "web", "--vm", "none"], &["no VM \"none\""])?;
    server.refuses(&["group", "show", "shop"], &["no group \"shop\""])?;
    server.run(&["group", "create", "shop", "--vm", "web", "--vm", "db"])?;
    server.refuses(&["group", "create", "shop", "--vm", "cron"], &["already"])?;
    server.refuses(&["group", "remove", "shop", "cron"], &["not in group"])?;
    server.run(&["group", "add", "shop", "cron"])?;
    server.run(&["group", "snapshot", "shop", "three"])?;
    server.run(&["group", "remove", "shop", "cron"])?;
    server.run(&["group", "snapshot", "shop", "one"])?;
    server.refuses(&["group", "snapshot", "shop", "one"], &["already"])?;
    for vm in ["web", "db", "cron"] {
        put(server, &format!("{vm}-root"), 2)?;
    }
    ensure!(names(&server.json(&["group", "snapshots", "shop"])?) == ["three", "one"]);
    ensure!(names(&server.json(&["vm", "snapshots", "cron"])?) == ["three"]);
    server.refuses(&["vm", "snapshot-delete", "web", "one"], &["drystone group snapshot-delete shop one"])?;
    server.refuses(&["group", "rollback", "shop", "three"], &["other VMs now"])?;
    let client = server.connect("db-data")?;
    server.refuses(&["group", "rollback", "shop", "one"], &["stop the VM first"])?;
    ensure!((get(server, "web-root")?, get(server, "db-root")?) == (2, 2), "a refused rollback did something");
    client.disconnect()?;
    let rolled_back = || Ok(server.run(&["group", "rollback", "shop", "one"]).is_ok());
    wait_until("the rollback of a group", LIMIT, rolled_back)?;
    ensure!((get(server, "web-root")?, get(server, "db-root")?, get(server, "cron-root")?) == (1, 1, 2));
    server.run(&["vm", "clone", "web@one", "web2"])?;
    ensure!(get(server, "web2-root")? == 1);
    // The store is lost.
    bench.server.stop()?;
    std::fs::remove_file(bench.server.data.join("meta.redb"))?;
    let data = bench.server.data.to_string_lossy().into_owned();
    bench.server.run(&["recover", "--data", &data])?;
    bench.server.start()?;
    let server = &bench.server;
    ensure!(texts(&server.json(&["group", "show", "shop"])?["vms"]) == ["db", "web"]);
    let kept = names(&server.json(&["group", "snapshots", "shop"])?);
    ensure!(kept.contains(&"one".to_string()), "the group's snapshots are {kept:?}");
    server.run(&["group", "snapshot-delete", "shop", "one"])?;
    ensure!(!names(&server.json(&["vm", "snapshots", "db"])?).contains(&"one".to_string()), "a part of it stayed");
    server.refuses(&["group", "remove", "shop", "nobody"], &["not in group"])?;
    server.run(&["group", "remove", "shop", "db"])?;
    server.refuses(&["group", "remove", "shop", "web"], &["the last one", "drystone group delete shop"])?;
    server.run(&["group", "delete", "shop"])?;
    ensure!(names(&server.json(&["group", "list"])?).is_empty());
    server.json(&["vm", "show", "web"]).map(drop)
}

/// The second write, on another VM, is issued when the first one has been acknowledged.
fn chained_writes(bench: &mut Bench) -> Result<()> {
    let server = &bench.server;
    level(server, "level-both")?;
    server.run(&["vm", "create", "one", "--vdisk", "a=64MiB"])?;
    server.run(&["vm", "create", "two", "--vdisk", "b=64MiB"])?;
    on_two_workers(server, ["one-a", "two-b"])?;
    server.run(&["group", "create", "both", "--vm", "one", "--vm", "two"])?;
    let (mut ahead, mut behind) = (server.connect("one-a")?, server.connect("two-b")?);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let written = std::thread::scope(|scope| {
        let writer = scope.spawn(|| -> Result<u64> {
            let mut count = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let byte = (count % 251) as u8;
                ahead.write(0, &[byte; BLOCK])?;
                behind.write(0, &[byte; BLOCK])?;
                count += 1;
            }
            Ok(count)
        });
        let taken = (0..10).try_for_each(|at| server.run(&["group", "snapshot", "both", &format!("s{at}")]).map(drop));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let written = writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
        taken.map(|()| written)
    })?;
    ensure!(written > 30, "only {written} writes came between the snapshots");
    for at in 0..10 {
        let (ahead, behind) = (get(server, &format!("one-a@s{at}"))?, get(server, &format!("two-b@s{at}"))?);
        let distance = (u16::from(ahead) + 251 - u16::from(behind)) % 251;
        ensure!(distance <= 1, "s{at} has write {behind} on the second VM, and {ahead} on the first");
    }
    Ok(())
}

fn killed_while_taking(bench: &mut Bench) -> Result<()> {
    level(&bench.server, "level-cut")?;
    bench.server.run(&["vm", "create", "cut1", "--vdisk", "wal=64MiB"])?;
    bench.server.run(&["vm", "create", "cut2", "--vdisk", "data=64MiB"])?;
    bench.server.run(&["group", "create", "cut", "--vm", "cut1", "--vm", "cut2"])?;
    kill_snapshots(bench, ["group", "cut"], ["cut1-wal", "cut2-data"])
}

fn killed_while_rolling_back(bench: &mut Bench) -> Result<()> {
    let mut vdisks = Vec::new();
    for vm in ["roll1", "roll2"] {
        let sizes: Vec<String> = (0..12).map(|index| format!("d{index}=64MiB")).collect();
        let options = sizes.iter().flat_map(|size| ["--vdisk", size.as_str()]);
        bench.server.run(&["vm", "create", vm].into_iter().chain(options).collect::<Vec<_>>())?;
        vdisks.extend((0..12).map(|index| format!("{vm}-d{index}")));
    }
    bench.server.run(&["group", "create", "roll", "--vm", "roll1", "--vm", "roll2"])?;
    kill_rollbacks(bench, ["group", "roll"], &vdisks)
}
