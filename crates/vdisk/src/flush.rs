//! Flush: what was acknowledged becomes safe from power loss. Also the syncs that nobody asked for, which bound what has
//! to be kept in memory.

use crate::log::{Item, Unsynced};
use crate::stats::Stats;
use crate::vdisk::{Health, Vdisk};
use crate::{Error, Kind, Result};
use base::{GroupId, Sequence};
use std::rc::Rc;

/// Synced bytes at which the kernel's copy of them is given up.
const RELEASE_BYTES: u32 = 1 << 20;
/// After this many rewrites the disk is not worth another try.
const REWRITES_MAX: u32 = 3;

/// The groups that hold them, each once. Frames in a row mostly share one.
pub(crate) fn groups_of<'a>(frames: impl IntoIterator<Item = &'a Unsynced>) -> Vec<GroupId> {
    let mut groups: Vec<GroupId> = Vec::new();
    for frame in frames {
        if !groups.contains(&frame.at.group) {
            groups.push(frame.at.group);
        }
    }
    groups
}

impl Vdisk {
    /// Everything acknowledged before the call survives power loss. A failed sync is answered by writing the unsynced
    /// frames elsewhere and syncing there; only when that fails too, the caller hears of it, and so does every later one.
    pub async fn flush(self: &Rc<Self>) -> Result<()> {
        let target = {
            let state = self.state.borrow();
            match &state.health {
                // Nothing is written again on a damaged vDisk, so what was not proven to be synced never will be.
                Health::Damaged(reason) if state.durable.sequence < state.acknowledged => {
                    return Err(Error::new(Kind::Io, format!("what was not synced cannot be: {reason}")));
                }
                _ => state.acknowledged,
            }
        };
        self.flush_through(target).await
    }

    pub(crate) async fn flush_through(self: &Rc<Self>, target: Sequence) -> Result<()> {
        let mut rewrites = 0;
        loop {
            if let Health::Failed(reason) = self.health() {
                return Err(Error::new(Kind::Io, reason));
            }
            // Where an append under way shares a page with what is to be synced, the sync would store that page once without
            // it and later once with it, and a power loss in between must not take it.
            while self.appending.get() {
                self.appended.notified().await;
            }
            let being_rewritten = {
                let state = self.state.borrow();
                state.durable.sequence < target && (state.position.sequence < target || state.unsynced.is_empty())
            };
            if being_rewritten {
                // What failed to sync is on its way to another place; this queues behind it.
                match self.ask(|done| Item::Rewrite { done }).await? {
                    Ok(()) => continue,
                    Err(error) => {
                        // As far as it came it is synced: the next try goes on from there.
                        self.sync_appended().await;
                        return Err(error);
                    }
                }
            }
            let (through, groups) = {
                let mut state = self.state.borrow_mut();
                if state.durable.sequence >= target {
                    break;
                }
                state.new_sector = true;
                let groups = groups_of(&state.unsynced);
                let through = state.unsynced.back().map_or(state.durable.sequence, |frame| frame.at.sequence);
                (through, groups)
            };
            let before = self.state.borrow().rewrites;
            match self.context.pool.sync(&groups).await {
                Ok(()) => self.mark_durable(through, before),
                Err(error) => {
                    tracing::warn!(vdisk = %self.id, %error, "sync failed");
                    rewrites += 1;
                    if rewrites > REWRITES_MAX {
                        let reason = format!("syncs keep failing: {error}");
                        self.fail(reason.clone());
                        return Err(Error::new(Kind::Io, reason));
                    }
                    self.ask(|done| Item::Rewrite { done }).await??;
                }
            }
        }
        // The index is to know of every group that holds something synced: if the group's header rots, nothing else says
        // that there was one.
        while self.telling.get() > 0 {
            self.told.notified().await;
        }
        Ok(())
    }

    /// Best effort, for what an append that failed has left.
    async fn sync_appended(self: &Rc<Self>) {
        let (through, groups, rewrites) = {
            let mut state = self.state.borrow_mut();
            let Some(last) = state.unsynced.back() else { return };
            let through = last.at.sequence;
            let groups = groups_of(&state.unsynced);
            state.new_sector = true;
            (through, groups, state.rewrites)
        };
        if self.context.pool.sync(&groups).await.is_ok() {
            self.mark_durable(through, rewrites);
        }
    }

    /// No write and no flush is believed from here on. What is unsynced is not kept any more, and does not count among
    /// what the shard keeps.
    pub(crate) fn fail(&self, reason: String) {
        self.state.borrow_mut().health = Health::Failed(reason);
        self.give_up_unsynced();
    }

    pub(crate) fn give_up_unsynced(&self) {
        let mut state = self.state.borrow_mut();
        let load = &self.context.load.unsynced_bytes;
        load.set(load.get() - std::mem::take(&mut state.unsynced_bytes));
        state.unsynced.clear();
        state.to_rewrite.clear();
        drop(state);
        self.context.load.synced.notify();
    }

