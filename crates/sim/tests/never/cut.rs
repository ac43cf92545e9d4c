//! Never: a snapshot that was acknowledged and is lost, one that was deleted and comes back, or one that shows what was
//! written later or not what was written before.

use crate::keeper::{RETURNS, is_busy};
use crate::machine::{Machine, manual};
use crate::tap::{Fate, Operation, Verb};
use base::SnapshotId;
use base::units::MIB;
use block::Kind;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use vdisk::Vdisk;

/// What the snapshot of [`prepared`] has in its first blocks.
const BEFORE: [u64; 4] = [1, 2, 3, 0];

/// Some blocks below a checkpoint and some behind it, nothing of that flushed.
fn prepared(machine: &Machine) -> Rc<Vdisk> {
    let vdisk = machine.vdisk();
    machine.write_tags(&vdisk, [91, 2]);
    machine.checkpoint(&vdisk);
    machine.write(&vdisk, 0, 1);
    machine.write(&vdisk, 2, 3);
    vdisk
}

/// Everything that the snapshot has is overwritten.
fn overwrite(machine: &Machine, vdisk: &Rc<Vdisk>) {
    machine.write_tags(vdisk, [11, 12]);
    machine.trim(vdisk, 2, 1);
    machine.write(vdisk, 3, 14);
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
fn a_crash_anywhere_in_taking_one_leaves_all_of_it_or_nothing() {
    for come_back in RETURNS.into_iter().enumerate().filter(|(way, _)| *way != 1).map(|(_, way)| way) {
        let mut at = 0;
        loop {
            let machine = Machine::new();
            let vdisk = prepared(&machine);
            dies_at(&machine, at);
            let done = machine.try_snapshot(vdisk.id, "s");
            come_back(&machine, 2);
            let vdisk = machine.vdisk();
            machine.assert_online(&vdisk);
            let found = machine.find_snapshot(vdisk.id, "s");
            if let Some(snapshot) = &found {
                assert_eq!(machine.read_snapshot(vdisk.id, snapshot.id, 0..4), BEFORE, "{at}");
            }
            match done {
                Some(Ok(snapshot)) => {
                    assert_eq!(found.map(|found| found.id), Some(snapshot.id));
                    break;
                }
                Some(Err(error)) => panic!("{error}"),
                None => at += 1,
            }
        }
        assert!(at > 1, "it died before: {at}");
    }
}

#[test]
fn a_crash_anywhere_in_storing_one_changes_nothing_of_it() {
    for way in [0, 2, 3] {
        let mut at = 0;
        loop {
            let machine = Machine::new();
            let vdisk = prepared(&machine);
            let kept = machine.snapshot(vdisk.id, "s");
            overwrite(&machine, &vdisk);
            machine.flush(&vdisk);
            dies_at(&machine, at);
            let done = machine.attempt(async move {
                vdisk.checkpoint().await?;
                vdisk.make_room().await
            });
            RETURNS[way](&machine, 2);
            let vdisk = machine.vdisk();
            machine.assert_online(&vdisk);
            for _ in 0..2 {
                assert_eq!(machine.read_snapshot(vdisk.id, kept, 0..4), BEFORE, "{at}");
                assert_eq!(machine.reads(&vdisk, 0..4), [11, 12, 0, 14], "{at}");
                machine.settle();
            }
            if done.is_some() {
                assert!(at > 8, "it died before: {at}");
                break;
            }
            at += 1;
        }
    }
}

#[test]
fn one_that_was_deleted_does_not_come_back_and_gives_its_space_back() {
    for (way, come_back) in RETURNS.into_iter().enumerate() {
        for stored in [false, true] {
            let machine = Machine::new();
            let vdisk = prepared(&machine);
            let kept = machine.snapshot(vdisk.id, "s");
            if stored {
                machine.checkpoint(&vdisk);
            }
            let other = machine.snapshot(vdisk.id, "other");
            overwrite(&machine, &vdisk);
            machine.delete_snapshot(vdisk.id, kept);
            for node in 2..4 {
                come_back(&machine, node);
                let vdisk = machine.vdisk();
                assert_eq!(machine.snapshot_names(vdisk.id), ["other"], "way {way}, stored {stored}");
                assert_eq!(machine.read_snapshot(vdisk.id, other, 0..4), BEFORE);
                machine.settle();
            }
            let vdisk = machine.vdisk();
            machine.delete_snapshot(vdisk.id, other);
            machine.settle();
            assert!(machine.shard().context.references.held_groups().is_empty(), "way {way}, stored {stored}");
        }
    }
}

#[test]
fn a_crash_anywhere_in_a_deletion_leaves_it_whole_or_gone() {
    let mut at = 0;
    loop {
        let machine = Machine::new();
        let vdisk = prepared(&machine);
        let kept = machine.snapshot(vdisk.id, "s");
        overwrite(&machine, &vdisk);
        machine.checkpoint(&vdisk);
        dies_at(&machine, at);
        let clock = machine.world().clock;
        let (shard, id) = (machine.shard(), vdisk.id);
        let acknowledged = Rc::new(Cell::new(false));
        let done = acknowledged.clone();
        let over = machine.attempt(async move {
            shard.delete_snapshot(id, kept, false).await.expect("nobody reads it");
            done.set(true);
            // What it held comes free.
            clock.sleep(2_000_000_000).await;
        });
        machine.lose_power();
        machine.open();
        match machine.find_snapshot(id, "s") {
            Some(snapshot) => {
                assert!(!acknowledged.get(), "{at}");
                assert_eq!(machine.read_snapshot(id, snapshot.id, 0..4), BEFORE, "{at}");
            }
            None => assert!(acknowledged.get() || over.is_none(), "{at}"),
        }
        assert_eq!(machine.reads(&machine.vdisk(), 0..4), [11, 12, 0, 14], "{at}");
        if over.is_some() {
            assert!(at > 3, "it died before: {at}");
            return;
        }
        at += 1;
    }
}

/// Each sync of the slabs in turn fails while a snapshot is asked for, is not stored yet, or is being stored.
#[test]
fn a_failed_sync_changes_nothing_of_one() {
    for fate in [Fate::Fails, Fate::FailsWhole, Fate::FailsWholeLater] {
        for failing in 0..6 {
            let machine = Machine::with(manual(), 10 + failing);
            let vdisk = prepared(&machine);
            let left = Cell::new(failing);
            let is_sync = |o: &Operation| o.verb == Verb::Sync && o.is_slab();
            machine.tap.set_rule(move |o| {
                let fails = is_sync(o) && left.get() == 0;
                left.set(left.get().saturating_sub(u64::from(is_sync(o))));
                // Only once.
                if fails {
                    left.set(u64::MAX);
                }
                if fails { fate } else { Fate::Happens }
            });
            let kept = machine.snapshot(vdisk.id, "s");
            overwrite(&machine, &vdisk);
            machine.flush(&vdisk);
            let task = vdisk.clone();
            // The one that a sync failed under begins again later.
            machine.run(async move { drop(task.checkpoint().await) });
            machine.idle(3_000_000_000);
            assert_eq!(machine.read_snapshot(vdisk.id, kept, 0..4), BEFORE, "{fate:?} {failing}");
            machine.lose_power();
            machine.open();
            let vdisk = machine.vdisk();
            machine.assert_online(&vdisk);
            assert_eq!(machine.read_snapshot(vdisk.id, kept, 0..4), BEFORE, "{fate:?} {failing}");
            assert_eq!(machine.reads(&vdisk, 0..4), [11, 12, 0, 14], "{fate:?} {failing}");
        }
    }
}

/// A checkpoint that stores an older one is written later than the resize, but of a map before the younger one.
#[test]
fn its_size_is_that_of_its_moment() {
    for at in 0.. {
        let machine = Machine::new();
        let vdisk = prepared(&machine);
        let kept = [machine.snapshot(vdisk.id, "first"), machine.snapshot(vdisk.id, "second")];
        let (shard, id) = (machine.shard(), vdisk.id);
        machine.run(async move { shard.resize(id, 8 * MIB).await }).expect("room");
        dies_at(&machine, at);
        let over = machine.attempt(async move { vdisk.checkpoint().await });
        machine.lose_power();
        machine.open();
        for snapshot in kept {
            let shard = machine.shard();
            let attached = machine.run(async move { shard.attach_snapshot(id, snapshot).await }).expect("there");
            assert_eq!(attached.device.geometry().size_bytes, 4 * MIB, "{at}");
        }
        if over.is_some() {
            return;
        }
    }
}

/// Reads that are under way when the snapshot goes are answered rightly or not at all.
#[test]
fn nothing_is_taken_from_those_who_read_one() {
    let machine = Machine::new();
    let vdisk = prepared(&machine);
    let kept = machine.snapshot(vdisk.id, "s");
    overwrite(&machine, &vdisk);
    machine.settle();
    let (shard, id) = (machine.shard(), vdisk.id);
    let attached = machine.run(async move { shard.attach_snapshot(id, kept).await }).expect("it is there");
    assert!(is_busy(&machine.try_delete_snapshot(id, kept).expect("it lives")), "somebody reads it");
    let (shard, other) = (machine.shard(), machine.shard());
    assert!(is_busy(&machine.run(async move { shard.delete(id, false).await })), "nor the vDisk it is of");
    machine.tap.set_rule(|o| if o.verb == Verb::Read { Fate::Waits } else { Fate::Happens });
    let node::Attachment { device, closed, hold } = attached;
    let (read, clock) = (device.submit(block::Request::Read { offset: 0, len: 4096 }), machine.world().clock);
    let ended = Rc::new(Cell::new(false));
    let answered = ended.clone();
    machine.spawn(async move {
        let answer = read.await;
        assert!(answer.is_ok_and(|reply| matches!(reply, block::Reply::Data(_))), "it began before");
        closed.await;
        drop((device, hold));
        answered.set(true);
    });
    machine.run(async move { other.delete_snapshot(id, kept, true).await }).expect("its reader has let go");
    machine.run(async move { clock.sleep(1_000_000_000).await });
    assert!(ended.get());
    machine.tap.clear();
    machine.settle();
    assert!(machine.shard().context.references.held_groups().is_empty());
}

/// Who asks for a snapshot while its vDisk is being deleted gets it, and the deletion is refused, or does not.
#[test]
fn nobody_comes_to_read_one_of_a_deleted_vdisk() {
    let mut refusals = [0, 0];
    for seed in 0..400 {
        let machine = Machine::with(manual(), seed);
        let vdisk = prepared(&machine);
        let (kept, id) = (machine.snapshot(vdisk.id, "s"), vdisk.id);
        let rng = RefCell::new(sim::rng::Rng::new(seed, 1));
        machine.tap.set_rule(move |o| {
            let can_wait = matches!(o.verb, Verb::Read | Verb::Write | Verb::Sync);
            if can_wait && rng.borrow_mut().below(4) == 0 { Fate::Waits } else { Fate::Happens }
        });
        let (shard, other, world) = (machine.shard(), machine.shard(), machine.world());
        let (sender, receiver) = world::local::oneshot();
        let after_ns = seed % 50 * 4_000;
        machine.spawn(async move {
            world.clock.sleep(after_ns).await;
            sender.send(other.delete(id, false).await);
        });
        let attached = machine.run(async move { shard.attach_snapshot(id, kept).await });
        let deleted = machine.run(receiver).expect("it ends");
        refusals[0] += u32::from(attached.is_err());
        refusals[1] += u32::from(deleted.is_err());
        assert!(attached.is_err() || deleted.is_err(), "seed {seed}: a reader of a deleted vDisk");
    }
    assert!(refusals.iter().all(|count| *count > 20), "both come first at times: {refusals:?}");
}

#[test]
fn names_are_of_one_at_a_time_and_nobody_writes_to_one() {
    let machine = Machine::new();
    let vdisk = prepared(&machine);
    let kept = machine.snapshot(vdisk.id, "s");
    let again = machine.try_snapshot(vdisk.id, "s").expect("it lives").expect_err("there is one");
    assert_eq!(again.kind, node::Kind::Exists);
    let (shard, id) = (machine.shard(), vdisk.id);
    let attached = machine.run(async move { shard.attach_snapshot(id, kept).await }).expect("it is there");
    let data = vec![1; 4096].into();
    let refused = machine.run(attached.device.submit(block::Request::Write { offset: 0, data, fua: false }));
    assert_eq!(refused.expect_err("it is read-only").kind, Kind::ReadOnly);
    drop(attached);
    machine.delete_snapshot(id, kept);
    assert_ne!(machine.snapshot(id, "s"), kept, "numbers are of one only");
    let shard = machine.shard();
    let unknown = SnapshotId::from_raw(0xffff).expect("48 bits");
    let missing = machine.run(async move { shard.delete_snapshot(id, unknown, false).await });
    assert_eq!(missing.expect_err("there is none").kind, node::Kind::NotFound);
}

#[test]
fn an_old_copy_of_the_store_neither_loses_one_nor_brings_one_back() {
    let machine = Machine::new();
    let vdisk = prepared(&machine);
    let first = machine.snapshot(vdisk.id, "first");
    machine.checkpoint(&vdisk);
    let old = machine.store.borrow().snapshot();
    machine.snapshot(vdisk.id, "second");
    machine.delete_snapshot(vdisk.id, first);
    machine.settle();
    machine.kill();
    machine.store.replace(meta::MemStore::restore(machine.world().clock, 0, old));
    machine.open();
    let vdisk = machine.vdisk();
    machine.assert_online(&vdisk);
    assert_eq!(machine.snapshot_names(vdisk.id), ["second"]);
}
