//! Never: rot taken for a tail. A break at or below anything that is known to be synced is damage, and said to be;
//! only what lies above is a tail.

use crate::machine::{FRAME, Machine, content};
use crate::tap::{Fate, Operation, Verb};
use base::units::BLOCK;
use pool::HEADER_PAGE;
use vdisk::{Health, Kind};

/// Frame 1 is the birth. Block `b` is written by frame `b + 2` with tag `b + 1`; all are flushed one by one.
fn flushed(machine: &Machine, blocks: u64) {
    let vdisk = machine.vdisk();
    for block in 0..blocks {
        machine.write(&vdisk, block, block + 1);
        machine.flush(&vdisk);
    }
}

#[test]
fn an_unsynced_header_that_is_lost_is_a_tail() {
    let machine = Machine::new();
    flushed(&machine, 1);
    machine.write(&machine.vdisk(), 1, 2);
    machine.kill();
    machine.lose_header(3);
    machine.open();
    machine.assert_online(&machine.vdisk());
    assert_eq!(machine.reads(&machine.vdisk(), 0..3), [1, 0, 0]);
    machine.write(&machine.vdisk(), 2, 9);
    assert_eq!(machine.reads(&machine.restart(), 0..3), [1, 0, 9]);
}

#[test]
fn an_unsynced_payload_that_is_torn_under_a_whole_header_is_a_tail() {
    let machine = Machine::new();
    flushed(&machine, 1);
    machine.write(&machine.vdisk(), 1, 2);
    machine.write(&machine.vdisk(), 0, 3);
    machine.kill();
    machine.tear_payload(4);
    machine.open();
    machine.assert_online(&machine.vdisk());
    assert_eq!(machine.reads(&machine.vdisk(), 0..2), [1, 2], "the block keeps what it had before");
}

#[test]
fn an_unsynced_frame_lost_in_the_middle_takes_all_behind_it() {
    for lose in [Machine::lose_header, Machine::tear_payload] {
        let machine = Machine::new();
        flushed(&machine, 1);
        (1..5).for_each(|block| machine.write(&machine.vdisk(), block, block + 1));
        machine.kill();
        lose(&machine, 4);
        machine.open();
        machine.assert_online(&machine.vdisk());
        assert_eq!(machine.reads(&machine.vdisk(), 0..5), [1, 2, 0, 0, 0]);
    }
}

#[test]
fn a_lost_header_below_the_durable_through_of_a_later_frame_is_rot() {
    let machine = Machine::new();
    flushed(&machine, 3);
    // Says that frame 4 was synced, and was not synced itself.
    machine.write(&machine.vdisk(), 3, 4);
    machine.kill();
    machine.lose_header(4);
    machine.open();
    let vdisk = machine.vdisk();
    machine.assert_damaged(&vdisk, "synced through frame 4");
    assert_eq!(machine.reads(&vdisk, 0..2), [1, 2], "what can be read is served");
}

#[test]
fn a_lost_header_below_the_durable_through_of_the_next_group_is_rot() {
    let machine = Machine::new();
    flushed(&machine, 7);
    let vdisk = machine.vdisk();
    // The group is full: the next frame opens another one, whose header says that frame 8 was synced.
    assert_eq!(vdisk.groups().len(), 1);
    machine.write(&vdisk, 20, 21);
    assert_eq!(vdisk.groups().len(), 2);
    machine.kill();
    let (placed, last) = machine.frame(8);
    let next = machine.groups().pop().expect("two groups");
    assert_eq!((next.header.durable_through, last.sequence), (last.sequence, last.sequence));
    // The frame in the next group is lost too: its header alone is what is left.
    machine.zero(&next.file, next.start + u64::from(HEADER_PAGE), FRAME.into());
    machine.zero(&placed.file, placed.start + u64::from(last.offset), 512);
    machine.open();
    machine.assert_damaged(&machine.vdisk(), "synced through frame 8");
}

