//! What is said of the past, and when it goes: what is of note in it, what is missing from it, and that it goes before a
//! write is refused, whoever writes, but not because of an error of the disk.

use crate::machine::{GROUP, Machine, manual};
use crate::rewind::{BLOCKS, Recorder, SECOND_NS, WINDOW_NS, delete, keep, read, snapshot_at};
use crate::tap::{Fate, Operation, Verb};
use base::units::{BLOCK, KIB, MIB};
use node::ShardConfig;
use std::cell::RefCell;
use std::rc::Rc;
use vdisk::{Kind, Moment, PointKind, Rewind, RewindInfo};

fn nothing_recycled() -> ShardConfig {
    let mut config = manual();
    config.pool.recycled_bytes_max = 0;
    config
}

fn info(machine: &Machine) -> RewindInfo {
    machine.vdisk().rewind_info().expect("it keeps its past")
}

/// Nothing is refused to who asks for all that there is.
#[test]
fn the_history_is_told_while_the_window_moves_on_or_is_taken_away() {
    for rewind in [None, Some(Rewind { window_ns: SECOND_NS, limit_bytes: 0 })] {
        let mut all = Recorder::new(Machine::new());
        all.churn(1);
        keep(&all.machine, WINDOW_NS, 0);
        all.churn(2);
        let (vdisk, told) = (all.machine.vdisk(), Rc::new(RefCell::new(None)));
        let (reader, answer) = (vdisk.clone(), told.clone());
        // The first point is not stored yet: that takes a checkpoint, and the change comes in between.
        let task = async move { *answer.borrow_mut() = Some(reader.history(0, u64::MAX).await) };
        all.machine.spawn(task);
        let (ended, clock) = (told.clone(), all.machine.world().clock);
        all.machine.run(async move {
            vdisk.set_rewind(rewind).await.expect("room");
            while ended.borrow().is_none() {
                clock.sleep(1_000_000).await;
            }
        });
        told.take().expect("it ended").expect("there is no moment to be outside of anything");
    }
}

/// What went for space is missing from any window that would reach there.
#[test]
fn a_window_of_another_length_is_cut_short_as_well_until_time_has_filled_it() {
    let mut all = Recorder::new(Machine::new());
    let limit = 10 * u64::from(GROUP);
    keep(&all.machine, WINDOW_NS, limit);
    all.churn(10);
    assert!(info(&all.machine).cut_short);
    for window_ns in [2 * WINDOW_NS, WINDOW_NS / 2] {
        keep(&all.machine, window_ns, 0);
        assert!(info(&all.machine).cut_short, "{window_ns}");
    }
    all.machine.restart();
    let cut = info(&all.machine);
    assert!(cut.cut_short, "{cut:?}");
    // What is left grows older than the window.
    for _ in 0..40 {
        all.write(0, 1);
        all.machine.idle(50 * SECOND_NS);
    }
    let full = info(&all.machine);
    assert!(!full.cut_short && full.since_ns > cut.since_ns, "{full:?}");
    // And it stays so: a longer window may not have been kept, but nothing was taken from it.
    keep(&all.machine, WINDOW_NS, 0);
    all.machine.restart();
    assert!(!info(&all.machine).cut_short);
}

/// Nothing is in the log behind the last checkpoint afterwards.
const STARTS: [fn(&Machine); 3] = [
    |machine| {
        machine.close();
        machine.open();
    },
    |machine| {
        machine.checkpoint(&machine.vdisk());
        machine.lose_power();
        machine.open();
    },
    |machine| {
        machine.checkpoint(&machine.vdisk());
        machine.kill();
        assert!(machine.rebuild(2).lost.is_empty());
        machine.open();
    },
];

/// The disk is full of the past of one vDisk, and another one is written to.
#[test]
fn the_history_of_one_vdisk_goes_before_a_write_to_another_is_refused() {
    for start in [None].into_iter().chain(STARTS.map(Some)) {
        let mut all = Recorder::new(Machine::with(nothing_recycled(), 5));
        let other = all.machine.create("w", 8 * MIB).id;
        keep(&all.machine, WINDOW_NS, 0);
        let free = all.machine.disk.allocated_bytes();
        all.churn(30);
        if let Some(start) = start {
            start(&all.machine);
        }
        let other = all.machine.vdisk_by_id(other).expect("good");
        let held = all.machine.disk.allocated_bytes() - free;
        assert!(info(&all.machine).held_bytes > 2 * MIB);
        all.machine.disk.set_capacity(all.machine.disk.allocated_bytes() + 128 * KIB);
        let blocks = held / 2 / 4096;
        for block in 0..blocks {
            let written = all.machine.try_write(&other, block, &[block + 1]).expect("it lives");
            assert!(written.is_ok(), "block {block} of {blocks}: {written:?}");
        }
        assert!(info(&all.machine).cut_short);
        all.machine.flush(&other);
        all.machine.lose_power();
        all.machine.open();
        let other = all.machine.vdisk_by_id(other.id).expect("good");
        assert_eq!(all.machine.reads(&other, 0..blocks), (1..=blocks).collect::<Vec<u64>>());
        assert_eq!(all.machine.reads(&all.machine.vdisk(), 0..BLOCKS), all.tags);
        all.churn(1);
        all.check(all.seen.last().expect("some"), "what is kept from now on");
    }
}

