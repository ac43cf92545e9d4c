//! Lookup and change of the tree: single entries, runs, ranges; loading and evicting of pages; what a checkpoint writes.

use super::node::{Child, Leaf, MapMemory, Node, Slots};
use super::page::FANOUT;
use crate::address::Address;
use std::cell::Cell;
use std::rc::Rc;

/// A place in the tree: `index` counts the pages of a level from block 0 on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct PagePlace {
    pub level: u8,
    pub index: u64,
}

/// The operation stopped at a page that is not in memory; load it with [`Tree::attach`] and call again. What had been
/// done is done: repeating is harmless.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NeedPage {
    pub place: PagePlace,
    pub address: Address,
}

/// What a page of the map, with all that is below it, is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageState {
    /// As it is stored there; or, with `Address::NONE` or `Address::ZEROS`, that throughout.
    Stored(Address),
    /// Only memory has it, or a page below it.
    Changed,
}

/// Hears of every extent that the live tree stops referring to.
pub trait Sink {
    fn dead(&mut self, address: Address);
}

impl<F: FnMut(Address)> Sink for F {
    fn dead(&mut self, address: Address) {
        self(address);
    }
}

#[derive(Clone)]
pub struct Tree {
    pub root: Child,
    /// Levels; the root's level is `height - 1`.
    pub height: u8,
    memory: Rc<MapMemory>,
    /// Places whose page the next checkpoint no longer has: what is stored there then dies.
    pub dropped: Vec<Rc<Cell<Address>>>,
}

/// Levels needed for this many blocks.
pub fn height_for(blocks: u64) -> u8 {
    let mut height = 1;
    while blocks > span(height) {
        height += 1;
    }
    height
}

/// Blocks below a page of level `height - 1`.
fn span(height: u8) -> u64 {
    1 << (8 * u32::from(height))
}

fn slot_of(block: u64, level: u8) -> usize {
    (block >> (8 * u32::from(level)) & 0xff) as usize
}

impl Tree {
    pub fn new(root: Address, height: u8, memory: Rc<MapMemory>) -> Tree {
        Tree { root: Child::from_address(root), height, memory, dropped: Vec::new() }
    }

    /// Levels are added at the top; what was the root becomes child 0.
    pub fn grow(&mut self, blocks: u64) {
        while self.height < height_for(blocks) {
            let old = std::mem::replace(&mut self.root, Child::Empty);
            self.height += 1;
            if matches!(old, Child::Empty) {
                continue;
            }
            let mut node = Node::fresh(self.height - 1, Address::NONE, &self.memory);
            node.inner_mut()[0] = old;
            self.root = Child::Loaded(Rc::new(node));
        }
    }

    /// Something has changed since the last checkpoint.
    pub fn is_dirty(&self) -> bool {
        !self.dropped.is_empty() || matches!(&self.root, Child::Loaded(node) if node.is_dirty())
    }

    /// What is stored for all of it, if nothing has changed since.
    pub fn root_if_clean(&self) -> Option<Address> {
        if self.is_dirty() { None } else { Some(self.root.address()) }
    }

    pub fn lookup(&self, block: u64) -> Result<Address, NeedPage> {
        let mut child = &self.root;
        for level in (0..self.height).rev() {
            match child {
                Child::Empty => return Ok(Address::NONE),
                Child::Stored(Address::ZEROS) => return Ok(Address::ZEROS),
                Child::Stored(address) => return Err(need(block, level, *address)),
                Child::Loaded(node) => {
                    node.referenced.set(true);
                    match &node.slots {
                        Slots::Leaf(leaf) => return Ok(leaf.entries()[slot_of(block, 0)]),
                        Slots::Inner(children) => child = &children[slot_of(block, level)],
                    }
                }
            }
        }
        unreachable!("the walk ends at a leaf")
    }

