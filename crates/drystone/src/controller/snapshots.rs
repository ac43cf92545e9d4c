//! The verbs on snapshots of single vDisks, on clones and rollbacks.

use super::directory::{Listed, ListedSnapshot};
use super::errors::from_node;
use super::sets::{is_left_behind, listed, now_wall_ns};
use super::verbs::Verbs;
use super::vms::Vms;
use base::units::{BLOCK, round_down};
use base::{SnapshotId, VdiskId};
use control::rules::snapshots as rules;
use control::{
    Change, ChangesPage, ControlFuture, Error, ListChanges, MakeClones, Result, RolledBack, SnapshotControl,
    SnapshotInfo, SnapshotSpace, SpaceShare, VdiskInfo, VdiskSpace,
};
use node::{Shard, Side, SnapshotSummary};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use vdisk::{NoteKind, Reached, Share};
use world::LocalFuture;

pub(super) fn now_unix_ms() -> u64 {
    now_wall_ns() / 1_000_000
}

/// Of a vDisk that is held: nobody writes to it any more.
pub(super) async fn until_idle(shard: &Rc<Shard>, id: VdiskId, name: &str) -> Result<()> {
    shard.until_idle(id).await.map_err(from_node)?;
    // No client who could begin one is there any more. Of one that has just begun the log may not say it yet, and of one that
    // was cut short nothing may go on yet.
    let kept = shard.note(id, NoteKind::Reservations).await.map_err(from_node)?;
    if crate::iscsi::is_sanitizing(id.raw()) || kept.is_some_and(|kept| scsi::LogicalUnit::goes_on(&kept)) {
        return Err(Error::rollback_while_sanitizing(name));
    }
    Ok(())
}

/// As front-ends know them.
pub(super) fn by_name(snapshots: &[SnapshotSummary]) -> BTreeMap<String, ListedSnapshot> {
    let entry = |snapshot: &SnapshotSummary| {
        let SnapshotSummary { id, size_bytes, sector_bytes, .. } = *snapshot;
        (snapshot.name.clone(), ListedSnapshot { id, size_bytes, sector_bytes })
    };
    snapshots.iter().map(entry).collect()
}

pub(super) fn info(vdisk: &str, snapshot: SnapshotSummary) -> SnapshotInfo {
    SnapshotInfo {
        id: snapshot.id.to_string(),
        vdisk: vdisk.to_string(),
        target_name: control::snapshot_target_name(vdisk, &snapshot.name),
        name: snapshot.name,
        created_unix_ms: snapshot.created_ns / 1_000_000,
        size_bytes: snapshot.size_bytes,
        sector_bytes: snapshot.sector_bytes,
        mapped_bytes: snapshot.mapped_bytes,
        set: snapshot.set.map(|set| set.to_string()),
        connections: snapshot.connections,
    }
}

fn find(vdisk: &str, snapshots: &[SnapshotSummary], name: &str) -> Result<SnapshotSummary> {
    let found = snapshots.iter().find(|snapshot| snapshot.name == name);
    found.cloned().ok_or_else(|| Error::no_snapshot(vdisk, name))
}

/// How many snapshots a vDisk has. Of one that cannot be read nothing is known; `force` is for deleting it all the same.
async fn count(shard: &Rc<Shard>, id: VdiskId, vms: &Vms, force: bool) -> Result<usize> {
    match listed(shard, id, vms).await {
        Ok(snapshots) => Ok(snapshots.len()),
        Err(_) if force && shard.is_broken(id) => Ok(0),
        Err(error) => Err(error),
    }
}

/// Deletes a vDisk, its snapshots too; what is in the way besides connections is for the caller to look at.
pub(super) async fn delete_with_snapshots(shard: &Rc<Shard>, id: VdiskId, vdisk: &str, force: bool) -> Result<()> {
    match shard.snapshots(id).await {
        Ok(snapshots) => {
            // By force the deletion ends them: a log that takes nothing any more is not asked for less first.
            if let Some(read) = snapshots.iter().find(|snapshot| snapshot.connections > 0 && !force) {
                return Err(Error::snapshot_busy(vdisk, &read.name, read.connections));
            }
        }
        Err(_) if force && shard.is_broken(id) => {}
        Err(error) => return Err(from_node(error)),
    }
    shard.delete(id, force).await.map_err(|error| match (error.kind, shard.summary_of(id)) {
        (node::Kind::Busy, Some(summary)) if !force => Error::busy(vdisk, summary.connections),
        _ => from_node(error),
    })
}

