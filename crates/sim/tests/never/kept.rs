//! Snapshots and clones: what is kept stays as it was, whatever happens to what it was taken of, and what nobody needs
//! any more comes free.

use crate::machine::{Machine, manual};
use crate::tap::{Fate, Operation, Verb};
use base::units::{BLOCK, MIB};
use base::{SnapshotId, VdiskId};
use block::{Reply, Request};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use vdisk::{Compared, Vdisk, Version};

fn snapshot(machine: &Machine, vdisk: VdiskId, name: &'static str) -> SnapshotId {
    let shard = machine.shard();
    machine.run(async move { shard.snapshot(vdisk, name).await }).expect("room").id
}

fn clone(machine: &Machine, vdisk: VdiskId, snapshot: SnapshotId, name: &str) -> Rc<Vdisk> {
    let (shard, names) = (machine.shard(), vec![name.to_string()]);
    let made = machine.run(async move { shard.clone_snapshot(vdisk, snapshot, names, None).await }).expect("room");
    machine.vdisk_by_id(made[0].id).expect("just made")
}

fn delete(machine: &Machine, vdisk: VdiskId) {
    let shard = machine.shard();
    machine.run(async move { shard.delete(vdisk, true).await }).expect("it is there");
}

fn delete_snapshot(machine: &Machine, vdisk: VdiskId, snapshot: SnapshotId) {
    let shard = machine.shard();
    machine.run(async move { shard.delete_snapshot(vdisk, snapshot, false).await }).expect("it is there");
}

/// What a reader of the snapshot sees, by tags.
fn read_snapshot(machine: &Machine, vdisk: VdiskId, snapshot: SnapshotId, blocks: std::ops::Range<u64>) -> Vec<u64> {
    let shard = machine.shard();
    let read = async move {
        let attachment = shard.attach_snapshot(vdisk, snapshot).await?;
        let mut tags = Vec::new();
        for block in blocks {
            let read = Request::Read { offset: block * BLOCK, len: BLOCK as u32 };
            let Ok(Reply::Data(segments)) = attachment.device.submit(read).await else { panic!("block {block}") };
            let bytes: Vec<u8> = segments.iter().flat_map(crate::machine::bytes_of).collect();
            tags.push(u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")));
        }
        node::Result::Ok(tags)
    };
    machine.run(read).expect("it can be read")
}

fn write_all(machine: &Machine, vdisk: &Rc<Vdisk>, tags: &[u64]) {
    for (block, tag) in tags.iter().enumerate() {
        machine.write(vdisk, block as u64, *tag);
    }
}

/// Everything that can come free does.
fn settle(machine: &Machine) {
    for vdisk in machine.shard().open_vdisks() {
        machine.write(&vdisk, 1000, 1);
        machine.checkpoint(&vdisk);
        machine.make_room(&vdisk);
    }
    machine.idle(1_000_000_000);
}

/// Kill and start again; the store is lost as well if `rebuild` says under which node number it is made anew.
fn again(machine: &Machine, rebuild: Option<u16>) {
    machine.kill();
    if let Some(node) = rebuild {
        let rebuilt = machine.rebuild(node);
        assert!(rebuilt.lost.is_empty(), "{rebuilt:?}");
    }
    machine.open();
}

#[test]
fn a_snapshot_stays_as_it_was() {
    for stored in [false, true] {
        for power in [false, true] {
            let machine = Machine::new();
            let vdisk = machine.vdisk();
            write_all(&machine, &vdisk, &[1, 2, 3, 4]);
            let kept = snapshot(&machine, vdisk.id, "s");
            write_all(&machine, &vdisk, &[11, 0, 13]);
            machine.trim(&vdisk, 3, 1);
            if stored {
                machine.checkpoint(&vdisk);
            }
            machine.flush(&vdisk);
            if power {
                machine.lose_power()
            } else {
                machine.kill()
            }
            machine.open();
            let vdisk = machine.vdisk();
            assert_eq!(vdisk.snapshots().len(), 1);
            assert_eq!(read_snapshot(&machine, vdisk.id, kept, 0..4), [1, 2, 3, 4], "stored {stored}");
            assert_eq!(machine.reads(&vdisk, 0..4), [11, 0, 13, 0]);
            settle(&machine);
            again(&machine, Some(2));
            assert_eq!(read_snapshot(&machine, vdisk.id, kept, 0..4), [1, 2, 3, 4], "stored {stored}");
        }
    }
}

#[test]
fn a_clone_outlives_its_source_and_the_store() {
    let machine = Machine::new();
    let vdisk = machine.vdisk();
    write_all(&machine, &vdisk, &[1, 2, 3, 4]);
    let kept = snapshot(&machine, vdisk.id, "s");
    let (first, second) = (clone(&machine, vdisk.id, kept, "a"), clone(&machine, vdisk.id, kept, "b"));
    machine.write(&first, 0, 21);
    machine.flush(&first);
    delete(&machine, vdisk.id);
    settle(&machine);
    for node in [None, Some(2), Some(3)] {
        again(&machine, node);
        let [first, second] = [first.id, second.id].map(|id| machine.vdisk_by_id(id).expect("it is whole"));
        machine.assert_online(&first);
        assert_eq!(machine.reads(&first, 0..4), [21, 2, 3, 4]);
        assert_eq!(machine.reads(&second, 0..4), [1, 2, 3, 4]);
        settle(&machine);
    }
}

/// Groups on the disk, once all is settled, that are not of these vDisks.
fn strangers(machine: &Machine, known: &[VdiskId]) -> usize {
    let groups = machine.groups();
    groups.iter().filter(|placed| !known.contains(&placed.header.vdisk)).count()
}

#[test]
fn what_nobody_needs_comes_free_in_any_order() {
    // Which goes first, second, third: the source (0), the snapshot of it (1), the clone (2). The snapshot goes with its
    // vDisk.
    for order in [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 1, 0], [2, 0, 1]] {
        for restart in [false, true] {
            let machine = Machine::new();
            let other = machine.create("other", 4 * MIB);
            let vdisk = machine.vdisk();
            let tags: Vec<u64> = (1..60).collect();
            write_all(&machine, &vdisk, &tags);
            let kept = snapshot(&machine, vdisk.id, "s");
            let made = clone(&machine, vdisk.id, kept, "a").id;
            let source_deleted = Cell::new(false);
            for what in order {
                match what {
                    0 => {
                        delete(&machine, vdisk.id);
                        source_deleted.set(true);
                    }
                    1 if !source_deleted.get() => delete_snapshot(&machine, vdisk.id, kept),
                    1 => {}
                    _ => delete(&machine, made),
                }
                settle(&machine);
                if restart {
                    again(&machine, None);
                    machine.idle(1_000_000_000);
                }
                if let Ok(clone) = machine.vdisk_by_id(made) {
                    assert_eq!(machine.reads(&clone, 0..59), tags, "{order:?}");
                }
            }
            machine.close();
            assert_eq!(strangers(&machine, &[other.id]), 0, "{order:?}, restart {restart}");
        }
    }
}

