//! Any bytes as a frame header or a control record: no panic; what is accepted is written back to the same bytes, or, if that is a
//! long list of an older build, in the short form, to the same content.
#![no_main]

use drystone_fuzz::bounded;
use libfuzzer_sys::fuzz_target;
use vdisk::log::Record;
use vdisk::log::frame::{self, NotAFrame};

/// The header with a checksum that is right, so that the fuzzer gets behind it.
fn with_checksum(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = bytes.to_vec();
    bytes.get_mut(..4)?.copy_from_slice(b"DSFR");
    let len = bytes.len() / 16 * 16;
    bytes.get_mut(12..16)?.copy_from_slice(&(len as u32).to_le_bytes());
    bytes.get_mut(8..12)?.fill(0);
    let crc = base::crc::crc32c(bytes.get(..len)?);
    bytes.get_mut(8..12)?.copy_from_slice(&crc.to_le_bytes());
    Some(bytes)
}

fuzz_target!(|input: &[u8]| bounded(input, one));

fn one(bytes: &[u8]) {
    if let Ok(record) = Record::decode(bytes) {
        let again = record.encode();
        if again != bytes {
            let is_short = [(1, 5), (6, 6), (10, 3), (14, 3)].contains(&(again[0], again[1]));
            assert!(is_short && again[0] == bytes[0] && again[1] > bytes[1], "{:?} {:?}", &bytes[..2], &again[..2]);
            assert_eq!(Record::decode(&again).as_ref(), Ok(&record));
        }
    }
    let _ = frame::decode(bytes);
    let Some(bytes) = with_checksum(bytes) else { return };
    match frame::decode(&bytes) {
        Ok(mut frame) => {
            let read = frame.clone();
            let again = frame::encode(&mut frame);
            assert!(again.len() <= bytes.len());
            let mut reread = frame::decode(&again).expect("what was written is read");
            reread.crc = read.crc;
            assert_eq!(reread, read);
            for run in &read.runs {
                assert!(run.crc_count() == 0 || run.payload_offset + run.payload_len <= read.len);
            }
        }
        Err(NotAFrame::Incomplete(len)) => assert!(len > bytes.len()),
        Err(_) => {}
    }
}
