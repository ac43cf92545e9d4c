//! The pool of one shard: its slabs, its groups, and reads of them.

use crate::ids::Ids;
use crate::slab::{Slab, SlabHeader};
use crate::slots::{Blocks, Slots};
use crate::space::Space;
use crate::usage::Counters;
use crate::{Error, GroupHeader, HEADER_PAGE, Identity, Kind, PoolConfig, Purpose, Result, SlabId};
use base::hash::FixedState;
use base::{GroupId, VdiskId};
use bytes::Bytes;
use hashbrown::HashMap;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use world::local::{Notify, Semaphore};
use world::{Completion, Disk, DiskUsage, World};

/// Where something was found that nobody can read; it is left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub slab: SlabId,
    /// `None`: the whole file.
    pub slot: Option<u32>,
    pub reason: String,
    /// The disk did not give the header: another day it may, and a group be there.
    pub unread: bool,
}

/// A disk that is not started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peeked {
    pub identity: Identity,
    /// Of its last start; the next one has the next. Where one copy of the superblock is damaged, that may have been the newer one,
    /// of one start more.
    pub generation: u64,
    /// As [`Pool::is_sharing`].
    pub is_sharing: bool,
}

/// What a start found.
pub struct Opened {
    pub pool: Rc<Pool>,
    /// Every group on the disk, in order of ids.
    pub groups: Vec<GroupHeader>,
    pub quarantined: Vec<Place>,
    /// The generation that the disk had before this start raised it, for comparison with what is recorded elsewhere.
    pub generation_before: u64,
    /// The run before ended with `close`.
    pub clean: bool,
    /// One of the two copies of the superblock could not be read.
    pub superblock_copy_damaged: bool,
    /// The superblock is older than the groups on the same disk: somebody restored it, or it rotted. The counters were
    /// moved beyond every id in sight, but ids of groups that were freed may come again: give the node a new number.
    pub superblock_was_old: bool,
}

pub struct Pool {
    pub(crate) me: Weak<Pool>,
    pub(crate) world: World,
    pub(crate) disk: Rc<dyn Disk>,
    pub(crate) config: PoolConfig,
    pub(crate) group_size: u32,
    pub(crate) ids: Ids,
    slabs: RefCell<BTreeMap<SlabId, Rc<Slab>>>,
    /// The number of the next slab file; above every number in sight, loaded or not.
    slab_next: Cell<Option<SlabId>>,
    creating_slab: Rc<Semaphore>,
    /// What the next groups need is on its way.
    preparing: Cell<bool>,
    groups: RefCell<HashMap<GroupId, Rc<Group>, FixedState>>,
    /// Freed, but not on the disk.
    pub(crate) unfreed: RefCell<BTreeMap<GroupId, Rc<Group>>>,
    pub(crate) space: Space,
    /// Groups that take no more appends and may have blocks behind their tail.
    pub(crate) untrimmed: RefCell<Vec<Rc<Group>>>,
    pub(crate) counters: Rc<Counters>,
    pub(crate) disk_usage: Cell<DiskUsage>,
}

/// A group on this disk, open or not.
pub(crate) struct Group {
    pub id: GroupId,
    pub vdisk: VdiskId,
    pub slab: Rc<Slab>,
    pub slot: u32,
    /// Where its slot begins in the slab file.
    pub start: u64,
    pub size: u32,
    /// First byte that no append has filled; for groups of earlier starts the end of what may hold data.
    pub tail: Cell<u32>,
    /// End of the last append that was begun, and of what it writes, zeros ahead included.
    pub issued: Cell<(u32, u32)>,
    pub blocks: Cell<Blocks>,
    /// Blocks at and above may have been punched.
    pub hole_at: Cell<u32>,
    /// An append was begun: the header page is there or in doubt.
    pub started: Cell<bool>,
    /// Takes no more appends.
    pub sealed: Cell<bool>,
    pub freed: Cell<bool>,
    /// Space is being taken in the background.
    pub growing: Cell<bool>,
    /// Number of the slab's sync since which pages were written, and up to where.
    pub dirtied: Cell<(u64, u32)>,
    /// What the last append wrote, if a sync of it alone is expected.
    pub sync_expected: Cell<Option<(u32, u32)>>,
    /// Operations of the disk that are under way on the slot; it is not given to another group before they ended.
    busy: Cell<u32>,
    idle: Rc<Notify>,
}

impl Group {
    pub fn new(
        (id, vdisk): (GroupId, VdiskId),
        slab: Rc<Slab>,
        slot: u32,
        size: u32,
        tail: u32,
        blocks: Blocks,
    ) -> Self {
        Group {
            id,
            vdisk,
            start: slab.slot_offset(slot),
            slab,
            slot,
            size,
            tail: Cell::new(tail),
            issued: Cell::new((tail, tail)),
            blocks: Cell::new(blocks),
            hole_at: Cell::new(size),
            started: Cell::new(false),
            sealed: Cell::new(false),
            freed: Cell::new(false),
            growing: Cell::new(false),
            dirtied: Cell::default(),
            sync_expected: Cell::default(),
            busy: Cell::new(0),
            idle: Notify::new(),
        }
    }

