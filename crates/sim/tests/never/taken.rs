//! What copies that share extents hold in the cases that random work does not come to: copies that fail, logs that are shorter
//! than they were for a while, restarts in between, vDisks that cannot be read, and what is left on a full disk.

use crate::machine::{GROUP, Machine, Placed, homed, manual};
use crate::tap::{Fate, Operation, Verb};
use base::units::{BLOCK, GIB, MIB};
use base::{GroupId, VdiskId};
use node::ShardConfig;
use pool::HEADER_PAGE;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;
use vdisk::Vdisk;

/// "v" and "near", which are no family, with 40 and 8 blocks.
pub fn pair() -> (Machine, Rc<Vdisk>, Rc<Vdisk>) {
    pair_with(manual())
}

pub fn pair_with(config: ShardConfig) -> (Machine, Rc<Vdisk>, Rc<Vdisk>) {
    let machine = Machine::with(config, 1);
    let (source, near) = (machine.vdisk(), machine.create("near", 4 * MIB));
    fill(&machine, &source, 0..40, 1);
    fill(&machine, &near, 0..8, 2);
    machine.settle();
    (machine, source, near)
}

pub fn near(machine: &Machine) -> Rc<Vdisk> {
    machine.vdisk_by_id(machine.id("near")).expect("it can be served")
}

/// One frame for each block.
pub fn fill(machine: &Machine, vdisk: &Rc<Vdisk>, blocks: Range<u64>, tag: u64) {
    blocks.for_each(|block| machine.write(vdisk, block, homed(block, tag)));
    machine.flush(vdisk);
}

pub fn tags(blocks: Range<u64>, tag: u64) -> Vec<u64> {
    blocks.map(|block| homed(block, tag)).collect()
}

fn lend(machine: &Machine, from: &Rc<Vdisk>, blocks: Range<u64>) -> block::Lent {
    let len = (blocks.end - blocks.start) * BLOCK;
    machine.run(from.device().lend(blocks.start * BLOCK, len as u32)).expect("readable")
}

pub fn copy(machine: &Machine, from: &Rc<Vdisk>, blocks: Range<u64>, to: &Rc<Vdisk>, at: u64) {
    let lent = lend(machine, from, blocks);
    machine.run(to.device().take(at * BLOCK, lent)).expect("room");
}

pub fn held(machine: &Machine) -> BTreeSet<GroupId> {
    machine.shard().context.references.held_groups()
}

pub fn groups_of(machine: &Machine, vdisk: VdiskId) -> Vec<Placed> {
    machine.groups().into_iter().filter(|placed| placed.header.vdisk == vdisk).collect()
}

/// What it has goes, as far as it can, and other bytes come where it was.
pub fn replace_all(machine: &Machine, vdisk: &Rc<Vdisk>) {
    machine.trim(vdisk, 0, 40);
    for round in 0..2 {
        machine.checkpoint(vdisk);
        machine.make_room(vdisk);
        fill(machine, vdisk, 100..140, 3 + round);
    }
    machine.checkpoint(vdisk);
    machine.make_room(vdisk);
}

pub fn urgently(machine: &Machine, vdisk: &Rc<Vdisk>) {
    let vdisk = vdisk.clone();
    machine.run(async move { vdisk.make_room_urgently().await }).expect("the disk works");
}

/// Of groups that nobody has copied anything of, the dead bytes come free by themselves, and are not told of.
#[test]
fn what_is_dead_beside_copies_is_told_of_as_long_as_it_stays() {
    let (machine, source, near) = pair();
    machine.trim(&source, 30, 10);
    assert_eq!(source.copied_dead_bytes(), 0);
    copy(&machine, &source, 0..8, &near, 0);
    machine.trim(&source, 0, 30);
    machine.checkpoint(&source);
    machine.make_room(&source);
    let told = source.copied_dead_bytes();
    assert!((8 * BLOCK..=40 * (BLOCK + HEADER_PAGE as u64)).contains(&told), "{told}");
    machine.trim(&near, 0, 8);
    assert_eq!(near.copied_dead_bytes(), 0);
    machine.settle();
    assert_eq!((held(&machine), source.copied_dead_bytes()), (BTreeSet::new(), 0));
}