    /// Entries of `[block, block + out.len())`, which must not cross a multiple of 256.
    pub fn lookup_run(&self, block: u64, out: &mut [Address]) -> Result<(), NeedPage> {
        let mut child = &self.root;
        for level in (0..self.height).rev() {
            match child {
                Child::Empty => {
                    out.fill(Address::NONE);
                    return Ok(());
                }
                Child::Stored(Address::ZEROS) => {
                    out.fill(Address::ZEROS);
                    return Ok(());
                }
                Child::Stored(address) => return Err(need(block, level, *address)),
                Child::Loaded(node) => {
                    node.referenced.set(true);
                    match &node.slots {
                        Slots::Leaf(leaf) => {
                            let first = slot_of(block, 0);
                            out.copy_from_slice(&leaf.entries()[first..first + out.len()]);
                            return Ok(());
                        }
                        Slots::Inner(children) => child = &children[slot_of(block, level)],
                    }
                }
            }
        }
        unreachable!("the walk ends at a leaf")
    }

    /// The state of `block`, and of how many blocks from it on the same is certain: 1, or to the end of an empty subtree.
    pub fn state_at(&self, block: u64) -> Result<(Address, u64), NeedPage> {
        let mut child = &self.root;
        for level in (0..self.height).rev() {
            let below = span(level + 1);
            let uniform = match child {
                Child::Empty => Address::NONE,
                Child::Stored(Address::ZEROS) => Address::ZEROS,
                Child::Stored(address) => return Err(need(block, level, *address)),
                Child::Loaded(node) => match &node.slots {
                    Slots::Leaf(leaf) => return Ok((leaf.entries()[slot_of(block, 0)], 1)),
                    Slots::Inner(children) => {
                        child = &children[slot_of(block, level)];
                        continue;
                    }
                },
            };
            return Ok((uniform, below - block % below));
        }
        unreachable!("the walk ends at a leaf")
    }

    /// Sets consecutive blocks. Missing pages on the way are created, unloaded ones are asked for before anything changes
    /// in that leaf.
    pub fn set_run(&mut self, block: u64, addresses: &[Address], sink: &mut impl Sink) -> Result<(), NeedPage> {
        let mut done = 0;
        while done < addresses.len() {
            let at = block + done as u64;
            let first = slot_of(at, 0);
            let count = (FANOUT - first).min(addresses.len() - done);
            let leaf = self.leaf_for_change(at)?;
            for (entry, address) in leaf.leaf_mut()[first..first + count].iter_mut().zip(&addresses[done..]) {
                // Re-applying the same entry (after NeedPage further on) must not count it dead.
                if entry.is_stored() && entry != address {
                    sink.dead(*entry);
                }
                *entry = *address;
            }
            done += count;
        }
        Ok(())
    }

    fn leaf_for_change(&mut self, block: u64) -> Result<&mut Node, NeedPage> {
        // Look first: nothing on the path may be marked dirty when a page is missing.
        self.check_path(block, 0)?;
        let memory = self.memory.clone();
        let mut child = &mut self.root;
        for level in (0..self.height).rev() {
            let node = node_for_change(child, level, &memory);
            if level == 0 {
                return Ok(node);
            }
            child = &mut node.inner_mut()[slot_of(block, level)];
        }
        unreachable!("height is at least 1")
    }

    fn check_path(&self, block: u64, down_to: u8) -> Result<(), NeedPage> {
        let mut child = &self.root;
        for level in (down_to..self.height).rev() {
            match child {
                Child::Empty | Child::Stored(Address::ZEROS) => return Ok(()),
                Child::Stored(address) => return Err(need(block, level, *address)),
                Child::Loaded(node) if level > down_to => child = &node.inner()[slot_of(block, level)],
                Child::Loaded(_) => return Ok(()),
            }
        }
        Ok(())
    }

    /// Every page that setting `[block, block + count)` will touch is in memory, or the first one that is not.
    pub fn check_run(&self, block: u64, count: u64) -> Result<(), NeedPage> {
        let mut at = block;
        while at < block + count {
            self.check_path(at, 0)?;
            at = (at / FANOUT as u64 + 1) * FANOUT as u64;
        }
        Ok(())
    }

