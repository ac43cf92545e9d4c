//! Every record in bytes and back; what no build writes is refused.

use super::*;
use crate::image::Needed;

fn attributes() -> Attributes {
    Attributes { name: "web-01".into(), size_bytes: 8192, sector_bytes: 512, read_only: false, created_ns: 7 }
}

fn checkpoint() -> CheckpointRecord {
    CheckpointRecord {
        attributes: attributes(),
        notes: Notes::new(),
        covers: Position { group: GroupId::new(1, 3), end: 77, chain: 5, sequence: Sequence(9) },
        root: Address::new(GroupId::new(1, 2), 4096, 4096, 3),
        height: 2,
        groups: vec![GroupEntry {
            group: GroupId::new(1, 2),
            len: 9000,
            last_sequence: Sequence(4),
            data: 4096,
            pages: 4096,
            punched: 0,
            is_copied: false,
        }],
        lineage: Vec::new(),
        snapshots: Vec::new(),
        rewind: None,
    }
}

fn image() -> Image {
    let needed = |counter, data, pages| Needed { group: GroupId::new(1, counter), data, pages, is_copied: false };
    let root = Address::new(GroupId::new(1, 2), 4096, 4096, 3);
    Image { root, height: 2, groups: vec![needed(2, 4096, 8192), needed(9, 0, 4096)].into() }
}

fn snapshot(members: &[VdiskId]) -> SnapshotRecord {
    let confirmed = members.len() == 1;
    let set = SetRecord { id: SnapshotId::new(1, 8), members: members.to_vec(), confirmed };
    let set = Some(set).filter(|set| !set.members.is_empty());
    SnapshotRecord { id: SnapshotId::new(1, 7), name: "s".into(), created_ns: 5, size_bytes: 8192, set, point: None }
}

fn origin() -> Option<Box<Origin>> {
    let lineage = vec![VdiskId::new(1, 4)];
    Some(Box::new(Origin { snapshot: SnapshotId::new(1, 7), lineage, image: image() }))
}

fn note() -> Notes {
    Notes::from([(NoteKind::Reservations, Bytes::from_static(b"x"))])
}

fn rewind() -> Rewind {
    Rewind { window_ns: 24, limit_bytes: 7 }
}

fn point() -> SnapshotRecord {
    SnapshotRecord { name: String::new(), point: Some(PointRecord { high_ns: 9 }), ..snapshot(&[]) }
}

fn past() -> PastRecord {
    PastRecord { snapshot: snapshot(&[]), sequence: Sequence(6), mapped_bytes: 4096, image: image() }
}

fn with_history(checkpoint: CheckpointRecord) -> CheckpointRecord {
    let rewind = Some(RewindEntry { rewind: rewind(), cut_short: true, high_ns: 3 });
    CheckpointRecord { rewind, ..checkpoint }
}

fn with_snapshots() -> CheckpointRecord {
    let place = meta_hint::Place { group: GroupId::new(1, 2), offset: 64, len: 32, sequence: Sequence(8) };
    let entry = |place| {
        let record = snapshot(&[VdiskId::new(1, 1)]);
        let (root, height) = (image().root, image().height);
        SnapshotEntry { record, sequence: Sequence(7), mapped_bytes: 4096, root, height, place }
    };
    let snapshots = vec![entry(Some(place)), entry(None)];
    CheckpointRecord { lineage: vec![VdiskId::new(1, 4)], snapshots, ..checkpoint() }
}

fn with_copies(image: Image) -> Image {
    let mut groups = image.groups.to_vec();
    groups[1] = Needed { data: 0, pages: 0, is_copied: true, ..groups[1] };
    Image { groups: groups.into(), ..image }
}

fn origin_with_copies() -> Option<Box<Origin>> {
    origin_of(with_copies(image()))
}

fn copied(checkpoint: CheckpointRecord) -> CheckpointRecord {
    let groups = checkpoint.groups.iter().map(|entry| GroupEntry { is_copied: true, ..*entry }).collect();
    CheckpointRecord { groups, ..checkpoint }
}

