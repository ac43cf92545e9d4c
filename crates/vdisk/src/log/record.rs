//! Control records: the payload of control frames. Every verb that changes a vDisk is one; the first frame is its birth.
//!
//! Little-endian: tag (1 byte), version (1 byte), then the fields in the order of the struct; texts are a length
//! (2 bytes) and UTF-8. A record that is longer than its fields, or has an unknown tag or version, is refused.

use super::Position;
use crate::address::Address;
use crate::image::{Image, Needed, Origin};
use crate::notes::{NoteKind, Notes};
use crate::vdisk::{Attributes, meta_hint};
use base::{GroupId, Reader, Sequence, SnapshotId, Truncated, VdiskId, Writer};
use bytes::Bytes;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    /// With an origin: of a clone.
    Birth(Attributes, Option<Box<Origin>>),
    Rename(String),
    Resize(u64),
    ReadOnly(bool),
    /// Nothing follows it; all groups of the vDisk may go.
    Delete,
    Checkpoint(Box<CheckpointRecord>),
    /// Empty: there is none of this kind any more.
    Note(NoteKind, Bytes),
    /// The map as it is after this frame is kept.
    Snapshot(SnapshotRecord),
    DeleteSnapshot(SnapshotId),
    /// The map becomes this one.
    Rollback(SnapshotId, Box<Image>),
    /// All members of the set have their snapshot, and it is on record.
    ConfirmSet(SnapshotId),
}

/// A map root and the log position that it covers, with all that a reader without metadata store needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckpointRecord {
    pub attributes: Attributes,
    pub notes: Notes,
    /// The last frame that the map below includes; replay starts behind it.
    pub covers: Position,
    pub root: Address,
    pub height: u8,
    /// Every group of the vDisk that is still needed, the open one included; of a clone those of others too, with length 0.
    pub groups: Vec<GroupEntry>,
    /// Of a clone: its ancestors, oldest first.
    pub lineage: Vec<VdiskId>,
    pub snapshots: Vec<SnapshotEntry>,
}

/// A snapshot, as the frame says that takes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotRecord {
    pub id: SnapshotId,
    pub name: String,
    /// Wall time.
    pub created_ns: u64,
    /// Of the vDisk at this moment.
    pub size_bytes: u64,
    pub set: Option<SetRecord>,
}

/// Several vDisks at one instant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SetRecord {
    pub id: SnapshotId,
    /// All of them.
    pub members: Vec<VdiskId>,
    /// It is known that all of them have it. Until then it counts only if that is found out.
    pub confirmed: bool,
}

/// A snapshot whose map is stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotEntry {
    pub record: SnapshotRecord,
    /// Of its frame.
    pub sequence: Sequence,
    pub mapped_bytes: u64,
    pub root: Address,
    pub height: u8,
    /// The checkpoint that stored it; `None`: this one.
    pub place: Option<meta_hint::Place>,
}

/// 28 bytes each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GroupEntry {
    pub group: GroupId,
    pub len: u32,
    pub last_sequence: Sequence,
    pub data: u32,
    pub pages: u32,
    pub punched: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("the record is shorter than its fields")]
    Truncated,
    #[error("record tag {0} version {1}: unknown to this build")]
    Unknown(u8, u8),
    #[error("a field of the record has a value that is not allowed")]
    Field,
}

impl From<Truncated> for RecordError {
    fn from(_: Truncated) -> Self {
        RecordError::Truncated
    }
}

const VERSION: u8 = 1;
/// Of a checkpoint with notes. One without has version 1, which builds from before there were notes can read.
const CHECKPOINT_WITH_NOTES: u8 = 2;
/// Of a checkpoint with snapshots, or of a clone.
const CHECKPOINT_WITH_SNAPSHOTS: u8 = 3;
/// Of the birth of a clone.
const BIRTH_OF_CLONE: u8 = 2;
/// Longer lists can only be rot.
const LIST_MAX: u32 = 1 << 22;

