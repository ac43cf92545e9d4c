//! Any bytes as a backup file: no panic, no more memory than one record, and what is read is what proving it counts.
#![no_main]

use backup::{DATA_BYTES_MAX, Read, Reader, verify};
use drystone_fuzz::bounded;
use libfuzzer_sys::fuzz_target;

/// Records of `bytes`, with heads and checksums made right, so that what is behind them is reached: whole files are made of
/// what the fuzzer says.
fn made(bytes: &[u8]) -> Vec<u8> {
    let point =
        |id: &str| backup::Point { id: id.into(), name: "n".into(), created_unix_ms: 1, size_bytes: 64 * backup::UNIT };
    let header = backup::Header {
        vdisk: backup::Identity { id: "v1.1".into(), name: "web".into(), created_unix_ms: 1 },
        sector_bytes: 512,
        from: Some(point("s1.1")),
        to: point("s1.2"),
        made_unix_ms: 1,
    };
    let mut writer = backup::Writer::begin(Vec::new(), &header).expect("memory");
    let mut block = 0;
    for byte in bytes.iter().take(64) {
        block += u64::from(byte & 3);
        if block >= 64 {
            break;
        }
        let (offset, len) = (block * backup::UNIT, backup::UNIT);
        let put = match byte & 4 {
            0 => writer.zeros(offset, len),
            _ => writer.data(offset, &vec![*byte; len as usize]),
        };
        put.expect("memory");
        block += 1;
    }
    writer.finish().expect("memory").0
}

fn read(bytes: &[u8]) {
    let Ok(mut reader) = Reader::open(bytes) else { return };
    let (mut records, mut data_bytes, mut end) = (0, 0, 0);
    loop {
        match reader.next() {
            Err(_) => return assert!(verify(bytes).is_err()),
            Ok(None) => break,
            Ok(Some(Read::Data { offset, bytes })) => {
                assert!(offset >= end && bytes.len() as u64 <= DATA_BYTES_MAX);
                end = offset + bytes.len() as u64;
                data_bytes += bytes.len() as u64;
            }
            Ok(Some(Read::Zeros { offset, len })) => {
                assert!(offset >= end);
                end = offset + len;
            }
        }
        records += 1;
    }
    let verified = verify(bytes).expect("it was read to its end");
    assert!(end <= verified.header.to.size_bytes);
    assert_eq!((verified.summary.records, verified.summary.data_bytes), (records, data_bytes));
    assert_eq!(verified.summary.file_bytes, bytes.len() as u64);
}

fuzz_target!(|input: &[u8]| bounded(input, one));

fn one(input: &[u8]) {
    read(input);
    let Some(([cut, at, bit], rest)) = input.split_first_chunk::<3>() else { return };
    let whole = made(rest);
    assert!(verify(whole.as_slice()).is_ok());
    // Changed in one place, or continued with what the fuzzer says.
    let mut changed = whole.clone();
    let place = (usize::from(*cut) << 8 | usize::from(*at)) % changed.len();
    changed[place] ^= 1 << (bit % 8);
    assert!(verify(changed.as_slice()).is_err());
    read(&[&whole[..place], rest].concat());
}