/// As many groups as the short form begins with, and some.
fn many() -> Vec<GroupEntry> {
    let entry = |counter: u32| GroupEntry {
        group: GroupId::new(1, counter + counter / 7),
        len: 65_536 - counter % 3,
        last_sequence: Sequence(u64::from(40 - counter)),
        data: 4096 * (counter % 5),
        pages: counter % 2,
        punched: 0,
        is_copied: false,
    };
    (1..=40).map(entry).collect()
}

fn with_many(checkpoint: CheckpointRecord) -> CheckpointRecord {
    CheckpointRecord { groups: many(), ..checkpoint }
}

fn image_of_many() -> Image {
    let needed = |entry: GroupEntry| {
        let GroupEntry { group, data, pages, is_copied, .. } = entry;
        Needed { group, data, pages, is_copied }
    };
    Image { groups: many().into_iter().map(needed).collect::<Vec<_>>().into(), ..image() }
}

fn origin_of(image: Image) -> Option<Box<Origin>> {
    origin().map(|origin| Box::new(Origin { image, ..*origin }))
}

fn copy() -> CopyRecord {
    let extent = |n: u32| Address::new(GroupId::new(1, 2), 4096 * n, 4096, n);
    CopyRecord::new(5, &[extent(1), extent(2), Address::NONE, Address::NONE, Address::ZEROS, extent(2)])
}

#[test]
fn a_copy_has_runs_of_what_is_alike() {
    let hex: String = Record::Copy(Box::new(copy())).encode().iter().map(|byte| format!("{byte:02x}")).collect();
    let (one, two) = ("01000000020000000100000100000100", "02000000020000000100000200000100");
    let runs = [
        format!("0500000000000000{}02{one}{two}", "02000000"),
        format!("0700000000000000{}00", "02000000"),
        format!("0900000000000000{}01", "01000000"),
        format!("0a00000000000000{}02{two}", "01000000"),
    ];
    assert_eq!(hex, format!("0f0104000000{}", runs.concat()));
    let bytes = Record::Copy(Box::new(copy())).encode();
    for (at, value) in [(2, 0), (2, 3), (6, 6), (14, 3), (18, 3), (18, 0), (14, 0), (13, 1)] {
        let mut bad = bytes.clone();
        bad[at] = value;
        assert!(Record::decode(&bad).is_err(), "{value} at {at}");
    }
}

#[test]
fn groups_of_copies_stand_at_the_end() {
    let hex = |record: &Record| record.encode().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let list = |counter: u8| format!("01000000{counter:02x}00000001000000");
    let image_of = |record: &Record| hex(record)[4..].to_string();
    let mut groups = with_copies(image()).groups.to_vec();
    groups[1].is_copied = false;
    let without = Image { groups: groups.into(), ..image() };
    let (plain, with) = (
        Record::Rollback(SnapshotId::new(1, 7), Box::new(without.clone())),
        Record::Rollback(SnapshotId::new(1, 7), Box::new(with_copies(image()))),
    );
    assert_eq!(hex(&with), format!("0a02{}{}", image_of(&plain), list(9)));
    let origin = Some(Box::new(Origin { image: without, ..*origin().expect("it has one") }));
    let born = |notes: Notes| hex(&Record::Birth(attributes(), None, notes));
    let (attributes_len, origin) = (born(Notes::new()).len(), hex(&Record::Birth(attributes(), origin, Notes::new())));
    let (attributes_of, origin) = origin[4..].split_at(attributes_len - 4);
    let clone = |notes: Notes| hex(&Record::Birth(attributes(), origin_with_copies(), notes));
    assert_eq!(clone(Notes::new()), format!("0104{attributes_of}00{origin}{}", list(9)));
    assert_eq!(clone(note()), format!("0104{attributes_of}01020100000078{origin}{}", list(9)));
    let plain = with_history(with_snapshots());
    let bytes = hex(&Record::Checkpoint(Rc::new(plain.clone())));
    let rewind_len = 2 * (16 + 1 + 8);
    let (before, rewind) = bytes[4..].split_at(bytes.len() - 4 - rewind_len);
    assert_eq!(hex(&Record::Checkpoint(Rc::new(copied(plain)))), format!("0605{before}01{rewind}{}", list(2)));
    let unlisted = format!("0605{before}01{rewind}{}", list(3));
    let unlisted: Vec<u8> =
        (0..unlisted.len()).step_by(2).map(|at| u8::from_str_radix(&unlisted[at..at + 2], 16).expect("hex")).collect();
    assert_eq!(Record::decode(&unlisted), Err(RecordError::Field), "a group that is not there");
}

