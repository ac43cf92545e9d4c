//! Never: a forgotten failed sync. What it was to store is written elsewhere before a flush succeeds, or every later
//! flush fails until a restart; the file is neither written nor synced again in the hope that it helps.

use crate::machine::{FRAME, Machine, manual};
use crate::tap::{Fate, Operation, Verb, WAIT_NS};
use base::units::{BLOCK, KIB};
use std::cell::Cell;
use std::rc::Rc;
use vdisk::{Health, Kind, Settings};

/// The next `count` syncs of slabs fail.
fn fail_syncs(machine: &Machine, count: u64) {
    let mut left = count;
    machine.tap.set_rule(move |operation| {
        let fails = operation.verb == Verb::Sync && operation.is_slab() && left > 0;
        left -= u64::from(fails);
        if fails { Fate::Fails } else { Fate::Happens }
    });
}

#[test]
fn a_flush_after_a_failed_sync_is_true() {
    // What the failed sync happened to store differs from seed to seed.
    for seed in 0..12 {
        let machine = Machine::with(manual(), seed);
        let vdisk = machine.vdisk();
        machine.write(&vdisk, 0, 1);
        machine.flush(&vdisk);
        (1..30).for_each(|block| machine.write(&vdisk, block, block + 1));
        fail_syncs(&machine, 1);
        machine.flush(&vdisk);
        machine.assert_online(&vdisk);
        assert_eq!(machine.reads(&vdisk, 0..30), (1..31).collect::<Vec<u64>>(), "seed {seed}: the map follows");
        machine.lose_power();
        machine.open();
        machine.assert_online(&machine.vdisk());
        assert_eq!(machine.reads(&machine.vdisk(), 0..30), (1..31).collect::<Vec<u64>>(), "seed {seed}");
    }
}

/// Linux forgets what a failed sync was to store, and the copy elsewhere takes a while.
#[test]
fn what_a_failed_sync_took_is_readable_before_it_is_written_elsewhere() {
    for seed in 0..6 {
        let machine = Machine::with(manual(), seed);
        let vdisk = machine.vdisk();
        (0..9).for_each(|block| machine.write(&vdisk, block, block + 1));
        let failed = Cell::new(false);
        machine.tap.set_rule(move |o| match o.verb {
            Verb::Sync if o.is_slab() && !failed.replace(true) => Fate::Fails,
            // A new slab, and one frame after the other.
            Verb::Write if failed.get() && o.is_slab() => Fate::Waits,
            _ => Fate::Happens,
        });
        let (task, done) = (vdisk.clone(), Rc::new(Cell::new(false)));
        let ended = done.clone();
        machine.spawn(async move {
            task.flush().await.expect("the other slab works");
            ended.set(true);
        });
        let mut looks = 0;
        while !done.get() {
            machine.idle(WAIT_NS / 2);
            assert_eq!(machine.reads(&vdisk, 0..9), (1..10).collect::<Vec<u64>>(), "seed {seed}, look {looks}");
            looks += 1;
        }
        assert!(looks > 9);
        assert_eq!(vdisk.stats.checksum_failures.get(), 0, "nothing is wrong with them");
        machine.lose_power();
        machine.open();
        assert_eq!(machine.reads(&machine.vdisk(), 0..9), (1..10).collect::<Vec<u64>>(), "seed {seed}");
    }
}

#[test]
fn the_file_is_not_touched_again_before_a_restart() {
    let machine = Machine::new();
    let vdisk = machine.vdisk();
    machine.write(&vdisk, 0, 1);
    fail_syncs(&machine, 1);
    machine.flush(&vdisk);
    assert_eq!(machine.shard().context.pool.usage().poisoned_slabs, 1);
    machine.tap.take();
    for block in 0..40 {
        machine.write(&vdisk, block, block + 1);
        machine.flush(&vdisk);
    }
    machine.checkpoint(&vdisk);
    machine.make_room(&vdisk);
    machine.create("w", 1 << 20);
    let again: Vec<Operation> =
        machine.tap.take().into_iter().filter(|o| o.changes() && &*o.file == "slab-0000").collect();
    assert!(again.is_empty(), "{again:?}");
    // What is read afterwards is on another slab; what was synced before is where it was.
    machine.lose_power();
    machine.open();
    assert_eq!(machine.reads(&machine.vdisk(), 0..40), (1..41).collect::<Vec<u64>>());
    assert_eq!(machine.shard().context.pool.usage().poisoned_slabs, 0, "a restart looks at the file anew");
}

