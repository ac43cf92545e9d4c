//! VERIFY 10, 12 and 16 (SBC-3 5.29 to 5.31) and WRITE AND VERIFY 10, 12 and 16 (5.36 to 5.38).

#[cfg(test)]
mod tests;

use crate::call::{Call, Good, Ran, failed, ready};
use crate::fault::Fault;
use crate::sense::Condition;
use crate::{medium, range, write};
use block::Request;
use bytes::Bytes;
use world::Completion;

/// What the medium is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ByteCheck {
    /// With nothing: it only has to be readable.
    None,
    Data,
    /// Each block with the one that was sent.
    OneBlock,
}

fn byte_check(call: &Call) -> Result<ByteCheck, Condition> {
    match call.cdb.u8::<1>() >> 1 & 3 {
        0 => Ok(ByteCheck::None),
        1 => Ok(ByteCheck::Data),
        3 => Ok(ByteCheck::OneBlock),
        _ => Err(Condition::cdb_bit(1, 2)),
    }
}

pub(crate) fn check(call: &Call) -> Result<u32, Fault> {
    let named = range::named(&call.cdb);
    let range = named.inside(call)?;
    Ok(match byte_check(call)? {
        ByteCheck::None => 0,
        ByteCheck::Data => named.transferable(call)?.bytes(call.sector_bytes()) as u32,
        ByteCheck::OneBlock if range.blocks == 0 => 0,
        ByteCheck::OneBlock => call.sector_bytes(),
    })
}

pub(crate) fn execute(call: &Call, data: Bytes) -> Completion<Ran> {
    let range = range::named(&call.cdb).range;
    if range.blocks == 0 {
        return ready(Good::NOTHING);
    }
    let sector_bytes = call.sector_bytes();
    let (offset, len) = (range.offset(sector_bytes), range.bytes(sector_bytes));
    let check = match byte_check(call) {
        Ok(check) => check,
        Err(condition) => return failed(condition),
    };
    if let Err(condition) = write::whole_blocks(call, &data) {
        return failed(condition);
    }
    let call = call.clone();
    Completion::pending(async move {
        match check {
            ByteCheck::None => medium::verify(&call, offset, len).await?,
            ByteCheck::Data => medium::compare(&call, offset, &data).await?,
            // It was not sent: nothing to compare with.
            ByteCheck::OneBlock if data.is_empty() => {}
            ByteCheck::OneBlock => medium::compare_repeated(&call, offset, len, &data).await?,
        }
        Ok(Good::NOTHING)
    })
}

pub(crate) fn check_write(call: &Call) -> Result<u32, Fault> {
    // A single block is nothing that WRITE AND VERIFY could write.
    if byte_check(call)? == ByteCheck::OneBlock {
        return Err(Condition::cdb_bit(1, 2).into());
    }
    write::check(call)
}

/// What is verified has to be on the medium: the write is done as with FUA.
pub(crate) fn execute_write(call: &Call, data: Bytes) -> Completion<Ran> {
    if let Err(condition) = write::whole_blocks(call, &data) {
        return failed(condition);
    }
    if data.is_empty() {
        return ready(Good::NOTHING);
    }
    let compares = byte_check(call) == Ok(ByteCheck::Data);
    let offset = range::named(&call.cdb).range.offset(call.sector_bytes());
    let call = call.clone();
    Completion::pending(async move {
        call.request(Request::Write { offset, data: data.clone(), fua: true }, offset).await?;
        if compares {
            medium::compare(&call, offset, &data).await?;
        } else {
            medium::verify(&call, offset, data.len() as u64).await?;
        }
        Ok(Good::NOTHING)
    })
}
