//! What one worker runs: a pool, the vDisks that live on it, their records.
//!
//! After a clean stop vDisks are opened when they are first asked for; after a crash all of them are recovered in the
//! background, and one that is asked for comes first.

use crate::Result;
use crate::attach::Attachments;
use crate::index::MetaIndex;
use crate::snapshots::{HoldTimes, Pending};
use base::{SnapshotId, VdiskId};
use bytes::Bytes;
use meta::{CloneOf, VdiskRecord};
use pool::GroupHeader;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::{Rc, Weak};
use vdisk::{Attributes, Context, Health, Leftover, Recovered, Space, Vdisk};
use world::local::{Notify, Semaphore};

/// After so long in which nobody was heard those that are waited for are told of, ns: more than a sync takes on any disk
/// that works.
const UNHEARD_NS_MAX: u64 = 60_000_000_000;

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
    /// Until this start vDisks may have been there that no record names.
    pub(crate) was_hiding: bool,
    /// Such vDisks, which need groups of others, may be there still: the metadata store was older than the disk, or was made anew,
    /// and that place could not be read since.
    pub(crate) may_hide: bool,
    /// Of the run before this one.
    pub(crate) generation_before: u64,
    pub(crate) opened: Rc<Notify>,
    pub(crate) attachments: Attachments,
    /// Deleted vDisks whose groups are not all free yet.
    pub(crate) leftovers: RefCell<BTreeMap<VdiskId, Leftover>>,
    /// vDisks that could not be made, of which the metadata store could not be told that they are none.
    pub(crate) refused: RefCell<Vec<VdiskRecord>>,
    /// Snapshots that are being read.
    pub(crate) views: RefCell<BTreeMap<SnapshotId, Weak<Vdisk>>>,
    /// vDisks that are being deleted: nobody may connect any more.
    pub(crate) leaving: RefCell<BTreeSet<VdiskId>>,
    /// vDisks to which nobody may connect before they are rolled back.
    pub(crate) rolling_back: RefCell<BTreeSet<VdiskId>>,
    /// vDisks that others than this shard want nobody to connect to.
    pub(crate) held: RefCell<BTreeSet<VdiskId>>,
    /// vDisks that are about to be cut, by set.
    pub(crate) paused: RefCell<BTreeMap<SnapshotId, Vec<Pending>>>,
    pub(crate) hold_times: Cell<HoldTimes>,
    pub(crate) listener: Listener,
    pub(crate) stopping: Cell<bool>,
    /// How many find out at once what they need of others.
    pub(crate) hearing: Rc<Semaphore>,
    /// When the last of those that were waited for was heard, or the start, ns.
    pub(crate) heard_ns: Cell<u64>,
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
    pub held_back_ns: u64,
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
        self.held_back_ns += stats.held_back_ns.get();
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

    /// Its log is still to be read since the start.
    pub fn is_unread(&self, id: VdiskId) -> bool {
        matches!(self.entries.borrow().get(&id), Some(Entry::Closed | Entry::Opening))
    }

    /// Its log was read.
    pub fn is_open(&self, id: VdiskId) -> bool {
        matches!(self.entries.borrow().get(&id), Some(Entry::Open(_)))
    }

    /// The metadata store is of an earlier time than the disk: logs may know more.
    pub fn is_store_behind(&self) -> bool {
        !self.hints_are_good || self.was_hiding
    }

    pub fn open_vdisks(&self) -> Vec<Rc<Vdisk>> {
        let entries = self.entries.borrow();
        entries
            .values()
            .filter_map(|entry| if let Entry::Open(vdisk) = entry { Some(vdisk.clone()) } else { None })
            .collect()
    }

    /// A deleted vDisk, which holds nothing any more: its groups come free when nobody needs them, then its record goes. First the
    /// record says that it is deleted: once the groups are gone, nothing else does.
    pub(crate) async fn leave(&self, leftover: Leftover) -> Result<()> {
        let id = leftover.vdisk;
        self.headers.borrow_mut().remove(&id);
        (self.listener)(id, None);
        if self.index.record(id).is_some_and(|record| !record.deleted) {
            self.index.tombstone(id).await?;
        }
        self.leftovers.borrow_mut().insert(id, leftover);
        // It may have been one that could not say what it needs.
        self.context.references.heard(id);
        self.context.references.released.notify();
        Ok(())
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
    /// of them, and come back on a better day; one that could not be marked as free is there: then the record stays and the
    /// next start looks again.
    pub(crate) async fn remove_record(&self, id: VdiskId) -> Result<()> {
        let all_gone = self.unread.is_none() && self.context.pool.unfreed_of(id).is_empty();
        if all_gone { self.index.remove(id).await } else { Ok(()) }
    }

    /// Sentences on what cannot be read and is none of the vDisks that there are: of some that no record knows, or of one that
    /// was deleted. Nothing comes free that they might need.
    pub fn broken_unknown(&self) -> Vec<String> {
        let entries = self.entries.borrow();
        let broken = entries.iter().filter_map(|(id, entry)| {
            let Entry::Broken { reason, .. } = entry else { return None };
            match self.index.record(*id) {
                None => Some(format!("extent groups of a vDisk {id} that nobody knows: {reason}")),
                Some(record) if record.deleted => Some(format!("extent groups of the deleted vDisk {id}: {reason}")),
                Some(_) => None,
            }
        });
        broken.collect()
    }

    /// For what belongs to no vDisk, without compares. A full disk refuses what only adds to the store: the reserve is for
    /// what makes room.
    pub async fn commit(&self, transaction: meta::Transaction) -> Result<()> {
        if transaction.deletes.is_empty() {
            return self.index.commit_more(transaction).await;
        }
        self.index.commit_all(transaction).await
    }

    /// The same of what makes room though it deletes nothing itself. Refused only when the reserve is used up, too.
    pub async fn commit_to_make_room(&self, transaction: meta::Transaction) -> Result<()> {
        self.index.commit_all(transaction).await
    }

    /// It is known what the vDisk needs of others, or it is gone.
    pub(crate) fn heard(&self, id: VdiskId) {
        let references = &self.context.references;
        if references.is_unheard(id) {
            self.heard_ns.set(self.context.world.now().0);
        }
        references.heard(id);
    }

    /// Sentences on those who keep space from coming free, since what they need of others is not known. A start with many is not
    /// told of one by one as long as it comes forward.
    pub fn holding_up(&self) -> Vec<String> {
        let comes_forward = self.context.world.now().0 < self.heard_ns.get() + UNHEARD_NS_MAX;
        let entries = self.entries.borrow();
        let unheard = self.context.references.unheard().into_iter().filter_map(|(id, family)| {
            let why = match entries.get(&id)? {
                // It waits for others, which are told of.
                Entry::Closed => return None,
                Entry::Opening if comes_forward => return None,
                Entry::Opening => "its log is being read, and the disk does not answer".to_string(),
                Entry::Broken { reason, .. } => reason.clone(),
                Entry::Open(vdisk) => match vdisk.health() {
                    Health::Damaged(reason) | Health::Failed(reason) => reason,
                    // That has only begun.
                    _ if !vdisk.is_unheard() && comes_forward => return None,
                    Health::Online | Health::Deleted => "not all that it has could be read and synced yet".to_string(),
                },
            };
            // Others are told of as such.
            let name = self.index.record(id).filter(|record| !record.deleted)?.name;
            let of_whom = if family.is_none() { "on its disk" } else { "that its family needs" };
            Some(format!("no space comes free {of_whom} before vDisk {name} is read or deleted: {why}"))
        });
        let hides = self.unread.iter().filter(|_| self.may_hide).map(|unread| {
            format!(
                "no space comes free on its disk before a start can read all of it: {unread}, and there may be a vDisk that the \
                 metadata store does not know"
            )
        });
        unheard.chain(hides).collect()
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
    let clone = vdisk.family().zip(vdisk.parent()).map(|(family, parent)| CloneOf { family, parent });
    record_of_attributes(vdisk.id, vdisk.attributes(), clone, shard, epoch)
}

/// Of a vDisk that may not be born yet.
pub(crate) fn record_of_attributes(
    id: VdiskId,
    attributes: Attributes,
    clone: Option<CloneOf>,
    shard: u16,
    epoch: base::Epoch,
) -> VdiskRecord {
    let Attributes { name, size_bytes, sector_bytes, read_only, created_ns } = attributes;
    VdiskRecord {
        id,
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
