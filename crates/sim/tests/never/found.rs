//! Faults that were found by trying to lose data: each test failed once.

use crate::machine::Machine;
use crate::tap::{Fate, Verb};
use base::units::MIB;

/// Frame 1 is the birth. Block `b` is written by frame `b + 2` with tag `b + 1`; all are flushed one by one.
fn flushed(machine: &Machine, blocks: u64) {
    let vdisk = machine.vdisk();
    for block in 0..blocks {
        machine.write(&vdisk, block, block + 1);
        machine.flush(&vdisk);
    }
}

#[test]
fn a_rotten_verb_is_said() {
    for rebuild in [false, true] {
        let machine = Machine::new();
        flushed(&machine, 1);
        let vdisk = machine.vdisk();
        let grown = vdisk.clone();
        machine.run(async move { grown.resize(8 << 20).await }).expect("it grows");
        let verb = vdisk.sequence().0;
        // Says that the verb was synced.
        machine.write(&vdisk, 1, 2);
        machine.kill();
        machine.tear_payload(verb);
        if rebuild {
            machine.rebuild(2);
        }
        machine.open();
        machine.assert_damaged(&machine.vdisk(), "control frame");
    }
}

#[test]
fn a_rotten_birth_loses_nothing_that_was_written() {
    for rebuild in [false, true] {
        let machine = Machine::new();
        flushed(&machine, 3);
        machine.kill();
        let groups = machine.groups().len();
        machine.tear_payload(1);
        if rebuild {
            let rebuilt = machine.rebuild(2);
            assert!(!rebuilt.lost.is_empty() || !rebuilt.vdisks.is_empty(), "gone without a word");
        }
        let shard = machine.open();
        machine.idle(1_000_000_000);
        assert!(rebuild || shard.records().len() == 1);
        machine.close();
        assert_eq!(machine.groups().len(), groups, "rebuild {rebuild}: groups with synced data were freed");
    }
}

/// Two starts of an old copy: the first refusal must not make it the current one.
#[test]
fn an_old_copy_of_the_disk_is_refused_every_time() {
    let machine = Machine::new();
    flushed(&machine, 3);
    machine.kill();
    let old = machine.image();
    machine.open();
    machine.write(&machine.vdisk(), 1, 99);
    machine.flush(&machine.vdisk());
    machine.kill();
    machine.restore(&old);
    for attempt in 0..4 {
        let opened = machine.try_open().expect("it lives");
        assert!(
            opened.is_err(),
            "attempt {attempt}: the old copy is believed; block 1 has {:?}",
            machine.try_read(&machine.vdisk(), 1)
        );
        machine.kill();
    }
}

/// The log says what the name is; an older metadata store does not.
#[test]
fn an_older_metadata_store_takes_back_no_rename() {
    let machine = Machine::new();
    machine.kill();
    machine.open();
    let old = machine.store.borrow().snapshot();
    machine.kill();
    machine.open();
    let (shard, id) = (machine.shard(), machine.id("v"));
    machine.run(async move { shard.rename(id, "renamed").await }).expect("a free name");
    machine.kill();
    machine.store.replace(meta::MemStore::restore(machine.world().clock, 0, old));
    let shard = machine.open();
    assert_eq!(shard.records()[0].name, "renamed");
}

/// What a checkpoint covers was synced with its record, not before. After the punch the metadata store is lost: nothing
/// on the disk says any more that the punched frames were synced.
#[test]
fn punching_behind_an_unproven_checkpoint_loses_nothing_without_the_index() {
    let (machine, expect) = crate::bounds::half_dead(false);
    let vdisk = machine.vdisk();
    machine.make_room(&vdisk);
    assert!(vdisk.stats.bytes_punched.get() > 0);
    machine.kill();
    let rebuilt = machine.rebuild(2);
    assert!(rebuilt.vdisks[0].damage.is_none(), "{rebuilt:?}");
    machine.open();
    crate::bounds::check(&machine, &expect, "rebuilt");
}

