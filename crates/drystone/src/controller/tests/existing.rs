//! VMs that are made of vDisks that are there already: all of them become the VM's, or none, across a crash too.

use super::{Rig, SIZE_BYTES, missing};
use crate::controller::pending::Made;
use base::{ContainerId, VdiskId, VmId};
use control::{AttachVdisk, Control, CreateVm, DeleteVdisk, Error, ExistingVdisk, Kind, VmControl};
use meta::{PlanRecord, PlannedVdisk, Source, Transaction, VmRecord, keys};

/// vDisks of these names, with 1, 2, ... in them.
async fn vdisks(rig: &Rig, names: &[&str]) -> Vec<VdiskId> {
    let mut ids = Vec::new();
    for (name, byte) in names.iter().zip(1..) {
        ids.push(rig.vdisk(name).await);
        rig.write(name, byte).await.expect("a write");
    }
    ids
}

fn of(name: &str, existing: &[(&str, &str)]) -> CreateVm {
    let existing =
        existing.iter().map(|(label, vdisk)| ExistingVdisk { label: label.to_string(), vdisk: vdisk.to_string() });
    CreateVm { name: name.into(), vdisks: Vec::new(), container: None, existing: existing.collect() }
}

fn planned(label: &str, source: Source) -> PlannedVdisk {
    PlannedVdisk { label: label.into(), name: format!("web-{label}"), source }
}

fn members(vm: &VmRecord) -> Vec<(&str, VdiskId)> {
    vm.vdisks.iter().map(|member| (member.label.as_str(), member.vdisk)).collect()
}

#[tokio::test]
async fn a_vm_takes_vdisks_that_are_there() {
    let mut rig = Rig::new().await;
    let ids = vdisks(&rig, &["a", "b", "web-c"]).await;
    let made = rig.verbs().create_vm(of("web", &[("root", "a"), ("data", "b"), ("c", "web-c")])).await.expect("a VM");
    assert_eq!(made.vdisks.iter().map(|one| one.vdisk.as_str()).collect::<Vec<_>>(), ["web-root", "web-data", "web-c"]);
    for _ in 0..2 {
        let vm = rig.verbs().find_vm("web").expect("it is there");
        assert_eq!(members(&vm), [("root", ids[0]), ("data", ids[1]), ("c", ids[2])]);
        assert_eq!(
            (rig.first("web-root").await, rig.first("web-data").await, rig.first("web-c").await),
            (Ok(1), Ok(2), Ok(3))
        );
        assert!(rig.verbs().find("a").is_err() && rig.verbs().vms.is_settled());
        rig.restart_with(Transaction::new()).await;
    }
    rig.stop().await;
}

#[tokio::test]
async fn what_cannot_be_taken_is_refused_before_anything_is_changed() {
    let rig = Rig::new().await;
    vdisks(&rig, &["a", "b", "web-data"]).await;
    rig.vm("db", &["root"]).await;
    let verbs = rig.verbs();
    for (existing, kind) in [
        ([("root", "a"), ("x", "none")], Kind::NotFound),
        ([("root", "a"), ("x", "db-root")], Kind::Invalid),
        ([("root", "a"), ("data", "b")], Kind::Exists),
        ([("root", "a"), ("x", "a")], Kind::Invalid),
        ([("root", "a"), ("root", "b")], Kind::Exists),
    ] {
        assert_eq!(verbs.create_vm(of("web", &existing)).await.expect_err("refused").kind, kind, "{existing:?}");
        assert!(verbs.find("a").is_ok() && verbs.find_vm("web").is_err() && verbs.vms.is_settled(), "{existing:?}");
    }
    rig.stop().await;
}

/// One has its new name already.
#[tokio::test]
async fn a_start_goes_on_with_it() {
    let mut rig = Rig::new().await;
    let ids = vdisks(&rig, &["a", "web-data"]).await;
    let vdisks = [("root", ids[0]), ("data", ids[1])].map(|(label, vdisk)| planned(label, Source::Existing { vdisk }));
    let plan = plan(vdisks.into());
    rig.restart_with(Transaction::new().put(keys::plan(plan.vm), plan.encode())).await;
    assert_eq!(members(&rig.verbs().find_vm("web").expect("made")), [("root", ids[0]), ("data", ids[1])]);
    assert_eq!((rig.first("web-root").await, rig.first("web-data").await), (Ok(1), Ok(2)));
    assert_eq!(rig.reasons().await, Vec::<String>::new());
    rig.stop().await;
}

