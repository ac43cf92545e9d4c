//! What is left of copies on a full disk: when it moves, and what is not done since nothing would come free by it. And a disk that is
//! full because one vDisk cannot be read comes back when that one is deleted.

use crate::machine::{GROUP, Machine, homed, manual};
use crate::taken::{copy, fill, groups_of, held, near, pair, pair_with, restart_with_near_damaged, urgently};
use crate::tap::{Fate, Verb};
use base::units::{KIB, MIB};
use base::{GroupId, VdiskId};
use node::ShardConfig;
use pool::Purpose;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use vdisk::{Kind, Vdisk};

const SECOND_NS: u64 = 1_000_000_000;

/// Space that comes free is the disk's at once.
fn config() -> ShardConfig {
    let mut config = manual();
    config.pool.recycled_bytes_max = 0;
    config
}

/// Two vDisks with a block in ten each of what they took from others, which are gone.
fn thin_copies(machine: &Machine) -> [VdiskId; 2] {
    [("gone", "a"), ("gone-too", "b")].map(|(source, holder)| {
        let (source, holder) = (machine.create(source, 4 * MIB), machine.create(holder, 4 * MIB));
        fill(machine, &source, 0..40, 1);
        copy(machine, &source, 0..40, &holder, 500);
        machine.settle();
        machine.delete(source.id);
        (500..540).filter(|block| block % 10 != 0).for_each(|block| machine.trim(&holder, block, 1));
        // What is moved goes behind.
        fill(machine, &holder, 600..640, 2);
        machine.settle();
        holder.id
    })
}

/// The same, and "near" is damaged, which has copied, too.
fn with_near_damaged() -> (Machine, [VdiskId; 2]) {
    let (machine, source, near) = pair_with(config());
    let thin = thin_copies(&machine);
    copy(&machine, &source, 0..8, &near, 0);
    drop((source, near));
    restart_with_near_damaged(&machine);
    // What the last checkpoints have marked and nobody needs is let go of.
    machine.settle();
    (machine, thin)
}

fn vdisks(machine: &Machine, ids: [VdiskId; 2]) -> [Rc<Vdisk>; 2] {
    ids.map(|id| machine.vdisk_by_id(id).expect("good"))
}

/// Groups of vDisks that are no more.
fn left(machine: &Machine) -> BTreeSet<GroupId> {
    let known: Vec<VdiskId> = machine.shard().records().iter().map(|record| record.id).collect();
    let left = machine.groups().into_iter().filter(|placed| !known.contains(&placed.header.vdisk));
    left.map(|placed| placed.header.group).collect()
}

fn check_content(machine: &Machine, ids: [VdiskId; 2]) {
    for vdisk in vdisks(machine, ids) {
        machine.assert_online(&vdisk);
        for block in (500..540).step_by(10) {
            assert_eq!(machine.read(&vdisk, block), homed(block - 500, 1));
        }
    }
}

/// It would take the reserve, and nothing would come free. The deletion that lets it come free needs no room.
#[test]
fn nothing_moves_while_somebody_is_waited_for_and_a_damaged_vdisk_goes_without_room() {
    let (machine, thin) = with_near_damaged();
    let (before, holders) = (held(&machine), vdisks(&machine, thin));
    assert!(before.len() >= 4, "{before:?}");
    for _ in 0..2 {
        holders.iter().for_each(|vdisk| urgently(&machine, vdisk));
        machine.idle(SECOND_NS);
    }
    assert_eq!(held(&machine), before);
    machine.tap.set_rule(|o| if o.verb == Verb::Allocate { Fate::Full } else { Fate::Happens });
    let id = near(&machine).id;
    let delete = |force| {
        let shard = machine.shard();
        machine.run(async move { shard.delete(id, force).await })
    };
    assert_eq!(delete(false).expect_err("there is no room for that").kind, node::Kind::Full);
    delete(true).expect("forced");
    machine.tap.clear();
    // The reserve is whole again then.
    machine.idle(40 * SECOND_NS);
    assert_eq!(machine.shard().holding_up(), Vec::<String>::new());
    for _ in 0..4 {
        holders.iter().for_each(|vdisk| urgently(&machine, vdisk));
        machine.idle(SECOND_NS);
    }
    assert_eq!(held(&machine), BTreeSet::new());
    machine.kill();
    machine.open();
    machine.settle();
    assert_eq!(groups_of(&machine, id).len(), 0);
    check_content(&machine, thin);
}

