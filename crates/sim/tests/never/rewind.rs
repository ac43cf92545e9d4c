//! Rewind: every moment of the window is what was acknowledged then, whatever has happened since; what is outside of it is
//! refused; and nothing is kept for it that does not have to be.

use crate::keeper::RETURNS;
use crate::machine::{GROUP, Machine, manual};
use crate::tap::{Fate, Operation, Verb};
use base::units::MIB;
use base::{Sequence, SnapshotId};
use node::ShardConfig;
use sim::rng::Rng;
use std::cell::Cell;
use vdisk::{Kind, Moment, PointKind, Rewind, SnapshotInfo};

pub const SECOND_NS: u64 = 1_000_000_000;
/// Blocks that are looked at.
pub const BLOCKS: u64 = 24;
/// A point every 100 s.
pub const WINDOW_NS: u64 = 3200 * SECOND_NS;

/// What was acknowledged at one moment.
#[derive(Clone, Debug)]
pub struct Seen {
    pub wall_ns: u64,
    /// The last frame then.
    pub sequence: Sequence,
    pub tags: Vec<u64>,
}

/// A vDisk "v" and somebody who looks on.
pub struct Recorder {
    pub machine: Machine,
    pub tags: Vec<u64>,
    pub seen: Vec<Seen>,
    next: u64,
}

pub fn keep(machine: &Machine, window_ns: u64, limit_bytes: u64) {
    let vdisk = machine.vdisk();
    let rewind = Rewind { window_ns, limit_bytes };
    machine.run(async move { vdisk.set_rewind(Some(rewind)).await }).expect("room");
}

fn try_snapshot_at(machine: &Machine, name: &'static str, moment: Moment) -> Option<vdisk::Result<SnapshotInfo>> {
    let (vdisk, shard) = (machine.vdisk(), machine.shard());
    machine.attempt(async move {
        let id = shard.context.pool.next_snapshot_id().await?;
        vdisk.snapshot_at(id, name, moment).await
    })
}

pub fn snapshot_at(machine: &Machine, moment: Moment) -> SnapshotInfo {
    try_snapshot_at(machine, "past", moment).expect("it lives").unwrap_or_else(|error| panic!("{moment:?}: {error}"))
}

fn refused(machine: &Machine, moment: Moment) -> String {
    let error = try_snapshot_at(machine, "past", moment).expect("it lives").expect_err("it is outside");
    assert_eq!(error.kind, Kind::Invalid, "{error}");
    error.to_string()
}

pub fn read(machine: &Machine, snapshot: SnapshotId) -> Vec<u64> {
    machine.read_snapshot(machine.id("v"), snapshot, 0..BLOCKS)
}

pub fn delete(machine: &Machine, snapshot: SnapshotId) {
    machine.delete_snapshot(machine.id("v"), snapshot);
}

pub fn since_ns(machine: &Machine) -> u64 {
    machine.vdisk().rewind_info().expect("it keeps its past").since_ns.expect("from the first moment on")
}

impl Recorder {
    pub fn new(machine: Machine) -> Recorder {
        Recorder { machine, tags: vec![0; BLOCKS as usize], seen: Vec::new(), next: 1 }
    }

    pub fn wall_ns(&self) -> u64 {
        self.machine.world().clock.wall().0
    }

    pub fn write(&mut self, block: u64, count: u64) {
        let tags: Vec<u64> = (0..count).map(|i| self.next + i).collect();
        self.next += count;
        self.machine.try_write(&self.machine.vdisk(), block, &tags).expect("it lives").expect("room");
        self.tags[block as usize..(block + count) as usize].copy_from_slice(&tags);
        self.look();
    }

    fn trim(&mut self, block: u64, count: u64) {
        self.machine.trim(&self.machine.vdisk(), block, count);
        self.tags[block as usize..(block + count) as usize].fill(0);
        self.look();
    }

    fn look(&mut self) {
        let sequence = self.machine.vdisk().sequence();
        self.seen.push(Seen { wall_ns: self.wall_ns(), sequence, tags: self.tags.clone() });
        self.machine.idle(1_000);
    }

