//! Copies that share extents: one vDisk lends what a range of it holds, another one of the shard (or the same) takes it over
//! ([decision 0014](../../../docs/decisions/0014-copies-that-share-extents.md)).
//!
//! - What is lent is proven to be synced where it is, so that no rewrite and no recovery moves it, and held.
//! - Who takes anything over of a group holds that group from then on, its own groups too, until the whole map of a proven
//!   checkpoint does not lead there (`reclaim/copies.rs`).
//! - Before anything is taken over for the first time the disk says that groups may be needed by strangers: a start hears all of
//!   them before it frees, and a build that knows nothing of it refuses the disk.

use crate::address::Address;
use crate::log::{CopyRecord, Item};
use crate::map::FANOUT;
use crate::references::Holds;
use crate::vdisk::{Health, Vdisk};
use crate::{Error, Kind, Result};
use base::GroupId;
use base::units::BLOCK;
use block::LEND_BYTES_MAX;
use pool::Pool;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use world::local::{OneshotReceiver, oneshot};

/// What one vDisk may refer to in one group, bytes: an extent counts as often as its map has it, and accounts have 32 bits.
const SHARED_BYTES_MAX: u64 = 1 << 30;

/// What a range held when it was lent. Stays as it is while this does.
pub struct Extents {
    pool: Rc<Pool>,
    /// Block by block.
    addresses: Vec<Address>,
    _holds: Holds,
}

impl Extents {
    pub fn len_bytes(&self) -> u64 {
        self.addresses.len() as u64 * BLOCK
    }
}

fn unsupported(why: &str) -> Error {
    Error::new(Kind::Unsupported, why)
}

impl Vdisk {
    /// What the range holds at one moment or several between call and completion, each block whole. `Unsupported`: it has to be read.
    pub(crate) async fn lend(self: &Rc<Self>, offset: u64, len: u32) -> Result<Extents> {
        self.check_range(offset, len.into())?;
        if offset % BLOCK != 0 || u64::from(len) % BLOCK != 0 || len == 0 || len > LEND_BYTES_MAX {
            return Err(unsupported("only whole blocks are lent, not none and not too many"));
        }
        if self.health() != Health::Online || self.stopped.get() {
            return Err(unsupported("only a vDisk that is online lends"));
        }
        if !self.state.borrow().to_rewrite.is_empty() {
            self.flush().await?;
        }
        let rewrites = self.state.borrow().rewrites;
        let mut holds = Holds::new(&self.context.references, []);
        let mut addresses = vec![Address::NONE; (u64::from(len) / BLOCK) as usize];
        let mut at = 0;
        while at < addresses.len() {
            let block = offset / BLOCK + at as u64;
            let count = (FANOUT - (block % FANOUT as u64) as usize).min(addresses.len() - at);
            self.look_up_to_lend(block, &mut addresses[at..at + count], &mut holds).await?;
            at += count;
        }
        self.prove_data().await?;
        if self.state.borrow().rewrites != rewrites {
            return Err(unsupported("a sync failed, and what was found has moved"));
        }
        Ok(Extents { pool: self.context.pool.clone(), addresses, _holds: holds })
    }

    /// Of one leaf. Looked up and held in one step.
    async fn look_up_to_lend(&self, block: u64, out: &mut [Address], holds: &mut Holds) -> Result<()> {
        loop {
            let found = {
                let state = self.state.borrow();
                if !state.to_rewrite.is_empty() {
                    return Err(unsupported("a sync failed, and what is here is about to move"));
                }
                state.tree.lookup_run(block, out)
            };
            match found {
                Ok(()) => break,
                Err(need) => self.load(need).await?,
            }
        }
        let stored = out.iter().filter(|address| address.is_stored());
        stored.for_each(|address| holds.add(address.group()));
        Ok(())
    }

    /// All data so far is synced, and a synced frame says so: from here on it is where it is for whoever reads the log.
    async fn prove_data(self: &Rc<Self>) -> Result<()> {
        let through = self.state.borrow().data_through;
        if self.state.borrow().proof_logged >= through {
            return Ok(());
        }
        self.flush_through(through).await?;
        let sequence = self.ask(|done| Item::Proof { done }).await??;
        self.flush_through(sequence).await
    }

    /// Queues it; the receiver hears when it is acknowledged. `Unsupported`: the bytes have to be written.
    pub(crate) fn queue_take(
        self: &Rc<Self>,
        offset: u64,
        lent: Option<Rc<Extents>>,
    ) -> Result<OneshotReceiver<Result<()>>> {
        let lent = lent.ok_or_else(|| unsupported("lent by another engine"))?;
        self.check_range(offset, lent.len_bytes())?;
        if offset % BLOCK != 0 {
            return Err(unsupported("only whole blocks are taken over"));
        }
        if !Rc::ptr_eq(&lent.pool, &self.context.pool) {
            return Err(unsupported("lent on another disk"));
        }
        self.writable()?;
        let (done, receiver) = oneshot();
        self.enqueue(Item::Take { block: offset / BLOCK, lent, done });
        Ok(receiver)
    }

    /// Whether the log task may append the record.
    pub(crate) fn check_taken(&self, record: &CopyRecord) -> Result<()> {
        if self.state.borrow().history.is_some() || self.edge().is_some() {
            return Err(unsupported("the past of this vDisk would need what others have"));
        }
        let state = self.state.borrow();
        let mut more: BTreeMap<GroupId, u64> = BTreeMap::new();
        record.extents().for_each(|extent| *more.entry(extent.group()).or_default() += u64::from(extent.len()));
        let fits =
            |(group, bytes): (&GroupId, &u64)| u64::from(state.accounts.of(*group).data) + bytes <= SHARED_BYTES_MAX;
        if more.iter().all(fits) { Ok(()) } else { Err(unsupported("a group is referred to too often")) }
    }

    /// Before the first copy that this disk has ever had. `Unsupported`: it cannot be told now.
    pub(crate) async fn tell_the_disk(&self) -> Result<()> {
        let told = self.context.pool.begin_sharing().await;
        told.map_err(|error| {
            tracing::warn!(vdisk = %self.id, %error, "the disk cannot be told of copies that share extents; bytes are moved");
            unsupported("the disk cannot be told of it")
        })
    }

    /// What the next frame takes over is held, and the accounts say so, before there is a trace of the frame anywhere.
    pub(crate) fn hold_taken(&self, record: &CopyRecord) {
        let groups: BTreeSet<GroupId> = record.extents().map(|extent| extent.group()).collect();
        let (mut foreign, mut state) = (self.foreign.borrow_mut(), self.state.borrow_mut());
        let at = state.position.sequence.next();
        for group in groups {
            foreign.add(group);
            self.context.references.becomes_copied(group);
            state.accounts.copied(group, 0, at);
        }
    }
}

impl CopyRecord {
    /// The blocks from `block` on become what was lent.
    pub(crate) fn of(block: u64, lent: &Extents) -> CopyRecord {
        CopyRecord::new(block, &lent.addresses)
    }
}
