//! Snapshots, clones, rollbacks and differences of a shard's vDisks, and sets of snapshots that are cut at one instant.

use crate::index::{CheckpointIndex, synced_tail};
use crate::shard::{Entry, record_of_attributes, record_of_vdisk};
use crate::verbs::born_in;
use crate::{Attachment, Error, Kind, Result, Shard};
use base::units::{BLOCK, VDISK_SIZE_MAX};
use base::{SnapshotId, VdiskId, latency};
use meta::{CloneOf, ContainerRecord, VdiskRecord};
use std::rc::{Rc, Weak};
use vdisk::{Attributes, Compared, DifferenceDevice, Health, Origin, Paused, SetRecord, SnapshotInfo, Vdisk, Version};
use world::Instant;
use world::local::{OneshotReceiver, oneshot};

/// What is said of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotSummary {
    pub id: SnapshotId,
    pub vdisk: VdiskId,
    pub name: String,
    pub created_ns: u64,
    pub size_bytes: u64,
    pub sector_bytes: u32,
    /// Data that it maps.
    pub mapped_bytes: u64,
    /// The set it was taken with.
    pub set: Option<SnapshotId>,
    /// The log says that the set was taken.
    pub confirmed: bool,
    /// Its map is stored by a checkpoint. Until then a start finds it by reading the log.
    pub stored: bool,
    pub connections: u32,
}

/// Blocks that differ, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed {
    pub offset: u64,
    pub len: u64,
    /// Both sides read as zeros where this is false on the newer side.
    pub data: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedPage {
    pub ranges: Vec<Changed>,
    /// Where to go on; `None`: that was all.
    pub next: Option<u64>,
}

/// A side of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Before anything was written.
    Empty,
    Snapshot(SnapshotId),
    /// The vDisk as it is.
    Now,
}

/// How long vDisks stay paused for a set that is not cut, ns: 1 s. Clients wait meanwhile.
const PAUSE_NS_MAX: u64 = 1_000_000_000;

/// For how long the vDisks of this shard held back writes, one sample for each set that was cut.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct HoldTimes {
    /// As in [`base::latency`].
    pub buckets: [u64; latency::BUCKETS],
    pub total_ns: u64,
}

/// A member that is about to be cut.
pub(crate) struct Pending {
    /// Since when it acknowledges nothing.
    since: Instant,
    vdisk: Rc<Vdisk>,
    paused: Paused,
    snapshot: SnapshotId,
}

impl Shard {
    /// In order of their age.
    pub async fn snapshots(self: &Rc<Self>, vdisk: VdiskId) -> Result<Vec<SnapshotSummary>> {
        let vdisk = self.vdisk(vdisk).await?;
        Ok(vdisk.snapshots().into_iter().map(|info| self.snapshot_summary(&vdisk, info)).collect())
    }

    pub(crate) fn snapshot_summary(&self, vdisk: &Vdisk, info: SnapshotInfo) -> SnapshotSummary {
        SnapshotSummary {
            id: info.id,
            vdisk: vdisk.id,
            name: info.name,
            created_ns: info.created_ns,
            size_bytes: info.size_bytes,
            sector_bytes: vdisk.attributes().sector_bytes,
            mapped_bytes: info.mapped_bytes,
            confirmed: info.set.as_ref().is_some_and(|set| set.confirmed),
            set: info.set.map(|set| set.id),
            stored: info.stored,
            connections: self.attachments.count(hold_of(info.id)),
        }
    }

    /// Durable when it completes. `Exists` if the vDisk has a snapshot of this name.
    pub async fn snapshot(self: &Rc<Self>, vdisk: VdiskId, name: &str) -> Result<SnapshotSummary> {
        let vdisk = self.vdisk(vdisk).await?;
        check_new(&vdisk, name)?;
        let id = self.context.pool.next_snapshot_id().await?;
        let info = vdisk.snapshot(id, name).await?;
        Ok(self.snapshot_summary(&vdisk, info))
    }

