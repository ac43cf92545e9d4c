//! Birth, change of attributes, close and deletion of a vDisk: each first a control frame in its log.

use crate::address::Address;
use crate::image::Origin;
use crate::leftover::Leftover;
use crate::log::{Item, Record};
use crate::map::{Tree, height_for};
use crate::notes::Notes;
use crate::references::Holds;
use crate::rewind::Rewind;
use crate::vdisk::{Attributes, Context, Health, Index, State, Vdisk, meta_hint};
use crate::{Error, Kind, Result};
use base::units::{BLOCK, VDISK_SIZE_MAX};
use base::{GroupId, Sequence, VdiskId};
use std::rc::Rc;

/// What the metadata store notes of a vDisk that was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    pub checkpoint: Option<meta_hint::Place>,
    /// The last frame. `None`: others may be on the disk behind those that are known, so that the log is to be read again.
    pub tail: Option<Sequence>,
}

impl Vdisk {
    /// A new, empty vDisk. Its birth is synced when this completes, and has these notes and the window of the past that it keeps.
    pub async fn create(
        context: Context,
        index: Rc<dyn Index>,
        id: VdiskId,
        attributes: Attributes,
        notes: Notes,
        rewind: Option<Rewind>,
    ) -> Result<Rc<Vdisk>> {
        let birth = match rewind {
            Some(rewind) => Record::BirthWithHistory(attributes.clone(), notes, rewind),
            None => Record::Birth(attributes.clone(), None, notes),
        };
        let vdisk = Vdisk::born(context, index, id, attributes, birth).await?;
        if rewind.is_some() {
            vdisk.maintenance.notify();
        }
        Ok(vdisk)
    }

    /// A new vDisk with the content of a snapshot, which is there until this completes ([`Vdisk::origin_of`]).
    pub async fn create_clone(
        context: Context,
        index: Rc<dyn Index>,
        id: VdiskId,
        attributes: Attributes,
        origin: Origin,
        notes: Notes,
    ) -> Result<Rc<Vdisk>> {
        let birth = Record::Birth(attributes.clone(), Some(Box::new(origin)), notes);
        Vdisk::born(context, index, id, attributes, birth).await
    }

    async fn born(
        context: Context,
        index: Rc<dyn Index>,
        id: VdiskId,
        attributes: Attributes,
        birth: Record,
    ) -> Result<Rc<Vdisk>> {
        check_size(attributes.size_bytes)?;
        let height = height_for(attributes.size_bytes / BLOCK);
        let tree = Tree::new(Address::NONE, height, context.load.map.clone());
        let vdisk = Vdisk::assemble(context, index, id, State::new(attributes, tree));
        vdisk.start();
        if let Err(error) = vdisk.control(birth).await {
            vdisk.stop().await;
            return Err(error);
        }
        Ok(vdisk)
    }

    /// Appends a control record and syncs it.
    pub(crate) async fn control(self: &Rc<Self>, record: Record) -> Result<()> {
        let placed = self.ask(|done| Item::Control { record, done }).await??;
        self.flush_through(placed.at.sequence).await
    }

    pub(crate) fn changeable(&self) -> Result<()> {
        if self.closing.get() {
            return Err(Error::new(Kind::Closed, "the vDisk is being closed"));
        }
        match self.health() {
            Health::Online => Ok(()),
            Health::Damaged(reason) => Err(Error::new(Kind::ReadOnly, format!("served read-only: {reason}"))),
            Health::Failed(reason) => Err(Error::new(Kind::Io, reason)),
            Health::Deleted => Err(gone()),
        }
    }

    pub async fn rename(self: &Rc<Self>, name: &str) -> Result<()> {
        self.changeable()?;
        self.control(Record::Rename(name.to_string())).await
    }

    /// Grows the vDisk; shrinking is refused.
    pub async fn resize(self: &Rc<Self>, size_bytes: u64) -> Result<()> {
        self.changeable()?;
        check_size(size_bytes)?;
        let now = self.state.borrow().attributes.size_bytes;
        if size_bytes < now {
            return Err(Error::new(
                Kind::Invalid,
                format!("{size_bytes} bytes are less than the {now} it has; shrinking is not possible"),
            ));
        }
        if size_bytes == now { Ok(()) } else { self.control(Record::Resize(size_bytes)).await }
    }

    pub async fn set_read_only(self: &Rc<Self>, on: bool) -> Result<()> {
        self.changeable()?;
        if self.attributes().read_only == on { Ok(()) } else { self.control(Record::ReadOnly(on)).await }
    }

    /// Writes the tombstone. What is left to do is [`Vdisk::leave`], after the metadata store was told. A damaged
    /// vDisk can be deleted too.
    pub async fn delete(self: &Rc<Self>) -> Result<()> {
        match self.health() {
            Health::Deleted => return Ok(()),
            Health::Failed(reason) => return Err(Error::new(Kind::Io, reason)),
            Health::Online | Health::Damaged(_) => {}
        }
        self.control(Record::Delete).await
    }

