//! Carries out on vDisks what their containers say: the window of those that have none of their own, and a note in the log of
//! each, so that containers outlive the metadata store. What does not succeed is tried again.
//!
//! A log that says something newer than the metadata store is believed: the store is of an earlier time then.

use super::{Stamp, free_name};
use crate::controller::errors::from_node;
use crate::controller::exports::shard_of;
use crate::controller::rewind::of_container;
use crate::controller::verbs::Verbs;
use base::{ContainerId, VdiskId};
use bytes::Bytes;
use control::{Error, Kind, Result};
use futures_util::future::join_all;
use meta::{ContainerNote, ContainerRecord, MemberRecord, Transaction, keys};
use node::Shard;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use vdisk::{NoteKind, Rewind};

/// vDisks that are changed at once: each takes two small frames, and syncs that begin together are shared.
const AT_ONCE: usize = 64;
/// Between attempts: it may be that a disk is full.
const RETRY_PAUSE: Duration = Duration::from_secs(10);
/// While logs are read for the first time since the start.
const READ_PAUSE: Duration = Duration::from_secs(1);

/// Until the controller stops.
pub async fn run(verbs: Arc<Verbs>) {
    while !verbs.is_stopping() {
        let unread = verbs.carry_out_everywhere().await;
        tokio::time::sleep(if unread > 0 { READ_PAUSE } else { RETRY_PAUSE }).await;
    }
}

/// What is read of a vDisk.
struct Said {
    vdisk: VdiskId,
    note: Option<ContainerNote>,
    rewind: Option<Rewind>,
}

/// What its log is to say; `rewind`: nothing if that is its own.
struct Wanted {
    vdisk: VdiskId,
    stamp: Stamp,
    note: Bytes,
    rewind: Option<Option<Rewind>>,
}

impl Verbs {
    /// On those of these that are behind and open: of others the start reads the logs, a few at a time, and what cannot be read
    /// is not asked again and again. How many are still to be read.
    pub(in crate::controller) async fn carry_out_behind(&self, vdisks: &[VdiskId]) -> usize {
        let behind = vdisks.iter().copied().filter(|id| self.containers.is_behind(*id));
        let behind = behind.map(|id| (id, ())).collect();
        let is = |shard: Rc<Shard>, id: VdiskId, ()| async move { Ok((shard.is_open(id), shard.is_unread(id))) };
        let all: Vec<_> = self.on_each(behind, is).await;
        let open: Vec<VdiskId> = all.iter().filter(|(_, is)| matches!(is, Ok((true, _)))).map(|(id, _)| *id).collect();
        self.carry_out_on(&open).await;
        all.iter().filter(|(_, is)| matches!(is, Ok((_, true)))).count()
    }

    pub(in crate::controller) async fn carry_out_everywhere(&self) -> usize {
        let all: Vec<VdiskId> = self.directory.all().into_iter().map(|(_, listed)| listed.id).collect();
        self.carry_out_behind(&all).await
    }

    /// Those of these whose logs are still to be read.
    pub(in crate::controller) async fn unread(&self, vdisks: Vec<VdiskId>) -> Vec<VdiskId> {
        let vdisks = vdisks.into_iter().map(|id| (id, ())).collect();
        let all = self.on_each(vdisks, |shard, id, ()| async move { Ok(shard.is_unread(id)) }).await;
        all.into_iter().filter(|(_, is_unread)| matches!(is_unread, Ok(true))).map(|(id, _)| id).collect()
    }

    /// What the log of this vDisk says that is newer than what is on record. The caller holds the turn of containers.
    pub(in crate::controller) async fn learn_of(&self, vdisk: VdiskId) -> Result<()> {
        let (note, rewind) = self.shards.on(shard_of(vdisk), move |shard| Box::pin(look(shard, vdisk, ()))).await?;
        let note = note.map(|bytes| ContainerNote::decode(&bytes)).transpose();
        let note = note.map_err(|error| Error::internal(error.to_string()))?;
        self.learn_from(&[Said { vdisk, note, rewind }]).await
    }

    /// The same on new ones. Without settings of containers they wait for nobody: a vDisk whose disk hangs may hold the turn.
    pub(in crate::controller) async fn carry_out_on_new(&self, vdisks: &[VdiskId]) {
        self.carry_out_on(&self.containers.said_of_new(vdisks)).await;
    }

    /// What fails is known to whoever asks for the container.
    pub(in crate::controller) async fn carry_out_on(&self, vdisks: &[VdiskId]) {
        for some in vdisks.chunks(AT_ONCE) {
            if self.is_stopping() {
                return;
            }
            let _turn = self.containers.turn.lock().await;
            self.carry_out_some(some).await;
        }
    }

