//! What snapshots and clones hold against a full walk of every map on the disk, and what they show against full copies, under
//! random work, failing syncs and crashes.

use crate::keeper::RETURNS;
use crate::machine::{Machine, homed, manual};
use crate::rewind::WINDOW_NS;
use crate::tap::{Fate, Verb};
use base::units::{BLOCK, KIB, MIB};
use base::{GroupId, SnapshotId, VdiskId};
use node::{BornWith, ShardConfig};
use sim::rng::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use vdisk::{Moment, Rewind, Vdisk};

const BLOCKS: u64 = 300;
const VDISKS_MAX: usize = 5;
const SNAPSHOTS_MAX: usize = 4;

/// By block its tag; 0: reads as zeros.
type Content = Vec<u64>;

pub struct Subject {
    pub id: VdiskId,
    now: Content,
    pub snapshots: Vec<(SnapshotId, Content)>,
}

/// Random work on a family of vDisks.
pub struct History {
    pub machine: Machine,
    rng: Rng,
    pub subjects: Vec<Subject>,
    next: u64,
    node: u16,
    pub context: String,
    /// Extents are shared between any of them, also those that are no family.
    copies: bool,
    /// Some keep their past, of which snapshots are taken; what can be had of it.
    pasts: Option<Vec<Past>>,
    /// Snapshots of the past that were taken, and kills.
    pub went_back: u32,
    pub killed: u32,
}

/// What a vDisk that keeps its past had at a moment.
struct Past {
    vdisk: VdiskId,
    wall_ns: u64,
    content: Content,
}

fn mapped(content: &Content) -> u64 {
    content.iter().filter(|tag| **tag != 0).count() as u64 * BLOCK
}

impl History {
    pub fn new(seed: u64) -> History {
        let mut rng = Rng::new(seed, 0x4e1d);
        let machine = Machine::with(config(&mut rng), seed);
        let id = machine.id("v");
        let subject = Subject { id, now: vec![0; BLOCKS as usize], snapshots: Vec::new() };
        History {
            machine,
            rng,
            subjects: vec![subject],
            next: 1,
            node: 2,
            context: format!("seed {seed}"),
            copies: false,
            pasts: None,
            went_back: 0,
            killed: 0,
        }
    }

    pub fn with_pasts(seed: u64) -> History {
        History { pasts: Some(Vec::new()), ..History::new(seed) }
    }

    fn with_copies(seed: u64) -> History {
        History { copies: true, ..History::new(seed) }
    }

    pub fn vdisk(&self, index: usize) -> Rc<Vdisk> {
        self.machine.vdisk_by_id(self.subjects[index].id).expect("good")
    }

    fn any(&mut self) -> usize {
        self.rng.below(self.subjects.len() as u64) as usize
    }

    /// A vDisk and one of its snapshots.
    fn any_snapshot(&mut self) -> Option<(usize, usize)> {
        let index = self.any();
        let count = self.subjects[index].snapshots.len() as u64;
        (count > 0).then(|| (index, self.rng.below(count) as usize))
    }

    /// Of what is written to the block.
    fn tag(&mut self, block: u64) -> u64 {
        let tag = self.fresh();
        if self.copies { homed(block, tag) } else { tag }
    }

    fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub fn step(&mut self) {
        if self.copies && self.rng.below(3) == 0 {
            match self.rng.below(10) {
                0 => self.stranger(),
                1 => self.fail_sync_of_copy(),
                _ => self.copy(),
            }
            return self.check_live();
        }
        if self.pasts.is_some() && self.rng.below(3) == 0 {
            match self.rng.below(12) {
                0..2 => self.keep_past(),
                2 => self.forget_past(),
                3..6 => self.note_moment(),
                6 => self.kill(),
                _ => self.snapshot_of_the_past(),
            }
            return self.check_live();
        }
        let index = self.any();
        match self.rng.below(100) {
            0..2 => self.grow(index),
            2..40 => self.write(index),
            40..50 => self.trim(index),
            50..62 => self.snapshot(index),
            62..68 => self.delete_snapshot(),
            68..74 => self.clone_one(),
            74..78 => self.roll_back(),
            78..81 => self.delete(index),
            81..85 => self.fail_sync(index),
            85..90 => self.restart(),
            _ => self.check_held(),
        }
        self.check_live();
    }

