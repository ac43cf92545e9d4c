//! Rollbacks and clones that are on record: what they need stays, nothing is carried out over later writes, and there is a
//! way out.

use super::{Rig, SIZE_BYTES, missing};
use base::{ContainerId, SnapshotId, VdiskId};
use control::{
    AttachVdisk, Control, CreateVdisk, CreateVm, CreateVmGroup, DeleteVdisk, DeleteVm, GroupControl, Kind, MakeClones,
    SnapshotControl, VmControl,
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
    // As an earlier build let one go.
    rig.verbs().detach_vdisk("web", "data").await.expect("detached");
    let record = rollback(&vm, &steps);
    rig.restart_with(put(&record)).await;
    for _ in 0..2 {
        assert!(rig.all_snapshots(root).await.contains(&good), "what the rollback needs is gone");
        assert_eq!(rig.first("web-root").await.expect_err("half rolled back").kind, Kind::Unavailable);
        let reasons = rig.reasons().await;
        assert!(reasons.len() == 1 && reasons[0].contains("the rollback of VM \"web\""), "{reasons:?}");
        rig.restart_with(Transaction::new()).await;
    }
    // The vDisk that cannot be rolled back goes.
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
    refused(verbs.detach_vdisk("web", "data").await.map(drop));
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
    let plan =
        PlanRecord { vm: base::VmId::new(1, 0x3ff_fff0), name: "copy".into(), vdisks, container: ContainerId::NONE };
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
    let plan =
        PlanRecord { vm: base::VmId::new(1, 0x3ff_fff0), name: "copy".into(), vdisks, container: ContainerId::NONE };
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
    rig.verbs()
        .create_vm(CreateVm { name: "copy".into(), vdisks: Vec::new(), container: None, existing: Vec::new() })
        .await
        .expect("a VM");
    rig.verbs().finish_pending().await;
    assert_eq!(rig.reasons().await, Vec::<String>::new());
    assert_eq!(rig.all_snapshots(root).await, []);
    rig.stop().await;
}

/// A plan for VM `copy` with a clone of what `source` has in the snapshot, which is 1; since then it is 2.
async fn planned(rig: &Rig) -> PlanRecord {
    let vdisk = rig.vdisk("source").await;
    rig.write("source", 1).await.expect("a write");
    let snapshot = rig.snapshot("source", "s").await;
    rig.write("source", 2).await.expect("a write");
    let source = Source::Snapshot { vdisk, snapshot };
    let vdisks = vec![PlannedVdisk { label: "root".into(), name: "copy-root".into(), source }];
    PlanRecord { vm: base::VmId::new(1, 0x3ff_fff0), name: "copy".into(), vdisks, container: ContainerId::NONE }
}

fn put_plan(plan: &PlanRecord) -> Transaction {
    Transaction::new().put(keys::plan(plan.vm), plan.encode())
}

#[tokio::test]
async fn a_vdisk_that_only_has_the_name_is_not_taken_for_one_that_was_planned() {
    let mut rig = Rig::new().await;
    let plan = planned(&rig).await;
    rig.vdisk("copy-root").await;
    rig.write("copy-root", 7).await.expect("a write");
    rig.restart_with(put_plan(&plan)).await;
    rig.verbs().finish_pending().await;
    assert_eq!(rig.verbs().find_vm("copy").expect_err("it was made of something else").kind, Kind::NotFound);
    let reasons = rig.reasons().await;
    assert!(reasons.len() == 1 && reasons[0].contains("\"copy-root\" exists"), "{reasons:?}");
    rig.verbs().rename_vdisk("copy-root", "mine").await.expect("renamed");
    rig.verbs().finish_pending().await;
    assert_eq!((rig.first("copy-root").await, rig.first("mine").await), (Ok(1), Ok(7)));
    assert_eq!(rig.verbs().find_vm("copy").expect("a VM").vdisks[0].vdisk, rig.id("copy-root"));
    assert_eq!(rig.reasons().await, Vec::<String>::new());
    rig.stop().await;
}

