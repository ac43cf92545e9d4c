//! Containers as a user meets them: windows that vDisks have of them, a capacity that is used up, and what `kill -9` and the
//! loss of the metadata store leave of them.

use super::groups::{names, texts};
use super::kills::begin;
use super::{Bench, Check};
use crate::process::wait_until;
use crate::random::Random;
use crate::server::Server;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;

pub const CHECKS: &[(&str, Check)] = &[
    ("containers", containers),
    ("container capacity", capacity),
    ("schedules of containers", schedules),
    ("containers over kill -9", killed),
    ("containers over the loss of the metadata store", store_lost),
];

const LIMIT: Duration = Duration::from_secs(30);
const DAY: u64 = 86_400;

/// Its container, its window in seconds (0: none), and whether that is the container's.
fn seen(server: &Server, vdisk: &str) -> Result<(String, u64, bool)> {
    let info = server.json(&["vdisk", "show", vdisk])?;
    let container = info["container"].as_str().unwrap_or_default().to_string();
    let window = info["rewind"]["window_seconds"].as_u64().unwrap_or(0);
    Ok((container, window, info["rewind_inherited"] == true))
}

#[track_caller]
fn check(server: &Server, vdisk: &str, expect: (&str, u64, bool)) -> Result<()> {
    let found = seen(server, vdisk)?;
    let (container, window, inherited) = expect;
    ensure!(found == (container.to_string(), window, inherited), "{vdisk} is {found:?} instead of {expect:?}");
    Ok(())
}

fn behind(server: &Server, container: &str) -> Result<u64> {
    Ok(server.json(&["container", "show", container])?["vdisks_behind"].as_u64().unwrap_or(u64::MAX))
}

fn containers(bench: &mut Bench) -> Result<()> {
    let server = &bench.server;
    for (line, why) in [
        (&["create", "a b"][..], "the name of a container"),
        (&["create", "x", "--rewind", "5s"], "60 s"),
        (&["create", "x", "--rewind", "inherit"], "in no other one"),
        (&["create", "x", "--comment", "two\nlines"], "one line"),
        (&["create", "default"], "already"),
        (&["show", "none"], "no container \"none\""),
        (&["delete", "default"], "always there"),
        (&["rename", "default", "other"], "keeps its name"),
        (&["set", "default"], "--comment"),
    ] {
        server.refuses(&[&["container"], line].concat(), &[why])?;
    }
    server.refuses(&["vdisk", "create", "x", "--size", "64MiB", "--container", "none"], &["no container"])?;
    ensure!(names(&server.json(&["container", "list"])?) == ["default"]);
    server.run(&["container", "create", "gold", "--rewind", "24h", "--comment", "for the shop"])?;
    server.run(&["vdisk", "create", "one", "--size", "64MiB", "--container", "gold"])?;
    server.run(&["vdisk", "create", "two", "--size", "64MiB", "--container", "gold", "--rewind", "2h"])?;
    server.run(&["vm", "create", "web", "--vdisk", "root=64MiB", "--container", "gold"])?;
    server.create("outside", "64MiB")?;
    for (vdisk, expect) in [
        ("one", ("gold", DAY, true)),
        ("two", ("gold", 7200, false)),
        ("web-root", ("gold", DAY, true)),
        ("outside", ("default", 0, true)),
    ] {
        check(server, vdisk, expect)?;
    }
    ensure!(names(&server.json(&["vdisk", "list", "--container", "gold"])?) == ["one", "two", "web-root"]);
    server.run(&["vdisk", "clone", "one", "copy-{1..20}"])?;
    server.run(&["vm", "clone", "web", "web2"])?;
    check(server, "copy-7", ("gold", DAY, true))?;
    check(server, "web2-root", ("gold", DAY, true))?;
    let shown = server.json(&["container", "set", "gold", "--rewind", "1h", "--rewind-limit", "1GiB"])?;
    ensure!(shown["vdisks"] == 24 && shown["vdisks_behind"] == 0, "{shown}");
    ensure!(shown["comment"] == "for the shop" && shown["rewind"]["limit_bytes"] == 1 << 30, "{shown}");
    check(server, "copy-7", ("gold", 3600, true))?;
    check(server, "two", ("gold", 7200, false))?;
    server.run(&["vdisk", "set", "two", "--rewind", "inherit"])?;
    check(server, "two", ("gold", 3600, true))?;
    // A connected one too, and its past goes with the window.
    let client = server.connect("one")?;
    server.run(&["vdisk", "move", "one", "--container", "default"])?;
    check(server, "one", ("default", 0, true))?;
    client.disconnect()?;
    server.run(&["container", "rename", "gold", "silver"])?;
    check(server, "two", ("silver", 3600, true))?;
    server.refuses(&["container", "delete", "silver"], &["vDisks are in container"])?;
    server.run(&["container", "set", "silver", "--rewind", "off"])?;
    check(server, "two", ("silver", 0, true))?;
    // For all that is in no other one.
    server.run(&["container", "set", "default", "--rewind", "3h"])?;
    check(server, "outside", ("default", 10_800, true))?;
    server.run(&["container", "set", "default", "--rewind", "off"])?;
    for vm in ["web", "web2"] {
        server.run(&["vm", "delete", vm])?;
    }
    for vdisk in names(&server.json(&["vdisk", "list", "--container", "silver"])?) {
        server.run(&["vdisk", "delete", &vdisk])?;
    }
    server.run(&["container", "delete", "silver"]).map(drop)
}

