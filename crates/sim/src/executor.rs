//! One thread that runs every task of a simulation in seeded order, on a clock that jumps when nothing is ready.
//!
//! Tasks belong to a domain (one incarnation of a node and its clients); killing a domain drops all its tasks where
//! they stand, as `kill -9` and power loss do.

use crate::journal::Journal;
use crate::rng::Rng;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use world::{Clock, Instant, LocalFuture, Random, Spawn, WallTime, World};

/// 2026-01-01T00:00:00Z: a wall clock that is plausible and the same in every run.
const WALL_START_NS: u64 = 1_767_225_600_000_000_000;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Domain(u64);

/// In which order ready tasks get their turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    Seeded,
    Fifo,
}

/// Why the executor stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// What was waited for has happened.
    Done,
    /// No task is ready and no timer is set: everything waits for everything else.
    Deadlock,
    /// More polls than a healthy run can need.
    Spinning,
    /// More virtual time than a healthy run can need.
    TooLate,
}

struct Task {
    domain: Domain,
    /// Taken out while it is polled, so that it may spawn and be killed meanwhile.
    future: Option<LocalFuture<()>>,
    waker: Waker,
}

/// Wakers must be `Send + Sync` by type although nothing here leaves the thread; hence the lock, never contended.
#[derive(Default)]
struct Ready {
    tasks: Vec<u64>,
    member: BTreeSet<u64>,
}

struct TaskWaker {
    task: u64,
    ready: Arc<Mutex<Ready>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        let mut ready = self.ready.lock().expect("one thread, and it does not panic while holding the lock");
        if ready.member.insert(self.task) {
            ready.tasks.push(self.task);
        }
    }
}

/// Timers by deadline, then by creation: equal deadlines fire in a fixed order.
type Timers = BTreeMap<(u64, u64), Waker>;

pub struct Executor {
    pub journal: Rc<Journal>,
    order: Order,
    tasks: RefCell<BTreeMap<u64, Task>>,
    ready: Arc<Mutex<Ready>>,
    timers: RefCell<Timers>,
    alive: RefCell<BTreeSet<Domain>>,
    rng: RefCell<Rng>,
    now_ns: Cell<u64>,
    /// What the wall clock is wrong by.
    wall_offset_ns: Cell<i64>,
    next_id: Cell<u64>,
}

impl Executor {
    pub fn new(seed: u64, order: Order, journal: Rc<Journal>) -> Rc<Self> {
        Rc::new(Executor {
            journal,
            order,
            tasks: RefCell::default(),
            ready: Arc::default(),
            timers: RefCell::default(),
            alive: RefCell::default(),
            rng: RefCell::new(Rng::new(seed, 0x7a5c)),
            now_ns: Cell::new(1_000_000),
            wall_offset_ns: Cell::default(),
            next_id: Cell::new(1),
        })
    }

    fn fresh_id(&self) -> u64 {
        self.next_id.replace(self.next_id.get() + 1)
    }

    /// Sets the wall clock forward or back; 0: right again.
    pub fn step_wall(&self, offset_ns: i64) {
        self.wall_offset_ns.set(offset_ns);
    }

    pub fn wall_offset_ns(&self) -> i64 {
        self.wall_offset_ns.get()
    }

    pub fn wall_ns(&self) -> u64 {
        (WALL_START_NS + self.now_ns.get()).saturating_add_signed(self.wall_offset_ns.get())
    }

