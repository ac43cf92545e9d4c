//! The appending end of one extent group.
//!
//! Appends are whole or the group is sealed: whatever an append that failed has left behind the tail is void. Each
//! append is padded with zeros to the next 4 KiB in the same write, so that the kernel never has to read a page of
//! recycled space in order to change a part of it; the next append goes over the padding.

use crate::ballast::push_zeros;
use crate::pace::Pace;
use crate::pool::{Busy, Group};
use crate::usage::add;
use crate::{Error, GroupHeader, HEADER_PAGE, Kind, Pool, Predecessor, Result};
use base::units::{MIB, round_up};
use base::{GroupId, Sequence, VdiskId};
use bytes::Bytes;
use std::cell::Cell;
use std::rc::Rc;
use world::{Completion, WallTime};

/// Padding, and where a frame begins after a flush.
const PAGE: u32 = 4096;
/// Zeros written ahead of the tail at once: one change of file system metadata for as many syncs as fit into it.
const AHEAD_BYTES: u32 = MIB as u32;
/// Appends of one group that may be under way: while the device has one, the next is made ready. More would only wait there.
const APPENDS_MAX: u32 = 2;

/// What space is wanted for: whether the reserve may be touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Normal,
    /// Trims, deletes, checkpoints, metadata, re-packing: what makes room may use the reserve.
    Emergency,
}

#[derive(Debug, Clone, Copy)]
pub struct NewGroup {
    pub vdisk: VdiskId,
    pub first_sequence: Sequence,
    pub durable_through: Sequence,
    pub predecessor: Option<Predecessor>,
    /// For appends that were not reserved before.
    pub purpose: Purpose,
}

/// The one handle that appends to a group. Dropping it ends the group: nothing is appended ever after, and space that
/// was reserved behind the tail goes back. A group that nothing was appended to vanishes with its handle.
pub struct OpenGroup {
    pool: Rc<Pool>,
    pub(crate) group: Rc<Group>,
    header: GroupHeader,
    purpose: Purpose,
    pace: Pace,
    /// A reserve is under way, or an append that waits for one.
    in_progress: Rc<Cell<bool>>,
    /// Appends under way.
    writing: Rc<Cell<u32>>,
    /// Kept for its capacity.
    parts: Vec<Bytes>,
}

impl Pool {
    /// Takes an id and a slot; nothing is written before the first append.
    pub async fn open_group(self: &Rc<Self>, new: NewGroup) -> Result<OpenGroup> {
        let id = self.ids.next_group().await?;
        let (slab, slot, blocks) = self.take_slot(new.purpose).await?;
        let header = GroupHeader {
            group: id,
            vdisk: new.vdisk,
            epoch: self.epoch(),
            first_sequence: new.first_sequence,
            durable_through: new.durable_through,
            predecessor: new.predecessor,
            wall: WallTime(self.world.clock.wall().0),
        };
        let group = Rc::new(Group::new((id, new.vdisk), slab, slot, self.group_size(), HEADER_PAGE, blocks));
        self.add_group(group.clone());
        self.prepare_next();
        Ok(OpenGroup {
            pool: self.clone(),
            group,
            header,
            purpose: new.purpose,
            pace: Pace::default(),
            in_progress: Rc::default(),
            writing: Rc::default(),
            parts: Vec::new(),
        })
    }
}

impl OpenGroup {
    pub fn id(&self) -> GroupId {
        self.group.id
    }
    /// First free byte, counted from the header page: 4096 in a new group. Appends under way are before it.
    pub fn tail(&self) -> u32 {
        if self.group.sealed.get() { self.group.tail.get() } else { self.group.issued.get().0 }
    }
    /// Bytes from the tail to the end of the group.
    pub fn room(&self) -> u32 {
        self.group.size - self.tail()
    }
    /// An append at the 4 KiB boundary behind the tail may begin although another one is under way. Whoever begins it must
    /// not believe it before that one has succeeded.
    pub fn takes_another(&self) -> bool {
        let (tail, written_to) = self.group.issued.get();
        let apart = written_to <= page_up32(tail);
        !self.is_sealed() && !self.in_progress.get() && self.writing.get() < APPENDS_MAX && apart
    }
    pub fn header(&self) -> &GroupHeader {
        &self.header
    }
    /// An append failed, a sync of its slab did, or the group was freed: every append is refused.
    pub fn is_sealed(&self) -> bool {
        self.group.sealed.get() || self.group.slab.poisoned.get()
    }

