//! Schedules against what becomes of their targets, of attempts that fail and of snapshots that cannot go.

use super::Schedule;
use crate::controller::tests::{Rig, until};
use base::units::BLOCK;
use base::{Epoch, Sequence, SnapshotId, VdiskId};
use control::rules::schedules::{Attempts, SCHEDULE_NAME_LEN_MAX, TAKEN_MAX, check_taken_count, snapshot_name};
use control::{
    AttachVdisk, ContainerControl, Control, CreateContainer, CreateSchedule, CreateVmGroup, Error, GroupControl, Kind,
    ScheduleControl, ScheduleRule, ScheduleState, ScheduleTarget, VmControl,
};
use meta::{
    PlanRecord, PlannedVdisk, ScheduleRecord, ScheduledSnapshot, SetRecord, Source, TailHint, Transaction, VdiskRecord,
    keys,
};
use std::collections::BTreeSet;
use std::time::Duration;

const HOUR: u32 = 3600;

async fn schedule(rig: &Rig, target: ScheduleTarget, keep: u32) {
    let rules = vec![ScheduleRule { every_seconds: HOUR, keep }];
    rig.verbs().create_schedule(CreateSchedule { name: "s".into(), target, rules }).await.expect("a schedule");
    until("the first snapshot", || taken(rig).len() == 1).await;
}

fn taken(rig: &Rig) -> Vec<SnapshotId> {
    let all = rig.verbs().schedules.find("s").expect("a schedule").record.taken;
    all.into_iter().map(|one| one.id).collect()
}

fn state(rig: &Rig) -> ScheduleState {
    let verbs = rig.verbs();
    verbs.schedule_info(&verbs.schedules.find("s").expect("a schedule")).state
}

/// As in the next period. A step that is under way would write over it.
async fn is_due(rig: &Rig) {
    let _turn = rig.verbs().schedules.turn.lock().await;
    let mut schedule = rig.verbs().schedules.find("s").expect("a schedule");
    schedule.attempts = Attempts::default();
    // An hour's distance, as far as its record goes.
    schedule.record.taken.iter_mut().for_each(|one| one.unix_seconds -= u64::from(HOUR));
    rig.verbs().schedules.put(schedule);
}

async fn next(rig: &Rig) {
    is_due(rig).await;
    rig.verbs().step("s").await.expect("a step");
}

fn group(name: &str, vms: &[&str]) -> CreateVmGroup {
    CreateVmGroup { name: name.to_string(), vms: vms.iter().map(|vm| vm.to_string()).collect() }
}

#[tokio::test]
async fn snapshots_of_an_earlier_group_of_the_name_are_not_deleted() {
    let rig = Rig::new().await;
    let verbs = rig.verbs();
    for vm in ["web", "db"] {
        rig.vm(vm, &["root"]).await;
    }
    verbs.create_vm_group(group("shop", &["web"])).await.expect("a group");
    schedule(&rig, ScheduleTarget::Group("shop".into()), 2).await;
    next(&rig).await;
    let before = taken(&rig);
    assert_eq!(before.len(), 2);
    verbs.delete_vm_group("shop").await.expect("deleted");
    verbs.create_vm_group(group("shop", &["db"])).await.expect("another one");
    for _ in 0..3 {
        next(&rig).await;
    }
    assert!(before.iter().all(|id| verbs.vms.find_set(*id).is_some()), "snapshots of another group were deleted");
    let now = taken(&rig);
    assert!(now.len() == 2 && now.iter().all(|id| !before.contains(id)), "{now:?}");
    rig.stop().await;
}

#[tokio::test]
async fn a_vm_without_vdisks_keeps_the_last_snapshot_that_has_it() {
    let rig = Rig::new().await;
    let verbs = rig.verbs();
    for vm in ["web", "db"] {
        rig.vm(vm, &["root"]).await;
    }
    verbs.create_vm_group(group("shop", &["web", "db"])).await.expect("a group");
    schedule(&rig, ScheduleTarget::Group("shop".into()), 1).await;
    let first = taken(&rig)[0];
    verbs.detach_vdisk("db", "root").await.expect("detached");
    for _ in 0..3 {
        next(&rig).await;
    }
    let now = taken(&rig);
    assert!(now.len() == 2 && now[0] == first, "{first} is the last one that has db: {now:?}");
    // A VM that is told to leave is none of it any more.
    verbs.remove_from_group("shop", "db").await.expect("removed");
    next(&rig).await;
    assert_eq!(taken(&rig).len(), 1);
    rig.stop().await;
}

