//! Initiator groups: kept in the metadata store, read on every login from memory.

use meta::{InitiatorGroupRecord, Outcome, Store, Transaction, keys};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

/// Groups read by one scan.
const SCAN_PAGE: usize = 256;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    /// Raised by each change: of several copies the highest is the newest.
    pub serial: u64,
    pub initiators: Vec<String>,
}

/// All groups of the controller, readable from every thread.
#[derive(Default)]
pub struct Groups(Mutex<BTreeMap<String, Group>>);

impl Groups {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Group>> {
        self.0.lock().expect("a panic under the lock ends the process")
    }
    pub fn find(&self, name: &str) -> Option<Group> {
        self.lock().get(name).cloned()
    }
    pub fn all(&self) -> Vec<(String, Group)> {
        self.lock().iter().map(|(name, group)| (name.clone(), group.clone())).collect()
    }
    pub fn put(&self, name: &str, group: Group) {
        self.lock().insert(name.to_string(), group);
    }
    pub fn remove(&self, name: &str) {
        self.lock().remove(name);
    }
}

pub async fn load(store: &dyn Store) -> meta::Result<Vec<(String, Group)>> {
    let mut groups = Vec::new();
    let mut after: Option<bytes::Bytes> = None;
    loop {
        let page = store.scan(keys::INITIATOR_GROUPS, after.as_deref(), SCAN_PAGE).await?;
        for (_, value) in &page {
            let InitiatorGroupRecord { name, serial, initiators } = InitiatorGroupRecord::decode(value)?;
            groups.push((name, Group { serial, initiators }));
        }
        after = page.last().map(|(key, _)| key.clone()).filter(|_| page.len() == SCAN_PAGE);
        if after.is_none() {
            return Ok(groups);
        }
    }
}

/// Durable when it completes. `None`: the group goes.
pub async fn store(store: &dyn Store, name: &str, group: Option<&Group>) -> meta::Result<()> {
    let key = keys::initiator_group(name);
    let transaction = match group {
        None => Transaction::new().delete(key),
        Some(Group { serial, initiators }) => {
            let record =
                InitiatorGroupRecord { name: name.to_string(), serial: *serial, initiators: initiators.clone() };
            Transaction::new().put(key, record.encode())
        }
    };
    match store.commit(transaction).await? {
        Outcome::Committed => Ok(()),
        Outcome::Conflict => unreachable!("a transaction without compares has no conflict"),
    }
}
