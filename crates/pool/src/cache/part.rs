//! One part of the cache: a table, two queues, and the ghosts of what left the small one.
//!
//! Entries live in a slab of places. The queues hold places; an entry that is removed leaves its place in its queue,
//! and the place is used again when the queue gives it out.

use super::{CacheStats, Key};
use base::GroupId;
use base::hash::FixedState;
use bytes::Bytes;
use hashbrown::{HashMap, HashSet};
use std::collections::VecDeque;
use std::hash::BuildHasher;

/// What an entry takes beside its bytes: its place, its row in the table, the handle's shared count, its queue slot.
const OVERHEAD_BYTES: u64 = 128;
/// The small queue's share: a tenth, as in the paper.
const SMALL_SHARE: u64 = 10;
/// Hits count up to here; each lap of the main queue costs an entry one.
const HITS_MAX: u8 = 3;
/// No place: the end of a list.
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Queue {
    Small,
    Main,
}

struct Entry {
    key: Key,
    bytes: Bytes,
    hits: u8,
    queue: Queue,
    live: bool,
    /// The list of the group's entries.
    next: u32,
    previous: u32,
}

impl Entry {
    fn cost(&self) -> u64 {
        self.bytes.len() as u64 + OVERHEAD_BYTES
    }
}

pub(super) struct Part {
    budget_bytes: u64,
    table: HashMap<Key, u32, FixedState>,
    entries: Vec<Entry>,
    /// Places that nobody uses.
    vacant: Vec<u32>,
    /// The newest entry of each group.
    groups: HashMap<GroupId, u32, FixedState>,
    small: VecDeque<u32>,
    main: VecDeque<u32>,
    small_bytes: u64,
    main_bytes: u64,
    /// Entries in the queues that were removed.
    dead: usize,
    /// Hashes of what was evicted from the small queue, oldest first: who comes back goes into the main queue.
    ghosts: VecDeque<u64>,
    ghost_set: HashSet<u64, FixedState>,
    hits: u64,
    misses: u64,
    evictions: u64,
}

impl Part {
    pub fn new(budget_bytes: u64) -> Self {
        Part {
            budget_bytes,
            table: HashMap::default(),
            entries: Vec::new(),
            vacant: Vec::new(),
            groups: HashMap::default(),
            small: VecDeque::new(),
            main: VecDeque::new(),
            small_bytes: 0,
            main_bytes: 0,
            dead: 0,
            ghosts: VecDeque::new(),
            ghost_set: HashSet::default(),
            hits: 0,
            misses: 0,
            evictions: 0,
        }
    }

    pub fn get(&mut self, key: Key) -> Option<Bytes> {
        let Some(&place) = self.table.get(&key) else {
            self.misses += 1;
            return None;
        };
        self.hits += 1;
        let entry = &mut self.entries[place as usize];
        entry.hits = (entry.hits + 1).min(HITS_MAX);
        Some(entry.bytes.clone())
    }

    pub fn insert(&mut self, key: Key, bytes: Bytes) {
        let cost = bytes.len() as u64 + OVERHEAD_BYTES;
        if cost > self.budget_bytes / 8 {
            return;
        }
        if let Some(&place) = self.table.get(&key) {
            // Two readers missed at once, or one wants more bytes from the same place: the longer one serves both.
            if bytes.len() > self.entries[place as usize].bytes.len() {
                self.replace(place, bytes);
                self.evict();
            }
            return;
        }
        let queue = if self.take_ghost(key) { Queue::Main } else { Queue::Small };
        let entry = Entry { key, bytes, hits: 0, queue, live: true, next: NONE, previous: NONE };
        let place = self.place(entry);
        self.table.insert(key, place);
        self.link(place);
        self.enqueue(place);
        self.evict();
    }

    fn replace(&mut self, place: u32, bytes: Bytes) {
        let entry = &mut self.entries[place as usize];
        let before = entry.cost();
        entry.bytes = bytes;
        let (queue, after) = (entry.queue, entry.cost());
        let sum = self.bytes_of(queue);
        *sum = *sum - before + after;
    }

    fn place(&mut self, entry: Entry) -> u32 {
        if let Some(place) = self.vacant.pop() {
            self.entries[place as usize] = entry;
            return place;
        }
        self.entries.push(entry);
        u32::try_from(self.entries.len() - 1).expect("4 billion entries do not fit into memory")
    }

    fn bytes_of(&mut self, queue: Queue) -> &mut u64 {
        match queue {
            Queue::Small => &mut self.small_bytes,
            Queue::Main => &mut self.main_bytes,
        }
    }

    fn enqueue(&mut self, place: u32) {
        let entry = &self.entries[place as usize];
        let (queue, cost) = (entry.queue, entry.cost());
        match queue {
            Queue::Small => self.small.push_back(place),
            Queue::Main => self.main.push_back(place),
        }
        *self.bytes_of(queue) += cost;
    }

    fn evict(&mut self) {
        while self.small_bytes + self.main_bytes > self.budget_bytes {
            if self.small_bytes > self.budget_bytes / SMALL_SHARE || self.main.is_empty() {
                self.evict_small();
            } else {
                self.evict_main();
            }
        }
    }

