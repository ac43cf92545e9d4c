//! Bounds that hold over many vDisks and long runs: the replay in sum, the space of groups that are half dead, and how many
//! groups there are.

use crate::machine::{Machine, manual};
use crate::reclaim::{Step, step};
use crate::tap::{Fate, Verb, WAIT_NS};
use base::units::{BLOCK, KIB, MIB};
use bytes::Bytes;
use sim::disk::{Crash, InFlight, Survival};
use sim::rng::Rng;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::rc::Rc;
use vdisk::Vdisk;

const VDISKS: u64 = 40;

fn many(limit: u64) -> (Machine, Vec<Rc<Vdisk>>) {
    let mut config = manual();
    config.settings.shard_log_bytes_max = limit;
    config.settings.unsynced_age_ns_max = 10_000_000;
    let machine = Machine::with(config, 1);
    const NAMES: [&str; VDISKS as usize] = [
        "00", "01", "02", "03", "04", "05", "06", "07", "08", "09", "10", "11", "12", "13", "14", "15", "16", "17",
        "18", "19", "20", "21", "22", "23", "24", "25", "26", "27", "28", "29", "30", "31", "32", "33", "34", "35",
        "36", "37", "38", "39",
    ];
    let vdisks = NAMES.into_iter().map(|name| machine.create(name, 4 * MIB)).collect();
    (machine, vdisks)
}

fn sum_of_logs(machine: &Machine) -> u64 {
    machine.shard().open_vdisks().iter().map(|vdisk| vdisk.space().log_bytes).sum()
}

#[test]
fn the_replay_is_bounded_in_sum_over_many_vdisks() {
    let limit = 2 * MIB;
    let (machine, vdisks) = many(limit);
    let mut rng = Rng::new(1, 0xb0d);
    let (mut most, mut written) = (0, 0);
    for step in 0..6000 {
        // A few are busy, most write a block now and then: none of them reaches a limit of its own.
        let index = if rng.below(3) == 0 { rng.below(VDISKS) } else { rng.below(4) };
        machine.write(&vdisks[index as usize], rng.below(500), step + 1);
        written += BLOCK;
        machine.idle(500_000);
        most = most.max(sum_of_logs(&machine));
        assert_eq!(sum_of_logs(&machine), machine.shard().context.load.log_bytes.get(), "step {step}");
    }
    assert!(written > 10 * limit);
    // One checkpoint at a time makes it shorter, while the others go on.
    assert!(most <= limit + limit / 4, "{most} bytes to replay, {limit} are allowed");
    let before = sum_of_logs(&machine);
    machine.kill();
    let shard = machine.open();
    assert_eq!(shard.open_vdisks().len() as u64, VDISKS + 1);
    let replayed = shard.replayed_bytes.get();
    // What is read again has the gaps between frames in it: behind a sync a frame starts on a new sector.
    assert!(before <= replayed && replayed <= 2 * before, "{replayed} bytes were replayed, {before} were written");
    assert_eq!(sum_of_logs(&machine), shard.context.load.log_bytes.get());
}

#[test]
fn the_sum_is_counted_down_by_those_who_go() {
    let (machine, vdisks) = many(64 * MIB);
    for (vdisk, tag) in vdisks.iter().zip(1..) {
        machine.write(vdisk, 0, tag);
    }
    let shard = machine.shard();
    for vdisk in &vdisks[..30] {
        let (shard, id) = (shard.clone(), vdisk.id);
        machine.run(async move { shard.delete(id, false).await }).expect("not in use");
    }
    machine.idle(1_000_000_000);
    assert_eq!(sum_of_logs(&machine), shard.context.load.log_bytes.get());
    for vdisk in shard.open_vdisks() {
        machine.checkpoint(&vdisk);
    }
    assert_eq!(shard.context.load.log_bytes.get(), 0);
}

#[test]
fn quiet_vdisks_leave_nothing_to_replay() {
    let mut config = manual();
    config.settings.checkpoint_quiet_ns = 1_000_000_000;
    let machine = Machine::with(config, 1);
    let others: Vec<_> = ["a", "b", "c", "d"].into_iter().map(|name| machine.create(name, MIB)).collect();
    for vdisk in &others {
        (0..20).for_each(|block| machine.write(vdisk, block, block + 1));
    }
    machine.idle(3_000_000_000);
    assert_eq!(machine.shard().context.load.log_bytes.get(), 0);
    machine.kill();
    assert_eq!(machine.open().replayed_bytes.get(), 0);
}

