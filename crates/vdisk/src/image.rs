//! What snapshots, clones and rollbacks start from: the root of a stored map and what it needs of each group.

use crate::account::{Accounts, GroupAccount};
use crate::address::Address;
use base::{GroupId, Sequence, SnapshotId, VdiskId};
use std::cell::{LazyCell, OnceCell};
use std::rc::Rc;

/// A stored map and the groups that it refers to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Image {
    pub root: Address,
    pub height: u8,
    pub groups: NeededGroups,
}

/// What an image needs of each group, in order of ids, none of them empty but for those of which extents were taken over. One
/// list for all who need the same, made when somebody looks at it: for a terabyte it has 16,000 entries, and a snapshot of that
/// is to take no longer.
#[derive(Clone)]
pub struct NeededGroups(Rc<Listing>);

struct Listing {
    needed: LazyCell<Vec<Needed>, Box<dyn FnOnce() -> Vec<Needed>>>,
    /// Of a clone that has written nothing yet.
    accounts: OnceCell<Accounts>,
}

impl NeededGroups {
    pub(crate) fn of(accounts: Accounts) -> NeededGroups {
        NeededGroups::made_by(move || accounts.needed())
    }

    fn made_by(make: impl FnOnce() -> Vec<Needed> + 'static) -> NeededGroups {
        let needed = LazyCell::new(Box::new(make) as Box<dyn FnOnce() -> Vec<Needed>>);
        NeededGroups(Rc::new(Listing { needed, accounts: OnceCell::new() }))
    }

    /// What whoever has this image of others holds of each group, but for the marks of copies. All who ask share the entries.
    fn accounts(&self) -> Accounts {
        let of = |needed: &Needed| GroupAccount { data: needed.data, pages: needed.pages, ..GroupAccount::default() };
        let accounts = || self.iter().map(|needed| (needed.group, of(needed))).collect();
        self.0.accounts.get_or_init(accounts).clone()
    }

    /// Those that share a list have the same number, and nobody else has as long as one of them is there.
    pub(crate) fn number(&self) -> usize {
        Rc::as_ptr(&self.0).addr()
    }

    pub(crate) fn find(&self, group: GroupId) -> Option<&Needed> {
        self.binary_search_by_key(&group, |needed| needed.group).ok().map(|at| &self[at])
    }
}

impl From<Vec<Needed>> for NeededGroups {
    fn from(list: Vec<Needed>) -> NeededGroups {
        NeededGroups::made_by(move || list)
    }
}

impl std::ops::Deref for NeededGroups {
    type Target = [Needed];
    fn deref(&self) -> &[Needed] {
        &self.0.needed
    }
}

impl PartialEq for NeededGroups {
    fn eq(&self, other: &NeededGroups) -> bool {
        **self == **other
    }
}

impl Eq for NeededGroups {}

impl std::fmt::Debug for NeededGroups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Bytes of one group that an image refers to. 16 bytes in a record of few groups, some 1 to 6 in one of many.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Needed {
    pub group: GroupId,
    pub data: u32,
    pub pages: u32,
    /// Extents of it may be at blocks that its own frames do not name.
    pub is_copied: bool,
}

/// Where a clone comes from; a part of its birth record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    pub snapshot: SnapshotId,
    /// The vDisks whose groups it may refer to: its ancestors, oldest first, at least one.
    pub lineage: Vec<VdiskId>,
    pub image: Image,
}

impl Image {
    pub(crate) fn has_copies(&self) -> bool {
        self.groups.iter().any(|needed| needed.is_copied)
    }
}

impl Accounts {
    /// What the live map and the last checkpoint need, as an image has it.
    pub(crate) fn needed(&self) -> Vec<Needed> {
        let needed = self.groups.iter().filter(|(_, account)| account.is_needed());
        let of = |(&group, account): (&GroupId, &GroupAccount)| {
            let is_copied = account.copied_at.is_some();
            Needed { group, data: account.data, pages: account.pages, is_copied }
        };
        needed.map(of).collect()
    }

    /// The map becomes that of an image, by the frame `at`: of what the groups hold only that lives. Groups of others come and go with it.
    pub(crate) fn become_image(&mut self, groups: &NeededGroups, at: Sequence) {
        let mut accounts = groups.accounts();
        let mut all = |group: GroupId, before: GroupAccount, is_absent: bool| match accounts.groups.get(&group).copied()
        {
            None if is_absent => accounts.becomes_absent(group, before),
            needed => {
                let (data, pages) = needed.map_or((0, 0), |needed| (needed.data, needed.pages));
                accounts.insert(group, GroupAccount { data, pages, ..before });
            }
        };
        self.groups.iter().for_each(|(group, before)| all(*group, *before, false));
        self.absent().iter().for_each(|(group, before)| all(*group, *before, true));
        // Who shares the entries has other frames, so the marks are not among them.
        groups.iter().filter(|needed| needed.is_copied).for_each(|needed| accounts.copied(needed.group, 0, at));
        *self = accounts;
    }
}
