//! A network between an initiator and a target: bytes in order, until the connection is lost.

use crate::rng::{Chance, Rng};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use world::local::Notify;

/// What happens to PDUs on their way. Random, or at one chosen PDU.
pub struct Weather {
    pub cut: Chance,
    pub damage: Chance,
    /// The connection is lost at this PDU, counted from zero over all connections and directions.
    pub cut_at: Option<u64>,
    /// PDUs that were sent so far.
    pub pdus: Cell<u64>,
    pub rng: RefCell<Rng>,
}

/// What becomes of a PDU.
enum Fate {
    Arrives,
    /// The connection is lost when so many of its bytes have arrived.
    Cut(usize),
    /// This byte arrives changed.
    Damaged(usize),
}

impl Weather {
    pub fn calm(seed: u64) -> Weather {
        let rng = RefCell::new(Rng::new(seed, 0x3ea7));
        Weather { cut: Chance::NEVER, damage: Chance::NEVER, cut_at: None, pdus: Cell::new(0), rng }
    }

    pub fn below(&self, bound: u64) -> u64 {
        self.rng.borrow_mut().below(bound)
    }

    fn fate(&self, len: usize, may_damage: bool) -> Fate {
        let number = self.pdus.replace(self.pdus.get() + 1);
        let mut rng = self.rng.borrow_mut();
        if self.cut_at == Some(number) || rng.chance(self.cut) {
            // At the boundary before it, behind it, or somewhere inside.
            let at = match rng.below(3) {
                0 => 0,
                1 => len as u64,
                _ => rng.below(len as u64),
            };
            return Fate::Cut(at as usize);
        }
        if may_damage && rng.chance(self.damage) {
            return Fate::Damaged(rng.below(len as u64) as usize);
        }
        Fate::Arrives
    }
}

#[derive(Default)]
struct Line {
    bytes: RefCell<VecDeque<u8>>,
    /// Tells the receiver.
    arrived: RefCell<Option<Rc<Notify>>>,
}

/// Both directions of a connection.
struct Wire {
    lines: [Line; 2],
    lost: Cell<bool>,
    weather: Rc<Weather>,
}

/// One end of a connection.
pub struct End {
    wire: Rc<Wire>,
    /// Of the line that this end sends on.
    side: usize,
}

/// A new connection: the initiator's end, the target's end.
pub fn connect(weather: Rc<Weather>) -> (End, End) {
    let wire = Rc::new(Wire { lines: Default::default(), lost: Cell::new(false), weather });
    (End { wire: wire.clone(), side: 0 }, End { wire, side: 1 })
}

impl End {
    /// Whoever receives here is told through this.
    pub fn tell(&self, notify: Rc<Notify>) {
        *self.wire.lines[1 - self.side].arrived.borrow_mut() = Some(notify);
    }

    /// Sends one PDU. `guarded`: all of it is covered by digests, so that damage must be noticed.
    pub fn send(&self, pdu: &[u8], guarded: bool) {
        if self.wire.lost.get() {
            return;
        }
        let mut bytes = pdu.to_vec();
        match self.wire.weather.fate(pdu.len(), guarded) {
            Fate::Arrives => {}
            Fate::Cut(len) => {
                bytes.truncate(len);
                self.deliver(&bytes);
                return self.lose();
            }
            Fate::Damaged(at) => bytes[at] ^= 1 << self.wire.weather.below(8),
        }
        self.deliver(&bytes);
    }

    fn deliver(&self, bytes: &[u8]) {
        let line = &self.wire.lines[self.side];
        line.bytes.borrow_mut().extend(bytes);
        if let Some(arrived) = &*line.arrived.borrow() {
            arrived.notify();
        }
    }

    /// What has arrived, in pieces of any size.
    pub fn receive(&self) -> Vec<u8> {
        let mut bytes = self.wire.lines[1 - self.side].bytes.borrow_mut();
        let len = bytes.len() as u64;
        let some = if self.wire.weather.below(4) == 0 { self.wire.weather.below(len + 1) } else { len };
        bytes.drain(..some as usize).collect()
    }

    /// Whether there is more.
    pub fn has_bytes(&self) -> bool {
        !self.wire.lines[1 - self.side].bytes.borrow().is_empty()
    }

    pub fn is_lost(&self) -> bool {
        self.wire.lost.get()
    }

    /// Ends the connection for both; what has arrived can still be received.
    pub fn lose(&self) {
        self.wire.lost.set(true);
        for line in &self.wire.lines {
            if let Some(arrived) = &*line.arrived.borrow() {
                arrived.notify();
            }
        }
    }
}