/// The vDisk's name and what is known of it, on its worker.
pub(super) struct Source {
    pub shard: Rc<Shard>,
    pub id: VdiskId,
    pub name: String,
    pub vms: Arc<Vms>,
    /// The container that it is in, if clones are to be born with that.
    pub container: Option<meta::ContainerRecord>,
}

impl Source {
    pub(super) async fn snapshots(&self) -> Result<Vec<SnapshotSummary>> {
        listed(&self.shard, self.id, &self.vms).await
    }

    /// Whether it may have one more, of this name.
    pub(super) async fn check_new(&self, name: &str) -> Result<()> {
        let before = self.snapshots().await?;
        if find(&self.name, &before, name).is_ok() {
            return Err(Error::snapshot_exists(&self.name, name));
        }
        rules::check_snapshot_count(&self.name, before.len())
    }

    async fn create(&self, name: &str) -> Result<SnapshotSummary> {
        self.check_new(name).await?;
        let taken = self.shard.snapshot(self.id, name).await.map_err(from_node);
        if taken.is_err() {
            self.take_back(name).await;
        }
        taken
    }

    /// One that could not be synced may be there all the same, though nobody was told so.
    async fn take_back(&self, name: &str) {
        let Ok(there) = self.snapshots().await else { return };
        let Ok(left) = find(&self.name, &there, name) else { return };
        if let Err(error) = self.shard.delete_snapshot(self.id, left.id, true).await {
            tracing::warn!(vdisk = self.name, snapshot = name, %error, "a snapshot that failed is there all the same");
        }
    }

    /// Of this id, if it is there.
    async fn delete_id(&self, snapshot: SnapshotId) -> Result<()> {
        match self.snapshots().await?.into_iter().find(|one| one.id == snapshot) {
            Some(found) => self.delete(&found.name, false).await.map(drop),
            None => Ok(()),
        }
    }

    async fn delete(&self, name: &str, force: bool) -> Result<SnapshotId> {
        let snapshot = find(&self.name, &self.snapshots().await?, name)?;
        if let Some(vm) = snapshot.set.and_then(|set| self.vms.claimed_by(set)) {
            return Err(Error::part_of_vm_snapshot(&self.name, name, &vm.name));
        }
        if let Some(what) = self.vms.needed_for(snapshot.id) {
            return Err(Error::snapshot_needed(name, &what));
        }
        if snapshot.connections > 0 && !force {
            return Err(Error::snapshot_busy(&self.name, name, snapshot.connections));
        }
        self.shard.delete_snapshot(self.id, snapshot.id, force).await.map_err(from_node)?;
        Ok(snapshot.id)
    }

    /// The shard writes all records of the clones in one transaction.
    async fn make_clones(&self, snapshot: Option<String>, names: Vec<String>) -> Result<Vec<meta::VdiskRecord>> {
        if let Some(snapshot) = snapshot {
            let snapshot = find(&self.name, &self.snapshots().await?, &snapshot)?;
            return self.clone_snapshot(snapshot.id, names).await;
        }
        let temporary = rules::temporary_name(now_unix_ms());
        self.shard.clone_as_it_is(self.id, &temporary, names, self.container.clone()).await.map_err(from_node)
    }

    /// In the container that the vDisk is in.
    async fn clone_snapshot(&self, snapshot: SnapshotId, names: Vec<String>) -> Result<Vec<meta::VdiskRecord>> {
        self.shard.clone_snapshot(self.id, snapshot, names, self.container.clone()).await.map_err(from_node)
    }

