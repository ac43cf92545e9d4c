//! What snapshots and clones cost: made, read at depth, read by many at once, written beside, held back for.
//! Times are of calls of the REST API, one connection each, so that no process is started in them.

use super::Settings;
use super::client::{self, Until, Verb};
use super::jobs::Fio;
use super::report::{Report, Target};
use super::servers::{Name, Servers, fill_export};
use crate::http;
use crate::server::Server;
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::time::{Duration, Instant};

/// What most rows are about: 1 GiB, filled.
const SOURCE: &str = "snap1";
const SOURCE_BYTES: u64 = 1 << 30;
const DEPTH: usize = 1000;
const STORM: usize = 100;
/// In flight on each connection of a storm.
const STORM_DEPTH: usize = 4;
/// Snapshots of a VM, idle and under load.
const SETS: usize = 30;
const HELD: [&str; 4] = ["hold-a", "hold-b", "hold-c", "hold-d"];

/// What the controller is asked.
pub struct Api {
    address: String,
    token: String,
}

impl Api {
    pub fn of(server: &Server) -> Result<Api> {
        Ok(Api { address: server.api.clone(), token: server.token()? })
    }

    /// Milliseconds until it is answered.
    pub fn timed(&self, method: &str, path: &str, body: Option<&str>) -> Result<f64> {
        let start = Instant::now();
        let (status, answer) = http::request(method, &self.address, path, Some(&self.token), body)?;
        ensure!(status < 300, "{method} {path}: {status} {answer}");
        Ok(start.elapsed().as_secs_f64() * 1e3)
    }

    pub fn snapshot(&self, vdisk: &str, name: &str) -> Result<f64> {
        let body = format!("{{\"name\":\"{name}\"}}");
        self.timed("POST", &format!("/api/v1/vdisks/{vdisk}/snapshots"), Some(&body))
    }

    pub fn delete_snapshot(&self, vdisk: &str, name: &str) -> Result<f64> {
        self.timed("DELETE", &format!("/api/v1/vdisks/{vdisk}/snapshots/{name}"), None)
    }

    pub fn delete_vdisk(&self, vdisk: &str) -> Result<f64> {
        self.timed("DELETE", &format!("/api/v1/vdisks/{vdisk}"), None)
    }

    /// `names`: may have a range.
    pub fn clone(&self, vdisk: &str, snapshot: &str, names: &str) -> Result<f64> {
        let body = format!("{{\"names\":[\"{names}\"],\"snapshot\":\"{snapshot}\"}}");
        self.timed("POST", &format!("/api/v1/vdisks/{vdisk}/clones"), Some(&body))
    }
}

pub fn row(settings: &Settings, _: &mut Servers, report: &mut Report) -> Result<()> {
    if !settings.with_drystone {
        return Ok(());
    }
    let server = start(settings, &settings.dir.join("snapshots"))?;
    let api = Api::of(&server)?;
    server.create(SOURCE, &SOURCE_BYTES.to_string())?;
    fill_export(&server.socket, SOURCE)?;
    many(settings, &api, &server, report)?;
    deep(settings, &api, &server, report)?;
    hold(settings, &api, &server, report)
}

pub fn start(settings: &Settings, dir: &Path) -> Result<Server> {
    std::fs::create_dir_all(dir)?;
    let mut server = Server::new(dir)?;
    server.options = vec!["--memory".into(), settings.memory.clone()];
    server.start()?;
    Ok(server)
}

fn many(settings: &Settings, api: &Api, server: &Server, report: &mut Report) -> Result<()> {
    api.snapshot(SOURCE, "s0")?;
    let mut seconds = Vec::new();
    for round in 0..settings.rounds {
        seconds.push(api.clone(SOURCE, "s0", &format!("desk{round}-{{001..500}}"))? / 1e3);
    }
    report.row("500 clones of 1 GiB in one call", "s", &[(Name::Drystone, seconds)], &[Target::Below(2.0)]);
    storm(settings, server, report)
}

/// A hundred clones, of which none was ever read, against one vDisk that is read from the cache.
fn storm(settings: &Settings, server: &Server, report: &mut Report) -> Result<()> {
    let targets = |name: &dyn Fn(usize) -> String| -> Vec<_> {
        (1..=STORM).map(|index| (server.socket.clone(), name(index))).collect()
    };
    let alone = [(server.socket.clone(), SOURCE.to_string())];
    let (one, all) = (targets(&|_| SOURCE.to_string()), targets(&|index| format!("desk0-{index:03}")));
    let read = |targets: &[_], depth, seed| {
        Ok::<_, anyhow::Error>(
            client::run(targets, Verb::Read, depth, Until::Elapsed(settings.run), seed)?.per_second(),
        )
    };
    let cached = || server.metric("drystone_ram_cache_bytes");
    crate::process::output("nbdcopy", &["--", &server.socket.uri(SOURCE), "null:"])?;
    let before = cached()?;
    let (mut rates, mut shares, mut of_one) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..settings.rounds as u64 {
        let single = read(&alone, 32, round)?;
        let same = read(&one, STORM_DEPTH, 10 + round)?;
        let storm = read(&all, STORM_DEPTH, 20 + round)?;
        rates.push(storm);
        shares.push(storm / same);
        of_one.push(storm / single);
    }
    let grown = cached()? / before;
    let label = "boot storm: 100 clones of 1 GiB, each read at random for the first time, 4k, depth 4";
    report.row(label, "IOPS", &[(Name::Drystone, rates)], &[]);
    let label = "the same by one vDisk in the cache, read over as many connections";
    report.row(label, "×", &[(Name::Drystone, shares)], &[Target::Above(0.9)]);
    let label = "the same by one vDisk in the cache, one connection, depth 32";
    report.row(label, "×", &[(Name::Drystone, of_one)], &[Target::Above(0.9)]);
    let label = "cached bytes after 100 clones were read, by those after their source alone was";
    report.row(label, "×", &[(Name::Drystone, vec![grown])], &[Target::Below(1.05)]);
    report
        .note(format!("boot storm: {:.0} MiB in the cache when the source had been read", before / f64::from(1 << 20)));
    Ok(())
}

