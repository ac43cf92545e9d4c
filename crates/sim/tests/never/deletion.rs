//! Never: a deleted vDisk that comes back, nor one that is lost to a deletion that never was.

use crate::machine::{Machine, manual};
use crate::tap::{Fate, Verb};
use base::units::BLOCK;
use block::{BlockDevice, Request};
use std::cell::Cell;
use std::rc::Rc;

#[test]
fn a_tombstone_that_a_failed_sync_moved_goes_last_where_it_is_now() {
    for seed in 0..12 {
        let machine = Machine::with(manual(), seed);
        let vdisk = machine.vdisk();
        (0..20).for_each(|block| machine.write(&vdisk, block, block + 1));
        machine.flush(&vdisk);
        let failed = Cell::new(false);
        machine.tap.set_rule(move |o| {
            let fails = o.verb == Verb::Sync && o.is_slab() && !failed.replace(true);
            if fails { Fate::Fails } else { Fate::Happens }
        });
        let (shard, id) = (machine.shard(), machine.id("v"));
        machine.run(async move { shard.delete(id, false).await }).expect("the tombstone is written elsewhere");
        machine.idle(1_000_000_000);
        machine.lose_power();
        machine.assert_nothing_is_left(seed);
    }
}

/// A tombstone that was never acknowledged is lost, its group given up, and the log goes on without it. Much later that
/// group is on the disk again; what it continued is not.
#[test]
fn a_tombstone_of_a_branch_that_was_given_up_deletes_nothing() {
    let machine = Machine::new();
    let vdisk = machine.vdisk();
    // Up to where the next frame goes into a third group.
    (0..27).for_each(|block| machine.write(&vdisk, block, block + 1));
    machine.flush(&vdisk);
    machine.tap.set_rule(|o| if o.verb == Verb::Sync && o.is_slab() { Fate::Dies } else { Fate::Happens });
    let tombstone = vdisk.sequence().next();
    assert!(machine.attempt(async move { vdisk.delete().await }).is_none(), "it dies");
    machine.kill();
    let groups = machine.groups();
    let (old, _) = machine.frame(tombstone.0);
    assert_eq!((groups.len(), old.header.group), (3, groups[2].header.group));
    let size = u64::from(machine.config.pool.group_size);
    let whole = machine.bytes(&old.file, old.start, size);
    machine.lose_header(tombstone.0);
    machine.open();
    let mut round = 0;
    loop {
        round += 1;
        assert!(round < 20, "its place is never free");
        let vdisk = machine.vdisk();
        machine.assert_online(&vdisk);
        (0..27).for_each(|block| machine.write(&vdisk, block, 1000 * round + block));
        machine.checkpoint(&vdisk);
        machine.make_room(&vdisk);
        machine.flush(&vdisk);
        machine.kill();
        let groups = machine.groups();
        let is_gone = |id| groups.iter().all(|placed| placed.header.group != id);
        let taken = groups.iter().any(|placed| placed.file == old.file && placed.start == old.start);
        if !taken && is_gone(old.header.predecessor.expect("it has one").group) {
            break;
        }
        machine.open();
    }
    machine.put(&old.file, old.start, whole);
    for _ in 0..2 {
        machine.open();
        machine.idle(1_000_000_000);
        let vdisk = machine.vdisk();
        machine.assert_online(&vdisk);
        assert_eq!(machine.reads(&vdisk, 0..27), (1000 * round..1000 * round + 27).collect::<Vec<u64>>());
        machine.kill();
    }
}

/// Of the sync that was to store the mark of a freed group only a process heard that it failed, which is gone.
#[test]
fn a_mark_that_a_failed_sync_took_is_written_again_before_the_tombstone_goes() {
    for seed in 0..12 {
        let mut config = manual();
        config.pool.recycled_bytes_max = 0;
        let machine = Machine::with(config, seed);
        machine.disk.keep_cached();
        let vdisk = machine.vdisk();
        (0..30).for_each(|block| machine.write(&vdisk, block, block + 1));
        machine.flush(&vdisk);
        let syncs = Cell::new(0);
        machine.tap.set_rule(move |o| {
            // The first one stores the tombstone.
            let is_sync = o.verb == Verb::Sync && o.is_slab();
            syncs.set(syncs.get() + u32::from(is_sync));
            match syncs.get() {
                2 if is_sync => Fate::Fails,
                2.. if o.changes() => Fate::Dies,
                _ => Fate::Happens,
            }
        });
        let (shard, id, clock) = (machine.shard(), machine.id("v"), machine.world().clock);
        machine.attempt(async move {
            drop(shard.delete(id, false).await);
            clock.sleep(1_000_000_000).await;
        });
        machine.kill();
        let shard = machine.open();
        machine.idle(1_000_000_000);
        assert_eq!((shard.records().len(), shard.context.pool.usage().slots_used), (0, 0), "seed {seed}");
        machine.lose_power();
        let rebuilt = machine.rebuild(2);
        assert!(rebuilt.vdisks.is_empty() && rebuilt.lost.is_empty(), "seed {seed}: {rebuilt:?}");
    }
}