    /// Makes sure that `len` bytes can be appended at the tail or at the 4 KiB boundary behind it without `Full`.
    /// `Full` leaves the group as it was.
    pub fn reserve(&mut self, len: u32, purpose: Purpose) -> Completion<Result<()>> {
        if let Err(e) = self.check_open() {
            return Completion::Ready(Err(e));
        }
        if len > self.room() {
            return Completion::Ready(Err(self.invalid(format!("{len} bytes do not fit into {}", self.room()))));
        }
        // As far as an append of this length can reach, wherever the caller aligns it.
        let end = page_up(self.tail()) + u64::from(page_up32(len));
        let end = end.min(self.group.size.into()) as u32;
        match self.pool.reserve(&self.group, end, purpose) {
            Completion::Ready(result) => Completion::Ready(result),
            pending => {
                let turn = Turn::begin(&self.in_progress);
                Completion::pending(async move {
                    let result = pending.await;
                    drop(turn);
                    result
                })
            }
        }
    }

    /// Appends `parts`, `len` bytes in sum, at `offset`: the tail, or a 4 KiB boundary behind it. The first append
    /// writes the header page with it. Moves the tail to `offset + len` when it succeeds; any error but `Full` before
    /// the attempt (see [`OpenGroup::is_sealed`]) and `Invalid` seals the group. One append at a time, but for
    /// [`OpenGroup::takes_another`].
    pub fn append(&mut self, offset: u32, parts: &[Bytes], len: u32) -> Completion<Result<()>> {
        if let Err(e) = self.check_append(offset, parts, len) {
            return Completion::Ready(Err(e));
        }
        let end = page_up32(offset + len);
        match self.pool.reserve(&self.group, end, self.purpose) {
            Completion::Ready(Ok(())) => {
                let mut gathered = std::mem::take(&mut self.parts);
                let plan = self.gather(&mut gathered, offset, parts, len);
                let completion = write(&self.pool, &self.group, &self.writing, &gathered, plan);
                gathered.clear();
                self.parts = gathered;
                completion
            }
            Completion::Ready(Err(e)) => Completion::Ready(Err(e)),
            pending => {
                let mut gathered = Vec::new();
                let plan = self.gather(&mut gathered, offset, parts, len);
                let turn = Turn::begin(&self.in_progress);
                let (pool, group, writing) = (self.pool.clone(), self.group.clone(), self.writing.clone());
                Completion::pending(async move {
                    let reserved = pending.await;
                    drop(turn);
                    reserved?;
                    write(&pool, &group, &writing, &gathered, plan).await
                })
            }
        }
    }

    /// To be told after each sync that covered this group: who syncs often gets space that is written in advance.
    pub fn synced(&mut self) {
        self.pace.synced(self.group.tail.get());
    }

    /// To be called when whoever waited for the last append has been answered. Lets the disk begin with it if a sync of it
    /// alone is expected: by the time it is asked for, the data may be there.
    pub fn answered(&self) {
        if let Some((start, end)) = self.group.sync_expected.take()
            && !self.is_sealed()
        {
            self.group.slab.file.write_back(self.group.start + u64::from(start), u64::from(end - start));
        }
    }

    fn check_open(&self) -> Result<()> {
        if self.group.sealed.get() {
            let text = format!("group {} takes no more appends: one failed, or it was freed", self.group.id);
            return Err(Error::new(Kind::Sealed, text));
        }
        self.group.slab.check_not_poisoned()?;
        if self.in_progress.get() {
            return Err(self.invalid("a reserve is still under way".into()));
        }
        Ok(())
    }

    fn check_append(&self, offset: u32, parts: &[Bytes], len: u32) -> Result<()> {
        self.check_open()?;
        if self.writing.get() > 0 && !(self.takes_another() && offset % PAGE == 0) {
            return Err(self.invalid("an append is still under way".into()));
        }
        if offset < self.tail() {
            return Err(self.invalid(format!("append at {offset}: the tail is at {}", self.tail())));
        }
        if offset.checked_add(len).is_none_or(|end| end > self.group.size) {
            return Err(self.invalid(format!("append of {len} bytes at {offset}: beyond {} bytes", self.group.size)));
        }
        if parts.iter().map(|part| part.len() as u64).sum::<u64>() != u64::from(len) {
            return Err(self.invalid(format!("the parts of an append are not {len} bytes long")));
        }
        Ok(())
    }

    fn invalid(&self, text: String) -> Error {
        Error::new(Kind::Invalid, format!("group {}: {text}", self.group.id))
    }

    /// One gather write: header page if it is the first, the gap, the parts, the padding, and zeros ahead.
    fn gather(&self, gathered: &mut Vec<Bytes>, offset: u32, parts: &[Bytes], len: u32) -> Plan {
        let group = &self.group;
        let mut start = offset.min(page_up32(self.tail()));
        if !group.started.get() {
            gathered.push(self.header.encode());
            start = 0;
        }
        let written = if start == 0 { HEADER_PAGE } else { start };
        push_zeros(gathered, (offset - written).into());
        gathered.extend(parts.iter().filter(|part| !part.is_empty()).cloned());
        let tail = offset + len;
        let padded = page_up32(tail);
        push_zeros(gathered, (padded - tail).into());
        let blocks = group.blocks.get();
        let mut end = padded;
        if self.pace.is_syncing_often() && padded > blocks.written_to {
            end = padded.saturating_add(AHEAD_BYTES).min(blocks.allocated_to).max(padded);
            push_zeros(gathered, (end - padded).into());
        }
        Plan { start, tail, end, appended: len, ahead: end - padded }
    }
}