    /// Overwrites all blocks so often.
    pub fn churn(&mut self, times: u64) {
        for _ in 0..times {
            (0..BLOCKS).step_by(4).for_each(|block| self.write(block, 4));
        }
    }

    /// Everything that can come free does.
    pub fn settle(&self) {
        let vdisk = self.machine.vdisk();
        for _ in 0..2 {
            self.machine.checkpoint(&vdisk);
            self.machine.make_room(&vdisk);
        }
    }

    pub fn check(&self, seen: &Seen, what: &str) {
        for moment in [Moment::At(seen.wall_ns), Moment::Before(seen.sequence.next())] {
            let snapshot = snapshot_at(&self.machine, moment);
            assert_eq!(read(&self.machine, snapshot.id), seen.tags, "{what}: {moment:?} {seen:?}");
            delete(&self.machine, snapshot.id);
        }
    }

    /// Those that are in the window.
    fn recent(&self) -> Vec<Seen> {
        let since = since_ns(&self.machine);
        self.seen.iter().filter(|seen| seen.wall_ns >= since).cloned().collect()
    }

    /// As [`Recorder::check`], where taking a snapshot may take the oldest history with it.
    fn check_if_there(&self, rng: &mut Rng, what: &str) {
        let recent = self.recent();
        let seen = &recent[rng.below(recent.len() as u64) as usize];
        match try_snapshot_at(&self.machine, "past", Moment::At(seen.wall_ns)).expect("it lives") {
            Ok(made) => {
                assert_eq!(read(&self.machine, made.id), seen.tags, "{what}: {seen:?}");
                delete(&self.machine, made.id);
            }
            Err(error) => {
                assert!(matches!(error.kind, Kind::Invalid | Kind::Full), "{what}: {error}");
                assert!(error.kind == Kind::Full || since_ns(&self.machine) > seen.wall_ns, "{what}: {error}");
            }
        }
    }

    fn check_some(&self, rng: &mut Rng, count: u64, what: &str) {
        let recent = self.recent();
        for _ in 0..count.min(recent.len() as u64) {
            self.check(&recent[rng.below(recent.len() as u64) as usize], what);
        }
    }
}

/// Groups of "v" on the disk.
fn groups(machine: &Machine) -> usize {
    machine.vdisk().groups().len()
}

#[test]
fn every_moment_of_the_window_is_what_it_was() {
    for seed in 0..12 {
        let mut rng = Rng::new(seed, 0x5eed);
        let mut all = Recorder::new(Machine::with(manual(), seed));
        all.churn(1);
        keep(&all.machine, WINDOW_NS, 0);
        all.look();
        let (mut kept, mut node) = (Vec::<(SnapshotId, Vec<u64>)>::new(), 2);
        for step in 0..260 {
            let what = format!("seed {seed}, step {step}");
            match rng.below(100) {
                0..60 => {
                    let block = rng.below(BLOCKS);
                    all.write(block, rng.between(1, 4.min(BLOCKS - block)));
                }
                60..68 => {
                    let block = rng.below(BLOCKS);
                    all.trim(block, rng.between(1, BLOCKS - block));
                }
                68..74 => all.machine.idle(rng.below(60 * SECOND_NS)),
                74..78 => all.machine.checkpoint(&all.machine.vdisk()),
                78..82 => all.settle(),
                82..86 => {
                    let taken = all.machine.snapshot(all.machine.id("v"), &format!("s{step}"));
                    kept.push((taken, all.tags.clone()));
                }
                86..88 if !kept.is_empty() => {
                    let (id, _) = kept.swap_remove(rng.below(kept.len() as u64) as usize);
                    delete(&all.machine, id);
                }
                88..91 if !kept.is_empty() => {
                    let (id, tags) = kept[rng.below(kept.len() as u64) as usize].clone();
                    let (shard, vdisk) = (all.machine.shard(), all.machine.id("v"));
                    all.machine.run(async move { shard.rollback(vdisk, id).await }).expect("nobody is connected");
                    all.tags = tags;
                    all.look();
                }
                91..95 => {
                    all.machine.flush(&all.machine.vdisk());
                    let way = rng.below(RETURNS.len() as u64) as usize;
                    RETURNS[way](&all.machine, node);
                    node += 1;
                    all.machine.assert_online(&all.machine.vdisk());
                }
                95..98 => all.check_some(&mut rng, 2, &what),
                _ => {
                    let vdisk = all.machine.vdisk();
                    let size = vdisk.attributes().size_bytes + MIB;
                    all.machine.run(async move { vdisk.resize(size).await }).expect("room");
                }
            }
        }
        all.machine.assert_online(&all.machine.vdisk());
        all.check_some(&mut rng, 12, &format!("seed {seed}, at the end"));
        assert_eq!(all.machine.reads(&all.machine.vdisk(), 0..BLOCKS), all.tags);
    }
}

