//! `Control` over the shards: checks, the right worker, the answer.

use super::containers::Containers;
use super::directory::{Directory, Listed};
use super::errors::{from_block, from_node};
use super::groups::Groups;
use super::report;
use super::schedules::Schedules;
use super::shards::Shards;
use super::vms::Vms;
use crate::config::Config;
use crate::iscsi::Sessions;
use block::{Allocation, Reply, Request, Segment, WriteZeroes};
use bytes::{Bytes, BytesMut};
use control::{
    Control, ControlFuture, CreateVdisk, DeleteVdisk, Error, Extent, ExtentPage, IscsiControl, IscsiPortal, Kind,
    ListVdisks, Listener, Metrics, NodeStatus, Result, RewindControl, SetVdisk, SnapshotControl, VdiskInfo, VdiskPage,
    VmControl, rules,
};
use node::{BornWith, Shard};
use pool::Cache;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Instant, SystemTime};
use tokio::sync::Mutex;
use world::LocalFuture;

/// Extents in one page of the listing.
const EXTENTS_MAX: u32 = 1024;

pub struct Verbs {
    pub(super) config: Config,
    pub(super) node: u16,
    pub(super) shards: Shards,
    pub(super) directory: Arc<Directory>,
    pub(super) cache: Arc<Cache>,
    pub(super) listeners: Vec<Listener>,
    pub(super) portals: Vec<IscsiPortal>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) groups: Arc<Groups>,
    pub(super) vms: Arc<Vms>,
    pub(super) containers: Arc<Containers>,
    pub(super) schedules: Schedules,
    pub(super) started: Instant,
    pub(super) started_wall: SystemTime,
    stopping: AtomicBool,
    /// For what outlives the call that began it.
    own: Weak<Verbs>,
    /// Verbs that change names or existence, one at a time.
    pub(super) changing: Mutex<()>,
}

/// What the front-ends have for the verbs.
pub struct Fronts {
    pub listeners: Vec<Listener>,
    pub portals: Vec<IscsiPortal>,
    pub sessions: Arc<Sessions>,
    pub groups: Arc<Groups>,
}

impl Verbs {
    pub fn new(
        config: &Config,
        node: u16,
        shards: Shards,
        directory: Arc<Directory>,
        cache: Arc<Cache>,
        fronts: Fronts,
        own: Weak<Verbs>,
    ) -> Verbs {
        let Fronts { listeners, portals, sessions, groups } = fronts;
        Verbs {
            config: config.clone(),
            node,
            shards,
            directory,
            cache,
            listeners,
            portals,
            sessions,
            groups,
            vms: Arc::default(),
            containers: Arc::default(),
            schedules: Schedules::default(),
            started: Instant::now(),
            started_wall: SystemTime::now(),
            stopping: AtomicBool::new(false),
            own,
            changing: Mutex::new(()),
        }
    }

