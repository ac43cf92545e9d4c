//! Checkpoints: the changed pages of the map go into the log, bottom up, then a record that names the root.
//!
//! Order: pages → record → sync → index → only now may anything that the checkpoint no longer needs be freed. Writers go
//! on meanwhile: the checkpoint walks a frozen tree, they copy the pages that they touch.

use crate::account::{Accounts, GroupAccount};
use crate::address::Address;
use crate::image::{Needed, NeededGroups};
use crate::lifecycle::gone;
use crate::log::{CheckpointRecord, Frozen, GroupEntry, Item, PageWrite, Record, SnapshotEntry};
use crate::map::encode_page;
use crate::rewind::History;
use crate::snapshot::{Kept, LettingGo, Snapshot};
use crate::stats::Stats;
use crate::vdisk::{Checkpoint, Health, State, Vdisk, meta_hint};
use crate::{Error, Kind, Result};
use base::{GroupId, SnapshotId};
use bytes::Bytes;
use std::rc::Rc;

impl Vdisk {
    /// Bytes of log after which the next checkpoint is due.
    pub(crate) fn checkpoint_interval(&self) -> u64 {
        let settings = &self.context.settings;
        let live = self.state.borrow().accounts.live_bytes();
        (live / 8).clamp(settings.checkpoint_log_bytes_min, settings.checkpoint_log_bytes_max)
    }

    /// Afterwards a start replays only what comes later. Nothing to do if nothing was written since the last one.
    pub async fn checkpoint(self: &Rc<Self>) -> Result<()> {
        let _one = self.one_checkpoint.acquire(1).await;
        self.check_takes_checkpoints()?;
        loop {
            self.store_frozen().await?;
            if self.state.borrow().is_stored() {
                return Ok(());
            }
            // One that is taken meanwhile would be lost behind a checkpoint that covers its frame and does not name it.
            let Some(frozen) = self.ask(|done| Item::Freeze { done }).await?? else { continue };
            let result = self.try_to_store(&frozen, None).await;
            if result.is_err() {
                self.state.borrow_mut().tree.dropped.extend(frozen.dropped.take());
            }
            return result;
        }
    }

    /// All that snapshots need of one; what is written since need not be stored for them.
    pub(crate) async fn store_snapshots(self: &Rc<Self>) -> Result<()> {
        let _one = self.one_checkpoint.acquire(1).await;
        self.check_takes_checkpoints()?;
        self.store_frozen().await
    }

    fn check_takes_checkpoints(&self) -> Result<()> {
        match self.health() {
            Health::Online => Ok(()),
            Health::Deleted => Err(gone()),
            _ => Err(Error::new(Kind::ReadOnly, "a vDisk that is not online takes no checkpoint")),
        }
    }

    /// Snapshots first, in their order: each is a checkpoint of its own.
    async fn store_frozen(self: &Rc<Self>) -> Result<()> {
        while let Some((id, frozen)) = self.next_frozen() {
            // Or its map would change while it is being stored.
            self.ask(|done| Item::Settle { done }).await??;
            // Rewrites until now are in its map, as they are in every map that waits. (A map that was frozen for this
            // checkpoint alone has the count of that moment.)
            frozen.rewrites.set(self.state.borrow().rewrites);
            self.try_to_store(&frozen, Some(id)).await?;
        }
        Ok(())
    }

    async fn try_to_store(self: &Rc<Self>, frozen: &Frozen, snapshot: Option<SnapshotId>) -> Result<()> {
        let result = self.store_checkpoint(frozen, snapshot).await;
        self.state.borrow_mut().checkpoint_failed = result.is_err();
        match &result {
            Ok(()) => Stats::add(&self.stats.checkpoints, 1),
            Err(error) => {
                Stats::add(&self.stats.checkpoint_failures, 1);
                tracing::warn!(vdisk = %self.id, %error, "checkpoint failed; the last one stays in force");
            }
        }
        result
    }

    async fn store_checkpoint(self: &Rc<Self>, frozen: &Frozen, snapshot: Option<SnapshotId>) -> Result<()> {
        let height = frozen.tree.borrow().height;
        for level in 0..height {
            self.store_level(frozen, level).await?;
        }
        self.check_not_rewritten(frozen)?;
        let root = frozen.tree.borrow().root.address();
        let stored = Rc::new(self.record(frozen, root, snapshot));
        let (record, rewrites) = (Record::Checkpoint(stored.clone()), frozen.rewrites.get());
        let placed = self.ask(|done| Item::Checkpoint { record, rewrites, done }).await??;
        self.flush_through(placed.at.sequence).await?;
        self.check_not_rewritten(frozen)?;
        let place = meta_hint::Place {
            group: placed.at.group,
            offset: placed.offset,
            len: placed.at.end - placed.offset,
            sequence: placed.at.sequence,
        };
        self.index.checkpointed(self.id, place).await?;
        self.adopt(frozen, place, &stored);
        if let Some(id) = snapshot {
            self.kept(id, Kept { root, height, place }, &stored);
        }
        Ok(())
    }

