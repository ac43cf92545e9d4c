//! Memory for what clients send and ask for: how much of it at once, and where large data lies.

use crate::buffer::ALIGN;
use bytes::{Buf, BytesMut};

/// What one connection may have under way of payload: of requests, and of replies not yet sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    pub payload_bytes: u64,
    /// A request up to this is taken, if it is larger than that, when nothing else is held.
    pub single_bytes: u64,
}

impl Room {
    /// Whether `wanted_bytes` more may be taken on.
    pub fn admits(&self, wanted_bytes: u64, held: Held) -> bool {
        let Held(held) = held;
        held + wanted_bytes <= self.payload_bytes || held == 0 && wanted_bytes <= self.single_bytes
    }
}

/// Bytes that are held already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held(pub u64);

/// Data of this much, of whole pages, is received where it can go to a disk from without a copy. Less is copied sooner
/// than that pays, and kept in caches, where each would take a page more.
const ALIGNED_BYTES_MIN: usize = 128 << 10;

/// An empty buffer for so much data; for much of it at an address that is a multiple of 4 KiB.
pub fn buffer(len: usize) -> BytesMut {
    if len < ALIGNED_BYTES_MIN || len % ALIGN != 0 {
        return BytesMut::with_capacity(len);
    }
    let mut buffer = BytesMut::with_capacity(len + ALIGN);
    let skip = buffer.as_ptr().align_offset(ALIGN);
    buffer.resize(skip, 0);
    buffer.advance(skip);
    buffer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_larger_than_the_room_goes_alone() {
        let room = Room { payload_bytes: 10, single_bytes: 20 };
        for (wanted, held, admitted) in
            [(10, 0, true), (4, 6, true), (5, 6, false), (20, 0, true), (20, 1, false), (21, 0, false)]
        {
            assert_eq!(room.admits(wanted, Held(held)), admitted, "{wanted} beside {held}");
        }
    }

    #[test]
    fn large_buffers_are_aligned() {
        for len in [0, 512, 64 << 10, 128 << 10, (128 << 10) + 512, 1 << 20] {
            let buffer = buffer(len);
            assert!(buffer.is_empty() && buffer.capacity() >= len, "{len}");
            assert!(len < 128 << 10 || len % ALIGN != 0 || buffer.as_ptr().align_offset(ALIGN) == 0, "{len}");
        }
    }
}
