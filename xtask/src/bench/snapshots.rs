//! What snapshots and clones cost: made, read at depth, written beside, compared. The controller alone: its peers are itself.
//! Times are of calls of the REST API, one connection each, so that no process is started in them.

use super::Settings;
use super::client::{self, Until, Verb};
use super::jobs::Fio;
use super::report::{Report, Target};
use super::servers::{Name, Servers, fill_export};
use crate::http;
use crate::server::Server;
use anyhow::{Result, ensure};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Of the two vDisks whose sizes are compared.
const SMALL: (&str, u64) = ("snap1", 1 << 30);
const LARGE: (&str, u64) = ("snap16", 16 << 30);
/// Calls that a median is of.
const CALLS: usize = 30;
const DEPTH: usize = 1000;
const CHANGED_BLOCKS: u64 = 1000;

/// What the controller is asked.
struct Api {
    address: String,
    token: String,
}

impl Api {
    fn of(server: &Server) -> Result<Api> {
        Ok(Api { address: server.api.clone(), token: server.token()? })
    }

    /// Milliseconds until it is answered.
    fn timed(&self, method: &str, path: &str, body: Option<&str>) -> Result<f64> {
        let start = Instant::now();
        let (status, answer) = http::request(method, &self.address, path, Some(&self.token), body)?;
        ensure!(status < 300, "{method} {path}: {status} {answer}");
        Ok(start.elapsed().as_secs_f64() * 1e3)
    }

    fn snapshot(&self, vdisk: &str, name: &str) -> Result<f64> {
        let body = format!("{{\"name\":\"{name}\"}}");
        self.timed("POST", &format!("/api/v1/vdisks/{vdisk}/snapshots"), Some(&body))
    }

    fn delete_snapshot(&self, vdisk: &str, name: &str) -> Result<f64> {
        self.timed("DELETE", &format!("/api/v1/vdisks/{vdisk}/snapshots/{name}"), None)
    }

    /// `names`: may have a range.
    fn clone(&self, vdisk: &str, snapshot: &str, names: &str) -> Result<f64> {
        let body = format!("{{\"names\":[\"{names}\"],\"snapshot\":\"{snapshot}\"}}");
        self.timed("POST", &format!("/api/v1/vdisks/{vdisk}/clones"), Some(&body))
    }
}

pub fn row(settings: &Settings, _: &mut Servers, report: &mut Report) -> Result<()> {
    if !settings.with_drystone {
        return Ok(());
    }
    let dir = settings.dir.join("snapshots");
    std::fs::create_dir_all(&dir)?;
    let mut server = Server::new(&dir)?;
    server.options = vec!["--memory".into(), settings.memory.clone()];
    server.start()?;
    let api = Api::of(&server)?;
    for (name, size) in [SMALL, LARGE] {
        server.create(name, &size.to_string())?;
        fill_export(&server.socket, name)?;
    }
    make(&api, report)?;
    many(settings, &api, &server, report)?;
    deep(settings, &api, &server, report)?;
    beside(settings, &api, &server, report)?;
    differences(&api, &server, report)
}

/// How long a snapshot and a clone take, of a small vDisk and of a large one in turn.
fn make(api: &Api, report: &mut Report) -> Result<()> {
    let mut times = [[Vec::new(), Vec::new()], [Vec::new(), Vec::new()]];
    for call in 0..CALLS {
        for (of, (vdisk, _)) in [SMALL, LARGE].into_iter().enumerate() {
            let (snapshot, clone) = (format!("s{call}"), format!("{vdisk}-c{call}"));
            times[of][0].push(api.snapshot(vdisk, &snapshot)?);
            times[of][1].push(api.clone(vdisk, &snapshot, &clone)?);
        }
    }
    let [small, large] = times;
    for ((what, small), large) in ["snapshot", "clone"].into_iter().zip(small).zip(large) {
        let (of_small, of_large) = (median(&small), median(&large));
        report.row(
            &format!("{what} of 1 GiB, one call, its sync included"),
            "ms",
            &[(Name::Drystone, small)],
            &[Target::Below(5.0)],
        );
        report.row(&format!("{what} of 16 GiB"), "ms", &[(Name::Drystone, large)], &[Target::Below(5.0)]);
        let ratio = vec![of_large / of_small];
        report.row(&format!("{what}: 16 GiB by 1 GiB"), "×", &[(Name::Drystone, ratio)], &[Target::Below(1.5)]);
    }
    Ok(())
}