/// Somebody who has not let go yet asks for what is free already, and for a snapshot that went with its vDisk or alone.
#[test]
fn what_is_read_of_a_deleted_vdisk_is_gone_and_no_damage() {
    for at_once in [true, false] {
        let machine = Machine::new();
        let vdisk = machine.vdisk();
        (0..20).for_each(|block| machine.write(&vdisk, block, block + 1));
        let id = vdisk.id;
        let readers = ["first", "second"].map(|name| {
            let (shard, snapshot) = (machine.shard(), machine.snapshot(id, name));
            let attachment = machine.run(async move { shard.attach_snapshot(id, snapshot).await }).expect("readable");
            (snapshot, attachment.device)
        });
        let all = [vdisk.device(), readers[0].1.clone(), readers[1].1.clone()];
        let read = |device: &Rc<dyn BlockDevice>| {
            let device = device.clone();
            machine.run(async move { device.submit(Request::Read { offset: 0, len: BLOCK as u32 }).await })
        };
        assert!(all.iter().all(|device| read(device).is_ok()));
        let (shard, snapshots) = (machine.shard(), readers.map(|(snapshot, _)| snapshot));
        let deleted = async move {
            if !at_once {
                for snapshot in snapshots {
                    shard.delete_snapshot(id, snapshot, false).await?;
                }
            }
            shard.delete(id, false).await
        };
        machine.run(deleted).expect("nobody is connected");
        machine.settle();
        assert_eq!(machine.shard().context.pool.usage().slots_used, 0);
        for device in &all {
            let error = read(device).expect_err("its groups are free");
            assert_eq!(error.kind, block::Kind::Unavailable, "at once: {at_once}: {error}");
        }
        assert_eq!(machine.shard().totals().checksum_failures, 0);
    }
}

/// The disk refuses the mark of one group, once: of a vDisk that is being deleted, or of one that lives on and goes later.
#[test]
fn a_group_that_could_not_be_marked_as_free_keeps_the_tombstone() {
    for (seed, gives_up_before) in (0..12).flat_map(|seed| [(seed, false), (seed, true)]) {
        let mut config = manual();
        config.pool.recycled_bytes_max = 0;
        let machine = Machine::with(config, seed);
        let vdisk = machine.vdisk();
        (0..30).for_each(|block| machine.write(&vdisk, block, block + 1));
        machine.flush(&vdisk);
        let first = machine.group_of(0);
        let at = machine.group(first);
        let refused = Rc::new(Cell::new(0));
        let (count, file, start) = (refused.clone(), at.file.clone(), at.start);
        machine.tap.set_rule(move |o| {
            let is_mark = o.verb == Verb::Write && *o.file == *file && o.offset == start;
            count.set(count.get() + u32::from(is_mark));
            if is_mark && count.get() == 1 { Fate::Fails } else { Fate::Happens }
        });
        if gives_up_before {
            (0..30).for_each(|block| machine.write(&vdisk, block, 100 + block));
            machine.checkpoint(&vdisk);
            let _refused = machine.run(async move { vdisk.make_room().await });
            assert_eq!(refused.get(), 1, "seed {seed}");
        }
        let (shard, id) = (machine.shard(), machine.id("v"));
        machine.run(async move { shard.delete(id, false).await }).expect("the tombstone is written");
        // Longer than until the next attempt, or not.
        machine.idle(if seed % 2 == 0 { 1_000_000_000 } else { 100_000_000_000 });
        assert!(refused.get() >= 1, "seed {seed}");
        machine.lose_power();
        machine.assert_nothing_is_left(seed);
    }
}

/// However many they are: all calls wait meanwhile.
#[test]
fn clones_that_are_refused_cost_one_commit() {
    const CLONES: usize = 20;
    let machine = Machine::new();
    let vdisk = machine.vdisk();
    machine.write_tags(&vdisk, 1..=8);
    let (kept, id) = (machine.snapshot(vdisk.id, "s"), vdisk.id);
    machine.checkpoint(&vdisk);
    machine.tap.clear();
    let has_failed = Cell::new(false);
    machine.tap.set_rule(move |o| match o.verb {
        Verb::Commit if o.file.as_bytes().starts_with(meta::keys::NAMES) && !has_failed.replace(true) => {
            Fate::FailsWhole
        }
        _ => Fate::Happens,
    });
    let (shard, names) = (machine.shard(), (0..CLONES).map(|number| format!("c{number}")).collect());
    let made = machine.run(async move { shard.clone_snapshot(id, kept, names, None).await });
    made.expect_err("it is told to have failed");
    let commits = machine.tap.take().into_iter().filter(|o| o.verb == Verb::Commit).count();
    // Births, the clones, that there are none, and that no births are left.
    assert!(commits <= 6, "{commits} commits");
    machine.tap.clear();
    machine.kill();
    machine.open();
    machine.settle();
    assert_eq!(machine.shard().records().len(), 1);
}
