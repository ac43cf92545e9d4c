//! The verbs on snapshots in memory: a snapshot is a copy of all blocks.

use super::{Blocks, Model, State, Vdisk, ready};
use crate::rules::snapshots as rules;
use crate::{
    Change, ChangesPage, ControlFuture, Error, ListChanges, MakeClones, Result, RolledBack, SnapshotControl,
    SnapshotInfo, SnapshotSpace, SpaceShare, VdiskInfo, VdiskSpace, VdiskState,
};
use base::units::BLOCK;
use std::collections::BTreeSet;

/// Moments of the model's clock, which stands still.
pub(super) const NOW_UNIX_MS: u64 = 1_700_000_000_000;

pub(super) struct Snapshot {
    pub info: SnapshotInfo,
    blocks: Blocks,
}

impl Model {
    /// What a front-end would report.
    pub fn set_readers(&self, vdisk: &str, snapshot: &str, connections: u32) {
        let mut state = self.lock();
        let found = state.vdisk(vdisk).expect("the test made it").snapshot_mut(snapshot);
        found.expect("the test made it").info.connections = connections;
    }
}

impl Vdisk {
    fn snapshot(&self, name: &str) -> Result<&Snapshot> {
        let found = self.snapshots.iter().find(|snapshot| snapshot.info.name == name);
        found.ok_or_else(|| Error::no_snapshot(&self.info.name, name))
    }

    fn snapshot_mut(&mut self, name: &str) -> Result<&mut Snapshot> {
        let missing = Error::no_snapshot(&self.info.name, name);
        self.snapshots.iter_mut().find(|snapshot| snapshot.info.name == name).ok_or(missing)
    }

    pub(super) fn as_writable(&self) -> VdiskInfo {
        VdiskInfo { read_only: false, state: VdiskState::Online, connections: 0, rewind: None, ..self.info.clone() }
    }

    /// `None`: as it is now.
    pub(super) fn blocks_of(&self, side: Option<&str>) -> Result<&Blocks> {
        match side {
            None => Ok(&self.blocks),
            Some(name) => Ok(&self.snapshot(name)?.blocks),
        }
    }

    pub(super) fn keep(&mut self, name: &str, number: u32, set: Option<String>) -> SnapshotInfo {
        let info = SnapshotInfo {
            id: format!("s1.{number:x}"),
            vdisk: self.info.name.clone(),
            name: name.to_string(),
            created_unix_ms: NOW_UNIX_MS,
            size_bytes: self.info.size_bytes,
            sector_bytes: self.info.sector_bytes,
            mapped_bytes: self.info.mapped_bytes,
            set,
            target_name: crate::snapshot_target_name(&self.info.name, name),
            connections: 0,
        };
        self.snapshots.push(Snapshot { info: info.clone(), blocks: self.blocks.clone() });
        info
    }

    pub(super) fn put_back(&mut self, snapshot: &str) -> Result<()> {
        self.blocks = self.snapshot(snapshot)?.blocks.clone();
        self.info.mapped_bytes = self.blocks.len() as u64 * BLOCK;
        self.info.stored_bytes = self.info.mapped_bytes;
        Ok(())
    }

    fn changes(&self, request: &ListChanges) -> Result<ChangesPage> {
        rules::check_changes_limit(request.limit)?;
        let nothing = Blocks::new();
        let before = match &request.from {
            None => &nothing,
            Some(name) => self.blocks_of(Some(name))?,
        };
        let after = self.blocks_of(request.to.as_deref())?;
        let known: BTreeSet<u64> = before.keys().chain(after.keys()).copied().collect();
        let first = request.offset / BLOCK;
        let differ = known.range(first..).filter(|index| before.get(index) != after.get(index));
        let mut changes: Vec<Change> = Vec::new();
        for index in differ {
            let (offset, data) = (index * BLOCK, after.contains_key(index));
            let page_is_full = changes.len() == request.limit as usize;
            match changes.last_mut() {
                Some(last) if last.offset + last.len == offset && last.data == data => last.len += BLOCK,
                _ if page_is_full => return Ok(ChangesPage { changes, next: Some(offset) }),
                _ => changes.push(Change { offset, len: BLOCK, data }),
            }
        }
        Ok(ChangesPage { changes, next: None })
    }
}