/// What is there goes on being written; nothing is added.
fn capacity(bench: &mut Bench) -> Result<()> {
    let server = &bench.server;
    server.run(&["container", "create", "small", "--capacity", "64KiB"])?;
    server.run(&["vdisk", "create", "full", "--size", "1MiB", "--container", "small"])?;
    let mut client = server.connect("full")?;
    client.write(0, &[1; 64 << 10])?;
    client.flush()?;
    let shown = server.json(&["container", "show", "small"])?;
    ensure!(shown["used_bytes"] == 64 << 10, "{shown}");
    let image = bench.file("small.raw");
    std::fs::write(&image, vec![7; 4096])?;
    let image = image.to_string_lossy().into_owned();
    for line in [
        &["vdisk", "create", "more", "--size", "1MiB", "--container", "small"][..],
        &["vm", "create", "more", "--vdisk", "root=1MiB", "--container", "small"],
        &["vdisk", "resize", "full", "--size", "2MiB"],
        &["vdisk", "clone", "full", "more"],
        &["vdisk", "import", "full", &image],
        &["vdisk", "import", "more", &image, "--container", "small"],
        &["vdisk", "move", "spare", "--container", "small"],
    ] {
        if line[1] == "move" {
            server.create("spare", "1MiB")?;
        }
        server.refuses(line, &["capacity of 64 KiB", "--capacity"])?;
    }
    client.write(64 << 10, &[2; 4096])?;
    client.disconnect()?;
    server.run(&["container", "set", "small", "--capacity", "1MiB"])?;
    server.run(&["vdisk", "clone", "full", "more"])?;
    server.run(&["container", "set", "small", "--capacity", "0"]).map(drop)
}

