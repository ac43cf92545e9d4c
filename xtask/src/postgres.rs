//! PostgreSQL (Debian's package) on two vDisks of a VM, data on one and write-ahead log on the other: while pgbench runs, the
//! VM is snapshotted again and again; every clone of a snapshot must recover, pass `pg_amcheck`, balance its books and hold
//! exactly what one instant between the snapshot's request and its answer held.
//!
//! The vDisks are files of nbdfuse under ext4 on loop devices: a commit is a write and a sync of the file system, and that a
//! flush of NBD. That flushes get through is counted in every run. Needs root (loop devices, mounts).

mod chain;
mod cluster;
mod disks;

use crate::process::{Background, scratch};
use crate::server::Server;
use crate::steps::Done;
use anyhow::{Context, Result, bail, ensure};
use chain::Chain;
use cluster::{Cluster, Mode};
use disks::Disks;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const VM: &str = "db";
/// About 15 MiB each: many more than one checkpoint's worth of pages changes between two snapshots.
const SCALE: &str = "4";
const CLIENTS: &str = "4";
/// Between two snapshots, so that a good part of the pages differ.
const PAUSE: Duration = Duration::from_millis(300);
/// pgbench runs until it is stopped.
const FOREVER_SECONDS: &str = "36000";

#[derive(clap::Args, Clone)]
pub struct Options {
    /// Snapshots of the VM, each of which is cloned and looked at.
    #[arg(long, default_value_t = 6)]
    pub snapshots: u32,
}

pub fn run_alone(options: &Options) -> Result<()> {
    crate::server::build()?;
    println!("{}", run(options)?.said);
    Ok(())
}

pub fn run(options: &Options) -> Result<Done> {
    ensure!(rustix::process::geteuid().is_root(), "loop devices and mounts need root");
    let dir = scratch("postgres")?;
    let mut server = Server::new(&dir)?;
    server.start()?;
    let folder = disks::mount_folder()?;
    server.run(&["vm", "create", VM, "--vdisk", "data=2GiB", "--vdisk", "wal=1GiB"])?;
    let source = Disks::attach(&server, VM, &folder.join("source"), disks::Content::Nothing)?;
    let mut database = Cluster::create(&source.folder, &dir.join("source.log"))?;
    database.start(Mode::Source)?;
    database.program("pgbench", &["-q", "-i", "-s", SCALE])?;
    database.sql("CREATE EXTENSION amcheck; CREATE TABLE chain (n bigint PRIMARY KEY); CHECKPOINT")?;

    let load =
        database.background("pgbench", &["-n", "-c", CLIENTS, "-T", FOREVER_SECONDS], &dir.join("pgbench.log"))?;
    let chain = Chain::start(&database)?;
    let before = (flushes(&server, "wal")?, chain.acknowledged());
    let run = Run { server: &server, database: &database, chain: &chain, folder: &folder, dir: &dir, load };
    let (figures, load) = run.snapshots(options.snapshots)?;
    let (flushed, committed) = (flushes(&server, "wal")? - before.0, chain.acknowledged() - before.1);
    // They are made one by one: no two of them share a flush.
    ensure!(flushed >= committed, "{committed} commits, one behind the other, reached the vDisk as {flushed} flushes");
    drop(load);
    let committed = chain.stop()?;
    database.stop()?;
    source.detach()?;
    server.stop()?;
    std::fs::remove_dir_all(&dir)?;
    std::fs::remove_dir_all(&folder)?;
    Ok(Done::new(
        u64::from(options.snapshots),
        format!(
            "{} group snapshots under pgbench recovered, {} to {} transactions in them; {committed} chained commits, {flushed} flushes; \
             a snapshot took {:.0} ms at most; two that were not taken together were found out",
            options.snapshots, figures.least, figures.most, figures.slowest_ms
        ),
    ))
}

/// Flushes that a vDisk of the VM has answered.
fn flushes(server: &Server, label: &str) -> Result<u64> {
    Ok(server.metric(&format!("drystone_vdisk_operations_total{{vdisk=\"{VM}-{label}\",operation=\"flush\"}}"))? as u64)
}

struct Run<'a> {
    server: &'a Server,
    database: &'a Cluster,
    chain: &'a Chain,
    folder: &'a Path,
    dir: &'a Path,
    load: Background,
}

/// What was seen over all clones: transactions of pgbench, and how long a snapshot took.
struct Figures {
    least: u64,
    most: u64,
    slowest_ms: f64,
}

