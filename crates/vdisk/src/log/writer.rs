//! The log task of a vDisk: the only place that appends frames, changes the map and moves the log's position.
//!
//! It takes what is waiting, makes ONE frame of it (group commit), appends it, changes the map, acknowledges. Between
//! taking and acknowledging nothing else of this vDisk changes, so that conditions (re-packing: "if the entry still says
//! so") and read-modify-write of partial blocks need no locks.

use super::frame::{self, Frame, FrameKind, Run, RunKind};
use super::{Position, Record, WalkedFrame};
use crate::account::Accounts;
use crate::address::Address;
use crate::flush::first_of;
use crate::map::{Node, PagePlace, Tree};
use crate::stats::Stats;
use crate::vdisk::{Health, State, Vdisk};
use crate::{Error, Kind, Result};
use base::units::{BLOCK, round_up};
use base::{GroupId, Sequence};
use bytes::{Bytes, BytesMut};
use pool::{NewGroup, Predecessor, Purpose, SlabId};
use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use world::local::{OneshotReceiver, OneshotSender, oneshot};

/// Runs of one frame: bounds the header at about 40 KiB.
const PIECES_MAX: usize = 1024;
/// Alignment and header of a frame with a large payload, from above unless it has very many runs.
const LARGE_HEADER: u32 = 12 << 10;
/// Cleared by one frame at most: 1 GiB, whose 1,024 leaves may have to be read first.
const CLEAR_BLOCKS_MAX: u64 = 1 << 18;

/// How long a frame waits for room among the map pages, ns.
const MAP_WAIT_NS: u64 = 100_000_000;

pub(crate) type Done = OneshotSender<Result<()>>;

pub(crate) enum Item {
    /// Any multiple of 512 bytes.
    Write {
        offset: u64,
        data: Bytes,
        done: Done,
    },
    /// Whole blocks. `fill`: `Address::NONE` or `ZEROS`.
    Clear {
        block: u64,
        count: u64,
        fill: Address,
        done: Done,
    },
    Relocate {
        moves: Vec<Move>,
        done: OneshotSender<Result<u64>>,
    },
    Pages {
        pages: Vec<PageWrite>,
        done: Done,
    },
    Control {
        record: Record,
        done: OneshotSender<Result<ControlPlace>>,
    },
    /// The state between two frames.
    Freeze {
        done: OneshotSender<Result<Frozen>>,
    },
    /// A frame without runs, whose only content is that what came before is synced.
    Proof {
        done: OneshotSender<Result<Sequence>>,
    },
    /// Append what was not synced once more, elsewhere.
    Rewrite {
        done: Done,
    },
    /// The task ends.
    Stop {
        done: OneshotSender<()>,
    },
}

/// Where a control frame went.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ControlPlace {
    pub at: Position,
    pub offset: u32,
}

/// A block to be stored elsewhere if the map still says `from`.
pub(crate) struct Move {
    pub block: u64,
    pub from: Address,
    pub data: Bytes,
}

#[derive(Clone)]
pub(crate) struct PageWrite {
    pub place: PagePlace,
    pub node: Rc<Node>,
    pub bytes: Bytes,
}

/// What a checkpoint starts from.
pub(crate) struct Frozen {
    pub tree: Tree,
    pub covers: Position,
    pub accounts: Accounts,
    pub dropped: Vec<Rc<Cell<Address>>>,
    pub rewrites: u64,
    pub log_bytes: u64,
}

#[derive(Default)]
pub(crate) struct Queue {
    pub user: VecDeque<Item>,
    pub background: VecDeque<Item>,
    /// The last frame came from the foreground: the background is next if it waits.
    user_was_last: bool,
}

impl Queue {
    fn pop_background(&mut self) -> Option<Item> {
        if self.user.is_empty() || self.user_was_last { self.background.pop_front() } else { None }
    }
}

/// A part of a frame in the making.
#[derive(Clone)]
pub(crate) enum Piece {
    Data { block: u64, bytes: Bytes },
    Clear { block: u64, count: u32, fill: Address },
    Page { place: PagePlace, bytes: Bytes },
    Control { bytes: Bytes },
}

impl Piece {
    fn payload(&self) -> Option<&Bytes> {
        match self {
            Piece::Data { bytes, .. } | Piece::Page { bytes, .. } | Piece::Control { bytes } => Some(bytes),
            Piece::Clear { .. } => None,
        }
    }
    fn blocks(&self) -> std::ops::Range<u64> {
        match self {
            Piece::Data { block, bytes } => *block..*block + bytes.len() as u64 / BLOCK,
            Piece::Clear { block, count, .. } => *block..*block + u64::from(*count),
            Piece::Page { .. } | Piece::Control { .. } => 0..0,
        }
    }
}

