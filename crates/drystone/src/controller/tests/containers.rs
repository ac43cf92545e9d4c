//! Containers: whose window a vDisk has, and what is left of all that by crashes, old stores and lost ones.

use super::Rig;
use base::{ContainerId, VdiskId};
use control::{
    AttachVdisk, ContainerControl, ContainerInfo, Control, CreateContainer, CreateVdisk, CreateVm, DeleteVdisk, Kind,
    ListVdisks, MakeClones, NewVmVdisk, RewindControl, SetContainer, SetRewind, SnapshotControl, VdiskInfo, VmControl,
};
use meta::{ContainerNote, ContainerRecord, MemberRecord, Transaction, keys};
use std::sync::atomic::Ordering;
use std::time::Duration;
use vdisk::NoteKind;

const HOUR: SetRewind = SetRewind { window_seconds: 3600, limit_bytes: 0 };
const DAY: SetRewind = SetRewind { window_seconds: 86_400, limit_bytes: 1 << 30 };

fn container(name: &str, rewind: Option<SetRewind>) -> CreateContainer {
    CreateContainer { name: name.into(), rewind, capacity_bytes: 0, comment: String::new() }
}

fn window(rewind: Option<SetRewind>) -> SetContainer {
    SetContainer { rewind: Some(rewind), ..SetContainer::default() }
}

async fn vdisk(rig: &Rig, name: &str, container: &str) -> VdiskInfo {
    let container = Some(container.to_string());
    let create = CreateVdisk {
        name: name.into(),
        size_bytes: super::SIZE_BYTES,
        sector_bytes: 512,
        container,
        near: None,
        rewind: None,
    };
    rig.verbs().create_vdisk(create).await.expect("a vDisk")
}

/// To be made with a window of its own, or none.
fn own_window(name: &str, rewind: Option<SetRewind>) -> CreateVdisk {
    CreateVdisk {
        name: name.into(),
        size_bytes: super::SIZE_BYTES,
        sector_bytes: 512,
        container: None,
        near: None,
        rewind: Some(rewind),
    }
}

/// Its container, its window and whether that is the container's.
async fn seen(rig: &Rig, vdisk: &str) -> (String, Option<u64>, bool) {
    of(&rig.verbs().show_vdisk(vdisk).await.expect("it is there"))
}

fn of(info: &VdiskInfo) -> (String, Option<u64>, bool) {
    (info.container.clone(), info.rewind.map(|rewind| rewind.window_seconds), info.rewind_inherited)
}

fn said(container: &str, window: impl Into<Option<u64>>, inherited: bool) -> (String, Option<u64>, bool) {
    (container.to_string(), window.into(), inherited)
}

async fn show(rig: &Rig, name: &str) -> ContainerInfo {
    rig.verbs().show_container(name).await.expect("it is there")
}

/// What its log says.
async fn note(rig: &Rig, id: VdiskId) -> Option<ContainerNote> {
    let note = rig.verbs().shards.on(super::shard_of(id), move |shard| {
        Box::pin(async move { shard.note(id, NoteKind::Container).await.map_err(crate::controller::errors::from_node) })
    });
    note.await.expect("its log").map(|bytes| ContainerNote::decode(&bytes).expect("good"))
}

#[tokio::test]
async fn a_window_is_the_containers_unless_it_is_its_own() {
    let rig = Rig::new().await;
    let verbs = rig.verbs();
    verbs.create_container(container("gold", Some(HOUR))).await.expect("a container");
    assert_eq!(verbs.create_container(container("gold", None)).await.expect_err("twice").kind, Kind::Exists);
    assert_eq!(of(&vdisk(&rig, "one", "gold").await), said("gold", 3600, true));
    vdisk(&rig, "two", "gold").await;
    rig.vdisk("outside").await;
    verbs.set_rewind("two", Some(DAY)).await.expect("its own");
    let gold = verbs.set_container("gold", window(Some(DAY))).await.expect("set");
    assert_eq!((gold.vdisks, gold.vdisks_behind, gold.trouble), (2, 0, None));
    assert_eq!(seen(&rig, "one").await, said("gold", 86_400, true));
    verbs.set_container("gold", window(Some(HOUR))).await.expect("set");
    assert_eq!(
        (seen(&rig, "one").await, seen(&rig, "two").await),
        (said("gold", 3600, true), said("gold", 86_400, false))
    );
    // Its own may be none.
    verbs.set_rewind("one", None).await.expect("off");
    verbs.set_container("gold", window(Some(DAY))).await.expect("set");
    assert_eq!(seen(&rig, "one").await, said("gold", None, false));
    assert_eq!(of(&verbs.inherit_rewind("one").await.expect("given up")), said("gold", 86_400, true));
    assert_eq!(of(&verbs.inherit_rewind("two").await.expect("given up")), said("gold", 86_400, true));
    verbs.set_container("gold", window(None)).await.expect("off");
    assert_eq!(seen(&rig, "two").await, said("gold", None, true));
    assert_eq!(seen(&rig, "outside").await, said("default", None, true));
    rig.stop().await;
}