#[tokio::test]
async fn a_vdisk_is_taken_for_one_that_was_planned_empty_if_it_is() {
    for (size_bytes, is_written, is_taken) in
        [(SIZE_BYTES, false, true), (SIZE_BYTES, true, false), (2 * SIZE_BYTES, false, false)]
    {
        let mut rig = Rig::new().await;
        let there = rig.vdisk("copy-root").await;
        if is_written {
            rig.write("copy-root", 7).await.expect("a write");
        }
        let source = Source::Empty { size_bytes, sector_bytes: 512 };
        let vdisks = vec![PlannedVdisk { label: "root".into(), name: "copy-root".into(), source }];
        let plan = PlanRecord {
            vm: base::VmId::new(1, 0x3ff_fff0),
            name: "copy".into(),
            vdisks,
            container: ContainerId::NONE,
        };
        rig.restart_with(put_plan(&plan)).await;
        let made = rig.verbs().find_vm("copy").ok().map(|vm| vm.vdisks[0].vdisk);
        assert_eq!(made, is_taken.then_some(there), "{size_bytes} bytes, written: {is_written}");
        if !is_taken {
            let reasons = rig.reasons().await;
            assert!(reasons.len() == 1 && reasons[0].contains("\"copy-root\" exists"), "{reasons:?}");
        }
        rig.stop().await;
    }
}

#[tokio::test]
async fn a_vdisk_of_another_vm_is_not_taken_for_one_that_was_planned() {
    let mut rig = Rig::new().await;
    let plan = planned(&rig).await;
    let clones = MakeClones { snapshot: None, names: vec!["copy-root".into()] };
    rig.verbs().make_clones("source", clones).await.expect("a clone");
    rig.vm("other", &[]).await;
    rig.verbs().attach_vdisk("other", AttachVdisk { vdisk: "copy-root".into(), label: None }).await.expect("attached");
    rig.restart_with(put_plan(&plan)).await;
    assert_eq!(rig.verbs().find_vm("copy").expect_err("it has a vDisk of another VM").kind, Kind::NotFound);
    assert_eq!(rig.reasons().await.len(), 1);
    rig.stop().await;
}

#[tokio::test]
async fn names_of_what_is_planned_are_not_given_to_anything_else() {
    let rig = Rig::new().await;
    let plan = planned(&rig).await;
    rig.vm("web", &[]).await;
    let verbs = rig.verbs();
    verbs.vms.put_plans(std::slice::from_ref(&plan));
    let refused = |refused: control::Error| {
        assert!(refused.kind == Kind::Exists && refused.message.contains("is for a vDisk of VM \"copy\""), "{refused}");
    };
    let create = CreateVdisk {
        name: "copy-root".into(),
        size_bytes: 1 << 20,
        sector_bytes: 512,
        container: None,
        near: None,
        rewind: None,
    };
    refused(verbs.create_vdisk(create).await.expect_err("created"));
    refused(verbs.rename_vdisk("source", "copy-root").await.expect_err("renamed"));
    let clones = MakeClones { snapshot: None, names: vec!["copy-root".into()] };
    refused(verbs.make_clones("source", clones).await.expect_err("cloned"));
    // Made, but not of its VM yet.
    verbs.make_vdisks(std::slice::from_ref(&plan), &mut Vec::new()).await.expect("made");
    let attach = AttachVdisk { vdisk: "copy-root".into(), label: None };
    refused(verbs.attach_vdisk("web", attach).await.expect_err("attached"));
    verbs.commit(put_plan(&plan)).await.expect("a commit");
    verbs.finish_pending().await;
    assert_eq!(rig.verbs().find_vm("copy").expect("a VM").vdisks[0].vdisk, rig.id("copy-root"));
    rig.stop().await;
}

#[tokio::test]
async fn a_plan_that_cannot_be_made_keeps_back_no_other() {
    let mut rig = Rig::new().await;
    let good = planned(&rig).await;
    let mut bad = PlanRecord { vm: base::VmId::new(1, 0x3ff_ffe0), name: "bad".into(), ..good.clone() };
    bad.vdisks[0].name = "bad-root".into();
    bad.vdisks[0].source = Source::Snapshot { vdisk: rig.id("source"), snapshot: missing() };
    let stored = Transaction::new().put(keys::plan(bad.vm), bad.encode()).put(keys::plan(good.vm), good.encode());
    rig.restart_with(stored).await;
    assert_eq!(rig.first("copy-root").await, Ok(1));
    rig.verbs().find_vm("copy").expect("made");
    let reasons = rig.reasons().await;
    assert!(reasons.len() == 1 && reasons[0].contains("the making of VM \"bad\""), "{reasons:?}");
    rig.stop().await;
}

