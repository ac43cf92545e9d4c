//! What each sector of a vDisk may hold: self-identifying content, and a journal of what was acknowledged.
//!
//! Every written sector names its address and the write that it came from, and its bytes follow from these two, so a
//! misplaced, stale, torn or mixed sector is seen as such. The journal keeps, for each sector, every value that could
//! legally be there: a write is ruled out only by another one that was *issued* after it was acknowledged and was
//! itself acknowledged (or, for power loss, covered by an acknowledged flush).
//!
//! Invariant: time is a counter that grows by one at each event; no two events share a time.

use crate::random::Random;
use std::fmt;

pub const SECTOR: usize = 512;
const MAGIC: u64 = 0x5354_4f4e_4557_414c;
const NEVER: u64 = u64::MAX;
/// A sector's ruled-out values are forgotten when the list grows past this and no read can still be under way.
const HISTORY: usize = 24;
/// Events that no read under way outlasts: a few connections with a few dozen requests each.
const READ_SPAN: u64 = 100_000;

/// What a sector holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Value {
    Zero,
    /// The number of the write that it came from.
    Write(u64),
}

/// What was found in a sector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    Value(Value),
    /// Content of another sector.
    Misplaced {
        sector: u64,
        write: u64,
    },
    Garbage,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Found::Value(Value::Zero) => write!(f, "zeros"),
            Found::Value(Value::Write(write)) => write!(f, "write {write}"),
            Found::Misplaced { sector, write } => write!(f, "sector {sector} of write {write}"),
            Found::Garbage => write!(f, "bytes that nobody wrote"),
        }
    }
}

/// Fills `into` (whole sectors) with the content of `write` from `sector` on. `salt` tells vDisks apart.
pub fn compose(into: &mut [u8], salt: u64, sector: u64, write: u64) {
    for (index, bytes) in into.chunks_exact_mut(SECTOR).enumerate() {
        let sector = sector + index as u64;
        bytes[..8].copy_from_slice(&(MAGIC ^ salt).to_le_bytes());
        bytes[8..16].copy_from_slice(&sector.to_le_bytes());
        bytes[16..24].copy_from_slice(&write.to_le_bytes());
        Random::new(MAGIC ^ salt ^ sector << 40 ^ write).fill(&mut bytes[24..]);
    }
}

pub fn examine(bytes: &[u8], salt: u64, sector: u64) -> Found {
    if bytes.iter().all(|byte| *byte == 0) {
        return Found::Value(Value::Zero);
    }
    let word = |from: usize| u64::from_le_bytes(bytes[from..from + 8].try_into().expect("8 bytes"));
    let (claimed, write) = (word(8), word(16));
    let mut expect = [0u8; SECTOR];
    compose(&mut expect, salt, claimed, write);
    if bytes != expect {
        return Found::Garbage;
    }
    if claimed != sector {
        return Found::Misplaced { sector: claimed, write };
    }
    Found::Value(Value::Write(write))
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    value: Value,
    issued: u64,
    acknowledged: u64,
    ruled_out: u64,
}

/// One vDisk's sectors and what they may hold.
pub struct Journal {
    sectors: Vec<Vec<Candidate>>,
    now: u64,
}

/// Handle of a write under way.
#[derive(Clone, Copy, Debug)]
pub struct Issued {
    pub first: u64,
    pub count: u64,
    pub at: u64,
}

impl Journal {
    /// All zeros, as a new vDisk is.
    pub fn new(sectors: u64) -> Journal {
        let blank = Candidate { value: Value::Zero, issued: 0, acknowledged: 0, ruled_out: NEVER };
        Journal { sectors: vec![vec![blank]; sectors as usize], now: 1 }
    }

    pub fn sectors(&self) -> u64 {
        self.sectors.len() as u64
    }

    pub fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    fn range(&mut self, first: u64, count: u64) -> &mut [Vec<Candidate>] {
        &mut self.sectors[first as usize..(first + count) as usize]
    }

