//! The toy's block device: requests become records, reads look up sectors.

use super::record::{Place, Record, Verb};
use super::{Bug, Shared, gone};
use block::{Allocation, BlockDevice, Error, Geometry, Kind, Reply, Request, Result, Segment, Status};
use bytes::{Bytes, BytesMut};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use world::Completion;

const SECTOR: u64 = 512;

pub struct ToyDevice {
    pub shared: Rc<Shared>,
    pub id: u64,
    /// As last seen: a vDisk that was deleted does not become smaller for those who still have it.
    pub size_bytes: Cell<u64>,
}

impl BlockDevice for ToyDevice {
    fn geometry(&self) -> Geometry {
        let state = self.shared.state.borrow();
        let vdisk = state.vdisks.get(&self.id);
        let read_only = vdisk.is_none_or(|vdisk| vdisk.read_only || state.damaged);
        if let Some(vdisk) = vdisk {
            self.size_bytes.set(vdisk.size_bytes);
        }
        Geometry {
            size_bytes: self.size_bytes.get(),
            sector_bytes: 512,
            preferred_bytes: 4096,
            transfer_bytes_max: 32 << 20,
            atomic_bytes_max: 32 << 10,
            read_only,
        }
    }

    fn submit(&self, request: Request) -> Completion<Result<Reply>> {
        if !self.shared.state.borrow().vdisks.contains_key(&self.id) {
            return Completion::Ready(Err(gone()));
        }
        if !self.is_well_formed(&request) {
            return Completion::Ready(Err(Error::new(Kind::Invalid, "unaligned or beyond the end")));
        }
        let (shared, id) = (self.shared.clone(), self.id);
        if shared.bug == Bug::LosesAnswers && shared.world.random.next_u64().is_multiple_of(50) {
            return Completion::pending(std::future::pending());
        }
        match request {
            Request::Read { offset, len } => {
                let places = self.places(offset, len as u64);
                Completion::pending(async move { read(&shared, places).await })
            }
            Request::Write { offset, data, fua } => self.change(offset, data.len() as u64, data, fua, false),
            Request::CompareAndWrite { offset, expected, data, fua } => {
                self.combine(offset, data, fua, move |old, data| match old == expected {
                    true => Ok(data),
                    false => Err(Error::new(Kind::Miscompare, "not what was expected").at(offset)),
                })
            }
            Request::OrWrite { offset, data, fua } => self.combine(offset, data, fua, |old, data| {
                Ok(old.iter().zip(&data).map(|(old, new)| old | new).collect())
            }),
            Request::WriteZeroes { offset, len, fua, .. } => self.change(offset, len, Bytes::new(), fua, true),
            Request::Trim { offset, len, fua } => {
                let start = offset.next_multiple_of(4096);
                let end = (offset + len) / 4096 * 4096;
                if start >= end {
                    return Completion::Ready(Ok(Reply::Done));
                }
                self.change(start, end - start, Bytes::new(), fua, true)
            }
            Request::Flush => Completion::pending(async move { shared.log.sync().await.map(|()| Reply::Done) }),
            Request::Prefetch { .. } => Completion::Ready(Ok(Reply::Done)),
            Request::BlockStatus { offset, len, extents_max } => {
                let state = shared.state.borrow();
                Completion::Ready(Ok(status(&state.vdisks[&id].sectors, offset, len, extents_max)))
            }
        }
    }
}

impl ToyDevice {
    fn is_well_formed(&self, request: &Request) -> bool {
        let (offset, len) = match request {
            Request::Flush => return true,
            Request::Read { offset, len } => (*offset, *len as u64),
            Request::Write { offset, data, .. }
            | Request::CompareAndWrite { offset, data, .. }
            | Request::OrWrite { offset, data, .. } => (*offset, data.len() as u64),
            Request::Trim { offset, len, .. }
            | Request::WriteZeroes { offset, len, .. }
            | Request::Prefetch { offset, len }
            | Request::BlockStatus { offset, len, .. } => (*offset, *len),
        };
        let fits = offset.checked_add(len).is_some_and(|end| end <= self.geometry().size_bytes);
        fits && offset.is_multiple_of(SECTOR) && len.is_multiple_of(SECTOR)
    }

    fn places(&self, offset: u64, len: u64) -> Vec<Option<Place>> {
        let state = self.shared.state.borrow();
        let vdisk = &state.vdisks[&self.id];
        let stale = self.shared.bug == Bug::ReadsStale && self.shared.world.random.next_u64().is_multiple_of(20);
        let source = |sector: u64| match vdisk.stale.get(&sector) {
            Some(place) if stale => Some(place.clone()),
            _ => vdisk.sectors.get(&sector).cloned(),
        };
        (offset / SECTOR..(offset + len) / SECTOR).map(source).collect()
    }

