//! Carrying out a copy, one segment after the other.

use super::list::{CopyList, Segment};
use super::results::Progress;
use crate::call::Call;
use crate::fault::Fault;
use crate::medium;
use crate::sense::{Code, Condition, Key};
use block::{BlockDevice, Kind, LEND_BYTES_MAX, Reply, Request, WriteZeroes};
use bytes::Bytes;
use std::rc::Rc;
use world::Completion;

/// A device of the copy, and whether it is the one that carries it out.
#[derive(Clone)]
struct Place {
    device: Rc<dyn BlockDevice>,
    own: bool,
}

/// Where one segment's bytes go, in bytes.
struct Move {
    from: u64,
    to: u64,
    len: u64,
}

pub(super) async fn copy(call: &Call, list: &CopyList, progress: &Progress) -> Result<(), Fault> {
    let mut places: Vec<Option<Place>> = vec![None; list.targets.len()];
    for (index, segment) in list.segments.iter().enumerate() {
        let aborted = |code: Code| {
            let condition = Condition::new(Key::CopyAborted, code);
            // COMMAND-SPECIFIC INFORMATION: the segment in the last two bytes (SPC-4 6.4.3).
            Fault::Check(condition.command_specific(index as u64))
        };
        for number in [segment.source, segment.destination] {
            let number = usize::from(number);
            let named = list.targets.get(number).ok_or(aborted(Code::UNREACHABLE_COPY_TARGET))?;
            let place = places.get_mut(number).ok_or(aborted(Code::UNREACHABLE_COPY_TARGET))?;
            if place.is_none() {
                let found = open(call, &named.designator).await;
                *place = Some(found.ok_or(aborted(Code::COPY_TARGET_NOT_REACHABLE))?);
            }
        }
        let place = |number: u16| places.get(usize::from(number)).cloned().flatten();
        let both = place(segment.source).zip(place(segment.destination));
        let (source, destination) = both.ok_or(aborted(Code::UNREACHABLE_COPY_TARGET))?;
        if destination.own {
            super::writable(call)?;
        }
        let move_ = plan(segment, &source, &destination).ok_or(aborted(Code::NONE))?;
        run(call, &source, &destination, &move_, aborted(Code::THIRD_PARTY_FAILURE)).await?;
        progress.segment_done(move_.len);
    }
    Ok(())
}

async fn open(call: &Call, designator: &[u8]) -> Option<Place> {
    if call.unit.identity.matches(designator) {
        return Some(Place { device: call.unit.device.clone(), own: true });
    }
    let device = call.unit.host.open(designator, &call.path.ports.initiator).await?;
    Some(Place { device, own: false })
}

/// `None`: beyond the end of either, or blocks of one that are not whole blocks of the other.
fn plan(segment: &Segment, source: &Place, destination: &Place) -> Option<Move> {
    let (from, to) = (source.device.geometry(), destination.device.geometry());
    let unit = if segment.counts_destination { to.sector_bytes } else { from.sector_bytes };
    let len = u64::from(segment.blocks) * u64::from(unit);
    if len % u64::from(from.sector_bytes) != 0 || len % u64::from(to.sector_bytes) != 0 {
        return None;
    }
    let inside = |lba: u64, sector_bytes: u32, size_bytes: u64| {
        let offset = lba.checked_mul(u64::from(sector_bytes))?;
        (offset.checked_add(len)? <= size_bytes).then_some(offset)
    };
    Some(Move {
        from: inside(segment.source_lba, from.sector_bytes, from.size_bytes)?,
        to: inside(segment.destination_lba, to.sector_bytes, to.size_bytes)?,
        len,
    })
}

async fn run(call: &Call, source: &Place, destination: &Place, whole: &Move, failed: Fault) -> Result<(), Fault> {
    let mut parts = parts(source, destination, whole);
    // Where the ranges overlap, the end of the source must not be overwritten before it was read. One disk may have been
    // named in two ways, so that it is done for all: between two disks the order does not matter.
    if whole.from < whole.to {
        parts.reverse();
    }
    let mut shares = true;
    for (part, is_whole_blocks) in parts {
        if shares && is_whole_blocks {
            shares = share(call, source, destination, &part, failed).await?;
            if shares {
                continue;
            }
        }
        move_bytes(call, source, destination, &part, failed).await?;
    }
    Ok(())
}