#[test]
fn golden_bytes() {
    let hex = |record: &Record| record.encode().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let birth = Record::Birth(attributes(), None, Notes::new());
    assert_eq!(hex(&birth), "010106007765622d3031002000000000000000020000000700000000000000");
    let noted = hex(&Record::Birth(attributes(), None, note()));
    assert_eq!(noted, "010306007765622d30310020000000000000000200000007000000000000000102010000007800");
    let clone = hex(&Record::Birth(attributes(), origin(), Notes::new()));
    let noted_clone = hex(&Record::Birth(attributes(), origin(), note()));
    let (head, rest) = noted_clone.split_at(noted.len() - 2);
    assert_eq!((head, rest), (&noted[..noted.len() - 2], &*format!("01{}", &clone[hex(&birth).len()..])));
    let kept = |notes: Notes| hex(&Record::BirthWithHistory(attributes(), notes, rewind()));
    let window = &hex(&Record::Rewind(Some(rewind())))["0c0101".len()..];
    assert_eq!(kept(Notes::new()), format!("0106{}00{window}", &hex(&birth)["0101".len()..]));
    assert_eq!(kept(note()), format!("0106{}{window}", &noted["0103".len()..noted.len() - 2]));
    assert_eq!(hex(&Record::Rename("a".into())), "0201010061");
    assert_eq!(hex(&Record::Resize(4096)), "03010010000000000000");
    assert_eq!(hex(&Record::ReadOnly(true)), "040101");
    assert_eq!(hex(&Record::Delete), "0501");
    assert_eq!(hex(&Record::Rewind(None)), "0c0100");
    assert_eq!(hex(&Record::Rewind(Some(rewind()))), "0c010118000000000000000700000000000000");
    assert_eq!(hex(&Record::Edge(SnapshotId::new(1, 7), true)), "0d01070000000100000001");
    let (plain, with) = (hex(&Record::Snapshot(snapshot(&[]))), hex(&Record::Snapshot(point())));
    assert!(plain.ends_with("00") && with.ends_with("030900000000000000"), "{plain} {with}");
    assert_eq!(hex(&Record::Note(NoteKind::Reservations, Bytes::from_static(b"abc"))), "07010203000000616263");
    assert_eq!(hex(&Record::Note(NoteKind::IscsiAccess, Bytes::new())), "07010100000000");
    let mut checkpoint = checkpoint();
    let old = hex(&Record::Checkpoint(Rc::new(checkpoint.clone())));
    assert!(old.starts_with("0601"), "a checkpoint without notes is what it was before there were any: {old}");
    checkpoint.notes.insert(NoteKind::IscsiAccess, Bytes::from_static(b"hi"));
    checkpoint.notes.insert(NoteKind::Reservations, Bytes::from_static(b"there"));
    let new = hex(&Record::Checkpoint(Rc::new(checkpoint)));
    assert_eq!(new, format!("0602{}{}", &old[4..], "020102000000686902050000007468657265"));
}

