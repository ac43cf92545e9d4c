//! Never: a clone that loses what it began with, whatever becomes of its relatives; space that is not given back when the
//! last who needs it is gone; half a rollback, or a part of several clones.

use crate::keeper::RETURNS;
use crate::machine::{Machine, bytes_of, content, manual};
use crate::tap::{Fate, Verb};
use base::units::{BLOCK, MIB};
use base::{ContainerId, SnapshotId, VdiskId};
use block::{Reply, Request};
use meta::{ContainerNote, ContainerRecord, MemberRecord, keys};
use node::{BornWith, ShardConfig};
use sim::rng::Rng;
use std::cell::Cell;
use std::collections::BTreeMap;
use vdisk::{NoteKind, Rewind, WINDOW_NS_MIN};
use world::Completion;

/// Blocks that every member of the family has.
const BLOCKS: u64 = 40;

/// Somebody who can be deleted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Member {
    Vdisk(VdiskId),
    Snapshot(VdiskId, SnapshotId),
}

/// A vDisk with two snapshots; a clone of each; a snapshot of the first clone, and a clone of that. By member what it holds.
fn family(machine: &Machine) -> BTreeMap<Member, Vec<u64>> {
    let mut members = BTreeMap::new();
    let tags = |from: u64| (from..from + BLOCKS).collect::<Vec<u64>>();
    let source = machine.vdisk();
    machine.write_tags(&source, tags(1000));
    let first = machine.snapshot(source.id, "first");
    let mut now = tags(1000);
    for block in (0..BLOCKS).step_by(3) {
        machine.write(&source, block, 2000 + block);
        now[block as usize] = 2000 + block;
    }
    let second = machine.snapshot(source.id, "second");
    members.insert(Member::Snapshot(source.id, first), tags(1000));
    members.insert(Member::Snapshot(source.id, second), now.clone());
    machine.trim(&source, 1, 1);
    members.insert(Member::Vdisk(source.id), [&now[..1], &[0], &now[2..]].concat());
    let of_second = machine.clone_of(source.id, second, "of-second");
    members.insert(Member::Vdisk(of_second.id), now);
    let child = machine.clone_of(source.id, first, "child");
    let mut now = tags(1000);
    for block in (0..BLOCKS).step_by(5) {
        machine.write(&child, block, 3000 + block);
        now[block as usize] = 3000 + block;
    }
    machine.flush(&child);
    members.insert(Member::Vdisk(child.id), now.clone());
    let third = machine.snapshot(child.id, "third");
    members.insert(Member::Snapshot(child.id, third), now.clone());
    let grandchild = machine.clone_of(child.id, third, "grandchild");
    machine.write(&grandchild, 7, 4007);
    machine.flush(&grandchild);
    now[7] = 4007;
    members.insert(Member::Vdisk(grandchild.id), now);
    members
}

fn check(machine: &Machine, members: &BTreeMap<Member, Vec<u64>>, context: &str) {
    for (member, tags) in members {
        let found = match member {
            Member::Vdisk(id) => {
                let vdisk = machine.vdisk_by_id(*id).expect("it is whole");
                machine.assert_online(&vdisk);
                machine.reads(&vdisk, 0..BLOCKS)
            }
            Member::Snapshot(vdisk, id) => machine.read_snapshot(*vdisk, *id, 0..BLOCKS),
        };
        assert_eq!(&found, tags, "{context}: {member:?}");
    }
}

/// Space comes back at once: no slot is kept for later.
fn config() -> ShardConfig {
    let mut config = manual();
    config.pool.recycled_bytes_max = 0;
    config
}