#[test]
fn a_break_in_a_sealed_group_is_a_tail_only_above_what_was_synced() {
    for (lost, damaged) in [(14, false), (13, false), (3, true), (4, true)] {
        let machine = Machine::new();
        flushed(&machine, 3);
        let vdisk = machine.vdisk();
        // Frames 5 to 20, over two groups, none of them synced; each says that frame 4 was.
        (3..19).for_each(|block| machine.write(&vdisk, block, block + 1));
        assert_eq!(vdisk.groups().len(), 2);
        machine.kill();
        machine.lose_header(lost);
        machine.open();
        let vdisk = machine.vdisk();
        if damaged {
            machine.assert_damaged(&vdisk, "synced through frame 4");
        } else {
            machine.assert_online(&vdisk);
            let expect: Vec<u64> = (0..19).map(|block| if block + 2 < lost { block + 1 } else { 0 }).collect();
            assert_eq!(machine.reads(&vdisk, 0..19), expect);
        }
    }
}

#[test]
fn a_rotten_extent_is_a_medium_error_and_nothing_else() {
    for through_checkpoint in [false, true] {
        let machine = Machine::new();
        flushed(&machine, 3);
        machine.write(&machine.vdisk(), 3, 4);
        if through_checkpoint {
            machine.checkpoint(&machine.vdisk());
        }
        machine.kill();
        machine.tear_payload(3);
        machine.open();
        let vdisk = machine.vdisk();
        let error = machine.try_read(&vdisk, 1).expect_err("rotten");
        assert_eq!((error.kind, error.at), (Kind::Corrupt, Some(BLOCK)));
        assert_eq!([0, 2, 3].map(|block| machine.read(&vdisk, block)), [1, 3, 4]);
        machine.write(&vdisk, 1, 9);
        assert_eq!(machine.reads(&vdisk, 0..4), [1, 9, 3, 4], "writing the block heals it");
    }
}

#[test]
fn a_rotten_header_below_the_checkpoint_is_no_tail() {
    let machine = Machine::new();
    flushed(&machine, 4);
    machine.checkpoint(&machine.vdisk());
    machine.write(&machine.vdisk(), 4, 5);
    machine.flush(&machine.vdisk());
    machine.kill();
    machine.lose_header(3);
    machine.open();
    // The map says where the extents are; the header is missed by nobody who reads.
    assert_eq!(machine.reads(&machine.vdisk(), 0..5), [1, 2, 3, 4, 5]);
    machine.kill();
    // Without the metadata store the checkpoint behind the break cannot be found by walking: then it is said.
    let rebuilt = machine.rebuild(2);
    assert!(rebuilt.vdisks.iter().all(|vdisk| vdisk.damage.is_some()), "{rebuilt:?}");
    machine.open();
    machine.assert_damaged(&machine.vdisk(), "synced through");
}

#[test]
fn a_rotten_map_page_is_an_error_not_a_hole() {
    let machine = Machine::new();
    flushed(&machine, 2);
    machine.checkpoint(&machine.vdisk());
    machine.kill();
    // Data frames 2 and 3, then the pages of the map, then the record. Zeros would be a good page of holes.
    let (placed, frame) = machine.frame(4);
    let run = frame.runs[0];
    let at = placed.start + u64::from(frame.offset + run.payload_offset);
    machine.zero(&placed.file, at, run.payload_len.into());
    machine.open();
    for block in 0..3 {
        let error = machine.try_read(&machine.vdisk(), block).expect_err("the way to it is rotten");
        assert_eq!(error.kind, Kind::Corrupt);
    }
}

#[test]
fn a_header_that_is_not_the_one_that_was_followed_breaks_the_chain() {
    let machine = Machine::new();
    flushed(&machine, 3);
    machine.write(&machine.vdisk(), 3, 4);
    machine.kill();
    // Frame 3 as it might have been: whole, at its place, of the right number, but another one.
    let (placed, mut frame) = machine.frame(3);
    frame.wall_ns += 1;
    let at = placed.start + u64::from(frame.offset);
    machine.put(&placed.file, at, vdisk::log::frame::encode(&mut frame));
    machine.open();
    machine.assert_damaged(&machine.vdisk(), "read through frame 3 only");
}

