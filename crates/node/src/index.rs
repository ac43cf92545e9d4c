//! The shard's records in the metadata store: an index of what the logs say, kept in memory too.

use crate::{Error, Kind, Result};
use base::{GroupId, Sequence, VdiskId};
use bytes::Bytes;
use meta::{
    BirthsRecord, CheckpointHint, ContainerRecord, MemberRecord, NoteRecord, Outcome, ShardRecord, Store, TailHint,
    Transaction, VdiskRecord, keys,
};
use pool::{Pool, Purpose};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use vdisk::{NoteKind, meta_hint};
use world::LocalFuture;
use world::local::Semaphore;

/// Records read by one scan.
const SCAN_PAGE: usize = 512;

pub(crate) struct MetaIndex {
    pub store: Rc<dyn Store>,
    pub shard: u16,
    pub records: RefCell<BTreeMap<VdiskId, VdiskRecord>>,
    /// Clones that earlier runs began to make, and did not put on record. (What is being made now is not among them.)
    pub unborn: RefCell<BTreeMap<VdiskId, BirthsRecord>>,
    /// Copies of what the logs say.
    notes: RefCell<BTreeMap<(VdiskId, NoteKind), Bytes>>,
    /// One change at a time: each writes the whole record, and must not bring back what another is just replacing.
    turn: Rc<Semaphore>,
    /// Gives up some of its reserve when the store finds the disk full.
    pool: Rc<Pool>,
}

impl MetaIndex {
    /// Reads all records of this shard.
    pub async fn load(store: Rc<dyn Store>, shard: u16, pool: Rc<Pool>) -> Result<Rc<MetaIndex>> {
        let mut records = BTreeMap::new();
        for value in scan(&*store, keys::VDISKS).await? {
            let record = VdiskRecord::decode(&value)?;
            if record.shard == shard {
                records.insert(record.id, record);
            }
        }
        let mut notes = BTreeMap::new();
        for value in scan(&*store, keys::NOTES).await? {
            let note = NoteRecord::decode(&value)?;
            // What a newer build noted is in the log, where it is refused.
            if let (true, Some(kind)) = (records.contains_key(&note.vdisk), NoteKind::from_raw(note.kind)) {
                notes.insert((note.vdisk, kind), note.bytes);
            }
        }
        let mut unborn = BTreeMap::new();
        for value in scan(&*store, keys::BIRTHS).await? {
            let births = BirthsRecord::decode(&value)?;
            if let Some(first) = births.vdisks.first().filter(|_| births.shard == shard) {
                unborn.insert(*first, births);
            }
        }
        let (records, notes, unborn) = (records.into(), notes.into(), unborn.into());
        Ok(Rc::new(MetaIndex { store, shard, records, unborn, notes, turn: Semaphore::new(1), pool }))
    }

    /// A full disk must not keep the store from what makes room: the reserve is for that.
    async fn commit(&self, transaction: Transaction) -> Result<Outcome> {
        self.commit_for(Purpose::Emergency, transaction).await
    }

    async fn commit_for(&self, purpose: Purpose, transaction: Transaction) -> Result<Outcome> {
        loop {
            match self.store.commit(transaction.clone()).await {
                Err(error) if error.kind == meta::Kind::Full && self.pool.make_room_for(purpose).await? => {}
                result => return Ok(result?),
            }
        }
    }

    /// One without compares, which leaves the reserve alone.
    pub async fn commit_more(&self, transaction: Transaction) -> Result<()> {
        committed(self.commit_for(Purpose::Normal, transaction).await?)
    }

    /// One without compares.
    pub async fn commit_all(&self, transaction: Transaction) -> Result<()> {
        committed(self.commit(transaction).await?)
    }

    pub fn record(&self, id: VdiskId) -> Option<VdiskRecord> {
        self.records.borrow().get(&id).cloned()
    }

    /// Of kinds that are indexed.
    pub fn note(&self, id: VdiskId, kind: NoteKind) -> Option<Bytes> {
        self.notes.borrow().get(&(id, kind)).cloned()
    }