/// A clone of a clone, a thousand times, each with a block of its own.
fn deep(settings: &Settings, api: &Api, server: &Server, report: &mut Report) -> Result<()> {
    let mut parent = SOURCE.to_string();
    for depth in 1..=DEPTH {
        let child = format!("deep{depth}");
        api.snapshot(&parent, "down")?;
        api.clone(&parent, "down", &child)?;
        let mut client = server.connect(&child)?;
        client.write((depth as u64 % 4096) << 16, &[depth as u8; 4096])?;
        client.disconnect()?;
        parent = child;
    }
    let job = Fio { pattern: "randread", block: "4k", depth: 32 };
    let (mut shares, mut rates) = (Vec::new(), Vec::new());
    // Once each, for the cache.
    for vdisk in [SOURCE, &parent] {
        crate::process::output("nbdcopy", &["--", &server.socket.uri(vdisk), "null:"])?;
    }
    for _ in 0..settings.rounds {
        let above = job.run_on(&server.socket, SOURCE, settings.run)?.operations;
        let below = job.run_on(&server.socket, &parent, settings.run)?.operations;
        rates.push(below);
        shares.push(below / above);
    }
    report.row("4k random read, depth 32, at clone depth 1,000", "IOPS", &[(Name::Drystone, rates)], &[]);
    let label = "the same by depth 0";
    report.row(label, "×", &[(Name::Drystone, shares)], &[Target::Above(0.95)]);
    Ok(())
}

/// For how long the vDisks of a VM hold back writes for a snapshot.
fn hold(settings: &Settings, api: &Api, server: &Server, report: &mut Report) -> Result<()> {
    let parts: Vec<String> = HELD.iter().map(|name| format!("{}=1GiB", name.trim_start_matches("hold-"))).collect();
    let options = parts.iter().flat_map(|part| ["--vdisk", part.as_str()]);
    server.run(&["vm", "create", "hold"].into_iter().chain(options).collect::<Vec<_>>())?;
    for name in HELD {
        fill_export(&server.socket, name)?;
    }
    let (mean, most) = held(server, || sets(api, "idle"))?;
    let label = "writes held back for a snapshot of a VM of 4 vDisks on all shards, idle: mean";
    report.row(label, "ms", &[(Name::Drystone, vec![mean])], &[Target::Below(1.0)]);
    report.row(
        "the same: the longest (upper bound of its bucket)",
        "ms",
        &[(Name::Drystone, vec![most])],
        &[Target::Below(1.0)],
    );
    let targets: Vec<_> = HELD.iter().map(|name| (server.socket.clone(), name.to_string())).collect();
    let time = settings.run.max(Duration::from_secs(6));
    let (mean, most) = held(server, || {
        std::thread::scope(|scope| {
            let load = scope.spawn(|| client::run(&targets, Verb::Write, 16, Until::Elapsed(time), 3));
            sets(api, "busy")?;
            load.join().expect("it does not panic").map(drop)
        })
    })?;
    report.row(
        "the same under random writes to all four, depth 16 each: mean",
        "ms",
        &[(Name::Drystone, vec![mean])],
        &[],
    );
    report.row("the same: the longest (upper bound of its bucket)", "ms", &[(Name::Drystone, vec![most])], &[]);
    Ok(())
}

fn sets(api: &Api, prefix: &str) -> Result<()> {
    for number in 0..SETS {
        let body = format!("{{\"name\":\"{prefix}{number}\"}}");
        api.timed("POST", "/api/v1/vms/hold/snapshots", Some(&body))?;
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Mean and bound of the longest, milliseconds, of what was held during `run`.
fn held(server: &Server, run: impl FnOnce() -> Result<()>) -> Result<(f64, f64)> {
    const NAME: &str = "drystone_snapshot_hold_seconds";
    let look = || -> Result<_> {
        let page = server.metrics()?;
        let one =
            |suffix: &str| http::samples(&page, &format!("{NAME}{suffix}")).first().map_or(0.0, |(_, value)| *value);
        Ok((http::samples(&page, &format!("{NAME}_bucket")), one("_sum"), one("_count")))
    };
    let (buckets_before, sum_before, count_before) = look()?;
    run()?;
    let (buckets, sum, count) = look()?;
    let samples = count - count_before;
    ensure!(samples >= SETS as f64, "{samples} samples of {SETS} snapshots");
    // Cumulative: the first bucket that has them all bounds the longest.
    let all = buckets.iter().zip(&buckets_before).find(|((_, now), (_, before))| now - before >= samples);
    let (label, _) = all.context("a bucket has all")?.0;
    let bound = label.split("le=\"").nth(1).and_then(|rest| rest.split('"').next()).context("a bucket has a bound")?;
    let bound_ms = bound.parse().map_or(f64::INFINITY, |seconds: f64| seconds * 1e3);
    Ok(((sum - sum_before) / samples * 1e3, bound_ms))
}

pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
