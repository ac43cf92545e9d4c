//! The verbs on containers. A change takes effect by one transaction of the metadata store; then it is carried out on the vDisks.

use super::containers;
use super::errors::from_node;
use super::exports::shard_of;
use super::report::ShardReport;
use super::sets::{STORING_SHARD, now_wall_ns};
use super::verbs::Verbs;
use base::{ContainerId, SnapshotId, VdiskId};
use control::rules::containers as rules;
use control::{
    ContainerControl, ContainerInfo, ControlFuture, CreateContainer, Error, Kind, Result, SetContainer, SetRewind,
    VdiskInfo,
};
use meta::{ContainerRecord, ContainerRewind, MemberRecord, Transaction, keys};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use tokio::sync::MutexGuard;

impl Verbs {
    /// What is on record of vDisks that are gone goes, now or at the next start.
    pub(super) async fn load_containers(&self) -> Result<()> {
        let stored = self.shards.on(STORING_SHARD, |shard| {
            Box::pin(async move { containers::load(&*shard.store()).await.map_err(|error| from_node(error.into())) })
        });
        let (containers, members) = stored.await?;
        let is_there = |member: &MemberRecord| self.directory.find_id(member.vdisk).is_some();
        let (members, gone): (Vec<_>, Vec<_>) = members.into_iter().partition(is_there);
        self.containers.fill(containers, members);
        if gone.is_empty() {
            return Ok(());
        }
        let tidied = gone.iter().fold(Transaction::new(), |all, member| all.delete(keys::member(member.vdisk)));
        if let Err(error) = self.commit(tidied).await {
            tracing::warn!(%error, "in which containers vDisks were that are gone stays on record");
        }
        Ok(())
    }

