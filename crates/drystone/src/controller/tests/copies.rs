//! Who writes without being connected: copies between vDisks that others carry out, which are clients of both as long as
//! they last, and sanitize operations, which go on when everybody has logged out.

use super::{BLOCK, Rig, shard_of};
use crate::controller::exports::Exported;
use crate::controller::targets::{Here, visit};
use crate::controller::verbs::Verbs;
use base::VdiskId;
use block::Request;
use bytes::Bytes;
use control::{Control, CreateVdisk, DeleteVdisk, Kind, SnapshotControl, VmControl};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use vdisk::NoteKind;

/// A copy that has opened its destination, and has one more write to do.
struct Copying {
    goes_on: oneshot::Sender<()>,
    /// Whether the write was carried out.
    written: JoinHandle<bool>,
}

impl Copying {
    async fn goes_on(self) -> bool {
        self.goes_on.send(()).expect("it waits");
        self.written.await.expect("a task")
    }
}

fn exported(verbs: &Verbs) -> Arc<Exported> {
    Arc::new(Exported {
        directory: verbs.directory.clone(),
        shards: verbs.shards.clone(),
        groups: verbs.groups.clone(),
        vms: verbs.vms.clone(),
        realms: vec![1, 2],
    })
}

async fn copy_to(rig: &Rig, vdisk: VdiskId) -> Copying {
    let verbs = rig.verbs().clone();
    let (goes_on, may_go_on) = oneshot::channel::<()>();
    let (opens, is_open) = oneshot::channel::<()>();
    let exported = exported(&verbs);
    let written = tokio::spawn(async move {
        let written = verbs.shards.on(shard_of(vdisk), move |shard| {
            Box::pin(async move {
                let units = Here { world: shard.context.world.clone(), exported };
                let device = visit(vdisk, &units, "iqn.2026-11.test:host,i,0x1").await.expect("it is in reach");
                opens.send(()).expect("somebody waits");
                if may_go_on.await.is_err() {
                    return Ok(false);
                }
                let write = Request::Write { offset: 0, data: Bytes::from(vec![9; BLOCK]), fua: false };
                Ok(device.submit(write).await.is_ok())
            })
        });
        written.await.expect("a copy")
    });
    is_open.await.expect("a copy");
    Copying { goes_on, written }
}

#[tokio::test]
async fn nothing_is_rolled_back_under_a_copy() {
    let rig = Rig::new().await;
    rig.vm("web", &["root", "data"]).await;
    let id = rig.id("web-data");
    rig.write("web-data", 1).await.expect("a write");
    let verbs = rig.verbs();
    verbs.create_vm_snapshot("web", "vm").await.expect("a snapshot");
    rig.snapshot("web-data", "alone").await;
    rig.write("web-data", 2).await.expect("a write");
    let copying = copy_to(&rig, id).await;
    assert_eq!(verbs.roll_back_vm("web", "vm").await.expect_err("a copy").kind, Kind::Busy);
    assert_eq!(verbs.roll_back("web-data", "alone").await.expect_err("a copy").kind, Kind::Busy);
    assert!(copying.goes_on().await);
    assert_eq!(rig.first("web-data").await, Ok(9));
    verbs.roll_back_vm("web", "vm").await.expect("a rollback");
    assert_eq!(rig.first("web-data").await, Ok(1));
    rig.stop().await;
}

#[tokio::test]
async fn a_copy_ends_with_the_vdisk() {
    let rig = Rig::new().await;
    let id = rig.vdisk("v").await;
    let verbs = rig.verbs();
    let copying = copy_to(&rig, id).await;
    let delete = |force: bool| DeleteVdisk { force, snapshots: false };
    assert_eq!(verbs.delete_vdisk("v", delete(false)).await.expect_err("a copy").kind, Kind::Busy);
    verbs.delete_vdisk("v", delete(true)).await.expect("deleted");
    assert!(!copying.goes_on().await, "a deleted vDisk was written");
    rig.stop().await;
}

/// What a logical unit keeps of an overwrite of one byte in many passes, as `scsi` writes it.
fn overwrite_under_way() -> Bytes {
    let mut kept = b"DSLU\x01\0\0\0\0\0\0\0\x02\0\0\x10\x01\0\xaa".to_vec();
    kept.extend(base::crc::crc32c(&kept).to_le_bytes());
    kept.into()
}

