//! Snapshots, clones, rollbacks and differences of a shard's vDisks, and sets of snapshots that are cut at one instant.

use crate::{Attachment, Error, Kind, Result, Shard};
use base::{SnapshotId, VdiskId};
use meta::VdiskRecord;
use std::rc::Rc;

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

fn missing<T>() -> Result<T> {
    Err(Error::new(Kind::Unavailable, "snapshots are not there yet"))
}

impl Shard {
    /// In order of their age.
    pub async fn snapshots(self: &Rc<Self>, _vdisk: VdiskId) -> Result<Vec<SnapshotSummary>> {
        missing()
    }

    /// Durable when it completes. `Exists` if the vDisk has a snapshot of this name.
    pub async fn snapshot(self: &Rc<Self>, _vdisk: VdiskId, _name: &str) -> Result<SnapshotSummary> {
        missing()
    }

    /// First step of a set: the vDisks acknowledge no more writes when it completes, until [`Shard::cut`],
    /// [`Shard::release`] or a second has passed.
    pub async fn pause(self: &Rc<Self>, _set: SnapshotId, _vdisks: Vec<VdiskId>) -> Result<()> {
        missing()
    }

    /// Second step, when all members on all shards are paused: each vDisk of this shard gets its snapshot and goes on.
    /// Durable when it completes; they count when the metadata store has the set's record, and are to be taken back
    /// with [`Shard::delete_snapshot`] if it cannot be written. `members`: all, on whatever shard.
    pub async fn cut(
        self: &Rc<Self>,
        _set: SnapshotId,
        _name: &str,
        _members: Vec<VdiskId>,
    ) -> Result<Vec<SnapshotSummary>> {
        missing()
    }

    /// Gives the set up.
    pub fn release(&self, _set: SnapshotId) {}

    /// `Busy` while somebody reads it, unless `force`. Its space comes back in the background.
    pub async fn delete_snapshot(self: &Rc<Self>, _vdisk: VdiskId, _snapshot: SnapshotId, _force: bool) -> Result<()> {
        missing()
    }

    /// New vDisks with the snapshot's content, all of them or none. Durable when it completes.
    pub async fn clone_snapshot(
        self: &Rc<Self>,
        _vdisk: VdiskId,
        _snapshot: SnapshotId,
        _names: Vec<String>,
    ) -> Result<Vec<VdiskRecord>> {
        missing()
    }

    /// The vDisk's content becomes the snapshot's; its size stays. `Busy` while connected.
    pub async fn rollback(self: &Rc<Self>, _vdisk: VdiskId, _snapshot: SnapshotId) -> Result<()> {
        missing()
    }

    /// A read-only device.
    pub async fn attach_snapshot(self: &Rc<Self>, _vdisk: VdiskId, _snapshot: SnapshotId) -> Result<Attachment> {
        missing()
    }

    /// What differs from `offset` on, at most `ranges_max` ranges.
    pub async fn changed(
        self: &Rc<Self>,
        _vdisk: VdiskId,
        _from: Side,
        _to: Side,
        _offset: u64,
        _ranges_max: usize,
    ) -> Result<ChangedPage> {
        missing()
    }
}