/// Its frame may be on the disk. What it names stays until a later frame has its number.
#[test]
fn a_copy_that_failed_and_comes_back_leads_to_what_it_named() {
    for voids in [false, true] {
        let (machine, source, near) = pair();
        let lent = lend(&machine, &source, 0..8);
        let mut writes = 0;
        machine.tap.set_rule(move |o| {
            writes += i32::from(o.verb == Verb::Write && o.is_slab());
            match writes {
                1 if o.verb == Verb::Write && o.is_slab() => Fate::FailsWhole,
                2.. if o.verb == Verb::Write && o.is_slab() && (writes == 2 || !voids) => Fate::Fails,
                _ => Fate::Happens,
            }
        });
        assert!(machine.run(near.device().take(0, lent)).is_err());
        machine.tap.clear();
        if voids {
            machine.checkpoint(&near);
            machine.make_room(&near);
            assert_eq!(held(&machine), BTreeSet::new(), "a later frame has its number");
        }
        replace_all(&machine, &source);
        machine.kill();
        machine.open();
        let near = self::near(&machine);
        machine.assert_online(&near);
        let found = machine.reads(&near, 0..8);
        assert!(found == tags(0..8, 2) || !voids && found == tags(0..8, 1), "{voids}: {found:x?}");
    }
}

/// A frame of the copy that one start cannot read and the next one can.
#[test]
fn a_copy_that_one_start_does_not_see_does_not_come_back() {
    let (machine, source, near) = pair();
    machine.write(&near, 20, homed(20, 2));
    machine.flush(&near);
    copy(&machine, &source, 0..8, &near, 0);
    let id = near.id;
    machine.kill();
    let all = groups_of(&machine, id).into_iter().flat_map(|placed| {
        let frames = machine.frames(&placed);
        frames.into_iter().map(move |frame| (placed.clone(), frame))
    });
    let (placed, frame) = all.max_by_key(|(_, frame)| frame.sequence).expect("it has some");
    let at = placed.start + u64::from(frame.offset);
    let bytes = machine.bytes(&placed.file, at, frame.len.into());
    machine.zero(&placed.file, at, frame.len.into());
    machine.open();
    machine.assert_online(&self::near(&machine));
    replace_all(&machine, &machine.vdisk());
    machine.kill();
    machine.put(&placed.file, at, bytes);
    machine.open();
    let near = self::near(&machine);
    machine.assert_online(&near);
    assert_eq!(machine.reads(&near, 0..8), tags(0..8, 2));
}

pub fn reads_header(o: &Operation, placed: &Placed) -> bool {
    let end = placed.start + u64::from(HEADER_PAGE);
    o.verb == Verb::Read && *o.file == *placed.file && o.offset < end && placed.start < o.end()
}

/// What lies in a group whose header cannot be read does not come back behind what was written since.
#[test]
fn space_comes_free_though_a_header_is_unread_and_copies_in_it_do_not_come_back() {
    let (machine, source, _) = pair();
    let source = source.id;
    machine.close();
    machine.open();
    copy(&machine, &machine.vdisk(), 0..8, &near(&machine), 0);
    let id = near(&machine).id;
    machine.kill();
    let newest = groups_of(&machine, id).pop().expect("it has some");
    let of_source = groups_of(&machine, source);
    machine.tap.set_rule(move |o| if reads_header(o, &newest) { Fate::Fails } else { Fate::Happens });
    machine.open();
    machine.assert_online(&near(&machine));
    machine.idle(1_000_000_000);
    assert_eq!(machine.shard().holding_up(), Vec::<String>::new());
    replace_all(&machine, &machine.vdisk());
    let left = groups_of(&machine, source);
    let is_left = |placed: &&Placed| left.iter().any(|other| other.header.group == placed.header.group);
    assert!(of_source.iter().filter(is_left).count() < of_source.len(), "{of_source:?}");
    machine.kill();
    machine.open();
    machine.assert_online(&near(&machine));
    assert_eq!(machine.reads(&near(&machine), 0..8), tags(0..8, 2));
}