    pub fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }

    pub fn new_domain(&self) -> Domain {
        let domain = Domain(self.fresh_id());
        self.alive.borrow_mut().insert(domain);
        domain
    }

    /// What a node of `domain` sees of the outside.
    pub fn world(self: &Rc<Self>, domain: Domain, seed: u64) -> World {
        let handle =
            Rc::new(Handle { executor: self.clone(), domain, rng: RefCell::new(Rng::new(seed, mix_domain(domain))) });
        World { clock: handle.clone(), random: handle.clone(), spawn: handle }
    }

    pub fn spawn(&self, domain: Domain, future: LocalFuture<()>) {
        if !self.alive.borrow().contains(&domain) {
            return; // A destructor of a killed task.
        }
        let id = self.fresh_id();
        let waker = Waker::from(Arc::new(TaskWaker { task: id, ready: self.ready.clone() }));
        waker.wake_by_ref();
        self.tasks.borrow_mut().insert(id, Task { domain, future: Some(future), waker });
    }

    /// Drops every task of the domain; none of them is polled again.
    pub fn kill(&self, domain: Domain) {
        self.alive.borrow_mut().remove(&domain);
        let dead: Vec<Task> = {
            let mut tasks = self.tasks.borrow_mut();
            let ids: Vec<u64> = tasks.iter().filter(|(_, task)| task.domain == domain).map(|(id, _)| *id).collect();
            ids.iter().filter_map(|id| tasks.remove(id)).collect()
        };
        self.journal.note("kill", [domain.0, dead.len() as u64, 0]);
        drop(dead); // Outside the borrow: destructors may wake and spawn.
    }

    pub fn sleep(self: &Rc<Self>, duration_ns: u64) -> Sleep {
        let key = (self.now_ns.get().saturating_add(duration_ns), self.fresh_id());
        Sleep { executor: self.clone(), key }
    }

    /// Runs until `done` says so, at most `polls_max` polls and `duration_ns_max` of virtual time.
    pub fn run(&self, polls_max: u64, duration_ns_max: u64, done: impl Fn() -> bool) -> Stop {
        let end_ns = self.now_ns.get().saturating_add(duration_ns_max);
        for _ in 0..polls_max {
            if done() {
                return Stop::Done;
            }
            if let Some(task) = self.next_ready() {
                self.poll(task);
                continue;
            }
            match self.next_timer() {
                None => return Stop::Deadlock,
                Some(at_ns) if at_ns > end_ns => return Stop::TooLate,
                Some(at_ns) => self.now_ns.set(at_ns.max(self.now_ns.get())),
            }
            self.journal.set_now(self.now_ns.get());
            self.fire_timers();
        }
        Stop::Spinning
    }

    fn next_ready(&self) -> Option<u64> {
        let mut ready = self.ready.lock().expect("one thread, and it does not panic while holding the lock");
        if ready.tasks.is_empty() {
            return None;
        }
        let index = match self.order {
            Order::Fifo => 0,
            Order::Seeded => self.rng.borrow_mut().below(ready.tasks.len() as u64) as usize,
        };
        let task = ready.tasks.remove(index);
        ready.member.remove(&task);
        Some(task)
    }

    fn poll(&self, id: u64) {
        let (mut future, waker) = match self.tasks.borrow_mut().get_mut(&id) {
            Some(task) => (task.future.take().expect("a task is not polled inside itself"), task.waker.clone()),
            None => return, // Ended or killed after it was woken.
        };
        self.journal.count(1, id);
        if future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            let ended = self.tasks.borrow_mut().remove(&id);
            drop(ended);
        } else if let Some(task) = self.tasks.borrow_mut().get_mut(&id) {
            task.future = Some(future);
        }
    }

    fn next_timer(&self) -> Option<u64> {
        self.timers.borrow().first_key_value().map(|((at_ns, _), _)| *at_ns)
    }

    fn fire_timers(&self) {
        let due: Vec<Waker> = {
            let mut timers = self.timers.borrow_mut();
            let later = timers.split_off(&(self.now_ns.get() + 1, 0));
            std::mem::replace(&mut *timers, later).into_values().collect()
        };
        due.into_iter().for_each(Waker::wake);
    }
}

fn mix_domain(domain: Domain) -> u64 {
    crate::rng::mix(domain.0 ^ 0x0d0a)
}

/// Completes when the virtual clock has reached its deadline.
pub struct Sleep {
    executor: Rc<Executor>,
    key: (u64, u64),
}

impl Future for Sleep {
    type Output = ();
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.executor.now_ns.get() >= self.key.0 {
            return Poll::Ready(());
        }
        self.executor.timers.borrow_mut().insert(self.key, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.executor.timers.borrow_mut().remove(&self.key);
    }
}

struct Handle {
    executor: Rc<Executor>,
    domain: Domain,
    rng: RefCell<Rng>,
}

impl Clock for Handle {
    fn now(&self) -> Instant {
        Instant(self.executor.now_ns.get())
    }
    fn wall(&self) -> WallTime {
        WallTime(self.executor.wall_ns())
    }
    fn sleep(&self, duration_ns: u64) -> LocalFuture<()> {
        Box::pin(self.executor.sleep(duration_ns))
    }
}

impl Random for Handle {
    fn next_u64(&self) -> u64 {
        self.rng.borrow_mut().next_u64()
    }
}

impl Spawn for Handle {
    fn spawn(&self, task: LocalFuture<()>) {
        self.executor.spawn(self.domain, task);
    }
}

#[cfg(test)]
mod tests;