/// In their order, each with whether it is of whole blocks at both places.
fn parts(source: &Place, destination: &Place, whole: &Move) -> Vec<(Move, bool)> {
    let block = u64::from(source.device.geometry().preferred_bytes.max(destination.device.geometry().preferred_bytes));
    let part = |at: u64, len: u64| Move { from: whole.from + at, to: whole.to + at, len };
    let head = (whole.from.next_multiple_of(block) - whole.from).min(whole.len);
    if whole.from % block != whole.to % block {
        return vec![(part(0, whole.len), false)];
    }
    let tail = (whole.len - head) % block;
    let middle = medium::pieces(head, whole.len - head - tail, LEND_BYTES_MAX);
    let edges = [(part(0, head), false), (part(whole.len - tail, tail), false)];
    let [head, tail] = edges;
    let all = [head].into_iter().chain(middle.map(|(at, len)| (part(at, len.into()), true))).chain([tail]);
    all.filter(|(part, _)| part.len > 0).collect()
}

/// The destination refers to what the source has. `false`: the bytes have to be moved.
async fn share(call: &Call, source: &Place, destination: &Place, part: &Move, failed: Fault) -> Result<bool, Fault> {
    let Ok(lent) = ask(call, source, |device| device.lend(part.from, part.len as u32)).await? else { return Ok(false) };
    match ask(call, destination, |device| device.take(part.to, lent)).await? {
        Ok(()) => Ok(true),
        // A write waits for room, if there may be any.
        Err(error) if matches!(error.kind, Kind::Unsupported | Kind::Full) => Ok(false),
        Err(_) => Err(failed),
    }
}

async fn move_bytes(call: &Call, source: &Place, destination: &Place, part: &Move, failed: Fault) -> Result<(), Fault> {
    let piece_bytes =
        medium::piece_bytes(&source.device.geometry()).min(medium::piece_bytes(&destination.device.geometry()));
    let mut pieces: Vec<(u64, u32)> = medium::pieces(0, part.len, piece_bytes).collect();
    if part.from < part.to {
        pieces.reverse();
    }
    for (at, len) in pieces {
        let read = Request::Read { offset: part.from + at, len };
        let data = match ask(call, source, |device| device.submit(read)).await? {
            Ok(Reply::Data(data)) => data,
            Ok(other) => panic!("the device answered a read with {other:?}"),
            Err(_) => return Err(failed),
        };
        let mut offset = part.to + at;
        for segment in merged(data) {
            let (len, request) = match segment {
                Piece::Zeros(len) => (len, Request::WriteZeroes { offset, len, how: WriteZeroes::Unmap, fua: false }),
                Piece::Bytes(data) => (data.len() as u64, Request::Write { offset, data, fua: false }),
            };
            if ask(call, destination, |device| device.submit(request)).await?.is_err() {
                return Err(failed);
            }
            offset += len;
        }
    }
    Ok(())
}

/// What is under way at another logical unit is a task there: here it holds up nothing.
async fn ask<T: 'static>(
    call: &Call,
    place: &Place,
    begin: impl FnOnce(&dyn BlockDevice) -> Completion<block::Result<T>>,
) -> Result<block::Result<T>, Fault> {
    call.unit.tasks.borrow_mut().is_elsewhere(call.key, !place.own);
    let asked = call.request_of(&*place.device, begin).await;
    call.unit.tasks.borrow_mut().is_elsewhere(call.key, false);
    asked
}

enum Piece {
    Zeros(u64),
    Bytes(Bytes),
}

/// Neighbours of one kind become one request.
fn merged(data: Vec<block::Segment>) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    for segment in data {
        match (pieces.last_mut(), segment) {
            (Some(Piece::Zeros(len)), block::Segment::Zeros(more)) => *len += more,
            (Some(Piece::Bytes(bytes)), block::Segment::Bytes(more)) => {
                let mut joined = Vec::with_capacity(bytes.len() + more.len());
                joined.extend_from_slice(bytes);
                joined.extend_from_slice(&more);
                *bytes = joined.into();
            }
            (_, block::Segment::Zeros(len)) => pieces.push(Piece::Zeros(len)),
            (_, block::Segment::Bytes(bytes)) => pieces.push(Piece::Bytes(bytes)),
        }
    }
    pieces
}
