//! Lists of groups: long ones are written in the short form, and what older builds wrote in the long one is served all the same.

use crate::keeper::RETURNS;
use crate::machine::{GROUP, Machine};
use crate::rewind::{SECOND_NS, keep, snapshot_at};
use base::{GroupId, VdiskId, Writer};
use bytes::Bytes;
use meta::{MemStore, VdiskRecord};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use vdisk::Moment;
use vdisk::log::frame::{self, FrameKind, RunKind};
use vdisk::log::{CheckpointRecord, Record};

/// In some 40 groups.
const BLOCKS: u64 = 600;

/// Tags from 1 on, flushed.
fn filled() -> Machine {
    let machine = Machine::new();
    machine.write_tags(&machine.vdisk(), 1..=BLOCKS);
    machine.flush(&machine.vdisk());
    machine
}

/// As builds from before the short form write it.
fn in_long_form(record: &CheckpointRecord) -> Vec<u8> {
    let without = CheckpointRecord { groups: Vec::new(), ..record.clone() };
    let mut w = Writer { bytes: Record::Checkpoint(Rc::new(without)).encode() };
    assert_eq!(w.bytes[..2], [6, 1], "it has nothing but groups");
    w.bytes.truncate(w.bytes.len() - 4);
    w.u32_le(record.groups.len() as u32);
    for entry in &record.groups {
        w.u64_le(entry.group.raw()).u32_le(entry.len).u64_le(entry.last_sequence.0);
        w.u32_le(entry.data).u32_le(entry.pages).u32_le(entry.punched);
    }
    w.bytes
}

/// The record of the checkpoint that was taken last, and the index that names it, become those of an older build.
fn make_old(machine: &Machine, sequence: u64) -> CheckpointRecord {
    let (placed, mut frame) = machine.frame(sequence);
    let run = frame.runs[0];
    let at = placed.start + u64::from(frame.offset);
    let payload = machine.bytes(&placed.file, at + u64::from(run.payload_offset), run.payload_len.into());
    assert_eq!(payload[..2], [6, 6], "the short form");
    let Ok(Record::Checkpoint(record)) = Record::decode(&payload) else { panic!("not a checkpoint") };
    let payload = in_long_form(&record);
    let longer = payload.len() as u32 - run.payload_len;
    (frame.len, frame.runs[0].payload_len) = (frame.len + longer, run.payload_len + longer);
    assert!(longer > 0 && frame.offset + frame.len <= GROUP, "the group is too full for it");
    frame.crcs[0] = base::crc::crc32c(&payload);
    let mut bytes = frame::encode(&mut frame);
    bytes.resize(run.payload_offset as usize, 0);
    bytes.extend(payload);
    machine.put(&placed.file, at, bytes);
    let mut content = machine.store.borrow().snapshot();
    let of_vdisk = content.iter_mut().find(|(key, _)| key.starts_with(meta::keys::VDISKS));
    let (_, value) = of_vdisk.expect("its record");
    let mut known = VdiskRecord::decode(value).expect("a good record");
    let hint = known.checkpoint.as_mut().expect("the last one");
    assert_eq!((hint.sequence.0, hint.len + longer), (sequence, frame.len));
    hint.len = frame.len;
    *value = known.encode();
    machine.store.replace(MemStore::restore(machine.world().clock, 0, content));
    Rc::unwrap_or_clone(record)
}

#[test]
fn what_an_older_build_has_written_is_served_and_stored_in_the_short_form_next() {
    for (way, come_back) in RETURNS.into_iter().enumerate() {
        let machine = filled();
        let vdisk = machine.vdisk();
        machine.checkpoint(&vdisk);
        machine.kill();
        let old = make_old(&machine, vdisk.sequence().0);
        assert!(old.groups.len() > 32, "{} groups", old.groups.len());
        machine.open();
        machine.assert_online(&machine.vdisk());
        let read = machine.checkpoint_record(&machine.vdisk());
        assert_eq!(read, old, "it goes by the old record");
        machine.write(&machine.vdisk(), 0, 1001);
        machine.flush(&machine.vdisk());
        let expect: Vec<u64> = [1001].into_iter().chain(2..=BLOCKS).collect();
        // The old record is behind what is synced now, so that it is found without an index as well.
        come_back(&machine, 2);
        machine.assert_online(&machine.vdisk());
        assert_eq!(machine.reads(&machine.vdisk(), 0..BLOCKS), expect, "way {way}");
        machine.checkpoint(&machine.vdisk());
        machine.check_checkpoint(&machine.vdisk());
        machine.make_room(&machine.vdisk());
        come_back(&machine, 3);
        assert_eq!(machine.reads(&machine.vdisk(), 0..BLOCKS), expect, "way {way}");
        machine.kill();
        assert!(records(&machine).is_superset(&[(6, 1), (6, 6)].into()), "both forms are on the disk");
    }
}

