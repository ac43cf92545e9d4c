//! Never: reclaim on the word of memory. A group is freed when a synced checkpoint that the index names no longer
//! reaches it. Order: sync pages → record → sync → index → free; a crash at any of these operations loses nothing.

use crate::machine::{Machine, content, manual};
use crate::tap::{Fate, Operation, Verb, WAIT_NS};
use base::GroupId;
use base::units::BLOCK;
use pool::{SlotPage, decode_slot_page};
use sim::disk::{Crash, InFlight, Survival};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use vdisk::log::frame::{self, Frame, FrameKind};
use vdisk::log::{CheckpointRecord, Record};

/// What an operation is to the engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    Pages,
    Record,
    Sync,
    Index,
    FreeMark,
    Punch,
    Other,
}

pub fn step(operation: &Operation) -> Step {
    let frame = (0..operation.data.len()).step_by(16).find_map(|at| frame::decode(&operation.data[at..]).ok());
    match operation.verb {
        Verb::Commit if operation.file.starts_with("vdisk/") => Step::Index,
        Verb::Sync if operation.is_slab() => Step::Sync,
        Verb::Punch if operation.is_slab() => Step::Punch,
        Verb::Write if operation.is_slab() => match (frame, decode_slot_page(&operation.data)) {
            (Some(Frame { kind: FrameKind::Pages, .. }), _) => Step::Pages,
            (Some(Frame { kind: FrameKind::Control, .. }), _) => Step::Record,
            (None, SlotPage::Free(_)) => Step::FreeMark,
            _ => Step::Other,
        },
        _ => Step::Other,
    }
}

/// 24 blocks with tags 1 to 24 below a checkpoint, 12 of them overwritten (tags 101 and up) behind it, all flushed; the
/// first group is dead once the next checkpoint is taken.
fn prepared(recycled_bytes_max: u64) -> Machine {
    let mut config = manual();
    config.pool.recycled_bytes_max = recycled_bytes_max;
    let machine = Machine::with(config, 1);
    let vdisk = machine.vdisk();
    (0..24).for_each(|block| machine.write(&vdisk, block, block + 1));
    machine.flush(&vdisk);
    machine.checkpoint(&vdisk);
    (0..12).for_each(|block| machine.write(&vdisk, block, block + 101));
    machine.flush(&vdisk);
    machine.tap.take();
    machine
}

fn expected() -> Vec<u64> {
    (0..24).map(|block| if block < 12 { block + 101 } else { block + 1 }).collect()
}

#[test]
fn sync_then_index_then_free() {
    let machine = prepared(0);
    let vdisk = machine.vdisk();
    let before: BTreeSet<GroupId> = vdisk.groups().into_iter().collect();
    machine.checkpoint(&vdisk);
    machine.make_room(&vdisk);
    let steps: Vec<Step> = machine.tap.take().iter().map(step).filter(|step| *step != Step::Other).collect();
    let at =
        |wanted: Step| steps.iter().position(|step| *step == wanted).unwrap_or_else(|| panic!("{wanted:?}: {steps:?}"));
    let last = |wanted: Step| steps.iter().rposition(|step| *step == wanted).expect("it is there");
    let synced_record = (0..steps.len()).find(|i| *i > at(Step::Record) && steps[*i] == Step::Sync).expect("a sync");
    assert!(last(Step::Pages) < at(Step::Record), "{steps:?}");
    let committed = (0..steps.len()).find(|i| *i > synced_record && steps[*i] == Step::Index);
    assert!(committed.is_some_and(|committed| committed < at(Step::FreeMark)), "{steps:?}");
    // The mark is synced before the slot loses its blocks.
    assert!(steps[at(Step::FreeMark)..at(Step::Punch)].contains(&Step::Sync), "{steps:?}");
    let after: BTreeSet<GroupId> = vdisk.groups().into_iter().collect();
    assert!(before.difference(&after).count() > 0, "something came free");
    machine.kill();
    let index = machine.store.borrow().snapshot();
    assert!(!index.is_empty());
    machine.open();
    assert_eq!(machine.reads(&machine.vdisk(), 0..24), expected());
}

#[test]
fn without_a_checkpoint_nothing_comes_free() {
    let machine = prepared(0);
    let vdisk = machine.vdisk();
    let before = vdisk.groups().len();
    // The live map does not reach the first group any more; the last checkpoint does.
    for _ in 0..3 {
        machine.make_room(&vdisk);
    }
    assert_eq!(vdisk.groups().len(), before);
    assert!(machine.tap.take().iter().all(|o| ![Step::FreeMark, Step::Punch].contains(&step(o))));
    assert_eq!(machine.reads(&machine.restart(), 0..24), expected());
}

