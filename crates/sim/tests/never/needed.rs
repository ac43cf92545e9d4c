//! Who needs a group has it: clones that nobody has read yet, snapshots whose record cannot be read, a rollback under way,
//! maps that were frozen; and what nobody needs is not counted for ever.

use crate::machine::{Machine, manual};
use crate::tap::{Fate, Verb};
use base::units::{KIB, MIB};
use std::cell::Cell;

const FRAME_BLOCKS: u64 = 48;
const FRAMES: u64 = 5;

fn config() -> node::ShardConfig {
    let mut config = manual();
    config.pool.group_size = MIB as u32;
    config.pool.recycled_bytes_max = 0;
    config.settings.frame_payload_bytes_max = 256 * KIB as u32;
    config
}

fn fill(machine: &Machine, vdisk: &std::rc::Rc<vdisk::Vdisk>, base: u64) -> Vec<u64> {
    let mut expect = Vec::new();
    for frame in 0..FRAMES {
        let tags: Vec<u64> = (0..FRAME_BLOCKS).map(|block| base + 1000 * (frame + 1) + block).collect();
        machine.try_write(vdisk, frame * FRAME_BLOCKS, &tags).expect("it lives").expect("room");
        expect.extend(tags);
    }
    expect
}

fn half(machine: &Machine, vdisk: &std::rc::Rc<vdisk::Vdisk>) {
    for frame in 0..FRAMES {
        let tags: Vec<u64> = (0..20).map(|block| 100_000 * (frame + 1) + block).collect();
        machine.try_write(vdisk, frame * FRAME_BLOCKS + 4, &tags).expect("it lives").expect("room");
    }
}

#[test]
fn a_clone_that_cannot_be_read_today_is_not_punched_by_its_source() {
    let mut machine = Machine::with(config(), 1);
    let source = machine.vdisk();
    let expect = fill(&machine, &source, 0);
    let kept = machine.snapshot(source.id, "s");
    let clone = machine.clone_of(source.id, kept, "c");
    let id = clone.id;
    half(&machine, &source);
    machine.delete_snapshot(source.id, kept);
    machine.settle();
    assert_eq!(machine.reads(&clone, 0..FRAMES * FRAME_BLOCKS), expect);
    drop((source, clone));
    machine.kill();
    machine.config.settings.space_slack_bytes = 0;
    machine.config.settings.space_percent = 100;
    let groups: Vec<_> = machine.groups().into_iter().filter(|placed| placed.header.vdisk == id).collect();
    machine.tap.set_rule(move |o| {
        let is_of_clone =
            |p: &crate::machine::Placed| *p.file == *o.file && (p.start + 4096..p.start + MIB).contains(&o.offset);
        if o.verb == Verb::Read && groups.iter().any(is_of_clone) { Fate::Fails } else { Fate::Happens }
    });
    machine.open();
    assert!(machine.vdisk_by_id(id).is_err(), "its log cannot be read now");
    let source = machine.vdisk();
    machine.make_room(&source);
    machine.tap.clear();
    let clone = machine.vdisk_by_id(id).expect("a better day");
    assert_eq!(machine.reads(&clone, 0..FRAMES * FRAME_BLOCKS), expect);
}

#[test]
fn pages_that_a_trim_dropped_before_a_short_lived_snapshot_are_not_counted_for_ever() {
    let machine = Machine::new();
    let vdisk = machine.vdisk();
    (256..260).for_each(|block| machine.write(&vdisk, block, block));
    machine.write(&vdisk, 0, 1);
    machine.checkpoint(&vdisk);
    machine.trim(&vdisk, 256, 256);
    let kept = machine.snapshot(vdisk.id, "s");
    machine.delete_snapshot(vdisk.id, kept);
    machine.settle();
    machine.check_checkpoint(&vdisk);
}

