//! A trivially simple engine that keeps every promise, and the same with one deliberate bug at a time.
//!
//! It is how the oracle is tested: the correct one must pass everything, each broken one must be caught.
//! One log file holds every record; a recovery copies what is valid into a new file and goes on there.

mod device;
mod log;
mod record;
mod snapshots;

#[cfg(test)]
mod tests;

use crate::disk::Crash;
use crate::engine::{Changed, Engine, Node, Side, SnapshotInfo, VdiskInfo};
use crate::rng::Rng;
use block::{BlockDevice, Error, Kind, Result};
use bytes::Bytes;
use log::Log;
use record::{Place, Record, Verb};
use snapshots::{HALF_SECTORS, Snapshot};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use world::local::{Permit, Semaphore};
use world::{Disk, LocalFuture, World};

/// What a broken engine does wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    None,
    /// Writes are acknowledged when they are submitted.
    AcksBeforeWrite,
    /// A flush is acknowledged without a sync.
    ForgetsSync,
    /// FUA is ignored.
    ForgetsFua,
    /// Reports a flush done although its sync failed.
    HidesFailedSync,
    /// After a failed sync it syncs again and believes the second answer.
    RetriesSync,
    /// Recovery takes payloads on trust.
    TrustsPayload,
    /// Recovery leaves out a broken record and goes on with the next.
    SkipsHoles,
    /// Appends behind the cut in the same file without a chain: old tails come back.
    Resurrects,
    /// Now and then a read comes from the state before the last write.
    ReadsStale,
    /// Reads verify nothing.
    TrustsReads,
    /// A write that crosses a block boundary swaps two sectors.
    Misplaces,
    /// Writes are split into records of less than a block.
    TearsBlocks,
    /// Writes of several blocks are split into two records.
    TearsWrites,
    /// Looks at what is there before it is its turn to write.
    ComparesEarly,
    /// Trims are forgotten by a restart.
    ForgetsTrims,
    /// Names are changed in memory only.
    ForgetsRename,
    /// Notes are not synced.
    ForgetsNotes,
    /// Accepts writes to a read-only vDisk.
    WritesReadOnly,
    /// Now and then an answer never comes.
    LosesAnswers,
    /// Snapshots are not synced.
    ForgetsSnapshot,
    /// What is written later shows in a snapshot.
    SharesSnapshot,
    /// Deletions of snapshots are in memory only.
    RevivesSnapshot,
    /// Members of a set are cut one after the other, while the others go on.
    CutsOneByOne,
    /// A clone starts with what its source is now.
    ClonesNow,
    /// Each of several clones has a record of its own.
    ClonesSome,
    /// A rollback is two records.
    HalvesRollback,
    /// A comparison sees only what was added.
    OverlooksTrims,
}

pub struct Toy {
    pub bug: Bug,
}

impl Engine for Toy {
    fn open(&self, world: World, disk: Rc<dyn Disk>) -> LocalFuture<Result<Rc<dyn Node>>> {
        let bug = self.bug;
        Box::pin(async move {
            let mut state = State::default();
            let log = Log::recover(bug, disk, &mut state).await?;
            let shared = Shared {
                bug,
                world,
                log,
                state: RefCell::new(state),
                order: Semaphore::new(1),
                pauses: RefCell::default(),
            };
            Ok(Rc::new(ToyNode { shared: Rc::new(shared) }) as Rc<dyn Node>)
        })
    }
    fn crash(&self, _crash: Crash, _rng: &mut Rng) {}
    fn lose_metadata(&self) -> bool {
        false
    }
    fn recover(&self, world: World, disk: Rc<dyn Disk>) -> LocalFuture<Result<Rc<dyn Node>>> {
        self.open(world, disk)
    }
}

#[derive(Default)]
struct State {
    vdisks: BTreeMap<u64, Vdisk>,
    damaged: bool,
}

struct Vdisk {
    name: String,
    size_bytes: u64,
    read_only: bool,
    notes: BTreeMap<u8, Bytes>,
    sectors: BTreeMap<u64, Place>,
    /// For `Bug::ReadsStale`: the sectors as they were before the last write.
    stale: BTreeMap<u64, Place>,
    /// In order of their age.
    snapshots: Vec<Snapshot>,
}

struct Shared {
    bug: Bug,
    world: World,
    log: Log,
    state: RefCell<State>,
    /// One append at a time.
    order: Rc<Semaphore>,
    /// Sets that hold it.
    pauses: RefCell<BTreeMap<u64, Permit>>,
}