#[test]
fn points_are_taken_and_shown_to_nobody() {
    let mut all = Recorder::new(Machine::new());
    keep(&all.machine, WINDOW_NS, 0);
    for _ in 0..20 {
        all.churn(1);
        all.machine.idle(60 * SECOND_NS);
    }
    let vdisk = all.machine.vdisk();
    assert!(vdisk.snapshots().is_empty());
    let points = all.machine.run(async move { vdisk.history(0, u64::MAX).await }).expect("readable");
    let points: Vec<_> = points.into_iter().filter(|point| point.kind == PointKind::Checkpoint).collect();
    assert!((8..16).contains(&points.len()), "one in about 120 s: {points:?}");
    assert!(points.is_sorted_by_key(|point| (point.sequence, point.at_ns)));
    // No more is read for a moment than lies behind the last point before it.
    let last = points.last().expect("some").sequence;
    let snapshot = snapshot_at(&all.machine, Moment::Before(last));
    assert_eq!(snapshot.sequence.next(), last);
}

#[test]
fn what_is_outside_is_refused_and_says_what_is_inside() {
    let mut all = Recorder::new(Machine::new());
    all.churn(1);
    assert!(refused(&all.machine, Moment::At(all.wall_ns())).contains("keeps no history"));
    keep(&all.machine, WINDOW_NS, 0);
    all.churn(1);
    let (since, sequence) = (since_ns(&all.machine), all.machine.vdisk().sequence());
    let bounds = base::utc::format_ns(since);
    for moment in [
        Moment::At(since - 1),
        Moment::At(all.wall_ns() + SECOND_NS),
        Moment::Before(Sequence(1)),
        Moment::Before(Sequence(sequence.0 + 9)),
    ] {
        let text = refused(&all.machine, moment);
        assert!(text.contains(&bounds), "{text}");
    }
    assert!(all.machine.vdisk().snapshots().is_empty());
    all.check(&all.recent()[0], "the first");
    all.check(all.seen.last().expect("some"), "the last");
}

#[test]
fn what_is_too_old_goes_and_its_space_comes_back() {
    let mut all = Recorder::new(Machine::new());
    keep(&all.machine, WINDOW_NS, 0);
    for _ in 0..40 {
        all.churn(2);
        all.machine.idle(50 * SECOND_NS);
    }
    let (full, begin) = (groups(&all.machine), since_ns(&all.machine));
    assert!(full > 100, "all of it is kept: {full}");
    // Hardly anything is written any more, but time goes on.
    for _ in 0..80 {
        all.write(0, 1);
        all.machine.idle(50 * SECOND_NS);
    }
    all.settle();
    let info = all.machine.vdisk().rewind_info().expect("it keeps its past");
    assert!(info.since_ns > Some(begin) && !info.cut_short, "{info:?}");
    let age = all.wall_ns() - info.since_ns.expect("there is a point");
    assert!((WINDOW_NS..WINDOW_NS + 300 * SECOND_NS).contains(&age), "{age}");
    assert!(groups(&all.machine) < 30, "{} of {full}", groups(&all.machine));
    let mut rng = Rng::new(1, 2);
    all.check_some(&mut rng, 8, "afterwards");
    refused(&all.machine, Moment::At(all.seen[5].wall_ns));
}