#[test]
fn golden_bytes_around_a_long_list() {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut w = Writer::default();
    groups::put_short(&mut w, many().into_iter());
    let list = hex(&w.bytes);
    let (one, of_group) = (hex(&Record::Checkpoint(Rc::new(checkpoint())).encode()), 2 * (4 + 32));
    let head = &one[4..one.len() - of_group];
    let with = |checkpoint: CheckpointRecord| hex(&Record::Checkpoint(Rc::new(with_many(checkpoint))).encode());
    assert_eq!(with(checkpoint()), format!("0606{head}{list}{}", "00".repeat(10)));
    let noted = CheckpointRecord { notes: note(), ..checkpoint() };
    assert_eq!(with(noted), format!("0606{head}{list}01020100000078{}", "00".repeat(9)));
    let rewind = "1800000000000000070000000000000001".to_string() + "0300000000000000";
    assert_eq!(with(with_history(checkpoint())), format!("0606{head}{list}{}01{rewind}", "00".repeat(9)));

    let list_of = |image: &Image| {
        let mut w = Writer::default();
        groups::put_image(&mut w, image);
        hex(&w.bytes)
    };
    let (root, list) = (list_of(&image())[..34].to_string(), list_of(&image_of_many()));
    assert!(list.starts_with(&format!("{root}2800000026ffffffff0f0302")), "{list}");
    let born = hex(&Record::Birth(attributes(), None, Notes::new()).encode());
    let origin = "0700000001000000".to_string() + "01000000" + "0400000001000000";
    let clone = |notes: Notes| hex(&Record::Birth(attributes(), origin_of(image_of_many()), notes).encode());
    assert_eq!(clone(Notes::new()), format!("0105{}00{origin}{list}", &born[4..]));
    assert_eq!(clone(note()), format!("0105{}01020100000078{origin}{list}", &born[4..]));
    let id = SnapshotId::new(1, 7);
    assert_eq!(hex(&Record::Rollback(id, Box::new(image_of_many())).encode()), format!("0a030700000001000000{list}"));
    let few = hex(&Record::Past(Box::new(past())).encode());
    let head = &few[4..few.len() - list_of(&image()).len()];
    let past = Record::Past(Box::new(PastRecord { image: image_of_many(), ..past() }));
    assert_eq!(hex(&past.encode()), format!("0e03{head}{list}"));
}