    async fn store_level(self: &Rc<Self>, frozen: &Frozen, level: u8) -> Result<()> {
        let rewrites = frozen.rewrites.get();
        let pages_max = (self.frame_payload_max() / 4096).min(64) as usize;
        let mut batch = Vec::new();
        let dirty = frozen.tree.borrow().dirty_pages(level);
        for (place, node) in dirty {
            if node.entries().all(Address::is_none) {
                self.drop_page(&node.stored);
                node.set_stored(Address::NONE);
                continue;
            }
            let bytes = Bytes::from(encode_page(node.entries()));
            batch.push(PageWrite { place, node, bytes });
            if batch.len() == pages_max {
                let pages = std::mem::take(&mut batch);
                self.ask(|done| Item::Pages { pages, rewrites, done }).await??;
                self.check_not_rewritten(frozen)?;
            }
        }
        if !batch.is_empty() {
            self.ask(|done| Item::Pages { pages: batch, rewrites, done }).await??;
        }
        self.check_not_rewritten(frozen)
    }

    /// After a failed sync the pages are gone with it: begin again later.
    fn check_not_rewritten(&self, frozen: &Frozen) -> Result<()> {
        self.check_rewrites(frozen.rewrites.get())
    }

    pub(crate) fn check_rewrites(&self, rewrites: u64) -> Result<()> {
        if self.state.borrow().rewrites == rewrites {
            return Ok(());
        }
        Err(Error::new(Kind::Io, "a sync failed while the checkpoint was written"))
    }

    pub(crate) fn drop_page(&self, stored: &std::cell::Cell<Address>) {
        let old = stored.get();
        if old.is_stored() {
            self.state.borrow_mut().accounts.page_dead(old.group(), old.len());
        }
    }

    /// `snapshot`: it is the one that this checkpoint is kept for.
    fn record(&self, frozen: &Frozen, root: Address, snapshot: Option<SnapshotId>) -> CheckpointRecord {
        // The places of dropped subtrees: their pages are not part of this checkpoint any more.
        frozen.dropped.take().iter().for_each(|stored| self.drop_page(stored));
        let state = self.state.borrow();
        let (height, then) = (frozen.tree.borrow().height, frozen.accounts.borrow());
        let entry = |group: GroupId, account: &GroupAccount, then: Option<&GroupAccount>| GroupEntry {
            group,
            len: account.len,
            last_sequence: account.last_sequence,
            // Data as of the map that is stored here; pages as of now, which is the same moment for pages.
            data: then.map_or(0, |then| then.data),
            pages: account.pages,
            punched: account.punched,
            is_copied: account.copied_at.or_else(|| then?.copied_at).is_some(),
        };
        let absent = state.accounts.absent().iter();
        let absent = absent.map(|(group, account)| entry(*group, account, then.groups.get(group)));
        let mut frozen_of = then.groups.in_step();
        let here = state.accounts.groups.iter();
        let here = here.map(|(group, account)| entry(*group, account, frozen_of(*group)));
        // Groups of others that the map has let go of since, and this one still has.
        let foreign = then.groups.iter().filter(|(_, account)| account.is_foreign() && account.is_needed());
        let mut now_of = state.accounts.groups.in_step();
        let since = foreign.filter(|(group, _)| now_of(**group).is_none());
        let since = since.map(|(&group, then)| {
            let GroupAccount { last_sequence, data, pages, copied_at, .. } = *then;
            let is_copied = copied_at.is_some();
            GroupEntry { group, len: 0, last_sequence, data, pages, punched: 0, is_copied }
        });
        let mut groups = Vec::with_capacity(state.accounts.groups.len());
        groups.extend(since.chain(absent).chain(here));
        // (Runs that are in order each, mostly one.)
        groups.sort_by_key(|entry| entry.group);
        groups.dedup_by_key(|entry| entry.group);
        let entry = |snapshot: &Snapshot| SnapshotEntry { root, height, place: None, ..snapshot.to_be_stored() };
        let this = snapshot.and_then(|id| state.snapshots.get(&id)).map(entry);
        let snapshots = state.snapshots.values().filter_map(Snapshot::entry).chain(this).collect();
        CheckpointRecord {
            attributes: state.attributes.clone(),
            notes: state.notes.clone(),
            covers: frozen.covers.get(),
            root,
            height,
            groups,
            lineage: state.lineage.clone(),
            snapshots,
            rewind: state.history.as_ref().map(History::entry),
        }
    }