#[tokio::test]
async fn a_vdisk_has_its_own_window_from_its_first_moment() {
    let mut rig = Rig::new().await;
    rig.verbs().create_container(container("gold", Some(HOUR))).await.expect("a container");
    for (name, container, rewind) in [
        ("own", "gold", Some(Some(DAY))),
        ("off", "gold", Some(None)),
        ("inherits", "gold", None),
        ("elsewhere", "default", Some(Some(DAY))),
        ("off-elsewhere", "default", Some(None)),
    ] {
        let container = Some(container.to_string());
        let create =
            CreateVdisk { name: name.into(), size_bytes: 4096, sector_bytes: 512, container, near: None, rewind };
        rig.verbs().create_vdisk(create).await.expect("a vDisk");
    }
    let short = SetRewind { window_seconds: 59, limit_bytes: 0 };
    assert_eq!(
        rig.verbs().create_vdisk(own_window("never", Some(short))).await.expect_err("too short").kind,
        Kind::Invalid
    );
    for _ in 0..2 {
        assert_eq!(seen(&rig, "own").await, said("gold", 86_400, false));
        assert_eq!(seen(&rig, "off").await, said("gold", None, false));
        assert_eq!(seen(&rig, "inherits").await, said("gold", 3600, true));
        assert_eq!(seen(&rig, "elsewhere").await, said("default", 86_400, false));
        assert_eq!(seen(&rig, "off-elsewhere").await, said("default", None, false));
        rig.restart_with(Transaction::new()).await;
    }
    rig.verbs().set_container("gold", window(None)).await.expect("off");
    assert_eq!(seen(&rig, "own").await, said("gold", 86_400, false));
    // Of which nothing was said until now.
    rig.verbs().set_container("default", window(Some(HOUR))).await.expect("set");
    assert_eq!(seen(&rig, "off-elsewhere").await, said("default", None, false));
    assert_eq!(seen(&rig, "elsewhere").await, said("default", 86_400, false));
    rig.stop().await;
}

#[tokio::test]
async fn the_default_container_leaves_windows_that_there_were() {
    let rig = Rig::new().await;
    let verbs = rig.verbs();
    rig.vdisk("plain").await;
    let own = rig.vdisk("own").await;
    // As builds set it that knew of no containers: nothing is on record.
    let rewind = super::super::rewind::of_container(meta::ContainerRewind { window_seconds: 86_400, limit_bytes: 0 });
    let set = verbs.shards.on(super::shard_of(own), move |shard| {
        Box::pin(async move { shard.set_rewind(own, Some(rewind)).await.map_err(crate::controller::errors::from_node) })
    });
    set.await.expect("set");
    assert_eq!(verbs.containers.member(own), None);
    assert_eq!(seen(&rig, "own").await, said("default", 86_400, false));
    let default = verbs.set_container("default", window(Some(HOUR))).await.expect("set");
    assert_eq!((default.vdisks, default.vdisks_behind), (2, 0));
    assert_eq!(seen(&rig, "plain").await, said("default", 3600, true));
    assert_eq!(seen(&rig, "own").await, said("default", 86_400, false));
    assert_eq!(of(&vdisk(&rig, "new", "default").await), said("default", 3600, true));
    let renamed = SetContainer { name: Some("other".into()), ..SetContainer::default() };
    assert_eq!(verbs.set_container("default", renamed).await.expect_err("renamed").kind, Kind::Invalid);
    assert_eq!(verbs.delete_container("default").await.expect_err("deleted").kind, Kind::Invalid);
    rig.stop().await;
}

