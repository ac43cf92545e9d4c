//! Files against what was put into them: whole, damaged at every byte, cut at every length, in every wrong order.

use super::*;
use proptest::prelude::*;

const SIZE: u64 = 64 * UNIT;

fn point(number: u64, name: &str) -> Point {
    Point { id: format!("s1.{number}"), name: name.into(), created_unix_ms: 1000 + number, size_bytes: SIZE }
}

fn header(from: Option<Point>, to: Point) -> Header {
    let vdisk = Identity { id: "v1.7".into(), name: "web".into(), created_unix_ms: 500 };
    Header { vdisk, sector_bytes: 512, from, to, made_unix_ms: 2000 }
}

fn incremental() -> Header {
    header(Some(point(1, "monday")), point(2, "tuesday"))
}

fn file(header: &Header, records: &[(u64, Option<u8>)]) -> Vec<u8> {
    let mut writer = Writer::begin(Vec::new(), header).expect("memory");
    for (block, byte) in records {
        match byte {
            Some(byte) => writer.data(block * UNIT, &vec![*byte; UNIT as usize]),
            None => writer.zeros(block * UNIT, UNIT),
        }
        .expect("memory");
    }
    writer.finish().expect("memory").0
}

fn records(bytes: &[u8]) -> Result<Vec<(u64, Option<u8>)>> {
    let mut reader = Reader::open(bytes)?;
    let mut found = Vec::new();
    while let Some(read) = reader.next()? {
        found.push(match read {
            Read::Data { offset, bytes } => {
                assert!(bytes.iter().all(|byte| *byte == bytes[0]) && bytes.len() as u64 == UNIT);
                (offset / UNIT, Some(bytes[0]))
            }
            Read::Zeros { offset, len } => {
                assert_eq!(len, UNIT);
                (offset / UNIT, None)
            }
        });
    }
    Ok(found)
}

#[test]
fn what_was_written_is_read() {
    let all = [(0, Some(1)), (1, None), (9, Some(2)), (63, None)];
    let bytes = file(&incremental(), &all);
    assert_eq!(records(&bytes).expect("sound"), all);
    let verified = verify(bytes.as_slice()).expect("sound");
    let summary = Summary { records: 4, data_bytes: 2 * UNIT, zero_bytes: 2 * UNIT, file_bytes: bytes.len() as u64 };
    assert_eq!((verified.header, verified.summary), (incremental(), summary));
    let full = file(&header(None, point(1, "monday")), &all);
    assert_eq!(records(&full).expect("sound"), [(0, Some(1)), (9, Some(2))], "a full backup names no zeros");
}

/// The bytes as docs/format.md has them.
#[test]
fn golden_bytes() {
    let bytes = file(&incremental(), &[(2, None)]);
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let texts = |texts: &[&str]| -> String {
        let one = |text: &&str| {
            let len = format!("{:02x}00", text.len());
            len + &text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>()
        };
        texts.iter().map(one).collect()
    };
    let size = "0000040000000000";
    let expect = [
        "4452594241434b50", // DRYBACKP
        "01000000",
        "74000000",
        "d007000000000000",
        "00020000",
        "01000000",
        &texts(&["v1.7", "web"]),
        "f401000000000000",
        &texts(&["s1.2", "tuesday"]),
        "ea03000000000000",
        size,
        &texts(&["s1.1", "monday"]),
        "e903000000000000",
        size,
    ]
    .concat();
    assert!(hex.starts_with(&expect), "{hex}");
    let rest = &hex[expect.len() + 8..];
    assert!(rest.starts_with("020000000000000000200000000000000010000000000000" /* zeros */), "{rest}");
    assert!(rest[64..].starts_with("030000000000000001000000000000000000000000000000" /* end */), "{rest}");
    assert_eq!(rest.len(), 2 * (32 + 32 + 32));
}

#[test]
fn every_flipped_bit_is_found() {
    let bytes = file(&incremental(), &[(0, Some(1)), (1, None)]);
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        assert!(verify(damaged.as_slice()).is_err(), "a bit of byte {at}");
    }
}

