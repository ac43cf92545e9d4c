//! What concerns all vDisks of a shard together: bounds on the sum of their logs and of their map pages, the reserve, what the
//! metadata store has still to be told.

use crate::Shard;
use crate::recover::Asking;
use crate::shard::Entry;
use base::VdiskId;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::{Rc, Weak};
use vdisk::{Health, Leftover, Vdisk, free_deleted};
use world::local::{Semaphore, oneshot};

/// The reserve and the disk's free space are looked at this often, ns: once a second while the disk is full or the
/// reserve is touched, once in 30 s else.
const LOOK_SOON_NS: u64 = 1_000_000_000;
const LOOK_NS: u64 = 30_000_000_000;
/// Eviction goes on to this part of the limit, so that it is not needed again at once.
const EVICT_PERCENT: u64 = 90;
/// Pause when nothing could be done, ns.
const PAUSE_NS: u64 = 50_000_000;
/// Checkpoints that make map pages clean, at once.
const CHECKPOINTS_AT_ONCE: usize = 16;
/// Logs that are read once more at once, of those that the disk refused: as many as at a start.
const READ_AGAIN_AT_ONCE: u64 = 4;

impl Shard {
    pub(crate) async fn run_maintenance(self: Rc<Self>) {
        let this = self.clone();
        self.context.world.spawn(async move { this.watch_space().await });
        let this = self.clone();
        self.context.world.spawn(async move { this.collect_when_full().await });
        let this = self.clone();
        self.context.world.spawn(async move { this.free_leftovers().await });
        let this = self.clone();
        self.context.world.spawn(async move { this.hear_again().await });
        loop {
            self.context.load.over_limit.notified().await;
            if self.stopping.get() {
                // Nobody makes room among the map pages any more: writers that wait for some are let through.
                self.context.load.map_stuck.set(true);
                self.context.load.map_freed.notify();
                return;
            }
            let (evicted, shortened) = (self.evict_map_pages().await, self.shorten_logs().await);
            let load = &self.context.load;
            load.map_stuck.set(!evicted && load.map.bytes() > self.context.settings.map_bytes_max);
            load.map_freed.notify();
            let done = evicted | shortened;
            if !done {
                self.context.world.clock.sleep(PAUSE_NS).await;
            }
        }
    }

    /// Map pages over their limit go; if all that is left is dirty, a checkpoint makes it clean.
    async fn evict_map_pages(&self) -> bool {
        let map = &self.context.load.map;
        let limit = self.context.settings.map_bytes_max;
        if map.bytes() <= limit {
            return false;
        }
        let goal = limit * EVICT_PERCENT / 100;
        let open = self.open_vdisks();
        let views: Vec<Rc<Vdisk>> = self.views.borrow().values().filter_map(Weak::upgrade).collect();
        let evict = || {
            // Two rounds: the first takes the marks off what was used since the last time.
            let all = views.iter().chain(&open).chain(&views).chain(&open);
            all.map(|vdisk| if map.bytes() > goal { vdisk.evict_map(map.bytes() - goal) } else { 0 }).sum::<u64>()
        };
        let mut evicted = evict();
        if map.bytes() > limit {
            self.checkpoint_fullest(&open).await;
            evicted += evict();
        }
        evicted > 0
    }

    /// Checkpoints of several vDisks side by side: they share their syncs.
    async fn checkpoint_fullest(&self, open: &[Rc<Vdisk>]) {
        let mut online: Vec<_> = open.iter().filter(|vdisk| vdisk.health() == Health::Online).cloned().collect();
        online.sort_by_key(|vdisk| std::cmp::Reverse((vdisk.space().log_bytes, vdisk.id)));
        online.truncate(CHECKPOINTS_AT_ONCE);
        let begun: Vec<_> = online
            .into_iter()
            .map(|vdisk| {
                let (sender, receiver) = oneshot();
                self.context.world.spawn(async move {
                    let _ = vdisk.checkpoint().await;
                    sender.send(());
                });
                receiver
            })
            .collect();
        for ended in begun {
            ended.await;
        }
    }

