//! A fast hasher without a random seed: the same run gives the same order, in production as in simulation.

use std::hash::{BuildHasher, Hasher};

/// For hash maps whose keys are ids and offsets that no client chooses.
#[derive(Clone, Copy, Default, Debug)]
pub struct FixedState;

/// Multiply and fold (the finaliser of splitmix64), 8 bytes at a time.
#[derive(Clone, Copy, Debug)]
pub struct FixedHasher(u64);

impl BuildHasher for FixedState {
    type Hasher = FixedHasher;
    fn build_hasher(&self) -> FixedHasher {
        FixedHasher(0x9e37_79b9_7f4a_7c15)
    }
}

impl Hasher for FixedHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            for (to, from) in word.iter_mut().zip(chunk) {
                *to = *from;
            }
            self.write_u64(u64::from_le_bytes(word));
        }
    }
    fn write_u8(&mut self, value: u8) {
        self.write_u64(value.into());
    }
    fn write_u32(&mut self, value: u32) {
        self.write_u64(value.into());
    }
    fn write_u64(&mut self, value: u64) {
        let product = u128::from(self.0 ^ value) * 0x94d0_49bb_1331_11eb_u128;
        self.0 = (product as u64) ^ ((product >> 64) as u64).rotate_left(31);
    }
    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }
}