/// Its call was told that it failed, and the metadata store could not be told to forget it.
#[tokio::test]
async fn a_plan_that_was_given_up_is_forgotten_and_never_carried_out() {
    let rig = Rig::new().await;
    let plan = planned(&rig).await;
    let verbs = rig.verbs();
    verbs.commit(put_plan(&plan)).await.expect("a commit");
    verbs.vms.put_plans(std::slice::from_ref(&plan));
    verbs.vms.give_up(&plan, Default::default());
    let reserved = MakeClones { snapshot: None, names: vec!["copy-root".into()] };
    assert_eq!(verbs.make_clones("source", reserved).await.expect_err("planned").kind, Kind::Exists);
    verbs.finish_pending().await;
    assert!(verbs.find_vm("copy").is_err() && verbs.find("copy-root").is_err() && verbs.vms.is_settled());
    assert!(!verbs.vms.is_given_up(plan.vm));
    let is_stored = verbs.shards.on(0, move |shard| {
        Box::pin(async move { Ok(shard.store().get(&keys::plan(plan.vm)).await.expect("a store").is_some()) })
    });
    assert!(!is_stored.await.expect("read"));
    assert_eq!(rig.reasons().await, Vec::<String>::new());
    rig.stop().await;
}

#[tokio::test]
async fn a_vm_that_is_half_rolled_back_is_no_source() {
    let rig = Rig::new().await;
    let (vm, mut steps) = rolled(&rig).await;
    let verbs = rig.verbs();
    verbs.create_vm_snapshot("web", "whole").await.expect("a snapshot");
    verbs.create_vm_group(CreateVmGroup { name: "shop".into(), vms: vec!["web".into()] }).await.expect("a group");
    steps[1].1 = missing();
    left_in_the_running_controller(&rig, &rollback(&vm, &steps)).await;
    let clones = |snapshot: Option<&str>, name: &str| MakeClones {
        snapshot: snapshot.map(str::to_string),
        names: vec![name.to_string()],
    };
    for (what, refused) in [
        ("a clone", verbs.clone_vm("web", clones(None, "copy")).await.map(drop)),
        ("a snapshot", verbs.create_vm_snapshot("web", "mix").await.map(drop)),
        ("a snapshot of its group", verbs.create_group_snapshot("shop", "mix").await.map(drop)),
        ("a template", verbs.set_template("web", true).await.map(drop)),
    ] {
        let error = refused.expect_err(what);
        assert!(error.kind == Kind::Unavailable && error.message.contains("rollback-abort"), "{what}: {error}");
    }
    verbs.clone_vm("web", clones(Some("whole"), "copy")).await.expect("of a whole one");
    verbs.abort_rollback("web").await.expect("given up");
    verbs.create_vm_snapshot("web", "later").await.expect("a snapshot");
    rig.stop().await;
}

/// A call has planned the VM whose name is the way out of an earlier one, and did not get to make it.
#[tokio::test]
async fn of_plans_for_one_name_the_latest_counts() {
    let mut rig = Rig::new().await;
    let earlier = planned(&rig).await;
    let later = PlanRecord { vm: base::VmId::new(1, 0x3ff_fff1), ..earlier.clone() };
    rig.restart_with(put_plan(&earlier).put(keys::plan(later.vm), later.encode())).await;
    assert_eq!(rig.verbs().find_vm("copy").expect("made").id, later.vm);
    assert_eq!(rig.first("copy-root").await, Ok(1));
    assert!(rig.verbs().vms.is_settled());
    rig.stop().await;
}

#[tokio::test]
async fn a_vm_stays_while_its_rollback_can_only_be_given_up_by_its_name() {
    let rig = Rig::new().await;
    let (vm, mut steps) = rolled(&rig).await;
    steps[1].1 = missing();
    left_in_the_running_controller(&rig, &rollback(&vm, &steps)).await;
    let verbs = rig.verbs();
    let refused = async |keep_vdisks: bool| {
        let delete = DeleteVm { keep_vdisks, force: true, snapshots: true };
        let error = verbs.delete_vm("web", delete).await.expect_err("deleted");
        assert!(error.kind == Kind::Unavailable && error.message.contains("rollback-abort"), "{error}");
    };
    refused(true).await;
    refused(false).await;
    for label in ["root", "data"] {
        let error = verbs.detach_vdisk("web", label).await.expect_err("detached");
        assert!(error.kind == Kind::Unavailable && error.message.contains("rollback-abort"), "{error}");
    }
    verbs.abort_rollback("web").await.expect("given up");
    verbs.delete_vm("web", DeleteVm { keep_vdisks: true, force: false, snapshots: false }).await.expect("deleted");
    for vdisk in ["web-root", "web-data"] {
        rig.write(vdisk, 3).await.expect("a write");
    }
    rig.stop().await;
}

