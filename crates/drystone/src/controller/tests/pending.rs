//! Rollbacks and clones that are on record: what they need stays, nothing is carried out over later writes, and there is a
//! way out.

use super::{Rig, missing};
use base::{SnapshotId, VdiskId};
use control::{
    AttachVdisk, Control, CreateVm, CreateVmGroup, DeleteVdisk, GroupControl, Kind, MakeClones, SnapshotControl,
    VmControl,
};
use meta::{PlanRecord, PlannedVdisk, RollbackRecord, SetRecord, Source, Transaction, VmRecord, keys};

/// A VM with 1 in a snapshot of each vDisk that a call took for itself, and 2 since.
async fn rolled(rig: &Rig) -> (VmRecord, Vec<(VdiskId, SnapshotId)>) {
    let vm = rig.vm("web", &["root", "data"]).await;
    let mut steps = Vec::new();
    for name in ["web-root", "web-data"] {
        rig.write(name, 1).await.expect("a write");
        steps.push((rig.id(name), rig.temporary(rig.id(name)).await));
        rig.write(name, 2).await.expect("a write");
    }
    (vm, steps)
}

fn rollback(vm: &VmRecord, steps: &[(VdiskId, SnapshotId)]) -> RollbackRecord {
    RollbackRecord { vm: vm.id, steps: steps.to_vec() }
}

fn put(rollback: &RollbackRecord) -> Transaction {
    Transaction::new().put(keys::rollback(rollback.vm), rollback.encode())
}