    /// Clones of a snapshot that is there for them only.
    pub(super) async fn clone_temporary(
        &self,
        snapshot: SnapshotId,
        names: Vec<String>,
    ) -> Result<Vec<meta::VdiskRecord>> {
        let made = self.clone_snapshot(snapshot, names).await;
        self.forget(snapshot).await;
        made
    }

    /// Of a temporary snapshot.
    pub(super) async fn forget(&self, snapshot: SnapshotId) {
        if let Err(error) = self.shard.delete_snapshot(self.id, snapshot, true).await {
            tracing::warn!(vdisk = self.name, %error, "a snapshot that a call needed is not deleted yet; the next start does it");
        }
    }

    /// Keeps what is there, then puts the snapshot in its place. A crash between the two leaves one snapshot more.
    async fn roll_back(&self, snapshot: &str) -> Result<SnapshotInfo> {
        let wanted = find(&self.name, &self.snapshots().await?, snapshot)?;
        self.check_roll_back()?;
        self.roll_back_to(wanted.id).await
    }

    pub(super) fn check_roll_back(&self) -> Result<()> {
        if let Some(vm) = self.vms.of_vdisk(self.id).filter(|vm| vm.template) {
            return Err(Error::is_template(&vm.name));
        }
        if self.vms.rollback_of(self.id).is_some() {
            return Err(Error::rollback_pending(&self.name));
        }
        let now = self.shard.summary_of(self.id).ok_or_else(|| Error::not_found(&self.name))?;
        if now.record.read_only {
            return Err(Error::read_only(&self.name));
        }
        if now.connections > 0 {
            return Err(Error::rollback_while_connected(&self.name, now.connections));
        }
        Ok(())
    }

    /// The caller has checked that it may be.
    pub(super) async fn roll_back_to(&self, wanted: SnapshotId) -> Result<SnapshotInfo> {
        self.shard.hold(&[self.id]);
        let done = self.roll_back_held(wanted).await;
        self.shard.let_in(&[self.id]);
        done
    }

    /// Nobody writes any more when what is there is kept.
    async fn roll_back_held(&self, wanted: SnapshotId) -> Result<SnapshotInfo> {
        self.check_roll_back()?;
        until_idle(&self.shard, self.id, &self.name).await?;
        let before = self.snapshots().await?;
        rules::check_snapshot_count(&self.name, before.len())?;
        let name = rules::kept_name(now_unix_ms(), |name| find(&self.name, &before, name).is_ok());
        let kept = self.shard.snapshot(self.id, &name).await.map_err(from_node)?;
        if let Err(error) = self.shard.rollback(self.id, wanted).await {
            if let Err(error) = self.shard.delete_snapshot(self.id, kept.id, false).await {
                tracing::warn!(vdisk = self.name, snapshot = name, %error, "a snapshot of a rollback that failed stays");
            }
            return Err(from_node(error));
        }
        Ok(info(&self.name, kept))
    }

    async fn changes(&self, request: ListChanges) -> Result<ChangesPage> {
        let snapshots = self.snapshots().await?;
        let side = |name: Option<&String>, without: Side| match name {
            None => Ok(without),
            Some(name) => find(&self.name, &snapshots, name).map(|snapshot| Side::Snapshot(snapshot.id)),
        };
        let (from, to) = (side(request.from.as_ref(), Side::Empty)?, side(request.to.as_ref(), Side::Now)?);
        let offset = round_down(request.offset, BLOCK);
        let page = self.shard.changed(self.id, from, to, offset, request.limit as usize).await.map_err(from_node)?;
        let changes =
            page.ranges.into_iter().map(|range| Change { offset: range.offset, len: range.len, data: range.data });
        Ok(ChangesPage { changes: changes.collect(), next: page.next })
    }

