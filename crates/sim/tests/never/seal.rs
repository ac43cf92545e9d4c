//! Never: a short seal. What follows a group names its length; that is never less than what was acknowledged in it.
//! (With one replica none can be left out of an acknowledgement; fencing several comes with them.)

use crate::machine::Machine;
use crate::tap::{Fate, Verb};

#[test]
fn a_recovery_seals_at_the_longest_valid_chain() {
    let machine = Machine::new();
    let vdisk = machine.vdisk();
    machine.write(&vdisk, 0, 1);
    machine.flush(&vdisk);
    // Acknowledged, not synced: a kill takes none of it.
    (1..6).for_each(|block| machine.write(&vdisk, block, block + 1));
    let vdisk = machine.restart();
    assert_eq!(machine.reads(&vdisk, 0..6), [1, 2, 3, 4, 5, 6]);
    machine.write(&vdisk, 6, 7);
    machine.kill();
    // Whatever the recovery wrote anew: each group follows a frame, and goes on with the number behind it.
    let groups = machine.groups();
    assert!(groups.len() >= 2);
    for next in groups.iter().filter(|placed| placed.header.predecessor.is_some()) {
        let predecessor = next.header.predecessor.expect("just asked");
        let before = groups.iter().find(|placed| placed.header.group == predecessor.group).expect("it is there");
        let frames = machine.frames(before);
        let last = frames.iter().find(|frame| frame.offset + frame.len == predecessor.sealed_len).expect("its end");
        assert_eq!((last.crc, last.sequence.next()), (predecessor.chain, next.header.first_sequence));
    }
    machine.open();
    assert_eq!(machine.reads(&machine.vdisk(), 0..7), [1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn a_full_group_is_sealed_behind_its_last_frame() {
    let machine = Machine::new();
    let vdisk = machine.vdisk();
    (0..40).for_each(|block| machine.write(&vdisk, block, block + 1));
    machine.kill();
    let groups = machine.groups();
    assert!(groups.len() >= 3);
    for pair in groups.windows(2) {
        let last = machine.frames(&pair[0]).pop().expect("a full group has frames");
        let predecessor = pair[1].header.predecessor.expect("it follows another");
        assert_eq!((predecessor.group, predecessor.sealed_len), (pair[0].header.group, last.offset + last.len));
        assert_eq!((predecessor.chain, pair[1].header.first_sequence), (last.crc, last.sequence.next()));
    }
    machine.open();
    assert_eq!(machine.reads(&machine.vdisk(), 0..40), (1..41).collect::<Vec<u64>>());
}

/// A sync fails although all of it reached the medium; the frames are being written elsewhere when the machine dies at
/// write number `dies_at`. Nothing that was acknowledged may be missing: the first copies are the longer chain.
fn rewrite_cut_short(dies_at: u64) -> bool {
    let machine = Machine::new();
    let vdisk = machine.vdisk();
    machine.write(&vdisk, 0, 1);
    machine.flush(&vdisk);
    (1..6).for_each(|block| machine.write(&vdisk, block, block + 1));
    let mut rewritten = 0;
    machine.tap.set_rule(move |operation| {
        let is_first_slab = &*operation.file == "slab-0000";
        match operation.verb {
            Verb::Sync if is_first_slab => Fate::FailsWhole,
            Verb::Write if operation.is_slab() && !is_first_slab => {
                rewritten += 1;
                if rewritten - 1 == dies_at { Fate::Dies } else { Fate::Happens }
            }
            _ => Fate::Happens,
        }
    });
    let flushed = machine.try_flush(&vdisk);
    let died = flushed.is_none();
    if !died {
        flushed.expect("it lives").expect("the other slab took them");
        assert!(
            vdisk.durable_sequence() == vdisk.sequence() && machine.shard().context.pool.usage().poisoned_slabs == 1
        );
    }
    let vdisk = machine.restart();
    machine.assert_online(&vdisk);
    assert_eq!(machine.reads(&vdisk, 0..6), [1, 2, 3, 4, 5, 6], "died at write {dies_at}");
    // And once more, with something new behind it.
    machine.write(&vdisk, 6, 7);
    assert_eq!(machine.reads(&machine.restart(), 0..7), [1, 2, 3, 4, 5, 6, 7], "died at write {dies_at}");
    died
}

#[test]
fn a_rewrite_that_was_cut_short_does_not_shorten_the_log() {
    let mut dies_at = 0;
    while rewrite_cut_short(dies_at) {
        dies_at += 1;
    }
    assert!(dies_at >= 6, "the slab's header and five frames: {dies_at} writes");
}
