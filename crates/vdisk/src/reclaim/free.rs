//! Freeing groups that a synced checkpoint proves dead.

use super::view::View;
use super::yield_now;
use crate::Result;
use crate::account::{Accounts, GroupAccount};
use crate::address::Address;
use crate::contents::{Held, Listed, Runs, held_by};
use crate::log::{GroupWalk, Item, Step};
use crate::snapshot::{LettingGo, Snapshot};
use crate::stats::Stats;
use crate::vdisk::{Checkpoint, Context, Health, State, Vdisk};
use base::{GroupId, Sequence, VdiskId};
use std::collections::BTreeSet;
use std::rc::Rc;

impl Vdisk {
    /// Frees every group that the last checkpoint proves dead. Returns how many.
    pub(crate) async fn free_dead_groups(self: &Rc<Self>) -> Result<u64> {
        self.free_superseded().await?;
        self.let_go().await?;
        self.tell_hollow();
        let freed = self.free_shown_dead().await?;
        // This may read all of the map: what comes free without it does not wait.
        Ok(if self.let_go_of_copies().await? { freed + self.free_shown_dead().await? } else { freed })
    }

    async fn free_shown_dead(self: &Rc<Self>) -> Result<u64> {
        let mut freed = 0;
        for (group, account) in self.dead_candidates() {
            let Some(checkpoint) = self.state.borrow().checkpoint else { return Ok(freed) };
            let found = match self.find_reachable(group, account.len, checkpoint).await {
                // One bad sector must not keep everything else from coming free.
                Err(error) => Some(error.to_string()),
                Ok(found) => found,
            };
            match found {
                None => {
                    self.prove_in_log(checkpoint).await?;
                    // A rollback may have brought back what was dead, or somebody hold it, while it was looked up.
                    if !self.is_still_dead(group) {
                        continue;
                    }
                    self.state.borrow_mut().accounts.remove(group);
                    self.contents.borrow_mut().forget(group);
                    self.context.pool.free(group).await?;
                    Stats::add(&self.stats.groups_freed, 1);
                    Stats::add(&self.stats.bytes_freed, account.occupied());
                    self.context.load.room_came();
                    freed += 1;
                }
                Some(why) => {
                    tracing::error!(vdisk = %self.id, %group, why, "a group cannot be shown to be dead; it is kept");
                    self.state.borrow_mut().unreadable.insert(group);
                }
            }
        }
        Ok(freed)
    }

    /// What is held for snapshots that were deleted, and for the map of a clone in groups of others, is given up when the last
    /// checkpoint, which no longer has it, is proven.
    async fn let_go(self: &Rc<Self>) -> Result<()> {
        let Some(checkpoint) = self.state.borrow().checkpoint else { return Ok(()) };
        let foreign = self.foreign_dead();
        let waits = |going: &LettingGo| going.at > checkpoint.covers.sequence;
        if self.state.borrow().letting_go.iter().all(waits) && foreign.is_empty() {
            return Ok(());
        }
        self.prove_in_log(checkpoint).await?;
        // In memory nothing that is held is let go while anybody looks.
        let gone = {
            let mut state = self.state.borrow_mut();
            let all = std::mem::take(&mut state.letting_go);
            let (wait, go): (Vec<_>, Vec<_>) = all.into_iter().partition(waits);
            state.letting_go = wait;
            go
        };
        drop(gone);
        self.find_edge();
        let still_dead = self.foreign_dead();
        for group in foreign.into_iter().filter(|group| still_dead.contains(group)) {
            self.state.borrow_mut().accounts.remove(group);
            self.state.borrow_mut().checkpoint_accounts.remove(group);
            self.foreign.borrow_mut().remove(group);
        }
        Ok(())
    }

    /// Groups of others that neither the map nor the last checkpoint refers to any more, but for those that copies hold.
    fn foreign_dead(&self) -> Vec<GroupId> {
        let state = self.state.borrow();
        let lives = |accounts: &Accounts, group: &GroupId| accounts.groups.get(group).is_some_and(|a| a.live() > 0);
        let frozen: Vec<_> = state.snapshots.values().filter_map(Snapshot::frozen).collect();
        let held = self.foreign.borrow();
        let is_copied = |group: &GroupId| state.accounts.of(*group).copied_at.is_some();
        let dead = |group: &GroupId| {
            !is_copied(group)
                && !lives(&state.accounts, group)
                && !lives(&state.checkpoint_accounts, group)
                && !frozen.iter().any(|frozen| lives(&frozen.accounts.borrow(), group))
        };
        held.groups().filter(dead).collect()
    }

    /// Somebody has given groups up, or was heard: wakes the maintenance if anything was only waiting for that. (A start holds
    /// again what was given up behind the last checkpoint, and of a quiet vDisk nothing else would let it go.)
    pub fn room_may_have_come(&self) {
        let has_void = self.may_free() && !self.state.borrow().superseded.is_empty();
        let is_due = || has_void || self.copies_are_due() || !self.dead_candidates().is_empty();
        if self.health() == Health::Online && is_due() {
            self.maintenance.notify();
        }
    }

    /// Everybody who may need a group of this vDisk was heard.
    pub(super) fn may_free(&self) -> bool {
        let family = self.state.borrow().lineage.first().copied().unwrap_or(self.id);
        self.context.references.may_free(Some(family))
    }

