//! Golden bytes, names and damage.

use super::*;

fn header() -> SlabHeader {
    SlabHeader { slab: SlabId(12), disk: DiskId(0x1122_3344_5566_7788), group_size: 64 << 20 }
}

#[test]
fn golden_bytes() {
    let page = header().encode();
    assert_eq!(page.len(), 4096);
    for at in [0, 2048] {
        let hex: String = page[at..at + 32].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "445259534c414230010000000c00000088776655443322110000000400001000");
        assert!(page[at + 32..at + 508].iter().all(|&b| b == 0));
        assert_eq!(page[at + 508..at + 512], 0xf8be_28be_u32.to_le_bytes());
        assert!(page[at + 512..at + 2048].iter().all(|&b| b == 0));
    }
    assert_eq!(decode_slab_page(&page), SlabPage::Valid(header()));
    assert_eq!(decode_slab_page(&[0; 4096]), SlabPage::Blank);
}

#[test]
fn damage_is_noticed_and_one_copy_is_enough() {
    let mut page = header().encode().to_vec();
    page[20] ^= 1;
    assert_eq!(decode_slab_page(&page), SlabPage::Valid(header()));
    page[2048 + 25] ^= 1;
    assert_eq!(decode_slab_page(&page), SlabPage::Damaged);
    assert_eq!(decode_slab_page(&[1; 100]), SlabPage::Damaged);
}

#[test]
fn impossible_fields_are_refused() {
    let forged = |at: usize, byte: u8| {
        let mut w = Writer::default();
        w.put(&header().encode()[..32]);
        w.bytes[at] = byte;
        decode_slab_page(&two_copies(w))
    };
    assert_eq!(forged(8, 2), SlabPage::Newer(2));
    for (at, byte) in [(0, b'X'), (14, 1), (24, 1), (28, 1)] {
        assert_eq!(forged(at, byte), SlabPage::Damaged, "byte {at} = {byte}");
    }
}

#[test]
fn names_of_files() {
    assert_eq!(SlabId(7).file_name(), "slab-0007");
    assert_eq!(SlabId::from_file_name("slab-9999"), Some(SlabId(9999)));
    for bad in ["slab-", "slab-7", "slab-00007", "slab-+007", "slab-000x", "superblock", "slab-0001~"] {
        assert_eq!(SlabId::from_file_name(bad), None, "{bad}");
    }
    assert_eq!(SlabId(9999).next(), None);
}
