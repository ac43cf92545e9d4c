//! What one worker runs: a pool, the vDisks that live on it, their records.
//!
//! After a clean stop vDisks are opened when they are first asked for; after a crash all of them are recovered in the
//! background, and one that is asked for comes first.

use crate::attach::Attachments;
use crate::index::{CheckpointIndex, MetaIndex, clean_tail, place};
use crate::snapshots::{HoldTimes, Pending};
use crate::{Error, Kind, Result};
use base::{Sequence, SnapshotId, VdiskId};
use bytes::Bytes;
use meta::{CloneOf, VdiskRecord};
use pool::GroupHeader;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::{Rc, Weak};
use vdisk::{Context, Found, Health, Leftover, NoteKind, Recovered, Space, Vdisk};
use world::local::Notify;

/// Hears of vDisks whose record changed for another reason than a verb: found, renamed back, gone.
pub type Listener = Rc<dyn Fn(VdiskId, Option<Told<'_>>)>;

/// What a listener is told of a vDisk.
pub struct Told<'a> {
    pub record: &'a VdiskRecord,
    /// Its note of who may log in.
    pub access: Option<Bytes>,
}

#[derive(Clone)]
pub enum Entry {
    /// On disk only.
    Closed,
    Opening,
    Open(Rc<Vdisk>),
    /// Not even a read-only view can be had. `retry`: the disk refused, which may pass; the next who asks tries again.
    Broken {
        reason: String,
        retry: bool,
    },
}

pub struct Shard {
    pub number: u16,
    pub context: Context,
    pub(crate) index: Rc<MetaIndex>,
    pub(crate) entries: RefCell<BTreeMap<VdiskId, Entry>>,
    /// Headers found at the start, of vDisks that are not open yet.
    pub(crate) headers: RefCell<BTreeMap<VdiskId, Vec<GroupHeader>>>,
    /// The hints in the records are those of this very disk.
    pub(crate) hints_are_good: bool,
    /// A place whose header could not be read at the start.
    pub(crate) unread: Option<String>,
    /// Of the run before this one.
    pub(crate) generation_before: u64,
    pub(crate) opened: Rc<Notify>,
    pub(crate) attachments: Attachments,
    /// Deleted vDisks whose groups are not all free yet.
    pub(crate) leftovers: RefCell<BTreeMap<VdiskId, Leftover>>,
    /// Snapshots that are being read.
    pub(crate) views: RefCell<BTreeMap<SnapshotId, Weak<Vdisk>>>,
    /// vDisks that are being deleted: nobody may connect any more.
    pub(crate) leaving: RefCell<BTreeSet<VdiskId>>,
    /// vDisks to which nobody may connect before they are rolled back.
    pub(crate) rolling_back: RefCell<BTreeSet<VdiskId>>,
    /// vDisks that are about to be cut, by set.
    pub(crate) paused: RefCell<BTreeMap<SnapshotId, Vec<Pending>>>,
    pub(crate) hold_times: Cell<HoldTimes>,
    pub(crate) listener: Listener,
    pub(crate) stopping: Cell<bool>,
    pub quarantined: usize,
    /// Still to be recovered in the background.
    pub(crate) to_recover: Cell<usize>,
    pub replayed_bytes: Cell<u64>,
    pub replay_ns: Cell<u64>,
    /// Sums over vDisks that are gone, so that counters never go back.
    pub(crate) gone: Cell<Totals>,
}

/// Sums of the vDisks' counters.
#[derive(Clone, Copy, Default, Debug)]
pub struct Totals {
    pub client_bytes: u64,
    pub data_bytes: u64,
    pub relocated_bytes: u64,
    pub page_bytes: u64,
    pub control_bytes: u64,
    pub header_bytes: u64,
    pub checkpoints: u64,
    pub bytes_freed: u64,
    pub bytes_punched: u64,
    pub map_lookups: u64,
    pub map_page_loads: u64,
    pub checksum_failures: u64,
}