/// The group of copies within one vDisk, with nothing in it but a page of the map.
#[test]
fn a_page_of_its_own_map_holds_no_group_of_copies() {
    let machine = Machine::new();
    let vdisk = machine.vdisk();
    machine.write(&vdisk, 300, homed(300, 1));
    let first = machine.group_of(300);
    // Until there is another one.
    let is_in_first = |block: &u64| {
        machine.write(&vdisk, *block, homed(*block, 1));
        machine.group_of(*block) == first
    };
    assert!((600..700).take_while(is_in_first).count() > 0);
    fill(&machine, &vdisk, 0..4, 1);
    let group = machine.group_of(3);
    machine.checkpoint(&vdisk);
    copy(&machine, &vdisk, 0..4, &vdisk, 512);
    machine.trim(&vdisk, 0, 4);
    machine.trim(&vdisk, 512, 300);
    machine.checkpoint(&vdisk);
    let record = machine.checkpoint_record(&vdisk);
    let entry = *record.groups.iter().find(|entry| entry.group == group).expect("it has one");
    assert!(entry.is_copied && entry.data == 0 && entry.pages > 0, "{entry:?}");
    machine.make_room(&vdisk);
    assert_eq!(held(&machine), BTreeSet::new());
    assert_eq!(vdisk.trouble(), None);
    assert_eq!(machine.read(&vdisk, 300), homed(300, 1));
}

/// The last checkpoint has the marks still, and nothing is written to that vDisk any more.
#[test]
fn what_a_start_holds_again_is_given_up_again() {
    for clean in [true, false] {
        let (machine, source, near) = pair();
        copy(&machine, &source, 0..8, &near, 0);
        machine.settle();
        machine.trim(&near, 0, 8);
        machine.checkpoint(&near);
        if clean {
            machine.close();
        } else {
            machine.make_room(&near);
            assert_eq!(held(&machine), BTreeSet::new());
            machine.kill();
        }
        machine.open();
        machine.idle(1_000_000_000);
        assert_eq!(held(&machine), BTreeSet::new(), "clean: {clean}");
        machine.delete(machine.id("v"));
        machine.idle(1_000_000_000);
        let left: BTreeSet<VdiskId> = machine.groups().iter().map(|placed| placed.header.vdisk).collect();
        assert_eq!(left, BTreeSet::from([machine.id("near")]));
    }
}

/// A frame of "near" is missing, and others behind it had been flushed.
pub fn restart_with_near_damaged(machine: &Machine) {
    let vdisk = near(machine);
    machine.flush(&vdisk);
    (20..24).for_each(|block| fill(machine, &vdisk, block..block + 1, 2));
    let (id, lost) = (vdisk.id, vdisk.sequence().0 - 2);
    machine.kill();
    let placed = groups_of(machine, id);
    let hit = placed.iter().find_map(|placed| {
        let frame = machine.frames(placed).into_iter().find(|frame| frame.sequence.0 == lost)?;
        Some((placed.clone(), frame))
    });
    let (placed, frame) = hit.expect("it is on the disk");
    machine.zero(&placed.file, placed.start + u64::from(frame.offset), 64);
    machine.open();
    machine.assert_damaged(&near(machine), "the log can be read through");
}

/// What it needs of others nobody knows. When it is gone, it needs nothing.
#[test]
fn a_damaged_vdisk_keeps_space_until_it_is_deleted_and_that_is_said() {
    let (machine, source, near) = pair();
    copy(&machine, &source, 0..8, &near, 0);
    let id = near.id;
    restart_with_near_damaged(&machine);
    let told = machine.shard().holding_up();
    assert!(told.len() == 1 && told[0].contains("before vDisk near is read or deleted"), "{told:?}");
    let before = groups_of(&machine, source.id).len();
    replace_all(&machine, &machine.vdisk());
    let kept = groups_of(&machine, source.id).len();
    assert!(kept > before, "{before} {kept}");
    machine.delete(id);
    machine.settle();
    assert_eq!(machine.shard().holding_up(), Vec::<String>::new());
    let left = groups_of(&machine, source.id).len();
    assert!(left < kept - 2, "{kept} {left}");
}

#[test]
fn a_vdisk_that_could_not_be_read_at_the_start_is_tried_again() {
    keeps_space(true);
}

#[test]
fn a_vdisk_that_can_never_be_read_is_deleted_by_force() {
    keeps_space(false);
}

fn keeps_space(comes_back: bool) {
    let (machine, source, near) = pair();
    copy(&machine, &source, 0..8, &near, 0);
    machine.flush(&near);
    let id = near.id;
    machine.kill();
    let all = groups_of(&machine, id);
    machine.tap.set_rule(move |o| {
        let is_in = |placed: &Placed| {
            let body = placed.start + u64::from(HEADER_PAGE)..placed.start + u64::from(GROUP);
            *o.file == *placed.file && body.contains(&o.offset)
        };
        if o.verb == Verb::Read && all.iter().any(is_in) { Fate::Fails } else { Fate::Happens }
    });
    machine.open();
    let told = machine.shard().holding_up();
    assert!(told.len() == 1 && told[0].contains("vDisk near"), "{told:?}");
    if comes_back {
        machine.tap.clear();
        machine.idle(40_000_000_000);
        assert_eq!(machine.shard().open_vdisks().len(), 2);
    } else {
        let shard = machine.shard();
        machine.run(async move { shard.delete(id, true).await }).expect("forced");
    }
    assert_eq!(machine.shard().holding_up(), Vec::<String>::new());
}

