//! What recent groups hold, by block: kept while it fits, so that a dead group need not be read to be shown dead.
//!
//! Complete or not there: a group's list begins when the group is opened and has every run of every frame. Which extents
//! live is asked of a synced checkpoint all the same; this only says what to ask for.

use crate::log::frame::{Frame, Run, RunKind};
use base::{GroupId, Sequence, varint};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Blocks, or one page of the map.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Held {
    /// `None`: data.
    pub level: Option<u8>,
    pub block: u64,
    pub count: u32,
}

/// Runs in the order in which they were stored, about 4 bytes for each block that stands alone.
///
/// Each is a number of [`varint`]. Its two lowest bits are one of the forms below; above them is the distance from the end of the
/// run before, its sign in the lowest bit.
#[derive(Clone, Default)]
pub(crate) struct Runs {
    bytes: Vec<u8>,
    /// Where the last of those in `bytes` ended.
    end: u64,
    /// Not in `bytes` yet: it may go on.
    last: Option<Held>,
}

const ONE_BLOCK: u64 = 0;
/// Followed by the number of blocks.
const BLOCKS: u64 = 1;
/// Followed by the level.
const PAGE: u64 = 2;

impl Runs {
    /// Joined with the one before if it goes on there.
    pub fn push(&mut self, run: Held) {
        if let Some(last) = &mut self.last {
            if last.level.is_none()
                && run.level.is_none()
                && last.block + u64::from(last.count) == run.block
                && let Some(count) = last.count.checked_add(run.count)
            {
                last.count = count;
                return;
            }
            let last = *last;
            self.store(last);
        }
        self.last = Some(run);
    }

    fn store(&mut self, run: Held) {
        let signed = varint::of_signed(run.block.wrapping_sub(self.end) as i64);
        let (form, more) = match (run.level, run.count) {
            (None, 1) => (ONE_BLOCK, None),
            (None, count) => (BLOCKS, Some(u64::from(count))),
            (Some(level), 1) => (PAGE, Some(level.into())),
            (Some(_), count) => panic!("{count} pages in one run"),
        };
        push_number(&mut self.bytes, signed << 2 | form);
        more.into_iter().for_each(|more| push_number(&mut self.bytes, more));
        self.end = run.block + u64::from(run.count);
    }

    pub fn iter(&self) -> impl Iterator<Item = Held> {
        let (mut rest, mut end) = (&self.bytes[..], 0_u64);
        let stored = std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            // Who frees a group relies on nothing being left out: what is not understood ends in a panic, not in silence.
            let mut more = || varint::take(&mut rest).expect("runs are stored whole");
            let first = more();
            let block = end.wrapping_add(varint::to_signed(first >> 2) as u64);
            let (level, count) = match first & 3 {
                ONE_BLOCK => (None, 1),
                BLOCKS => (None, u32::try_from(more()).expect("a count")),
                PAGE => (Some(u8::try_from(more()).expect("a level")), 1),
                form => panic!("a run of form {form}"),
            };
            end = block + u64::from(count);
            Some(Held { level, block, count })
        });
        stored.chain(self.last)
    }

    fn held_bytes(&self) -> u64 {
        (size_of::<Listed>() + self.bytes.capacity()) as u64
    }
}

impl FromIterator<Held> for Runs {
    fn from_iter<I: IntoIterator<Item = Held>>(all: I) -> Runs {
        let mut runs = Runs::default();
        all.into_iter().for_each(|run| runs.push(run));
        runs
    }
}

fn push_number(bytes: &mut Vec<u8>, number: u64) {
    if bytes.capacity() - bytes.len() < varint::BYTES_MAX {
        // Not twice as much: there are many lists, and most of them never grow again.
        bytes.reserve_exact(varint::BYTES_MAX.max(bytes.len() / 8));
    }
    varint::put(bytes, number);
}

/// All that a group holds.
#[derive(Clone)]
pub(crate) struct Listed {
    /// Of its first frame.
    pub first: Sequence,
    pub held: Runs,
}

struct Entry {
    listed: Listed,
    /// It waits for a checkpoint to come free.
    emptied: bool,
}

pub(crate) struct Contents {
    groups: BTreeMap<GroupId, Entry>,
    /// Sum over the vDisks of a shard, bytes.
    shared: Rc<Cell<u64>>,
    max_bytes: u64,
}

impl Contents {
    pub fn new(shared: Rc<Cell<u64>>, max_bytes: u64) -> Contents {
        Contents { groups: BTreeMap::new(), shared, max_bytes }
    }

    /// Nothing is in it yet.
    pub fn opened(&mut self, group: GroupId, first: Sequence) {
        self.insert(group, Entry { listed: Listed { first, held: Runs::default() }, emptied: false });
    }

    pub fn appended(&mut self, frame: &Frame) {
        let Some(Entry { listed: Listed { held, .. }, .. }) = self.groups.get_mut(&frame.group) else { return };
        let before = held.held_bytes();
        frame.runs.iter().filter_map(held_by).for_each(|run| held.push(run));
        self.shared.set(self.shared.get() + held.held_bytes() - before);
        self.keep_within();
    }

