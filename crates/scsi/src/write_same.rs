//! WRITE SAME 10 and 16 (SBC-3 5.39, 5.40). Zeros become one request whatever their amount; anything else is written in pieces.

#[cfg(test)]
mod tests;

use crate::call::{Call, Good, Ran, failed};
use crate::fault::Fault;
use crate::medium;
use crate::range;
use crate::sense::{Code, Condition};
use crate::write;
use block::{Request, WriteZeroes};
use bytes::Bytes;
use world::Completion;

const WRITE_SAME_16: u8 = 0x93;

/// NDOB: no data-out buffer, zeros are meant.
fn without_data(call: &Call) -> bool {
    call.cdb.opcode() == WRITE_SAME_16 && call.cdb.has::<1>(0x01)
}

pub(crate) fn check(call: &Call) -> Result<u32, Fault> {
    write::writable(call)?;
    let named = range::named(&call.cdb);
    // WSNZ: no blocks do not mean all up to the end.
    if named.inside(call)?.blocks == 0 {
        return Err(Condition::cdb(named.blocks_at).into());
    }
    if without_data(call) {
        return Ok(0);
    }
    if call.offered != call.sector_bytes() {
        return Err(Condition::illegal(Code::INVALID_INFORMATION_UNIT).into());
    }
    Ok(call.sector_bytes())
}

pub(crate) fn execute(call: &Call, data: Bytes) -> Completion<Ran> {
    let range = range::named(&call.cdb).range;
    let sector_bytes = call.sector_bytes();
    let (offset, len) = (range.offset(sector_bytes), range.bytes(sector_bytes));
    let fua = !call.unit.mode.get().write_cache;
    if without_data(call) || data.iter().all(|byte| *byte == 0) && data.len() == sector_bytes as usize {
        let how = if call.cdb.has::<1>(0x08) { WriteZeroes::Unmap } else { WriteZeroes::KeepAllocated };
        return call.submit(Request::WriteZeroes { offset, len, how, fua }, offset, |_| Good::NOTHING);
    }
    if data.len() != sector_bytes as usize {
        return failed(Condition::illegal(Code::INVALID_INFORMATION_UNIT));
    }
    // UNMAP allows to unmap what would read as the data all the same; other data has to be written.
    let call = call.clone();
    Completion::pending(async move {
        repeat(&call, offset, len, &data, fua).await?;
        Ok(Good::NOTHING)
    })
}

/// Writes a pattern of a whole number of sectors over and over.
pub(crate) async fn repeat(call: &Call, offset: u64, len: u64, block: &[u8], fua: bool) -> Result<(), Fault> {
    let piece_bytes = medium::piece_bytes(&call.unit.geometry());
    let count = (piece_bytes as usize / block.len()).min((len as usize).div_ceil(block.len()));
    let pattern = Bytes::from(block.repeat(count));
    for (offset, len) in medium::pieces(offset, len, piece_bytes) {
        let data = pattern.slice(..len as usize);
        call.request(Request::Write { offset, data, fua }, offset).await?;
    }
    Ok(())
}
