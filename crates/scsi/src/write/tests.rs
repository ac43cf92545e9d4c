//! Reads and writes: ranges, flags, and initiators that offer less than they ask to write.

use crate::testing::{Bench, Keeper, Memory};
use block::Request;
use std::rc::Rc;

#[test]
fn each_length_of_cdb_reaches_the_same_blocks() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    let writes: [&[u8]; 4] = [
        &[0x0a, 0, 0, 8, 2, 0],
        &[0x2a, 0, 0, 0, 0, 8, 0, 0, 2, 0],
        &[0xaa, 0, 0, 0, 0, 8, 0, 0, 0, 2, 0, 0],
        &[0x8a, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 2, 0, 0],
    ];
    for (round, write) in writes.into_iter().enumerate() {
        let data = vec![round as u8 + 1; 1024];
        initiator.good(write, &data);
        for other in writes {
            let mut read = other.to_vec();
            read[0] -= 2;
            assert_eq!(initiator.good(&read, &[]), data, "{write:02x?} {read:02x?}");
        }
    }
    // Six bytes: no blocks mean 256.
    assert_eq!(initiator.good(&[0x08, 0, 0, 0, 0, 0], &[]).len(), 256 * 512);
}

#[test]
fn what_is_wrong_with_a_cdb_is_told() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    let blocks = 2048u32.to_be_bytes();
    /// CDB, sense, field pointer bytes.
    type Refused = (Vec<u8>, (u8, u8, u8), [u8; 3]);
    let table: [Refused; 7] = [
        (vec![0x28, 0x20, 0, 0, 0, 0, 0, 0, 1, 0], (5, 0x24, 0), [0xcd, 0, 1]),
        (vec![0x28, 0, 0, 0, 0, 0, 0, 0, 1, 4], (5, 0x24, 0), [0xca, 0, 9]),
        (vec![0x28, 0, blocks[0], blocks[1], blocks[2], blocks[3], 0, 0, 1, 0], (5, 0x21, 0), [0; 3]),
        (vec![0x28, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0], (5, 0x21, 0), [0; 3]),
        (vec![0x88, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 2, 0, 0], (5, 0x21, 0), [0; 3]),
        (vec![0x28, 0, 0, 0, 0, 0, 0, 0], (5, 0x24, 0), [0xc0, 0, 8]),
        (vec![0xff, 0, 0, 0, 0, 0], (5, 0x20, 0), [0; 3]),
    ];
    for (cdb, codes, pointer) in table {
        let sense = initiator.check(&cdb, &[]);
        assert_eq!((sense.key as u8, sense.asc, sense.ascq), codes, "{cdb:02x?}");
        assert_eq!(sense.bytes[15..18], pointer, "{cdb:02x?}");
    }
    // A range of no blocks may begin where the medium ends, and moves nothing.
    assert_eq!(initiator.good(&[0x28, 0, blocks[0], blocks[1], blocks[2], blocks[3], 0, 0, 0, 0], &[]), b"");
    assert!(bench.memory.requests.borrow().is_empty());
}

#[test]
fn a_transfer_is_at_most_as_long_as_the_limit() {
    let memory = Memory::new(16 << 20, 512);
    let bench = Bench::with(memory, Rc::new(Keeper::default()), &[]);
    let initiator = bench.initiator("iqn.a,i,0x1");
    let read = |blocks: u16| [0x28, 0, 0, 0, 0, 0, 0, blocks.to_be_bytes()[0], blocks.to_be_bytes()[1], 0];
    initiator.good(&read(8192), &[]);
    assert_eq!(initiator.codes(&read(8193), &[]), (5, 0x24, 0));
}

#[test]
fn only_what_was_offered_is_written() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    let write = [0x2a, 0, 0, 0, 0, 0, 0, 0, 2, 0];
    initiator.good(&write, &[]);
    initiator.good(&write, &[7; 512]);
    assert_eq!(initiator.codes(&write, &[9; 700]), (5, 0x0e, 3));
    initiator.good(&write[..], &[7; 512]);
    assert_eq!(bench.memory.content.borrow()[..1024], [[7; 512], [0; 512]].concat());
    // More than the CDB asks for is not taken.
    initiator.good(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[8; 1024]);
    assert_eq!(bench.memory.content.borrow()[..1024], [[8; 512], [0; 512]].concat());
}

#[test]
fn fua_is_obeyed_and_a_write_without_a_cache_has_it() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    let fua = || match bench.memory.requests.borrow().last() {
        Some(Request::Write { fua, .. }) => *fua,
        other => panic!("{other:?}"),
    };
    for (flags, expected) in [(0, false), (0x08, true), (0x10, false)] {
        initiator.good(&[0x2a, flags, 0, 0, 0, 0, 0, 0, 1, 0], &[0; 512]);
        assert_eq!(fua(), expected, "{flags:02x}");
    }
    let mut page = initiator.good(&[0x1a, 0x08, 0x08, 0, 255, 0], &[]);
    page[0] = 0;
    page[2] = 0;
    page[6] = 0;
    initiator.good(&[0x15, 0x10, 0, 0, page.len() as u8, 0], &page);
    initiator.good(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[0; 512]);
    assert!(fua());
}

#[test]
fn a_write_protected_unit_refuses_whatever_writes() {
    let bench = Bench::new();
    let mut geometry = bench.memory.geometry.get();
    geometry.read_only = true;
    bench.memory.geometry.set(geometry);
    let initiator = bench.initiator("iqn.a,i,0x1");
    assert_eq!(initiator.codes(&[0; 6], &[]), (6, 0x2a, 1), "it noticed");
    for entry in crate::table::TABLE.iter().filter(|entry| entry.access == crate::table::Access::Write) {
        // MODE SELECT, START STOP and so on write nothing; neither does a copy to elsewhere, or a flush.
        if matches!(entry.opcode, 0x15 | 0x1d | 0x35 | 0x55 | 0x83 | 0x91) || entry.action == Some(0x1f) {
            continue;
        }
        let mut cdb = vec![0; entry.cdb_bytes()];
        cdb[0] = entry.opcode;
        cdb[1] = entry.action.unwrap_or(0);
        assert_eq!(initiator.codes(&cdb, &[]), (7, 0x27, 0), "{cdb:02x?}");
    }
    assert!(bench.memory.requests.borrow().is_empty());
    assert_eq!(initiator.good(&[0x1a, 0, 0x3f, 0, 4, 0], &[])[2] & 0x80, 0x80);
}
