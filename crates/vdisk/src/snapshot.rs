//! Snapshots of one vDisk: the state of its map at one position of the log, kept.
//!
//! Frozen by the log task at its frame, stored by the next checkpoint as a checkpoint of its own
//! ([decision 0009](../../../docs/decisions/0009-snapshots-and-clones.md)). Holds the groups that it needs from its
//! first moment on, until a checkpoint without it is proven.

use crate::address::Address;
use crate::image::{Image, NeededGroups, Origin};
use crate::log::{CheckpointRecord, Frozen, Item, Record, SetRecord, SnapshotEntry, SnapshotRecord, closed};
use crate::map::Tree;
use crate::recovery::needed_at;
use crate::references::{Holds, References, Root};
use crate::vdisk::{Attributes, Checkpoint, Context, Health, State, Vdisk, meta_hint};
use crate::{Error, Kind, Result};
use base::units::BLOCK;
use base::{Sequence, SnapshotId, VdiskId};
use std::rc::Rc;
use world::local::{OneshotSender, oneshot};

/// Snapshots of one vDisk: an hourly one for a month, with room. Each is some 60 bytes of every checkpoint.
pub const SNAPSHOTS_MAX: usize = 1024;

/// What is said of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    pub id: SnapshotId,
    pub name: String,
    pub created_ns: u64,
    pub size_bytes: u64,
    pub mapped_bytes: u64,
    pub sequence: Sequence,
    /// The set it was taken with, and all members of that.
    pub set: Option<SetRecord>,
    /// A checkpoint has stored its map.
    pub stored: bool,
}

/// What a deleted snapshot held.
pub(crate) struct LettingGo {
    /// The frame that deleted it.
    pub at: Sequence,
    /// Of a point of the history: what was written later is kept as well.
    pub point: Option<Sequence>,
    #[allow(dead_code)]
    pub holds: Holds,
}

pub(crate) struct Snapshot {
    pub record: SnapshotRecord,
    pub sequence: Sequence,
    pub mapped_bytes: u64,
    pub stage: Stage,
    pub holds: Holds,
}

pub(crate) enum Stage {
    Frozen(Rc<Frozen>),
    Stored(Kept),
}

/// A checkpoint that is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept {
    pub root: Address,
    pub height: u8,
    /// Where its record is.
    pub place: meta_hint::Place,
}

