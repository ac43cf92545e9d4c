//! Never: no room to make room. A full disk refuses writes and nothing else: trims, deletions, checkpoints, flushes and
//! starts go on, and once space is freed so do writes, without a restart.

use crate::machine::{Machine, manual};
use crate::tap::{Fate, Operation, Verb};
use base::units::{BLOCK, KIB, MIB};
use node::ShardConfig;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use vdisk::{Kind, Vdisk};

fn config(recycled_bytes_max: u64) -> ShardConfig {
    let mut config = manual();
    config.pool.recycled_bytes_max = recycled_bytes_max;
    config
}

/// A vDisk "v" with flushed blocks, on a disk that has no page left for an ordinary append. How many blocks.
fn filled(machine: &Machine) -> u64 {
    let vdisk = machine.vdisk();
    machine.disk.set_capacity(machine.disk.allocated_bytes() + MIB);
    let full = fill(machine, &vdisk);
    assert!(full > 100, "a MiB takes some: {full}");
    machine.flush(&vdisk);
    full
}

/// Blocks from 0 on with tag block + 1, until one is refused; which.
fn fill(machine: &Machine, vdisk: &Rc<Vdisk>) -> u64 {
    for block in 0.. {
        match machine.try_write(vdisk, block, &[block + 1]).expect("it lives") {
            Ok(()) => {}
            Err(error) => {
                assert_eq!(error.kind, Kind::Full);
                return block;
            }
        }
    }
    unreachable!()
}

fn tags(blocks: std::ops::Range<u64>) -> Vec<u64> {
    blocks.map(|block| block + 1).collect()
}

fn is_full(machine: &Machine, vdisk: &Rc<Vdisk>) -> bool {
    // What cannot be had now is not asked for again at once.
    machine.idle(30_000_000);
    matches!(machine.try_write(vdisk, 900, &[9]).expect("it lives"), Err(error) if error.kind == Kind::Full)
}

#[test]
fn a_full_disk_loses_nothing_that_was_acknowledged() {
    let machine = Machine::with(config(0), 1);
    let full = filled(&machine);
    assert_eq!(machine.reads(&machine.vdisk(), 0..full), tags(0..full), "reads go on");
    machine.lose_power();
    machine.open();
    machine.assert_online(&machine.vdisk());
    assert_eq!(machine.reads(&machine.vdisk(), 0..full), tags(0..full));
    assert_eq!(machine.read(&machine.vdisk(), full), 0, "what was refused did not happen");
}

#[test]
fn a_full_disk_takes_trims_and_then_writes_again() {
    for recycled in [0, MIB] {
        let machine = Machine::with(config(recycled), 1);
        let full = filled(&machine);
        let vdisk = machine.vdisk();
        assert!(is_full(&machine, &vdisk));
        // Each takes a page of the reserve: the next frame starts on a new sector.
        for block in 0..20 {
            machine.trim(&vdisk, block, 1);
            machine.flush(&vdisk);
        }
        machine.trim(&vdisk, 20, full / 2 - 20);
        machine.flush(&vdisk);
        // The refused writes have woken those who make room; nobody does anything else.
        machine.idle(10_000_000_000);
        for block in 0..full / 4 {
            machine.write(&vdisk, block, 7000 + block);
        }
        machine.flush(&vdisk);
        machine.lose_power();
        machine.open();
        let vdisk = machine.vdisk();
        machine.assert_online(&vdisk);
        let expect = (0..full).map(|block| match block {
            block if block < full / 4 => 7000 + block,
            block if block < full / 2 => 0,
            block => block + 1,
        });
        assert_eq!(machine.reads(&vdisk, 0..full), expect.collect::<Vec<u64>>());
    }
}

#[test]
fn a_full_disk_takes_a_checkpoint_and_a_verb() {
    let machine = Machine::with(config(0), 1);
    let full = filled(&machine);
    let vdisk = machine.vdisk();
    machine.checkpoint(&vdisk);
    let (shard, id) = (machine.shard(), machine.id("v"));
    machine
        .run(async move {
            shard.resize(id, 8 << 20).await?;
            shard.set_read_only(id, true).await?;
            shard.set_read_only(id, false).await
        })
        .expect("the reserve is for that");
    machine.checkpoint(&vdisk);
    machine.lose_power();
    machine.open();
    let vdisk = machine.vdisk();
    assert_eq!(vdisk.attributes().size_bytes, 8 << 20);
    assert_eq!(machine.reads(&vdisk, 0..full), tags(0..full));
}

/// What only adds to the metadata store leaves the reserve to what makes room.
#[test]
fn the_reserve_is_for_what_makes_room() {
    for (deletes, makes_room) in [(false, false), (false, true), (true, false)] {
        let machine = Machine::with(config(0), 1);
        let shard = machine.shard();
        let is_whole = move || shard.context.pool.usage().ballast_whole;
        assert!(is_whole());
        let (shard, before) = (machine.shard(), is_whole.clone());
        // The store gets the room that it wants when some of the reserve is given up.
        machine.tap.set_rule(move |o| if o.verb == Verb::Commit && before() { Fate::Full } else { Fate::Happens });
        let put = meta::Transaction::new().put("k", "v");
        let transaction = if deletes { put.delete("l") } else { put };
        let done = machine.run(async move {
            if makes_room { shard.commit_to_make_room(transaction).await } else { shard.commit(transaction).await }
        });
        let refused = done.err().map(|error| error.kind);
        let expect = if deletes || makes_room { (None, false) } else { (Some(node::Kind::Full), true) };
        assert_eq!((refused, is_whole()), expect, "{deletes}, {makes_room}");
    }
}

