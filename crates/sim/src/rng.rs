//! The only source of chance in a simulation: a small seeded generator (xoshiro256++, Blackman and Vigna 2019).

/// Same seed, same numbers, on every platform and in every version: seeds in bug reports stay valid.
#[derive(Clone, Debug)]
pub struct Rng {
    state: [u64; 4],
}

/// One step of splitmix64: turns any number, even a counter, into a well-mixed one.
pub fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Rng {
    /// Streams of one seed are independent of each other, so that adding a draw in one disturbs no other.
    pub fn new(seed: u64, stream: u64) -> Self {
        let start = mix(seed) ^ mix(stream.wrapping_mul(0xd6e8_feb8_6659_fd93));
        let mut state = [0; 4];
        for (index, word) in state.iter_mut().enumerate() {
            *word = mix(start.wrapping_add(index as u64));
        }
        Rng { state }
    }

    pub fn next_u64(&mut self) -> u64 {
        let [a, b, c, d] = self.state;
        let result = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let (c, d) = (c ^ a, d ^ b);
        self.state = [a ^ d, b ^ c, c ^ (b << 17), d.rotate_left(45)];
        result
    }

    /// Uniform in `0..bound`; 0 if `bound` is 0. The bias of the plain remainder does not matter here.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next_u64() % bound }
    }

    /// Uniform in `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    pub fn chance(&mut self, chance: Chance) -> bool {
        // No draw when it cannot happen: switching a fault on does not shift what else is drawn before it fires.
        chance.0 > 0 && self.below(1_000_000) < chance.0 as u64
    }

    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len() as u64) as usize)
    }
}

/// A probability in parts per million.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chance(pub u32);

impl Chance {
    pub const NEVER: Chance = Chance(0);
    pub const HALF: Chance = Chance(500_000);
    pub const fn percent(percent: u32) -> Chance {
        Chance(percent * 10_000)
    }
}
