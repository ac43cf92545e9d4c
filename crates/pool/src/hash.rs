//! A fast hasher for ids and offsets, without a random seed: the same run gives the same order everywhere.

use std::hash::{BuildHasherDefault, Hasher};

pub(crate) type IdState = BuildHasherDefault<IdHasher>;

/// Group ids are unique already; one multiplication spreads them over the table.
#[derive(Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(byte.into());
        }
    }
    fn write_u32(&mut self, value: u32) {
        self.write_u64(value.into());
    }
    fn write_u64(&mut self, value: u64) {
        // 2^64 / golden ratio: neighbours end up far apart; the fold brings the good upper bits down to the bucket index.
        let product = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = product ^ (product >> 32);
    }
}
