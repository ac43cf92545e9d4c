//! Numbers of as many bytes as they need: seven bits a byte, the least first; all bytes but the last have their highest bit set.

/// Of 64 bits.
pub const BYTES_MAX: usize = 10;

pub fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// From the front. `None`: the bytes end before the number does, it has more than 64 bits, or it is longer than it need be.
pub fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for at in 0..BYTES_MAX {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let (bits, shift) = (u64::from(byte & 0x7f), 7 * at);
        // Of the tenth byte one bit is left.
        if bits << shift >> shift != bits {
            return None;
        }
        number |= bits << shift;
        if byte < 0x80 {
            return (byte > 0 || at == 0).then_some(number);
        }
    }
    None
}

/// A difference, so that those near zero are short: its sign in the lowest bit.
pub fn of_signed(difference: i64) -> u64 {
    ((difference << 1) ^ (difference >> 63)) as u64
}

/// The other way round.
pub fn to_signed(number: u64) -> i64 {
    ((number >> 1) ^ (number & 1).wrapping_neg()) as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes_of(number: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        put(&mut bytes, number);
        bytes
    }

    #[test]
    fn golden_bytes_and_no_other_form() {
        let check = |number: u64, bytes: &[u8]| {
            assert_eq!(bytes_of(number), bytes);
            assert_eq!(take(&mut &*bytes), Some(number));
        };
        check(0, &[0]);
        check(127, &[127]);
        check(128, &[0x80, 1]);
        check(300, &[0xac, 2]);
        check(u64::MAX, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]);
        let refused: [&[u8]; 6] = [
            &[],
            &[0x80],
            &[0x80, 0],
            &[0xac, 0x82, 0],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x81, 0],
        ];
        refused.into_iter().for_each(|mut bytes| assert_eq!(take(&mut bytes), None, "{bytes:?}"));
        let signed = [(0, 0), (-1, 1), (1, 2), (-2, 3), (i64::MAX, u64::MAX - 1), (i64::MIN, u64::MAX)];
        signed.into_iter().for_each(|(signed, number)| {
            assert_eq!((of_signed(signed), to_signed(number)), (number, signed));
        });
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_to_the_same_bytes(bytes in prop::collection::vec(any::<u8>(), 0..12), shift in 0..64, number: u64) {
            let mut rest = &bytes[..];
            if let Some(number) = take(&mut rest) {
                prop_assert_eq!(bytes_of(number), &bytes[..bytes.len() - rest.len()]);
            }
            let number = number >> shift;
            prop_assert_eq!(take(&mut &*bytes_of(number)), Some(number));
            prop_assert_eq!(to_signed(of_signed(number as i64)), number as i64);
        }
    }
}