/// The same with groups that were freed.
#[test]
fn freeing_behind_an_unproven_checkpoint_loses_nothing_without_the_index() {
    let machine = Machine::new();
    let vdisk = machine.vdisk();
    (0..24).for_each(|block| machine.write(&vdisk, block, block + 1));
    (0..24).for_each(|block| machine.write(&vdisk, block, block + 101));
    machine.checkpoint(&vdisk);
    let before = vdisk.groups().len();
    machine.make_room(&vdisk);
    assert!(vdisk.groups().len() < before);
    machine.kill();
    let rebuilt = machine.rebuild(2);
    assert!(rebuilt.vdisks[0].damage.is_none(), "{rebuilt:?}");
    machine.open();
    machine.assert_online(&machine.vdisk());
    assert_eq!(machine.reads(&machine.vdisk(), 0..24), (101..125).collect::<Vec<u64>>());
}

/// Payload of small frames is packed, so a dead range of it has ragged ends that no punch gives back.
#[test]
fn what_is_counted_as_punched_came_back() {
    let (machine, _) = crate::bounds::half_dead(true);
    let vdisk = machine.vdisk();
    // An open group takes the frame that proves the checkpoint: what is counted below is the punching alone.
    machine.write(&vdisk, 0, 7);
    machine.flush(&vdisk);
    let (before, stored) = (machine.disk.allocated_bytes(), vdisk.space().stored_bytes);
    machine.make_room(&vdisk);
    let freed = before - machine.disk.allocated_bytes();
    assert_eq!(vdisk.stats.bytes_punched.get(), freed);
    // What was appended meanwhile counts too.
    assert!(vdisk.space().stored_bytes + freed >= stored, "more was counted as given back than came back");
}

/// The newest group proves by its frames, not by its header, that the missing one was synced.
#[test]
fn a_group_missing_in_the_middle_is_damage_though_no_header_says_so() {
    for rebuild in [false, true] {
        let machine = Machine::new();
        let vdisk = machine.vdisk();
        (0..36).for_each(|block| machine.write(&vdisk, block, block + 1));
        machine.flush(&vdisk);
        machine.write(&vdisk, 36, 37);
        machine.flush(&vdisk);
        assert_eq!(vdisk.groups().len(), 3);
        machine.kill();
        let middle = machine.groups().swap_remove(1);
        machine.put(&middle.file, middle.start, vec![0xa5; 4096]);
        if rebuild {
            machine.rebuild(2);
        }
        machine.open();
        match machine.vdisk_by_id(machine.id("v")) {
            Ok(vdisk) => machine.assert_damaged(&vdisk, ""),
            Err(error) => assert_eq!(error.kind, node::Kind::Damaged),
        }
    }
}

/// A deletion that frees its groups, cut short; then the metadata store is lost.
#[test]
fn a_deletion_that_freed_a_middle_group_does_not_bring_back_the_rest() {
    let machine = Machine::new();
    let vdisk = machine.vdisk();
    (0..36).for_each(|block| machine.write(&vdisk, block, block + 1));
    machine.flush(&vdisk);
    assert_eq!(vdisk.groups().len(), 3);
    let (shard, id) = (machine.shard(), machine.id("v"));
    // Dies when the tombstone's group is next; of the marks written so far only the second one survives.
    let mut marks = 0;
    machine.tap.set_rule(move |operation| {
        let is_mark = operation.is_slab() && operation.data.starts_with(b"DRYFREED");
        marks += u32::from(is_mark);
        if marks == 2 && is_mark { crate::tap::Fate::Dies } else { crate::tap::Fate::Happens }
    });
    let clock = machine.world().clock;
    machine.attempt(async move {
        shard.delete(id, false).await?;
        clock.sleep(1_000_000_000).await;
        node::Result::Ok(())
    });
    machine.end(sim::disk::Crash::PowerLoss(sim::disk::Survival::Nothing), sim::disk::InFlight::Done);
    let groups = machine.groups();
    assert_eq!(groups.len(), 3, "no mark was synced");
    // One mark reached the medium all the same.
    let mut mark = bytes::BytesMut::zeroed(4096);
    for copy in [0, 2048] {
        mark[copy..copy + 8].copy_from_slice(b"DRYFREED");
        mark[copy + 8] = 1;
        mark[copy + 16..copy + 24].copy_from_slice(&groups[1].header.group.raw().to_le_bytes());
        let crc = base::crc::crc32c(&mark[copy..copy + 508]);
        mark[copy + 508..copy + 512].copy_from_slice(&crc.to_le_bytes());
    }
    machine.put(&groups[1].file, groups[1].start, mark.freeze());
    assert_eq!(machine.groups().len(), 2);
    let rebuilt = machine.rebuild(2);
    assert!(rebuilt.vdisks.is_empty(), "{rebuilt:?}");
    let shard = machine.open();
    machine.idle(1_000_000_000);
    assert_eq!(shard.records().len(), 0);
}