    /// Makes the copy of a note what the log says. Asked for when its turn has come: of two changes the later one stays.
    pub async fn follow_note(&self, id: VdiskId, kind: NoteKind, now: impl FnOnce() -> Option<Bytes>) -> Result<()> {
        if !kind.is_indexed() {
            return Ok(());
        }
        let _turn = self.turn.acquire(1).await;
        let now = now();
        if now == self.note(id, kind) {
            return Ok(());
        }
        let key = keys::note(id, kind as u8);
        let transaction = match &now {
            Some(bytes) => {
                Transaction::new().put(key, NoteRecord { vdisk: id, kind: kind as u8, bytes: bytes.clone() }.encode())
            }
            None => Transaction::new().delete(key),
        };
        committed(self.commit(transaction).await?)?;
        let mut notes = self.notes.borrow_mut();
        match now {
            Some(bytes) => drop(notes.insert((id, kind), bytes)),
            None => drop(notes.remove(&(id, kind))),
        }
        Ok(())
    }

    pub async fn shard_record(&self) -> Result<Option<ShardRecord>> {
        let bytes = self.store.get(&keys::shard(self.shard)).await?;
        Ok(bytes.map(|bytes| ShardRecord::decode(&bytes)).transpose()?)
    }

    pub async fn put_shard(&self, record: ShardRecord) -> Result<()> {
        committed(self.commit(Transaction::new().put(keys::shard(self.shard), record.encode())).await?)
    }

    /// A new vDisk, or one that was found in the logs, with its container if something is said of that. `Exists` if the name is
    /// taken.
    pub async fn insert(&self, record: VdiskRecord, member: Option<MemberRecord>) -> Result<()> {
        let _turn = self.turn.acquire(1).await;
        match self.commit(with_new(Transaction::new(), &record, member)).await? {
            Outcome::Committed => {}
            Outcome::Conflict => {
                return Err(Error::new(Kind::Exists, format!("a vDisk {:?} exists already", record.name)));
            }
        }
        self.records.borrow_mut().insert(record.id, record);
        Ok(())
    }

    /// `Exists` if a vDisk of this shard has one of the names, `Invalid` if two of them are the same. (Of other shards the
    /// store knows when it comes to that.)
    pub fn check_names(&self, names: &[String]) -> Result<()> {
        let records = self.records.borrow();
        let taken: BTreeSet<&str> = records.values().filter(|r| !r.deleted).map(|record| &*record.name).collect();
        let mut seen = BTreeSet::new();
        for name in names {
            if taken.contains(&**name) {
                return Err(Error::new(Kind::Exists, format!("a vDisk {name:?} exists already")));
            }
            if !seen.insert(name) {
                return Err(Error::new(Kind::Invalid, format!("the name {name:?} is given twice")));
            }
        }
        Ok(())
    }

    /// Was it begun by an earlier run, and never came to be?
    pub fn is_unborn(&self, id: VdiskId) -> bool {
        self.unborn.borrow().values().any(|births| births.vdisks.contains(&id))
    }

    /// Before clones are begun: if they do not come to be, the next start knows that nobody was told of them.
    pub async fn begin_births(&self, vdisks: Vec<VdiskId>) -> Result<()> {
        let Some(first) = vdisks.first().copied() else { return Ok(()) };
        let births = BirthsRecord { shard: self.shard, vdisks };
        committed(self.commit(Transaction::new().put(keys::births(first), births.encode())).await?)
    }

    /// Nothing is left of clones that did not come to be.
    pub async fn end_births(&self, first: VdiskId) -> Result<()> {
        committed(self.commit(Transaction::new().delete(keys::births(first))).await?)?;
        self.unborn.borrow_mut().remove(&first);
        Ok(())
    }

    /// New clones, all of them or none, in this container. `Exists` if a name is taken.
    pub async fn insert_all(&self, records: Vec<VdiskRecord>, container: Option<&ContainerRecord>) -> Result<()> {
        let _turn = self.turn.acquire(1).await;
        let ended = match records.first() {
            Some(first) => Transaction::new().delete(keys::births(first.id)),
            None => Transaction::new(),
        };
        let transaction = records.iter().fold(ended, |transaction, record| {
            with_new(transaction, record, container.map(|container| MemberRecord::new(record.id, container.id)))
        });
        match self.commit(transaction).await? {
            Outcome::Committed => {}
            Outcome::Conflict => return Err(Error::new(Kind::Exists, "a vDisk of one of the names exists already")),
        }
        self.records.borrow_mut().extend(records.into_iter().map(|record| (record.id, record)));
        Ok(())
    }