    /// What is on the medium is, as far as it is wanted, in our own cache: memory is not paid twice. But telling the kernel
    /// takes a thread of it each time, so a flush of a few blocks leaves that to a later one.
    fn release_later(&self, group: GroupId, start: u32, end: u32) {
        let before = self.releasable.get();
        let (of, from, _) = before;
        if of == group && end.saturating_sub(from) < RELEASE_BYTES {
            return self.releasable.set((group, from, end));
        }
        let (start, before) = if of == group { (from, None) } else { (start, Some(before)) };
        self.releasable.set((group, end, end));
        for (group, start, end) in before.into_iter().chain([(group, start, end)]).filter(|(_, start, end)| start < end)
        {
            self.context.pool.release(group, start, end - start);
        }
    }

    /// `rewrites`: as it was when the sync began. A sync of places that were given up meanwhile proves nothing.
    fn mark_durable(self: &Rc<Self>, through: Sequence, rewrites: u64) {
        let mut released = Vec::new();
        let mut entered = false;
        let at;
        {
            let mut state = self.state.borrow_mut();
            if state.rewrites != rewrites {
                return;
            }
            while state.unsynced.front().is_some_and(|frame| frame.at.sequence <= through) {
                let frame = state.unsynced.pop_front().expect("looked at it");
                state.unsynced_bytes -= frame.bytes;
                self.context.load.unsynced_bytes.set(self.context.load.unsynced_bytes.get() - frame.bytes);
                entered |= frame.at.group != state.durable.group;
                state.durable = frame.at;
                state.proof_logged = state.proof_logged.max(frame.durable_through);
                match released.last_mut() {
                    Some((group, _, end)) if *group == frame.at.group => *end = frame.at.end,
                    _ => released.push((frame.at.group, frame.offset, frame.at.end)),
                }
            }
            if let Some(group) = state.open.as_mut() {
                group.synced();
            }
            at = state.durable;
        }
        if entered {
            self.telling.set(self.telling.get() + 1);
            let this = self.clone();
            self.context.world.spawn(async move {
                this.index.synced_into(this.id, at.group, at.sequence).await;
                this.telling.set(this.telling.get() - 1);
                this.told.notify();
            });
        }
        released.into_iter().for_each(|(group, start, end)| self.release_later(group, start, end));
        self.context.load.synced.notify();
    }

    /// Bounds what is unsynced by bytes and by age, and rings for what the new frame makes due.
    pub(crate) fn after_append(self: &Rc<Self>) {
        let (unsynced_bytes, log_bytes) = {
            let state = self.state.borrow();
            (state.unsynced_bytes, state.log_bytes)
        };
        let settings = &self.context.settings;
        self.last_write_ns.set(self.context.world.now().0);
        if !self.sync_timer.replace(true) {
            let this = self.clone();
            self.context.world.spawn(async move {
                this.sync_unasked().await;
            });
        } else if unsynced_bytes > settings.unsynced_bytes_soft {
            self.synced_early.notify();
        }
        if log_bytes >= self.checkpoint_interval() || self.space_is_due() || self.history_is_due() {
            self.maintenance.notify();
        }
        if self.context.load.log_bytes.get() > settings.shard_log_bytes_max {
            self.context.load.over_limit.notify();
        }
        if log_bytes > 0 {
            self.arm_quiet_checkpoint();
        }
    }

    /// One unasked sync: after the allowed age, or sooner when many bytes have come together.
    async fn sync_unasked(self: Rc<Self>) {
        let clock = &self.context.world.clock;
        let settings = &self.context.settings;
        let deadline = clock.now().0 + settings.unsynced_age_ns_max;
        while clock.now().0 < deadline && self.state.borrow().unsynced_bytes <= settings.unsynced_bytes_soft {
            let left = deadline - clock.now().0;
            first_of(clock.sleep(left), self.synced_early.notified()).await;
        }
        let result = self.flush().await;
        self.sync_timer.set(false);
        if let Err(error) = result {
            // The next flush that a client asks for is answered with it.
            Stats::add(&self.stats.unasked_sync_failures, 1);
            tracing::error!(vdisk = %self.id, %error, "an unasked sync failed");
            return;
        }
        // Frames that came while it ran have nobody watching their age yet.
        if !self.state.borrow().unsynced.is_empty() && !self.sync_timer.replace(true) {
            let this = self.clone();
            self.context.world.spawn(async move { this.sync_unasked().await });
        }
    }
}

/// Completes when either does; the other is dropped.
pub(crate) async fn first_of(a: impl Future<Output = ()>, b: impl Future<Output = ()>) {
    let mut a = std::pin::pin!(a);
    let mut b = std::pin::pin!(b);
    std::future::poll_fn(|context| {
        if a.as_mut().poll(context).is_ready() || b.as_mut().poll(context).is_ready() {
            return std::task::Poll::Ready(());
        }
        std::task::Poll::Pending
    })
    .await
}