    /// So many steps, and a look at all that is left.
    fn live(&mut self, context: &str, steps: u32) {
        for step in 0..steps {
            self.context = format!("{context}, step {step}");
            self.step();
        }
        self.check_held();
        self.check_content();
    }

    fn write(&mut self, index: usize) {
        let count = self.rng.between(1, 20);
        let end = if self.rng.below(2) == 0 { BLOCKS / 10 } else { BLOCKS };
        let first = self.rng.below(end.saturating_sub(count).max(1));
        let tags: Vec<u64> = (first..first + count).map(|block| self.tag(block)).collect();
        self.machine.try_write(&self.vdisk(index), first, &tags).expect("it lives").expect("room");
        for (block, tag) in (first..).zip(tags) {
            self.subjects[index].now[block as usize] = tag;
        }
    }

    fn trim(&mut self, index: usize) {
        let count = self.rng.between(1, 60);
        let first = self.rng.below(BLOCKS - count);
        self.machine.trim(&self.vdisk(index), first, count);
        self.subjects[index].now[first as usize..(first + count) as usize].fill(0);
    }

    /// A vDisk that descends from none.
    fn stranger(&mut self) {
        if self.subjects.len() < VDISKS_MAX {
            let (shard, name) = (self.machine.shard(), format!("n{}", self.fresh()));
            let made = self
                .machine
                .run(async move { shard.create(&name, 4 * MIB, 512, BornWith::default()).await })
                .expect("room");
            self.subjects.push(Subject { id: made.id, now: vec![0; BLOCKS as usize], snapshots: Vec::new() });
        }
    }

    /// Between any two, or within one; what was lent stays what it was while its vDisk changes.
    fn copy(&mut self) {
        let (from, to) = (self.any(), self.any());
        let count = self.rng.between(1, 60);
        let (first, at) = (self.rng.below(BLOCKS - count), self.rng.below(BLOCKS - count));
        let device = self.vdisk(from).device();
        let lent = match self.machine.run(device.lend(first * BLOCK, (count * BLOCK) as u32)) {
            Err(error) if error.kind == block::Kind::Unsupported => return,
            lent => lent.expect("readable"),
        };
        let copied = self.subjects[from].now[first as usize..(first + count) as usize].to_vec();
        match self.rng.below(4) {
            0 => self.trim(from),
            1 => self.write(from),
            _ => {}
        }
        if self.rng.below(4) == 0 {
            self.machine.settle();
        }
        self.machine.run(self.vdisk(to).device().take(at * BLOCK, lent)).expect("room");
        self.subjects[to].now[at as usize..(at + count) as usize].copy_from_slice(&copied);
    }

    fn fail_sync_of_copy(&mut self) {
        let index = self.any();
        self.write(index);
        self.next_sync_fails();
        self.copy();
        self.flush_and_come_back();
    }

    /// By a level of the map, sooner or later.
    fn grow(&mut self, index: usize) {
        let vdisk = self.vdisk(index);
        let size_bytes = vdisk.attributes().size_bytes + self.rng.between(1, 300) * MIB;
        self.machine.run(async move { vdisk.resize(size_bytes).await }).expect("room");
    }

    fn snapshot(&mut self, index: usize) {
        if self.subjects[index].snapshots.len() < SNAPSHOTS_MAX {
            let name = format!("s{}", self.fresh());
            let id = self.machine.snapshot(self.subjects[index].id, &name);
            let content = self.subjects[index].now.clone();
            self.subjects[index].snapshots.push((id, content));
        }
    }

    fn keep_past(&mut self) {
        let index = self.any();
        let vdisk = self.vdisk(index);
        let rewind = Rewind { window_ns: WINDOW_NS, limit_bytes: 0 };
        self.machine.run(async move { vdisk.set_rewind(Some(rewind)).await }).expect("room");
    }