/// A group for each extent: what a vDisk that clones within itself comes to, and one whose source is gone.
#[test]
fn on_a_full_disk_what_is_left_of_copies_moves() {
    for within in [true, false] {
        let (machine, source, near) = pair();
        let holder = if within { source.clone() } else { near.clone() };
        copy(&machine, &source, 0..40, &holder, 500);
        machine.settle();
        if within {
            machine.trim(&source, 0, 40);
        } else {
            machine.delete(source.id);
        }
        (500..540).filter(|block| block % 10 != 0).for_each(|block| machine.trim(&holder, block, 1));
        // What is moved goes behind.
        fill(&machine, &holder, 600..640, 2);
        machine.settle();
        let old: BTreeSet<GroupId> = held(&machine);
        assert!(old.len() >= 3, "{old:?}");
        for _ in 0..4 {
            urgently(&machine, &holder);
            machine.idle(1_000_000_000);
        }
        assert_eq!(held(&machine), BTreeSet::new(), "within: {within}");
        let left: BTreeSet<GroupId> = machine.groups().iter().map(|placed| placed.header.group).collect();
        // Of its own groups pages of the map may keep some.
        assert!(within || old.is_disjoint(&left), "{old:?} {left:?}");
        for block in (500..540).step_by(10) {
            assert_eq!(machine.read(&holder, block), homed(block - 500, 1));
        }
    }
}

/// What anybody else has there does not come free by moving it.
#[test]
fn what_others_live_in_is_not_moved() {
    let (machine, source, near) = pair();
    copy(&machine, &source, 0..3, &near, 500);
    machine.settle();
    urgently(&machine, &near);
    assert_eq!(near.stats.relocated_bytes.get(), 0);
}

/// A hundred pages of the map are read for one group, and nobody waits for that who goes.
#[test]
fn a_vdisk_that_goes_does_not_read_its_map_to_the_end() {
    let mut config = manual();
    config.settings.map_bytes_max = 8 * MIB;
    let machine = Machine::with(config, 1);
    let (source, near) = (machine.vdisk(), machine.create("near", GIB));
    (0..400).for_each(|at| machine.write(&near, at * 256, homed(at * 256, 1)));
    fill(&machine, &source, 0..8, 1);
    copy(&machine, &source, 0..8, &near, 8);
    machine.settle();
    machine.trim(&near, 8, 8);
    machine.checkpoint(&near);
    let reads = Rc::new(Cell::new(0));
    let counted = reads.clone();
    machine.tap.set_rule(move |o| {
        counted.set(counted.get() + u32::from(o.verb == Verb::Read));
        if o.verb == Verb::Read { Fate::Waits } else { Fate::Happens }
    });
    let walking = near.clone();
    machine.spawn(async move { drop(walking.make_room_urgently().await) });
    let is_reading = reads.clone();
    let clock = machine.world().clock;
    machine.run(async move {
        while is_reading.get() < 16 {
            clock.sleep(1_000).await;
        }
    });
    machine.delete(near.id);
    machine.idle(10_000_000_000);
    assert!((16..200).contains(&reads.get()), "{}", reads.get());
}

/// A group that is not there as long as its header cannot be read is there again later.
#[test]
fn a_group_whose_header_is_unread_keeps_its_mark() {
    let (machine, source, near) = pair();
    copy(&machine, &source, 0..8, &near, 0);
    machine.settle();
    let of_source: Vec<Placed> = groups_of(&machine, source.id);
    let shared = of_source.into_iter().find(|placed| held(&machine).contains(&placed.header.group)).expect("held");
    machine.trim(&near, 0, 8);
    machine.checkpoint(&near);
    machine.kill();
    let group = shared.header.group;
    machine.tap.set_rule(move |o| if reads_header(o, &shared) { Fate::Fails } else { Fate::Happens });
    machine.open();
    let near = self::near(&machine);
    machine.assert_online(&near);
    machine.write(&near, 30, homed(30, 2));
    machine.checkpoint(&near);
    let record = machine.checkpoint_record(&near);
    let is_marked = |entry: &vdisk::log::GroupEntry| entry.group == group && entry.is_copied && entry.len == 0;
    assert!(record.groups.iter().any(is_marked), "{:?}", record.groups);
    machine.kill();
    machine.open();
    machine.assert_online(&self::near(&machine));
    machine.idle(1_000_000_000);
    assert_eq!(held(&machine), BTreeSet::new());
}

