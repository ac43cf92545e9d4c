//! Logical unit numbers, there and back.

use super::*;

#[test]
fn numbers_travel_both_ways() {
    for lun in [0, 1, 255, 256, 0x1234, LUN_MAX] {
        assert_eq!(decode(encode(lun)), Some(lun));
    }
    assert_eq!(encode(1), [0, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(encode(256), [0x41, 0, 0, 0, 0, 0, 0, 0]);
    // Flat space addressing of a small number is another way to write it.
    assert_eq!(decode([0x40, 1, 0, 0, 0, 0, 0, 0]), Some(1));
    for wrong in
        [[1, 0, 0, 0, 0, 0, 0, 0], [0x80, 0, 0, 0, 0, 0, 0, 0], [0xc1, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0, 0]]
    {
        assert_eq!(decode(wrong), None, "{wrong:02x?}");
    }
}
