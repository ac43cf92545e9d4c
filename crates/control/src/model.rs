//! The verbs on vDisks in memory: what a caller may expect of every implementation, for tests.
//!
//! Blocks of 4 KiB in a map; a missing one reads as zeros. Faults are asked for through [`Model::fail_next`].

mod containers;
mod groups;
mod iscsi;
mod rewind;
mod schedules;
mod snapshots;
mod vms;

use crate::{
    Control, ControlFuture, CreateVdisk, DeleteVdisk, Error, Extent, ExtentPage, Health, IscsiControl, Kind,
    ListVdisks, MemoryStatus, Metrics, NodeStatus, Result, RewindControl, SetVdisk, SnapshotControl, VdiskCounts,
    VdiskInfo, VdiskMetrics, VdiskPage, VdiskState, VmControl, rules,
};
use base::units::BLOCK;
use bytes::{Bytes, BytesMut};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard};

/// Extents on one page: small, so that callers meet a second page.
const EXTENTS_PER_PAGE: usize = 4;

#[derive(Default)]
pub struct Model {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    vdisks: BTreeMap<String, Vdisk>,
    born: u32,
    flushes: u64,
    health: Option<Health>,
    failures: VecDeque<(Verb, Error)>,
    iscsi: iscsi::Iscsi,
    vms: BTreeMap<String, vms::Vm>,
    sets: Vec<vms::Set>,
    groups_of_vms: groups::Groups,
    schedules: BTreeMap<String, crate::ScheduleInfo>,
    containers: containers::Containers,
}

/// The verbs that can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Create,
    Read,
    Write,
    Flush,
    Delete,
}

type Blocks = BTreeMap<u64, Vec<u8>>;

struct Vdisk {
    info: VdiskInfo,
    blocks: Blocks,
    snapshots: Vec<snapshots::Snapshot>,
}

impl Model {
    /// The next call of `verb` fails so; several queue up.
    pub fn fail_next(&self, verb: Verb, error: Error) {
        self.lock().failures.push_back((verb, error));
    }

    pub fn set_health(&self, health: Health) {
        self.lock().health = Some(health);
    }

    /// What a front-end would report.
    pub fn set_connections(&self, name: &str, connections: u32) {
        self.lock().vdisk(name).expect("the test made it").info.connections = connections;
    }

    pub fn flushes(&self) -> u64 {
        self.lock().flushes
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds this")
    }
}

impl State {
    fn vdisk(&mut self, name: &str) -> Result<&mut Vdisk> {
        self.vdisks.get_mut(name).ok_or_else(|| Error::not_found(name))
    }

    fn due(&mut self, verb: Verb) -> Result<()> {
        match self.failures.iter().position(|(which, _)| *which == verb) {
            Some(at) => Err(self.failures.remove(at).expect("just found").1),
            None => Ok(()),
        }
    }

    fn create(&mut self, request: CreateVdisk) -> Result<VdiskInfo> {
        rules::check_create(&request)?;
        self.due(Verb::Create)?;
        if self.vdisks.contains_key(&request.name) {
            return Err(Error::exists(&request.name));
        }
        request.near.as_ref().map_or(Ok(()), |near| self.vdisk(near).map(drop))?;
        let container = request.container.clone().unwrap_or_else(|| rules::containers::DEFAULT.to_string());
        self.check_room(&container, 0)?;
        let info = VdiskInfo {
            id: format!("v1.{:x}", self.next_number()),
            name: request.name.clone(),
            size_bytes: request.size_bytes,
            sector_bytes: request.sector_bytes,
            read_only: false,
            state: VdiskState::Online,
            mapped_bytes: 0,
            stored_bytes: 0,
            created_unix_ms: 1_700_000_000_000,
            connections: 0,
            shard: 0,
            epoch: 1,
            rewind: None,
            container,
            rewind_inherited: true,
        };
        let vdisk = Vdisk { info: info.clone(), blocks: BTreeMap::new(), snapshots: Vec::new() };
        self.vdisks.insert(request.name, vdisk);
        match request.rewind {
            Some(own) => self.set_rewind(&info.name, own),
            None => self.inherit(&info.name),
        }
    }

    fn next_number(&mut self) -> u32 {
        self.born += 1;
        self.born
    }

    fn list(&mut self, request: ListVdisks) -> Result<VdiskPage> {
        rules::check_list_limit(request.limit)?;
        let after = request.after.unwrap_or_default();
        request.container.as_ref().map_or(Ok(()), |name| self.container(name).map(drop))?;
        let is_wanted = |info: &&VdiskInfo| request.container.as_ref().is_none_or(|name| info.container == *name);
        let all = self.vdisks.values().map(|vdisk| &vdisk.info).filter(is_wanted);
        let mut rest = all.filter(|info| info.name > after);
        let vdisks: Vec<VdiskInfo> = rest.by_ref().take(request.limit as usize).cloned().collect();
        let next = rest.next().and(vdisks.last()).map(|info| info.name.clone());
        Ok(VdiskPage { vdisks, next })
    }

