//! The parts of a frame in the making, and what a frame on the disk says of them.

use super::frame::{self, Frame, Run, RunKind};
use super::{Position, Sums, WalkedFrame};
use crate::address::Address;
use crate::map::PagePlace;
use base::units::BLOCK;
use bytes::Bytes;

/// A part of a frame in the making.
#[derive(Clone)]
pub(crate) enum Piece {
    Data { block: u64, bytes: Bytes, sums: Sums },
    Clear { block: u64, count: u32, fill: Address },
    Page { place: PagePlace, bytes: Bytes },
    Control { bytes: Bytes },
}

impl Piece {
    /// Whole blocks, whose checksums come with the frame.
    pub fn data(block: u64, bytes: Bytes) -> Piece {
        Piece::Data { block, bytes, sums: Sums::default() }
    }
    pub(super) fn payload(&self) -> Option<&Bytes> {
        match self {
            Piece::Data { bytes, .. } | Piece::Page { bytes, .. } | Piece::Control { bytes } => Some(bytes),
            Piece::Clear { .. } => None,
        }
    }
    pub(super) fn blocks(&self) -> std::ops::Range<u64> {
        match self {
            Piece::Data { block, bytes, .. } => *block..*block + bytes.len() as u64 / BLOCK,
            Piece::Clear { block, count, .. } => *block..*block + u64::from(*count),
            Piece::Page { .. } | Piece::Control { .. } => 0..0,
        }
    }
}

/// Addresses of a run's blocks (data) or of its page.
pub(crate) fn run_addresses(frame: &Frame, run: &Run) -> Vec<Address> {
    let start = frame.offset + run.payload_offset;
    let unit = BLOCK as u32;
    (0..run.crc_count() as u32)
        .map(|i| Address::new(frame.group, start + i * unit, unit, frame.crcs[(run.crc_first + i) as usize]))
        .collect()
}

/// What a frame on the disk stores by `run`, as it was written.
pub(crate) fn piece_of(walked: &WalkedFrame, run: &Run) -> Option<Piece> {
    match run.kind {
        RunKind::Data => Some(Piece::data(run.block, Bytes::copy_from_slice(&walked.payload(run)))),
        RunKind::ClearHole => Some(Piece::Clear { block: run.block, count: run.count, fill: Address::NONE }),
        RunKind::ClearZeros => Some(Piece::Clear { block: run.block, count: run.count, fill: Address::ZEROS }),
        RunKind::Control => Some(Piece::Control { bytes: Bytes::copy_from_slice(&walked.payload(run)) }),
        RunKind::Page => None,
    }
}

/// Addresses that the pieces had in the frame at `offset`, computed as `draft` does.
pub(super) fn old_addresses(pieces: &[Piece], at: &Position, offset: u32) -> Vec<Vec<Address>> {
    let payload_len: usize = pieces.iter().filter_map(Piece::payload).map(Bytes::len).sum();
    let mut next = at.end - payload_len as u32;
    debug_assert!(next >= offset);
    let mut all = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let mut addresses = Vec::new();
        if let Piece::Data { bytes, sums, .. } = piece {
            let mut crcs = Vec::new();
            sums.push_to(&mut crcs, bytes);
            for crc in crcs {
                addresses.push(Address::new(at.group, next, BLOCK as u32, crc));
                next += BLOCK as u32;
            }
        } else {
            next += piece.payload().map_or(0, Bytes::len) as u32;
        }
        all.push(addresses);
    }
    all
}

/// Header, gap, payload.
pub(super) fn gather(frame: &mut Frame, header_len: u32, pieces: &[Piece]) -> Vec<Bytes> {
    let payload: u32 = pieces.iter().filter_map(Piece::payload).map(|bytes| bytes.len() as u32).sum();
    let gap = frame.len - payload - header_len;
    let mut header = frame::encode(frame);
    header.resize((header_len + gap) as usize, 0);
    let mut parts = Vec::with_capacity(pieces.len() + 1);
    parts.push(Bytes::from(header));
    parts.extend(pieces.iter().filter_map(Piece::payload).cloned());
    parts
}