#[tokio::test]
async fn vdisks_are_moved_cloned_and_deleted_with_their_container() {
    let rig = Rig::new().await;
    let verbs = rig.verbs();
    verbs.create_container(container("gold", Some(HOUR))).await.expect("a container");
    verbs.create_container(container("tin", None)).await.expect("a container");
    vdisk(&rig, "one", "gold").await;
    let clones =
        |names: &[&str]| MakeClones { snapshot: None, names: names.iter().map(|name| name.to_string()).collect() };
    for made in verbs.make_clones("one", clones(&["copy", "copy2"])).await.expect("clones") {
        assert_eq!(of(&made), said("gold", 3600, true));
    }
    assert_eq!(of(&verbs.make_clones("one", clones(&["copy3"])).await.expect("a clone")[0]), said("gold", 3600, true));
    verbs.set_rewind("copy", Some(DAY)).await.expect("its own");
    assert_eq!(of(&verbs.move_vdisk("one", "tin").await.expect("moved")), said("tin", None, true));
    assert_eq!(of(&verbs.move_vdisk("copy", "tin").await.expect("moved")), said("tin", 86_400, false));
    assert_eq!(of(&verbs.move_vdisk("one", "default").await.expect("moved")), said("default", None, true));
    assert_eq!(verbs.move_vdisk("one", "none").await.expect_err("to nowhere").kind, Kind::NotFound);
    let listed = |container: &str| {
        let list = ListVdisks { after: None, limit: 10, container: Some(container.into()) };
        async move {
            verbs.list_vdisks(list).await.map(|page| page.vdisks.into_iter().map(|info| info.name).collect::<Vec<_>>())
        }
    };
    assert_eq!(listed("gold").await.expect("a list"), ["copy2", "copy3"]);
    assert_eq!(listed("none").await.expect_err("no such container").kind, Kind::NotFound);
    assert_eq!(verbs.delete_container("gold").await.expect_err("in use").kind, Kind::Invalid);
    let gone = rig.id("copy2");
    for name in ["copy2", "copy3"] {
        verbs.delete_vdisk(name, DeleteVdisk::default()).await.expect("deleted");
    }
    assert_eq!(verbs.containers.member(gone), None);
    verbs.delete_container("gold").await.expect("deleted");
    assert_eq!(verbs.show_container("gold").await.expect_err("gone").kind, Kind::NotFound);
    // VMs, with clones where their sources are.
    let vdisks = vec![NewVmVdisk { label: "root".into(), size_bytes: super::SIZE_BYTES, sector_bytes: 512 }];
    let create = CreateVm { name: "web".into(), vdisks, container: Some("tin".into()), existing: Vec::new() };
    verbs.create_vm(create).await.expect("a VM");
    verbs.attach_vdisk("web", AttachVdisk { vdisk: "one".into(), label: None }).await.expect("attached");
    verbs.clone_vm("web", clones(&["web2"])).await.expect("a clone");
    assert_eq!(seen(&rig, "web2-root").await.0, "tin");
    assert_eq!(seen(&rig, "web2-one").await.0, "default");
    rig.stop().await;
}