#[test]
fn a_family_can_go_in_any_order_and_who_stays_stays_whole() {
    for seed in 0..48 {
        let mut rng = Rng::new(seed, 0xfa);
        let machine = Machine::with(config(), seed);
        let mut members = family(&machine);
        let mut node = 2;
        let mut order = String::new();
        while !members.is_empty() {
            let all: Vec<Member> = members.keys().copied().collect();
            let member = *rng.pick(&all).expect("there are some");
            order += &format!(" {member:?}");
            match member {
                Member::Snapshot(vdisk, id) => machine.delete_snapshot(vdisk, id),
                Member::Vdisk(id) => {
                    machine.delete(id);
                    members.retain(|other, _| !matches!(other, Member::Snapshot(vdisk, _) if *vdisk == id));
                }
            }
            members.remove(&member);
            if rng.below(2) == 0 {
                machine.settle();
            }
            if rng.below(3) == 0 {
                let way = rng.below(4) as usize;
                order += &format!(" way {way}");
                RETURNS[way](&machine, node);
                node += 1;
            }
            check(&machine, &members, &format!("seed {seed}:{order}"));
        }
        machine.settle();
        let (shard, context) = (machine.shard(), format!("seed {seed}:{order}"));
        assert!(shard.context.references.held_groups().is_empty(), "{context}");
        assert_eq!((shard.records().len(), shard.context.pool.usage().slots_used), (0, 0), "{context}");
    }
}

#[test]
fn a_crash_anywhere_in_making_clones_leaves_all_or_none() {
    for at in 0.. {
        let machine = Machine::new();
        let vdisk = machine.vdisk();
        machine.write_tags(&vdisk, 1..=BLOCKS);
        let (kept, id) = (machine.snapshot(vdisk.id, "s"), vdisk.id);
        dies_at(&machine, at);
        let names: Vec<String> = ["a", "b", "c"].map(String::from).into();
        let shard = machine.shard();
        let done = machine.attempt(async move { shard.clone_snapshot(id, kept, names, None).await });
        machine.lose_power();
        machine.open();
        let shard = machine.shard();
        let clones: Vec<_> = shard.records().into_iter().filter(|record| record.id != id).collect();
        assert!(clones.len() == 3 || clones.is_empty() && done.is_none(), "{at}: {clones:?}");
        for clone in &clones {
            let clone = machine.vdisk_by_id(clone.id).expect("it is whole");
            assert_eq!(machine.reads(&clone, 0..BLOCKS), (1..=BLOCKS).collect::<Vec<u64>>(), "{at}");
        }
        // Nothing is left of those that did not come about.
        machine.settle();
        let mut known: Vec<VdiskId> = clones.iter().map(|record| record.id).collect();
        known.push(id);
        assert!(machine.groups().iter().all(|placed| known.contains(&placed.header.vdisk)), "{at}");
        if let Some(done) = done {
            assert_eq!(done.expect("room").len(), 3);
            assert!(at > 6, "it died before: {at}");
            return;
        }
    }
}

/// A new vDisk is in its container, and has a window of its own, from the first moment: by its log, and by the metadata store as soon as
/// that knows it.
#[test]
fn a_crash_anywhere_in_making_one_leaves_it_in_its_container_or_nothing() {
    let ends: [fn(&Machine); 2] = [Machine::kill, Machine::lose_power];
    let container =
        ContainerRecord { id: ContainerId::new(7, 1), name: "gold".into(), serial: 3, ..ContainerRecord::unset() };
    let window = Rewind { window_ns: WINDOW_NS_MIN, limit_bytes: 0 };
    for (end, is_clone, own) in [
        (0, true, None),
        (1, true, None),
        (0, false, None),
        (1, false, None),
        (0, false, Some(Some(window))),
        (1, false, Some(Some(window))),
        (0, false, Some(None)),
    ] {
        for at in 0.. {
            let machine = Machine::new();
            let vdisk = machine.vdisk();
            machine.write_tags(&vdisk, 1..=BLOCKS);
            let (kept, id) = (machine.snapshot(vdisk.id, "s"), vdisk.id);
            dies_at(&machine, at);
            machine.tap.take();
            let (shard, of_new) = (machine.shard(), Some(container.clone()));
            let done = machine.attempt(async move {
                if is_clone {
                    shard.clone_snapshot(id, kept, vec!["a".into()], of_new).await.map(drop)
                } else {
                    shard.create("a", MIB, 512, BornWith { container: of_new, window: own }).await.map(drop)
                }
            });
            let commits = machine.tap.take().iter().filter(|operation| operation.verb == Verb::Commit).count();
            ends[end](&machine);
            machine.tap.clear();
            machine.open();
            machine.settle();
            let context = format!("{at}, end {end}, a clone: {is_clone}, {own:?}");
            let shard = machine.shard();
            let made: Vec<VdiskId> =
                shard.records().iter().map(|record| record.id).filter(|made| *made != id).collect();
            assert!(made.len() == 1 || made.is_empty() && done.is_none(), "{context}: {made:?}");
            for made in made.iter().copied() {
                let member = MemberRecord { inherits: own.is_none(), ..MemberRecord::new(made, container.id) };
                let store = shard.store();
                let stored = machine.run(async move { store.get(&keys::member(made)).await }).expect("read");
                assert_eq!(stored, Some(member.encode()), "{context}");
                let vdisk = machine.vdisk_by_id(made).expect("it is there");
                assert_eq!(vdisk.rewind(), own.flatten(), "{context}");
                let note = vdisk.note(NoteKind::Container);
                assert_eq!(note, Some(ContainerNote { member, container: container.clone() }.encode()), "{context}");
            }
            // Nothing is left of what did not come about.
            let is_known = |vdisk: &VdiskId| *vdisk == id || made.contains(vdisk);
            assert!(machine.groups().iter().all(|placed| is_known(&placed.header.vdisk)), "{context}");
            if let Some(done) = done {
                done.expect("room");
                assert!(at >= 2 && (is_clone || commits == 1), "{commits} commits: {context}");
                break;
            }
        }
    }
}