const FRAME_BLOCKS: u64 = 48;
const FRAMES: u64 = 5;

/// A group of frames of 48 blocks, 20 of each overwritten since: half dead, in runs that are worth a punch. `flushes`:
/// what was written was flushed before the checkpoint that covers it.
pub fn half_dead(flushes: bool) -> (Machine, Vec<u64>) {
    let (machine, expect) = written(false);
    let vdisk = machine.vdisk();
    if flushes {
        machine.flush(&vdisk);
    }
    machine.checkpoint(&vdisk);
    (economical(machine), expect)
}

/// `checkpoint`: there is one before the overwriting begins.
fn written(checkpoint: bool) -> (Machine, Vec<u64>) {
    let mut config = manual();
    config.pool.group_size = MIB as u32;
    config.pool.recycled_bytes_max = 0;
    config.settings.frame_payload_bytes_max = 256 * KIB as u32;
    let machine = Machine::with(config, 1);
    let vdisk = machine.vdisk();
    let mut expect = Vec::new();
    for frame in 0..FRAMES {
        let tags: Vec<u64> = (0..FRAME_BLOCKS).map(|block| 1000 * (frame + 1) + block).collect();
        machine.try_write(&vdisk, frame * FRAME_BLOCKS, &tags).expect("it lives").expect("room");
        expect.extend(tags);
    }
    if checkpoint {
        machine.checkpoint(&vdisk);
    }
    for frame in 0..FRAMES {
        let tags: Vec<u64> = (0..20).map(|block| 100_000 * (frame + 1) + block).collect();
        let first = frame * FRAME_BLOCKS + 4;
        machine.try_write(&vdisk, first, &tags).expect("it lives").expect("room");
        expect.splice(first as usize..first as usize + 20, tags);
    }
    (machine, expect)
}

/// Another start, with the settings changed so that the next look finds too much space in use.
fn economical(mut machine: Machine) -> Machine {
    machine.kill();
    machine.config.settings.space_slack_bytes = 0;
    machine.config.settings.space_percent = 100;
    machine.open();
    machine
}

pub fn check(machine: &Machine, expect: &[u64], context: &str) {
    let vdisk = machine.vdisk();
    assert_eq!(vdisk.health(), vdisk::Health::Online, "{context}");
    assert_eq!(machine.reads(&vdisk, 0..FRAMES * FRAME_BLOCKS), expect, "{context}");
}

#[test]
fn big_dead_runs_are_punched_and_the_space_comes_back() {
    let (machine, expect) = half_dead(true);
    let vdisk = machine.vdisk();
    let (before, groups) = (machine.disk.allocated_bytes(), vdisk.groups());
    let (stored, relocated) = (vdisk.space().stored_bytes, vdisk.stats.relocated_bytes.get());
    machine.make_room(&vdisk);
    let punched = vdisk.stats.bytes_punched.get();
    // A range in a packed frame has ragged ends, which stay.
    assert!((FRAMES * 19 * BLOCK..=FRAMES * 20 * BLOCK).contains(&punched), "{punched}");
    assert_eq!(vdisk.stats.relocated_bytes.get(), relocated, "nothing was moved");
    assert!(groups.iter().all(|group| vdisk.groups().contains(group)));
    // Whole pages come back, so that a range in a packed frame loses one at its ends; a group that was opened for a frame
    // of its own has taken its first step.
    let freed = before - machine.disk.allocated_bytes();
    assert!((punched - FRAMES * BLOCK - 64 * KIB..=punched).contains(&freed), "{freed} of {punched}");
    let stored_now = vdisk.space().stored_bytes;
    assert!((stored - punched..stored - punched + 4 * BLOCK).contains(&stored_now), "{stored_now}, before {stored}");
    check(&machine, &expect, "punched");
    // What was punched is not punched or counted again.
    machine.make_room(&vdisk);
    assert_eq!(vdisk.stats.bytes_punched.get(), punched);
    machine.write(&vdisk, 500, 1);
    machine.checkpoint(&vdisk);
    machine.check_checkpoint(&vdisk);
    machine.kill();
    machine.open();
    check(&machine, &expect, "killed");
    machine.lose_power();
    machine.rebuild(2);
    machine.open();
    check(&machine, &expect, "rebuilt");
    let stored = machine.vdisk().space().stored_bytes;
    assert!(stored < vdisk.space().stored_bytes + 4 * BLOCK, "what was given back stays so");
}