#[tokio::test]
async fn a_full_container_takes_no_more() {
    let rig = Rig::new().await;
    let verbs = rig.verbs();
    let two_blocks = CreateContainer { capacity_bytes: 8192, ..container("small", None) };
    verbs.create_container(two_blocks).await.expect("a container");
    vdisk(&rig, "one", "small").await;
    rig.write("one", 1).await.expect("written");
    assert_eq!(show(&rig, "small").await.used_bytes, 4096);
    let clones =
        |names: &[&str]| MakeClones { snapshot: None, names: names.iter().map(|name| name.to_string()).collect() };
    assert_eq!(verbs.make_clones("one", clones(&["a", "b"])).await.expect_err("too much").kind, Kind::Invalid);
    verbs.make_clones("one", clones(&["a"])).await.expect("just so much");
    let full =
        |error: control::Error| assert!(error.kind == Kind::Invalid && error.message.contains("small"), "{error}");
    let container = Some("small".to_string());
    let create = CreateVdisk {
        name: "b".into(),
        size_bytes: 4096,
        sector_bytes: 512,
        container: container.clone(),
        near: None,
        rewind: None,
    };
    full(verbs.create_vdisk(create).await.expect_err("full"));
    full(
        verbs
            .create_vm(CreateVm { name: "vm".into(), vdisks: Vec::new(), container, existing: Vec::new() })
            .await
            .expect_err("full"),
    );
    full(verbs.resize_vdisk("one", super::SIZE_BYTES * 2).await.expect_err("full"));
    // Copies of a snapshot are as large as that is.
    rig.vdisk("source").await;
    rig.snapshot("source", "empty").await;
    rig.write("source", 1).await.expect("written");
    let place = CreateContainer { name: "place".into(), capacity_bytes: 8192, rewind: None, comment: String::new() };
    verbs.create_container(place).await.expect("a container");
    verbs.move_vdisk("source", "place").await.expect("moved");
    let of =
        |snapshot: Option<&str>, names: &[&str]| MakeClones { snapshot: snapshot.map(str::to_string), ..clones(names) };
    assert_eq!(verbs.make_clones("source", of(None, &["c", "d"])).await.expect_err("too much").kind, Kind::Invalid);
    verbs.make_clones("source", of(Some("empty"), &["c", "d"])).await.expect("nothing is added");
    verbs.resize_vdisk("one", super::SIZE_BYTES).await.expect("the same size");
    rig.vdisk("outside").await;
    full(verbs.move_vdisk("outside", "small").await.expect_err("full"));
    rig.write("one", 2).await.expect("writes are not refused");
    let more = SetContainer { capacity_bytes: Some(0), ..SetContainer::default() };
    verbs.set_container("small", more).await.expect("no limit");
    verbs.move_vdisk("outside", "small").await.expect("moved");
    rig.stop().await;
}

#[tokio::test]
async fn what_was_cut_short_is_carried_out_by_the_next_start() {
    let mut rig = Rig::new().await;
    rig.verbs().create_container(container("gold", None)).await.expect("a container");
    vdisk(&rig, "one", "gold").await;
    let one = rig.id("one");
    // A crash came behind the record, before any vDisk. And a vDisk was being deleted.
    let gold = rig.verbs().containers.find("gold").expect("a container");
    let rewind = Some(meta::ContainerRewind { window_seconds: 3600, limit_bytes: 0 });
    let set = ContainerRecord { serial: gold.serial + 1, rewind, ..gold.clone() };
    let gone = MemberRecord { vdisk: VdiskId::new(1, 0x3ff_ff00), container: gold.id, serial: 1, inherits: true };
    let left =
        Transaction::new().put(keys::container(set.id), set.encode()).put(keys::member(gone.vdisk), gone.encode());
    rig.restart_with(left).await;
    let is_done = || !rig.verbs().containers.is_behind(one);
    super::until("the window", is_done).await;
    assert_eq!(seen(&rig, "one").await, said("gold", 3600, true));
    assert_eq!(note(&rig, one).await.expect("a note").container, set);
    assert_eq!(rig.verbs().containers.member(gone.vdisk), None);
    assert_eq!(show(&rig, "gold").await.vdisks, 1);
    rig.stop().await;
}

#[tokio::test]
async fn a_log_that_knows_more_than_the_store_is_believed() {
    let mut rig = Rig::new().await;
    rig.verbs().create_container(container("gold", Some(HOUR))).await.expect("a container");
    let gold = rig.verbs().containers.find("gold").expect("a container");
    vdisk(&rig, "one", "gold").await;
    rig.vdisk("two").await;
    rig.verbs().move_vdisk("two", "gold").await.expect("moved");
    let (one, two) = (rig.id("one"), rig.id("two"));
    // The store is of a time before both; another container has taken the name since.
    let other = ContainerRecord { id: ContainerId::new(1, 0x3ff_ff10), ..gold.clone() };
    let old = Transaction::new()
        .delete(keys::container(gold.id))
        .put(keys::container(other.id), other.encode())
        .delete(keys::member(one))
        .delete(keys::member(two));
    rig.restart_with(old).await;
    let is_known = || !rig.verbs().containers.is_behind(one) && !rig.verbs().containers.is_behind(two);
    super::until("what the logs say", is_known).await;
    let name = format!("gold-{}", gold.id);
    for vdisk in ["one", "two"] {
        assert_eq!(seen(&rig, vdisk).await, said(&name, 3600, true));
    }
    assert_eq!(show(&rig, "gold").await.vdisks, 0);
    rig.stop().await;
}

