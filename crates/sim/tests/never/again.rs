//! What has to be written once more, after a crash or a failed sync, and what goes wrong if anything else comes first.

use crate::machine::{Machine, content, manual};
use crate::tap::{Fate, Operation, Verb, WAIT_NS};
use base::units::{BLOCK, MIB};
use pool::HEADER_PAGE;
use std::cell::Cell;
use std::rc::Rc;
use vdisk::Kind;

/// Frame 1 is the birth. Block `b` is written by frame `b + 2` with tag `b + 1`; all are flushed one by one.
fn flushed(machine: &Machine, blocks: u64) {
    let vdisk = machine.vdisk();
    for block in 0..blocks {
        machine.write(&vdisk, block, block + 1);
        machine.flush(&vdisk);
    }
}

fn is_slab_sync(operation: &Operation) -> bool {
    operation.verb == Verb::Sync && operation.is_slab()
}

fn fail_one_sync(machine: &Machine) {
    let failed = Cell::new(false);
    machine.tap.set_rule(move |o| if is_slab_sync(o) && !failed.replace(true) { Fate::Fails } else { Fate::Happens });
}

fn rot_header(machine: &Machine, index: usize) {
    let placed = machine.groups().swap_remove(index);
    machine.put(&placed.file, placed.start, vec![0xa5; HEADER_PAGE as usize]);
}

/// The process that heard of the failed sync is gone; the bytes are in a cache, clean, and no later sync stores them.
#[test]
fn a_failed_sync_that_only_the_dead_heard_of_is_made_good() {
    for seed in 0..12 {
        let machine = Machine::with(manual(), seed);
        flushed(&machine, 1);
        let vdisk = machine.vdisk();
        (1..6).for_each(|block| machine.write(&vdisk, block, block + 1));
        let failed = Cell::new(false);
        machine.tap.set_rule(move |o| match () {
            () if is_slab_sync(o) && !failed.replace(true) => Fate::Fails,
            () if failed.get() && o.changes() => Fate::Dies,
            () => Fate::Happens,
        });
        assert!(machine.try_flush(&vdisk).is_none(), "it dies");
        let served = machine.reads(&machine.restart(), 0..6);
        machine.lose_power();
        machine.open();
        machine.assert_online(&machine.vdisk());
        assert_eq!(machine.reads(&machine.vdisk(), 0..6), served, "seed {seed}: somebody has read it");
    }
}

/// Five writes and a resize to 8 MiB that nothing proves to be synced, on a disk that has no room for second copies.
fn no_room_to_write_again() -> Machine {
    without_room(Machine::new())
}

fn without_room(machine: Machine) -> Machine {
    let vdisk = machine.vdisk();
    (0..5).for_each(|block| machine.write(&vdisk, block, block + 1));
    machine.tap.set_rule(|o| if is_slab_sync(o) { Fate::Dies } else { Fate::Happens });
    assert!(machine.attempt(async move { vdisk.resize(8 << 20).await }).is_none(), "it dies");
    machine.kill();
    machine.disk.set_capacity(1);
    machine.open();
    let vdisk = machine.vdisk();
    machine.assert_online(&vdisk);
    assert_eq!(machine.reads(&vdisk, 0..5), [1, 2, 3, 4, 5], "readable where they are");
    for _ in 0..2 {
        assert_eq!(machine.try_flush(&vdisk).expect("it lives").expect_err("no proof to be had").kind, Kind::Full);
        let refused = machine.try_write(&vdisk, 9, &[9]).expect("it lives").expect_err("nothing goes before them");
        assert_eq!(refused.kind, Kind::Full);
    }
    machine.disk.set_capacity(64 * MIB);
    machine
}

#[test]
fn what_is_still_to_be_written_again_comes_before_anything_else() {
    for first in 0..4 {
        let machine = no_room_to_write_again();
        let vdisk = machine.vdisk();
        // Before those who make room look again; they would write it.
        machine.idle(50_000_000);
        match first {
            0 => machine.flush(&vdisk),
            1 => machine.write(&vdisk, 0, 10),
            2 => machine.checkpoint(&vdisk),
            _ => {
                let task = vdisk.clone();
                machine.run(async move { task.resize(16 << 20).await }).expect("room");
            }
        }
        machine.write(&vdisk, 10, 11);
        machine.flush(&vdisk);
        for _ in 0..2 {
            machine.lose_power();
            machine.open();
            let vdisk = machine.vdisk();
            machine.assert_online(&vdisk);
            let newest = if first == 1 { 10 } else { 1 };
            assert_eq!(machine.reads(&vdisk, 0..5), [newest, 2, 3, 4, 5], "first came {first}");
            assert_eq!(machine.read(&vdisk, 10), 11, "first came {first}");
            assert_eq!(vdisk.attributes().size_bytes, if first == 3 { 16 << 20 } else { 8 << 20 });
        }
    }
}