#[test]
fn a_clone_that_overwrites_everything_lets_go() {
    let machine = Machine::new();
    let vdisk = machine.vdisk();
    write_all(&machine, &vdisk, &(1..60).collect::<Vec<_>>());
    let kept = snapshot(&machine, vdisk.id, "s");
    let made = clone(&machine, vdisk.id, kept, "a");
    delete(&machine, vdisk.id);
    settle(&machine);
    write_all(&machine, &made, &(101..160).collect::<Vec<_>>());
    settle(&machine);
    settle(&machine);
    let known = [made.id];
    machine.close();
    assert_eq!(strangers(&machine, &known), 0);
    machine.open();
    let made = machine.vdisk_by_id(made.id).expect("whole");
    assert_eq!(machine.reads(&made, 0..59), (101..160).collect::<Vec<_>>());
}

#[test]
fn a_deleted_snapshot_gives_back_what_only_it_held() {
    let machine = Machine::new();
    let vdisk = machine.vdisk();
    write_all(&machine, &vdisk, &(1..60).collect::<Vec<_>>());
    let kept = snapshot(&machine, vdisk.id, "s");
    write_all(&machine, &vdisk, &(101..160).collect::<Vec<_>>());
    settle(&machine);
    let with = vdisk.space().stored_bytes;
    delete_snapshot(&machine, vdisk.id, kept);
    settle(&machine);
    let without = vdisk.space().stored_bytes;
    assert!(with > without + 40 * BLOCK, "{with} {without}");
    assert_eq!(machine.shard().context.references.held_groups(), BTreeSet::new());
    again(&machine, None);
    let vdisk = machine.vdisk();
    assert_eq!(vdisk.snapshots(), []);
    assert_eq!(machine.reads(&vdisk, 0..59), (101..160).collect::<Vec<_>>());
}

