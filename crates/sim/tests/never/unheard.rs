//! Who has not said what it needs is waited for: over clean stops, slow and failing disks, and a metadata store that is older than
//! the disk. And what is waited for nobody pays for.

use crate::machine::{Machine, Placed, homed};
use crate::taken::{copy, fill, groups_of, held, near, pair, reads_header, replace_all, tags, urgently};
use crate::tap::{Fate, Operation, Verb};
use base::units::MIB;
use base::{GroupId, VdiskId};
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use vdisk::{Health, Vdisk};

const SECOND_NS: u64 = 1_000_000_000;

fn is_unheard(machine: &Machine, vdisk: VdiskId) -> bool {
    machine.shard().context.references.unheard().iter().any(|(id, _)| *id == vdisk)
}

fn group_ids(machine: &Machine, vdisk: VdiskId) -> BTreeSet<GroupId> {
    groups_of(machine, vdisk).into_iter().map(|placed| placed.header.group).collect()
}

/// A frame that the disk does not give.
struct Unseen {
    file: String,
    at: u64,
    bytes: Bytes,
}

/// The disk is down, and the last frame of "near" is a copy from "v", which was answered and not flushed, and is not seen.
fn with_an_unseen_copy() -> (Machine, Unseen) {
    let (machine, source, near) = pair();
    fill(&machine, &near, 20..21, 2);
    // Without the copy nothing is to be written when it is closed.
    machine.checkpoint(&near);
    copy(&machine, &source, 0..8, &near, 0);
    let id = near.id;
    drop((source, near));
    machine.kill();
    let all = groups_of(&machine, id).into_iter().flat_map(|placed| {
        let frames = machine.frames(&placed);
        frames.into_iter().map(move |frame| (placed.clone(), frame))
    });
    let (placed, frame) = all.max_by_key(|(_, frame)| frame.sequence).expect("it has some");
    let (file, at, len) = (placed.file, placed.start + u64::from(frame.offset), u64::from(frame.len));
    let bytes = machine.bytes(&file, at, len);
    machine.zero(&file, at, len);
    (machine, Unseen { file, at, bytes })
}

/// What "near" has where the copy would be, when it is seen again and the source has something else.
fn is_seen_and_does_not_come_back(machine: &Machine, unseen: Unseen) {
    let before = group_ids(machine, machine.id("v"));
    replace_all(machine, &machine.vdisk());
    assert!(!before.is_subset(&group_ids(machine, machine.id("v"))), "space comes free");
    machine.kill();
    machine.put(&unseen.file, unseen.at, unseen.bytes);
    machine.open();
    machine.assert_online(&near(machine));
    assert_eq!(machine.reads(&near(machine), 0..8), tags(0..8, 2));
}

fn hides(placed: &Placed) -> impl Fn(&Operation) -> bool + 'static {
    let placed = placed.clone();
    move |o| reads_header(o, &placed)
}

fn is_written(o: &Operation) -> bool {
    o.is_slab() && matches!(o.verb, Verb::Write | Verb::Create | Verb::Allocate)
}

/// The end of the log is not sure when the first of them stops.
#[test]
fn a_copy_that_two_starts_do_not_see_does_not_come_back() {
    let (machine, unseen) = with_an_unseen_copy();
    machine.tap.set_rule(|o| if is_written(o) { Fate::Fails } else { Fate::Happens });
    machine.open();
    machine.assert_online(&near(&machine));
    machine.idle(SECOND_NS);
    assert!(is_unheard(&machine, near(&machine).id));
    assert!(machine.shard().holding_up().iter().any(|told| told.contains("vDisk near")));
    machine.tap.clear();
    machine.close();
    machine.open();
    machine.idle(SECOND_NS);
    assert!(!is_unheard(&machine, near(&machine).id));
    is_seen_and_does_not_come_back(&machine, unseen);
}