    /// Runs what takes several steps. Who asked may go away in the middle (a client that hangs up, a time limit): the steps
    /// go on all the same.
    pub(super) fn to_its_end<'a, T: Send + 'static, Work: Future<Output = Result<T>> + Send + 'static>(
        &self,
        work: impl FnOnce(Arc<Verbs>) -> Work,
    ) -> ControlFuture<'a, T> {
        let running = self.own.upgrade().map(|own| tokio::spawn(work(own)));
        Box::pin(async move {
            match running {
                Some(running) => running.await.map_err(|_| Error::internal("the verb panicked; see the log"))?,
                None => Err(Error::new(Kind::Unavailable, "the controller is shutting down")),
            }
        })
    }

    pub fn stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    pub(super) fn find(&self, name: &str) -> Result<Listed> {
        self.directory.find(name).ok_or_else(|| Error::not_found(name))
    }

    pub(super) async fn info(&self, name: &str, listed: &Listed) -> Result<VdiskInfo> {
        let found = self.infos_of(listed.shard, vec![listed.id]).await?;
        found.into_iter().next().ok_or_else(|| Error::not_found(name))
    }

    /// Of those that are there, in their order. All of one shard.
    pub(super) async fn infos_of(&self, shard: u16, vdisks: Vec<base::VdiskId>) -> Result<Vec<VdiskInfo>> {
        let containers = self.containers.clone();
        let found = self.shards.on(shard, move |shard| {
            Box::pin(async move {
                report::look_at_space(&shard).await;
                Ok(vdisks.into_iter().filter_map(|id| report::info(&shard, id, &containers)).collect())
            })
        });
        found.await
    }

    /// Runs a verb on the vDisk's shard, then notes what its record says now, and tells.
    async fn change(
        &self,
        name: &str,
        verb: impl FnOnce(Rc<Shard>, base::VdiskId) -> LocalFuture<node::Result<()>> + Send + 'static,
    ) -> Result<VdiskInfo> {
        let _one = self.changing.lock().await;
        let listed = self.find(name)?;
        self.change_listed(name, &listed, verb).await
    }

    /// The caller holds the turn, and has found the vDisk since.
    pub(super) async fn change_listed(
        &self,
        name: &str,
        listed: &Listed,
        verb: impl FnOnce(Rc<Shard>, base::VdiskId) -> LocalFuture<node::Result<()>> + Send + 'static,
    ) -> Result<VdiskInfo> {
        let id = listed.id;
        let directory = self.directory.clone();
        self.shards
            .on(listed.shard, move |shard| {
                Box::pin(async move {
                    let done = verb(shard.clone(), id).await.map_err(from_node);
                    if let Some(summary) = shard.summary_of(id) {
                        directory.put(&summary.record);
                    }
                    crate::iscsi::geometry_may_have_changed(id.raw());
                    done
                })
            })
            .await?;
        self.info(name, listed).await
    }

    async fn rename_one(&self, name: &str, new_name: &str) -> Result<VdiskInfo> {
        rules::check_name(new_name)?;
        let _one = self.changing.lock().await;
        let listed = self.find(name)?;
        if name != new_name {
            self.check_is_new(new_name)?;
            self.check_is_free(name, listed.id)?;
        }
        let new = new_name.to_string();
        self.change_listed(name, &listed, move |shard, id| Box::pin(async move { shard.rename(id, &new).await })).await
    }

    /// No vDisk has this name, and none is to get it from something on record.
    pub(super) fn check_is_new(&self, name: &str) -> Result<()> {
        if self.directory.find(name).is_some() {
            return Err(Error::exists(name));
        }
        self.vms.planned_for(name).map_or(Ok(()), |vm| Err(Error::planned(name, &vm)))
    }

    /// No VM is to have it that is still being made.
    pub(super) fn check_not_taken(&self, name: &str, id: base::VdiskId) -> Result<()> {
        self.vms.taken_for(id).map_or(Ok(()), |vm| Err(Error::vdisk_taken(name, &vm)))
    }

    /// The same, and it was not made for such a VM, nor for one that could not be made: that goes, or gets its old name back.
    pub(super) fn check_is_free(&self, name: &str, id: base::VdiskId) -> Result<()> {
        self.check_not_taken(name, id)?;
        if let Some(vm) = self.vms.undone_for(id) {
            return Err(Error::vdisk_left(name, &vm));
        }
        match self.vms.planned_for(name).filter(|_| self.vms.is_kept_out(id)) {
            Some(vm) => Err(Error::vdisk_taken(name, &vm)),
            None => Ok(()),
        }
    }

    /// One block request, to a vDisk or to `NAME@SNAPSHOT`.
    async fn request(&self, name: &str, request: Request) -> Result<Reply> {
        let (vdisk, snapshot) = rules::snapshots::split(name);
        let listed = self.find(vdisk)?;
        let id = listed.id;
        if let Some(snapshot) = snapshot {
            let snapshot = listed.snapshot(vdisk, snapshot)?.id;
            return self
                .shards
                .on(listed.shard, move |shard| {
                    Box::pin(async move {
                        // Held until the answer is there.
                        let attachment = shard.attach_snapshot(id, snapshot).await.map_err(from_node)?;
                        attachment.device.submit(request).await.map_err(from_block)
                    })
                })
                .await;
        }
        let held = Error::new(
            Kind::Unavailable,
            format!("vDisk {name:?} is being rolled back, or made for a VM; try again later"),
        );
        if listed.held {
            return Err(held);
        }
        self.shards
            .on(listed.shard, move |shard| {
                Box::pin(async move {
                    let device = shard.vdisk(id).await.map_err(from_node)?.device();
                    if shard.is_held(id) {
                        return Err(held);
                    }
                    device.submit(request).await.map_err(from_block)
                })
            })
            .await
    }

    async fn check_range(&self, name: &str, offset: u64, len: u64, transfer: bool) -> Result<()> {
        let (vdisk, snapshot) = rules::snapshots::split(name);
        let listed = self.find(vdisk)?;
        let size = match snapshot {
            Some(snapshot) => listed.snapshot(vdisk, snapshot)?.size_bytes,
            None => listed.size_bytes,
        };
        if transfer { rules::check_transfer(size, offset, len) } else { rules::check_range(size, offset, len) }
    }

    async fn create(&self, request: CreateVdisk) -> Result<VdiskInfo> {
        rules::check_create(&request)?;
        let _one = self.changing.lock().await;
        let CreateVdisk { name, size_bytes, sector_bytes, container, near, rewind } = request;
        self.check_is_new(&name)?;
        let shard = near.map(|near| self.find(&near)).transpose()?.map(|near| near.shard);
        let container = self.container_named(container.as_deref())?;
        self.check_capacity(container, 0).await?;
        let window = rewind.map(|own| own.map(super::rewind::of_request));
        self.make_vdisk(&name, size_bytes, sector_bytes, container, shard, window).await?;
        let listed = self.find(&name)?;
        self.info(&name, &listed).await
    }

    /// On this shard, or on the one with the fewest vDisks.
    pub(super) async fn make_vdisk(
        &self,
        name: &str,
        size_bytes: u64,
        sector_bytes: u32,
        container: base::ContainerId,
        shard: Option<u16>,
        window: Option<Option<vdisk::Rewind>>,
    ) -> Result<base::VdiskId> {
        let all = self.directory.all();
        let load = |shard: &u16| all.iter().filter(|(_, listed)| listed.shard == *shard).count();
        let least = || self.shards.numbers().min_by_key(load).expect("there is at least one shard");
        let shard = shard.unwrap_or_else(least);
        let (named, containers) = (name.to_string(), self.containers.clone());
        let record = self.shards.on(shard, move |shard| {
            Box::pin(async move {
                // What is its own is on record, be there settings of the container or not.
                let container = match window {
                    Some(_) => Some(containers.get(container)),
                    None => containers.of_new(container),
                };
                let born = BornWith { container: container.clone(), window };
                let record = shard.create(&named, size_bytes, sector_bytes, born).await.map_err(from_node)?;
                match container {
                    Some(container) if window.is_some() => containers.put_born(record.id, &container),
                    container => containers.put_new(container.map(|it| it.id), std::iter::once(record.id)),
                }
                Ok(record)
            })
        });
        let record = record.await?;
        self.directory.put(&record);
        self.carry_out_on_new(&[record.id]).await;
        Ok(record.id)
    }

    async fn delete(&self, name: &str, delete: DeleteVdisk) -> Result<()> {
        let _one = self.changing.lock().await;
        let listed = self.find(name)?;
        if let Some(vm) = self.vms.of_vdisk(listed.id) {
            return Err(Error::belongs_to_vm(name, &vm.name));
        }
        self.check_no_clone_of(listed.id)?;
        self.check_not_taken(name, listed.id)?;
        let snapshots = if delete.snapshots { 0 } else { self.count_snapshots(&listed, delete.force).await? };
        if snapshots > 0 {
            return Err(Error::has_snapshots(name, snapshots));
        }
        self.delete_listed(name, &listed, delete.force).await?;
        self.forget_parts(|part| part.vdisk == listed.id).await
    }

    async fn list(&self, request: ListVdisks) -> Result<VdiskPage> {
        rules::check_list_limit(request.limit)?;
        let container = request.container.map(|name| Ok(self.find_container(&name)?.id)).transpose()?;
        let is_wanted = |listed: &Listed| container.is_none_or(|id| self.containers.container_of(listed.id) == id);
        let (page, more) = self.directory.page(request.after.as_deref(), request.limit as usize, is_wanted);
        let last = page.last().map(|(name, _)| name.clone()).filter(|_| more);
        let mut vdisks = Vec::with_capacity(page.len());
        for number in self.shards.numbers() {
            let ids: Vec<_> = page.iter().filter(|(_, l)| l.shard == number).map(|(_, l)| l.id).collect();
            if ids.is_empty() {
                continue;
            }
            vdisks.extend(self.infos_of(number, ids).await?);
        }
        vdisks.sort_unstable_by(|a: &VdiskInfo, b| a.name.cmp(&b.name));
        Ok(VdiskPage { vdisks, next: last })
    }

    async fn read_bytes(&self, name: &str, offset: u64, len: u32) -> Result<Bytes> {
        self.check_range(name, offset, len.into(), true).await?;
        let reply = self.request(name, Request::Read { offset, len }).await?;
        let Reply::Data(segments) = reply else { return Err(Error::new(Kind::Internal, "a read gave no data")) };
        let mut bytes = BytesMut::with_capacity(len as usize);
        for segment in segments {
            match segment {
                Segment::Bytes(part) => bytes.extend_from_slice(&part),
                Segment::Zeros(zeros) => bytes.resize(bytes.len() + zeros as usize, 0),
            }
        }
        Ok(bytes.freeze())
    }

    async fn list_extents(&self, name: &str, offset: u64, len: u64) -> Result<ExtentPage> {
        self.check_range(name, offset, len, false).await?;
        if len == 0 {
            return Ok(ExtentPage { extents: Vec::new(), next: None });
        }
        let reply = self.request(name, Request::BlockStatus { offset, len, extents_max: EXTENTS_MAX }).await?;
        let Reply::Status(runs) = reply else { return Err(Error::new(Kind::Internal, "a status request gave none")) };
        let mut extents: Vec<Extent> = Vec::with_capacity(runs.len());
        let mut at = offset;
        for run in runs {
            let data = run.allocation == Allocation::Data;
            match extents.last_mut() {
                Some(last) if last.data == data => last.len += run.len,
                _ => extents.push(Extent { offset: at, len: run.len, data }),
            }
            at += run.len;
        }
        Ok(ExtentPage { extents, next: (at < offset + len).then_some(at) })
    }
}