    /// As [`Tree::check_run`], for [`Tree::clear`]: all that it will drop must be in memory, to be counted.
    pub fn check_clear(&self, block: u64, count: u64) -> Result<(), NeedPage> {
        check_clear(&self.root, self.height - 1, 0, block, block + count)
    }

    /// Sets `[block, block + count)` to `fill` (`NONE` or `ZEROS`), dropping whole subtrees; changes nothing if a page is
    /// missing.
    pub fn clear(&mut self, block: u64, count: u64, fill: Address, sink: &mut impl Sink) -> Result<(), NeedPage> {
        assert!(!fill.is_stored(), "clear fills with nothing or with zeros");
        self.check_clear(block, count)?;
        let mut change = Change { fill, memory: self.memory.clone(), sink, dropped: &mut self.dropped };
        change.clear(&mut self.root, self.height - 1, 0, block, block + count);
        Ok(())
    }

    /// Puts a page that was asked for in its place: of a leaf what memory has of it, if it has it. Ignored when the place has changed meanwhile.
    pub fn attach(&mut self, need: NeedPage, entries: &[Address; FANOUT]) {
        self.put(need, |memory| Node::loaded(need.place.level, entries, need.address, memory));
    }

    /// The same of a leaf that memory has, and is asked for.
    pub fn attach_leaf(&mut self, need: NeedPage, leaf: Rc<Leaf>) {
        assert_eq!(need.place.level, 0, "a leaf is put in the place of a page above");
        self.put(need, |memory| Node::of_leaf(leaf, need.address, memory));
    }

    fn put(&mut self, need: NeedPage, node: impl FnOnce(&Rc<MapMemory>) -> Node) {
        let block = need.place.index << (8 * (u32::from(need.place.level) + 1));
        let shared = self.path_is_shared(block, need.place.level);
        let mut child = &mut self.root;
        for level in (need.place.level + 1..self.height).rev() {
            match child {
                Child::Loaded(node) => {
                    let node = Rc::make_mut(node);
                    if shared {
                        node.set_dirty();
                    }
                    child = &mut node.inner_mut()[slot_of(block, level)];
                }
                _ => return,
            }
        }
        if matches!(child, Child::Stored(address) if *address == need.address) {
            *child = Child::Loaded(Rc::new(node(&self.memory)));
        }
    }

    /// Somebody else holds a page above `level` on the way to `block`: a checkpoint that is not synced yet. Our copies of
    /// such pages are dirty with all that is above them, whatever the originals are: if that sync fails, it is the
    /// originals that are marked, and the copies would name pages that were lost.
    fn path_is_shared(&self, block: u64, level: u8) -> bool {
        let mut child = &self.root;
        for at in (level + 1..self.height).rev() {
            let Child::Loaded(node) = child else { return false };
            if Rc::strong_count(node) > 1 {
                return true;
            }
            child = &node.inner()[slot_of(block, at)];
        }
        false
    }

    /// Is the page at `place` stored at `address`, as the last checkpoint left it?
    pub fn page_is_at(&self, place: PagePlace, address: Address) -> Result<bool, NeedPage> {
        let block = place.index << (8 * (u32::from(place.level) + 1));
        if place.level >= self.height {
            return Ok(false);
        }
        let mut child = &self.root;
        for level in (place.level + 1..self.height).rev() {
            match child {
                Child::Empty | Child::Stored(Address::ZEROS) => return Ok(false),
                Child::Stored(address) => return Err(need(block, level, *address)),
                Child::Loaded(node) => child = &node.inner()[slot_of(block, level)],
            }
        }
        Ok(match child {
            Child::Empty => false,
            Child::Stored(stored) => *stored == address,
            Child::Loaded(node) => node.stored.get() == address,
        })
    }

