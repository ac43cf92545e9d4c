//! Bytes on their way to the client: small pieces gathered in one buffer, large ones by reference, zeros from a static
//! page, all of it offered as one vectored write.

use bytes::Bytes;
use std::collections::VecDeque;
use std::io::IoSlice;

/// Below this a piece is copied: one more iovec and reference count cost about as much as copying it.
const COPY_BELOW: usize = 1024;
/// Zeros are sent from this page again and again.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
/// Sent bytes are cut off the front of the gathered ones when there are this many of them.
const COMPACT_AT: usize = 64 << 10;
/// A buffer that grew beyond this is given back when everything was sent.
const KEEP_CAPACITY: usize = 64 << 10;

#[derive(Debug)]
enum Piece {
    /// The next `len` bytes of `gathered`.
    Gathered(usize),
    Shared(Bytes),
    Zeros(u64),
}

/// A queue of bytes. Whoever fills it bounds it: a session takes no request while too much is unsent.
#[derive(Debug, Default)]
pub struct Output {
    pieces: VecDeque<Piece>,
    gathered: Vec<u8>,
    /// Bytes of `gathered` that were sent.
    sent: usize,
    pending: u64,
}

impl Output {
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes that were put in and not yet taken out by [`Output::advance`].
    pub fn pending_bytes(&self) -> u64 {
        self.pending
    }

    pub fn is_empty(&self) -> bool {
        self.pending == 0
    }

    pub fn put(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.gathered.extend_from_slice(bytes);
        self.pending += bytes.len() as u64;
        match self.pieces.back_mut() {
            Some(Piece::Gathered(len)) => *len += bytes.len(),
            _ => self.pieces.push_back(Piece::Gathered(bytes.len())),
        }
    }

    pub fn put_shared(&mut self, bytes: Bytes) {
        if bytes.len() < COPY_BELOW {
            return self.put(&bytes);
        }
        self.pending += bytes.len() as u64;
        self.pieces.push_back(Piece::Shared(bytes));
    }

    pub fn put_zeros(&mut self, len: u64) {
        if len == 0 {
            return;
        }
        self.pending += len;
        match self.pieces.back_mut() {
            Some(Piece::Zeros(zeros)) => *zeros += len,
            _ => self.pieces.push_back(Piece::Zeros(len)),
        }
    }

    /// Fills `slices` from the front with what is to be sent next, in order; returns how many were filled.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        let mut gathered = self.gathered.get(self.sent..).unwrap_or_default();
        for piece in &self.pieces {
            let mut zeros_left = 0;
            let mut slice = match piece {
                Piece::Gathered(len) => {
                    let (head, tail) = gathered.split_at(*len);
                    gathered = tail;
                    head
                }
                Piece::Shared(bytes) => bytes,
                Piece::Zeros(len) => {
                    zeros_left = *len;
                    &[]
                }
            };
            loop {
                if zeros_left > 0 {
                    slice = &ZEROS[..zeros_left.min(ZEROS.len() as u64) as usize];
                    zeros_left -= slice.len() as u64;
                }
                let Some(slot) = slices.get_mut(filled) else { return filled };
                *slot = IoSlice::new(slice);
                filled += 1;
                if zeros_left == 0 {
                    break;
                }
            }
        }
        filled
    }

    /// The first `count` bytes were sent. Panics if there are not that many.
    pub fn advance(&mut self, count: usize) {
        assert!(count as u64 <= self.pending, "{count} bytes sent of {} pending", self.pending);
        self.pending -= count as u64;
        let mut left = count as u64;
        while left > 0 {
            let piece = self.pieces.front_mut().expect("pending counts the bytes of the pieces");
            let gone = match piece {
                Piece::Gathered(len) => {
                    let gone = left.min(*len as u64);
                    *len -= gone as usize;
                    self.sent += gone as usize;
                    (gone, *len == 0)
                }
                Piece::Shared(bytes) => {
                    let gone = left.min(bytes.len() as u64);
                    bytes::Buf::advance(bytes, gone as usize);
                    (gone, bytes.is_empty())
                }
                Piece::Zeros(len) => {
                    let gone = left.min(*len);
                    *len -= gone;
                    (gone, *len == 0)
                }
            };
            left -= gone.0;
            if gone.1 {
                self.pieces.pop_front();
            }
        }
        self.tidy();
    }

    fn tidy(&mut self) {
        if self.sent == self.gathered.len() {
            self.gathered.clear();
            self.sent = 0;
            if self.pending == 0 && self.gathered.capacity() > KEEP_CAPACITY {
                self.gathered = Vec::new();
                self.pieces = VecDeque::new();
            }
        } else if self.sent >= COMPACT_AT {
            self.gathered.drain(..self.sent);
            self.sent = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Takes everything out, at most `step` bytes and `width` slices at a time.
    fn drain(output: &mut Output, step: usize, width: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while !output.is_empty() {
            let mut slices = vec![IoSlice::new(&[]); width];
            let filled = output.slices(&mut slices);
            assert!(filled > 0);
            let flat: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.iter().copied()).collect();
            let taken = flat.len().min(step);
            assert!(taken > 0, "empty slices with {} bytes pending", output.pending_bytes());
            all.extend_from_slice(&flat[..taken]);
            output.advance(taken);
        }
        all
    }

    proptest! {
        #[test]
        fn gives_back_what_was_put(
            puts in prop::collection::vec((0u8..3, 0usize..5000), 0..20),
            step in 1usize..100_000,
            width in 1usize..5,
        ) {
            let mut output = Output::new();
            let mut expect = Vec::new();
            for (index, (kind, len)) in puts.into_iter().enumerate() {
                let bytes = vec![index as u8 + 1; len];
                match kind {
                    0 => output.put(&bytes),
                    1 => output.put_shared(bytes.clone().into()),
                    _ => output.put_zeros(len as u64 * 40),
                }
                expect.extend(if kind < 2 { bytes } else { vec![0; len * 40] });
            }
            prop_assert_eq!(output.pending_bytes(), expect.len() as u64);
            prop_assert!(drain(&mut output, step, width) == expect);
            prop_assert!(output.gathered.is_empty());
        }
    }

    #[test]
    fn what_is_never_wholly_sent_does_not_grow() {
        let mut output = Output::new();
        output.put(&[1; 100]);
        for _ in 0..10_000 {
            output.put(&[2; 100]);
            output.advance(100);
        }
        assert_eq!(output.pending_bytes(), 100);
        assert!(output.gathered.len() < COMPACT_AT + 300, "{}", output.gathered.len());
    }
}
