//! Who needs the extent groups of a shard, besides the vDisk that writes them: snapshots, clones, and copies.
//!
//! Counts say which groups are not to be touched; roots are where it is looked up before a group is freed. Both are told
//! by those whom they concern, each of what is its own: no vDisk sees another.

use crate::address::Address;
use crate::image::{Needed, NeededGroups};
use base::hash::FixedState;
use base::{GroupId, Sequence, SnapshotId, VdiskId};
use hashbrown::HashMap;
use std::cell::{Cell, Ref, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use world::local::Notify;

/// Of one shard.
#[derive(Default)]
pub struct References {
    /// How many hold each group: everybody, but for changes of `lists` that nobody has asked about yet.
    holds: RefCell<HashMap<GroupId, u32, FixedState>>,
    lists: RefCell<Lists>,
    /// Groups of which copies have taken anything over, as long as anybody holds them.
    copied: RefCell<BTreeSet<GroupId>>,
    /// Those of them in which whoever wrote them had nothing any more when it was last seen: only for choosing.
    hollow: RefCell<BTreeSet<GroupId>>,
    roots: RefCell<BTreeMap<RootKey, Root>>,
    /// vDisks that were not heard yet: clones, each with its family, if that is known; on a disk with copies all.
    unheard: RefCell<BTreeMap<VdiskId, Option<VdiskId>>>,
    tellers: Cell<u64>,
    /// Groups that were let go, one by one, by whoever held them.
    releases: Cell<u64>,
    /// Rung when a group was let go by the last who held it, as far as lists are counted, or somebody was heard.
    pub released: Notify,
}

/// Lists that are held, by their numbers. Nobody counts 16,000 groups while a client waits for a snapshot of them.
#[derive(Default)]
struct Lists {
    known: BTreeMap<usize, HeldList>,
    /// Those of which the counts do not have all holders, or still have some that are gone.
    changed: BTreeSet<usize>,
}

struct HeldList {
    groups: NeededGroups,
    holders: u32,
    counted: u32,
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
        self.counted().contains_key(&group)
    }

    /// How many hold it.
    pub(crate) fn holders(&self, group: GroupId) -> usize {
        self.counted().get(&group).map_or(0, |count| *count as usize)
    }

    pub fn is_any_held(&self) -> bool {
        !self.counted().is_empty()
    }

    /// Extents of the group, which is held, may be in maps of anybody.
    pub(crate) fn becomes_copied(&self, group: GroupId) {
        self.copied.borrow_mut().insert(group);
    }

    /// Groups of which that can be said.
    pub(crate) fn copied_groups(&self) -> BTreeSet<GroupId> {
        self.copied.borrow().clone()
    }

    pub(crate) fn is_copied(&self, group: GroupId) -> bool {
        self.copied.borrow().contains(&group)
    }

    pub(crate) fn is_any_copied(&self) -> bool {
        !self.copied.borrow().is_empty()
    }

    /// Of groups that nobody holds any more nothing is left of copies. To be called when something was let go, though not in that
    /// step, since it counts all lists. (Who looks at maps holds what is in them meanwhile.)
    pub fn forget_copies(&self) {
        if self.is_any_copied() {
            let counted = self.counted();
            self.copied.borrow_mut().retain(|group| counted.contains_key(group));
            self.hollow.borrow_mut().retain(|group| counted.contains_key(group));
        }
    }

    /// Whoever wrote the group has nothing in it, or has again.
    pub(crate) fn becomes_hollow(&self, group: GroupId, is_hollow: bool) {
        if is_hollow && self.is_copied(group) {
            self.hollow.borrow_mut().insert(group);
        } else if !is_hollow {
            self.hollow.borrow_mut().remove(&group);
        }
    }

    pub(crate) fn is_hollow(&self, group: GroupId) -> bool {
        self.hollow.borrow().contains(&group)
    }

    /// Grows with every hold that is given up.
    pub(crate) fn releases(&self) -> u64 {
        self.releases.get()
    }

    /// Groups that anybody holds.
    pub fn held_groups(&self) -> BTreeSet<GroupId> {
        self.counted().keys().copied().collect()
    }

    /// A vDisk is on this disk that nobody has read yet: it may hold any group of its family. `family`: the vDisk all of it
    /// descends from; `None`: it may hold any, since that is not known, or since it may have copied from any.
    pub fn expect(&self, vdisk: VdiskId, family: Option<VdiskId>) {
        self.unheard.borrow_mut().insert(vdisk, family);
    }

    /// Those whom nobody has heard yet.
    pub fn unheard(&self) -> Vec<(VdiskId, Option<VdiskId>)> {
        self.unheard.borrow().iter().map(|(id, family)| (*id, *family)).collect()
    }

    pub fn is_unheard(&self, vdisk: VdiskId) -> bool {
        self.unheard.borrow().contains_key(&vdisk)
    }

    /// It was read and holds what it needs, or is gone for good.
    pub fn heard(&self, vdisk: VdiskId) {
        if self.unheard.borrow_mut().remove(&vdisk).is_some() {
            self.released.notify();
        }
    }

    /// Everybody who may hold a group of this family was heard. `None`: of any.
    pub fn may_free(&self, family: Option<VdiskId>) -> bool {
        let concerns = |of: &Option<VdiskId>| of.is_none() || family.is_none() || *of == family;
        !self.unheard.borrow().values().any(concerns)
    }

    /// With all lists as they are now.
    fn counted(&self) -> Ref<'_, HashMap<GroupId, u32, FixedState>> {
        let mut lists = self.lists.borrow_mut();
        while let Some(number) = lists.changed.pop_first() {
            let list = lists.known.get_mut(&number).expect("a list stays until it is counted out");
            let (before, now) = (std::mem::replace(&mut list.counted, list.holders), list.holders);
            let mut holds = self.holds.borrow_mut();
            for Needed { group, .. } in list.groups.iter() {
                change(&mut holds, *group, before, now);
            }
            if now == 0 {
                lists.known.remove(&number);
            }
        }
        drop(lists);
        self.holds.borrow()
    }

    fn hold_list(&self, groups: &NeededGroups) {
        self.change_list(groups, |holders| *holders += 1);
    }

    fn release_list(&self, groups: &NeededGroups) {
        self.releases.set(self.releases.get() + 1);
        self.change_list(groups, |holders| *holders -= 1);
        self.released.notify();
    }

    fn change_list(&self, groups: &NeededGroups, change: impl FnOnce(&mut u32)) {
        let mut lists = self.lists.borrow_mut();
        let number = groups.number();
        let new = || HeldList { groups: groups.clone(), holders: 0, counted: 0 };
        let list = lists.known.entry(number).or_insert_with(new);
        change(&mut list.holders);
        let (holders, counted) = (list.holders, list.counted);
        if holders == counted {
            lists.changed.remove(&number);
        } else {
            lists.changed.insert(number);
        }
        if holders == 0 && counted == 0 {
            lists.known.remove(&number);
        }
    }

    fn hold(&self, group: GroupId) {
        change(&mut self.holds.borrow_mut(), group, 0, 1);
    }

    fn release<'a>(&self, groups: impl IntoIterator<Item = &'a GroupId>) {
        let mut holds = self.holds.borrow_mut();
        let (mut is_any, mut is_any_free) = (false, false);
        for group in groups {
            self.releases.set(self.releases.get() + 1);
            change(&mut holds, *group, 1, 0);
            is_any = true;
            is_any_free |= !holds.contains_key(group);
        }
        drop(holds);
        // Where lists are not counted yet, whether anybody else holds it is for whoever looks.
        if is_any_free || is_any && !self.lists.borrow().changed.is_empty() {
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

/// Some holders become more or fewer.
fn change(holds: &mut HashMap<GroupId, u32, FixedState>, group: GroupId, fewer: u32, more: u32) {
    let count = holds.entry(group).or_default();
    *count = (*count + more).checked_sub(fewer).expect("only what is held is released");
    if *count == 0 {
        holds.remove(&group);
    }
}

/// Groups that one image needs; they are released when it goes.
pub(crate) struct Holds {
    references: Rc<References>,
    list: Option<NeededGroups>,
    /// None of them is on the list.
    more: BTreeSet<GroupId>,
}

impl Holds {
    pub fn none(references: &Rc<References>) -> Holds {
        Holds { references: references.clone(), list: None, more: BTreeSet::new() }
    }

    pub fn new(references: &Rc<References>, groups: impl IntoIterator<Item = GroupId>) -> Holds {
        let mut holds = Holds::none(references);
        groups.into_iter().for_each(|group| holds.add(group));
        holds
    }

    /// At no cost, whatever its length.
    pub fn of_list(references: &Rc<References>, list: &NeededGroups) -> Holds {
        references.hold_list(list);
        Holds { references: references.clone(), list: Some(list.clone()), more: BTreeSet::new() }
    }

    /// The same once more.
    pub fn again(&self) -> Holds {
        let mut again = match &self.list {
            Some(list) => Holds::of_list(&self.references, list),
            None => Holds::none(&self.references),
        };
        self.more.iter().for_each(|group| again.add(*group));
        again
    }

    pub fn add(&mut self, group: GroupId) {
        let is_listed = self.list.as_ref().is_some_and(|list| list.find(group).is_some());
        if !is_listed && self.more.insert(group) {
            self.references.hold(group);
        }
    }

    pub fn remove(&mut self, group: GroupId) {
        if let Some(list) = self.list.take_if(|list| list.find(group).is_some()) {
            // The others stay, one by one.
            list.iter().for_each(|needed| self.add(needed.group));
            self.references.release_list(&list);
        }
        if self.more.remove(&group) {
            self.references.release([&group]);
        }
    }

    pub fn contains(&self, group: GroupId) -> bool {
        self.more.contains(&group) || self.list.as_ref().is_some_and(|list| list.find(group).is_some())
    }

    pub fn groups(&self) -> impl Iterator<Item = GroupId> {
        let listed = self.list.iter().flat_map(|list| list.iter().map(|needed| needed.group));
        listed.chain(self.more.iter().copied())
    }

    /// What it was made of, if nothing of it was let go since.
    pub fn list(&self) -> Option<&NeededGroups> {
        self.list.as_ref()
    }
}

impl Drop for Holds {
    fn drop(&mut self) {
        self.references.release(&self.more);
        if let Some(list) = &self.list {
            self.references.release_list(list);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn id(counter: u32) -> GroupId {
        GroupId::new(1, counter)
    }

    fn list(counters: impl IntoIterator<Item = u32>) -> NeededGroups {
        let needed = |counter| Needed { group: id(counter), data: 4096, pages: 0, is_copied: false };
        counters.into_iter().map(needed).collect::<Vec<_>>().into()
    }

    fn counts(references: &References) -> Vec<usize> {
        (1..=5).map(|counter| references.holders(id(counter))).collect()
    }

    #[test]
    fn holders_of_a_list_count_each_for_all_of_it() {
        let references = Rc::new(References::default());
        let groups = list([1, 3]);
        let first = Holds::of_list(&references, &groups);
        assert!(references.is_held(id(3)) && !references.is_held(id(2)));
        let mut second = Holds::of_list(&references, &groups);
        second.add(id(3));
        second.add(id(5));
        let third = second.again();
        assert_eq!(counts(&references), [3, 0, 3, 0, 2]);
        assert_eq!(second.groups().collect::<Vec<_>>(), [id(1), id(3), id(5)]);
        drop(first);
        assert_eq!(counts(&references), [2, 0, 2, 0, 2]);
        // One of the list: the others of it stay.
        second.remove(id(1));
        assert_eq!(counts(&references), [1, 0, 2, 0, 2]);
        assert!(!second.contains(id(1)) && second.contains(id(3)) && third.contains(id(1)));
        drop(second);
        drop(third);
        assert!(!references.is_any_held());
        assert!(references.lists.borrow().known.is_empty());
    }

    fn rings(references: &References) -> bool {
        let mut bell = Box::pin(references.released.notified());
        bell.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_ready()
    }

    /// While one copies, each part of it lets go of what is held still.
    #[test]
    fn what_others_hold_rings_for_nobody() {
        let references = Rc::new(References::default());
        let (first, second) = (Holds::new(&references, [id(1), id(2)]), Holds::new(&references, [id(1), id(2)]));
        drop(first);
        assert!(!rings(&references));
        drop(Holds::none(&references));
        drop(second);
        assert!(rings(&references));
    }

    /// Who holds a group besides is not counted yet when the last hold of its own goes.
    #[test]
    fn whatever_is_let_go_while_lists_are_not_counted_rings_and_counts_none() {
        let references = Rc::new(References::default());
        let groups = list([1, 2]);
        let mut own = Holds::new(&references, [id(1)]);
        references.becomes_copied(id(1));
        let listed = Holds::of_list(&references, &groups);
        assert_eq!(counts(&references), [2, 1, 0, 0, 0]);
        drop(listed);
        assert!(rings(&references) && !references.lists.borrow().changed.is_empty());
        own.remove(id(1));
        assert!(rings(&references) && !references.lists.borrow().changed.is_empty(), "of both the last one is gone");
        assert_eq!(references.copied_groups(), BTreeSet::from([id(1)]));
        references.forget_copies();
        assert_eq!(references.copied_groups(), BTreeSet::new());
    }

    #[test]
    fn a_list_that_nobody_asked_about_leaves_nothing_behind() {
        let references = Rc::new(References::default());
        let before = references.releases();
        drop(Holds::of_list(&references, &list([1, 2])));
        assert!(references.releases() > before, "whoever waits for groups looks again");
        assert!(references.lists.borrow().known.is_empty() && references.lists.borrow().changed.is_empty());
        // One whose holders change between two questions, to as many as before.
        let groups = list([2]);
        let one = Holds::of_list(&references, &groups);
        assert_eq!(counts(&references), [0, 1, 0, 0, 0]);
        let other = Holds::of_list(&references, &groups);
        drop(one);
        assert_eq!(counts(&references), [0, 1, 0, 0, 0]);
        drop(other);
        assert_eq!(counts(&references), [0; 5]);
    }
}