async fn keep(rig: &Rig, vdisk: VdiskId, kept: Bytes) {
    let kept = rig.verbs().shards.on(shard_of(vdisk), move |shard| {
        Box::pin(async move {
            shard.set_note(vdisk, NoteKind::Reservations, kept).await.map_err(crate::controller::errors::from_node)
        })
    });
    kept.await.expect("a note");
}

/// As an earlier build let both begin.
#[tokio::test]
async fn a_rollback_on_record_waits_for_a_sanitize_operation() {
    let mut rig = Rig::new().await;
    let vm = rig.vm("web", &["root"]).await;
    let id = rig.id("web-root");
    rig.write("web-root", 1).await.expect("a write");
    let snapshot = rig.snapshot("web-root", "s").await;
    rig.write("web-root", 2).await.expect("a write");
    keep(&rig, id, overwrite_under_way()).await;
    let record = meta::RollbackRecord { vm: vm.id, steps: vec![(id, snapshot)] };
    rig.restart_with(meta::Transaction::new().put(meta::keys::rollback(vm.id), record.encode())).await;
    rig.verbs().finish_pending().await;
    let reasons = rig.reasons().await;
    assert!(reasons.len() == 1 && reasons[0].contains("sanitize"), "{reasons:?}");
    rig.verbs().abort_rollback("web").await.expect("given up");
    assert_eq!((rig.reasons().await, rig.first("web-root").await), (Vec::new(), Ok(2)));
    rig.stop().await;
}

#[tokio::test]
async fn nothing_is_rolled_back_under_a_sanitize_operation() {
    let rig = Rig::new().await;
    rig.vm("web", &["root", "data"]).await;
    let id = rig.id("web-data");
    rig.write("web-data", 1).await.expect("a write");
    let verbs = rig.verbs();
    verbs.create_vm_snapshot("web", "vm").await.expect("a snapshot");
    rig.snapshot("web-data", "alone").await;
    let refused = async |when: &str| {
        for refused in
            [verbs.roll_back_vm("web", "vm").await.map(drop), verbs.roll_back("web-data", "alone").await.map(drop)]
        {
            let error = refused.expect_err(when);
            assert!(error.kind == Kind::Busy && error.message.contains("sanitize"), "{when}: {error}");
        }
    };
    keep(&rig, id, overwrite_under_way()).await;
    refused("cut short, and nothing goes on with it yet").await;
    let exported = exported(verbs);
    let woken = verbs.shards.on(shard_of(id), move |shard| {
        Box::pin(async move {
            let units = Here { world: shard.context.world.clone(), exported };
            let device = shard.vdisk(id).await.map_err(crate::controller::errors::from_node)?.device();
            crate::iscsi::wake(id.raw(), device, &units).await.map_err(crate::controller::errors::from_block)
        })
    });
    woken.await.expect("it goes on");
    // As of one that has just begun.
    keep(&rig, id, Bytes::new()).await;
    refused("under way, and not in the log yet").await;
    for _ in 0..500 {
        match verbs.roll_back_vm("web", "vm").await {
            Ok(_) => break,
            Err(error) => assert_eq!(error.kind, Kind::Busy, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(rig.first("web-data").await, Ok(1));
    rig.stop().await;
}

/// Copies between them share extents then.
#[tokio::test]
async fn a_vdisk_is_made_on_the_shard_of_another_if_that_is_asked_for() {
    let rig = Rig::new().await;
    let source = rig.vdisk("source").await;
    let create = |name: &str, near: &str| CreateVdisk {
        name: name.into(),
        size_bytes: super::SIZE_BYTES,
        sector_bytes: 512,
        container: None,
        near: Some(near.into()),
        rewind: None,
    };
    for name in ["one", "two", "three"] {
        let made = rig.verbs().create_vdisk(create(name, "source")).await.expect("a vDisk");
        assert_eq!(made.shard, u32::from(shard_of(source)), "{name}");
    }
    assert_ne!(shard_of(rig.vdisk("elsewhere").await), shard_of(source));
    let refused = rig.verbs().create_vdisk(create("four", "nobody")).await.expect_err("there is no such vDisk");
    assert_eq!(refused.kind, Kind::NotFound);
    assert!(rig.verbs().find("four").is_err());
}
