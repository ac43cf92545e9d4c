//! The verbs on a shard's vDisks: log first, then the metadata store, then the answer.

use crate::index::{CheckpointIndex, synced_tail};
use crate::shard::{Entry, record_of_attributes};
use crate::snapshots::hold_of;
use crate::{Error, Kind, Result, Shard};
use base::VdiskId;
use bytes::Bytes;
use meta::{ContainerNote, ContainerRecord, MemberRecord, VdiskRecord};
use std::rc::Rc;
use vdisk::{Attributes, Health, NoteKind, Notes, Rewind, Vdisk};

/// What is said of a new vDisk besides its attributes.
#[derive(Default)]
pub struct BornWith {
    pub container: Option<ContainerRecord>,
    /// Of the past, if that is its own and not the container's. `Some(None)`: nothing is kept.
    pub window: Option<Option<Rewind>>,
}

/// How long a forced deletion waits for connections to end, ns: 5 s, in steps of 10 ms.
const END_WAIT_NS: u64 = 5_000_000_000;
const END_STEP_NS: u64 = 10_000_000;

impl Shard {
    /// The birth tells of all of it: who finds that without a record finds its container and its window, too. Durable when it
    /// completes. Names are unique over all shards of the store.
    pub async fn create(
        self: &Rc<Self>,
        name: &str,
        size_bytes: u64,
        sector_bytes: u32,
        born: BornWith,
    ) -> Result<VdiskRecord> {
        if self.stopping.get() {
            return Err(Error::new(Kind::Unavailable, "the controller is shutting down"));
        }
        let id = self.context.pool.next_vdisk_id().await?;
        let created_ns = self.context.world.clock.wall().0;
        let attributes = Attributes { name: name.to_string(), size_bytes, sector_bytes, read_only: false, created_ns };
        let index = Rc::new(CheckpointIndex(self.index.clone()));
        let record = record_of_attributes(id, attributes.clone(), None, self.number, self.context.pool.epoch());
        let (member, notes) = born_in(id, born.container.as_ref(), born.window.is_none());
        let window = born.window.flatten();
        let created = Vdisk::create(self.context.clone(), index, id, attributes, notes, window).await;
        let vdisk = match created {
            Ok(vdisk) => vdisk,
            Err(error) => {
                self.refuse(vec![record]).await;
                return Err(error.into());
            }
        };
        let record = VdiskRecord { tail: Some(synced_tail(base::GroupId::NONE, vdisk.durable_sequence())), ..record };
        if let Err(error) = self.index.insert(record.clone(), member).await {
            // Nobody has heard of it yet: take it back. But for a name that is taken, it may be on record all the same.
            let taken_back = self.take_back(&vdisk).await;
            if let Err(also) = &taken_back {
                tracing::warn!(vdisk = %id, error = %also, "a vDisk that could not be put on record is not taken back");
            }
            if taken_back.is_err() || error.kind != Kind::Exists {
                self.refuse(vec![record]).await;
            }
            return Err(error);
        }
        self.entries.borrow_mut().insert(id, Entry::Open(vdisk));
        Ok(record)
    }

    /// The births of these may be in the log all the same; no start must take them for vDisks.
    pub(crate) async fn refuse(&self, records: Vec<VdiskRecord>) {
        if let Err(error) = self.index.put_deleted(&records).await {
            for VdiskRecord { id, .. } in &records {
                tracing::warn!(vdisk = %id, %error, "a vDisk that could not be made is not noted as such yet; it is tried again");
            }
            self.refused.borrow_mut().extend(records);
        }
    }

    /// Those of which that could not be noted. An error: there are some still.
    pub(crate) async fn note_refused(&self) -> Result<()> {
        // Each is on the list until it is noted: who looks meanwhile, as a clean stop does, must not find none.
        let all = self.refused.borrow().clone();
        if all.is_empty() {
            return Ok(());
        }
        self.index.put_deleted(&all).await?;
        self.refused.borrow_mut().retain(|one| all.iter().all(|noted| noted.id != one.id));
        Ok(())
    }

    pub async fn rename(self: &Rc<Self>, id: VdiskId, new_name: &str) -> Result<()> {
        let vdisk = self.vdisk(id).await?;
        let old_name = vdisk.attributes().name;
        vdisk.rename(new_name).await?;
        if let Err(error) = self.index.rename(id, new_name).await {
            vdisk.rename(&old_name).await?;
            return Err(error);
        }
        Ok(())
    }

    pub async fn resize(self: &Rc<Self>, id: VdiskId, size_bytes: u64) -> Result<()> {
        self.vdisk(id).await?.resize(size_bytes).await?;
        self.index.update(id, |record| record.size_bytes = size_bytes).await
    }

    pub async fn set_read_only(self: &Rc<Self>, id: VdiskId, on: bool) -> Result<()> {
        self.vdisk(id).await?.set_read_only(on).await?;
        self.index.update(id, |record| record.read_only = on).await
    }

