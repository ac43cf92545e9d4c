//! WRITE SAME.

use crate::testing::{Bench, Keeper, Memory};
use block::{Request, WriteZeroes};
use std::rc::Rc;

#[test]
fn zeros_are_one_request_and_other_data_is_written() {
    let bench = Bench::with(Memory::new(4 << 20, 512), Rc::new(Keeper::default()), &[]);
    let initiator = bench.initiator("iqn.a,i,0x1");
    let same = |flags: u8, blocks: u16| {
        let [high, low] = blocks.to_be_bytes();
        [0x93, flags, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, high, low, 0, 0]
    };
    let mut block: Vec<u8> = (0..=255).chain(0..=255).collect();
    initiator.good(&same(0, 4096), &block);
    assert_eq!(bench.memory.requests.borrow().len(), 2, "in pieces of a mebibyte");
    let content = bench.memory.content.borrow().clone();
    assert!(content[512..512 + 4096 * 512].chunks(512).all(|one| one == block));
    assert!(content[..512].iter().chain(&content[512 + 4096 * 512..]).all(|byte| *byte == 0));
    // UNMAP allows to unmap only what then reads as it was written.
    initiator.good(&same(0x08, 1), &block);
    assert!(matches!(bench.memory.requests.borrow().last(), Some(Request::Write { .. })));
    block.fill(0);
    for (flags, data, expected) in [
        (0x00, &block[..], WriteZeroes::KeepAllocated),
        (0x08, &block[..], WriteZeroes::Unmap),
        (0x09, &[][..], WriteZeroes::Unmap),
        (0x01, &[][..], WriteZeroes::KeepAllocated),
    ] {
        initiator.good(&same(flags, 9), data);
        match bench.memory.requests.borrow().last() {
            Some(Request::WriteZeroes { offset: 512, len: 4608, how, .. }) => assert_eq!(*how, expected),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn no_blocks_are_refused() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    for (cdb, byte) in
        [(&[0x41, 0, 0, 0, 0, 1, 0, 0, 0, 0][..], 7), (&[0x93, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0], 10)]
    {
        let sense = initiator.check(cdb, &[9; 512]);
        assert_eq!((sense.asc, &sense.bytes[15..18]), (0x24, &[0xc0, 0, byte][..]));
    }
    assert_eq!(initiator.good(&[0x12, 1, 0xb0, 0, 64, 0], &[])[4], 1);
}

#[test]
fn exactly_one_block_is_sent() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    for len in [0, 256, 1024] {
        assert_eq!(initiator.codes(&[0x41, 0, 0, 0, 0, 0, 0, 0, 1, 0], &vec![1; len]), (5, 0x0e, 3), "{len}");
    }
    assert_eq!(initiator.codes(&[0x41, 0x10, 0, 0, 0, 0, 0, 0, 1, 0], &[1; 512]), (5, 0x24, 0), "ANCHOR");
    assert_eq!(initiator.codes(&[0x41, 0, 0, 0, 8, 1, 0, 0, 0, 0], &[1; 512]), (5, 0x21, 0));
    assert!(bench.memory.requests.borrow().is_empty());
}