/// Or else the next start would replay all of it once more.
#[test]
fn a_checkpoint_covers_what_was_still_to_be_written_again() {
    let machine = no_room_to_write_again();
    let vdisk = machine.vdisk();
    machine.idle(50_000_000);
    machine.checkpoint(&vdisk);
    assert_eq!(vdisk.space().log_bytes, 0);
    let vdisk = machine.restart();
    machine.assert_online(&vdisk);
    assert_eq!(machine.reads(&vdisk, 0..5), [1, 2, 3, 4, 5]);
    assert_eq!(vdisk.space().log_bytes, 0, "a start has nothing to replay");
}

/// What a recovery wrote again is in two groups: without the newer one the log still reaches the noted frame.
#[test]
fn a_first_copy_does_not_stand_in_for_the_group_that_was_noted() {
    let machine = Machine::new();
    flushed(&machine, 1);
    (1..4).for_each(|block| machine.write(&machine.vdisk(), block, block + 1));
    let vdisk = machine.restart();
    machine.write(&vdisk, 0, 77);
    machine.flush(&vdisk);
    machine.kill();
    assert_eq!(machine.groups().len(), 2);
    rot_header(&machine, 1);
    machine.open();
    machine.assert_damaged(&machine.vdisk(), "is missing");
}

/// The pages and the record of a checkpoint went with a failed sync; the data had been synced before.
fn checkpoint_lost(seed: u64) -> Machine {
    let machine = Machine::with(manual(), seed);
    flushed(&machine, 10);
    let vdisk = machine.vdisk();
    fail_one_sync(&machine);
    let task = vdisk.clone();
    machine.run(async move { task.checkpoint().await }).expect_err("its pages are gone");
    machine
}

#[test]
fn pages_that_a_failed_sync_took_are_stored_again() {
    for seed in 0..6 {
        let machine = checkpoint_lost(seed);
        machine.checkpoint(&machine.vdisk());
        machine.lose_power();
        machine.open();
        machine.assert_online(&machine.vdisk());
        assert_eq!(machine.reads(&machine.vdisk(), 0..10), (1..11).collect::<Vec<u64>>(), "seed {seed}");
    }
}

#[test]
fn the_record_of_a_lost_checkpoint_is_not_written_again() {
    for seed in 0..6 {
        let machine = checkpoint_lost(seed);
        let vdisk = machine.vdisk();
        machine.flush(&vdisk);
        machine.write(&vdisk, 10, 11);
        machine.flush(&vdisk);
        machine.write(&vdisk, 11, 12);
        machine.flush(&vdisk);
        machine.lose_power();
        // Without the index, whatever record the log proves would be believed.
        let rebuilt = machine.rebuild(2);
        assert!(rebuilt.vdisks[0].damage.is_none(), "{rebuilt:?}");
        machine.open();
        assert_eq!(machine.reads(&machine.vdisk(), 0..12), (1..13).collect::<Vec<u64>>(), "seed {seed}");
    }
}

/// The same header cannot be read for a while.
fn unread_header(machine: &Machine, index: usize) -> Rc<Cell<bool>> {
    let placed = machine.groups().swap_remove(index);
    let good_again = Rc::new(Cell::new(false));
    let good = good_again.clone();
    machine.tap.set_rule(move |o| {
        let hit = o.verb == Verb::Read && *o.file == *placed.file && o.offset <= placed.start && placed.start < o.end();
        if hit && !good.get() { Fate::Fails } else { Fate::Happens }
    });
    good_again
}

#[test]
fn a_rebuild_that_could_not_read_a_header_says_so() {
    let machine = Machine::new();
    flushed(&machine, 16);
    machine.kill();
    let newest = machine.groups().len() - 1;
    unread_header(&machine, newest);
    let rebuilt = machine.rebuild(2);
    assert_eq!(rebuilt.quarantined, 1);
    assert!(rebuilt.vdisks.iter().all(|vdisk| vdisk.damage.is_some()), "{rebuilt:?}");
}