    /// Replaces a note of the vDisk; an empty one removes it. Durable when it completes.
    pub async fn set_note(self: &Rc<Self>, id: VdiskId, kind: NoteKind, bytes: Bytes) -> Result<()> {
        let vdisk = self.vdisk(id).await?;
        vdisk.set_note(kind, bytes).await?;
        self.index.follow_note(id, kind, || vdisk.note(kind)).await
    }

    pub async fn note(self: &Rc<Self>, id: VdiskId, kind: NoteKind) -> Result<Option<Bytes>> {
        Ok(self.vdisk(id).await?.note(kind))
    }

    /// What the metadata store says of a note that is indexed: the same as the log, once that has been read after a start.
    pub fn indexed_note(&self, id: VdiskId, kind: NoteKind) -> Option<Bytes> {
        self.index.note(id, kind)
    }

    /// `Busy` while connected, unless `force`. The space comes back in the background.
    pub async fn delete(self: &Rc<Self>, id: VdiskId, force: bool) -> Result<()> {
        self.leaving.borrow_mut().insert(id);
        let deleted = self.delete_unattached(id, force).await;
        self.leaving.borrow_mut().remove(&id);
        deleted
    }

    async fn delete_unattached(self: &Rc<Self>, id: VdiskId, force: bool) -> Result<()> {
        for hold in self.holds_of(id) {
            let count = self.attachments.count(hold);
            if count > 0 && !force {
                return Err(Error::new(Kind::Busy, format!("{count} clients are connected")));
            }
            if count > 0 {
                self.end_connections(hold).await?;
            }
        }
        match self.vdisk(id).await {
            Ok(vdisk) => {
                let deleted = vdisk.delete().await;
                let is_full = deleted.as_ref().is_err_and(|error| error.kind == vdisk::Kind::Full);
                let takes_nothing = match vdisk.health() {
                    Health::Failed(_) => true,
                    // It may be why the disk is full, and then no room comes before it is gone.
                    Health::Damaged(_) => is_full,
                    Health::Online | Health::Deleted => false,
                };
                let gives_up = force && takes_nothing;
                if !gives_up {
                    deleted?;
                }
                self.end_views(|_, view| view.id == id);
                self.index.tombstone(id).await?;
                self.entries.borrow_mut().remove(&id);
                let mut gone = self.gone.get();
                gone.add(&vdisk.stats);
                self.gone.set(gone);
                let shard = self.clone();
                self.context.world.spawn(async move {
                    if gives_up {
                        vdisk.give_up().await;
                        (shard.listener)(id, None);
                        return shard.context.references.heard(id);
                    }
                    let leftover = vdisk.leave().await;
                    if let Err(error) = shard.leave(leftover).await {
                        tracing::error!(vdisk = %id, %error, "space of a deleted vDisk is not free yet; the next start goes on");
                    }
                });
            }
            // Beyond reading, for now or for good: the record alone says that it is to go; groups without a chain stay in quarantine.
            Err(_) if force && self.is_broken(id) => {
                self.index.tombstone(id).await?;
                self.entries.borrow_mut().remove(&id);
                self.context.references.heard(id);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Not even a read-only view can be had of it.
    pub fn is_broken(&self, id: VdiskId) -> bool {
        matches!(self.entries.borrow().get(&id), Some(Entry::Broken { .. }))
    }

    /// Under which its readers and writers, and the readers of its snapshots, are counted.
    fn holds_of(&self, id: VdiskId) -> Vec<VdiskId> {
        let entries = self.entries.borrow();
        let Some(Entry::Open(vdisk)) = entries.get(&id) else { return vec![id] };
        let snapshots = vdisk.snapshots().into_iter().map(|snapshot| hold_of(snapshot.id));
        [id].into_iter().chain(snapshots).collect()
    }

    /// A vDisk of which nobody has heard yet.
    pub(crate) async fn take_back(&self, vdisk: &Rc<Vdisk>) -> Result<()> {
        vdisk.delete().await?;
        self.leave(vdisk.leave().await).await
    }

    pub(crate) async fn end_connections(&self, id: VdiskId) -> Result<()> {
        self.attachments.end(Some(id));
        let mut waited = 0;
        while self.attachments.count(id) > 0 {
            if waited >= END_WAIT_NS {
                return Err(Error::new(Kind::Busy, "clients are still connected after 5 s; try again"));
            }
            self.context.world.clock.sleep(END_STEP_NS).await;
            waited += END_STEP_NS;
        }
        Ok(())
    }
}

/// What the metadata store and the log say of the container of a new vDisk.
pub(crate) fn born_in(
    id: VdiskId,
    container: Option<&ContainerRecord>,
    inherits: bool,
) -> (Option<MemberRecord>, Notes) {
    let Some(container) = container else { return (None, Notes::new()) };
    let member = MemberRecord { inherits, ..MemberRecord::new(id, container.id) };
    let note = ContainerNote { member, container: container.clone() };
    (Some(member), Notes::from([(NoteKind::Container, note.encode())]))
}
