//! Never: a set of snapshots that is not of one instant, or of which only a part is there; a vDisk that waits for a set
//! that does not come about.

use crate::keeper::RETURNS;
use crate::machine::Machine;
use base::units::MIB;
use base::{SnapshotId, VdiskId};
use std::cell::Cell;
use std::rc::Rc;

/// A pause ends by itself after this long, ns; a little more.
const OVER_NS: u64 = 1_100_000_000;

/// Two vDisks, "v" and "w".
fn prepared() -> (Machine, [VdiskId; 2]) {
    let machine = Machine::new();
    machine.create("w", 4 * MIB);
    let ids = [machine.id("v"), machine.id("w")];
    for (index, id) in ids.into_iter().enumerate() {
        let vdisk = machine.vdisk_by_id(id).expect("good");
        machine.write(&vdisk, 0, 1 + index as u64);
    }
    (machine, ids)
}

fn new_set(machine: &Machine) -> SnapshotId {
    let pool = machine.shard().context.pool.clone();
    machine.run(async move { pool.next_snapshot_id().await }).expect("the disk works")
}

fn pause(machine: &Machine, set: SnapshotId, members: Vec<VdiskId>) {
    let shard = machine.shard();
    machine.run(async move { shard.pause(set, "set", members).await }).expect("they come to rest");
}

fn cut(machine: &Machine, set: SnapshotId, members: Vec<VdiskId>) -> node::Result<Vec<node::SnapshotSummary>> {
    let shard = machine.shard();
    machine.run(async move { shard.cut(set, "set", members).await })
}

/// Writes block 5 of the vDisk; whether it was acknowledged yet.
fn write_beside(machine: &Machine, id: VdiskId, tag: u64) -> Rc<Cell<bool>> {
    let vdisk = machine.vdisk_by_id(id).expect("good");
    let done = Rc::new(Cell::new(false));
    let acknowledged = done.clone();
    machine.spawn(async move {
        vdisk.write(5 * 4096, crate::machine::content(5, tag)).await.expect("room");
        acknowledged.set(true);
    });
    done
}

#[test]
fn nothing_is_acknowledged_between_pause_and_cut() {
    let (machine, ids) = prepared();
    let set = new_set(&machine);
    pause(&machine, set, ids.to_vec());
    let written = ids.map(|id| write_beside(&machine, id, 9));
    machine.idle(500_000_000);
    assert_eq!(written.each_ref().map(|done| done.get()), [false; 2]);
    let made = cut(&machine, set, ids.to_vec()).expect("in time");
    assert_eq!(made.iter().map(|summary| summary.vdisk).collect::<Vec<_>>(), ids);
    machine.idle(1_000_000);
    assert_eq!(written.each_ref().map(|done| done.get()), [true; 2]);
    for (index, summary) in made.iter().enumerate() {
        assert_eq!(machine.read_snapshot(summary.vdisk, summary.id, 0..1), [1 + index as u64]);
        assert_eq!(machine.read_snapshot(summary.vdisk, summary.id, 5..6), [0], "it was written behind the cut");
    }
}

#[test]
fn a_set_that_is_given_up_or_forgotten_leaves_nothing_and_holds_up_nobody() {
    for forgotten in [false, true] {
        let (machine, ids) = prepared();
        let set = new_set(&machine);
        pause(&machine, set, ids.to_vec());
        let written = ids.map(|id| write_beside(&machine, id, 9));
        if !forgotten {
            machine.shard().release(set);
        }
        machine.idle(if forgotten { OVER_NS } else { 1_000_000 });
        assert_eq!(written.map(|done| done.get()), [true; 2], "forgotten {forgotten}");
        let late = cut(&machine, set, ids.to_vec()).expect_err("they have gone on");
        assert_eq!(late.kind, node::Kind::Unavailable);
        ids.iter().for_each(|id| assert!(machine.snapshot_names(*id).is_empty()));
    }
}

/// Each holds what the other one waits for.
#[test]
fn sets_that_overlap_hold_up_each_other_for_a_while_and_nobody_for_ever() {
    let (machine, [v, w]) = prepared();
    let sets = [new_set(&machine), new_set(&machine)];
    let results = [[v, w], [w, v]].into_iter().zip(sets).map(|(members, set)| {
        let (shard, result) = (machine.shard(), Rc::new(Cell::new(None)));
        let told = result.clone();
        machine.spawn(async move {
            let paused = shard.pause(set, &format!("set-{set}"), members.to_vec()).await;
            let cut = match paused {
                Ok(()) => shard.cut(set, &format!("set-{set}"), members.to_vec()).await.map(|made| made.len()),
                Err(error) => Err(error),
            };
            told.set(Some(cut));
        });
        result
    });
    let results: Vec<_> = results.collect();
    let written = [v, w].map(|id| write_beside(&machine, id, 9));
    machine.idle(5_000_000_000);
    assert_eq!(written.map(|done| done.get()), [true; 2]);
    for result in results {
        match result.take().expect("it was answered") {
            Ok(made) => assert_eq!(made, 2),
            Err(error) => assert_eq!(error.kind, node::Kind::Unavailable, "{error}"),
        }
    }
}

#[test]
fn a_vdisk_goes_while_it_is_paused() {
    let (machine, ids) = prepared();
    let set = new_set(&machine);
    pause(&machine, set, ids.to_vec());
    let (shard, id) = (machine.shard(), ids[1]);
    let gone = Rc::new(Cell::new(false));
    let told = gone.clone();
    machine.spawn(async move {
        shard.delete(id, false).await.expect("nobody uses it");
        told.set(true);
    });
    machine.idle(1_000_000);
    drop(cut(&machine, set, ids.to_vec()));
    machine.idle(OVER_NS);
    assert!(gone.get());
    machine.settle();
    machine.kill();
    machine.open();
    assert_eq!(machine.shard().records().len(), 1);
}

/// Of a set that was confirmed one member goes: the others stay, even if the store is lost.
#[test]
fn a_set_that_was_taken_outlives_its_members_and_the_store() {
    for (way, come_back) in RETURNS.into_iter().enumerate() {
        for with_vdisk in [false, true] {
            let (machine, ids) = prepared();
            let set = new_set(&machine);
            pause(&machine, set, ids.to_vec());
            let made = cut(&machine, set, ids.to_vec()).expect("in time");
            let (shard, members) = (machine.shard(), ids.to_vec());
            machine.run(async move { shard.confirm(set, members).await }).expect("the disk works");
            if with_vdisk {
                machine.delete(ids[1]);
            } else {
                machine.delete_snapshot(ids[1], made[1].id);
            }
            for node in 2..4 {
                come_back(&machine, node);
                assert_eq!(machine.snapshot_names(ids[0]), ["set"], "way {way}, with vDisk {with_vdisk}");
                assert_eq!(machine.read_snapshot(ids[0], made[0].id, 0..1), [1]);
                machine.settle();
            }
        }
    }
}