impl State {
    /// Equal blocks at one place are one, and there are no maps.
    fn space(&mut self, name: &str) -> Result<VdiskSpace> {
        self.vdisk(name)?;
        let of_vdisk = |vdisk: &Vdisk| -> Vec<Blocks> {
            let kept = vdisk.snapshots.iter().map(|snapshot| snapshot.blocks.clone());
            [vdisk.blocks.clone()].into_iter().chain(kept).collect()
        };
        let vdisk = &self.vdisks[name];
        let mine = of_vdisk(vdisk);
        let others: Vec<Blocks> =
            self.vdisks.iter().filter(|(other, _)| *other != name).flat_map(|(_, other)| of_vdisk(other)).collect();
        let is_in = |maps: &[Blocks], block: (&u64, &Vec<u8>)| maps.iter().any(|map| map.get(block.0) == Some(block.1));
        let share = |index: usize| {
            let rest: Vec<Blocks> =
                mine.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, map)| map.clone()).collect();
            let is_shared = |block: &(&u64, &Vec<u8>)| is_in(&rest, *block) || is_in(&others, *block);
            let shared = mine[index].iter().filter(is_shared).count() as u64;
            let unique = mine[index].len() as u64 - shared;
            SpaceShare { unique_bytes: unique * BLOCK, shared_bytes: shared * BLOCK }
        };
        let all: BTreeSet<(&u64, &Vec<u8>)> = mine.iter().flatten().collect();
        let alone = all.into_iter().filter(|block| !is_in(&others, *block)).count() as u64;
        let names = vdisk.snapshots.iter().map(|snapshot| snapshot.info.name.clone());
        let snapshots = names.zip(1..).map(|(name, index)| SnapshotSpace { name, share: share(index) });
        Ok(VdiskSpace {
            vdisk: name.to_string(),
            alone_bytes: alone * BLOCK,
            now: share(0),
            snapshots: snapshots.collect(),
        })
    }

    /// The vDisk, or its snapshot as a vDisk.
    pub(super) fn readable(&mut self, name: &str) -> Result<Vdisk> {
        let (vdisk, snapshot) = rules::split(name);
        let vdisk = self.vdisk(vdisk)?;
        let size_bytes = match snapshot {
            Some(snapshot) => vdisk.snapshot(snapshot)?.info.size_bytes,
            None => vdisk.info.size_bytes,
        };
        let info = VdiskInfo { size_bytes, ..vdisk.info.clone() };
        Ok(Vdisk { info, blocks: vdisk.blocks_of(snapshot)?.clone(), snapshots: Vec::new() })
    }

    pub(super) fn create_snapshot(&mut self, vdisk: &str, name: &str) -> Result<SnapshotInfo> {
        rules::check_snapshot_name(name)?;
        let number = self.next_number();
        let vdisk = self.vdisk(vdisk)?;
        if vdisk.snapshot(name).is_ok() {
            return Err(Error::snapshot_exists(&vdisk.info.name, name));
        }
        rules::check_snapshot_count(&vdisk.info.name, vdisk.snapshots.len())?;
        Ok(vdisk.keep(name, number, None))
    }

    fn delete_snapshot(&mut self, vdisk: &str, name: &str, force: bool) -> Result<()> {
        let SnapshotInfo { connections, set, .. } = self.vdisk(vdisk)?.snapshot(name)?.info.clone();
        self.check_no_part(vdisk, name, set.as_deref())?;
        if connections > 0 && !force {
            return Err(Error::snapshot_busy(vdisk, name, connections));
        }
        self.vdisk(vdisk)?.snapshots.retain(|snapshot| snapshot.info.name != name);
        Ok(())
    }

    pub(super) fn make_clones(&mut self, vdisk: &str, clones: MakeClones) -> Result<Vec<VdiskInfo>> {
        let names = rules::clone_names(&clones)?;
        if let Some(taken) = names.iter().find(|name| self.vdisks.contains_key(*name)) {
            return Err(Error::exists(taken));
        }
        let source = self.vdisk(vdisk)?;
        let blocks = source.blocks_of(clones.snapshot.as_deref())?.clone();
        let info = source.as_writable();
        self.check_room(&info.container, blocks.len() as u64 * BLOCK * names.len() as u64)?;
        Ok(names.into_iter().map(|name| self.insert_clone(&info, name, &blocks)).collect())
    }

    pub(super) fn insert_clone(&mut self, like: &VdiskInfo, name: String, blocks: &Blocks) -> VdiskInfo {
        let mapped_bytes = blocks.len() as u64 * BLOCK;
        let id = format!("v1.{:x}", self.next_number());
        let info = VdiskInfo { id, name: name.clone(), mapped_bytes, stored_bytes: 0, ..like.clone() };
        self.vdisks.insert(name.clone(), Vdisk { info, blocks: blocks.clone(), snapshots: Vec::new() });
        self.inherit(&name).expect("just inserted, where its source is")
    }

    pub(super) fn roll_back(&mut self, vdisk: &str, snapshot: &str) -> Result<RolledBack> {
        let number = self.next_number();
        self.check_no_template(vdisk)?;
        let vdisk = self.vdisk(vdisk)?;
        vdisk.snapshot(snapshot)?;
        vdisk.writable()?;
        if vdisk.info.connections > 0 {
            return Err(Error::rollback_while_connected(&vdisk.info.name, vdisk.info.connections));
        }
        rules::check_snapshot_count(&vdisk.info.name, vdisk.snapshots.len())?;
        let name = rules::kept_name(NOW_UNIX_MS, |name| vdisk.snapshot(name).is_ok());
        let kept = vdisk.keep(&name, number, None);
        vdisk.put_back(snapshot)?;
        Ok(RolledBack { vdisk: vdisk.info.clone(), kept })
    }
}