#[test]
fn a_clone_that_was_rolled_back_holds_what_it_needs() {
    let mut config = config();
    config.settings.space_slack_bytes = 0;
    config.settings.space_percent = 100;
    let machine = Machine::with(config, 1);
    let source = machine.vdisk();
    let expect = fill(&machine, &source, 0);
    let kept = machine.snapshot(source.id, "s");
    let clone = machine.clone_of(source.id, kept, "c");
    machine.delete_snapshot(source.id, kept);
    let of_clone = machine.snapshot(clone.id, "t");
    fill(&machine, &clone, 500_000);
    machine.settle();
    let (shard, id) = (machine.shard(), clone.id);
    machine.run(async move { shard.rollback(id, of_clone).await }).expect("nobody is connected");
    machine.delete_snapshot(clone.id, of_clone);
    machine.settle();
    assert_eq!(machine.reads(&clone, 0..FRAMES * FRAME_BLOCKS), expect);
    half(&machine, &source);
    machine.settle();
    assert_eq!(machine.reads(&clone, 0..FRAMES * FRAME_BLOCKS), expect);
}

#[test]
fn a_rollback_and_the_deletion_of_its_snapshot_at_once() {
    let mut config = manual();
    config.pool.recycled_bytes_max = 0;
    let machine = Machine::with(config, 1);
    let vdisk = machine.vdisk();
    machine.write_tags(&vdisk, 1..=60);
    let (kept, id) = (machine.snapshot(vdisk.id, "s"), vdisk.id);
    machine.checkpoint(&vdisk);
    machine.write_tags(&vdisk, 101..=160);
    machine.checkpoint(&vdisk);
    let first = Cell::new(true);
    machine.tap.set_rule(
        move |o| {
            if o.verb == Verb::Read && first.replace(false) { Fate::Waits } else { Fate::Happens }
        },
    );
    let shard = machine.shard();
    let done = std::rc::Rc::new(Cell::new(None));
    let told = done.clone();
    machine.spawn(async move { told.set(Some(shard.rollback(id, kept).await.is_ok())) });
    machine.idle(1);
    machine.delete_snapshot(id, kept);
    machine.checkpoint(&vdisk);
    machine.make_room(&vdisk);
    machine.idle(10_000_000_000);
    assert!(done.get().is_some(), "it has ended");
    let found: Vec<_> = (0..60).map(|block| machine.try_read(&vdisk, block)).collect();
    assert!(found.iter().all(Result::is_ok), "{found:?}");
}

#[test]
fn a_frozen_snapshot_of_a_clone_that_was_rolled_back_keeps_what_it_needs() {
    let mut machine = Machine::with(config(), 1);
    let source = machine.vdisk();
    let expect = fill(&machine, &source, 0);
    machine.try_write(&source, 500, &(1..=40).collect::<Vec<u64>>()).expect("it lives").expect("room");
    let kept = machine.snapshot(source.id, "s");
    let clone = machine.clone_of(source.id, kept, "c");
    machine.delete_snapshot(source.id, kept);
    let first = machine.snapshot(clone.id, "t");
    fill(&machine, &clone, 500_000);
    machine.settle();
    let (shard, id) = (machine.shard(), clone.id);
    machine.run(async move { shard.rollback(id, first).await }).expect("nobody is connected");
    let second = machine.snapshot(clone.id, "u");
    fill(&machine, &clone, 700_000);
    machine.make_room(&clone);
    machine.settle();
    machine.delete_snapshot(clone.id, first);
    machine.settle();
    assert_eq!(machine.read_snapshot(clone.id, second, 0..FRAMES * FRAME_BLOCKS), expect);
    half(&machine, &source);
    machine.settle();
    let (id, of) = (clone.id, source.id);
    drop((source, clone));
    machine.kill();
    machine.config.settings.space_slack_bytes = 0;
    machine.config.settings.space_percent = 100;
    machine.open();
    let source = machine.vdisk_by_id(of).expect("good");
    machine.make_room(&source);
    assert_eq!(machine.read_snapshot(id, second, 0..FRAMES * FRAME_BLOCKS), expect);
}

