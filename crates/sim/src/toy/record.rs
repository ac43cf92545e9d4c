//! The toy's records: one page of header, chained by checksum, then the payload.

use base::crc::crc32c;
use base::{Reader, Truncated, Writer};
use bytes::Bytes;

pub const PAGE: u64 = 4096;
const MAGIC: u32 = 0x544f_5921;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verb {
    Create {
        name: String,
        size_bytes: u64,
    },
    Write {
        sector: u64,
    },
    Zero {
        sector: u64,
        sectors: u64,
    },
    Rename {
        name: String,
    },
    Resize {
        size_bytes: u64,
    },
    SetReadOnly {
        read_only: bool,
    },
    /// The payload is the note.
    SetNote {
        kind: u8,
    },
    Delete,
    Snapshot {
        id: u64,
        name: String,
    },
    DeleteSnapshot {
        id: u64,
    },
    /// New vDisks with ids from `first` on, one for each line of `names`.
    Clone {
        snapshot: u64,
        first: u64,
        names: String,
    },
    Rollback {
        snapshot: u64,
    },
    /// A part of a rollback, for a bug: sectors below the first or from it on.
    RollbackHalf {
        snapshot: u64,
        sector: u64,
    },
    /// Snapshots with ids from `first` on; the first line of `text` is their name, the others are the members.
    Set {
        first: u64,
        text: String,
    },
}

#[derive(Clone, Debug)]
pub struct Record {
    pub vdisk: u64,
    pub verb: Verb,
    pub payload: Bytes,
}

/// Where a sector's bytes are: `index` sectors into the payload at `offset`.
#[derive(Clone, Debug)]
pub struct Place {
    pub offset: u64,
    pub len: usize,
    pub crc: u32,
    pub index: u64,
}

/// What a header says besides the record.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    pub sequence: u64,
    /// The last sequence number known to be synced when this was written.
    pub durable_through: u64,
    pub chain: u32,
    pub payload_len: usize,
    pub payload_crc: u32,
}

impl Header {
    /// Header and payload, in whole pages.
    pub fn stored_bytes(&self) -> u64 {
        PAGE + base::units::round_up(self.payload_len as u64, PAGE)
    }
}

/// The header page; its checksum, which the next header continues.
pub fn encode(record: &Record, payload_crc: u32, sequence: u64, durable_through: u64, chain: u32) -> (Bytes, u32) {
    let mut writer = Writer::with_capacity(PAGE as usize);
    writer.u32_le(MAGIC).u32_le(chain).u64_le(sequence).u64_le(durable_through).u64_le(record.vdisk);
    writer.u32_le(record.payload.len() as u32).u32_le(payload_crc);
    let (tag, a, b, name) = match &record.verb {
        Verb::Create { name, size_bytes } => (0, *size_bytes, 0, name.as_str()),
        Verb::Write { sector } => (1, *sector, 0, ""),
        Verb::Zero { sector, sectors } => (2, *sector, *sectors, ""),
        Verb::Rename { name } => (3, 0, 0, name.as_str()),
        Verb::Resize { size_bytes } => (4, *size_bytes, 0, ""),
        Verb::SetReadOnly { read_only } => (5, u64::from(*read_only), 0, ""),
        Verb::Delete => (6, 0, 0, ""),
        Verb::SetNote { kind } => (7, u64::from(*kind), 0, ""),
        Verb::Snapshot { id, name } => (8, *id, 0, name.as_str()),
        Verb::DeleteSnapshot { id } => (9, *id, 0, ""),
        Verb::Clone { snapshot, first, names } => (10, *snapshot, *first, names.as_str()),
        Verb::Rollback { snapshot } => (11, *snapshot, 0, ""),
        Verb::RollbackHalf { snapshot, sector } => (12, *snapshot, *sector, ""),
        Verb::Set { first, text } => (13, *first, 0, text.as_str()),
    };
    writer.u8(tag).u64_le(a).u64_le(b).u8(name.len() as u8).put(name.as_bytes());
    writer.zeros(PAGE as usize - 4 - writer.bytes.len());
    let crc = crc32c(&writer.bytes);
    writer.u32_le(crc);
    (writer.bytes.into(), crc)
}

/// `None` if this is no header. The payload is left empty.
pub fn decode(page: &[u8]) -> Option<(Header, Record, u32)> {
    let (body, crc) = page.split_at_checked(PAGE as usize - 4)?;
    let crc = Reader::new(crc).u32_le().ok()?;
    if crc32c(body) != crc {
        return None;
    }
    let (header, record) = decode_body(body).ok()??;
    Some((header, record, crc))
}

fn decode_body(body: &[u8]) -> Result<Option<(Header, Record)>, Truncated> {
    let mut reader = Reader::new(body);
    if reader.u32_le()? != MAGIC {
        return Ok(None);
    }
    let (chain, sequence, durable_through) = (reader.u32_le()?, reader.u64_le()?, reader.u64_le()?);
    let (vdisk, payload_len, payload_crc) = (reader.u64_le()?, reader.u32_le()? as usize, reader.u32_le()?);
    let (tag, a, b, name_len) = (reader.u8()?, reader.u64_le()?, reader.u64_le()?, reader.u8()? as usize);
    let Ok(name) = String::from_utf8(reader.take(name_len)?.to_vec()) else { return Ok(None) };
    let verb = match tag {
        0 => Verb::Create { name, size_bytes: a },
        1 => Verb::Write { sector: a },
        2 => Verb::Zero { sector: a, sectors: b },
        3 => Verb::Rename { name },
        4 => Verb::Resize { size_bytes: a },
        5 => Verb::SetReadOnly { read_only: a == 1 },
        6 => Verb::Delete,
        7 => Verb::SetNote { kind: a as u8 },
        8 => Verb::Snapshot { id: a, name },
        9 => Verb::DeleteSnapshot { id: a },
        10 => Verb::Clone { snapshot: a, first: b, names: name },
        11 => Verb::Rollback { snapshot: a },
        12 => Verb::RollbackHalf { snapshot: a, sector: b },
        13 => Verb::Set { first: a, text: name },
        _ => return Ok(None),
    };
    let header = Header { sequence, durable_through, chain, payload_len, payload_crc };
    Ok(Some((header, Record { vdisk, verb, payload: Bytes::new() })))
}