/// A disk that refuses to make the end of the log sure when it is closed, too.
#[test]
fn who_is_closed_unheard_is_not_closed_cleanly() {
    let (machine, unseen) = with_an_unseen_copy();
    machine.tap.set_rule(|o| if is_written(o) { Fate::Fails } else { Fate::Happens });
    machine.open();
    machine.idle(SECOND_NS);
    machine.close();
    machine.open();
    machine.idle(SECOND_NS);
    let id = near(&machine).id;
    assert!(!is_unheard(&machine, id) && near(&machine).durable_sequence() == near(&machine).sequence());
    is_seen_and_does_not_come_back(&machine, unseen);
}

/// No room for that, and all was read: space comes free, and the end is made sure of when there is room.
#[test]
fn who_is_heard_because_the_disk_is_full_is_fenced_later() {
    let (machine, unseen) = with_an_unseen_copy();
    machine.tap.set_rule(|o| if o.verb == Verb::Allocate { Fate::Full } else { Fate::Happens });
    machine.open();
    machine.idle(SECOND_NS);
    let id = near(&machine).id;
    assert!(near(&machine).has_open_end() && !is_unheard(&machine, id));
    machine.tap.clear();
    machine.idle(40 * SECOND_NS);
    assert!(!near(&machine).has_open_end());
    is_seen_and_does_not_come_back(&machine, unseen);
}

/// The record of a snapshot is read for long, and then refused.
#[test]
fn nobody_is_heard_while_another_look_is_under_way() {
    let (machine, source, near) = pair();
    copy(&machine, &source, 0..8, &near, 0);
    machine.snapshot(near.id, "s");
    machine.checkpoint(&near);
    machine.trim(&near, 0, 8);
    machine.checkpoint(&near);
    let place = machine.checkpoint_record(&near).snapshots[0].place.expect("an earlier checkpoint");
    let id = near.id;
    drop((source, near));
    machine.kill();
    let placed = machine.group(place.group);
    let at = placed.start + u64::from(place.offset);
    let is_record = move |o: &Operation| o.verb == Verb::Read && *o.file == *placed.file && o.offset == at;
    let fate = Rc::new(Cell::new(Fate::Fails));
    let now = fate.clone();
    machine.tap.set_rule(move |o| if is_record(o) { now.get() } else { Fate::Happens });
    machine.open();
    machine.idle(SECOND_NS);
    assert!(is_unheard(&machine, id));
    fate.set(Fate::FailsWholeLater);
    let vdisk = self::near(&machine);
    let sure = Rc::new(RefCell::new(Vec::new()));
    for _ in 0..2 {
        let (vdisk, sure) = (vdisk.clone(), sure.clone());
        machine.spawn(async move {
            let is_sure = vdisk.becomes_sure().await;
            sure.borrow_mut().push(is_sure);
        });
    }
    machine.idle(20 * SECOND_NS);
    assert_eq!(*sure.borrow(), [false, false]);
    machine.tap.clear();
    machine.idle(40 * SECOND_NS);
    assert!(!is_unheard(&machine, id));
}