    /// What the logs of those of these that are open say that is newer than what is on record is put there.
    pub(in crate::controller) async fn learn_from_logs(&self, vdisks: Vec<VdiskId>) -> Result<()> {
        let vdisks = vdisks.into_iter().map(|id| (id, ())).collect();
        let all = self.on_each(vdisks, |shard, id, ()| async move { Ok(shard.is_open(id)) }).await;
        let open: Vec<VdiskId> = all.into_iter().filter(|(_, is)| matches!(is, Ok(true))).map(|(id, _)| id).collect();
        for some in open.chunks(AT_ONCE) {
            let _turn = self.containers.turn.lock().await;
            self.learn_from(&self.read(some).await).await?;
        }
        Ok(())
    }

    /// What fails is known to whoever asks for the container.
    async fn read(&self, vdisks: &[VdiskId]) -> Vec<Said> {
        let mut read = Vec::with_capacity(vdisks.len());
        for (vdisk, said) in self.on_each(vdisks.iter().map(|id| (*id, ())).collect(), look).await {
            match said {
                Ok((note, rewind)) => match note.map(|bytes| ContainerNote::decode(&bytes)).transpose() {
                    Ok(note) => read.push(Said { vdisk, note, rewind }),
                    // Of a newer build: what it says is not to be replaced.
                    Err(error) => self.is_not_carried_out(vdisk, &Error::internal(error.to_string())),
                },
                Err(error) => self.is_not_carried_out(vdisk, &error),
            }
        }
        read
    }

    /// The caller holds the turn of containers.
    async fn carry_out_some(&self, vdisks: &[VdiskId]) {
        let read = self.read(vdisks).await;
        if let Err(error) = self.learn_from(&read).await {
            read.iter().for_each(|said| self.is_not_carried_out(said.vdisk, &error));
            return;
        }
        let mut wanted = Vec::with_capacity(read.len());
        for said in &read {
            match self.wanted(said.vdisk) {
                Ok(one) => wanted.push((one.vdisk, one)),
                Err(error) => self.is_not_carried_out(said.vdisk, &error),
            }
        }
        let stamps: BTreeMap<VdiskId, Stamp> = wanted.iter().map(|(vdisk, one)| (*vdisk, one.stamp)).collect();
        for (vdisk, done) in self.on_each(wanted, |shard, _, one| change(shard, one)).await {
            match (done, stamps.get(&vdisk)) {
                (Ok(()), Some(stamp)) => self.containers.is_done(vdisk, *stamp),
                (Ok(()), None) => {}
                (Err(error), _) => self.is_not_carried_out(vdisk, &error),
            }
        }
    }

    /// What logs say that is newer than what is on record, and whose the window is of a vDisk of which nothing is on record.
    async fn learn_from(&self, read: &[Said]) -> Result<()> {
        let (mut containers, mut members) = (BTreeMap::new(), Vec::new());
        for said in read {
            let Some(note) = &said.note else { continue };
            let serial = self.containers.member(said.vdisk).map_or(0, |member| member.serial);
            // A container that it has left may be deleted since.
            if note.member.vdisk == said.vdisk && note.member.serial >= serial {
                self.learn_container(note.container.clone(), &mut containers);
                members.extend(Some(note.member).filter(|member| member.serial > serial));
            }
        }
        let is_default = |id: &ContainerId| id.is_none();
        if self.containers.of_new(ContainerId::NONE).is_some() || containers.keys().any(is_default) {
            let unsaid = read.iter().filter(|said| said.note.is_none() && self.containers.member(said.vdisk).is_none());
            members.extend(unsaid.map(|said| {
                let inherits = said.rewind.is_none();
                MemberRecord { vdisk: said.vdisk, container: ContainerId::NONE, serial: 1, inherits }
            }));
        }
        if containers.is_empty() && members.is_empty() {
            return Ok(());
        }
        let all = containers.values().fold(Transaction::new(), |all, container: &ContainerRecord| {
            all.put(keys::container(container.id), container.encode())
        });
        let put_member = |all: Transaction, one: &MemberRecord| all.put(keys::member(one.vdisk), one.encode());
        self.commit_to_make_room(members.iter().fold(all, put_member)).await?;
        containers.into_values().for_each(|container| self.containers.put(container));
        members.into_iter().for_each(|member| self.containers.put_member(member));
        Ok(())
    }

    fn learn_container(&self, copy: ContainerRecord, found: &mut BTreeMap<ContainerId, ContainerRecord>) {
        let known = found.get(&copy.id).map_or_else(|| self.containers.get(copy.id).serial, |known| known.serial);
        if copy.serial > known {
            let others = self.containers.all();
            let is_other = |other: &ContainerRecord, name: &str| other.id != copy.id && other.name == name;
            let is_taken = |name: &str| others.iter().chain(found.values()).any(|other| is_other(other, name));
            let name = free_name(&copy, is_taken);
            tracing::warn!(container = name, "found in the log of a vDisk, newer than what is on record; taken over");
            found.insert(copy.id, ContainerRecord { name, ..copy });
        }
    }