/// Two renames wait before the schedule's step, which has looked for what is due already.
#[tokio::test]
async fn what_has_the_id_is_taken_whatever_it_is_called_by_then() {
    let rig = Rig::new().await;
    let (web, new) = (rig.vm("web", &["root"]).await, rig.vm("new", &["root"]).await);
    schedule(&rig, ScheduleTarget::Vm("web".into()), 1).await;
    let first = taken(&rig);
    is_due(&rig).await;
    let turn = rig.verbs().changing.lock().await;
    let rename = |from: &'static str, to: &'static str| {
        let verbs = rig.verbs().clone();
        tokio::spawn(async move { verbs.rename_vm(from, to).await })
    };
    let renamed = [rename("web", "old"), rename("new", "web")];
    tokio::task::yield_now().await;
    let verbs = rig.verbs().clone();
    let step = tokio::spawn(async move { verbs.step("s").await });
    // It has put on record what it is about to take.
    until("the step", || {
        let on_record = rig.verbs().schedules.find("s").expect("a schedule").record;
        on_record.taking.is_some()
    })
    .await;
    drop(turn);
    for renamed in renamed {
        renamed.await.expect("a task").expect("renamed");
    }
    step.await.expect("a task").expect("a step");
    let now = taken(&rig);
    assert!(now.len() == 1 && now != first, "{now:?}");
    let set = rig.verbs().vms.find_set(now[0]).expect("a set");
    assert_eq!((set.vms[0].vm, rig.verbs().vms.sets_of(new.id)), (web.id, Vec::new()), "it took the other VM");
    rig.stop().await;
}

#[tokio::test]
async fn a_renamed_vdisk_is_taken_and_its_snapshots_go() {
    let rig = Rig::new().await;
    let id = rig.vdisk("web").await;
    schedule(&rig, ScheduleTarget::Vdisk("web".into()), 1).await;
    let first = taken(&rig);
    is_due(&rig).await;
    let turn = rig.verbs().changing.lock().await;
    let verbs = rig.verbs().clone();
    let renamed = tokio::spawn(async move { verbs.rename_vdisk("web", "old").await });
    tokio::task::yield_now().await;
    let verbs = rig.verbs().clone();
    let step = tokio::spawn(async move { verbs.step("s").await });
    until("the step", || rig.verbs().schedules.find("s").expect("a schedule").record.taking.is_some()).await;
    drop(turn);
    renamed.await.expect("a task").expect("renamed");
    step.await.expect("a task").expect("a step");
    assert!(taken(&rig) != first, "{:?}", state(&rig));
    assert_eq!(rig.all_snapshots(id).await, taken(&rig));
    rig.stop().await;
}

#[tokio::test]
async fn what_is_not_gone_is_not_forgotten() {
    let rig = Rig::new().await;
    rig.vm("web", &["root", "data"]).await;
    schedule(&rig, ScheduleTarget::Vm("web".into()), 1).await;
    let first = taken(&rig)[0];
    let set = rig.verbs().vms.find_set(first).expect("a set");
    let member = set.vms[0].members[0].clone();
    let reader = rig.connect(member.vdisk, Some(member.snapshot)).await;
    // It came when it was looked for readers already.
    rig.verbs().delete_set(&set, false).await.expect_err("a reader");
    // Under another name than the one that is not gone.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    next(&rig).await;
    assert!(taken(&rig).len() == 2 && taken(&rig)[0] == first, "{:?}", taken(&rig));
    reader.leaves().await;
    rig.verbs().step("s").await.expect("a step");
    next(&rig).await;
    assert!(!taken(&rig).contains(&first) && rig.verbs().vms.find_going(first).is_none());
    rig.stop().await;
}

