//! Bytes on their way into a frame, with the checksums of their blocks where those were computed ahead.

use base::units::BLOCK;
use bytes::Bytes;
use std::rc::Rc;

/// From here on checksums are computed while the frame before is on its way to the device: below, they cost less than
/// remembering them does.
const AHEAD_FROM: usize = 64 << 10;

/// What a client wants written. Of a short one, or one that begins inside a block, the checksums come with the frame.
pub(crate) struct Payload {
    bytes: Bytes,
    sums: Sums,
}

/// Checksums of consecutive blocks.
#[derive(Clone, Default)]
pub(crate) struct Sums {
    all: Option<Rc<[u32]>>,
    first: usize,
}

impl Payload {
    /// `offset`: on the vDisk, bytes.
    pub fn new(offset: u64, bytes: Bytes) -> Payload {
        let ahead = bytes.len() >= AHEAD_FROM && offset % BLOCK == 0;
        let all = ahead.then(|| bytes.chunks_exact(BLOCK as usize).map(base::crc::crc32c).collect());
        Payload { bytes, sums: Sums { all, first: 0 } }
    }

    /// What [`Payload::split_to`] gave out.
    pub fn again(bytes: Bytes, sums: Sums) -> Payload {
        Payload { bytes, sums }
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Takes the first `len` bytes: whole blocks, if checksums were computed.
    pub fn split_to(&mut self, len: usize) -> (Bytes, Sums) {
        let sums = self.sums.clone();
        self.sums.first += len / BLOCK as usize;
        (self.bytes.split_to(len), sums)
    }
}

impl Sums {
    /// Adds the checksums of the blocks of `bytes`.
    pub fn push_to(&self, crcs: &mut Vec<u32>, bytes: &[u8]) {
        let count = bytes.len() / BLOCK as usize;
        match &self.all {
            Some(all) => crcs.extend_from_slice(&all[self.first..self.first + count]),
            None => crcs.extend(bytes.chunks(BLOCK as usize).map(base::crc::crc32c)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_that_were_computed_ahead_are_those_of_the_blocks() {
        let block = BLOCK as usize;
        for (offset, len) in [(0, 40 * block), (BLOCK, 16 * block + 512), (512, 20 * block), (0, 2 * block)] {
            let bytes: Bytes = (0..len).map(|at| (at * 7 + at / block) as u8).collect();
            let mut payload = Payload::new(offset, bytes);
            while payload.len() >= block {
                let (part, sums) = payload.split_to((3 * block).min(payload.len() / block * block));
                let (mut found, mut expected) = (Vec::new(), Vec::new());
                sums.push_to(&mut found, &part);
                expected.extend(part.chunks(block).map(base::crc::crc32c));
                assert_eq!(found, expected);
            }
        }
    }
}
