//! COMPARE AND WRITE, ORWRITE, WRITE ATOMIC.

use crate::testing::Bench;

#[test]
fn compare_and_write_writes_only_where_it_finds_what_it_expects() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    let cdb = [0x89, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0];
    initiator.good(&cdb, &[[0; 1024], [1; 1024]].concat());
    assert_eq!(bench.memory.content.borrow()[1024..2048], [1; 1024]);
    let mut data = [[1; 1024], [2; 1024]].concat();
    data[700] = 0;
    let sense = initiator.check(&cdb, &data);
    assert_eq!((sense.key as u8, sense.asc), (0xe, 0x1d));
    assert_eq!((sense.bytes[0], &sense.bytes[3..7]), (0xf0, &700u32.to_be_bytes()[..]));
    assert_eq!(bench.memory.content.borrow()[1024..2048], [1; 1024]);
    for len in [1024, 4096] {
        assert_eq!(initiator.codes(&cdb, &vec![1; len]), (5, 0x24, 0), "{len} bytes for two blocks twice");
    }
    assert_eq!(initiator.codes(&[0x89, 0, 0, 0, 0, 0, 0, 0, 7, 0xff, 0, 0, 0, 2, 0, 0], &[0; 2048]), (5, 0x21, 0));
    initiator.good(&[0x89, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0], &[]);
}

#[test]
fn orwrite_sets_bits() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    let cdb = [0x8b, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0];
    initiator.good(&cdb, &[0xa5; 512]);
    initiator.good(&cdb, &[0x5a; 512]);
    assert_eq!(bench.memory.content.borrow()[512..1024], [0xff; 512]);
    assert_eq!(initiator.codes(&cdb, &[1; 256]), (5, 0x0e, 3));
}

#[test]
fn an_orwrite_that_the_device_does_not_do_at_once_goes_in_pieces() {
    let bench = Bench::new();
    let mut geometry = bench.memory.geometry.get();
    geometry.atomic_bytes_max = 4096;
    bench.memory.geometry.set(geometry);
    let initiator = bench.initiator("iqn.a,i,0x1");
    initiator.good(&[0x8b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 17, 0, 0], &[3; 17 * 512]);
    assert_eq!(bench.memory.requests.borrow().len(), 3);
    assert_eq!(bench.memory.content.borrow()[..18 * 512], [vec![3; 17 * 512], vec![0; 512]].concat());
    assert_eq!(initiator.codes(&[0x89, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0], &[0; 18 * 512]), (5, 0x24, 0));
}

#[test]
fn an_atomic_write_is_of_whole_blocks_up_to_the_limit() {
    let bench = Bench::new();
    let mut geometry = bench.memory.geometry.get();
    geometry.atomic_bytes_max = 8192;
    bench.memory.geometry.set(geometry);
    let initiator = bench.initiator("iqn.a,i,0x1");
    let write = |lba: u8, blocks: u8| [0x9c, 0, 0, 0, 0, 0, 0, 0, 0, lba, 0, 0, 0, blocks, 0, 0];
    initiator.good(&write(8, 16), &[1; 16 * 512]);
    initiator.good(&write(1, 0), &[]);
    for (lba, blocks, byte) in [(0, 24, 12), (0, 4, 12), (4, 8, 2)] {
        let sense = initiator.check(&write(lba, blocks), &vec![0; usize::from(blocks) * 512]);
        assert_eq!((sense.asc, &sense.bytes[15..18]), (0x24, &[0xc0, 0, byte][..]), "{lba} {blocks}");
    }
    assert_eq!(initiator.codes(&[0x9c, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 8, 0, 0], &[0; 4096]), (5, 0x24, 0));
    assert_eq!(initiator.codes(&write(8, 8), &[0; 2048]), (5, 0x0e, 3), "all of it or nothing");
    let limits = initiator.good(&[0x12, 1, 0xb0, 0, 64, 0], &[]);
    assert_eq!(limits[44..56], [0, 0, 0, 16, 0, 0, 0, 8, 0, 0, 0, 8]);
}