    /// First step of a set: the vDisks acknowledge no more writes when it completes, until [`Shard::cut`],
    /// [`Shard::release`] or a second has passed. `Exists` if one has a snapshot of this name. `Unavailable`: they did not
    /// come to rest in time. Who pauses vDisks of several shards does so in the order of shards: sets that have members in
    /// common wait for each other in one direction then.
    pub async fn pause(self: &Rc<Self>, set: SnapshotId, name: &str, mut vdisks: Vec<VdiskId>) -> Result<()> {
        vdisks.sort_unstable();
        vdisks.dedup();
        let mut members = Vec::with_capacity(vdisks.len());
        for id in vdisks {
            let vdisk = self.vdisk(id).await?;
            check_new(&vdisk, name)?;
            members.push((vdisk, self.context.pool.next_snapshot_id().await?));
        }
        self.paused.borrow_mut().insert(set, Vec::with_capacity(members.len()));
        let this = self.clone();
        self.context.world.spawn(async move {
            this.context.world.clock.sleep(PAUSE_NS_MAX).await;
            this.release(set);
        });
        for (vdisk, snapshot) in members {
            let paused = vdisk.pause().await.inspect_err(|_| self.release(set))?;
            // In the meantime the others may have been let go.
            let mut all = self.paused.borrow_mut();
            let pending = all.get_mut(&set).ok_or_else(too_late)?;
            pending.push(Pending { since: self.context.world.now(), vdisk, paused, snapshot });
        }
        Ok(())
    }

    /// Second step, when all members on all shards are paused: each vDisk of this shard gets its snapshot and goes on.
    /// Durable when it completes; they count when the metadata store has the set's record, and are to be taken back
    /// with [`Shard::delete_snapshot`] if it cannot be written. `members`: all, on whatever shard. `Unavailable`: it took
    /// too long.
    pub async fn cut(
        self: &Rc<Self>,
        set: SnapshotId,
        name: &str,
        members: Vec<VdiskId>,
    ) -> Result<Vec<SnapshotSummary>> {
        let pending = self.paused.borrow_mut().remove(&set);
        let pending = pending.ok_or_else(too_late)?;
        let since = pending.iter().map(|pending| pending.since).min();
        let mut cuts = Vec::with_capacity(pending.len());
        for Pending { vdisk, paused, snapshot, .. } in pending {
            let set = SetRecord { id: set, members: members.clone(), confirmed: false };
            cuts.push((vdisk, paused.cut(snapshot, name, set)));
        }
        let mut taken: Vec<(Rc<Vdisk>, SnapshotInfo)> = Vec::with_capacity(cuts.len());
        let mut result = Ok(());
        for (vdisk, cut) in cuts {
            match cut.await {
                Ok(info) => taken.push((vdisk, info)),
                Err(error) => result = Err(error.into()),
            }
        }
        if let Some(since) = since {
            let held_ns = self.context.world.now().since_ns(since);
            let mut times = self.hold_times.get();
            times.buckets[latency::bucket(held_ns)] += 1;
            times.total_ns += held_ns;
            self.hold_times.set(times);
        }
        // Syncs that begin together are shared.
        let flush = |vdisk: Rc<Vdisk>| self.started(async move { vdisk.flush().await });
        let flushed: Vec<_> = taken.iter().map(|(vdisk, _)| flush(vdisk.clone())).collect();
        for flushed in flushed {
            let flushed = ended(flushed.await).and_then(|flushed| Ok(flushed?));
            result = result.and(flushed);
        }
        if let Err(error) = result {
            for (vdisk, info) in taken {
                if let Err(error) = vdisk.delete_snapshot(info.id).await {
                    tracing::warn!(vdisk = %vdisk.id, snapshot = %info.id, %error, "a part of a set that failed is left until the next start");
                }
            }
            return Err(error);
        }
        Ok(taken.into_iter().map(|(vdisk, info)| self.snapshot_summary(&vdisk, info)).collect())
    }

    /// Third step, when the set is on record: its snapshots count from here on, whatever becomes of the record and of other
    /// members. Durable when it completes; before that nobody is to be told that the set was taken.
    pub async fn confirm(self: &Rc<Self>, set: SnapshotId, vdisks: Vec<VdiskId>) -> Result<()> {
        let mut confirmed = Vec::with_capacity(vdisks.len());
        for id in vdisks {
            let vdisk = self.vdisk(id).await?;
            confirmed.push(self.started(async move { vdisk.confirm_set(set).await }));
        }
        for result in confirmed {
            ended(result.await)??;
        }
        Ok(())
    }

