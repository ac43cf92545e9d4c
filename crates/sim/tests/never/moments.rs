//! What a moment of the past is made of, while it is read and when it is a snapshot: what is kept for it, how long, and which
//! time counts.

use crate::machine::{Machine, manual};
use crate::rewind::{Recorder, SECOND_NS, WINDOW_NS, delete, keep, read, snapshot_at};
use crate::tap::{Fate, Operation, Verb};
use base::units::MIB;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use vdisk::Moment;

/// All of the past goes.
fn keep_nothing(machine: &Machine) {
    let vdisk = machine.vdisk();
    machine.run(async move { vdisk.set_rewind(None).await }).expect("room");
}

#[test]
fn what_a_moment_is_read_from_stays_until_it_was_read() {
    let mut all = Recorder::new(Machine::new());
    // Pages of the map are had from memory, the log is not.
    all.machine.cache_bytes.set(MIB);
    all.machine.restart();
    keep(&all.machine, WINDOW_NS, 0);
    all.churn(12);
    let seen = all.seen.last().expect("some").clone();
    all.churn(1);
    all.machine.checkpoint(&all.machine.vdisk());
    all.machine.tap.set_rule(|o| if o.verb == Verb::Read && o.is_slab() { Fate::Waits } else { Fate::Happens });
    let (vdisk, shard, made) = (all.machine.vdisk(), all.machine.shard(), Rc::new(RefCell::new(None)));
    let (moment, answer) = (Moment::At(seen.wall_ns), made.clone());
    all.machine.spawn(async move {
        let id = shard.context.pool.next_snapshot_id().await.expect("the disk works");
        *answer.borrow_mut() = Some(vdisk.snapshot_at(id, "past", moment).await);
    });
    all.machine.idle(SECOND_NS * 3 / 2);
    keep_nothing(&all.machine);
    all.machine.checkpoint(&all.machine.vdisk());
    all.machine.make_room(&all.machine.vdisk());
    assert!(made.borrow().is_none(), "it is being read");
    all.machine.tap.clear();
    all.machine.idle(60 * SECOND_NS);
    let made = made.take().expect("it has ended").expect("all of it was there");
    assert_eq!(read(&all.machine, made.id), seen.tags);
    // And no longer.
    delete(&all.machine, made.id);
    all.settle();
    let groups = all.machine.vdisk().groups().len();
    assert!(groups < 10, "{groups}");
}

#[test]
fn a_snapshot_of_the_past_holds_all_that_it_needs() {
    let mut all = Recorder::new(Machine::new());
    all.churn(1);
    keep(&all.machine, WINDOW_NS, 0);
    all.write(0, 2);
    // Most of it is older than the history.
    let seen = all.seen.last().expect("some").clone();
    all.churn(2);
    let made = snapshot_at(&all.machine, Moment::At(seen.wall_ns));
    keep_nothing(&all.machine);
    all.churn(3);
    all.settle();
    let vdisk = all.machine.vdisk();
    // (A group that looks dead and is not shows as one that cannot be read.)
    assert_eq!(vdisk.trouble(), None);
    assert_eq!(read(&all.machine, made.id), seen.tags);
    let with_it = vdisk.groups().len();
    delete(&all.machine, made.id);
    all.settle();
    assert_eq!(vdisk.trouble(), None);
    assert!(vdisk.groups().len() + 2 <= with_it, "{} of {with_it}", vdisk.groups().len());
}

/// Between the record that says that history is gone, and its sync, power fails; what was freed meanwhile is gone for good.
#[test]
fn history_stays_until_it_is_proven_that_it_was_given_up() {
    let mut config = manual();
    config.pool.recycled_bytes_max = 0;
    let mut all = Recorder::new(Machine::with(config, 1));
    keep(&all.machine, WINDOW_NS, 0);
    all.churn(20);
    all.machine.idle(200 * SECOND_NS);
    all.churn(30);
    let vdisk = all.machine.vdisk();
    all.machine.checkpoint(&vdisk);
    for _ in 0..3 {
        all.write(0, 4);
        all.machine.flush(&vdisk);
    }
    let newest = all.machine.groups().pop().expect("some").file;
    let before = vdisk.rewind_info().expect("on");
    // Where the record goes no sync ends in time; elsewhere all of them do.
    let slow = newest.clone();
    let is_slow = move |o: &Operation| o.verb == Verb::Sync && *o.file == *slow;
    all.machine.tap.set_rule(move |o| if is_slow(o) { Fate::Waits } else { Fate::Happens });
    let (giver, reclaimer) = (vdisk.clone(), vdisk.clone());
    all.machine.run(async move { giver.give_up_history().await }).expect("room");
    assert!(vdisk.rewind_info().expect("on").since > before.since);
    all.machine.spawn(async move { drop(reclaimer.make_room().await) });
    all.machine.idle(1_000_000);
    all.machine.lose_power();
    all.machine.open();
    let after = all.machine.vdisk().rewind_info().expect("on");
    assert_eq!(after.since, before.since, "the record was not synced");
    let files: BTreeSet<String> = all.machine.groups().into_iter().map(|placed| placed.file).collect();
    assert!(files.len() > 1 && files.contains(&newest), "{files:?}");
    for seen in [1, 20, 60, 100] {
        all.check(&all.seen[seen].clone(), "it is in the window");
    }
}

/// What is written under a clock that goes wrong is as late as that clock said, also where only a point knows of it.
#[test]
fn a_time_before_the_clock_was_wrong_has_nothing_that_came_after() {
    let mut all = Recorder::new(Machine::new());
    keep(&all.machine, WINDOW_NS, 0);
    all.churn(1);
    let before = all.tags.clone();
    all.machine.executor.step_wall(1000 * SECOND_NS as i64);
    all.write(0, 4);
    all.machine.executor.step_wall(0);
    all.machine.idle(200 * SECOND_NS);
    // (A point was taken meanwhile.)
    all.write(4, 4);
    let wall_ns = all.wall_ns() - 1;
    for restarted in [false, true] {
        if restarted {
            all.machine.restart();
        }
        let snapshot = snapshot_at(&all.machine, Moment::At(wall_ns));
        assert_eq!(read(&all.machine, snapshot.id), before, "restarted: {restarted}");
        delete(&all.machine, snapshot.id);
    }
    let last = all.seen.last().expect("some").clone();
    let snapshot = snapshot_at(&all.machine, Moment::Before(last.sequence.next()));
    assert_eq!(read(&all.machine, snapshot.id), last.tags);
}

/// A clock that was wrong once is forgotten with the history of that time.
#[test]
fn a_clock_that_was_wrong_before_the_window_counts_no_more() {
    for restarts in [false, true] {
        let mut all = Recorder::new(Machine::new());
        keep(&all.machine, WINDOW_NS, 0);
        all.machine.executor.step_wall(1_000_000 * SECOND_NS as i64);
        all.write(0, 4);
        all.machine.executor.step_wall(0);
        // Points every 100 s or so, until the first of them is the edge.
        for _ in 0..80 {
            all.write(0, 1);
            all.machine.idle(50 * SECOND_NS);
        }
        if restarts {
            all.machine.restart();
        }
        let since = all.machine.vdisk().rewind_info().expect("on").since.expect("some");
        assert!(since > all.seen[0].sequence.next(), "{since:?}");
        for seen in [all.seen.len() - 1, all.seen.len() - 10] {
            all.check(&all.seen[seen].clone(), "in the window");
        }
    }
}