/// As long as a window is changed on a disk that hangs.
#[tokio::test]
async fn what_has_no_settings_waits_for_no_container() {
    let rig = Rig::new().await;
    let verbs = rig.verbs();
    let clone = |name: &str| MakeClones { snapshot: None, names: vec![name.to_string()] };
    {
        let _turn = verbs.containers.turn.lock().await;
        let made = async {
            rig.vdisk("one").await;
            for (name, rewind) in [("kept", Some(DAY)), ("not-kept", None)] {
                let info = verbs.create_vdisk(own_window(name, rewind)).await.expect("a vDisk");
                assert_eq!(of(&info), said("default", rewind.map(|rewind| rewind.window_seconds), false));
            }
            verbs.make_clones("one", clone("two")).await.expect("a clone");
            rig.vm("web", &["root"]).await;
            verbs.clone_vm("web", clone("web2")).await.expect("a clone");
        };
        tokio::time::timeout(Duration::from_secs(60), made).await.expect("nothing is to be carried out");
    }
    let default = show(&rig, "default").await;
    assert_eq!((default.vdisks, default.vdisks_behind), (6, 0));
    rig.stop().await;
}

/// Of a store of an earlier time that takes nothing: what would be changed is not what the logs know.
#[tokio::test]
async fn nothing_is_changed_before_what_the_logs_know_is_on_record() {
    let mut rig = Rig::new().await;
    rig.verbs().create_container(container("gold", Some(HOUR))).await.expect("a container");
    let gold = rig.verbs().containers.find("gold").expect("a container");
    vdisk(&rig, "one", "gold").await;
    let one = rig.id("one");
    let shard = super::shard_of(one);
    let record = rig.verbs().shards.on(shard, move |on| {
        Box::pin(async move {
            let stored = on.store().get(&keys::shard(shard)).await.expect("it reads").expect("it is there");
            Ok(meta::ShardRecord::decode(&stored).expect("it is whole"))
        })
    });
    let record = record.await.expect("it runs");
    let old = meta::ShardRecord { generation: record.generation - 1, ..record };
    rig.restart_with(Transaction::new().put(keys::shard(shard), old.encode())).await;
    let verbs = rig.verbs();
    verbs.set_container("gold", window(Some(DAY))).await.expect("all is on record");
    assert!(verbs.containers.is_known.load(Ordering::Relaxed));
    // As of a store of before all that.
    verbs.containers.is_known.store(false, Ordering::Relaxed);
    verbs.containers.forget(one);
    verbs.containers.put(ContainerRecord { serial: 1, ..gold });
    rig.lose_store();
    let refused = verbs.set_container("gold", window(None)).await.expect_err("the store takes nothing");
    assert!(refused.kind == Kind::Unavailable && refused.message.contains("of an earlier time"), "{refused}");
    assert!(!verbs.containers.is_known.load(Ordering::Relaxed), "nothing was learned");
    rig.stop_without_store().await;
}

/// A container that a vDisk has left does not come back with what its log says still.
#[tokio::test]
async fn a_log_that_is_behind_brings_no_container_back() {
    let mut rig = Rig::new().await;
    rig.verbs().create_container(container("gold", Some(HOUR))).await.expect("a container");
    let gold = rig.verbs().containers.find("gold").expect("a container");
    vdisk(&rig, "one", "gold").await;
    let one = rig.id("one");
    // A crash came when it had left, and the container was deleted, before its log said so.
    let left = MemberRecord { container: ContainerId::NONE, serial: 2, ..MemberRecord::new(one, gold.id) };
    let left = Transaction::new().delete(keys::container(gold.id)).put(keys::member(one), left.encode());
    rig.restart_with(left).await;
    super::until("the window", || !rig.verbs().containers.is_behind(one)).await;
    assert_eq!(seen(&rig, "one").await, said("default", None, true));
    assert_eq!(rig.verbs().show_container("gold").await.expect_err("it is back").kind, Kind::NotFound);
    assert_eq!(note(&rig, one).await.expect("a note").container.id, ContainerId::NONE);
    rig.stop().await;
}

