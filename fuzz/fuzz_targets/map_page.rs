//! Any bytes as a map page: no panic; what is accepted is written back to the same bytes, entry by entry.
#![no_main]

use drystone_fuzz::bounded;
use libfuzzer_sys::fuzz_target;
use vdisk::map::{FANOUT, PAGE_LEN, address_at, decode_page, encode_page};

fuzz_target!(|input: &[u8]| bounded(input, one));

fn one(bytes: &[u8]) {
    let mut page = bytes.to_vec();
    let _ = decode_page(&page);
    page.resize(PAGE_LEN, 0);
    match decode_page(&page) {
        Ok(entries) => {
            assert_eq!(encode_page(entries.iter().copied()), page);
            for (index, entry) in entries.iter().enumerate() {
                assert_eq!(address_at(&page, index), Some(*entry));
            }
        }
        Err(_) => assert!((0..FANOUT).any(|index| address_at(&page, index).is_none())),
    }
}
