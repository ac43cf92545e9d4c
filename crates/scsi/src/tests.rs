//! The way of a command, from the nexus to the device.

use crate::testing::Bench;

#[test]
fn the_commands_of_every_login_are_answered() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    assert_eq!(initiator.good(&[0; 6], &[]), b"");
    let inquiry = initiator.good(&[0x12, 0, 0, 0, 255, 0], &[]);
    assert_eq!(&inquiry[8..32], b"DRYSTONEvDisk           ");
    assert_eq!(inquiry.len(), usize::from(inquiry[4]) + 5);
    let pages = initiator.good(&[0x12, 1, 0, 0, 255, 0], &[]);
    for page in &pages[4..] {
        let data = initiator.good(&[0x12, 1, *page, 0, 255, 0], &[]);
        assert_eq!(data[1], *page);
        assert_eq!(data.len(), usize::from(data[3]) + 4, "page {page:02x}");
    }
    assert_eq!(initiator.good(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]), [0, 0, 7, 0xff, 0, 0, 2, 0]);
    assert_eq!(initiator.good(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0], &[])[..4], [0, 0, 0, 8]);
    initiator.good(&[0x1a, 0, 0x3f, 0, 255, 0], &[]);
    let data = [0xa5; 1024];
    initiator.good(&[0x2a, 0, 0, 0, 0, 8, 0, 0, 2, 0], &data);
    assert_eq!(initiator.good(&[0x28, 0, 0, 0, 0, 8, 0, 0, 2, 0], &[]), data);
    initiator.good(&[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]);
    assert_eq!(initiator.codes(&[0x28, 0, 0, 0, 8, 0, 0, 0, 1, 0], &[]), (5, 0x21, 0));
}
