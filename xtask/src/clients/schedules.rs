//! Schedules as a user meets them: snapshots every second, and what a `kill -9`, a failure and the loss of the metadata store
//! leave of them.

use super::groups::{names, texts};
use super::{Bench, Check};
use crate::process::wait_until;
use crate::server::Server;
use anyhow::{Context, Result, ensure};
use base::utc;
use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub const CHECKS: &[(&str, Check)] = &[
    ("schedules", schedules),
    ("schedules of VMs and groups", of_vms),
    ("schedules over kill -9", killed),
    ("schedules that fail", failing),
    ("schedules over the loss of the metadata store", store_lost),
];

const LIMIT: Duration = Duration::from_secs(30);

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_secs()
}

fn taken(server: &Server, schedule: &str) -> Result<Vec<String>> {
    Ok(texts(&server.json(&["schedule", "show", schedule])?["snapshots"]))
}

fn until_taken(server: &Server, schedule: &str, wanted: impl Fn(&[String]) -> bool) -> Result<Vec<String>> {
    wait_until("snapshots of a schedule", LIMIT, || Ok(wanted(&taken(server, schedule)?)))?;
    taken(server, schedule)
}

fn schedules(bench: &mut Bench) -> Result<()> {
    let server = &bench.server;
    server.create("timed", "64MiB")?;
    server.run(&["vdisk", "snapshot", "timed", "mine"])?;
    for (line, why) in [
        (&["x", "--vdisk", "none", "--every", "1h", "--keep", "1"][..], "no vDisk \"none\""),
        (&["x", "--vdisk", "timed", "--every", "1h", "--keep", "0"], "at least 1"),
        (&["x", "--vdisk", "timed", "--every", "1h", "--keep", "600"], "at most 512"),
        (&["x", "--vdisk", "timed", "--every", "3000w", "--keep", "1"], "366 days"),
        (&["x", "--vdisk", "timed"], "--hourly"),
        (&["../x", "--vdisk", "timed", "--hourly", "1"], "cannot be the name"),
    ] {
        server.refuses(&[&["schedule", "create"], line].concat(), &[why])?;
    }
    ensure!(names(&server.json(&["schedule", "list"])?).is_empty());
    server.run(&["schedule", "create", "often", "--vdisk", "timed", "--every", "1s", "--keep", "3", "--daily", "2"])?;
    server.refuses(&["schedule", "create", "often", "--vdisk", "timed", "--hourly", "1"], &["already"])?;
    let begun = until_taken(server, "often", |names| !names.is_empty())?;
    let four = until_taken(server, "often", |names| names.len() >= 4)?;
    let now = until_taken(server, "often", |names| !names.contains(&four[1]))?;
    ensure!(now.len() <= 5 && now.is_sorted(), "{now:?}");
    ensure!(now[0] == begun[0], "the first of the day is kept: {now:?}, it began with {begun:?}");
    // What somebody else took stays.
    let all = names(&server.json(&["vdisk", "snapshots", "timed"])?);
    ensure!(all.contains(&"mine".to_string()), "{all:?}");
    let shown = server.json(&["schedule", "show", "often"])?;
    ensure!(shown["state"]["kind"] == "good" || shown["state"]["kind"] == "due", "{shown}");
    // One that is read, and one that a clone was made of.
    let newest = now.last().context("one at least")?;
    server.run(&["vdisk", "clone", &format!("timed@{newest}"), "copy"])?;
    let metrics = server.metrics()?;
    ensure!(metrics.contains("drystone_schedule_last_success_timestamp_seconds{schedule=\"often\"} 1"), "{metrics}");
    server.run(&["vdisk", "rename", "timed", "renamed"])?;
    until_taken(server, "often", |later| later.len() >= 3 && !later.contains(newest))?;
    ensure!(server.json(&["schedule", "show", "often"])?["target"]["name"] == "renamed");
    server.json(&["vdisk", "show", "copy"])?;
    server.run(&["schedule", "pause", "often"])?;
    let paused = taken(server, "often")?;
    std::thread::sleep(Duration::from_millis(2200));
    ensure!(taken(server, "often")? == paused, "a schedule that is paused goes on");
    server.run(&["schedule", "delete", "often"])?;
    let left = names(&server.json(&["vdisk", "snapshots", "renamed"])?);
    ensure!(paused.iter().all(|name| left.contains(name)), "a deleted schedule takes its snapshots along");
    Ok(())
}