/// Each member is taken by itself, over `kill -9` and the loss of the metadata store.
fn schedules(bench: &mut Bench) -> Result<()> {
    let server = &bench.server;
    server.run(&["container", "create", "timed"])?;
    server.run(&["vdisk", "create", "single", "--size", "64MiB", "--container", "timed"])?;
    server.run(&["vm", "create", "whole", "--vdisk", "root=64MiB", "--vdisk", "data=64MiB", "--container", "timed"])?;
    server.refuses(&["schedule", "create", "x", "--container", "none", "--hourly", "1"], &["no container \"none\""])?;
    server.run(&["schedule", "create", "often", "--container", "timed", "--every", "1s", "--keep", "2"])?;
    let taken = |server: &Server, member: &str| -> Result<Vec<String>> {
        let all = texts(&server.json(&["schedule", "show", "often"])?["snapshots"]);
        let of_it = all.iter().filter_map(|one| one.strip_prefix(member)?.strip_prefix('@').map(str::to_string));
        Ok(of_it.collect())
    };
    let goes_on = |server: &Server, member: &str| -> Result<()> {
        let before = taken(server, member)?.last().cloned();
        let newer = || Ok(taken(server, member)?.last().cloned() > before);
        wait_until(&format!("a snapshot of {member}"), LIMIT, newer).map(drop)
    };
    for member in ["single", "whole"] {
        goes_on(server, member)?;
        let three = || Ok(taken(server, member)?.len() >= 2);
        wait_until("snapshots that are kept", LIMIT, three)?;
    }
    bench.server.kill9();
    bench.server.start()?;
    let server = &bench.server;
    for member in ["single", "whole"] {
        goes_on(server, member)?;
    }
    server.run(&["schedule", "pause", "often"])?;
    let known = |list: Vec<String>| list.into_iter().collect::<BTreeSet<String>>();
    let (single, whole) = (known(taken(server, "single")?), known(taken(server, "whole")?));
    ensure!((2..=3).contains(&single.len()) && (2..=3).contains(&whole.len()), "{single:?} {whole:?}");
    ensure!(known(names(&server.json(&["vdisk", "snapshots", "single"])?)) == single, "{single:?} are known");
    ensure!(known(names(&server.json(&["vm", "snapshots", "whole"])?)) == whole, "{whole:?} are known");
    bench.server.kill9();
    std::fs::remove_file(bench.server.data.join("meta.redb"))?;
    let data = bench.server.data.to_string_lossy().into_owned();
    bench.server.run(&["recover", "--data", &data])?;
    bench.server.start()?;
    let server = &bench.server;
    let shown = server.json(&["schedule", "show", "often"])?;
    ensure!(shown["state"]["kind"] == "paused" && shown["target"]["name"] == "timed", "{shown}");
    server.run(&["schedule", "pause", "often", "off"])?;
    goes_on(server, "single")?;
    let all = known(names(&server.json(&["vdisk", "snapshots", "single"])?));
    ensure!(single.is_subset(&all), "of {single:?} there are {all:?}");
    server.run(&["schedule", "delete", "often"])?;
    ensure!(names(&server.json(&["schedule", "list"])?).is_empty());
    Ok(())
}