/// A page whose children were lost by a failed sync is stored behind the rewrite, and taken for clean.
#[test]
fn a_page_that_names_a_lost_one_is_not_stored_behind_the_rewrite() {
    let machine = Machine::new();
    let vdisk = machine.create("big", 1 << 30);
    machine.write(&vdisk, 0, 1);
    machine.flush(&vdisk);
    machine.write(&vdisk, 100_001, 7);
    let sync = Cell::new(true);
    machine.tap.set_rule(move |o| match o.verb {
        Verb::Write if o.is_slab() => Fate::Waits,
        Verb::Sync if o.is_slab() && sync.replace(false) => Fate::FailsWholeLater,
        _ => Fate::Happens,
    });
    let flushed = vdisk.clone();
    machine.spawn(async move { drop(flushed.flush().await) });
    machine.idle(1_000);
    let stored = vdisk.clone();
    machine.spawn(async move { drop(stored.checkpoint().await) });
    machine.idle(1_000);
    let written = vdisk.clone();
    machine.spawn(async move {
        drop(written.write(100_000 * 4096, crate::machine::content(100_000, 5)).await);
    });
    machine.idle(10_000_000_000);
    machine.tap.clear();
    machine.flush(&vdisk);
    machine.checkpoint(&vdisk);
    machine.check_checkpoint(&vdisk);
}

fn cannot_read(machine: &Machine, id: base::VdiskId) {
    let groups: Vec<_> = machine.groups().into_iter().filter(|placed| placed.header.vdisk == id).collect();
    machine.tap.set_rule(move |o| {
        let is_of_clone = |p: &crate::machine::Placed| {
            *p.file == *o.file && (p.start + 4096..p.start + u64::from(crate::machine::GROUP)).contains(&o.offset)
        };
        if o.verb == Verb::Read && groups.iter().any(is_of_clone) { Fate::Fails } else { Fate::Happens }
    });
}

/// Today `recover` cannot read a clone; tomorrow it can be read.
#[test]
fn a_clone_that_recover_could_not_read_is_not_deleted() {
    let machine = Machine::new();
    let source = machine.vdisk();
    machine.write_tags(&source, 1..=10);
    let kept = machine.snapshot(source.id, "s");
    let clone = machine.clone_of(source.id, kept, "c");
    machine.write(&clone, 3, 33);
    machine.flush(&clone);
    let id = clone.id;
    machine.kill();
    cannot_read(&machine, id);
    let rebuilt = machine.rebuild(2);
    assert_eq!(rebuilt.lost.len(), 1, "{rebuilt:?}");
    machine.open();
    let clone = machine.vdisk_by_id(id).expect("a better day");
    assert_eq!(machine.read(&clone, 3), 33);
}

/// The store is of before the clone; the first start after that does not come to it.
#[test]
fn a_clone_that_is_younger_than_the_store_is_not_deleted_by_the_second_start() {
    let machine = Machine::new();
    let source = machine.vdisk();
    machine.write_tags(&source, 1..=10);
    machine.kill();
    machine.open();
    let source = machine.vdisk();
    let old = machine.store.borrow().snapshot();
    machine.kill();
    machine.open();
    let source = machine.vdisk_by_id(source.id).expect("good");
    let kept = machine.snapshot(source.id, "s");
    let clone = machine.clone_of(source.id, kept, "c");
    machine.write(&clone, 3, 33);
    machine.flush(&clone);
    let id = clone.id;
    machine.kill();
    machine.store.replace(meta::MemStore::restore(machine.world().clock, 0, old));
    cannot_read(&machine, id);
    machine.open();
    machine.kill();
    machine.open();
    let clone = machine.vdisk_by_id(id).expect("a better day");
    assert_eq!(machine.read(&clone, 3), 33);
}

