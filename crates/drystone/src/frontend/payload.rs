//! What the requests of one worker's connections may take of memory, together: payload under way and unsent replies.
//!
//! Half of it is divided equally. That much each connection has whatever the others do, so that clients that stop
//! reading never hold up the small requests of those that go on. The other half is lent, to whoever comes first: with a
//! thousand connections an equal part is less than one large request. While somebody waits, nobody else borrows, and one
//! who is lent something and does not move a byte is cut off: otherwise a few dead clients would keep all of it.
//! A request that is larger than the lent half is taken when nothing else is lent; so the sum is exceeded by one
//! request at most.

use base::Room;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::task::Waker;
use std::time::{Duration, Instant};

/// How long a client may hold what others wait for without taking or sending a byte. A guest that was paused has its
/// hypervisor to read for it; a network that stands still for longer is as good as gone.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A request up to this is taken whatever the budget, when nothing else is lent: the longest of any front-end's (NBD's
/// payload limit).
const SINGLE_BYTES_MAX: u64 = 32 << 20;

#[derive(Default)]
struct Pool {
    bytes: u64,
    lent_bytes: u64,
    parts: BTreeMap<u64, State>,
    next: u64,
    /// Who waits for something to be lent, the first one first.
    waiting: VecDeque<u64>,
}

struct State {
    lent_bytes: u64,
    /// Bytes moved, or it was not the client's turn.
    moved: Instant,
    cut_off: bool,
    waker: Waker,
}

thread_local! {
    static HERE: RefCell<Pool> = RefCell::default();
}

/// A connection's part; given back when dropped.
pub struct Part(u64);

impl Pool {
    fn equal_part(&self) -> u64 {
        self.bytes / 2 / (self.parts.len() as u64).max(1)
    }

    fn lendable(&self) -> u64 {
        self.bytes / 2
    }

    fn wake_first(&self) {
        if let Some(state) = self.waiting.front().and_then(|first| self.parts.get(first)) {
            state.waker.wake_by_ref();
        }
    }

    fn settle(&mut self, part: u64, held_bytes: u64) {
        let lent = held_bytes.saturating_sub(self.equal_part());
        let Some(state) = self.parts.get_mut(&part) else { return };
        let before = std::mem::replace(&mut state.lent_bytes, lent);
        self.lent_bytes = self.lent_bytes - before + lent;
        if lent < before {
            self.wake_first();
        }
    }
}

impl Part {
    /// `bytes`: of the worker as a whole.
    pub fn join(bytes: u64) -> Part {
        HERE.with_borrow_mut(|pool| {
            pool.bytes = bytes;
            pool.next += 1;
            let state = State { lent_bytes: 0, moved: Instant::now(), cut_off: false, waker: Waker::noop().clone() };
            pool.parts.insert(pool.next, state);
            Part(pool.next)
        })
    }

    /// Before a turn: what may be taken on in it. `waker` is the connection's; `None`: it is cut off.
    pub fn room(&self, waker: &Waker) -> Option<Room> {
        HERE.with_borrow_mut(|pool| {
            let equal = pool.equal_part();
            let may_borrow = pool.waiting.front().is_none_or(|first| *first == self.0);
            let free = pool.lendable().saturating_sub(pool.lent_bytes);
            let others = pool.lent_bytes;
            let state = pool.parts.get_mut(&self.0).expect("it is there until it is dropped");
            state.waker.clone_from(waker);
            let others = others - state.lent_bytes;
            let payload_bytes = equal + state.lent_bytes + if may_borrow { free } else { 0 };
            let alone = may_borrow && others == 0;
            let single_bytes = if alone { payload_bytes.max(SINGLE_BYTES_MAX) } else { payload_bytes };
            (!state.cut_off).then_some(Room { payload_bytes, single_bytes })
        })
    }

    /// After a turn: what is held now, whether the client is to blame if that stays so, and whether it moved a byte.
    pub fn settle(&self, held_bytes: u64, waits_for_client: bool, moved: bool, now: Instant) {
        HERE.with_borrow_mut(|pool| {
            pool.settle(self.0, held_bytes);
            if let Some(state) = pool.parts.get_mut(&self.0)
                && (moved || !waits_for_client)
            {
                state.moved = now;
            }
        });
    }

    /// Takes a place in the queue, or leaves it. True: it was not in the queue before.
    pub fn wait(&self, waits: bool) -> bool {
        HERE.with_borrow_mut(|pool| {
            let place = pool.waiting.iter().position(|part| *part == self.0);
            match (place, waits) {
                (None, true) => pool.waiting.push_back(self.0),
                (Some(place), false) => {
                    pool.waiting.remove(place);
                    pool.wake_first();
                }
                _ => {}
            }
            waits && place.is_none()
        })
    }

    /// Called by one who has waited for [`PATIENCE`]: cuts off those who keep it waiting. True: it still waits.
    pub fn complain(&self, now: Instant) -> bool {
        HERE.with_borrow_mut(|pool| {
            let waits = pool.waiting.contains(&self.0);
            let silent = |state: &&mut State| state.lent_bytes > 0 && now.duration_since(state.moved) >= PATIENCE;
            for state in pool.parts.values_mut().filter(silent).filter(|_| waits) {
                state.cut_off = true;
                state.waker.wake_by_ref();
            }
            waits
        })
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.wait(false);
        HERE.with_borrow_mut(|pool| {
            pool.settle(self.0, 0);
            pool.parts.remove(&self.0);
            // All others' parts have grown.
            pool.wake_first();
        });
    }
}

#[cfg(test)]
mod tests;