#[test]
fn every_record_survives_and_no_shorter_form_does() {
    let plain = checkpoint();
    let noted = CheckpointRecord { notes: note(), ..checkpoint() };
    for record in [
        Record::Birth(attributes(), None, Notes::new()),
        Record::Birth(attributes(), None, note()),
        Record::BirthWithHistory(attributes(), Notes::new(), rewind()),
        Record::BirthWithHistory(attributes(), note(), rewind()),
        Record::Rename("x".into()),
        Record::Resize(1 << 40),
        Record::ReadOnly(false),
        Record::Delete,
        Record::Checkpoint(Rc::new(plain)),
        Record::Checkpoint(Rc::new(noted)),
        Record::Note(NoteKind::IscsiAccess, Bytes::from_static(b"who")),
        Record::Note(NoteKind::Reservations, Bytes::new()),
        Record::Birth(attributes(), origin(), Notes::new()),
        Record::Birth(attributes(), origin(), note()),
        Record::Snapshot(snapshot(&[])),
        Record::Snapshot(snapshot(&[VdiskId::new(1, 1), VdiskId::new(1, 2)])),
        Record::DeleteSnapshot(SnapshotId::new(1, 7)),
        Record::ConfirmSet(SnapshotId::new(1, 8)),
        Record::Rollback(SnapshotId::new(1, 7), Box::new(image())),
        Record::Checkpoint(Rc::new(with_snapshots())),
        Record::Snapshot(point()),
        Record::Rewind(None),
        Record::Rewind(Some(rewind())),
        Record::Edge(SnapshotId::new(1, 7), true),
        Record::Past(Box::new(past())),
        Record::Checkpoint(Rc::new(with_history(checkpoint()))),
        Record::Checkpoint(Rc::new(with_history(with_snapshots()))),
        Record::Checkpoint(Rc::new(copied(checkpoint()))),
        Record::Checkpoint(Rc::new(copied(with_snapshots()))),
        Record::Checkpoint(Rc::new(copied(with_history(with_snapshots())))),
        Record::Birth(attributes(), origin_with_copies(), Notes::new()),
        Record::Birth(attributes(), origin_with_copies(), note()),
        Record::Rollback(SnapshotId::new(1, 7), Box::new(with_copies(image()))),
        Record::Past(Box::new(PastRecord { image: with_copies(image()), ..past() })),
        Record::Copy(Box::new(copy())),
        Record::Checkpoint(Rc::new(with_many(checkpoint()))),
        Record::Checkpoint(Rc::new(CheckpointRecord { notes: note(), ..with_many(checkpoint()) })),
        Record::Checkpoint(Rc::new(with_many(with_snapshots()))),
        Record::Checkpoint(Rc::new(copied(with_many(with_history(with_snapshots()))))),
        Record::Birth(attributes(), origin_of(image_of_many()), Notes::new()),
        Record::Birth(attributes(), origin_of(with_copies(image_of_many())), note()),
        Record::Rollback(SnapshotId::new(1, 7), Box::new(image_of_many())),
        Record::Rollback(SnapshotId::new(1, 7), Box::new(with_copies(image_of_many()))),
        Record::Past(Box::new(PastRecord { image: image_of_many(), ..past() })),
    ] {
        let bytes = record.encode();
        assert_eq!(Record::decode(&bytes), Ok(record));
        for len in 0..bytes.len() {
            assert!(Record::decode(&bytes[..len]).is_err());
        }
        assert_eq!(Record::decode(&[bytes, vec![0]].concat()), Err(RecordError::Field));
    }
}

#[test]
fn notes_that_no_build_writes_are_refused() {
    let note = |kind: u8, len: u32| [&[7, 1, kind][..], &len.to_le_bytes(), &vec![1; len as usize]].concat();
    for kind in NoteKind::ALL {
        let (raw, max) = (kind as u8, kind.bytes_max() as u32);
        assert!(Record::decode(&note(raw, max)).is_ok());
        assert_eq!(Record::decode(&note(raw, max + 1)), Err(RecordError::Field));
    }
    assert_eq!(Record::decode(&note(6, 1)), Err(RecordError::Field), "a kind of a newer build");
    assert_eq!(Record::decode(&[7, 2, 1, 0, 0, 0, 0]), Err(RecordError::Unknown(7, 2)));
    let plain = Record::Checkpoint(Rc::new(checkpoint())).encode();
    let with = |notes: &[u8]| Record::decode(&[&[6, 2], &plain[2..], notes].concat());
    assert!(with(&[1, 2, 1, 0, 0, 0, 9]).is_ok());
    assert_eq!(with(&[0]), Err(RecordError::Field), "none");
    assert_eq!(with(&[1, 1, 0, 0, 0, 0]), Err(RecordError::Field), "an empty one");
    let (one, two) = ([1, 1, 0, 0, 0, 9], [2, 1, 0, 0, 0, 9]);
    assert!(with(&[&[2], &one[..], &two[..]].concat()).is_ok());
    for (first, second) in [(one, one), (two, one)] {
        assert_eq!(with(&[&[2], &first[..], &second[..]].concat()), Err(RecordError::Field), "out of order");
    }
}