    fn adopt(&self, frozen: &Frozen, place: meta_hint::Place, record: &CheckpointRecord) {
        let CheckpointRecord { covers, root, height, .. } = *record;
        let covered = frozen.log_bytes.get();
        let mut state = self.state.borrow_mut();
        state.checkpoint = Some(Checkpoint { covers, root, height, place });
        state.checkpoint_accounts = accounts_of(record);
        state.emptied.clear();
        let later = |going: &LettingGo| going.at > covers.sequence;
        state.snapshots_changed = state.letting_go.iter().any(later);
        state.log_bytes -= covered;
        for later in state.snapshots.values().filter_map(Snapshot::frozen) {
            later.log_bytes.set(later.log_bytes.get().saturating_sub(covered));
        }
        drop(state);
        self.tell_checkpoint();
        let load = &self.context.load.log_bytes;
        load.set(load.get().saturating_sub(covered));
    }

    /// A vDisk that has gone quiet gets its checkpoint soon: then it costs nothing at the next start.
    pub(crate) fn arm_quiet_checkpoint(self: &Rc<Self>) {
        if self.quiet_timer.replace(true) {
            return;
        }
        let this = self.clone();
        self.context.world.spawn(async move {
            let quiet_ns = this.context.settings.checkpoint_quiet_ns;
            loop {
                let now = this.context.world.now().0;
                let due = this.last_write_ns.get() + quiet_ns;
                if now >= due || this.closing.get() {
                    break;
                }
                this.context.world.clock.sleep(due - now).await;
            }
            // Its own frames must not start the timer again.
            if !this.closing.get() && this.checkpoint().await.is_ok() {
                // What died since the last time comes free; what fails now is tried again after the next write.
                if let Err(error) = this.make_room().await {
                    tracing::warn!(vdisk = %this.id, %error, "making room failed");
                }
                this.let_go_of_open_group();
            }
            this.quiet_timer.set(false);
        });
    }

    /// A quiet vDisk holds no group open: what the pool has reserved behind its tail goes back. The next write opens
    /// another group.
    fn let_go_of_open_group(&self) {
        let idle = !self.log_busy.get() && self.state.borrow().log_bytes == 0;
        if idle {
            self.state.borrow_mut().open = None;
        }
    }

    /// The task that takes checkpoints and makes room when they are due.
    pub(crate) async fn run_maintenance(self: Rc<Self>) {
        loop {
            self.maintenance.notified().await;
            if self.closing.get() {
                return;
            }
            if self.health() != Health::Online {
                continue;
            }
            if let Err(error) = self.tend_history().await {
                tracing::warn!(vdisk = %self.id, %error, "the history could not be tended; it is tried again");
            }
            let due = {
                let state = self.state.borrow();
                state.log_bytes >= self.checkpoint_interval() || state.snapshots_changed
            };
            if due && self.checkpoint().await.is_err() {
                self.lift_pace();
                // Not at once again: what failed (a full disk, a failing one) takes time to change.
                self.context.world.clock.sleep(RETRY_NS).await;
                self.maintenance.notify();
                continue;
            }
            if let Err(error) = self.make_room().await {
                tracing::warn!(vdisk = %self.id, %error, "making room failed; trying again later");
                self.context.world.clock.sleep(RETRY_NS).await;
                self.maintenance.notify();
            }
        }
    }
}

impl State {
    /// The last checkpoint says all that there is to say.
    fn is_stored(&self) -> bool {
        self.log_bytes == 0 && !self.tree.is_dirty() && !self.checkpoint_failed && !self.snapshots_changed
    }
}

impl CheckpointRecord {
    /// What its map needs.
    pub(crate) fn needed(&self) -> NeededGroups {
        let needed = |entry: &GroupEntry| {
            let GroupEntry { group, data, pages, is_copied, .. } = *entry;
            Needed { group, data, pages, is_copied }
        };
        let living = self.groups.iter().filter(|entry| entry.data > 0 || entry.pages > 0 || entry.is_copied);
        let mut list: Vec<Needed> = living.map(needed).collect();
        list.sort_by_key(|needed| needed.group);
        list.into()
    }
}

/// What the groups hold as of the checkpoint: data as of its map, pages as it stored them.
pub(crate) fn accounts_of(record: &CheckpointRecord) -> Accounts {
    let account = |entry: &GroupEntry| GroupAccount {
        len: entry.len,
        data: entry.data,
        pages: entry.pages,
        punched: entry.punched,
        last_sequence: entry.last_sequence,
        copied_at: entry.is_copied.then_some(record.covers.sequence),
    };
    record.groups.iter().map(|entry| (entry.group, account(entry))).collect()
}

/// Pause after failed maintenance: 1 s.
const RETRY_NS: u64 = 1_000_000_000;