impl Record {
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(64);
        let tag = match self {
            Record::Birth(..) => 1,
            Record::Rename(_) => 2,
            Record::Resize(_) => 3,
            Record::ReadOnly(_) => 4,
            Record::Delete => 5,
            Record::Checkpoint(_) => 6,
            Record::Note(..) => 7,
            Record::Snapshot(_) => 8,
            Record::DeleteSnapshot(_) => 9,
            Record::Rollback(..) => 10,
            Record::ConfirmSet(_) => 11,
        };
        let version = match self {
            Record::Birth(_, Some(_)) => BIRTH_OF_CLONE,
            Record::Checkpoint(checkpoint) if checkpoint.has_snapshots() => CHECKPOINT_WITH_SNAPSHOTS,
            Record::Checkpoint(checkpoint) if !checkpoint.notes.is_empty() => CHECKPOINT_WITH_NOTES,
            _ => VERSION,
        };
        w.u8(tag).u8(version);
        match self {
            Record::Birth(attributes, origin) => {
                put_attributes(&mut w, attributes);
                if let Some(origin) = origin {
                    put_origin(&mut w, origin);
                }
            }
            Record::Rename(name) => put_text(&mut w, name),
            Record::Resize(size) => drop(w.u64_le(*size)),
            Record::ReadOnly(on) => drop(w.u8((*on).into())),
            Record::Delete => {}
            Record::Checkpoint(checkpoint) => put_checkpoint(&mut w, checkpoint),
            Record::Note(kind, bytes) => put_note(&mut w, *kind, bytes),
            Record::Snapshot(snapshot) => put_snapshot(&mut w, snapshot),
            Record::DeleteSnapshot(id) | Record::ConfirmSet(id) => drop(w.u64_le(id.raw())),
            Record::Rollback(id, image) => {
                w.u64_le(id.raw());
                put_image(&mut w, image);
            }
        }
        w.bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Record, RecordError> {
        let mut r = Reader::new(bytes);
        let (tag, version) = (r.u8()?, r.u8()?);
        let record = match (tag, version) {
            (6, CHECKPOINT_WITH_NOTES) => {
                let mut checkpoint = take_checkpoint(&mut r)?;
                checkpoint.notes = take_notes(&mut r)?;
                if checkpoint.notes.is_empty() {
                    return Err(RecordError::Field);
                }
                Record::Checkpoint(Box::new(checkpoint))
            }
            (6, CHECKPOINT_WITH_SNAPSHOTS) => {
                let mut checkpoint = take_checkpoint(&mut r)?;
                checkpoint.notes = take_notes(&mut r)?;
                checkpoint.lineage = take_lineage(&mut r)?;
                checkpoint.snapshots = take_list(&mut r, take_snapshot_entry)?;
                if !checkpoint.has_snapshots() {
                    return Err(RecordError::Field);
                }
                Record::Checkpoint(Box::new(checkpoint))
            }
            (1, BIRTH_OF_CLONE) => Record::Birth(take_attributes(&mut r)?, Some(Box::new(take_origin(&mut r)?))),
            (_, 0 | 2..) => return Err(RecordError::Unknown(tag, version)),
            (1, _) => Record::Birth(take_attributes(&mut r)?, None),
            (2, _) => Record::Rename(take_text(&mut r)?),
            (3, _) => Record::Resize(r.u64_le()?),
            (4, _) => Record::ReadOnly(take_bool(&mut r)?),
            (5, _) => Record::Delete,
            (6, _) => Record::Checkpoint(Box::new(take_checkpoint(&mut r)?)),
            (7, _) => {
                let (kind, bytes) = take_note(&mut r)?;
                Record::Note(kind, bytes)
            }
            (8, _) => Record::Snapshot(take_snapshot(&mut r)?),
            (9, _) => Record::DeleteSnapshot(take_snapshot_id(&mut r)?),
            (11, _) => Record::ConfirmSet(take_snapshot_id(&mut r)?),
            (10, _) => Record::Rollback(take_snapshot_id(&mut r)?, Box::new(take_image(&mut r)?)),
            _ => return Err(RecordError::Unknown(tag, version)),
        };
        if r.is_empty() { Ok(record) } else { Err(RecordError::Field) }
    }
}

fn put_text(w: &mut Writer, text: &str) {
    w.u16_le(text.len() as u16).put(text.as_bytes());
}

fn take_text(r: &mut Reader) -> Result<String, RecordError> {
    let len = r.u16_le()?;
    let bytes = r.take(len.into())?;
    String::from_utf8(bytes.to_vec()).map_err(|_| RecordError::Field)
}

fn take_bool(r: &mut Reader) -> Result<bool, RecordError> {
    match r.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(RecordError::Field),
    }
}

fn put_attributes(w: &mut Writer, a: &Attributes) {
    put_text(w, &a.name);
    w.u64_le(a.size_bytes).u32_le(a.sector_bytes).u8(a.read_only.into()).u64_le(a.created_ns);
}

