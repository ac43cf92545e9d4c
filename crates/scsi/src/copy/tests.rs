//! Third-party copies.

use super::*;
use crate::Status;
use crate::testing::{Bench, Initiator, Memory, identity, poll};
use std::slice::from_ref;

const BLOCK: u64 = 512;

fn target(designator: &[u8]) -> Vec<u8> {
    let mut descriptor = vec![0xe4, 0, 0, 0, 1, 3, 0, designator.len() as u8];
    descriptor.extend_from_slice(designator);
    descriptor.resize(32, 0);
    descriptor
}

fn segment(flags: u8, from: (u16, u64), to: (u16, u64), blocks: u16) -> Vec<u8> {
    let mut descriptor = vec![2, flags, 0, 0x18];
    descriptor.extend(from.0.to_be_bytes());
    descriptor.extend(to.0.to_be_bytes());
    descriptor.extend([0, 0]);
    descriptor.extend(blocks.to_be_bytes());
    descriptor.extend(from.1.to_be_bytes());
    descriptor.extend(to.1.to_be_bytes());
    descriptor
}

fn list(id: u8, usage: u8, targets: &[Vec<u8>], segments: &[Vec<u8>]) -> Vec<u8> {
    let (targets, segments) = (targets.concat(), segments.concat());
    let mut list = vec![id, usage << 3];
    list.extend((targets.len() as u16).to_be_bytes());
    list.extend([0; 4]);
    list.extend((segments.len() as u32).to_be_bytes());
    list.extend([0; 4]);
    [list, targets, segments].concat()
}

fn cdb(list: &[u8]) -> [u8; 16] {
    let len = (list.len() as u32).to_be_bytes();
    [0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, len[0], len[1], len[2], len[3], 0, 0]
}

fn copies(initiator: &Initiator, list: &[u8]) {
    let response = crate::testing::now(initiator.submit(&cdb(list), list));
    assert!(matches!(response, crate::Ended::Response(response) if response.status == Status::Good));
}

fn results(action: u8, id: u8) -> [u8; 16] {
    [0x84, action, id, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]
}

fn filled(bench: &Bench) {
    let mut content = bench.memory.content.borrow_mut();
    for (block, bytes) in content.chunks_mut(BLOCK as usize).enumerate() {
        bytes.fill(block as u8);
    }
    bench.memory.allocated.borrow_mut().fill(true);
}

fn block(memory: &Memory, lba: u64) -> u8 {
    memory.content.borrow()[(lba * BLOCK) as usize]
}

#[test]
fn blocks_are_copied_within_a_disk_even_where_the_ranges_overlap() {
    for (from, to) in [(0u64, 100u64), (100, 0), (10, 15), (15, 10), (7, 7)] {
        let bench = Bench::new();
        filled(&bench);
        let initiator = bench.initiator("iqn.a,i,0x1");
        let own = target(&identity(7).naa());
        copies(&initiator, &list(1, 0, &[own], &[segment(2, (0, from), (0, to), 50)]));
        for at in 0..50 {
            assert_eq!(block(&bench.memory, to + at), (from + at) as u8, "{from} {to} {at}");
        }
    }
}

#[test]
fn large_overlapping_copies_go_in_the_right_direction() {
    let bench = Bench::with(Memory::new(8 << 20, 512), Default::default(), &[]);
    for (lba, bytes) in bench.memory.content.borrow_mut().chunks_mut(512).enumerate() {
        bytes[..4].copy_from_slice(&(lba as u32).to_le_bytes());
    }
    let initiator = bench.initiator("iqn.a,i,0x1");
    let own = target(&identity(7).naa());
    let number =
        |lba: usize| u32::from_le_bytes(bench.memory.content.borrow()[lba * 512..][..4].try_into().expect("four"));
    copies(&initiator, &list(1, 0, from_ref(&own), &[segment(2, (0, 0), (0, 1000), 10000)]));
    assert!((0..10000).all(|at| number(1000 + at) == at as u32));
    copies(&initiator, &list(1, 0, &[own], &[segment(2, (0, 1000), (0, 10), 10000)]));
    assert!((0..10000).all(|at| number(10 + at) == at as u32));
}