/// In the middle of a change that many vDisks have to follow, and of clones: all of them get there, and those that are made are
/// in the container, all or none.
fn killed(bench: &mut Bench) -> Result<()> {
    const CLONES: usize = 50;
    bench.server.run(&["container", "create", "many", "--rewind", "2h"])?;
    bench.server.run(&["vdisk", "create", "first", "--size", "64MiB", "--container", "many"])?;
    bench.server.run(&["vdisk", "clone", "first", "many-{1..100}"])?;
    let (mut random, mut window, mut count) = (Random::new(6), 7200, 101);
    let (mut changed, mut stayed, mut singles) = (0, 0, 0);
    for round in 0..10 {
        let prefix = format!("r{round}-");
        let mut set = begin(&bench.server, &["container", "set", "many", "--rewind", &format!("{}h", 3 + round)])?;
        let clones = format!("{prefix}{{1..{CLONES}}}");
        let mut clone = begin(&bench.server, &["vdisk", "clone", "first", &clones])?;
        let single = format!("single{round}");
        let line = ["vdisk", "create", &single, "--size", "64MiB", "--container", "many"];
        let mut create = begin(&bench.server, &line)?;
        std::thread::sleep(Duration::from_micros(random.below(120_000)));
        bench.server.kill9();
        let (is_set, are_made, is_created) = (set.wait()?.success(), clone.wait()?.success(), create.wait()?.success());
        bench.server.start()?;
        let server = &bench.server;
        wait_until("all vDisks to follow", LIMIT, || Ok(behind(server, "many")? == 0))
            .with_context(|| format!("round {round}:\n{}", server.log()))?;
        let now = server.json(&["container", "show", "many"])?["rewind"]["window_seconds"].as_u64().unwrap_or(0);
        let wanted = (3 + round) * 3600;
        ensure!(now == wanted || (now == window && !is_set), "round {round}: {now} s instead of {wanted} s");
        (changed, stayed) = if now == wanted { (changed + 1, stayed) } else { (changed, stayed + 1) };
        window = now;
        let all = server.json(&["vdisk", "list"])?;
        let all = all.as_array().into_iter().flatten();
        let made = |info: &&Value| info["name"].as_str().is_some_and(|name| name.starts_with(&prefix));
        let made = all.clone().filter(made).count();
        ensure!(made == CLONES || (made == 0 && !are_made), "round {round}: {made} of {CLONES} clones are there");
        let is_there = all.clone().any(|info| info["name"] == *single);
        ensure!(is_there || !is_created, "round {round}: {single} is lost");
        singles += u64::from(is_there);
        count += made + usize::from(is_there);
        for info in all.filter(|info| info["container"] == "many") {
            let found = info["rewind"]["window_seconds"].as_u64();
            ensure!(found == Some(window) && info["rewind_inherited"] == true, "round {round}: {info}");
        }
        let shown = server.json(&["container", "show", "many"])?;
        ensure!(shown["vdisks"] == count, "round {round}: a clone is elsewhere: {shown}");
        ensure!(server.json(&["status"])?["health"]["kind"] == "healthy");
    }
    ensure!(changed > 0 && count > 102, "no call got as far as its end: {changed} changes, {count} vDisks");
    println!(
        "  the window was changed {changed} times, stayed {stayed} times; {singles} single ones; {count} vDisks in all"
    );
    Ok(())
}

/// They are found in the logs of their vDisks.
fn store_lost(bench: &mut Bench) -> Result<()> {
    let server = &bench.server;
    server.run(&["container", "create", "kept", "--rewind", "6h", "--capacity", "1TiB", "--comment", "kept"])?;
    server.run(&["container", "create", "empty"])?;
    server.run(&["vdisk", "create", "k1", "--size", "64MiB", "--container", "kept"])?;
    server.run(&["vdisk", "clone", "k1", "k2"])?;
    server.run(&["vdisk", "set", "k2", "--rewind", "1h"])?;
    server.create("k3", "64MiB")?;
    server.run(&["container", "set", "kept", "--rewind", "7h"])?;
    server.run(&["container", "rename", "kept", "other"])?;
    // Without a clean stop: the logs must say it by then.
    bench.server.kill9();
    std::fs::remove_file(bench.server.data.join("meta.redb"))?;
    let data = bench.server.data.to_string_lossy().into_owned();
    let said = bench.server.run(&["recover", "--data", &data])?;
    ensure!(said.contains("containers found in the logs of their vDisks:") && said.contains("other"), "{said}");
    bench.server.start()?;
    let server = &bench.server;
    let shown = server.json(&["container", "show", "other"])?;
    ensure!(shown["capacity_bytes"] == 1u64 << 40 && shown["comment"] == "kept" && shown["vdisks"] == 2, "{shown}");
    server.refuses(&["container", "show", "empty"], &["no container"])?;
    wait_until("windows to be known", LIMIT, || Ok(behind(server, "other")? == 0))?;
    check(server, "k1", ("other", 25_200, true))?;
    check(server, "k2", ("other", 3600, false))?;
    check(server, "k3", ("default", 0, true))?;
    ensure!(server.json(&["status"])?["health"]["kind"] == "healthy");
    for vdisk in ["k1", "k2"] {
        server.run(&["vdisk", "delete", vdisk])?;
    }
    server.run(&["container", "delete", "other"]).map(drop)
}