/// A single clone needs nothing on record before it is begun: its birth is there or not, and a start takes over what it finds.
#[test]
fn a_crash_anywhere_in_making_one_clone_leaves_it_or_nothing() {
    let ends: [fn(&Machine); 2] = [Machine::kill, Machine::lose_power];
    for (end, from_snapshot) in [(0, true), (1, true), (0, false), (1, false)] {
        for at in 0.. {
            let machine = Machine::new();
            let vdisk = machine.vdisk();
            machine.write_tags(&vdisk, 1..=BLOCKS);
            let (kept, id) = (machine.snapshot(vdisk.id, "s"), vdisk.id);
            dies_at(&machine, at);
            let (shard, names) = (machine.shard(), vec!["a".to_string()]);
            let done = machine.attempt(async move {
                if from_snapshot {
                    shard.clone_snapshot(id, kept, names, None).await
                } else {
                    shard.clone_as_it_is(id, ".temporary", names, None).await
                }
            });
            ends[end](&machine);
            machine.tap.clear();
            machine.open();
            let context = format!("{at}, end {end}, of a snapshot: {from_snapshot}");
            let shard = machine.shard();
            let clones: Vec<_> = shard.records().into_iter().filter(|record| record.id != id).collect();
            assert!(clones.len() == 1 || clones.is_empty() && done.is_none(), "{context}: {clones:?}");
            for clone in &clones {
                assert_eq!(clone.name, "a", "{context}");
                let clone = machine.vdisk_by_id(clone.id).expect("it is whole");
                assert_eq!(machine.reads(&clone, 0..BLOCKS), (1..=BLOCKS).collect::<Vec<u64>>(), "{context}");
            }
            // Of the source nothing is lost, and its name is not taken by something that nobody sees.
            assert_eq!(machine.reads(&machine.vdisk(), 0..BLOCKS), (1..=BLOCKS).collect::<Vec<u64>>(), "{context}");
            let again = machine.run(async move { shard.clone_snapshot(id, kept, vec!["a".into()], None).await });
            assert_eq!(again.is_ok(), clones.is_empty(), "{context}");
            machine.settle();
            let known: Vec<VdiskId> = machine.shard().records().iter().map(|record| record.id).collect();
            assert_eq!(known.len(), 2, "{context}");
            assert!(machine.groups().iter().all(|placed| known.contains(&placed.header.vdisk)), "{context}");
            if let Some(done) = done {
                assert_eq!(done.expect("room").len(), 1);
                assert!(at > 3, "it died before: {at}");
                break;
            }
        }
    }
}

/// What a client waits for: the clone's birth is stored, then the index has it.
#[test]
fn one_clone_of_a_stored_snapshot_is_one_sync_and_one_commit() {
    let machine = Machine::new();
    let vdisk = machine.vdisk();
    machine.write_tags(&vdisk, 1..=BLOCKS);
    let (kept, id) = (machine.snapshot(vdisk.id, "s"), vdisk.id);
    machine.checkpoint(&vdisk);
    machine.clone_of(id, kept, "first");
    machine.tap.take();
    machine.clone_of(id, kept, "second");
    let asked = machine.tap.take();
    let count = |verb| asked.iter().filter(|o| o.verb == verb).count();
    assert_eq!((count(Verb::Sync), count(Verb::Commit)), (1, 1), "{asked:?}");
}