/// Blocks of 4 KiB that fall on such blocks; the edges, and all that does not, are read and written.
#[test]
fn whole_blocks_are_shared_by_those_that_can_and_moved_by_others() {
    const LBAS: usize = 48 << 11;
    // From, to, and where what is shared begins, in sectors.
    for (from, to, shared) in [(3u64, 1003u64, Some(8u64)), (1003, 3, Some(1008)), (0, 4096, Some(0)), (0, 1001, None)]
    {
        for lends in [true, false] {
            let bench = Bench::with(Memory::new(LBAS * 512, 512), Default::default(), &[]);
            bench.memory.lends.set(lends);
            for (lba, bytes) in bench.memory.content.borrow_mut().chunks_mut(512).enumerate() {
                bytes[..4].copy_from_slice(&(lba as u32).to_le_bytes());
            }
            let initiator = bench.initiator("iqn.a,i,0x1");
            let own = target(&identity(7).naa());
            copies(&initiator, &list(1, 0, &[own], &[segment(2, (0, from), (0, to), 0xfff1)]));
            let content = bench.memory.content.borrow();
            let number = |lba: u64| u32::from_le_bytes(content[lba as usize * 512..][..4].try_into().expect("four"));
            assert!((0..0xfff1).all(|at| u64::from(number(to + at)) == from + at), "{from} {to} {lends}");
            let mut lent = bench.memory.lent.borrow().clone();
            lent.sort_unstable();
            let Some(shared) = shared.filter(|_| lends) else {
                assert_eq!(lent, []);
                continue;
            };
            let whole = (0xfff1 - (shared - from)) / 8 * 8 * 512;
            let first = shared * 512;
            let pieces = [(first, 16 << 20), (first + (16 << 20), (whole - (16 << 20)) as u32)];
            assert_eq!(lent, pieces, "{from} {to}");
            assert_eq!(bench.memory.taken.borrow().len(), 2);
            let moved =
                bench.memory.requests.borrow().iter().filter(|r| matches!(r, block::Request::Write { .. })).count();
            assert!(moved <= 2, "{moved} writes");
        }
    }
}

#[test]
fn blocks_are_copied_between_disks_and_holes_stay_holes() {
    let bench = Bench::new();
    let other = Memory::new(1 << 20, 4096);
    other.content.borrow_mut()[..4096].fill(0xee);
    bench.keeper.others.borrow_mut().push((identity(9), other.clone()));
    let initiator = bench.initiator("iqn.a,i,0x1");
    let targets = [target(&identity(7).naa()), target(&identity(9).t10().as_bytes()[..20])];
    assert_eq!(
        initiator.codes(
            &cdb(&list(1, 0, &targets, &[segment(0, (0, 0), (1, 0), 8)])),
            &list(1, 0, &targets, &[segment(0, (0, 0), (1, 0), 8)])
        ),
        (0xa, 0x0d, 2),
        "a designator cut short names nobody"
    );
    let targets = [target(&identity(7).naa()), target(&identity(9).naa())];
    filled(&bench);
    // DC: two blocks of the destination are sixteen of the source.
    copies(&initiator, &list(1, 0, &targets, &[segment(2, (0, 16), (1, 3), 2)]));
    assert_eq!(other.content.borrow()[3 * 4096..5 * 4096], bench.memory.content.borrow()[16 * 512..32 * 512]);
    copies(&initiator, &list(1, 0, &targets, &[segment(0, (1, 0), (0, 40), 1)]));
    assert_eq!((block(&bench.memory, 40), block(&bench.memory, 47), block(&bench.memory, 48)), (0xee, 0xee, 48));
    // Eight blocks of 512 are one of 4096; seven are none.
    let odd = list(1, 0, &targets, &[segment(0, (0, 0), (1, 0), 7)]);
    assert_eq!(initiator.codes(&cdb(&odd), &odd), (0xa, 0, 0));
}

