//! The seam between the engine and everything outside: disk files, clock, randomness, spawn.
//!
//! The engine crates see these traits and nothing else: no tokio, no `std::fs`, no `std::time`, no threads, no randomly
//! seeded maps. `metal` implements them for production, `sim` for tests, and both run the same `node`.
//! One `World` belongs to one worker (a thread in production); nothing in it is shared with another thread.

mod completion;
mod disk;
pub mod local;

pub use completion::{Completion, LocalFuture};
pub use disk::{Disk, DiskUsage, Error, File, FileEntry, Kind, Result};

use std::future::Future;
use std::rc::Rc;

/// Nanoseconds on a clock that never goes back; comparable only within one run of the process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Instant(pub u64);

impl Instant {
    /// Nanoseconds since `earlier`, 0 if that is not earlier.
    pub fn since_ns(self, earlier: Instant) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Nanoseconds since 1970 (UTC) on the wall clock; may step.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct WallTime(pub u64);

pub trait Clock {
    fn now(&self) -> Instant;
    fn wall(&self) -> WallTime;
    /// Completes `duration_ns` from now, not before.
    fn sleep(&self, duration_ns: u64) -> LocalFuture<()>;
}

pub trait Random {
    fn next_u64(&self) -> u64;
}

pub trait Spawn {
    /// Runs `task` on this worker until it ends. A task that panics takes the process (the simulated node) down.
    fn spawn(&self, task: LocalFuture<()>);
}

/// What one worker has of the outside, the disks apart.
#[derive(Clone)]
pub struct World {
    pub clock: Rc<dyn Clock>,
    pub random: Rc<dyn Random>,
    pub spawn: Rc<dyn Spawn>,
}

impl World {
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.spawn.spawn(Box::pin(task));
    }
    pub fn now(&self) -> Instant {
        self.clock.now()
    }
}