impl SnapshotControl for Model {
    fn list_snapshots<'a>(&'a self, vdisk: &'a str) -> ControlFuture<'a, Vec<SnapshotInfo>> {
        let infos = |vdisk: &mut Vdisk| vdisk.snapshots.iter().map(|snapshot| snapshot.info.clone()).collect();
        ready(self.lock().vdisk(vdisk).map(infos))
    }

    fn create_snapshot<'a>(&'a self, vdisk: &'a str, name: &'a str) -> ControlFuture<'a, SnapshotInfo> {
        ready(self.lock().create_snapshot(vdisk, name))
    }

    fn delete_snapshot<'a>(&'a self, vdisk: &'a str, name: &'a str, force: bool) -> ControlFuture<'a, ()> {
        ready(self.lock().delete_snapshot(vdisk, name, force))
    }

    fn make_clones<'a>(&'a self, vdisk: &'a str, clones: MakeClones) -> ControlFuture<'a, Vec<VdiskInfo>> {
        ready(self.lock().make_clones(vdisk, clones))
    }

    fn roll_back<'a>(&'a self, vdisk: &'a str, snapshot: &'a str) -> ControlFuture<'a, RolledBack> {
        ready(self.lock().roll_back(vdisk, snapshot))
    }

    fn changes<'a>(&'a self, vdisk: &'a str, request: ListChanges) -> ControlFuture<'a, ChangesPage> {
        ready(self.lock().vdisk(vdisk).and_then(|vdisk| vdisk.changes(&request)))
    }

    fn space<'a>(&'a self, vdisk: &'a str) -> ControlFuture<'a, VdiskSpace> {
        ready(self.lock().space(vdisk))
    }
}
