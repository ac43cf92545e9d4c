//! Frames that are on the disk more than once: which copy counts, and how long the others stay.

use crate::machine::{GROUP, Machine, manual};
use crate::tap::{Fate, Operation, Verb};
use base::units::{KIB, MIB};
use node::ShardConfig;
use std::cell::Cell;
use vdisk::Kind;

fn is_slab_sync(operation: &Operation) -> bool {
    operation.verb == Verb::Sync && operation.is_slab()
}

/// Freed groups are marked, synced and punched at once.
fn nothing_recycled() -> ShardConfig {
    let mut config = manual();
    config.pool.recycled_bytes_max = 0;
    config
}

/// Acknowledged and on the medium, but nothing says so: the metadata store cannot be told.
fn flush_untold(machine: &Machine) {
    machine.tap.set_rule(|o| if o.verb == Verb::Commit { Fate::Fails } else { Fate::Happens });
    machine.flush(&machine.vdisk());
    machine.tap.clear();
}

fn tags(blocks: std::ops::Range<u64>) -> Vec<u64> {
    blocks.map(|block| block + 1).collect()
}

/// Room for so much when the reserve is given up.
fn leave_room(machine: &Machine, bytes: u64) {
    machine.disk.set_capacity(machine.disk.allocated_bytes() - machine.config.pool.ballast_bytes + bytes);
}

/// The frames of a vDisk were written once more after one kill, and the groups of the first copies are void at the next.
#[test]
fn void_groups_give_room_to_what_is_still_to_be_written_again() {
    let machine = Machine::new();
    let vdisk = machine.vdisk();
    (0..60).for_each(|block| machine.write(&vdisk, block, 1000 + block));
    let vdisk = machine.restart();
    (0..20).for_each(|block| machine.write(&vdisk, block, block + 1));
    machine.kill();
    leave_room(&machine, 0);
    machine.open();
    let vdisk = machine.vdisk();
    machine.assert_online(&vdisk);
    machine.idle(10_000_000_000);
    machine.flush(&vdisk);
    machine.lose_power();
    machine.open();
    let vdisk = machine.vdisk();
    machine.assert_online(&vdisk);
    assert_eq!(machine.reads(&vdisk, 0..20), tags(0..20));
    assert_eq!(machine.reads(&vdisk, 20..60), (1020..1060).collect::<Vec<u64>>());
}

/// A start whose sync of what it wrote once more fails, and that dies before it writes anything else: the second copies can
/// be read, are clean, and not (all) on the medium.
fn dies_with_second_copies_in_the_cache(machine: &Machine) -> bool {
    machine.disk.keep_cached();
    let groups = machine.groups().len();
    let failed = Cell::new(false);
    machine.tap.set_rule(move |o| match () {
        () if is_slab_sync(o) && !failed.replace(true) => Fate::Fails,
        () if failed.get() && o.changes() => Fate::Dies,
        () => Fate::Happens,
    });
    let died = machine.try_open().is_none();
    machine.kill();
    died && machine.groups().len() == groups + 1
}

/// The newest copy of a flushed frame is in a cache only, clean, after a sync that failed; the first one is on the medium,
/// and the disk is too full for a third. With the number of blocks that were written.
fn no_room_for_a_third_copy(seed: u64) -> (Machine, u64) {
    let machine = Machine::with(nothing_recycled(), seed);
    let vdisk = machine.vdisk();
    let mut blocks = 0;
    while vdisk.groups().len() < 2 {
        machine.flush(&vdisk);
        machine.write(&vdisk, blocks, blocks + 1);
        blocks += 1;
    }
    flush_untold(&machine);
    machine.kill();
    assert!(dies_with_second_copies_in_the_cache(&machine));
    machine.disk.set_capacity(1);
    machine.open();
    (machine, blocks)
}