    /// vDisks that never came to be: whatever of them is found later is to be freed. An attempt to put them on record may have
    /// succeeded all the same: then their names are free again. One commit, however many they are.
    pub async fn put_deleted(&self, records: &[VdiskRecord]) -> Result<()> {
        let _turn = self.turn.acquire(1).await;
        let records: Vec<VdiskRecord> =
            records.iter().map(|one| VdiskRecord { deleted: true, ..one.clone() }).collect();
        let put = records.iter().fold(Transaction::new(), |all, record| {
            all.put(keys::vdisk(record.id), record.encode()).delete(keys::member(record.id))
        });
        let mut named = put.clone();
        for record in &records {
            let (name, own) = (keys::name(&record.name), keys::vdisk(record.id));
            if self.store.get(&name).await?.is_some_and(|id| id == own) {
                named = named.compare(name.clone(), Some(own)).delete(name);
            }
        }
        // Another shard cannot have given one of them to anybody else meanwhile; if it all the same has, it stays his.
        if self.commit(named).await? == Outcome::Conflict {
            committed(self.commit(put).await?)?;
        }
        self.records.borrow_mut().extend(records.into_iter().map(|record| (record.id, record)));
        Ok(())
    }

    /// Changes what is not the name.
    pub async fn update(&self, id: VdiskId, change: impl FnOnce(&mut VdiskRecord)) -> Result<()> {
        let _turn = self.turn.acquire(1).await;
        let Some(mut record) = self.record(id) else { return Ok(()) };
        change(&mut record);
        committed(self.commit(Transaction::new().put(keys::vdisk(id), record.encode())).await?)?;
        self.records.borrow_mut().insert(id, record);
        Ok(())
    }

    /// Where checkpoints are and that a log was closed is not believed any more, not by later starts either. How far a
    /// log was synced stays true, however old the record is.
    pub async fn forget_hints(&self) -> Result<()> {
        let ids: Vec<VdiskId> = self.records.borrow().keys().copied().collect();
        for id in ids {
            let forget = |record: &mut VdiskRecord| {
                record.checkpoint = None;
                record.tail = record.tail.map(|tail| TailHint { clean: false, ..tail });
            };
            self.update(id, forget).await?;
        }
        Ok(())
    }

    pub async fn rename(&self, id: VdiskId, new_name: &str) -> Result<()> {
        let _turn = self.turn.acquire(1).await;
        let Some(mut record) = self.record(id) else { return Ok(()) };
        let old_name = std::mem::replace(&mut record.name, new_name.to_string());
        if old_name == new_name {
            return Ok(());
        }
        let name = keys::name(new_name);
        let transaction = Transaction::new()
            .compare(name.clone(), None)
            .delete(keys::name(&old_name))
            .put(name, keys::vdisk(id))
            .put(keys::vdisk(id), record.encode());
        match self.commit(transaction).await? {
            Outcome::Committed => {}
            Outcome::Conflict => return Err(Error::new(Kind::Exists, format!("a vDisk {new_name:?} exists already"))),
        }
        if let Some(record) = self.records.borrow_mut().get_mut(&id) {
            record.name = new_name.to_string();
        }
        Ok(())
    }

    /// The name is free again; the record stays until the groups are.
    pub async fn tombstone(&self, id: VdiskId) -> Result<()> {
        let _turn = self.turn.acquire(1).await;
        let Some(mut record) = self.record(id) else { return Ok(()) };
        record.deleted = true;
        self.records.borrow_mut().insert(id, record.clone());
        let transaction = Transaction::new().delete(keys::name(&record.name)).put(keys::vdisk(id), record.encode());
        let transaction = self.without_notes(id, transaction);
        committed(self.commit(transaction).await?)
    }

    pub async fn remove(&self, id: VdiskId) -> Result<()> {
        let _turn = self.turn.acquire(1).await;
        self.records.borrow_mut().remove(&id);
        let transaction = self.without_notes(id, Transaction::new().delete(keys::vdisk(id)));
        committed(self.commit(transaction).await?)
    }