fn take_attributes(r: &mut Reader) -> Result<Attributes, RecordError> {
    let attributes = Attributes {
        name: take_text(r)?,
        size_bytes: r.u64_le()?,
        sector_bytes: r.u32_le()?,
        read_only: take_bool(r)?,
        created_ns: r.u64_le()?,
    };
    let size_ok = attributes.size_bytes > 0
        && attributes.size_bytes % base::units::BLOCK == 0
        && attributes.size_bytes <= base::units::VDISK_SIZE_MAX;
    if size_ok && matches!(attributes.sector_bytes, 512 | 4096) { Ok(attributes) } else { Err(RecordError::Field) }
}

fn put_checkpoint(w: &mut Writer, c: &CheckpointRecord) {
    put_attributes(w, &c.attributes);
    w.u64_le(c.covers.group.raw()).u32_le(c.covers.end).u32_le(c.covers.chain).u64_le(c.covers.sequence.0);
    w.u128_le(c.root.raw()).u8(c.height).u32_le(c.groups.len() as u32);
    for g in &c.groups {
        w.u64_le(g.group.raw())
            .u32_le(g.len)
            .u64_le(g.last_sequence.0)
            .u32_le(g.data)
            .u32_le(g.pages)
            .u32_le(g.punched);
    }
    if !c.notes.is_empty() || c.has_snapshots() {
        w.u8(c.notes.len() as u8);
        c.notes.iter().for_each(|(kind, bytes)| put_note(w, *kind, bytes));
    }
    if c.has_snapshots() {
        put_lineage(w, &c.lineage);
        w.u32_le(c.snapshots.len() as u32);
        c.snapshots.iter().for_each(|entry| put_snapshot_entry(w, entry));
    }
}

fn put_note(w: &mut Writer, kind: NoteKind, bytes: &[u8]) {
    w.u8(kind as u8).u32_le(bytes.len() as u32).put(bytes);
}

fn take_note(r: &mut Reader) -> Result<(NoteKind, Bytes), RecordError> {
    let kind = NoteKind::from_raw(r.u8()?).ok_or(RecordError::Field)?;
    let len = r.u32_le()? as usize;
    if len > kind.bytes_max() {
        return Err(RecordError::Field);
    }
    Ok((kind, Bytes::copy_from_slice(r.take(len)?)))
}

/// In order of kinds, none of them empty.
fn take_notes(r: &mut Reader) -> Result<Notes, RecordError> {
    let count = r.u8()?;
    let mut notes = Notes::new();
    for _ in 0..count {
        let (kind, bytes) = take_note(r)?;
        let in_order = notes.last_key_value().is_none_or(|(last, _)| *last < kind);
        if bytes.is_empty() || !in_order {
            return Err(RecordError::Field);
        }
        notes.insert(kind, bytes);
    }
    Ok(notes)
}

fn take_checkpoint(r: &mut Reader) -> Result<CheckpointRecord, RecordError> {
    let group_id = |raw| GroupId::from_raw(raw).ok_or(RecordError::Field);
    let attributes = take_attributes(r)?;
    let covers = Position {
        group: group_id(r.u64_le()?)?,
        end: r.u32_le()?,
        chain: r.u32_le()?,
        sequence: Sequence(r.u64_le()?),
    };
    let (root, height) = take_root(r)?;
    let count = r.u32_le()?;
    let mut groups = Vec::new();
    for _ in 0..count {
        groups.push(GroupEntry {
            group: group_id(r.u64_le()?)?,
            len: r.u32_le()?,
            last_sequence: Sequence(r.u64_le()?),
            data: r.u32_le()?,
            pages: r.u32_le()?,
            punched: r.u32_le()?,
        });
    }
    let (notes, lineage, snapshots) = (Notes::new(), Vec::new(), Vec::new());
    Ok(CheckpointRecord { attributes, notes, covers, root, height, groups, lineage, snapshots })
}

impl CheckpointRecord {
    fn has_snapshots(&self) -> bool {
        !self.lineage.is_empty() || !self.snapshots.is_empty()
    }
}

fn take_root(r: &mut Reader) -> Result<(Address, u8), RecordError> {
    let root = Address::from_raw(r.u128_le()?).ok_or(RecordError::Field)?;
    let height = r.u8()?;
    if (1..=5).contains(&height) { Ok((root, height)) } else { Err(RecordError::Field) }
}