/// Births were stored and the commit was not; then starts are cut short anywhere, by kill and by power loss. (A recovery
/// writes what nothing proves to be stored once more: there may be several copies of a birth.)
#[test]
fn clones_that_nobody_was_told_of_go_however_often_a_start_is_cut_short() {
    let ends: [fn(&Machine); 2] = [Machine::kill, Machine::lose_power];
    // On a disk with copies a start also writes to what it finds.
    let all = [(0, 0, false), (1, 1, false), (0, 1, false), (1, 0, false), (0, 0, true), (1, 1, true)];
    for (second, third, is_sharing) in all {
        for at in 0.. {
            let machine = Machine::new();
            if is_sharing {
                let pool = machine.shard().context.pool.clone();
                machine.run(async move { pool.begin_sharing().await }).expect("the disk works");
            }
            let id = births_without_record(&machine);
            machine.kill();
            let groups = machine.groups();
            assert_eq!(groups.iter().filter(|placed| placed.header.vdisk != id).count(), 3, "their births");
            let mut died = 0;
            for end in [second, third] {
                dies_at(&machine, at);
                if machine.try_open().is_none() {
                    died += 1;
                } else {
                    let clock = machine.world().clock;
                    died += i32::from(machine.attempt(async move { clock.sleep(1_000_000_000).await }).is_none());
                }
                ends[end](&machine);
            }
            for _ in 0..2 {
                machine.open();
                machine.settle();
                assert_eq!(machine.shard().records().len(), 1, "{at}, ends {second} and {third}");
                machine.kill();
            }
            let groups = machine.groups();
            assert!(
                groups.iter().all(|placed| placed.header.vdisk == id),
                "{at}, ends {second} and {third}: {groups:?}"
            );
            if died == 0 {
                assert!(at > 8, "it died before: {at}");
                break;
            }
        }
    }
}

/// The machine has died at the commit that puts three clones on record. Returns the id of their source.
fn births_without_record(machine: &Machine) -> VdiskId {
    let vdisk = machine.vdisk();
    machine.write_tags(&vdisk, 1..=BLOCKS);
    let (kept, id) = (machine.snapshot(vdisk.id, "s"), vdisk.id);
    machine.checkpoint(&vdisk);
    // Of these one says that clones are begun.
    let commits = Cell::new(0);
    machine.tap.set_rule(move |o| {
        commits.set(commits.get() + u32::from(o.verb == Verb::Commit));
        if o.verb == Verb::Commit && commits.get() == 2 { Fate::Dies } else { Fate::Happens }
    });
    let names: Vec<String> = ["a", "b", "c"].map(String::from).into();
    let shard = machine.shard();
    let made = machine.attempt(async move { shard.clone_snapshot(id, kept, names, None).await });
    assert!(made.is_none(), "it died");
    id
}

/// A start that cannot read the header of what is left of a clone does not take it for gone.
#[test]
fn a_clone_that_nobody_was_told_of_does_not_come_back_on_a_better_day() {
    for unread in 1..4 {
        let machine = Machine::new();
        let id = births_without_record(&machine);
        machine.kill();
        let groups = machine.groups();
        let born: Vec<_> = groups.iter().filter(|placed| placed.header.vdisk != id).collect();
        assert_eq!(born.len(), 3);
        let (file, start) = (born[unread - 1].file.clone(), born[unread - 1].start);
        machine.tap.set_rule(move |o| {
            let hit = o.verb == Verb::Read && *o.file == *file && o.offset <= start && start < o.end();
            if hit { Fate::Fails } else { Fate::Happens }
        });
        machine.open();
        machine.settle();
        machine.kill();
        machine.tap.clear();
        machine.open();
        machine.settle();
        assert_eq!(machine.shard().records().len(), 1, "clone {unread} came back");
        assert!(machine.groups().iter().all(|placed| placed.header.vdisk == id));
    }
}