    /// Found by reading the whole group, which was emptied.
    pub fn emptied(&mut self, group: GroupId, listed: Listed) {
        self.insert(group, Entry { listed, emptied: true });
    }

    /// What was emptied and has not come free is somebody's after all: its list is one among others.
    pub fn none_is_emptied(&mut self) {
        self.groups.values_mut().for_each(|entry| entry.emptied = false);
    }

    fn insert(&mut self, group: GroupId, entry: Entry) {
        self.forget(group);
        self.shared.set(self.shared.get() + entry.listed.held.held_bytes());
        self.groups.insert(group, entry);
        self.keep_within();
    }

    pub fn of(&self, group: GroupId) -> Option<&Listed> {
        self.groups.get(&group).map(|entry| &entry.listed)
    }

    pub fn forget(&mut self, group: GroupId) {
        if let Some(Entry { listed, .. }) = self.groups.remove(&group) {
            self.shared.set(self.shared.get() - listed.held.held_bytes());
        }
    }

    /// The oldest go first: if they were going to die soon, they would have. Those that were emptied go last: they are asked
    /// for next.
    fn keep_within(&mut self) {
        while self.shared.get() > self.max_bytes {
            let oldest = self.groups.iter().find(|(_, entry)| !entry.emptied).or(self.groups.iter().next());
            let Some(oldest) = oldest.map(|(group, _)| *group) else { return };
            self.forget(oldest);
        }
    }
}

impl Drop for Contents {
    fn drop(&mut self) {
        let all: u64 = self.groups.values().map(|entry| entry.listed.held.held_bytes()).sum();
        self.shared.set(self.shared.get() - all);
    }
}

/// What the run stores.
pub(crate) fn held_by(run: &Run) -> Option<Held> {
    match run.kind {
        RunKind::Data => Some(Held { level: None, count: run.count, block: run.block }),
        RunKind::Page => Some(Held { level: Some(run.level), count: 1, block: run.block }),
        RunKind::ClearHole | RunKind::ClearZeros | RunKind::Control => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(block: u64, count: u32) -> Held {
        Held { level: None, count, block }
    }

    fn page(level: u8, block: u64) -> Held {
        Held { level: Some(level), count: 1, block }
    }

    #[test]
    fn runs_that_go_on_are_joined_and_pages_are_not() {
        let runs = [data(0, 4), data(4, 4), data(9, 1), data(10, 1), data(8, 1), page(0, 9), page(0, 10)];
        let held: Vec<_> = runs.into_iter().collect::<Runs>().iter().collect();
        assert_eq!(held, [data(0, 8), data(9, 2), data(8, 1), page(0, 9), page(0, 10)]);
    }

    #[test]
    fn what_is_pushed_is_what_comes_back() {
        let last = (64 << 40) / 4096 - 1;
        let edges = [data(last, 1), data(0, u32::MAX), page(3, 0), page(0, last), data(last - 255, 256), data(7, 2)];
        assert_eq!(edges.into_iter().collect::<Runs>().iter().collect::<Vec<_>>(), edges);
        let mut number = 1_u64;
        let mut random = |below: u64| {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (number >> 20) % below
        };
        // Two blocks apart at least: nothing is joined.
        let blocks: Vec<_> = (0..10_000).map(|_| data(2 * random(1 << 19), 1)).collect();
        let runs: Runs = blocks.iter().copied().collect();
        assert!(runs.iter().eq(blocks.iter().copied()));
        assert!(runs.bytes.len() <= 4 * blocks.len(), "{} bytes", runs.bytes.len());
    }

    #[test]
    fn the_oldest_list_goes_when_there_are_too_many_and_none_is_ever_a_part() {
        let shared = Rc::new(Cell::new(0));
        let group = |counter| GroupId::new(1, counter);
        let listed = |count| Listed { first: Sequence(1), held: (0..count).map(|i| data(3 * i, 1)).collect() };
        let bytes = |count| listed(count).held.held_bytes();
        let mut contents = Contents::new(shared.clone(), bytes(1000) + bytes(1000) / 2);
        let mut insert = |counter, count, emptied| {
            contents.insert(group(counter), Entry { listed: listed(count), emptied });
            (1..=4).filter(|counter| contents.of(group(*counter)).is_some()).collect::<Vec<_>>()
        };
        assert_eq!(insert(1, 1000, false), [1]);
        assert_eq!(insert(2, 1000, false), [2]);
        assert_eq!(insert(1, 1000, true), [1], "asked for next");
        assert_eq!(insert(2, 1000, true), [2]);
        assert_eq!(insert(3, 2000, false), [2], "more than all may hold");
        assert_eq!(insert(4, 2, false), [2, 4]);
        contents.none_is_emptied();
        contents.insert(group(5), Entry { listed: listed(1000), emptied: false });
        assert!(contents.of(group(2)).is_none() && contents.of(group(5)).is_some(), "one among others again");
        assert_eq!(shared.get(), bytes(2) + bytes(1000));
        drop(contents);
        assert_eq!(shared.get(), 0);
    }
}