/// A count (4 bytes) and as many items.
fn take_list<T>(r: &mut Reader, take: impl Fn(&mut Reader) -> Result<T, RecordError>) -> Result<Vec<T>, RecordError> {
    let count = r.u32_le()?;
    if count > LIST_MAX {
        return Err(RecordError::Field);
    }
    let mut list = Vec::new();
    for _ in 0..count {
        list.push(take(r)?);
    }
    Ok(list)
}

fn take_snapshot_id(r: &mut Reader) -> Result<SnapshotId, RecordError> {
    SnapshotId::from_raw(r.u64_le()?).filter(|id| !id.is_none()).ok_or(RecordError::Field)
}

fn take_vdisk_id(r: &mut Reader) -> Result<VdiskId, RecordError> {
    VdiskId::from_raw(r.u64_le()?).ok_or(RecordError::Field)
}

fn put_lineage(w: &mut Writer, lineage: &[VdiskId]) {
    w.u32_le(lineage.len() as u32);
    lineage.iter().for_each(|id| {
        w.u64_le(id.raw());
    });
}

fn take_lineage(r: &mut Reader) -> Result<Vec<VdiskId>, RecordError> {
    take_list(r, take_vdisk_id)
}

fn put_image(w: &mut Writer, image: &Image) {
    w.u128_le(image.root.raw()).u8(image.height).u32_le(image.groups.len() as u32);
    for needed in &image.groups {
        w.u64_le(needed.group.raw()).u32_le(needed.data).u32_le(needed.pages);
    }
}

fn take_image(r: &mut Reader) -> Result<Image, RecordError> {
    let (root, height) = take_root(r)?;
    let groups = take_list(r, |r| {
        let group = GroupId::from_raw(r.u64_le()?).ok_or(RecordError::Field)?;
        Ok(Needed { group, data: r.u32_le()?, pages: r.u32_le()? })
    })?;
    let in_order = groups.windows(2).all(|two| two[0].group < two[1].group);
    if in_order { Ok(Image { root, height, groups }) } else { Err(RecordError::Field) }
}

fn put_origin(w: &mut Writer, origin: &Origin) {
    w.u64_le(origin.snapshot.raw());
    put_lineage(w, &origin.lineage);
    put_image(w, &origin.image);
}

fn take_origin(r: &mut Reader) -> Result<Origin, RecordError> {
    let (snapshot, lineage) = (take_snapshot_id(r)?, take_lineage(r)?);
    if lineage.is_empty() {
        return Err(RecordError::Field);
    }
    Ok(Origin { snapshot, lineage, image: take_image(r)? })
}

fn put_snapshot(w: &mut Writer, snapshot: &SnapshotRecord) {
    w.u64_le(snapshot.id.raw());
    put_text(w, &snapshot.name);
    let set = snapshot.set.as_ref().map_or(0, |set| if set.confirmed { 2 } else { 1 });
    w.u64_le(snapshot.created_ns).u64_le(snapshot.size_bytes).u8(set);
    if let Some(set) = &snapshot.set {
        w.u64_le(set.id.raw());
        put_lineage(w, &set.members);
    }
}

fn take_snapshot(r: &mut Reader) -> Result<SnapshotRecord, RecordError> {
    let (id, name, created_ns, size_bytes) = (take_snapshot_id(r)?, take_text(r)?, r.u64_le()?, r.u64_le()?);
    let set = match r.u8()? {
        0 => None,
        form @ (1 | 2) => {
            let (id, members) = (take_snapshot_id(r)?, take_list(r, take_vdisk_id)?);
            Some(SetRecord { id, members, confirmed: form == 2 })
        }
        _ => return Err(RecordError::Field),
    };
    Ok(SnapshotRecord { id, name, created_ns, size_bytes, set })
}

fn put_snapshot_entry(w: &mut Writer, entry: &SnapshotEntry) {
    put_snapshot(w, &entry.record);
    w.u64_le(entry.sequence.0).u64_le(entry.mapped_bytes);
    w.u128_le(entry.root.raw()).u8(entry.height).u8(entry.place.is_some().into());
    if let Some(place) = entry.place {
        w.u64_le(place.group.raw()).u32_le(place.offset).u32_le(place.len).u64_le(place.sequence.0);
    }
}

fn take_snapshot_entry(r: &mut Reader) -> Result<SnapshotEntry, RecordError> {
    let record = take_snapshot(r)?;
    let (sequence, mapped_bytes) = (Sequence(r.u64_le()?), r.u64_le()?);
    let (root, height) = take_root(r)?;
    let place = if take_bool(r)? {
        let group = GroupId::from_raw(r.u64_le()?).ok_or(RecordError::Field)?;
        let (offset, len) = (r.u32_le()?, r.u32_le()?);
        Some(meta_hint::Place { group, offset, len, sequence: Sequence(r.u64_le()?) })
    } else {
        None
    };
    Ok(SnapshotEntry { record, sequence, mapped_bytes, root, height, place })
}