    async fn space(&self, is_wanted: impl Fn() -> bool) -> Result<VdiskSpace> {
        let found = self.shard.shares(self.id, is_wanted).await.map_err(from_node)?;
        // Those that nobody is told of count among those that share.
        let names = self.snapshots().await?;
        let bytes = |reached: Reached| reached.data + reached.pages;
        let share = |share: Share| SpaceShare { unique_bytes: bytes(share.unique), shared_bytes: bytes(share.shared) };
        let snapshots = found.snapshots.into_iter().filter_map(|(id, of)| {
            let snapshot = names.iter().find(|snapshot| snapshot.id == id)?;
            Some(SnapshotSpace { name: snapshot.name.clone(), share: share(of) })
        });
        Ok(VdiskSpace {
            vdisk: self.name.clone(),
            alone_bytes: bytes(found.alone),
            now: share(found.now),
            snapshots: snapshots.collect(),
        })
    }
}

impl Verbs {
    /// Runs `work` on the vDisk's worker.
    pub(super) async fn at<T: Send + 'static>(
        &self,
        name: &str,
        listed: &Listed,
        work: impl FnOnce(Source) -> LocalFuture<Result<T>> + Send + 'static,
    ) -> Result<T> {
        let (id, name, vms) = (listed.id, name.to_string(), self.vms.clone());
        let container = self.containers.of_new(self.containers.container_of(id));
        self.shards.on(listed.shard, move |shard| work(Source { shard, id, name, vms, container })).await
    }

    /// The same for what changes which snapshots there are: front-ends hear of it.
    pub(super) async fn change_snapshots<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce(Rc<Source>) -> LocalFuture<Result<T>> + Send + 'static,
    ) -> Result<T> {
        let _one = self.changing.lock().await;
        let listed = self.find(name)?;
        self.change_snapshots_of(name, &listed, work).await
    }

    /// The caller holds the turn, and has found the vDisk since.
    async fn change_snapshots_of<T: Send + 'static>(
        &self,
        name: &str,
        listed: &Listed,
        work: impl FnOnce(Rc<Source>) -> LocalFuture<Result<T>> + Send + 'static,
    ) -> Result<T> {
        let directory = self.directory.clone();
        let changed = self.at(name, listed, move |source| {
            Box::pin(async move {
                let source = Rc::new(source);
                let done = work(source.clone()).await;
                if let Ok(snapshots) = source.snapshots().await {
                    directory.set_snapshots(source.id, by_name(&snapshots));
                }
                done
            })
        });
        changed.await
    }

    pub(super) async fn snapshots_of(&self, vdisk: &str) -> Result<Vec<SnapshotSummary>> {
        let listed = self.find(vdisk)?;
        self.at(vdisk, &listed, |source| Box::pin(async move { source.snapshots().await })).await
    }

    async fn take_vdisk_snapshot(&self, vdisk: &str, name: &str) -> Result<SnapshotSummary> {
        rules::check_snapshot_name(name)?;
        let name = name.to_string();
        self.change_snapshots(vdisk, |source| Box::pin(async move { source.create(&name).await })).await
    }

    /// Of the vDisk of this id, whatever it is called by then, if it is still wanted.
    pub(super) async fn take_snapshot_of(
        &self,
        id: VdiskId,
        name: &str,
        is_wanted: impl Fn() -> bool,
    ) -> Result<SnapshotId> {
        let _one = self.changing.lock().await;
        let found = self.directory.find_id(id).filter(|_| is_wanted());
        let (vdisk, listed) = found.ok_or_else(|| Error::not_found(&id.to_string()))?;
        let name = name.to_string();
        let taken =
            self.change_snapshots_of(&vdisk, &listed, |source| Box::pin(async move { source.create(&name).await }));
        Ok(taken.await?.id)
    }

    /// One that is gone is no error.
    pub(super) async fn drop_snapshot_of(&self, id: VdiskId, snapshot: SnapshotId) -> Result<()> {
        let _one = self.changing.lock().await;
        if let Some((vdisk, listed)) = self.directory.find_id(id) {
            let dropped = self.change_snapshots_of(&vdisk, &listed, move |source| {
                Box::pin(async move { source.delete_id(snapshot).await })
            });
            dropped.await?;
        }
        self.forget_parts(|part| part.snapshot == snapshot).await
    }

    pub(super) async fn count_snapshots(&self, listed: &Listed, force: bool) -> Result<usize> {
        let (id, vms) = (listed.id, self.vms.clone());
        self.shards.on(listed.shard, move |shard| Box::pin(async move { count(&shard, id, &vms, force).await })).await
    }

    async fn clone_vdisk(&self, name: &str, clones: MakeClones) -> Result<Vec<VdiskInfo>> {
        let names = rules::clone_names(&clones)?;
        let snapshot = clones.snapshot.clone();
        let make = |source: Source, names| -> LocalFuture<Result<Vec<meta::VdiskRecord>>> {
            Box::pin(async move { source.make_clones(clones.snapshot, names).await })
        };
        self.clone_as(name, snapshot.as_deref(), names, make).await
    }

    /// Clones under these names of this snapshot (`None`: as large as the vDisk is now), which `make` makes on its worker.
    pub(super) async fn clone_as(
        &self,
        name: &str,
        snapshot: Option<&str>,
        names: Vec<String>,
        make: impl FnOnce(Source, Vec<String>) -> LocalFuture<Result<Vec<meta::VdiskRecord>>> + Send + 'static,
    ) -> Result<Vec<VdiskInfo>> {
        let _one = self.changing.lock().await;
        let listed = self.find(name)?;
        names.iter().try_for_each(|name| self.check_is_new(name))?;
        let snapshot = snapshot.and_then(|snapshot| Some(listed.snapshots.get(snapshot)?.id));
        self.check_copies(&[(listed.id, snapshot)], names.len()).await?;
        let (directory, containers) = (self.directory.clone(), self.containers.clone());
        let made = self.at(name, &listed, move |source| {
            Box::pin(async move {
                let container = source.container.as_ref().map(|container| container.id);
                let records = make(source, names).await?;
                containers.put_new(container, records.iter().map(|record| record.id));
                records.iter().for_each(|record| directory.put(record));
                Ok(records.into_iter().map(|record| record.id).collect::<Vec<_>>())
            })
        });
        let made = made.await?;
        self.carry_out_on_new(&made).await;
        self.infos_of(listed.shard, made).await
    }

    async fn roll_back_vdisk(&self, name: &str, snapshot: &str) -> Result<RolledBack> {
        let snapshot = snapshot.to_string();
        let kept =
            self.change_snapshots(name, move |source| Box::pin(async move { source.roll_back(&snapshot).await }));
        let kept = kept.await?;
        let vdisk = self.info(name, &self.find(name)?).await?;
        Ok(RolledBack { vdisk, kept })
    }

    /// After a start, as soon as each vDisk's log has been read: what is there is shown, what calls left behind goes.
    pub(super) async fn learn_snapshots(&self) {
        let learned = self.shards.numbers().map(|number| async move {
            let ids = self.shards.on(number, |shard| {
                Box::pin(async move { Ok(shard.records().into_iter().map(|record| record.id).collect::<Vec<_>>()) })
            });
            // Fails only while the workers end.
            for id in ids.await.unwrap_or_default() {
                match self.learn(number, id, true).await {
                    _ if self.is_stopping() => return,
                    Err(error) => tracing::warn!(vdisk = %id, %error, "its snapshots cannot be read"),
                    Ok(()) => {}
                }
            }
        });
        futures_util::future::join_all(learned).await;
    }

    /// Without `force` what somebody reads stays until he has gone.
    pub(super) async fn learn(&self, number: u16, id: VdiskId, force: bool) -> Result<()> {
        let (directory, vms) = (self.directory.clone(), self.vms.clone());
        let look = self.shards.on(number, move |shard| {
            Box::pin(async move {
                let all = shard.snapshots(id).await.map_err(from_node)?;
                let snapshots = listed(&shard, id, &vms).await?;
                directory.set_snapshots(id, by_name(&snapshots));
                Ok(all.iter().any(|snapshot| goes(snapshot, &vms)))
            })
        });
        if look.await? {
            // Of a call that is under way it is not left behind.
            let _one = self.changing.lock().await;
            let vms = self.vms.clone();
            self.shards
                .on(number, move |shard| Box::pin(async move { clear_up(&shard, id, &vms, force).await }))
                .await?;
        }
        Ok(())
    }
}

