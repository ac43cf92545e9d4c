//! kill -9 under random load, round after round; nothing that was acknowledged may be missing afterwards.
//!
//! The journal of what was acknowledged lives here, outside the controller. Every other round the metadata store is
//! deleted and rebuilt from the logs alone.

use crate::content::SECTOR;
use crate::load::{Load, Plan, Target};
use crate::process::{scratch, succeed};
use crate::random::Random;
use crate::server::{Server, Subject};
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Size of each vDisk under load: small enough to be overwritten several times and read whole after every round.
const SIZE_BYTES: u64 = 32 << 20;
const TARGETS: usize = 3;
const CONNECTIONS: usize = 3;
/// Size of the vDisks that only exist to see control actions survive.
const SMALL: u64 = 1 << 20;

#[derive(clap::Args, Clone)]
pub struct Options {
    #[arg(long, default_value_t = 25)]
    pub rounds: u64,
    /// Repeats the choices of an earlier run (not its timing).
    #[arg(long)]
    pub seed: Option<u64>,
    /// Longest load before the kill, milliseconds.
    #[arg(long, default_value_t = 1500)]
    pub load_ms: u64,
    /// Against nbdkit instead, to try the harness.
    #[arg(long)]
    pub peer: bool,
}

impl Options {
    fn subject(&self) -> Subject {
        if self.peer { Subject::Nbdkit } else { Subject::Drystone }
    }
}

pub fn run_alone(options: &Options) -> Result<()> {
    if !options.peer {
        crate::server::build()?;
    }
    println!("{}", run(options)?);
    Ok(())
}

/// One sentence on what was done.
pub fn run(options: &Options) -> Result<String> {
    let seed = options.seed.unwrap_or_else(Random::seed_from_clock);
    let dir = scratch("kill9")?;
    let mut rounds = Rounds::new(Server::of(options.subject(), &dir)?, seed);
    rounds.server.start()?;
    for target in &rounds.targets {
        rounds.server.create(&target.name, &SIZE_BYTES.to_string())?;
        rounds.names.insert(target.name.clone(), SIZE_BYTES);
    }
    for round in 1..=options.rounds {
        rounds.one(round, options.load_ms).with_context(|| {
            format!("round {round}; repeat with: cargo xtask kill9 --seed {seed} --rounds {}", options.rounds)
        })?;
    }
    rounds.must_notice_a_loss()?;
    rounds.server.stop()?;
    Ok(format!(
        "{} rounds ({} with the metadata store rebuilt), {} acknowledged changes, {} flushes; seed {seed}",
        options.rounds, rounds.recoveries, rounds.acknowledged, rounds.flushes
    ))
}

struct Rounds {
    server: Server,
    targets: Vec<Arc<Target>>,
    random: Random,
    /// Every vDisk there has to be, and its size.
    names: BTreeMap<String, u64>,
    acknowledged: u64,
    flushes: u64,
    recoveries: u64,
}

impl Rounds {
    fn new(server: Server, seed: u64) -> Rounds {
        let targets = (0..TARGETS).map(|index| Target::new(&format!("load{index}"), index as u64 + 1, SIZE_BYTES));
        Rounds {
            server,
            targets: targets.collect(),
            random: Random::new(seed),
            names: BTreeMap::new(),
            acknowledged: 0,
            flushes: 0,
            recoveries: 0,
        }
    }

