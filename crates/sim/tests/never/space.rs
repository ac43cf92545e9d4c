//! The accounts of space against a full walk of the map on the disk and a model of the content, under random work,
//! failing syncs and crashes; and that nothing leaks.

use crate::machine::{Machine, content, manual};
use crate::tap::{Fate, Verb};
use base::GroupId;
use base::units::{BLOCK, KIB, MIB};
use node::ShardConfig;
use sim::rng::Rng;
use std::collections::BTreeMap;
use std::rc::Rc;
use vdisk::Vdisk;
use vdisk::address::Address;
use vdisk::log::{CheckpointRecord, Record, frame};
use vdisk::map::decode_page;

const BLOCKS: u64 = 700;

/// Bytes of data and of map pages that a checkpoint reaches, by group.
type Reached = BTreeMap<GroupId, (u32, u32)>;

impl Machine {
    /// The record that the index names, as it lies on the disk.
    pub fn checkpoint_record(&self, vdisk: &Rc<Vdisk>) -> CheckpointRecord {
        let pool = self.shard().context.pool.clone();
        let records = self.shard().records();
        let hint = records.iter().find(|record| record.id == vdisk.id).and_then(|record| record.checkpoint);
        let hint = hint.expect("a checkpoint was taken");
        let bytes = self.run(async move { pool.read(hint.group, hint.offset, hint.len).await }).expect("readable");
        let frame = frame::decode(&bytes).expect("a frame");
        let run = frame.runs[0];
        let payload = &bytes[run.payload_offset as usize..(run.payload_offset + run.payload_len) as usize];
        match Record::decode(payload).expect("a record") {
            Record::Checkpoint(record) => Rc::unwrap_or_clone(record),
            other => panic!("{other:?}"),
        }
    }

    /// Every page and every entry below the root; every extent must be there and whole.
    pub fn walk(&self, record: &CheckpointRecord) -> Reached {
        let mut reached = Reached::new();
        let mut todo = vec![(record.root, record.height)];
        while let Some((address, height)) = todo.pop() {
            if !address.is_stored() {
                continue;
            }
            let pool = self.shard().context.pool.clone();
            let bytes = self.run(async move { pool.read(address.group(), address.offset(), address.len()).await });
            let bytes = bytes.expect("readable");
            assert_eq!(base::crc::crc32c(&bytes), address.crc(), "{address:?} at height {height}");
            let here = reached.entry(address.group()).or_default();
            if height == 0 {
                here.0 += address.len();
                continue;
            }
            here.1 += address.len();
            todo.extend(decode_page(&bytes).expect("a page").iter().map(|entry: &Address| (*entry, height - 1)));
        }
        reached
    }

    /// What a checkpoint says of its groups, against the walk. Returns the bytes of data.
    pub fn check_checkpoint(&self, vdisk: &Rc<Vdisk>) -> u64 {
        let record = self.checkpoint_record(vdisk);
        let mut reached = self.walk(&record);
        let data: u64 = reached.values().map(|(data, _)| u64::from(*data)).sum();
        for entry in &record.groups {
            let (data, pages) = reached.remove(&entry.group).unwrap_or_default();
            assert_eq!((entry.data, entry.pages), (data, pages), "group {} of {:?}", entry.group, record.covers);
            assert!(data + pages <= entry.len - entry.punched, "{entry:?} holds more than it occupies");
        }
        assert!(reached.is_empty(), "reached, but not in the record: {reached:?}");
        data
    }

