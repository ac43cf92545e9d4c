//! Control records: the payload of control frames. Every verb that changes a vDisk is one; the first frame is its birth.
//!
//! Little-endian: tag (1 byte), version (1 byte, 1), then the fields in the order of the struct; texts are a length
//! (2 bytes) and UTF-8. A record that is longer than its fields, or has an unknown tag or version, is refused.

use super::Position;
use crate::address::Address;
use crate::vdisk::Attributes;
use base::{GroupId, Reader, Sequence, Truncated, Writer};

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    Birth(Attributes),
    Rename(String),
    Resize(u64),
    ReadOnly(bool),
    /// Nothing follows it; all groups of the vDisk may go.
    Delete,
    Checkpoint(Box<CheckpointRecord>),
}

/// A map root and the log position that it covers, with all that a reader without metadata store needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckpointRecord {
    pub attributes: Attributes,
    /// The last frame that the map below includes; replay starts behind it.
    pub covers: Position,
    pub root: Address,
    pub height: u8,
    /// Every group of the vDisk that is still needed, the open one included.
    pub groups: Vec<GroupEntry>,
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

impl Record {
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(64);
        let tag = match self {
            Record::Birth(_) => 1,
            Record::Rename(_) => 2,
            Record::Resize(_) => 3,
            Record::ReadOnly(_) => 4,
            Record::Delete => 5,
            Record::Checkpoint(_) => 6,
        };
        w.u8(tag).u8(VERSION);
        match self {
            Record::Birth(attributes) => put_attributes(&mut w, attributes),
            Record::Rename(name) => put_text(&mut w, name),
            Record::Resize(size) => drop(w.u64_le(*size)),
            Record::ReadOnly(on) => drop(w.u8((*on).into())),
            Record::Delete => {}
            Record::Checkpoint(checkpoint) => put_checkpoint(&mut w, checkpoint),
        }
        w.bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Record, RecordError> {
        let mut r = Reader::new(bytes);
        let (tag, version) = (r.u8()?, r.u8()?);
        if version != VERSION {
            return Err(RecordError::Unknown(tag, version));
        }
        let record = match tag {
            1 => Record::Birth(take_attributes(&mut r)?),
            2 => Record::Rename(take_text(&mut r)?),
            3 => Record::Resize(r.u64_le()?),
            4 => Record::ReadOnly(take_bool(&mut r)?),
            5 => Record::Delete,
            6 => Record::Checkpoint(Box::new(take_checkpoint(&mut r)?)),
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
    let root = Address::from_raw(r.u128_le()?).ok_or(RecordError::Field)?;
    let height = r.u8()?;
    if !(1..=5).contains(&height) {
        return Err(RecordError::Field);
    }
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
    Ok(CheckpointRecord { attributes, covers, root, height, groups })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes() -> Attributes {
        Attributes { name: "web-01".into(), size_bytes: 8192, sector_bytes: 512, read_only: false, created_ns: 7 }
    }

    #[test]
    fn golden_bytes() {
        let hex = |record: &Record| record.encode().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let birth = Record::Birth(attributes());
        assert_eq!(hex(&birth), "010106007765622d3031002000000000000000020000000700000000000000");
        assert_eq!(hex(&Record::Rename("a".into())), "0201010061");
        assert_eq!(hex(&Record::Resize(4096)), "03010010000000000000");
        assert_eq!(hex(&Record::ReadOnly(true)), "040101");
        assert_eq!(hex(&Record::Delete), "0501");
    }

    #[test]
    fn every_record_survives_and_no_shorter_form_does() {
        let checkpoint = CheckpointRecord {
            attributes: attributes(),
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
        };
        for record in [
            Record::Birth(attributes()),
            Record::Rename("x".into()),
            Record::Resize(1 << 40),
            Record::ReadOnly(false),
            Record::Delete,
            Record::Checkpoint(Box::new(checkpoint)),
        ] {
            let bytes = record.encode();
            assert_eq!(Record::decode(&bytes), Ok(record));
            for len in 0..bytes.len() {
                assert!(Record::decode(&bytes[..len]).is_err());
            }
            assert_eq!(Record::decode(&[bytes, vec![0]].concat()), Err(RecordError::Field));
        }
    }
}