    fn forget_past(&mut self) {
        let index = self.any();
        let vdisk = self.vdisk(index);
        let id = vdisk.id;
        self.machine.run(async move { vdisk.set_rewind(None).await }).expect("room");
        self.pasts.as_mut().expect("asked before").retain(|past| past.vdisk != id);
    }

    fn note_moment(&mut self) {
        let index = self.any();
        if self.vdisk(index).rewind().is_some() {
            let Subject { id, now, .. } = &self.subjects[index];
            let past = Past { vdisk: *id, wall_ns: self.machine.world().clock.wall().0, content: now.clone() };
            self.pasts.as_mut().expect("asked before").push(past);
            self.machine.idle(1_000);
        }
    }

    fn snapshot_of_the_past(&mut self) {
        let pasts = self.pasts.as_ref().expect("asked before");
        let Some(Past { vdisk, wall_ns, content }) = self.rng.pick(pasts) else { return };
        let (id, moment, content) = (*vdisk, Moment::At(*wall_ns), content.clone());
        let Some(index) = self.subjects.iter().position(|subject| subject.id == id) else { return };
        if self.subjects[index].snapshots.len() < SNAPSHOTS_MAX {
            let (shard, name) = (self.machine.shard(), format!("s{}", self.fresh()));
            let made = self.machine.run(async move { shard.snapshot_at(id, &name, moment).await }).expect("it is kept");
            assert_eq!(self.machine.read_snapshot(id, made.id, 0..BLOCKS), content, "{}: {moment:?}", self.context);
            self.subjects[index].snapshots.push((made.id, content));
            self.went_back += 1;
        }
    }

    /// What was acknowledged and never flushed is there.
    fn kill(&mut self) {
        self.machine.kill();
        self.machine.open();
        self.killed += 1;
        self.check_content();
    }

    fn delete_snapshot(&mut self) {
        if let Some((index, number)) = self.any_snapshot() {
            let (id, _) = self.subjects[index].snapshots.remove(number);
            self.machine.delete_snapshot(self.subjects[index].id, id);
        }
    }

    fn clone_one(&mut self) {
        if self.subjects.len() < VDISKS_MAX
            && let Some((index, number)) = self.any_snapshot()
        {
            let (name, (id, content)) = (format!("c{}", self.fresh()), self.subjects[index].snapshots[number].clone());
            let made = self.machine.clone_of(self.subjects[index].id, id, &name);
            self.subjects.push(Subject { id: made.id, now: content, snapshots: Vec::new() });
        }
    }

    fn roll_back(&mut self) {
        if let Some((index, number)) = self.any_snapshot() {
            let (shard, id) = (self.machine.shard(), self.subjects[index].id);
            let (snapshot, content) = self.subjects[index].snapshots[number].clone();
            self.machine.run(async move { shard.rollback(id, snapshot).await }).expect("nobody is connected");
            self.subjects[index].now = content;
        }
    }

    fn delete(&mut self, index: usize) {
        if self.subjects.len() > 1 {
            let subject = self.subjects.swap_remove(index);
            self.machine.delete(subject.id);
        }
    }

    fn fail_sync(&mut self, index: usize) {
        self.next_sync_fails();
        self.write(index);
        self.machine.flush(&self.vdisk(index));
        self.flush_and_come_back();
    }

    fn next_sync_fails(&self) {
        let mut left = 1;
        self.machine.tap.set_rule(move |operation| {
            let fails = operation.verb == Verb::Sync && operation.is_slab() && left > 0;
            left -= i32::from(fails);
            if fails { Fate::Fails } else { Fate::Happens }
        });
    }

    fn flush_and_come_back(&mut self) {
        (0..self.subjects.len()).for_each(|other| self.machine.flush(&self.vdisk(other)));
        self.machine.tap.clear();
        // Groups on a slab that failed are marked free by the next start.
        let way = *self.rng.pick(&[0, 2, 3]).expect("three");
        self.come_back(way);
    }

    fn restart(&mut self) {
        (0..self.subjects.len()).for_each(|index| self.machine.flush(&self.vdisk(index)));
        let way = self.rng.below(4) as usize;
        self.come_back(way);
    }