/// A vDisk is on record whose log cannot be read.
#[tokio::test]
async fn what_cannot_be_looked_at_is_said() {
    let mut rig = Rig::new().await;
    let id = VdiskId::new(1, 0x2ff_0000);
    let tail = TailHint { group: base::GroupId::NONE, len: 0, sequence: Sequence(9), chain: 0, clean: false };
    let lost = VdiskRecord {
        id,
        name: "lost".into(),
        size_bytes: 16 * BLOCK,
        sector_bytes: 512,
        read_only: false,
        created_wall_ns: 1,
        shard: 0,
        epoch: Epoch(1),
        checkpoint: None,
        tail: Some(tail),
        deleted: false,
        clone: None,
    };
    let rules = vec![meta::ScheduleRule { every_seconds: HOUR, keep: 1 }];
    let target = meta::ScheduleTarget::Vdisk(id);
    let record = ScheduleRecord { taking: Some("s-1".into()), ..ScheduleRecord::new("s", 1, target, rules) };
    let stored = Transaction::new()
        .put(keys::name("lost"), keys::vdisk(id))
        .put(keys::vdisk(id), lost.encode())
        .put(keys::schedule("s"), record.encode());
    rig.restart_with(stored).await;
    rig.verbs().step("s").await.expect("a step");
    match state(&rig) {
        ScheduleState::Failing { reason } => assert!(reason.contains("\"s-1\""), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert!(rig.reasons().await.iter().any(|reason| reason.starts_with("schedule s:")));
    assert_eq!(rig.verbs().schedules.find("s").expect("a schedule").record.taking.as_deref(), Some("s-1"));
    rig.stop().await;
}

#[tokio::test]
async fn a_record_that_would_not_fit_takes_no_more() {
    let rig = Rig::new().await;
    rig.vm("web", &["root"]).await;
    schedule(&rig, ScheduleTarget::Vm("web".into()), 1).await;
    let set = rig.verbs().vms.find_set(taken(&rig)[0]).expect("a set");
    let member = set.vms[0].members[0].clone();
    let reader = rig.connect(member.vdisk, Some(member.snapshot)).await;
    // As many more that are read.
    let turn = rig.verbs().schedules.turn.lock().await;
    let mut full = rig.verbs().schedules.find("s").expect("a schedule");
    let first = full.record.taken[0].clone();
    for number in 1..TAKEN_MAX as u32 {
        let id = SnapshotId::new(1, 0x2ff_0000 + number);
        rig.verbs().vms.put_set(SetRecord { id, name: format!("n{number}"), ..set.clone() });
        full.record.taken.insert(0, ScheduledSnapshot { id, ..first.clone() });
    }
    rig.verbs().schedules.put(full);
    drop(turn);
    next(&rig).await;
    assert_eq!(taken(&rig).len(), TAKEN_MAX);
    match state(&rig) {
        ScheduleState::Failing { reason } => assert!(reason.contains("takes no more"), "{reason}"),
        other => panic!("{other:?}"),
    }
    reader.leaves().await;
    rig.stop().await;
}

/// Its readers have gone since, but it would never see the success that it waits for.
#[tokio::test]
async fn a_full_record_makes_room_after_a_failure_if_the_newest_is_there() {
    let rig = Rig::new().await;
    rig.vm("web", &["root"]).await;
    schedule(&rig, ScheduleTarget::Vm("web".into()), 1).await;
    let mut full = rig.verbs().schedules.find("s").expect("a schedule");
    let newest = full.record.taken[0].clone();
    let old = |number: u32| ScheduledSnapshot {
        id: SnapshotId::new(1, 0x2ff_0000 + number),
        unix_seconds: newest.unix_seconds - u64::from(HOUR * number),
        ..newest.clone()
    };
    full.record.taken = (1..TAKEN_MAX as u32).rev().map(old).chain([newest.clone()]).collect();
    full.attempts.failures = 1;
    let mut without = full.clone();
    without.record.taken.pop();
    without.record.taken.push(ScheduledSnapshot { name: "gone".into(), ..old(0) });
    let make_room = async |schedule: &mut Schedule| {
        let refused = check_taken_count(TAKEN_MAX).expect_err("it is full");
        rig.verbs().make_room(schedule, refused).await.expect("a step");
        schedule.record.taken.len()
    };
    assert_eq!(make_room(&mut without).await, TAKEN_MAX, "the newest is missing");
    assert_eq!(make_room(&mut full).await, 1);
    assert_eq!(full.record.taken, [newest]);
    rig.stop().await;
}

#[test]
fn a_full_record_fits() {
    let name = "n".repeat(SCHEDULE_NAME_LEN_MAX);
    let longest = snapshot_name(&name, 0, |name| !name.ends_with(".2"));
    let one = ScheduledSnapshot { id: SnapshotId::new(1, 7), name: longest.clone(), unix_seconds: 0 };
    let target = meta::ScheduleTarget::Group("g".repeat(63));
    let rules = vec![meta::ScheduleRule { every_seconds: HOUR, keep: 64 }; 8];
    let record = ScheduleRecord {
        taking: Some(longest),
        taken: vec![one; TAKEN_MAX],
        ..ScheduleRecord::new(name, 1, target, rules)
    };
    assert!(record.encode().len() <= meta::VALUE_BYTES_MAX, "{}", record.encode().len());
}

#[test]
fn what_a_failed_attempt_leaves_is_its_own() {
    let begun = || {
        let target = meta::ScheduleTarget::Vdisk(VdiskId::new(1, 1));
        let record = ScheduleRecord::new("s", 1, target, Vec::new());
        Schedule::new(ScheduleRecord { taking: Some("s-1".into()), ..record })
    };
    let mut schedule = begun();
    schedule.left_behind("s-1".into(), Ok(None));
    assert_eq!((schedule.record.taking, schedule.record.taken), (None, Vec::new()));
    let mut schedule = begun();
    schedule.left_behind("s-1".into(), Ok(Some((SnapshotId::new(1, 7), 5_000_000_000))));
    let left = ScheduledSnapshot { id: SnapshotId::new(1, 7), name: "s-1".into(), unix_seconds: 5 };
    assert_eq!((schedule.record.taking, schedule.record.taken), (None, vec![left]));
    // It is looked for again before the next attempt.
    let mut schedule = begun();
    schedule.left_behind("s-1".into(), Err(Error::internal("unreadable")));
    assert_eq!((schedule.record.taking.as_deref(), schedule.record.taken), (Some("s-1"), Vec::new()));
}

#[tokio::test]
async fn copies_in_logs_have_no_snapshots() {
    let rig = Rig::new().await;
    let vm = rig.vm("web", &["root", "data"]).await;
    schedule(&rig, ScheduleTarget::Vm("web".into()), 3).await;
    next(&rig).await;
    let wanted = rig.verbs().wanted_notes();
    for member in &vm.vdisks {
        let [one] = &wanted[&member.vdisk][..] else { panic!("one schedule") };
        assert!(one.taken.is_empty() && one.taken.capacity() == 0 && one.name == "s");
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_schedule_of_a_container_takes_them_of_each_member() {
    let rig = Rig::new().await;
    let verbs = rig.verbs();
    let container =
        |name: &str| CreateContainer { name: name.into(), rewind: None, capacity_bytes: 0, comment: String::new() };
    verbs.create_container(container("gold")).await.expect("a container");
    for name in ["alone", "later", "joins"] {
        rig.vdisk(name).await;
    }
    rig.vm("web", &["root", "data"]).await;
    for vdisk in ["alone", "web-root", "joins"] {
        verbs.move_vdisk(vdisk, "gold").await.expect("moved");
    }
    let rules = vec![ScheduleRule { every_seconds: HOUR, keep: 2 }];
    let target = ScheduleTarget::Container("gold".into());
    let create = |name: &str| CreateSchedule { name: name.into(), target: target.clone(), rules: rules.clone() };
    verbs.create_schedule(create("s")).await.expect("a schedule");
    assert_eq!(verbs.create_schedule(create("s")).await.expect_err("twice").kind, Kind::Exists);
    let info = || verbs.schedule_info(&verbs.schedules.find("s").expect("a schedule"));
    until("the first snapshots", || info().snapshots.len() == 3).await;
    // The step that took the last of them has ended.
    drop(verbs.schedules.turn.lock().await);
    assert_eq!((info().state, info().target), (ScheduleState::Good, Some(target.clone())));
    assert!(info().last_success_unix_ms.is_some());
    let of: BTreeSet<String> =
        info().snapshots.iter().filter_map(|one| Some(one.split_once('@')?.0.to_string())).collect();
    assert_eq!(of, BTreeSet::from(["alone", "joins", "web"].map(String::from)));
    // Nobody is told of those of the members, nor may change them.
    let listed = verbs.list_schedules().await.expect("a list");
    assert_eq!(listed.iter().map(|info| info.name.as_str()).collect::<Vec<_>>(), ["s"]);
    let member = format!("s/{}", rig.id("alone"));
    assert!(verbs.schedules.find(&member).is_ok());
    assert_eq!(verbs.delete_schedule(&member).await.expect_err("a member's").kind, Kind::NotFound);
    assert_eq!(verbs.pause_schedule(&member, true).await.expect_err("a member's").kind, Kind::NotFound);
    assert_eq!(verbs.show_schedule(&member).await.expect_err("a member's").kind, Kind::NotFound);
    // Each keeps two of its own.
    for _ in 0..3 {
        for name in verbs.schedules.names() {
            let mut schedule = verbs.schedules.find(&name).expect("it is there");
            schedule.attempts = Attempts::default();
            schedule.record.taken.iter_mut().for_each(|one| one.unix_seconds -= u64::from(HOUR));
            verbs.schedules.put(schedule);
            verbs.step(&name).await.expect("a step");
        }
    }
    assert_eq!(info().snapshots.len(), 6, "{:?}", info().snapshots);
    // What leaves keeps its snapshots; what comes is taken at once. A vDisk that is a VM's now is taken with that.
    verbs.move_vdisk("alone", "default").await.expect("moved");
    verbs.move_vdisk("later", "gold").await.expect("moved");
    verbs.attach_vdisk("web", AttachVdisk { vdisk: "joins".into(), label: None }).await.expect("attached");
    verbs.step("s").await.expect("a step");
    verbs.step(&format!("s/{}", rig.id("later"))).await.expect("a step");
    let of: BTreeSet<String> =
        info().snapshots.iter().filter_map(|one| Some(one.split_once('@')?.0.to_string())).collect();
    assert_eq!(of, BTreeSet::from(["later", "web"].map(String::from)));
    assert_eq!(rig.all_snapshots(rig.id("alone")).await.len(), 2);
    // Paused, all of it; gone, all of it.
    verbs.pause_schedule("s", true).await.expect("paused");
    let before = info().snapshots;
    for name in verbs.schedules.names() {
        let mut schedule = verbs.schedules.find(&name).expect("it is there");
        schedule.attempts = Attempts::default();
        verbs.schedules.put(schedule);
        verbs.step(&name).await.expect("a step");
    }
    assert_eq!((info().snapshots, info().state), (before, ScheduleState::Paused));
    verbs.delete_schedule("s").await.expect("deleted");
    assert_eq!(verbs.schedules.names(), [""; 0]);
    assert_eq!(rig.all_snapshots(rig.id("later")).await.len(), 1);
    rig.stop().await;
}

#[tokio::test]
async fn what_was_in_a_container_that_is_gone_is_taken_no_more() {
    let rig = Rig::new().await;
    let verbs = rig.verbs();
    let gold = CreateContainer { name: "gold".into(), rewind: None, capacity_bytes: 0, comment: String::new() };
    verbs.create_container(gold).await.expect("a container");
    rig.vdisk("one").await;
    verbs.move_vdisk("one", "gold").await.expect("moved");
    let rules = vec![ScheduleRule { every_seconds: HOUR, keep: 2 }];
    let target = ScheduleTarget::Container("gold".into());
    verbs.create_schedule(CreateSchedule { name: "s".into(), target, rules }).await.expect("a schedule");
    let info = || verbs.schedule_info(&verbs.schedules.find("s").expect("a schedule"));
    until("the first snapshot", || info().snapshots.len() == 1).await;
    // Both before the schedule has seen the first.
    let turn = verbs.schedules.turn.lock().await;
    verbs.move_vdisk("one", "default").await.expect("moved");
    verbs.delete_container("gold").await.expect("deleted");
    drop(turn);
    let again = |member: &str| {
        let mut schedule = verbs.schedules.find(member).expect("it is there");
        schedule.attempts = Attempts::default();
        schedule.record.taken.iter_mut().for_each(|one| one.unix_seconds -= u64::from(HOUR));
        verbs.schedules.put(schedule);
    };
    // Before the schedule has seen it, and behind that.
    let member = format!("s/{}", rig.id("one"));
    for _ in 0..2 {
        again(&member);
        verbs.step(&member).await.expect("a step");
        assert_eq!(rig.all_snapshots(rig.id("one")).await.len(), 1);
        verbs.step("s").await.expect("a step");
        assert_eq!((info().state, info().snapshots.len()), (ScheduleState::WithoutTarget, 0));
    }
    rig.stop().await;
}

#[tokio::test]
async fn what_comes_back_to_a_container_goes_on_and_what_is_being_made_is_not_taken() {
    let rig = Rig::new().await;
    let verbs = rig.verbs();
    let gold = CreateContainer { name: "gold".into(), rewind: None, capacity_bytes: 0, comment: String::new() };
    verbs.create_container(gold).await.expect("a container");
    for vdisk in ["one", "image.importing-0000002a", "copy-root"] {
        rig.vdisk(vdisk).await;
        verbs.move_vdisk(vdisk, "gold").await.expect("moved");
    }
    // A VM is being made of it.
    let source = Source::Empty { size_bytes: 16 << 20, sector_bytes: 512 };
    let vdisks = vec![PlannedVdisk { label: "root".into(), name: "copy-root".into(), source }];
    let vm = base::VmId::new(1, 0x3ff_fff0);
    let plan = PlanRecord { vm, name: "copy".into(), vdisks, container: base::ContainerId::NONE };
    verbs.vms.put_plans(std::slice::from_ref(&plan));
    let rules = vec![ScheduleRule { every_seconds: HOUR, keep: 1 }];
    let target = ScheduleTarget::Container("gold".into());
    let made = verbs.create_schedule(CreateSchedule { name: "s".into(), target, rules }).await.expect("a schedule");
    assert_eq!(made.state, ScheduleState::Due);
    let info = || verbs.schedule_info(&verbs.schedules.find("s").expect("a schedule"));
    until("the first snapshot", || info().snapshots.len() == 1).await;
    let member = format!("s/{}", rig.id("one"));
    assert_eq!(verbs.schedules.names(), ["s", member.as_str()]);
    let first = info().snapshots;
    verbs.move_vdisk("one", "default").await.expect("moved");
    verbs.step("s").await.expect("a step");
    assert_eq!((info().snapshots, info().state), (Vec::new(), ScheduleState::Good));
    verbs.move_vdisk("one", "gold").await.expect("moved");
    verbs.step("s").await.expect("a step");
    assert_eq!(info().snapshots, first);
    rig.stop().await;
}

#[tokio::test]
async fn a_member_that_fails_is_told_with_its_name() {
    let rig = Rig::new().await;
    let verbs = rig.verbs();
    rig.vdisk("good").await;
    rig.vdisk("bad").await;
    let rules = vec![ScheduleRule { every_seconds: HOUR, keep: 2 }];
    let target = ScheduleTarget::Container("default".into());
    verbs.create_schedule(CreateSchedule { name: "s".into(), target, rules }).await.expect("a schedule");
    let info = || verbs.schedule_info(&verbs.schedules.find("s").expect("a schedule"));
    until("the first snapshots", || info().snapshots.len() == 2).await;
    let member = format!("s/{}", rig.id("bad"));
    let turn = verbs.schedules.turn.lock().await;
    let mut failing = verbs.schedules.find(&member).expect("it is there");
    failing.trouble = Some("the snapshot of this period is not taken: why".into());
    failing.failures = 3;
    verbs.schedules.put(failing);
    assert_eq!(info().failures, 3);
    let ScheduleState::Failing { reason } = info().state else { panic!("{:?}", info().state) };
    assert!(reason.starts_with("vDisk bad: ") && reason.contains("why"), "{reason}");
    let reasons = rig.reasons().await;
    assert!(reasons.len() == 1 && reasons[0].starts_with("schedule s: vDisk bad: "), "{reasons:?}");
    drop(turn);
    rig.stop().await;
}