/// The record of a clone's snapshot cannot be read at one start.
#[test]
fn a_snapshot_of_a_clone_whose_record_cannot_be_read_keeps_what_is_its_relatives() {
    let mut machine = Machine::with(config(), 1);
    let source = machine.vdisk();
    let expect = fill(&machine, &source, 0);
    machine.try_write(&source, 500, &(1..=40).collect::<Vec<u64>>()).expect("it lives").expect("room");
    let kept = machine.snapshot(source.id, "s");
    let clone = machine.clone_of(source.id, kept, "c");
    machine.delete_snapshot(source.id, kept);
    let of_clone = machine.snapshot(clone.id, "t");
    fill(&machine, &clone, 500_000);
    machine.settle();
    half(&machine, &source);
    machine.write(&clone, 600, 1);
    machine.settle();
    let place = machine.checkpoint_record(&clone).snapshots[0].place.expect("an earlier checkpoint");
    let (id, of) = (clone.id, source.id);
    drop((source, clone));
    machine.kill();
    machine.config.settings.space_slack_bytes = 0;
    machine.config.settings.space_percent = 100;
    let placed = machine.groups().into_iter().find(|placed| placed.header.group == place.group).expect("it is held");
    machine.tap.set_rule(move |o| {
        let is_record = *o.file == *placed.file
            && o.offset == placed.start + u64::from(place.offset)
            && o.len == u64::from(place.len);
        if o.verb == Verb::Read && is_record { Fate::Fails } else { Fate::Happens }
    });
    machine.open();
    let source = machine.vdisk_by_id(of).expect("good");
    machine.make_room(&source);
    machine.tap.clear();
    assert_eq!(machine.read_snapshot(id, of_clone, 0..FRAMES * FRAME_BLOCKS), expect);
}

/// What a trim dropped dies once, however often the checkpoint is tried.
#[test]
fn dropped_pages_die_once_although_the_checkpoint_is_tried_twice() {
    for with_snapshot in [false, true] {
        let machine = Machine::new();
        let vdisk = machine.vdisk();
        [0, 256, 512].into_iter().for_each(|block| machine.write(&vdisk, block, block + 1));
        machine.checkpoint(&vdisk);
        machine.trim(&vdisk, 256, 256);
        if with_snapshot {
            machine.snapshot(vdisk.id, "s");
        }
        let first = Cell::new(true);
        machine.tap.set_rule(
            move |o| {
                if o.verb == Verb::Commit && first.replace(false) { Fate::Fails } else { Fate::Happens }
            },
        );
        let failing = vdisk.clone();
        assert!(machine.run(async move { failing.checkpoint().await.is_err() }), "its commit fails");
        machine.tap.clear();
        machine.checkpoint(&vdisk);
        machine.check_checkpoint(&vdisk);
    }
}