#[test]
fn syncs_that_keep_failing_fail_every_flush_until_a_restart() {
    let machine = Machine::new();
    let vdisk = machine.vdisk();
    machine.write(&vdisk, 0, 1);
    machine.flush(&vdisk);
    machine.write(&vdisk, 1, 2);
    fail_syncs(&machine, u64::MAX);
    assert_eq!(machine.try_flush(&vdisk).expect("it lives").expect_err("it cannot be had").kind, Kind::Io);
    assert!(matches!(vdisk.health(), Health::Failed(_)), "{:?}", vdisk.health());
    // The disk is good again: that proves nothing of what was forgotten.
    machine.tap.clear();
    for _ in 0..3 {
        assert_eq!(machine.try_flush(&vdisk).expect("it lives").expect_err("still not").kind, Kind::Io);
        let refused = machine.try_write(&vdisk, 5, &[5]).expect("it lives").expect_err("not believed");
        assert_eq!(refused.kind, Kind::Io);
    }
    assert_eq!(machine.read(&vdisk, 0), 1, "reads go on");
    machine.lose_power();
    machine.open();
    let vdisk = machine.vdisk();
    machine.assert_online(&vdisk);
    assert_eq!(machine.read(&vdisk, 0), 1);
    assert!([0, 2].contains(&machine.read(&vdisk, 1)), "no flush covered it");
    machine.write(&vdisk, 1, 3);
    machine.flush(&vdisk);
    machine.lose_power();
    machine.open();
    assert_eq!(machine.reads(&machine.vdisk(), 0..2), [1, 3]);
}

#[test]
fn frames_that_cannot_be_written_elsewhere_fail_every_flush() {
    let machine = Machine::new();
    let vdisk = machine.vdisk();
    machine.write(&vdisk, 0, 1);
    machine.tap.set_rule(|operation| match operation.verb {
        Verb::Sync if operation.is_slab() => Fate::Fails,
        Verb::Write | Verb::Create => Fate::Fails,
        _ => Fate::Happens,
    });
    assert_eq!(machine.try_flush(&vdisk).expect("it lives").expect_err("nowhere to go").kind, Kind::Io);
    machine.tap.clear();
    assert_eq!(machine.try_flush(&vdisk).expect("it lives").expect_err("still not").kind, Kind::Io);
    assert!(matches!(vdisk.health(), Health::Failed(_)));
}

#[test]
fn one_vdisks_failed_sync_is_every_vdisks_of_the_slab() {
    for seed in 0..6 {
        let machine = Machine::with(manual(), seed);
        let (first, second) = (machine.vdisk(), machine.create("w", 1 << 20));
        machine.write(&first, 0, 1);
        machine.write(&second, 0, 2);
        fail_syncs(&machine, 1);
        machine.flush(&first);
        // It asks for its own sync now, and must not be told that there is nothing left to do.
        machine.flush(&second);
        machine.lose_power();
        machine.open();
        let second = machine.vdisk_by_id(machine.id("w")).expect("good");
        assert_eq!((machine.read(&machine.vdisk(), 0), machine.read(&second, 0)), (1, 2), "seed {seed}");
    }
}

#[test]
fn a_failed_sync_is_survived_by_who_dies_right_after_it() {
    for dies_at in 0..12 {
        let machine = Machine::new();
        let vdisk = machine.vdisk();
        machine.write(&vdisk, 0, 1);
        machine.flush(&vdisk);
        (1..6).for_each(|block| machine.write(&vdisk, block, block + 1));
        let failed = Rc::new(Cell::new(false));
        let mut seen = 0;
        machine.tap.set_rule(move |operation| {
            if operation.verb == Verb::Sync && operation.is_slab() && !failed.replace(true) {
                return Fate::Fails;
            }
            seen += u64::from(failed.get() && operation.changes());
            if seen > dies_at && operation.changes() { Fate::Dies } else { Fate::Happens }
        });
        let flushed = matches!(machine.try_flush(&vdisk), Some(Ok(())));
        machine.lose_power();
        machine.open();
        let vdisk = machine.vdisk();
        machine.assert_online(&vdisk);
        let found = machine.reads(&vdisk, 0..6);
        // A prefix of what was written, and all of it if the flush was acknowledged.
        let prefix = found.iter().take_while(|tag| **tag != 0).count();
        let expect: Vec<u64> = (0..6).map(|block| if block < prefix as u64 { block + 1 } else { 0 }).collect();
        assert_eq!(found, expect, "died at {dies_at}");
        assert!(prefix >= 1 && (!flushed || prefix == 6), "died at {dies_at}: {found:?}");
    }
}

