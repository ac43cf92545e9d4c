//! Never: a forked chain. Every start takes a new epoch, writes behind what it recovered in a group of its own, and
//! what a recovery cut off stays cut off.

use crate::machine::{Machine, Placed};
use crate::tap::{Fate, Verb};
use base::Epoch;
use sim::disk::{Crash, InFlight, Survival};
use std::cell::Cell;
use std::rc::Rc;

#[test]
fn every_start_takes_a_new_epoch() {
    let machine = Machine::new();
    let mut last = machine.shard().context.pool.epoch();
    let mut next = |machine: &Machine| {
        let epoch = machine.open().context.pool.epoch();
        assert_eq!(epoch, Epoch(last.0 + 1));
        last = epoch;
        machine.write(&machine.vdisk(), 0, epoch.0);
    };
    machine.close();
    next(&machine);
    machine.kill();
    next(&machine);
    machine.lose_power();
    next(&machine);
    machine.kill();
    let epochs: Vec<Epoch> = machine.groups().iter().map(|placed| placed.header.epoch).collect();
    assert!(epochs.windows(2).all(|pair| pair[0] < pair[1]), "each start wrote into a group of its own: {epochs:?}");
}

#[test]
fn an_epoch_is_durable_before_anything_is_written_in_it() {
    let machine = Machine::new();
    machine.write(&machine.vdisk(), 0, 1);
    machine.kill();
    machine.open();
    machine.write(&machine.vdisk(), 1, 2);
    let operations = machine.tap.take();
    let at = |found: &dyn Fn(&crate::tap::Operation) -> bool| operations.iter().position(found).expect("it was done");
    let written = at(&|o| o.verb == Verb::Write && &*o.file == "superblock");
    let sync = operations[written..].iter().position(|o| o.verb == Verb::Sync && &*o.file == "superblock");
    let synced = written + sync.expect("it was synced");
    let first_use = at(&|o| o.is_slab() && o.changes());
    assert!(written < synced && synced < first_use, "{written} {synced} {first_use}");
}

#[test]
fn a_recovered_group_is_never_appended_to() {
    let machine = Machine::new();
    machine.write(&machine.vdisk(), 0, 1);
    machine.kill();
    let old = machine.groups().pop().expect("one group");
    let size = u64::from(machine.config.pool.group_size);
    let before = machine.bytes(&old.file, old.start, size);
    for round in 1..4 {
        machine.open();
        machine.write(&machine.vdisk(), round, round + 1);
        machine.flush(&machine.vdisk());
        machine.checkpoint(&machine.vdisk());
        for operation in machine.tap.take().iter().filter(|o| o.verb == Verb::Write && *o.file == *old.file) {
            assert!(operation.end() <= old.start || operation.offset >= old.start + size, "{operation:?}");
        }
        machine.kill();
    }
    assert!(machine.bytes(&old.file, old.start, size) == before);
}

#[test]
fn what_a_recovery_served_survives_the_next_power_loss() {
    let machine = Machine::new();
    let vdisk = machine.vdisk();
    machine.write(&vdisk, 0, 1);
    machine.flush(&vdisk);
    // In the kernel only.
    machine.write(&vdisk, 1, 2);
    let vdisk = machine.restart();
    assert_eq!(machine.reads(&vdisk, 0..2), [1, 2]);
    machine.lose_power();
    machine.open();
    assert_eq!(machine.reads(&machine.vdisk(), 0..2), [1, 2], "somebody has read it");
}

