//! The disk is full, and histories hold what would be room: they go first, whoever writes, and a frame that waits for that is
//! answered in time.

use crate::machine::{Machine, manual};
use crate::tap::{Fate, Operation, Verb};
use base::units::{KIB, MIB};
use node::ShardConfig;
use std::cell::RefCell;
use std::rc::Rc;
use vdisk::log::Record;
use vdisk::log::frame::{self, FrameKind};
use vdisk::{Rewind, Vdisk};

const SECOND_NS: u64 = 1_000_000_000;

fn nothing_recycled() -> ShardConfig {
    let mut config = manual();
    config.pool.recycled_bytes_max = 0;
    config
}

fn keep(machine: &Machine, vdisk: &Rc<Vdisk>) {
    let (vdisk, rewind) = (vdisk.clone(), Rewind { window_ns: 3200 * SECOND_NS, limit_bytes: 0 });
    machine.run(async move { vdisk.set_rewind(Some(rewind)).await }).expect("room");
}

/// Overwrites blocks from 0 on, so many at a time, so often.
fn churn(machine: &Machine, vdisk: &Rc<Vdisk>, blocks: u64, times: u64) {
    for time in 1..=times {
        for block in (0..blocks).step_by(4) {
            let tags: Vec<u64> = (0..4).map(|of| 1000 * time + block + of).collect();
            machine.try_write(vdisk, block, &tags).expect("it lives").expect("room");
        }
    }
}

/// There is room for a few frames more.
fn nearly_full(machine: &Machine) {
    machine.disk.set_capacity(machine.disk.allocated_bytes() + 64 * KIB);
}

/// Syncs of slabs take a second.
fn slow_syncs(machine: &Machine) {
    machine.tap.set_rule(|o| if o.verb == Verb::Sync && o.is_slab() { Fate::Waits } else { Fate::Happens });
}

/// Writes blocks from `block` on until a write takes longer than this; its number, and how long it took.
fn write_until_it_waits(machine: &Machine, vdisk: &Rc<Vdisk>, block: u64) -> (u64, u64) {
    for block in block.. {
        let begun_ns = machine.world().now().0;
        let written = machine.try_write(vdisk, block, &[block]).expect("it lives");
        let took_ns = machine.world().now().0 - begun_ns;
        assert!(written.is_ok(), "block {block} after {} ms: {written:?}", took_ns / 1_000_000);
        if took_ns > SECOND_NS / 2 {
            return (block, took_ns);
        }
    }
    unreachable!()
}

/// Whoever writes comes first in any order, whoever has the history comes last, and each of those in between takes a second.
#[test]
fn the_history_of_the_last_goes_before_anything_else_is_done_for_room() {
    let machine = Machine::with(nothing_recycled(), 5);
    machine.disk.set_capacity(1 << 30);
    let writer = machine.vdisk();
    // Some of it is worth re-packing.
    (0..120).for_each(|block| machine.write(&writer, block, 1));
    (0..120).step_by(2).for_each(|block| machine.write(&writer, block, 2));
    for name in NAMES {
        let vdisk = machine.create(name, MIB);
        machine.write(&vdisk, 0, 1);
    }
    let last = machine.create("z", 4 * MIB);
    assert!(last.id > writer.id);
    keep(&machine, &last);
    churn(&machine, &last, 24, 30);
    nearly_full(&machine);
    slow_syncs(&machine);
    let (_, took_ns) = write_until_it_waits(&machine, &writer, 200);
    assert!(took_ns < 8 * SECOND_NS, "{} ms", took_ns / 1_000_000);
    assert!(last.rewind_info().expect("on").cut_short);
    assert_eq!(writer.stats.relocated_bytes.get(), 0, "nothing is moved while a history has room");
}

const NAMES: [&str; 40] = [
    "a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8", "a9", "b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8",
    "b9", "c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8", "c9", "d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7",
    "d8", "d9",
];

/// A set of snapshots meets a frame that waits for room. The set is refused: it would hold up those that give the room.
#[test]
fn a_set_of_snapshots_makes_no_error_of_a_write_that_waits_for_room() {
    let machine = Machine::with(nothing_recycled(), 5);
    let (writer, giver) = (machine.vdisk(), machine.create("z", 4 * MIB));
    keep(&machine, &giver);
    churn(&machine, &giver, 24, 30);
    nearly_full(&machine);
    slow_syncs(&machine);
    let written = Rc::new(RefCell::new(Vec::new()));
    let (vdisk, answers) = (writer.clone(), written.clone());
    machine.spawn(async move {
        for block in 200..260 {
            let answer = vdisk.write(block * 4096, crate::machine::content(block, block)).await;
            answers.borrow_mut().push(answer);
        }
    });
    machine.idle(SECOND_NS / 2);
    assert!(writer.wants_room());
    let (shard, pool, members) = (machine.shard(), machine.shard().context.pool.clone(), vec![writer.id, giver.id]);
    let paused = machine.run(async move {
        let set = pool.next_snapshot_id().await?;
        shard.pause(set, "set", members).await
    });
    assert_eq!(paused.expect_err("nobody can say when").kind, node::Kind::Full);
    assert!(writer.wants_room());
    machine.idle(60 * SECOND_NS);
    let written = written.take();
    assert!(written.len() == 60 && written.iter().all(Result::is_ok), "{written:?}");
}

