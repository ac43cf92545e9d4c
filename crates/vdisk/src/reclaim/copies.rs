//! Giving up groups of which extents were taken over: when the whole map of a proven checkpoint does not lead there.
//!
//! At which blocks such extents are no frame of the group says, so that none is looked up: the map is read to its end.
//! Counters only say when that may be worth it. On a full disk what is left in such groups is moved, if that frees them.

use super::yield_now;
use crate::account::GroupAccount;
use crate::address::Address;
use crate::log::{Item, Move};
use crate::map::{FANOUT, decode_page};
use crate::recovery::replay::all;
use crate::stats::Stats;
use crate::stored::page_bytes;
use crate::vdisk::{Checkpoint, Health, Vdisk};
use crate::{Error, Kind, Result};
use base::{GroupId, Sequence};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

/// Pages of the map that are read side by side: enough to keep a disk busy.
const READS_AT_ONCE: usize = 32;
/// Blocks moved by one frame, as [`super::empty`] does.
const MOVES_MAX: usize = 48;

/// How long a map that could not be read is left alone, ns.
const RETRY_NS: u64 = 30_000_000_000;

/// Why what was copied does not come free.
pub(crate) struct CopiesTrouble {
    /// The checkpoint that was looked at.
    checkpoint: Sequence,
    /// No walk before, ns.
    until: u64,
    pub text: String,
}

/// What a map leads to.
#[derive(Clone, Copy)]
struct Entry {
    address: Address,
    /// Levels below it; 0: an extent of data.
    level: u8,
    /// The first block that it is about.
    block: u64,
}

impl Vdisk {
    /// Bytes in groups that it has written, that its map does not lead to, and that stay as they are, since copies have taken
    /// something over of these groups. (A copy elsewhere may lead to them.)
    pub fn copied_dead_bytes(&self) -> u64 {
        let references = &self.context.references;
        if !references.is_any_copied() {
            return 0;
        }
        let state = self.state.borrow();
        let own = state.accounts.groups.iter().filter(|(_, account)| !account.is_foreign());
        let copied = own.filter(|(group, _)| references.is_copied(**group));
        copied.map(|(_, account)| account.occupied().saturating_sub(account.live())).sum()
    }

    /// Gives up the groups to which the last checkpoint does not lead. `true`: there were any.
    pub(super) async fn let_go_of_copies(self: &Rc<Self>) -> Result<bool> {
        let Some(checkpoint) = self.state.borrow().checkpoint else { return Ok(false) };
        let gone = self.copies_gone(checkpoint).await?;
        self.give_up_copies(checkpoint, &gone);
        Ok(!gone.is_empty())
    }

    /// Groups are there that could be given up, by what is counted.
    pub(super) fn copies_are_due(&self) -> bool {
        if !self.context.references.is_any_copied() {
            return false;
        }
        let Some(checkpoint) = self.state.borrow().checkpoint else { return false };
        self.is_worth_a_walk(self.copies_counted_dead(checkpoint).len() as u64)
    }

    /// Groups to be given up, with the last frame that took anything over.
    async fn copies_gone(self: &Rc<Self>, checkpoint: Checkpoint) -> Result<Vec<(GroupId, Sequence)>> {
        let mut dead = self.copies_counted_dead(checkpoint);
        if dead.is_empty() {
            let is_over = |trouble: &mut CopiesTrouble| trouble.checkpoint != checkpoint.place.sequence;
            self.copies_trouble.borrow_mut().take_if(is_over);
        }
        if !self.is_worth_a_walk(dead.len() as u64) {
            return Ok(Vec::new());
        }
        // First: where there is no room for that, the map is not read for nothing, again and again.
        self.prove_in_log(checkpoint).await?;
        let groups = dead.iter().map(|(group, _)| *group).collect();
        match self.find_all(checkpoint, &groups).await {
            Ok(found) => {
                self.copies_trouble.replace(None);
                found.iter().for_each(|group| self.lives_on(checkpoint, *group));
                dead.retain(|(group, _)| !found.contains(group));
                Ok(dead)
            }
            Err(error) => {
                self.walk_failed(checkpoint, &error);
                Ok(Vec::new())
            }
        }
    }

    fn walk_failed(&self, checkpoint: Checkpoint, error: &Error) {
        if matches!(error.kind, Kind::Io | Kind::Corrupt) {
            tracing::error!(vdisk = %self.id, %error, "the map cannot be read to its end; what was copied is kept");
            let text =
                format!("its map cannot be read to its end, so that what it has copied does not come free: {error}");
            self.tell_trouble(checkpoint, text);
        }
    }

    fn tell_trouble(&self, checkpoint: Checkpoint, text: String) {
        let until = self.context.world.now().0 + RETRY_NS;
        self.copies_trouble.replace(Some(CopiesTrouble { checkpoint: checkpoint.place.sequence, until, text }));
    }

