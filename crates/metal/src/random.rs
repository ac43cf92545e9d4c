//! Random numbers from the kernel's generator.

use std::cell::{Cell, RefCell};
use world::Random;

/// Bytes fetched from `getrandom` at a time: 256 is the most that it promises to give whole, and it spreads the cost of
/// the call over 32 numbers.
const BATCH_BYTES: usize = 256;
const NUMBERS: usize = BATCH_BYTES / 8;

/// Every number comes straight from `getrandom`, so it may be used for secrets as well.
pub(crate) struct KernelRandom {
    batch: RefCell<[u8; BATCH_BYTES]>,
    /// Index of the next number; `NUMBERS` when the batch is used up.
    next: Cell<usize>,
}

impl KernelRandom {
    pub(crate) fn new() -> Self {
        KernelRandom { batch: RefCell::new([0; BATCH_BYTES]), next: Cell::new(NUMBERS) }
    }
}

impl Random for KernelRandom {
    fn next_u64(&self) -> u64 {
        let mut batch = self.batch.borrow_mut();
        if self.next.get() == NUMBERS {
            fill(&mut batch[..]);
            self.next.set(0);
        }
        let index = self.next.get();
        self.next.set(index + 1);
        let number = &mut batch[index * 8..index * 8 + 8];
        let value = u64::from_le_bytes(number.try_into().expect("eight bytes were sliced"));
        // A number that was handed out is nobody's business any more, not even of a core dump.
        number.fill(0);
        value
    }
}

fn fill(mut rest: &mut [u8]) {
    while !rest.is_empty() {
        match rustix::rand::getrandom(&mut *rest, rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => rest = &mut rest[count..],
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => panic!("getrandom failed, which Linux never does after boot: {errno}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn numbers_do_not_repeat() {
        let random = KernelRandom::new();
        let numbers: BTreeSet<u64> = (0..10_000).map(|_| random.next_u64()).collect();
        assert_eq!(numbers.len(), 10_000);
    }
}