    pub fn busy(self: &Rc<Self>) -> Busy {
        self.busy.set(self.busy.get() + 1);
        Busy(self.clone())
    }

    pub fn is_busy(&self) -> bool {
        self.busy.get() > 0
    }

    pub async fn until_idle(&self) {
        while self.is_busy() {
            self.idle.notified().await;
        }
    }
}

/// Keeps the slot from being given away.
pub(crate) struct Busy(Rc<Group>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.set(self.0.busy.get() - 1);
        if self.0.busy.get() == 0 {
            self.0.idle.notify();
        }
    }
}

/// What `open` puts together.
pub(crate) struct Parts {
    pub world: World,
    pub disk: Rc<dyn Disk>,
    pub config: PoolConfig,
    pub group_size: u32,
    pub ids: Ids,
    pub slabs: Vec<Rc<Slab>>,
    pub slab_next: Option<SlabId>,
    pub groups: Vec<Rc<Group>>,
    pub untrimmed: Vec<Rc<Group>>,
    pub space: Space,
}

impl Pool {
    pub(crate) fn assemble(parts: Parts) -> Rc<Pool> {
        Rc::new_cyclic(|me| Pool {
            me: me.clone(),
            world: parts.world,
            disk: parts.disk,
            config: parts.config,
            group_size: parts.group_size,
            ids: parts.ids,
            slabs: RefCell::new(parts.slabs.into_iter().map(|slab| (slab.id, slab)).collect()),
            slab_next: Cell::new(parts.slab_next),
            creating_slab: Semaphore::new(1),
            preparing: Cell::new(false),
            groups: RefCell::new(parts.groups.into_iter().map(|group| (group.id, group)).collect()),
            unfreed: RefCell::default(),
            space: parts.space,
            untrimmed: RefCell::new(parts.untrimmed),
            counters: Rc::default(),
            disk_usage: Cell::default(),
        })
    }

    pub(crate) fn rc(&self) -> Rc<Pool> {
        self.me.upgrade().expect("a pool is only ever made behind an Rc, through which this call came")
    }

    pub fn group_size(&self) -> u32 {
        self.group_size
    }

    /// In order of numbers.
    pub(crate) fn slabs(&self) -> Vec<Rc<Slab>> {
        self.slabs.borrow().values().cloned().collect()
    }

    pub(crate) fn group(&self, id: GroupId) -> Option<Rc<Group>> {
        self.groups.borrow().get(&id).cloned()
    }
    pub(crate) fn add_group(&self, group: Rc<Group>) {
        self.groups.borrow_mut().insert(group.id, group);
    }
    pub(crate) fn remove_group(&self, id: GroupId) -> Option<Rc<Group>> {
        self.groups.borrow_mut().remove(&id)
    }

    pub fn knows(&self, group: GroupId) -> bool {
        self.groups.borrow().contains_key(&group)
    }

    /// Bytes of a group as they are on the medium, unverified; `offset` counts from the group's header page. What was
    /// never written reads as zeros, or as what an earlier group left in the slot.
    pub fn read(&self, group: GroupId, offset: u32, len: u32) -> Completion<Result<Bytes>> {
        let Some(group) = self.group(group).filter(|group| group.started.get()) else {
            return Completion::Ready(Err(unknown(group)));
        };
        if offset.checked_add(len).is_none_or(|end| end > group.size) {
            let text =
                format!("read of {len} bytes at {offset} of group {}: beyond its {} bytes", group.id, group.size);
            return Completion::Ready(Err(Error::new(Kind::Invalid, text)));
        }
        match group.slab.file.read(group.start + u64::from(offset), len as usize) {
            Completion::Ready(result) => Completion::Ready(result.map_err(|e| cannot_read(group.id, e))),
            pending => {
                let busy = group.busy();
                Completion::pending(async move {
                    let result = pending.await;
                    drop(busy);
                    result.map_err(|e| cannot_read(group.id, e))
                })
            }
        }
    }

    /// An upper bound of the bytes that hold data in the group's slot, for scans behind a broken tail.
    pub async fn data_end(&self, group: GroupId) -> Result<u32> {
        let group = self.group(group).filter(|group| group.started.get()).ok_or_else(|| unknown(group))?;
        let ranges = group.slab.file.data_ranges().await.map_err(|e| cannot_read(group.id, e))?;
        let end = group.start + u64::from(group.size);
        let last = ranges.iter().rev().find(|(start, stop)| *start < end && *stop > group.start);
        Ok(last.map_or(0, |(_, stop)| ((*stop).min(end) - group.start) as u32))
    }

    /// A hint that the kernel's copy of these bytes, already synced, is not needed any more.
    pub fn release(&self, group: GroupId, offset: u32, len: u32) {
        if let Some(group) = self.group(group) {
            let len = len.min(group.size.saturating_sub(offset));
            group.slab.file.release(group.start + u64::from(offset), len.into());
        }
    }

