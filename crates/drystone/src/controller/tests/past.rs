//! Snapshots of VMs as they were at a time: sets like others.

use super::Rig;
use control::{Kind, Moment, RewindControl, SetRewind, VmControl};
use meta::Transaction;

const VDISKS: [&str; 2] = ["web-root", "web-data"];

/// RFC 3339, of now.
fn now() -> Moment {
    Moment { at: Some(base::utc::format_ns(crate::controller::sets::now_wall_ns())), before_write: None }
}

#[tokio::test]
async fn a_snapshot_of_what_a_vm_was_is_a_set() {
    let mut rig = Rig::new().await;
    rig.vm("web", &["root", "data"]).await;
    let set = SetRewind { window_seconds: 3600, limit_bytes: 0 };
    for vdisk in VDISKS {
        rig.verbs().set_rewind(vdisk, Some(set)).await.expect("kept");
        rig.write(vdisk, 1).await.expect("a write");
    }
    let then = now();
    for vdisk in VDISKS {
        rig.write(vdisk, 2).await.expect("a write");
    }
    let taken = rig.verbs().snapshot_vm_past("web", "then", then.clone()).await.expect("a snapshot");
    assert_eq!(taken.labels, ["root", "data"]);
    let again = rig.verbs().snapshot_vm_past("web", "then", then).await.expect_err("there is one");
    assert_eq!(again.kind, Kind::Exists);
    for _ in 0..2 {
        for vdisk in VDISKS {
            assert_eq!((rig.first(&format!("{vdisk}@then")).await, rig.first(vdisk).await), (Ok(1), Ok(2)), "{vdisk}");
        }
        rig.restart_with(Transaction::new()).await;
    }
    let verbs = rig.verbs();
    verbs.roll_back_vm("web", "then").await.expect("a rollback");
    assert_eq!((rig.first("web-root").await, rig.first("web-data").await), (Ok(1), Ok(1)));
    verbs.delete_vm_snapshot("web", "then", false).await.expect("deleted");
    rig.stop().await;
}

/// Of one of the two nothing is kept.
#[tokio::test]
async fn one_that_cannot_be_had_whole_leaves_nothing() {
    let rig = Rig::new().await;
    rig.vm("web", &["root", "data"]).await;
    let verbs = rig.verbs();
    let set = SetRewind { window_seconds: 3600, limit_bytes: 0 };
    verbs.set_rewind("web-root", Some(set)).await.expect("kept");
    rig.write("web-root", 1).await.expect("a write");
    let all = async || [rig.all_snapshots(rig.id("web-root")).await, rig.all_snapshots(rig.id("web-data")).await];
    let before = all().await;
    let refused = verbs.snapshot_vm_past("web", "then", now()).await.expect_err("data keeps no past");
    assert!(refused.kind == Kind::Invalid && refused.message.contains("data of VM \"web\""), "{refused}");
    assert_eq!(all().await, before);
    assert!(verbs.vm_snapshots("web").await.expect("a list").is_empty());
    assert_eq!(rig.reasons().await, Vec::<String>::new());
    rig.stop().await;
}