    fn one(&mut self, round: u64, load_ms: u64) -> Result<()> {
        let plan = Plan {
            addresses: vec![self.server.nbd.clone(), self.server.socket.clone()],
            targets: self.targets.clone(),
            connections: CONNECTIONS,
            seed: self.random.next(),
            flush_percent: self.random.between(0, 8),
            position: None,
        };
        let load = Load::start(&plan)?;
        std::thread::sleep(Duration::from_millis(self.random.between(50, load_ms)));
        if self.server.subject() == Subject::Drystone {
            self.control_actions(round)?;
        }
        std::thread::sleep(Duration::from_millis(self.random.between(0, 50)));
        if !self.server.is_up() {
            bail!("the controller ended by itself:\n{}", crate::process::tail(&self.server.log()));
        }
        self.server.kill9();
        let counts = load.crashed()?;
        self.acknowledged += counts.acknowledged;
        self.flushes += counts.flushes;
        let drystone = self.server.subject() == Subject::Drystone;
        if drystone && round.is_multiple_of(2) {
            self.rebuild_metadata()?;
        }
        if drystone && self.random.chance(25) {
            self.kill_while_starting()?;
        }
        self.server.start()?;
        self.check()
    }

    /// Every acknowledged control action must survive too.
    fn control_actions(&mut self, round: u64) -> Result<()> {
        let (fresh, renamed) = (format!("r{round}"), format!("renamed{round}"));
        self.server.create(&fresh, &SMALL.to_string())?;
        self.names.insert(fresh.clone(), SMALL);
        if self.random.chance(50) {
            self.server.run(&["vdisk", "rename", &fresh, &renamed])?;
            self.names.remove(&fresh);
            self.names.insert(renamed.clone(), SMALL);
            self.server.run(&["vdisk", "resize", &renamed, "--size", &(SMALL * 2).to_string()])?;
            self.names.insert(renamed, SMALL * 2);
        }
        let small: Vec<String> =
            self.names.iter().filter(|(_, size)| **size != SIZE_BYTES).map(|(name, _)| name.clone()).collect();
        if small.len() > 3 {
            let name = &small[self.random.below(small.len() as u64) as usize];
            self.server.run(&["vdisk", "delete", name])?;
            self.names.remove(name);
        }
        Ok(())
    }

    fn rebuild_metadata(&mut self) -> Result<()> {
        let store = self.server.data.join("meta.redb");
        std::fs::remove_file(&store).with_context(|| format!("remove {}", store.display()))?;
        let mut recover = self.server.cli(&["recover", "--data"]);
        recover.arg(&self.server.data);
        let said = succeed(recover)?;
        ensure!(said.contains(&self.targets[0].name), "recover does not say what it found:\n{said}");
        self.recoveries += 1;
        Ok(())
    }

    /// Recovery itself is killed; the next start must not mind.
    fn kill_while_starting(&mut self) -> Result<()> {
        let log = self.server.data.with_extension("killed.log");
        let mut process = crate::process::Background::start(self.server.up(), &log)?;
        std::thread::sleep(Duration::from_millis(self.random.between(0, 150)));
        process.kill9();
        Ok(())
    }

    fn check(&mut self) -> Result<()> {
        for target in &self.targets {
            let mut client = self.server.connect(&target.name)?;
            target.check(&mut client)?;
            client.disconnect()?;
        }
        let expect: Vec<(String, u64)> = self.names.iter().map(|(name, size)| (name.clone(), *size)).collect();
        let found = self.server.list()?;
        ensure!(found == expect, "vDisks after the crash: {found:?}\nacknowledged: {expect:?}");
        Ok(())
    }

    /// The check itself is checked: a sector that lost its content behind the journal's back must be found.
    fn must_notice_a_loss(&mut self) -> Result<()> {
        let target = &self.targets[0];
        let mut client = self.server.connect(&target.name)?;
        let (mut offset, mut bytes) = (0, [0; SECTOR]);
        while bytes == [0; SECTOR] {
            ensure!(offset < SIZE_BYTES, "{} holds no data after all rounds", target.name);
            client.read(offset, &mut bytes)?;
            offset += SECTOR as u64;
        }
        client.write(offset - SECTOR as u64, &[0; SECTOR])?;
        match target.check(&mut client) {
            Err(error) if format!("{error:#}").contains("1 sectors are wrong") => Ok(()),
            Err(error) => Err(error.context("expected one lost sector")),
            Ok(_) => bail!("a lost sector was not noticed"),
        }
    }
}