/// Of a vDisk or a single clone whose birth is in the log, but whose sync failed, and of which the metadata store could not be
/// told that it is none.
#[test]
fn what_was_refused_is_noted_as_none_as_soon_as_that_can_be() {
    for (is_clone, is_closed) in [(true, false), (true, true), (false, false), (false, true)] {
        let machine = Machine::new();
        let vdisk = machine.vdisk();
        machine.write_tags(&vdisk, 1..=BLOCKS);
        let (kept, id) = (machine.snapshot(vdisk.id, "s"), vdisk.id);
        machine.checkpoint(&vdisk);
        machine.tap.set_rule(move |o| match o.verb {
            Verb::Sync if o.is_slab() => Fate::FailsWhole,
            Verb::Commit => Fate::Fails,
            _ => Fate::Happens,
        });
        let (shard, names) = (machine.shard(), vec!["a".to_string()]);
        let made = machine.run(async move {
            if is_clone {
                shard.clone_snapshot(id, kept, names, None).await.map(drop)
            } else {
                shard.create("a", MIB, 512, BornWith::default()).await.map(drop)
            }
        });
        made.expect_err("nothing is stored");
        machine.tap.clear();
        if is_closed {
            let shard = machine.shard();
            let closed = machine.run(async move { shard.close().await });
            closed.expect_err("a sync of the disk has failed");
        } else {
            machine.idle(60_000_000_000);
        }
        machine.kill();
        machine.open();
        machine.settle();
        let names: Vec<String> = machine.shard().records().into_iter().map(|record| record.name).collect();
        assert_eq!(names, ["v"], "a clone: {is_clone}, closed: {is_closed}");
        assert!(machine.groups().iter().all(|placed| placed.header.vdisk == id));
    }
}

/// Its birth is stored, its record is refused, and so is what would take it back.
#[test]
fn what_can_be_neither_put_on_record_nor_taken_back_is_noted_as_none_too() {
    let machine = Machine::new();
    let known = machine.vdisk().id;
    let has_failed = Cell::new(false);
    machine.tap.set_rule(move |o| match o.verb {
        Verb::Commit => {
            has_failed.set(true);
            Fate::Fails
        }
        Verb::Write | Verb::Sync if o.is_slab() && has_failed.get() => Fate::Fails,
        _ => Fate::Happens,
    });
    let shard = machine.shard();
    machine
        .run(async move { shard.create("a", MIB, 512, BornWith::default()).await.map(drop) })
        .expect_err("it has no record");
    assert!(machine.groups().iter().any(|placed| placed.header.vdisk != known), "it was not born");
    machine.tap.clear();
    machine.idle(60_000_000_000);
    machine.kill();
    machine.open();
    machine.settle();
    let names: Vec<String> = machine.shard().records().into_iter().map(|record| record.name).collect();
    assert_eq!(names, ["v"]);
}

/// The commit that puts it on record happens, and is told to have failed: its name is free again.
#[test]
fn the_name_of_what_was_refused_is_free_again() {
    for (is_clone, names) in [(false, &["a"][..]), (true, &["a"]), (true, &["a", "b"])] {
        let machine = Machine::new();
        let vdisk = machine.vdisk();
        machine.write_tags(&vdisk, 1..=BLOCKS);
        let (kept, id) = (machine.snapshot(vdisk.id, "s"), vdisk.id);
        machine.checkpoint(&vdisk);
        let made = |names: &'static [&'static str]| {
            let (shard, all) = (machine.shard(), names.iter().map(|name| name.to_string()).collect());
            machine.run(async move {
                if is_clone {
                    shard.clone_snapshot(id, kept, all, None).await.map(drop)
                } else {
                    shard.create(names[0], MIB, 512, BornWith::default()).await.map(drop)
                }
            })
        };
        machine.tap.set_rule(move |o| match o.verb {
            Verb::Commit if !o.file.as_bytes().starts_with(meta::keys::BIRTHS) => Fate::FailsWhole,
            _ => Fate::Happens,
        });
        made(names).expect_err("it is told to have failed");
        machine.tap.clear();
        machine.idle(60_000_000_000);
        assert_eq!(machine.shard().records().len(), 1, "{names:?}");
        made(names).expect("the names are free");
        machine.kill();
        machine.open();
        assert_eq!(machine.shard().records().len(), 1 + names.len(), "{names:?}");
    }
}