    /// The replay after a crash is bounded in sum: the longest log is checkpointed first.
    async fn shorten_logs(&self) -> bool {
        let load = &self.context.load.log_bytes;
        if load.get() <= self.context.settings.shard_log_bytes_max {
            return false;
        }
        let before = load.get();
        if let Some(vdisk) = fullest(&self.open_vdisks()) {
            let _ = vdisk.checkpoint().await;
        }
        load.get() < before
    }

    /// Groups that were held come free when nobody needs them any more, of vDisks that are there and of deleted ones.
    async fn free_leftovers(self: &Rc<Self>) {
        loop {
            self.context.references.released.notified().await;
            if self.stopping.get() {
                return;
            }
            self.context.references.forget_copies();
            for vdisk in self.open_vdisks() {
                vdisk.room_may_have_come();
            }
            let mut failed = false;
            let all: Vec<Leftover> = self.leftovers.borrow().values().cloned().collect();
            for mut leftover in all {
                let id = leftover.vdisk;
                let freed = async {
                    let all_free = free_deleted(&self.context, &mut leftover).await?;
                    if all_free {
                        self.remove_record(id).await?;
                    }
                    Ok::<bool, crate::Error>(all_free)
                };
                match freed.await {
                    Ok(true) => drop(self.leftovers.borrow_mut().remove(&id)),
                    Ok(false) => drop(self.leftovers.borrow_mut().insert(id, leftover)),
                    Err(error) => {
                        tracing::error!(vdisk = %id, %error, "space of a deleted vDisk is not free yet; it is tried again later");
                        self.leftovers.borrow_mut().insert(id, leftover);
                        failed = true;
                    }
                }
            }
            // Releases come in swarms; what failed takes time to change.
            self.context.world.clock.sleep(PAUSE_NS).await;
            if failed {
                let this = self.clone();
                self.context.world.spawn(async move {
                    this.context.world.clock.sleep(LOOK_NS).await;
                    this.context.references.released.notify();
                });
            }
        }
    }

    /// A client's write found no room: whatever any vDisk of the shard can give back comes back now. Histories first, those of
    /// all: that costs a checkpoint each, and what is moved instead would eat up the reserve.
    async fn collect_when_full(&self) {
        loop {
            self.context.load.full.notified().await;
            if self.stopping.get() {
                return;
            }
            let moved = self.moved_bytes();
            let mut gave = self.give_up_histories().await;
            let mut looked_ns = self.context.world.now().0;
            // Some may have to read all of their map: small ones first.
            let mut online = self.online_vdisks();
            online.sort_by_key(|vdisk| (vdisk.space().mapped_bytes, vdisk.id));
            for vdisk in online {
                // This takes long with many: whoever finds the disk full meanwhile is not to wait for all of them.
                let is_wanted = self.open_vdisks().iter().any(|vdisk| vdisk.wants_room());
                if is_wanted && self.context.world.now().0 >= looked_ns + LOOK_SOON_NS {
                    gave |= self.give_up_histories().await;
                    looked_ns = self.context.world.now().0;
                }
                if let Err(error) = vdisk.make_room_urgently().await {
                    tracing::warn!(vdisk = %vdisk.id, %error, "no room could be made");
                }
            }
            if let Err(error) = self.context.pool.replenish().await {
                tracing::warn!(%error, "the reserve could not be made whole");
            }
            // Groups in which something else lives are emptied one by one: as long as any is, more may come.
            if !gave && self.moved_bytes() == moved {
                self.context.histories_are_empty(self.giving_histories().is_empty());
            }
            self.open_vdisks().iter().for_each(|vdisk| vdisk.room_was_searched());
            self.context.world.clock.sleep(LOOK_SOON_NS).await;
        }
    }

    /// All of what histories hold comes free. Did any hold something?
    async fn give_up_histories(&self) -> bool {
        if !self.context.may_give_history() {
            return false;
        }
        let mut giving = self.giving_histories();
        if giving.is_empty() {
            return false;
        }
        self.context.histories_are_empty(false);
        if self.context.pool.only_reserve_is_missing().await {
            self.context.load.room_came();
            return true;
        }
        // What brings most comes first.
        giving.sort_by_key(|(bytes, vdisk)| (std::cmp::Reverse(*bytes), vdisk.id));
        for (_, vdisk) in &giving {
            if let Err(error) = vdisk.give_up_history().await {
                // What is dead without that comes free all the same.
                tracing::warn!(vdisk = %vdisk.id, %error, "the history could not be given up");
            }
        }
        for (_, vdisk) in &giving {
            if let Err(error) = vdisk.free_what_is_dead().await {
                tracing::warn!(vdisk = %vdisk.id, %error, "what the history held is not free yet");
            }
        }
        true
    }

