//! INQUIRY and its pages.

use crate::testing::{Bench, Keeper, Memory, identity};
use std::rc::Rc;

#[test]
fn standard_data_names_the_standards() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    let data = initiator.good(&[0x12, 0, 0, 1, 0, 0], &[]);
    assert_eq!(data[..8], [0, 0, 6, 0x12, 91, 0x18, 0x10, 2]);
    assert_eq!(data[58..66], [0, 0xa0, 4, 0x60, 4, 0xc0, 9, 0x60]);
    for len in [0, 5, 36, 96, 200] {
        assert_eq!(initiator.good(&[0x12, 0, 0, 0, len, 0], &[]).len(), usize::from(len).min(96));
    }
    assert_eq!(initiator.codes(&[0x12, 0, 1, 0, 255, 0], &[]), (5, 0x24, 0), "a page without EVPD");
    assert_eq!(initiator.codes(&[0x12, 1, 0x81, 0, 255, 0], &[]), (5, 0x24, 0));
    assert_eq!(initiator.codes(&[0x12, 2, 0, 0, 255, 0], &[]), (5, 0x24, 0), "CMDDT is obsolete");
}

#[test]
fn designators_of_unit_port_and_target() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    let page = initiator.good(&[0x12, 1, 0x83, 1, 0, 0], &[]);
    let mut designators = Vec::new();
    let mut rest = &page[4..];
    while !rest.is_empty() {
        let (one, others) = rest.split_at(4 + usize::from(rest[3]));
        designators.push((one[0], one[1], one[4..].to_vec()));
        rest = others;
    }
    let text = |text: &str| {
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize((text.len() + 1).next_multiple_of(4), 0);
        bytes
    };
    let expected = [
        (0x01, 0x03, identity(7).naa().to_vec()),
        (0x02, 0x01, identity(7).t10().into_bytes()),
        (0x01, 0x94, vec![0, 0, 0, 1]),
        (0x01, 0x95, vec![0, 0, 0, 1]),
        (0x53, 0x98, text("iqn.2026-11.io.drystone:vdisk-7,t,0x0001")),
        (0x53, 0xa8, text("iqn.2026-11.io.drystone:vdisk-7")),
    ];
    assert_eq!(designators, expected);
    assert_eq!(initiator.good(&[0x12, 1, 0x80, 1, 0, 0], &[])[4..], *b"1122334455667788000000000007");
}

#[test]
fn pages_are_listed_in_ascending_order_and_are_as_long_as_they_say() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    let pages = initiator.good(&[0x12, 1, 0, 1, 0, 0], &[])[4..].to_vec();
    assert!(pages.is_sorted());
    assert_eq!(pages, [0x00, 0x80, 0x83, 0x86, 0x87, 0x88, 0x8f, 0xb0, 0xb1, 0xb2]);
    let len = |page: u8| initiator.good(&[0x12, 1, page, 2, 0, 0], &[]).len();
    assert_eq!([0x86, 0xb0, 0xb1, 0xb2].map(len), [64, 64, 64, 8]);
    assert_eq!(initiator.good(&[0x12, 1, 0x86, 2, 0, 0], &[])[4..14], [0, 7, 1, 1, 0, 0, 0, 0, 0, 252]);
    assert_eq!(initiator.good(&[0x12, 1, 0xb2, 2, 0, 0], &[])[4..], [0, 0xe4, 2, 0]);
}

#[test]
fn limits_are_in_blocks_of_the_unit() {
    for (sector_bytes, exponent) in [(512, 3u8), (4096, 0)] {
        let bench = Bench::with(Memory::new(1 << 20, sector_bytes), Rc::new(Keeper::default()), &[]);
        let initiator = bench.initiator("iqn.a,i,0x1");
        let capacity = initiator.good(&[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0], &[]);
        assert_eq!(capacity[..8], ((1u64 << 20) / u64::from(sector_bytes) - 1).to_be_bytes());
        assert_eq!(capacity[8..16], [[0, 0, sector_bytes.to_be_bytes()[2], 0], [0, exponent, 0xc0, 0]].concat());
        let limits = initiator.good(&[0x12, 1, 0xb0, 0, 64, 0], &[]);
        let field = |at: usize| u32::from_be_bytes(limits[at..at + 4].try_into().expect("four bytes"));
        assert_eq!(field(8), (4 << 20) / sector_bytes, "MAXIMUM TRANSFER LENGTH");
        assert_eq!(field(28), 4096 / sector_bytes, "OPTIMAL UNMAP GRANULARITY");
        assert_eq!(field(44), (1 << 20) / sector_bytes, "MAXIMUM ATOMIC TRANSFER LENGTH");
        assert_eq!(limits[5], 255, "MAXIMUM COMPARE AND WRITE LENGTH");
    }
}