/// What a start finds in the log only is where it was made, at once.
#[tokio::test]
async fn a_birth_says_the_container() {
    let mut rig = Rig::new().await;
    rig.verbs().create_container(container("gold", Some(HOUR))).await.expect("a container");
    vdisk(&rig, "one", "gold").await;
    let clones = MakeClones { snapshot: None, names: vec!["copy".into()] };
    rig.verbs().make_clones("one", clones).await.expect("a clone");
    let ids = [rig.id("one"), rig.id("copy")];
    let lost = ids.iter().zip(["one", "copy"]).fold(Transaction::new(), |all, (id, name)| {
        all.delete(keys::vdisk(*id)).delete(keys::name(name)).delete(keys::member(*id))
    });
    rig.restart_with(lost).await;
    for name in ["one", "copy"] {
        assert_eq!(seen(&rig, name).await, said("gold", 3600, true));
        let gold = rig.verbs().containers.find("gold").expect("a container");
        let member = MemberRecord::new(rig.id(name), gold.id);
        assert_eq!(note(&rig, rig.id(name)).await, Some(ContainerNote { member, container: gold }));
    }
    rig.stop().await;
}

/// Templates, too, have the window of their container; so has what is held for a rollback.
#[tokio::test]
async fn what_cannot_be_written_follows_its_container() {
    let rig = Rig::new().await;
    let verbs = rig.verbs();
    verbs.create_container(container("gold", None)).await.expect("a container");
    verbs.create_container(container("tin", Some(DAY))).await.expect("a container");
    let vdisks = vec![NewVmVdisk { label: "root".into(), size_bytes: super::SIZE_BYTES, sector_bytes: 512 }];
    verbs
        .create_vm(CreateVm { name: "web".into(), vdisks, container: Some("gold".into()), existing: Vec::new() })
        .await
        .expect("a VM");
    verbs.set_template("web", true).await.expect("a template");
    let gold = verbs.set_container("gold", window(Some(HOUR))).await.expect("set");
    assert_eq!((gold.vdisks_behind, seen(&rig, "web-root").await), (0, said("gold", 3600, true)));
    let clones = MakeClones { snapshot: None, names: vec!["web2".into()] };
    verbs.clone_vm("web", clones).await.expect("a clone");
    assert_eq!(seen(&rig, "web2-root").await, said("gold", 3600, true));
    verbs.hold(&[rig.id("web2-root")]).await;
    assert_eq!(of(&verbs.move_vdisk("web2-root", "tin").await.expect("moved")), said("tin", 86_400, true));
    assert_eq!(rig.reasons().await, [""; 0]);
    rig.stop().await;
}

#[tokio::test]
async fn what_cannot_be_carried_out_is_told_and_tried_again() {
    let rig = Rig::new().await;
    let verbs = rig.verbs();
    verbs.create_container(container("gold", None)).await.expect("a container");
    vdisk(&rig, "one", "gold").await;
    vdisk(&rig, "two", "gold").await;
    let one = rig.id("one");
    assert_eq!(rig.reasons().await, [""; 0]);
    // As if the record of its container were lost: nothing is known of its window.
    let member = verbs.containers.member(one).expect("on record");
    let lost = MemberRecord { container: ContainerId::new(1, 0x3ff_ff20), serial: member.serial + 1, ..member };
    verbs.containers.put_member(lost);
    verbs.carry_out_on(&[one]).await;
    let reasons = rig.reasons().await;
    assert!(reasons.len() == 1 && reasons[0].contains("vDisk \"one\""), "{reasons:?}");
    assert!(verbs.containers.is_behind(one) && show(&rig, "gold").await.vdisks == 1);
    verbs.containers.put_member(MemberRecord { serial: lost.serial + 1, ..member });
    verbs.carry_out_on(&[one]).await;
    assert_eq!((rig.reasons().await, show(&rig, "gold").await.vdisks_behind), (Vec::new(), 0));
    rig.stop().await;
}
