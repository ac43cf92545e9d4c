//! Which bytes each vDisk and snapshot reaches alone, against a full walk of every map of the family after every step.

use crate::held::{History, Subject};
use crate::machine::Machine;
use base::{SnapshotId, VdiskId};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use vdisk::address::Address;
use vdisk::log::CheckpointRecord;
use vdisk::map::decode_page;
use vdisk::{Reached, Share, Shares, Vdisk};

/// What a map reaches: extents (`false`) and pages (`true`), each with its length.
type Things = BTreeMap<u128, (bool, u64)>;

/// A snapshot or what is there now, and everything that it reaches.
type Map = (Option<SnapshotId>, Things);

impl Machine {
    fn shares(&self, vdisk: VdiskId) -> node::Result<Shares> {
        let shard = self.shard();
        self.run(async move { shard.shares(vdisk, || true).await })
    }

    fn things(&self, root: Address, height: u8) -> Things {
        let mut things = Things::new();
        let mut todo = vec![(root, height)];
        while let Some((address, height)) = todo.pop().filter(|(address, _)| address.is_stored()) {
            things.insert(address.raw(), (height > 0, address.len().into()));
            if height > 0 {
                let pool = self.shard().context.pool.clone();
                let read = async move { pool.read(address.group(), address.offset(), address.len()).await };
                let page = decode_page(&self.run(read).expect("readable")).expect("a page");
                let children = page.iter().filter(|child| child.is_stored());
                todo.extend(children.map(|child| (*child, height - 1)));
            }
        }
        things
    }

    /// As the last checkpoint on the disk says.
    fn maps(&self, vdisk: &Rc<Vdisk>) -> Vec<Map> {
        let CheckpointRecord { root, height, snapshots, .. } = self.checkpoint_record(vdisk);
        let mut kept: Vec<_> = snapshots.iter().collect();
        kept.sort_by_key(|entry| entry.sequence);
        let kept = kept.into_iter().map(|entry| (Some(entry.record.id), self.things(entry.root, entry.height)));
        [(None, self.things(root, height))].into_iter().chain(kept).collect()
    }
}

fn sum<'a>(things: impl Iterator<Item = &'a (bool, u64)>) -> Reached {
    let mut reached = Reached::default();
    for (is_page, bytes) in things {
        *(if *is_page { &mut reached.pages } else { &mut reached.data }) += bytes;
    }
    reached
}

fn expected(vdisk: usize, family: &[Vec<Map>]) -> Shares {
    let others = || family.iter().enumerate().filter(|(index, _)| *index != vdisk).flat_map(|(_, maps)| maps);
    let of = |number: usize| {
        let (_, things) = &family[vdisk][number];
        let mine = family[vdisk].iter().enumerate().filter(|(other, _)| *other != number).map(|(_, map)| map);
        let rest: Vec<&Things> = mine.chain(others()).map(|(_, things)| things).collect();
        let is_shared = |thing: &u128| rest.iter().any(|other| other.contains_key(thing));
        let of_kind =
            |shared: bool| sum(things.iter().filter(|(thing, _)| is_shared(thing) == shared).map(|(_, of)| of));
        Share { unique: of_kind(false), shared: of_kind(true) }
    };
    let all: Things = family[vdisk].iter().flat_map(|(_, things)| things.clone()).collect();
    let is_here_only = |thing: &u128| others().all(|(_, things)| !things.contains_key(thing));
    let snapshots = family[vdisk].iter().enumerate().filter_map(|(number, (id, _))| Some(((*id)?, of(number))));
    Shares {
        now: of(0),
        snapshots: snapshots.collect(),
        alone: sum(all.iter().filter(|(thing, _)| is_here_only(thing)).map(|(_, of)| of)),
    }
}

fn check(history: &History) {
    let machine = &history.machine;
    let found: Vec<Shares> = history.subjects.iter().map(|subject| machine.shares(subject.id).expect("good")).collect();
    // Clones that are as they were born have stored nothing yet; the walk needs something to start from.
    (0..history.subjects.len()).for_each(|index| machine.checkpoint(&history.vdisk(index)));
    let family: Vec<Vec<Map>> = (0..found.len()).map(|index| machine.maps(&history.vdisk(index))).collect();
    for (index, (found, Subject { id, snapshots, .. })) in found.iter().zip(&history.subjects).enumerate() {
        assert_eq!(*found, expected(index, &family), "{}: {id}", history.context);
        // Points of the history are among them: they are reasons for others to be no longer alone.
        let record = machine.checkpoint_record(&history.vdisk(index));
        let points: BTreeSet<SnapshotId> =
            record.snapshots.iter().filter(|entry| entry.record.point.is_some()).map(|entry| entry.record.id).collect();
        let shown: BTreeSet<SnapshotId> = found.snapshots.iter().map(|(id, _)| *id).collect();
        let taken: BTreeSet<SnapshotId> = snapshots.iter().map(|(id, _)| *id).collect();
        assert_eq!(&shown - &points, taken, "{}: {id}", history.context);
        // Once it is as it was stored, too.
        assert_eq!(*found, machine.shares(*id).expect("good"), "{}: {id}", history.context);
    }
}