impl Group {
    /// Bytes of the pages of `[start, end)` that were not written since the last sync began: what the next one writes
    /// more. A page to which several appends add before a sync is written once.
    fn newly_dirtied(&self, start: u32, end: u32) -> u32 {
        let (syncs, (then, dirty_to)) = (self.slab.syncs.get(), self.dirtied.get());
        let dirty_to = if then == syncs { dirty_to } else { 0 };
        let from = (start / HEADER_PAGE * HEADER_PAGE).max(dirty_to);
        self.dirtied.set((syncs, dirty_to.max(end)));
        end.saturating_sub(from)
    }
}

/// One write of an append, bytes counted from the header page.
#[derive(Clone, Copy)]
struct Plan {
    start: u32,
    /// The group's tail afterwards.
    tail: u32,
    /// End of what is written, padding and zeros ahead included.
    end: u32,
    appended: u32,
    ahead: u32,
}

/// An append that was begun: unless it is told that the whole of it succeeded, it seals the group.
struct Begun {
    pool: Rc<Pool>,
    group: Rc<Group>,
    plan: Plan,
    done: bool,
}

fn write(
    pool: &Rc<Pool>,
    group: &Rc<Group>,
    writing: &Rc<Cell<u32>>,
    gathered: &[Bytes],
    plan: Plan,
) -> Completion<Result<()>> {
    if group.sealed.get() {
        let text = format!("group {} takes no more appends", group.id);
        return Completion::Ready(Err(Error::new(Kind::Sealed, text)));
    }
    if let Err(e) = group.slab.check_not_poisoned() {
        return Completion::Ready(Err(e));
    }
    group.started.set(true);
    group.issued.set((plan.tail, plan.end));
    let begun = Begun { pool: pool.clone(), group: group.clone(), plan, done: false };
    match group.slab.file.write(group.start + u64::from(plan.start), gathered) {
        Completion::Ready(result) => Completion::Ready(begun.end(result)),
        pending => {
            let write = Write::begin(writing);
            let busy: Busy = group.busy();
            Completion::pending(async move {
                let result = begun.end(pending.await);
                drop((write, busy));
                result
            })
        }
    }
}

impl Begun {
    fn end(mut self, result: world::Result<()>) -> Result<()> {
        // Part of it may be there even after an error, and what is there is to be synced with the rest.
        self.group.slab.dirty.set(true);
        let context = || format!("an append to group {} failed; the group is sealed", self.group.id);
        result.map_err(|e| Error::from_disk(context(), e))?;
        self.done = true;
        let plan = self.plan;
        self.group.tail.set(plan.tail.max(self.group.tail.get()));
        let mut blocks = self.group.blocks.get();
        if plan.start <= blocks.written_to {
            blocks.written_to = blocks.written_to.max(plan.end);
        }
        self.group.blocks.set(blocks);
        let counters = &self.pool.counters;
        add(&counters.appended_bytes, plan.appended.into());
        add(&counters.dirtied_bytes, self.group.newly_dirtied(plan.start, plan.end).into());
        add(&counters.prewritten_bytes, plan.ahead.into());
        self.group.sync_expected.set(self.group.slab.appended().then_some((plan.start, plan.end)));
        self.pool.grow_ahead(&self.group);
        Ok(())
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if !self.done {
            self.group.sealed.set(true);
        }
    }
}

/// Counted while it is under way.
struct Write(Rc<Cell<u32>>);

impl Write {
    fn begin(cell: &Rc<Cell<u32>>) -> Write {
        cell.set(cell.get() + 1);
        Write(cell.clone())
    }
}

impl Drop for Write {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Set while an operation is under way.
struct Turn(Rc<Cell<bool>>);

impl Turn {
    fn begin(cell: &Rc<Cell<bool>>) -> Turn {
        cell.set(true);
        Turn(cell.clone())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl Drop for OpenGroup {
    fn drop(&mut self) {
        let never_begun = !self.group.started.get() && !self.in_progress.get() && self.writing.get() == 0;
        self.group.sealed.set(true);
        self.pool.abandoned(&self.group, never_begun);
    }
}

fn page_up(value: u32) -> u64 {
    round_up(value.into(), PAGE.into())
}

/// Sizes of groups are multiples of 4 KiB, so that what is inside one never rounds up beyond it.
fn page_up32(value: u32) -> u32 {
    page_up(value) as u32
}