#[test]
fn names_that_are_taken_make_no_clone_at_all() {
    let machine = Machine::new();
    let vdisk = machine.vdisk();
    machine.write_tags(&vdisk, 1..=BLOCKS);
    let (kept, id) = (machine.snapshot(vdisk.id, "s"), vdisk.id);
    for names in [["a", "v"], ["b", "b"]] {
        let shard = machine.shard();
        let names = names.map(String::from).into();
        let refused = machine.run(async move { shard.clone_snapshot(id, kept, names, None).await });
        refused.expect_err("the name is taken");
        assert_eq!(machine.shard().records().len(), 1);
    }
    machine.settle();
    machine.lose_power();
    assert!(machine.rebuild(2).lost.is_empty());
    machine.open();
    assert_eq!(machine.shard().records().len(), 1, "a rebuilt store does not find them either");
}

/// A start stores once more what nothing proves to be stored, here a write to each of many vDisks; a sync covers all that
/// wait.
#[test]
fn what_many_store_once_more_shares_its_syncs() {
    const CLONES: usize = 60;
    let machine = Machine::new();
    let vdisk = machine.vdisk();
    machine.write_tags(&vdisk, 1..=BLOCKS);
    let (kept, id) = (machine.snapshot(vdisk.id, "s"), vdisk.id);
    machine.checkpoint(&vdisk);
    let (shard, names) = (machine.shard(), (0..CLONES).map(|number| format!("clone{number}")).collect());
    let clones = machine.run(async move { shard.clone_snapshot(id, kept, names, None).await }).expect("room");
    for (tag, clone) in (1000..).zip(&clones) {
        machine.write(&machine.vdisk_by_id(clone.id).expect("just made"), 0, tag);
    }
    machine.kill();
    machine.tap.clear();
    machine.tap.set_rule(|o| if o.verb == Verb::Sync { Fate::Waits } else { Fate::Happens });
    machine.open();
    for (tag, clone) in (1000..).zip(&clones) {
        assert_eq!(machine.read(&machine.vdisk_by_id(clone.id).expect("it is whole"), 0), tag);
    }
    let asked = machine.tap.take();
    let of_slabs = |verb| asked.iter().filter(|o| o.verb == verb && o.is_slab()).count();
    assert!(of_slabs(Verb::Write) >= CLONES, "each was written once more: {}", of_slabs(Verb::Write));
    assert!(of_slabs(Verb::Sync) <= CLONES / 4, "{} syncs for {CLONES} vDisks", of_slabs(Verb::Sync));
}

/// A client comes back at once to a vDisk whose end takes all the memory that is meant for such ends. The others follow.
#[test]
fn a_long_end_that_a_client_waits_for_holds_nobody_up_for_ever() {
    const OTHERS: usize = 40;
    let machine = Machine::new();
    for number in 0..OTHERS {
        machine.create(Box::leak(format!("w{number}").into_boxed_str()), 4 * MIB);
    }
    let last = machine.create("last", 4 * MIB);
    let tags: Vec<u64> = (1..=1024).collect();
    for _ in 0..5 {
        machine.try_write(&last, 0, &tags).expect("it lives").expect("room");
    }
    machine.kill();
    machine.tap.set_rule(|o| if o.verb != Verb::Commit { Fate::Waits } else { Fate::Happens });
    machine.open();
    let last = machine.vdisk_by_id(last.id).expect("it is whole");
    assert_eq!(machine.reads(&last, 0..4), [1, 2, 3, 4]);
    machine.idle(60_000_000_000);
    assert_eq!(machine.shard().summary().to_recover, 0, "vDisks that nobody asked for");
}

/// Dies at the operation of this number, commits of the store included.
fn dies_at(machine: &Machine, at: i32) {
    let left = Cell::new(at);
    machine.tap.set_rule(move |o| {
        let counts = o.changes() || o.verb == Verb::Commit;
        left.set(left.get() - i32::from(counts));
        if counts && left.get() < 0 { Fate::Dies } else { Fate::Happens }
    });
}