    /// Before the request is sent.
    pub fn issue(&mut self, first: u64, count: u64, value: Value) -> Issued {
        let at = self.tick();
        for sector in self.range(first, count) {
            sector.push(Candidate { value, issued: at, acknowledged: NEVER, ruled_out: NEVER });
        }
        Issued { first, count, at }
    }

    /// After its reply was received.
    pub fn acknowledge(&mut self, write: Issued) {
        let now = self.tick();
        let horizon = now.saturating_sub(READ_SPAN);
        for sector in self.range(write.first, write.count) {
            for candidate in sector.iter_mut() {
                if candidate.issued == write.at {
                    candidate.acknowledged = now;
                } else if candidate.acknowledged < write.at && candidate.ruled_out == NEVER {
                    candidate.ruled_out = now;
                }
            }
            if sector.len() > HISTORY {
                sector.retain(|candidate| candidate.ruled_out > horizon);
            }
        }
    }

    /// Is `found` legal for a read that was issued at `since` and answered now?
    pub fn allows(&self, sector: u64, found: Found, since: u64) -> bool {
        let Found::Value(value) = found else { return false };
        self.sectors[sector as usize].iter().any(|candidate| candidate.value == value && candidate.ruled_out > since)
    }

    /// After a crash nothing is under way any more: what is there now is what must stay.
    pub fn settle(&mut self, sector: u64, value: Value) {
        let now = self.now;
        let candidates = &mut self.sectors[sector as usize];
        let issued =
            candidates.iter().filter(|candidate| candidate.value == value).map(|candidate| candidate.issued).max();
        *candidates = vec![Candidate { value, issued: issued.unwrap_or(now), acknowledged: now, ruled_out: NEVER }];
    }

    /// What may legally be there, for messages.
    pub fn legal(&self, sector: u64) -> String {
        let candidates = self.sectors[sector as usize].iter().filter(|candidate| candidate.ruled_out == NEVER);
        let words: Vec<String> = candidates
            .map(|candidate| {
                let state = if candidate.acknowledged == NEVER { "in flight" } else { "acknowledged" };
                format!("{} ({state})", Found::Value(candidate.value))
            })
            .collect();
        words.join(" or ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sectors_prove_what_they_are() {
        let mut bytes = vec![0u8; 2 * SECTOR];
        assert_eq!(examine(&bytes[..SECTOR], 7, 3), Found::Value(Value::Zero));
        compose(&mut bytes, 7, 3, 99);
        assert_eq!(examine(&bytes[..SECTOR], 7, 3), Found::Value(Value::Write(99)));
        assert_eq!(examine(&bytes[SECTOR..], 7, 4), Found::Value(Value::Write(99)));
        assert_eq!(examine(&bytes[SECTOR..], 7, 3), Found::Misplaced { sector: 4, write: 99 });
        assert_eq!(examine(&bytes[..SECTOR], 8, 3), Found::Garbage, "another vDisk's");
        bytes[511] ^= 1;
        assert_eq!(examine(&bytes[..SECTOR], 7, 3), Found::Garbage);
    }

    #[test]
    fn only_a_later_acknowledged_write_rules_one_out() {
        let written = |write| Found::Value(Value::Write(write));
        let mut journal = Journal::new(1);
        let a = journal.issue(0, 1, Value::Write(1));
        let since = journal.tick();
        assert!(journal.allows(0, written(1), since), "in flight: either");
        assert!(journal.allows(0, Found::Value(Value::Zero), since));
        journal.acknowledge(a);
        let since = journal.tick();
        assert!(!journal.allows(0, Found::Value(Value::Zero), since), "lost an acknowledged write");
        let b = journal.issue(0, 1, Value::Write(2));
        let c = journal.issue(0, 1, Value::Write(3));
        journal.acknowledge(c);
        journal.acknowledge(b);
        let since = journal.tick();
        assert!(journal.allows(0, written(2), since) && journal.allows(0, written(3), since), "they overlapped");
        assert!(!journal.allows(0, written(1), since));
        journal.settle(0, Value::Write(3));
        assert!(!journal.allows(0, written(2), journal.now), "what was seen after the crash stays");
    }
}
