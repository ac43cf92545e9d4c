//! Other people's clients, and bad behaviour, on the real binary.

mod backups;
mod bitmaps;
mod containers;
mod groups;
mod images;
mod kills;
mod lifecycle;
mod limits;
mod rewind;
mod rude;
mod schedules;
mod tls;
mod tools;
mod vms;

pub use tools::sparse_file;

use crate::memory;
use crate::process::scratch;
use crate::server::{Server, Subject};
use crate::steps::Done;
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};

/// One thing that is tried on a running controller; it makes the vDisks it needs and leaves the controller running.
pub type Check = fn(&mut Bench) -> Result<()>;

/// What a check gets: a running controller and a folder for its files.
pub struct Bench {
    pub server: Server,
    pub dir: PathBuf,
}

/// Checks that share a controller.
pub struct Group {
    pub name: &'static str,
    pub checks: &'static [(&'static str, Check)],
    /// More arguments of `up`.
    pub options: &'static [&'static str],
}

impl Group {
    pub const fn new(name: &'static str, checks: &'static [(&'static str, Check)]) -> Group {
        Group { name, checks, options: &[] }
    }

    /// What is lost or held too long shows.
    pub const fn with_little_memory(name: &'static str, checks: &'static [(&'static str, Check)]) -> Group {
        Group { name, checks, options: &["--memory", "128MiB"] }
    }
}

/// Clients that come one after the other and break off in the middle of a request.
pub const BROKEN_OFF: u64 = 400;
/// What each of them sends of a request of twice that length.
pub const HALF_BYTES: usize = 512 << 10;
/// More memory than what they took may vary by, and a third of what one lost request of each would be.
const BROKEN_OFF_BYTES_MAX: u64 = 64 << 20;

impl Bench {
    /// Lets so many clients break off; once some have, no more memory is taken for others of their kind.
    pub fn break_off(&mut self, one: impl Fn(&Bench, u64) -> Result<()>) -> Result<()> {
        let pid = self.server.pid();
        let mut before = 0;
        for number in 0..BROKEN_OFF {
            if number == BROKEN_OFF / 10 {
                before = memory::resident(pid)?;
            }
            one(self, number)?;
        }
        let grown = memory::resident(pid)?.saturating_sub(before);
        ensure!(grown < BROKEN_OFF_BYTES_MAX, "{BROKEN_OFF} clients that broke off cost {} MiB", grown >> 20);
        self.keeps_to_its_memory()
    }

    /// It never took more than docs/operations.md promises.
    pub fn keeps_to_its_memory(&mut self) -> Result<()> {
        let (budget, vdisks) = (self.server.metric("drystone_memory_budget_bytes")? as u64, self.server.list()?.len());
        let (peak, allowed) = (memory::peak(self.server.pid())?, memory::promised(budget, vdisks as u64));
        ensure!(peak <= allowed, "{} MiB were taken, {} MiB are promised", peak >> 20, allowed >> 20);
        Ok(())
    }

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
    let mut groups = vec![Group::new("tools", tools::CHECKS)];
    if !options.peer {
        groups.push(Group::with_little_memory("rude", rude::CHECKS));
        groups.extend([
            Group::new("lifecycle", lifecycle::CHECKS),
            Group::new("limits", limits::CHECKS),
            Group::new("vms", vms::CHECKS),
            Group::new("rewind", rewind::CHECKS),
            Group::new("bitmaps", bitmaps::CHECKS),
            Group::new("backups", backups::CHECKS),
            Group::new("images", images::CHECKS),
            Group::new("groups", groups::CHECKS),
            Group::new("containers", containers::CHECKS),
            Group::new("schedules", schedules::CHECKS),
            Group::new("tls", tls::CHECKS),
        ]);
    }
    run_groups("clients", subject, &groups, options)
}

/// Each group has a controller of its own.
pub fn run_groups(step: &str, subject: Subject, groups: &[Group], options: &Options) -> Result<Done> {
    let (mut passed, mut wrong) = (0, Vec::new());
    for group in groups {
        let wanted = |name: &str| options.check.as_ref().is_none_or(|part| name.contains(part.as_str()));
        let checks: Vec<_> = group.checks.iter().filter(|(name, _)| wanted(name)).collect();
        if checks.is_empty() {
            continue;
        }
        let dir = scratch(&format!("{step}-{}", group.name))?;
        let mut bench = start(subject, &dir, group.options)?;
        for (name, check) in checks {
            match check(&mut bench).with_context(|| name.to_string()) {
                Ok(()) => passed += 1,
                Err(error) => wrong.push(format!("{error:#}")),
            }
            if !bench.server.is_up() {
                wrong.push(format!("{name}: the controller is gone:\n{}", crate::process::tail(&bench.server.log())));
                bench = start(subject, &dir.join(name.replace(' ', "-")), group.options)?;
            }
        }
        bench.server.stop().with_context(|| format!("after {}", group.name))?;
    }
    if !wrong.is_empty() {
        bail!("{passed} checks passed, {} failed:\n- {}", wrong.len(), wrong.join("\n- "));
    }
    Ok(Done::new(passed, format!("{passed} checks")))
}

fn start(subject: Subject, dir: &Path, options: &[&str]) -> Result<Bench> {
    std::fs::create_dir_all(dir)?;
    let mut server = Server::of(subject, dir)?;
    server.options = options.iter().map(|option| option.to_string()).collect();
    server.start()?;
    Ok(Bench { server, dir: dir.to_path_buf() })
}