    async fn free_superseded(&self) -> Result<()> {
        let may_free = self.may_free();
        let groups = {
            let mut state = self.state.borrow_mut();
            let durable = state.durable.sequence;
            let is_held = |group| self.context.references.is_held(group) || !may_free;
            let waits = |(until, group): &(Sequence, GroupId)| *until > durable || is_held(*group);
            let (keep, free): (Vec<_>, Vec<_>) = std::mem::take(&mut state.superseded).into_iter().partition(waits);
            state.superseded = keep;
            free
        };
        let mut groups = groups.into_iter();
        while let Some((until, group)) = groups.next() {
            if let Err(error) = self.context.pool.free(group).await {
                self.state.borrow_mut().superseded.extend([(until, group)].into_iter().chain(groups));
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Before anything goes that an earlier checkpoint may need, the log itself says that this one is synced: who has
    /// nothing but the log starts from the last checkpoint of which that can be said.
    pub(crate) async fn prove_in_log(self: &Rc<Self>, checkpoint: Checkpoint) -> Result<()> {
        if self.state.borrow().proof_logged >= checkpoint.place.sequence {
            return Ok(());
        }
        let sequence = self.ask(|done| Item::Proof { done }).await??;
        self.flush_through(sequence).await
    }

    fn dead_candidates(&self) -> Vec<(GroupId, GroupAccount)> {
        if !self.may_free() {
            return Vec::new();
        }
        let state = self.state.borrow();
        let groups = state.accounts.groups.iter().map(|(id, account)| (*id, *account));
        let mut dead: Vec<(GroupId, GroupAccount)> =
            groups.filter(|(id, account)| self.looks_dead(&state, *id, account)).collect();
        dead.sort_unstable_by_key(|(id, _)| *id);
        dead
    }

    fn is_still_dead(&self, group: GroupId) -> bool {
        let state = self.state.borrow();
        self.may_free() && state.accounts.groups.get(&group).is_some_and(|now| self.looks_dead(&state, group, now))
    }

    /// Of its own groups, those that only others keep: whoever has little there may move it.
    fn tell_hollow(&self) {
        let references = &self.context.references;
        if !references.is_any_copied() {
            return;
        }
        let state = self.state.borrow();
        let is_empty = |account: Option<&GroupAccount>| account.is_none_or(|account| account.live() == 0);
        for (group, account) in state.accounts.groups.iter().filter(|(_, account)| !account.is_foreign()) {
            let is_hollow = is_empty(Some(account)) && is_empty(state.checkpoint_accounts.groups.get(group));
            references.becomes_hollow(*group, is_hollow && !self.is_history(account));
        }
    }

    fn looks_dead(&self, state: &State, id: GroupId, account: &GroupAccount) -> bool {
        let Some(checkpoint) = state.checkpoint else { return false };
        account.live() == 0
            && self.is_own(id, account)
            && account.last_sequence <= checkpoint.covers.sequence
            && state.checkpoint_accounts.groups.get(&id).is_none_or(|then| then.live() == 0)
            && id != state.position.group
            && id != state.durable.group
            && Some(id) != state.open.as_ref().map(|group| group.id())
            && id != checkpoint.place.group
            && !state.unreadable.contains(&id)
    }

    /// Looks every extent of the group up in every stored map that can reach it. `Some`: something lives, or cannot be
    /// ruled out.
    async fn find_reachable(&self, group: GroupId, len: u32, checkpoint: Checkpoint) -> Result<Option<String>> {
        let known = self.contents.borrow().of(group).cloned();
        let listed = match known {
            Some(listed) => listed,
            None => match list(&self.context, self.id, group, Some(len)).await? {
                Ok(listed) => listed,
                Err(why) => return Ok(Some(why)),
            },
        };
        let mut roots = self.context.references.roots_of(self.id, listed.first);
        roots.retain(|root| root.address != checkpoint.root);
        let roots = roots.iter().map(|root| (root.address, root.height));
        let roots: Vec<_> = [(checkpoint.root, checkpoint.height)].into_iter().chain(roots).collect();
        find_any_in(&self.context, &roots, group, &listed.held).await
    }
}

/// What the group of `owner` holds, all of it; or why that cannot be said. `len`: up to where it has frames, if known.
pub(crate) async fn list(
    context: &Context,
    owner: VdiskId,
    group: GroupId,
    len: Option<u32>,
) -> Result<std::result::Result<Listed, String>> {
    let mut walk = GroupWalk::headers(context.pool.clone(), owner, group, len.unwrap_or(u32::MAX));
    let mut listed = Listed { first: Sequence(u64::MAX), held: Runs::default() };
    while let Step::Frame(walked) = walk.next().await? {
        yield_now().await;
        listed.first = listed.first.min(walked.frame.sequence);
        walked.frame.runs.iter().filter_map(held_by).for_each(|run| listed.held.push(run));
    }
    let end = walk.at.end;
    match len {
        Some(len) if end < len => Ok(Err(format!("its frames can be read up to {end:#x} of {len:#x} only"))),
        _ => Ok(Ok(listed)),
    }
}

/// Does any of the maps reach anything in `group`, which holds `held`? `Some`: that.
pub(crate) async fn find_any_in(
    context: &Context,
    roots: &[(Address, u8)],
    group: GroupId,
    held: &Runs,
) -> Result<Option<String>> {
    // Neighbours share a page of the map, and roots share pages.
    let mut held: Vec<Held> = held.iter().collect();
    held.sort_unstable();
    let mut seen = BTreeSet::new();
    for (root, height) in roots {
        let mut view = View::new(context, *root, *height);
        if let Some(found) = view.find_any(group, &held, &mut seen).await? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}