#[test]
fn a_tail_that_was_cut_does_not_come_back_behind_new_frames() {
    for (flushes, rebuild) in [(true, false), (false, false), (true, true), (false, true)] {
        let machine = Machine::new();
        let vdisk = machine.vdisk();
        machine.write(&vdisk, 0, 1);
        machine.flush(&vdisk);
        (1..4).for_each(|block| machine.write(&vdisk, block, block + 10));
        machine.kill();
        let old = machine.groups().pop().expect("one group");
        let size = machine.config.pool.group_size.into();
        let whole = machine.bytes(&old.file, old.start, size);
        machine.lose_header(3);
        machine.open();
        let vdisk = machine.vdisk();
        assert_eq!(machine.reads(&vdisk, 0..4), [1, 0, 0, 0]);
        // Frame 3 once more, and another one.
        machine.write(&vdisk, 2, 22);
        if flushes {
            machine.flush(&vdisk);
        }
        machine.write(&vdisk, 5, 25);
        machine.kill();
        // The lost sector turns up again: frames 3 to 5 of the first epoch are whole.
        machine.put(&old.file, old.start, whole);
        if rebuild {
            machine.rebuild(2);
        }
        machine.open();
        let vdisk = machine.vdisk();
        machine.assert_online(&vdisk);
        assert_eq!(machine.reads(&vdisk, 0..6), [1, 0, 22, 0, 0, 25]);
        machine.checkpoint(&vdisk);
        machine.make_room(&vdisk);
        assert_eq!(machine.reads(&machine.restart(), 0..6), [1, 0, 22, 0, 0, 25]);
    }
}

#[test]
fn a_group_that_a_recovery_found_void_does_not_come_back() {
    let machine = Machine::new();
    let vdisk = machine.vdisk();
    machine.write(&vdisk, 0, 1);
    machine.kill();
    // The second epoch writes one frame, in a group of its own, and that frame is torn.
    machine.open();
    machine.write(&machine.vdisk(), 1, 12);
    machine.kill();
    let void = machine.groups().pop().expect("two groups");
    let size = machine.config.pool.group_size.into();
    let whole = machine.bytes(&void.file, void.start, size);
    machine.tear_payload(3);
    // The third follows the first one, as the second did.
    machine.open();
    let vdisk = machine.vdisk();
    assert_eq!(machine.reads(&vdisk, 0..2), [1, 0]);
    machine.write(&vdisk, 2, 23);
    machine.flush(&vdisk);
    machine.kill();
    let third = machine.groups().pop().expect("it has frames");
    if third.start != void.start || third.file != void.file {
        // Its freeing never reached the medium, and the torn sector did.
        machine.put(&void.file, void.start, whole);
    }
    machine.open();
    machine.assert_online(&machine.vdisk());
    assert_eq!(machine.reads(&machine.vdisk(), 0..3), [1, 0, 23]);
}

/// Starts and dies at operation `dies_at` of the start (one that changes something); `None`: it had fewer.
fn start_cut_short(machine: &Machine, dies_at: u64, crash: Crash) -> Option<()> {
    let seen = Rc::new(Cell::new(0));
    let counter = seen.clone();
    machine.tap.set_rule(move |operation| {
        counter.set(counter.get() + u64::from(operation.changes()));
        if operation.changes() && counter.get() > dies_at { Fate::Dies } else { Fate::Happens }
    });
    if let Some(opened) = machine.try_open() {
        opened.expect("a good disk");
        let vdisk = machine.id("v");
        let shard = machine.shard();
        let served = machine.attempt(async move { shard.vdisk(vdisk).await.map(|_| ()) });
        if served.is_some() {
            machine.end(crash, InFlight::Undone);
            return None;
        }
    }
    machine.end(crash, InFlight::Chance);
    Some(())
}