    /// In memory nothing that is held is let go while anybody looks. The checkpoint is proven. `gone`: as [`Vdisk::copies_gone`] says.
    fn give_up_copies(&self, checkpoint: Checkpoint, gone: &[(GroupId, Sequence)]) {
        let still = self.copies_counted_dead(checkpoint);
        for (group, _) in gone.iter().filter(|gone| still.contains(gone)) {
            let mut state = self.state.borrow_mut();
            if state.accounts.of(*group).is_foreign() {
                state.accounts.remove(*group);
                state.checkpoint_accounts.remove(*group);
            } else {
                state.accounts.copies_gone(*group);
                state.checkpoint_accounts.copies_gone(*group);
            }
            drop(state);
            self.foreign.borrow_mut().remove(*group);
        }
    }

    fn copies_counted_dead(&self, checkpoint: Checkpoint) -> Vec<(GroupId, Sequence)> {
        let state = self.state.borrow();
        // What is taken over of its own groups are extents of data; pages of the map are where its frames say.
        let is_dead = |account: &GroupAccount| account.data == 0 && (account.pages == 0 || !account.is_foreign());
        let was_dead = |group: &GroupId| state.checkpoint_accounts.groups.get(group).is_none_or(is_dead);
        let dead = state.accounts.groups.iter().filter_map(|(group, account)| {
            let copied_at = account.copied_at.filter(|at| *at <= checkpoint.covers.sequence)?;
            (is_dead(account) && was_dead(group)).then_some((*group, copied_at))
        });
        let mut dead: Vec<_> = dead.collect();
        dead.sort_unstable();
        dead
    }

    /// No more is read than may come free; on a full disk anything is worth it.
    fn is_worth_a_walk(&self, groups: u64) -> bool {
        if groups == 0 || self.is_left_alone() {
            return false;
        }
        if self.urgent.get() {
            return true;
        }
        let state = self.state.borrow();
        let pages = state.accounts.live_bytes() - state.accounts.live_data();
        pages <= groups * u64::from(self.context.pool.group_size())
    }

    /// A map that could not be read is not read at once again, the disk may be as full as it is.
    fn is_left_alone(&self) -> bool {
        let now = self.context.world.now().0;
        self.copies_trouble.borrow().as_ref().is_some_and(|trouble| now < trouble.until)
    }

    /// The counters are wrong; another look is for a later checkpoint.
    fn lives_on(&self, checkpoint: Checkpoint, group: GroupId) {
        tracing::error!(vdisk = %self.id, %group, "a group that no block should lead to is led to; it is kept");
        let text = format!("group {group}, of which it has copied, is not as empty as it is counted; it is kept");
        self.tell_trouble(checkpoint, text);
        let mut state = self.state.borrow_mut();
        let at = state.position.sequence;
        state.accounts.copied(group, 0, at);
    }

    /// Which of the groups anything in the map leads to. (In its own groups the pages of the map are where its frames say, and
    /// need no hold.)
    async fn find_all(&self, checkpoint: Checkpoint, groups: &BTreeSet<GroupId>) -> Result<BTreeSet<GroupId>> {
        let is_foreign = |group: &GroupId| self.state.borrow().accounts.of(*group).is_foreign();
        let foreign: BTreeSet<GroupId> = groups.iter().copied().filter(is_foreign).collect();
        let mut found = BTreeSet::new();
        let visit = |entry: Entry| {
            let group = entry.address.group();
            let looked_for = if entry.level == 0 { groups } else { &foreign };
            if looked_for.contains(&group) {
                found.insert(group);
            }
            found.len() < groups.len()
        };
        self.walk_map(checkpoint, visit).await?;
        Ok(found)
    }

    /// Visits all that the map as of the checkpoint leads to, until `visit` says no.
    async fn walk_map(&self, checkpoint: Checkpoint, mut visit: impl FnMut(Entry) -> bool) -> Result<()> {
        let root = Entry { address: checkpoint.root, level: checkpoint.height, block: 0 };
        if !root.address.is_stored() || !visit(root) {
            return Ok(());
        }
        let mut todo = vec![root];
        while !todo.is_empty() {
            self.goes_on()?;
            let pages = todo.split_off(todo.len().saturating_sub(READS_AT_ONCE));
            for (page, entries) in self.read_pages(pages).await? {
                let span = (FANOUT as u64).pow(u32::from(page.level) - 1);
                for (index, address) in entries.iter().enumerate().filter(|(_, address)| address.is_stored()) {
                    let block = page.block + index as u64 * span;
                    let entry = Entry { address: *address, level: page.level - 1, block };
                    if !visit(entry) {
                        return Ok(());
                    }
                    todo.extend((entry.level > 0).then_some(entry));
                }
            }
            yield_now().await;
        }
        Ok(())
    }