#[test]
fn a_checkpoint_that_meets_a_failed_sync_is_not_believed() {
    for seed in 0..6 {
        let machine = Machine::with(manual(), seed);
        let vdisk = machine.vdisk();
        (0..20).for_each(|block| machine.write(&vdisk, block, block + 1));
        machine.flush(&vdisk);
        machine.checkpoint(&vdisk);
        (0..20).for_each(|block| machine.write(&vdisk, block, block + 101));
        fail_syncs(&machine, 1);
        let shard = machine.shard();
        let before = shard.records()[0].checkpoint;
        let task = vdisk.clone();
        let error = machine.run(async move { task.checkpoint().await }).expect_err("its pages are gone");
        assert_eq!((error.kind, shard.records()[0].checkpoint), (Kind::Io, before), "the index is not told");
        let expect: Vec<u64> = (101..121).collect();
        assert_eq!(machine.reads(&vdisk, 0..20), expect);
        if seed % 2 == 0 {
            machine.checkpoint(&vdisk);
            machine.make_room(&vdisk);
        }
        machine.flush(&vdisk);
        machine.lose_power();
        machine.open();
        machine.assert_online(&machine.vdisk());
        assert_eq!(machine.reads(&machine.vdisk(), 0..20), expect, "seed {seed}");
    }
}

#[test]
fn what_is_not_synced_is_synced_unasked_after_a_while() {
    let machine = Machine::with(
        {
            let mut config = manual();
            config.settings.unsynced_age_ns_max = Settings::default().unsynced_age_ns_max;
            config
        },
        1,
    );
    let vdisk = machine.vdisk();
    machine.write(&vdisk, 0, 1);
    machine.idle(50_000_000);
    assert!(vdisk.unsynced_bytes() > 0);
    machine.idle(60_000_000);
    assert_eq!((vdisk.unsynced_bytes(), vdisk.durable_sequence()), (0, vdisk.sequence()));
    machine.lose_power();
    machine.open();
    assert_eq!(machine.read(&machine.vdisk(), 0), 1);
}

#[test]
fn an_unasked_sync_that_fails_is_not_forgotten_either() {
    for seed in 0..6 {
        let mut config = manual();
        config.settings.unsynced_age_ns_max = 100_000_000;
        let machine = Machine::with(config, seed);
        let vdisk = machine.vdisk();
        machine.write(&vdisk, 0, 1);
        fail_syncs(&machine, 1);
        machine.idle(200_000_000);
        machine.flush(&vdisk);
        machine.lose_power();
        machine.open();
        assert_eq!(machine.read(&machine.vdisk(), 0), 1, "seed {seed}");
    }
}

#[test]
fn what_is_kept_for_a_failed_sync_is_bounded() {
    let mut config = manual();
    config.settings.unsynced_bytes_soft = 64 * KIB;
    config.settings.unsynced_bytes_max = 128 * KIB;
    let machine = Machine::with(config, 1);
    let vdisk = machine.vdisk();
    let most = Rc::new(Cell::new(0));
    let (watched, seen) = (machine.shard().context.load.clone(), most.clone());
    machine.tap.set_rule(move |operation| {
        seen.set(seen.get().max(watched.unsynced_bytes.get()));
        if operation.verb == Verb::Sync && operation.is_slab() { Fate::Waits } else { Fate::Happens }
    });
    // Nobody flushes, and the syncs that nobody asks for are slow.
    for block in 0..400 {
        machine.write(&vdisk, block, block + 1);
    }
    let limit = 128 * KIB + u64::from(FRAME) + BLOCK;
    assert!((120 * KIB..=limit).contains(&most.get()), "{} of {limit}", most.get());
    machine.tap.clear();
    // Then a sync fails with as much in memory as there ever is.
    (0..28).for_each(|block| machine.write(&vdisk, block, block + 1001));
    fail_syncs(&machine, 1);
    machine.flush(&vdisk);
    machine.lose_power();
    machine.open();
    assert_eq!(machine.reads(&machine.vdisk(), 0..28), (1001..1029).collect::<Vec<u64>>());
}
