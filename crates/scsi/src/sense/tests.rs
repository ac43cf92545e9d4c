//! Sense data, byte by byte.

use super::*;

#[test]
fn both_formats_carry_the_same() {
    let condition = Condition::cdb_bit(8, 3).information(0x1234).command_specific(5);
    let fixed = condition.encode(Format::Fixed);
    assert_eq!(fixed.bytes, [0xf0, 0, 5, 0, 0, 0x12, 0x34, 10, 0, 0, 0, 5, 0x24, 0, 0, 0xcb, 0, 8]);
    let descriptors = condition.encode(Format::Descriptor);
    let mut expected = vec![0x72, 5, 0x24, 0, 0, 0, 0, 32];
    expected.extend([0, 0x0a, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x12, 0x34]);
    expected.extend([1, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5]);
    expected.extend([2, 6, 0, 0, 0xcb, 0, 8, 0]);
    assert_eq!(descriptors.bytes, expected);
    for sense in [fixed, descriptors] {
        assert_eq!((sense.key, sense.asc, sense.ascq), (Key::IllegalRequest, 0x24, 0));
    }
}

#[test]
fn sense_key_specific_bytes() {
    let table = [
        (Specific::Cdb { byte: 2, bit: None }, [0xc0, 0, 2]),
        (Specific::Cdb { byte: 2, bit: Some(7) }, [0xcf, 0, 2]),
        (Specific::List { byte: 0x102, bit: None }, [0x80, 1, 2]),
        (Specific::List { byte: 1, bit: Some(0) }, [0x88, 0, 1]),
        (Specific::Progress(0x8000), [0x80, 0x80, 0]),
    ];
    for (specific, bytes) in table {
        assert_eq!(specific.encode(), bytes, "{specific:?}");
    }
}

#[test]
fn an_address_that_does_not_fit_is_not_told_in_part() {
    let condition = Condition::new(Key::MediumError, Code::UNRECOVERED_READ).information(1 << 32);
    let fixed = condition.encode(Format::Fixed).bytes;
    assert_eq!((fixed[0], &fixed[3..7]), (0x70, &[0; 4][..]));
    let descriptors = condition.encode(Format::Descriptor).bytes;
    assert_eq!(descriptors[12..20], [0, 0, 0, 1, 0, 0, 0, 0]);
}