/// A frame that is not known to be synced, kept whole: after a failed sync it is appended again elsewhere.
pub(crate) struct Unsynced {
    pub at: Position,
    pub offset: u32,
    pub slab: SlabId,
    pub bytes: u64,
    /// What the frame says to be synced.
    pub durable_through: Sequence,
    pub kind: FrameKind,
    pub pieces: Vec<Piece>,
    /// Pages: the node and what was stored for it before.
    pub pages: Vec<(Rc<Node>, Address)>,
}

/// Result of an append: the frame and where each piece's payload starts in the group.
struct Appended {
    frame: Frame,
    slab: SlabId,
}

impl Vdisk {
    pub(crate) fn enqueue(&self, item: Item) {
        if self.ended.get() {
            return;
        }
        {
            let mut queue = self.queue.borrow_mut();
            match item {
                Item::Write { .. } | Item::Clear { .. } => queue.user.push_back(item),
                _ => queue.background.push_back(item),
            }
        }
        self.queued.notify();
    }

    /// Queues an item that answers, and waits for the answer.
    pub(crate) async fn ask<T>(&self, make: impl FnOnce(OneshotSender<T>) -> Item) -> Result<T> {
        let (sender, receiver): (_, OneshotReceiver<T>) = oneshot();
        self.enqueue(make(sender));
        receiver.await.ok_or_else(|| Error::new(Kind::Closed, "the vDisk was closed meanwhile"))
    }

