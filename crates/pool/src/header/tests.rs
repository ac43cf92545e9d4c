//! Golden bytes, and every combination of two copies.

use super::*;

fn header() -> GroupHeader {
    GroupHeader {
        group: GroupId::new(7, 0x0c00_0001),
        vdisk: VdiskId::new(7, 0x0c00_0009),
        epoch: Epoch(5),
        first_sequence: Sequence(11),
        durable_through: Sequence(10),
        predecessor: Some(Predecessor { group: GroupId::new(6, 3), sealed_len: 12345, chain: 0xdead_beef }),
        wall: WallTime(0x1122_3344_5566_7788),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A page of two records that are the given bytes, zeros up to 508, and the given checksum.
fn check_golden(page: &[u8], body: &str, crc: u32) {
    assert_eq!(page.len(), 4096);
    let len = body.len() / 2;
    for at in [0, 2048] {
        assert_eq!(hex(&page[at..at + len]), body);
        assert!(page[at + len..at + 508].iter().all(|&b| b == 0));
        assert_eq!(page[at + 508..at + 512], crc.to_le_bytes());
        assert!(page[at + 512..at + 2048].iter().all(|&b| b == 0));
    }
}

#[test]
fn golden_bytes() {
    let with_predecessor = concat!(
        "44525947524f555001000000010000000100000c070000000900000c0700000005000000000000000b00000000000000",
        "0a000000000000008877665544332211030000000600000039300000efbeadde"
    );
    check_golden(&header().encode(), with_predecessor, 0x478d_22a7);
    let first = concat!(
        "44525947524f555001000000000000000100000c070000000900000c0700000005000000000000000b00000000000000",
        "0a000000000000008877665544332211"
    );
    check_golden(&GroupHeader { predecessor: None, ..header() }.encode(), first, 0xfca3_85bf);
    let free = "445259465245454401000000000000000100000c07000000";
    check_golden(&encode_free(header().group), free, 0xefce_3b1f);
}

#[test]
fn pages_come_back() {
    for header in [header(), GroupHeader { predecessor: None, ..header() }] {
        assert_eq!(decode_slot_page(&header.encode()), SlotPage::Group(header));
    }
    assert_eq!(decode_slot_page(&encode_free(header().group)), SlotPage::Free(header().group));
    assert_eq!(decode_slot_page(&[0; 4096]), SlotPage::Blank);
    for len in [0, 511, 512, 2559, 4095] {
        let page = decode_slot_page(&header().encode()[..len]);
        assert_eq!(matches!(page, SlotPage::Group(_)), len >= 512, "{len} bytes");
    }
}

/// Whatever power loss or rot leaves in the two copies.
#[test]
fn every_pair_of_copies_has_a_meaning() {
    let later = GroupHeader { group: GroupId::new(7, 0x0c00_0002), epoch: Epoch(6), ..header() };
    let zeros = Bytes::from_static(&[0; 512]);
    let garbage = Bytes::from_static(&[7; 512]);
    let (group, other, free) = (header().encode(), later.encode(), encode_free(header().group));
    let check = |a: &Bytes, b: &Bytes, expect: fn(&SlotPage) -> bool| {
        for (first, second) in [(a, b), (b, a)] {
            let mut page = vec![0; 4096];
            page[..512].copy_from_slice(&first[..512]);
            page[2048..2560].copy_from_slice(&second[..512]);
            let found = decode_slot_page(&page);
            assert!(expect(&found), "{found:?}");
        }
    };
    for any in [&zeros, &garbage, &free, &group] {
        check(&group, any, |page| *page == SlotPage::Group(header()));
    }
    check(&group, &other, |page| matches!(page, SlotPage::Group(header) if header.epoch == Epoch(6)));
    for any in [&zeros, &garbage, &free] {
        check(&free, any, |page| *page == SlotPage::Free(header().group));
    }
    check(&garbage, &garbage, |page| matches!(page, SlotPage::Damaged(_)));
    check(&garbage, &zeros, |page| matches!(page, SlotPage::Damaged(_)));
}

#[test]
fn every_flipped_bit_of_a_record_is_noticed() {
    for bit in 0..512 * 8 {
        let mut page = header().encode().to_vec();
        page[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(decode_slot_page(&page), SlotPage::Group(header()), "the other copy serves");
        page[2048 + bit / 8] ^= 1 << (bit % 8);
        assert!(matches!(decode_slot_page(&page), SlotPage::Damaged(_)), "bit {bit}");
    }
}

/// A page whose records begin with the good body, one byte changed, under a checksum that is right.
fn forged(good: &Bytes, at: usize, byte: u8) -> SlotPage {
    let mut w = Writer::default();
    w.put(&good[..80]);
    w.bytes[at] = byte;
    decode_slot_page(&two_copies(w))
}

#[test]
fn unknown_versions_flags_and_ids_are_refused() {
    let good = header().encode();
    let SlotPage::Damaged(reason) = forged(&good, 8, 2) else { panic!("a version that does not exist") };
    assert_eq!(reason, "header of format version 2, this build reads 1");
    for (at, byte) in [(0, b'X'), (12, 2), (12, 3), (22, 1), (30, 1), (70, 1)] {
        assert!(matches!(forged(&good, at, byte), SlotPage::Damaged(_)), "byte {at} = {byte}");
    }
    assert!(matches!(forged(&encode_free(header().group), 12, 1), SlotPage::Damaged(_)), "a flag of a FREE mark");
}