    /// Gives the set up.
    pub fn release(&self, set: SnapshotId) {
        let pending = self.paused.borrow_mut().remove(&set);
        drop(pending);
    }

    /// `Busy` while somebody reads it, unless `force`. Its space comes back in the background.
    pub async fn delete_snapshot(self: &Rc<Self>, vdisk: VdiskId, snapshot: SnapshotId, force: bool) -> Result<()> {
        let vdisk = self.vdisk(vdisk).await?;
        find(&vdisk, snapshot)?;
        let hold = hold_of(snapshot);
        if self.attachments.count(hold) > 0 {
            if !force {
                let text = format!("{} clients read it", self.attachments.count(hold));
                return Err(Error::new(Kind::Busy, text));
            }
            self.end_connections(hold).await?;
        }
        self.leaving.borrow_mut().insert(hold);
        let deleted = vdisk.delete_snapshot(snapshot).await;
        self.leaving.borrow_mut().remove(&hold);
        if vdisk.snapshot_info(snapshot).is_none() {
            self.end_views(|of, _| of == snapshot);
        }
        Ok(deleted?)
    }

    /// New vDisks with the content of one instant of the call, all of them or none, by a snapshot of the name `temporary`, which
    /// is gone afterwards unless a crash leaves it. Durable when it completes. `Exists` if a name is taken.
    pub async fn clone_as_it_is(
        self: &Rc<Self>,
        vdisk: VdiskId,
        temporary: &str,
        names: Vec<String>,
        container: Option<ContainerRecord>,
    ) -> Result<Vec<VdiskRecord>> {
        let source = self.vdisk(vdisk).await?;
        check_new(&source, temporary)?;
        self.index.check_names(&names)?;
        let snapshot = self.context.pool.next_snapshot_id().await?;
        // No syncs of its own: its map is stored and synced before a clone begins with it, and that it is gone nobody waits for.
        source.snapshot_unsynced(snapshot, temporary).await?;
        let made = self.clone_snapshot(vdisk, snapshot, names, container).await;
        if let Err(error) = source.delete_snapshot_unsynced(snapshot).await {
            tracing::warn!(%vdisk, %error, "a snapshot that clones were made of is not deleted yet; the next start does it");
        }
        made
    }

    /// New vDisks with the snapshot's content, all of them or none, in this container. Durable when it completes. `Exists` if a
    /// name is taken.
    pub async fn clone_snapshot(
        self: &Rc<Self>,
        vdisk: VdiskId,
        snapshot: SnapshotId,
        names: Vec<String>,
        container: Option<ContainerRecord>,
    ) -> Result<Vec<VdiskRecord>> {
        if self.stopping.get() {
            return Err(Error::new(Kind::Unavailable, "the controller is shutting down"));
        }
        let source = self.vdisk(vdisk).await?;
        find(&source, snapshot)?;
        self.index.check_names(&names)?;
        let (info, origin, _pin) = source.origin_of(snapshot).await?;
        let created_ns = self.context.world.clock.wall().0;
        let mut ids = Vec::with_capacity(names.len());
        for _ in &names {
            ids.push(self.context.pool.next_vdisk_id().await?);
        }
        // Several are made all or none by what the store says of them. A single one is there whole or not at all by itself, and
        // a start takes over what it finds.
        let is_single = ids.len() == 1;
        if !is_single {
            self.index.begin_births(ids.clone()).await?;
        }
        let first = ids.first().copied();
        let mut single = None;
        let mut births = Vec::with_capacity(names.len());
        for (id, name) in ids.into_iter().zip(names) {
            let attributes =
                Attributes { name, size_bytes: info.size_bytes, read_only: false, created_ns, ..source.attributes() };
            single = is_single.then(|| self.record_of_unborn(id, attributes.clone(), &origin));
            let index = Rc::new(CheckpointIndex(self.index.clone()));
            let (_, notes) = born_in(id, container.as_ref(), true);
            let born = Vdisk::create_clone(self.context.clone(), index, id, attributes, origin.clone(), notes);
            births.push(self.started(born));
        }
        let mut born = Vec::with_capacity(births.len());
        let mut failed = None;
        for birth in births {
            match ended(birth.await) {
                Ok(Ok(vdisk)) => born.push(vdisk),
                Ok(Err(error)) => failed = Some(error.into()),
                Err(error) => failed = Some(error),
            }
        }
        let records: Vec<VdiskRecord> = born.iter().map(|vdisk| self.record_of_clone(vdisk)).collect();
        let all_born = failed.is_none();
        let result = match failed {
            Some(error) => Err(error),
            None => self.index.insert_all(records.clone(), container.as_ref()).await,
        };
        if let Err(error) = result {
            // Nobody has heard of them yet. Those whose birth failed may be in the log all the same: the next start deletes
            // them.
            let mut gone = all_born;
            for vdisk in &born {
                if let Err(error) = self.take_back(vdisk).await {
                    tracing::warn!(vdisk = %vdisk.id, %error, "a clone that nobody was told of is left until the next start");
                    gone = false;
                }
            }
            // But for a name that is taken, they may be on record all the same.
            let may_be_there = all_born && error.kind != Kind::Exists;
            if may_be_there {
                self.refuse(records).await;
            }
            match (single, first) {
                (Some(unborn), _) if !gone && !may_be_there => self.refuse(vec![unborn]).await,
                (None, Some(first)) if gone => self.index.end_births(first).await?,
                _ => {}
            }
            return Err(error);
        }
        let mut entries = self.entries.borrow_mut();
        entries.extend(born.into_iter().map(|vdisk| (vdisk.id, Entry::Open(vdisk))));
        Ok(records)
    }