/// It could not store the end of its log, so that it takes no deletion either.
#[test]
fn a_vdisk_that_failed_in_its_recovery_is_waited_for_and_deleted_by_force() {
    let (machine, source, near) = pair();
    copy(&machine, &source, 0..8, &near, 0);
    machine.flush(&near);
    machine.write(&near, 30, homed(30, 2));
    machine.write(&source, 30, homed(30, 1));
    let (id, of_source) = (near.id, source.id);
    drop((source, near));
    machine.kill();
    machine.tap.set_rule(|o| if o.verb == Verb::Sync && o.is_slab() { Fate::Fails } else { Fate::Happens });
    machine.open();
    machine.idle(SECOND_NS);
    for id in [id, of_source] {
        let vdisk = machine.vdisk_by_id(id).expect("it is served");
        assert!(matches!(vdisk.health(), Health::Failed(_)), "{:?}", vdisk.health());
        assert!(is_unheard(&machine, id));
    }
    assert!(machine.shard().holding_up().iter().any(|told| told.contains("vDisk near")));
    machine.tap.clear();
    machine.idle(40 * SECOND_NS);
    assert!(is_unheard(&machine, id), "it is waited for");
    let delete = |id, force| {
        let shard = machine.shard();
        machine.run(async move { shard.delete(id, force).await })
    };
    assert_eq!(delete(id, false).expect_err("it takes nothing").kind, node::Kind::Io);
    delete(id, true).expect("forced");
    machine.idle(SECOND_NS);
    assert!(!is_unheard(&machine, id));
    machine.kill();
    machine.open();
    let source = machine.vdisk_by_id(of_source).expect("good");
    machine.assert_online(&source);
    machine.settle();
    assert_eq!(group_ids(&machine, id), BTreeSet::new());
    assert_eq!((held(&machine), machine.shard().records().len()), (BTreeSet::new(), 1));
}

/// The metadata store is of before "near", whose groups cannot be read: nothing names it.
#[test]
fn a_vdisk_that_no_record_names_is_waited_for_as_long_as_it_may_be_there() {
    let machine = Machine::new();
    let source = machine.vdisk();
    fill(&machine, &source, 0..40, 1);
    machine.settle();
    let old = machine.store.borrow().snapshot();
    machine.close();
    machine.open();
    let (source, near) = (machine.vdisk(), machine.create("near", 4 * MIB));
    copy(&machine, &source, 0..8, &near, 0);
    machine.flush(&near);
    let (id, of_source) = (near.id, source.id);
    drop((source, near));
    machine.kill();
    machine.store.replace(meta::MemStore::restore(machine.world().clock, 0, old));
    let hidden: Vec<_> = groups_of(&machine, id).iter().map(hides).collect();
    let hidden = Rc::new(hidden);
    // Each with a crash, and with a clean stop.
    for ends in [Machine::kill, Machine::close, Machine::kill] {
        let hidden = hidden.clone();
        let is_hidden = move |o: &Operation| hidden.iter().any(|hides| hides(o));
        machine.tap.set_rule(move |o| if is_hidden(o) { Fate::Fails } else { Fate::Happens });
        machine.open();
        assert_eq!(machine.shard().records().len(), 1);
        let before = group_ids(&machine, of_source);
        replace_all(&machine, &machine.vdisk());
        assert!(before.is_subset(&group_ids(&machine, of_source)));
        let told = machine.shard().holding_up();
        assert!(told.len() == 1 && told[0].contains("the metadata store does not know"), "{told:?}");
        ends(&machine);
    }
    machine.open();
    let near = machine.vdisk_by_id(id).expect("it is found");
    machine.assert_online(&near);
    assert_eq!(machine.reads(&near, 0..8), tags(0..8, 1));
    assert_eq!(machine.shard().holding_up(), Vec::<String>::new());
    let before = group_ids(&machine, of_source);
    replace_all(&machine, &machine.vdisk());
    assert!(!before.is_subset(&group_ids(&machine, of_source)), "space comes free");
}

