//! Reading and comparing for the commands that go over a range in pieces, so that one command never holds more than a piece in
//! memory and notices between two pieces that it was aborted.

use crate::call::Call;
use crate::fault::Fault;
use crate::sense::{Code, Condition, Key};
use block::{Geometry, Reply, Request, Segment};

/// What a disk moves at its full speed; a command that is aborted goes on for that long at most.
pub(crate) const PIECE_BYTES: u32 = 1 << 20;

/// How much is moved at once: a power of two, so that it is whole blocks.
pub(crate) fn piece_bytes(geometry: &Geometry) -> u32 {
    let most = geometry.transfer_bytes_max.max(geometry.sector_bytes);
    PIECE_BYTES.min(1 << most.ilog2())
}

/// Offsets and lengths that make up a range.
pub(crate) fn pieces(offset: u64, len: u64, piece_bytes: u32) -> impl Iterator<Item = (u64, u32)> {
    let piece = u64::from(piece_bytes);
    (0..len.div_ceil(piece)).map(move |index| {
        let start = index * piece;
        (offset + start, piece.min(len - start) as u32)
    })
}

pub(crate) async fn read(call: &Call, offset: u64, len: u32) -> Result<Vec<Segment>, Fault> {
    match call.request(Request::Read { offset, len }, offset).await? {
        Reply::Data(data) => Ok(data),
        other => panic!("the device answered a read with {other:?}"),
    }
}

/// Whether all of it can be read; the data goes nowhere.
pub(crate) async fn verify(call: &Call, offset: u64, len: u64) -> Result<(), Fault> {
    for (offset, len) in pieces(offset, len, piece_bytes(&call.unit.geometry())) {
        read(call, offset, len).await?;
    }
    Ok(())
}

/// MISCOMPARE with the offset of the first byte that differs from `expected`.
pub(crate) async fn compare(call: &Call, offset: u64, expected: &[u8]) -> Result<(), Fault> {
    for (at, len) in pieces(offset, expected.len() as u64, piece_bytes(&call.unit.geometry())) {
        let start = (at - offset) as usize;
        let piece = expected.get(start..start + len as usize).expect("pieces lie inside");
        let data = read(call, at, len).await?;
        if let Some(differs) = first_difference(&data, piece) {
            return Err(miscompare((start + differs) as u64));
        }
    }
    Ok(())
}

/// The same with one block that all of the range has to hold.
pub(crate) async fn compare_repeated(call: &Call, offset: u64, len: u64, block: &[u8]) -> Result<(), Fault> {
    // A whole number of blocks: both are powers of two, and a block is the smaller one.
    let expected = block
        .repeat((piece_bytes(&call.unit.geometry()) as usize / block.len()).min((len as usize).div_ceil(block.len())));
    for (at, len) in pieces(offset, len, piece_bytes(&call.unit.geometry())) {
        let data = read(call, at, len).await?;
        let expected = expected.get(..len as usize).expect("no piece is longer than the first");
        if let Some(differs) = first_difference(&data, expected) {
            return Err(miscompare(at - offset + differs as u64));
        }
    }
    Ok(())
}

fn miscompare(at: u64) -> Fault {
    Condition::new(Key::Miscompare, Code::MISCOMPARE).information(at).into()
}

/// `segments` are as long as `expected`.
fn first_difference(segments: &[Segment], expected: &[u8]) -> Option<usize> {
    let mut at = 0;
    for segment in segments {
        let len = segment.len() as usize;
        let part = expected.get(at..at + len).expect("a reply covers its request");
        let differs = match segment {
            Segment::Bytes(bytes) if bytes == part => None,
            Segment::Bytes(bytes) => bytes.iter().zip(part).position(|(own, expected)| own != expected),
            Segment::Zeros(_) => part.iter().position(|byte| *byte != 0),
        };
        if let Some(differs) = differs {
            return Some(at + differs);
        }
        at += len;
    }
    None
}
