//! The header page of an extent group and the FREE mark of a slot: their bytes, and what two copies of them mean.
//!
//! A slot begins with a page of 4 KiB that holds two copies of one 512-byte record, at 0 and at 2048. A record never
//! crosses a sector, so each copy is the old one or the new one whole, however a power loss tears the page.
//!
//! | offset | GROUP record | FREE record |
//! |---|---|---|
//! | 0 | magic `DRYGROUP` | magic `DRYFREED` |
//! | 8 | format version u32 = 1 | format version u32 = 1 |
//! | 12 | flags u32: bit 0 = has a predecessor | 0 |
//! | 16 | group id u64 | freed group id u64 |
//! | 24 | vDisk id u64 | zeros up to 508 |
//! | 32 | epoch u64 | |
//! | 40 | first sequence u64 | |
//! | 48 | durable_through u64 | |
//! | 56 | wall time u64, ns since 1970 | |
//! | 64 | predecessor: group id u64 | |
//! | 72 | predecessor: sealed length u32 | |
//! | 76 | predecessor: chain checksum u32 | |
//! | 80 | zeros up to 508 | |
//! | 508 | crc32c u32 of bytes 0 to 507 | crc32c u32 of bytes 0 to 507 |

use base::{Epoch, GroupId, Reader, Sequence, Truncated, VdiskId, Writer};
use bytes::Bytes;
use world::WallTime;

/// Bytes of the header page; the first frame stands behind it.
pub const HEADER_PAGE: u32 = 4096;

const RECORD: usize = 512;
const SECOND_COPY: usize = 2048;
const GROUP_MAGIC: [u8; 8] = *b"DRYGROUP";
const FREE_MAGIC: [u8; 8] = *b"DRYFREED";
const VERSION: u32 = 1;
const HAS_PREDECESSOR: u32 = 1;

/// The group that a vDisk wrote before this one. What it holds beyond `sealed_len` is void.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Predecessor {
    pub group: GroupId,
    pub sealed_len: u32,
    /// Checksum of the last frame header in it.
    pub chain: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupHeader {
    pub group: GroupId,
    pub vdisk: VdiskId,
    pub epoch: Epoch,
    pub first_sequence: Sequence,
    /// The last sequence known to be synced when the header was written.
    pub durable_through: Sequence,
    pub predecessor: Option<Predecessor>,
    pub wall: WallTime,
}

impl GroupHeader {
    /// The page, both copies.
    pub fn encode(&self) -> Bytes {
        let mut w = Writer::with_capacity(HEADER_PAGE as usize);
        w.put(&GROUP_MAGIC).u32_le(VERSION);
        w.u32_le(if self.predecessor.is_some() { HAS_PREDECESSOR } else { 0 });
        w.u64_le(self.group.raw()).u64_le(self.vdisk.raw()).u64_le(self.epoch.0);
        w.u64_le(self.first_sequence.0).u64_le(self.durable_through.0).u64_le(self.wall.0);
        if let Some(predecessor) = self.predecessor {
            w.u64_le(predecessor.group.raw()).u32_le(predecessor.sealed_len).u32_le(predecessor.chain);
        }
        two_copies(w)
    }
}

/// The page that marks a slot as free.
pub(crate) fn encode_free(group: GroupId) -> Bytes {
    let mut w = Writer::with_capacity(HEADER_PAGE as usize);
    w.put(&FREE_MAGIC).u32_le(VERSION).u32_le(0).u64_le(group.raw());
    two_copies(w)
}

/// Ends the record with its checksum and makes a page of two of them.
pub(crate) fn two_copies(mut w: Writer) -> Bytes {
    w.zeros(RECORD - 4 - w.bytes.len());
    let crc = base::crc::crc32c(&w.bytes);
    w.u32_le(crc);
    let record = w.bytes.clone();
    w.zeros(SECOND_COPY - RECORD).put(&record).align(HEADER_PAGE as usize);
    w.bytes.into()
}

