//! Who needs the extent groups of a shard, besides the vDisk that writes them: snapshots, and clones.
//!
//! Counts say which groups are not to be touched; roots are where it is looked up before a group is freed. Both are told
//! by those whom they concern, each of what is its own: no vDisk sees another.

use crate::address::Address;
use base::hash::FixedState;
use base::{GroupId, Sequence, SnapshotId, VdiskId};
use hashbrown::HashMap;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use world::local::Notify;

/// Of one shard.
#[derive(Default)]
pub struct References {
    holds: RefCell<HashMap<GroupId, u32, FixedState>>,
    roots: RefCell<BTreeMap<RootKey, Root>>,
    /// Clones that were not heard yet, each with its family, if that is known.
    unheard: RefCell<BTreeMap<VdiskId, Option<VdiskId>>>,
    tellers: Cell<u64>,
    /// Groups that were let go, one by one, by whoever held them.
    releases: Cell<u64>,
    /// Rung when a group is held by nobody any more, or somebody was heard.
    pub released: Notify,
}

/// Who tells, and a snapshot or `NONE` for the last checkpoint.
type RootKey = (u64, SnapshotId);

/// A stored map.
#[derive(Clone, Debug)]
pub(crate) struct Root {
    pub address: Address,
    pub height: u8,
    /// Whose groups it may refer to, its own vDisk last.
    pub lineage: Rc<[VdiskId]>,
    /// Of a snapshot: what its vDisk wrote later it does not refer to.
    pub until: Option<Sequence>,
}

impl std::fmt::Debug for References {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let unheard = self.unheard.borrow();
        f.debug_struct("References").field("held", &self.held_groups()).field("unheard", &*unheard).finish()
    }
}

impl References {
    pub fn is_held(&self, group: GroupId) -> bool {
        self.holds.borrow().contains_key(&group)
    }

    /// How many hold it.
    pub(crate) fn holders(&self, group: GroupId) -> usize {
        self.holds.borrow().get(&group).map_or(0, |count| *count as usize)
    }

    pub fn is_any_held(&self) -> bool {
        !self.holds.borrow().is_empty()
    }

    /// Grows with every hold that is given up.
    pub(crate) fn releases(&self) -> u64 {
        self.releases.get()
    }

    /// Groups that anybody holds.
    pub fn held_groups(&self) -> BTreeSet<GroupId> {
        self.holds.borrow().keys().copied().collect()
    }

    /// A clone is on this disk that nobody has read yet: it may hold any group of its family. `family`: the vDisk all
    /// of it descends from; `None`: not known, so it may be any.
    pub fn expect(&self, clone: VdiskId, family: Option<VdiskId>) {
        self.unheard.borrow_mut().insert(clone, family);
    }

    /// It was read and holds what it needs, or is gone for good.
    pub fn heard(&self, clone: VdiskId) {
        if self.unheard.borrow_mut().remove(&clone).is_some() {
            self.released.notify();
        }
    }

    /// Everybody who may hold a group of this family was heard. `None`: of any.
    pub fn may_free(&self, family: Option<VdiskId>) -> bool {
        let concerns = |of: &Option<VdiskId>| of.is_none() || family.is_none() || *of == family;
        !self.unheard.borrow().values().any(concerns)
    }

    fn hold<'a>(&self, groups: impl IntoIterator<Item = &'a GroupId>) {
        let mut holds = self.holds.borrow_mut();
        groups.into_iter().for_each(|group| *holds.entry(*group).or_default() += 1);
    }

    fn release<'a>(&self, groups: impl IntoIterator<Item = &'a GroupId>) {
        let mut holds = self.holds.borrow_mut();
        let mut any_free = false;
        for group in groups {
            let count = holds.get_mut(group).expect("only what is held is released");
            *count -= 1;
            self.releases.set(self.releases.get() + 1);
            if *count == 0 {
                holds.remove(group);
                any_free = true;
            }
        }
        drop(holds);
        if any_free {
            self.released.notify();
        }
    }

    /// Stored maps that may refer to a group of `owner` whose first frame is `first`, each once.
    pub(crate) fn roots_of(&self, owner: VdiskId, first: Sequence) -> Vec<Root> {
        let roots = self.roots.borrow();
        let may = |root: &&Root| {
            let is_older = root.lineage.last() == Some(&owner) && root.until.is_some_and(|until| until < first);
            root.lineage.contains(&owner) && !is_older && root.address.is_stored()
        };
        let mut found: Vec<Root> = roots.values().filter(may).cloned().collect();
        let mut seen = BTreeSet::new();
        found.retain(|root| seen.insert(root.address.raw()));
        found
    }
}

/// Groups that one image needs; they are released when it goes.
pub(crate) struct Holds {
    references: Rc<References>,
    groups: BTreeSet<GroupId>,
}

impl Holds {
    pub fn new(references: &Rc<References>, groups: impl IntoIterator<Item = GroupId>) -> Holds {
        // All at once: of a terabyte they are 16,000, and a snapshot of it is to take no longer.
        let groups: BTreeSet<GroupId> = groups.into_iter().collect();
        references.hold(&groups);
        Holds { references: references.clone(), groups }
    }
    pub fn add(&mut self, group: GroupId) {
        if self.groups.insert(group) {
            self.references.hold([&group]);
        }
    }
    pub fn remove(&mut self, group: GroupId) {
        if self.groups.remove(&group) {
            self.references.release([&group]);
        }
    }
    pub fn groups(&self) -> &BTreeSet<GroupId> {
        &self.groups
    }
}

impl Drop for Holds {
    fn drop(&mut self) {
        self.references.release(&self.groups);
    }
}

/// What one vDisk has told of its roots; they go with it.
pub(crate) struct ToldMaps {
    references: Rc<References>,
    teller: u64,
}

impl ToldMaps {
    pub fn new(references: &Rc<References>) -> ToldMaps {
        let teller = references.tellers.get();
        references.tellers.set(teller + 1);
        ToldMaps { references: references.clone(), teller }
    }

    /// `snapshot`: `NONE` for the last checkpoint.
    pub fn set(&self, snapshot: SnapshotId, root: Root) {
        self.references.roots.borrow_mut().insert((self.teller, snapshot), root);
    }

    pub fn remove(&self, snapshot: SnapshotId) {
        self.references.roots.borrow_mut().remove(&(self.teller, snapshot));
    }

    pub fn clear(&self) {
        self.references.roots.borrow_mut().retain(|(teller, _), _| *teller != self.teller);
    }
}

impl Drop for ToldMaps {
    fn drop(&mut self) {
        self.clear();
    }
}
