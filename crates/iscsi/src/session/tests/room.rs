//! What an initiator can make a session hold by sending unasked.

use super::*;

const KIB: u64 = 1 << 10;
const BURST: usize = 64 << 10;
const TASK_SET_FULL: u8 = 0x28;

fn limited(keys: &[&str], payload_bytes: u64) -> Host {
    Host::with(keys, Limits { commands: 128, room: Room { payload_bytes, single_bytes: 2 << 20 } })
}

/// A write that takes all the room there is, and waits for its data.
fn busy(host: &mut Host, len: u32) {
    let tag = host.command(&write(100, len, true, &[]));
    assert!(host.session.gather(tag, len, 100, &mut host.out).is_none());
    assert_eq!(host.reply().basic[0], 0x31);
}

#[test]
fn what_comes_unasked_counts_and_more_than_there_is_room_for_is_refused() {
    let mut host = limited(&[], 256 * KIB);
    busy(&mut host, 128 << 10);
    for number in 101..220 {
        // Two first bursts fit beside it.
        assert!(host.send(&write(number, 256 << 10, true, &pattern(BURST))).is_empty());
        assert!(host.session.held_bytes(&host.out) <= 256 * KIB + host.out.pending_bytes());
        if number <= 102 {
            assert!(host.replies().is_empty());
            assert!(host.session.tasks[&number].data.capacity() <= BURST + 4096, "no room was given to it yet");
            continue;
        }
        let refused = host.reply();
        assert_eq!((refused.basic[0], refused.basic[3]), (0x21, TASK_SET_FULL));
        assert_eq!((refused.get(16), refused.get(44)), (number, 256 << 10));
    }
    // Without data it may wait.
    assert!(host.send(&write(220, 256 << 10, true, &[])).is_empty());
    assert!(host.replies().is_empty());
    assert_eq!(host.session.commands_under_way(), 4);
}

#[test]
fn what_is_announced_counts_at_once() {
    let mut host = limited(&["InitialR2T=No"], 192 * KIB);
    busy(&mut host, 64 << 10);
    for number in [101, 102] {
        assert!(host.send(&write(number, 256 << 10, false, &pattern(512))).is_empty());
        assert!(host.replies().is_empty());
    }
    assert_eq!(host.session.held_bytes(&host.out), 192 * KIB);
    assert!(host.send(&write(103, 256 << 10, false, &pattern(512))).is_empty());
    assert_eq!(host.reply().basic[3], TASK_SET_FULL);
    for number in [101, 102, 103] {
        let rest = data_out(number, u32::MAX, 0, 512, true, &pattern(BURST)[512..]);
        assert!(host.send(&rest).is_empty());
        assert!(host.replies().is_empty(), "what comes for one that was refused is dropped");
        assert_eq!(host.session.held_bytes(&host.out), 192 * KIB);
    }
    assert!(host.session.tasks[&101].data == pattern(BURST));
}

#[test]
fn what_waits_does_not_hold_up_what_goes_first() {
    let mut host = limited(&[], 128 * KIB);
    let tag = host.run(&read(100, 4096));
    // Larger than all room, so that it has to go alone; another one behind it.
    assert!(host.send(&write(101, 1 << 20, true, &pattern(BURST))).is_empty());
    assert!(host.send(&write(102, 4096, true, &pattern(4096))).is_empty());
    host.session.respond(tag, good(&[]), &mut host.out);
    assert!(!host.session.can_admit(&host.out), "the answer is not sent");
    host.replies();
    assert!(host.session.can_admit(&host.out));
    let mut next = host.bytes(&[]);
    let Some(Next::Command { tag, .. }) = next.pop() else { panic!("{next:?}") };
    assert!(next.is_empty() && host.session.gather(tag, 1 << 20, 101, &mut host.out).is_none());
    assert_eq!(host.session.held_bytes(&host.out), (1 << 20) + 4096 + host.out.pending_bytes());
    assert!(host.session.tasks[&101].data == pattern(BURST));
}

#[test]
fn what_comes_before_its_turn_is_bounded() {
    let mut host = limited(&[], 256 * KIB);
    for number in 101..105 {
        assert!(host.send(&write(number, 1 << 20, true, &pattern(BURST))).is_empty());
    }
    assert_eq!(host.session.held_bytes(&host.out), 256 * KIB);
    let broken = host.send(&write(105, 1 << 20, true, &pattern(BURST)));
    assert!(matches!(broken[..], [Next::Broken(_)]), "{broken:?}");
}

#[test]
fn more_than_a_first_burst_is_not_even_kept() {
    let mut host = limited(&["FirstBurstLength=4096"], 256 * KIB);
    busy(&mut host, 256 << 10);
    for number in 101..110 {
        assert!(host.send(&write(number, 1 << 20, true, &pattern(BURST))).is_empty());
    }
    assert_eq!(host.session.held_bytes(&host.out), 256 * KIB);
}