#[test]
fn nothing_is_left_when_it_is_switched_off() {
    for power in [false, true] {
        let mut all = Recorder::new(Machine::new());
        all.churn(1);
        all.settle();
        let before = groups(&all.machine);
        keep(&all.machine, WINDOW_NS, 0);
        all.churn(20);
        assert!(groups(&all.machine) > before + 20);
        let vdisk = all.machine.vdisk();
        all.machine.run(async move { vdisk.set_rewind(None).await }).expect("room");
        if power {
            all.machine.lose_power();
            all.machine.open();
        }
        assert_eq!(all.machine.vdisk().rewind_info(), None);
        all.settle();
        assert!(groups(&all.machine) <= before + 2, "{} of {before}", groups(&all.machine));
        assert!(all.machine.shard().context.references.held_groups().is_empty());
        assert_eq!(all.machine.reads(&all.machine.vdisk(), 0..BLOCKS), all.tags);
    }
}

#[test]
fn the_oldest_goes_at_the_limit_and_it_is_said() {
    let mut all = Recorder::new(Machine::new());
    let limit = 40 * u64::from(GROUP);
    keep(&all.machine, WINDOW_NS, limit);
    all.churn(2);
    assert!(!all.machine.vdisk().rewind_info().expect("on").cut_short);
    let mut rng = Rng::new(7, 7);
    for round in 0..30 {
        all.churn(6);
        all.machine.idle(SECOND_NS);
        let info = all.machine.vdisk().rewind_info().expect("on");
        // What comes between two looks.
        assert!(info.held_bytes <= limit + limit / 4, "{info:?}");
        all.check_some(&mut rng, 1, &format!("round {round}"));
    }
    let info = all.machine.vdisk().rewind_info().expect("on");
    assert!(info.cut_short, "{info:?}");
    assert!(info.held_bytes > limit / 2, "no more goes than has to: {info:?}");
    all.settle();
    assert!(groups(&all.machine) < 70, "{}", groups(&all.machine));
    all.machine.restart();
    assert!(all.machine.vdisk().rewind_info().expect("on").cut_short);
    all.check_some(&mut rng, 4, "after a restart");
}

#[test]
fn a_full_disk_takes_history_before_it_refuses_a_write() {
    let config = || {
        let mut config: ShardConfig = manual();
        config.pool.recycled_bytes_max = 0;
        config
    };
    let mut all = Recorder::new(Machine::with(config(), 3));
    keep(&all.machine, WINDOW_NS, 0);
    all.machine.disk.set_capacity(all.machine.disk.allocated_bytes() + 3 * MIB);
    let mut rng = Rng::new(3, 3);
    // Ten times what there is.
    for round in 0..330 {
        all.churn(1);
        if round % 40 == 0 {
            all.check_if_there(&mut rng, &format!("round {round}"));
        }
    }
    let info = all.machine.vdisk().rewind_info().expect("on");
    assert!(info.cut_short, "{info:?}");
    all.check(all.seen.last().expect("some"), "at the end");
    assert_eq!(all.machine.reads(&all.machine.vdisk(), 0..BLOCKS), all.tags);
}

#[test]
fn a_clock_that_was_set_back_loses_nothing() {
    let mut all = Recorder::new(Machine::new());
    keep(&all.machine, WINDOW_NS, 0);
    for offset in [0, 500, -700, 100, -2000] {
        all.machine.executor.step_wall(offset * SECOND_NS as i64);
        for _ in 0..6 {
            all.churn(1);
            all.machine.idle(40 * SECOND_NS);
        }
    }
    all.machine.restart();
    // A time is that of the first moment at which the clock has gone beyond it: the last state before that.
    let mut high = 0;
    let mut later: Vec<Seen> = Vec::new();
    for seen in all.recent() {
        high = high.max(seen.wall_ns);
        later.push(Seen { wall_ns: high, ..seen });
    }
    let mut rng = Rng::new(11, 1);
    for _ in 0..24 {
        let seen = &later[rng.below(later.len() as u64) as usize];
        let wall_ns = seen.wall_ns;
        let expected = later.iter().rfind(|other| other.wall_ns <= wall_ns).expect("itself");
        if wall_ns <= all.wall_ns() {
            let snapshot = snapshot_at(&all.machine, Moment::At(wall_ns));
            assert_eq!(read(&all.machine, snapshot.id), expected.tags, "{seen:?}");
            delete(&all.machine, snapshot.id);
        }
        let snapshot = snapshot_at(&all.machine, Moment::Before(seen.sequence.next()));
        assert_eq!(read(&all.machine, snapshot.id), seen.tags, "{seen:?}");
        delete(&all.machine, snapshot.id);
    }
    // And it is not kept for ever.
    all.machine.executor.step_wall(0);
    for _ in 0..90 {
        all.write(1, 1);
        all.machine.idle(60 * SECOND_NS);
    }
    let age = all.wall_ns() - since_ns(&all.machine);
    assert!(age < WINDOW_NS + 400 * SECOND_NS, "{age}");
}