    /// The vDisks whose histories hold something, and how much.
    fn giving_histories(&self) -> Vec<(u64, Rc<Vdisk>)> {
        let all = self.online_vdisks().into_iter().map(|vdisk| (vdisk.history_gives_bytes(), vdisk));
        all.filter(|(bytes, _)| *bytes > 0).collect()
    }

    /// Grows with every group that is emptied or punched.
    fn moved_bytes(&self) -> u64 {
        let moved = |vdisk: &Rc<Vdisk>| vdisk.stats.relocated_bytes.get() + vdisk.stats.bytes_punched.get();
        self.open_vdisks().iter().map(moved).sum()
    }

    fn online_vdisks(&self) -> Vec<Rc<Vdisk>> {
        let mut open = self.open_vdisks();
        open.retain(|vdisk| vdisk.health() == Health::Online);
        open
    }

    /// Until it is known what somebody needs nothing comes free that may be that, and mostly no client asks for such a vDisk.
    async fn hear_again(self: Rc<Self>) {
        // A disk that does not answer for one of them is not to keep the others.
        let under_way: Rc<RefCell<BTreeSet<VdiskId>>> = Rc::default();
        let reading = Semaphore::new(READ_AGAIN_AT_ONCE);
        loop {
            self.context.world.clock.sleep(LOOK_NS).await;
            if self.stopping.get() {
                return;
            }
            // Who was heard because the disk was full is made sure of all the same.
            let open = self.open_vdisks().into_iter().filter(|vdisk| vdisk.has_open_end()).map(|vdisk| vdisk.id);
            let unheard = self.context.references.unheard().into_iter().map(|(id, _)| id);
            for id in open.chain(unheard).collect::<BTreeSet<VdiskId>>() {
                if self.leaving.borrow().contains(&id) || !under_way.borrow_mut().insert(id) {
                    continue;
                }
                let (this, under_way, reading) = (self.clone(), under_way.clone(), reading.clone());
                self.context.world.spawn(async move {
                    this.hear_one_again(id, &reading).await;
                    under_way.borrow_mut().remove(&id);
                });
            }
            if self.context.pool.is_sharing() {
                // What could not be read then may be readable now.
                self.context.references.released.notify();
            }
        }
    }

    async fn hear_one_again(self: &Rc<Self>, id: VdiskId, reading: &Rc<Semaphore>) {
        let entry = self.entries.borrow().get(&id).cloned();
        match entry {
            Some(Entry::Broken { retry: true, .. }) if self.context.pool.is_sharing() => {
                let _turn = reading.acquire(1).await;
                drop(self.open_vdisk(id, Asking::Start).await);
            }
            Some(Entry::Open(vdisk)) => self.hear(&vdisk).await,
            _ => {}
        }
    }

    async fn watch_space(&self) {
        loop {
            let usage = self.context.pool.usage();
            let pause = if usage.ballast_whole { LOOK_NS } else { LOOK_SOON_NS };
            self.context.world.clock.sleep(pause).await;
            if self.stopping.get() {
                return;
            }
            if let Err(error) = self.context.pool.refresh_usage().await {
                tracing::warn!(%error, "the disk's free space cannot be read");
            }
            // Always: besides the reserve it gives back what closed groups had reserved behind their tails.
            if let Err(error) = self.context.pool.replenish().await {
                tracing::warn!(%error, "the reserve could not be made whole");
            }
            self.open_vdisks().iter().for_each(|vdisk| vdisk.look_at_history());
            if let Err(error) = self.note_refused().await {
                tracing::warn!(%error, "a vDisk that could not be made is not noted as such yet; it is tried again");
            }
        }
    }
}

fn fullest(open: &[Rc<Vdisk>]) -> Option<&Rc<Vdisk>> {
    open.iter().filter(|vdisk| vdisk.health() == Health::Online).max_by_key(|vdisk| (vdisk.space().log_bytes, vdisk.id))
}