#[test]
fn a_first_copy_stays_until_another_is_durable() {
    for seed in 0..6 {
        let (machine, blocks) = no_room_for_a_third_copy(seed);
        let vdisk = machine.vdisk();
        assert_eq!(machine.try_flush(&vdisk).expect("it lives").expect_err("no room").kind, Kind::Full);
        assert_eq!(machine.reads(&vdisk, 0..blocks), tags(0..blocks));
        machine.idle(10_000_000_000);
        machine.lose_power();
        machine.disk.set_capacity(64 * MIB);
        machine.open();
        let vdisk = machine.vdisk();
        machine.assert_online(&vdisk);
        assert_eq!(machine.reads(&vdisk, 0..blocks), tags(0..blocks), "seed {seed}");
    }
}

#[test]
fn a_deletion_takes_the_first_copies_along() {
    for seed in 0..6 {
        let (machine, _) = no_room_for_a_third_copy(seed);
        let (shard, id) = (machine.shard(), machine.id("v"));
        machine.disk.set_capacity(64 * MIB);
        let (task, pool) = (shard.clone(), shard.context.pool.clone());
        machine.run(async move { task.delete(id, false).await }).expect("not in use");
        machine.idle(1_000_000_000);
        assert_eq!(pool.usage().slots_used, 0, "seed {seed}");
        machine.lose_power();
        let rebuilt = machine.rebuild(2);
        assert!(rebuilt.vdisks.is_empty() && rebuilt.lost.is_empty(), "seed {seed}: {rebuilt:?}");
    }
}

/// As before, but the last group has several frames; of the second copies of them, in a cache only, some are durable in a
/// third place, and of the first ones one in the middle cannot be read for once.
#[test]
fn a_first_copy_behind_a_break_stays_too() {
    let mut tried = 0;
    for room_bytes in (0..512 * KIB).step_by(8 << 10) {
        let machine = Machine::with(nothing_recycled(), room_bytes >> 13);
        let vdisk = machine.vdisk();
        let mut blocks = 0;
        let mut write_one = || {
            machine.write(&vdisk, blocks, blocks + 1);
            blocks += 1;
        };
        while vdisk.groups().len() < 2 {
            machine.flush(&vdisk);
            write_one();
        }
        let first = vdisk.sequence();
        (0..9).for_each(|_| write_one());
        let last = vdisk.sequence();
        flush_untold(&machine);
        machine.kill();
        assert!(dies_with_second_copies_in_the_cache(&machine));
        let old = machine.groups().swap_remove(1);
        let broken = machine.frames(&old)[2].clone();
        let whole = machine.bytes(&old.file, old.start, GROUP.into());
        machine.zero(&old.file, old.start + u64::from(broken.offset), 128);
        leave_room(&machine, room_bytes);
        machine.open();
        let vdisk = machine.vdisk();
        assert_eq!(machine.reads(&vdisk, 0..blocks), tags(0..blocks));
        let durable = vdisk.durable_sequence();
        machine.idle(10_000_000_000);
        let stays = durable.0 > first.0 + 1 && vdisk.durable_sequence() < last;
        machine.lose_power();
        if !stays {
            continue;
        }
        tried += 1;
        assert!(machine.groups().iter().any(|placed| placed.header.group == old.header.group), "{room_bytes}: freed");
        machine.put(&old.file, old.start, whole);
        machine.disk.set_capacity(64 * MIB);
        machine.open();
        let vdisk = machine.vdisk();
        machine.assert_online(&vdisk);
        assert_eq!(machine.reads(&vdisk, 0..blocks), tags(0..blocks), "{room_bytes}");
    }
    assert!(tried > 0, "it never stopped in between");
}

/// 35 flushed blocks in three groups. A start on a disk with `room_bytes` writes some of them once more and dies. How far
/// it came.
fn rewritten_in_part(machine: &Machine, room_bytes: u64) -> u64 {
    (0..35).for_each(|block| machine.write(&machine.vdisk(), block, block + 1));
    flush_untold(machine);
    machine.kill();
    assert_eq!(machine.groups().len(), 3);
    leave_room(machine, room_bytes);
    machine.open();
    let durable = machine.vdisk().durable_sequence().0;
    machine.kill();
    durable
}