#[cfg(test)]
mod tests {
    use super::*;

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
            }],
            lineage: Vec::new(),
            snapshots: Vec::new(),
        }
    }

    fn image() -> Image {
        let needed = |counter, data, pages| Needed { group: GroupId::new(1, counter), data, pages };
        let root = Address::new(GroupId::new(1, 2), 4096, 4096, 3);
        Image { root, height: 2, groups: vec![needed(2, 4096, 8192), needed(9, 0, 4096)] }
    }

    fn snapshot(members: &[VdiskId]) -> SnapshotRecord {
        let confirmed = members.len() == 1;
        let set = SetRecord { id: SnapshotId::new(1, 8), members: members.to_vec(), confirmed };
        let set = Some(set).filter(|set| !set.members.is_empty());
        SnapshotRecord { id: SnapshotId::new(1, 7), name: "s".into(), created_ns: 5, size_bytes: 8192, set }
    }

    fn origin() -> Option<Box<Origin>> {
        let lineage = vec![VdiskId::new(1, 4)];
        Some(Box::new(Origin { snapshot: SnapshotId::new(1, 7), lineage, image: image() }))
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

    #[test]
    fn golden_bytes() {
        let hex = |record: &Record| record.encode().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let birth = Record::Birth(attributes(), None);
        assert_eq!(hex(&birth), "010106007765622d3031002000000000000000020000000700000000000000");
        assert_eq!(hex(&Record::Rename("a".into())), "0201010061");
        assert_eq!(hex(&Record::Resize(4096)), "03010010000000000000");
        assert_eq!(hex(&Record::ReadOnly(true)), "040101");
        assert_eq!(hex(&Record::Delete), "0501");
        assert_eq!(hex(&Record::Note(NoteKind::Reservations, Bytes::from_static(b"abc"))), "07010203000000616263");
        assert_eq!(hex(&Record::Note(NoteKind::IscsiAccess, Bytes::new())), "07010100000000");
        let mut checkpoint = checkpoint();
        let old = hex(&Record::Checkpoint(Box::new(checkpoint.clone())));
        assert!(old.starts_with("0601"), "a checkpoint without notes is what it was before there were any: {old}");
        checkpoint.notes.insert(NoteKind::IscsiAccess, Bytes::from_static(b"hi"));
        checkpoint.notes.insert(NoteKind::Reservations, Bytes::from_static(b"there"));
        let new = hex(&Record::Checkpoint(Box::new(checkpoint)));
        assert_eq!(new, format!("0602{}{}", &old[4..], "020102000000686902050000007468657265"));
    }

    #[test]
    fn every_record_survives_and_no_shorter_form_does() {
        let plain = checkpoint();
        let noted = CheckpointRecord {
            notes: Notes::from([(NoteKind::Reservations, Bytes::from_static(b"x"))]),
            ..checkpoint()
        };
        for record in [
            Record::Birth(attributes(), None),
            Record::Rename("x".into()),
            Record::Resize(1 << 40),
            Record::ReadOnly(false),
            Record::Delete,
            Record::Checkpoint(Box::new(plain)),
            Record::Checkpoint(Box::new(noted)),
            Record::Note(NoteKind::IscsiAccess, Bytes::from_static(b"who")),
            Record::Note(NoteKind::Reservations, Bytes::new()),
            Record::Birth(attributes(), origin()),
            Record::Snapshot(snapshot(&[])),
            Record::Snapshot(snapshot(&[VdiskId::new(1, 1), VdiskId::new(1, 2)])),
            Record::DeleteSnapshot(SnapshotId::new(1, 7)),
            Record::ConfirmSet(SnapshotId::new(1, 8)),
            Record::Rollback(SnapshotId::new(1, 7), Box::new(image())),
            Record::Checkpoint(Box::new(with_snapshots())),
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
        assert_eq!(Record::decode(&note(4, 1)), Err(RecordError::Field), "a kind of a newer build");
        assert_eq!(Record::decode(&[7, 2, 1, 0, 0, 0, 0]), Err(RecordError::Unknown(7, 2)));
        let plain = Record::Checkpoint(Box::new(checkpoint())).encode();
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
}
