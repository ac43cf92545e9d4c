//! GET LBA STATUS.

use crate::testing::Bench;

fn status(lba: u32, len: u32) -> [u8; 16] {
    let (lba, len) = (lba.to_be_bytes(), len.to_be_bytes());
    [0x9e, 0x12, 0, 0, 0, 0, lba[0], lba[1], lba[2], lba[3], len[0], len[1], len[2], len[3], 0, 0]
}

fn runs(data: &[u8]) -> Vec<(u64, u32, u8)> {
    let run = |run: &[u8]| {
        let lba = u64::from_be_bytes(run[..8].try_into().expect("eight bytes"));
        (lba, u32::from_be_bytes(run[8..12].try_into().expect("four bytes")), run[12])
    };
    assert_eq!(u32::from_be_bytes(data[..4].try_into().expect("four bytes")) as usize, data.len() - 4);
    data[8..].chunks(16).map(run).collect()
}

#[test]
fn runs_cover_the_medium_in_order() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    assert_eq!(runs(&initiator.good(&status(0, 256), &[])), [(0, 2048, 1)]);
    initiator.good(&[0x2a, 0, 0, 0, 0, 16, 0, 0, 16, 0], &[1; 8192]);
    assert_eq!(runs(&initiator.good(&status(0, 256), &[])), [(0, 16, 1), (16, 16, 0), (32, 2016, 1)]);
    assert_eq!(runs(&initiator.good(&status(19, 24), &[])), [(19, 13, 0)], "room for one");
    assert_eq!(runs(&initiator.good(&status(19, 55), &[])), [(19, 13, 0), (32, 2016, 1)]);
    assert_eq!(initiator.good(&status(19, 10), &[]).len(), 10);
    assert_eq!(initiator.codes(&status(2048, 24), &[]), (5, 0x21, 0));
}
