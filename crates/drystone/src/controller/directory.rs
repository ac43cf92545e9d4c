//! The names of all vDisks, readable from every thread.

use base::VdiskId;
use meta::VdiskRecord;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

#[derive(Clone, Debug)]
pub struct Listed {
    pub id: VdiskId,
    pub shard: u16,
    pub size_bytes: u64,
    pub sector_bytes: u32,
    pub read_only: bool,
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

    pub fn put(&self, record: &VdiskRecord) {
        let mut names = self.lock();
        names.retain(|name, listed| listed.id != record.id || *name == record.name);
        let listed = Listed {
            id: record.id,
            shard: record.shard,
            size_bytes: record.size_bytes,
            sector_bytes: record.sector_bytes,
            read_only: record.read_only,
        };
        names.insert(record.name.clone(), listed);
    }

    pub fn remove(&self, id: VdiskId) {
        self.lock().retain(|_, listed| listed.id != id);
    }

    pub fn all(&self) -> Vec<(String, Listed)> {
        self.lock().iter().map(|(name, listed)| (name.clone(), listed.clone())).collect()
    }

    /// Names behind `after`, at most `limit`, and whether there are more.
    pub fn page(&self, after: Option<&str>, limit: usize) -> (Vec<(String, Listed)>, bool) {
        use std::ops::Bound::{Excluded, Unbounded};
        let names = self.lock();
        let start = after.map_or(Unbounded, Excluded);
        let mut rest = names.range::<str, _>((start, Unbounded));
        let page = rest.by_ref().take(limit).map(|(name, listed)| (name.clone(), listed.clone())).collect();
        (page, rest.next().is_some())
    }
}
