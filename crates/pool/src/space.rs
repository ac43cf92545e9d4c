//! Space for appends: in steps, within the limit, and what is given up to make room.

use crate::ballast::{Ballast, allocate};
use crate::pool::Group;
use crate::slots::{Blocks, Slots};
use crate::{Error, Kind, Pool, Purpose, Result};
use base::units::{MIB, round_up};
use std::cell::Cell;
use std::rc::Rc;
use world::local::Semaphore;
use world::{Completion, Instant};

/// A new group takes little, since many stay small (a thousand vDisks have a thousand of them); each further step takes as
/// much again, since each costs a change of the file system's metadata (about 30 µs, and a journal commit with the next
/// sync).
const FIRST_STEP_BYTES: u32 = 64 << 10;
const STEP_BYTES_MAX: u32 = 8 * MIB as u32;
/// An append that leaves less than this (or than half of what the group holds, if that is less) sets the next step off
/// in the background, so that none has to wait for the file system: 4 MiB are several milliseconds of appends.
const AHEAD_BYTES: u32 = 4 * MIB as u32;
/// Less than this behind a tail is not worth a punch.
const TRIM_BYTES_MIN: u32 = 64 << 10;

/// How long nobody asks a full disk again for an ordinary append, unless something was freed. A refusal costs the file
/// system up to a few journal commits, and a guest that writes to a full disk writes again and again.
const REFUSAL_NS: u64 = 20_000_000;

/// What the pool takes of its disk.
pub(crate) struct Space {
    refused_until: Cell<Instant>,
    charged_bytes: Cell<u64>,
    capacity_bytes: Option<u64>,
    /// The least that free slots kept since the last look: what nobody needed meanwhile.
    pub recycled_low: Cell<u64>,
    /// The most that groups in use took since the last look, and between that and the one before.
    in_use_high: Cell<(u64, u64)>,
    pub ballast: Ballast,
    /// Making room is one task's work at a time, or two would give up what one needs.
    turn: Rc<Semaphore>,
}

impl Space {
    pub fn new(ballast: Ballast, capacity_bytes: Option<u64>, charged_bytes: u64) -> Self {
        let (refused_until, charged_bytes) = (Cell::default(), Cell::new(charged_bytes));
        let (recycled_low, in_use_high) = (Cell::default(), Cell::default());
        let turn = Semaphore::new(1);
        Space { refused_until, charged_bytes, capacity_bytes, recycled_low, in_use_high, ballast, turn }
    }

    pub fn charged_bytes(&self) -> u64 {
        self.charged_bytes.get()
    }
    pub fn ballast_held(&self) -> u64 {
        self.ballast.held_bytes()
    }
    pub fn ballast_whole(&self) -> bool {
        self.ballast.is_whole()
    }
    pub fn charge(&self, bytes: u64) {
        self.charged_bytes.set(self.charged_bytes.get() + bytes);
    }
    /// Gives bytes back, so that it is worth asking again.
    pub fn uncharge(&self, bytes: u64) {
        self.refused_until.set(Instant::default());
        self.charged_bytes.set(self.charged_bytes.get().saturating_sub(bytes));
    }

    /// The disk was full a moment ago.
    fn check_refusal(&self, now: Instant, purpose: Purpose) -> Result<()> {
        if purpose == Purpose::Normal && now < self.refused_until.get() {
            return Err(Error::new(Kind::Full, "the disk is full"));
        }
        Ok(())
    }

    /// Ordinary appends never take what the whole ballast is to have.
    pub fn check_capacity(&self, more_bytes: u64, purpose: Purpose) -> Result<()> {
        let ballast = match purpose {
            Purpose::Normal if !self.ballast.is_whole() => {
                return Err(Error::new(Kind::Full, "the disk is full: its reserve is in use"));
            }
            Purpose::Normal => self.ballast.target_bytes(),
            Purpose::Emergency => self.ballast.held_bytes(),
        };
        match self.capacity_bytes {
            Some(capacity) if self.charged_bytes.get() + more_bytes + ballast > capacity => {
                Err(Error::new(Kind::Full, format!("the pool's limit of {capacity} bytes is reached")))
            }
            _ => Ok(()),
        }
    }

    /// The most that groups in use took in the last minute or so, with what they take now.
    pub fn in_use_high(&self, now_bytes: u64) -> u64 {
        let (since, before) = self.in_use_high.get();
        self.in_use_high.set((since.max(now_bytes), before));
        since.max(now_bytes).max(before)
    }

