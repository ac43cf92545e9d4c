//! The log task of a vDisk: the only place that appends frames, changes the map and moves the log's position.
//!
//! It takes what is waiting, makes ONE frame of it (group commit), appends it, changes the map, acknowledges. Between
//! taking and acknowledging nothing else of this vDisk changes, so that conditions (re-packing: "if the entry still says
//! so") and read-modify-write of partial blocks need no locks.

use super::batch::Batch;
use super::frame::Frame;
use super::frame::FrameKind;
use super::piece::{Piece, run_addresses};
use super::queue::{ControlPlace, Frozen, Item, Move, PageWrite, Replaced, refuse};
use super::{Position, Record};
use crate::flush::first_of;
use crate::notes::Notes;
use crate::references::Holds;
use crate::stats::Stats;
use crate::vdisk::{Attributes, Health, State, Vdisk};
use crate::{Error, Kind, Result};
use base::Sequence;
use base::units::BLOCK;
use pool::Purpose;
use std::cell::RefCell;
use std::rc::Rc;

/// How long a frame waits for room among the map pages, ns.
const MAP_WAIT_NS: u64 = 100_000_000;

impl Vdisk {
    /// The log task.
    pub(crate) async fn run_log(self: Rc<Self>) {
        loop {
            let over = self.over_unsynced();
            let over_map = self.over_map();
            let held_ns = self.held_back_ns();
            let background = {
                let mut queue = self.queue.borrow_mut();
                let background_only = over || over_map || held_ns.is_some();
                if background_only { queue.background.pop_front() } else { queue.pop_background() }
            };
            if let Some(item) = background {
                self.queue.borrow_mut().user_was_last = false;
                self.log_busy.set(true);
                let stop = self.run_background(item).await;
                self.log_busy.set(false);
                if stop {
                    return;
                }
                continue;
            }
            if over {
                // Too much to keep in memory: clients wait for a sync. What the background asks for (a rewrite after a
                // failed sync above all) goes on.
                self.synced_early.notify();
                first_of(self.context.load.synced.notified(), self.queued.notified()).await;
                continue;
            }
            if self.queue.borrow().user.is_empty() {
                self.queued.notified().await;
                continue;
            }
            if let Some(held_ns) = held_ns {
                let begun_ns = self.context.world.now().0;
                first_of(self.queued.notified(), self.context.world.clock.sleep(held_ns)).await;
                Stats::add(&self.stats.held_back_ns, self.context.world.now().0.saturating_sub(begun_ns));
                continue;
            }
            if over_map {
                // Pages that changed leave memory only by a checkpoint, which is on its way and may be one of this vDisk:
                // what it asks for goes on. Where none succeeds (the disk is full), writers are slow, but not stopped.
                self.context.load.over_limit.notify();
                let patience = self.context.world.clock.sleep(MAP_WAIT_NS);
                let bells = first_of(self.context.load.map_freed.notified(), self.queued.notified());
                first_of(bells, patience).await;
                if !self.context.load.map_stuck.get() {
                    continue;
                }
            }
            self.pace.goes();
            self.queue.borrow_mut().user_was_last = true;
            self.log_busy.set(true);
            self.run_user_frame().await;
            self.log_busy.set(false);
        }
    }

    /// How long the client's frame that is next is held back, ns. What takes blocks away, or takes them over, appends next to
    /// nothing and may be what makes room.
    fn held_back_ns(&self) -> Option<u64> {
        let appends_data = matches!(self.queue.borrow().user.front(), Some(Item::Write { .. } | Item::Combine { .. }));
        if appends_data { self.pace.hold_ns(self.context.world.now().0) } else { None }
    }

    pub(super) fn over_unsynced(&self) -> bool {
        let state = self.state.borrow();
        let max = self.context.settings.unsynced_bytes_max;
        let over = state.unsynced_bytes > max || self.context.load.unsynced_bytes.get() > max;
        state.health == Health::Online && over
    }

    /// The pages of the map take a quarter more than they may.
    pub(super) fn over_map(&self) -> bool {
        let max = self.context.settings.map_bytes_max;
        self.context.load.map.bytes() > max + max / 4
    }

