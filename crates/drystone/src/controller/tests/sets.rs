//! Sets that are being deleted: nobody who reads is cut off, and what is not gone is not told to be.

use super::Rig;
use control::{Kind, VmControl};
use meta::{SetRecord, Transaction, keys};

#[tokio::test]
async fn a_set_that_is_read_goes_when_its_reader_has_gone() {
    let rig = Rig::new().await;
    let vm = rig.vm("web", &["root", "data"]).await;
    let verbs = rig.verbs();
    verbs.create_vm_snapshot("web", "s").await.expect("a snapshot");
    let set = verbs.find_set(&vm, "s").expect("a set");
    let members = set.vms[0].members.clone();
    let reader = rig.connect(members[1].vdisk, Some(members[1].snapshot)).await;
    assert_eq!(verbs.delete_vm_snapshot("web", "s", false).await.expect_err("a reader").kind, Kind::Busy);
    assert!(verbs.vms.find_set(set.id).is_some(), "a refused deletion did something");
    // The reader came after the look for readers.
    let error = verbs.delete_set(&set, false).await.expect_err("told as deleted");
    assert!(error.kind == Kind::Busy && error.message.contains("not all of it is gone"), "{error}");
    assert!(verbs.find_set(&vm, "s").is_err(), "half a snapshot is shown");
    let reasons = rig.reasons().await;
    assert!(reasons.len() == 1 && reasons[0].contains("the deletion of snapshot \"s\""), "{reasons:?}");
    for _ in 0..2 {
        verbs.finish_pending().await;
        assert!(verbs.vms.find_going(set.id).is_some());
        assert_eq!(rig.all_snapshots(members[1].vdisk).await, [members[1].snapshot]);
    }
    assert_eq!(rig.all_snapshots(members[0].vdisk).await, []);
    reader.leaves().await;
    verbs.finish_pending().await;
    assert!(verbs.vms.find_going(set.id).is_none() && verbs.vms.is_settled());
    assert_eq!(rig.reasons().await, Vec::<String>::new());
    assert_eq!(rig.all_snapshots(members[1].vdisk).await, []);
    rig.stop().await;
}

/// Its commit answers an error: it may be on record all the same, and then it is whole.
#[tokio::test]
async fn a_set_that_may_be_on_record_has_its_parts() {
    for is_there in [true, false] {
        let mut rig = Rig::new().await;
        let vm = rig.vm("web", &["root", "data"]).await;
        rig.lose_store();
        rig.verbs().create_vm_snapshot("web", "s").await.expect_err("it is not known to be on record");
        assert!(rig.verbs().find_set(&vm, "s").is_err(), "what was not taken is shown");
        let going = rig.verbs().vms.sets_to_go();
        assert_eq!(going.len(), 1);
        let members = going[0].vms[0].members.clone();
        for member in &members {
            assert_eq!(rig.all_snapshots(member.vdisk).await, [member.snapshot]);
        }
        let record = SetRecord { deleting: false, ..going[0].clone() };
        let stored = Transaction::new();
        let stored = if is_there { stored.put(keys::set(record.id), record.encode()) } else { stored };
        rig.restart_lost_with(stored).await;
        assert_eq!(rig.verbs().find_set(&vm, "s").is_ok(), is_there);
        for member in &members {
            assert_eq!(rig.all_snapshots(member.vdisk).await.contains(&member.snapshot), is_there);
        }
        rig.stop().await;
    }
}