#[test]
fn recoveries_that_are_cut_short_change_nothing() {
    let ends = [
        Crash::Kill,
        Crash::PowerLoss(Survival::Nothing),
        Crash::PowerLoss(Survival::Sectors),
        Crash::PowerLoss(Survival::Everything),
    ];
    let mut cut = 0;
    for crash in ends {
        for dies_at in 0.. {
            let machine = Machine::new();
            let vdisk = machine.vdisk();
            (0..16).for_each(|block| machine.write(&vdisk, block, block + 1));
            machine.flush(&vdisk);
            machine.checkpoint(&vdisk);
            (0..6).for_each(|block| machine.write(&vdisk, block, block + 100));
            machine.flush(&vdisk);
            machine.write(&vdisk, 6, 106);
            machine.kill();
            machine.lose_header(vdisk.sequence().0);
            // A start that dies, another one that dies a step later, and one with writes that are lost again.
            let enough = start_cut_short(&machine, dies_at, crash).is_none();
            start_cut_short(&machine, dies_at + 1, crash);
            machine.open();
            machine.write(&machine.vdisk(), 7, 207);
            machine.lose_power();
            start_cut_short(&machine, dies_at, crash);
            machine.open();
            let vdisk = machine.vdisk();
            machine.assert_online(&vdisk);
            let expect: Vec<u64> = (0..16).map(|block| if block < 6 { block + 100 } else { block + 1 }).collect();
            assert_eq!(machine.reads(&vdisk, 0..16), expect, "{crash:?} at {dies_at}");
            if enough {
                break;
            }
            cut += 1;
        }
    }
    assert!(cut >= 12, "a start has some operations to die at: {cut}");
}

#[test]
fn several_epochs_in_a_row_each_with_a_lost_tail() {
    let machine = Machine::new();
    let vdisk = machine.vdisk();
    machine.write(&vdisk, 0, 1);
    machine.flush(&vdisk);
    let mut expect = vec![1];
    for epoch in 1..8 {
        let vdisk = machine.vdisk();
        machine.write(&vdisk, epoch, 100 + epoch);
        machine.flush(&vdisk);
        expect.push(100 + epoch);
        let lost = vdisk.sequence().next();
        (0..3).for_each(|block| machine.write(&vdisk, block, 1000 * epoch + block));
        machine.kill();
        if epoch % 2 == 0 {
            machine.lose_header(lost.0)
        } else {
            machine.tear_payload(lost.0)
        }
        machine.open();
        machine.assert_online(&machine.vdisk());
        assert_eq!(machine.reads(&machine.vdisk(), 0..epoch + 1), expect, "epoch {epoch}");
    }
}

/// Two groups with synced frames cannot be read for once, and a start goes on without them. A power loss leaves the end of
/// what that start wrote, with a checkpoint that was never synced, but not what comes before it: its sequence numbers are
/// known to be synced, of the other branch. (`fill`: frames before the checkpoint, which then ends in the group where its
/// pages are or in the next one.)
fn checkpoint_without_its_log(fill: u64) {
    let machine = Machine::new();
    let vdisk = machine.vdisk();
    // The metadata store is not told.
    machine.tap.set_rule(|o| if o.verb == Verb::Commit { Fate::Fails } else { Fate::Happens });
    let mut blocks = 0;
    let mut write_one = || {
        machine.write(&vdisk, blocks, blocks + 1);
        blocks += 1;
    };
    while vdisk.groups().len() < 2 {
        machine.flush(&vdisk);
        write_one();
    }
    (0..9).for_each(|_| write_one());
    while vdisk.groups().len() < 3 {
        machine.flush(&vdisk);
        write_one();
    }
    // What the header of the third group says.
    let synced = vdisk.durable_sequence();
    machine.flush(&vdisk);
    machine.kill();
    let hidden: Vec<_> = machine.groups().split_off(1);
    let (hides, dies) = (hidden.clone(), Rc::new(Cell::new(false)));
    let at_sync = dies.clone();
    machine.tap.set_rule(move |o| {
        let holds = |start: u64| o.offset <= start && start < o.end();
        match o.verb {
            Verb::Read if hides.iter().any(|group| *o.file == *group.file && holds(group.start)) => Fate::Fails,
            Verb::Sync if o.is_slab() && at_sync.get() => Fate::Dies,
            _ => Fate::Happens,
        }
    });
    machine.open();
    let vdisk = machine.vdisk();
    machine.assert_online(&vdisk);
    let first = vdisk.sequence();
    for step in 0..fill {
        machine.try_write(&vdisk, 100 + 4 * step, &[7; 4]).expect("it lives").expect("room");
    }
    dies.set(true);
    let task = vdisk.clone();
    assert!(machine.attempt(async move { task.checkpoint().await }).is_none(), "it dies");
    let (mut groups, record) = (vdisk.groups(), vdisk.sequence());
    groups.sort_unstable();
    assert!(groups.len() > 2);
    machine.end(Crash::PowerLoss(Survival::Everything), InFlight::Undone);
    // Of the second group its first frame was synced, the copy of an earlier one.
    let second = machine.group(groups[1]);
    let end = machine.frames(&second).first().map(|frame| u64::from(frame.offset + frame.len)).expect("it has one");
    let size = u64::from(machine.config.pool.group_size);
    machine.zero(&second.file, second.start + end, size - end);
    for lost in &groups[2..groups.len() - 1] {
        let lost = machine.group(*lost);
        machine.zero(&lost.file, lost.start, size);
    }
    assert!(first < record && record <= synced, "{first:?} {record:?} {synced:?}");
    let rebuilt = machine.rebuild(2);
    assert!(rebuilt.vdisks[0].damage.is_none(), "fill {fill}: {rebuilt:?}");
    machine.open();
    machine.assert_online(&machine.vdisk());
    assert_eq!(machine.reads(&machine.vdisk(), 0..blocks), (1..blocks + 1).collect::<Vec<u64>>(), "fill {fill}");
}