impl State {
    /// What a record does, when it is written as when it is replayed.
    fn apply(&mut self, record: &Record, place: &Place) {
        if let Verb::Create { name, size_bytes } = &record.verb {
            self.vdisks.insert(record.vdisk, Vdisk::new(name.clone(), *size_bytes, BTreeMap::new()));
            return;
        }
        if let Verb::Set { first, text } = &record.verb {
            return self.cut(*first, text);
        }
        if let Verb::Clone { snapshot, first, names } = &record.verb {
            return self.clone_snapshot(record.vdisk, *snapshot, *first, names);
        }
        let Some(vdisk) = self.vdisks.get_mut(&record.vdisk) else { return };
        match &record.verb {
            Verb::Create { .. } | Verb::Set { .. } | Verb::Clone { .. } => unreachable!("seen above"),
            Verb::Write { sector } => {
                for index in 0..record.payload.len() as u64 / 512 {
                    let before = vdisk.sectors.insert(sector + index, Place { index, ..place.clone() });
                    if let Some(before) = before {
                        vdisk.stale.insert(sector + index, before);
                    }
                }
            }
            Verb::Zero { sector, sectors } => {
                let mut tail = vdisk.sectors.split_off(sector);
                vdisk.sectors.append(&mut tail.split_off(&(sector + sectors)));
            }
            Verb::Rename { name } => vdisk.name = name.clone(),
            Verb::Resize { size_bytes } => vdisk.size_bytes = *size_bytes,
            Verb::SetReadOnly { read_only } => vdisk.read_only = *read_only,
            Verb::SetNote { kind } if record.payload.is_empty() => drop(vdisk.notes.remove(kind)),
            Verb::SetNote { kind } => drop(vdisk.notes.insert(*kind, record.payload.clone())),
            Verb::Delete => {
                self.vdisks.remove(&record.vdisk);
            }
            Verb::Snapshot { id, name } => vdisk.snapshot(*id, name),
            Verb::DeleteSnapshot { id } => vdisk.snapshots.retain(|snapshot| snapshot.id != *id),
            Verb::Rollback { snapshot } => vdisk.roll_back(*snapshot, 0..u64::MAX),
            Verb::RollbackHalf { snapshot, sector } => vdisk.roll_back(*snapshot, *sector..sector + HALF_SECTORS),
        }
    }
}

impl Shared {
    /// Appends, then applies: nothing that is not in the log shows.
    async fn append(&self, record: Record, sync: bool) -> Result<()> {
        let permit = self.order.acquire(1).await;
        self.append_in_turn(record).await?;
        drop(permit);
        if sync { self.log.sync().await } else { Ok(()) }
    }

    /// For those who hold the permit.
    async fn append_in_turn(&self, record: Record) -> Result<()> {
        if self.state.borrow().damaged {
            return Err(Error::new(Kind::ReadOnly, "the log is damaged; nothing is written behind that"));
        }
        let place = self.log.append(&record).await?;
        self.state.borrow_mut().apply(&record, &place);
        Ok(())
    }

    async fn note(self: Rc<Self>, vdisk: u64, kind: u8, payload: Bytes) -> Result<()> {
        if !self.state.borrow().vdisks.contains_key(&vdisk) {
            return Err(gone());
        }
        let sync = self.bug != Bug::ForgetsNotes;
        self.append(Record { vdisk, verb: Verb::SetNote { kind }, payload }, sync).await
    }

    async fn control(self: Rc<Self>, vdisk: u64, verb: Verb) -> Result<()> {
        if self.bug == Bug::ForgetsRename
            && let Verb::Rename { name } = verb
        {
            let mut state = self.state.borrow_mut();
            state.vdisks.get_mut(&vdisk).ok_or_else(gone)?.name = name;
            return Ok(());
        }
        if !self.state.borrow().vdisks.contains_key(&vdisk) {
            return Err(gone());
        }
        self.append(Record { vdisk, verb, payload: bytes::Bytes::new() }, true).await
    }
}

fn gone() -> Error {
    Error::new(Kind::Unavailable, "no such vDisk")
}

struct ToyNode {
    shared: Rc<Shared>,
}