    /// Who closes, deletes or rolls back the vDisk does not wait for it.
    fn goes_on(&self) -> Result<()> {
        if self.closing.get() || self.health() != Health::Online || self.rollback_waits.get() {
            return Err(Error::new(Kind::Closed, "something else is to be done with the vDisk"));
        }
        Ok(())
    }

    async fn read_pages(&self, pages: Vec<Entry>) -> Result<Vec<(Entry, Box<[Address; FANOUT]>)>> {
        let read = RefCell::new(Vec::with_capacity(pages.len()));
        let one = async |page: Entry| {
            let bytes = page_bytes(&self.context, page.address).await?;
            let bad = |error| Error::corrupt(format!("map page at {:?}: {error}", page.address));
            let entries = decode_page(&bytes).map_err(bad)?;
            read.borrow_mut().push((page, entries));
            Result::<()>::Ok(())
        };
        all(pages.into_iter().map(one).collect()).await?;
        Ok(read.into_inner())
    }
}

/// What is left in groups that hardly anything lives in.
impl Vdisk {
    /// The disk is full: groups that nothing but a little of this vDisk keeps are emptied, and given up.
    pub(super) async fn empty_copies(self: &Rc<Self>) -> Result<()> {
        let _one = self.one_reclaim.acquire(1).await;
        let Some(checkpoint) = self.state.borrow().checkpoint else { return Ok(()) };
        let thin = self.thin_copies();
        // Who was not heard yet may need them: they would not come free.
        if thin.is_empty() || !self.may_free() || self.closing.get() || self.is_left_alone() {
            return Ok(());
        }
        let mut left = Vec::new();
        let visit = |entry: Entry| {
            if entry.level == 0 && thin.contains(&entry.address.group()) {
                left.push((entry.block, entry.address));
            }
            true
        };
        if let Err(error) = self.walk_map(checkpoint, visit).await {
            self.walk_failed(checkpoint, &error);
            return Err(error);
        }
        let moved = self.move_all(&left).await;
        // What could be moved comes free, whatever has ended it.
        self.checkpoint_if_it_fits().await?;
        self.free_dead_groups().await?;
        moved
    }

    async fn move_all(&self, all: &[(u64, Address)]) -> Result<()> {
        for part in all.chunks(MOVES_MAX) {
            let mut moves = Vec::with_capacity(part.len());
            for (block, from) in part {
                moves.extend(self.to_be_moved(*block, *from).await);
            }
            self.ask(|done| Item::Relocate { moves, done }).await??;
        }
        Ok(())
    }

    /// `None`: it cannot be read, and stays where it is. What a checkpoint leads to is on the medium.
    async fn to_be_moved(&self, block: u64, from: Address) -> Option<Move> {
        let why = match self.context.pool.read(from.group(), from.offset(), from.len()).await {
            Ok(data) if base::crc::crc32c(&data) == from.crc() => return Some(Move { block, from, data }),
            Ok(_) => {
                Stats::add(&self.stats.checksum_failures, 1);
                "it fails its checksum".to_string()
            }
            Err(error) => error.to_string(),
        };
        tracing::error!(vdisk = %self.id, block, extent = ?from, why, "an extent cannot be read and is not moved");
        self.state.borrow_mut().unreadable.insert(from.group());
        None
    }

    /// Groups that come free when what this vDisk has in them moves, and that is less than half of them: not more than
    /// half a group in all, nor than the reserve has for that, since it takes room first, and gives some back only when whoever wrote
    /// them has freed them. Nobody else holds them, and whoever wrote them has nothing there.
    fn thin_copies(&self) -> BTreeSet<GroupId> {
        let (references, held) = (&self.context.references, self.foreign.borrow());
        let size = self.context.pool.group_size();
        let state = self.state.borrow();
        let open = state.open.as_ref().map(|group| group.id());
        let thin = state.accounts.groups.iter().filter(|(group, account)| {
            let (group, is_foreign) = (**group, account.is_foreign());
            let occupied = if is_foreign { size.into() } else { account.occupied() };
            let settled = group != state.position.group && Some(group) != open && !state.unreadable.contains(&group);
            let alone = held.contains(group) && references.holders(group) == 1;
            let is_thin = account.data > 0 && u64::from(account.data) * 2 < occupied;
            // Pages of the map, which a clone may have in groups of others, do not move by this.
            let is_hollow = || references.is_hollow(group) && account.pages == 0;
            let hollow = if is_foreign { is_hollow() } else { !self.is_history(account) };
            account.copied_at.is_some() && settled && alone && is_thin && hollow
        });
        let mut thin: Vec<(u32, GroupId)> = thin.map(|(group, account)| (account.data, *group)).collect();
        thin.sort_unstable();
        let bytes_max = self.context.pool.reserve_for_moves_bytes().min(u64::from(size) / 2);
        let mut bytes = 0;
        let fits = |(data, group): (u32, GroupId)| {
            bytes += u64::from(data);
            (bytes <= bytes_max).then_some(group)
        };
        thin.into_iter().map_while(fits).collect()
    }
}
