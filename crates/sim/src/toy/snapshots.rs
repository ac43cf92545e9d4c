//! The toy's snapshots: copies of a vDisk's table of sectors. Nothing is ever freed.

use super::record::{Place, Record, Verb};
use super::{Bug, Shared, State, Vdisk, gone};
use crate::engine::{Changed, Side, SnapshotInfo};
use block::{BlockDevice, Error, Geometry, Kind, Reply, Request, Result};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;
use world::Completion;

const SECTOR: u64 = 512;
const BLOCK_SECTORS: u64 = 8;
/// What one of the two records of `Bug::HalvesRollback` covers: the first one 16 blocks, which any vDisk has written to.
pub const HALF_SECTORS: u64 = 128;
const PAUSE_NS_MAX: u64 = 1_000_000_000;

pub struct Snapshot {
    pub id: u64,
    name: String,
    size_bytes: u64,
    sectors: BTreeMap<u64, Place>,
    /// Devices have clones of it.
    readers: Rc<()>,
}

impl Vdisk {
    pub fn new(name: String, size_bytes: u64, sectors: BTreeMap<u64, Place>) -> Vdisk {
        Vdisk {
            name,
            size_bytes,
            read_only: false,
            notes: BTreeMap::new(),
            sectors,
            stale: BTreeMap::new(),
            snapshots: Vec::new(),
        }
    }

    pub fn snapshot(&mut self, id: u64, name: &str) {
        let (size_bytes, sectors) = (self.size_bytes, self.sectors.clone());
        self.snapshots.push(Snapshot { id, name: name.to_string(), size_bytes, sectors, readers: Rc::new(()) });
    }

    fn find(&self, id: u64) -> Option<&Snapshot> {
        self.snapshots.iter().find(|snapshot| snapshot.id == id)
    }

    pub fn roll_back(&mut self, snapshot: u64, part: Range<u64>) {
        let Some(snapshot) = self.snapshots.iter().find(|other| other.id == snapshot) else { return };
        self.sectors.retain(|sector, _| !part.contains(sector));
        self.sectors.extend(snapshot.sectors.range(part).map(|(sector, place)| (*sector, place.clone())));
        self.stale.clear();
    }

    fn side(&self, side: Side) -> Option<&BTreeMap<u64, Place>> {
        static EMPTY: BTreeMap<u64, Place> = BTreeMap::new();
        match side {
            Side::Empty => Some(&EMPTY),
            Side::Now => Some(&self.sectors),
            Side::Snapshot(id) => self.find(id).map(|snapshot| &snapshot.sectors),
        }
    }
}

impl State {
    pub fn cut(&mut self, first: u64, text: &str) {
        let mut lines = text.lines();
        let Some(name) = lines.next() else { return };
        for (id, member) in (first..).zip(lines) {
            if let Some(vdisk) = member.parse().ok().and_then(|id: u64| self.vdisks.get_mut(&id)) {
                vdisk.snapshot(id, name);
            }
        }
    }

    pub fn clone_snapshot(&mut self, vdisk: u64, snapshot: u64, first: u64, names: &str) {
        let Some(snapshot) = self.vdisks.get(&vdisk).and_then(|vdisk| vdisk.find(snapshot)) else { return };
        let (size_bytes, sectors) = (snapshot.size_bytes, snapshot.sectors.clone());
        for (id, name) in (first..).zip(names.lines()) {
            self.vdisks.insert(id, Vdisk::new(name.to_string(), size_bytes, sectors.clone()));
        }
    }

    fn snapshot(&self, vdisk: u64, snapshot: u64) -> Result<&Snapshot> {
        self.vdisks.get(&vdisk).and_then(|vdisk| vdisk.find(snapshot)).ok_or_else(gone)
    }
}

impl Shared {
    /// Room behind it for as many ids as one verb may need.
    fn fresh_id(&self) -> u64 {
        self.world.random.next_u64() >> 24 << 8
    }

