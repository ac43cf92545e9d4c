//! Groups that a recovery finds and the recovered log does not use: which they are, and when they may go.

use super::Found;
use super::replay::Replayed;
use crate::Result;
use crate::log::{GroupWalk, Step, frames_beyond};
use crate::vdisk::{Health, Vdisk};
use base::{GroupId, Sequence};
use std::collections::BTreeMap;

impl Vdisk {
    /// Groups on the disk that the recovered state does not know. None of a damaged vDisk: they may be what is missing.
    pub(super) fn void_groups(&self, found: &Found, tombstone: Option<GroupId>) -> Vec<GroupId> {
        let state = self.state.borrow();
        let mut ids: Vec<GroupId> = found.headers.iter().map(|header| header.group).collect();
        ids.sort_unstable();
        match &state.health {
            Health::Damaged(_) | Health::Failed(_) => Vec::new(),
            Health::Online => {
                ids.retain(|id| !state.accounts.groups.contains_key(id) && !self.is_needed_all_the_same(*id));
                ids
            }
            Health::Deleted => {
                // The tombstone's group goes last: while any other survives, it must say that they are to go.
                let last = state.to_rewrite.back().map_or(state.position, |frame| frame.at);
                let tombstone = tombstone.unwrap_or(last.group);
                // Groups that this recovery opened are among those that it knows; those of others are not its to free.
                let own = state.accounts.groups.iter().filter(|(_, account)| !account.is_foreign());
                ids.extend(own.map(|(id, _)| *id));
                ids.sort_unstable();
                ids.dedup();
                ids.retain(|id| *id != tombstone);
                ids.push(tombstone);
                ids
            }
        }
    }

    /// A header that could not be read for a while, and was taken for that of no group. What snapshots and clones have in it
    /// is there again.
    fn is_needed_all_the_same(&self, group: GroupId) -> bool {
        let is_held = self.context.references.is_held(group);
        if is_held {
            tracing::error!(vdisk = %self.id, %group, "a group that the log does not know is needed by a snapshot or a clone; it is kept");
        }
        is_held
    }

    /// The log is not durable yet, so which copy of an unproven frame is on the medium nobody knows. Keeps those of `void`
    /// that may hold such a frame, or without which no reader gets from group to group to where one is, each until the
    /// log is durable that far; returns the others.
    pub(super) async fn keep_needed(&self, void: Vec<GroupId>, found: &Found, unproven: &[Replayed]) -> Vec<GroupId> {
        let end = unproven.last().map_or(Sequence(0), |frame| frame.sequence);
        let mut needed: BTreeMap<GroupId, Sequence> = unproven.iter().map(|frame| (frame.at.group, end)).collect();
        for group in &void {
            let last = self.last_frame(*group).await.unwrap_or_else(|error| {
                tracing::warn!(vdisk = %self.id, %group, %error, "a void group cannot be read; it goes last");
                end
            });
            needed.insert(*group, last.min(end));
        }
        let mut newest_first: Vec<_> = found.headers.iter().collect();
        newest_first.sort_unstable_by_key(|header| std::cmp::Reverse((header.epoch, header.group)));
        for header in newest_first {
            if let (Some(until), Some(before)) = (needed.get(&header.group).copied(), header.predecessor) {
                let of_before = needed.entry(before.group).or_default();
                *of_before = until.max(*of_before);
            }
        }
        let until = |group: &GroupId| needed.get(group).copied().unwrap_or(end);
        let mut state = self.state.borrow_mut();
        let durable = state.durable.sequence;
        let (keep, free): (Vec<_>, Vec<_>) = void.into_iter().partition(|group| until(group) > durable);
        state.superseded.extend(keep.into_iter().map(|group| (until(&group), group)));
        free
    }

    /// The highest sequence of any frame in the group, `MAX` if not even its first one can be read.
    async fn last_frame(&self, group: GroupId) -> Result<Sequence> {
        let mut walk = GroupWalk::headers(self.context.pool.clone(), self.id, group, u32::MAX);
        let mut last = None;
        while let Step::Frame(walked) = walk.next().await? {
            last = Some(walked.frame.sequence);
        }
        let Some(last) = last else { return Ok(Sequence(u64::MAX)) };
        Ok(last.max(frames_beyond(&self.context.pool, self.id, group, walk.at.end).await?.last))
    }
}
