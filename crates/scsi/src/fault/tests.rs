//! What each kind of error of the device is called.

use super::*;
use crate::testing::Bench;

#[test]
fn every_kind_has_its_words() {
    let table = [
        (Kind::Invalid, (5, 0x24, 0x00)),
        (Kind::Corrupt, (3, 0x11, 0x00)),
        (Kind::Io, (4, 0x44, 0x00)),
        (Kind::Full, (7, 0x27, 0x07)),
        (Kind::ReadOnly, (7, 0x27, 0x00)),
        (Kind::Unavailable, (2, 0x04, 0x01)),
        (Kind::Fenced, (2, 0x04, 0x0c)),
        (Kind::Miscompare, (0xe, 0x1d, 0x00)),
        (Kind::Unsupported, (5, 0x20, 0x00)),
    ];
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    for (kind, codes) in table {
        *bench.memory.fails.borrow_mut() = Some(Error::new(kind, "it fails").at(10 * 512 + 7));
        assert_eq!(initiator.codes(&[0x28, 0, 0, 0, 0, 8, 0, 0, 4, 0], &[]), codes, "{kind:?}");
    }
}

#[test]
fn the_address_is_told() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    let information = |error: Error| {
        *bench.memory.fails.borrow_mut() = Some(error);
        let sense = initiator.check(&[0x28, 0, 0, 0, 0, 8, 0, 0, 4, 0], &[]).bytes;
        (sense[0] & 0x80 != 0).then(|| u32::from_be_bytes([sense[3], sense[4], sense[5], sense[6]]))
    };
    assert_eq!(information(Error::new(Kind::Corrupt, "rot").at(10 * 512 + 7)), Some(10));
    assert_eq!(information(Error::new(Kind::Corrupt, "rot")), Some(8), "where the request began");
    assert_eq!(information(Error::new(Kind::Full, "full").at(10 * 512)), None);
}