#[test]
fn nothing_is_lent_or_taken_over_where_there_is_nothing_and_the_disk_stays_what_it_was() {
    let (machine, source, near) = pair();
    let none = machine.run(source.device().lend(0, 0)).err().expect("nothing is lent");
    assert_eq!(none.kind, block::Kind::Unsupported);
    let lent = lend(&machine, &source, 0..8);
    assert!(!machine.shard().context.pool.is_sharing(), "older builds can read it");
    let before = near.sequence();
    machine.run(near.device().take(0, lent)).expect("room");
    assert!(machine.shard().context.pool.is_sharing() && near.sequence() > before);
}

/// What a replay keeps of a copy in memory is all of it.
#[test]
fn copies_over_one_range_again_and_again_are_bounded_in_memory() {
    let (machine, source, near) = pair();
    machine.checkpoint(&near);
    copy(&machine, &source, 0..40, &near, 0);
    let counted = near.space().log_bytes;
    assert!(counted >= 16 * BLOCK, "{counted}");
    machine.flush(&near);
    machine.kill();
    machine.open();
    assert!(self::near(&machine).space().log_bytes >= counted);
}

/// Its birth rotted and nobody knows it: it looks like one that a crash cut short, but somebody has what it wrote.
#[test]
fn groups_without_a_birth_stay_as_long_as_anybody_holds_them() {
    let machine = Machine::new();
    let (source, near) = (machine.vdisk(), machine.create("near", 4 * MIB));
    fill(&machine, &source, 0..4, 1);
    copy(&machine, &source, 0..4, &near, 0);
    machine.flush(&near);
    machine.kill();
    let first = groups_of(&machine, source.id).remove(0);
    let birth = machine.frames(&first).remove(0);
    machine.zero(&first.file, first.start + u64::from(birth.offset), 64);
    machine.rebuild(2);
    machine.open();
    machine.idle(1_000_000_000);
    let near = self::near(&machine);
    machine.assert_online(&near);
    assert_eq!(machine.reads(&near, 0..4), tags(0..4, 1));
}

/// A page of the map that the disk refuses once.
#[test]
fn a_walk_that_failed_is_made_again() {
    let (machine, source, near) = pair();
    copy(&machine, &source, 0..8, &near, 0);
    machine.write(&near, 30, homed(30, 2));
    machine.settle();
    machine.trim(&near, 0, 8);
    machine.checkpoint(&near);
    machine.tap.set_rule(|o| if o.verb == Verb::Read && o.is_slab() { Fate::Fails } else { Fate::Happens });
    machine.make_room(&near);
    let trouble = near.trouble().expect("it is told");
    assert!(trouble.contains("cannot be read to its end"), "{trouble}");
    machine.tap.clear();
    machine.idle(70_000_000_000);
    assert_eq!((held(&machine), near.trouble()), (BTreeSet::new(), None));
}

/// One bad extent keeps its own group, and no other.
#[test]
fn an_extent_that_cannot_be_read_keeps_its_own_group_only() {
    let (machine, source, near) = pair();
    copy(&machine, &source, 0..40, &near, 500);
    machine.settle();
    machine.delete(source.id);
    (500..540).filter(|block| block % 10 != 0).for_each(|block| machine.trim(&near, block, 1));
    machine.settle();
    let old = held(&machine);
    let bad = machine.group(*old.first().expect("it holds some"));
    let file = bad.file.clone();
    let body = bad.start..bad.start + u64::from(GROUP);
    machine.tap.set_rule(move |o| {
        let is_bad = o.verb == Verb::Read && *o.file == *file && body.contains(&o.offset);
        if is_bad { Fate::Fails } else { Fate::Happens }
    });
    for _ in 0..4 {
        urgently(&machine, &near);
        machine.idle(1_000_000_000);
    }
    assert_eq!(held(&machine), BTreeSet::from([bad.header.group]));
}
