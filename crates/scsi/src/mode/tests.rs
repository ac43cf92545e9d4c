//! MODE SENSE and MODE SELECT.

use crate::testing::{Bench, LUN0, Memory, now};
use crate::{Function, Outcome};
use std::rc::Rc;

#[test]
fn pages_can_be_asked_for_one_by_one_and_all_at_once() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    let all = initiator.good(&[0x1a, 0x08, 0x3f, 0xff, 255, 0], &[]);
    assert_eq!(usize::from(all[0]) + 1, all.len());
    let mut joined = Vec::new();
    for (page, subpage) in [(0x01, 0), (0x02, 0), (0x08, 0), (0x0a, 0), (0x0a, 1), (0x1c, 0)] {
        joined.extend_from_slice(&initiator.good(&[0x1a, 0x08, page, subpage, 255, 0], &[])[4..]);
        let ten = initiator.good(&[0x5a, 0x08, page, subpage, 0, 0, 0, 1, 0, 0], &[]);
        assert_eq!(usize::from(ten[1]) + 2, ten.len());
        assert!(joined.ends_with(&ten[8..]));
    }
    assert_eq!(all[4..], joined);
    assert_eq!(initiator.good(&[0x1a, 0x08, 0x3f, 0, 255, 0], &[]).len(), all.len() - 32, "without subpages");
    for (cdb, codes) in [([0x1a, 0x08, 0x05, 0, 255, 0], (5, 0x24, 0)), ([0x1a, 0x08, 0x0a, 2, 255, 0], (5, 0x24, 0))] {
        assert_eq!(initiator.codes(&cdb, &[]), codes, "{cdb:02x?}");
    }
}

#[test]
fn block_descriptors() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    assert_eq!(initiator.good(&[0x1a, 0, 0x08, 0, 12, 0], &[])[3..12], [8, 0, 0, 8, 0, 0, 0, 2, 0]);
    let long = initiator.good(&[0x5a, 0x10, 0x08, 0, 0, 0, 0, 0, 24, 0], &[]);
    assert_eq!(long[4..24], [1, 0, 0, 16, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
}

#[test]
fn what_can_be_changed_is_what_changeable_says() {
    let bench = Bench::new();
    let (initiator, other) = (bench.initiator("iqn.a,i,0x1"), bench.initiator("iqn.b,i,0x1"));
    for page in [0x08, 0x0a, 0x1c, 0x01, 0x02] {
        let current = initiator.good(&[0x1a, 0x08, page, 0, 255, 0], &[]);
        let changeable = initiator.good(&[0x1a, 0x08, page | 0x40, 0, 255, 0], &[]);
        for byte in 6..current.len() {
            for bit in 0..8 {
                let mut list = current.clone();
                list[0] = 0;
                list[2] = 0;
                list[byte] ^= 1 << bit;
                let select = [0x15, 0x10, 0, 0, list.len() as u8, 0];
                if changeable[byte] & 1 << bit != 0 {
                    initiator.good(&select, &list);
                    assert_eq!(other.codes(&[0; 6], &[]), (6, 0x2a, 1), "the others hear of it");
                    let now = initiator.good(&[0x1a, 0x08, page, 0, 255, 0], &[]);
                    assert_eq!(now[4..], list[4..]);
                    // Back to how it was; the sense format of errors depends on it.
                    list[byte] ^= 1 << bit;
                    initiator.good(&select, &list);
                    assert_eq!(other.codes(&[0; 6], &[]), (6, 0x2a, 1));
                } else {
                    let sense = initiator.check(&select, &list);
                    assert_eq!((sense.asc, sense.bytes[17]), (0x26, byte as u8), "{page:02x} {byte} {bit}");
                    assert_eq!(sense.bytes[15], 0x88 | bit);
                }
            }
        }
    }
}

#[test]
fn d_sense_changes_the_format_of_sense_data() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    let page = |flags| [0, 0, 0, 0, 0x0a, 10, flags, 0x10, 0, 0, 0, 0, 0xff, 0xff, 0, 0];
    assert_eq!(initiator.check(&[0xff; 6], &[]).bytes[0], 0x70);
    initiator.good(&[0x15, 0x10, 0, 0, 16, 0], &page(4));
    assert_eq!(initiator.check(&[0xff; 6], &[]).bytes[0], 0x72);
    initiator.good(&[0x15, 0x10, 0, 0, 16, 0], &page(0));
    assert_eq!(initiator.check(&[0xff; 6], &[]).bytes[0], 0x70);
}