    pub(super) async fn run_background(self: &Rc<Self>, item: Item) -> bool {
        if let Err(error) = self.may_append(&item) {
            refuse(item, error);
            return false;
        }
        match item {
            Item::Relocate { moves, done } => done.send(self.relocate(moves).await),
            Item::Pages { pages, rewrites, done } => done.send(self.append_pages(pages, rewrites).await),
            Item::PastPages { pages, rewrites, holds, done } => {
                done.send(self.append_past_pages(pages, rewrites, &holds).await);
            }
            Item::Point { done } => done.send(self.append_point().await),
            Item::Checkpoint { record, rewrites, done } => done.send(self.append_checkpoint(record, rewrites).await),
            Item::Control { record, done } => done.send(self.append_control(record).await),
            Item::Freeze { done } => done.send(self.rewrite_first().await.map(|()| self.freeze_here())),
            Item::Cut { paused, go, done } => {
                paused.send(Ok(()));
                if let Some(record) = go.await {
                    done.send(self.append_control(record).await);
                }
            }
            Item::Proof { done } => done.send(self.append_nothing().await),
            Item::Settle { done } => done.send(self.rewrite_first().await),
            Item::Rewrite { done } => done.send(self.rewrite_unsynced().await),
            Item::Stop { done } => {
                // Whoever still waits for something hears that it will not come.
                self.ended.set(true);
                let (user, background) = {
                    let mut queue = self.queue.borrow_mut();
                    (std::mem::take(&mut queue.user), std::mem::take(&mut queue.background))
                };
                drop((user, background));
                done.send(());
                return true;
            }
            Item::Write { .. } | Item::Combine { .. } | Item::Clear { .. } | Item::Take { .. } => {
                unreachable!("foreground items have their own queue")
            }
        }
        false
    }

    /// What may still go into the log of a vDisk that is not online: a rewrite, and the tombstone of a damaged one.
    fn may_append(&self, item: &Item) -> Result<()> {
        let health = self.state.borrow().health.clone();
        let is_tombstone = matches!(item, Item::Control { record: Record::Delete, .. });
        let allowed = health == Health::Online
            || matches!(item, Item::Rewrite { .. } | Item::Stop { .. })
            || (is_tombstone && matches!(health, Health::Damaged(_)));
        let kind = if health == Health::Deleted { Kind::Closed } else { Kind::ReadOnly };
        if allowed { Ok(()) } else { Err(Error::new(kind, format!("the vDisk is {health:?}"))) }
    }

    pub(crate) fn freeze(&self, covers: Position) -> Frozen {
        let mut state = self.state.borrow_mut();
        let dropped = std::mem::take(&mut state.tree.dropped).into();
        Frozen {
            tree: state.tree.clone().into(),
            covers: covers.into(),
            accounts: state.accounts.clone().into(),
            dropped,
            rewrites: state.rewrites.into(),
            log_bytes: state.log_bytes.into(),
        }
    }

    fn freeze_here(&self) -> Option<Frozen> {
        let position = self.state.borrow().position;
        self.next_frozen().is_none().then(|| self.freeze(position))
    }

    /// One frame from what is waiting in the foreground.
    async fn run_user_frame(self: &Rc<Self>) {
        let first = self.queue.borrow_mut().user.pop_front();
        match first {
            Some(Item::Take { block, lent, done }) => return done.send(self.append_taken(block, &lent).await),
            Some(item) => self.queue.borrow_mut().user.push_front(item),
            None => {}
        }
        let mut batch = Batch::default();
        self.fill(&mut batch).await;
        if batch.pieces.is_empty() {
            return batch.finish(Ok(()));
        }
        if self.may_overlap(&batch) {
            return self.run_overlapping(batch).await;
        }
        let result = self.append_user_with_room(&batch).await;
        self.answer(batch, result);
    }

    pub(super) fn answer(&self, batch: Batch, result: Result<()>) {
        if let (Err(error), true) = (&result, batch.unfinished) {
            // The rest of a request whose beginning failed: it must not be acknowledged for what comes after.
            let rest = self.queue.borrow_mut().user.pop_front();
            if let Some(Item::Write { done, .. } | Item::Clear { done, .. }) = rest {
                done.send(Err(error.clone()));
            }
        }
        batch.finish(result);
        if let Some(group) = &self.state.borrow().open {
            group.answered();
        }
    }

    /// What comes before a client's frame: leave to write, what is to be appended once more, the pages of the map.
    pub(super) async fn make_ready(self: &Rc<Self>, batch: &Batch) -> Result<()> {
        self.writable()?;
        self.rewrite_first().await?;
        for piece in &batch.pieces {
            self.prepare(piece).await?;
        }
        Ok(())
    }

    pub(super) async fn append_user(self: &Rc<Self>, batch: &Batch) -> Result<()> {
        self.make_ready(batch).await?;
        let purpose = if batch.clears { Purpose::Emergency } else { Purpose::Normal };
        let frame = match self.append(FrameKind::Data, &batch.pieces, purpose).await {
            Err(error) if error.kind == Kind::Full => {
                // Garbage that was not worth collecting is worth it now.
                self.context.load.full.notify();
                return Err(error);
            }
            appended => appended?,
        };
        self.apply_user(batch, frame);
        Ok(())
    }