    pub fn snapshots(&self, id: u64) -> Result<Vec<SnapshotInfo>> {
        let state = self.state.borrow();
        let vdisk = state.vdisks.get(&id).ok_or_else(gone)?;
        let info = |s: &Snapshot| SnapshotInfo { id: s.id, name: s.name.clone(), size_bytes: s.size_bytes };
        Ok(vdisk.snapshots.iter().map(info).collect())
    }

    pub async fn snapshot(self: Rc<Self>, vdisk: u64, name: String) -> Result<u64> {
        if !self.state.borrow().vdisks.contains_key(&vdisk) {
            return Err(gone());
        }
        let id = self.fresh_id();
        let record = Record { vdisk, verb: Verb::Snapshot { id, name }, payload: Bytes::new() };
        self.append(record, self.bug != Bug::ForgetsSnapshot).await?;
        Ok(id)
    }

    pub async fn delete_snapshot(self: Rc<Self>, vdisk: u64, id: u64, force: bool) -> Result<()> {
        let readers = Rc::strong_count(&self.state.borrow().snapshot(vdisk, id)?.readers) - 1;
        if readers > 0 && !force {
            return Err(Error::new(Kind::Unavailable, format!("Busy: {readers} readers")));
        }
        let record = Record { vdisk, verb: Verb::DeleteSnapshot { id }, payload: Bytes::new() };
        if self.bug == Bug::RevivesSnapshot {
            let nowhere = Place { offset: 0, len: 0, crc: 0, index: 0 };
            self.state.borrow_mut().apply(&record, &nowhere);
            return Ok(());
        }
        self.append(record, true).await
    }

    pub fn snapshot_device(self: Rc<Self>, vdisk: u64, id: u64) -> Result<Rc<dyn BlockDevice>> {
        let _reader = self.state.borrow().snapshot(vdisk, id)?.readers.clone();
        Ok(Rc::new(SnapshotDevice { shared: self, vdisk, id, _reader }))
    }

    /// Appends what needs a snapshot, if that is still there when its turn comes.
    async fn append_with(&self, snapshot: u64, record: Record) -> Result<()> {
        let permit = self.order.acquire(1).await;
        self.state.borrow().snapshot(record.vdisk, snapshot)?;
        self.append_in_turn(record).await?;
        drop(permit);
        self.log.sync().await
    }

    pub async fn clone_snapshot(self: Rc<Self>, vdisk: u64, snapshot: u64, names: Vec<String>) -> Result<Vec<u64>> {
        let first = self.fresh_id();
        let ids = (first..).take(names.len()).collect();
        let record =
            |first, names| Record { vdisk, verb: Verb::Clone { snapshot, first, names }, payload: Bytes::new() };
        match self.bug {
            Bug::ClonesSome => {
                for (id, name) in (first..).zip(names) {
                    self.append_with(snapshot, record(id, name)).await?;
                }
            }
            Bug::ClonesNow => {
                let id = self.clone().snapshot(vdisk, "now".into()).await?;
                let verb = Verb::Clone { snapshot: id, first, names: names.join("\n") };
                self.append(Record { vdisk, verb, payload: Bytes::new() }, true).await?;
                self.clone().delete_snapshot(vdisk, id, true).await?;
            }
            _ => self.append_with(snapshot, record(first, names.join("\n"))).await?,
        }
        Ok(ids)
    }

    pub async fn rollback(self: Rc<Self>, vdisk: u64, snapshot: u64) -> Result<()> {
        if self.bug == Bug::HalvesRollback {
            let verb = Verb::RollbackHalf { snapshot, sector: 0 };
            self.append_with(snapshot, Record { vdisk, verb, payload: Bytes::new() }).await?;
        }
        self.append_with(snapshot, Record { vdisk, verb: Verb::Rollback { snapshot }, payload: Bytes::new() }).await
    }