fn of_vms(bench: &mut Bench) -> Result<()> {
    let server = &bench.server;
    for vm in ["a", "b"] {
        server.run(&["vm", "create", vm, "--vdisk", "root=64MiB", "--vdisk", "data=64MiB"])?;
    }
    server.run(&["group", "create", "ab", "--vm", "a", "--vm", "b"])?;
    server.run(&["schedule", "create", "vm", "--vm", "a", "--every", "1s", "--keep", "2"])?;
    server.run(&["schedule", "create", "group", "--group", "ab", "--every", "1s", "--keep", "2"])?;
    let first = until_taken(server, "group", |names| !names.is_empty())?;
    until_taken(server, "vm", |names| names.len() >= 2)?;
    until_taken(server, "group", |names| names.len() >= 2 && !names.contains(&first[0]))?;
    server.run(&["schedule", "pause", "vm"])?;
    server.run(&["schedule", "pause", "group"])?;
    let (of_vm, of_group) = (taken(server, "vm")?, taken(server, "group")?);
    let expected: BTreeSet<&String> = of_vm.iter().chain(&of_group).collect();
    let of_a = names(&server.json(&["vm", "snapshots", "a"])?);
    ensure!(of_a.iter().collect::<BTreeSet<_>>() == expected, "{of_a:?}, scheduled {expected:?}");
    ensure!(names(&server.json(&["vm", "snapshots", "b"])?) == of_group);
    // Deleted under it: said, and not green.
    server.run(&["schedule", "pause", "group", "off"])?;
    server.run(&["group", "delete", "ab"])?;
    let shown = server.json(&["schedule", "show", "group"])?;
    ensure!(shown["state"]["kind"] == "without_target", "{shown}");
    ensure!(server.json(&["status"])?["health"]["kind"] == "degraded");
    server.run(&["schedule", "delete", "group"])?;
    ensure!(server.json(&["status"])?["health"]["kind"] == "healthy");
    server.run(&["schedule", "delete", "vm"]).map(drop)
}

/// Three times in the middle of it: each snapshot that is there is known, and those that were missed are made up for once.
fn killed(bench: &mut Bench) -> Result<()> {
    bench.server.create("killed", "64MiB")?;
    bench.server.run(&["vdisk", "snapshot", "killed", "mine"])?;
    bench.server.run(&["schedule", "create", "k", "--vdisk", "killed", "--every", "1s", "--keep", "4"])?;
    until_taken(&bench.server, "k", |names| !names.is_empty())?;
    for round in 0..3u64 {
        std::thread::sleep(Duration::from_millis(900 + 37 * round));
        let before = taken(&bench.server, "k")?;
        bench.server.kill9();
        let killed = unix_seconds();
        std::thread::sleep(Duration::from_millis(2500));
        let begun = unix_seconds();
        bench.server.start()?;
        let newest = before.last().context("one at least")?.clone();
        let named = |second: u64| format!("k-{}", utc::format_ns(second * 1_000_000_000).replace(':', "-"));
        let is_of_now = |name: &String| *name >= named(begun);
        let after = until_taken(&bench.server, "k", |names| names.last().is_some_and(is_of_now))?;
        // None of a second that was missed, and one for each other at most.
        let seconds = (unix_seconds() - begun + 1) as usize;
        let new: Vec<&String> = after.iter().filter(|name| **name > newest).collect();
        let is_right = |name: &&String| name.ends_with('Z') && (is_of_now(name) || **name <= named(killed));
        ensure!(
            new.iter().filter(|name| is_of_now(name)).count() <= seconds && new.iter().all(is_right),
            "{new:?} within {seconds} s from {} on, killed at {}, after {before:?}",
            named(begun),
            named(killed)
        );
    }
    bench.server.run(&["schedule", "pause", "k"])?;
    let known = taken(&bench.server, "k")?;
    let all = names(&bench.server.json(&["vdisk", "snapshots", "killed"])?);
    let mut expected = known.clone();
    expected.push("mine".to_string());
    expected.sort();
    let mut found = all.clone();
    found.sort();
    ensure!(found == expected, "there are {all:?}, of which the schedule knows {known:?}");
    bench.server.run(&["schedule", "delete", "k"]).map(drop)
}