fn many(settings: &Settings, api: &Api, server: &Server, report: &mut Report) -> Result<()> {
    let mut seconds = Vec::new();
    for round in 0..settings.rounds {
        seconds.push(api.clone(SMALL.0, "s0", &format!("desk{round}-{{001..500}}"))? / 1e3);
    }
    report.row("500 clones in one call", "s", &[(Name::Drystone, seconds)], &[Target::Below(2.0)]);
    // All of them read the same blocks of one cache.
    let job = Fio { pattern: "randread", block: "4k", depth: 32 };
    let mut shares = Vec::new();
    for round in 0..settings.rounds {
        let first = job.run_on(&server.socket, SMALL.0, settings.run)?.operations;
        let clone = job.run_on(&server.socket, &format!("desk{round}-250"), settings.run)?.operations;
        shares.push(clone / first);
    }
    report.row(
        "4k random read of a clone that was never read, by its source's",
        "×",
        &[(Name::Drystone, shares)],
        &[Target::Above(0.9)],
    );
    Ok(())
}

/// A clone of a clone, a thousand times, each with a block of its own.
fn deep(settings: &Settings, api: &Api, server: &Server, report: &mut Report) -> Result<()> {
    let mut parent = SMALL.0.to_string();
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
    let mut shares = Vec::new();
    for _ in 0..settings.rounds {
        let above = job.run_on(&server.socket, SMALL.0, settings.run)?.operations;
        let below = job.run_on(&server.socket, &parent, settings.run)?.operations;
        shares.push(below / above);
    }
    report.row(
        "4k random read, depth 32, at clone depth 1,000 by depth 0",
        "×",
        &[(Name::Drystone, shares)],
        &[Target::Above(0.95)],
    );
    Ok(())
}

/// Writing while a snapshot is taken every second, and without.
fn beside(settings: &Settings, api: &Api, server: &Server, report: &mut Report) -> Result<()> {
    server.create("beside", &settings.size_bytes.to_string())?;
    fill_export(&server.socket, "beside")?;
    let target = [(server.socket.clone(), "beside".to_string())];
    let (mut shares, time) = (Vec::new(), settings.run * 2);
    for round in 0..settings.rounds {
        let without = client::run(&target, Verb::Write, 32, Until::Elapsed(time), round as u64)?.per_second();
        let over = AtomicBool::new(false);
        let with = std::thread::scope(|scope| {
            let taking = scope.spawn(|| -> Result<u32> {
                let mut taken = 0;
                while !over.load(Ordering::Relaxed) {
                    api.snapshot("beside", &format!("r{round}-{taken}"))?;
                    taken += 1;
                    std::thread::sleep(Duration::from_secs(1));
                }
                Ok(taken)
            });
            let with = client::run(&target, Verb::Write, 32, Until::Elapsed(time), 100 + round as u64);
            over.store(true, Ordering::Relaxed);
            let taken = taking.join().expect("it does not panic")?;
            ensure!(u64::from(taken) >= time.as_secs() / 2, "only {taken} snapshots were taken");
            for number in 0..taken {
                api.delete_snapshot("beside", &format!("r{round}-{number}"))?;
            }
            with
        })?;
        shares.push(with.per_second() / without);
    }
    report.row(
        "4k random write, depth 32, a snapshot every second, by without",
        "×",
        &[(Name::Drystone, shares)],
        &[Target::Above(0.9)],
    );
    Ok(())
}

/// Of two snapshots of the large vDisk between which some blocks were written; the pages are in the cache after the first.
fn differences(api: &Api, server: &Server, report: &mut Report) -> Result<()> {
    api.snapshot(LARGE.0, "before")?;
    let target = [(server.socket.clone(), LARGE.0.to_string())];
    client::run(&target, Verb::Write, 8, Until::Operations(CHANGED_BLOCKS), 7)?;
    api.snapshot(LARGE.0, "after")?;
    let path = format!("/api/v1/vdisks/{}/changes?from=before&to=after&limit=10000", LARGE.0);
    api.timed("GET", &path, None)?;
    let mut times = Vec::new();
    for _ in 0..CALLS {
        times.push(api.timed("GET", &path, None)?);
    }
    report.row(
        "difference of two snapshots of 16 GiB, 1,000 blocks, pages cached",
        "ms",
        &[(Name::Drystone, times)],
        &[Target::Below(100.0)],
    );
    Ok(())
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