/// Tag and version of every control record on the disk.
fn records(machine: &Machine) -> BTreeSet<(u8, u8)> {
    let mut found = BTreeSet::new();
    for placed in machine.groups() {
        for frame in machine.frames(&placed).into_iter().filter(|frame| frame.kind == FrameKind::Control) {
            let Some(run) = frame.runs.first() else { continue };
            let at = placed.start + u64::from(frame.offset + run.payload_offset);
            let begin = machine.bytes(&placed.file, at, 2);
            found.insert((begin[0], begin[1]));
        }
    }
    found
}

#[test]
fn all_that_begins_with_a_long_list_comes_back() {
    for (way, come_back) in RETURNS.into_iter().enumerate() {
        let machine = filled();
        let id = machine.id("v");
        keep(&machine, 3600 * SECOND_NS, 0);
        let kept = machine.snapshot(id, "s");
        let clone = machine.clone_of(id, kept, "c").id;
        let write = |count: u64, tag: u64| {
            machine.write_tags(&machine.vdisk(), tag..tag + count);
            machine.flush(&machine.vdisk());
            machine.idle(SECOND_NS);
        };
        machine.idle(SECOND_NS);
        write(300, 1001);
        let then_ns = machine.world().clock.wall().0 - SECOND_NS / 2;
        write(100, 2001);
        let past = snapshot_at(&machine, Moment::At(then_ns)).id;
        let shard = machine.shard();
        machine.run(async move { shard.rollback(id, kept).await }).expect("room");
        let (found, short) = (records(&machine), [(1, 5), (6, 6), (10, 3), (14, 3)].into());
        assert!(found.is_superset(&short), "{found:?}");
        let first: Vec<u64> = (1..=BLOCKS).collect();
        let middle: Vec<u64> = (1001..1301).chain(301..=BLOCKS).collect();
        let of_clone: Vec<u64> = (1..=7).chain([5001]).chain(9..=BLOCKS).collect();
        {
            let clone = machine.vdisk_by_id(clone).expect("good");
            machine.write(&clone, 7, 5001);
            machine.checkpoint(&clone);
        }
        for node in [2, 3] {
            assert_eq!(machine.reads(&machine.vdisk(), 0..BLOCKS), first, "way {way}");
            let clone = machine.vdisk_by_id(clone).expect("good");
            assert_eq!(machine.reads(&clone, 0..BLOCKS), of_clone, "way {way}");
            assert_eq!(machine.read_snapshot(id, kept, 0..BLOCKS), first, "way {way}");
            assert_eq!(machine.read_snapshot(id, past, 0..BLOCKS), middle, "way {way}");
            come_back(&machine, node);
            machine.settle();
        }
        // Nobody but the clone has them any more.
        for snapshot in [kept, past] {
            machine.delete_snapshot(id, snapshot);
        }
        machine.delete(id);
        machine.settle();
        come_back(&machine, 4);
        machine.settle();
        let clone = machine.vdisk_by_id(clone).expect("good");
        assert_eq!(machine.reads(&clone, 0..BLOCKS), of_clone, "way {way}");
    }
}

/// What was there, to be put back.
struct Forged {
    file: String,
    at: u64,
    before: Bytes,
}

impl Forged {
    fn put_back(&self, machine: &Machine) {
        machine.put(&self.file, self.at, self.before.clone());
    }
}