    /// The oldest of the small queue: into the main queue if it was asked for, out if not.
    fn evict_small(&mut self) {
        let Some(place) = self.small.pop_front() else { return };
        let entry = &mut self.entries[place as usize];
        if !entry.live {
            return self.vacate(place);
        }
        let cost = entry.cost();
        self.small_bytes -= cost;
        if entry.hits > 0 {
            entry.hits = 0;
            entry.queue = Queue::Main;
            self.enqueue(place);
        } else {
            let key = entry.key;
            self.drop_entry(place);
            self.remember(key);
        }
    }

    /// The oldest of the main queue: another lap if it was asked for, out if not.
    fn evict_main(&mut self) {
        let Some(place) = self.main.pop_front() else { return };
        let entry = &mut self.entries[place as usize];
        if !entry.live {
            return self.vacate(place);
        }
        if entry.hits > 0 {
            entry.hits -= 1;
            self.main.push_back(place);
        } else {
            self.main_bytes -= entry.cost();
            self.drop_entry(place);
        }
    }

    /// An entry that has left its queue and the sum of bytes.
    fn drop_entry(&mut self, place: u32) {
        self.unlink(place);
        let entry = &mut self.entries[place as usize];
        entry.bytes = Bytes::new();
        entry.live = false;
        self.table.remove(&entry.key);
        self.vacant.push(place);
        self.evictions += 1;
    }

    /// A place whose entry was removed before its queue gave it out.
    fn vacate(&mut self, place: u32) {
        self.dead -= 1;
        self.vacant.push(place);
    }

    fn remember(&mut self, key: Key) {
        let hash = FixedState.hash_one(key);
        if self.ghost_set.insert(hash) {
            self.ghosts.push_back(hash);
        }
        // As many ghosts as entries: the paper's choice. A ghost that came back leaves an empty hash in the queue.
        while self.ghosts.len() > self.table.len().max(16) {
            if let Some(oldest) = self.ghosts.pop_front() {
                self.ghost_set.remove(&oldest);
            }
        }
    }

    fn take_ghost(&mut self, key: Key) -> bool {
        !self.ghost_set.is_empty() && self.ghost_set.remove(&FixedState.hash_one(key))
    }

    fn link(&mut self, place: u32) {
        let group = self.entries[place as usize].key.group;
        if let Some(next) = self.groups.insert(group, place) {
            self.entries[next as usize].previous = place;
            self.entries[place as usize].next = next;
        }
    }

    fn unlink(&mut self, place: u32) {
        let Entry { key, next, previous, .. } = self.entries[place as usize];
        if next != NONE {
            self.entries[next as usize].previous = previous;
        }
        if previous != NONE {
            self.entries[previous as usize].next = next;
        } else if next != NONE {
            self.groups.insert(key.group, next);
        } else {
            self.groups.remove(&key.group);
        }
    }

    pub fn remove_group(&mut self, group: GroupId) {
        let mut next = self.groups.remove(&group).unwrap_or(NONE);
        while next != NONE {
            let entry = &mut self.entries[next as usize];
            let (key, queue, cost) = (entry.key, entry.queue, entry.cost());
            next = entry.next;
            entry.live = false;
            entry.bytes = Bytes::new();
            self.dead += 1;
            self.table.remove(&key);
            *self.bytes_of(queue) -= cost;
        }
        // Places are given out again only by their queue; without pressure that could take for ever.
        if self.dead > 64 && self.dead > self.table.len() {
            self.compact();
        }
    }

    fn compact(&mut self) {
        let (entries, vacant) = (&self.entries, &mut self.vacant);
        for queue in [&mut self.small, &mut self.main] {
            queue.retain(|&place| {
                let live = entries[place as usize].live;
                if !live {
                    vacant.push(place);
                }
                live
            });
        }
        self.dead = 0;
    }

    pub fn set_budget(&mut self, budget_bytes: u64) {
        self.budget_bytes = budget_bytes;
        self.evict();
    }

    pub fn stats(&self) -> CacheStats {
        CacheStats {
            hits: self.hits,
            misses: self.misses,
            bytes: self.small_bytes + self.main_bytes,
            entries: self.table.len() as u64,
            evictions: self.evictions,
            budget_bytes: self.budget_bytes,
        }
    }

    #[cfg(test)]
    pub fn places(&self) -> usize {
        self.entries.len()
    }

    /// The invariants that hold between calls.
    #[cfg(test)]
    pub fn check(&self) {
        let live = || self.entries.iter().filter(|entry| entry.live);
        assert_eq!(live().count(), self.table.len());
        let sum = |queue| live().filter(|entry| entry.queue == queue).map(Entry::cost).sum::<u64>();
        assert_eq!((sum(Queue::Small), sum(Queue::Main)), (self.small_bytes, self.main_bytes));
        assert!(self.small_bytes + self.main_bytes <= self.budget_bytes);
        assert_eq!(self.small.len() + self.main.len(), self.table.len() + self.dead);
        assert_eq!(self.entries.len(), self.table.len() + self.dead + self.vacant.len());
        let mut linked = 0;
        for (group, &first) in &self.groups {
            let (mut place, mut previous) = (first, NONE);
            while place != NONE {
                let entry = &self.entries[place as usize];
                assert!(entry.live && entry.key.group == *group && entry.previous == previous);
                (place, previous, linked) = (entry.next, place, linked + 1);
            }
        }
        assert_eq!(linked, self.table.len());
    }
}