    /// What the page is now. Beyond the last block everything is empty.
    pub fn page_state(&self, place: PagePlace) -> Result<PageState, NeedPage> {
        let block = place.index << (8 * (u32::from(place.level) + 1));
        if place.level >= self.height {
            return Ok(if place.index == 0 { PageState::Changed } else { PageState::Stored(Address::NONE) });
        }
        if block >= span(self.height) {
            return Ok(PageState::Stored(Address::NONE));
        }
        let mut child = &self.root;
        for level in (place.level + 1..self.height).rev() {
            match child {
                Child::Empty => return Ok(PageState::Stored(Address::NONE)),
                Child::Stored(Address::ZEROS) => return Ok(PageState::Stored(Address::ZEROS)),
                Child::Stored(address) => return Err(need(block, level, *address)),
                Child::Loaded(node) => child = &node.inner()[slot_of(block, level)],
            }
        }
        Ok(match child {
            Child::Empty => PageState::Stored(Address::NONE),
            Child::Stored(address) => PageState::Stored(*address),
            Child::Loaded(node) if node.is_dirty() => PageState::Changed,
            Child::Loaded(node) => PageState::Stored(node.stored.get()),
        })
    }

    /// Marks the page dirty, so that the next checkpoint stores it anew (its group is being emptied).
    pub fn touch(&mut self, place: PagePlace) -> Result<(), NeedPage> {
        let block = place.index << (8 * (u32::from(place.level) + 1));
        if place.level >= self.height {
            return Ok(());
        }
        self.check_path(block, place.level)?;
        let memory = self.memory.clone();
        let mut child = &mut self.root;
        for level in (place.level..self.height).rev() {
            if !matches!(child, Child::Loaded(_)) {
                return Ok(());
            }
            let node = node_for_change(child, level, &memory);
            if level == place.level {
                return Ok(());
            }
            child = &mut node.inner_mut()[slot_of(block, level)];
        }
        Ok(())
    }

    /// Dirty pages of one level, in order. A checkpoint stores level 0 first, then its parents.
    pub fn dirty_pages(&self, level: u8) -> Vec<(PagePlace, Rc<Node>)> {
        let mut found = Vec::new();
        collect_dirty(&self.root, self.height - 1, 0, level, &mut found);
        found
    }

    /// Takes clean pages out of memory, those not used since the last pass, until `want_bytes` are gone or one round is
    /// over. `hand`: where the last call stopped (a block number). Returns the bytes that were freed.
    pub fn evict(&mut self, hand: &mut u64, want_bytes: u64) -> u64 {
        let before = self.memory.bytes();
        let mut eviction =
            Eviction { memory: self.memory.clone(), goal: before.saturating_sub(want_bytes), from: *hand, stop: None };
        let level = self.height - 1;
        eviction.visit(&mut self.root, level, 0);
        *hand = eviction.stop.unwrap_or(0);
        before - self.memory.bytes()
    }
}

fn need(block: u64, level: u8, address: Address) -> NeedPage {
    NeedPage { place: PagePlace { level, index: block >> (8 * (u32::from(level) + 1)) }, address }
}

/// The node below `child`, created if missing, ours alone, marked dirty. The caller has checked that it is not unloaded.
fn node_for_change<'a>(child: &'a mut Child, level: u8, memory: &Rc<MapMemory>) -> &'a mut Node {
    if let Child::Empty | Child::Stored(_) = child {
        let fill = match child {
            Child::Stored(address) => {
                assert_eq!(*address, Address::ZEROS, "an unloaded page was about to be overwritten");
                Address::ZEROS
            }
            _ => Address::NONE,
        };
        *child = Child::Loaded(Rc::new(Node::fresh(level, fill, memory)));
    }
    let Child::Loaded(node) = child else { unreachable!("made above") };
    let node = Rc::make_mut(node);
    node.set_dirty();
    node.referenced.set(true);
    node
}