/// As a call leaves it that could not take back what it did.
async fn left_in_the_running_controller(rig: &Rig, record: &RollbackRecord) {
    rig.verbs().commit(put(record)).await.expect("a commit");
    rig.verbs().vms.put_rollback(record.clone());
    rig.verbs().hold(&record.steps.iter().map(|(id, _)| *id).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn a_start_finishes_a_rollback_and_clears_up() {
    let mut rig = Rig::new().await;
    let (vm, steps) = rolled(&rig).await;
    rig.restart_with(put(&rollback(&vm, &steps))).await;
    assert_eq!((rig.first("web-root").await, rig.first("web-data").await), (Ok(1), Ok(1)));
    for (vdisk, _) in steps {
        assert_eq!(rig.all_snapshots(vdisk).await, []);
    }
    assert_eq!(rig.reasons().await, Vec::<String>::new());
    rig.stop().await;
}

#[tokio::test]
async fn a_rollback_that_starts_cannot_finish_keeps_what_it_needs_until_there_is_a_way_out() {
    let mut rig = Rig::new().await;
    let (vm, mut steps) = rolled(&rig).await;
    let [(root, good), (data, _)] = steps[..] else { panic!("two steps") };
    steps[1].1 = missing();
    let record = rollback(&vm, &steps);
    rig.restart_with(put(&record)).await;
    for _ in 0..2 {
        assert!(rig.all_snapshots(root).await.contains(&good), "what the rollback needs is gone");
        assert_eq!(rig.first("web-root").await.expect_err("half rolled back").kind, Kind::Unavailable);
        let reasons = rig.reasons().await;
        assert!(reasons.len() == 1 && reasons[0].contains("the rollback of VM \"web\""), "{reasons:?}");
        rig.restart_with(Transaction::new()).await;
    }
    // The vDisk that cannot be rolled back is let go of.
    rig.verbs().detach_vdisk("web", "data").await.expect("detached");
    let all = DeleteVdisk { force: true, snapshots: true };
    rig.verbs().delete_vdisk("web-data", all).await.expect("deleted");
    rig.verbs().finish_pending().await;
    assert_eq!(rig.first("web-root").await, Ok(1));
    assert_eq!(rig.reasons().await, Vec::<String>::new());
    assert_eq!(rig.all_snapshots(root).await, [], "what nothing needs any more stays");
    assert!(rig.verbs().find("web-data").is_err() && rig.verbs().vms.rollback_of(data).is_none());
    rig.stop().await;
}

#[tokio::test]
async fn a_rollback_is_tried_again_in_the_running_controller() {
    let rig = Rig::new().await;
    let (vm, steps) = rolled(&rig).await;
    let client = rig.connect(steps[1].0, None).await;
    left_in_the_running_controller(&rig, &rollback(&vm, &steps)).await;
    rig.verbs().finish_pending().await;
    let reasons = rig.reasons().await;
    assert!(reasons.len() == 1 && reasons[0].contains("web-data"), "{reasons:?}");
    assert_eq!(rig.write("web-root", 3).await.expect_err("half rolled back").kind, Kind::Unavailable);
    client.leaves().await;
    rig.verbs().finish_pending().await;
    assert_eq!((rig.first("web-root").await, rig.first("web-data").await), (Ok(1), Ok(1)));
    assert_eq!(rig.reasons().await, Vec::<String>::new());
    // Nothing is left that could be done over this.
    rig.write("web-root", 4).await.expect("a write");
    rig.verbs().finish_pending().await;
    assert_eq!(rig.first("web-root").await, Ok(4));
    rig.stop().await;
}

#[tokio::test]
async fn a_rollback_can_be_given_up() {
    let mut rig = Rig::new().await;
    let (vm, mut steps) = rolled(&rig).await;
    let (root, data) = (steps[0].0, steps[1].0);
    steps[1].1 = missing();
    rig.restart_with(put(&rollback(&vm, &steps))).await;
    rig.vm("other", &[]).await;
    assert_eq!(rig.verbs().abort_rollback("other").await.expect_err("it has none").kind, Kind::NotFound);
    rig.verbs().abort_rollback("web").await.expect("given up");
    assert_eq!((rig.first("web-root").await, rig.first("web-data").await), (Ok(1), Ok(2)), "each as it was left");
    assert_eq!((rig.all_snapshots(root).await, rig.all_snapshots(data).await), (vec![], vec![]));
    rig.write("web-root", 3).await.expect("a write");
    rig.restart_with(Transaction::new()).await;
    assert_eq!(rig.first("web-root").await, Ok(3));
    assert_eq!(rig.reasons().await, Vec::<String>::new());
    rig.stop().await;
}

#[tokio::test]
async fn no_other_rollback_of_what_one_on_record_has_begun() {
    let mut rig = Rig::new().await;
    let (vm, mut steps) = rolled(&rig).await;
    rig.vm("db", &["root"]).await;
    let verbs = rig.verbs();
    verbs
        .create_vm_group(CreateVmGroup { name: "shop".into(), vms: vec!["web".into(), "db".into()] })
        .await
        .expect("a group");
    rig.snapshot("web-root", "alone").await;
    verbs.create_vm_snapshot("web", "vm").await.expect("a snapshot");
    verbs.create_group_snapshot("shop", "group").await.expect("a snapshot");
    steps[1].1 = missing();
    rig.restart_with(put(&rollback(&vm, &steps))).await;
    let verbs = rig.verbs();
    let refused = |refused: control::Result<()>| {
        let error = refused.expect_err("a rollback under way");
        assert!(error.kind == Kind::Unavailable && error.message.contains("not complete"), "{error}");
    };
    refused(verbs.roll_back("web-root", "alone").await.map(drop));
    refused(verbs.roll_back("web-data", "vm").await.map(drop));
    refused(verbs.roll_back_vm("web", "vm").await.map(drop));
    refused(verbs.roll_back_group("shop", "group").await.map(drop));
    verbs.detach_vdisk("web", "data").await.expect("detached");
    let attach = AttachVdisk { vdisk: "web-data".into(), label: None };
    refused(verbs.attach_vdisk("db", attach).await.map(drop));
    // Nor does anybody connect, in whatever way.
    let id = rig.id("web-data");
    let connected = verbs.shards.on(super::shard_of(id), move |shard| {
        Box::pin(async move { Ok(shard.attach(id).await.err().map(|error| error.kind)) })
    });
    assert_eq!(connected.await, Ok(Some(node::Kind::Busy)));
    // The group's other VM is none of it.
    verbs.roll_back_vm("db", "group").await.expect("a rollback");
    rig.stop().await;
}

#[tokio::test]
async fn what_something_on_record_needs_is_not_deleted() {
    let rig = Rig::new().await;
    let (vm, _) = rolled(&rig).await;
    let verbs = rig.verbs();
    verbs.create_vm_group(CreateVmGroup { name: "shop".into(), vms: vec!["web".into()] }).await.expect("a group");
    verbs.create_vm_snapshot("web", "vm").await.expect("a snapshot");
    verbs.create_group_snapshot("shop", "group").await.expect("a snapshot");
    let alone = rig.snapshot("web-root", "alone").await;
    let part = |set: &str| {
        let set = verbs.find_set(&vm, set).expect("a set");
        let member = set.vms[0].members[1].clone();
        (member.vdisk, member.snapshot)
    };
    let needed = |refused: control::Result<()>, what: &str| {
        let error = refused.expect_err(what);
        assert!(error.kind == Kind::Busy && error.message.contains("is needed for"), "{what}: {error}");
    };
    let steps = [(rig.id("web-root"), alone), part("vm"), part("group")];
    let record = rollback(&vm, &steps);
    verbs.vms.put_rollback(record.clone());
    for force in [false, true] {
        needed(verbs.delete_snapshot("web-root", "alone", force).await, "a vDisk's");
        needed(verbs.delete_vm_snapshot("web", "vm", force).await, "a VM's");
        needed(verbs.delete_group_snapshot("shop", "group", force).await, "a group's");
    }
    verbs.vms.remove_rollback(record.vm);
    // The same for a clone, and for what it is made from as a whole.
    let id = rig.vdisk("source").await;
    let snapshot = rig.snapshot("source", "s").await;
    let source = Source::Snapshot { vdisk: id, snapshot };
    let vdisks = vec![PlannedVdisk { label: "root".into(), name: "copy-root".into(), source }];
    let plan = PlanRecord { vm: base::VmId::new(1, 0x3ff_fff0), name: "copy".into(), vdisks };
    verbs.vms.put_plans(std::slice::from_ref(&plan));
    needed(verbs.delete_snapshot("source", "s", true).await, "a source");
    needed(verbs.delete_vdisk("source", DeleteVdisk { force: true, snapshots: true }).await, "the vDisk of a source");
    verbs.vms.remove_plans(std::slice::from_ref(&plan));
    for (vdisk, name) in [("source", "s"), ("web-root", "alone")] {
        verbs.delete_snapshot(vdisk, name, false).await.expect("deleted");
    }
    verbs.delete_vm_snapshot("web", "vm", false).await.expect("deleted");
    verbs.delete_group_snapshot("shop", "group", false).await.expect("deleted");
    rig.stop().await;
}

#[tokio::test]
async fn a_clone_that_starts_cannot_finish_keeps_its_sources_and_nothing_else() {
    let mut rig = Rig::new().await;
    let (vm, steps) = rolled(&rig).await;
    let verbs = rig.verbs();
    verbs.create_vm_snapshot("web", "old").await.expect("a snapshot");
    let going = SetRecord { deleting: true, ..verbs.find_set(&vm, "old").expect("a set") };
    let planned = |label: &str, (vdisk, snapshot): (VdiskId, SnapshotId)| PlannedVdisk {
        label: label.into(),
        name: format!("copy-{label}"),
        source: Source::Snapshot { vdisk, snapshot },
    };
    let (root, data) = (steps[0].0, steps[1].0);
    let vdisks = vec![planned("root", steps[0]), planned("data", (data, missing()))];
    let plan = PlanRecord { vm: base::VmId::new(1, 0x3ff_fff0), name: "copy".into(), vdisks };
    let stored = Transaction::new().put(keys::plan(plan.vm), plan.encode()).put(keys::set(going.id), going.encode());
    rig.restart_with(stored).await;
    for _ in 0..2 {
        let reasons = rig.reasons().await;
        assert!(reasons.len() == 1 && reasons[0].contains("the making of VM \"copy\""), "{reasons:?}");
        // The set that was being deleted is gone, the temporary snapshot is needed; that of `data` nothing needs.
        assert_eq!((rig.all_snapshots(root).await, rig.all_snapshots(data).await), (vec![steps[0].1], vec![]));
        assert!(rig.verbs().vms.find_going(going.id).is_none());
        rig.restart_with(Transaction::new()).await;
    }
    // Its name is taken: it is given up.
    rig.verbs().create_vm(CreateVm { name: "copy".into(), vdisks: Vec::new() }).await.expect("a VM");
    rig.verbs().finish_pending().await;
    assert_eq!(rig.reasons().await, Vec::<String>::new());
    assert_eq!(rig.all_snapshots(root).await, []);
    rig.stop().await;
}

#[tokio::test]
async fn a_call_leaves_nothing_on_record() {
    let rig = Rig::new().await;
    rolled(&rig).await;
    let verbs = rig.verbs();
    verbs.create_vm_snapshot("web", "s").await.expect("a snapshot");
    verbs.clone_vm("web", MakeClones { snapshot: None, names: vec!["copy".into()] }).await.expect("a clone");
    let client = rig.connect(rig.id("web-data"), None).await;
    assert_eq!(verbs.roll_back_vm("web", "s").await.expect_err("a client").kind, Kind::Busy);
    assert!(verbs.vms.is_settled());
    client.leaves().await;
    verbs.roll_back_vm("web", "s").await.expect("a rollback");
    assert!(verbs.vms.is_settled());
    assert_eq!(rig.first("copy-data").await, Ok(2));
    rig.stop().await;
}