    fn come_back(&mut self, way: usize) {
        RETURNS[way](&self.machine, self.node);
        self.node += 1;
        self.check_content();
    }

    fn check_live(&self) {
        for (index, subject) in self.subjects.iter().enumerate() {
            let vdisk = self.vdisk(index);
            self.machine.assert_online(&vdisk);
            assert_eq!(vdisk.space().mapped_bytes, mapped(&subject.now), "{}: {}", self.context, subject.id);
            let listed: BTreeMap<SnapshotId, u64> =
                vdisk.snapshots().iter().map(|info| (info.id, info.mapped_bytes)).collect();
            let expected = subject.snapshots.iter().map(|(id, content)| (*id, mapped(content))).collect();
            assert_eq!(listed, expected, "{}: {}", self.context, subject.id);
        }
    }

    fn check_content(&self) {
        for (index, subject) in self.subjects.iter().enumerate() {
            assert_eq!(
                self.machine.reads(&self.vdisk(index), 0..BLOCKS),
                subject.now,
                "{}: {}",
                self.context,
                subject.id
            );
            for (id, content) in &subject.snapshots {
                let found = self.machine.read_snapshot(subject.id, *id, 0..BLOCKS);
                assert_eq!(&found, content, "{}: {} of {}", self.context, id, subject.id);
            }
        }
    }

    /// Once all is settled, every map that there is has been stored: what is held is what they reach, and nothing else is left.
    fn check_held(&self) {
        (0..2).for_each(|_| self.machine.settle());
        let machine = &self.machine;
        let (mut held, mut needed) = (BTreeSet::new(), BTreeSet::new());
        for (index, subject) in self.subjects.iter().enumerate() {
            let record = machine.checkpoint_record(&self.vdisk(index));
            let records = machine.shard().records();
            let hint = records.iter().find(|other| other.id == subject.id).and_then(|record| record.checkpoint);
            let here = hint.expect("a checkpoint was taken").group;
            let reached = machine.walk(&record);
            let data: u64 = reached.values().map(|(data, _)| u64::from(*data)).sum();
            assert_eq!(data, mapped(&subject.now), "{}: {}", self.context, subject.id);
            let counted = record.groups.iter().filter(|entry| entry.data + entry.pages > 0);
            let counted: BTreeMap<GroupId, (u32, u32)> =
                counted.map(|entry| (entry.group, (entry.data, entry.pages))).collect();
            assert_eq!(counted, reached, "{}: the accounts of {}", self.context, subject.id);
            let foreign = record.groups.iter().filter(|entry| entry.len == 0).map(|entry| entry.group);
            held.extend(foreign.filter(|group| reached.contains_key(group)));
            held.extend(
                record.groups.iter().filter(|entry| entry.is_copied && entry.data > 0).map(|entry| entry.group),
            );
            needed.extend(reached.into_keys());
            let of: BTreeMap<SnapshotId, &Content> =
                subject.snapshots.iter().map(|(id, content)| (*id, content)).collect();
            let kept = |id: &SnapshotId| record.snapshots.iter().any(|entry| entry.record.id == *id);
            assert!(of.keys().all(kept), "{}: of {} some are not stored", self.context, subject.id);
            for entry in &record.snapshots {
                let id = entry.record.id;
                let kept = vdisk::log::CheckpointRecord { root: entry.root, height: entry.height, ..record.clone() };
                let reached = machine.walk(&kept);
                let data: u64 = reached.values().map(|(data, _)| u64::from(*data)).sum();
                let context = format!("{}: {id} of {}", self.context, subject.id);
                // What a point of the history had is known to nobody here.
                let is_point = entry.record.point.is_some() && self.pasts.is_some();
                assert!(is_point || of.contains_key(&id), "{context}: nobody has taken it");
                let expected = of.get(&id).map_or(data, |content| mapped(content));
                assert_eq!((entry.mapped_bytes, data), (expected, expected), "{context}");
                let own_record = entry.place.map_or(here, |place| place.group);
                held.extend(reached.keys().copied().chain([own_record]));
                needed.extend(reached.into_keys().chain([own_record]));
            }
        }
        let all = machine.shard().context.references.held_groups();
        if self.copies || self.pasts.is_some() {
            // What was copied is held until it is shown to be gone, by snapshots as long as they are there; history needs the log.
            assert!(all.is_superset(&held), "{}: {all:?} {held:?}", self.context);
            needed.extend(all);
        } else {
            assert_eq!(all, held, "{}", self.context);
        }
        self.check_left(&needed);
    }