/// The record in a frame becomes one of a build that is not there yet; what follows it in its group continues it.
fn make_newer(machine: &Machine, vdisk: VdiskId, sequence: u64, form: [u8; 2]) -> Forged {
    let groups = machine.groups().into_iter().filter(|placed| placed.header.vdisk == vdisk);
    let mut all =
        groups.flat_map(|placed| machine.frames(&placed).into_iter().map(move |frame| (placed.clone(), frame)));
    let (placed, mut frame) = all.find(|(_, frame)| frame.sequence.0 == sequence).expect("it is on the disk");
    let run = frame.runs[0];
    let at = placed.start + u64::from(frame.offset);
    let before = machine.bytes(&placed.file, at, frame.len.into());
    let mut payload = before[run.payload_offset as usize..].to_vec();
    assert_eq!(payload[..2], form);
    payload[1] = u8::MAX;
    frame.crcs[0] = base::crc::crc32c(&payload);
    let mut bytes = frame::encode(&mut frame);
    bytes.resize(run.payload_offset as usize, 0);
    bytes.extend(payload);
    machine.put(&placed.file, at, bytes);
    let mut chains = BTreeMap::from([(frame.sequence, frame.crc)]);
    let mut later: Vec<_> = all.filter(|(_, frame)| frame.sequence.0 > sequence).collect();
    later.sort_by_key(|(_, frame)| frame.sequence);
    for (of, mut frame) in later {
        assert_eq!(of.header.group, placed.header.group, "its header says how the one before ended");
        frame.previous_crc = *chains.values().next_back().expect("the one before");
        let at = of.start + u64::from(frame.offset);
        for run in frame.runs.clone().into_iter().filter(|run| run.kind == RunKind::Control) {
            let payload_at = at + u64::from(run.payload_offset);
            let Ok(record) = Record::decode(&machine.bytes(&of.file, payload_at, run.payload_len.into())) else {
                continue;
            };
            let Record::Checkpoint(mut record) = record else { continue };
            // It names the frame that it covers by that frame's checksum.
            let covers = &mut Rc::make_mut(&mut record).covers;
            covers.chain = chains.get(&covers.sequence).copied().unwrap_or(covers.chain);
            let payload = Record::Checkpoint(record).encode();
            frame.crcs[0] = base::crc::crc32c(&payload);
            machine.put(&of.file, payload_at, payload);
        }
        machine.put(&of.file, at, frame::encode(&mut frame));
        chains.insert(frame.sequence, frame.crc);
    }
    Forged { file: placed.file, at, before }
}

fn ids(machine: &Machine) -> BTreeSet<GroupId> {
    machine.groups().into_iter().map(|placed| placed.header.group).collect()
}

fn comes_back(machine: &Machine, rebuild: Option<u16>) {
    machine.kill();
    if let Some(node) = rebuild {
        machine.rebuild(node);
    }
    machine.open();
    machine.settle();
}

#[test]
fn a_checkpoint_of_a_newer_build_is_refused_and_nothing_is_freed() {
    for rebuild in [false, true] {
        let machine = filled();
        let vdisk = machine.vdisk();
        machine.checkpoint(&vdisk);
        machine.kill();
        let (before, forged) = (ids(&machine), make_newer(&machine, vdisk.id, vdisk.sequence().0, [6, 6]));
        comes_back(&machine, rebuild.then_some(2));
        let refused = machine.vdisk_by_id(vdisk.id).map(|_| ()).expect_err("a form unknown to this build").to_string();
        assert!(rebuild || refused.contains("unknown to this build"), "{refused}");
        machine.kill();
        assert!(ids(&machine).is_superset(&before));
        forged.put_back(&machine);
        comes_back(&machine, rebuild.then_some(3));
        assert_eq!(machine.reads(&machine.vdisk(), 0..BLOCKS), (1..=BLOCKS).collect::<Vec<_>>());
    }
}

#[test]
fn a_clone_whose_birth_is_of_a_newer_build_keeps_all_that_it_may_need() {
    for rebuild in [false, true] {
        let machine = filled();
        let id = machine.id("v");
        let kept = machine.snapshot(id, "s");
        let clone = machine.clone_of(id, kept, "c").id;
        machine.kill();
        let forged = make_newer(&machine, clone, 1, [1, 5]);
        comes_back(&machine, rebuild.then_some(2));
        machine.vdisk_by_id(clone).map(|_| ()).expect_err("a form unknown to this build");
        // Its source lets go of everything.
        machine.delete_snapshot(id, kept);
        machine.trim(&machine.vdisk(), 0, BLOCKS);
        machine.settle();
        comes_back(&machine, rebuild.then_some(3));
        machine.kill();
        forged.put_back(&machine);
        comes_back(&machine, rebuild.then_some(4));
        let clone = machine.vdisk_by_id(clone).expect("good");
        assert_eq!(machine.reads(&clone, 0..BLOCKS), (1..=BLOCKS).collect::<Vec<_>>());
    }
}

#[test]
fn what_a_snapshot_may_need_whose_record_is_of_a_newer_build_is_kept() {
    let machine = filled();
    let (vdisk, kept) = (machine.vdisk(), machine.snapshot(machine.id("v"), "s"));
    assert_eq!(machine.read_snapshot(vdisk.id, kept, 0..1), [1], "it is stored");
    let stored = vdisk.sequence().0;
    machine.write(&vdisk, 0, 1001);
    machine.checkpoint(&vdisk);
    machine.kill();
    let before = ids(&machine);
    make_newer(&machine, vdisk.id, stored, [6, 6]);
    machine.open();
    machine.assert_online(&machine.vdisk());
    machine.trim(&machine.vdisk(), 0, BLOCKS);
    machine.settle();
    machine.kill();
    assert!(ids(&machine).is_superset(&before));
}