#[test]
fn what_the_last_checkpoint_reaches_is_not_punched() {
    // Dead in the live map, alive in the checkpoint.
    let (mut machine, expect) = written(true);
    let before = machine.checkpoint_record(&machine.vdisk());
    let (id, calm) = (machine.id("v"), machine.config.settings.clone());
    machine.kill();
    machine.config.settings.space_slack_bytes = 0;
    machine.config.settings.space_percent = 100;
    // No other checkpoint takes its place.
    let mut recorded = false;
    machine.tap.set_rule(move |operation| {
        recorded |= step(operation) == Step::Record;
        if recorded && step(operation) == Step::Index { Fate::Dies } else { Fate::Happens }
    });
    if let Some(opened) = machine.try_open() {
        let shard = opened.expect("a good disk");
        machine.attempt(async move { shard.vdisk(id).await.expect("good").make_room().await });
    }
    machine.kill();
    machine.config.settings = calm;
    machine.open();
    assert_eq!(machine.checkpoint_record(&machine.vdisk()), before);
    let data: u64 = machine.walk(&before).values().map(|(data, _)| u64::from(*data)).sum();
    assert_eq!(data, FRAMES * FRAME_BLOCKS * BLOCK, "every extent of it is there and whole");
    check(&machine, &expect, "and the log goes on from it");
}

#[test]
fn a_crash_at_any_step_of_punching_loses_nothing() {
    let ends = [
        (Crash::Kill, InFlight::Chance),
        (Crash::PowerLoss(Survival::Nothing), InFlight::Undone),
        (Crash::PowerLoss(Survival::Everything), InFlight::Done),
        (Crash::PowerLoss(Survival::Pages), InFlight::Chance),
    ];
    let mut died = 0;
    for (crash, in_flight) in ends {
        for rebuild in [false, true] {
            for dies_at in 0.. {
                let (machine, expect) = half_dead(true);
                let vdisk = machine.vdisk();
                let seen = Rc::new(Cell::new(0));
                let counter = seen.clone();
                machine.tap.set_rule(move |operation| {
                    counter.set(counter.get() + u64::from(operation.changes()));
                    if operation.changes() && counter.get() > dies_at { Fate::Dies } else { Fate::Happens }
                });
                let ended = machine.attempt(async move { vdisk.make_room().await });
                machine.end(crash, in_flight);
                if rebuild {
                    machine.rebuild(2);
                }
                machine.open();
                check(&machine, &expect, &format!("died at {dies_at}, {crash:?}, rebuild {rebuild}"));
                if ended.is_some() {
                    break;
                }
                died += 1;
            }
        }
    }
    assert!(died >= 8 * FRAMES, "{died}");
}

/// Large frames are under way for as long as the device takes. Writers that always have one more waiting would keep a
/// flush of what is there already waiting for ever.
#[test]
fn a_flush_does_not_wait_for_large_writes_that_came_later() {
    let mut config = manual();
    config.pool.group_size = 16 * MIB as u32;
    config.settings.frame_payload_bytes_max = 256 * KIB as u32;
    let machine = Machine::with(config, 1);
    let vdisk = machine.vdisk();
    machine.write(&vdisk, 0, 1);
    machine.tap.set_rule(|o| if o.verb == Verb::Write && o.len >= 256 * KIB { Fate::Waits } else { Fate::Happens });
    let (stop, written) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0)));
    for writer in 0..2 {
        let (vdisk, stop, written) = (vdisk.clone(), stop.clone(), written.clone());
        machine.spawn(async move {
            while !stop.get() {
                let data = Bytes::from(vec![7; 256 * KIB as usize]);
                vdisk.write((1 + writer) * 256 * KIB, data).await.expect("room");
                written.set(written.get() + 1);
            }
        });
    }
    // One is under way, another one waits.
    machine.idle(WAIT_NS / 2);
    machine.flush(&vdisk);
    assert_eq!(written.get(), 0, "what was acknowledged is flushed beside them");
    machine.idle(8 * WAIT_NS);
    machine.flush(&vdisk);
    assert!(written.get() >= 3);
    stop.set(true);
    machine.lose_power();
    machine.open();
    assert_eq!(machine.read(&machine.vdisk(), 0), 1);
}