/// All frames of the second group have a durable second copy; of the third group, which continues it, some have none.
#[test]
fn a_void_group_without_which_nobody_finds_the_next_one_stays() {
    let mut tried = 0;
    for room_bytes in (0..512 * KIB).step_by(8 << 10) {
        let machine = Machine::with(nothing_recycled(), 1);
        let durable = rewritten_in_part(&machine, room_bytes);
        let placed = machine.groups();
        let last_of = |index: usize| machine.frames(&placed[index]).last().expect("it has some").sequence.0;
        if durable < last_of(1) || durable >= last_of(2) {
            continue;
        }
        tried += 1;
        machine.disk.set_capacity(1);
        machine.open();
        machine.idle(10_000_000_000);
        machine.lose_power();
        machine.disk.set_capacity(64 * MIB);
        machine.open();
        let vdisk = machine.vdisk();
        machine.assert_online(&vdisk);
        assert_eq!(machine.reads(&vdisk, 0..35), tags(0..35), "{room_bytes}");
    }
    assert!(tried > 0, "it never stopped in between");
}

/// There is room to write some of the frames once more, and the sync of those fails.
#[test]
fn what_a_failed_sync_took_joins_what_had_no_room_yet() {
    let machine = Machine::new();
    let vdisk = machine.vdisk();
    (0..20).for_each(|block| machine.write(&vdisk, block, block + 1));
    machine.kill();
    leave_room(&machine, u64::from(machine.config.pool.group_size));
    let failed = Cell::new(false);
    machine.tap.set_rule(move |o| if is_slab_sync(o) && !failed.replace(true) { Fate::Fails } else { Fate::Happens });
    machine.open();
    let vdisk = machine.vdisk();
    machine.assert_online(&vdisk);
    assert_eq!(machine.shard().context.pool.usage().poisoned_slabs, 1);
    machine.disk.set_capacity(64 * MIB);
    machine.flush(&vdisk);
    assert_eq!(machine.reads(&vdisk, 0..20), tags(0..20));
    machine.lose_power();
    machine.open();
    machine.assert_online(&machine.vdisk());
    assert_eq!(machine.reads(&machine.vdisk(), 0..20), tags(0..20));
}

/// A write that nothing proved to be synced stood behind a frame without runs; that frame cannot be read for once, and the
/// next start appends another one without runs under its number.
#[test]
fn a_write_that_was_given_up_does_not_come_back_behind_a_frame_like_the_lost_one() {
    let machine = Machine::new();
    let vdisk = machine.vdisk();
    (0..20).for_each(|block| machine.write(&vdisk, block, block + 1));
    (0..20).for_each(|block| machine.write(&vdisk, block, 101 + block));
    machine.flush(&vdisk);
    machine.checkpoint(&vdisk);
    // Groups are to be freed, so the log says first that the checkpoint is synced. That frame's sync takes its time.
    machine.tap.set_rule(|o| if is_slab_sync(o) { Fate::Waits } else { Fate::Happens });
    let proof = vdisk.sequence().next();
    let task = vdisk.clone();
    machine.world().spawn(async move { drop(task.make_room().await) });
    machine.idle(1_000_000);
    assert_eq!(vdisk.sequence(), proof);
    machine.write(&vdisk, 30, 31);
    machine.kill();
    let (old, frame) = machine.frame(proof.0);
    let (beside, _) = machine.frame(proof.0 + 1);
    assert!(frame.runs.is_empty() && beside.header.group == old.header.group);
    let size = machine.config.pool.group_size.into();
    let whole = machine.bytes(&old.file, old.start, size);
    machine.lose_header(proof.0);
    machine.open();
    let vdisk = machine.vdisk();
    assert_eq!(machine.read(&vdisk, 30), 0, "the log ends before it");
    machine.make_room(&vdisk);
    assert_eq!(vdisk.sequence(), proof, "a frame without runs once more");
    machine.kill();
    machine.put(&old.file, old.start, whole);
    for _ in 0..2 {
        machine.open();
        let vdisk = machine.vdisk();
        machine.assert_online(&vdisk);
        assert_eq!(machine.read(&vdisk, 30), 0, "somebody has read that it is not there");
        assert_eq!(machine.reads(&vdisk, 0..20), (101..121).collect::<Vec<u64>>());
        machine.kill();
    }
}