/// One of vDisks that the VM has no more, as an earlier build let them go.
#[tokio::test]
async fn a_rollback_is_not_replaced_by_another_one_of_its_vm() {
    let rig = Rig::new().await;
    let (vm, mut steps) = rolled(&rig).await;
    steps[1].1 = missing();
    let verbs = rig.verbs();
    for label in ["root", "data"] {
        verbs.detach_vdisk("web", label).await.expect("detached");
    }
    rig.vdisk("spare").await;
    let attach = |vdisk: &str| AttachVdisk { vdisk: vdisk.into(), label: None };
    verbs.attach_vdisk("web", attach("spare")).await.expect("attached");
    verbs.create_vm_snapshot("web", "s").await.expect("a snapshot");
    let record = rollback(&vm, &steps);
    left_in_the_running_controller(&rig, &record).await;
    let error = verbs.roll_back_vm("web", "s").await.expect_err("it has one");
    assert!(error.kind == Kind::Unavailable && error.message.contains("rollback-abort"), "{error}");
    assert_eq!(
        verbs.attach_vdisk("web", attach("web-root")).await.expect_err("its VM is there").kind,
        Kind::Unavailable
    );
    verbs.finish_pending().await;
    assert_eq!(verbs.vms.rollback_of(steps[0].0), Some(record));
    let reasons = rig.reasons().await;
    assert!(reasons.len() == 1 && reasons[0].contains("the rollback of VM \"web\""), "{reasons:?}");
    verbs.abort_rollback("web").await.expect("given up");
    verbs.roll_back_vm("web", "s").await.expect("a rollback");
    rig.stop().await;
}

#[tokio::test]
async fn the_rollback_of_a_vm_that_is_gone_can_be_given_up() {
    let mut rig = Rig::new().await;
    let (vm, mut steps) = rolled(&rig).await;
    steps[1].1 = missing();
    rig.restart_with(put(&rollback(&vm, &steps)).delete(keys::vm(vm.id))).await;
    let reasons = rig.reasons().await;
    assert!(reasons.len() == 1 && reasons[0].contains("the rollback of a VM that is gone"), "{reasons:?}");
    rig.vm("other", &[]).await;
    rig.vm("running", &["root"]).await;
    let attach = AttachVdisk { vdisk: "web-data".into(), label: None };
    let error = rig.verbs().attach_vdisk("running", attach.clone()).await.expect_err("nobody could log in to it");
    assert!(error.kind == Kind::Unavailable && error.message.contains("empty VM"), "{error}");
    rig.verbs().attach_vdisk("other", attach).await.expect("attached");
    assert!(rig.reasons().await[0].contains("the rollback of VM \"other\""));
    rig.verbs().abort_rollback("other").await.expect("given up");
    assert_eq!(rig.reasons().await, Vec::<String>::new());
    for vdisk in ["web-root", "web-data"] {
        rig.write(vdisk, 3).await.expect("a write");
    }
    rig.stop().await;
}

#[tokio::test]
async fn nobody_who_reads_is_cut_off_for_a_rollback_that_is_given_up() {
    let rig = Rig::new().await;
    let (vm, steps) = rolled(&rig).await;
    let verbs = rig.verbs();
    verbs.create_vm_snapshot("web", "s").await.expect("a snapshot");
    let set = verbs.find_set(&vm, "s").expect("a set");
    let part = set.vms[0].members[0].clone();
    let reader = rig.connect(part.vdisk, Some(part.snapshot)).await;
    // The reader came after the look for readers.
    verbs.delete_set(&set, false).await.expect_err("a reader");
    left_in_the_running_controller(&rig, &rollback(&vm, &steps)).await;
    verbs.abort_rollback("web").await.expect("given up");
    assert_eq!(
        rig.all_snapshots(part.vdisk).await,
        [part.snapshot],
        "what the rollback needed goes, what is read stays"
    );
    reader.leaves().await;
    verbs.finish_pending().await;
    assert_eq!(rig.all_snapshots(part.vdisk).await, []);
    rig.stop().await;
}

#[tokio::test]
async fn a_vm_that_is_deleted_in_part_is_no_good_state() {
    let rig = Rig::new().await;
    let (vm, steps) = rolled(&rig).await;
    let client = rig.connect(steps[1].0, None).await;
    let going = VmRecord { deleting: true, ..vm };
    rig.verbs().commit(Transaction::new().put(keys::vm(going.id), going.encode())).await.expect("a commit");
    rig.verbs().vms.put(going);
    for _ in 0..2 {
        rig.verbs().finish_pending().await;
        let reasons = rig.reasons().await;
        assert!(reasons.len() == 1 && reasons[0].contains("the deletion of VM \"web\""), "{reasons:?}");
    }
    client.leaves().await;
    rig.verbs().finish_pending().await;
    assert_eq!(rig.reasons().await, Vec::<String>::new());
    assert!(rig.verbs().vms.is_settled());
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