#[test]
fn a_rollback_is_all_or_nothing_and_can_be_taken_back() {
    for dies in 0..12 {
        let machine = Machine::new();
        let vdisk = machine.vdisk();
        write_all(&machine, &vdisk, &[1, 2, 3]);
        let old = snapshot(&machine, vdisk.id, "old");
        write_all(&machine, &vdisk, &[11, 12, 13, 14]);
        let new = snapshot(&machine, vdisk.id, "new");
        let (left, shard, id) = (Cell::new(dies), machine.shard(), vdisk.id);
        machine.tap.set_rule(move |o| {
            if dies > 0 && o.changes() {
                left.set(left.get() - 1);
                if left.get() == 0 {
                    return Fate::Dies;
                }
            }
            Fate::Happens
        });
        let done = machine.attempt(async move { shard.rollback(id, old).await });
        assert!(!matches!(done, Some(Err(_))), "{done:?}");
        let acknowledged = done.is_some();
        machine.lose_power();
        machine.open();
        let vdisk = machine.vdisk();
        machine.assert_online(&vdisk);
        let now = machine.reads(&vdisk, 0..4);
        assert!(now == [1, 2, 3, 0] || (!acknowledged && now == [11, 12, 13, 14]), "{dies}: {now:?}");
        let shard = machine.shard();
        machine.run(async move { shard.rollback(id, new).await }).expect("the disk works");
        settle(&machine);
        again(&machine, Some(2));
        assert_eq!(machine.reads(&machine.vdisk(), 0..4), [11, 12, 13, 14]);
        assert_eq!(read_snapshot(&machine, id, old, 0..4), [1, 2, 3, 0]);
    }
}

/// The sync that fails is of frames that a snapshot has in its map: their second copies are the ones that count for it too.
#[test]
fn a_failed_sync_takes_nothing_from_a_snapshot() {
    for stored in [false, true] {
        let machine = Machine::new();
        let vdisk = machine.vdisk();
        write_all(&machine, &vdisk, &[1, 2, 3]);
        let failed = Cell::new(false);
        let slab_sync = |o: &Operation| o.verb == Verb::Sync && o.is_slab();
        machine.tap.set_rule(move |o| if slab_sync(o) && !failed.replace(true) { Fate::Fails } else { Fate::Happens });
        let kept = snapshot(&machine, vdisk.id, "s");
        write_all(&machine, &vdisk, &[11, 12, 13]);
        if stored {
            machine.checkpoint(&vdisk);
        } else {
            machine.flush(&vdisk);
        }
        assert_eq!(read_snapshot(&machine, vdisk.id, kept, 0..3), [1, 2, 3]);
        machine.lose_power();
        machine.open();
        let vdisk = machine.vdisk();
        machine.assert_online(&vdisk);
        assert_eq!(read_snapshot(&machine, vdisk.id, kept, 0..3), [1, 2, 3], "stored {stored}");
        assert_eq!(machine.reads(&vdisk, 0..3), [11, 12, 13]);
    }
}

fn compared(first: u64, ranges_max: usize) -> Compared {
    Compared { first, end: u64::MAX, ranges_max }
}

#[test]
fn what_changed_is_told_and_what_is_shared_is_not() {
    let machine = Machine::new();
    let vdisk = machine.vdisk();
    write_all(&machine, &vdisk, &[1, 2, 3, 4]);
    let (first, id) = (snapshot(&machine, vdisk.id, "a"), vdisk.id);
    machine.write(&vdisk, 2, 13);
    machine.write(&vdisk, 600, 7);
    machine.trim(&vdisk, 0, 1);
    let second = snapshot(&machine, id, "b");
    machine.write(&vdisk, 700, 8);
    let changed = |old, new| {
        let vdisk = vdisk.clone();
        let found = machine.run(async move { vdisk.changed(old, new, compared(0, 100)).await }).expect("readable");
        assert_eq!(found.next, None);
        found.ranges.iter().map(|r| (r.offset / BLOCK, r.len / BLOCK, r.data)).collect::<Vec<_>>()
    };
    let (first, second) = (Version::Snapshot(first), Version::Snapshot(second));
    assert_eq!(changed(first, second), [(0, 1, false), (2, 1, true), (600, 1, true)]);
    assert_eq!(changed(second, first), [(0, 1, true), (2, 1, true), (600, 1, false)]);
    assert_eq!(changed(second, Version::Now), [(700, 1, true)]);
    assert_eq!(changed(Version::Empty, first), [(0, 4, true)]);
    assert_eq!(changed(second, second), []);
    let (task, mut from, mut ranges) = (vdisk.clone(), 0, Vec::new());
    loop {
        let vdisk = task.clone();
        let page = machine.run(async move { vdisk.changed(first, second, compared(from, 1)).await }).expect("readable");
        ranges.extend(page.ranges.iter().map(|r| r.offset / BLOCK));
        let Some(next) = page.next else { break };
        from = next;
    }
    assert_eq!(ranges, [0, 2, 600], "page by page");
}

