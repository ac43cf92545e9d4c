//! Calls that are cut short at every moment, again and again. A loop whose kills all come too early, or all too late, would show
//! nothing, so each has to meet both: calls that did nothing, and calls that did, or left on record, all of it.

use super::Bench;
use super::groups::names;
use crate::process::{Background, wait_until};
use crate::random::Random;
use crate::server::Server;
use anyhow::{Context, Result, ensure};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// What a start may take to carry out what was cut short, beyond being healthy.
const FINISH_LIMIT: Duration = Duration::from_secs(30);

/// When to cut a call short.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Moments {
    /// Over one and a half times what the call takes by itself: beside other work it takes longer.
    Even,
    /// Mostly in its last step.
    Late,
}

/// The rounds of one loop, and what they met.
pub struct Kills {
    random: Random,
    moments: Moments,
    /// What the call takes by itself.
    took_us: u64,
    rounds: u64,
    nothing: u64,
    all: u64,
    /// Calls that were cut short when it was decided what becomes of them, and before they were answered. `None`: that does not show.
    middle: Option<u64>,
}

impl Kills {
    /// Of a call that takes so long by itself; at least so many rounds.
    pub fn new(seed: u64, took_us: u64, rounds: u64) -> Kills {
        let (random, moments) = (Random::new(seed), Moments::Even);
        Kills { random, moments, took_us, rounds, nothing: 0, all: 0, middle: None }
    }

    /// Of a call whose middle shows: it has to be met, too.
    pub fn with_middle(self) -> Kills {
        Kills { middle: Some(0), ..self }
    }

    /// The number of this round, or how many there were.
    pub fn round(&self) -> u64 {
        self.nothing + self.all
    }

    fn has_met_all(&self) -> bool {
        self.nothing > 0 && self.all > 0 && self.middle != Some(0)
    }

    /// A machine that is busy moves the moments, so there may be three times as many rounds until all of it was met.
    pub fn go_on(&self) -> bool {
        self.round() < self.rounds || (!self.has_met_all() && self.round() < 3 * self.rounds)
    }

    /// From the beginning of a call until it is to be cut short.
    pub fn wait(&mut self) {
        let (round, took_us) = (self.round(), self.took_us);
        let moment_us = match self.moments {
            Moments::Even => {
                let part_us = (took_us * 3 / 2 / self.rounds).max(1);
                round % self.rounds * part_us + self.random.below(part_us)
            }
            // Two rounds each, as the victim changes with each round.
            Moments::Late if round / 2 % 4 == 0 => self.random.below(took_us),
            Moments::Late => self.random.between(took_us * 3 / 4, took_us * 9 / 8),
        };
        std::thread::sleep(Duration::from_micros(moment_us));
    }

    /// What this round left: all of it, or nothing.
    pub fn found(&mut self, all: bool) {
        (self.nothing, self.all) = if all { (self.nothing, self.all + 1) } else { (self.nothing + 1, self.all) };
    }

    /// This round was cut short in the middle.
    pub fn found_middle(&mut self) {
        self.middle = self.middle.map(|middle| middle + 1);
    }

    /// All of it was met; how often, for people.
    pub fn check(&self) -> Result<String> {
        let Kills { nothing, all, took_us, .. } = self;
        let middle = self.middle.map(|middle| format!(", {middle} of them in the middle")).unwrap_or_default();
        let said = format!("nothing {nothing} times, all of it {all} times{middle}");
        ensure!(self.has_met_all(), "the kills did not hit everywhere in a call of {took_us} us: {said}");
        Ok(said)
    }
}

/// A command line that nobody listens to.
pub fn begin(server: &Server, line: &[&str]) -> Result<Child> {
    Ok(server.cli(line).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
}

/// How long a command line takes, in microseconds; its names end in a number.
pub fn time_of(server: &Server, line: impl Fn(&str) -> Vec<String>) -> Result<u64> {
    let mut took_us = u64::MAX;
    for name in ["took1", "took2", "took3"] {
        let line = line(name);
        let begun = Instant::now();
        server.run(&line.iter().map(String::as_str).collect::<Vec<_>>())?;
        took_us = took_us.min(begun.elapsed().as_micros() as u64);
    }
    Ok(took_us)
}

/// A command that makes a VM of the vDisks `root` and `data`.
pub struct Making<'a> {
    pub seed: u64,
    /// Names of the VMs begin so.
    pub prefix: &'a str,
    /// For a VM of this name.
    pub line: &'a dyn Fn(&str) -> Vec<String>,
    /// Looks at what is left under other names. Of a VM that is not there it may be something, which then goes if the same
    /// command does not go on with it.
    pub tidy: &'a dyn Fn(&Server, bool) -> Result<()>,
    /// The vDisk of this VM and label has what it should.
    pub compare: &'a dyn Fn(&Server, &str, &str) -> Result<()>,
}

const LABELS: [&str; 2] = ["root", "data"];
const MAKING_ROUNDS: u64 = 32;

/// Kills the command or the controller, early or in the last step. The VM is there with all of its vDisks, or no vDisk has a name
/// of its, and the same command makes it then.
pub fn kill_while_making(bench: &mut Bench, making: &Making) -> Result<()> {
    let took_us = time_of(&bench.server, making.line)?;
    let mut kills = Kills { moments: Moments::Late, ..Kills::new(making.seed, took_us, MAKING_ROUNDS) };
    while kills.go_on() {
        let round = kills.round();
        let name = format!("{}{round}", making.prefix);
        let line = (making.line)(&name);
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        let mut running = Background::start(bench.server.cli(&line), &bench.file("making.log"))?;
        kills.wait();
        if round % 2 == 0 {
            running.kill9();
            // Takes its turn behind what was left.
            bench.server.run(&["vm", "create", &format!("turn-{name}")])?;
        } else {
            bench.server.kill9();
            running.wait(Duration::from_secs(60))?;
            bench.server.start()?;
        }
        let server = &bench.server;
        let is_there = all_or_nothing(server, &name, &LABELS).with_context(|| format!("round {round}"))?;
        (making.tidy)(server, is_there).with_context(|| format!("round {round}"))?;
        if !is_there {
            server.run(&line).with_context(|| format!("round {round}: the same command again"))?;
            (making.tidy)(server, true).with_context(|| format!("round {round}: after the same command"))?;
        }
        LABELS.iter().try_for_each(|label| (making.compare)(server, &name, label))?;
        kills.found(is_there);
    }
    println!("  {}", kills.check()?);
    Ok(())
}

/// Whether a VM is there: then it has these vDisks, and if it is not, no vDisk has the name of one.
fn all_or_nothing(server: &Server, vm: &str, labels: &[&str]) -> Result<bool> {
    let look = || {
        let is_there = names(&server.json(&["vm", "list"])?).iter().any(|name| name == vm);
        let all = names(&server.json(&["vdisk", "list"])?);
        let count = labels.iter().filter(|label| all.contains(&format!("{vm}-{label}"))).count();
        let has = match is_there {
            true => server.json(&["vm", "show", vm])?["vdisks"].as_array().map_or(0, Vec::len),
            false => 0,
        };
        Ok::<_, anyhow::Error>((is_there, count, has))
    };
    let whole = || {
        let found = look()?;
        Ok(found == (true, labels.len(), labels.len()) || found == (false, 0, 0))
    };
    wait_until("all of it or nothing", FINISH_LIMIT, whole).with_context(|| format!("VM {vm}: {:?}", look()))?;
    Ok(look()?.0)
}
