//! One simulated machine with its disk, its node and its clients, from power-up to crash and back.

use super::audit;
use super::client;
use super::emptied;
use super::model::Model;
use super::profile::Profile;
use crate::disk::{Crash, FaultPlan, InFlight, SimDisk, Survival};
use crate::engine::{Engine, Node};
use crate::executor::{Domain, Executor, Order, Stop};
use crate::journal::Journal;
use crate::oracle::history::recovered::Floor;
use crate::rng::Rng;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use world::local::Notify;

/// A healthy phase needs a hundredth of it.
const POLLS_MAX: u64 = 5_000_000;
/// Stalls last seconds; a phase that takes this long hangs, whatever its timers do meanwhile.
const PHASE_NS_MAX: u64 = 3_600_000_000_000;

/// After this long without requests a node has nothing left to do; how long it is watched then, and what it may still do.
pub const SETTLE_NS: u64 = 15_000_000_000;
const REST_NS: u64 = 10_000_000_000;
const REST_OPERATIONS_MAX: u64 = 200;

/// How an attempt to bring a node up ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opened {
    Serving,
    /// The crash point came first.
    Crashed,
    /// Refused because of an error that was injected while it started.
    Refused,
}

/// What is wrong, in words.
pub type Verdict<T> = Result<T, String>;

pub struct Simulation {
    pub executor: Rc<Executor>,
    pub disk: SimDisk,
    pub engine: Rc<dyn Engine>,
    pub model: Rc<RefCell<Model>>,
    /// Decisions of the run itself: when to crash and how.
    pub rng: Rng,
    pub floor: Floor,
    seed: u64,
    domain: Domain,
    node: Option<Rc<dyn Node>>,
}

impl Simulation {
    pub fn new(seed: u64, profile: Profile, engine: Rc<dyn Engine>, journal: Rc<Journal>) -> Self {
        let mut rng = Rng::new(seed, 0x5131);
        let profile = profile.vary(&mut rng);
        let order = if rng.below(8) == 0 { Order::Fifo } else { Order::Seeded };
        let executor = Executor::new(seed, order, journal);
        let disk = SimDisk::new(executor.clone(), seed, profile.disk.clone());
        let model = Rc::new(RefCell::new(Model::new(seed, profile, disk.clone(), executor.clone())));
        let domain = executor.new_domain();
        Simulation { executor, disk, engine, model, rng, floor: Floor::Acknowledged, seed, domain, node: None }
    }

