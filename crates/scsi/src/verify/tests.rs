//! VERIFY and WRITE AND VERIFY.

use crate::testing::Bench;
use block::Request;

#[test]
fn memory_is_told_before_it_is_taken() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    let memory = |cdb: &[u8]| initiator.start(cdb, crate::Attribute::Simple, 512).1.memory_bytes();
    assert_eq!(memory(&[0x28, 0, 0, 0, 0, 0, 0, 4, 0, 0]), 1024 * 512);
    assert_eq!(memory(&[0x08, 0, 0, 0, 0, 0]), 256 * 512);
    assert_eq!(memory(&[0x2f, 0, 0, 0, 0, 0, 0, 8, 0, 0]), 1 << 20);
    assert_eq!(memory(&[0x41, 0, 0, 0, 0, 0, 0, 0, 1, 0]), 512);
    assert_eq!(memory(&[0x28, 0, 0xff, 0, 0, 0, 0, 4, 0, 0]), 0, "it was refused");
    assert_eq!(memory(&[0; 6]), 0);
}

#[test]
fn what_is_compared_has_to_be_the_same() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    initiator.good(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 4, 0], &[5; 2048]);
    let verify = |check: u8| [0x2f, check << 1, 0, 0, 0, 0, 0, 0, 4, 0];
    initiator.good(&verify(0), &[]);
    initiator.good(&verify(1), &[5; 2048]);
    initiator.good(&verify(3), &[5; 512]);
    let mut wrong = [5; 2048];
    wrong[1030] = 6;
    let sense = initiator.check(&verify(1), &wrong);
    assert_eq!((sense.key as u8, sense.asc, &sense.bytes[3..7]), (0xe, 0x1d, &1030u32.to_be_bytes()[..]));
    let sense = initiator.check(&verify(3), &wrong[1024..1536]);
    assert_eq!((sense.key as u8, &sense.bytes[3..7]), (0xe, &6u32.to_be_bytes()[..]));
    // Without comparison the data does not matter, and is not wanted.
    initiator.good(&verify(0), &wrong);
    assert_eq!(initiator.codes(&verify(2), &[]), (5, 0x24, 0));
    // Zeros of a hole are compared as well.
    initiator.good(&[0x2f, 2, 0, 0, 0, 8, 0, 0, 1, 0], &[0; 512]);
    assert_eq!(initiator.codes(&[0x2f, 2, 0, 0, 0, 8, 0, 0, 1, 0], &[1; 512]).0, 0xe);
}

#[test]
fn what_is_written_and_verified_is_on_the_medium() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    for (round, check) in [0u8, 1].into_iter().enumerate() {
        let data = [round as u8 + 3; 512];
        bench.memory.requests.borrow_mut().clear();
        initiator.good(&[0x8e, check << 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0], &data);
        assert_eq!(bench.memory.content.borrow()[512..1024], data);
        let requests = bench.memory.requests.borrow();
        assert!(matches!(requests[..], [Request::Write { fua: true, .. }, Request::Read { .. }]), "{requests:?}");
    }
    for check in [2, 3] {
        assert_eq!(initiator.codes(&[0x2e, check << 1, 0, 0, 0, 0, 0, 0, 1, 0], &[0; 512]), (5, 0x24, 0));
    }
}
