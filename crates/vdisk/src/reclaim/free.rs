//! Freeing groups that a synced checkpoint proves dead.

use super::view::View;
use super::{extents, yield_now};
use crate::Result;
use crate::account::GroupAccount;
use crate::contents::Held;
use crate::log::frame::RunKind;
use crate::log::{GroupWalk, Item, Step};
use crate::map::PagePlace;
use crate::stats::Stats;
use crate::vdisk::{Checkpoint, Vdisk};
use base::GroupId;
use std::rc::Rc;

impl Vdisk {
    /// Frees every group that the last checkpoint proves dead. Returns how many.
    pub(crate) async fn free_dead_groups(self: &Rc<Self>) -> Result<u64> {
        let mut freed = 0;
        self.free_superseded().await?;
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
                    self.state.borrow_mut().accounts.remove(group);
                    self.contents.borrow_mut().forget(group);
                    self.context.pool.free(group).await?;
                    Stats::add(&self.stats.groups_freed, 1);
                    Stats::add(&self.stats.bytes_freed, account.occupied());
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

    async fn free_superseded(&self) -> Result<()> {
        let groups = {
            let mut state = self.state.borrow_mut();
            let durable = state.durable.sequence;
            let (keep, free): (Vec<_>, Vec<_>) =
                std::mem::take(&mut state.superseded).into_iter().partition(|(until, _)| *until > durable);
            state.superseded = keep;
            free
        };
        for (_, group) in groups {
            self.context.pool.free(group).await?;
        }
        Ok(())
    }

    /// Before anything goes that an earlier checkpoint may need, the log itself says that this one is synced: who has
    /// nothing but the log starts from the last checkpoint of which that can be said.
    pub(super) async fn prove_in_log(self: &Rc<Self>, checkpoint: Checkpoint) -> Result<()> {
        if self.state.borrow().proof_logged >= checkpoint.place.sequence {
            return Ok(());
        }
        let sequence = self.ask(|done| Item::Proof { done }).await??;
        self.flush_through(sequence).await
    }

    fn dead_candidates(&self) -> Vec<(GroupId, GroupAccount)> {
        let state = self.state.borrow();
        let Some(checkpoint) = state.checkpoint else { return Vec::new() };
        let open = state.open.as_ref().map(|group| group.id());
        let dead_then =
            |group: &GroupId| state.checkpoint_accounts.groups.get(group).is_none_or(|then| then.live() == 0);
        let mut dead: Vec<(GroupId, GroupAccount)> = state
            .accounts
            .groups
            .iter()
            .filter(|(id, account)| {
                account.live() == 0
                    && account.last_sequence <= checkpoint.covers.sequence
                    && dead_then(id)
                    && **id != state.position.group
                    && **id != state.durable.group
                    && Some(**id) != open
                    && **id != checkpoint.place.group
                    && !state.unreadable.contains(*id)
            })
            .map(|(id, account)| (*id, *account))
            .collect();
        dead.sort_unstable_by_key(|(id, _)| *id);
        dead
    }

    /// Looks every extent of the group up in the checkpoint's tree. `Some`: something lives, or cannot be ruled out.
    async fn find_reachable(&self, group: GroupId, len: u32, checkpoint: Checkpoint) -> Result<Option<String>> {
        let mut view = View { vdisk: self, root: checkpoint.root, height: checkpoint.height, leaf: None };
        let known = self.contents.borrow().of(group).map(<[Held]>::to_vec);
        if let Some(held) = known {
            return view.find_any(group, held).await;
        }
        let mut walk = GroupWalk::headers(self.context.pool.clone(), self.id, group, len);
        while let Step::Frame(walked) = walk.next().await? {
            let frame = &walked.frame;
            yield_now().await;
            for run in &frame.runs {
                for (i, address) in extents(&walked, run).into_iter().enumerate() {
                    let found = match run.kind {
                        RunKind::Page => view.page(PagePlace { level: run.level, index: run.block }).await?,
                        _ => view.block(run.block + i as u64).await?,
                    };
                    if found == address {
                        return Ok(Some(format!("{:?} {} + {i} is at {address:?}", run.kind, run.block)));
                    }
                }
            }
        }
        if walk.at.end < len {
            return Ok(Some(format!("its frames can be read up to {:#x} of {len:#x} only", walk.at.end)));
        }
        Ok(None)
    }
}