    /// Of a metadata store of an earlier time nothing is changed before what the logs know is on record: that would count less
    /// than what they say.
    async fn containers_are_known(&self) -> Result<()> {
        if self.containers.is_known.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut behind = Vec::new();
        for number in self.shards.numbers() {
            let is_behind = self.shards.on(number, |shard| Box::pin(async move { Ok(shard.is_store_behind()) }));
            if is_behind.await? {
                behind.push(number);
            }
        }
        let all = self.directory.all().into_iter().filter(|(_, listed)| behind.contains(&listed.shard));
        let all: Vec<VdiskId> = all.map(|(_, listed)| listed.id).collect();
        if !self.unread(all.clone()).await.is_empty() {
            let text = "the metadata store is of an earlier time than the disks, and what the logs say of containers is read \
                        first; try again";
            return Err(Error::new(Kind::Unavailable, text));
        }
        self.learn_from_logs(all).await.map_err(|error| {
            let text = format!(
                "the metadata store is of an earlier time than the disks, and what the logs say of containers cannot be put on \
                 record: {error}"
            );
            Error::new(Kind::Unavailable, text)
        })?;
        self.containers.is_known.store(true, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn find_container(&self, name: &str) -> Result<ContainerRecord> {
        self.containers.find(name).ok_or_else(|| Error::no_container(name))
    }

    /// `None`: the default one.
    pub(super) fn container_named(&self, name: Option<&str>) -> Result<ContainerId> {
        name.map_or(Ok(ContainerId::NONE), |name| Ok(self.find_container(name)?.id))
    }

    pub(super) fn vdisks_in(&self, container: ContainerId) -> Vec<VdiskId> {
        let all = self.directory.all().into_iter().map(|(_, listed)| listed.id);
        all.filter(|id| self.containers.container_of(*id) == container).collect()
    }

    fn vdisks_by_container(&self) -> BTreeMap<ContainerId, Vec<VdiskId>> {
        let mut found: BTreeMap<ContainerId, Vec<VdiskId>> = BTreeMap::new();
        for (_, listed) in self.directory.all() {
            found.entry(self.containers.container_of(listed.id)).or_default().push(listed.id);
        }
        found
    }

    /// Of one that it is not carried out on, for people.
    fn container_trouble(&self, vdisk: VdiskId) -> Option<String> {
        let (name, _) = self.directory.find_id(vdisk)?;
        Some(format!("vDisk {name:?}: {}", self.containers.trouble(vdisk)?))
    }

    fn container_info(
        &self,
        container: &ContainerRecord,
        vdisks: &[VdiskId],
        reports: &[ShardReport],
    ) -> ContainerInfo {
        let behind: Vec<VdiskId> = vdisks.iter().copied().filter(|id| self.containers.is_behind(*id)).collect();
        let set = |rewind: ContainerRewind| SetRewind {
            window_seconds: rewind.window_seconds,
            limit_bytes: rewind.limit_bytes,
        };
        ContainerInfo {
            id: container.id.to_string(),
            name: container.name.clone(),
            rewind: container.rewind.map(set),
            capacity_bytes: container.capacity_bytes,
            used_bytes: used_bytes(&container.name, reports),
            comment: container.comment.clone(),
            vdisks: vdisks.len() as u32,
            vdisks_behind: behind.len() as u32,
            trouble: behind.iter().find_map(|id| self.container_trouble(*id)),
        }
    }

    async fn container_now(&self, id: ContainerId) -> Result<ContainerInfo> {
        let reports = self.reports(false).await?;
        Ok(self.container_info(&self.containers.get(id), &self.vdisks_in(id), &reports))
    }

    /// What could not be carried out, for people.
    pub(super) fn container_troubles(&self) -> Vec<String> {
        let mut of_containers: BTreeMap<String, Vec<VdiskId>> = BTreeMap::new();
        for vdisk in self.containers.troubled() {
            of_containers.entry(self.containers.name_of(vdisk)).or_default().push(vdisk);
        }
        let told = |(name, vdisks): (String, Vec<VdiskId>)| {
            let why = vdisks.iter().find_map(|id| self.container_trouble(*id))?;
            Some(format!(
                "container {name}: what it says is not carried out on {} of its vDisks: {why}; it is tried again",
                vdisks.len()
            ))
        };
        of_containers.into_iter().filter_map(told).collect()
    }

    /// Refuses what would bring `added_bytes` of data, or room for more, to a container that is used up.
    pub(super) async fn check_capacity(&self, container: ContainerId, added_bytes: u64) -> Result<()> {
        let ContainerRecord { name, capacity_bytes, .. } = self.containers.get(container);
        if capacity_bytes == 0 {
            return Ok(());
        }
        let vdisks = self.vdisks_in(container);
        if !self.unread(vdisks.clone()).await.is_empty() {
            let text = format!("how much is in container {name:?} is not known yet: logs are being read; try again");
            return Err(Error::new(Kind::Unavailable, text));
        }
        let vdisks: BTreeSet<String> = vdisks.iter().map(VdiskId::to_string).collect();
        let reports = self.reports(false).await?;
        let infos = reports.iter().flat_map(|report| &report.infos);
        let used = infos.filter(|info| vdisks.contains(&info.id)).map(|info| info.mapped_bytes).sum();
        rules::check_capacity(&name, capacity_bytes, used, added_bytes)
    }

    /// The same for so many copies of snapshots, each where its vDisk is; `None`: of the vDisk as it is now.
    pub(super) async fn check_copies(&self, sources: &[(VdiskId, Option<SnapshotId>)], copies: usize) -> Result<()> {
        let mut added: BTreeMap<ContainerId, u64> = BTreeMap::new();
        for (vdisk, snapshot) in sources.iter().copied() {
            let container = self.containers.container_of(vdisk);
            if self.containers.get(container).capacity_bytes == 0 {
                continue;
            }
            let mapped = self.shards.on(shard_of(vdisk), move |shard| {
                Box::pin(async move {
                    let vdisk = shard.vdisk(vdisk).await.map_err(from_node)?;
                    let now = || vdisk.space().mapped_bytes;
                    let of = |id| vdisk.snapshot_info(id).map_or(0, |info| info.mapped_bytes);
                    Ok(snapshot.map_or_else(now, of))
                })
            });
            let bytes = mapped.await?.saturating_mul(copies as u64);
            let sum = added.entry(container).or_default();
            *sum = sum.saturating_add(bytes);
        }
        for (container, bytes) in added {
            self.check_capacity(container, bytes).await?;
        }
        Ok(())
    }

    async fn new_container(&self, create: CreateContainer) -> Result<ContainerInfo> {
        rules::check_create(&create)?;
        self.containers_are_known().await?;
        let _one = self.changing.lock().await;
        if self.containers.find(&create.name).is_some() {
            return Err(Error::container_exists(&create.name));
        }
        rules::check_container_count(self.containers.count())?;
        let id = self.new_ids(1).await?.first().copied().and_then(ContainerId::from_raw);
        let CreateContainer { name, rewind, capacity_bytes, comment } = create;
        let rewind = rewind.map(of_request);
        let id = id.ok_or_else(|| Error::internal("no id"))?;
        let created_wall_ns = now_wall_ns();
        self.store_container(ContainerRecord { id, name, serial: 0, created_wall_ns, rewind, capacity_bytes, comment })
            .await?;
        self.container_now(id).await
    }

    async fn store_container(&self, container: ContainerRecord) -> Result<()> {
        let is_new = container.serial == 0;
        let container = ContainerRecord { serial: container.serial + 1, ..container };
        let stored = Transaction::new().put(keys::container(container.id), container.encode());
        // A shorter window makes room.
        if is_new {
            self.commit(stored).await?
        } else {
            self.commit_to_make_room(stored).await?
        }
        self.containers.put(container);
        Ok(())
    }

    async fn change_container(&self, name: &str, set: SetContainer) -> Result<ContainerInfo> {
        rules::check_set(name, &set)?;
        self.containers_are_known().await?;
        let (id, vdisks) = {
            let _one = self.changing.lock().await;
            let _turn = self.containers.turn.lock().await;
            let before = self.find_container(name)?;
            if let Some(taken) = set.name.as_ref().filter(|new| *new != name && self.containers.find(new).is_some()) {
                return Err(Error::container_exists(taken));
            }
            let SetContainer { name, rewind, capacity_bytes, comment } = set;
            let now = ContainerRecord {
                name: name.unwrap_or_else(|| before.name.clone()),
                rewind: rewind.map_or(before.rewind, |set| set.map(of_request)),
                capacity_bytes: capacity_bytes.unwrap_or(before.capacity_bytes),
                comment: comment.unwrap_or_else(|| before.comment.clone()),
                ..before.clone()
            };
            if now != before {
                let created_wall_ns = if before.serial == 0 { now_wall_ns() } else { before.created_wall_ns };
                self.store_container(ContainerRecord { created_wall_ns, ..now }).await?;
            }
            (before.id, self.vdisks_in(before.id))
        };
        self.carry_out_behind(&vdisks).await;
        self.container_now(id).await
    }

    async fn remove_container(&self, name: &str) -> Result<()> {
        self.containers_are_known().await?;
        let _one = self.changing.lock().await;
        let _turn = self.containers.turn.lock().await;
        let container = self.find_container(name)?;
        if container.id.is_none() {
            return Err(Error::default_container());
        }
        let vdisks = self.vdisks_in(container.id).len();
        if vdisks > 0 {
            return Err(Error::container_in_use(name, vdisks));
        }
        if let Some(plan) = self.vms.plans().into_iter().find(|plan| plan.container == container.id) {
            return Err(Error::container_planned(name, &plan.name));
        }
        self.commit(Transaction::new().delete(keys::container(container.id))).await?;
        self.containers.remove(container.id);
        Ok(())
    }

    async fn move_to(&self, vdisk: &str, container: &str) -> Result<VdiskInfo> {
        self.containers_are_known().await?;
        let _one = self.changing.lock().await;
        let listed = self.find(vdisk)?;
        let to = self.find_container(container)?.id;
        if self.containers.container_of(listed.id) != to {
            self.check_capacity(to, self.info(vdisk, &listed).await?.mapped_bytes).await?;
            {
                let _turn = self.turn_of_containers(listed.id).await?;
                let before = self.member_now(listed.id).await?;
                self.store_member(MemberRecord { container: to, ..before }).await?;
            }
            self.carry_out_now(listed.id).await?;
        }
        self.info(vdisk, &listed).await
    }

    /// Once the vDisk's log is read: all others wait for this turn. What the log knows that the metadata store does not is learned.
    pub(super) async fn turn_of_containers(&self, vdisk: VdiskId) -> Result<MutexGuard<'_, ()>> {
        let read = self.shards.on(shard_of(vdisk), move |shard| {
            Box::pin(async move { shard.vdisk(vdisk).await.map(drop).map_err(from_node) })
        });
        read.await?;
        let turn = self.containers.turn.lock().await;
        self.learn_of(vdisk).await?;
        Ok(turn)
    }

    /// What is on record of a vDisk, or would be. The caller holds the turn of containers.
    pub(super) async fn member_now(&self, vdisk: VdiskId) -> Result<MemberRecord> {
        if let Some(member) = self.containers.member(vdisk) {
            return Ok(member);
        }
        let window = self.shards.on(shard_of(vdisk), move |shard| {
            Box::pin(async move { Ok(shard.vdisk(vdisk).await.map_err(from_node)?.rewind()) })
        });
        let inherits = window.await?.is_none();
        Ok(MemberRecord { vdisk, container: ContainerId::NONE, serial: 0, inherits })
    }

    /// The caller holds the turn of containers.
    pub(super) async fn store_member(&self, member: MemberRecord) -> Result<()> {
        let member = MemberRecord { serial: member.serial + 1, ..member };
        self.commit_to_make_room(Transaction::new().put(keys::member(member.vdisk), member.encode())).await?;
        self.containers.put_member(member);
        Ok(())
    }
}

fn of_request(SetRewind { window_seconds, limit_bytes }: SetRewind) -> ContainerRewind {
    ContainerRewind { window_seconds, limit_bytes }
}

fn used_bytes(container: &str, reports: &[ShardReport]) -> u64 {
    let infos = reports.iter().flat_map(|report| &report.infos);
    infos.filter(|info| info.container == container).map(|info| info.mapped_bytes).sum()
}

impl ContainerControl for Verbs {
    fn create_container(&self, create: CreateContainer) -> ControlFuture<'_, ContainerInfo> {
        self.to_its_end(|verbs| async move { verbs.new_container(create).await })
    }

