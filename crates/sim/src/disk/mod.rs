//! A simulated disk: files with a volatile cache, seeded latency, limited space, and everything that can go wrong.
//!
//! It promises what `world::Disk` promises and not a bit more. It survives the nodes that mount it: a crash ends one
//! incarnation, decides what became of its unfinished and unsynced operations, and the next one mounts what is left.

mod fault;
mod mount;
mod operation;
mod pages;

pub use fault::{Fault, FaultPlan, Verb};
pub use pages::{PAGE, Survival};

use crate::executor::{Domain, Executor};
use crate::journal::Journal;
use crate::rng::Rng;
use operation::Effect;
use pages::{Pages, Stamp};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// What kind of end a node met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crash {
    /// `kill -9`: what was written stays, synced or not.
    Kill,
    /// Unsynced bytes survive as `Survival` says.
    PowerLoss(Survival),
}

/// What becomes of operations that a crash finds under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InFlight {
    Undone,
    Done,
    /// Each in whole or in part, as chance has it.
    Chance,
}

#[derive(Clone, Debug)]
pub struct DiskOptions {
    pub capacity_bytes: u64,
    /// Whether punch and allocate work, or answer `Unsupported` as some file systems do.
    pub controls_space: bool,
    /// After a failed sync the kernel's copy is gone at once; otherwise it is read for a while longer.
    pub evict_after_failed_sync: bool,
    /// The kernel drops its copy of clean pages where it is told that nobody needs it, and now and then before a read.
    pub evicts: bool,
    /// The share of operations that complete within the call, percent.
    pub instant_percent: u32,
}

impl Default for DiskOptions {
    fn default() -> Self {
        DiskOptions {
            capacity_bytes: 64 << 20,
            controls_space: true,
            evict_after_failed_sync: false,
            evicts: true,
            instant_percent: 30,
        }
    }
}

/// What the faults have done so far, for the oracle to know what may be asked of the engine.
#[derive(Clone, Copy, Default, Debug)]
pub struct Damage {
    pub errors: u64,
    /// Failed syncs alone; also counted in `errors`.
    pub failed_syncs: u64,
    /// Writes and allocations refused for lack of space.
    pub refused: u64,
    /// Lost and misdirected writes, rotten bits.
    pub corruptions: u64,
}

/// A task that never has to wait would hold up the clock: now and then an operation takes time.
const INSTANT_RUN_MAX: u32 = 500;

struct FileCell {
    name: Rc<str>,
    pages: RefCell<Pages>,
    /// Ranges of writes under way, to catch overlapping ones.
    writing: RefCell<Vec<(u64, u64)>>,
    /// Pages whose next sync will lose them.
    lost: RefCell<BTreeSet<u64>>,
    /// Of the whole disk.
    allocated_bytes: Rc<Cell<u64>>,
}

impl Drop for FileCell {
    fn drop(&mut self) {
        let bytes = self.pages.get_mut().allocated_pages() * PAGE;
        self.allocated_bytes.set(self.allocated_bytes.get() - bytes);
    }
}

struct Unfinished {
    number: u64,
    effect: Effect,
}

struct Store {
    options: DiskOptions,
    plan: FaultPlan,
    files: BTreeMap<String, Rc<FileCell>>,
    allocated_bytes: Rc<Cell<u64>>,
    /// Operations of earlier incarnations have no effect and never complete.
    incarnation: u64,
    unfinished: BTreeMap<u64, Unfinished>,
    operations: u64,
    crash_at: Option<u64>,
    crash_reached: bool,
    /// Operations in a row that completed within the call.
    instant_run: u32,
    stamp: Stamp,
    damage: Damage,
    rng: Rng,
    journal: Rc<Journal>,
}

impl Store {
    fn next_stamp(&mut self) -> Stamp {
        self.stamp.0 += 1;
        self.stamp
    }
}

#[derive(Clone)]
pub struct SimDisk {
    executor: Rc<Executor>,
    store: Rc<RefCell<Store>>,
}

