//! Golden bytes and damage.

use super::*;

fn example() -> Superblock {
    let domains = FaultDomains { disk: "d".into(), node: "n".into(), rack: "r".into(), site: "s".into() };
    Superblock {
        identity: Identity {
            disk: DiskId(0x1122_3344_5566_7788),
            node: 7,
            shard: 3,
            pool: "p".into(),
            tier: "ssd".into(),
            domains,
        },
        serial: 9,
        generation: 4,
        group_size: 64 << 20,
        clean: true,
        is_sharing: false,
        groups_reserved: 1025,
        vdisks_reserved: 2049,
        created_wall_ns: 0x0102_0304_0506_0708,
    }
}

#[test]
fn golden_bytes() {
    let page = example().encode();
    let body = concat!(
        "44525953555045520100000007000300887766554433221109000000000000000400000000000000",
        "000000040100000001040000010800000807060504030201010070030073736401006401006e010072010073"
    );
    let hex: String = page[..body.len() / 2].iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, body);
    assert!(page[body.len() / 2..4092].iter().all(|&b| b == 0));
    assert_eq!(page[4092..], 0x2afe_d363_u32.to_le_bytes());
}

#[test]
fn a_disk_whose_vdisks_share_extents_is_of_a_later_version() {
    let page = Superblock { is_sharing: true, ..example() }.encode();
    assert_eq!((page[8], page[44]), (2, 3));
    for (at, value) in [(8, 1), (8, 3), (44, 1), (44, 7)] {
        let mut other = page.to_vec();
        other[at] = value;
        let crc = base::crc::crc32c(&other[..4092]).to_le_bytes();
        other[4092..].copy_from_slice(&crc);
        let expect = if value == 3 { Page::Newer(3) } else { Page::Damaged };
        assert_eq!(decode(&other), expect, "{value} at {at}");
    }
}

#[test]
fn pages_come_back() {
    let long = "ü".repeat(TEXT_LEN_MAX / 2);
    let domains = FaultDomains { disk: long.clone(), node: long.clone(), rack: long.clone(), site: long.clone() };
    let mut other = Superblock { clean: false, is_sharing: true, ..example() };
    other.identity = Identity { pool: long.clone(), tier: long, domains, ..other.identity };
    for superblock in [example(), other] {
        assert_eq!(decode(&superblock.encode()), Page::Valid(Box::new(superblock)));
    }
    assert_eq!(decode(&[0; 4096]), Page::Damaged);
    assert_eq!(decode(&[]), Page::Damaged);
}

#[test]
fn every_flipped_bit_is_noticed() {
    let good = example().encode();
    for bit in 0..4096 * 8 {
        let mut page = good.to_vec();
        page[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(decode(&page), Page::Damaged, "bit {bit}");
    }
}

#[test]
fn impossible_fields_are_refused() {
    let forged = |at: usize, bytes: &[u8]| {
        let mut page = example().encode().to_vec();
        page[at..at + bytes.len()].copy_from_slice(bytes);
        let crc = base::crc::crc32c(&page[..4092]);
        page[4092..].copy_from_slice(&crc.to_le_bytes());
        decode(&page)
    };
    assert_eq!(forged(8, &[3]), Page::Newer(3));
    assert_eq!(forged(0, b"X"), Page::Damaged);
    assert_eq!(forged(40, &[1]), Page::Damaged, "group size");
    assert_eq!(forged(44, &[2]), Page::Damaged, "flags");
    assert_eq!(forged(48, &[0xff; 4]), Page::Damaged, "counter");
    assert_eq!(forged(64, &[0xff; 2]), Page::Damaged, "length of a text");
    assert_eq!(forged(66, &[0xff]), Page::Damaged, "no UTF-8");
}