#[tokio::test]
async fn what_a_vm_is_to_have_stays_until_it_has_it() {
    let rig = Rig::new().await;
    let ids = vdisks(&rig, &["a"]).await;
    rig.vm("db", &[]).await;
    let verbs = rig.verbs();
    let plan = plan(vec![planned("root", Source::Existing { vdisk: ids[0] })]);
    verbs.commit(Transaction::new().put(keys::plan(plan.vm), plan.encode())).await.expect("a commit");
    verbs.vms.put_plans(&[plan]);
    let refused = |refused: control::Result<()>| {
        let error = refused.expect_err("a VM is to have it");
        assert!(error.kind == Kind::Busy && error.message.contains("VM \"web\""), "{error}");
    };
    refused(verbs.delete_vdisk("a", DeleteVdisk { force: true, snapshots: true }).await);
    refused(verbs.rename_vdisk("a", "b").await.map(drop));
    refused(verbs.attach_vdisk("db", AttachVdisk { vdisk: "a".into(), label: None }).await.map(drop));
    refused(verbs.create_vm(of("other", &[("root", "a")])).await.map(drop));
    assert_eq!(verbs.rename_vm("db", "web").await.expect_err("its plan would be given up").kind, Kind::Exists);
    verbs.finish_pending().await;
    assert_eq!(members(&verbs.find_vm("web").expect("made")), [("root", ids[0])]);
    rig.stop().await;
}

#[tokio::test]
async fn what_could_not_be_made_leaves_the_names_that_were() {
    let rig = Rig::new().await;
    let ids = vdisks(&rig, &["a"]).await;
    let verbs = rig.verbs();
    let clone = Source::Snapshot { vdisk: ids[0], snapshot: missing() };
    let vdisks = vec![planned("root", Source::Existing { vdisk: ids[0] }), planned("data", clone)];
    {
        let _one = verbs.changing.lock().await;
        verbs.make_vms(vec![("web".into(), vdisks)], ContainerId::NONE).await.expect_err("there is no such snapshot");
    }
    assert!(verbs.vms.is_settled() && verbs.find("web-root").is_err());
    assert_eq!((rig.id("a"), rig.first("a").await), (ids[0], Ok(1)));
    verbs.delete_vdisk("a", DeleteVdisk { force: false, snapshots: false }).await.expect("it is nobody's");
    rig.stop().await;
}

fn plan(vdisks: Vec<PlannedVdisk>) -> PlanRecord {
    PlanRecord { vm: VmId::new(1, 0x3ff_fff0), name: "web".into(), vdisks, container: ContainerId::NONE }
}

/// The store takes neither the plan nor that it is given up.
#[tokio::test]
async fn what_a_call_was_told_has_failed_is_not_made_later() {
    let rig = Rig::new().await;
    vdisks(&rig, &["a"]).await;
    rig.lose_store();
    let verbs = rig.verbs();
    verbs.create_vm(of("web", &[("root", "a")])).await.expect_err("it cannot be put on record");
    let on_record = verbs.vms.plans();
    assert!(on_record.len() == 1 && verbs.vms.is_given_up(on_record[0].vm), "it would be made: {on_record:?}");
    // It may be on record all the same.
    assert_eq!(verbs.vms.planned_for("web-root"), Some("web".into()));
    verbs.finish_pending().await;
    assert_eq!(rig.first("a").await, Ok(1));
    let reasons = rig.reasons().await;
    assert!(reasons.iter().any(|reason| reason.contains("the giving up of VM \"web\"")), "{reasons:?}");
    rig.stop_without_store().await;
}

/// As a call leaves it that failed while the store took nothing.
#[tokio::test]
async fn what_could_not_be_undone_at_once_is_undone_later() {
    let rig = Rig::new().await;
    let ids = vdisks(&rig, &["a"]).await;
    let verbs = rig.verbs();
    let empty = Source::Empty { size_bytes: SIZE_BYTES, sector_bytes: 512 };
    let plan = plan(vec![planned("root", Source::Existing { vdisk: ids[0] }), planned("data", empty)]);
    let plans = std::slice::from_ref(&plan);
    verbs.commit(Transaction::new().put(keys::plan(plan.vm), plan.encode())).await.expect("a commit");
    verbs.vms.put_plans(plans);
    let mut made = Made { existing: vec![(ids[0], "a".into())], ..Made::default() };
    verbs.make_vdisks(plans, &mut made.new).await.expect("made");
    assert_eq!((rig.id("web-root"), made.new.len()), (ids[0], 1));
    verbs.vms.give_up(&plan, made);
    verbs.finish_pending().await;
    assert_eq!((rig.id("a"), rig.first("a").await), (ids[0], Ok(1)));
    assert!(verbs.find("web-root").is_err() && verbs.find("web-data").is_err() && verbs.find_vm("web").is_err());
    assert!(verbs.vms.is_settled());
    assert_eq!(rig.reasons().await, Vec::<String>::new());
    rig.stop().await;
}