    fn look_at_use(&self, now_bytes: u64) {
        let (since, _) = self.in_use_high.get();
        self.in_use_high.set((now_bytes, since));
    }

    /// What the ballast may grow to without breaking the limit.
    pub fn ballast_max(&self) -> u64 {
        self.capacity_bytes.map_or(u64::MAX, |capacity| capacity.saturating_sub(self.charged_bytes.get()))
    }
}

/// Blocks behind `allocated_to`, charged before the disk is asked for them and given back if it has none.
struct Growth {
    pool: Rc<Pool>,
    group: Rc<Group>,
    end: u32,
    charged: u64,
    done: bool,
}

impl Growth {
    fn begin(pool: &Rc<Pool>, group: &Rc<Group>, end: u32, purpose: Purpose) -> Result<Growth> {
        let blocks = group.blocks.get();
        // What an earlier group left behind `allocated_to` may have holes: taken as new, up to the size of the slot.
        let charged = u64::from((end - blocks.allocated_to).min(group.size - blocks.charged));
        pool.space.check_capacity(charged, purpose)?;
        pool.space.charge(charged);
        Ok(Growth { pool: pool.clone(), group: group.clone(), end, charged, done: false })
    }

    fn succeeded(mut self, zeros_written: bool) {
        let mut blocks = self.group.blocks.get();
        if zeros_written && blocks.written_to == blocks.allocated_to {
            blocks.written_to = self.end;
        }
        if zeros_written {
            self.group.slab.dirty.set(true);
        }
        blocks.allocated_to = self.end;
        blocks.charged += self.charged as u32;
        self.group.blocks.set(blocks);
        self.done = true;
    }
}

impl Drop for Growth {
    fn drop(&mut self) {
        if !self.done {
            let space = &self.pool.space;
            space.charged_bytes.set(space.charged_bytes.get() - self.charged);
        }
    }
}

impl Pool {
    /// Space of the group up to `end`. The fast way is one call of the disk; all else goes through [`Pool::grow`].
    pub(crate) fn reserve(&self, group: &Rc<Group>, end: u32, purpose: Purpose) -> Completion<Result<()>> {
        let blocks = group.blocks.get();
        if end <= blocks.allocated_to {
            return Completion::Ready(Ok(()));
        }
        let refused = self.space.check_refusal(self.world.now(), purpose);
        if let Err(e) = group.slab.check_not_poisoned().and(refused) {
            return Completion::Ready(Err(e));
        }
        let (pool, group) = (self.rc(), group.clone());
        if group.growing.get() {
            // What is on its way may be enough, and two must not take the same space.
            return Completion::pending(pool.grow(group, end, purpose));
        }
        let step_end = self.step_end(&group, end, purpose);
        let Ok(growth) = Growth::begin(&pool, &group, step_end, purpose) else {
            return Completion::pending(pool.grow(group, end, purpose));
        };
        let at = group.start + u64::from(blocks.allocated_to);
        match group.slab.file.allocate(at, u64::from(step_end - blocks.allocated_to)) {
            Completion::Ready(Ok(())) => {
                growth.succeeded(false);
                Completion::Ready(Ok(()))
            }
            pending => {
                let busy = group.busy();
                Completion::pending(async move {
                    if pending.await.is_ok() {
                        growth.succeeded(false);
                        return Ok(());
                    }
                    drop(growth);
                    let result = pool.grow(group, end, purpose).await;
                    drop(busy);
                    result
                })
            }
        }
    }

    /// Takes the next step before an append needs it. Gives nothing up for that, and does without if there is no room.
    pub(crate) fn grow_ahead(&self, group: &Rc<Group>) {
        let (tail, blocks) = (group.tail.get(), group.blocks.get());
        let left = blocks.allocated_to.saturating_sub(tail);
        let enough = left >= AHEAD_BYTES.min(tail / 2) || blocks.allocated_to == group.size;
        if enough || group.growing.get() || !self.space.ballast_whole() {
            return;
        }
        let (pool, group, busy) = (self.rc(), group.clone(), group.busy());
        group.growing.set(true);
        self.world.spawn(async move {
            let _turn = pool.space.turn.acquire(1).await;
            if !group.sealed.get() {
                let end = pool.step_end(&group, 0, Purpose::Normal);
                if let Err(error) = pool.try_grow(&group, end, Purpose::Normal).await {
                    tracing::debug!(%error, group = %group.id, "no space in advance");
                }
            }
            group.growing.set(false);
            drop(busy);
        });
    }