fn collect_dirty(child: &Child, level: u8, index: u64, wanted: u8, found: &mut Vec<(PagePlace, Rc<Node>)>) {
    let Child::Loaded(node) = child else { return };
    if !node.is_dirty() {
        return;
    }
    if level == wanted {
        found.push((PagePlace { level, index }, node.clone()));
        return;
    }
    if level > wanted {
        for (slot, child) in node.inner().iter().enumerate() {
            collect_dirty(child, level - 1, index << 8 | slot as u64, wanted, found);
        }
    }
}

/// One pass of [`Tree::clear`].
struct Change<'a, S: Sink> {
    fill: Address,
    memory: Rc<MapMemory>,
    sink: &'a mut S,
    dropped: &'a mut Vec<Rc<Cell<Address>>>,
}

impl<S: Sink> Change<'_, S> {
    /// `index`: of this page in its level; `[start, end)`: blocks to clear, may reach beyond the page.
    fn clear(&mut self, child: &mut Child, level: u8, index: u64, start: u64, end: u64) {
        let below = span(level + 1);
        let (first, last) = (index * below, (index + 1) * below);
        let as_wanted = match child {
            Child::Empty => self.fill.is_none(),
            Child::Stored(address) => *address == self.fill,
            Child::Loaded(_) => false,
        };
        if end <= first || last <= start || as_wanted {
            return;
        }
        if start <= first && last <= end {
            self.bury(child);
            *child = Child::from_address(self.fill);
            return;
        }
        let node = node_for_change(child, level, &self.memory);
        if level == 0 {
            let from = start.max(first) - first;
            let to = end.min(last) - first;
            for entry in &mut node.leaf_mut()[from as usize..to as usize] {
                if entry.is_stored() {
                    self.sink.dead(*entry);
                }
                *entry = self.fill;
            }
            return;
        }
        for (slot, child) in node.inner_mut().iter_mut().enumerate() {
            self.clear(child, level - 1, index << 8 | slot as u64, start, end);
        }
    }

    fn bury(&mut self, child: &Child) {
        let Child::Loaded(node) = child else { return };
        self.dropped.push(node.stored.clone());
        match &node.slots {
            Slots::Leaf(leaf) => {
                leaf.entries().iter().filter(|entry| entry.is_stored()).for_each(|entry| self.sink.dead(*entry));
            }
            Slots::Inner(children) => children.iter().for_each(|child| self.bury(child)),
        }
    }
}

fn check_clear(child: &Child, level: u8, index: u64, start: u64, end: u64) -> Result<(), NeedPage> {
    let below = span(level + 1);
    let first = index * below;
    if end <= first || first + below <= start {
        return Ok(());
    }
    match child {
        Child::Empty | Child::Stored(Address::ZEROS) => Ok(()),
        Child::Stored(address) => Err(NeedPage { place: PagePlace { level, index }, address: *address }),
        Child::Loaded(_) if level == 0 => Ok(()),
        Child::Loaded(node) => node
            .inner()
            .iter()
            .enumerate()
            .try_for_each(|(slot, child)| check_clear(child, level - 1, index << 8 | slot as u64, start, end)),
    }
}

struct Eviction {
    memory: Rc<MapMemory>,
    goal: u64,
    from: u64,
    stop: Option<u64>,
}

impl Eviction {
    fn visit(&mut self, child: &mut Child, level: u8, index: u64) {
        let below = span(level + 1);
        if self.stop.is_some() || (index + 1) * below <= self.from {
            return;
        }
        let Child::Loaded(node) = child else { return };
        if level > 0
            && let Some(node) = Rc::get_mut(node)
        {
            for (slot, child) in node.inner_mut().iter_mut().enumerate() {
                self.visit(child, level - 1, index << 8 | slot as u64);
            }
        }
        if self.stop.is_some() || node.is_dirty() || Rc::strong_count(node) > 1 {
            return;
        }
        let children_in_memory = level > 0 && node.inner().iter().any(|child| matches!(child, Child::Loaded(_)));
        if node.referenced.replace(false) || children_in_memory {
            return;
        }
        *child = Child::from_address(node.stored.get());
        if self.memory.bytes() <= self.goal {
            self.stop = Some((index + 1) * below);
        }
    }
}