/// Nothing names "near", since the store was made anew while its groups could not be read.
#[test]
fn a_rebuilt_store_waits_for_what_could_not_be_read() {
    let (machine, source, near) = pair();
    copy(&machine, &source, 0..8, &near, 0);
    machine.flush(&near);
    let (id, of_source) = (near.id, source.id);
    drop((source, near));
    machine.kill();
    let placed = groups_of(&machine, id);
    let hide = |machine: &Machine| {
        let hidden: Vec<_> = placed.iter().map(hides).collect();
        let is_hidden = move |o: &Operation| hidden.iter().any(|hides| hides(o));
        machine.tap.set_rule(move |o| if is_hidden(o) { Fate::Fails } else { Fate::Happens });
    };
    hide(&machine);
    let rebuilt = machine.rebuild(2);
    assert_eq!((rebuilt.vdisks.len(), rebuilt.quarantined), (1, placed.len()));
    hide(&machine);
    machine.open();
    let before = group_ids(&machine, of_source);
    // It may lack frames, too: whoever does what health says of it comes to this.
    machine.delete(of_source);
    machine.settle();
    let told = machine.shard().holding_up();
    assert!(told.len() == 1 && told[0].contains("the metadata store does not know"), "{told:?}");
    assert!(before.is_subset(&group_ids(&machine, of_source)));
    machine.kill();
    machine.open();
    let near = machine.vdisk_by_id(id).expect("it is found");
    machine.assert_online(&near);
    assert_eq!(machine.reads(&near, 0..8), tags(0..8, 1));
    machine.settle();
    assert_eq!(machine.shard().holding_up(), Vec::<String>::new());
    assert!(!before.is_subset(&group_ids(&machine, of_source)), "space comes free");
}

/// A bad sector for good, and starts that die between the superblock and the metadata store: nobody has written since.
#[test]
fn a_start_that_is_cut_short_makes_no_store_an_old_one() {
    let (machine, source, near) = pair();
    copy(&machine, &source, 0..8, &near, 0);
    let gone = machine.create("gone", 4 * MIB);
    fill(&machine, &gone, 0..4, 1);
    machine.settle();
    let bad = groups_of(&machine, gone.id).remove(0);
    machine.delete(gone.id);
    machine.idle(SECOND_NS);
    assert_eq!(group_ids(&machine, gone.id), BTreeSet::new());
    let of_source = source.id;
    drop((source, near, gone));
    machine.kill();
    for _ in 0..3 {
        let (is_bad, mut commits) = (hides(&bad), 0);
        machine.tap.set_rule(move |o| {
            let is_shard = o.verb == Verb::Commit && o.file.starts_with("shard/");
            commits += u32::from(is_shard);
            match (is_bad(o), is_shard && commits == 2) {
                (true, _) => Fate::Fails,
                (_, true) => Fate::Dies,
                _ => Fate::Happens,
            }
        });
        assert!(machine.try_open().is_none(), "the second time it says what it has come to");
        machine.kill();
    }
    let is_bad = hides(&bad);
    machine.tap.set_rule(move |o| if is_bad(o) { Fate::Fails } else { Fate::Happens });
    machine.open();
    machine.idle(SECOND_NS);
    assert_eq!((machine.shard().quarantined, machine.shard().holding_up()), (1, Vec::new()));
    let before = group_ids(&machine, of_source);
    replace_all(&machine, &machine.vdisk());
    assert!(!before.is_subset(&group_ids(&machine, of_source)), "space comes free");
}

/// The store is of before the end of a start, and the disk of what that run has written.
#[test]
fn a_store_from_the_middle_of_a_start_is_an_old_one() {
    let (machine, source, near) = pair();
    copy(&machine, &source, 0..8, &near, 0);
    let of_source = source.id;
    drop((source, near));
    machine.kill();
    let (store, old, mut commits) = (machine.store.borrow().clone(), Rc::new(RefCell::new(None)), 0);
    let kept = old.clone();
    machine.tap.set_rule(move |o| {
        commits += u32::from(o.verb == Verb::Commit && o.file.starts_with("shard/"));
        if commits == 2 && kept.borrow().is_none() {
            kept.replace(Some(store.snapshot()));
        }
        Fate::Happens
    });
    machine.open();
    machine.tap.clear();
    let (source, late) = (machine.vdisk(), machine.create("late", 4 * MIB));
    fill(&machine, &source, 50..54, 1);
    copy(&machine, &source, 10..18, &late, 0);
    machine.flush(&late);
    let id = late.id;
    drop((source, late));
    machine.kill();
    let old = old.take().expect("the second commit was seen");
    machine.store.replace(meta::MemStore::restore(machine.world().clock, 0, old));
    let hidden: Vec<_> = groups_of(&machine, id).iter().map(hides).collect();
    machine.tap.set_rule(move |o| if hidden.iter().any(|hides| hides(o)) { Fate::Fails } else { Fate::Happens });
    machine.open();
    let told = machine.shard().holding_up();
    assert!(told.len() == 1 && told[0].contains("the metadata store does not know"), "{told:?}");
    let before = group_ids(&machine, of_source);
    replace_all(&machine, &machine.vdisk());
    assert!(before.is_subset(&group_ids(&machine, of_source)));
    machine.kill();
    machine.open();
    let late = machine.vdisk_by_id(id).expect("it is found");
    machine.assert_online(&late);
    assert_eq!(machine.reads(&late, 0..8), tags(10..18, 1));
}