    /// Tries a whole step, then just what is needed, and makes room as long as there is something to give up.
    async fn grow(self: Rc<Self>, group: Rc<Group>, end: u32, purpose: Purpose) -> Result<()> {
        let _busy = group.busy();
        let _turn = self.space.turn.acquire(1).await;
        self.space.check_refusal(self.world.now(), purpose)?;
        loop {
            let mut result = Err(Error::new(Kind::Full, "the disk is full"));
            for end in [self.step_end(&group, end, purpose), end] {
                result = self.try_grow(&group, end, purpose).await;
                if !matches!(&result, Err(e) if e.kind == Kind::Full) {
                    return result;
                }
            }
            if !self.make_room(purpose).await? {
                if purpose == Purpose::Normal {
                    self.space.refused_until.set(Instant(self.world.now().0 + REFUSAL_NS));
                }
                return result;
            }
        }
    }

    fn step_end(&self, group: &Group, end: u32, purpose: Purpose) -> u32 {
        if purpose == Purpose::Emergency && !self.space.ballast_whole() {
            // Nothing of the reserve is taken in advance.
            return end;
        }
        let from = group.blocks.get().allocated_to;
        let step = from.clamp(FIRST_STEP_BYTES, STEP_BYTES_MAX);
        end.max(from.saturating_add(step)).min(group.size)
    }

    async fn try_grow(self: &Rc<Self>, group: &Rc<Group>, end: u32, purpose: Purpose) -> Result<()> {
        let from = group.blocks.get().allocated_to;
        if end <= from {
            return Ok(());
        }
        group.slab.check_not_poisoned()?;
        if group.freed.get() {
            return Err(Error::new(Kind::Sealed, format!("group {} was freed", group.id)));
        }
        let growth = Growth::begin(self, group, end, purpose)?;
        let range = (group.start + u64::from(from), group.start + u64::from(end));
        match allocate(&group.slab.file, range.0, range.1).await {
            Ok(zeros_written) => growth.succeeded(zeros_written),
            Err(e) => return Err(Error::from_disk(format!("cannot reserve space for group {}", group.id), e)),
        }
        Ok(())
    }

    /// Makes room on the disk for something that is not a group: with `Emergency`, for metadata that another store
    /// failed to write to the same file system, the reserve is touched if nothing else helps. False: there is nothing
    /// left to give up.
    pub async fn make_room_for(&self, purpose: Purpose) -> Result<bool> {
        let _turn = self.space.turn.acquire(1).await;
        self.make_room(purpose).await
    }

    /// Gives one thing up, the cheapest first. False: there is nothing left to give up.
    async fn make_room(&self, purpose: Purpose) -> Result<bool> {
        if self.trim_one().await
            || self.punch_one_recycled().await
            || self.sync_one_limbo(Slots::has_limbo_with_blocks).await
        {
            return Ok(true);
        }
        if self.space.ballast_whole() && purpose == Purpose::Normal {
            return Ok(false);
        }
        match purpose {
            Purpose::Normal => {
                self.space.ballast.grow(self.space.ballast_max()).await?;
                Ok(self.space.ballast_whole())
            }
            Purpose::Emergency => {
                let shrunk = self.space.ballast.shrink().await?;
                if shrunk {
                    let held_bytes = self.space.ballast_held();
                    tracing::warn!(held_bytes, "the disk is full: part of the reserve was given up to make room");
                }
                Ok(shrunk)
            }
        }
    }

    /// Syncs one slab of which that can be said, so that what was freed in it can be used. False: there is none.
    pub(crate) async fn sync_one_limbo(&self, of: impl Fn(&Slots) -> bool) -> bool {
        for slab in self.slabs() {
            let waits = !slab.poisoned.get() && of(&slab.slots.borrow());
            if waits && self.sync_slab(&slab).await.is_ok() {
                return true;
            }
        }
        false
    }