/// Of a vDisk that is not written to any more, and was not since the start.
#[test]
fn what_was_written_last_before_a_start_goes_by_age_and_at_the_limit() {
    for start in STARTS {
        for limit in [None, Some(4 * u64::from(GROUP))] {
            let mut all = Recorder::new(Machine::new());
            keep(&all.machine, WINDOW_NS, 0);
            all.churn(20);
            start(&all.machine);
            let before = info(&all.machine);
            assert!(before.held_bytes > MIB, "{before:?}");
            match limit {
                Some(limit) => {
                    keep(&all.machine, WINDOW_NS, limit);
                    all.machine.idle(SECOND_NS);
                }
                None => {
                    // A point is due before half of it has passed; then that has to be older than the window.
                    all.machine.idle(WINDOW_NS / 2);
                    assert!(info(&all.machine).since == before.since, "it is in the window");
                    all.machine.idle(WINDOW_NS);
                }
            }
            let after = info(&all.machine);
            assert!(after.held_bytes < 4 * u64::from(GROUP) && after.since > before.since, "{after:?}");
            assert_eq!(after.cut_short, limit.is_some());
            assert!(all.machine.vdisk().groups().len() < 12, "{}", all.machine.vdisk().groups().len());
            assert_eq!(all.machine.reads(&all.machine.vdisk(), 0..BLOCKS), all.tags);
            all.churn(1);
            all.check(all.seen.last().expect("some"), "what is kept from now on");
        }
    }
}

/// A point is due every 100 s.
#[test]
fn points_are_taken_however_often_it_is_started() {
    let mut all = Recorder::new(Machine::new());
    keep(&all.machine, WINDOW_NS, 0);
    for _ in 0..10 {
        all.write(0, 4);
        all.machine.idle(40 * SECOND_NS);
        STARTS[0](&all.machine);
    }
    let vdisk = all.machine.vdisk();
    let points = all.machine.run(async move { vdisk.history(0, u64::MAX).await }).expect("readable");
    let points = points.into_iter().filter(|point| point.kind == PointKind::Checkpoint).count();
    assert!((3..6).contains(&points), "{points} in 400 s");
    all.check(&all.seen[4].clone(), "between two starts");
}

/// What was there is not written, but known to be there: no point is taken of what has not changed.
#[test]
fn a_start_by_itself_is_no_reason_for_a_point() {
    let mut all = Recorder::new(Machine::new());
    keep(&all.machine, WINDOW_NS, 0);
    all.churn(2);
    all.machine.idle(200 * SECOND_NS);
    let points = |machine: &Machine| {
        let vdisk = machine.vdisk();
        machine.run(async move { vdisk.history(0, u64::MAX).await }).expect("readable").len()
    };
    all.write(0, 1);
    all.machine.idle(200 * SECOND_NS);
    let before = points(&all.machine);
    for start in STARTS.into_iter().take(2).cycle().take(4) {
        start(&all.machine);
        all.machine.idle(200 * SECOND_NS);
    }
    assert_eq!(points(&all.machine), before);
}

/// An empty map says nothing of what has come and gone; that no group was written to does.
#[test]
fn a_start_by_itself_is_no_reason_for_a_point_of_an_empty_vdisk() {
    for trims in [false, true] {
        let machine = Machine::new();
        keep(&machine, WINDOW_NS, 0);
        if trims {
            machine.write_tags(&machine.vdisk(), 1..=4);
            machine.trim(&machine.vdisk(), 0, 4);
        }
        machine.idle(200 * SECOND_NS);
        let points = |machine: &Machine| {
            let vdisk = machine.vdisk();
            let points = machine.run(async move { vdisk.history(0, u64::MAX).await }).expect("readable");
            points.iter().filter(|point| point.kind == PointKind::Checkpoint).count()
        };
        // The frames of the checkpoint itself count once.
        STARTS[0](&machine);
        machine.idle(200 * SECOND_NS);
        let before = points(&machine);
        for start in STARTS.into_iter().take(2).cycle().take(4) {
            start(&machine);
            machine.idle(200 * SECOND_NS);
        }
        assert_eq!(points(&machine), before, "{trims}");
    }
}