#[test]
fn a_group_of_a_deleted_vdisk_that_can_be_read_again_is_freed() {
    // (Without its first group it is not served at all, and not deleted.)
    for unread in 1..3 {
        let machine = Machine::new();
        flushed(&machine, 16);
        let id = machine.id("v");
        machine.kill();
        assert_eq!(machine.groups().len(), 3);
        unread_header(&machine, unread);
        machine.open();
        let shard = machine.shard();
        machine.run(async move { shard.delete(id, false).await }).expect("a damaged one can be deleted");
        machine.idle(1_000_000_000);
        machine.close();
        // A better day.
        let shard = machine.open();
        machine.idle(1_000_000_000);
        assert_eq!((shard.records().len(), shard.broken_unknown().len()), (0, 0), "group {unread}");
        assert_eq!(shard.context.pool.usage().slots_used, 0, "group {unread}");
    }
}

#[test]
fn a_missing_group_below_the_checkpoint_is_damage() {
    let machine = Machine::new();
    flushed(&machine, 40);
    machine.checkpoint(&machine.vdisk());
    machine.kill();
    rot_header(&machine, 1);
    machine.open();
    machine.assert_damaged(&machine.vdisk(), "in use is missing");
}

#[test]
fn the_groups_behind_a_break_are_kept() {
    let machine = Machine::new();
    flushed(&machine, 40);
    machine.kill();
    let mut kept: Vec<_> = machine.groups().iter().map(|placed| placed.header.group).collect();
    kept.remove(1);
    rot_header(&machine, 1);
    machine.open();
    machine.assert_damaged(&machine.vdisk(), "");
    machine.idle(1_000_000_000);
    machine.close();
    assert_eq!(machine.groups().iter().map(|placed| placed.header.group).collect::<Vec<_>>(), kept);
}

/// Nothing but the tombstone was ever synced, so nothing proves that the groups before it are missing.
#[test]
fn a_deletion_that_freed_a_middle_group_is_one_though_nothing_proves_the_rest() {
    for blocks in [36, 50] {
        let machine = Machine::new();
        let vdisk = machine.vdisk();
        (0..blocks).for_each(|block| machine.write(&vdisk, block, block + 1));
        let task = vdisk.clone();
        machine.run(async move { task.delete().await }).expect("not in use");
        machine.kill();
        let groups = machine.groups();
        assert_eq!(groups.len() as u64, blocks / 12);
        // Of the marks this one reached the medium.
        let size = u64::from(machine.config.pool.group_size);
        machine.zero(&groups[1].file, groups[1].start, size);
        let rebuilt = machine.rebuild(2);
        assert!(rebuilt.vdisks.is_empty(), "{blocks}: {rebuilt:?}");
        let shard = machine.open();
        machine.idle(1_000_000_000);
        assert_eq!((shard.records().len(), shard.context.pool.usage().slots_used), (0, 0), "{blocks}");
    }
}

/// The start that met a restored store does not believe its hints; neither does the one after it.
#[test]
fn a_restored_store_is_not_believed_by_the_next_start_either() {
    let machine = Machine::new();
    flushed(&machine, 20);
    machine.checkpoint(&machine.vdisk());
    machine.kill();
    machine.open();
    let old = machine.store.borrow().snapshot();
    machine.kill();
    machine.open();
    let vdisk = machine.vdisk();
    for round in 1..5 {
        (0..20).for_each(|block| machine.write(&vdisk, block, 1000 * round + block));
        machine.checkpoint(&vdisk);
        machine.make_room(&vdisk);
    }
    machine.kill();
    machine.store.replace(meta::MemStore::restore(machine.world().clock, 0, old));
    for start in 0..3 {
        machine.open();
        let vdisk = machine.vdisk();
        machine.assert_online(&vdisk);
        assert_eq!(machine.reads(&vdisk, 0..20), (4000..4020).collect::<Vec<u64>>(), "start {start}");
        machine.kill();
    }
}

#[test]
fn a_recovered_vdisk_that_stays_quiet_gets_its_checkpoint() {
    let mut config = manual();
    config.settings.checkpoint_quiet_ns = 1_000_000_000;
    let machine = Machine::with(config, 1);
    flushed(&machine, 3);
    // The first start writes the last frame once more; the second one has nothing to write.
    machine.restart();
    let vdisk = machine.restart();
    assert!(vdisk.space().log_bytes > 0 && vdisk.durable_sequence() == vdisk.sequence());
    machine.idle(3_000_000_000);
    assert_eq!(vdisk.space().log_bytes, 0, "the next start has nothing to replay");
}

