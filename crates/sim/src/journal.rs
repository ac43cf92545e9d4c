//! What happened in a run: a rolling digest of every event, and the last few of them in words.
//!
//! Two runs of one seed must give the same digest; a difference means that something outside the seed had a say.

use crate::rng::mix;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;

/// Enough to see how a failure came about, even over a few restarts.
const EVENTS_KEPT: usize = 20_000;

#[derive(Clone)]
pub struct Event {
    pub at_ns: u64,
    pub what: &'static str,
    pub subject: Rc<str>,
    pub numbers: [u64; 3],
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c] = self.numbers;
        write!(f, "{:>12.6} ms  {:<18} {:<28} {a} {b} {c:x}", self.at_ns as f64 / 1e6, self.what, self.subject)
    }
}

pub struct Journal {
    digest: Cell<u64>,
    now_ns: Cell<u64>,
    events: RefCell<VecDeque<Event>>,
    nothing: Rc<str>,
}

impl Journal {
    pub fn new() -> Rc<Self> {
        Rc::new(Journal {
            digest: Cell::new(0),
            now_ns: Cell::new(0),
            events: RefCell::default(),
            nothing: Rc::from(""),
        })
    }

    pub fn digest(&self) -> u64 {
        self.digest.get()
    }

    pub fn set_now(&self, now_ns: u64) {
        self.now_ns.set(now_ns);
    }

    /// Takes part in the digest only: for what happens too often to be read.
    pub fn count(&self, kind: u64, value: u64) {
        self.digest.set(mix(self.digest.get() ^ mix(kind ^ value.rotate_left(17))));
    }

    pub fn event(&self, what: &'static str, subject: &Rc<str>, numbers: [u64; 3]) {
        let name = base::crc::crc32c_append(base::crc::crc32c(what.as_bytes()), subject.as_bytes());
        self.count(name as u64, self.now_ns.get());
        self.count(numbers[0], numbers[1]);
        self.count(3, numbers[2]);
        let mut events = self.events.borrow_mut();
        if events.len() == EVENTS_KEPT {
            events.pop_front();
        }
        events.push_back(Event { at_ns: self.now_ns.get(), what, subject: subject.clone(), numbers });
    }

    pub fn note(&self, what: &'static str, numbers: [u64; 3]) {
        self.event(what, &self.nothing, numbers);
    }

    /// The last `count` events, oldest first, one a line.
    pub fn tail(&self, count: usize) -> String {
        let events = self.events.borrow();
        let skip = events.len().saturating_sub(count);
        events.iter().skip(skip).map(|event| format!("{event}\n")).collect()
    }
}