#[test]
fn a_crash_anywhere_in_a_rollback_leaves_the_old_or_the_new() {
    for at in 0.. {
        let machine = Machine::new();
        let vdisk = machine.vdisk();
        machine.write_tags(&vdisk, 1..=BLOCKS);
        let (kept, id) = (machine.snapshot(vdisk.id, "s"), vdisk.id);
        machine.write_tags(&vdisk, 101..=100 + BLOCKS);
        machine.write(&vdisk, 300, 9);
        machine.flush(&vdisk);
        dies_at(&machine, at);
        let shard = machine.shard();
        let done = machine.attempt(async move { shard.rollback(id, kept).await });
        if done.is_some() {
            machine.tap.clear();
            // What comes after it counts, and what came before does not come back.
            machine.write(&vdisk, 1, 77);
            machine.flush(&vdisk);
        }
        machine.lose_power();
        machine.open();
        for round in 0..2 {
            let vdisk = machine.vdisk();
            machine.assert_online(&vdisk);
            let mut new: Vec<u64> = (1..=BLOCKS).chain([0]).collect();
            let old: Vec<u64> = (101..=100 + BLOCKS).chain([9]).collect();
            let mut found = machine.reads(&vdisk, 0..BLOCKS);
            found.push(machine.read(&vdisk, 300));
            if done.is_some() {
                new[1] = 77;
            }
            assert!(found == new || done.is_none() && found == old, "{at}, round {round}: {found:?}");
            assert_eq!(machine.read_snapshot(id, kept, 0..BLOCKS), (1..=BLOCKS).collect::<Vec<u64>>(), "{at}");
            machine.settle();
            machine.kill();
            assert!(machine.rebuild(2 + round).lost.is_empty());
            machine.open();
        }
        if let Some(done) = done {
            done.expect("nobody is connected");
            assert!(at > 4, "it died before: {at}");
            return;
        }
    }
}

/// Deeper than anybody's: reading costs no more, and the middle may go.
#[test]
fn clones_of_clones_hold_what_they_need_without_those_between() {
    let machine = Machine::with(config(), 5);
    let mut vdisk = machine.vdisk();
    machine.write_tags(&vdisk, 1..=BLOCKS);
    let mut expected: Vec<u64> = (1..=BLOCKS).collect();
    for depth in 0..12 {
        let kept = machine.snapshot(vdisk.id, "s");
        let clone = machine.clone_of(vdisk.id, kept, &format!("depth-{depth}"));
        machine.write(&clone, depth, 500 + depth);
        expected[depth as usize] = 500 + depth;
        machine.flush(&clone);
        machine.delete(vdisk.id);
        vdisk = clone;
        if depth % 4 == 3 {
            machine.settle();
            machine.kill();
            assert!(machine.rebuild(2 + depth as u16).lost.is_empty());
            machine.open();
            vdisk = machine.vdisk_by_id(vdisk.id).expect("whole");
        }
        assert_eq!(machine.reads(&vdisk, 0..BLOCKS), expected, "depth {depth}");
    }
    // Written over altogether it needs nobody any more.
    machine.write_tags(&vdisk, 701..=700 + BLOCKS);
    (0..3).for_each(|_| machine.settle());
    let groups = machine.groups();
    assert!(groups.iter().all(|placed| placed.header.vdisk == vdisk.id), "{groups:?}");
    assert!(machine.shard().context.references.held_groups().is_empty());
}

/// The second of two clones: the first one has read the map.
#[test]
fn a_clone_reads_at_once_what_another_has_in_memory() {
    let machine = Machine::with(manual(), 5);
    machine.cache_bytes.set(MIB);
    machine.restart();
    let source = machine.create("source", 4 * MIB);
    let blocks = [3, 300, 600];
    for block in blocks {
        machine.write(&source, block, 1000 + block);
    }
    let snapshot = machine.snapshot(source.id, "first");
    let [one, two] = ["one", "two"].map(|name| machine.clone_of(source.id, snapshot, name));
    for block in blocks {
        assert_eq!(machine.read(&one, block), 1000 + block);
    }
    let now = |block: u64| two.device().submit(Request::Read { offset: block * BLOCK, len: BLOCK as u32 });
    assert!(!matches!(now(3), Completion::Ready(_)), "what is above the leaves is read");
    assert_eq!(machine.read(&two, 3), 1003);
    for block in &blocks[1..] {
        let Completion::Ready(read) = now(*block) else { panic!("block {block} waits for a page") };
        let Reply::Data(data) = read.expect("it is whole") else { panic!("not data") };
        assert_eq!(data.iter().flat_map(bytes_of).collect::<Vec<_>>(), content(*block, 1000 + block));
    }
}
