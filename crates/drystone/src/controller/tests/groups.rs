//! Consistency groups: whose snapshots are whose, and how many vDisks there may be.

use super::Rig;
use base::VdiskId;
use control::rules::groups::GROUP_VDISKS_MAX;
use control::{AttachVdisk, CreateVmGroup, DeleteVm, GroupControl, Kind, VmControl};
use meta::{VmRecord, VmVdisk};

fn group(name: &str, vms: &[&str]) -> CreateVmGroup {
    CreateVmGroup { name: name.to_string(), vms: vms.iter().map(|vm| vm.to_string()).collect() }
}

#[tokio::test]
async fn a_group_has_no_snapshots_of_an_earlier_one_of_its_name() {
    let rig = Rig::new().await;
    let verbs = rig.verbs();
    for vm in ["solo", "other"] {
        rig.vm(vm, &["root"]).await;
    }
    verbs.create_vm_group(group("shop", &["solo"])).await.expect("a group");
    verbs.create_group_snapshot("shop", "monday").await.expect("a snapshot");
    let keep = DeleteVm { keep_vdisks: true, force: false, snapshots: false };
    verbs.delete_vm("solo", keep).await.expect("deleted");
    verbs.create_vm_group(group("shop", &["other"])).await.expect("another one");
    assert_eq!(verbs.group_snapshots("shop").await.expect("snapshots"), []);
    verbs.create_group_snapshot("shop", "monday").await.expect("its own");
    verbs.delete_group_snapshot("shop", "monday", false).await.expect("its own");
    // Of the earlier one the vDisk still has its part.
    assert_eq!(rig.all_snapshots(rig.id("solo-root")).await.len(), 1);
    rig.stop().await;
}

#[tokio::test]
async fn a_group_has_one_snapshot_of_a_name() {
    let rig = Rig::new().await;
    let verbs = rig.verbs();
    for vm in ["a", "b"] {
        rig.vm(vm, &["root"]).await;
    }
    verbs.create_vm_group(group("g", &["a"])).await.expect("a group");
    verbs.create_group_snapshot("g", "monday").await.expect("a snapshot");
    verbs.add_to_group("g", "b").await.expect("added");
    verbs.remove_from_group("g", "a").await.expect("removed");
    assert_eq!(verbs.create_group_snapshot("g", "monday").await.expect_err("another one").kind, Kind::Exists);
    rig.stop().await;
}

#[tokio::test]
async fn a_group_of_too_many_vdisks_is_refused_before_anything_is_done() {
    let rig = Rig::new().await;
    let verbs = rig.verbs();
    let large = rig.vm("large", &[]).await;
    let small = rig.vm("small", &["root"]).await;
    rig.vdisk("more").await;
    let member =
        |number: u32| VmVdisk { label: format!("d{number}"), vdisk: VdiskId::new(1, 0x2ff_0000 + number), lun: 0 };
    let with = |count: usize| VmRecord { vdisks: (0..count as u32).map(member).collect(), ..large.clone() };
    verbs.vms.put(with(GROUP_VDISKS_MAX));
    let refused =
        |error: control::Error| assert!(error.kind == Kind::Invalid && error.message.contains("256"), "{error}");
    refused(verbs.create_vm_group(group("g", &["large", "small"])).await.expect_err("257"));
    verbs.create_vm_group(group("g", &["large"])).await.expect("256");
    refused(verbs.add_to_group("g", "small").await.expect_err("257"));
    let groups = vec!["g".to_string()];
    verbs.vms.put(VmRecord { groups: groups.clone(), ..with(GROUP_VDISKS_MAX - 1) });
    verbs.add_to_group("g", "small").await.expect("256");
    let attach = AttachVdisk { vdisk: "more".into(), label: None };
    refused(verbs.attach_vdisk("small", attach).await.expect_err("257"));
    // An earlier build may have let it grow.
    verbs.vms.put(VmRecord { groups, ..with(GROUP_VDISKS_MAX) });
    refused(verbs.create_group_snapshot("g", "s").await.expect_err("257"));
    assert_eq!(rig.all_snapshots(small.vdisks[0].vdisk).await, []);
    verbs.vms.put(VmRecord { groups: Vec::new(), ..large });
    rig.stop().await;
}
