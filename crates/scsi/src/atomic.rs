//! COMPARE AND WRITE (SBC-3 5.2), ORWRITE 16 (5.6) and WRITE ATOMIC 16 (SBC-4 5.48): nothing of others comes in between.

#[cfg(test)]
mod tests;

use crate::call::{Call, Good, Ran, failed, ready};
use crate::fault::Fault;
use crate::sense::{Code, Condition};
use crate::{limits, medium, range, write};
use block::Request;
use bytes::Bytes;
use world::Completion;

const FUA: u8 = 0x08;

/// These commands do all of what their CDB says or nothing.
fn offers_all(call: &Call, bytes: u64) -> Result<u32, Fault> {
    if u64::from(call.offered) != bytes {
        return Err(Condition::illegal(Code::INVALID_INFORMATION_UNIT).into());
    }
    Ok(bytes as u32)
}

/// The transport may still have brought less than it promised.
fn all_there(data: &Bytes, bytes: u64) -> Result<(), Condition> {
    if data.len() as u64 != bytes { Err(Condition::illegal(Code::INVALID_INFORMATION_UNIT)) } else { Ok(()) }
}

/// Twice the blocks: what is expected, then what is written.
pub(crate) fn check_compare(call: &Call) -> Result<u32, Fault> {
    write::writable(call)?;
    let range = range::named(&call.cdb).inside(call)?;
    if range.blocks > limits::compare_blocks_max(&call.unit.geometry()).into() {
        return Err(Condition::cdb(13).into());
    }
    let bytes = 2 * range.bytes(call.sector_bytes());
    // One byte counts the blocks: an amount that disagrees with it is most likely a number that did not fit.
    if u64::from(call.offered) != bytes {
        return Err(Condition::cdb(13).into());
    }
    Ok(bytes as u32)
}

pub(crate) fn compare(call: &Call, data: Bytes) -> Completion<Ran> {
    let range = range::named(&call.cdb).range;
    if range.blocks == 0 {
        return ready(Good::NOTHING);
    }
    let sector_bytes = call.sector_bytes();
    let (offset, len) = (range.offset(sector_bytes), range.bytes(sector_bytes));
    if let Err(condition) = all_there(&data, 2 * len) {
        return failed(condition);
    }
    let (expected, data) = (data.slice(..len as usize), data.slice(len as usize..));
    let request = Request::CompareAndWrite { offset, expected, data, fua: write::fua(call, FUA) };
    call.submit(request, offset, |_| Good::NOTHING)
}

pub(crate) fn check_or(call: &Call) -> Result<u32, Fault> {
    write::writable(call)?;
    let range = range::named(&call.cdb).transferable(call)?;
    offers_all(call, range.bytes(call.sector_bytes()))
}

/// Each block by itself is read and written at once (SBC-3 5.6): pieces of what the device does in one go are enough.
pub(crate) fn or(call: &Call, data: Bytes) -> Completion<Ran> {
    let range = range::named(&call.cdb).range;
    if range.blocks == 0 {
        return ready(Good::NOTHING);
    }
    let sector_bytes = call.sector_bytes();
    let (start, len) = (range.offset(sector_bytes), range.bytes(sector_bytes));
    if let Err(condition) = all_there(&data, len) {
        return failed(condition);
    }
    let fua = write::fua(call, FUA);
    let piece_bytes = limits::atomic_bytes_max(&call.unit.geometry());
    if len <= piece_bytes.into() {
        return call.submit(Request::OrWrite { offset: start, data, fua }, start, |_| Good::NOTHING);
    }
    let call = call.clone();
    Completion::pending(async move {
        for (offset, len) in medium::pieces(start, len, piece_bytes) {
            let at = (offset - start) as usize;
            let data = data.slice(at..at + len as usize);
            call.request(Request::OrWrite { offset, data, fua }, offset).await?;
        }
        Ok(Good::NOTHING)
    })
}

/// ATOMIC BOUNDARY stays zero; the reserved bits have seen to that.
pub(crate) fn check_atomic(call: &Call) -> Result<u32, Fault> {
    write::writable(call)?;
    let range = range::named(&call.cdb).transferable(call)?;
    let geometry = call.unit.geometry();
    let bytes = range.bytes(geometry.sector_bytes);
    let granularity = u64::from(limits::granularity_bytes(&geometry));
    if bytes > limits::atomic_bytes_max(&geometry).into() || bytes % granularity != 0 {
        return Err(Condition::cdb(12).into());
    }
    if bytes > 0 && range.offset(geometry.sector_bytes) % granularity != 0 {
        return Err(Condition::cdb(2).into());
    }
    offers_all(call, bytes)
}

/// A write of whole blocks of the device up to its limit is atomic by itself.
pub(crate) fn atomic(call: &Call, data: Bytes) -> Completion<Ran> {
    let range = range::named(&call.cdb).range;
    if range.blocks == 0 {
        return ready(Good::NOTHING);
    }
    let sector_bytes = call.sector_bytes();
    if let Err(condition) = all_there(&data, range.bytes(sector_bytes)) {
        return failed(condition);
    }
    let offset = range.offset(sector_bytes);
    call.submit(Request::Write { offset, data, fua: write::fua(call, FUA) }, offset, |_| Good::NOTHING)
}
