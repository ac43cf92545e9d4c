//! Ids that are never used twice: counters whose watermark is durable before an id below it is handed out.

use crate::config::{COUNTER_BITS, COUNTER_END};
use crate::superblock::{Superblock, SuperblockFile};
use crate::{Error, Identity, Kind, Pool, Result};
use base::{Epoch, GroupId, SnapshotId, VdiskId};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use world::local::Semaphore;

/// Ids reserved by one write of the superblock. A crash loses what is left of a batch: of 67 million ids per node and
/// shard, 65 thousand crashes would use up all. Ten times fewer, and a busy shard would write its superblock every
/// second.
pub(crate) const BATCH: u32 = 1024;
/// The next batch is reserved when so many ids are left: more than a busy shard uses while the superblock is written.
const AHEAD: u32 = 64;
/// The first id of a counter; 0 is "none" on node 0.
pub(crate) const FIRST: u32 = 1;

/// The superblock of a running shard and the counters that it backs.
pub(crate) struct Ids {
    file: SuperblockFile,
    superblock: RefCell<Superblock>,
    identity: RefCell<Rc<Identity>>,
    writing: Rc<Semaphore>,
    group_next: Cell<u32>,
    vdisk_next: Cell<u32>,
    /// Nothing is reserved in advance any more.
    closing: Cell<bool>,
    /// Both copies say so.
    is_sharing: Cell<bool>,
}

/// Which of the two counters.
#[derive(Clone, Copy)]
enum Counter {
    Group,
    Vdisk,
}

impl Superblock {
    fn reserved_mut(&mut self, counter: Counter) -> &mut u32 {
        match counter {
            Counter::Group => &mut self.groups_reserved,
            Counter::Vdisk => &mut self.vdisks_reserved,
        }
    }
}

impl Ids {
    /// `superblock` is what the file holds; the ids below `group_next` and `vdisk_next` may have been used.
    pub fn new(file: SuperblockFile, superblock: Superblock, group_next: u32, vdisk_next: u32) -> Self {
        Ids {
            file,
            identity: RefCell::new(Rc::new(superblock.identity.clone())),
            is_sharing: Cell::new(superblock.is_sharing),
            superblock: RefCell::new(superblock),
            writing: Semaphore::new(1),
            group_next: Cell::new(group_next),
            vdisk_next: Cell::new(vdisk_next),
            closing: Cell::new(false),
        }
    }

    pub fn identity(&self) -> Rc<Identity> {
        self.identity.borrow().clone()
    }

    fn next_cell(&self, counter: Counter) -> &Cell<u32> {
        match counter {
            Counter::Group => &self.group_next,
            Counter::Vdisk => &self.vdisk_next,
        }
    }

    /// Changes the superblock, durably.
    async fn write(&self, change: impl FnOnce(&mut Superblock)) -> Result<()> {
        let mut changed = self.superblock.borrow().clone();
        change(&mut changed);
        changed.serial += 1;
        self.file.write(&changed).await?;
        self.superblock.replace(changed);
        Ok(())
    }

    /// Node, shard and count of an id that nobody had before.
    async fn next(&self, counter: Counter) -> Result<(u16, u32)> {
        loop {
            let next = self.next_cell(counter).get();
            let reserved = *self.superblock.borrow_mut().reserved_mut(counter);
            if next < reserved {
                self.next_cell(counter).set(next + 1);
                let identity = self.identity();
                return Ok((identity.node, u32::from(identity.shard) << COUNTER_BITS | next));
            }
            let _turn = self.writing.acquire(1).await;
            if self.left(counter) == 0 {
                self.reserve(counter).await?;
            }
        }
    }

    /// Ids that can be had without waiting.
    fn left(&self, counter: Counter) -> u32 {
        let reserved = *self.superblock.borrow_mut().reserved_mut(counter);
        reserved.saturating_sub(self.next_cell(counter).get())
    }