/// Written before there was a short form, in which this build writes them.
#[test]
fn long_lists_of_older_builds_are_read_for_ever() {
    let check = |old: Vec<u8>, record: Record, version: u8| {
        assert_eq!(Record::decode(&old), Ok(record.clone()), "{:?}", &old[..2]);
        let new = record.encode();
        assert_eq!((new[0], new[1]), (old[0], version));
        assert!(new.len() < old.len() / 2 && old[1] < version, "{} {}", new.len(), old.len());
        assert_eq!(
            Record::decode(&[&[new[0], old[1]], &new[2..]].concat()).ok(),
            None,
            "a short list in an old version"
        );
        assert_eq!(Record::decode(&[&[old[0], new[1]], &old[2..]].concat()).ok(), None, "a long list in the new one");
    };
    // Of a checkpoint: the list stands behind what all have, and the marks of copies at the end.
    let list = |groups: &[GroupEntry]| {
        let mut w = Writer::default();
        groups::put_long(&mut w, groups);
        w.bytes
    };
    let of = |checkpoint: CheckpointRecord| Record::Checkpoint(Rc::new(checkpoint));
    let without = |checkpoint: CheckpointRecord| of(CheckpointRecord { groups: Vec::new(), ..checkpoint }).encode();
    let head_len = without(checkpoint()).len() - 4;
    for checkpoint in [
        checkpoint(),
        CheckpointRecord { notes: note(), ..checkpoint() },
        with_snapshots(),
        with_history(with_snapshots()),
    ] {
        let (head, rest) = (without(checkpoint.clone()), without(checkpoint.clone()).split_off(head_len + 4));
        let head = &head[..head_len];
        check([head, &list(&many()), &rest].concat(), of(with_many(checkpoint)), CHECKPOINT_SHORT);
    }
    let all = with_history(with_snapshots());
    let (head, rest) = (without(all.clone()), without(all.clone()).split_off(head_len + 4));
    let (snapshots, rewind) = rest.split_at(rest.len() - 25);
    let marks: Vec<u8> = many().iter().flat_map(|entry| entry.group.raw().to_le_bytes()).collect();
    let marks = [&40_u32.to_le_bytes()[..], &marks].concat();
    let old = [&[6, CHECKPOINT_WITH_COPIES], &head[2..head_len], &list(&many()), snapshots, &[1], rewind, &marks];
    check(old.concat(), of(copied(with_many(all))), CHECKPOINT_SHORT);

    // Of an image: the list is the end but for the marks.
    let long = |image: &Image| {
        let mut w = Writer::default();
        w.u128_le(image.root.raw()).u8(image.height).u32_le(image.groups.len() as u32);
        image.groups.iter().for_each(|needed| {
            w.u64_le(needed.group.raw()).u32_le(needed.data).u32_le(needed.pages);
        });
        groups::put_copied(&mut w, image.groups.iter().filter(|needed| needed.is_copied).map(|needed| needed.group));
        w.bytes
    };
    let id = SnapshotId::new(1, 7);
    type Make = fn(Image) -> Record;
    let records: [(Make, u8); 4] = [
        (|image| Record::Birth(attributes(), origin_of(image), Notes::new()), BIRTH_SHORT),
        (|image| Record::Birth(attributes(), origin_of(image), note()), BIRTH_SHORT),
        (|image| Record::Rollback(SnapshotId::new(1, 7), Box::new(image)), IMAGE_SHORT),
        (|image| Record::Past(Box::new(PastRecord { image, ..past() })), IMAGE_SHORT),
    ];
    for (of, version) in records {
        for (few, many) in [(image(), image_of_many()), (with_copies(image()), with_copies(image_of_many()))] {
            let old = of(few.clone()).encode();
            let head = old.strip_suffix(&long(&few)[..]).expect("the image is its end");
            check([head, &long(&many)].concat(), of(many), version);
        }
    }
    // What an image has not is no entry of its list.
    let bytes = Record::Rollback(id, Box::new(image_of_many())).encode();
    let list_at = 2 + 8 + 17;
    for (bit, at) in [(1, 6), (2, 6), (5, 8)] {
        let mut bad = bytes.clone();
        bad[list_at + 4] &= !(1 << bit);
        bad.insert(list_at + 4 + at, 2);
        assert_eq!(Record::decode(&bad), Err(RecordError::Field), "bit {bit}");
    }
}