impl Totals {
    pub fn add(&mut self, stats: &vdisk::Stats) {
        self.client_bytes += stats.operations()[vdisk::OperationKind::Write as usize].bytes;
        self.data_bytes += stats.data_bytes.get();
        self.relocated_bytes += stats.relocated_bytes.get();
        self.page_bytes += stats.page_bytes.get();
        self.control_bytes += stats.control_bytes.get();
        self.header_bytes += stats.header_bytes.get();
        self.checkpoints += stats.checkpoints.get();
        self.bytes_freed += stats.bytes_freed.get();
        self.bytes_punched += stats.bytes_punched.get();
        self.map_lookups += stats.map_lookups.get();
        self.map_page_loads += stats.map_page_loads.get();
        self.checksum_failures += stats.checksum_failures.get();
    }
}

/// What is said of a vDisk.
#[derive(Clone, Debug)]
pub struct VdiskSummary {
    pub record: VdiskRecord,
    /// `None`: not open. The health of one that was closed cleanly is good.
    pub health: Option<Health>,
    pub opening: bool,
    pub broken: Option<String>,
    pub space: Space,
    pub connections: u32,
    pub in_flight: u64,
    pub epoch: u64,
}

#[derive(Clone, Debug, Default)]
pub struct ShardSummary {
    pub vdisks: u32,
    pub connections: u32,
    /// Connections since the start.
    pub accepted: u64,
    pub in_flight: u64,
    pub to_recover: usize,
    pub log_bytes: u64,
    pub map_bytes: u64,
    pub dirty_pages: u64,
    pub unsynced_bytes: u64,
    pub hold_times: HoldTimes,
}

impl Shard {
    /// Records of all vDisks that exist.
    pub fn records(&self) -> Vec<VdiskRecord> {
        self.index.records.borrow().values().filter(|record| !record.deleted).cloned().collect()
    }

    pub fn open_vdisks(&self) -> Vec<Rc<Vdisk>> {
        let entries = self.entries.borrow();
        entries
            .values()
            .filter_map(|entry| if let Entry::Open(vdisk) = entry { Some(vdisk.clone()) } else { None })
            .collect()
    }

