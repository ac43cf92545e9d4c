//! Opening one vDisk: its log is read, then record and log are made to agree, and what a crash has cut short (a birth, a
//! deletion, a rename) is finished or taken back.

use crate::index::{CheckpointIndex, clean_tail, place};
use crate::shard::{Entry, Told, free_name, record_of};
use crate::{Error, Kind, Result, Shard};
use base::{Sequence, VdiskId};
use meta::{ContainerNote, VdiskRecord};
use pool::GroupHeader;
use std::rc::Rc;
use vdisk::{Found, Health, Leftover, NoteKind, Recovered, Vdisk, free_deleted};

/// Who wants a vDisk to be open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Asking {
    Client,
    /// The start, which opens all of them in the background.
    Start,
}

impl Shard {
    /// The vDisk, opened or recovered if it is not yet.
    pub async fn vdisk(self: &Rc<Self>, id: VdiskId) -> Result<Rc<Vdisk>> {
        self.open_vdisk(id, Asking::Client).await
    }

    pub(crate) async fn open_vdisk(self: &Rc<Self>, id: VdiskId, asking: Asking) -> Result<Rc<Vdisk>> {
        loop {
            let entry = self.entries.borrow().get(&id).cloned();
            match entry {
                None => return Err(Error::new(Kind::NotFound, format!("there is no vDisk {id}"))),
                Some(Entry::Open(vdisk)) => return Ok(vdisk),
                Some(Entry::Broken { reason, retry: false }) => return Err(Error::new(Kind::Damaged, reason)),
                Some(Entry::Opening) => self.opened.notified().await,
                Some(Entry::Closed | Entry::Broken { .. }) => {
                    if self.stopping.get() {
                        return Err(Error::new(Kind::Unavailable, "the controller is shutting down"));
                    }
                    self.entries.borrow_mut().insert(id, Entry::Opening);
                    let result = self.recover(id, asking).await;
                    let entry = match &result {
                        Ok(vdisk) => vdisk.clone().map(Entry::Open),
                        Err(error) => {
                            tracing::error!(vdisk = %id, %error, "the vDisk cannot be opened");
                            Some(Entry::Broken { reason: error.to_string(), retry: error.kind != Kind::Damaged })
                        }
                    };
                    {
                        let mut entries = self.entries.borrow_mut();
                        match entry {
                            Some(entry) => drop(entries.insert(id, entry)),
                            None => drop(entries.remove(&id)),
                        }
                    }
                    if let Ok(Some(vdisk)) = &result {
                        // Whoever looked for room before has not seen it.
                        vdisk.history_grows();
                    }
                    match &result {
                        // It is served meanwhile.
                        Ok(Some(vdisk)) if vdisk.has_open_end() || vdisk.may_need_more() => {
                            let (shard, vdisk) = (self.clone(), vdisk.clone());
                            self.context.world.spawn(async move { shard.hear(&vdisk).await });
                        }
                        // Nobody knows what it needs.
                        Err(_) if !self.index.is_unborn(id) => {}
                        _ => self.heard(id),
                    }
                    self.opened.notify();
                    match result {
                        Ok(Some(vdisk)) => return Ok(vdisk),
                        Ok(None) => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
    }

    /// `None`: it turned out to be deleted.
    async fn recover(self: &Rc<Self>, id: VdiskId, asking: Asking) -> Result<Option<Rc<Vdisk>>> {
        let headers = self.headers.borrow().get(&id).cloned().unwrap_or_default();
        let record = self.index.record(id);
        if record.as_ref().is_some_and(|record| record.deleted) {
            self.finish_deletion(id, &headers, record.as_ref()).await?;
            return Ok(None);
        }
        let good = record.as_ref().filter(|_| self.hints_are_good);
        let found = Found {
            headers: headers.clone(),
            checkpoint: good.and_then(|record| record.checkpoint).map(place),
            clean_tail: good.and_then(|record| clean_tail(record, self.generation_before)),
            synced_through: record.as_ref().and_then(|record| record.tail).map(|tail| (tail.group, tail.sequence)),
            // Of a vDisk that a trustworthy index does not know nothing was ever acknowledged.
            unread: self.unread.clone().filter(|_| record.is_some() || self.is_store_behind()),
            in_background: asking == Asking::Start,
            look_only: false,
        };
        let was_clean = found.clean_tail.is_some();
        let index = Rc::new(CheckpointIndex(self.index.clone()));
        let recovered = match Vdisk::recover(self.context.clone(), index, id, found).await {
            Ok(recovered) => recovered,
            Err(error) => {
                if self.finish_deletion(id, &headers, record.as_ref()).await? {
                    return Ok(None);
                }
                return Err(error.into());
            }
        };
        let finished = self.finish_recovery(&recovered, &headers, record, was_clean).await;
        if finished.as_ref().is_ok_and(Option::is_some) {
            self.headers.borrow_mut().remove(&id);
        } else {
            // Gone, or to be tried again from the same headers: this engine must not go on beside the next one.
            recovered.vdisk.stop().await;
            recovered.vdisk.need_nothing();
        }
        finished
    }

    async fn finish_recovery(
        &self,
        recovered: &Recovered,
        headers: &[GroupHeader],
        record: Option<VdiskRecord>,
        was_clean: bool,
    ) -> Result<Option<Rc<Vdisk>>> {
        let id = recovered.vdisk.id;
        self.replayed_bytes.set(self.replayed_bytes.get() + recovered.replayed_bytes);
        self.replay_ns.set(self.replay_ns.get() + recovered.vdisk.stats.replay_ns.get());
        if recovered.attributes.size_bytes == 0 {
            return self.without_birth(recovered, headers, record.as_ref()).await;
        }
        if recovered.vdisk.health() == Health::Deleted {
            recovered.vdisk.stop().await;
            recovered.vdisk.need_nothing();
            let groups = recovered.void.clone();
            let (tombstone, family) = (groups.last().copied(), Some(recovered.vdisk.family().unwrap_or(id)));
            self.leave(Leftover::new(id, family, groups, tombstone)).await?;
            return Ok(None);
        }
        if matches!(recovered.vdisk.health(), Health::Damaged(_)) {
            // Missing groups are no damage if a deletion was cut short while it freed them.
            if Vdisk::find_tombstone(&self.context, id, headers).await?.is_some() {
                recovered.vdisk.stop().await;
                recovered.vdisk.need_nothing();
                self.index.tombstone(id).await?;
                self.finish_deletion(id, headers, record.as_ref()).await?;
                return Ok(None);
            }
        }
        if record.is_none() && recovered.vdisk.family().is_some() && self.was_born_unseen(recovered) {
            // Clones are made all or none, and count when they are on record.
            recovered.void.iter().for_each(|group| recovered.vdisk.free_later(*group));
            recovered.vdisk.delete().await?;
            self.leave(recovered.vdisk.leave().await).await?;
            return Ok(None);
        }
        self.settle(recovered, record, was_clean).await?;
        Ok(Some(recovered.vdisk.clone()))
    }

    /// Groups but no birth: of a creation that a power loss cut short and nobody was told of, if nothing says otherwise.
    async fn without_birth(
        &self,
        recovered: &Recovered,
        headers: &[GroupHeader],
        record: Option<&VdiskRecord>,
    ) -> Result<Option<Rc<Vdisk>>> {
        let vdisk = &recovered.vdisk;
        let expected = record.is_some_and(|record| !record.deleted);
        if expected || vdisk.health() != Health::Online {
            return Err(Error::new(Kind::Damaged, format!("the birth record of vDisk {} cannot be read", vdisk.id)));
        }
        let groups = headers.iter().map(|header| header.group).collect();
        let mut leftover = Leftover::new(vdisk.id, None, groups, None);
        // It is none, and needs nothing.
        self.context.references.heard(vdisk.id);
        if free_deleted(&self.context, &mut leftover).await? {
            self.forget(vdisk.id).await?;
        } else {
            self.leave(leftover).await?;
        }
        Ok(None)
    }

    /// Makes record and log agree: the log's size and switches win; an unfinished rename is taken back.
    async fn settle(&self, recovered: &Recovered, record: Option<VdiskRecord>, was_clean: bool) -> Result<()> {
        let Recovered { vdisk, attributes, .. } = recovered;
        if !was_clean {
            tracing::info!(
                vdisk = %vdisk.id, name = attributes.name, frames = recovered.replayed_frames,
                bytes = recovered.replayed_bytes, ms = vdisk.stats.replay_ns.get() / 1_000_000, "recovered"
            );
        }
        for group in &recovered.void {
            if let Err(error) = self.context.pool.free(*group).await {
                tracing::warn!(vdisk = %vdisk.id, %group, %error, "a void group is not free yet; it is tried again later");
                vdisk.free_later(*group);
            }
        }
        let Some(record) = record else { return self.adopt(recovered).await };
        let has_end = !matches!(vdisk.health(), Health::Damaged(_));
        if record.name != attributes.name && !self.hints_are_good && has_end {
            // The store was restored: the name that the log ends with is the newer one, unless another vDisk has it. (Of a
            // damaged log the end may be missing, and with it the rename.)
            self.follow_log(vdisk.id, &attributes.name).await?;
        }
        let record = self.index.record(vdisk.id).unwrap_or(record);
        if record.name != attributes.name && vdisk.health() == Health::Online {
            // The record is what clients see. If the log cannot be told now, the record follows it: of a rename that was
            // acknowledged both know.
            if let Err(error) = vdisk.rename(&record.name).await {
                tracing::warn!(vdisk = %vdisk.id, %error, name = record.name, "an unfinished rename is given up");
                self.follow_log(vdisk.id, &attributes.name).await?;
            }
        }
        // Nothing else is written for a mere opening: a start with a thousand vDisks would pay a commit for each.
        if (record.size_bytes, record.read_only) != (attributes.size_bytes, attributes.read_only) {
            let update = |record: &mut VdiskRecord| {
                record.size_bytes = attributes.size_bytes;
                record.read_only = attributes.read_only;
            };
            self.index.update(vdisk.id, update).await?;
        }
        self.follow_notes(vdisk).await?;
        if let Some(record) = self.index.record(vdisk.id) {
            self.tell(&record);
        }
        Ok(())
    }

    fn tell(&self, record: &VdiskRecord) {
        let access = self.index.note(record.id, NoteKind::IscsiAccess);
        (self.listener)(record.id, Some(Told { record, access }));
    }

    /// Of a damaged log the end may be missing, and with it newer notes than it has.
    async fn follow_notes(&self, vdisk: &Rc<Vdisk>) -> Result<()> {
        let damaged = matches!(vdisk.health(), Health::Damaged(_));
        for kind in NoteKind::ALL {
            if !damaged || self.index.note(vdisk.id, kind).is_none() {
                self.index.follow_note(vdisk.id, kind, || vdisk.note(kind)).await?;
            }
        }
        Ok(())
    }

    /// The record takes the name that the log says, unless another vDisk has it.
    async fn follow_log(&self, id: VdiskId, name: &str) -> Result<()> {
        match self.index.rename(id, name).await {
            Err(error) if error.kind == Kind::Exists => Ok(()),
            renamed => renamed,
        }
    }

    /// A vDisk that the metadata store does not know: its birth was synced, its record was not written or is lost.
    async fn adopt(&self, recovered: &Recovered) -> Result<()> {
        let vdisk = &recovered.vdisk;
        let mut record = record_of(recovered, self.number, self.context.pool.epoch());
        let note = vdisk.note(NoteKind::Container).and_then(|bytes| ContainerNote::decode(&bytes).ok());
        let member = note.map(|note| note.member).filter(|member| member.vdisk == vdisk.id);
        if let Err(error) = self.index.insert(record.clone(), member).await {
            if error.kind != Kind::Exists {
                return Err(error);
            }
            record.name = free_name(&record.name, vdisk.id);
            vdisk.rename(&record.name).await?;
            self.index.insert(record.clone(), member).await?;
        }
        self.follow_notes(vdisk).await?;
        tracing::warn!(vdisk = %vdisk.id, name = record.name, "found in the log, unknown to the metadata store; taken over");
        self.tell(&record);
        Ok(())
    }

    /// Groups without a chain: the rest of a deleted vDisk, if a tombstone or the record says so.
    async fn finish_deletion(
        &self,
        id: VdiskId,
        headers: &[GroupHeader],
        record: Option<&VdiskRecord>,
    ) -> Result<bool> {
        let tombstone = Vdisk::find_tombstone(&self.context, id, headers).await?;
        if tombstone.is_none() && !record.is_some_and(|record| record.deleted) {
            return Ok(false);
        }
        let groups = headers.iter().map(|header| header.group).collect();
        let family = record.map(|record| record.clone.map_or(id, |clone| clone.family));
        self.leave(Leftover::new(id, family, groups, tombstone)).await?;
        Ok(true)
    }

    pub(crate) async fn hear(&self, vdisk: &Rc<Vdisk>) {
        // Each costs a commit of the metadata store, and clients wait for theirs.
        let _turn = self.hearing.acquire(1).await;
        if vdisk.becomes_sure().await {
            self.heard(vdisk.id);
        }
    }

    /// A clone that an earlier run began to make and never put on record: nobody has heard of it. (The store alone is not
    /// believed: it may be of a time before the clone was put on record in another one, and written to since.)
    fn was_born_unseen(&self, recovered: &Recovered) -> bool {
        let only_birth = recovered.checkpoint.is_none() && recovered.end <= Sequence(1);
        only_birth && self.index.is_unborn(recovered.vdisk.id)
    }
}