    fn change(&self, offset: u64, len: u64, data: Bytes, fua: bool, zero: bool) -> Completion<Result<Reply>> {
        if self.geometry().read_only && self.shared.bug != Bug::WritesReadOnly {
            return Completion::Ready(Err(Error::new(Kind::ReadOnly, "the vDisk is read-only")));
        }
        let (shared, id, sector) = (self.shared.clone(), self.id, offset / SECTOR);
        let sync = fua && shared.bug != Bug::ForgetsFua;
        let verb = if zero { Verb::Zero { sector, sectors: len / SECTOR } } else { Verb::Write { sector } };
        let record = Record { vdisk: id, verb, payload: misplaced(shared.bug, sector, data) };
        let tears = !zero
            && match shared.bug {
                Bug::TearsBlocks => len > SECTOR,
                Bug::TearsWrites => len > 4096 && sector % 8 == 0,
                _ => false,
            };
        let early = shared.bug == Bug::AcksBeforeWrite && !zero && !fua;
        let task = async move {
            if tears {
                let half = record.payload.len() / SECTOR as usize / 2;
                let cut = if shared.bug == Bug::TearsWrites { half.next_multiple_of(8) } else { half };
                let half = |sector, payload| Record { vdisk: id, verb: Verb::Write { sector }, payload };
                shared.append(half(sector, record.payload.slice(..cut * 512)), false).await?;
                shared.append(half(sector + cut as u64, record.payload.slice(cut * 512..)), sync).await?;
            } else {
                shared.append(record, sync).await?;
            }
            Ok(Reply::Done)
        };
        if early {
            self.shared.world.spawn(async move {
                let _nobody_hears = task.await;
            });
            return Completion::Ready(Ok(Reply::Done));
        }
        Completion::pending(task)
    }
}

impl ToyDevice {
    /// Writes what `make` makes of what is there and of `data`.
    fn combine(
        &self,
        offset: u64,
        data: Bytes,
        fua: bool,
        make: impl FnOnce(Bytes, Bytes) -> Result<Bytes> + 'static,
    ) -> Completion<Result<Reply>> {
        if self.geometry().read_only {
            return Completion::Ready(Err(Error::new(Kind::ReadOnly, "the vDisk is read-only")));
        }
        let device = ToyDevice { shared: self.shared.clone(), id: self.id, size_bytes: self.size_bytes.clone() };
        Completion::pending(async move {
            let shared = &device.shared;
            let early = shared.bug == Bug::ComparesEarly;
            let permit = if early { None } else { Some(shared.order.acquire(1).await) };
            if !shared.state.borrow().vdisks.contains_key(&device.id) {
                return Err(gone());
            }
            let places = device.places(offset, data.len() as u64);
            let Reply::Data(segments) = read(shared, places).await? else { unreachable!("a read has data") };
            let Some(Segment::Bytes(old)) = segments.into_iter().next() else { unreachable!("in one piece") };
            let payload = make(old, data)?;
            let permit = if early { Some(shared.order.acquire(1).await) } else { permit };
            let record = Record { vdisk: device.id, verb: Verb::Write { sector: offset / SECTOR }, payload };
            shared.append_in_turn(record).await?;
            drop(permit);
            if fua { shared.log.sync().await.map(|()| Reply::Done) } else { Ok(Reply::Done) }
        })
    }
}

fn misplaced(bug: Bug, sector: u64, data: Bytes) -> Bytes {
    let crosses = sector / 8 != (sector + data.len() as u64 / SECTOR) / 8;
    if bug != Bug::Misplaces || !crosses || data.len() < 1024 {
        return data;
    }
    let mut data = data.to_vec();
    data[..1024].rotate_left(512);
    data.into()
}

pub fn status(sectors: &BTreeMap<u64, Place>, offset: u64, len: u64, extents_max: u32) -> Reply {
    let mut statuses: Vec<Status> = Vec::new();
    for sector in offset / SECTOR..(offset + len) / SECTOR {
        let allocation = if sectors.contains_key(&sector) { Allocation::Data } else { Allocation::Hole };
        let is_full = statuses.len() == extents_max as usize;
        match statuses.last_mut() {
            Some(last) if last.allocation == allocation => last.len += SECTOR,
            _ if is_full => break,
            _ => statuses.push(Status { len: SECTOR, allocation }),
        }
    }
    Reply::Status(statuses)
}

pub async fn read(shared: &Rc<Shared>, places: Vec<Option<Place>>) -> Result<Reply> {
    let mut data = BytesMut::new();
    let mut last: Option<(u64, Bytes)> = None;
    for place in places {
        let Some(place) = place else {
            data.extend_from_slice(&[0; SECTOR as usize]);
            continue;
        };
        let payload = match last {
            Some((offset, payload)) if offset == place.offset => payload,
            _ => shared.log.read(&place).await?,
        };
        data.extend_from_slice(&payload[place.index as usize * 512..][..512]);
        last = Some((place.offset, payload));
    }
    Ok(Reply::Data(vec![Segment::Bytes(data.freeze())]))
}
