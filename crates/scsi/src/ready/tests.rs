//! Commands that have little to do here.

use crate::Status;
use crate::testing::Bench;
use block::Request;

#[test]
fn small_commands() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    initiator.good(&[0x1b, 0, 0, 0, 0, 0], &[]);
    assert!(matches!(bench.memory.requests.borrow()[..], [Request::Flush]));
    initiator.good(&[0x1b, 1, 0, 0, 1, 0], &[]);
    initiator.good(&[0x1b, 0, 0, 0, 4, 0], &[]);
    assert_eq!(bench.memory.requests.borrow().len(), 1, "neither starting nor NO_FLUSH writes anything");
    for (byte, pointer) in [(0x02, 0xc9), (0x10, 0xcf)] {
        assert_eq!(initiator.check(&[0x1b, 0, 0, 0, byte, 0], &[]).bytes[15..18], [pointer, 0, 4]);
    }
    initiator.good(&[0x1e, 0, 0, 0, 1, 0], &[]);
    initiator.good(&[0x1d, 4, 0, 0, 0, 0], &[]);
    assert_eq!(initiator.codes(&[0x1d, 0, 0, 0, 0, 0], &[]), (5, 0x24, 0));
    assert_eq!(initiator.good(&[0x1c, 1, 0, 0, 255, 0], &[]), [0, 0, 0, 1, 0]);
    assert_eq!(initiator.good(&[0x37, 0, 0x1d, 0, 0, 0, 0, 0, 255, 0], &[]), [0, 0x1d, 0, 0]);
    assert_eq!(initiator.good(&[0xb7, 0x1d, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0], &[]), [0, 0x1d, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn reservations_stop_what_would_disturb_the_holder() {
    let bench = Bench::new();
    let (holder, other) = (bench.initiator("iqn.a,i,0x1"), bench.initiator("iqn.b,i,0x1"));
    holder.good(&[0x16, 0, 0, 0, 0, 0], &[]);
    let conflicts = |cdb: &[u8]| other.send(cdb, &[]).status == Status::ReservationConflict;
    assert!(conflicts(&[0x1b, 0, 0, 0, 1, 0]) && conflicts(&[0x1b, 0, 0, 0, 0, 0]));
    assert!(conflicts(&[0x1e, 0, 0, 0, 1, 0]) && !conflicts(&[0x1e, 0, 0, 0, 0, 0]));
    assert!(conflicts(&[0; 6]) && !conflicts(&[0x12, 0, 0, 0, 36, 0]));
}
