//! A page of the map in memory.
//!
//! Invariants: a clean node's page is stored at `stored`; every ancestor of a dirty node is dirty. `stored` is shared by
//! all copies of the page at one place of one vDisk's tree and names what the last checkpoint stored there, so that a
//! copy made while that checkpoint was being written learns the new address.
//!
//! What a leaf says is held once by all trees of a worker that have loaded it from the same address: a hundred clones of
//! one image read its map from the disk once, and take the memory of one.

use super::page::FANOUT;
use crate::address::Address;
use base::hash::FixedState;
use hashbrown::HashMap;
use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

/// Counts what the maps of one worker hold in memory, and knows their leaves that are as they are stored.
#[derive(Default)]
pub struct MapMemory {
    bytes: Cell<u64>,
    pub dirty_pages: Cell<u64>,
    leaves: RefCell<HashMap<Address, Weak<Leaf>, FixedState>>,
}

impl MapMemory {
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }
    fn add(&self, bytes: u64) {
        self.bytes.set(self.bytes.get() + bytes);
    }
    fn sub(&self, bytes: u64) {
        self.bytes.set(self.bytes.get() - bytes);
    }

    /// What the leaf at `stored` says, if some tree has it in memory.
    pub fn leaf(&self, stored: Address) -> Option<Rc<Leaf>> {
        self.leaves.borrow().get(&stored).and_then(Weak::upgrade)
    }
}

/// The entries of a leaf. Its address names its content for ever, by the checksum in it if by nothing else.
pub struct Leaf {
    entries: [Address; FANOUT],
    /// Where it is known by; none when it is not, or no longer, what is stored somewhere.
    at: Address,
    memory: Rc<MapMemory>,
}

impl Leaf {
    /// Bytes in memory, allocator overhead included roughly.
    const WEIGHT: u64 = (size_of::<Leaf>() + 64) as u64;

    fn new(entries: [Address; FANOUT], at: Address, memory: &Rc<MapMemory>) -> Rc<Leaf> {
        memory.add(Leaf::WEIGHT);
        let leaf = Rc::new(Leaf { entries, at, memory: memory.clone() });
        if at.is_stored() {
            memory.leaves.borrow_mut().insert(at, Rc::downgrade(&leaf));
        }
        leaf
    }

    pub fn entries(&self) -> &[Address; FANOUT] {
        &self.entries
    }

    /// As it was read from `at`; the one that is in memory already, if there is one.
    fn stored(entries: &[Address; FANOUT], at: Address, memory: &Rc<MapMemory>) -> Rc<Leaf> {
        memory.leaf(at).unwrap_or_else(|| Leaf::new(*entries, at, memory))
    }

    /// For a change: this tree's alone, and known by no address.
    fn own(leaf: &mut Rc<Leaf>) -> &mut [Address; FANOUT] {
        if Rc::strong_count(leaf) > 1 {
            *leaf = Leaf::new(leaf.entries, Address::NONE, &leaf.memory);
        } else {
            leaf.forget();
        }
        let leaf = Rc::get_mut(leaf).expect("held once, and by no table");
        leaf.at = Address::NONE;
        &mut leaf.entries
    }

    fn forget(&self) {
        if self.at.is_stored() {
            self.memory.leaves.borrow_mut().remove(&self.at);
        }
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        self.forget();
        self.memory.sub(Leaf::WEIGHT);
    }
}

#[derive(Clone)]
pub enum Child {
    Empty,
    /// Not in memory. `Address::ZEROS`: the whole subtree reads as allocated zeros.
    Stored(Address),
    Loaded(Rc<Node>),
}

impl Child {
    /// What an inner page says of this child. The child must not be dirty.
    pub fn address(&self) -> Address {
        match self {
            Child::Empty => Address::NONE,
            Child::Stored(address) => *address,
            Child::Loaded(node) => {
                assert!(!node.dirty.get(), "a parent was encoded before its child was stored");
                node.stored.get()
            }
        }
    }

    pub fn from_address(address: Address) -> Child {
        if address.is_none() { Child::Empty } else { Child::Stored(address) }
    }
}

pub(super) enum Slots {
    Leaf(Rc<Leaf>),
    Inner(Box<[Child; FANOUT]>),
}

pub struct Node {
    /// 0: leaf, a child is a block.
    pub level: u8,
    pub(super) slots: Slots,
    pub stored: Rc<Cell<Address>>,
    pub(super) dirty: Cell<bool>,
    /// Touched since the evicting hand passed.
    pub(super) referenced: Cell<bool>,
    memory: Rc<MapMemory>,
}