    /// Runs a future on the node's domain to its end. `None`: a crash point was reached first.
    pub fn drive<T: 'static>(&self, what: &str, future: impl Future<Output = T> + 'static) -> Verdict<Option<T>> {
        let slot = Rc::new(RefCell::new(None));
        let target = slot.clone();
        self.executor.spawn(self.domain, Box::pin(async move { *target.borrow_mut() = Some(future.await) }));
        let (model, disk) = (self.model.clone(), self.disk.clone());
        let done = || slot.borrow().is_some() || disk.crash_reached() || model.borrow().failure.is_some();
        let stop = self.executor.run(POLLS_MAX, PHASE_NS_MAX, done);
        if let Some(failure) = &self.model.borrow().failure {
            return Err(failure.clone());
        }
        if stop != Stop::Done {
            let waiting: Vec<String> = self.model.borrow().under_way.values().cloned().collect();
            return Err(format!("{what} hangs ({stop:?}); waiting for an answer: {waiting:?}"));
        }
        let value = slot.borrow_mut().take();
        Ok(value.filter(|_| !self.disk.crash_reached()))
    }

    /// Starts a node; with `crash_after`, at most that many disk operations long.
    pub fn open(&mut self, crash_after: Option<u64>, recover: bool) -> Verdict<Opened> {
        {
            let mut model = self.model.borrow_mut();
            model.damage_before = self.disk.damage();
            model.under_way.clear();
            model.shutting_down = false;
            model.was_rebuilt |= recover;
        }
        self.executor.journal.note("open", [u64::from(recover), crash_after.unwrap_or(u64::MAX), 0]);
        self.disk.crash_at(crash_after.map(|count| self.disk.operations() + count));
        let world = self.executor.world(self.domain, self.seed);
        let disk = self.disk.mount(self.domain);
        let opening = if recover { self.engine.recover(world, disk) } else { self.engine.open(world, disk) };
        let opened = self.drive("the start of the node", opening)?;
        match opened {
            None => Ok(Opened::Crashed),
            Some(Ok(node)) => {
                self.disk.crash_at(None);
                if self.model.borrow().errors_so_far() {
                    // It serves, but some vDisk may be broken for want of one read. What counts is what it makes of
                    // the same disk without errors.
                    return Ok(Opened::Refused);
                }
                if self.model.borrow().profile.copies {
                    node.begin_copies();
                }
                self.node = Some(node);
                Ok(Opened::Serving)
            }
            Some(Err(error)) => {
                let model = self.model.borrow();
                let full = error.kind == block::Kind::Full && model.is_tight;
                if model.errors_so_far() || full {
                    return Ok(Opened::Refused);
                }
                Err(format!("the node does not start: {:?}, {error}", error.kind))
            }
        }
    }

    pub fn node(&self) -> Rc<dyn Node> {
        self.node.clone().expect("the caller has seen it open")
    }

    /// Reads everything, compares it with what must be there, and makes it the new base. No faults meanwhile.
    pub fn audit(&mut self) -> Verdict<()> {
        self.disk.set_faults(FaultPlan::none());
        let audit = audit::run(self.model.clone(), self.node(), self.floor, self.rng.next_u64());
        self.drive("the audit", audit)?.expect("no crash point is set")?;
        self.floor = Floor::Acknowledged;
        let mut model = self.model.borrow_mut();
        (model.was_rebuilt, model.crashed) = (false, None);
        Ok(())
    }

    /// All vDisks and snapshots, in any order.
    pub fn delete_everything(&mut self) -> Verdict<()> {
        let rng = Rng::new(self.seed, 0xde1e);
        let deletion = emptied::delete_everything(self.model.clone(), self.node(), rng);
        self.drive("the deletion of everything", deletion)?.expect("no crash point is set")
    }

    /// Lets clients take steps; true if the crash point was reached before they had all their answers.
    pub fn work(&mut self, steps: u64, crash_after: Option<u64>) -> Verdict<bool> {
        let depth = {
            let mut model = self.model.borrow_mut();
            model.steps_end = model.steps + steps;
            model.profile.depth_max
        };
        self.disk.crash_at(crash_after.map(|count| self.disk.operations() + count));
        let (left, over) = (Rc::new(Cell::new(depth)), Notify::new());
        for _ in 0..depth {
            let (client, left, over) = (client::run(self.model.clone(), self.node()), left.clone(), over.clone());
            let task = async move {
                client.await;
                left.set(left.get() - 1);
                if left.get() == 0 {
                    over.notify();
                }
            };
            self.executor.spawn(self.domain, Box::pin(task));
        }
        let waiting = async move { over.notified().await };
        let finished = self.drive("the workload", waiting)?.is_some();
        self.disk.crash_at(None);
        Ok(!finished)
    }

    /// Lets the node be on its own for a while, at the end of which it must have come to rest.
    pub fn idle(&mut self, duration_ns: u64) -> Verdict<()> {
        let sleep = self.executor.sleep(duration_ns);
        self.drive("an idle node", sleep)?;
        let before = self.disk.operations();
        let sleep = self.executor.sleep(REST_NS);
        self.drive("an idle node", sleep)?;
        let operations = self.disk.operations() - before;
        let disturbed = self.model.borrow().errors_so_far() || self.model.borrow().is_tight;
        if duration_ns >= SETTLE_NS && operations > REST_OPERATIONS_MAX && !disturbed {
            return Err(format!("an idle node does not come to rest: {operations} disk operations in 10 s"));
        }
        Ok(())
    }

    /// A clean end. Everything acknowledged is durable afterwards, if it succeeds.
    pub fn shutdown(&mut self) -> Verdict<()> {
        self.executor.journal.note("shutdown", [0; 3]);
        self.model.borrow_mut().shutting_down = true;
        let stopped = self.drive("the shutdown", self.node().shutdown())?.expect("no crash point is set");
        let model = &mut *self.model.borrow_mut();
        match stopped {
            Ok(()) => {
                let now = model.tick();
                model.slots.iter_mut().for_each(|slot| slot.history.flushed(now, now));
                Ok(())
            }
            Err(_) if model.errors_so_far() || model.disk.damage().corruptions > 0 => Ok(()),
            // What a crash left unsynced may find no room to be stored once more; it is where it was.
            Err(error) if error.kind == block::Kind::Full && model.is_tight => Ok(()),
            Err(error) => Err(format!("the shutdown failed: {:?}, {error}", error.kind)),
        }
    }

    /// The node dies where it stands.
    pub fn crash(&mut self, crash: Crash, in_flight: InFlight) {
        self.executor.journal.note(if crash == Crash::Kill { "crash: kill" } else { "crash: power" }, [0; 3]);
        self.executor.kill(self.domain);
        self.node = None;
        let tainted = {
            let mut model = self.model.borrow_mut();
            model.crash();
            model.errors_so_far()
        };
        self.engine.crash(crash, &mut self.rng);
        self.disk.crash(crash, in_flight);
        // The kernel may have forgotten what a failed sync left unwritten: not even a kill keeps that.
        let floor = if crash == Crash::Kill && !tainted { Floor::Acknowledged } else { Floor::Flushed };
        self.floor = self.floor.max(floor);
        self.domain = self.executor.new_domain();
    }

    /// A crash of some kind that the profile allows.
    pub fn any_crash(&mut self) -> (Crash, InFlight) {
        let in_flight = *self.rng.pick(&[InFlight::Chance, InFlight::Undone, InFlight::Done]).expect("three of them");
        let (loses_power, garbage) = {
            let model = self.model.borrow();
            (model.profile.loses_power, model.profile.garbage)
        };
        if !loses_power || self.rng.below(2) == 0 {
            return (Crash::Kill, in_flight);
        }
        let survival = match self.rng.below(6) {
            0 => Survival::Nothing,
            1 => Survival::Everything,
            2 | 3 => Survival::Pages,
            4 if garbage => Survival::Garbage,
            _ => Survival::Sectors,
        };
        (Crash::PowerLoss(survival), in_flight)
    }

    pub fn set_faults(&self) {
        self.disk.set_faults(self.model.borrow().profile.faults.clone());
    }
}
