//! UNMAP (SBC-3 5.28). Blocks that are only part of one of the device's are written with zeros: what was unmapped reads as zeros (LBPRZ)
//! whatever its alignment.

#[cfg(test)]
mod tests;

use crate::call::{Call, Good, Ran, failed, ready};
use crate::fault::Fault;
use crate::limits::{UNMAP_BLOCKS_MAX, UNMAP_DESCRIPTORS_MAX};
use crate::range::{Range, capacity_blocks};
use crate::sense::{Code, Condition};
use crate::write;
use base::Reader;
use block::{Request, WriteZeroes};
use bytes::Bytes;
use world::Completion;

const HEADER_BYTES: usize = 8;
const DESCRIPTOR_BYTES: usize = 16;

pub(crate) fn check(call: &Call) -> Result<u32, Fault> {
    write::writable(call)?;
    Ok(call.cdb.u16::<7>().into())
}

pub(crate) fn execute(call: &Call, data: Bytes) -> Completion<Ran> {
    if call.cdb.u16::<7>() == 0 {
        return ready(Good::NOTHING);
    }
    if data.len() < usize::from(call.cdb.u16::<7>()) {
        return failed(Condition::list_length());
    }
    let ranges = match parse(&data, capacity_blocks(call)) {
        Ok(ranges) => ranges,
        Err(condition) => return failed(condition),
    };
    let sector_bytes = call.sector_bytes();
    let fua = !call.unit.mode.get().write_cache;
    let call = call.clone();
    Completion::pending(async move {
        for range in ranges {
            let (offset, len) = (range.offset(sector_bytes), range.bytes(sector_bytes));
            let request = Request::WriteZeroes { offset, len, how: WriteZeroes::Unmap, fua };
            call.request(request, offset).await?;
        }
        Ok(Good::NOTHING)
    })
}

/// All of them are checked before the first is unmapped. Neighbours become one range.
fn parse(list: &[u8], capacity_blocks: u64) -> Result<Vec<Range>, Condition> {
    let truncated = |_| Condition::list_length();
    let mut reader = Reader::new(list);
    reader.skip(2).map_err(truncated)?;
    let described_bytes = usize::from(reader.u16_be().map_err(truncated)?);
    reader.skip(HEADER_BYTES - 4).map_err(truncated)?;
    // A descriptor that is there in part, and what lies beyond the list, is left out (SBC-3 5.28.2).
    let descriptors = reader.rest().get(..described_bytes).unwrap_or(reader.rest());
    if descriptors.len() / DESCRIPTOR_BYTES > UNMAP_DESCRIPTORS_MAX as usize {
        return Err(Condition::list(2));
    }
    let mut ranges: Vec<Range> = Vec::new();
    let mut total = 0;
    for (index, descriptor) in descriptors.chunks_exact(DESCRIPTOR_BYTES).enumerate() {
        let mut descriptor = Reader::new(descriptor);
        let lba = descriptor.u64_be().map_err(truncated)?;
        let blocks = u64::from(descriptor.u32_be().map_err(truncated)?);
        if lba.checked_add(blocks).is_none_or(|end| end > capacity_blocks) {
            return Err(Condition::illegal(Code::LBA_OUT_OF_RANGE));
        }
        total += blocks;
        if total > u64::from(UNMAP_BLOCKS_MAX) {
            return Err(Condition::list((HEADER_BYTES + index * DESCRIPTOR_BYTES + 8) as u16));
        }
        match ranges.last_mut() {
            _ if blocks == 0 => {}
            Some(last) if last.lba + last.blocks == lba => last.blocks += blocks,
            _ => ranges.push(Range { lba, blocks }),
        }
    }
    Ok(ranges)
}