/// Who makes room has something to move, or to free after a proof; its frames must not take the numbers of others.
#[test]
fn making_room_waits_for_what_is_still_to_be_written_again() {
    for moves in [false, true] {
        let mut config = manual();
        config.settings.space_slack_bytes = 4 << 10;
        let machine = Machine::with(config, 1);
        let vdisk = machine.vdisk();
        // Groups of which three quarters are dead, or one that is dead altogether.
        let overwritten = |block: &u64| if moves { block % 4 != 0 } else { *block < 16 };
        (100..156).for_each(|block| machine.write(&vdisk, block, block));
        (100..156)
            .filter(|block| overwritten(&(block - 100)))
            .for_each(|block| machine.write(&vdisk, block, block + 1));
        machine.flush(&vdisk);
        machine.checkpoint(&vdisk);
        let machine = without_room(machine);
        let vdisk = machine.vdisk();
        machine.idle(50_000_000);
        let (mut written, dies) = (0, Rc::new(Cell::new(true)));
        let rule = dies.clone();
        machine.tap.set_rule(move |o| {
            written += u64::from(o.verb == Verb::Write && o.is_slab());
            // One frame more, and the end.
            if rule.get() && written > 1 && o.changes() { Fate::Dies } else { Fate::Happens }
        });
        let task = vdisk.clone();
        assert!(machine.attempt(async move { task.make_room().await }).is_none(), "it dies");
        assert!(dies.replace(false));
        machine.kill();
        machine.open();
        let vdisk = machine.vdisk();
        machine.assert_online(&vdisk);
        assert_eq!(machine.reads(&vdisk, 0..5), [1, 2, 3, 4, 5], "moves: {moves}");
        let expect = |block: u64| if overwritten(&(block - 100)) { block + 1 } else { block };
        assert_eq!(machine.reads(&vdisk, 100..156), (100..156).map(expect).collect::<Vec<_>>(), "moves: {moves}");
    }
}

/// A sync fails while the pages of a checkpoint are under way, and there is no room to write again what it took until the
/// next pages are asked for: they must not take its numbers.
#[test]
fn pages_wait_for_what_is_still_to_be_written_again() {
    let machine = Machine::new();
    let vdisk = machine.vdisk();
    (0..3).for_each(|block| machine.write(&vdisk, block, block + 1));
    machine.flush(&vdisk);
    (3..6).for_each(|block| machine.write(&vdisk, block, block + 1));
    let (disk, stage) = (machine.disk.clone(), Rc::new(Cell::new(Stage::Syncs)));
    let (now, mut refused) = (stage.clone(), 0);
    machine.tap.set_rule(move |o| match (now.get(), o.verb) {
        // Reported when the first pages are under way.
        (Stage::Syncs, Verb::Sync) if o.is_slab() => Fate::FailsWholeLater,
        // They, and a write that comes after them, into another slab.
        (Stage::Syncs, Verb::Write) if o.is_slab() && o.offset > 0 => Fate::Waits,
        (Stage::Syncs, Verb::Create) => {
            now.set(Stage::Write);
            Fate::Happens
        }
        (Stage::Write, Verb::Write) if o.is_slab() && o.offset > 0 => {
            disk.set_capacity(1);
            now.set(Stage::Full);
            Fate::Waits
        }
        (Stage::Full, Verb::Punch) if &*o.file == "ballast" && o.offset == 0 => {
            now.set(Stage::NothingLeft);
            Fate::Happens
        }
        (Stage::NothingLeft, Verb::Allocate) => {
            refused += 1;
            if refused > 2 {
                disk.set_capacity(64 * MIB);
                now.set(Stage::Room);
            }
            Fate::Happens
        }
        // One frame more, and the end.
        (Stage::Room, Verb::Write) if o.is_slab() => {
            now.set(Stage::End);
            Fate::Happens
        }
        (Stage::End, _) if o.changes() => Fate::Dies,
        _ => Fate::Happens,
    });
    let (flushing, pages, write) = (vdisk.clone(), vdisk.clone(), vdisk.clone());
    machine.spawn(async move { assert!(flushing.flush().await.is_err(), "there is no room") });
    machine.idle(WAIT_NS / 2);
    machine.spawn(async move { assert!(pages.checkpoint().await.is_err(), "a sync failed meanwhile") });
    machine.idle(WAIT_NS / 4);
    machine.spawn(async move { write.write(6 * BLOCK, content(6, 7)).await.expect("room") });
    let died = machine.attempt(machine.world().clock.sleep(20 * WAIT_NS)).is_none();
    assert!(died && stage.get() == Stage::End, "it came to {:?}", stage.get());
    machine.kill();
    machine.open();
    machine.assert_online(&machine.vdisk());
    assert_eq!(machine.reads(&machine.vdisk(), 0..7), [1, 2, 3, 4, 5, 6, 7]);
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Syncs,
    Write,
    Full,
    NothingLeft,
    Room,
    End,
}