    fn rename(&mut self, name: &str, new_name: &str) -> Result<VdiskInfo> {
        rules::check_name(new_name)?;
        self.vdisk(name)?;
        if name != new_name && self.vdisks.contains_key(new_name) {
            return Err(Error::exists(new_name));
        }
        let mut vdisk = self.vdisks.remove(name).ok_or_else(|| Error::not_found(name))?;
        vdisk.info.name = new_name.to_string();
        let info = vdisk.info.clone();
        self.vdisks.insert(new_name.to_string(), vdisk);
        Ok(info)
    }

    fn delete(&mut self, name: &str, delete: DeleteVdisk) -> Result<()> {
        self.due(Verb::Delete)?;
        self.check_belongs_to_none(name)?;
        let vdisk = self.vdisk(name)?;
        if !vdisk.snapshots.is_empty() && !delete.snapshots {
            return Err(Error::has_snapshots(name, vdisk.snapshots.len()));
        }
        let connections = vdisk.info.connections;
        if connections > 0 && !delete.force {
            return Err(Error::busy(name, connections));
        }
        self.vdisks.remove(name);
        Ok(())
    }
}

impl Vdisk {
    fn set_read_only(&mut self, read_only: bool) {
        self.info.read_only = read_only;
        self.info.state = if read_only { VdiskState::ReadOnly } else { VdiskState::Online };
    }

    fn writable(&self) -> Result<()> {
        if self.info.read_only { Err(Error::read_only(&self.info.name)) } else { Ok(()) }
    }

    fn read(&self, offset: u64, len: u32) -> Result<Bytes> {
        rules::check_transfer(self.info.size_bytes, offset, len.into())?;
        let mut data = BytesMut::zeroed(len as usize);
        for (index, part, at) in pieces(offset, data.len()) {
            if let Some(block) = self.blocks.get(&index) {
                data[at..at + part.len()].copy_from_slice(&block[part]);
            }
        }
        Ok(data.freeze())
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        rules::check_transfer(self.info.size_bytes, offset, data.len() as u64)?;
        self.writable()?;
        for (index, part, at) in pieces(offset, data.len()) {
            let block = self.blocks.entry(index).or_insert_with(|| vec![0; BLOCK as usize]);
            let len = part.len();
            block[part].copy_from_slice(&data[at..at + len]);
        }
        self.info.mapped_bytes = self.blocks.len() as u64 * BLOCK;
        self.info.stored_bytes = self.info.mapped_bytes;
        Ok(())
    }

    fn write_zeroes(&mut self, offset: u64, len: u64) -> Result<()> {
        rules::check_range(self.info.size_bytes, offset, len)?;
        self.writable()?;
        let end = offset + len;
        self.blocks.retain(|index, block| {
            let start = index * BLOCK;
            let (from, to) = (offset.clamp(start, start + BLOCK), end.clamp(start, start + BLOCK));
            block[(from - start) as usize..(to - start) as usize].fill(0);
            to - from < BLOCK
        });
        self.info.mapped_bytes = self.blocks.len() as u64 * BLOCK;
        self.info.stored_bytes = self.info.mapped_bytes;
        Ok(())
    }

    fn extents(&self, offset: u64, len: u64) -> Result<ExtentPage> {
        rules::check_range(self.info.size_bytes, offset, len)?;
        let end = offset + len;
        let mut extents: Vec<Extent> = Vec::new();
        let mut at = offset;
        while at < end {
            let data = self.blocks.contains_key(&(at / BLOCK));
            let next = if data { (at / BLOCK + 1) * BLOCK } else { self.data_after(at) }.min(end);
            let page_is_full = extents.len() == EXTENTS_PER_PAGE;
            match extents.last_mut() {
                Some(last) if last.data == data => last.len += next - at,
                _ if page_is_full => return Ok(ExtentPage { extents, next: Some(at) }),
                _ => extents.push(Extent { offset: at, len: next - at, data }),
            }
            at = next;
        }
        Ok(ExtentPage { extents, next: None })
    }

    fn data_after(&self, at: u64) -> u64 {
        self.blocks.range(at / BLOCK..).next().map_or(u64::MAX, |(index, _)| index * BLOCK)
    }
}

/// A range cut at blocks: number of the block, part of it, position in the range.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, Range<usize>, usize)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let address = offset + at as u64;
        let start = (address % BLOCK) as usize;
        let part = start..(start + len - at).min(BLOCK as usize);
        let piece = (address / BLOCK, part.clone(), at);
        at += part.len();
        (!part.is_empty()).then_some(piece)
    })
}

fn ready<'a, T: Send + 'a>(result: Result<T>) -> ControlFuture<'a, T> {
    Box::pin(std::future::ready(result))
}

