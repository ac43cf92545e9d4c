//! What a connection has read and not parsed, in buffers that a worker's connections share.

use std::cell::RefCell;
use std::io;
use std::task::Poll;

/// What one read may bring. Large enough for a full queue of small writes; more only spills the cache.
pub const INPUT_BYTES: usize = 256 << 10;
/// Idle input buffers that a worker keeps. Connections borrow one only while there is something in it.
const INPUTS_KEPT: usize = 8;

thread_local! {
    /// Zeroing and faulting in 256 KiB for each read would cost more than the read.
    static INPUTS: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Received bytes that are not parsed yet: all the time none, unless the session is full.
#[derive(Default)]
pub struct Input {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Input {
    pub fn holding(bytes: Vec<u8>) -> Input {
        Input { start: 0, end: bytes.len(), buffer: bytes.into() }
    }

    pub fn rest(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    fn borrow() -> Box<[u8]> {
        let kept = INPUTS.with_borrow_mut(Vec::pop);
        kept.unwrap_or_else(|| vec![0; INPUT_BYTES].into())
    }

    /// Has `read` fill a buffer of `limit` bytes, at most [`INPUT_BYTES`]. To be called when nothing is left in it.
    pub fn fill(
        &mut self,
        limit: usize,
        read: impl FnOnce(&mut [u8]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let mut buffer = Input::borrow();
        let result = read(buffer.get_mut(..limit).expect("the limits are below its size"));
        *self = Input { start: 0, end: if let Poll::Ready(Ok(count)) = result { count } else { 0 }, buffer };
        self.give_back_if_empty();
        result
    }

    /// All but the last `count` bytes were used.
    pub fn leave(&mut self, count: usize) {
        self.start = self.end - count;
        self.give_back_if_empty();
    }

    /// Gives the large buffer back while the connection waits with little in it.
    pub fn compact(&mut self) {
        if self.rest().len() < self.buffer.len() / 2 {
            let rest = Input::holding(self.rest().to_vec());
            self.start = self.end;
            self.give_back_if_empty();
            *self = rest;
        }
    }

    fn give_back_if_empty(&mut self) {
        if self.start < self.end {
            return;
        }
        let buffer = std::mem::take(&mut self.buffer);
        INPUTS.with_borrow_mut(|kept| {
            if buffer.len() == INPUT_BYTES && kept.len() < INPUTS_KEPT {
                kept.push(buffer);
            }
        });
        (self.start, self.end) = (0, 0);
    }
}