/// What a clone must have: each commit that was acknowledged before its snapshot was asked for, and none that was begun after
/// it was answered.
struct Bounds {
    acknowledged_before: u64,
    begun_before_the_answer: u64,
}

impl Run<'_> {
    /// Returns the load, which ran all the time.
    fn snapshots(mut self, count: u32) -> Result<(Figures, Background)> {
        let mut figures = Figures { least: u64::MAX, most: 0, slowest_ms: 0.0 };
        for number in 1..=count {
            std::thread::sleep(PAUSE);
            let acknowledged_before = self.chain.acknowledged();
            let begun = Instant::now();
            self.server.run(&["vm", "snapshot", VM, &format!("s{number}")])?;
            let took_ms = begun.elapsed().as_secs_f64() * 1e3;
            let bounds = Bounds { acknowledged_before, begun_before_the_answer: self.chain.begun() };
            let clone = format!("c{number}");
            self.server.run(&["vm", "clone", &format!("{VM}@s{number}"), &clone])?;
            let transactions = self.examine(&clone, Some(&bounds)).with_context(|| format!("snapshot {number}"))?;
            figures.least = figures.least.min(transactions);
            figures.most = figures.most.max(transactions);
            figures.slowest_ms = figures.slowest_ms.max(took_ms);
            self.server.run(&["vm", "delete", &clone])?;
            // Half of them stay, so that there are ever more.
            if number % 2 == 0 {
                self.server.run(&["vm", "snapshot-delete", VM, &format!("s{number}")])?;
            }
            ensure!(self.load.ended().is_none(), "pgbench ended by itself:\n{}", self.load.log());
        }
        self.must_notice_two_instants()?;
        Ok((figures, self.load))
    }

    /// The check is checked: data of a later instant than the log, with a checkpoint between, which the log then does not have.
    fn must_notice_two_instants(&self) -> Result<()> {
        self.server.run(&["vdisk", "snapshot", &format!("{VM}-wal"), "apart"])?;
        self.database.sql("CHECKPOINT")?;
        self.server.run(&["vdisk", "snapshot", &format!("{VM}-data"), "apart"])?;
        for label in ["data", "wal"] {
            self.server.run(&["vdisk", "clone", &format!("{VM}-{label}@apart"), &format!("apart-{label}")])?;
        }
        match self.examine("apart", None) {
            Ok(_) => bail!("data and log of two instants were found to be in order"),
            Err(error) if format!("{error:#}").contains("could not locate a valid checkpoint record") => Ok(()),
            Err(error) => Err(error.context("expected PostgreSQL to miss its checkpoint")),
        }
    }

    /// Starts PostgreSQL on a clone and looks at everything; transactions of pgbench that it holds.
    fn examine(&self, clone: &str, bounds: Option<&Bounds>) -> Result<u64> {
        let disks = Disks::attach(self.server, clone, &self.folder.join(clone), disks::Content::Cluster)?;
        let log: PathBuf = self.dir.join(format!("{clone}.log"));
        let mut cluster = Cluster::existing(&disks.folder, &log)?;
        cluster.start(Mode::Clone)?;
        let said = cluster.log();
        ensure!(said.contains("automatic recovery in progress"), "it was not the disk of a running database:\n{said}");
        cluster.program("pg_amcheck", &["--heapallindexed", "--parent-check", "--rootdescend", "-j", "2"])?;
        let sums = cluster.sql(
            "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers), \
             (SELECT sum(bbalance) FROM pgbench_branches), (SELECT coalesce(sum(delta), 0) FROM pgbench_history)",
        )?;
        let parts: Vec<&str> = sums.trim().split('|').collect();
        ensure!(parts.len() == 4 && parts.iter().all(|sum| *sum == parts[0]), "the books do not balance: {sums}");
        let number = |query: &str| -> Result<u64> { Ok(cluster.sql(query)?.trim().parse()?) };
        let (commits, last) = (number("SELECT count(*) FROM chain")?, number("SELECT coalesce(max(n), 0) FROM chain")?);
        let transactions = number("SELECT count(*) FROM pgbench_history")?;
        ensure!(commits == last, "{commits} chained commits, of which the last is number {last}");
        if let Some(bounds) = bounds {
            let (least, most) = (bounds.acknowledged_before, bounds.begun_before_the_answer);
            ensure!(last >= least, "commit {least} was acknowledged before the snapshot, which ends with {last}");
            ensure!(
                last <= most,
                "commit {last} is in a snapshot that was answered when {most} was the last one begun"
            );
        }
        cluster.stop()?;
        disks.detach()?;
        Ok(transactions)
    }
}
