//! Control records: the payload of control frames. Every verb that changes a vDisk is one; the first frame is its birth.
//!
//! Little-endian: tag (1 byte), version (1 byte), then the fields in the order of the struct; texts are a length
//! (2 bytes) and UTF-8. A record that is longer than its fields, or has an unknown tag or version, is refused.

mod copy;
mod groups;

pub use copy::{CopiedRun, CopyRecord};

use super::Position;
use crate::address::Address;
use crate::image::{Image, Origin};
use crate::notes::{NoteKind, Notes};
use crate::rewind::Rewind;
use crate::vdisk::{Attributes, meta_hint};
use base::{GroupId, Reader, Sequence, SnapshotId, Truncated, VdiskId, Writer};
use bytes::Bytes;
use std::rc::Rc;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    /// With an origin: of a clone. Notes: what is to be known of it from its first moment.
    Birth(Attributes, Option<Box<Origin>>, Notes),
    /// The same of one that is no clone, and keeps its history from its first moment.
    BirthWithHistory(Attributes, Notes, Rewind),
    Rename(String),
    Resize(u64),
    ReadOnly(bool),
    /// Nothing follows it; all groups of the vDisk may go.
    Delete,
    Checkpoint(Rc<CheckpointRecord>),
    /// Empty: there is none of this kind any more.
    Note(NoteKind, Bytes),
    /// The map as it is after this frame is kept.
    Snapshot(SnapshotRecord),
    DeleteSnapshot(SnapshotId),
    /// The map becomes this one.
    Rollback(SnapshotId, Box<Image>),
    /// All members of the set have their snapshot, and it is on record.
    ConfirmSet(SnapshotId),
    /// The history is kept from here on, or let go.
    Rewind(Option<Rewind>),
    /// The history begins with this point from here on; `true`: since it had to go for space.
    Edge(SnapshotId, bool),
    /// A snapshot of a moment of the past.
    Past(Box<PastRecord>),
    /// Blocks become what was elsewhere; extents are where they were.
    Copy(Box<CopyRecord>),
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
    /// Of a vDisk that keeps its history.
    pub rewind: Option<RewindEntry>,
}

/// What a checkpoint says of the history, besides its points.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RewindEntry {
    pub rewind: Rewind,
    pub cut_short: bool,
    /// The highest wall time of any frame since the last point.
    pub high_ns: u64,
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
    /// Of a point of the history, which is shown to nobody.
    pub point: Option<PointRecord>,
}

/// A point of the history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PointRecord {
    /// The highest wall time of any frame since the point before.
    pub high_ns: u64,
}

/// A snapshot of what was: its map is made of that of a point and of the log behind it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PastRecord {
    pub snapshot: SnapshotRecord,
    /// The last frame that it includes.
    pub sequence: Sequence,
    pub mapped_bytes: u64,
    pub image: Image,
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

/// 32 bytes each in a list of few groups, some 3 to 15 in one of many.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GroupEntry {
    pub group: GroupId,
    pub len: u32,
    pub last_sequence: Sequence,
    pub data: u32,
    pub pages: u32,
    pub punched: u32,
    /// Extents of it may be at blocks that its own frames do not name. Not among the 32 bytes.
    pub is_copied: bool,
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
/// Of a checkpoint with a history.
const CHECKPOINT_WITH_HISTORY: u8 = 4;
/// Of a checkpoint with groups of which extents were taken over.
const CHECKPOINT_WITH_COPIES: u8 = 5;
/// Of a checkpoint with a list of groups in the short form.
const CHECKPOINT_SHORT: u8 = 6;
/// Of the birth of a clone.
const BIRTH_OF_CLONE: u8 = 2;
/// Of a birth with notes. One without has a version that builds from before can read.
const BIRTH_WITH_NOTES: u8 = 3;
/// Of that of a clone whose image has such groups.
const BIRTH_WITH_COPIES: u8 = 4;
/// Of that of a clone whose image has a list in the short form.
const BIRTH_SHORT: u8 = 5;
/// Of one that keeps its history.
const BIRTH_WITH_HISTORY: u8 = 6;
/// Of a rollback to such an image, or a snapshot of the past with one.
const IMAGE_WITH_COPIES: u8 = 2;
/// Of a rollback or a snapshot of the past whose image has a list in the short form.
const IMAGE_SHORT: u8 = 3;
/// Longer lists can only be rot.
const LIST_MAX: u32 = 1 << 22;