    /// Punches what is behind the tail of one group that takes no more appends. False: there is none.
    async fn trim_one(&self) -> bool {
        loop {
            let Some(group) = self.next_untrimmed() else { return false };
            let tail = round_up(group.tail.get().into(), 4096) as u32;
            if group.size - tail < TRIM_BYTES_MIN {
                continue;
            }
            let _busy = group.busy();
            let punched = group.slab.file.punch(group.start + u64::from(tail), (group.size - tail).into()).await;
            if let Err(error) = punched {
                tracing::debug!(%error, group = %group.id, "cannot trim");
                continue;
            }
            group.slab.dirty.set(true);
            let before = group.blocks.get();
            let blocks = Blocks {
                charged: before.charged.min(tail),
                allocated_to: before.allocated_to.min(tail),
                written_to: before.written_to.min(tail),
            };
            group.blocks.set(blocks);
            self.space.uncharge(u64::from(before.charged - blocks.charged));
            return true;
        }
    }

    /// Busy ones wait for the next time.
    fn next_untrimmed(&self) -> Option<Rc<Group>> {
        let mut untrimmed = self.untrimmed.borrow_mut();
        untrimmed.retain(|group| !group.freed.get() && !group.slab.poisoned.get());
        let place = untrimmed.iter().position(|group| !group.is_busy())?;
        Some(untrimmed.swap_remove(place))
    }

    pub(crate) async fn trim_all(&self) {
        while self.trim_one().await {}
    }

    /// Gives back the blocks of one free slot. False: no free slot has any.
    async fn punch_one_recycled(&self) -> bool {
        for slab in self.slabs() {
            if slab.poisoned.get() {
                continue;
            }
            let Some(taken) = slab.slots.borrow_mut().take_for_punch() else { continue };
            let punched = slab.file.punch(slab.slot_offset(taken.slot), self.group_size.into()).await;
            slab.dirty.set(true);
            match punched {
                Ok(()) => {
                    slab.slots.borrow_mut().freed(taken.slot, Blocks::default());
                    self.space.uncharge(taken.blocks.charged.into());
                    return true;
                }
                Err(error) => {
                    tracing::warn!(%error, slab = slab.id.0, slot = taken.slot, "cannot give a free slot's space back");
                    slab.slots.borrow_mut().lost();
                }
            }
        }
        false
    }

    /// Space counters of the disk, for [`Pool::usage`].
    pub async fn refresh_usage(&self) -> Result<()> {
        let usage = self.disk.usage().await.map_err(|e| Error::from_disk("cannot ask the disk for its space", e))?;
        self.disk_usage.set(usage);
        Ok(())
    }

    /// What is left of the reserve for moving things on a full disk, which gives room back only later: half of it is for what makes
    /// room by itself, such as deletions, and for checkpoints. Without a reserve a full disk has no room for moves.
    pub fn reserve_for_moves_bytes(&self) -> u64 {
        let ballast = &self.space.ballast;
        ballast.held_bytes().saturating_sub(ballast.target_bytes() / 2)
    }

    /// An error of the disk, not want of room, has kept the reserve from being whole, and with it every ordinary append out.
    pub async fn only_reserve_is_missing(&self) -> bool {
        !self.usage().ballast_whole && self.replenish().await.map_or(true, |()| self.usage().ballast_whole)
    }

    /// Housekeeping, for a loop in the background (every second or so; it costs nothing when there is nothing to do):
    /// gives back what is behind the tails of groups that take no more appends, syncs slabs with freed slots so that
    /// they can be used again, grows the reserve, gives back what free slots keep and nobody used since the last call.
    pub async fn replenish(&self) -> Result<()> {
        self.trim_all().await;
        while self.sync_one_limbo(Slots::has_limbo).await {}
        let turn = self.space.turn.acquire(1).await;
        self.space.ballast.grow(self.space.ballast_max()).await?;
        while !self.space.ballast_whole() && self.punch_one_recycled().await {
            self.space.ballast.grow(self.space.ballast_max()).await?;
        }
        drop(turn);
        self.give_back_unused().await;
        self.space.refused_until.set(Instant::default());
        self.refresh_usage().await
    }

    /// Punches as many free slots as were not needed since the last call, but for those that are always kept.
    async fn give_back_unused(&self) {
        let max = self.config.recycled_bytes_max;
        let unused = self.space.recycled_low.get().saturating_sub(max);
        let keep = self.recycled().1.saturating_sub(unused).max(max);
        while self.recycled().1 > keep {
            let _turn = self.space.turn.acquire(1).await;
            if !self.punch_one_recycled().await {
                break;
            }
        }
        let recycled = self.recycled().1;
        self.space.recycled_low.set(recycled);
        self.space.look_at_use(self.space.charged_bytes().saturating_sub(recycled));
    }
}