/// A disk that does not answer its first sync: that of the end of a log, or of what the recovery stores again.
#[test]
fn who_is_waited_for_for_long_is_told_of() {
    for (is_recovering, why) in [(false, "could be read and synced yet"), (true, "its log is being read")] {
        let (machine, _) = with_an_unseen_copy();
        if is_recovering {
            machine.open();
            machine.write(&near(&machine), 30, homed(30, 2));
            machine.kill();
        }
        machine.tap.set_rule(|o| if o.verb == Verb::Sync && o.is_slab() { Fate::Hangs } else { Fate::Happens });
        machine.begin();
        assert_eq!(machine.shard().holding_up(), Vec::<String>::new());
        machine.idle(100 * SECOND_NS);
        let told = machine.shard().holding_up();
        assert!(told.iter().any(|told| told.contains("vDisk near") && told.contains(why)), "{told:?}");
        machine.kill();
        machine.open();
        machine.idle(SECOND_NS);
        assert_eq!(machine.shard().holding_up(), Vec::<String>::new());
    }
}

/// A thousand vDisks after a crash are no thousand reports.
#[test]
fn who_is_just_being_heard_is_not_told_of() {
    let (machine, _) = with_an_unseen_copy();
    machine.tap.set_rule(|o| if o.verb == Verb::Sync { Fate::Waits } else { Fate::Happens });
    machine.open();
    let id = near(&machine).id;
    assert!(is_unheard(&machine, id));
    assert_eq!(machine.shard().holding_up(), Vec::<String>::new());
    machine.idle(20 * SECOND_NS);
    assert!(!is_unheard(&machine, id));
}

/// Of a deleted vDisk only the group with the tombstone is left, and somebody has it.
#[test]
fn a_tombstone_that_is_held_costs_no_syncs() {
    let machine = Machine::new();
    let (source, near) = (machine.vdisk(), machine.create("near", 4 * MIB));
    fill(&machine, &source, 0..4, 1);
    copy(&machine, &source, 0..4, &near, 0);
    let id = source.id;
    drop(source);
    machine.settle();
    machine.delete(id);
    machine.idle(SECOND_NS);
    assert_eq!(groups_of(&machine, id).len(), 1);
    machine.tap.take();
    let references = machine.shard().context.references.clone();
    for block in 20..25 {
        machine.write(&near, block, homed(block, 2));
        references.released.notify();
        machine.idle(SECOND_NS);
    }
    let syncs = machine.tap.take().into_iter().filter(|o| o.verb == Verb::Sync && o.is_slab()).count();
    assert_eq!(syncs, 0);
    machine.trim(&near, 0, 4);
    machine.checkpoint(&near);
    machine.make_room(&near);
    machine.idle(SECOND_NS);
    assert_eq!(groups_of(&machine, id).len(), 0);
}