#[test]
fn what_is_reached_alone_is_what_a_walk_of_all_maps_says() {
    for seed in 300..308 {
        check_each_step(&format!("seed {seed}"), 60, &mut History::new(seed));
    }
}

/// The same where the past is kept, and snapshots of it are taken, and over kills with writes that nobody has flushed.
#[test]
fn with_a_past_as_well() {
    let (mut went_back, mut killed) = (0, 0);
    for seed in 400..408 {
        let mut history = History::with_pasts(seed);
        check_each_step(&format!("with pasts, seed {seed}"), 80, &mut history);
        (went_back, killed) = (went_back + history.went_back, killed + history.killed);
    }
    assert!(went_back >= 10 && killed >= 10, "{went_back} snapshots of the past, {killed} kills");
}

fn check_each_step(context: &str, steps: u32, history: &mut History) {
    for step in 0..steps {
        history.context = format!("{context}, step {step}");
        history.step();
        check(history);
    }
}

/// One snapshot of a vDisk whose first block is written anew: old and new extent, leaf and root are of one each.
#[test]
fn a_block_that_is_written_anew_is_of_the_snapshot_alone() {
    let machine = Machine::new();
    let vdisk = machine.vdisk();
    machine.write_tags(&vdisk, 1..=10);
    let kept = machine.snapshot(vdisk.id, "s");
    let both = Reached { data: 40 << 10, pages: 8 << 10 };
    let equal = Share { unique: Reached::default(), shared: both };
    let nothing_changed = Shares { now: equal, snapshots: vec![(kept, equal)], alone: both };
    assert_eq!(machine.shares(vdisk.id).expect("good"), nothing_changed);
    machine.write(&vdisk, 0, 11);
    let apart =
        Share { unique: Reached { data: 4 << 10, pages: 8 << 10 }, shared: Reached { data: 36 << 10, pages: 0 } };
    let alone = Reached { data: 44 << 10, pages: 16 << 10 };
    assert_eq!(machine.shares(vdisk.id).expect("good"), Shares { now: apart, snapshots: vec![(kept, apart)], alone });
    let clone = machine.clone_of(vdisk.id, kept, "c");
    let found = machine.shares(clone.id).expect("good");
    assert_eq!((found.now, found.alone), (equal, Reached::default()));
    let found = machine.shares(vdisk.id).expect("good");
    assert_eq!((found.now, found.snapshots), (apart, vec![(kept, equal)]));
    assert_eq!(found.alone, apart.unique);
}

/// Where else the extents of a group are is not known once any of them was copied.
#[test]
fn what_was_copied_is_shared_as_long_as_the_copy_is_there() {
    let machine = Machine::new();
    let (vdisk, other) = (machine.vdisk(), machine.create("w", 4 << 20));
    machine.write_tags(&vdisk, 1..=10);
    let data = |vdisk: VdiskId| {
        let Shares { now, alone, .. } = machine.shares(vdisk).expect("good");
        (now.unique.data, now.shared.data, alone.data)
    };
    assert_eq!(data(vdisk.id), (40 << 10, 0, 40 << 10));
    let lent = machine.run(vdisk.device().lend(0, 16 << 10)).expect("lent");
    machine.run(other.device().take(64 << 10, lent)).expect("taken");
    assert_eq!((data(vdisk.id), data(other.id)), ((0, 40 << 10, 0), (0, 16 << 10, 0)));
    machine.kill();
    machine.open();
    let [vdisk, other] = [vdisk.id, other.id].map(|id| machine.vdisk_by_id(id).expect("good"));
    assert_eq!((data(vdisk.id), data(other.id)), ((0, 40 << 10, 0), (0, 16 << 10, 0)));
    machine.trim(&other, 0, 100);
    machine.settle();
    assert_eq!((data(vdisk.id), data(other.id)), ((40 << 10, 0, 40 << 10), (0, 0, 0)));
}

#[test]
fn nobody_waits_for_a_walk_that_is_not_wanted() {
    let machine = Machine::new();
    let vdisk = machine.vdisk();
    machine.write(&vdisk, 0, 1);
    machine.snapshot(vdisk.id, "s");
    machine.write(&vdisk, 0, 2);
    let shard = machine.shard();
    let refused = machine.run(async move { shard.shares(vdisk.id, || false).await }).expect_err("nobody asks");
    assert_eq!(refused.kind, node::Kind::Unavailable);
}