#[test]
fn a_checkpoint_that_failed_frees_nothing() {
    for failing in [Step::Pages, Step::Record, Step::Sync, Step::Index] {
        let machine = prepared(0);
        let vdisk = machine.vdisk();
        let before = vdisk.groups();
        let places: Vec<_> = before.iter().map(|group| machine.group(*group)).collect();
        machine.tap.set_rule(move |operation| if step(operation) == failing { Fate::Fails } else { Fate::Happens });
        let task = vdisk.clone();
        machine.run(async move { task.checkpoint().await }).expect_err("it cannot be had");
        let task = vdisk.clone();
        let _ = machine.run(async move { task.make_room().await });
        // (Of groups whose first append failed nothing was ever part of the log.)
        let is_before = |o: &Operation| places.iter().any(|at| *at.file == *o.file && at.start == o.offset);
        let freed = machine.tap.take().iter().filter(|o| step(o) == Step::FreeMark && is_before(o)).count();
        assert_eq!(freed, 0, "{failing:?}");
        assert!(before.iter().all(|group| vdisk.groups().contains(group)), "{failing:?}");
        machine.lose_power();
        machine.open();
        machine.assert_online(&machine.vdisk());
        assert_eq!(machine.reads(&machine.vdisk(), 0..24), expected(), "{failing:?}");
    }
}

/// The machine dies before operation `dies_at` of checkpoint and reclaim. What it was, if there was one.
fn die_at(dies_at: usize, crash: Crash, in_flight: InFlight, recycled: u64, rebuild: bool) -> Option<Step> {
    let machine = prepared(recycled);
    let vdisk = machine.vdisk();
    let died_at = Rc::new(Cell::new(None));
    let (seen, mut count) = (died_at.clone(), 0);
    machine.tap.set_rule(move |operation| {
        count += usize::from(operation.changes());
        if operation.changes() && count > dies_at {
            seen.set(seen.get().or(Some(step(operation))));
            return Fate::Dies;
        }
        Fate::Happens
    });
    let task = vdisk.clone();
    let ended = machine.attempt(async move {
        task.checkpoint().await?;
        task.make_room().await
    });
    assert_eq!(ended.is_none(), died_at.get().is_some());
    machine.end(crash, in_flight);
    if rebuild {
        let rebuilt = machine.rebuild(2);
        assert!(rebuilt.lost.is_empty() && rebuilt.quarantined == 0, "{rebuilt:?}");
    }
    machine.open();
    let vdisk = machine.vdisk();
    let context = format!("died at {dies_at} ({:?}), {crash:?}, {in_flight:?}, rebuild {rebuild}", died_at.get());
    assert_eq!(vdisk.health(), vdisk::Health::Online, "{context}");
    assert_eq!(machine.reads(&vdisk, 0..24), expected(), "{context}");
    // And it can be done again, with the same result and nothing left over.
    machine.checkpoint(&vdisk);
    machine.make_room(&vdisk);
    assert_eq!(machine.reads(&machine.restart(), 0..24), expected(), "{context}");
    let vdisk = machine.vdisk();
    assert_eq!(machine.shard().context.pool.usage().slots_used, vdisk.groups().len() as u64, "{context}");
    died_at.get()
}

const ENDS: [(Crash, InFlight); 6] = [
    (Crash::Kill, InFlight::Undone),
    (Crash::Kill, InFlight::Chance),
    (Crash::PowerLoss(Survival::Nothing), InFlight::Undone),
    (Crash::PowerLoss(Survival::Everything), InFlight::Done),
    (Crash::PowerLoss(Survival::Pages), InFlight::Chance),
    (Crash::PowerLoss(Survival::Sectors), InFlight::Chance),
];

#[test]
fn a_crash_at_any_step_of_checkpoint_and_reclaim_loses_nothing() {
    let mut died: Vec<Step> = Vec::new();
    for recycled in [0, 1 << 20] {
        for (crash, in_flight) in ENDS {
            for rebuild in [false, true] {
                let steps = (0..).map_while(|dies_at| die_at(dies_at, crash, in_flight, recycled, rebuild));
                died.extend(steps);
            }
        }
    }
    for wanted in [Step::Pages, Step::Record, Step::Sync, Step::Index, Step::FreeMark, Step::Punch] {
        assert!(died.contains(&wanted), "never died at {wanted:?}");
    }
}

/// The last checkpoint's record on the disk, changed; its frame stays valid. (It has few groups, so that its length does not depend on
/// what is said of them.)
fn forge_checkpoint(machine: &Machine, sequence: u64, forge: impl Fn(&mut CheckpointRecord)) {
    let (placed, mut frame) = machine.frame(sequence);
    let run = frame.runs[0];
    let at = placed.start + u64::from(frame.offset);
    let payload = machine.bytes(&placed.file, at + u64::from(run.payload_offset), run.payload_len.into());
    let Ok(Record::Checkpoint(mut record)) = Record::decode(&payload) else { panic!("not a checkpoint") };
    forge(Rc::make_mut(&mut record));
    let payload = Record::Checkpoint(record).encode();
    assert_eq!(payload.len() as u32, run.payload_len);
    frame.crcs[0] = base::crc::crc32c(&payload);
    let mut bytes = frame::encode(&mut frame);
    bytes.resize(run.payload_offset as usize, 0);
    bytes.extend(payload);
    machine.put(&placed.file, at, bytes);
}