/// Once a second somebody wants room, and the same page cannot be read.
#[test]
fn a_full_disk_does_not_read_a_bad_map_each_second() {
    let (machine, source, near) = pair();
    copy(&machine, &source, 0..8, &near, 0);
    copy(&machine, &source, 8..9, &near, 20);
    machine.write(&near, 30, homed(30, 2));
    machine.settle();
    machine.delete(source.id);
    machine.trim(&near, 0, 8);
    machine.checkpoint(&near);
    let reads = Rc::new(Cell::new(0));
    let counted = reads.clone();
    machine.tap.set_rule(move |o| {
        let is_read = o.verb == Verb::Read && o.is_slab();
        counted.set(counted.get() + u32::from(is_read));
        if is_read { Fate::Fails } else { Fate::Happens }
    });
    let looks = |near: &Rc<Vdisk>| {
        let (near, before) = (near.clone(), reads.get());
        machine.run(async move { drop(near.make_room_urgently().await) });
        reads.get() - before
    };
    assert!(looks(&near) > 0);
    assert_eq!([looks(&near), looks(&near)], [0, 0]);
    machine.tap.clear();
    machine.idle(40 * SECOND_NS);
    for _ in 0..3 {
        urgently(&machine, &near);
        machine.idle(SECOND_NS);
    }
    assert_eq!((held(&machine), near.trouble()), (BTreeSet::new(), None));
}

/// Whoever begins with the same list at another frame has marks of that frame.
#[test]
fn a_rollback_marks_its_copies_though_a_clone_began_with_the_same_list() {
    let (machine, source, near) = pair();
    copy(&machine, &source, 0..8, &near, 0);
    machine.settle();
    let kept = machine.snapshot(near.id, "s");
    let clone = machine.clone_of(near.id, kept, "c");
    machine.checkpoint(&clone);
    let shared = group_ids(&machine, source.id);
    let marked = |vdisk: &Rc<Vdisk>| -> BTreeSet<GroupId> {
        machine.write(vdisk, 30, homed(30, 9));
        machine.checkpoint(vdisk);
        let record = machine.checkpoint_record(vdisk);
        let copied = record.groups.iter().filter(|entry| entry.is_copied && shared.contains(&entry.group));
        copied.map(|entry| entry.group).collect()
    };
    let all = marked(&near);
    assert!(!all.is_empty());
    assert_eq!(marked(&clone), all);
    machine.delete(clone.id);
    machine.trim(&near, 0, 8);
    machine.checkpoint(&near);
    machine.make_room(&near);
    assert_eq!(marked(&near), BTreeSet::new());
    let (shard, id) = (machine.shard(), near.id);
    machine.run(async move { shard.rollback(id, kept).await }).expect("nobody is connected");
    machine.trim(&near, 0, 8);
    // The last checkpoint is of before the rollback: that it leads nowhere says nothing.
    machine.make_room(&near);
    assert_eq!(marked(&near), all);
    machine.delete_snapshot(near.id, kept);
    machine.settle();
    assert_eq!((marked(&near), held(&machine)), (BTreeSet::new(), BTreeSet::new()));
}

/// A clone of a snapshot in which nothing of what was copied is left, as far as that is counted.
#[test]
fn a_clone_has_the_marks_of_groups_in_which_it_has_nothing() {
    let (machine, source, near) = pair();
    copy(&machine, &source, 0..8, &near, 0);
    machine.trim(&near, 0, 8);
    let kept = machine.snapshot(near.id, "s");
    let clone = machine.clone_of(near.id, kept, "c");
    machine.checkpoint(&clone);
    let of_source = group_ids(&machine, source.id);
    let record = machine.checkpoint_record(&clone);
    let marked = record.groups.iter().filter(|entry| entry.is_copied && of_source.contains(&entry.group));
    assert!(marked.clone().count() > 0 && marked.clone().all(|entry| entry.data == 0), "{:?}", record.groups);
    let groups: BTreeSet<GroupId> = marked.map(|entry| entry.group).collect();
    machine.delete_snapshot(near.id, kept);
    machine.settle();
    assert_eq!(held(&machine).intersection(&groups).count(), 0);
}
