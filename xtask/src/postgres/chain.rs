//! A client that commits 1, 2, 3, ..., each when the one before was acknowledged, and says how far it is.

use super::cluster::Cluster;
use anyhow::{Context, Result, anyhow, ensure};
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

pub struct Chain {
    progress: Arc<Progress>,
    thread: JoinHandle<Result<()>>,
}

#[derive(Default)]
struct Progress {
    begun: AtomicU64,
    acknowledged: AtomicU64,
    over: AtomicBool,
}

impl Chain {
    pub fn start(cluster: &Cluster) -> Result<Chain> {
        let mut psql = cluster.psql();
        psql.stdin(Stdio::piped()).stdout(Stdio::piped());
        let progress = Arc::new(Progress::default());
        let theirs = progress.clone();
        let thread = std::thread::spawn(move || {
            // Here, since what is bound ends with the thread that started it.
            let mut psql = psql.spawn().context("start psql")?;
            let mut input = psql.stdin.take().expect("piped above");
            let mut output = BufReader::new(psql.stdout.take().expect("piped above")).lines();
            let mut number = 0;
            while !theirs.over.load(Ordering::SeqCst) {
                number += 1;
                theirs.begun.store(number, Ordering::SeqCst);
                // Of a statement by itself psql prints what came back when it is committed.
                writeln!(input, "INSERT INTO chain VALUES ({number}) RETURNING n;")?;
                let answer = output.next().context("psql ended by itself")??;
                ensure!(answer == number.to_string(), "commit {number} was answered with {answer:?}");
                theirs.acknowledged.store(number, Ordering::SeqCst);
            }
            drop(input);
            ensure!(psql.wait()?.success(), "psql failed");
            Ok(())
        });
        Ok(Chain { progress, thread })
    }

    /// The last commit that was acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.progress.acknowledged.load(Ordering::SeqCst)
    }

    /// The last commit that was sent.
    pub fn begun(&self) -> u64 {
        self.progress.begun.load(Ordering::SeqCst)
    }

    /// All commits.
    pub fn stop(self) -> Result<u64> {
        self.progress.over.store(true, Ordering::SeqCst);
        self.thread.join().map_err(|_| anyhow!("the client panicked"))??;
        Ok(self.progress.acknowledged.load(Ordering::SeqCst))
    }
}