#[test]
fn counters_that_say_dead_are_no_proof() {
    let machine = prepared(0);
    let vdisk = machine.vdisk();
    machine.checkpoint(&vdisk);
    machine.kill();
    // Every group is said to hold nothing that lives; the map says otherwise.
    forge_checkpoint(&machine, vdisk.sequence().0, |record| {
        record.groups.iter_mut().for_each(|group| (group.data, group.pages) = (0, 0));
    });
    machine.open();
    let vdisk = machine.vdisk();
    machine.assert_online(&vdisk);
    machine.write(&vdisk, 30, 31);
    machine.tap.take();
    machine.checkpoint(&vdisk);
    machine.make_room(&vdisk);
    let looked = machine.tap.take().iter().filter(|o| o.verb == Verb::Read).count();
    assert!(looked > 0, "it looked");
    assert_eq!(machine.reads(&vdisk, 0..24), expected());
    assert_eq!(machine.reads(&machine.restart(), 0..24), expected());
}

#[test]
fn a_group_that_cannot_be_read_to_its_end_is_kept() {
    let machine = prepared(0);
    let vdisk = machine.vdisk();
    machine.checkpoint(&vdisk);
    machine.kill();
    let (placed, _) = machine.frame(5);
    machine.lose_header(5);
    machine.open();
    let vdisk = machine.vdisk();
    machine.make_room(&vdisk);
    assert!(vdisk.groups().contains(&placed.header.group));
    assert!(vdisk.trouble().is_some(), "it says so");
    assert_eq!(machine.reads(&vdisk, 0..24), expected());
}

#[test]
fn a_checkpoint_that_cannot_be_looked_into_frees_nothing() {
    let machine = prepared(0);
    let vdisk = machine.vdisk();
    machine.checkpoint(&vdisk);
    let before = vdisk.groups();
    // Reads of pages fail: what the checkpoint reaches is not known.
    machine.tap.set_rule(|operation| if operation.verb == Verb::Read { Fate::Fails } else { Fate::Happens });
    let task = vdisk.clone();
    let _ = machine.run(async move { task.make_room().await });
    machine.tap.clear();
    assert_eq!(vdisk.groups(), before);
    assert_eq!(machine.reads(&machine.restart(), 0..24), expected());
}

#[test]
fn what_died_while_the_checkpoint_was_written_waits_for_the_next() {
    let machine = prepared(0);
    let vdisk = machine.vdisk();
    // Between the freeze and the record, the rest is overwritten: the checkpoint still needs what was there.
    let task = vdisk.clone();
    let writes = Rc::new(Cell::new(false));
    let (writer, started) = (vdisk.clone(), writes.clone());
    let world = machine.world();
    machine.tap.set_rule(move |operation| {
        if step(operation) == Step::Pages && !started.replace(true) {
            let writer = writer.clone();
            world.spawn(async move {
                for block in 12..24 {
                    let data = content(block, block + 201);
                    writer.write(block * BLOCK, data).await.expect("room");
                }
            });
        }
        Fate::Happens
    });
    machine
        .run(async move {
            task.checkpoint().await?;
            task.make_room().await
        })
        .expect("the disk works");
    assert!(writes.get());
    let tags = machine.reads(&vdisk, 12..24);
    machine.lose_power();
    machine.open();
    machine.assert_online(&machine.vdisk());
    // None of these writes was flushed; each block has one of its two values, in the order of the log.
    let found = machine.reads(&machine.vdisk(), 12..24);
    let new = found.iter().take_while(|tag| **tag > 200).count();
    assert!(tags.len() == 12 && found[new..].iter().all(|tag| *tag < 200), "{found:?}");
    assert_eq!(machine.reads(&machine.vdisk(), 0..12), expected()[..12]);
}

#[test]
fn a_read_under_way_keeps_the_slot_from_being_given_away() {
    let machine = prepared(1 << 20);
    let vdisk = machine.vdisk();
    // Its address was looked up, its bytes are read a second later.
    let mut left = 1;
    machine.tap.set_rule(move |operation| {
        let waits = operation.verb == Verb::Read && left > 0;
        left -= i32::from(waits);
        if waits { Fate::Waits } else { Fate::Happens }
    });
    let slow = Rc::new(Cell::new(None));
    let (reader, answer) = (vdisk.clone(), slow.clone());
    machine.world().spawn(async move { answer.set(Some(reader.read(20 * BLOCK, BLOCK as u32).await)) });
    machine.idle(1_000);
    let group = machine.group_of(20);
    // Meanwhile the extent dies, its group comes free, and others write.
    for round in 1..4 {
        (12..24).for_each(|block| machine.write(&vdisk, block, 1000 * round + block));
        machine.checkpoint(&vdisk);
        machine.make_room(&vdisk);
    }
    (0..40).for_each(|block| machine.write(&vdisk, 100 + block, 5000 + block));
    machine.idle(2 * WAIT_NS);
    assert!(!vdisk.groups().contains(&group), "it was freed");
    let segments = slow.take().expect("answered").expect("what was there when it began");
    let block::Segment::Bytes(bytes) = &segments[0] else { panic!("{segments:?}") };
    assert!(*bytes == content(20, 21));
}