/// Until it is undone nothing else is made of it: it would be deleted, or named as before, under whoever has it then.
#[tokio::test]
async fn what_is_left_of_a_vm_that_could_not_be_made_is_nobodys() {
    let rig = Rig::new().await;
    let ids = vdisks(&rig, &["a"]).await;
    let verbs = rig.verbs();
    verbs.create_vm(of("db", &[])).await.expect("a VM");
    let empty = Source::Empty { size_bytes: SIZE_BYTES, sector_bytes: 512 };
    let plan = plan(vec![planned("root", Source::Existing { vdisk: ids[0] }), planned("data", empty)]);
    let plans = std::slice::from_ref(&plan);
    verbs.vms.put_plans(plans);
    let mut made = Made { existing: vec![(ids[0], "a".into())], ..Made::default() };
    verbs.make_vdisks(plans, &mut made.new).await.expect("made");
    verbs.vms.give_up(&plan, made);
    assert_eq!(rig.write("web-data", 7).await.expect_err("nobody gets in").kind, Kind::Unavailable);
    for left in ["web-root", "web-data"] {
        let refused = |error: Error, kind| assert_eq!(error.kind, kind, "{left}: {error}");
        refused(verbs.rename_vdisk(left, "prod").await.expect_err("renamed"), Kind::Busy);
        let attach = AttachVdisk { vdisk: left.into(), label: None };
        refused(verbs.attach_vdisk("db", attach).await.expect_err("attached"), Kind::Exists);
        refused(verbs.create_vm(of("web", &[(&left[4..], left)])).await.expect_err("made a VM of"), Kind::Busy);
    }
    verbs.finish_pending().await;
    assert_eq!((rig.id("a"), verbs.find("web-data").is_err(), verbs.vms.is_settled()), (ids[0], true, true));
    verbs.rename_vdisk("a", "prod").await.expect("it is free");
    rig.stop().await;
}

#[tokio::test]
async fn one_that_cannot_be_undone_keeps_back_no_other() {
    let rig = Rig::new().await;
    let [busy, idle] = [rig.vdisk("busy").await, rig.vdisk("idle").await];
    let verbs = rig.verbs();
    let plans = [("one", busy), ("two", idle)].map(|(name, left)| {
        let vm = VmId::new(1, 0x3ff_fff0 + (name == "two") as u32);
        let plan = PlanRecord { vm, name: name.into(), ..plan(Vec::new()) };
        verbs.vms.put_plans(std::slice::from_ref(&plan));
        verbs.vms.give_up(&plan, Made { new: vec![left], ..Made::default() });
        plan
    });
    let client = rig.connect(busy, None).await;
    verbs.finish_pending().await;
    assert_eq!(verbs.vms.plans(), plans[..1]);
    assert!(verbs.find("idle").is_err() && verbs.find("busy").is_ok());
    client.leaves().await;
    verbs.finish_pending().await;
    assert!(verbs.find("busy").is_err() && verbs.vms.is_settled());
    rig.stop().await;
}

/// Nobody is faster than the VM's record, and then everybody may connect.
#[tokio::test]
async fn what_was_just_made_is_kept_for_its_vm() {
    let rig = Rig::new().await;
    let verbs = rig.verbs();
    let plan = plan(vec![planned("root", Source::Empty { size_bytes: SIZE_BYTES, sector_bytes: 512 })]);
    let plans = std::slice::from_ref(&plan);
    verbs.vms.put_plans(plans);
    let mut made = Vec::new();
    {
        // What a start goes on with comes behind this.
        let _one = verbs.changing.lock().await;
        verbs.make_vdisks(plans, &mut made).await.expect("made");
        assert_eq!(rig.write("web-root", 7).await.expect_err("nobody gets in").kind, Kind::Unavailable);
    }
    verbs.finish_pending().await;
    assert_eq!(members(&verbs.find_vm("web").expect("made")), [("root", made[0])]);
    rig.write("web-root", 7).await.expect("a write");
    rig.connect(made[0], None).await.leaves().await;
    rig.stop().await;
}

/// The way out of a plan that cannot be carried out is a VM of that name: what was made is its owner's then.
#[tokio::test]
async fn what_was_made_for_a_plan_that_is_no_more_is_let_in() {
    let rig = Rig::new().await;
    let ids = vdisks(&rig, &["a"]).await;
    let verbs = rig.verbs();
    let clone = Source::Snapshot { vdisk: ids[0], snapshot: missing() };
    let empty = Source::Empty { size_bytes: SIZE_BYTES, sector_bytes: 512 };
    let plan = plan(vec![planned("root", empty), planned("data", clone)]);
    let plans = std::slice::from_ref(&plan);
    verbs.vms.put_plans(plans);
    let mut made = Vec::new();
    {
        let _one = verbs.changing.lock().await;
        verbs.make_vdisks(plans, &mut made).await.expect_err("there is no such snapshot");
    }
    let renamed = verbs.rename_vdisk("web-root", "prod").await;
    assert_eq!(renamed.expect_err("it is planned").kind, Kind::Busy);
    verbs.create_vm(of("web", &[])).await.expect("a VM");
    verbs.finish_pending().await;
    rig.write("web-root", 7).await.expect("it is nobody's");
    let attach = AttachVdisk { vdisk: "web-root".into(), label: None };
    verbs.attach_vdisk("web", attach).await.expect("it is free");
    rig.connect(made[0], None).await.leaves().await;
    assert!(verbs.vms.kept_out().is_empty() && verbs.vms.is_settled());
    rig.stop().await;
}