    /// Another batch. The caller has the turn.
    async fn reserve(&self, counter: Counter) -> Result<()> {
        let reserved = *self.superblock.borrow_mut().reserved_mut(counter);
        if reserved == COUNTER_END {
            let text = "the id counter of this node number has ended: the node needs a new number";
            return Err(Error::new(Kind::IdsExhausted, text));
        }
        self.write(|s| {
            *s.reserved_mut(counter) = (reserved + BATCH).min(COUNTER_END);
            s.clean = false;
        })
        .await
    }

    pub fn is_closing(&self) -> bool {
        self.closing.get()
    }

    pub fn wants_groups(&self) -> bool {
        self.left(Counter::Group) < AHEAD && !self.closing.get()
    }

    /// Takes the next batch of ids of groups before the last one has ended.
    pub async fn reserve_groups(&self) -> Result<()> {
        let _turn = self.writing.acquire(1).await;
        if self.wants_groups() { self.reserve(Counter::Group).await } else { Ok(()) }
    }

    pub async fn next_group(&self) -> Result<GroupId> {
        self.next(Counter::Group).await.map(|(node, count)| GroupId::new(node, count))
    }

    /// Notes a clean end, and gives back what is left of the batches.
    pub async fn close(&self, clean: bool) -> Result<()> {
        self.closing.set(true);
        let _turn = self.writing.acquire(1).await;
        let (group_next, vdisk_next) = (self.group_next.get(), self.vdisk_next.get());
        // Until it is known whether the write arrived, no id may come from the old batch. Should somebody ask for one,
        // it is reserved anew.
        self.superblock.borrow_mut().groups_reserved = group_next;
        self.superblock.borrow_mut().vdisks_reserved = vdisk_next;
        self.write(|s| s.clean = clean).await
    }
}

impl Pool {
    pub fn identity(&self) -> Rc<Identity> {
        self.ids.identity()
    }

    /// The generation of this start: the epoch of every group that is opened during it.
    pub fn epoch(&self) -> Epoch {
        Epoch(self.ids.superblock.borrow().generation)
    }

    /// Gives the node a number that it never had, and starts the counters anew; durable when it completes. For a node
    /// whose metadata was restored or rebuilt, or whose ids ended. The number it has already is accepted and changes
    /// nothing, so that a caller who crashed half-way through its shards can ask all of them again.
    pub async fn set_node(&self, node: u16) -> Result<()> {
        let ids = &self.ids;
        let _turn = ids.writing.acquire(1).await;
        if ids.identity().node == node {
            return Ok(());
        }
        ids.write(|s| {
            s.identity.node = node;
            (s.groups_reserved, s.vdisks_reserved) = (FIRST + BATCH, FIRST + BATCH);
        })
        .await?;
        ids.group_next.set(FIRST);
        ids.vdisk_next.set(FIRST);
        let identity = ids.superblock.borrow().identity.clone();
        ids.identity.replace(Rc::new(identity));
        Ok(())
    }

    /// vDisks that are no family may need each other's groups, or may have needed them once.
    pub fn is_sharing(&self) -> bool {
        self.ids.is_sharing.get()
    }

    /// From here on they may: who does not know what that means refuses the disk. Durable when it completes, in both copies,
    /// so that it is known whichever is lost.
    pub async fn begin_sharing(&self) -> Result<()> {
        let ids = &self.ids;
        let _turn = ids.writing.acquire(1).await;
        if self.is_sharing() {
            return Ok(());
        }
        for _copy in 0..2 {
            ids.write(|s| s.is_sharing = true).await?;
        }
        ids.is_sharing.set(true);
        Ok(())
    }

    /// An id for a new vDisk: node number, shard and a count, unique for ever.
    pub async fn next_vdisk_id(&self) -> Result<VdiskId> {
        self.ids.next(Counter::Vdisk).await.map(|(node, count)| VdiskId::new(node, count))
    }

    /// An id for a snapshot or a set of them, from the same count.
    pub async fn next_snapshot_id(&self) -> Result<SnapshotId> {
        self.ids.next(Counter::Vdisk).await.map(|(node, count)| SnapshotId::new(node, count))
    }
}
