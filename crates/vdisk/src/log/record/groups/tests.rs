//! The short form: one for each list, whatever is in it, and short where groups are alike.

use super::*;
use proptest::prelude::*;

fn short(list: &[GroupEntry]) -> Vec<u8> {
    let mut w = Writer::default();
    put_short(&mut w, list.iter().copied());
    w.bytes
}

/// The list and how many bytes it took.
fn read(bytes: &[u8]) -> Result<(Vec<GroupEntry>, usize), RecordError> {
    let mut r = Reader::new(bytes);
    let list = take_short(&mut r)?;
    Ok((list, bytes.len() - r.rest().len()))
}

fn entry(counter: u32) -> GroupEntry {
    let group = GroupId::new(0, counter);
    GroupEntry { group, len: 10, last_sequence: Sequence(7), data: 4096, pages: 0, punched: 0, is_copied: false }
}

/// With all values at which a form ends or another begins.
fn lists() -> impl Strategy<Value = Vec<GroupEntry>> {
    let bytes = || {
        let edges = prop_oneof![Just(0), Just(4095), Just(4096), Just(64 << 20), Just(u32::MAX), Just(u32::MAX - 4095)];
        prop_oneof![3 => edges, 1 => (0..=u32::MAX / 4096).prop_map(|blocks| blocks * 4096), 1 => any::<u32>()]
    };
    let distance = prop_oneof![8 => Just(1), 2 => 1..300_u64, 1 => Just(1 << 32)];
    let edges = prop_oneof![Just(u64::MAX), Just(1 << 63), Just((1 << 63) - 1)];
    let sequence = prop_oneof![2 => Just(0), 2 => 0..1000_u64, 1 => any::<u64>(), 1 => edges];
    let one = (distance, bytes(), sequence, bytes(), bytes(), bytes(), any::<bool>());
    prop::collection::vec(one, SHORT_FROM..3 * SHORT_FROM).prop_map(|all| {
        let mut id = 0;
        let entry = |(distance, len, sequence, data, pages, punched, is_copied)| {
            id += distance;
            let group = GroupId::from_raw(id).expect("48 bits");
            GroupEntry { group, len, last_sequence: Sequence(sequence), data, pages, punched, is_copied }
        };
        all.into_iter().map(entry).collect()
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(list in lists()) {
        prop_assert!(are_short(list.iter().map(|entry| entry.group)));
        let bytes = short(&list);
        prop_assert_eq!(read(&bytes), Ok((list, bytes.len())));
        prop_assert!((0..bytes.len()).all(|len| read(&bytes[..len]).is_err()));
    }

    #[test]
    fn what_is_read_is_written_to_the_same_bytes(list in lists(), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bytes = short(&list);
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok((list, len)) = read(&bytes) {
            prop_assert_eq!(short(&list), &bytes[..len]);
        }
    }
}

#[test]
fn golden_bytes() {
    let first = GroupEntry { group: GroupId::new(1, 2), len: 9000, last_sequence: Sequence(4), ..entry(0) };
    let mut list = vec![GroupEntry { pages: 4096, ..first }];
    let after = |list: &[GroupEntry]| {
        let last = list[list.len() - 1];
        let group = GroupId::from_raw(last.group.raw() + 1).expect("48 bits");
        GroupEntry { group, is_copied: false, ..last }
    };
    (0..28).for_each(|_| list.push(after(&list)));
    list.push(GroupEntry { is_copied: true, ..after(&list) });
    let group = GroupId::from_raw(list[29].group.raw() + 3).expect("48 bits");
    let other = GroupEntry {
        group,
        len: 8999,
        last_sequence: Sequence(6),
        data: 4097,
        pages: 0,
        punched: 8192,
        is_copied: false,
    };
    list.push(other);
    list.push(GroupEntry { last_sequence: Sequence(5), ..after(&list) });
    let hex: String = short(&list).iter().map(|byte| format!("{byte:02x}")).collect();
    let (first, alike) = ("208080808010d08c01080303", "3f".repeat(28));
    assert_eq!(hex, format!("20000000{first}{alike}7f00010104824001053b01"));
}

#[test]
fn no_other_form_of_a_group_is_read() {
    let before = entry(5);
    let check = |bytes: &[u8], expect: Option<GroupEntry>| {
        let mut r = Reader::new(bytes);
        assert_eq!(take_entry(&mut r, &before).ok(), expect, "{bytes:02x?}");
        assert!(expect.is_none() || r.is_empty(), "{bytes:02x?}");
    };
    let next = entry(6);
    check(&[0x3f], Some(next));
    check(&[0x7f], Some(GroupEntry { is_copied: true, ..next }));
    check(&[0xbf], None);
    check(&[], None);
    // The id.
    check(&[0x3e, 0], Some(entry(7)));
    check(&[0x3e, 0x80, 0], None);
    let last = GroupEntry { group: GroupId::from_raw((1 << 48) - 1).expect("48 bits"), ..before };
    check(&[0x3e, 0xf8, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f], Some(last));
    check(&[0x3e, 0xf9, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f], None);
    check(&[0x3e, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x40], None);
    check(&[0x3e, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], None);
    check(&[0x3e], None);
    // Length and last sequence: a difference of nothing, and of more than there is.
    check(&[0x3d, 0x13], Some(GroupEntry { len: 0, ..next }));
    check(&[0x3d, 0x15], None);
    check(&[0x3d, 0], None);
    check(&[0x3b, 0x0d], Some(GroupEntry { last_sequence: Sequence(0), ..next }));
    check(&[0x3b, 0], None);
    // Data, pages, punched: as before all the same, a multiple in bytes, too many.
    check(&[0x37, 2], Some(GroupEntry { data: 1, ..next }));
    check(&[0x37, 1], Some(GroupEntry { data: 0, ..next }));
    check(&[0x37, 3], None);
    check(&[0x37, 0], None);
    check(&[0x37, 0x80, 0x80, 1], None);
    check(&[0x37, 0x81, 0x80, 0x80, 1], None);
    check(&[0x37, 0x82, 0x80, 0x80, 0x80, 0x20], None);
    check(&[0x2f, 3], Some(GroupEntry { pages: 4096, ..next }));
    check(&[0x2f, 1], None);
    check(&[0x1f, 3], Some(GroupEntry { punched: 4096, ..next }));
    check(&[0x1f, 1], None);
}

#[test]
fn a_list_has_as_many_groups_as_may_be_and_as_there_are_bytes_for() {
    let list: Vec<GroupEntry> = (1..=SHORT_FROM as u32).map(entry).collect();
    let bytes = short(&list);
    let counted = |count: u32| read(&[&count.to_le_bytes()[..], &bytes[4..]].concat()).map(|(list, _)| list.len());
    assert_eq!((counted(32), counted(33)), (Ok(32), Err(RecordError::Truncated)));
    for count in [0, 31, bytes.len() as u32 - 3, LIST_MAX, LIST_MAX + 1, u32::MAX] {
        assert_eq!(counted(count), Err(RecordError::Field), "{count} groups");
    }
    let long = |count: u32| [&count.to_le_bytes()[..], &bytes[4..], &vec![0x3f; count as usize - 32]].concat();
    assert_eq!(read(&long(1 << 17)).map(|(list, _)| list.len()), Ok(1 << 17));
    assert_eq!(read(&long(LIST_MAX)).map(|(list, _)| list.len()), Ok(LIST_MAX as usize));
    assert_eq!(read(&long(LIST_MAX + 1)), Err(RecordError::Field));
    let first = |count: u32| are_short((1..count + 1).map(|counter| GroupId::new(0, counter)));
    assert!(first(LIST_MAX) && !first(LIST_MAX + 1), "what is written is what is read");
    let ids = |counters: &[u32]| are_short(counters.iter().map(|counter| GroupId::new(0, *counter)));
    let in_order: Vec<u32> = (1..=32).collect();
    assert!(ids(&in_order) && !ids(&in_order[1..]));
    assert!(!ids(&[&[0][..], &in_order[..]].concat()) && !ids(&[&in_order[..], &[32][..]].concat()));
    assert!(!ids(&in_order.into_iter().rev().collect::<Vec<u32>>()));
}

/// What the form is for: a terabyte is in 16,400 groups.
#[test]
fn a_terabyte_takes_a_few_bytes_for_each_group() {
    let written_once = |counter: u32| GroupEntry {
        len: (64 << 20) - 4096,
        last_sequence: Sequence(65 * u64::from(counter)),
        data: 65_011_712,
        ..entry(counter)
    };
    let bytes = short(&(1..=16_400).map(written_once).collect::<Vec<_>>());
    assert!(bytes.len() <= 3 * 16_400 + 32, "{} bytes", bytes.len());
    // As far apart as random overwriting leaves them.
    let overwritten = |counter: u32| {
        let some = counter.wrapping_mul(2_654_435_761) >> 8;
        GroupEntry {
            len: (64 << 20) - some % (1 << 20),
            last_sequence: Sequence(9_000 * u64::from(counter) + u64::from(some % 4_000)),
            data: some % 16_000 * 4096,
            pages: some % 200 * 4096,
            punched: some % 9_000 * 4096,
            ..entry(counter)
        }
    };
    let bytes = short(&(1..=16_400).map(overwritten).collect::<Vec<_>>());
    assert!(bytes.len() < 256 << 10, "{} bytes: the frame would have pages of its own", bytes.len());
}
