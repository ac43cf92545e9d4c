//! Never: a half append. After an append that did not wholly succeed the group is sealed, and what is behind its last
//! good frame is void, even if all of it happens to be there.

use crate::machine::{FRAME, Machine, Placed};
use crate::tap::{Fate, Operation, Verb};
use vdisk::Kind;

/// The next write to a slab ends like this.
fn spoil_next(machine: &Machine, fate: Fate) {
    let mut left = 1;
    machine.tap.set_rule(move |operation| {
        let hit = operation.verb == Verb::Write && operation.is_slab() && left > 0;
        left -= i32::from(hit);
        if hit { fate } else { Fate::Happens }
    });
}

fn writes_into(operations: &[Operation], placed: &Placed, size: u64) -> usize {
    let inside = |o: &&Operation| {
        o.verb == Verb::Write && *o.file == *placed.file && o.offset < placed.start + size && placed.start < o.end()
    };
    operations.iter().filter(inside).count()
}

/// Nothing, part of a header, all but the end, everything.
const HALVES: [Fate; 5] =
    [Fate::Fails, Fate::FailsAfter(64), Fate::FailsAfter(2048), Fate::FailsAfter(FRAME as u64 - 16), Fate::FailsWhole];

#[test]
fn after_a_half_append_the_group_is_sealed_and_the_write_goes_on_elsewhere() {
    for fate in HALVES {
        let machine = Machine::new();
        let vdisk = machine.vdisk();
        machine.write(&vdisk, 0, 1);
        machine.flush(&vdisk);
        let first = vdisk.groups();
        spoil_next(&machine, fate);
        machine.tap.take();
        machine.write(&vdisk, 1, 2);
        machine.assert_online(&vdisk);
        assert_eq!(vdisk.groups().len(), 2, "{fate:?}: the write went into another group");
        (2..20).for_each(|block| machine.write(&vdisk, block, block + 1));
        let operations = machine.tap.take();
        assert_eq!(machine.reads(&vdisk, 0..20), (1..21).collect::<Vec<u64>>());
        machine.kill();
        let sealed = machine.group(first[0]);
        let size = machine.config.pool.group_size.into();
        assert_eq!(writes_into(&operations, &sealed, size), 1, "{fate:?}: the one that failed");
        let next = machine.groups().into_iter().find(|placed| placed.header.predecessor.is_some()).expect("a second");
        let (_, last_good) = machine.frame(2);
        let sealed_len = next.header.predecessor.expect("it follows the first").sealed_len;
        assert_eq!(sealed_len, last_good.offset + last_good.len, "{fate:?}");
        machine.open();
        machine.assert_online(&machine.vdisk());
        assert_eq!(machine.reads(&machine.vdisk(), 0..20), (1..21).collect::<Vec<u64>>(), "{fate:?}");
    }
}

#[test]
fn an_append_that_fails_twice_is_refused_and_leaves_nothing_behind() {
    for fate in HALVES {
        let machine = Machine::new();
        let vdisk = machine.vdisk();
        machine.write(&vdisk, 0, 1);
        machine.flush(&vdisk);
        machine.tap.set_rule(move |operation| {
            let hit = operation.verb == Verb::Write && operation.is_slab();
            if hit { fate } else { Fate::Happens }
        });
        let refused = machine.try_write(&vdisk, 0, &[9]).expect("it lives").expect_err("both failed");
        assert_eq!(refused.kind, Kind::Io);
        assert_eq!(machine.read(&vdisk, 0), 1);
        machine.tap.clear();
        // The disk works again: the next frame takes the same place in the chain.
        machine.write(&vdisk, 1, 2);
        machine.flush(&vdisk);
        let vdisk = machine.restart();
        machine.assert_online(&vdisk);
        assert_eq!(
            machine.reads(&vdisk, 0..2),
            [1, 2],
            "{fate:?}: what was refused does not come back behind what was not"
        );
    }
}

/// The birth went into a second group; what the first attempt may have left is not taken for a vDisk when that is deleted.
#[test]
fn a_vdisk_whose_birth_took_two_attempts_is_gone_when_it_is_deleted() {
    for fate in HALVES {
        let machine = Machine::new();
        spoil_next(&machine, fate);
        let vdisk = machine.create("x", 1 << 20);
        machine.tap.clear();
        machine.write(&vdisk, 0, 1);
        machine.flush(&vdisk);
        let id = vdisk.id;
        drop(vdisk);
        machine.delete(id);
        machine.idle(1_000_000_000);
        let left = machine.groups().iter().filter(|placed| placed.header.vdisk == id).count();
        assert_eq!(left, 0, "{fate:?}");
        machine.kill();
        let shard = machine.open();
        assert_eq!((shard.records().len(), shard.broken_unknown().len()), (1, 0), "{fate:?}");
    }
}

#[test]
fn a_half_append_at_the_end_is_a_tail_or_the_whole_of_it() {
    for fate in HALVES {
        let machine = Machine::new();
        let vdisk = machine.vdisk();
        machine.write(&vdisk, 0, 1);
        machine.flush(&vdisk);
        machine.tap.set_rule(move |operation| {
            let hit = operation.verb == Verb::Write && operation.is_slab();
            if hit { fate } else { Fate::Happens }
        });
        machine.try_write(&vdisk, 0, &[9]).expect("it lives").expect_err("both failed");
        let vdisk = machine.restart();
        machine.assert_online(&vdisk);
        let found = machine.read(&vdisk, 0);
        assert!(if fate == Fate::FailsWhole { [1, 9].contains(&found) } else { found == 1 }, "{fate:?}: {found}");
        machine.write(&vdisk, 1, 2);
        assert_eq!(machine.reads(&machine.restart(), 0..2), [found, 2]);
    }
}

#[test]
fn a_half_append_of_a_verb_or_a_checkpoint_is_no_other_thing() {
    for fate in HALVES {
        let machine = Machine::new();
        let vdisk = machine.vdisk();
        machine.write(&vdisk, 0, 1);
        spoil_next(&machine, fate);
        let task = vdisk.clone();
        machine.run(async move { task.resize(8 << 20).await }).expect("the other group took it");
        spoil_next(&machine, fate);
        machine.checkpoint(&vdisk);
        machine.lose_power();
        machine.open();
        let vdisk = machine.vdisk();
        machine.assert_online(&vdisk);
        assert_eq!((vdisk.attributes().size_bytes, machine.read(&vdisk, 0)), (8 << 20, 1), "{fate:?}");
    }
}