    fn record_of_unborn(&self, id: VdiskId, attributes: Attributes, origin: &Origin) -> VdiskRecord {
        let clone = origin.lineage.first().zip(origin.lineage.last());
        let clone = clone.map(|(family, parent)| CloneOf { family: *family, parent: *parent });
        record_of_attributes(id, attributes, clone, self.number, self.context.pool.epoch())
    }

    fn record_of_clone(&self, vdisk: &Vdisk) -> VdiskRecord {
        let tail = Some(synced_tail(base::GroupId::NONE, vdisk.durable_sequence()));
        VdiskRecord { tail, ..record_of_vdisk(vdisk, self.number, self.context.pool.epoch()) }
    }

    /// The vDisk's content becomes the snapshot's; its size stays. `Busy` while connected.
    pub async fn rollback(self: &Rc<Self>, vdisk: VdiskId, snapshot: SnapshotId) -> Result<()> {
        let id = vdisk;
        let vdisk = self.vdisk(id).await?;
        find(&vdisk, snapshot)?;
        if self.attachments.count(id) > 0 {
            return Err(Error::new(Kind::Busy, format!("{} clients are connected", self.attachments.count(id))));
        }
        if !self.rolling_back.borrow_mut().insert(id) {
            return Err(Error::new(Kind::Busy, "it is being rolled back already"));
        }
        let this = self.clone();
        // A task of its own: it ends, and lets clients in again, whether or not somebody waits for it.
        let done = self.started(async move {
            let result = vdisk.rollback(snapshot).await;
            this.rolling_back.borrow_mut().remove(&id);
            result
        });
        Ok(ended(done.await)??)
    }

    /// A read-only device.
    pub async fn attach_snapshot(self: &Rc<Self>, vdisk: VdiskId, snapshot: SnapshotId) -> Result<Attachment> {
        let vdisk = self.vdisk(vdisk).await?;
        find(&vdisk, snapshot)?;
        let known = self.views.borrow().get(&snapshot).and_then(Weak::upgrade);
        let view = match known {
            Some(view) => view,
            None => {
                let view = vdisk.view(snapshot).await?;
                let mut views = self.views.borrow_mut();
                views.retain(|_, view| view.strong_count() > 0);
                views.insert(snapshot, Rc::downgrade(&view));
                view
            }
        };
        // It may have begun to leave while the map was being stored.
        self.check_readable(&vdisk, snapshot)?;
        Ok(self.attachment(hold_of(snapshot), view.device()))
    }

    /// Whoever reads them still is told that they are gone.
    pub(crate) fn end_views(&self, is_gone: impl Fn(SnapshotId, &Vdisk) -> bool) {
        self.views.borrow_mut().retain(|snapshot, view| {
            let Some(view) = view.upgrade() else { return false };
            let is_gone = is_gone(*snapshot, &view);
            if is_gone {
                view.snapshot_is_gone();
            }
            !is_gone
        });
    }

