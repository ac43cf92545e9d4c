//! `cargo xtask bench`: drystone and its peers in turn on the same machine; prints a table and writes docs/benchmarks.md.
//!
//! Every job runs A B A B over the servers, several rounds, medians; all vDisks and files have the same size and were
//! filled before. It is no test and gates nothing.

mod beside;
mod client;
mod digests;
mod iscsi;
mod iscsi_jobs;
mod jobs;
mod machine;
mod report;
mod rows;
mod servers;
mod snapshots;
mod tgt;
mod vast;

use crate::process::scratch;
use anyhow::{Result, bail};
use machine::Machine;
use report::Report;
use servers::Servers;
use std::path::PathBuf;
use std::time::{Duration, Instant};

#[derive(clap::Args, Clone)]
pub struct Options {
    /// Short runs, few rounds; prints only.
    #[arg(long)]
    quick: bool,
    /// Only these rows, separated by commas.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only the peers, to try the harness.
    #[arg(long)]
    peers: bool,
    /// Names the rows and runs nothing.
    #[arg(long)]
    list: bool,
    /// Rounds of each job; 3, or 1 with --quick.
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds of each run; 3, or 2 with --quick.
    #[arg(long)]
    seconds: Option<u64>,
    /// Where the data lies; the target folder unless said otherwise.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Memory budget given to drystone. The peers use the page cache as they like.
    #[arg(long, default_value = "8GiB")]
    memory: String,
}

/// What the rows share.
pub struct Settings {
    pub rounds: usize,
    pub run: Duration,
    pub quick: bool,
    /// Size of the vDisk and of the files.
    pub size_bytes: u64,
    pub memory: String,
    pub with_drystone: bool,
    pub dir: PathBuf,
}

pub fn run(options: &Options) -> Result<()> {
    if options.list {
        for (name, what, _) in rows::ROWS {
            println!("{name:<10} {what}");
        }
        return Ok(());
    }
    for name in &options.only {
        if !rows::ROWS.iter().any(|(row, _, _)| row == name) {
            bail!("there is no row {name:?}; `cargo xtask bench --list` names them");
        }
    }
    if !options.peers {
        crate::server::build()?;
    }
    let dir = match &options.dir {
        Some(dir) => dir.join("drystone-bench"),
        None => scratch("bench")?,
    };
    std::fs::create_dir_all(&dir)?;
    let settings = Settings {
        rounds: options.rounds.unwrap_or(if options.quick { 1 } else { 3 }),
        run: Duration::from_secs(options.seconds.unwrap_or(if options.quick { 2 } else { 3 })),
        quick: options.quick,
        size_bytes: 4 << 30,
        memory: options.memory.clone(),
        with_drystone: !options.peers,
        dir: dir.clone(),
    };
    let begin = Instant::now();
    let mut report = Report::new(Machine::describe(&dir)?, &settings);
    let mut servers = Servers::new(&settings)?;
    for (name, what, row) in rows::ROWS {
        if options.only.is_empty() || options.only.iter().any(|only| only == name) {
            eprintln!("{name}: {what}");
            // One row that fails must not cost the others.
            if let Err(error) = row(&settings, &mut servers, &mut report) {
                report.note(format!("{name} failed: {error:#}"));
            }
        }
    }
    drop(servers);
    std::fs::remove_dir_all(&dir)?;
    report.took(begin.elapsed());
    println!("{}", report.markdown());
    if options.quick || options.peers || !options.only.is_empty() {
        return Ok(());
    }
    report.write()
}