    fn list_containers(&self) -> ControlFuture<'_, Vec<ContainerInfo>> {
        Box::pin(async move {
            let reports = self.reports(false).await?;
            let vdisks = self.vdisks_by_container();
            let of = |container: &ContainerRecord| vdisks.get(&container.id).map_or(&[][..], Vec::as_slice);
            let all = self.containers.all();
            Ok(all.iter().map(|container| self.container_info(container, of(container), &reports)).collect())
        })
    }

    fn show_container<'a>(&'a self, name: &'a str) -> ControlFuture<'a, ContainerInfo> {
        Box::pin(async move { self.container_now(self.find_container(name)?.id).await })
    }

    fn set_container<'a>(&'a self, name: &'a str, set: SetContainer) -> ControlFuture<'a, ContainerInfo> {
        let name = name.to_string();
        self.to_its_end(|verbs| async move { verbs.change_container(&name, set).await })
    }

    fn delete_container<'a>(&'a self, name: &'a str) -> ControlFuture<'a, ()> {
        let name = name.to_string();
        self.to_its_end(|verbs| async move { verbs.remove_container(&name).await })
    }

    fn move_vdisk<'a>(&'a self, vdisk: &'a str, container: &'a str) -> ControlFuture<'a, VdiskInfo> {
        let (vdisk, container) = (vdisk.to_string(), container.to_string());
        self.to_its_end(|verbs| async move { verbs.move_to(&vdisk, &container).await })
    }
}
