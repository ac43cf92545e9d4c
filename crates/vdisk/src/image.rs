//! What snapshots, clones and rollbacks start from: the root of a stored map and what it needs of each group.

use crate::account::{Accounts, GroupAccount};
use crate::address::Address;
use base::{GroupId, SnapshotId, VdiskId};

/// A stored map and the groups that it refers to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Image {
    pub root: Address,
    pub height: u8,
    /// In order of ids, none of them empty.
    pub groups: Vec<Needed>,
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
        let mut needed: Vec<Needed> =
            living.map(|(group, account)| Needed { group: *group, data: account.data, pages: account.pages }).collect();
        needed.sort_unstable_by_key(|needed| needed.group);
        needed
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