#[test]
fn a_checkpoint_is_not_proven_by_the_numbers_of_another_branch() {
    (3..9).for_each(checkpoint_without_its_log);
}

/// A checkpoint that was cut short lies in a branch that was given up, and its number was synced, of the other branch. The
/// group of the one before rots. What the log holds is missing something then, whatever that record says.
#[test]
fn a_checkpoint_of_a_branch_that_was_given_up_does_not_count() {
    let machine = Machine::new();
    let vdisk = machine.vdisk();
    let in_groups = |count: usize| vdisk.groups().len() >= count;
    // The first group ends with a checkpoint, and nothing in it is needed any more.
    machine.write(&vdisk, 0, 1);
    machine.flush(&vdisk);
    machine.checkpoint(&vdisk);
    // The second one is full of flushed frames, two pages each.
    let mut tag = 1;
    let mut overwrite = || {
        tag += 1;
        machine.write(&vdisk, 0, tag);
        machine.flush(&vdisk);
    };
    while !in_groups(2) {
        overwrite();
    }
    (1..7).for_each(|_| overwrite());
    // A checkpoint, in a third.
    machine.tap.set_rule(|o| if o.verb == Verb::Sync && o.is_slab() { Fate::Dies } else { Fate::Happens });
    let task = vdisk.clone();
    assert!(machine.attempt(async move { task.checkpoint().await }).is_none(), "it dies");
    let record = vdisk.sequence();
    machine.kill();
    let groups = machine.groups();
    let [first, _, given_up] = &groups[..] else { panic!("three groups") };
    let size = u64::from(machine.config.pool.group_size);
    let whole = machine.bytes(&given_up.file, given_up.start, size);
    // Its frames are given up for others, and it goes on; that the third group was freed never reaches the medium.
    machine.open();
    let vdisk = machine.vdisk();
    machine.write(&vdisk, 1, 11);
    machine.flush(&vdisk);
    machine.write(&vdisk, 2, 12);
    machine.flush(&vdisk);
    assert!(vdisk.durable_sequence() > record);
    machine.kill();
    let other = |placed: &Placed| placed.start == given_up.start && placed.header.group != given_up.header.group;
    assert!(!machine.groups().iter().any(other), "nobody has taken its place");
    machine.put(&given_up.file, given_up.start, whole);
    machine.put(&first.file, first.start, vec![0xa5; 4096]);
    let rebuilt = machine.rebuild(2);
    let damage = rebuilt.vdisks[0].damage.clone().unwrap_or_default();
    assert!(damage.contains("no chain of groups connects"), "{rebuilt:?}");
    // Nor does what a start of a damaged vDisk notes hide it from the next one.
    for _ in 0..3 {
        machine.open();
        machine.assert_damaged(&machine.vdisk(), "no chain of groups connects");
        machine.close();
    }
}