#[test]
fn lists_that_are_wrong() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    let own = target(&identity(7).naa());
    let good = segment(2, (0, 0), (0, 100), 10);
    let mut inline = list(1, 0, from_ref(&own), from_ref(&good));
    inline[15] = 1;
    let mut alien = own.clone();
    alien[0] = 0xe0;
    let mut stream = good.clone();
    stream[0] = 3;
    let mut long = good.clone();
    long[3] = 0x19;
    let table = [
        (list(1, 0, &vec![own.clone(); 17], from_ref(&good)), (5, 0x26, 6)),
        (list(1, 0, from_ref(&own), &vec![good.clone(); 257]), (5, 0x26, 8)),
        (list(1, 0, &vec![own.clone(); 17], &vec![good.clone(); 280]), (5, 0x1a, 0)),
        (list(1, 0, &[alien], from_ref(&good)), (5, 0x26, 7)),
        (list(1, 0, from_ref(&own), &[stream]), (5, 0x26, 9)),
        (list(1, 0, from_ref(&own), &[long]), (5, 0x26, 0)),
        (list(1, 3, from_ref(&own), from_ref(&good)), (5, 0x26, 0)),
        (inline, (5, 0x26, 0x0b)),
        (list(1, 0, from_ref(&own), from_ref(&good))[..70].to_vec(), (5, 0x1a, 0)),
        (vec![0; 15], (5, 0x1a, 0)),
        (list(1, 0, from_ref(&own), &[segment(2, (0, 0), (1, 0), 1)]), (0xa, 0x08, 4)),
        (list(1, 0, from_ref(&own), &[segment(2, (0, 0), (0, 2047), 2)]), (0xa, 0, 0)),
        (list(1, 0, from_ref(&own), &[segment(2, (0, u64::MAX), (0, 0), 2)]), (0xa, 0, 0)),
        (list(1, 0, &[target(&[1; 8])], &[good]), (0xa, 0x0d, 2)),
    ];
    for (list, codes) in table {
        assert_eq!(initiator.codes(&cdb(&list), &list), codes, "{list:02x?}");
    }
    initiator.good(&cdb(&[]), &[]);
    assert_eq!(initiator.codes(&cdb(&[0; 20]), &[0; 16]), (5, 0x1a, 0), "less than was promised");
    assert!(bench.memory.requests.borrow().iter().all(|request| !matches!(request, block::Request::Write { .. })));
}

#[test]
fn results_are_kept_for_the_nexus() {
    let bench = Bench::new();
    filled(&bench);
    let initiator = bench.initiator("iqn.a,i,0x1");
    let other = bench.initiator("iqn.b,i,0x1");
    let own = target(&identity(7).naa());
    assert_eq!(initiator.codes(&results(0, 5), &[]), (5, 0x24, 0));
    let segments = [segment(2, (0, 0), (0, 100), 10), segment(2, (0, 0), (0, 200), 6)];
    copies(&initiator, &list(5, 0, from_ref(&own), &segments));
    assert_eq!(initiator.good(&results(0, 5), &[]), [0, 0, 0, 8, 1, 0, 2, 0, 0, 0, 0x20, 0]);
    assert_eq!(other.codes(&results(0, 5), &[]), (5, 0x24, 0), "its own lists only");
    let wrong = list(6, 0, from_ref(&own), &[segments[0].clone(), segment(2, (0, 0), (0, 2047), 2)]);
    let sense = initiator.check(&cdb(&wrong), &wrong);
    assert_eq!(sense.bytes[8..12], [0, 0, 0, 1], "the second segment");
    assert_eq!(initiator.good(&results(0, 6), &[])[4..7], [2, 0, 1]);
    let details = initiator.good(&results(4, 6), &[]);
    assert_eq!((&details[56..60], &details[60..]), (&[2, 0, 0, 18][..], &sense.bytes[..]));
    assert_eq!(initiator.good(&results(4, 5), &[]), [0; 4]);
    assert_eq!(initiator.good(&results(1, 5), &[]), [0; 4]);
    let limits = initiator.good(&results(3, 0), &[]);
    assert_eq!(limits.len(), usize::from(limits[3]) + 4);
    assert_eq!((&limits[8..12], limits[37], &limits[43..]), (&[0, 16, 1, 0][..], 9, &[2, 2, 0xe4][..]));
    // LIST ID USAGE 11b: nothing is remembered.
    copies(&initiator, &list(0, 3, &[own], &segments));
    assert_eq!(initiator.codes(&results(0, 0), &[]), (5, 0x24, 0));
    drop(initiator);
    let again = bench.initiator("iqn.a,i,0x1");
    assert_eq!(again.codes(&results(0, 5), &[]), (5, 0x24, 0), "forgotten with the nexus");
}