/// The map in memory is compared: what is stored of it, what is not, and what has left memory.
#[test]
fn what_changed_until_now_needs_no_checkpoint() {
    let machine = Machine::with(manual(), 3);
    let vdisk = machine.vdisk();
    write_all(&machine, &vdisk, &(1..1000).collect::<Vec<_>>());
    let first = Version::Snapshot(snapshot(&machine, vdisk.id, "a"));
    let changed = || {
        let vdisk = vdisk.clone();
        let found = machine.run(async move { vdisk.changed(first, Version::Now, compared(0, 100)).await });
        let found = found.expect("readable");
        found.ranges.iter().map(|r| (r.offset / BLOCK, r.len / BLOCK, r.data)).collect::<Vec<_>>()
    };
    assert_eq!(changed(), [], "the snapshot is stored by this");
    let checkpoints = vdisk.stats.checkpoints.get();
    machine.write(&vdisk, 5, 77);
    machine.trim(&vdisk, 300, 2);
    let expect = [(5, 1, true), (300, 2, false)];
    assert_eq!(changed(), expect);
    assert_eq!(vdisk.stats.checkpoints.get(), checkpoints);
    machine.checkpoint(&vdisk);
    assert_eq!(changed(), expect, "all of it stored");
    for _ in 0..2 {
        vdisk.evict_map(u64::MAX);
    }
    assert_eq!(changed(), expect, "none of it in memory");
    machine.write(&vdisk, 600, 78);
    assert_eq!(changed(), [(5, 1, true), (300, 2, false), (600, 1, true)], "a part of it in memory");
}

/// Nothing of a family is freed before all of it was heard.
#[test]
fn a_clone_that_cannot_be_read_keeps_what_it_may_need() {
    let machine = Machine::with(manual(), 3);
    let vdisk = machine.vdisk();
    write_all(&machine, &vdisk, &(1..60).collect::<Vec<_>>());
    let kept = snapshot(&machine, vdisk.id, "s");
    let made = clone(&machine, vdisk.id, kept, "a").id;
    machine.kill();
    let birth = machine.groups().into_iter().find(|placed| placed.header.vdisk == made).expect("it has one");
    let before = machine.bytes(&birth.file, birth.start, 16 << 10);
    machine.zero(&birth.file, birth.start + 4096, 12 << 10);
    machine.open();
    assert!(machine.vdisk_by_id(made).is_err(), "its birth is gone");
    delete(&machine, vdisk.id);
    settle(&machine);
    machine.close();
    machine.put(&birth.file, birth.start, before);
    machine.open();
    let made = machine.vdisk_by_id(made).expect("whole again");
    assert_eq!(machine.reads(&made, 0..59), (1..60).collect::<Vec<_>>());
}

/// After a crash the map is frozen again while the frames that it refers to are still to be appended once more.
#[test]
fn a_snapshot_is_stored_when_its_frames_have_their_places() {
    for seed in 0..20 {
        let machine = Machine::with(manual(), seed);
        let vdisk = machine.vdisk();
        write_all(&machine, &vdisk, &(1..30).collect::<Vec<_>>());
        let (shard, id) = (machine.shard(), vdisk.id);
        machine.tap.set_rule(|o| if o.verb == Verb::Sync && o.is_slab() { Fate::Dies } else { Fate::Happens });
        assert!(machine.attempt(async move { shard.snapshot(id, "s").await }).is_none(), "it dies");
        machine.kill();
        machine.disk.set_capacity(1);
        machine.open();
        let vdisk = machine.vdisk();
        let kept = vdisk.snapshots()[0].id;
        machine.disk.set_capacity(64 * MIB);
        machine.checkpoint(&vdisk);
        assert_eq!(read_snapshot(&machine, id, kept, 0..29), (1..30).collect::<Vec<_>>());
        machine.lose_power();
        machine.open();
        assert_eq!(read_snapshot(&machine, id, kept, 0..29), (1..30).collect::<Vec<_>>(), "seed {seed}");
    }
}

#[test]
fn names_that_clash_are_refused_before_anything_is_written() {
    let machine = Machine::new();
    let vdisk = machine.vdisk();
    machine.write(&vdisk, 0, 1);
    let kept = snapshot(&machine, vdisk.id, "s");
    machine.checkpoint(&vdisk);
    machine.tap.clear();
    for (names, kind) in [(["a", "a"], node::Kind::Invalid), (["a", "v"], node::Kind::Exists)] {
        let (shard, id) = (machine.shard(), vdisk.id);
        let names = names.map(String::from).to_vec();
        let refused = machine.run(async move { shard.clone_snapshot(id, kept, names, None).await });
        assert_eq!(refused.expect_err("a clash").kind, kind);
    }
    assert!(!machine.tap.take().iter().any(Operation::changes), "something was written");
}