#[test]
fn failed_syncs_and_what_they_void_are_no_part_of_it() {
    for seed in 0..6 {
        let mut rng = Rng::new(seed, 0xfa11);
        let mut all = Recorder::new(Machine::with(manual(), seed));
        keep(&all.machine, WINDOW_NS, 0);
        for _ in 0..8 {
            all.churn(1);
            let failed = Cell::new(false);
            let rule = move |o: &Operation| {
                let fails = o.verb == Verb::Sync && o.is_slab() && !failed.replace(true);
                if fails { Fate::Fails } else { Fate::Happens }
            };
            if rng.below(3) > 0 {
                all.machine.tap.set_rule(rule);
            }
            // What was not synced is written again later, and is as old as it was.
            all.machine.idle(30 * SECOND_NS);
            all.machine.flush(&all.machine.vdisk());
            all.machine.tap.clear();
            if rng.below(2) == 0 {
                all.churn(1);
                all.machine.kill();
                all.machine.idle(100 * SECOND_NS);
                all.machine.open();
            }
            all.check_some(&mut rng, 3, &format!("seed {seed}"));
        }
        all.check_some(&mut rng, 10, &format!("seed {seed}, at the end"));
    }
}

#[test]
fn a_sync_that_fails_while_a_moment_is_stored_spoils_nothing() {
    for at in 0..4 {
        let mut all = Recorder::new(Machine::new());
        keep(&all.machine, WINDOW_NS, 0);
        all.churn(4);
        all.machine.flush(&all.machine.vdisk());
        let (seen, left) = (all.seen[9].clone(), Cell::new(at));
        all.machine.tap.set_rule(move |o| {
            let is_sync = o.verb == Verb::Sync && o.is_slab();
            left.set(left.get() - i32::from(is_sync));
            if is_sync && left.get() == -1 { Fate::Fails } else { Fate::Happens }
        });
        let made = try_snapshot_at(&all.machine, "past", Moment::At(seen.wall_ns)).expect("it lives");
        all.machine.tap.clear();
        all.churn(1);
        all.machine.flush(&all.machine.vdisk());
        let made = made.unwrap_or_else(|error| panic!("{at}: {error}"));
        assert_eq!(read(&all.machine, made.id), seen.tags, "{at}");
        all.settle();
        for way in RETURNS.into_iter().zip(2..) {
            way.0(&all.machine, way.1);
            assert_eq!(read(&all.machine, made.id), seen.tags, "{at}");
        }
        // What it needs is known, too: its record is where it is said to be.
        let clone = all.machine.clone_of(all.machine.id("v"), made.id, "clone");
        assert_eq!(all.machine.reads(&clone, 0..BLOCKS), seen.tags, "{at}");
        all.check(&seen, "again");
    }
}

