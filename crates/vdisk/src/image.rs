//! What snapshots, clones and rollbacks start from: the root of a stored map and what it needs of each group.

use crate::account::{Accounts, GroupAccount};
use crate::address::Address;
use base::{GroupId, SnapshotId, VdiskId};
use std::cell::LazyCell;
use std::rc::Rc;

/// A stored map and the groups that it refers to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Image {
    pub root: Address,
    pub height: u8,
    pub groups: NeededGroups,
}

/// What an image needs of each group, in order of ids, none of them empty. One list for all who need the same, made when
/// somebody looks at it: for a terabyte it has 16,000 entries, and a snapshot of that is to take no longer.
#[derive(Clone)]
pub struct NeededGroups(Rc<Listing>);

type Listing = LazyCell<Vec<Needed>, Box<dyn FnOnce() -> Vec<Needed>>>;

impl NeededGroups {
    pub(crate) fn of(accounts: Accounts) -> NeededGroups {
        NeededGroups(Rc::new(LazyCell::new(Box::new(move || accounts.needed()))))
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
        NeededGroups(Rc::new(LazyCell::new(Box::new(move || list))))
    }
}

impl std::ops::Deref for NeededGroups {
    type Target = [Needed];
    fn deref(&self) -> &[Needed] {
        &self.0
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

/// Bytes of one group that an image refers to. 16 bytes in a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Needed {
    pub group: GroupId,
    pub data: u32,
    pub pages: u32,
}

/// Where a clone comes from; a part of its birth record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    pub snapshot: SnapshotId,
    /// The vDisks whose groups it may refer to: its ancestors, oldest first, at least one.
    pub lineage: Vec<VdiskId>,
    pub image: Image,
}

impl Accounts {
    /// What the live map and the last checkpoint need, as an image has it.
    pub(crate) fn needed(&self) -> Vec<Needed> {
        let living = self.groups.iter().filter(|(_, account)| account.live() > 0);
        living.map(|(group, account)| Needed { group: *group, data: account.data, pages: account.pages }).collect()
    }

    /// The map becomes that of an image: of what the groups hold only that lives. Groups of others come and go with it.
    pub(crate) fn become_image(&mut self, groups: &[Needed]) {
        let all: Vec<(GroupId, GroupAccount)> = self.groups.iter().map(|(id, account)| (*id, *account)).collect();
        for (id, account) in all {
            self.insert(id, GroupAccount { data: 0, pages: 0, ..account });
        }
        for needed in groups {
            let account = GroupAccount { data: needed.data, pages: needed.pages, ..self.of(needed.group) };
            self.insert(needed.group, account);
        }
    }
}