    /// A slot of a slab that takes groups; a new slab if there is none.
    pub(crate) async fn take_slot(&self, purpose: Purpose) -> Result<(Rc<Slab>, u32, Blocks)> {
        loop {
            if let Some(found) = self.take_free_slot() {
                return Ok(found);
            }
            let _turn = self.creating_slab.acquire(1).await;
            if let Some(found) = self.take_free_slot() {
                return Ok(found);
            }
            if !self.sync_one_limbo(|slots| slots.has_limbo()).await {
                self.create_slab(Some(purpose)).await?;
            }
        }
    }

    /// An id and a slot for the group that comes next, in the background, before anybody needs them. Gives nothing up for
    /// that, and does without if there is no room.
    pub(crate) fn prepare_next(&self) {
        let wants = self.ids.wants_groups() || !self.has_free_slot();
        if !wants || self.preparing.replace(true) {
            return;
        }
        let pool = self.rc();
        self.world.spawn(async move {
            let prepared = pool.ids.reserve_groups().await.and(pool.prepare_slot().await);
            if let Err(error) = prepared
                && error.kind != Kind::Full
            {
                tracing::warn!(%error, "the next extent groups are not prepared; what needs one tries again");
            }
            pool.preparing.set(false);
        });
    }

    async fn prepare_slot(&self) -> Result<()> {
        let _turn = self.creating_slab.acquire(1).await;
        let not_now = !self.space.ballast_whole() || self.ids.is_closing();
        if self.has_free_slot() || not_now || self.sync_one_limbo(|slots| slots.has_limbo()).await {
            return Ok(());
        }
        self.create_slab(None).await
    }

    fn has_free_slot(&self) -> bool {
        self.slabs.borrow().values().any(|slab| slab.accepts_groups() && slab.slots.borrow().has_free())
    }

    /// Recycled before blank, low before high.
    fn take_free_slot(&self) -> Option<(Rc<Slab>, u32, Blocks)> {
        let slabs = self.slabs.borrow();
        let open = || slabs.values().filter(|slab| slab.accepts_groups());
        let recycled = open().find_map(|slab| Some((slab, slab.slots.borrow_mut().take_recycled()?)));
        self.space.recycled_low.set(self.space.recycled_low.get().min(self.recycled().1));
        let (slab, taken) =
            recycled.or_else(|| open().find_map(|slab| Some((slab, slab.slots.borrow_mut().take_blank()?))))?;
        Some((slab.clone(), taken.slot, taken.blocks))
    }

    /// Durable when it completes. A page of the disk is all it takes, but even that may have to be made; without a purpose
    /// it is not.
    async fn create_slab(&self, purpose: Option<Purpose>) -> Result<()> {
        let Some(id) = self.slab_next.get() else {
            return Err(Error::new(Kind::Full, "no number is left for another slab file"));
        };
        let name = id.file_name();
        let file = self.disk.create(&name).await.map_err(|e| Error::from_disk(format!("cannot create {name}"), e))?;
        self.slab_next.set(id.next());
        let header = SlabHeader { slab: id, disk: self.identity().disk, group_size: self.group_size };
        while let Err(e) = file.write(0, &[header.encode()]).await {
            let error = Error::from_disk(format!("cannot write the header of {name}"), e);
            if let Some(purpose) = purpose.filter(|_| error.kind == Kind::Full)
                && self.make_room_for(purpose).await?
            {
                continue;
            }
            // Or else every attempt on a full disk would leave a file behind. What cannot be removed keeps its number.
            if self.disk.remove(&name).await.is_ok() {
                self.slab_next.set(Some(id));
            }
            return Err(error);
        }
        self.space.charge(HEADER_PAGE.into());
        file.sync().await.map_err(|e| Error::sync_failed(&name, e))?;
        let slots = Slots::new(self.config.slots_per_slab_max);
        self.slabs.borrow_mut().insert(id, Slab::new(id, file, self.group_size, slots, false));
        Ok(())
    }

    /// A sync of it failed: what was not synced before is in doubt, and nothing is written to it any more.
    pub fn is_poisoned(&self, group: GroupId) -> bool {
        self.group(group).is_some_and(|group| group.slab.poisoned.get())
    }

    /// Syncs every slab: afterwards no group that was freed before can come back, whatever becomes of the power.
    pub fn sync_all(&self) -> world::LocalFuture<Result<()>> {
        self.sync_slabs(&self.slabs())
    }

    /// Clean shutdown: syncs everything and notes that it did. What is appended afterwards is on its own.
    pub async fn close(&self) -> Result<()> {
        self.trim_all().await;
        let synced = self.sync_all().await;
        let closed = self.ids.close(synced.is_ok()).await;
        synced.and(closed)
    }
}

fn unknown(group: GroupId) -> Error {
    Error::new(Kind::NotFound, format!("group {group} is not on this disk"))
}

fn cannot_read(group: GroupId, source: world::Error) -> Error {
    Error::from_disk(format!("cannot read group {group}"), source)
}