/// A history has given what it had. Groups in which something lives are emptied one by one, and others write meanwhile.
#[test]
fn nothing_is_refused_while_groups_are_emptied_behind_a_history() {
    let machine = Machine::with(nothing_recycled(), 5);
    let (writer, other, packed) = (machine.vdisk(), machine.create("w", 4 * MIB), machine.create("y", 4 * MIB));
    let giver = machine.create("z", 4 * MIB);
    (0..240).for_each(|block| machine.write(&packed, block, 1));
    (0..240).filter(|block| block % 4 > 0).for_each(|block| machine.write(&packed, block, 2));
    keep(&machine, &giver);
    churn(&machine, &giver, 24, 4);
    assert!(giver.history_gives_bytes() > 0);
    nearly_full(&machine);
    let written = Rc::new(RefCell::new(Vec::new()));
    for vdisk in [&writer, &other] {
        let (vdisk, answers) = (vdisk.clone(), written.clone());
        machine.spawn(async move {
            for block in 200..250 {
                let answer = vdisk.write(block * 4096, crate::machine::content(block, block)).await;
                answers.borrow_mut().push(answer);
            }
        });
    }
    machine.idle(300 * SECOND_NS);
    let written = written.take();
    assert!(written.len() == 100 && written.iter().all(Result::is_ok), "{written:?}");
    assert!(giver.rewind_info().expect("on").cut_short && packed.stats.relocated_bytes.get() > 0);
}

/// As long as a snapshot needs all that the history holds, the history has nothing to give. Then the snapshot goes.
#[test]
fn a_history_that_gets_something_to_give_gives_it() {
    let mut config = nothing_recycled();
    config.pool.group_size = MIB as u32;
    config.pool.ballast_bytes = MIB;
    let machine = Machine::with(config, 5);
    let (writer, giver) = (machine.vdisk(), machine.create("z", 4 * MIB));
    churn(&machine, &giver, 800, 1);
    let snapshot = machine.snapshot(giver.id, "s");
    keep(&machine, &giver);
    machine.checkpoint(&giver);
    churn(&machine, &giver, 800, 1);
    machine.checkpoint(&giver);
    assert_eq!(giver.history_gives_bytes(), 0);
    nearly_full(&machine);
    let is_full = |block: &u64| machine.try_write(&writer, *block, &[1]).expect("it lives").is_err();
    let full = (0..1024).find(is_full).expect("4 MiB do not fit");
    machine.idle(5 * SECOND_NS);
    let begun_ns = machine.world().now().0;
    assert!(is_full(&full));
    assert!(machine.world().now().0 - begun_ns < SECOND_NS / 10, "nobody has anything to wait for");
    machine.idle(5 * SECOND_NS);
    machine.delete_snapshot(giver.id, snapshot);
    machine.checkpoint(&giver);
    machine.make_room(&giver);
    assert!(giver.history_gives_bytes() > 2 * MIB, "{}", giver.history_gives_bytes());
    let written = machine.try_write(&writer, full, &[1]).expect("it lives");
    assert!(written.is_ok(), "{written:?}");
    assert!(giver.rewind_info().expect("on").cut_short);
}

/// The point that a history begins anew with cannot be stored. What is dead without that comes free all the same.
#[test]
fn a_history_that_cannot_go_keeps_nothing_else() {
    let machine = Machine::with(nothing_recycled(), 5);
    let vdisk = machine.vdisk();
    churn(&machine, &vdisk, 24, 8);
    keep(&machine, &vdisk);
    churn(&machine, &vdisk, 24, 2);
    assert!(vdisk.history_gives_bytes() > 0);
    machine.disk.set_capacity(machine.disk.allocated_bytes() + 16 * KIB);
    machine.tap.set_rule(|o| if o.verb == Verb::Write && is_point(o) { Fate::Fails } else { Fate::Happens });
    let groups = vdisk.groups().len();
    for block in 100..150 {
        let written = machine.try_write(&vdisk, block, &[1]).expect("it lives");
        assert!(written.is_ok(), "block {block}: {written:?}");
        if vdisk.stats.groups_freed.get() > 4 {
            return;
        }
    }
    panic!("there was room: {groups}");
}

/// A point of a history is written, wherever in it.
fn is_point(operation: &Operation) -> bool {
    (0..operation.data.len()).step_by(16).any(|at| {
        let data = &operation.data[at..];
        let Ok(frame) = frame::decode(data) else { return false };
        let run = frame.runs.first().filter(|_| frame.kind == FrameKind::Control);
        let payload = run.and_then(|run| data.get(run.payload_offset as usize..)?.get(..run.payload_len as usize));
        matches!(payload.map(Record::decode), Some(Ok(Record::Snapshot(snapshot))) if snapshot.point.is_some())
    })
}