#[test]
fn every_cut_is_found() {
    let bytes = file(&incremental(), &[(0, Some(1)), (1, None)]);
    for len in 0..bytes.len() {
        let error = verify(&bytes[..len]).expect_err("cut");
        let expected = matches!(error, Error::Truncated { at } if at == len as u64);
        assert!(expected || (len == 0 && matches!(error, Error::Foreign)), "cut to {len}: {error}");
    }
    let mut longer = bytes;
    longer.push(0);
    assert!(verify(longer.as_slice()).is_err(), "something behind the end");
}

#[test]
fn records_that_are_missing_twice_or_elsewhere_are_found() {
    let header = incremental();
    let bytes = file(&header, &[(1, Some(1)), (2, Some(1)), (3, Some(1))]);
    let (start, record) = (header.encode().len(), 32 + UNIT as usize);
    let part = |number: usize| &bytes[start + number * record..start + (number + 1) * record];
    let (head, end) = (&bytes[..start], &bytes[start + 3 * record..]);
    assert!(verify([head, part(0), part(1), part(2), end].concat().as_slice()).is_ok());
    for order in [&[0, 2][..], &[1, 0, 2], &[0, 1, 1, 2], &[0, 2, 1], &[1, 2], &[0, 1]] {
        let parts: Vec<&[u8]> = order.iter().map(|number| part(*number)).collect();
        let bytes = [&[head], parts.as_slice(), &[end]].concat().concat();
        assert!(verify(bytes.as_slice()).is_err(), "{order:?}");
    }
    // The records of another file behind this header.
    let other = file(&super::tests::header(Some(point(2, "tuesday")), point(3, "friday")), &[(1, Some(1))]);
    assert!(verify([head, &other[start + "friday".len() - "monday".len()..]].concat().as_slice()).is_err());
}

#[test]
fn files_of_others_are_told_apart() {
    assert!(matches!(verify(&b"QFI\xfb\0\0\0\x03 and more than sixteen bytes"[..]), Err(Error::Foreign)));
    let mut newer = file(&incremental(), &[]);
    newer[8] = 2;
    assert!(matches!(verify(newer.as_slice()), Err(Error::Version(2))));
}

#[test]
fn chains() {
    let full = header(None, point(1, "a"));
    let next = |from: u64, to: u64| header(Some(point(from, "x")), point(to, "y"));
    let check = |files: &[&Header]| check_chain(files).map_err(|error| error.file());
    assert_eq!(check(&[&full]), Ok(()));
    assert_eq!(check(&[&full, &next(1, 2), &next(2, 3)]), Ok(()), "names do not matter");
    assert_eq!(check(&[]), Err(None));
    assert_eq!(check(&[&next(1, 2)]), Err(Some(0)));
    assert_eq!(check(&[&full, &full]), Err(Some(1)));
    assert_eq!(check(&[&full, &next(2, 3), &next(1, 2)]), Err(Some(1)), "swapped");
    assert_eq!(check(&[&full, &next(1, 2), &next(3, 4)]), Err(Some(2)), "one is missing");
    let mut other = next(1, 2);
    other.vdisk.created_unix_ms += 1;
    assert_eq!(check(&[&full, &other]), Err(Some(1)), "of another vDisk with the same id");
    let mut later = next(1, 2);
    later.from.as_mut().expect("it has one").created_unix_ms += 1;
    assert_eq!(check(&[&full, &later]), Err(Some(1)), "of another snapshot with the same id");
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0..400usize) {
        prop_assert!(verify(bytes.as_slice()).is_err());
        // Behind a sound beginning too.
        let sound = file(&incremental(), &[(0, None), (3, None)]);
        let mixed = [&sound[..cut.min(sound.len() - 1)], bytes.as_slice()].concat();
        if mixed != sound {
            prop_assert!(verify(mixed.as_slice()).is_err());
        }
    }
}
