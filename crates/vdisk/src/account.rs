//! What each extent group of a vDisk holds: hints for choosing, never the proof that something is dead.

use crate::group_map::GroupMap;
use base::{GroupId, Sequence};
use std::collections::BTreeMap;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GroupAccount {
    /// Bytes up to the end of the last frame.
    pub len: u32,
    /// Bytes of data extents that the live map refers to.
    pub data: u32,
    /// Bytes of map pages that the last checkpoint refers to.
    pub pages: u32,
    /// Bytes given back by punching.
    pub punched: u32,
    pub last_sequence: Sequence,
    /// The last frame that took extents of it over from elsewhere: they may be at blocks that its own frames do not name.
    pub copied_at: Option<Sequence>,
}

impl GroupAccount {
    pub fn live(&self) -> u64 {
        u64::from(self.data) + u64::from(self.pages)
    }
    pub fn occupied(&self) -> u64 {
        u64::from(self.len.saturating_sub(self.punched))
    }
    /// Something is in it, or may be though the counters say nothing.
    pub fn is_needed(&self) -> bool {
        self.live() > 0 || self.copied_at.is_some()
    }
    /// Of another vDisk: nothing was ever appended to it here.
    pub fn is_foreign(&self) -> bool {
        self.len == 0
    }
}

#[derive(Clone, Default)]
pub struct Accounts {
    pub groups: GroupMap,
    /// Empty groups that are not on the disk, as far as it can be read. They count nowhere, checkpoints go on to name them, and
    /// none of them is among the others: what is needed again goes there.
    absent: BTreeMap<GroupId, GroupAccount>,
    live_data: u64,
    live_pages: u64,
    occupied: u64,
}

impl FromIterator<(GroupId, GroupAccount)> for Accounts {
    /// Of a group that comes again the last account counts. Fast if they come in order of ids.
    fn from_iter<I: IntoIterator<Item = (GroupId, GroupAccount)>>(groups: I) -> Accounts {
        let (groups, mut accounts): (GroupMap, _) = (groups.into_iter().collect(), Accounts::default());
        groups.iter().for_each(|(_, account)| accounts.comes(account));
        Accounts { groups, ..accounts }
    }
}

impl Accounts {
    pub fn live_data(&self) -> u64 {
        self.live_data
    }
    pub fn live_bytes(&self) -> u64 {
        self.live_data + self.live_pages
    }
    pub fn occupied_bytes(&self) -> u64 {
        self.occupied
    }

    pub fn absent(&self) -> &BTreeMap<GroupId, GroupAccount> {
        &self.absent
    }

    pub fn becomes_absent(&mut self, group: GroupId, account: GroupAccount) {
        self.remove(group);
        self.absent.insert(group, account);
    }

    /// What is known of it. (Nothing is of one that only others have written to.)
    pub fn of(&self, group: GroupId) -> GroupAccount {
        self.groups.get(&group).or_else(|| self.absent.get(&group)).copied().unwrap_or_default()
    }

    pub fn insert(&mut self, group: GroupId, account: GroupAccount) {
        self.absent.remove(&group);
        if let Some(old) = self.groups.insert(group, account) {
            self.goes(&old);
        }
        self.comes(&account);
    }

    pub fn remove(&mut self, group: GroupId) {
        if let Some(old) = self.groups.remove(&group) {
            self.goes(&old);
        }
    }

    fn comes(&mut self, new: &GroupAccount) {
        self.live_data += u64::from(new.data);
        self.live_pages += u64::from(new.pages);
        self.occupied += new.occupied();
    }

    fn goes(&mut self, old: &GroupAccount) {
        self.live_data -= u64::from(old.data);
        self.live_pages -= u64::from(old.pages);
        self.occupied -= old.occupied();
    }

    fn change(&mut self, group: GroupId, change: impl FnOnce(&mut GroupAccount)) {
        if let Some(account) = self.absent.get(&group).copied() {
            // Or it would pass for one of others.
            self.insert(group, account);
        }
        let account = self.groups.get_or_default(group);
        let before = *account;
        change(account);
        let after = *account;
        self.live_data = self.live_data + u64::from(after.data) - u64::from(before.data);
        self.live_pages = self.live_pages + u64::from(after.pages) - u64::from(before.pages);
        self.occupied = self.occupied + after.occupied() - before.occupied();
    }

    pub fn appended(&mut self, group: GroupId, end: u32, sequence: Sequence) {
        self.change(group, |account| {
            account.len = account.len.max(end);
            account.last_sequence = account.last_sequence.max(sequence);
        });
    }

    /// Counters are hints: one that would go below zero stays at zero.
    pub fn data_dead(&mut self, group: GroupId, bytes: u32) {
        self.change(group, |account| account.data = account.data.saturating_sub(bytes));
    }
    pub fn data_live(&mut self, group: GroupId, bytes: u32) {
        self.change(group, |account| account.data += bytes);
    }
    /// Extents of it are somewhere else, too.
    pub fn copied(&mut self, group: GroupId, bytes: u32, at: Sequence) {
        self.change(group, |account| {
            account.data += bytes;
            account.copied_at = account.copied_at.max(Some(at));
        });
    }
    /// None of them is any more.
    pub fn copies_gone(&mut self, group: GroupId) {
        if self.groups.contains_key(&group) {
            self.change(group, |account| account.copied_at = None);
        }
    }
    pub fn page_dead(&mut self, group: GroupId, bytes: u32) {
        self.change(group, |account| account.pages = account.pages.saturating_sub(bytes));
    }
    pub fn page_live(&mut self, group: GroupId, bytes: u32) {
        self.change(group, |account| account.pages += bytes);
    }
    pub fn punched(&mut self, group: GroupId, bytes: u32) {
        self.change(group, |account| account.punched = (account.punched + bytes).min(account.len));
    }
}