impl SimDisk {
    pub fn new(executor: Rc<Executor>, seed: u64, options: DiskOptions) -> Self {
        let store = Store {
            options,
            plan: FaultPlan::none(),
            files: BTreeMap::new(),
            allocated_bytes: Rc::default(),
            incarnation: 0,
            unfinished: BTreeMap::new(),
            operations: 0,
            crash_at: None,
            crash_reached: false,
            instant_run: 0,
            stamp: Stamp(0),
            damage: Damage::default(),
            rng: Rng::new(seed, 0xd15c),
            journal: executor.journal.clone(),
        };
        SimDisk { executor, store: Rc::new(RefCell::new(store)) }
    }

    /// The disk as a node of `domain` sees it, until the next crash.
    pub fn mount(&self, domain: Domain) -> Rc<dyn world::Disk> {
        let incarnation = self.store.borrow().incarnation;
        Rc::new(mount::Mount { disk: self.clone(), domain, incarnation })
    }

    /// Operations started so far that change something: create, remove, write, sync, allocate, punch.
    pub fn operations(&self) -> u64 {
        self.store.borrow().operations
    }

    /// When operation `number` starts, it and all later ones stay unfinished and `crash_reached` turns true.
    pub fn crash_at(&self, number: Option<u64>) {
        self.store.borrow_mut().crash_at = number;
    }

    pub fn crash_reached(&self) -> bool {
        self.store.borrow().crash_reached
    }

    pub fn journal(&self) -> Rc<Journal> {
        self.store.borrow().journal.clone()
    }

    pub fn set_faults(&self, plan: FaultPlan) {
        self.store.borrow_mut().plan = plan;
    }

    pub fn set_capacity(&self, bytes: u64) {
        self.store.borrow_mut().options.capacity_bytes = bytes;
    }

    /// Clean pages stay in memory until power is lost.
    pub fn keep_cached(&self) {
        self.store.borrow_mut().options.evicts = false;
    }

    pub fn allocated_bytes(&self) -> u64 {
        self.store.borrow().allocated_bytes.get()
    }

    pub fn damage(&self) -> Damage {
        self.store.borrow().damage
    }

    /// Name and size of every file, in order of names.
    pub fn files(&self) -> Vec<(String, u64)> {
        self.store.borrow().files.iter().map(|(name, file)| (name.clone(), file.pages.borrow().size())).collect()
    }

    /// Flips one bit of one file that is at rest.
    pub fn rot(&self) {
        let store = &mut *self.store.borrow_mut();
        let files: Vec<Rc<FileCell>> = store.files.values().cloned().collect();
        let Some(file) = store.rng.pick(&files).cloned() else { return };
        if let Some(at) = file.pages.borrow_mut().rot(&mut store.rng) {
            store.damage.corruptions += 1;
            store.journal.event("disk rot", &file.name, [at, 0, 0]);
        }
    }

    /// Ends the incarnation. The node's domain must have been killed before.
    pub fn crash(&self, crash: Crash, in_flight: InFlight) {
        let store = &mut *self.store.borrow_mut();
        store.incarnation += 1;
        store.crash_at = None;
        store.crash_reached = false;
        for unfinished in std::mem::take(&mut store.unfinished).into_values() {
            store.journal.note("disk unfinished", [unfinished.number, 0, 0]);
            store.finish_at_crash(unfinished.effect, in_flight);
        }
        let files: Vec<Rc<FileCell>> = store.files.values().cloned().collect();
        for file in files {
            file.writing.borrow_mut().clear();
            if let Crash::PowerLoss(survival) = crash {
                store.lose_power(&file, survival);
            }
        }
    }
}

impl Store {
    fn lose_power(&mut self, file: &FileCell, survival: Survival) {
        // Pages of a lost write were never going to reach the medium.
        let lost = std::mem::take(&mut *file.lost.borrow_mut());
        let mut pages = file.pages.borrow_mut();
        let before = pages.allocated_pages();
        let stamp = self.stamp;
        if !lost.is_empty() {
            pages.forget(&lost, stamp);
        }
        pages.lose_power(survival, &mut self.rng);
        let bytes = self.allocated_bytes.get() - before * PAGE + pages.allocated_pages() * PAGE;
        self.allocated_bytes.set(bytes);
        self.journal.event("disk power loss", &file.name, [before, pages.allocated_pages(), pages.size()]);
    }
}

#[cfg(test)]
mod tests;
