//! Parts, loans, the queue, and who is cut off.

use super::*;

const MIB: u64 = 1 << 20;

fn room(part: &Part) -> Room {
    part.room(Waker::noop()).expect("not cut off")
}

#[test]
fn one_connection_gets_all_of_it() {
    let part = Part::join(16 * MIB);
    assert_eq!(room(&part), Room { payload_bytes: 16 * MIB, single_bytes: 32 * MIB });
    part.settle(12 * MIB, false, true, Instant::now());
    assert_eq!(room(&part).payload_bytes, 16 * MIB);
}

#[test]
fn each_keeps_its_part_whatever_the_others_hold() {
    let parts: Vec<Part> = (0..8).map(|_| Part::join(16 * MIB)).collect();
    assert_eq!(room(&parts[0]), Room { payload_bytes: 9 * MIB, single_bytes: 32 * MIB });
    // A large one, which was taken alone.
    parts[0].settle(32 * MIB, true, true, Instant::now());
    assert_eq!(room(&parts[1]), Room { payload_bytes: MIB, single_bytes: MIB });
    parts[0].settle(5 * MIB, true, true, Instant::now());
    assert_eq!(room(&parts[1]), Room { payload_bytes: 5 * MIB, single_bytes: 5 * MIB });
    drop(parts);
    let part = Part::join(16 * MIB);
    assert_eq!(room(&part).payload_bytes, 16 * MIB);
}

#[test]
fn the_first_in_the_queue_borrows() {
    let parts: Vec<Part> = (0..4).map(|_| Part::join(16 * MIB)).collect();
    parts[0].settle(10 * MIB, true, true, Instant::now());
    assert!(parts[1].wait(true) && !parts[1].wait(true) && parts[2].wait(true));
    parts[0].settle(0, false, true, Instant::now());
    assert_eq!(room(&parts[2]), Room { payload_bytes: 2 * MIB, single_bytes: 2 * MIB });
    assert_eq!(room(&parts[3]).payload_bytes, 2 * MIB);
    assert_eq!(room(&parts[1]), Room { payload_bytes: 10 * MIB, single_bytes: 32 * MIB });
    parts[1].wait(false);
    assert_eq!(room(&parts[2]).payload_bytes, 10 * MIB);
}

#[test]
fn who_holds_what_others_wait_for_and_is_silent_is_cut_off() {
    let parts: Vec<Part> = (0..4).map(|_| Part::join(16 * MIB)).collect();
    let begin = Instant::now();
    for (part, held) in parts.iter().zip([6 * MIB, 6 * MIB, MIB]) {
        part.settle(held, true, true, begin);
    }
    let later = begin + PATIENCE;
    assert!(!parts[3].complain(later), "it does not wait");
    parts[3].wait(true);
    // The device's fault, not the client's.
    parts[1].settle(6 * MIB, false, false, later);
    assert!(parts[3].complain(later));
    let cut: Vec<bool> = parts.iter().map(|part| part.room(Waker::noop()).is_none()).collect();
    assert_eq!(cut, [true, false, false, false], "the third holds no more than its own part");
}
