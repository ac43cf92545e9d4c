//! One slab: a big sparse file of slots, its header page, and the sync that all groups in it share.
//!
//! | offset | field (two copies of a 512-byte record, at 0 and 2048, as in a group's header page) |
//! |---|---|
//! | 0 | magic `DRYSLAB0` |
//! | 8 | format version u32 = 1 |
//! | 12 | slab number u32 |
//! | 16 | disk id u64 |
//! | 24 | group size u32, bytes |
//! | 28 | offset of slot 0 u32, bytes |
//! | 32 | zeros up to 508 |
//! | 508 | crc32c u32 of bytes 0 to 507 |
//!
//! After a failed sync the file is poisoned: in this run it is neither written nor synced again. Reads go on.

use crate::header::{HEADER_PAGE, checked, copies, two_copies};
use crate::slots::Slots;
use crate::{Error, Kind, Result};
use base::units::MIB;
use base::{DiskId, Reader, Truncated, Writer};
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use world::File;
use world::local::OneshotSender;

const MAGIC: [u8; 8] = *b"DRYSLAB0";
pub(crate) const VERSION: u32 = 1;
/// Four digits in the file's name.
const NUMBER_MAX: u16 = 9999;

/// Syncs of one append each after which the next one is expected.
const LONE_SYNCS_MIN: u32 = 4;

/// Number of a slab file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlabId(pub u16);

impl SlabId {
    pub fn file_name(self) -> String {
        format!("slab-{:04}", self.0)
    }
    pub(crate) fn from_file_name(name: &str) -> Option<SlabId> {
        let digits = name.strip_prefix("slab-").filter(|d| d.len() == 4 && d.bytes().all(|b| b.is_ascii_digit()))?;
        digits.parse().ok().map(SlabId)
    }
    pub(crate) fn next(self) -> Option<SlabId> {
        (self.0 < NUMBER_MAX).then(|| SlabId(self.0 + 1))
    }
}

/// What a slab file says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SlabHeader {
    pub slab: SlabId,
    pub disk: DiskId,
    pub group_size: u32,
}

impl SlabHeader {
    pub fn encode(&self) -> Bytes {
        let mut w = Writer::with_capacity(HEADER_PAGE as usize);
        w.put(&MAGIC).u32_le(VERSION).u32_le(self.slab.0.into()).u64_le(self.disk.0);
        w.u32_le(self.group_size).u32_le(slots_start(self.group_size));
        two_copies(w)
    }
}

/// Where slot 0 stands: 1 MiB keeps slots aligned for any file system or device below, tests have smaller groups.
pub(crate) fn slots_start(group_size: u32) -> u32 {
    group_size.min(MIB as u32)
}

/// What the first page of a slab file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SlabPage {
    /// Created, but never written: the start before ended there.
    Blank,
    Valid(SlabHeader),
    Newer(u32),
    Damaged,
}

pub(crate) fn decode_slab_page(page: &[u8]) -> SlabPage {
    if page.iter().all(|&b| b == 0) {
        return SlabPage::Blank;
    }
    let valid = copies(page).into_iter().filter_map(checked).filter_map(|body| decode_body(body).ok());
    valid.into_iter().find(|page| *page != SlabPage::Damaged).unwrap_or(SlabPage::Damaged)
}

fn decode_body(body: &[u8]) -> std::result::Result<SlabPage, Truncated> {
    let mut r = Reader::new(body);
    if r.array::<8>()? != MAGIC {
        return Ok(SlabPage::Damaged);
    }
    let version = r.u32_le()?;
    if version != VERSION {
        return Ok(SlabPage::Newer(version));
    }
    let (number, disk, group_size, start) = (r.u32_le()?, DiskId(r.u64_le()?), r.u32_le()?, r.u32_le()?);
    match u16::try_from(number) {
        Ok(number) if crate::config::check_group_size(group_size).is_ok() && start == slots_start(group_size) => {
            Ok(SlabPage::Valid(SlabHeader { slab: SlabId(number), disk, group_size }))
        }
        _ => Ok(SlabPage::Damaged),
    }
}

/// Who waits for which sync.
#[derive(Default)]
pub(crate) struct Waiters {
    /// A sync is under way.
    pub running: bool,
    /// Share the one that is under way: nothing was written since it began.
    pub current: Vec<OneshotSender<Result<()>>>,
    pub next: Vec<OneshotSender<Result<()>>>,
}

pub(crate) struct Slab {
    pub id: SlabId,
    pub file: Rc<dyn File>,
    group_size: u32,
    pub slots: RefCell<Slots>,
    pub waiters: RefCell<Waiters>,
    /// Something was written since the last sync began, or (at a start) perhaps before.
    pub dirty: Cell<bool>,
    /// Syncs that were begun.
    pub syncs: Cell<u64>,
    /// Appends since the last of them, and how many syncs in a row covered one append each: somebody flushes each of his
    /// writes, and nobody else is there.
    pub appends: Cell<u32>,
    pub lone_syncs: Cell<u32>,
    pub poisoned: Cell<bool>,
    /// Not for new groups: its header is damaged.
    pub retired: bool,
}

impl Slab {
    pub fn new(id: SlabId, file: Rc<dyn File>, group_size: u32, slots: Slots, retired: bool) -> Rc<Slab> {
        Rc::new(Slab {
            id,
            file,
            group_size,
            slots: RefCell::new(slots),
            waiters: RefCell::default(),
            dirty: Cell::new(true),
            syncs: Cell::new(1),
            appends: Cell::new(0),
            lone_syncs: Cell::new(0),
            poisoned: Cell::new(false),
            retired,
        })
    }

    pub fn slot_offset(&self, slot: u32) -> u64 {
        u64::from(slots_start(self.group_size)) + u64::from(slot) * u64::from(self.group_size)
    }

    /// Whether the append that ended now will be followed by a sync of its own.
    pub fn appended(&self) -> bool {
        self.appends.set(self.appends.get().saturating_add(1));
        self.appends.get() == 1 && self.lone_syncs.get() >= LONE_SYNCS_MIN
    }

    pub fn sync_begins(&self) {
        let lone = if self.appends.replace(0) == 1 { self.lone_syncs.get().saturating_add(1) } else { 0 };
        self.lone_syncs.set(lone);
        self.dirty.set(false);
        self.syncs.set(self.syncs.get() + 1);
        self.slots.borrow_mut().sync_begins();
    }

    pub fn accepts_groups(&self) -> bool {
        !self.retired && !self.poisoned.get()
    }

    pub fn check_not_poisoned(&self) -> Result<()> {
        if self.poisoned.get() {
            let text = format!("{} takes no writes until the next start, because a sync of it failed", self.name());
            return Err(Error::new(Kind::SyncFailed, text));
        }
        Ok(())
    }

    pub fn name(&self) -> String {
        self.id.file_name()
    }
}

#[cfg(test)]
mod tests;