/// Where histories have nothing to give, nobody waits for it.
#[test]
fn a_full_disk_refuses_at_once_when_no_history_is_left() {
    for of_another in [false, true] {
        let mut all = Recorder::new(Machine::with(nothing_recycled(), 6));
        let other = all.machine.create("w", 8 * MIB);
        keep(&all.machine, WINDOW_NS, 0);
        all.churn(10);
        all.machine.disk.set_capacity(all.machine.disk.allocated_bytes() + 128 * KIB);
        let vdisk = if of_another { other } else { all.machine.vdisk() };
        // Each block once: nothing is overwritten.
        let full = (BLOCKS..1024).find(|block| all.machine.try_write(&vdisk, *block, &[1]).expect("it lives").is_err());
        let full = full.expect("4 MiB do not fit");
        for _ in 0..5 {
            all.machine.idle(2 * SECOND_NS);
            let begun = all.machine.world().now().0;
            let refused = all.machine.try_write(&vdisk, full, &[1]).expect("it lives").expect_err("it is full");
            let took = all.machine.world().now().0 - begun;
            assert_eq!(refused.kind, Kind::Full);
            assert!(took < SECOND_NS / 10, "{took} ns");
        }
    }
}

/// The reserve could not be made whole since the disk answered with an error: nothing is full.
#[test]
fn an_error_of_the_disk_costs_no_history() {
    let mut all = Recorder::new(Machine::new());
    keep(&all.machine, WINDOW_NS, 0);
    all.churn(8);
    let before = info(&all.machine);
    all.machine.kill();
    let fails = |o: &Operation| o.verb == Verb::Allocate && &*o.file == "ballast";
    all.machine.tap.set_rule(move |o| if fails(o) { Fate::Fails } else { Fate::Happens });
    all.machine.open();
    assert!(!all.machine.shard().context.pool.usage().ballast_whole);
    all.machine.tap.clear();
    // Enough for the maintenance to look at the pool.
    for _ in 0..4 {
        let vdisk = all.machine.vdisk();
        let written = all.machine.try_write(&vdisk, 0, &[7, 8, 9, 10]).expect("it lives");
        all.machine.idle(SECOND_NS);
        drop(written);
    }
    all.churn(2);
    let after = info(&all.machine);
    assert!(!after.cut_short && after.since == before.since, "{before:?} {after:?}");
    all.check(&all.seen[3].clone(), "from before");
}

/// Of note are moments behind which nothing was written for a while, and spells in which far more than usual was
/// overwritten. Of either the moment before can be had.
#[test]
fn quiet_moments_and_bursts_of_overwriting_are_of_note() {
    let mut all = Recorder::new(Machine::new());
    all.machine.disk.set_capacity(2 << 30);
    all.churn(1);
    keep(&all.machine, WINDOW_NS, 0);
    let told = |all: &Recorder, kind: PointKind| -> Vec<_> {
        let vdisk = all.machine.vdisk();
        let points = all.machine.run(async move { vdisk.history(0, u64::MAX).await }).expect("readable");
        points.into_iter().filter(|point| point.kind == kind).collect()
    };
    let usual = |all: &mut Recorder, times: u32| {
        for _ in 0..times {
            all.write(0, 4);
            all.machine.idle(4 * SECOND_NS);
        }
    };
    // To the next multiple of ten seconds: overwriting is counted from one to the next.
    let align = |all: &Recorder| all.machine.idle(10 * SECOND_NS - all.wall_ns() % (10 * SECOND_NS));
    let overwrite = |all: &mut Recorder, bytes: u64| {
        align(all);
        (0..bytes.div_ceil(BLOCKS * BLOCK)).for_each(|_| all.write(0, BLOCKS));
    };
    usual(&mut all, 30);
    assert!(told(&all, PointKind::Quiet).is_empty(), "a write every 4 s");

    all.write(4, 2);
    let (then, before) = (all.wall_ns(), all.tags.clone());
    all.machine.idle(25 * SECOND_NS);
    all.write(4, 2);
    let quiet = told(&all, PointKind::Quiet);
    let [point] = &quiet[..] else { panic!("one quiet moment: {quiet:?}") };
    assert!(point.at_ns <= then && then - point.at_ns < SECOND_NS && point.len_ns >= 25 * SECOND_NS, "{point:?}");
    let snapshot = snapshot_at(&all.machine, Moment::Before(point.sequence));
    assert_eq!(read(&all.machine, snapshot.id), before);
    delete(&all.machine, snapshot.id);

    usual(&mut all, 30);
    overwrite(&mut all, 48 * MIB);
    usual(&mut all, 3);
    assert!(told(&all, PointKind::Overwriting).is_empty(), "less than what is called a burst");
    usual(&mut all, 30);
    align(&all);
    let (then, before) = (all.wall_ns(), all.tags.clone());
    overwrite(&mut all, 80 * MIB);
    usual(&mut all, 3);
    assert!(!info(&all.machine).cut_short, "{:?}", info(&all.machine));
    let bursts = told(&all, PointKind::Overwriting);
    let [burst] = &bursts[..] else { panic!("one burst: {bursts:?}") };
    assert!(burst.at_ns >= then && burst.at_ns - then < 11 * SECOND_NS, "{burst:?}");
    assert!((80 * MIB..81 * MIB).contains(&burst.bytes), "{burst:?}");
    let snapshot = snapshot_at(&all.machine, Moment::Before(burst.sequence));
    assert_eq!(read(&all.machine, snapshot.id), before);
}