/// Of a group whose header cannot be read the pool does not know what it was. What only a snapshot or the history needs of
/// it is there again when it can be read.
#[test]
fn a_header_that_cannot_be_read_today_costs_neither_a_snapshot_nor_the_history() {
    for restarts in [1, 2] {
        let machine = Machine::new();
        let vdisk = machine.vdisk();
        let keeps = vdisk.clone();
        machine.write(&vdisk, 0, 1);
        let rewind = vdisk::Rewind { window_ns: 3_600_000_000_000, limit_bytes: 0 };
        machine.run(async move { keeps.set_rewind(Some(rewind)).await }).expect("room");
        let old: Vec<u64> = (1..=40).collect();
        machine.write_tags(&vdisk, old.clone());
        let kept = machine.snapshot(vdisk.id, "s");
        let moment = vdisk.sequence();
        (0..3).for_each(|round| machine.write_tags(&vdisk, (1..=40).map(|tag| 1000 * (round + 1) + tag)));
        machine.checkpoint(&vdisk);
        let now = machine.reads(&vdisk, 0..40);
        machine.settle();
        // All of them have only dead data.
        let live: Vec<_> = (0..40).map(|block| machine.group_of(block)).collect();
        let open = machine.groups().last().expect("some").header.group;
        let dead = machine.groups().into_iter().filter(|placed| !live.contains(&placed.header.group));
        let dead: Vec<_> = dead.filter(|placed| placed.header.group != open).skip(1).collect();
        assert!(dead.len() > 3, "{}", dead.len());
        for lost in &dead[..4] {
            for _ in 0..restarts {
                let (file, start) = (lost.file.clone(), lost.start);
                machine.kill();
                machine.tap.set_rule(move |o| {
                    let is_lost = o.verb == Verb::Read && *o.file == *file && o.offset == start;
                    if is_lost { Fate::Fails } else { Fate::Happens }
                });
                machine.open();
                machine.tap.clear();
                let vdisk = machine.vdisk();
                machine.assert_online(&vdisk);
                machine.write(&vdisk, 50, 1);
                machine.settle();
            }
            machine.kill();
            machine.open();
            machine.settle();
            let vdisk = machine.vdisk();
            assert!(
                machine.groups().iter().any(|placed| placed.header.group == lost.header.group),
                "{lost:?} was freed"
            );
            assert_eq!(machine.read_snapshot(vdisk.id, kept, 0..40), old, "{lost:?}");
            let (shard, reader) = (machine.shard(), vdisk.clone());
            let past = machine.run(async move {
                let id = shard.context.pool.next_snapshot_id().await?;
                reader.snapshot_at(id, "past", vdisk::Moment::Before(moment.next())).await
            });
            let past = past.unwrap_or_else(|error| panic!("{lost:?}: {error}"));
            assert_eq!(machine.read_snapshot(vdisk.id, past.id, 0..40), old, "{lost:?}");
            machine.delete_snapshot(vdisk.id, past.id);
            assert_eq!(machine.reads(&vdisk, 0..40), now);
        }
    }
}

/// A checkpoint's list has what was freed on its word. That is no group that cannot be read.
#[test]
fn what_is_free_does_not_come_back_while_a_header_cannot_be_read() {
    let machine = Machine::new();
    let other = machine.create("w", 4 << 20);
    machine.write(&other, 0, 1);
    let lost = machine.groups().pop().expect("some");
    assert_eq!(lost.header.vdisk, other.id);
    let vdisk = machine.vdisk();
    (0..4).for_each(|round| machine.write_tags(&vdisk, (1..=40).map(|tag| 1000 * round + tag)));
    machine.checkpoint(&vdisk);
    machine.make_room(&vdisk);
    let (groups, space) = (ids(&vdisk), vdisk.space());
    for _ in 0..3 {
        machine.close();
        let (file, start) = (lost.file.clone(), lost.start);
        machine.tap.set_rule(move |o| {
            let is_lost = o.verb == Verb::Read && *o.file == *file && o.offset == start;
            if is_lost { Fate::Fails } else { Fate::Happens }
        });
        machine.open();
        machine.tap.clear();
        let vdisk = machine.vdisk();
        machine.assert_online(&vdisk);
        assert_eq!(ids(&vdisk), groups);
        assert_eq!((vdisk.space().stored_bytes, vdisk.space().groups), (space.stored_bytes, space.groups));
        machine.make_room(&vdisk);
        assert_eq!(vdisk.trouble(), None);
    }
    // Also where checkpoints go on naming them.
    machine.write(&machine.vdisk(), 0, 7);
    machine.settle();
    assert_eq!(machine.vdisk().trouble(), None);
    machine.close();
    machine.open();
    let vdisk = machine.vdisk();
    assert!(ids(&vdisk).iter().all(|group| machine.groups().iter().any(|placed| placed.header.group == *group)));
    assert_eq!(machine.reads(&vdisk, 1..40), (2..=40).map(|tag| 3000 + tag).collect::<Vec<u64>>());
}

fn ids(vdisk: &vdisk::Vdisk) -> std::collections::BTreeSet<base::GroupId> {
    vdisk.groups().into_iter().collect()
}