    /// Ends a deleted vDisk and gives up what it holds of others. What is left of it is to be freed by [`free_deleted`].
    pub async fn leave(self: &Rc<Self>) -> Leftover {
        assert_eq!(self.health(), Health::Deleted, "only a deleted vDisk gives up its groups");
        self.end().await;
        let last = self.state.borrow().tombstone.expect("a deleted vDisk has its tombstone");
        let mut groups = self.groups();
        groups.extend(self.state.borrow_mut().superseded.drain(..).map(|(_, group)| group));
        {
            let state = self.state.borrow();
            let foreign = |group: &GroupId| state.accounts.groups.get(group).is_some_and(|a| a.is_foreign());
            groups.retain(|group| !foreign(group));
        }
        self.need_nothing();
        let family = self.family().unwrap_or(self.id);
        Leftover::new(self.id, Some(family), groups, Some(last))
    }

    /// Ends a vDisk whose log takes nothing any more, its deletion neither, as a disk that is full, or refuses: the metadata store
    /// says that it is to go, and the next start frees its groups.
    pub async fn give_up(self: &Rc<Self>) {
        self.state.borrow_mut().health = Health::Deleted;
        self.end().await;
        self.need_nothing();
    }

    /// A checkpoint or a reclaim that was under way has been told that the log task is gone; lets it end. A reclaim may be
    /// about to take a checkpoint, so it comes first.
    async fn end(self: &Rc<Self>) {
        self.stop().await;
        let _no_reclaim = self.one_reclaim.acquire(1).await;
        let _no_checkpoint = self.one_checkpoint.acquire(1).await;
    }

    /// A group that is no part of the log comes free with the next reclaim, or with what is left of the vDisk.
    pub fn free_later(&self, void: GroupId) {
        self.state.borrow_mut().superseded.push((Sequence::default(), void));
    }

    /// A vDisk that is deleted, or given up before it was served, holds nothing and reaches nothing.
    pub fn need_nothing(&self) {
        {
            let mut state = self.state.borrow_mut();
            state.snapshots.clear();
            state.letting_go.clear();
        }
        self.foreign.replace(Holds::none(&self.context.references));
        self.maps.clear();
    }

    /// Checkpoint and end of all tasks. New writes are refused from the first moment; those under way are finished.
    pub async fn close(self: &Rc<Self>) -> Result<Closed> {
        self.closing.set(true);
        // What is under way ends first: a checkpoint of its own would be newer than the one reported here, and what that
        // one made free would be missing.
        let _no_hearing = self.one_hearing.acquire(1).await;
        let _no_reclaim = self.one_reclaim.acquire(1).await;
        if let Err(error) = self.fence().await {
            tracing::warn!(vdisk = %self.id, %error, "closed before the end of its log is sure");
        }
        let result = match self.health() {
            Health::Online => match self.checkpoint().await {
                Err(error) if error.kind == Kind::Full => {
                    // What is in the log is safe without it; the next start reads it again.
                    tracing::warn!(vdisk = %self.id, %error, "closed without a checkpoint");
                    Ok(())
                }
                result => result,
            },
            _ => Ok(()),
        };
        let flushed = self.flush().await;
        self.stop().await;
        result.and(flushed)?;
        let state = self.state.borrow();
        let is_synced = state.durable.sequence >= state.position.sequence && state.to_rewrite.is_empty();
        let ends = is_synced && !self.has_open_end() && !self.copy_is_in_doubt();
        let tail = ends.then_some(state.position.sequence);
        Ok(Closed { checkpoint: state.checkpoint.map(|checkpoint| checkpoint.place), tail })
    }

    /// Ends the tasks without writing anything.
    pub async fn stop(self: &Rc<Self>) {
        if self.stopped.replace(true) {
            return;
        }
        self.closing.set(true);
        let _ = self.ask(|done| Item::Stop { done }).await;
        self.maintenance.notify();
        self.give_up_unsynced();
        let load = &self.context.load.log_bytes;
        load.set(load.get().saturating_sub(self.state.borrow().log_bytes));
    }

    /// Forgets clean state that only costs memory; the vDisk stays usable. Returns the bytes freed.
    pub fn shrink(&self) -> u64 {
        self.evict_map(u64::MAX)
    }
}

pub(crate) fn gone() -> Error {
    Error::new(Kind::Closed, "the vDisk was deleted")
}

fn check_size(size_bytes: u64) -> Result<()> {
    if size_bytes == 0 || size_bytes % BLOCK != 0 || size_bytes > VDISK_SIZE_MAX {
        let text = format!("a size of {size_bytes} bytes: must be a multiple of {BLOCK}, above 0, at most 64 TiB");
        return Err(Error::new(Kind::Invalid, text));
    }
    Ok(())
}
