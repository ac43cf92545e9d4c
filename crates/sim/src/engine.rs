//! What is under test, as the oracle sees it: a node on one disk that serves vDisks and obeys control verbs.

use crate::disk::Crash;
use crate::rng::Rng;
use block::{BlockDevice, Result};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::rc::Rc;
use world::{Disk, LocalFuture, World};

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VdiskInfo {
    /// Never reused.
    pub id: u64,
    pub name: String,
    pub size_bytes: u64,
    /// As the user set it.
    pub read_only: bool,
    /// By kind.
    pub notes: BTreeMap<u8, Bytes>,
    /// The node found damage in it and says so; it need not be writable then.
    pub damaged: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotInfo {
    /// Never reused.
    pub id: u64,
    pub name: String,
    pub size_bytes: u64,
}

/// One side of a comparison.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Before anything was written.
    Empty,
    Snapshot(u64),
    /// The vDisk as it is.
    Now,
}

/// How much of its past a vDisk is to keep; 0 bytes: without a limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    pub length_ns: u64,
    pub limit_bytes: u64,
}

/// What a vDisk says of its past.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kept {
    pub window: Window,
    /// The oldest moment, wall time.
    pub since_ns: Option<u64>,
    /// The first write that can be taken back.
    pub since: Option<u64>,
    pub held_bytes: u64,
    pub cut_short: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    At(u64),
    Before(u64),
}

/// Bytes that differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Changed {
    pub offset: u64,
    pub len: u64,
    /// False: reads as zeros on the newer side.
    pub data: bool,
}

/// Where a node finds its state: the disk it is given, and a metadata store that the implementor keeps from one
/// incarnation to the next.
pub trait Engine {
    /// Formats an empty disk, or recovers. Completes when every vDisk can be listed and served.
    fn open(&self, world: World, disk: Rc<dyn Disk>) -> LocalFuture<Result<Rc<dyn Node>>>;
    /// The node is dead (its tasks are dropped already): what becomes of the metadata store's unfinished transactions?
    fn crash(&self, crash: Crash, rng: &mut Rng);
    /// The metadata store is gone, as if its file had been deleted. False: there is none to lose.
    fn lose_metadata(&self) -> bool;
    /// Like `open` after `lose_metadata`: rebuilds the store from the disk first.
    fn recover(&self, world: World, disk: Rc<dyn Disk>) -> LocalFuture<Result<Rc<dyn Node>>>;
}

/// A running node. Every verb is durable, against power loss too, when it completes.
pub trait Node {
    fn list(&self) -> LocalFuture<Result<Vec<VdiskInfo>>>;
    /// The new vDisk's id.
    fn create(&self, name: String, size_bytes: u64) -> LocalFuture<Result<u64>>;
    fn device(&self, id: u64) -> LocalFuture<Result<Rc<dyn BlockDevice>>>;
    fn rename(&self, id: u64, name: String) -> LocalFuture<Result<()>>;
    fn resize(&self, id: u64, size_bytes: u64) -> LocalFuture<Result<()>>;
    fn set_read_only(&self, id: u64, read_only: bool) -> LocalFuture<Result<()>>;
    /// Kinds are 1 and 2; an empty note is none.
    fn set_note(&self, id: u64, kind: u8, bytes: Bytes) -> LocalFuture<Result<()>>;
    fn delete(&self, id: u64) -> LocalFuture<Result<()>>;
    /// In order of their age.
    fn snapshots(&self, id: u64) -> LocalFuture<Result<Vec<SnapshotInfo>>>;
    /// The new snapshot's id.
    fn snapshot(&self, id: u64, name: String) -> LocalFuture<Result<u64>>;
    /// `Unavailable` while somebody reads it, unless `force`.
    fn delete_snapshot(&self, id: u64, snapshot: u64, force: bool) -> LocalFuture<Result<()>>;
    /// Read-only, and counted as a reader until it is dropped.
    fn snapshot_device(&self, id: u64, snapshot: u64) -> LocalFuture<Result<Rc<dyn BlockDevice>>>;
    /// New vDisks, all or none.
    fn clone_snapshot(&self, id: u64, snapshot: u64, names: Vec<String>) -> LocalFuture<Result<Vec<u64>>>;
    fn rollback(&self, id: u64, snapshot: u64) -> LocalFuture<Result<()>>;
    /// All that differs.
    fn changed(&self, id: u64, from: Side, to: Side) -> LocalFuture<Result<Vec<Changed>>>;
    fn past(&self) -> Option<&dyn Past> {
        None
    }
    /// The vDisks acknowledge nothing when it completes, until the set is cut or released, or a second has passed. The set.
    fn pause(&self, name: String, ids: Vec<u64>) -> LocalFuture<Result<u64>>;
    /// One snapshot of each vDisk that is paused, all at one instant, all or none. Their ids, in order of the vDisks.
    fn cut(&self, set: u64, name: String, ids: Vec<u64>) -> LocalFuture<Result<Vec<u64>>>;
    fn release(&self, set: u64);
    /// Extent groups that take space. An engine that has none says 0.
    fn groups_used(&self) -> u64;
    /// Clean: whatever was acknowledged is durable, and the next open replays nothing.
    fn shutdown(&self) -> LocalFuture<Result<()>>;
    /// From here on part of the writes are copies of what was written elsewhere.
    fn begin_copies(&self) {}
    /// Asserts the node's invariants; called between events.
    fn check(&self) {}
}

/// The verbs on the past, of a node that keeps it.
pub trait Past {
    fn keep(&self, id: u64, window: Option<Window>) -> LocalFuture<Result<()>>;
    fn kept(&self, id: u64) -> LocalFuture<Result<Option<Kept>>>;
    /// The new snapshot's id. `Invalid`: outside the window.
    fn snapshot(&self, id: u64, name: String, moment: Moment) -> LocalFuture<Result<u64>>;
    /// Moments of note: the numbers of the writes that follow.
    fn history(&self, id: u64) -> LocalFuture<Result<Vec<u64>>>;
    /// The last write that has its place in the log.
    fn last_write(&self, id: u64) -> Option<u64>;
}