    /// The snapshot is there, and neither it nor the vDisk is about to leave, or gone already.
    fn check_readable(&self, vdisk: &Vdisk, snapshot: SnapshotId) -> Result<()> {
        if vdisk.health() == Health::Deleted {
            return Err(Error::new(Kind::Unavailable, "the vDisk was deleted"));
        }
        self.check_not_leaving(vdisk.id)?;
        self.check_not_leaving(hold_of(snapshot))?;
        find(vdisk, snapshot).map(drop)
    }

    /// A device whose block status says `Data` where `shown` (a snapshot; `None`: the vDisk as it is) may differ from
    /// `base`, and `Hole` where it does not. Both snapshots are held as by readers of them.
    pub async fn attach_difference(
        self: &Rc<Self>,
        vdisk: VdiskId,
        shown: Option<SnapshotId>,
        base: SnapshotId,
    ) -> Result<Attachment> {
        let shown_device = match shown {
            None => self.vdisk(vdisk).await?.device(),
            Some(shown) => self.attach_snapshot(vdisk, shown).await?.device,
        };
        let vdisk = self.vdisk(vdisk).await?;
        find(&vdisk, base)?;
        let (old, new) = (Version::Snapshot(base), shown.map_or(Version::Now, Version::Snapshot));
        // What cannot be compared is told now, not in the middle.
        vdisk.changed(old, new, Compared { first: 0, end: 0, ranges_max: 1 }).await?;
        self.check_readable(&vdisk, base)?;
        let device = Rc::new(DifferenceDevice { vdisk, old, new, shown: shown_device });
        Ok(self.attachment(hold_of(base), device))
    }

    /// What differs from `offset` on, in at most `ranges_max` ranges. Never too little; a block that was stored anew with
    /// the same content may be in it.
    pub async fn changed(
        self: &Rc<Self>,
        vdisk: VdiskId,
        from: Side,
        to: Side,
        offset: u64,
        ranges_max: usize,
    ) -> Result<ChangedPage> {
        let vdisk = self.vdisk(vdisk).await?;
        for side in [from, to] {
            if let Side::Snapshot(id) = side {
                find(&vdisk, id)?;
            }
        }
        let compared = Compared { first: offset / BLOCK, end: VDISK_SIZE_MAX / BLOCK, ranges_max };
        let found = vdisk.changed(version(from), version(to), compared).await?;
        let ranges =
            found.ranges.into_iter().map(|range| Changed { offset: range.offset, len: range.len, data: range.data });
        Ok(ChangedPage { ranges: ranges.collect(), next: found.next.map(|block| block * BLOCK) })
    }

    /// Starts a piece of work beside this one.
    pub(crate) fn started<T: 'static>(&self, work: impl Future<Output = T> + 'static) -> OneshotReceiver<T> {
        let (sender, receiver) = oneshot();
        self.context.world.spawn(async move { sender.send(work.await) });
        receiver
    }
}

fn too_late() -> Error {
    Error::new(Kind::Unavailable, "the vDisks did not come to rest together in time; try again")
}

fn ended<T>(result: Option<T>) -> Result<T> {
    result.ok_or_else(|| Error::new(Kind::Unavailable, "the shard is shutting down"))
}

fn version(side: Side) -> Version {
    match side {
        Side::Empty => Version::Empty,
        Side::Snapshot(id) => Version::Snapshot(id),
        Side::Now => Version::Now,
    }
}

/// Under which readers of a snapshot are counted: no vDisk has its number.
pub(crate) fn hold_of(snapshot: SnapshotId) -> VdiskId {
    VdiskId::from_raw(snapshot.raw()).expect("both have 48 bits")
}

fn find(vdisk: &Vdisk, snapshot: SnapshotId) -> Result<SnapshotInfo> {
    let name = || vdisk.attributes().name;
    let missing = || Error::new(Kind::NotFound, format!("vDisk {:?} has no snapshot {snapshot}", name()));
    vdisk.snapshot_info(snapshot).ok_or_else(missing)
}

pub(crate) fn check_new(vdisk: &Vdisk, name: &str) -> Result<()> {
    if vdisk.snapshots().iter().any(|snapshot| snapshot.name == name) {
        let text = format!("vDisk {:?} has a snapshot {name:?} already", vdisk.attributes().name);
        return Err(Error::new(Kind::Exists, text));
    }
    Ok(())
}