    /// A window that is not the container's. The log says first that it is its own. The caller holds the turn of containers.
    pub(in crate::controller) async fn give_window(&self, vdisk: VdiskId, rewind: Option<Rewind>) -> Result<()> {
        let wanted = Wanted { rewind: Some(rewind), ..self.wanted(vdisk)? };
        let stamp = wanted.stamp;
        self.shards.on(shard_of(vdisk), move |shard| Box::pin(change(shard, wanted))).await?;
        self.containers.is_done(vdisk, stamp);
        Ok(())
    }

    /// An error: it is on record, and is tried again.
    pub(in crate::controller) async fn carry_out_now(&self, vdisk: VdiskId) -> Result<()> {
        self.carry_out_on(&[vdisk]).await;
        match self.containers.trouble(vdisk) {
            None => Ok(()),
            Some(why) => {
                let text = format!("it is on record, but not carried out on the vDisk yet: {why}; it is tried again");
                Err(Error::new(Kind::Unavailable, text))
            }
        }
    }

    fn wanted(&self, vdisk: VdiskId) -> Result<Wanted> {
        let state = self.containers.lock();
        let stamp = state.stamp(vdisk);
        let Some(member) = state.members.get(&vdisk) else {
            return Ok(Wanted { vdisk, stamp, note: Bytes::new(), rewind: None });
        };
        let container = state.get(member.container);
        if container.serial == 0 && !container.id.is_none() {
            return Err(Error::internal(format!("its container {} is not on record", container.id)));
        }
        let rewind = member.inherits.then(|| container.rewind.map(of_container));
        Ok(Wanted { vdisk, stamp, note: ContainerNote { member: *member, container }.encode(), rewind })
    }

    /// Told once, however often it is tried.
    fn is_not_carried_out(&self, vdisk: VdiskId, error: &Error) {
        if self.directory.find_id(vdisk).is_none() {
            // It was deleted meanwhile.
            return self.containers.forget(vdisk);
        }
        let mut state = self.containers.lock();
        if state.troubles.insert(vdisk, error.message.clone()).as_ref() != Some(&error.message) {
            let container = state.get(state.container_of(vdisk)).name;
            tracing::warn!(%vdisk, container, %error, "what its container says is not carried out yet; it is tried again");
        }
    }

    /// Runs `work` on the workers of the vDisks, side by side.
    async fn on_each<A: Send + 'static, T: Send + 'static, Work: Future<Output = Result<T>> + 'static>(
        &self,
        vdisks: Vec<(VdiskId, A)>,
        work: fn(Rc<Shard>, VdiskId, A) -> Work,
    ) -> Vec<(VdiskId, Result<T>)> {
        let mut by_shard: BTreeMap<u16, Vec<(VdiskId, A)>> = BTreeMap::new();
        for (vdisk, with) in vdisks {
            by_shard.entry(shard_of(vdisk)).or_default().push((vdisk, with));
        }
        let worked = by_shard.into_iter().map(|(number, vdisks)| {
            self.shards.on(number, move |shard| {
                Box::pin(async move {
                    let ids: Vec<VdiskId> = vdisks.iter().map(|(id, _)| *id).collect();
                    let all = vdisks.into_iter().map(|(id, with)| work(shard.clone(), id, with));
                    Ok(ids.into_iter().zip(join_all(all).await).collect::<Vec<_>>())
                })
            })
        });
        // Fails only while the workers end.
        join_all(worked).await.into_iter().flat_map(Result::unwrap_or_default).collect()
    }
}

async fn look(shard: Rc<Shard>, id: VdiskId, (): ()) -> Result<(Option<Bytes>, Option<Rewind>)> {
    let vdisk = shard.vdisk(id).await.map_err(from_node)?;
    Ok((vdisk.note(NoteKind::Container), vdisk.rewind()))
}

/// The note first: of a vDisk without one the window would be its own after the loss of the metadata store.
async fn change(shard: Rc<Shard>, wanted: Wanted) -> Result<()> {
    let vdisk = shard.vdisk(wanted.vdisk).await.map_err(from_node)?;
    if vdisk.note(NoteKind::Container).unwrap_or_default() != wanted.note {
        shard.set_note(wanted.vdisk, NoteKind::Container, wanted.note).await.map_err(from_node)?;
    }
    if let Some(rewind) = wanted.rewind.filter(|rewind| vdisk.rewind() != *rewind) {
        shard.set_rewind(wanted.vdisk, rewind).await.map_err(from_node)?;
    }
    Ok(())
}