/// Where several forms of something are read.
type Take<T> = fn(&mut Reader) -> Result<T, RecordError>;

impl Record {
    /// Others are about names, or about snapshots that are there or not.
    pub(crate) fn changes_content(&self) -> bool {
        matches!(self, Record::Resize(_) | Record::Rollback(..) | Record::Copy(_))
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(64);
        let tag = match self {
            Record::Birth(..) | Record::BirthWithHistory(..) => 1,
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
            Record::Rewind(_) => 12,
            Record::Edge(..) => 13,
            Record::Past(_) => 14,
            Record::Copy(_) => 15,
        };
        let version = match self {
            Record::Birth(_, Some(origin), _) if origin.image.is_short() => BIRTH_SHORT,
            Record::BirthWithHistory(..) => BIRTH_WITH_HISTORY,
            Record::Birth(_, Some(origin), _) if origin.image.has_copies() => BIRTH_WITH_COPIES,
            Record::Birth(.., notes) if !notes.is_empty() => BIRTH_WITH_NOTES,
            Record::Birth(_, Some(_), _) => BIRTH_OF_CLONE,
            Record::Rollback(_, image) if image.is_short() => IMAGE_SHORT,
            Record::Rollback(_, image) if image.has_copies() => IMAGE_WITH_COPIES,
            Record::Past(past) if past.image.is_short() => IMAGE_SHORT,
            Record::Past(past) if past.image.has_copies() => IMAGE_WITH_COPIES,
            Record::Checkpoint(checkpoint) if checkpoint.is_short() => CHECKPOINT_SHORT,
            Record::Checkpoint(checkpoint) if checkpoint.has_copies() => CHECKPOINT_WITH_COPIES,
            Record::Checkpoint(checkpoint) if checkpoint.rewind.is_some() => CHECKPOINT_WITH_HISTORY,
            Record::Checkpoint(checkpoint) if checkpoint.has_snapshots() => CHECKPOINT_WITH_SNAPSHOTS,
            Record::Checkpoint(checkpoint) if !checkpoint.notes.is_empty() => CHECKPOINT_WITH_NOTES,
            _ => VERSION,
        };
        w.u8(tag).u8(version);
        match self {
            Record::Birth(attributes, origin, notes) => {
                put_attributes(&mut w, attributes);
                if matches!(version, BIRTH_WITH_COPIES | BIRTH_SHORT) {
                    put_notes(&mut w, notes);
                } else if !notes.is_empty() {
                    put_notes(&mut w, notes);
                    w.u8(origin.is_some().into());
                }
                if let Some(origin) = origin {
                    put_origin(&mut w, origin);
                }
            }
            Record::BirthWithHistory(attributes, notes, rewind) => {
                put_attributes(&mut w, attributes);
                put_notes(&mut w, notes);
                put_rewind(&mut w, rewind);
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
                groups::put_image(&mut w, image);
            }
            Record::Rewind(None) => drop(w.u8(0)),
            Record::Rewind(Some(rewind)) => {
                w.u8(1);
                put_rewind(&mut w, rewind);
            }
            Record::Edge(id, cut) => drop(w.u64_le(id.raw()).u8((*cut).into())),
            Record::Past(past) => {
                put_snapshot(&mut w, &past.snapshot);
                w.u64_le(past.sequence.0).u64_le(past.mapped_bytes);
                groups::put_image(&mut w, &past.image);
            }
            Record::Copy(copy) => copy.put(&mut w),
        }
        w.bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Record, RecordError> {
        let mut r = Reader::new(bytes);
        let (tag, version) = (r.u8()?, r.u8()?);
        let record = match (tag, version) {
            (6, CHECKPOINT_WITH_NOTES) => {
                let mut checkpoint = take_checkpoint(&mut r, groups::take_long)?;
                checkpoint.notes = take_notes(&mut r)?;
                if checkpoint.notes.is_empty() {
                    return Err(RecordError::Field);
                }
                Record::Checkpoint(Rc::new(checkpoint))
            }
            (6, CHECKPOINT_SHORT) => {
                let mut checkpoint = take_checkpoint(&mut r, groups::take_short)?;
                take_all_of(&mut r, &mut checkpoint)?;
                checkpoint.rewind = if take_bool(&mut r)? { Some(take_rewind_entry(&mut r)?) } else { None };
                Record::Checkpoint(Rc::new(checkpoint))
            }
            (6, CHECKPOINT_WITH_COPIES) => {
                let mut checkpoint = take_checkpoint(&mut r, groups::take_long)?;
                take_all_of(&mut r, &mut checkpoint)?;
                checkpoint.rewind = if take_bool(&mut r)? { Some(take_rewind_entry(&mut r)?) } else { None };
                let mut copied = groups::take_copied(&mut r)?.into_iter().peekable();
                for entry in &mut checkpoint.groups {
                    entry.is_copied = copied.next_if_eq(&entry.group).is_some();
                }
                if copied.next().is_some() {
                    return Err(RecordError::Field);
                }
                Record::Checkpoint(Rc::new(checkpoint))
            }
            (6, CHECKPOINT_WITH_HISTORY) => {
                let mut checkpoint = take_checkpoint(&mut r, groups::take_long)?;
                take_all_of(&mut r, &mut checkpoint)?;
                checkpoint.rewind = Some(take_rewind_entry(&mut r)?);
                Record::Checkpoint(Rc::new(checkpoint))
            }
            (6, CHECKPOINT_WITH_SNAPSHOTS) => {
                let mut checkpoint = take_checkpoint(&mut r, groups::take_long)?;
                take_all_of(&mut r, &mut checkpoint)?;
                if !checkpoint.has_snapshots() {
                    return Err(RecordError::Field);
                }
                Record::Checkpoint(Rc::new(checkpoint))
            }
            (1, BIRTH_OF_CLONE) => {
                let (attributes, origin) = (take_attributes(&mut r)?, take_origin(&mut r, groups::take_image)?);
                Record::Birth(attributes, Some(Box::new(origin)), Notes::new())
            }
            (1, BIRTH_WITH_NOTES) => {
                let (attributes, notes) = (take_attributes(&mut r)?, take_notes(&mut r)?);
                if notes.is_empty() {
                    return Err(RecordError::Field);
                }
                let origin = if take_bool(&mut r)? { Some(take_origin(&mut r, groups::take_image)?) } else { None };
                Record::Birth(attributes, origin.map(Box::new), notes)
            }
            (1, BIRTH_WITH_COPIES) => {
                let (attributes, notes) = (take_attributes(&mut r)?, take_notes(&mut r)?);
                let mut origin = take_origin(&mut r, groups::take_image)?;
                groups::take_copies_of(&mut r, &mut origin.image)?;
                Record::Birth(attributes, Some(Box::new(origin)), notes)
            }
            (1, BIRTH_SHORT) => {
                let (attributes, notes) = (take_attributes(&mut r)?, take_notes(&mut r)?);
                let origin = take_origin(&mut r, groups::take_short_image)?;
                Record::Birth(attributes, Some(Box::new(origin)), notes)
            }
            (1, BIRTH_WITH_HISTORY) => {
                Record::BirthWithHistory(take_attributes(&mut r)?, take_notes(&mut r)?, take_rewind(&mut r)?)
            }
            (10, IMAGE_WITH_COPIES) => {
                let (id, mut image) = (take_snapshot_id(&mut r)?, groups::take_image(&mut r)?);
                groups::take_copies_of(&mut r, &mut image)?;
                Record::Rollback(id, Box::new(image))
            }
            (10, IMAGE_SHORT) => {
                Record::Rollback(take_snapshot_id(&mut r)?, Box::new(groups::take_short_image(&mut r)?))
            }
            (14, IMAGE_WITH_COPIES) => {
                let mut past = take_past(&mut r, groups::take_image)?;
                groups::take_copies_of(&mut r, &mut past.image)?;
                Record::Past(Box::new(past))
            }
            (14, IMAGE_SHORT) => Record::Past(Box::new(take_past(&mut r, groups::take_short_image)?)),
            (_, 0 | 2..) => return Err(RecordError::Unknown(tag, version)),
            (1, _) => Record::Birth(take_attributes(&mut r)?, None, Notes::new()),
            (2, _) => Record::Rename(take_text(&mut r)?),
            (3, _) => Record::Resize(r.u64_le()?),
            (4, _) => Record::ReadOnly(take_bool(&mut r)?),
            (5, _) => Record::Delete,
            (6, _) => Record::Checkpoint(Rc::new(take_checkpoint(&mut r, groups::take_long)?)),
            (7, _) => {
                let (kind, bytes) = take_note(&mut r)?;
                Record::Note(kind, bytes)
            }
            (8, _) => Record::Snapshot(take_snapshot(&mut r)?),
            (9, _) => Record::DeleteSnapshot(take_snapshot_id(&mut r)?),
            (11, _) => Record::ConfirmSet(take_snapshot_id(&mut r)?),
            (12, _) => Record::Rewind(if take_bool(&mut r)? { Some(take_rewind(&mut r)?) } else { None }),
            (13, _) => Record::Edge(take_snapshot_id(&mut r)?, take_bool(&mut r)?),
            (14, _) => Record::Past(Box::new(take_past(&mut r, groups::take_image)?)),
            (15, _) => Record::Copy(Box::new(CopyRecord::take(&mut r)?)),
            (10, _) => Record::Rollback(take_snapshot_id(&mut r)?, Box::new(groups::take_image(&mut r)?)),
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
    w.u128_le(c.root.raw()).u8(c.height);
    let is_short = c.is_short();
    if is_short {
        groups::put_short(w, c.groups.iter().copied());
    } else {
        groups::put_long(w, &c.groups);
    }
    let has_all = is_short || c.has_copies();
    if !c.notes.is_empty() || c.has_snapshots() || c.rewind.is_some() || has_all {
        put_notes(w, &c.notes);
    }
    if c.has_snapshots() || c.rewind.is_some() || has_all {
        put_lineage(w, &c.lineage);
        w.u32_le(c.snapshots.len() as u32);
        c.snapshots.iter().for_each(|entry| put_snapshot_entry(w, entry));
    }
    if has_all {
        w.u8(c.rewind.is_some().into());
    }
    if let Some(RewindEntry { rewind, cut_short, high_ns }) = &c.rewind {
        put_rewind(w, rewind);
        w.u8((*cut_short).into()).u64_le(*high_ns);
    }
    if !is_short {
        groups::put_copied(w, c.groups.iter().filter(|entry| entry.is_copied).map(|entry| entry.group));
    }
}

fn take_rewind_entry(r: &mut Reader) -> Result<RewindEntry, RecordError> {
    let (rewind, cut_short) = (take_rewind(r)?, take_bool(r)?);
    Ok(RewindEntry { rewind, cut_short, high_ns: r.u64_le()? })
}

fn take_past(r: &mut Reader, take_image: Take<Image>) -> Result<PastRecord, RecordError> {
    let snapshot = take_snapshot(r)?;
    let (sequence, mapped_bytes) = (Sequence(r.u64_le()?), r.u64_le()?);
    Ok(PastRecord { snapshot, sequence, mapped_bytes, image: take_image(r)? })
}

fn put_rewind(w: &mut Writer, rewind: &Rewind) {
    w.u64_le(rewind.window_ns).u64_le(rewind.limit_bytes);
}

fn take_rewind(r: &mut Reader) -> Result<Rewind, RecordError> {
    Ok(Rewind { window_ns: r.u64_le()?, limit_bytes: r.u64_le()? })
}

fn put_note(w: &mut Writer, kind: NoteKind, bytes: &[u8]) {
    w.u8(kind as u8).u32_le(bytes.len() as u32).put(bytes);
}

fn put_notes(w: &mut Writer, notes: &Notes) {
    w.u8(notes.len() as u8);
    notes.iter().for_each(|(kind, bytes)| put_note(w, *kind, bytes));
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

/// What is common to all of its versions.
fn take_checkpoint(r: &mut Reader, take_groups: Take<Vec<GroupEntry>>) -> Result<CheckpointRecord, RecordError> {
    let group_id = |raw| GroupId::from_raw(raw).ok_or(RecordError::Field);
    let attributes = take_attributes(r)?;
    let covers = Position {
        group: group_id(r.u64_le()?)?,
        end: r.u32_le()?,
        chain: r.u32_le()?,
        sequence: Sequence(r.u64_le()?),
    };
    let (root, height) = take_root(r)?;
    let groups = take_groups(r)?;
    let (notes, lineage, snapshots) = (Notes::new(), Vec::new(), Vec::new());
    Ok(CheckpointRecord { attributes, notes, covers, root, height, groups, lineage, snapshots, rewind: None })
}

/// What follows in all versions from that with snapshots on.
fn take_all_of(r: &mut Reader, checkpoint: &mut CheckpointRecord) -> Result<(), RecordError> {
    checkpoint.notes = take_notes(r)?;
    checkpoint.lineage = take_lineage(r)?;
    checkpoint.snapshots = take_list(r, take_snapshot_entry)?;
    Ok(())
}

impl CheckpointRecord {
    fn has_snapshots(&self) -> bool {
        !self.lineage.is_empty() || !self.snapshots.is_empty()
    }
    fn has_copies(&self) -> bool {
        self.groups.iter().any(|entry| entry.is_copied)
    }
    /// Its list is written in the short form.
    fn is_short(&self) -> bool {
        groups::are_short(self.groups.iter().map(|entry| entry.group))
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

fn put_origin(w: &mut Writer, origin: &Origin) {
    w.u64_le(origin.snapshot.raw());
    put_lineage(w, &origin.lineage);
    groups::put_image(w, &origin.image);
}

fn take_origin(r: &mut Reader, take_image: Take<Image>) -> Result<Origin, RecordError> {
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
    let form = if snapshot.point.is_some() { 3 } else { set };
    w.u64_le(snapshot.created_ns).u64_le(snapshot.size_bytes).u8(form);
    if let Some(point) = &snapshot.point {
        w.u64_le(point.high_ns);
        return;
    }
    if let Some(set) = &snapshot.set {
        w.u64_le(set.id.raw());
        put_lineage(w, &set.members);
    }
}

fn take_snapshot(r: &mut Reader) -> Result<SnapshotRecord, RecordError> {
    let (id, name, created_ns, size_bytes) = (take_snapshot_id(r)?, take_text(r)?, r.u64_le()?, r.u64_le()?);
    let mut point = None;
    let set = match r.u8()? {
        0 => None,
        3 => {
            point = Some(PointRecord { high_ns: r.u64_le()? });
            None
        }
        form @ (1 | 2) => {
            let (id, members) = (take_snapshot_id(r)?, take_list(r, take_vdisk_id)?);
            Some(SetRecord { id, members, confirmed: form == 2 })
        }
        _ => return Err(RecordError::Field),
    };
    Ok(SnapshotRecord { id, name, created_ns, size_bytes, set, point })
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
mod tests;