    pub fn changed(&self, id: u64, from: Side, to: Side) -> Result<Vec<Changed>> {
        let state = self.state.borrow();
        let vdisk = state.vdisks.get(&id).ok_or_else(gone)?;
        let (Some(from), Some(to)) = (vdisk.side(from), vdisk.side(to)) else { return Err(gone()) };
        let at = |place: Option<&Place>| place.map(|place| (place.offset, place.index));
        let all: BTreeSet<u64> = from.keys().chain(to.keys()).copied().collect();
        let differs = |sector: &&u64| {
            let overlooked = self.bug == Bug::OverlooksTrims && !to.contains_key(sector);
            at(from.get(*sector)) != at(to.get(*sector)) && !overlooked
        };
        let blocks: BTreeSet<u64> = all.iter().filter(differs).map(|sector| sector / BLOCK_SECTORS).collect();
        let changed = |block: u64| {
            let data = to.range(block * BLOCK_SECTORS..(block + 1) * BLOCK_SECTORS).next().is_some();
            Changed { offset: block * BLOCK_SECTORS * SECTOR, len: BLOCK_SECTORS * SECTOR, data }
        };
        Ok(blocks.into_iter().map(changed).collect())
    }

    pub async fn pause(self: Rc<Self>) -> Result<u64> {
        let set = self.fresh_id();
        let permit = self.order.acquire(1).await;
        self.pauses.borrow_mut().insert(set, permit);
        let shared = self.clone();
        self.world.spawn(async move {
            shared.world.clock.sleep(PAUSE_NS_MAX).await;
            shared.pauses.borrow_mut().remove(&set);
        });
        Ok(set)
    }

    pub async fn cut(self: Rc<Self>, set: u64, name: String, members: Vec<u64>) -> Result<Vec<u64>> {
        let permit = self.pauses.borrow_mut().remove(&set);
        let permit = permit.ok_or_else(|| Error::new(Kind::Unavailable, "the set is not paused any more"))?;
        let first = self.fresh_id();
        let record = |first, members: &[u64]| {
            let members: Vec<String> = members.iter().map(u64::to_string).collect();
            let verb = Verb::Set { first, text: format!("{name}\n{}", members.join("\n")) };
            Record { vdisk: 0, verb, payload: Bytes::new() }
        };
        if self.bug == Bug::CutsOneByOne {
            drop(permit);
            for (id, member) in (first..).zip(&members) {
                self.append(record(id, &[*member]), true).await?;
            }
        } else {
            self.append_in_turn(record(first, &members)).await?;
            drop(permit);
            self.log.sync().await?;
        }
        Ok((first..).take(members.len()).collect())
    }
}

struct SnapshotDevice {
    shared: Rc<Shared>,
    vdisk: u64,
    id: u64,
    _reader: Rc<()>,
}

impl BlockDevice for SnapshotDevice {
    fn geometry(&self) -> Geometry {
        let state = self.shared.state.borrow();
        Geometry {
            size_bytes: state.snapshot(self.vdisk, self.id).map_or(0, |snapshot| snapshot.size_bytes),
            sector_bytes: 512,
            preferred_bytes: 4096,
            transfer_bytes_max: 32 << 20,
            atomic_bytes_max: 32 << 10,
            read_only: true,
        }
    }

    fn submit(&self, request: Request) -> Completion<Result<Reply>> {
        let state = self.shared.state.borrow();
        let (Some(vdisk), Ok(snapshot)) = (state.vdisks.get(&self.vdisk), state.snapshot(self.vdisk, self.id)) else {
            return Completion::Ready(Err(gone()));
        };
        let sectors = if self.shared.bug == Bug::SharesSnapshot { &vdisk.sectors } else { &snapshot.sectors };
        match request {
            Request::Read { offset, len } if offset + u64::from(len) > snapshot.size_bytes => {
                Completion::Ready(Err(Error::new(Kind::Invalid, "beyond the end")))
            }
            Request::Read { offset, len } => {
                let range = offset / SECTOR..(offset + u64::from(len)) / SECTOR;
                let places = range.map(|sector| sectors.get(&sector).cloned()).collect();
                let shared = self.shared.clone();
                Completion::pending(async move { super::device::read(&shared, places).await })
            }
            Request::Flush | Request::Prefetch { .. } => Completion::Ready(Ok(Reply::Done)),
            Request::BlockStatus { offset, len, extents_max } => {
                Completion::Ready(Ok(super::device::status(sectors, offset, len, extents_max)))
            }
            _ => Completion::Ready(Err(Error::new(Kind::ReadOnly, "snapshots are read-only"))),
        }
    }
}