#[test]
fn software_write_protection() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    let page = |flags| [0, 0, 0, 0, 0x0a, 10, 0, 0x10, flags, 0, 0, 0, 0xff, 0xff, 0, 0];
    initiator.good(&[0x15, 0x10, 0, 0, 16, 0], &page(8));
    assert_eq!(initiator.codes(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[1; 512]), (7, 0x27, 2));
    assert_eq!(initiator.good(&[0x1a, 8, 0x0a, 0, 4, 0], &[])[2], 0x90);
    initiator.good(&[0x15, 0x10, 0, 0, 16, 0], &page(0));
    initiator.good(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[1; 512]);
}

#[test]
fn what_is_saved_comes_back() {
    let bench = Bench::new();
    let (initiator, other) = (bench.initiator("iqn.a,i,0x1"), bench.initiator("iqn.b,i,0x1"));
    let list = |flags| [&[0, 0, 0, 0, 0x08, 18, flags][..], &[0; 17]].concat();
    let values = |control: u8| initiator.good(&[0x1a, 8, control << 6 | 8, 0, 255, 0], &[])[4..7].to_vec();
    assert_eq!((values(0), values(3), values(2)), (vec![0x88, 18, 4], vec![0x88, 18, 4], vec![0x88, 18, 4]));
    initiator.good(&[0x15, 0x11, 0, 0, 24, 0], &list(0));
    assert_eq!(other.codes(&[0; 6], &[]), (6, 0x2a, 1), "the others hear of it");
    assert_eq!((values(0)[2], values(3)[2], values(2)[2]), (0, 0, 4), "current, saved, default");
    let kept = bench.keeper.saved.borrow().clone().expect("it was saved");
    // What is not saved goes with a reset, what is saved stays, over a restart as well.
    initiator.good(&[0x15, 0x10, 0, 0, 24, 0], &list(4));
    assert_eq!((values(0)[2], values(3)[2]), (4, 0));
    assert!(!bench.unit.is_as_new());
    assert_eq!(now(initiator.nexus.manage(Function::LogicalUnitReset, LUN0)), Outcome::Complete);
    assert_eq!(initiator.codes(&[0; 6], &[]), (6, 0x29, 3));
    assert_eq!((values(0)[2], values(3)[2]), (0, 0));
    assert!(bench.unit.is_as_new());
    let again = Bench::with(Memory::new(1 << 20, 512), Rc::default(), &kept);
    assert!(!again.unit.mode.get().write_cache);
    // The defaults need no keeping.
    initiator.good(&[0x15, 0x11, 0, 0, 24, 0], &list(4));
    assert_eq!(bench.keeper.saved.borrow().as_deref(), Some([].as_slice()));
}

#[test]
fn a_list_is_taken_wholly_or_not_at_all() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    let caching = |flags: u8| {
        let mut page = vec![0x08, 18, flags];
        page.resize(20, 0);
        page
    };
    let select = |pages: &[u8]| {
        let mut list = vec![0, 0, 0, 0];
        list.extend_from_slice(pages);
        list
    };
    let table: [(Vec<u8>, (u8, u8, u8)); 6] = [
        (select(&[caching(0), vec![0x05, 2, 0, 0]].concat()), (5, 0x26, 0)),
        (select(&[caching(0), vec![0x0a, 1, 0]].concat()), (5, 0x26, 0)),
        (select(&caching(0)[..10]), (5, 0x1a, 0)),
        (vec![0, 1, 0, 0], (5, 0x26, 0)),
        (vec![0, 0, 0, 8, 0, 0, 8, 0, 0, 0, 4, 0], (5, 0x26, 0)),
        (vec![0, 0, 0, 8, 0, 0], (5, 0x1a, 0)),
    ];
    for (list, codes) in table {
        assert_eq!(initiator.codes(&[0x15, 0x10, 0, 0, list.len() as u8, 0], &list), codes, "{list:02x?}");
    }
    assert!(bench.unit.mode.get().write_cache);
    let list = select(&caching(0));
    assert_eq!(initiator.codes(&[0x15, 0x10, 0, 0, 24, 0], &list[..20]), (5, 0x1a, 0), "less than was promised");
    initiator.good(&[0x15, 0x10, 0, 0, 24, 0], &list);
    assert!(!bench.unit.mode.get().write_cache);
    // The ten-byte form, with a descriptor that says what is so already.
    let mut ten = vec![0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 8, 0, 0, 0, 2, 0];
    ten.extend(caching(4));
    initiator.good(&[0x55, 0x10, 0, 0, 0, 0, 0, 0, ten.len() as u8, 0], &ten);
    assert!(bench.unit.mode.get().write_cache);
}
