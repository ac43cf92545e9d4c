//! The whole controller on real disks, against what calls that were cut short leave on record.

mod containers;
mod copies;
mod existing;
mod groups;
mod past;
mod pending;
mod sets;

use super::exports::shard_of;
use super::layout::store_path;
use super::start::{Controller, start_controller};
use super::verbs::Verbs;
use crate::config::Config;
use base::{SnapshotId, VdiskId};
use bytes::Bytes;
use control::{Control, CreateVdisk, CreateVm, Error, Health, NewVmVdisk, Result, SnapshotControl, VmControl};
use meta::{RedbCore, Transaction, VmRecord};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const BLOCK: usize = 4096;
const SIZE_BYTES: u64 = 16 << 20;

pub(in crate::controller) struct Rig {
    config: Config,
    controller: Controller,
    _data: tempfile::TempDir,
}

/// Somebody who is connected to a vDisk, or reads a snapshot.
pub(in crate::controller) struct Client {
    leave: oneshot::Sender<()>,
    task: JoinHandle<Result<()>>,
}

impl Client {
    pub async fn leaves(self) {
        self.leave.send(()).expect("it is there");
        self.task.await.expect("a task").expect("a client");
    }
}

impl Rig {
    /// Two shards, so that VMs lie on both.
    pub async fn new() -> Rig {
        let data = tempfile::tempdir().expect("a folder");
        let mut config =
            Config { data: data.path().to_path_buf(), workers: 2, memory_bytes: 64 << 20, ..Config::defaults() };
        config.nbd.listen = None;
        config.iscsi.listen = Vec::new();
        let controller = start_controller(&config).await.expect("a start");
        Rig { config, controller, _data: data }
    }

    pub fn verbs(&self) -> &Arc<Verbs> {
        &self.controller.verbs
    }

    /// As a crash would leave it that came when the store had this as well.
    pub async fn restart_with(&mut self, stored: Transaction) {
        self.controller.stop_all().await.expect("a clean stop");
        self.start_with(stored).await;
    }

    /// The same of a store that was lost.
    pub async fn restart_lost_with(&mut self, stored: Transaction) {
        self.controller.stop_all().await.expect_err("nothing can be put on record");
        self.start_with(stored).await;
    }

    async fn start_with(&mut self, stored: Transaction) {
        let mut store = RedbCore::open(&store_path(&self.config.data)).expect("the store");
        let _ = store.commit(&stored).expect("a commit");
        drop(store);
        self.controller = start_controller(&self.config).await.expect("a start");
        // What goes on beside what is served.
        self.verbs().finish_vms().await;
    }

    /// As of a disk that takes no commits any more.
    pub fn lose_store(&self) {
        self.controller.store.stop();
    }

    pub async fn stop_without_store(self) {
        self.controller.stop_all().await.expect_err("nothing can be put on record");
    }

    pub async fn stop(self) {
        self.controller.stop_all().await.expect("a clean stop");
    }

    pub async fn vm(&self, name: &str, labels: &[&str]) -> VmRecord {
        let vdisk = |label: &&str| NewVmVdisk { label: label.to_string(), size_bytes: SIZE_BYTES, sector_bytes: 512 };
        let create = CreateVm {
            name: name.to_string(),
            vdisks: labels.iter().map(vdisk).collect(),
            container: None,
            existing: Vec::new(),
        };
        self.verbs().create_vm(create).await.expect("a VM");
        self.verbs().find_vm(name).expect("it is there")
    }

    pub async fn vdisk(&self, name: &str) -> VdiskId {
        let create = CreateVdisk {
            name: name.to_string(),
            size_bytes: SIZE_BYTES,
            sector_bytes: 512,
            container: None,
            near: None,
            rewind: None,
        };
        self.verbs().create_vdisk(create).await.expect("a vDisk");
        self.id(name)
    }

    pub fn id(&self, vdisk: &str) -> VdiskId {
        self.verbs().find(vdisk).expect("it is there").id
    }

    pub async fn write(&self, vdisk: &str, byte: u8) -> Result<()> {
        self.verbs().write(vdisk, 0, Bytes::from(vec![byte; BLOCK])).await
    }

    pub async fn first(&self, vdisk: &str) -> Result<u8> {
        Ok(self.verbs().read(vdisk, 0, BLOCK as u32).await?[0])
    }

    /// As calls take one for themselves.
    pub async fn temporary(&self, vdisk: VdiskId) -> SnapshotId {
        let taken = self.verbs().shards.on(shard_of(vdisk), move |shard| {
            Box::pin(async move {
                shard.snapshot(vdisk, ".clone-7").await.map(|taken| taken.id).map_err(super::errors::from_node)
            })
        });
        taken.await.expect("a snapshot")
    }

    /// Of the engine: those that nobody is told of, too.
    pub async fn all_snapshots(&self, vdisk: VdiskId) -> Vec<SnapshotId> {
        let all = self.verbs().shards.on(shard_of(vdisk), move |shard| {
            Box::pin(async move {
                let all = shard.snapshots(vdisk).await.map_err(super::errors::from_node)?;
                Ok(all.into_iter().map(|snapshot| snapshot.id).collect())
            })
        });
        all.await.expect("snapshots")
    }

    pub async fn connect(&self, vdisk: VdiskId, snapshot: Option<SnapshotId>) -> Client {
        let (leave, leaves) = oneshot::channel::<()>();
        let (comes, is_there) = oneshot::channel::<()>();
        let shards = self.verbs().shards.clone();
        let stays = async move {
            let connected = shards.on(shard_of(vdisk), move |shard| {
                Box::pin(async move {
                    let attached = match snapshot {
                        None => shard.attach(vdisk).await,
                        Some(snapshot) => shard.attach_snapshot(vdisk, snapshot).await,
                    };
                    let mut attached = attached.map_err(super::errors::from_node)?;
                    comes.send(()).expect("somebody waits");
                    tokio::select! {
                        left = leaves => drop(left),
                        () = &mut attached.closed => return Err(Error::internal("it was cut off")),
                    }
                    Ok(())
                })
            });
            connected.await
        };
        let task = tokio::spawn(stays);
        is_there.await.expect("a client");
        Client { leave, task }
    }

    /// Why it is not healthy.
    pub async fn reasons(&self) -> Vec<String> {
        match self.verbs().health(&self.verbs().reports(false).await.expect("reports")) {
            Health::Healthy => Vec::new(),
            Health::Degraded { reasons } => reasons,
            other => panic!("{other:?}"),
        }
    }

    pub async fn snapshot(&self, vdisk: &str, name: &str) -> SnapshotId {
        self.verbs().create_snapshot(vdisk, name).await.expect("a snapshot");
        self.verbs().find(vdisk).expect("it is there").snapshot(vdisk, name).expect("it is listed").id
    }
}

/// A snapshot that there is not: whatever needs it fails.
pub(in crate::controller) fn missing() -> SnapshotId {
    SnapshotId::new(1, 0x3ff_ffff)
}

pub(in crate::controller) async fn until(what: &str, mut is: impl FnMut() -> bool) {
    for _ in 0..500 {
        if is() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{what} did not come");
}