    /// With nothing mapped nothing is held, and nothing is left of vDisks that are gone.
    fn empty_all(&mut self) {
        for subject in &mut self.subjects {
            let snapshots = std::mem::take(&mut subject.snapshots);
            snapshots.iter().for_each(|(snapshot, _)| self.machine.delete_snapshot(subject.id, *snapshot));
            let vdisk = self.machine.vdisk_by_id(subject.id).expect("good");
            self.machine.trim(&vdisk, 0, BLOCKS);
            self.machine.run(async move { vdisk.set_rewind(None).await }).expect("room");
            subject.now.fill(0);
        }
        // What was given up and is held again by a start goes, though nobody writes.
        self.machine.settle();
        self.come_back(0);
        (0..3).for_each(|_| self.machine.settle());
        assert_eq!(self.machine.shard().context.references.held_groups(), BTreeSet::new(), "{}", self.context);
        self.check_left(&BTreeSet::new());
    }

    /// Groups of vDisks that are gone are those that are needed, and one with the tombstone for each such vDisk.
    fn check_left(&self, needed: &BTreeSet<GroupId>) {
        let is_here = |id: VdiskId| self.subjects.iter().any(|subject| subject.id == id);
        let mut left: BTreeMap<VdiskId, (usize, usize)> = BTreeMap::new();
        for placed in self.machine.groups().into_iter().filter(|placed| !is_here(placed.header.vdisk)) {
            let (of_use, others) = left.entry(placed.header.vdisk).or_default();
            let count = if needed.contains(&placed.header.group) { of_use } else { others };
            *count += 1;
        }
        for (vdisk, (of_use, others)) in left {
            assert!(of_use > 0 && others <= 1, "{}: {vdisk} has left {of_use} and {others}", self.context);
        }
    }
}

fn config(rng: &mut Rng) -> ShardConfig {
    let mut config = manual();
    config.pool.slots_per_slab_max = *rng.pick(&[8, 256]).expect("two");
    config.pool.recycled_bytes_max = 0;
    config.settings.map_bytes_max = *rng.pick(&[16 * KIB, 64 * MIB]).expect("two");
    if rng.below(2) == 0 {
        // On its own: checkpoints and re-packing as they fall due.
        config.settings.space_slack_bytes = 128 * KIB;
        config.settings.checkpoint_log_bytes_min = 256 * KIB;
        config.settings.checkpoint_log_bytes_max = MIB;
        config.settings.unsynced_age_ns_max = 1_000_000;
    }
    config
}

#[test]
fn what_is_held_is_what_a_walk_of_all_maps_reaches() {
    // 188: a rollback of a clone to what it had let go of.
    for seed in (0..16).chain([188]) {
        History::new(seed).live(&format!("seed {seed}"), 90);
    }
}

#[test]
fn what_the_past_needs_stays_and_goes_with_it() {
    let (mut went_back, mut killed) = (0, 0);
    for seed in 30..46 {
        let mut history = History::with_pasts(seed);
        history.live(&format!("with pasts, seed {seed}"), 120);
        history.empty_all();
        (went_back, killed) = (went_back + history.went_back, killed + history.killed);
    }
    assert!(went_back >= 30 && killed >= 30, "{went_back} snapshots of the past, {killed} kills");
}

#[test]
fn what_copies_share_stays_as_long_as_anybody_has_it_and_no_longer() {
    for seed in 0..24 {
        let mut history = History::with_copies(seed);
        history.live(&format!("copies, seed {seed}"), 120);
        history.empty_all();
    }
}