impl Node {
    pub(super) fn fresh(level: u8, fill: Address, memory: &Rc<MapMemory>) -> Node {
        let slots = if level == 0 {
            Slots::Leaf(Leaf::new([fill; FANOUT], Address::NONE, memory))
        } else {
            Slots::Inner(Box::new(std::array::from_fn(|_| Child::from_address(fill))))
        };
        Node::new(level, slots, Address::NONE, true, memory)
    }

    pub(super) fn loaded(level: u8, entries: &[Address; FANOUT], stored: Address, memory: &Rc<MapMemory>) -> Node {
        let slots = if level == 0 {
            Slots::Leaf(Leaf::stored(entries, stored, memory))
        } else {
            Slots::Inner(Box::new(std::array::from_fn(|i| Child::from_address(entries[i]))))
        };
        Node::new(level, slots, stored, false, memory)
    }

    pub(super) fn of_leaf(leaf: Rc<Leaf>, stored: Address, memory: &Rc<MapMemory>) -> Node {
        Node::new(0, Slots::Leaf(leaf), stored, false, memory)
    }

    fn new(level: u8, slots: Slots, stored: Address, dirty: bool, memory: &Rc<MapMemory>) -> Node {
        memory.add(Node::weight(level));
        if dirty {
            memory.dirty_pages.set(memory.dirty_pages.get() + 1);
        }
        Node {
            level,
            slots,
            stored: Rc::new(Cell::new(stored)),
            dirty: Cell::new(dirty),
            referenced: Cell::new(true),
            memory: memory.clone(),
        }
    }

    /// Bytes in memory but for a leaf's entries, allocator overhead included roughly.
    fn weight(level: u8) -> u64 {
        let slots = if level == 0 { 0 } else { size_of::<[Child; FANOUT]>() };
        (slots + size_of::<Node>() + 64) as u64
    }

    pub fn is_dirty(&self) -> bool {
        self.dirty.get()
    }

    pub(super) fn set_dirty(&self) {
        if !self.dirty.replace(true) {
            self.memory.dirty_pages.set(self.memory.dirty_pages.get() + 1);
        }
    }

    /// The page is stored at `address` now (none: it was empty and its parent names nothing).
    pub fn set_stored(&self, address: Address) {
        self.stored.set(address);
        if self.dirty.replace(false) {
            self.memory.dirty_pages.set(self.memory.dirty_pages.get() - 1);
        }
    }

    /// What was stored by a checkpoint that failed is lost; `before` is what the last good one has.
    pub fn mark_lost(&self, before: Address) {
        self.stored.set(before);
        self.set_dirty();
    }

    pub(super) fn leaf_mut(&mut self) -> &mut [Address; FANOUT] {
        match &mut self.slots {
            Slots::Leaf(leaf) => Leaf::own(leaf),
            Slots::Inner(_) => panic!("a node of level {} was taken for a leaf", self.level),
        }
    }
    pub(super) fn inner(&self) -> &[Child; FANOUT] {
        match &self.slots {
            Slots::Inner(children) => children,
            Slots::Leaf(_) => panic!("a leaf was taken for an inner node"),
        }
    }
    pub(super) fn inner_mut(&mut self) -> &mut [Child; FANOUT] {
        match &mut self.slots {
            Slots::Inner(children) => children,
            Slots::Leaf(_) => panic!("a leaf was taken for an inner node"),
        }
    }

    /// The page's entries; children of an inner node must be clean.
    pub fn entries(&self) -> Box<dyn Iterator<Item = Address> + '_> {
        match &self.slots {
            Slots::Leaf(leaf) => Box::new(leaf.entries.iter().copied()),
            Slots::Inner(children) => Box::new(children.iter().map(Child::address)),
        }
    }
}

impl Clone for Node {
    /// The copy that a writer makes of a page that somebody else still holds: same place, so same `stored`; dirty.
    fn clone(&self) -> Node {
        let slots = match &self.slots {
            Slots::Leaf(leaf) => Slots::Leaf(leaf.clone()),
            Slots::Inner(children) => Slots::Inner(children.clone()),
        };
        let mut copy = Node::new(self.level, slots, Address::NONE, true, &self.memory);
        copy.stored = self.stored.clone();
        copy
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.memory.sub(Node::weight(self.level));
        if self.dirty.get() {
            self.memory.dirty_pages.set(self.memory.dirty_pages.get() - 1);
        }
    }
}
