//! A network between an initiator and a target: bytes in order, until the connection is lost.

use super::pdu::Digests;
use super::weather::{Fate, Weather};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use world::local::Notify;

#[derive(Default)]
struct Line {
    bytes: RefCell<VecDeque<u8>>,
    /// Tells the receiver.
    arrived: RefCell<Option<Rc<Notify>>>,
    /// Something on it arrived changed.
    damaged: Cell<bool>,
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

/// What was done to a PDU that was sent; the sender would not know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    Whole,
    /// Its receiver must not read on.
    HeaderDamaged,
    /// Its receiver must not take the data.
    DataDamaged,
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

    /// Sends one PDU that has these digests.
    pub fn send(&self, pdu: &[u8], digests: Digests) -> Sent {
        if self.wire.lost.get() {
            return Sent::Whole;
        }
        let covered = digests.cover(pdu.len());
        let mut bytes = pdu.to_vec();
        let fate = self.wire.weather.fate(pdu.len(), &covered);
        let mut sent = Sent::Whole;
        match fate {
            Fate::Arrives => {}
            Fate::Cut(len) => bytes.truncate(len),
            Fate::Damaged(at) => {
                bytes[at] ^= 1 << self.wire.weather.below(8);
                self.wire.lines[self.side].damaged.set(true);
                sent = if covered.header.contains(&at) { Sent::HeaderDamaged } else { Sent::DataDamaged };
            }
        }
        self.wire.lines[self.side].bytes.borrow_mut().extend(bytes);
        if matches!(fate, Fate::Cut(_)) {
            self.lose();
        } else {
            self.tell_both();
        }
        sent
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

    /// Whether anything that arrives here was changed on its way.
    pub fn is_damaged(&self) -> bool {
        self.wire.lines[1 - self.side].damaged.get()
    }

    /// Whether anything that was sent here was changed on its way.
    pub fn was_damaged(&self) -> bool {
        self.wire.lines[self.side].damaged.get()
    }

    pub fn is_lost(&self) -> bool {
        self.wire.lost.get()
    }

    /// Ends the connection for both; what has arrived can still be received.
    pub fn lose(&self) {
        self.wire.lost.set(true);
        self.tell_both();
    }

    /// The receiver of something that arrives, and the sender of what is planned for this moment.
    fn tell_both(&self) {
        for line in &self.wire.lines {
            if let Some(arrived) = &*line.arrived.borrow() {
                arrived.notify();
            }
        }
    }
}