impl Node for ToyNode {
    fn list(&self) -> LocalFuture<Result<Vec<VdiskInfo>>> {
        let state = self.shared.state.borrow();
        let info = |(id, vdisk): (&u64, &Vdisk)| VdiskInfo {
            id: *id,
            name: vdisk.name.clone(),
            size_bytes: vdisk.size_bytes,
            read_only: vdisk.read_only,
            notes: vdisk.notes.clone(),
            damaged: state.damaged,
        };
        Box::pin(std::future::ready(Ok(state.vdisks.iter().map(info).collect())))
    }

    fn create(&self, name: String, size_bytes: u64) -> LocalFuture<Result<u64>> {
        let shared = self.shared.clone();
        Box::pin(async move {
            // Never the id of a vDisk that was there before, even if damage made the log forget it.
            let vdisk = shared.world.random.next_u64() >> 16;
            let verb = Verb::Create { name, size_bytes };
            shared.append(Record { vdisk, verb, payload: bytes::Bytes::new() }, true).await?;
            Ok(vdisk)
        })
    }

    fn device(&self, id: u64) -> LocalFuture<Result<Rc<dyn BlockDevice>>> {
        let size_bytes = self.shared.state.borrow().vdisks.get(&id).map(|vdisk| vdisk.size_bytes);
        let device = size_bytes.map(|size_bytes| {
            let (shared, size_bytes) = (self.shared.clone(), size_bytes.into());
            Rc::new(device::ToyDevice { shared, id, size_bytes }) as Rc<dyn BlockDevice>
        });
        let device = device.ok_or_else(gone);
        Box::pin(std::future::ready(device))
    }

    fn rename(&self, id: u64, name: String) -> LocalFuture<Result<()>> {
        Box::pin(self.shared.clone().control(id, Verb::Rename { name }))
    }
    fn resize(&self, id: u64, size_bytes: u64) -> LocalFuture<Result<()>> {
        Box::pin(self.shared.clone().control(id, Verb::Resize { size_bytes }))
    }
    fn set_read_only(&self, id: u64, read_only: bool) -> LocalFuture<Result<()>> {
        Box::pin(self.shared.clone().control(id, Verb::SetReadOnly { read_only }))
    }
    fn set_note(&self, id: u64, kind: u8, bytes: Bytes) -> LocalFuture<Result<()>> {
        Box::pin(self.shared.clone().note(id, kind, bytes))
    }
    fn delete(&self, id: u64) -> LocalFuture<Result<()>> {
        Box::pin(self.shared.clone().control(id, Verb::Delete))
    }
    fn snapshots(&self, id: u64) -> LocalFuture<Result<Vec<SnapshotInfo>>> {
        Box::pin(std::future::ready(self.shared.snapshots(id)))
    }
    fn snapshot(&self, id: u64, name: String) -> LocalFuture<Result<u64>> {
        Box::pin(self.shared.clone().snapshot(id, name))
    }
    fn delete_snapshot(&self, id: u64, snapshot: u64, force: bool) -> LocalFuture<Result<()>> {
        Box::pin(self.shared.clone().delete_snapshot(id, snapshot, force))
    }
    fn snapshot_device(&self, id: u64, snapshot: u64) -> LocalFuture<Result<Rc<dyn BlockDevice>>> {
        Box::pin(std::future::ready(self.shared.clone().snapshot_device(id, snapshot)))
    }
    fn clone_snapshot(&self, id: u64, snapshot: u64, names: Vec<String>) -> LocalFuture<Result<Vec<u64>>> {
        Box::pin(self.shared.clone().clone_snapshot(id, snapshot, names))
    }
    fn rollback(&self, id: u64, snapshot: u64) -> LocalFuture<Result<()>> {
        Box::pin(self.shared.clone().rollback(id, snapshot))
    }
    fn changed(&self, id: u64, from: Side, to: Side) -> LocalFuture<Result<Vec<Changed>>> {
        Box::pin(std::future::ready(self.shared.changed(id, from, to)))
    }
    fn pause(&self, _name: String, _ids: Vec<u64>) -> LocalFuture<Result<u64>> {
        Box::pin(self.shared.clone().pause())
    }
    fn cut(&self, set: u64, name: String, ids: Vec<u64>) -> LocalFuture<Result<Vec<u64>>> {
        Box::pin(self.shared.clone().cut(set, name, ids))
    }
    fn release(&self, set: u64) {
        self.shared.pauses.borrow_mut().remove(&set);
    }
    fn groups_used(&self) -> u64 {
        0
    }
    fn shutdown(&self) -> LocalFuture<Result<()>> {
        let shared = self.shared.clone();
        Box::pin(async move { shared.log.sync().await })
    }
}
