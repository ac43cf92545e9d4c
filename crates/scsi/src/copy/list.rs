//! The parameter list of EXTENDED COPY (SPC-4 6.4.1).

use super::{DESCRIPTORS_BYTES_MAX, SEGMENTS_MAX, TARGETS_MAX};
use crate::sense::{Code, Condition};
use base::{Reader, Truncated};

pub(super) const HEADER_BYTES: usize = 16;
/// A list may be a little longer than what its header counts; nobody sends much more.
pub(super) const SLACK_BYTES: u32 = 4096;
const TARGET_BYTES: usize = 32;
const IDENTIFICATION: u8 = 0xe4;
const BLOCK_TO_BLOCK: u8 = 0x02;
/// Behind the descriptor's own header of four bytes.
const BLOCK_TO_BLOCK_BYTES: u16 = 0x18;

/// Whom a target descriptor names: a designator of VPD page 83h without its header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub designator: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub source: u16,
    pub destination: u16,
    pub blocks: u16,
    /// DC: the blocks are the destination's.
    pub counts_destination: bool,
    pub source_lba: u64,
    pub destination_lba: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CopyList {
    /// `None`: LIST ID USAGE 11b, nothing is to be remembered.
    pub id: Option<u8>,
    pub targets: Vec<Named>,
    pub segments: Vec<Segment>,
}

impl CopyList {
    pub(super) fn parse(list: &[u8]) -> Result<CopyList, Condition> {
        CopyList::read(list).unwrap_or(Err(Condition::list_length()))
    }

    fn read(list: &[u8]) -> Result<Result<CopyList, Condition>, Truncated> {
        let mut reader = Reader::new(list);
        let (id, flags) = (reader.u8()?, reader.u8()?);
        let targets_bytes = usize::from(reader.u16_be()?);
        reader.skip(4)?;
        let (segments_bytes, inline_bytes) = (reader.u32_be()?, reader.u32_be()?);
        if segments_bytes.saturating_add(targets_bytes as u32) > DESCRIPTORS_BYTES_MAX {
            return Ok(Err(Condition::list_length()));
        }
        if inline_bytes > 0 {
            return Ok(Err(Condition::illegal(Code::INLINE_DATA_TOO_LONG)));
        }
        let id = match flags >> 3 & 3 {
            // Without an id there is none to be named either.
            3 if id != 0 => return Ok(Err(Condition::list(0))),
            3 => None,
            _ => Some(id),
        };
        let (targets, segments) = (reader.take(targets_bytes)?, reader.take(segments_bytes as usize)?);
        Ok(CopyList::descriptors(id, targets, segments))
    }

    fn descriptors(id: Option<u8>, targets: &[u8], segments: &[u8]) -> Result<CopyList, Condition> {
        if targets.len() % TARGET_BYTES != 0 {
            return Err(Condition::list_length());
        }
        if targets.len() / TARGET_BYTES > usize::from(TARGETS_MAX) {
            return Err(Condition::illegal(Code::TOO_MANY_TARGETS));
        }
        let targets: Result<Vec<Named>, Condition> = targets
            .chunks_exact(TARGET_BYTES)
            .enumerate()
            .map(|(index, descriptor)| target(descriptor, HEADER_BYTES + index * TARGET_BYTES))
            .collect();
        let targets = targets?;
        let segments = segment_list(segments, HEADER_BYTES + targets.len() * TARGET_BYTES)?;
        Ok(CopyList { id, targets, segments })
    }
}

/// Identification descriptor target descriptor (SPC-4 6.4.5.2). LU ID TYPE and NUL are obsolete.
fn target(descriptor: &[u8], at: usize) -> Result<Named, Condition> {
    let field = |byte: usize| Condition::list((at + byte) as u16);
    let [kind, _, _, _, code_set, designator_type, _, len, rest @ ..] = descriptor else {
        return Err(Condition::list_length());
    };
    if *kind != IDENTIFICATION {
        return Err(Condition::illegal(Code::UNKNOWN_TARGET_TYPE));
    }
    // A designator of the logical unit, in binary or ASCII.
    if code_set & 0x0f == 0 || code_set & 0x0f > 3 {
        return Err(field(4));
    }
    if designator_type & 0x30 != 0 {
        return Err(field(5));
    }
    let designator = rest.get(..usize::from(*len).min(20)).ok_or(Condition::list_length())?;
    if usize::from(*len) > 20 {
        return Err(field(7));
    }
    Ok(Named { designator: designator.to_vec() })
}

fn segment_list(list: &[u8], at: usize) -> Result<Vec<Segment>, Condition> {
    let mut reader = Reader::new(list);
    let mut segments = Vec::new();
    while !reader.is_empty() {
        let start = at + list.len() - reader.rest().len();
        if segments.len() == usize::from(SEGMENTS_MAX) {
            return Err(Condition::illegal(Code::TOO_MANY_SEGMENTS));
        }
        segments.push(segment(&mut reader, start).unwrap_or(Err(Condition::list_length()))?);
    }
    Ok(segments)
}

/// Block device to block device (SPC-4 6.4.6.2).
fn segment(reader: &mut Reader<'_>, at: usize) -> Result<Result<Segment, Condition>, Truncated> {
    let (kind, flags, len) = (reader.u8()?, reader.u8()?, reader.u16_be()?);
    if kind != BLOCK_TO_BLOCK {
        return Ok(Err(Condition::illegal(Code::UNKNOWN_SEGMENT_TYPE)));
    }
    if len != BLOCK_TO_BLOCK_BYTES {
        return Ok(Err(Condition::list((at + 2) as u16)));
    }
    let (source, destination) = (reader.u16_be()?, reader.u16_be()?);
    reader.skip(2)?;
    let blocks = reader.u16_be()?;
    let (source_lba, destination_lba) = (reader.u64_be()?, reader.u64_be()?);
    let counts_destination = flags & 0x02 != 0;
    Ok(Ok(Segment { source, destination, blocks, counts_destination, source_lba, destination_lba }))
}
