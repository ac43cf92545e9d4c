//! Other people's clients, and bad behaviour, on the real binary.

mod backups;
mod bitmaps;
mod groups;
mod images;
mod lifecycle;
mod limits;
mod rewind;
mod rude;
mod schedules;
mod tls;
mod tools;
mod vms;

pub use tools::sparse_file;

use crate::process::scratch;
use crate::server::{Server, Subject};
use crate::steps::Done;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// One thing that is tried on a running controller; it makes the vDisks it needs and leaves the controller running.
pub type Check = fn(&mut Bench) -> Result<()>;

/// What a check gets: a running controller and a folder for its files.
pub struct Bench {
    pub server: Server,
    pub dir: PathBuf,
}

impl Bench {
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

#[derive(clap::Args, Clone)]
pub struct Options {
    /// Only checks whose name contains this.
    #[arg(long)]
    pub check: Option<String>,
    /// Against nbdkit instead (tools only), to try the harness.
    #[arg(long)]
    pub peer: bool,
}

pub fn run_alone(options: &Options) -> Result<()> {
    if !options.peer {
        crate::server::build()?;
    }
    let done = run(options)?;
    println!("{} checks: {}", done.checks, done.said);
    Ok(())
}

pub fn run(options: &Options) -> Result<Done> {
    let subject = if options.peer { Subject::Nbdkit } else { Subject::Drystone };
    let mut groups: Vec<(&str, &[(&str, Check)])> = vec![("tools", tools::CHECKS)];
    if !options.peer {
        groups.extend([
            ("rude", rude::CHECKS),
            ("lifecycle", lifecycle::CHECKS),
            ("limits", limits::CHECKS),
            ("vms", vms::CHECKS),
            ("rewind", rewind::CHECKS),
            ("bitmaps", bitmaps::CHECKS),
            ("backups", backups::CHECKS),
            ("images", images::CHECKS),
            ("groups", groups::CHECKS),
            ("schedules", schedules::CHECKS),
            ("tls", tls::CHECKS),
        ]);
    }
    run_groups("clients", subject, &groups, options)
}

/// Each group has a controller of its own.
pub fn run_groups(
    step: &str,
    subject: Subject,
    groups: &[(&str, &[(&str, Check)])],
    options: &Options,
) -> Result<Done> {
    let (mut passed, mut wrong) = (0, Vec::new());
    for (group, checks) in groups {
        let wanted = |name: &str| options.check.as_ref().is_none_or(|part| name.contains(part.as_str()));
        let checks: Vec<_> = checks.iter().filter(|(name, _)| wanted(name)).collect();
        if checks.is_empty() {
            continue;
        }
        let dir = scratch(&format!("{step}-{group}"))?;
        let mut bench = start(subject, &dir)?;
        for (name, check) in checks {
            match check(&mut bench).with_context(|| name.to_string()) {
                Ok(()) => passed += 1,
                Err(error) => wrong.push(format!("{error:#}")),
            }
            if !bench.server.is_up() {
                wrong.push(format!("{name}: the controller is gone:\n{}", crate::process::tail(&bench.server.log())));
                bench = start(subject, &dir.join(name.replace(' ', "-")))?;
            }
        }
        bench.server.stop().with_context(|| format!("after {group}"))?;
    }
    if !wrong.is_empty() {
        bail!("{passed} checks passed, {} failed:\n- {}", wrong.len(), wrong.join("\n- "));
    }
    Ok(Done::new(passed, format!("{passed} checks")))
}

fn start(subject: Subject, dir: &Path) -> Result<Bench> {
    std::fs::create_dir_all(dir)?;
    let mut server = Server::of(subject, dir)?;
    server.start()?;
    Ok(Bench { server, dir: dir.to_path_buf() })
}