    /// The log task.
    pub(crate) async fn run_log(self: Rc<Self>) {
        loop {
            let over = self.over_unsynced();
            let over_map = self.over_map();
            let background = {
                let mut queue = self.queue.borrow_mut();
                if over || over_map { queue.background.pop_front() } else { queue.pop_background() }
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
            self.queue.borrow_mut().user_was_last = true;
            self.log_busy.set(true);
            self.run_user_frame().await;
            self.log_busy.set(false);
        }
    }

    fn over_unsynced(&self) -> bool {
        let state = self.state.borrow();
        let max = self.context.settings.unsynced_bytes_max;
        let over = state.unsynced_bytes > max || self.context.load.unsynced_bytes.get() > max;
        state.health == Health::Online && over
    }

    /// The pages of the map take a quarter more than they may.
    fn over_map(&self) -> bool {
        let max = self.context.settings.map_bytes_max;
        self.context.load.map.bytes() > max + max / 4
    }

    async fn run_background(self: &Rc<Self>, item: Item) -> bool {
        if let Err(error) = self.may_append(&item) {
            refuse(item, error);
            return false;
        }
        match item {
            Item::Relocate { moves, done } => done.send(self.relocate(moves).await),
            Item::Pages { pages, done } => done.send(self.append_pages(pages).await),
            Item::Control { record, done } => done.send(self.append_control(record).await),
            Item::Freeze { done } => done.send(self.rewrite_first().await.map(|()| self.freeze())),
            Item::Proof { done } => done.send(self.append_nothing().await),
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
            Item::Write { .. } | Item::Clear { .. } => unreachable!("foreground items have their own queue"),
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
        if allowed { Ok(()) } else { Err(Error::new(Kind::ReadOnly, format!("the vDisk is {health:?}"))) }
    }

    fn freeze(&self) -> Frozen {
        let mut state = self.state.borrow_mut();
        let dropped = std::mem::take(&mut state.tree.dropped);
        Frozen {
            tree: state.tree.clone(),
            covers: state.position,
            accounts: state.accounts.clone(),
            dropped,
            rewrites: state.rewrites,
            log_bytes: state.log_bytes,
        }
    }

    /// One frame from what is waiting in the foreground.
    async fn run_user_frame(self: &Rc<Self>) {
        let mut batch = Batch::default();
        self.fill(&mut batch).await;
        if batch.pieces.is_empty() {
            return batch.finish(Ok(()));
        }
        let result = self.append_user(&batch).await;
        if let (Err(error), true) = (&result, batch.unfinished) {
            // The rest of a request whose beginning failed: it must not be acknowledged for what comes after.
            let rest = self.queue.borrow_mut().user.pop_front();
            if let Some(Item::Write { done, .. } | Item::Clear { done, .. }) = rest {
                done.send(Err(error.clone()));
            }
        }
        batch.finish(result);
    }

    async fn append_user(self: &Rc<Self>, batch: &Batch) -> Result<()> {
        self.writable()?;
        self.rewrite_first().await?;
        for piece in &batch.pieces {
            self.prepare(piece).await?;
        }
        let purpose = if batch.clears { Purpose::Emergency } else { Purpose::Normal };
        let appended = match self.append(FrameKind::Data, &batch.pieces, purpose).await {
            Err(error) if error.kind == Kind::Full => {
                // Garbage that was not worth collecting is worth it now.
                self.context.load.full.notify();
                return Err(error);
            }
            appended => appended?,
        };
        let small = batch.payload_bytes <= u64::from(self.context.settings.cache_write_bytes_max);
        self.apply(&batch.pieces, &appended.frame, small);
        self.count_log(&appended.frame);
        self.user_log_bytes.set(self.user_log_bytes.get() + u64::from(appended.frame.len));
        self.note_unsynced(appended, batch.pieces.clone(), Vec::new());
        Ok(())
    }

    /// Takes items until the frame is full, an item needs a block that the frame itself changes, or none is left.
    async fn fill(self: &Rc<Self>, batch: &mut Batch) {
        let payload_max = u64::from(self.payload_that_fits());
        let pieces_max = PIECES_MAX.min(self.context.pool.group_size() as usize / 256);
        loop {
            let item = self.queue.borrow_mut().user.pop_front();
            let Some(item) = item else { return };
            let is_clear = matches!(item, Item::Clear { .. });
            let full = batch.payload_bytes >= payload_max || batch.pieces.len() + 4 > pieces_max;
            if !batch.pieces.is_empty() && (full || is_clear != batch.clears) {
                return self.queue.borrow_mut().user.push_front(item);
            }
            batch.clears = is_clear;
            let more = match item {
                Item::Write { offset, data, done } => self.add_write(batch, offset, data, done, payload_max).await,
                Item::Clear { block, count, fill, done } => self.add_clear(batch, block, count, fill, done),
                _ => unreachable!("the foreground queue holds writes and clears"),
            };
            if !more {
                return;
            }
        }
    }

    /// Adds a write or the first part of it. `false`: the frame is to be written now.
    async fn add_write(&self, batch: &mut Batch, offset: u64, mut data: Bytes, done: Done, payload_max: u64) -> bool {
        let first = offset / BLOCK;
        let end = offset + data.len() as u64;
        let ragged = offset % BLOCK != 0 || end % BLOCK != 0;
        if ragged && batch.touches(first..end.div_ceil(BLOCK)) {
            self.queue.borrow_mut().user.push_front(Item::Write { offset, data, done });
            return false;
        }
        let before = (batch.pieces.len(), batch.payload_bytes);
        if offset % BLOCK != 0 {
            let head_len = (BLOCK - offset % BLOCK).min(data.len() as u64);
            let head = data.split_to(head_len as usize);
            match self.merge(first, (offset % BLOCK) as usize, &head).await {
                Ok(bytes) => batch.push(Piece::Data { block: first, bytes }),
                Err(error) => return fail(done, error),
            }
            if data.is_empty() {
                batch.dones.push(done);
                return true;
            }
            return self.add_aligned(batch, before, offset + head_len, data, done, payload_max).await;
        }
        self.add_aligned(batch, before, offset, data, done, payload_max).await
    }

    /// `before`: the batch without this write. One that fails here leaves nothing in the frame: what is refused must not
    /// show afterwards.
    async fn add_aligned(
        &self,
        batch: &mut Batch,
        before: (usize, u64),
        offset: u64,
        mut data: Bytes,
        done: Done,
        payload_max: u64,
    ) -> bool {
        let room = payload_max.saturating_sub(batch.payload_bytes).max(BLOCK) / BLOCK * BLOCK;
        let whole = (data.len() as u64 / BLOCK * BLOCK).min(room);
        if whole > 0 {
            batch.push(Piece::Data { block: offset / BLOCK, bytes: data.split_to(whole as usize) });
        }
        if data.is_empty() {
            batch.dones.push(done);
            return true;
        }
        let offset = offset + whole;
        if data.len() as u64 >= BLOCK {
            // The rest goes into the next frame; it is acknowledged with its last part.
            self.queue.borrow_mut().user.push_front(Item::Write { offset, data, done });
            batch.unfinished = true;
            return false;
        }
        match self.merge(offset / BLOCK, 0, &data).await {
            Ok(bytes) => batch.push(Piece::Data { block: offset / BLOCK, bytes }),
            Err(error) => {
                batch.pieces.truncate(before.0);
                batch.payload_bytes = before.1;
                return fail(done, error);
            }
        }
        batch.dones.push(done);
        true
    }

    fn add_clear(&self, batch: &mut Batch, block: u64, count: u64, fill: Address, done: Done) -> bool {
        let now = count.min(CLEAR_BLOCKS_MAX);
        batch.push(Piece::Clear { block, count: now as u32, fill });
        if now == count {
            batch.dones.push(done);
            return true;
        }
        let rest = Item::Clear { block: block + now, count: count - now, fill, done };
        self.queue.borrow_mut().user.push_front(rest);
        batch.unfinished = true;
        false
    }

    /// The block with `part` laid over it. Nothing of this vDisk is under way, so what the map says is the truth.
    async fn merge(&self, block: u64, at: usize, part: &[u8]) -> Result<Bytes> {
        let mut bytes = BytesMut::zeroed(BLOCK as usize);
        if let Some(old) = self.read_block(block).await? {
            bytes.copy_from_slice(&old);
        }
        bytes[at..at + part.len()].copy_from_slice(part);
        Ok(bytes.freeze())
    }

    /// As much as the open group still takes, if that is worth a frame: large frames would leave a quarter of each group
    /// empty otherwise.
    fn payload_that_fits(&self) -> u32 {
        let max = self.frame_payload_max();
        let left = self.state.borrow().open.as_ref().map_or(max, |group| group.room().saturating_sub(LARGE_HEADER));
        let fits = left / BLOCK as u32 * BLOCK as u32;
        if fits >= frame::ALIGN_FROM { fits.min(max) } else { max }
    }

    pub(crate) fn frame_payload_max(&self) -> u32 {
        // A frame and its header must fit an empty group several times over.
        let group = self.context.pool.group_size() / 4;
        let max = self.context.settings.frame_payload_bytes_max.min(group);
        (max / BLOCK as u32 * BLOCK as u32).max(BLOCK as u32)
    }

    /// Brings every map page that applying `piece` will touch into memory: after the append nothing may fail.
    async fn prepare(&self, piece: &Piece) -> Result<()> {
        loop {
            let checked = {
                let state = self.state.borrow();
                let blocks = piece.blocks();
                match piece {
                    Piece::Data { .. } => state.tree.check_run(blocks.start, blocks.end - blocks.start),
                    Piece::Clear { .. } => state.tree.check_clear(blocks.start, blocks.end - blocks.start),
                    Piece::Page { .. } | Piece::Control { .. } => Ok(()),
                }
            };
            let Err(need) = checked else { return Ok(()) };
            self.load(need).await?;
        }
    }

    /// Appends one frame; on a failed append once more in another group. The position moves, the map does not.
    async fn append(self: &Rc<Self>, kind: FrameKind, pieces: &[Piece], purpose: Purpose) -> Result<Appended> {
        match self.try_append(kind, pieces, purpose).await {
            Err(error) if error.kind == Kind::Io => {
                tracing::warn!(vdisk = %self.id, %error, "append failed, going on in another group");
                self.state.borrow_mut().open = None;
                self.try_append(kind, pieces, purpose).await
            }
            other => other,
        }
    }

    async fn try_append(self: &Rc<Self>, kind: FrameKind, pieces: &[Piece], purpose: Purpose) -> Result<Appended> {
        let mut frame = self.draft(kind, pieces);
        let header_len = frame::header_len(&frame.runs);
        // Behind the tail: up to 4 KiB of alignment.
        self.open_for(frame.len + BLOCK as u32, purpose).await?;
        let (slab, completion) = {
            let mut state = self.state.borrow_mut();
            let state = &mut *state;
            let group = state.open.as_mut().expect("opened above");
            let sector = state.new_sector || frame.len - header_len >= frame::ALIGN_FROM;
            let offset = round_up(group.tail().into(), if sector { BLOCK } else { 16 }) as u32;
            frame.offset = offset;
            frame.group = group.id();
            frame.sequence = state.position.sequence.next();
            frame.durable_through = state.durable.sequence;
            frame.previous_crc = state.position.chain;
            let parts = gather(&mut frame, header_len, pieces);
            state.new_sector = false;
            let completion = group.append(offset, &parts, frame.len);
            (group.slab(), completion)
        };
        self.appending.set(true);
        let appended = completion.await;
        self.appending.set(false);
        self.appended.notify();
        let mut state = self.state.borrow_mut();
        if let Err(error) = appended {
            state.open = None;
            return Err(error.into());
        }
        let at =
            Position { group: frame.group, end: frame.offset + frame.len, chain: frame.crc, sequence: frame.sequence };
        state.position = at;
        state.acknowledged = state.acknowledged.max(at.sequence);
        state.accounts.appended(at.group, at.end, at.sequence);
        drop(state);
        self.contents.borrow_mut().appended(&frame);
        self.count(&frame, pieces);
        Ok(Appended { frame, slab })
    }

    /// Log that the next checkpoint will save from being replayed. A checkpoint's own frames do not count, or each would
    /// be the reason for another.
    fn count_log(&self, frame: &Frame) {
        let mut state = self.state.borrow_mut();
        // Small frames take memory and time at a replay too.
        let bytes = u64::from(frame.len).max(BLOCK);
        state.log_bytes += bytes;
        let load = &self.context.load;
        load.log_bytes.set(load.log_bytes.get() + bytes);
    }

    fn count(&self, frame: &Frame, pieces: &[Piece]) {
        let payload: u64 = pieces.iter().filter_map(Piece::payload).map(|bytes| bytes.len() as u64).sum();
        Stats::add(&self.stats.frames, 1);
        Stats::add(&self.stats.header_bytes, u64::from(frame.len) - payload);
        match frame.kind {
            FrameKind::Data => Stats::add(&self.stats.data_bytes, payload),
            FrameKind::Pages => Stats::add(&self.stats.page_bytes, payload),
            FrameKind::Control => Stats::add(&self.stats.control_bytes, payload),
        }
    }

    /// The frame but for its place, with lengths final.
    fn draft(&self, kind: FrameKind, pieces: &[Piece]) -> Frame {
        let mut runs = Vec::with_capacity(pieces.len());
        let mut crcs = Vec::with_capacity(pieces.len());
        let mut payload_len = 0;
        for piece in pieces {
            let crc_first = crcs.len() as u32;
            let len = piece.payload().map_or(0, |bytes| bytes.len()) as u32;
            let (kind, level, block, count) = match piece {
                Piece::Data { block, bytes } => {
                    crcs.extend(bytes.chunks(BLOCK as usize).map(base::crc::crc32c));
                    (RunKind::Data, 0, *block, len / BLOCK as u32)
                }
                Piece::Clear { block, count, fill } => {
                    let kind = if *fill == Address::ZEROS { RunKind::ClearZeros } else { RunKind::ClearHole };
                    (kind, 0, *block, *count)
                }
                Piece::Page { place, bytes } => {
                    crcs.push(base::crc::crc32c(bytes));
                    (RunKind::Page, place.level, place.index, 1)
                }
                Piece::Control { bytes } => {
                    crcs.push(base::crc::crc32c(bytes));
                    (RunKind::Control, 0, 0, 1)
                }
            };
            runs.push(Run { kind, level, count, block, payload_offset: payload_len, payload_len: len, crc_first });
            payload_len += len;
        }
        let header_len = frame::header_len(&runs);
        let start = frame::payload_start(header_len, payload_len);
        for run in runs.iter_mut() {
            run.payload_offset = if run.crc_count() == 0 { 0 } else { run.payload_offset + start };
        }
        Frame {
            kind,
            vdisk: self.id,
            group: GroupId::NONE,
            offset: 0,
            len: start + payload_len,
            epoch: self.context.pool.epoch(),
            sequence: Sequence(0),
            durable_through: Sequence(0),
            wall_ns: self.context.world.clock.wall().0,
            previous_crc: 0,
            crc: 0,
            runs,
            crcs,
        }
    }

    /// A group with room and reserved space for `len` bytes is open afterwards.
    async fn open_for(self: &Rc<Self>, len: u32, purpose: Purpose) -> Result<()> {
        let has_room = self.state.borrow().open.as_ref().is_some_and(|group| group.room() >= len);
        if !has_room {
            let new = {
                let mut state = self.state.borrow_mut();
                state.open = None;
                let position = state.position;
                NewGroup {
                    vdisk: self.id,
                    first_sequence: position.sequence.next(),
                    durable_through: state.durable.sequence,
                    predecessor: (!position.group.is_none()).then_some(Predecessor {
                        group: position.group,
                        sealed_len: position.end,
                        chain: position.chain,
                    }),
                    purpose,
                }
            };
            let group = self.context.pool.open_group(new).await?;
            self.contents.borrow_mut().opened(group.id());
            self.state.borrow_mut().open = Some(group);
        }
        let reserved = self.state.borrow_mut().open.as_mut().expect("opened above").reserve(len, purpose);
        Ok(reserved.await?)
    }

    /// Changes the map as the frame says. Cannot fail: [`prepare`] brought the pages, and nothing evicts meanwhile.
    fn apply(&self, pieces: &[Piece], frame: &Frame, cache_it: bool) {
        let mut state = self.state.borrow_mut();
        let State { tree, accounts, .. } = &mut *state;
        for (piece, run) in pieces.iter().zip(&frame.runs) {
            let applied = match piece {
                Piece::Data { block, bytes } => {
                    let addresses = run_addresses(frame, run);
                    let set = tree
                        .set_run(*block, &addresses, &mut |old: Address| accounts.data_dead(old.group(), old.len()));
                    accounts.data_live(frame.group, bytes.len() as u32);
                    if cache_it {
                        self.cache_blocks(&addresses, bytes);
                    }
                    set
                }
                Piece::Clear { block, count, fill } => {
                    let mut dead = |old: Address| accounts.data_dead(old.group(), old.len());
                    tree.clear(*block, u64::from(*count), *fill, &mut dead)
                }
                Piece::Page { .. } | Piece::Control { .. } => Ok(()),
            };
            applied.expect("the pages were brought into memory before the append");
        }
        drop(state);
        self.watch_map_memory();
    }

    fn cache_blocks(&self, addresses: &[Address], bytes: &Bytes) {
        let single = bytes.len() == BLOCK as usize;
        for (address, range) in addresses.iter().zip((0..bytes.len()).step_by(BLOCK as usize)) {
            // A slice would keep the whole request's buffer alive for one block of it.
            let block =
                if single { bytes.clone() } else { Bytes::copy_from_slice(&bytes[range..range + BLOCK as usize]) };
            self.context.cache.insert(address.group(), address.grain(), block);
        }
    }

    fn note_unsynced(self: &Rc<Self>, appended: Appended, pieces: Vec<Piece>, pages: Vec<(Rc<Node>, Address)>) {
        let Appended { frame, slab } = appended;
        let at =
            Position { group: frame.group, end: frame.offset + frame.len, chain: frame.crc, sequence: frame.sequence };
        let bytes = u64::from(frame.len);
        {
            let mut state = self.state.borrow_mut();
            state.unsynced_bytes += bytes;
            self.context.load.unsynced_bytes.set(self.context.load.unsynced_bytes.get() + bytes);
            state.unsynced.push_back(Unsynced {
                at,
                offset: frame.offset,
                slab,
                bytes,
                durable_through: frame.durable_through,
                kind: frame.kind,
                pieces,
                pages,
            });
        }
        self.after_append();
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
                pieces.push(Piece::Data { block: wanted.block, bytes: wanted.data });
            }
        }
        if pieces.is_empty() {
            return Ok(0);
        }
        let appended = self.append(FrameKind::Data, &pieces, Purpose::Emergency).await?;
        let bytes: u64 = pieces.iter().filter_map(Piece::payload).map(|bytes| bytes.len() as u64).sum();
        Stats::add(&self.stats.relocated_bytes, bytes);
        self.stats.data_bytes.set(self.stats.data_bytes.get() - bytes);
        self.apply(&pieces, &appended.frame, false);
        self.count_log(&appended.frame);
        self.note_unsynced(appended, pieces, Vec::new());
        Ok(bytes)
    }