#[test]
fn copies_under_way_are_counted_and_can_be_aborted() {
    let bench = Bench::new();
    filled(&bench);
    let initiator = bench.initiator("iqn.a,i,0x1");
    let own = target(&identity(7).naa());
    let one = |id: u8| list(id, 0, from_ref(&own), &[segment(2, (0, 0), (0, 100), 10)]);
    bench.memory.held.set(true);
    let mut running: Vec<_> = (0..COPIES_MAX as u8).map(|id| initiator.submit(&cdb(&one(id)), &one(id))).collect();
    running.iter_mut().for_each(|run| assert!(poll(run).is_pending()));
    assert_eq!(initiator.codes(&cdb(&one(0)), &one(0)), (5, 0x00, 0x16));
    assert_eq!(initiator.codes(&cdb(&one(99)), &one(99)), (5, 0x55, 3));
    assert_eq!(initiator.good(&results(0, 0), &[])[4], 0, "in progress");
    let mut abort = initiator.nexus.manage(crate::Function::AbortTaskSet, crate::testing::LUN0);
    assert!(poll(&mut abort).is_pending());
    for run in &mut running {
        bench.memory.release();
        assert!(poll(run).is_ready());
    }
    assert!(poll(&mut abort).is_ready());
    assert_eq!(bench.unit.copies.get(), 0);
    assert_eq!(block(&bench.memory, 100), 100, "nothing was written after the abort");
    assert_eq!(initiator.good(&results(0, 0), &[])[4], 2);
}

#[test]
fn a_disk_that_the_initiator_may_not_use_is_out_of_reach() {
    let bench = Bench::new();
    filled(&bench);
    let other = Memory::new(1 << 20, 512);
    bench.keeper.others.borrow_mut().push((identity(9), other.clone()));
    bench.keeper.strangers.borrow_mut().push("iqn.a,i,0x1".to_string());
    let (initiator, friend) = (bench.initiator("iqn.a,i,0x1"), bench.initiator("iqn.b,i,0x1"));
    let targets = [target(&identity(7).naa()), target(&identity(9).naa())];
    for (from, to) in [((0, 1), (1, 0)), ((1, 0), (0, 1))] {
        let list = list(1, 0, &targets, &[segment(0, from, to, 8)]);
        assert_eq!(initiator.codes(&cdb(&list), &list), (0xa, 0x0d, 2));
    }
    assert!(other.requests.borrow().is_empty());
    copies(&friend, &list(1, 0, &targets, &[segment(0, (0, 1), (1, 0), 8)]));
    assert_eq!(block(&other, 0), 1);
}

#[test]
fn ranges_overlap_whatever_the_disk_is_called() {
    let bench = Bench::with(Memory::new(8 << 20, 512), Default::default(), &[]);
    let initiator = bench.initiator("iqn.a,i,0x1");
    let far = Memory::new(8 << 20, 512);
    for (lba, bytes) in far.content.borrow_mut().chunks_mut(512).enumerate() {
        bytes[..4].copy_from_slice(&(lba as u32).to_le_bytes());
    }
    bench.keeper.others.borrow_mut().extend([(identity(9), far.clone()), (identity(10), far.clone())]);
    let names = [target(&identity(9).naa()), target(&identity(10).naa())];
    copies(&initiator, &list(1, 0, &names, &[segment(2, (0, 0), (1, 1000), 10000)]));
    let number = |lba: usize| u32::from_le_bytes(far.content.borrow()[lba * 512..][..4].try_into().expect("four"));
    assert!((0..10000).all(|at| number(1000 + at) == at as u32));
}