/// What they write must not arrive behind the back of a start that has read the place already.
#[test]
fn a_start_waits_for_writes_that_a_killed_process_left_under_way() {
    for (header_is_damaged, clean) in [(false, false), (true, false), (false, true)] {
        let machine = Machine::new();
        flushed(&machine, 3);
        if clean {
            machine.close()
        } else {
            machine.kill()
        }
        if header_is_damaged {
            machine.zero("slab-0000", 0, 64);
            machine.zero("slab-0000", 2048, 64);
        }
        machine.tap.take();
        machine.open();
        let slots_start = u64::from(machine.config.pool.group_size).min(MIB);
        let asked: Vec<_> = machine.tap.take().into_iter().filter(|o| &*o.file == "slab-0000").collect();
        // Taking space that is there already is what waits for them, see the tests of metal.
        let waits = asked.iter().position(|o| o.verb == Verb::Allocate && (o.offset, o.len) == (0, 4096));
        let reads =
            asked.iter().position(|o| o.verb == Verb::Read && o.offset >= slots_start).expect("it is looked at");
        match clean {
            true => assert_eq!(waits, None, "a process that ended has nothing under way"),
            false => assert!(waits.is_some_and(|waits| waits < reads), "damaged: {header_is_damaged}: {asked:?}"),
        }
        assert_eq!(machine.reads(&machine.vdisk(), 0..3), [1, 2, 3]);
    }
}

/// The header of the group with the rename cannot be read for a while, and the start before did not get far enough to say
/// that the metadata store is of this disk.
#[test]
fn a_header_that_cannot_be_read_today_takes_no_rename_back() {
    let machine = Machine::new();
    let id = machine.id("v");
    machine.write(&machine.vdisk(), 0, 1);
    machine.flush(&machine.vdisk());
    // What comes next goes into a group of its own.
    machine.close();
    machine.open();
    let before = machine.groups().len();
    let shard = machine.shard();
    machine.run(async move { shard.rename(id, "w").await }).expect("the name is free");
    let renamed = machine.groups().pop().expect("some");
    assert!(machine.groups().len() > before);
    machine.kill();
    machine.tap.set_rule(|o| if o.verb == Verb::Commit { Fate::Dies } else { Fate::Happens });
    assert!(machine.try_open().is_none());
    machine.kill();
    machine.tap.set_rule(move |o| {
        let is_lost = o.verb == Verb::Read && *o.file == *renamed.file && o.offset == renamed.start;
        if is_lost { Fate::Fails } else { Fate::Happens }
    });
    machine.open();
    machine.tap.clear();
    let vdisk = machine.vdisk_by_id(id).expect("it is read-only");
    assert!(matches!(vdisk.health(), vdisk::Health::Damaged(_)));
    drop(vdisk);
    machine.kill();
    machine.open();
    assert_eq!(machine.id("w"), id);
    assert_eq!(machine.vdisk_by_id(id).expect("whole").attributes().name, "w");
}