/// Nothing comes free because of it, so that the disk is full, and clients go on writing.
#[test]
fn a_disk_that_is_full_for_a_damaged_vdisk_comes_back_when_that_is_deleted() {
    let (machine, thin) = with_near_damaged();
    let (before, all, writer) = (held(&machine), left(&machine), machine.vdisk());
    machine.disk.set_capacity(machine.disk.allocated_bytes() + 4 * u64::from(GROUP));
    let write = |block: u64, tag: u64| machine.try_write(&writer, block, &[homed(block, tag)]).expect("it lives");
    let write_until_full = |tag: u64| {
        let refused = (100..1000).find_map(|block| write(block, tag).err()).expect("it is full at last");
        assert_eq!(refused.kind, Kind::Full);
    };
    for tag in 5..8 {
        write_until_full(tag);
        machine.idle(2 * SECOND_NS);
    }
    assert!(before.is_subset(&held(&machine)), "nothing was moved");
    let (shard, id) = (machine.shard(), near(&machine).id);
    machine.run(async move { shard.delete(id, true).await }).expect("a full disk takes that");
    let tries = (0..60).take_while(|_| {
        machine.idle(SECOND_NS);
        write(100, 9).is_err()
    });
    assert!(tries.count() < 60, "there is room again");
    for tag in 10..20 {
        write_until_full(tag);
        machine.idle(2 * SECOND_NS);
    }
    assert!(!all.is_subset(&left(&machine)), "what was in the way moves when room is wanted");
    machine.flush(&writer);
    machine.kill();
    machine.open();
    check_content(&machine, thin);
}

#[test]
fn nothing_moves_into_the_half_of_the_reserve_that_deletions_need() {
    let (machine, ..) = pair_with(config());
    let [holder, _] = vdisks(&machine, thin_copies(&machine));
    let (before, pool) = (held(&machine), machine.shard().context.pool.clone());
    while pool.reserve_for_moves_bytes() > 0 {
        let pool = pool.clone();
        let gives = machine.run(async move { pool.make_room_for(Purpose::Emergency).await });
        assert!(gives.expect("the disk works"));
    }
    urgently(&machine, &holder);
    assert_eq!(held(&machine), before);
    machine.run(async move { pool.replenish().await }).expect("the disk works");
    urgently(&machine, &holder);
    assert!(held(&machine).len() < before.len());
}

/// Before anything is let go of, a frame says so, and the disk takes none.
#[test]
fn the_map_is_not_read_for_what_cannot_be_let_go_of() {
    let (machine, source, near) = pair();
    copy(&machine, &source, 0..8, &near, 0);
    machine.write(&near, 30, homed(30, 2));
    machine.settle();
    machine.trim(&near, 0, 8);
    machine.checkpoint(&near);
    let reads = Rc::new(Cell::new(0));
    let counted = reads.clone();
    machine.tap.set_rule(move |o| {
        counted.set(counted.get() + u32::from(o.verb == Verb::Read && o.is_slab()));
        if o.verb == Verb::Write && o.is_slab() { Fate::Fails } else { Fate::Happens }
    });
    for _ in 0..2 {
        let near = near.clone();
        assert!(machine.run(async move { near.make_room().await }).is_err());
    }
    assert_eq!(reads.get(), 0);
    assert!(!held(&machine).is_empty());
    machine.tap.clear();
    machine.idle(70 * SECOND_NS);
    assert_eq!(held(&machine), BTreeSet::new());
}

/// A vDisk that is written all over has dead groups, and no checkpoint lets them come free.
#[test]
fn no_checkpoint_is_taken_for_room_that_cannot_come() {
    let mut config = manual();
    config.settings.space_slack_bytes = 256 * KIB;
    let (machine, source, near) = pair_with(config);
    copy(&machine, &source, 0..8, &near, 0);
    drop((source, near));
    restart_with_near_damaged(&machine);
    let source = machine.vdisk();
    let overwrite = || {
        (0..20).for_each(|round| fill(&machine, &source, 100..140, 10 + round));
        machine.idle(SECOND_NS);
        source.stats.checkpoints.get()
    };
    let before = source.stats.checkpoints.get();
    assert_eq!(overwrite(), before);
    machine.delete(self::near(&machine).id);
    machine.idle(SECOND_NS);
    assert!(overwrite() > before);
}