/// Left behind by a call, of which nothing is to be made any more.
fn goes(snapshot: &SnapshotSummary, vms: &Vms) -> bool {
    is_left_behind(snapshot, |set| vms.standing(set)) && !vms.is_needed(snapshot.id)
}

/// The first error, if one stays.
async fn clear_up(shard: &Rc<Shard>, id: VdiskId, vms: &Vms, force: bool) -> Result<()> {
    let all = shard.snapshots(id).await.map_err(from_node)?;
    let mut result = Ok(());
    for SnapshotSummary { id: snapshot, name, .. } in all.into_iter().filter(|snapshot| goes(snapshot, vms)) {
        match shard.delete_snapshot(id, snapshot, force).await {
            Ok(()) => {
                tracing::info!(vdisk = %id, snapshot = name, "a snapshot that an interrupted call left behind is deleted");
            }
            Err(error) => result = result.and(Err(from_node(error))),
        }
    }
    result
}

impl SnapshotControl for Verbs {
    fn list_snapshots<'a>(&'a self, vdisk: &'a str) -> ControlFuture<'a, Vec<SnapshotInfo>> {
        Box::pin(async move {
            Ok(self.snapshots_of(vdisk).await?.into_iter().map(|snapshot| info(vdisk, snapshot)).collect())
        })
    }