/// Blocks 0 to 40 as a snapshot has them, and a group that holds nothing but some of these.
fn needed_by_a_snapshot_only(machine: &Machine) -> (base::SnapshotId, Vec<u64>, crate::machine::Placed) {
    let vdisk = machine.vdisk();
    // What is freed again leaves room before it.
    (1..=3).for_each(|round| machine.write_tags(&vdisk, (1..=40).map(|tag| 100 * round + tag)));
    let before: Vec<_> = machine.groups().into_iter().map(|placed| placed.header.group).collect();
    let old: Vec<u64> = (1..=40).collect();
    machine.write_tags(&vdisk, old.clone());
    let is_new = |placed: &crate::machine::Placed| !before.contains(&placed.header.group);
    let lost = machine.groups().into_iter().find(is_new).expect("more than one");
    let kept = machine.snapshot(vdisk.id, "s");
    (1..=2).for_each(|round| machine.write_tags(&vdisk, (1..=40).map(|tag| 1000 * round + tag)));
    machine.settle();
    assert!(machine.frames(&lost).iter().all(|frame| frame.kind == vdisk::log::frame::FrameKind::Data));
    (kept, old, lost)
}

fn open_without_header(machine: &Machine, lost: &crate::machine::Placed) {
    let (file, start) = (lost.file.clone(), lost.start);
    machine.tap.set_rule(move |o| {
        let is_lost = o.verb == Verb::Read && *o.file == *file && o.offset == start;
        if is_lost { Fate::Fails } else { Fate::Happens }
    });
    machine.open();
    machine.tap.clear();
    assert!(!ids(&machine.vdisk()).contains(&lost.header.group));
}

/// The map goes back to a group that cannot be read at the time. It is this vDisk's all the same.
#[test]
fn a_rollback_to_a_group_that_cannot_be_read_today_makes_it_nobody_elses() {
    let machine = Machine::new();
    let vdisk = machine.vdisk();
    let (kept, old, lost) = needed_by_a_snapshot_only(&machine);
    machine.kill();
    open_without_header(&machine, &lost);
    let (shard, id) = (machine.shard(), vdisk.id);
    machine.run(async move { shard.rollback(id, kept).await }).expect("nobody is connected");
    machine.settle();
    let record = machine.checkpoint_record(&machine.vdisk());
    let named: Vec<_> = record.groups.iter().filter(|entry| entry.group == lost.header.group).collect();
    assert!(named.len() == 1 && named[0].len > 0 && named[0].data > 0, "{named:?}");
    machine.kill();
    machine.open();
    let vdisk = machine.vdisk();
    machine.assert_online(&vdisk);
    assert_eq!(machine.reads(&vdisk, 0..40), old);
    machine.write_tags(&vdisk, (1..=40).map(|tag| 5000 + tag));
    machine.settle();
    machine.kill();
    machine.open();
    machine.settle();
    assert!(machine.groups().iter().any(|placed| placed.header.group == lost.header.group), "{lost:?} was freed");
    assert_eq!(machine.read_snapshot(vdisk.id, kept, 0..40), old);
}

/// For one start the medium has nothing where a header was. Then it has it again.
#[test]
fn a_group_that_comes_back_is_not_freed_while_a_snapshot_needs_it() {
    let machine = Machine::new();
    let vdisk = machine.vdisk();
    let (kept, old, lost) = needed_by_a_snapshot_only(&machine);
    machine.kill();
    let header = machine.bytes(&lost.file, lost.start, pool::HEADER_PAGE.into());
    machine.zero(&lost.file, lost.start, pool::HEADER_PAGE.into());
    machine.open();
    machine.write(&machine.vdisk(), 50, 1);
    machine.settle();
    let record = machine.checkpoint_record(&machine.vdisk());
    assert!(record.groups.iter().all(|entry| entry.group != lost.header.group), "it is known");
    machine.kill();
    assert_eq!(machine.bytes(&lost.file, lost.start, 16), vec![0; 16], "the slot is taken");
    machine.put(&lost.file, lost.start, header);
    machine.open();
    machine.settle();
    assert!(machine.groups().iter().any(|placed| placed.header.group == lost.header.group), "{lost:?} was freed");
    assert_eq!(machine.read_snapshot(vdisk.id, kept, 0..40), old);
}