#[test]
fn a_full_disk_takes_a_deletion_and_another_vdisk_gets_the_room() {
    for restarts in [false, true] {
        let machine = Machine::with(config(0), 1);
        machine.create("w", 8 << 20);
        let full = filled(&machine);
        if restarts {
            // A start on a full disk, whose reserve may be smaller than it should be.
            machine.kill();
            machine.open();
        }
        let other = machine.vdisk_by_id(machine.id("w")).expect("good");
        // What its open group has reserved it may still use.
        fill(&machine, &other);
        let (shard, id) = (machine.shard(), machine.id("v"));
        machine.run(async move { shard.delete(id, false).await }).expect("the reserve is for that");
        machine.idle(10_000_000_000);
        for block in 0..full / 2 {
            machine.write(&other, block, block + 1);
        }
        machine.flush(&other);
        assert!(machine.shard().context.pool.usage().ballast_whole, "the reserve is whole again");
        machine.lose_power();
        machine.open();
        let other = machine.vdisk_by_id(machine.id("w")).expect("good");
        assert_eq!(machine.reads(&other, 0..full / 2), tags(0..full / 2));
        assert_eq!(machine.shard().records().len(), 1);
    }
}

#[test]
fn a_full_disk_gives_back_what_overwriting_left_dead() {
    let machine = Machine::with(config(0), 1);
    let vdisk = machine.vdisk();
    machine.disk.set_capacity(machine.disk.allocated_bytes() + 2 * MIB);
    // 100 blocks again and again: 400 KiB that live, in 2 MiB. A refused write is tried again after a while.
    let mut refused = 0;
    for round in 0..20 {
        for block in 0..100 {
            let mut tries = 0;
            while let Err(error) = machine.try_write(&vdisk, block, &[round * 1000 + block + 1]).expect("it lives") {
                assert_eq!(error.kind, Kind::Full);
                (tries, refused) = (tries + 1, refused + 1);
                assert!(tries < 20, "round {round}: no room is made");
                machine.idle(1_000_000_000);
            }
        }
    }
    assert!(refused > 0, "it was full in between");
    machine.flush(&vdisk);
    machine.lose_power();
    machine.open();
    assert_eq!(machine.reads(&machine.vdisk(), 0..100), (19_001..19_101).collect::<Vec<u64>>());
}

#[test]
fn a_failed_sync_on_a_full_disk_is_survived() {
    let machine = Machine::with(config(0), 1);
    filled(&machine);
    let vdisk = machine.vdisk();
    // A trim goes into the reserve; its sync fails, and so does the place where it was.
    machine.trim(&vdisk, 0, 10);
    let mut left = 1;
    machine.tap.set_rule(move |operation| {
        let fails = operation.verb == Verb::Sync && operation.is_slab() && left > 0;
        left -= i32::from(fails);
        if fails { Fate::Fails } else { Fate::Happens }
    });
    machine.flush(&vdisk);
    machine.assert_online(&vdisk);
    machine.lose_power();
    machine.open();
    assert_eq!(machine.reads(&machine.vdisk(), 0..12), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11, 12]);
}

/// Blocks of 4 KiB of a file that can be written without `Full`.
type Reserved = BTreeMap<Rc<str>, BTreeSet<u64>>;

fn follow(reserved: &mut Reserved, operation: &Operation) -> Vec<u64> {
    let blocks = operation.offset / BLOCK..operation.end().div_ceil(BLOCK);
    let of_file = reserved.entry(operation.file.clone()).or_default();
    match operation.verb {
        Verb::Allocate => of_file.extend(blocks),
        Verb::Punch => of_file.retain(|block| !blocks.contains(block)),
        Verb::Write => {
            let unreserved = blocks.clone().filter(|block| !of_file.contains(block)).collect();
            of_file.extend(blocks);
            return unreserved;
        }
        _ => {}
    }
    Vec::new()
}

#[test]
fn no_append_goes_where_no_space_was_reserved() {
    let machine = Machine::with(config(256 * KIB), 1);
    // The tap knows everything since the disk was formatted.
    let mut reserved = Reserved::new();
    for round in 0..6 {
        let vdisk = machine.vdisk();
        for block in 0..60 {
            machine.write(&vdisk, (block * 7 + round) % 80, 100 * round + block + 1);
            if block % 13 == 0 {
                machine.flush(&vdisk);
            }
        }
        machine.checkpoint(&vdisk);
        machine.make_room(&vdisk);
        for operation in machine.tap.take().iter().filter(|o| o.is_slab()) {
            let unreserved = follow(&mut reserved, operation);
            // The header page of a slab is written when the file is made; a FREE mark lies where a header was.
            let inside: Vec<u64> = unreserved.into_iter().filter(|block| *block > 0).collect();
            let is_mark = operation.len == BLOCK;
            assert!(
                inside.is_empty() || is_mark,
                "round {round}: {inside:?} of {:?}",
                (&operation.file, operation.offset, operation.len)
            );
        }
    }
}