    /// What a client's frame changes that was appended.
    pub(super) fn apply_user(self: &Rc<Self>, batch: &Batch, frame: Frame) {
        let small = batch.payload_bytes <= u64::from(self.context.settings.cache_write_bytes_max);
        self.apply(&batch.pieces, &frame, small);
        self.count_content(&frame);
        self.user_log_bytes.set(self.user_log_bytes.get() + u64::from(frame.len));
        self.pace.spend(frame.len);
        self.note_unsynced(frame, batch.pieces.clone(), Vec::new());
    }

    /// If the entries still say what they said, the blocks are stored anew. Returns the bytes moved.
    async fn relocate(self: &Rc<Self>, moves: Vec<Move>) -> Result<u64> {
        self.rewrite_first().await?;
        let mut pieces = Vec::new();
        for wanted in moves {
            let here = loop {
                let found = self.state.borrow().tree.lookup(wanted.block);
                match found {
                    Ok(address) => break address,
                    Err(need) => self.load(need).await?,
                }
            };
            if here == wanted.from {
                pieces.push(Piece::data(wanted.block, wanted.data));
            }
        }
        if pieces.is_empty() {
            return Ok(0);
        }
        let frame = self.append(FrameKind::Data, &pieces, Purpose::Emergency).await?;
        let bytes: u64 = pieces.iter().filter_map(Piece::payload).map(|bytes| bytes.len() as u64).sum();
        Stats::add(&self.stats.relocated_bytes, bytes);
        self.stats.data_bytes.set(self.stats.data_bytes.get() - bytes);
        self.apply(&pieces, &frame, false);
        self.count_content(&frame);
        self.note_unsynced(frame, pieces, Vec::new());
        Ok(bytes)
    }

    /// `rewrites`: what the pages name was stored when there had been so many. Since then some of it may have been lost.
    async fn append_pages(self: &Rc<Self>, pages: Vec<PageWrite>, rewrites: u64) -> Result<()> {
        self.rewrite_first().await?;
        self.check_rewrites(rewrites)?;
        let pieces: Vec<Piece> =
            pages.iter().map(|page| Piece::Page { place: page.place, bytes: page.bytes.clone() }).collect();
        let frame = self.append(FrameKind::Pages, &pieces, Purpose::Emergency).await?;
        let mut before = Vec::with_capacity(pages.len());
        {
            let mut state = self.state.borrow_mut();
            for (page, run) in pages.into_iter().zip(&frame.runs) {
                let address = run_addresses(&frame, run).pop().expect("a page has one address");
                let old = page.node.stored.get();
                if old.is_stored() {
                    state.accounts.page_dead(old.group(), old.len());
                }
                state.accounts.page_live(address.group(), address.len());
                page.node.set_stored(address);
                self.context.cache.insert(address.group(), address.grain(), page.bytes);
                before.push((page.node, old));
            }
        }
        self.note_unsynced(frame, pieces, before);
        Ok(())
    }

    async fn append_checkpoint(self: &Rc<Self>, record: Record, rewrites: u64) -> Result<ControlPlace> {
        self.rewrite_first().await?;
        self.check_rewrites(rewrites)?;
        self.append_control(record).await
    }

    async fn append_control(self: &Rc<Self>, mut record: Record) -> Result<ControlPlace> {
        if record != Record::Delete {
            self.rewrite_first().await?;
        }
        if let Record::Rollback(id, _) = &record {
            if self.snapshot_info(*id).is_none() {
                return Err(Error::new(Kind::Closed, "the snapshot was deleted meanwhile"));
            }
            if self.next_frozen().is_some() {
                return Err(Error::new(Kind::Miscompare, "a snapshot is not stored yet"));
            }
        }
        if let Record::Snapshot(snapshot) = &mut record {
            snapshot.size_bytes = self.state.borrow().attributes.size_bytes;
        }
        let placed = self.append_record(&record).await?;
        // Nothing comes between a rollback and the point behind it. If it cannot be had now, it comes before the next frame.
        // (Nothing at all comes behind the tombstone.)
        if record != Record::Delete
            && let Err(error) = self.point_first().await
        {
            tracing::warn!(vdisk = %self.id, %error, "a point of the history is put off");
        }
        Ok(placed)
    }