    fn create_snapshot<'a>(&'a self, vdisk: &'a str, name: &'a str) -> ControlFuture<'a, SnapshotInfo> {
        let (vdisk, name) = (vdisk.to_string(), name.to_string());
        self.to_its_end(|verbs| async move {
            let taken = verbs.take_vdisk_snapshot(&vdisk, &name).await?;
            Ok(info(&vdisk, taken))
        })
    }

    fn delete_snapshot<'a>(&'a self, vdisk: &'a str, name: &'a str, force: bool) -> ControlFuture<'a, ()> {
        let (vdisk, name) = (vdisk.to_string(), name.to_string());
        self.to_its_end(move |verbs| async move {
            let gone = verbs
                .change_snapshots(&vdisk, move |source| Box::pin(async move { source.delete(&name, force).await }));
            let gone = gone.await?;
            let _one = verbs.changing.lock().await;
            verbs.forget_parts(|part| part.snapshot == gone).await
        })
    }

    fn make_clones<'a>(&'a self, vdisk: &'a str, clones: MakeClones) -> ControlFuture<'a, Vec<VdiskInfo>> {
        let vdisk = vdisk.to_string();
        self.to_its_end(|verbs| async move { verbs.clone_vdisk(&vdisk, clones).await })
    }

    fn roll_back<'a>(&'a self, vdisk: &'a str, snapshot: &'a str) -> ControlFuture<'a, RolledBack> {
        let (vdisk, snapshot) = (vdisk.to_string(), snapshot.to_string());
        self.to_its_end(|verbs| async move { verbs.roll_back_vdisk(&vdisk, &snapshot).await })
    }

    fn changes<'a>(&'a self, vdisk: &'a str, request: ListChanges) -> ControlFuture<'a, ChangesPage> {
        Box::pin(async move {
            rules::check_changes_limit(request.limit)?;
            let listed = self.find(vdisk)?;
            self.at(vdisk, &listed, |source| Box::pin(async move { source.changes(request).await })).await
        })
    }

    fn space<'a>(&'a self, vdisk: &'a str) -> ControlFuture<'a, VdiskSpace> {
        Box::pin(async move {
            let listed = self.find(vdisk)?;
            // Gone when nobody waits for the answer any more.
            let asking = Arc::new(());
            let asked = Arc::downgrade(&asking);
            let found = self.at(vdisk, &listed, move |source| {
                Box::pin(async move { source.space(|| asked.strong_count() > 0).await })
            });
            let found = found.await;
            drop(asking);
            found
        })
    }
}
