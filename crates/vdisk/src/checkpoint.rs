//! Checkpoints: the changed pages of the map go into the log, bottom up, then a record that names the root.
//!
//! Order: pages → record → sync → index → only now may anything that the checkpoint no longer needs be freed. Writers go
//! on meanwhile: the checkpoint walks a frozen tree, they copy the pages that they touch.

use crate::account::{Accounts, GroupAccount};
use crate::address::Address;
use crate::log::{CheckpointRecord, Frozen, GroupEntry, Item, PageWrite, Record};
use crate::map::encode_page;
use crate::stats::Stats;
use crate::vdisk::{Checkpoint, Health, Vdisk, meta_hint};
use crate::{Error, Kind, Result};
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
        if self.health() != Health::Online {
            return Err(Error::new(Kind::ReadOnly, "a vDisk that is not online takes no checkpoint"));
        }
        let nothing_new = {
            let state = self.state.borrow();
            state.log_bytes == 0 && !state.tree.is_dirty() && !state.checkpoint_failed
        };
        if nothing_new {
            return Ok(());
        }
        let frozen = self.ask(|done| Item::Freeze { done }).await??;
        let result = self.store_checkpoint(&frozen).await;
        self.state.borrow_mut().checkpoint_failed = result.is_err();
        match &result {
            Ok(()) => Stats::add(&self.stats.checkpoints, 1),
            Err(error) => {
                Stats::add(&self.stats.checkpoint_failures, 1);
                tracing::warn!(vdisk = %self.id, %error, "checkpoint failed; the last one stays in force");
                self.state.borrow_mut().tree.dropped.extend(frozen.dropped.iter().cloned());
            }
        }
        result
    }

    async fn store_checkpoint(self: &Rc<Self>, frozen: &Frozen) -> Result<()> {
        for level in 0..frozen.tree.height {
            self.store_level(frozen, level).await?;
        }
        self.check_not_rewritten(frozen)?;
        let root = frozen.tree.root.address();
        let record = self.record(frozen, root);
        let accounts = accounts_of(&record);
        let record = Record::Checkpoint(Box::new(record));
        let placed = self.ask(|done| Item::Control { record, done }).await??;
        self.flush_through(placed.at.sequence).await?;
        self.check_not_rewritten(frozen)?;
        let place = meta_hint::Place {
            group: placed.at.group,
            offset: placed.offset,
            len: placed.at.end - placed.offset,
            sequence: placed.at.sequence,
        };
        self.index.checkpointed(self.id, place).await?;
        self.adopt(frozen, root, place, accounts);
        Ok(())
    }

    async fn store_level(self: &Rc<Self>, frozen: &Frozen, level: u8) -> Result<()> {
        let pages_max = (self.frame_payload_max() / 4096).min(64) as usize;
        let mut batch = Vec::new();
        for (place, node) in frozen.tree.dirty_pages(level) {
            if node.entries().all(Address::is_none) {
                self.drop_page(&node.stored);
                node.set_stored(Address::NONE);
                continue;
            }
            let bytes = Bytes::from(encode_page(node.entries()));
            batch.push(PageWrite { place, node, bytes });
            if batch.len() == pages_max {
                let pages = std::mem::take(&mut batch);
                self.ask(|done| Item::Pages { pages, done }).await??;
                self.check_not_rewritten(frozen)?;
            }
        }
        if !batch.is_empty() {
            self.ask(|done| Item::Pages { pages: batch, done }).await??;
        }
        self.check_not_rewritten(frozen)
    }

    /// After a failed sync the pages are gone with it: begin again later.
    fn check_not_rewritten(&self, frozen: &Frozen) -> Result<()> {
        if self.state.borrow().rewrites == frozen.rewrites {
            return Ok(());
        }
        Err(Error::new(Kind::Io, "a sync failed while the checkpoint was written"))
    }

    fn drop_page(&self, stored: &std::cell::Cell<Address>) {
        let old = stored.get();
        if old.is_stored() {
            self.state.borrow_mut().accounts.page_dead(old.group(), old.len());
        }
    }

    fn record(&self, frozen: &Frozen, root: Address) -> CheckpointRecord {
        // The places of dropped subtrees: their pages are not part of this checkpoint any more.
        frozen.dropped.iter().for_each(|stored| self.drop_page(stored));
        let state = self.state.borrow();
        let mut groups: Vec<GroupEntry> = state
            .accounts
            .groups
            .iter()
            .map(|(&group, account)| GroupEntry {
                group,
                len: account.len,
                last_sequence: account.last_sequence,
                // Data as of the map that is stored here; pages as of now, which is the same moment for pages.
                data: frozen.accounts.groups.get(&group).map_or(0, |then| then.data),
                pages: account.pages,
                punched: account.punched,
            })
            .collect();
        groups.sort_unstable_by_key(|entry| entry.group);
        CheckpointRecord {
            attributes: state.attributes.clone(),
            notes: state.notes.clone(),
            covers: frozen.covers,
            root,
            height: frozen.tree.height,
            groups,
        }
    }

    fn adopt(&self, frozen: &Frozen, root: Address, place: meta_hint::Place, accounts: Accounts) {
        let mut state = self.state.borrow_mut();
        state.checkpoint = Some(Checkpoint { covers: frozen.covers, root, height: frozen.tree.height, place });
        state.checkpoint_accounts = accounts;
        state.emptied.clear();
        state.log_bytes -= frozen.log_bytes;
        let load = &self.context.load.log_bytes;
        load.set(load.get().saturating_sub(frozen.log_bytes));
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
            let due = self.state.borrow().log_bytes >= self.checkpoint_interval();
            if due && self.checkpoint().await.is_err() {
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

/// What the groups hold as of the checkpoint: data as of its map, pages as it stored them.
pub(crate) fn accounts_of(record: &CheckpointRecord) -> Accounts {
    let mut accounts = Accounts::default();
    for entry in &record.groups {
        accounts.insert(
            entry.group,
            GroupAccount {
                len: entry.len,
                data: entry.data,
                pages: entry.pages,
                punched: entry.punched,
                last_sequence: entry.last_sequence,
            },
        );
    }
    accounts
}

/// Pause after failed maintenance: 1 s.
const RETRY_NS: u64 = 1_000_000_000;