impl Control for Model {
    fn create_vdisk(&self, request: CreateVdisk) -> ControlFuture<'_, VdiskInfo> {
        ready(self.lock().create(request))
    }

    fn list_vdisks(&self, request: ListVdisks) -> ControlFuture<'_, VdiskPage> {
        ready(self.lock().list(request))
    }

    fn show_vdisk<'a>(&'a self, name: &'a str) -> ControlFuture<'a, VdiskInfo> {
        ready(self.lock().vdisk(name).map(|vdisk| vdisk.info.clone()))
    }

    fn resize_vdisk<'a>(&'a self, name: &'a str, size_bytes: u64) -> ControlFuture<'a, VdiskInfo> {
        let mut state = self.lock();
        ready((|| {
            let info = state.vdisk(name)?.info.clone();
            rules::check_resize(info.size_bytes, size_bytes)?;
            if size_bytes > info.size_bytes {
                state.check_room(&info.container, 0)?;
            }
            let vdisk = state.vdisk(name)?;
            vdisk.info.size_bytes = size_bytes;
            Ok(vdisk.info.clone())
        })())
    }

    fn rename_vdisk<'a>(&'a self, name: &'a str, new_name: &'a str) -> ControlFuture<'a, VdiskInfo> {
        ready(self.lock().rename(name, new_name))
    }

    fn set_vdisk<'a>(&'a self, name: &'a str, set: SetVdisk) -> ControlFuture<'a, VdiskInfo> {
        let mut state = self.lock();
        let checked = if set.read_only == Some(false) { state.check_no_template(name) } else { Ok(()) };
        ready(checked.and_then(|()| {
            let vdisk = state.vdisk(name)?;
            set.read_only.into_iter().for_each(|read_only| vdisk.set_read_only(read_only));
            Ok(vdisk.info.clone())
        }))
    }

    fn delete_vdisk<'a>(&'a self, name: &'a str, delete: DeleteVdisk) -> ControlFuture<'a, ()> {
        ready(self.lock().delete(name, delete))
    }

    fn read<'a>(&'a self, name: &'a str, offset: u64, len: u32) -> ControlFuture<'a, Bytes> {
        let mut state = self.lock();
        ready(state.due(Verb::Read).and_then(|()| state.readable(name)?.read(offset, len)))
    }

    fn write<'a>(&'a self, name: &'a str, offset: u64, data: Bytes) -> ControlFuture<'a, ()> {
        let mut state = self.lock();
        ready(state.due(Verb::Write).and_then(|()| state.vdisk(name)?.write(offset, &data)))
    }

    fn write_zeroes<'a>(&'a self, name: &'a str, offset: u64, len: u64) -> ControlFuture<'a, ()> {
        ready(self.lock().vdisk(name).and_then(|vdisk| vdisk.write_zeroes(offset, len)))
    }

    fn flush<'a>(&'a self, name: &'a str) -> ControlFuture<'a, ()> {
        let mut state = self.lock();
        state.flushes += 1;
        ready(state.due(Verb::Flush).and_then(|()| state.vdisk(name).map(|_| ())))
    }

    fn extents<'a>(&'a self, name: &'a str, offset: u64, len: u64) -> ControlFuture<'a, ExtentPage> {
        ready(self.lock().readable(name).and_then(|vdisk| vdisk.extents(offset, len)))
    }

    fn rewind(&self) -> &dyn RewindControl {
        self
    }

    fn snapshots(&self) -> &dyn SnapshotControl {
        self
    }

    fn vms(&self) -> &dyn VmControl {
        self
    }

    fn containers(&self) -> &dyn crate::ContainerControl {
        self
    }

    fn vm_groups(&self) -> &dyn crate::GroupControl {
        self
    }

    fn schedules(&self) -> &dyn crate::ScheduleControl {
        self
    }

    fn iscsi(&self) -> &dyn IscsiControl {
        self
    }

    fn status(&self) -> ControlFuture<'_, NodeStatus> {
        let state = self.lock();
        let total = state.vdisks.len() as u32;
        ready(Ok(NodeStatus {
            version: env!("CARGO_PKG_VERSION").to_string(),
            node: 1,
            data_directory: "/nowhere".to_string(),
            started_unix_ms: 1_700_000_000_000,
            uptime_seconds: 1,
            health: state.health.clone().unwrap_or(Health::Healthy),
            listeners: Vec::new(),
            shards: Vec::new(),
            disks: Vec::new(),
            memory: MemoryStatus::default(),
            vdisks: VdiskCounts { total, online: total, ..VdiskCounts::default() },
            connections: state.vdisks.values().map(|vdisk| vdisk.info.connections).sum(),
        }))
    }

    fn metrics(&self) -> ControlFuture<'_, Metrics> {
        let state = self.lock();
        let vdisks = state.vdisks.values().map(|vdisk| VdiskMetrics {
            name: vdisk.info.name.clone(),
            state: vdisk.info.state.word().to_string(),
            size_bytes: vdisk.info.size_bytes,
            ..VdiskMetrics::default()
        });
        ready(Ok(Metrics { vdisks: vdisks.collect(), ..Metrics::default() }))
    }
}

/// An error of each kind, for tables.
pub fn every_kind() -> [Error; 9] {
    [
        Error::not_found("n"),
        Error::exists("n"),
        Error::invalid("invalid"),
        Error::busy("n", 1),
        Error::full("n"),
        Error::read_only("n"),
        Error::new(Kind::Damaged, "damaged"),
        Error::new(Kind::Unavailable, "starting"),
        Error::internal("internal"),
    ]
}