#[test]
fn a_checkpoint_over_a_torn_tail_does_not_count() {
    for rebuild in [false, true] {
        let machine = Machine::new();
        flushed(&machine, 2);
        let vdisk = machine.vdisk();
        machine.write(&vdisk, 0, 11);
        machine.write(&vdisk, 1, 12);
        machine.tap.set_rule(|o| if o.verb == Verb::Sync && o.is_slab() { Fate::Dies } else { Fate::Happens });
        let task = vdisk.clone();
        assert!(machine.attempt(async move { task.checkpoint().await }).is_none());
        machine.kill();
        // The pages and the record may have reached the medium; this extent, of the same sync, did not.
        machine.tear_payload(5);
        if rebuild {
            machine.rebuild(2);
        }
        machine.open();
        machine.assert_online(&machine.vdisk());
        assert_eq!(machine.reads(&machine.vdisk(), 0..2), [11, 2], "rebuild {rebuild}");
    }
}

#[test]
fn a_rotten_checkpoint_record_is_said_and_the_log_before_it_read() {
    for rebuild in [false, true] {
        let machine = Machine::new();
        flushed(&machine, 2);
        machine.checkpoint(&machine.vdisk());
        let record = machine.vdisk().sequence().0;
        // Says that the record was synced.
        machine.write(&machine.vdisk(), 5, 6);
        machine.kill();
        machine.tear_payload(record);
        if rebuild {
            machine.rebuild(2);
        }
        machine.open();
        let vdisk = machine.vdisk();
        if !rebuild {
            machine.assert_damaged(&vdisk, "the last checkpoint");
        }
        assert_eq!(machine.reads(&vdisk, 0..2), [1, 2], "the log before it is whole");
    }
}

#[test]
fn a_group_missing_in_the_middle_is_damage_and_its_slot_is_left_alone() {
    let machine = Machine::new();
    flushed(&machine, 40);
    machine.kill();
    let groups = machine.groups();
    assert!(groups.len() >= 3);
    let middle = &groups[1];
    let slot = machine.bytes(&middle.file, middle.start, machine.config.pool.group_size.into());
    machine.put(&middle.file, middle.start, vec![0xa5; HEADER_PAGE as usize]);
    let shard = machine.open();
    machine.create("w", 1 << 20);
    for _ in 0..3 {
        let other = machine.vdisk_by_id(machine.id("w")).expect("harmed by nothing");
        (0..40).for_each(|block| machine.write(&other, block, block + 1));
    }
    assert_eq!(shard.context.pool.usage().slots_quarantined, 1);
    match machine.vdisk_by_id(machine.id("v")) {
        Ok(vdisk) => machine.assert_damaged(&vdisk, ""),
        Err(error) => assert_eq!(error.kind, node::Kind::Damaged),
    }
    machine.close();
    let after = machine.bytes(&middle.file, middle.start, machine.config.pool.group_size.into());
    assert_eq!(
        after[HEADER_PAGE as usize..],
        slot[HEADER_PAGE as usize..],
        "what may be mended by hand is still there"
    );
}

#[test]
fn the_newest_group_without_its_header_is_missed() {
    let machine = Machine::new();
    flushed(&machine, 16);
    machine.kill();
    let newest = machine.groups().pop().expect("two groups");
    assert!(newest.header.first_sequence.0 <= 17, "it holds what was flushed");
    machine.put(&newest.file, newest.start, vec![0xa5; HEADER_PAGE as usize]);
    machine.open();
    // Nothing on the disk says that the log went on; the metadata store does.
    machine.assert_damaged(&machine.vdisk(), "synced through");
    machine.kill();
    // Without that, what is left is that somebody's group cannot be read.
    assert_eq!(machine.rebuild(2).quarantined, 1);
}