/// Four logs are read at a time that nobody has asked for. Those that wait for their sync make room for others of them, and
/// of those only: what a client waits for is read beside four.
#[test]
fn what_clients_wait_for_is_read_beside_four_others() {
    let machine = Machine::new();
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p"];
    let ids: Vec<_> = names.into_iter().map(|name| machine.create(name, MIB).id).collect();
    for id in &ids {
        machine.write(&machine.vdisk_by_id(*id).expect("open"), 0, 1);
    }
    machine.kill();
    let (background, asked) = ids.split_at(8);
    let groups = machine.groups();
    let places: Vec<_> = groups.iter().map(|placed| (placed.header.vdisk, placed.file.clone(), placed.start)).collect();
    let shard = machine.begin();
    let (size, slow, seen) =
        (u64::from(machine.config.pool.group_size), background.to_vec(), Rc::new(RefCell::new(BTreeSet::new())));
    let read = seen.clone();
    machine.tap.set_rule(move |o| {
        let holds =
            |(_, file, start): &&(_, String, u64)| *o.file == **file && (*start..start + size).contains(&o.offset);
        let of = places.iter().find(holds).map(|(vdisk, ..)| *vdisk);
        match (o.verb, of.filter(|of| slow.contains(of))) {
            (Verb::Read, Some(of)) => {
                read.borrow_mut().insert(of);
                Fate::Waits
            }
            (Verb::Sync, _) => Fate::Waits,
            _ => Fate::Happens,
        }
    });
    for id in asked.iter().copied() {
        let shard = shard.clone();
        machine.spawn(async move { drop(shard.vdisk(id).await) });
    }
    machine.idle(WAIT_NS / 2);
    assert!(
        shard.context.load.storing_again_bytes.get() > 0,
        "those that were asked for are read, and wait for their sync"
    );
    assert!((1..=4).contains(&seen.borrow().len()), "{:?} of {background:?}", seen.borrow());
    machine.idle(100 * WAIT_NS);
    assert_eq!(shard.summary().to_recover, 0);
    assert_eq!(shard.open_vdisks().len(), 17);
}

/// Overwrites all of a vDisk a hundred times, nine tenths of it in a tenth of its blocks, in writes of so many blocks. The most
/// groups that it had at any time.
fn groups_under_skewed_overwrites(blocks: RangeInclusive<u64>) -> u64 {
    let mut config = manual();
    config.pool.group_size = SKEWED_GROUP as u32;
    // What production has, in the proportion of the groups.
    config.settings.frame_payload_bytes_max = 256 * KIB as u32;
    config.settings.space_percent = 125;
    config.settings.space_slack_bytes = 2 * SKEWED_GROUP;
    config.settings.checkpoint_log_bytes_min = 2 * SKEWED_GROUP;
    config.settings.checkpoint_log_bytes_max = 16 * SKEWED_GROUP;
    config.settings.unsynced_bytes_soft = SKEWED_GROUP;
    config.settings.unsynced_bytes_max = SKEWED_GROUP;
    let machine = Machine::with(config, 1);
    let vdisk = machine.vdisk();
    let mut expect: Vec<u64> = (1..=SKEWED_BLOCKS).collect();
    for (first, tags) in (0..).step_by(32).zip(expect.chunks(32)) {
        machine.try_write(&vdisk, first, tags).expect("it lives").expect("room");
    }
    let mut rng = Rng::new(*blocks.start(), 0x5cef);
    let (mut overwritten, mut most) = (0, 0);
    while overwritten < 100 * SKEWED_BLOCKS {
        let count = rng.between(*blocks.start(), *blocks.end());
        let end = if rng.below(10) > 0 { SKEWED_BLOCKS / 10 } else { SKEWED_BLOCKS };
        let first = rng.below(end - count + 1);
        let tags: Vec<u64> = (1..=count).map(|block| SKEWED_BLOCKS + overwritten + block).collect();
        machine.try_write(&vdisk, first, &tags).expect("it lives").expect("room");
        expect.splice(first as usize..(first + count) as usize, tags);
        overwritten += count;
        // Nothing takes time here but this: the maintenance has to have some, as it has beside any client.
        machine.idle(500_000);
        most = most.max(vdisk.space().groups);
    }
    assert_eq!(machine.reads(&vdisk, 0..SKEWED_BLOCKS), expect);
    most
}

const SKEWED_GROUP: u64 = 256 * KIB;
const SKEWED_BLOCKS: u64 = 4 * MIB / BLOCK;

/// Small writes leave a few cold blocks in each group, large ones are punched out of groups of which less and less is left.
#[test]
fn skewed_overwrites_stay_within_three_times_the_groups_that_live_bytes_need() {
    let needed = 4 * MIB / SKEWED_GROUP;
    for blocks in [1..=4, 16..=48] {
        let most = groups_under_skewed_overwrites(blocks.clone());
        assert!(most <= 3 * needed, "{most} groups for what fits into {needed}, in writes of {blocks:?} blocks");
    }
}