/// Keeps groups from being freed.
pub struct Pin(#[allow(dead_code)] Holds);

impl Pin {
    pub(crate) fn new(holds: Holds) -> Pin {
        Pin(holds)
    }
}

/// A vDisk whose log task has stopped between two frames; dropping it lets the task go on.
pub struct Paused {
    vdisk: Rc<Vdisk>,
    go: OneshotSender<Record>,
    done: world::local::OneshotReceiver<Result<crate::log::ControlPlace>>,
}

impl Snapshot {
    /// Of the history; shown to nobody.
    pub fn is_point(&self) -> bool {
        self.record.point.is_some()
    }

    fn info(&self) -> SnapshotInfo {
        SnapshotInfo {
            id: self.record.id,
            name: self.record.name.clone(),
            created_ns: self.record.created_ns,
            size_bytes: self.record.size_bytes,
            mapped_bytes: self.mapped_bytes,
            sequence: self.sequence,
            set: self.record.set.clone(),
            stored: self.kept().is_some(),
        }
    }

    /// Its map, if no checkpoint has stored it.
    pub fn frozen(&self) -> Option<&Rc<Frozen>> {
        if let Stage::Frozen(frozen) = &self.stage { Some(frozen) } else { None }
    }

    /// Where its map is stored, if it is.
    pub fn kept(&self) -> Option<Kept> {
        if let Stage::Stored(kept) = self.stage { Some(kept) } else { None }
    }

    /// As a checkpoint names it whose record lies at `here`. It holds nothing yet.
    pub fn of_entry(entry: &SnapshotEntry, here: meta_hint::Place, references: &Rc<References>) -> Snapshot {
        let kept = Kept { root: entry.root, height: entry.height, place: entry.place.unwrap_or(here) };
        Snapshot {
            record: entry.record.clone(),
            sequence: entry.sequence,
            mapped_bytes: entry.mapped_bytes,
            stage: Stage::Stored(kept),
            holds: Holds::none(references),
        }
    }

    /// As the next checkpoint names it. `None`: not stored yet.
    pub fn entry(&self) -> Option<SnapshotEntry> {
        let Kept { root, height, place } = self.kept()?;
        Some(SnapshotEntry { root, height, place: Some(place), ..self.to_be_stored() })
    }

    /// As the checkpoint names it that stores it, but for where.
    pub fn to_be_stored(&self) -> SnapshotEntry {
        SnapshotEntry {
            record: self.record.clone(),
            sequence: self.sequence,
            mapped_bytes: self.mapped_bytes,
            root: Address::NONE,
            height: 1,
            place: None,
        }
    }
}

impl Vdisk {
    /// In order of age.
    pub fn snapshots(&self) -> Vec<SnapshotInfo> {
        let state = self.state.borrow();
        let shown = state.snapshots.values().filter(|snapshot| !snapshot.is_point());
        let mut all: Vec<SnapshotInfo> = shown.map(Snapshot::info).collect();
        all.sort_unstable_by_key(|snapshot| snapshot.sequence);
        all
    }

    pub fn snapshot_info(&self, id: SnapshotId) -> Option<SnapshotInfo> {
        let state = self.state.borrow();
        state.snapshots.get(&id).filter(|snapshot| !snapshot.is_point()).map(Snapshot::info)
    }

    /// The vDisk's content of one instant between call and completion is kept; durable when it completes. `Invalid`: too
    /// many of them. Names are the caller's to keep apart.
    pub async fn snapshot(self: &Rc<Self>, id: SnapshotId, name: &str) -> Result<SnapshotInfo> {
        self.check_snapshot()?;
        self.control(Record::Snapshot(self.snapshot_record(id, name, None))).await?;
        self.taken(id)
    }

    /// The same, durable with whatever is synced next: for a call that stores something of it before it answers.
    pub async fn snapshot_unsynced(self: &Rc<Self>, id: SnapshotId, name: &str) -> Result<SnapshotInfo> {
        self.check_snapshot()?;
        let record = Record::Snapshot(self.snapshot_record(id, name, None));
        self.ask(|done| Item::Control { record, done }).await??;
        self.taken(id)
    }

    pub(crate) fn check_snapshot(&self) -> Result<()> {
        self.changeable()?;
        let shown = self.state.borrow().snapshots.values().filter(|snapshot| !snapshot.is_point()).count();
        if shown >= SNAPSHOTS_MAX {
            let text = format!("the vDisk has {SNAPSHOTS_MAX} snapshots, more are not possible; delete one first");
            return Err(Error::new(Kind::Invalid, text));
        }
        Ok(())
    }

    pub(crate) fn snapshot_record(&self, id: SnapshotId, name: &str, set: Option<SetRecord>) -> SnapshotRecord {
        let created_ns = self.context.world.clock.wall().0;
        // The log task sets the size: it may be changing.
        SnapshotRecord { id, name: name.to_string(), created_ns, size_bytes: 0, set, point: None }
    }

    pub(crate) fn taken(&self, id: SnapshotId) -> Result<SnapshotInfo> {
        self.snapshot_info(id).ok_or_else(|| Error::new(Kind::Closed, "the snapshot was deleted meanwhile"))
    }

    /// The frame under way ends, and no other one begins: nothing is acknowledged until [`Paused::cut`] or until the
    /// result is dropped.
    pub async fn pause(self: &Rc<Self>) -> Result<Paused> {
        self.check_snapshot()?;
        let (go, receiver) = oneshot();
        let (done_sender, done) = oneshot();
        self.ask(|paused| Item::Cut { paused, go: receiver, done: done_sender }).await??;
        Ok(Paused { vdisk: self.clone(), go, done })
    }

    /// What the log task does about a snapshot: keeps the map as it is behind the frame at `covers`.
    pub(crate) fn keep(&self, record: &SnapshotRecord, frozen: Frozen) {
        let frozen = Rc::new(frozen);
        let needed = NeededGroups::of(frozen.accounts.borrow().clone());
        let holds = Holds::of_list(&self.context.references, &needed);
        let mapped_bytes = frozen.accounts.borrow().live_data();
        let mut state = self.state.borrow_mut();
        let snapshot = Snapshot {
            record: record.clone(),
            sequence: frozen.covers.get().sequence,
            mapped_bytes,
            stage: Stage::Frozen(frozen),
            holds,
        };
        state.snapshots.insert(record.id, snapshot);
        drop(state);
        self.find_edge();
    }

    /// What the log task does about a deletion: what the snapshot holds is let go when a checkpoint without it is proven.
    pub(crate) fn unkeep(&self, id: SnapshotId, at: Sequence) {
        let mut state = self.state.borrow_mut();
        if let Some(snapshot) = state.snapshots.remove(&id) {
            if let Some(frozen) = snapshot.frozen() {
                // What was dropped before it is not told by a checkpoint of its own any more.
                state.tree.dropped.extend(frozen.dropped.take());
            }
            let point = snapshot.is_point().then_some(snapshot.sequence);
            state.letting_go.push(LettingGo { at, point, holds: snapshot.holds });
            state.snapshots_changed = true;
        }
        drop(state);
        self.maps.remove(id);
        self.find_edge();
    }

    /// What the log task does about a set that is whole.
    pub(crate) fn confirm(&self, set: SnapshotId) {
        let mut state = self.state.borrow_mut();
        let sets = state.snapshots.values_mut().filter_map(|snapshot| snapshot.record.set.as_mut());
        sets.filter(|of| of.id == set).for_each(|of| of.confirmed = true);
    }

    /// The set counts from here on, whatever becomes of its other members. Durable when it completes.
    pub async fn confirm_set(self: &Rc<Self>, set: SnapshotId) -> Result<()> {
        self.changeable()?;
        self.control(Record::ConfirmSet(set)).await
    }

    /// The oldest snapshot that no checkpoint has stored.
    pub(crate) fn next_frozen(&self) -> Option<(SnapshotId, Rc<Frozen>)> {
        let state = self.state.borrow();
        let frozen = state.snapshots.iter().filter_map(|(id, snapshot)| Some((*id, snapshot.frozen()?.clone())));
        frozen.min_by_key(|(_, frozen)| frozen.covers.get().sequence)
    }

    /// A synced checkpoint has stored the snapshot's map.
    pub(crate) fn kept(&self, id: SnapshotId, kept: Kept, record: &CheckpointRecord) {
        self.holds(id, kept, &record.needed());
    }

    fn holds(&self, id: SnapshotId, kept: Kept, needed: &NeededGroups) {
        let holds = holds_of(&self.context, needed, kept.place);
        let mut state = self.state.borrow_mut();
        let Some(snapshot) = state.snapshots.get_mut(&id) else { return };
        snapshot.stage = Stage::Stored(kept);
        snapshot.holds = holds;
        drop(state);
        self.tell_kept(id, kept);
    }

    /// Of a clone: the vDisk that all of its family descends from.
    pub fn family(&self) -> Option<VdiskId> {
        self.state.borrow().lineage.first().copied()
    }

    /// Of a clone: the vDisk whose snapshot it began with.
    pub fn parent(&self) -> Option<VdiskId> {
        self.state.borrow().lineage.last().copied()
    }

    /// Whose groups its maps may refer to.
    pub(crate) fn lineage(&self) -> Rc<[VdiskId]> {
        self.state.borrow().lineage.iter().copied().chain([self.id]).collect()
    }

    /// After the log was read: the stored snapshots hold what their records say.
    pub(crate) async fn hold_snapshots(&self) {
        self.find_edge();
        let stored: Vec<(SnapshotId, Kept)> = {
            let state = self.state.borrow();
            state.snapshots.iter().filter_map(|(id, snapshot)| Some((*id, snapshot.kept()?))).collect()
        };
        let mut unsure = false;
        for (id, kept) in stored {
            match needed_at(&self.context, self.id, kept.place).await {
                Ok(needed) => {
                    let copied = needed.iter().filter(|needed| needed.is_copied);
                    copied.for_each(|needed| self.context.references.becomes_copied(needed.group));
                    self.holds(id, kept, &needed);
                }
                Err(error) => {
                    self.hold_all(id, kept, &error);
                    unsure = true;
                }
            }
        }
        // One that was deleted meanwhile lets go of no more than was known before.
        self.unsure.set(unsure || self.unsure.get() && !self.state.borrow().letting_go.is_empty());
    }

    /// What the snapshot needs cannot be said, of others least of all, so everything is kept for it that there is.
    fn hold_all(&self, id: SnapshotId, kept: Kept, error: &Error) {
        tracing::error!(vdisk = %self.id, snapshot = %id, %error, "the record of a snapshot cannot be read; no group comes free before it is deleted");
        let mut groups = self.groups();
        groups.extend(self.state.borrow().accounts.absent().keys());
        let mut state = self.state.borrow_mut();
        if let Some(snapshot) = state.snapshots.get_mut(&id) {
            groups.into_iter().for_each(|group| snapshot.holds.add(group));
            drop(state);
            self.tell_kept(id, kept);
        }
    }

    /// Its pages were stored up to the checkpoint's record, its data before.
    pub(crate) fn tell_kept(&self, id: SnapshotId, kept: Kept) {
        let until = Some(kept.place.sequence);
        self.maps.set(id, Root { address: kept.root, height: kept.height, lineage: self.lineage(), until });
    }

    /// It may need groups of others without holding them: a record of it could not be read, or frames with what it has copied.
    pub fn may_need_more(&self) -> bool {
        let may_have_copied = self.context.pool.is_sharing();
        let is_damaged = matches!(self.health(), Health::Damaged(_));
        self.unsure.get() && (self.family().is_some() || may_have_copied) || is_damaged && may_have_copied
    }

    /// Records that could not be read are read again. Of a deleted snapshot that only counts when no checkpoint has it.
    pub(crate) async fn hold_snapshots_again(&self) {
        if self.unsure.get() && self.state.borrow().letting_go.is_empty() {
            self.hold_snapshots().await;
        }
    }

    /// Where the last checkpoint is.
    pub(crate) fn tell_checkpoint(&self) {
        let checkpoint = self.state.borrow().checkpoint;
        if let Some(Checkpoint { root, height, .. }) = checkpoint {
            self.tell_root(root, height);
        }
    }

    fn tell_root(&self, address: Address, height: u8) {
        self.maps.set(SnapshotId::NONE, Root { address, height, lineage: self.lineage(), until: None });
    }

    /// Groups of others that the map refers to are held, the live map's and the last checkpoint's; and all of which extents
    /// were taken over, its own among them.
    pub(crate) fn hold_foreign(&self) {
        let state = self.state.borrow();
        let both = state.accounts.groups.iter().chain(state.checkpoint_accounts.groups.iter());
        let foreign = both.filter(|(_, account)| account.is_foreign() && account.live() > 0);
        let mut holds = self.foreign.borrow_mut();
        foreign.for_each(|(group, _)| holds.add(*group));
        let all = state.accounts.groups.iter().chain(state.accounts.absent());
        let copied = all.filter(|(_, account)| account.copied_at.is_some());
        copied.for_each(|(group, _)| {
            holds.add(*group);
            self.context.references.becomes_copied(*group);
        });
    }

    /// Where its map is stored; that comes first if it is not yet.
    pub(crate) async fn kept_of(self: &Rc<Self>, id: SnapshotId) -> Result<(SnapshotInfo, Kept)> {
        let find = || {
            let state = self.state.borrow();
            let snapshot = state.snapshots.get(&id);
            let snapshot = snapshot.ok_or_else(|| Error::new(Kind::Closed, format!("there is no snapshot {id}")))?;
            Ok::<_, Error>((snapshot.info(), snapshot.kept()))
        };
        if let (info, Some(kept)) = find()? {
            return Ok((info, kept));
        }
        self.store_snapshots().await?;
        match find()? {
            (info, Some(kept)) => Ok((info, kept)),
            _ => Err(Error::new(Kind::Io, "the snapshot could not be stored yet")),
        }
    }

    async fn image_of(self: &Rc<Self>, id: SnapshotId) -> Result<(SnapshotInfo, Image)> {
        let (info, kept) = self.kept_of(id).await?;
        let known = self.state.borrow().snapshots.get(&id).and_then(|snapshot| snapshot.holds.list().cloned());
        let groups = match known {
            Some(groups) => groups,
            None => needed_at(&self.context, self.id, kept.place).await?,
        };
        Ok((info, Image { root: kept.root, height: kept.height, groups }))
    }

    /// What a clone of the snapshot begins with. It stays there as long as the third of the results does.
    pub async fn origin_of(self: &Rc<Self>, id: SnapshotId) -> Result<(SnapshotInfo, Origin, Pin)> {
        let (info, image) = self.image_of(id).await?;
        let pin = Pin::new(Holds::of_list(&self.context.references, &image.groups));
        if self.snapshot_info(id).is_none() {
            return Err(Error::new(Kind::Closed, "the snapshot was deleted meanwhile"));
        }
        Ok((info, Origin { snapshot: id, lineage: self.lineage().to_vec(), image }, pin))
    }

    pub async fn delete_snapshot(self: &Rc<Self>, id: SnapshotId) -> Result<()> {
        self.changeable()?;
        if self.snapshot_info(id).is_none() {
            // It may be the deletion of an attempt whose sync failed.
            return self.flush().await;
        }
        self.control(Record::DeleteSnapshot(id)).await?;
        self.maintenance.notify();
        Ok(())
    }

    /// The same for one that nobody was told of: a crash brings it back at worst.
    pub async fn delete_snapshot_unsynced(self: &Rc<Self>, id: SnapshotId) -> Result<()> {
        self.changeable()?;
        let record = Record::DeleteSnapshot(id);
        self.ask(|done| Item::Control { record, done }).await??;
        self.maintenance.notify();
        Ok(())
    }

    /// The content becomes the snapshot's; the size stays. Durable when it completes. Requests that are under way meanwhile
    /// take effect before or after.
    pub async fn rollback(self: &Rc<Self>, id: SnapshotId) -> Result<()> {
        self.changeable()?;
        // What is emptied or punched meanwhile was looked up in the map that goes.
        self.rollback_waits.set(true);
        let _no_reclaim = self.one_reclaim.acquire(1).await;
        self.rollback_waits.set(false);
        let (_, Origin { image, .. }, _pin) = self.origin_of(id).await?;
        loop {
            // A checkpoint whose start a recovery would go back behind has been proven, and none is under way: their
            // accounts of pages are those of the map that goes.
            self.checkpoint().await?;
            let _no_checkpoint = self.one_checkpoint.acquire(1).await;
            let checkpoint = self.state.borrow().checkpoint;
            if let Some(checkpoint) = checkpoint {
                self.prove_in_log(checkpoint).await?;
            }
            let record = Record::Rollback(id, Box::new(image.clone()));
            let placed = self.ask(|done| Item::Control { record, done }).await?;
            match placed {
                Ok(placed) => return self.flush_through(placed.at.sequence).await,
                // A snapshot came between.
                Err(error) if error.kind == Kind::Miscompare => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// What the log task does about a rollback.
    pub(crate) fn roll_back_to(&self, image: &Image, at: Sequence) {
        self.become_image(image, at);
        // Those among them that were not needed for a while are held again, before the snapshot may go.
        self.hold_foreign();
    }

    fn become_image(&self, image: &Image, at: Sequence) {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        state.tree = Tree::new(image.root, image.height, self.context.load.map.clone());
        state.tree.grow(state.attributes.size_bytes / BLOCK);
        state.accounts.become_image(&image.groups, at);
    }

    /// What the log task does about the birth of a clone.
    pub(crate) fn become_clone(&self, origin: &Origin, at: Sequence) {
        // All groups are of others.
        self.foreign.replace(Holds::of_list(&self.context.references, &origin.image.groups));
        self.become_image(&origin.image, at);
        let copied = origin.image.groups.iter().filter(|needed| needed.is_copied);
        copied.for_each(|needed| self.context.references.becomes_copied(needed.group));
        self.state.borrow_mut().lineage = origin.lineage.clone();
        let Image { root, height, .. } = origin.image;
        self.maps.set(SnapshotId::NONE, Root { address: root, height, lineage: self.lineage(), until: None });
    }

    /// The snapshot as a vDisk that can only be read.
    pub async fn view(self: &Rc<Self>, id: SnapshotId) -> Result<Rc<Vdisk>> {
        let (info, tree) = match self.kept_of(id).await {
            Ok((info, kept)) => (info, Tree::new(kept.root, kept.height, self.context.load.map.clone())),
            Err(error) if self.health() == Health::Deleted => return Err(error),
            // On a full disk, or of a vDisk that is damaged, it is not stored now; its map is in memory.
            Err(error) => self.frozen_tree(id).ok_or(error)?,
        };
        let attributes = Attributes {
            name: format!("{}@{}", self.attributes().name, info.name),
            size_bytes: info.size_bytes,
            read_only: true,
            ..self.attributes()
        };
        let view = Vdisk::assemble(self.context.clone(), self.index.clone(), self.id, State::new(attributes, tree));
        view.state.borrow_mut().tree.grow(info.size_bytes / BLOCK);
        // It has no log: nothing is ever queued.
        view.ended.set(true);
        view.stopped.set(true);
        Ok(view)
    }

    /// Of such a view: the snapshot was deleted, and its groups go.
    pub fn snapshot_is_gone(&self) {
        self.state.borrow_mut().health = Health::Deleted;
    }

    fn frozen_tree(&self, id: SnapshotId) -> Option<(SnapshotInfo, Tree)> {
        let state = self.state.borrow();
        let snapshot = state.snapshots.get(&id)?;
        let tree = snapshot.frozen()?.tree.borrow().clone();
        Some((snapshot.info(), tree))
    }

    pub(crate) async fn root_of(self: &Rc<Self>, id: SnapshotId) -> Result<(Address, u8)> {
        let (_, kept) = self.kept_of(id).await?;
        Ok((kept.root, kept.height))
    }
}

impl Paused {
    /// Appends the snapshot's frame; the log task goes on. Not durable before [`Vdisk::flush`].
    pub async fn cut(self, id: SnapshotId, name: &str, set: SetRecord) -> Result<SnapshotInfo> {
        let Paused { vdisk, go, done } = self;
        go.send(Record::Snapshot(vdisk.snapshot_record(id, name, Some(set))));
        done.await.ok_or_else(closed)??;
        vdisk.taken(id)
    }
}

/// Everything that a kept checkpoint needs, its own record included.
pub(crate) fn holds_of(context: &Context, needed: &NeededGroups, place: meta_hint::Place) -> Holds {
    let mut holds = Holds::of_list(&context.references, needed);
    holds.add(place.group);
    holds
}