    /// The vDisk, opened or recovered if it is not yet.
    pub async fn vdisk(self: &Rc<Self>, id: VdiskId) -> Result<Rc<Vdisk>> {
        loop {
            let entry = self.entries.borrow().get(&id).cloned();
            match entry {
                None => return Err(Error::new(Kind::NotFound, format!("there is no vDisk {id}"))),
                Some(Entry::Open(vdisk)) => return Ok(vdisk),
                Some(Entry::Broken { reason, retry: false }) => return Err(Error::new(Kind::Damaged, reason)),
                Some(Entry::Opening) => self.opened.notified().await,
                Some(Entry::Closed | Entry::Broken { .. }) => {
                    if self.stopping.get() {
                        return Err(Error::new(Kind::Unavailable, "the controller is shutting down"));
                    }
                    self.entries.borrow_mut().insert(id, Entry::Opening);
                    let result = self.recover(id).await;
                    let entry = match &result {
                        Ok(vdisk) => vdisk.clone().map(Entry::Open),
                        Err(error) => {
                            tracing::error!(vdisk = %id, %error, "the vDisk cannot be opened");
                            Some(Entry::Broken { reason: error.to_string(), retry: error.kind != Kind::Damaged })
                        }
                    };
                    {
                        let mut entries = self.entries.borrow_mut();
                        match entry {
                            Some(entry) => drop(entries.insert(id, entry)),
                            None => drop(entries.remove(&id)),
                        }
                    }
                    if !self.may_still_hold(id, result.as_ref().ok().and_then(Option::as_ref)) {
                        self.context.references.heard(id);
                    }
                    self.opened.notify();
                    match result {
                        Ok(Some(vdisk)) => return Ok(vdisk),
                        Ok(None) => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
    }

    /// `None`: it turned out to be deleted.
    async fn recover(self: &Rc<Self>, id: VdiskId) -> Result<Option<Rc<Vdisk>>> {
        let headers = self.headers.borrow().get(&id).cloned().unwrap_or_default();
        let record = self.index.record(id);
        if record.as_ref().is_some_and(|record| record.deleted) {
            self.finish_deletion(id, &headers, record.as_ref()).await?;
            return Ok(None);
        }
        let good = record.as_ref().filter(|_| self.hints_are_good);
        let found = Found {
            headers: headers.clone(),
            checkpoint: good.and_then(|record| record.checkpoint).map(place),
            clean_tail: good.and_then(|record| clean_tail(record, self.generation_before)),
            synced_through: record.as_ref().and_then(|record| record.tail).map(|tail| (tail.group, tail.sequence)),
            // Of a vDisk that a trustworthy index does not know nothing was ever acknowledged.
            unread: self.unread.clone().filter(|_| record.is_some() || !self.hints_are_good),
            look_only: false,
        };
        let was_clean = found.clean_tail.is_some();
        let index = Rc::new(CheckpointIndex(self.index.clone()));
        let recovered = match Vdisk::recover(self.context.clone(), index, id, found).await {
            Ok(recovered) => recovered,
            Err(error) => {
                if self.finish_deletion(id, &headers, record.as_ref()).await? {
                    return Ok(None);
                }
                return Err(error.into());
            }
        };
        let finished = self.finish_recovery(&recovered, &headers, record, was_clean).await;
        if finished.as_ref().is_ok_and(Option::is_some) {
            self.headers.borrow_mut().remove(&id);
        } else {
            // Gone, or to be tried again from the same headers: this engine must not go on beside the next one.
            recovered.vdisk.stop().await;
            recovered.vdisk.need_nothing();
        }
        finished
    }

    async fn finish_recovery(
        &self,
        recovered: &Recovered,
        headers: &[GroupHeader],
        record: Option<VdiskRecord>,
        was_clean: bool,
    ) -> Result<Option<Rc<Vdisk>>> {
        let id = recovered.vdisk.id;
        self.replayed_bytes.set(self.replayed_bytes.get() + recovered.replayed_bytes);
        self.replay_ns.set(self.replay_ns.get() + recovered.vdisk.stats.replay_ns.get());
        if recovered.attributes.size_bytes == 0 {
            return self.without_birth(recovered, headers, record.as_ref()).await;
        }
        if recovered.vdisk.health() == Health::Deleted {
            recovered.vdisk.stop().await;
            recovered.vdisk.need_nothing();
            let groups = recovered.void.clone();
            let (tombstone, family) = (groups.last().copied(), Some(recovered.vdisk.family().unwrap_or(id)));
            self.leave(Leftover::new(id, family, groups, tombstone)).await?;
            return Ok(None);
        }
        if matches!(recovered.vdisk.health(), Health::Damaged(_)) {
            // Missing groups are no damage if a deletion was cut short while it freed them.
            if Vdisk::find_tombstone(&self.context, id, headers).await?.is_some() {
                recovered.vdisk.stop().await;
                recovered.vdisk.need_nothing();
                self.index.tombstone(id).await?;
                self.finish_deletion(id, headers, record.as_ref()).await?;
                return Ok(None);
            }
        }
        if record.is_none() && recovered.vdisk.family().is_some() && self.was_born_unseen(recovered) {
            // Clones are made all or none, and count when they are on record.
            recovered.void.iter().for_each(|group| recovered.vdisk.free_later(*group));
            recovered.vdisk.delete().await?;
            self.leave(recovered.vdisk.leave().await).await?;
            return Ok(None);
        }
        self.settle(recovered, record, was_clean).await?;
        Ok(Some(recovered.vdisk.clone()))
    }

    /// Groups but no birth: of a creation that a power loss cut short and nobody was told of, if nothing says otherwise.
    async fn without_birth(
        &self,
        recovered: &Recovered,
        headers: &[GroupHeader],
        record: Option<&VdiskRecord>,
    ) -> Result<Option<Rc<Vdisk>>> {
        let vdisk = &recovered.vdisk;
        let expected = record.is_some_and(|record| !record.deleted);
        if expected || vdisk.health() != Health::Online {
            return Err(Error::new(Kind::Damaged, format!("the birth record of vDisk {} cannot be read", vdisk.id)));
        }
        for header in headers {
            self.context.pool.free(header.group).await?;
        }
        self.forget(vdisk.id).await?;
        Ok(None)
    }

    /// Makes record and log agree: the log's size and switches win; an unfinished rename is taken back.
    async fn settle(&self, recovered: &Recovered, record: Option<VdiskRecord>, was_clean: bool) -> Result<()> {
        let Recovered { vdisk, attributes, .. } = recovered;
        if !was_clean {
            tracing::info!(
                vdisk = %vdisk.id, name = attributes.name, frames = recovered.replayed_frames,
                bytes = recovered.replayed_bytes, ms = vdisk.stats.replay_ns.get() / 1_000_000, "recovered"
            );
        }
        for group in &recovered.void {
            if let Err(error) = self.context.pool.free(*group).await {
                tracing::warn!(vdisk = %vdisk.id, %group, %error, "a void group is not free yet; it is tried again later");
                vdisk.free_later(*group);
            }
        }
        let Some(record) = record else { return self.adopt(recovered).await };
        let has_end = !matches!(vdisk.health(), Health::Damaged(_));
        if record.name != attributes.name && !self.hints_are_good && has_end {
            // The store was restored: the name that the log ends with is the newer one, unless another vDisk has it. (Of a
            // damaged log the end may be missing, and with it the rename.)
            self.follow_log(vdisk.id, &attributes.name).await?;
        }
        let record = self.index.record(vdisk.id).unwrap_or(record);
        if record.name != attributes.name && vdisk.health() == Health::Online {
            // The record is what clients see. If the log cannot be told now, the record follows it: of a rename that was
            // acknowledged both know.
            if let Err(error) = vdisk.rename(&record.name).await {
                tracing::warn!(vdisk = %vdisk.id, %error, name = record.name, "an unfinished rename is given up");
                self.follow_log(vdisk.id, &attributes.name).await?;
            }
        }
        // Nothing else is written for a mere opening: a start with a thousand vDisks would pay a commit for each.
        if (record.size_bytes, record.read_only) != (attributes.size_bytes, attributes.read_only) {
            let update = |record: &mut VdiskRecord| {
                record.size_bytes = attributes.size_bytes;
                record.read_only = attributes.read_only;
            };
            self.index.update(vdisk.id, update).await?;
        }
        self.follow_notes(vdisk).await?;
        if let Some(record) = self.index.record(vdisk.id) {
            self.tell(&record);
        }
        Ok(())
    }

    fn tell(&self, record: &VdiskRecord) {
        let access = self.index.note(record.id, NoteKind::IscsiAccess);
        (self.listener)(record.id, Some(Told { record, access }));
    }

    /// Of a damaged log the end may be missing, and with it newer notes than it has.
    async fn follow_notes(&self, vdisk: &Rc<Vdisk>) -> Result<()> {
        let damaged = matches!(vdisk.health(), Health::Damaged(_));
        for kind in NoteKind::ALL {
            if !damaged || self.index.note(vdisk.id, kind).is_none() {
                self.index.follow_note(vdisk.id, kind, || vdisk.note(kind)).await?;
            }
        }
        Ok(())
    }

    /// The record takes the name that the log says, unless another vDisk has it.
    async fn follow_log(&self, id: VdiskId, name: &str) -> Result<()> {
        match self.index.rename(id, name).await {
            Err(error) if error.kind == Kind::Exists => Ok(()),
            renamed => renamed,
        }
    }

    /// A vDisk that the metadata store does not know: its birth was synced, its record was not written or is lost.
    async fn adopt(&self, recovered: &Recovered) -> Result<()> {
        let vdisk = &recovered.vdisk;
        let mut record = record_of(recovered, self.number, self.context.pool.epoch());
        if let Err(error) = self.index.insert(record.clone()).await {
            if error.kind != Kind::Exists {
                return Err(error);
            }
            record.name = free_name(&record.name, vdisk.id);
            vdisk.rename(&record.name).await?;
            self.index.insert(record.clone()).await?;
        }
        self.follow_notes(vdisk).await?;
        tracing::warn!(vdisk = %vdisk.id, name = record.name, "found in the log, unknown to the metadata store; taken over");
        self.tell(&record);
        Ok(())
    }

    /// Groups without a chain: the rest of a deleted vDisk, if a tombstone or the record says so.
    async fn finish_deletion(
        &self,
        id: VdiskId,
        headers: &[GroupHeader],
        record: Option<&VdiskRecord>,
    ) -> Result<bool> {
        let tombstone = Vdisk::find_tombstone(&self.context, id, headers).await?;
        if tombstone.is_none() && !record.is_some_and(|record| record.deleted) {
            return Ok(false);
        }
        let groups = headers.iter().map(|header| header.group).collect();
        let family = record.map(|record| record.clone.map_or(id, |clone| clone.family));
        self.leave(Leftover::new(id, family, groups, tombstone)).await?;
        Ok(true)
    }

    /// A deleted vDisk: its groups come free when nobody needs them, then its record goes. First the record says that it
    /// is deleted: once the groups are gone, nothing else does.
    pub(crate) async fn leave(&self, leftover: Leftover) -> Result<()> {
        let id = leftover.vdisk;
        self.headers.borrow_mut().remove(&id);
        (self.listener)(id, None);
        if self.index.record(id).is_some_and(|record| !record.deleted) {
            self.index.tombstone(id).await?;
        }
        self.leftovers.borrow_mut().insert(id, leftover);
        self.context.references.released.notify();
        Ok(())
    }

    /// Could the vDisk hold groups of others, and has it not said so?
    fn may_still_hold(&self, id: VdiskId, vdisk: Option<&Rc<Vdisk>>) -> bool {
        let broken = matches!(self.entries.borrow().get(&id), Some(Entry::Broken { .. }));
        (broken && !self.index.is_unborn(id)) || vdisk.is_some_and(|vdisk| vdisk.may_need_more())
    }

    /// A clone that an earlier run began to make and never put on record: nobody has heard of it. (The store alone is not
    /// believed: it may be of a time before the clone was put on record in another one, and written to since.)
    fn was_born_unseen(&self, recovered: &Recovered) -> bool {
        let only_birth = recovered.checkpoint.is_none() && recovered.vdisk.sequence() <= Sequence(1);
        only_birth && self.index.is_unborn(recovered.vdisk.id)
    }

    pub(crate) async fn forget(&self, id: VdiskId) -> Result<()> {
        self.headers.borrow_mut().remove(&id);
        (self.listener)(id, None);
        if self.index.record(id).is_some_and(|record| !record.deleted) {
            self.index.tombstone(id).await?;
        }
        self.remove_record(id).await
    }

    /// The record of a deleted vDisk goes when none of its groups is left. A header that could not be read may be of one
    /// of them, and come back on a better day: then the record stays and the next start looks again.
    pub(crate) async fn remove_record(&self, id: VdiskId) -> Result<()> {
        if self.unread.is_none() { self.index.remove(id).await } else { Ok(()) }
    }

    /// Sentences on vDisks that cannot be served though no record says anything of them.
    pub fn broken_unknown(&self) -> Vec<String> {
        let entries = self.entries.borrow();
        let broken = entries.iter().filter_map(|(id, entry)| match entry {
            Entry::Broken { reason, .. } if self.index.record(*id).is_none() => {
                Some(format!("extent groups of a vDisk {id} that nobody knows: {reason}"))
            }
            _ => None,
        });
        broken.collect()
    }

    /// For what belongs to no vDisk.
    pub fn store(&self) -> Rc<dyn meta::Store> {
        self.index.store.clone()
    }

    pub fn summary_of(&self, id: VdiskId) -> Option<VdiskSummary> {
        let record = self.index.record(id).filter(|record| !record.deleted)?;
        let mut summary = VdiskSummary {
            record,
            health: None,
            opening: false,
            broken: None,
            space: Space::default(),
            connections: self.attachments.count(id),
            in_flight: 0,
            epoch: self.context.pool.epoch().0,
        };
        match self.entries.borrow().get(&id) {
            Some(Entry::Open(vdisk)) => {
                summary.health = Some(vdisk.health());
                summary.space = vdisk.space();
                summary.in_flight = vdisk.stats.in_flight.get();
            }
            Some(Entry::Opening) => summary.opening = true,
            Some(Entry::Closed) => summary.opening = self.to_recover.get() > 0,
            Some(Entry::Broken { reason, .. }) => summary.broken = Some(reason.clone()),
            None => {}
        }
        Some(summary)
    }

    pub fn totals(&self) -> Totals {
        let mut totals = self.gone.get();
        self.open_vdisks().iter().for_each(|vdisk| totals.add(&vdisk.stats));
        totals
    }

    pub fn summary(&self) -> ShardSummary {
        let open = self.open_vdisks();
        ShardSummary {
            accepted: self.attachments.accepted(),
            vdisks: self.records().len() as u32,
            connections: self.attachments.total(),
            in_flight: open.iter().map(|vdisk| vdisk.stats.in_flight.get()).sum(),
            to_recover: self.to_recover.get(),
            log_bytes: self.context.load.log_bytes.get(),
            map_bytes: self.context.load.map.bytes(),
            dirty_pages: self.context.load.map.dirty_pages.get(),
            hold_times: self.hold_times.get(),
            unsynced_bytes: open.iter().map(|vdisk| vdisk.unsynced_bytes()).sum(),
        }
    }
}

pub(crate) fn is_damaged(vdisk: &Vdisk) -> bool {
    matches!(vdisk.health(), Health::Damaged(_))
}

pub(crate) fn record_of(recovered: &Recovered, shard: u16, epoch: base::Epoch) -> VdiskRecord {
    // What is named here is believed at the next start, and would hide what is missing.
    let checkpoint = recovered.checkpoint.filter(|_| !is_damaged(&recovered.vdisk)).map(crate::index::hint);
    VdiskRecord { checkpoint, ..record_of_vdisk(&recovered.vdisk, shard, epoch) }
}

/// What its log says of it, without hints.
pub(crate) fn record_of_vdisk(vdisk: &Vdisk, shard: u16, epoch: base::Epoch) -> VdiskRecord {
    let vdisk::Attributes { name, size_bytes, sector_bytes, read_only, created_ns } = vdisk.attributes();
    let clone = vdisk.family().zip(vdisk.parent()).map(|(family, parent)| CloneOf { family, parent });
    VdiskRecord {
        id: vdisk.id,
        name,
        size_bytes,
        sector_bytes,
        read_only,
        created_wall_ns: created_ns,
        shard,
        epoch,
        checkpoint: None,
        tail: None,
        deleted: false,
        clone,
    }
}

/// `name` with the id behind it, cut to the 63 characters that a name may have.
pub(crate) fn free_name(name: &str, id: VdiskId) -> String {
    let suffix = format!("-{id}");
    let keep = 63_usize.saturating_sub(suffix.len());
    let head: String = name.chars().take(keep).collect();
    format!("{head}{suffix}")
}