    pub(crate) async fn append_record(self: &Rc<Self>, record: &Record) -> Result<ControlPlace> {
        let pieces = vec![Piece::Control { bytes: record.encode().into() }];
        let frame = self.append(FrameKind::Control, &pieces, Purpose::Emergency).await?;
        match record {
            Record::Checkpoint(_) => {}
            record if record.changes_content() => self.count_content(&frame),
            _ => self.count_log(&frame),
        }
        let at = self.state.borrow().position;
        let offset = frame.offset;
        self.apply_record(record, at, offset);
        if *record == Record::Delete {
            self.state.borrow_mut().tombstone = Some(frame.group);
        }
        self.note_unsynced(frame, pieces, Vec::new());
        Ok(ControlPlace { at, offset })
    }

    /// As [`Vdisk::append_pages`], for a map that is not the vDisk's: its accounts do not change.
    async fn append_past_pages(
        self: &Rc<Self>,
        pages: Vec<PageWrite>,
        rewrites: u64,
        holds: &RefCell<Holds>,
    ) -> Result<Vec<Replaced>> {
        self.rewrite_first().await?;
        self.check_rewrites(rewrites)?;
        let pieces: Vec<Piece> =
            pages.iter().map(|page| Piece::Page { place: page.place, bytes: page.bytes.clone() }).collect();
        let frame = self.append(FrameKind::Pages, &pieces, Purpose::Normal).await?;
        holds.borrow_mut().add(frame.group);
        let mut replaced = Vec::with_capacity(pages.len());
        for (page, run) in pages.into_iter().zip(&frame.runs) {
            let new = run_addresses(&frame, run).pop().expect("a page has one address");
            replaced.push(Replaced { old: page.node.stored.get(), new });
            page.node.set_stored(new);
        }
        self.note_unsynced(frame, pieces, Vec::new());
        Ok(replaced)
    }

    pub(super) async fn append_nothing(self: &Rc<Self>) -> Result<Sequence> {
        self.rewrite_first().await?;
        let frame = self.append(FrameKind::Data, &[], Purpose::Emergency).await?;
        let sequence = frame.sequence;
        self.note_unsynced(frame, Vec::new(), Vec::new());
        Ok(sequence)
    }
}

impl Vdisk {
    /// What a control record, whose frame begins at `offset` and ends at `at`, changes in memory; the same for the running
    /// vDisk and for replay.
    pub(crate) fn apply_record(&self, record: &Record, at: Position, offset: u32) {
        match record {
            Record::BirthWithHistory(attributes, notes, rewind) => {
                be_born(&mut self.state.borrow_mut(), attributes, notes);
                self.rewind_becomes(Some(*rewind), at.sequence);
            }
            Record::Birth(attributes, origin, notes) => {
                be_born(&mut self.state.borrow_mut(), attributes, notes);
                if let Some(origin) = origin {
                    self.become_clone(origin, at.sequence);
                }
            }
            Record::Snapshot(snapshot) => {
                self.keep(snapshot, self.freeze(at));
                self.point_taken(snapshot);
            }
            Record::DeleteSnapshot(id) => self.unkeep(*id, at.sequence),
            Record::ConfirmSet(set) => self.confirm(*set),
            Record::Rollback(_, image) => {
                self.roll_back_to(image, at.sequence);
                self.needs_point();
            }
            Record::Rewind(rewind) => self.rewind_becomes(*rewind, at.sequence),
            Record::Edge(point, cut) => self.edge_becomes(*point, *cut, at.sequence),
            Record::Past(past) => self.keep_past(past, at, offset),
            other => apply_to_state(&mut self.state.borrow_mut(), other),
        }
    }
}

fn be_born(state: &mut State, attributes: &Attributes, notes: &Notes) {
    state.attributes = attributes.clone();
    state.notes = notes.clone();
    state.tree.grow(attributes.size_bytes / BLOCK);
}

fn apply_to_state(state: &mut State, record: &Record) {
    match record {
        Record::Rename(name) => state.attributes.name = name.clone(),
        Record::Resize(size) => {
            state.attributes.size_bytes = *size;
            state.tree.grow(size / BLOCK);
        }
        Record::Note(kind, bytes) if bytes.is_empty() => drop(state.notes.remove(kind)),
        Record::Note(kind, bytes) => drop(state.notes.insert(*kind, bytes.clone())),
        Record::ReadOnly(on) => state.attributes.read_only = *on,
        Record::Delete => state.health = Health::Deleted,
        Record::Birth(..)
        | Record::BirthWithHistory(..)
        | Record::Checkpoint(_)
        | Record::Snapshot(_)
        | Record::DeleteSnapshot(_)
        | Record::ConfirmSet(_)
        | Record::Rollback(..)
        | Record::Rewind(_)
        | Record::Edge(..)
        | Record::Past(_)
        | Record::Copy(_) => {}
    }
}