    fn without_notes(&self, id: VdiskId, transaction: Transaction) -> Transaction {
        self.notes.borrow_mut().retain(|(of, _), _| *of != id);
        let transaction = transaction.delete(keys::member(id));
        NoteKind::ALL.into_iter().fold(transaction, |transaction, kind| transaction.delete(keys::note(id, kind as u8)))
    }
}

fn with_new(transaction: Transaction, record: &VdiskRecord, member: Option<MemberRecord>) -> Transaction {
    let name = keys::name(&record.name);
    let transaction = transaction
        .compare(name.clone(), None)
        .put(name, keys::vdisk(record.id))
        .put(keys::vdisk(record.id), record.encode());
    member.iter().fold(transaction, |all, member| all.put(keys::member(member.vdisk), member.encode()))
}

/// Values of all keys that begin with `prefix`.
async fn scan(store: &dyn Store, prefix: &[u8]) -> Result<Vec<Bytes>> {
    let mut values = Vec::new();
    let mut after: Option<Bytes> = None;
    loop {
        let page = store.scan(prefix, after.as_deref(), SCAN_PAGE).await?;
        after = page.last().map(|(key, _)| key.clone()).filter(|_| page.len() == SCAN_PAGE);
        values.extend(page.into_iter().map(|(_, value)| value));
        if after.is_none() {
            return Ok(values);
        }
    }
}

fn committed(outcome: Outcome) -> Result<()> {
    match outcome {
        Outcome::Committed => Ok(()),
        Outcome::Conflict => unreachable!("a transaction without compares has no conflict"),
    }
}

/// For the vDisks: told of each checkpoint.
pub(crate) struct CheckpointIndex(pub Rc<MetaIndex>);

impl vdisk::Index for CheckpointIndex {
    fn checkpointed(&self, vdisk: VdiskId, place: meta_hint::Place) -> LocalFuture<vdisk::Result<()>> {
        let index = self.0.clone();
        Box::pin(async move {
            let stored = index
                .update(vdisk, |record| {
                    record.checkpoint = Some(hint(place));
                    record.tail = Some(further(record.tail, synced_tail(place.group, place.sequence)));
                })
                .await;
            stored.map_err(|error| vdisk::Error::new(vdisk::Kind::Io, error.to_string()))
        })
    }

    fn synced_into(&self, vdisk: VdiskId, group: GroupId, sequence: Sequence) -> LocalFuture<()> {
        let index = self.0.clone();
        Box::pin(async move {
            let noted = index
                .update(vdisk, |record| record.tail = Some(further(record.tail, synced_tail(group, sequence))))
                .await;
            if let Err(error) = noted {
                tracing::warn!(%vdisk, %error, "the metadata store could not be told of a new group");
            }
        })
    }
}

/// What is known to be synced: the log must reach at least this far at the next start.
pub(crate) fn synced_tail(group: GroupId, sequence: Sequence) -> TailHint {
    TailHint { group, len: 0, sequence, chain: 0, clean: false }
}

/// A log that was synced far stays synced far; `now` is not clean.
fn further(before: Option<TailHint>, now: TailHint) -> TailHint {
    match before {
        Some(before) if before.sequence > now.sequence => TailHint { clean: false, ..before },
        _ => now,
    }
}

pub(crate) fn hint(place: meta_hint::Place) -> CheckpointHint {
    CheckpointHint { group: place.group, offset: place.offset, len: place.len, sequence: place.sequence }
}

pub(crate) fn place(hint: CheckpointHint) -> meta_hint::Place {
    meta_hint::Place { group: hint.group, offset: hint.offset, len: hint.len, sequence: hint.sequence }
}

/// A tail behind which nothing can follow: the vDisk was closed by the run before this one. (One that was closed earlier
/// and not opened since looks the same as one that was opened and not closed.)
pub(crate) fn clean_tail(record: &VdiskRecord, generation_before: u64) -> Option<Sequence> {
    record.tail.filter(|tail| tail.clean && record.epoch.0 == generation_before).map(|tail| tail.sequence)
}