/// The two 512-byte copies of a page, empty where the page is too short.
pub(crate) fn copies(page: &[u8]) -> [&[u8]; 2] {
    [0, SECOND_COPY].map(|at| page.get(at..at + RECORD).unwrap_or_default())
}

/// The record without its checksum, if that is right.
pub(crate) fn checked(record: &[u8]) -> Option<&[u8]> {
    let (body, crc) = record.split_last_chunk::<4>()?;
    (base::crc::crc32c(body) == u32::from_le_bytes(*crc)).then_some(body)
}

/// What one copy says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copy1 {
    Zeros,
    Group(GroupHeader),
    Free(GroupId),
    Newer(u32),
    Bad,
}

fn decode_copy(record: &[u8]) -> Copy1 {
    if record.len() == RECORD && record.iter().all(|&b| b == 0) {
        return Copy1::Zeros;
    }
    checked(record).and_then(|body| decode_body(body).ok()).unwrap_or(Copy1::Bad)
}

fn decode_body(body: &[u8]) -> Result<Copy1, Truncated> {
    let mut r = Reader::new(body);
    let magic: [u8; 8] = r.array()?;
    if magic != GROUP_MAGIC && magic != FREE_MAGIC {
        return Ok(Copy1::Bad);
    }
    let version = r.u32_le()?;
    if version != VERSION {
        return Ok(Copy1::Newer(version));
    }
    let flags = r.u32_le()?;
    let Some(group) = GroupId::from_raw(r.u64_le()?) else { return Ok(Copy1::Bad) };
    if magic == FREE_MAGIC {
        return Ok(if flags == 0 { Copy1::Free(group) } else { Copy1::Bad });
    }
    let Some(vdisk) = VdiskId::from_raw(r.u64_le()?) else { return Ok(Copy1::Bad) };
    let (epoch, first, durable, wall) = (r.u64_le()?, r.u64_le()?, r.u64_le()?, r.u64_le()?);
    let predecessor = match flags {
        0 => None,
        HAS_PREDECESSOR => {
            let Some(group) = GroupId::from_raw(r.u64_le()?) else { return Ok(Copy1::Bad) };
            Some(Predecessor { group, sealed_len: r.u32_le()?, chain: r.u32_le()? })
        }
        _ => return Ok(Copy1::Bad),
    };
    Ok(Copy1::Group(GroupHeader {
        group,
        vdisk,
        epoch: Epoch(epoch),
        first_sequence: Sequence(first),
        durable_through: Sequence(durable),
        predecessor,
        wall: WallTime(wall),
    }))
}

/// What a slot's header page says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotPage {
    /// Never written, or punched.
    Blank,
    Group(GroupHeader),
    Free(GroupId),
    /// Neither copy can be read: the slot is left alone.
    Damaged(String),
}

/// GROUP wins over FREE (a free that is not whole is done again by the vDisk's recovery), any readable copy over an
/// unreadable one, and of two groups the later one: a slot is used again only after its FREE mark was synced.
pub fn decode_slot_page(page: &[u8]) -> SlotPage {
    let [a, b] = copies(page).map(decode_copy);
    match (a, b) {
        (Copy1::Newer(version), _) | (_, Copy1::Newer(version)) => {
            SlotPage::Damaged(format!("header of format version {version}, this build reads {VERSION}"))
        }
        (Copy1::Group(a), Copy1::Group(b)) => {
            SlotPage::Group(if (b.epoch, b.group) > (a.epoch, a.group) { b } else { a })
        }
        (Copy1::Group(header), _) | (_, Copy1::Group(header)) => SlotPage::Group(header),
        (Copy1::Free(group), _) | (_, Copy1::Free(group)) => SlotPage::Free(group),
        (Copy1::Zeros, Copy1::Zeros) => SlotPage::Blank,
        (Copy1::Bad, _) | (_, Copy1::Bad) => SlotPage::Damaged("both copies of the header are unreadable".into()),
    }
}

#[cfg(test)]
mod tests;