#[test]
fn a_log_that_was_closed_cleanly_has_no_tail() {
    for lose in [Machine::lose_header, Machine::tear_payload] {
        let machine = Machine::new();
        flushed(&machine, 2);
        machine.close();
        machine.open();
        machine.write(&machine.vdisk(), 2, 3);
        let vdisk = machine.vdisk();
        machine.close();
        lose(&machine, vdisk.sequence().0);
        machine.open();
        assert!(matches!(machine.vdisk().health(), Health::Damaged(_)), "{:?}", machine.vdisk().health());
    }
}

/// What a start may make of a disk on which one bit has turned: every block as it was flushed, or an error, or a vDisk
/// that is said to be damaged. Never a healthy one that has forgotten something.
fn check_flip(at: u64, rebuild: bool) -> bool {
    let machine = Machine::new();
    flushed(&machine, 3);
    machine.checkpoint(&machine.vdisk());
    let vdisk = machine.vdisk();
    [(0, 11), (3, 4)].iter().for_each(|(block, tag)| machine.write(&vdisk, *block, *tag));
    machine.flush(&vdisk);
    // The only one that may go: it says that all before it were synced.
    machine.write(&vdisk, 9, 10);
    machine.kill();
    let placed = machine.groups().swap_remove(0);
    machine.flip(&placed.file, placed.start + at);
    if rebuild {
        let rebuilt = machine.rebuild(2);
        if !rebuilt.lost.is_empty() {
            return true;
        }
    }
    let shard = machine.open();
    let Some(record) = shard.records().into_iter().find(|record| record.name == "v") else {
        assert!(shard.quarantined > 0, "flipped at {at:#x}: the vDisk is gone without a word");
        return true;
    };
    let Ok(vdisk) = machine.vdisk_by_id(record.id) else { return true };
    let mut noticed = vdisk.health() != Health::Online;
    for (block, tag) in [11, 2, 3, 4].into_iter().enumerate() {
        match machine.try_read(&vdisk, block as u64) {
            Ok(found) => {
                assert!(noticed || found == tag, "flipped at {at:#x}, rebuild {rebuild}: block {block} has {found}")
            }
            Err(error) => {
                assert_eq!(error.kind, Kind::Corrupt);
                noticed = true;
            }
        }
    }
    noticed
}

#[test]
fn one_flipped_bit_anywhere_is_never_taken_for_a_tail() {
    // Header page, birth, three data frames, pages, record, three data frames.
    let end = u64::from(HEADER_PAGE) + 12 * BLOCK;
    let mut noticed = 0;
    for (i, at) in (0..end).step_by(216).enumerate() {
        noticed += u64::from(check_flip(at, i % 2 == 0));
    }
    assert!(noticed > 50, "only {noticed} were noticed at all");
}

/// Writes that come while a checkpoint's record is on its way are synced with it, in another group. Of that group the
/// metadata store hears before it hears of the checkpoint.
#[test]
fn a_checkpoint_that_is_told_late_takes_nothing_back() {
    let machine = Machine::new();
    let vdisk = machine.vdisk();
    (0..8).for_each(|block| machine.write(&vdisk, block, block + 1));
    machine.flush(&vdisk);
    let is_record = |o: &Operation| o.verb == Verb::Write && o.data.starts_with(b"DSFR") && o.data[5] == 3;
    machine.tap.set_rule(move |o| if is_record(o) { Fate::Waits } else { Fate::Happens });
    let task = vdisk.clone();
    machine.world().spawn(async move { task.checkpoint().await.expect("the disk works") });
    machine.idle(1_000_000);
    for block in 10..40 {
        let task = vdisk.clone();
        let write = async move { task.write(block * BLOCK, content(block, block + 1)).await.expect("room") };
        machine.world().spawn(write);
    }
    machine.idle(3_000_000_000);
    assert_eq!(vdisk.durable_sequence(), vdisk.sequence(), "they were synced with the record");
    machine.kill();
    let newest = machine.groups().pop().expect("there are some");
    assert!(machine.groups().len() >= 2);
    machine.put(&newest.file, newest.start, vec![0xa5; HEADER_PAGE as usize]);
    machine.open();
    machine.assert_damaged(&machine.vdisk(), "was synced through");
}