    async fn append_pages(self: &Rc<Self>, pages: Vec<PageWrite>) -> Result<()> {
        self.rewrite_first().await?;
        let pieces: Vec<Piece> =
            pages.iter().map(|page| Piece::Page { place: page.place, bytes: page.bytes.clone() }).collect();
        let appended = self.append(FrameKind::Pages, &pieces, Purpose::Emergency).await?;
        let mut before = Vec::with_capacity(pages.len());
        {
            let mut state = self.state.borrow_mut();
            for (page, run) in pages.into_iter().zip(&appended.frame.runs) {
                let address = run_addresses(&appended.frame, run).pop().expect("a page has one address");
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
        self.note_unsynced(appended, pieces, before);
        Ok(())
    }

    async fn append_control(self: &Rc<Self>, record: Record) -> Result<ControlPlace> {
        if record != Record::Delete {
            self.rewrite_first().await?;
        }
        let pieces = vec![Piece::Control { bytes: record.encode().into() }];
        let appended = self.append(FrameKind::Control, &pieces, Purpose::Emergency).await?;
        {
            let mut state = self.state.borrow_mut();
            apply_record(&mut state, &record);
            if record == Record::Delete {
                state.tombstone = Some(appended.frame.group);
            }
        }
        if !matches!(record, Record::Checkpoint(_)) {
            self.count_log(&appended.frame);
        }
        let at = self.state.borrow().position;
        let offset = appended.frame.offset;
        self.note_unsynced(appended, pieces, Vec::new());
        Ok(ControlPlace { at, offset })
    }

    async fn append_nothing(self: &Rc<Self>) -> Result<Sequence> {
        self.rewrite_first().await?;
        let appended = self.append(FrameKind::Data, &[], Purpose::Emergency).await?;
        let sequence = appended.frame.sequence;
        self.note_unsynced(appended, Vec::new(), Vec::new());
        Ok(sequence)
    }

    /// Everything that is not provably stored, after a failed sync or a crash, is appended again in another group under
    /// the same sequence numbers. Map pages are not: they hold addresses that are changing; their checkpoint starts again.
    /// `Full`: what is left waits in `to_rewrite`, and nothing else is appended before it.
    async fn rewrite_unsynced(self: &Rc<Self>) -> Result<()> {
        if let Health::Failed(reason) = &self.state.borrow().health {
            return Err(Error::new(Kind::Io, reason.clone()));
        }
        let failed = self.collect_unsynced();
        let mut count = 0;
        loop {
            let next = self.state.borrow_mut().to_rewrite.pop_front();
            let Some(frame) = next else { break };
            match self.rewrite_frame(&frame).await {
                Ok(()) => count += 1,
                Err(error) if error.kind == Kind::Full => {
                    self.state.borrow_mut().to_rewrite.push_front(Unsynced { pages: Vec::new(), ..frame });
                    self.context.load.full.notify();
                    return Err(error);
                }
                Err(error) => {
                    // Nothing may take the place of the frame that failed.
                    let reason = format!("unsynced frames could not be written elsewhere: {error}");
                    tracing::error!(vdisk = %self.id, %error, "unsynced frames are lost to this run; refusing writes and flushes");
                    self.fail(reason.clone());
                    return Err(Error::new(Kind::Io, reason));
                }
            }
        }
        if failed {
            Stats::add(&self.stats.sync_failures_survived, 1);
            tracing::warn!(vdisk = %self.id, frames = count, "sync failed; unsynced frames were written to another group");
        }
        Ok(())
    }

    /// If the sync of any unsynced frame failed, all of them are to be rewritten: the log goes back to what is durable.
    fn collect_unsynced(&self) -> bool {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        if !state.unsynced.iter().any(|frame| state.failed_slabs.contains(&frame.slab)) {
            return false;
        }
        state.rewrites += 1;
        state.open = None;
        state.position = state.durable;
        let load = &self.context.load.unsynced_bytes;
        load.set(load.get() - state.unsynced_bytes);
        state.unsynced_bytes = 0;
        let mut frames = std::mem::take(&mut state.unsynced);
        frames.append(&mut state.to_rewrite);
        state.to_rewrite = frames;
        true
    }

    /// What is still to be rewritten comes before any new frame: its sequence numbers do.
    async fn rewrite_first(self: &Rc<Self>) -> Result<()> {
        if self.state.borrow().to_rewrite.is_empty() { Ok(()) } else { self.rewrite_unsynced().await }
    }

    async fn rewrite_frame(self: &Rc<Self>, old: &Unsynced) -> Result<()> {
        for (node, before) in &old.pages {
            let lost = node.stored.get();
            let mut state = self.state.borrow_mut();
            state.accounts.page_dead(lost.group(), lost.len());
            if before.is_stored() {
                state.accounts.page_live(before.group(), before.len());
            }
            node.mark_lost(*before);
        }
        let is_checkpoint = old.kind == FrameKind::Control
            && matches!(&old.pieces[..], [Piece::Control { bytes }] if matches!(Record::decode(bytes), Ok(Record::Checkpoint(_))));
        // A frame without runs keeps the sequence without a gap.
        let pieces = if old.kind == FrameKind::Pages || is_checkpoint { Vec::new() } else { old.pieces.clone() };
        let kind = if pieces.is_empty() { FrameKind::Data } else { old.kind };
        let old_addresses = old_addresses(&pieces, &old.at, old.offset);
        let appended = self.append(kind, &pieces, Purpose::Emergency).await?;
        let is_delete =
            |piece: &Piece| matches!(piece, Piece::Control { bytes } if Record::decode(bytes) == Ok(Record::Delete));
        if pieces.iter().any(is_delete) {
            self.state.borrow_mut().tombstone = Some(appended.frame.group);
        }
        for (index, (piece, run)) in pieces.iter().zip(&appended.frame.runs).enumerate() {
            if let Piece::Data { block, .. } = piece {
                let new = run_addresses(&appended.frame, run);
                self.replace_addresses(*block, &old_addresses[index], &new).await?;
            }
        }
        self.note_unsynced(appended, pieces, Vec::new());
        Ok(())
    }

    async fn replace_addresses(&self, block: u64, old: &[Address], new: &[Address]) -> Result<()> {
        for (i, (old, new)) in old.iter().zip(new).enumerate() {
            let block = block + i as u64;
            loop {
                let replaced = {
                    let mut state = self.state.borrow_mut();
                    let State { tree, accounts, .. } = &mut *state;
                    match tree.lookup(block) {
                        Ok(here) if here == *old => tree
                            .set_run(block, &[*new], &mut |dead: Address| accounts.data_dead(dead.group(), dead.len()))
                            .map(|()| accounts.data_live(new.group(), new.len())),
                        Ok(_) => Ok(()),
                        Err(need) => Err(need),
                    }
                };
                match replaced {
                    Ok(()) => break,
                    Err(need) => self.load(need).await?,
                }
            }
        }
        Ok(())
    }
}

/// What a control record changes in memory; the same for the running vDisk and for replay.
pub(crate) fn apply_record(state: &mut State, record: &Record) {
    match record {
        Record::Birth(attributes) => {
            state.attributes = attributes.clone();
            state.tree.grow(attributes.size_bytes / BLOCK);
        }
        Record::Rename(name) => state.attributes.name = name.clone(),
        Record::Resize(size) => {
            state.attributes.size_bytes = *size;
            state.tree.grow(size / BLOCK);
        }
        Record::ReadOnly(on) => state.attributes.read_only = *on,
        Record::Delete => state.health = Health::Deleted,
        Record::Checkpoint(_) => {}
    }
}

/// Addresses of a run's blocks (data) or of its page.
pub(crate) fn run_addresses(frame: &Frame, run: &Run) -> Vec<Address> {
    let start = frame.offset + run.payload_offset;
    let unit = BLOCK as u32;
    (0..run.crc_count() as u32)
        .map(|i| Address::new(frame.group, start + i * unit, unit, frame.crcs[(run.crc_first + i) as usize]))
        .collect()
}

/// What a frame on the disk stores by `run`, as it was written.
pub(crate) fn piece_of(walked: &WalkedFrame, run: &Run) -> Option<Piece> {
    match run.kind {
        RunKind::Data => Some(Piece::Data { block: run.block, bytes: Bytes::copy_from_slice(&walked.payload(run)) }),
        RunKind::ClearHole => Some(Piece::Clear { block: run.block, count: run.count, fill: Address::NONE }),
        RunKind::ClearZeros => Some(Piece::Clear { block: run.block, count: run.count, fill: Address::ZEROS }),
        RunKind::Control => Some(Piece::Control { bytes: Bytes::copy_from_slice(&walked.payload(run)) }),
        RunKind::Page => None,
    }
}

/// Addresses that the pieces had in the frame at `offset`, computed as `draft` does.
fn old_addresses(pieces: &[Piece], at: &Position, offset: u32) -> Vec<Vec<Address>> {
    let payload_len: usize = pieces.iter().filter_map(Piece::payload).map(Bytes::len).sum();
    let mut next = at.end - payload_len as u32;
    debug_assert!(next >= offset);
    let mut all = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let mut addresses = Vec::new();
        if let Piece::Data { bytes, .. } = piece {
            for block in bytes.chunks(BLOCK as usize) {
                addresses.push(Address::new(at.group, next, BLOCK as u32, base::crc::crc32c(block)));
                next += BLOCK as u32;
            }
        } else {
            next += piece.payload().map_or(0, Bytes::len) as u32;
        }
        all.push(addresses);
    }
    all
}

/// Header, gap, payload.
fn gather(frame: &mut Frame, header_len: u32, pieces: &[Piece]) -> Vec<Bytes> {
    let payload: u32 = pieces.iter().filter_map(Piece::payload).map(|bytes| bytes.len() as u32).sum();
    let gap = frame.len - payload - header_len;
    let mut header = frame::encode(frame);
    header.resize((header_len + gap) as usize, 0);
    let mut parts = Vec::with_capacity(pieces.len() + 1);
    parts.push(Bytes::from(header));
    parts.extend(pieces.iter().filter_map(Piece::payload).cloned());
    parts
}

/// Answers an item that is not carried out.
fn refuse(item: Item, error: Error) {
    match item {
        Item::Write { done, .. } | Item::Clear { done, .. } | Item::Pages { done, .. } | Item::Rewrite { done } => {
            done.send(Err(error));
        }
        Item::Relocate { done, .. } => done.send(Err(error)),
        Item::Proof { done } => done.send(Err(error)),
        Item::Control { done, .. } => done.send(Err(error)),
        Item::Freeze { done } => done.send(Err(error)),
        Item::Stop { .. } => {}
    }
}

fn fail(done: Done, error: Error) -> bool {
    done.send(Err(error));
    true
}

#[derive(Default)]
struct Batch {
    pieces: Vec<Piece>,
    dones: Vec<Done>,
    payload_bytes: u64,
    clears: bool,
    /// The last item continues in the next frame.
    unfinished: bool,
}

impl Batch {
    fn push(&mut self, piece: Piece) {
        self.payload_bytes += piece.payload().map_or(0, |bytes| bytes.len() as u64);
        self.pieces.push(piece);
    }
    fn touches(&self, blocks: std::ops::Range<u64>) -> bool {
        self.pieces.iter().any(|piece| piece.blocks().start < blocks.end && blocks.start < piece.blocks().end)
    }
    fn finish(self, result: Result<()>) {
        for done in self.dones {
            done.send(result.clone());
        }
    }
}
