//! The names of all vDisks and of their snapshots, and who may log in to them over iSCSI, readable from every thread.

use super::access::{AccessNote, Unreadable};
use base::{SnapshotId, VdiskId};
use meta::VdiskRecord;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

#[derive(Clone, Debug)]
pub struct Listed {
    pub id: VdiskId,
    pub shard: u16,
    pub size_bytes: u64,
    pub sector_bytes: u32,
    pub read_only: bool,
    /// Of a clone: the vDisk whose snapshot it began with.
    pub parent: Option<VdiskId>,
    /// Rules that cannot be read let nobody in.
    pub access: Result<Arc<AccessNote>, Unreadable>,
    /// By name. Empty until the vDisk's log has been read after a start.
    pub snapshots: Arc<BTreeMap<String, ListedSnapshot>>,
    /// It is being rolled back: nobody is to connect.
    pub held: bool,
}

impl Listed {
    /// `vdisk`: its name, for what is said if it has no such snapshot.
    pub fn snapshot(&self, vdisk: &str, name: &str) -> control::Result<ListedSnapshot> {
        self.snapshots.get(name).copied().ok_or_else(|| control::Error::no_snapshot(vdisk, name))
    }
}

#[derive(Clone, Copy, Debug)]
pub struct ListedSnapshot {
    pub id: SnapshotId,
    pub size_bytes: u64,
    pub sector_bytes: u32,
}

#[derive(Default)]
pub struct Directory(Mutex<BTreeMap<String, Listed>>);

impl Directory {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Listed>> {
        self.0.lock().expect("a panic under the lock ends the process")
    }

    pub fn find(&self, name: &str) -> Option<Listed> {
        self.lock().get(name).cloned()
    }

    /// The only one of this name, if case does not count.
    pub fn find_ignoring_case(&self, name: &str) -> Option<(String, Listed)> {
        let names = self.lock();
        let mut found = names.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        let only = found.next().map(|(name, listed)| (name.clone(), listed.clone()));
        only.filter(|_| found.next().is_none())
    }

    pub fn find_id(&self, id: VdiskId) -> Option<(String, Listed)> {
        let names = self.lock();
        let mut found = names.iter().filter(|(_, listed)| listed.id == id);
        found.next().map(|(name, listed)| (name.clone(), listed.clone()))
    }

    /// What the record says. Who may log in stays as it is, or is anybody if the vDisk is new; snapshots stay, too.
    pub fn put(&self, record: &VdiskRecord) {
        let mut names = self.lock();
        let before = names.values().find(|listed| listed.id == record.id);
        let before = before.map(|listed| (listed.access.clone(), listed.snapshots.clone(), listed.held));
        let (access, snapshots, held) = before.unwrap_or_else(|| (Ok(Arc::default()), Arc::default(), false));
        names.retain(|name, listed| listed.id != record.id || *name == record.name);
        let listed = Listed {
            id: record.id,
            shard: record.shard,
            size_bytes: record.size_bytes,
            sector_bytes: record.sector_bytes,
            read_only: record.read_only,
            parent: record.clone.map(|clone| clone.parent),
            access,
            snapshots,
            held,
        };
        names.insert(record.name.clone(), listed);
    }

    /// The same, with who may log in as a note says.
    pub fn put_with_access(&self, record: &VdiskRecord, note: Option<&[u8]>) {
        let access = AccessNote::decode(note.unwrap_or_default()).map(Arc::new);
        if let Err(error) = &access {
            tracing::error!(vdisk = %record.id, name = record.name, %error, "nobody can log in over iSCSI");
        }
        self.put(record);
        self.set_access(record.id, access);
    }

    pub fn set_access(&self, id: VdiskId, access: Result<Arc<AccessNote>, Unreadable>) {
        if let Some(listed) = self.lock().values_mut().find(|listed| listed.id == id) {
            listed.access = access;
        }
    }

    pub fn set_snapshots(&self, id: VdiskId, snapshots: BTreeMap<String, ListedSnapshot>) {
        if let Some(listed) = self.lock().values_mut().find(|listed| listed.id == id) {
            listed.snapshots = Arc::new(snapshots);
        }
    }

    pub fn hold(&self, vdisks: &[VdiskId], held: bool) {
        for listed in self.lock().values_mut().filter(|listed| vdisks.contains(&listed.id)) {
            listed.held = held;
        }
    }

    pub fn remove(&self, id: VdiskId) {
        self.lock().retain(|_, listed| listed.id != id);
    }

    pub fn all(&self) -> Vec<(String, Listed)> {
        self.lock().iter().map(|(name, listed)| (name.clone(), listed.clone())).collect()
    }

    /// Names behind `after` of those that are wanted, at most `limit`, and whether there are more.
    pub fn page(
        &self,
        after: Option<&str>,
        limit: usize,
        is_wanted: impl Fn(&Listed) -> bool,
    ) -> (Vec<(String, Listed)>, bool) {
        use std::ops::Bound::{Excluded, Unbounded};
        let names = self.lock();
        let start = after.map_or(Unbounded, Excluded);
        let mut rest = names.range::<str, _>((start, Unbounded)).filter(|(_, listed)| is_wanted(listed));
        let page = rest.by_ref().take(limit).map(|(name, listed)| (name.clone(), listed.clone())).collect();
        (page, rest.next().is_some())
    }
}
