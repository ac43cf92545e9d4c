//! What recent groups hold, by block: kept while it fits, so that a dead group need not be read to be shown dead.
//!
//! Complete or not there: a group's list begins when the group is opened and has every run of every frame. Which extents
//! live is asked of a synced checkpoint all the same; this only says what to ask for.

use crate::log::frame::{Frame, Run, RunKind};
use base::{GroupId, Sequence};
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

/// All that a group holds.
#[derive(Clone)]
pub(crate) struct Listed {
    /// Of its first frame.
    pub first: Sequence,
    pub held: Vec<Held>,
}

const HELD_BYTES: u64 = size_of::<Held>() as u64;

pub(crate) struct Contents {
    groups: BTreeMap<GroupId, Listed>,
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
        self.groups.insert(group, Listed { first, held: Vec::new() });
    }

    pub fn appended(&mut self, frame: &Frame) {
        let Some(Listed { held, .. }) = self.groups.get_mut(&frame.group) else { return };
        let before = held.len();
        frame.runs.iter().filter_map(held_by).for_each(|run| push(held, run));
        self.shared.set(self.shared.get() + (held.len() - before) as u64 * HELD_BYTES);
        self.keep_within();
    }

    /// Found by reading the whole group.
    pub fn learn(&mut self, group: GroupId, listed: Listed) {
        self.forget(group);
        self.shared.set(self.shared.get() + listed.held.len() as u64 * HELD_BYTES);
        self.groups.insert(group, listed);
        self.keep_within();
    }

    pub fn of(&self, group: GroupId) -> Option<&Listed> {
        self.groups.get(&group)
    }

    pub fn forget(&mut self, group: GroupId) {
        if let Some(Listed { held, .. }) = self.groups.remove(&group) {
            self.shared.set(self.shared.get() - held.len() as u64 * HELD_BYTES);
        }
    }

    /// The oldest go first: if they were going to die soon, they would have.
    fn keep_within(&mut self) {
        while self.shared.get() > self.max_bytes
            && let Some(oldest) = self.groups.keys().next().copied()
        {
            self.forget(oldest);
        }
    }
}

impl Drop for Contents {
    fn drop(&mut self) {
        let all: u64 = self.groups.values().map(|listed| listed.held.len() as u64 * HELD_BYTES).sum();
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

/// Joined with the one before if it goes on there.
pub(crate) fn push(held: &mut Vec<Held>, run: Held) {
    if let Some(last) = held.last_mut()
        && last.level.is_none()
        && run.level.is_none()
        && last.block + u64::from(last.count) == run.block
        && let Some(count) = last.count.checked_add(run.count)
    {
        last.count = count;
        return;
    }
    held.push(run);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(block: u64, count: u32) -> Held {
        Held { level: None, count, block }
    }

    #[test]
    fn runs_that_go_on_are_joined_and_pages_are_not() {
        let mut held = Vec::new();
        for run in [data(0, 4), data(4, 4), data(9, 1), data(10, 1), data(8, 1)] {
            push(&mut held, run);
        }
        let page = |block| Held { level: Some(0), count: 1, block };
        push(&mut held, page(9));
        push(&mut held, page(10));
        assert_eq!(held, [data(0, 8), data(9, 2), data(8, 1), page(9), page(10)]);
    }

    #[test]
    fn the_oldest_list_goes_when_there_are_too_many_and_none_is_ever_a_part() {
        let shared = Rc::new(Cell::new(0));
        let mut contents = Contents::new(shared.clone(), 4 * HELD_BYTES);
        let group = |counter| GroupId::new(1, counter);
        let listed = |count| Listed { first: Sequence(1), held: vec![data(0, 1); count] };
        contents.learn(group(1), listed(3));
        contents.learn(group(2), listed(3));
        assert!(contents.of(group(1)).is_none() && contents.of(group(2)).is_some());
        assert_eq!(shared.get(), 3 * HELD_BYTES);
        contents.learn(group(3), listed(5));
        assert!(contents.of(group(3)).is_none(), "more than all may hold");
        drop(contents);
        assert_eq!(shared.get(), 0);
    }
}