impl Control for Verbs {
    fn create_vdisk(&self, request: CreateVdisk) -> ControlFuture<'_, VdiskInfo> {
        self.to_its_end(|verbs| async move { verbs.create(request).await })
    }

    fn list_vdisks(&self, request: ListVdisks) -> ControlFuture<'_, VdiskPage> {
        Box::pin(self.list(request))
    }

    fn show_vdisk<'a>(&'a self, name: &'a str) -> ControlFuture<'a, VdiskInfo> {
        Box::pin(async move {
            let listed = self.find(name)?;
            self.info(name, &listed).await
        })
    }

    fn resize_vdisk<'a>(&'a self, name: &'a str, size_bytes: u64) -> ControlFuture<'a, VdiskInfo> {
        Box::pin(async move {
            let listed = self.find(name)?;
            rules::check_resize(listed.size_bytes, size_bytes)?;
            if size_bytes > listed.size_bytes {
                self.check_capacity(self.containers.container_of(listed.id), 0).await?;
            }
            self.change(name, move |shard, id| Box::pin(async move { shard.resize(id, size_bytes).await })).await
        })
    }

    fn rename_vdisk<'a>(&'a self, name: &'a str, new_name: &'a str) -> ControlFuture<'a, VdiskInfo> {
        Box::pin(self.rename_one(name, new_name))
    }

    fn set_vdisk<'a>(&'a self, name: &'a str, set: SetVdisk) -> ControlFuture<'a, VdiskInfo> {
        Box::pin(async move {
            match set.read_only {
                None => self.show_vdisk(name).await,
                Some(on) => {
                    let of_template = self.vms.of_vdisk(self.find(name)?.id).filter(|vm| vm.template && !on);
                    if let Some(vm) = of_template {
                        return Err(Error::is_template(&vm.name));
                    }
                    self.change(name, move |shard, id| Box::pin(async move { shard.set_read_only(id, on).await })).await
                }
            }
        })
    }

    fn delete_vdisk<'a>(&'a self, name: &'a str, delete: DeleteVdisk) -> ControlFuture<'a, ()> {
        let name = name.to_string();
        self.to_its_end(move |verbs| async move { verbs.delete(&name, delete).await })
    }

    fn read<'a>(&'a self, name: &'a str, offset: u64, len: u32) -> ControlFuture<'a, Bytes> {
        Box::pin(self.read_bytes(name, offset, len))
    }

    fn write<'a>(&'a self, name: &'a str, offset: u64, data: Bytes) -> ControlFuture<'a, ()> {
        Box::pin(async move {
            self.check_range(name, offset, data.len() as u64, true).await?;
            self.request(name, Request::Write { offset, data, fua: false }).await.map(drop)
        })
    }

    fn write_zeroes<'a>(&'a self, name: &'a str, offset: u64, len: u64) -> ControlFuture<'a, ()> {
        Box::pin(async move {
            self.check_range(name, offset, len, false).await?;
            let request = Request::WriteZeroes { offset, len, how: WriteZeroes::Unmap, fua: false };
            self.request(name, request).await.map(drop)
        })
    }

    fn flush<'a>(&'a self, name: &'a str) -> ControlFuture<'a, ()> {
        Box::pin(async move { self.request(name, Request::Flush).await.map(drop) })
    }

    fn extents<'a>(&'a self, name: &'a str, offset: u64, len: u64) -> ControlFuture<'a, ExtentPage> {
        Box::pin(self.list_extents(name, offset, len))
    }

    fn rewind(&self) -> &dyn RewindControl {
        self
    }

    fn snapshots(&self) -> &dyn SnapshotControl {
        self
    }

    fn vms(&self) -> &dyn VmControl {
        self
    }

    fn containers(&self) -> &dyn control::ContainerControl {
        self
    }

    fn vm_groups(&self) -> &dyn control::GroupControl {
        self
    }

    fn schedules(&self) -> &dyn control::ScheduleControl {
        self
    }

    fn iscsi(&self) -> &dyn IscsiControl {
        self
    }

    fn status(&self) -> ControlFuture<'_, NodeStatus> {
        Box::pin(self.node_status())
    }

    fn metrics(&self) -> ControlFuture<'_, Metrics> {
        Box::pin(self.all_metrics())
    }
}