    /// The pool's groups are those of the vDisks, no more and no less.
    pub fn check_groups(&self, context: &str) {
        let shard = self.shard();
        let mut count = 0;
        for vdisk in shard.open_vdisks() {
            for group in vdisk.groups() {
                assert!(shard.context.pool.knows(group), "{group} of {} is not on the disk", vdisk.id);
                count += 1;
            }
        }
        let usage = shard.context.pool.usage();
        assert_eq!((usage.slots_used, usage.slots_quarantined), (count, 0), "{context}");
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Block {
    Hole,
    Zeros,
    Data(u64),
}

/// One vDisk and what it must hold.
struct Subject {
    name: &'static str,
    blocks: Vec<Block>,
}

struct History {
    seed: u64,
    machine: Machine,
    rng: Rng,
    subjects: Vec<Subject>,
    next_tag: u64,
}

impl History {
    fn new(seed: u64) -> History {
        let mut rng = Rng::new(seed, 0x5face);
        let machine = Machine::with(config(&mut rng), seed);
        machine.create("w", 4 * MIB);
        let subject = |name| Subject { name, blocks: vec![Block::Hole; BLOCKS as usize] };
        History { seed, machine, rng, subjects: vec![subject("v"), subject("w")], next_tag: 1 }
    }

    fn vdisk(&self, index: usize) -> Rc<Vdisk> {
        self.machine.vdisk_by_id(self.machine.id(self.subjects[index].name)).expect("good")
    }

    fn step(&mut self) {
        let index = self.rng.below(2) as usize;
        match self.rng.below(100) {
            0..60 => self.write(index),
            60..75 => self.clear(index),
            75..82 => self.machine.flush(&self.vdisk(index)),
            82..90 => self.machine.checkpoint(&self.vdisk(index)),
            90..95 => self.maintain(index),
            95..97 => self.fail_sync(index),
            _ => self.restart(true),
        }
        self.check_live(index);
    }

    fn range(&mut self, most: u64) -> (u64, u64) {
        let count = self.rng.between(1, most);
        // Half of the work goes to a tenth of the blocks.
        let end = if self.rng.below(2) == 0 { BLOCKS / 10 } else { BLOCKS };
        (self.rng.below(end.saturating_sub(count).max(1)), count)
    }

    fn write(&mut self, index: usize) {
        let (first, count) = self.range(24);
        let tags: Vec<u64> = (0..count).map(|i| self.next_tag + i).collect();
        self.next_tag += count;
        self.machine.try_write(&self.vdisk(index), first, &tags).expect("it lives").expect("room");
        for (block, tag) in (first..).zip(tags) {
            self.subjects[index].blocks[block as usize] = Block::Data(tag);
        }
    }

    fn clear(&mut self, index: usize) {
        let (first, count) = self.range(150);
        let (vdisk, keep) = (self.vdisk(index), self.rng.below(3) == 0);
        if keep {
            let how = block::WriteZeroes::KeepAllocated;
            self.machine.run(async move { vdisk.write_zeroes(first * BLOCK, count * BLOCK, how).await }).expect("room");
        } else {
            self.machine.trim(&vdisk, first, count);
        }
        let fill = if keep { Block::Zeros } else { Block::Hole };
        self.subjects[index].blocks[first as usize..(first + count) as usize].fill(fill);
    }

    fn fail_sync(&mut self, index: usize) {
        let mut left = 1;
        self.machine.tap.set_rule(move |operation| {
            let fails = operation.verb == Verb::Sync && operation.is_slab() && left > 0;
            left -= i32::from(fails);
            if fails { Fate::Fails } else { Fate::Happens }
        });
        self.machine.flush(&self.vdisk(index));
        self.machine.flush(&self.vdisk(1 - index));
        self.machine.tap.clear();
        self.check_live(1 - index);
        // Groups on a slab that failed are marked free by the next start.
        self.restart(false);
    }

    /// `clean`: it may be a clean stop.
    fn restart(&mut self, clean: bool) {
        match self.rng.below(3) {
            0 if clean => self.machine.close(),
            0 | 1 => self.machine.kill(),
            _ => {
                (0..2).for_each(|index| self.machine.flush(&self.vdisk(index)));
                self.machine.lose_power();
            }
        }
        self.machine.open();
        (0..2).for_each(|index| self.check_live(index));
    }

    fn mapped(&self, index: usize) -> u64 {
        self.subjects[index].blocks.iter().filter(|block| matches!(block, Block::Data(_))).count() as u64 * BLOCK
    }

    fn check_live(&self, index: usize) {
        let vdisk = self.vdisk(index);
        self.machine.assert_online(&vdisk);
        let space = vdisk.space();
        assert_eq!(space.mapped_bytes, self.mapped(index), "{}", self.subjects[index].name);
        assert!(space.mapped_bytes <= space.live_bytes && space.live_bytes <= space.stored_bytes, "{space:?}");
    }

    fn maintain(&mut self, index: usize) {
        let vdisk = self.vdisk(index);
        self.machine.checkpoint(&vdisk);
        self.machine.make_room(&vdisk);
        self.machine.checkpoint(&vdisk);
        self.machine.make_room(&vdisk);
        // What is still under way in the background comes to its end.
        self.machine.idle(1_000_000_000);
        assert_eq!(self.machine.check_checkpoint(&vdisk), self.mapped(index));
        self.machine.check_groups(&format!("seed {}", self.seed));
    }

    fn check_content(&self) {
        for (index, subject) in self.subjects.iter().enumerate() {
            let vdisk = self.vdisk(index);
            let reader = vdisk.clone();
            let read = self.machine.run(async move { reader.read(0, (BLOCKS * BLOCK) as u32).await });
            let segments = read.expect("readable").into_iter().map(|segment| match segment {
                block::Segment::Bytes(bytes) => bytes.to_vec(),
                block::Segment::Zeros(len) => vec![0; len as usize],
            });
            let bytes = segments.collect::<Vec<_>>().concat();
            for (block, expect) in subject.blocks.iter().enumerate() {
                let tag = if let Block::Data(tag) = expect { *tag } else { 0 };
                let found = &bytes[block * BLOCK as usize..(block + 1) * BLOCK as usize];
                assert!(found == content(block as u64, tag), "block {block} of {}", subject.name);
            }
        }
    }
}

fn config(rng: &mut Rng) -> ShardConfig {
    let mut config = manual();
    config.pool.slots_per_slab_max = *rng.pick(&[8, 256]).expect("two");
    config.pool.recycled_bytes_max = *rng.pick(&[0, 128 * KIB]).expect("two");
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
fn accounts_agree_with_a_walk_of_the_map() {
    for seed in 0..24 {
        let mut history = History::new(seed);
        for _ in 0..120 {
            history.step();
        }
        (0..2).for_each(|index| history.maintain(index));
        history.check_content();
    }
}

#[test]
fn nothing_leaks() {
    for seed in 100..116 {
        let mut rng = Rng::new(seed, 0x1eac);
        let mut config = config(&mut rng);
        config.pool.recycled_bytes_max = 0;
        let machine = Machine::bare(config, seed);
        let (world, disk, config) = (machine.world(), machine.mount(), machine.config.clone());
        machine.run(async move { node::Shard::format(&world, &disk, &config, 1, 0).await }).expect("an empty disk");
        machine.open();
        let baseline = (machine.disk.allocated_bytes(), machine.shard().context.pool.usage().allocated_bytes);
        machine.create("v", 4 * MIB);
        machine.create("w", 4 * MIB);
        let subject = |name| Subject { name, blocks: vec![Block::Hole; BLOCKS as usize] };
        let mut history = History { seed, machine, rng, subjects: vec![subject("v"), subject("w")], next_tag: 1 };
        for _ in 0..80 {
            history.step();
        }
        // All of one is trimmed: a few small groups with the empty map are left of it.
        let vdisk = history.vdisk(0);
        history.machine.trim(&vdisk, 0, BLOCKS);
        history.subjects[0].blocks.fill(Block::Hole);
        (0..3).for_each(|_| history.maintain(0));
        let space = history.vdisk(0).space();
        assert!(space.mapped_bytes == 0 && space.groups <= 6, "seed {seed}: {space:?}");
        // Both are deleted: nothing is left but the pages of the slabs' own headers.
        let (shard, ids) = (history.machine.shard(), [history.machine.id("v"), history.machine.id("w")]);
        history.machine.run(async move {
            for id in ids {
                shard.delete(id, false).await.expect("not in use");
            }
        });
        history.machine.idle(1_000_000_000);
        if seed % 2 == 0 {
            history.machine.kill();
            history.machine.open();
        }
        let pool = history.machine.shard().context.pool.clone();
        // Blocks that free slots keep go with the second call of a run, if nobody used them since the first.
        for _ in 0..2 {
            let task = pool.clone();
            history.machine.run(async move { task.replenish().await }).expect("the disk works");
        }
        let slabs = history.machine.disk.files().iter().filter(|(name, _)| name.starts_with("slab-")).count() as u64;
        let usage = pool.usage();
        assert_eq!((usage.slots_used, usage.slots_recycled, usage.slots_quarantined), (0, 0, 0), "seed {seed}");
        assert_eq!(history.machine.disk.allocated_bytes(), baseline.0 + slabs * BLOCK, "seed {seed}");
        assert_eq!(usage.allocated_bytes, baseline.1 + slabs * BLOCK, "seed {seed}");
    }
}