#[test]
fn a_crash_anywhere_leaves_all_of_a_moment_or_nothing() {
    // (A clean stop is none of the ways to come back from a crash.)
    for (way, come_back) in RETURNS.into_iter().enumerate().filter(|(way, _)| *way != 1) {
        let mut at = 0;
        loop {
            let mut all = Recorder::new(Machine::new());
            all.churn(1);
            keep(&all.machine, WINDOW_NS, 0);
            all.churn(2);
            all.machine.flush(&all.machine.vdisk());
            let (seen, left) = (all.seen[8].clone(), Cell::new(at));
            all.machine.tap.set_rule(move |o| {
                let counts = o.changes() || o.verb == Verb::Commit;
                left.set(left.get() - i32::from(counts));
                if counts && left.get() < 0 { Fate::Dies } else { Fate::Happens }
            });
            let done = try_snapshot_at(&all.machine, "past", Moment::At(seen.wall_ns));
            come_back(&all.machine, 2);
            let vdisk = all.machine.vdisk();
            all.machine.assert_online(&vdisk);
            let found = vdisk.snapshots();
            assert!(found.len() <= 1);
            for found in &found {
                assert_eq!(read(&all.machine, found.id), seen.tags, "way {way}, {at}");
            }
            all.check(&seen, "afterwards");
            all.settle();
            match done {
                Some(Ok(made)) => {
                    assert_eq!(found.first().map(|found| found.id), Some(made.id));
                    break;
                }
                Some(Err(error)) => panic!("{error}"),
                None => at += 1,
            }
        }
        assert!(at > 3, "it died before: {at}");
    }
}

#[test]
fn a_gap_in_the_history_is_said_and_never_passed_over() {
    let mut all = Recorder::new(Machine::new());
    keep(&all.machine, WINDOW_NS, 0);
    all.churn(3);
    let (before, lost, after) = (all.seen[3].clone(), all.seen[6].clone(), all.seen[9].clone());
    let vdisk = all.machine.vdisk();
    all.machine.checkpoint(&vdisk);
    all.machine.flush(&vdisk);
    all.machine.close();
    all.machine.lose_header(lost.sequence.0);
    all.machine.open();
    all.machine.assert_online(&all.machine.vdisk());
    all.check(&before, "before the gap");
    for moment in [Moment::At(after.wall_ns), Moment::Before(after.sequence.next())] {
        let error = try_snapshot_at(&all.machine, "past", moment).expect("it lives").expect_err("there is a gap");
        assert_eq!(error.kind, Kind::Corrupt, "{error}");
    }
    assert!(all.machine.vdisk().snapshots().is_empty());
}

#[test]
fn a_deleted_vdisk_takes_its_history_with_it() {
    for rolled_back in [false, true] {
        let mut all = Recorder::new(Machine::new());
        keep(&all.machine, WINDOW_NS, 0);
        all.churn(5);
        let (id, shard) = (all.machine.id("v"), all.machine.shard());
        let past = snapshot_at(&all.machine, Moment::At(all.seen[7].wall_ns));
        if rolled_back {
            let shard = shard.clone();
            all.machine.run(async move { shard.rollback(id, past.id).await }).expect("nobody is connected");
        }
        let clone = all.machine.clone_of(id, past.id, "c");
        all.machine.delete(id);
        all.machine.idle(SECOND_NS);
        assert_eq!(clone.rewind_info(), None);
        assert_eq!(all.machine.reads(&clone, 0..BLOCKS), all.seen[7].tags);
        let left = all.machine.groups().into_iter().filter(|placed| placed.header.vdisk == id).count();
        assert!(left < 12, "{left}");
        all.machine.kill();
        all.machine.open();
        let clone = all.machine.vdisk_by_id(clone.id).expect("it is whole");
        assert_eq!(all.machine.reads(&clone, 0..BLOCKS), all.seen[7].tags);
    }
}

/// What a rollback brings back is in no point before it.
#[test]
fn what_only_a_rollback_has_brought_back_stays() {
    let mut all = Recorder::new(Machine::new());
    all.churn(1);
    let id = all.machine.id("v");
    let old = all.machine.snapshot(id, "old");
    let tags = all.tags.clone();
    all.churn(2);
    all.settle();
    keep(&all.machine, WINDOW_NS, 0);
    all.churn(1);
    let shard = all.machine.shard();
    all.machine.run(async move { shard.rollback(id, old).await }).expect("nobody is connected");
    all.tags = tags;
    all.look();
    let rolled_back = all.seen.last().expect("just looked").clone();
    delete(&all.machine, old);
    all.churn(3);
    all.settle();
    all.check(&rolled_back, "behind it");
    all.machine.lose_power();
    all.machine.open();
    all.settle();
    all.check(&rolled_back, "after a power loss");
    let mut rng = Rng::new(1, 1);
    all.check_some(&mut rng, 10, "any");
}
