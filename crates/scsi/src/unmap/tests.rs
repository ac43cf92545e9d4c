//! Tests of UNMAP: what it frees, and which lists are refused.

use crate::testing::Bench;

fn list(descriptors: &[(u64, u32)]) -> Vec<u8> {
    let mut list = Vec::new();
    list.extend((descriptors.len() as u16 * 16 + 6).to_be_bytes());
    list.extend((descriptors.len() as u16 * 16).to_be_bytes());
    list.extend([0; 4]);
    for (lba, blocks) in descriptors {
        list.extend(lba.to_be_bytes());
        list.extend(blocks.to_be_bytes());
        list.extend([0; 4]);
    }
    list
}

fn unmap(list: &[u8]) -> [u8; 10] {
    let [high, low] = (list.len() as u16).to_be_bytes();
    [0x42, 0, 0, 0, 0, 0, 0, high, low, 0]
}

#[test]
fn what_is_unmapped_reads_as_zeros_whatever_its_alignment() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    initiator.good(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 32, 0], &[1; 32 * 512]);
    let ranges = list(&[(3, 1), (4, 2), (16, 8), (0, 0), (2048, 0)]);
    initiator.good(&unmap(&ranges), &ranges);
    for sector in 0..32 {
        let zero = (3..6).contains(&sector) || (16..24).contains(&sector);
        let content = &bench.memory.content.borrow()[sector * 512..][..512];
        assert_eq!(content, [if zero { 0 } else { 1 }; 512], "{sector}");
    }
    let writes = bench.memory.requests.borrow().len() - 1;
    assert_eq!(writes, 2, "neighbours become one request, nothing becomes none");
    assert!(!bench.memory.allocated.borrow()[2]);
}

#[test]
fn a_list_is_carried_out_wholly_or_not_at_all() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    initiator.good(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 32, 0], &[1; 32 * 512]);
    let beyond = list(&[(0, 8), (2047, 2)]);
    assert_eq!(initiator.codes(&unmap(&beyond), &beyond), (5, 0x21, 0));
    let overflow = list(&[(0, 8), (u64::MAX, 2)]);
    assert_eq!(initiator.codes(&unmap(&overflow), &overflow), (5, 0x21, 0));
    let many = list(&[(0, 1); 256]);
    assert_eq!(initiator.codes(&unmap(&many), &many), (5, 0x26, 0));
    let good = list(&[(0, 8)]);
    assert_eq!(initiator.codes(&unmap(&good), &good[..20]), (5, 0x1a, 0), "less than was promised");
    assert_eq!(initiator.codes(&unmap(&good[..4]), &good[..4]), (5, 0x1a, 0), "shorter than its header");
    assert_eq!(initiator.codes(&[0x42, 1, 0, 0, 0, 0, 0, 0, 24, 0], &good), (5, 0x24, 0), "ANCHOR");
    assert_eq!(bench.memory.content.borrow()[..32 * 512], [1; 32 * 512]);
    initiator.good(&[0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]);
    // A descriptor that is there in part is left out.
    initiator.good(&unmap(&good[..20]), &good[..20]);
    assert_eq!(bench.memory.content.borrow()[..32 * 512], [1; 32 * 512]);
}