/// A vDisk with as many snapshots as there may be takes no more: it is said, and nothing is deleted until there is room.
fn failing(bench: &mut Bench) -> Result<()> {
    let server = &bench.server;
    server.run(&["vm", "create", "empty", "--vdisk", "root=64MiB"])?;
    server.run(&["schedule", "create", "f", "--vm", "empty", "--every", "1s", "--keep", "1"])?;
    until_taken(server, "f", |names| !names.is_empty())?;
    server.run(&["vm", "detach", "empty", "root"])?;
    let failing = || Ok(server.json(&["schedule", "show", "f"])?["state"]["kind"] == "failing");
    wait_until("the schedule to fail", LIMIT, failing)?;
    let before = taken(server, "f")?;
    let shown = server.json(&["schedule", "show", "f"])?;
    ensure!(shown["state"]["reason"].as_str().is_some_and(|why| why.contains("has no vDisks")), "{shown}");
    let status = server.json(&["status"])?;
    ensure!(status["health"]["kind"] == "degraded", "{status}");
    ensure!(server.metrics()?.contains("drystone_schedule_state{schedule=\"f\",state=\"failing\"} 1"));
    server.run(&["vm", "attach", "empty", "empty-root"])?;
    let good = until_taken(server, "f", |names| names.last() > before.last())?;
    ensure!(good.len() == 1 || good.contains(&before[0]), "{before:?}, then {good:?}");
    wait_until("it to be healthy", LIMIT, || Ok(server.json(&["status"])?["health"]["kind"] == "healthy"))?;
    server.run(&["schedule", "delete", "f"]).map(drop)
}

/// They are found in the logs of what they take snapshots of; what they took before nobody deletes any more.
fn store_lost(bench: &mut Bench) -> Result<()> {
    let server = &bench.server;
    for vm in ["lost", "found"] {
        server.run(&["vm", "create", vm, "--vdisk", "root=64MiB", "--vdisk", "data=64MiB"])?;
    }
    server.run(&["group", "create", "both", "--vm", "lost", "--vm", "found"])?;
    server.create("alone", "64MiB")?;
    server.run(&["schedule", "create", "of-vdisk", "--vdisk", "alone", "--every", "1h", "--keep", "1"])?;
    server.run(&["schedule", "create", "of-vm", "--vm", "lost", "--hourly", "24", "--daily", "7", "--weekly", "4"])?;
    server.run(&["schedule", "create", "of-group", "--group", "both", "--every", "1d", "--keep", "2"])?;
    server.run(&["schedule", "create", "deleted", "--vdisk", "alone", "--every", "1d", "--keep", "2"])?;
    for name in ["of-vdisk", "of-vm", "of-group", "deleted"] {
        until_taken(server, name, |names| !names.is_empty())?;
    }
    server.run(&["schedule", "pause", "of-group"])?;
    server.run(&["schedule", "delete", "deleted"])?;
    let before = taken(server, "of-vdisk")?;
    let rules = server.json(&["schedule", "show", "of-vm"])?["rules"].clone();
    // Without a clean stop: the logs must say it by then.
    bench.server.kill9();
    std::fs::remove_file(bench.server.data.join("meta.redb"))?;
    let data = bench.server.data.to_string_lossy().into_owned();
    let said = bench.server.run(&["recover", "--data", &data])?;
    ensure!(said.contains("schedules found in the logs of vDisks: of-group, of-vdisk, of-vm;"), "{said}");
    bench.server.start()?;
    let server = &bench.server;
    ensure!(names(&server.json(&["schedule", "list"])?) == ["of-group", "of-vdisk", "of-vm"]);
    let shown = server.json(&["schedule", "show", "of-vm"])?;
    ensure!(shown["rules"] == rules && shown["target"]["name"] == "lost", "{shown}");
    let shown = server.json(&["schedule", "show", "of-group"])?;
    ensure!(shown["state"]["kind"] == "paused" && shown["target"]["name"] == "both", "{shown}");
    // One is kept of its own; those from before are a user's.
    until_taken(server, "of-vdisk", |names| names.len() == 1 && names != before)?;
    let all = names(&server.json(&["vdisk", "snapshots", "alone"])?);
    ensure!(before.iter().all(|name| all.contains(name)), "{before:?} became {all:?}");
    for name in ["of-vdisk", "of-vm", "of-group"] {
        server.run(&["schedule", "delete", name])?;
    }
    Ok(())
}
