//! READ CAPACITY 10 and 16 (SBC-3 5.12, 5.13).

use crate::call::{Call, Good, Ran, ready};
use crate::fault::Fault;
use crate::range::capacity_blocks;
use crate::sense::Condition;
use base::Writer;
use bytes::Bytes;
use world::Completion;

/// PMI is obsolete: the address means nothing without it.
pub(crate) fn check_10(call: &Call) -> Result<u32, Fault> {
    if call.cdb.u32::<2>() != 0 && !call.cdb.has::<8>(0x01) {
        return Err(Condition::cdb(2).into());
    }
    Ok(0)
}

pub(crate) fn check_16(call: &Call) -> Result<u32, Fault> {
    if call.cdb.u64::<2>() != 0 && !call.cdb.has::<14>(0x01) {
        return Err(Condition::cdb(2).into());
    }
    Ok(0)
}

/// A capacity that does not fit says so with all ones.
pub(crate) fn execute_10(call: &Call, _: Bytes) -> Completion<Ran> {
    let last = capacity_blocks(call).saturating_sub(1);
    let mut data = Writer::with_capacity(8);
    data.u32_be(u32::try_from(last).unwrap_or(u32::MAX)).u32_be(call.sector_bytes());
    ready(Good::bytes(data.bytes, 8))
}

/// Logical blocks per physical block, as an exponent.
pub(crate) fn physical_exponent(call: &Call) -> u8 {
    let geometry = call.unit.geometry();
    (geometry.preferred_bytes / geometry.sector_bytes).max(1).ilog2().min(15) as u8
}

pub(crate) fn execute_16(call: &Call, _: Bytes) -> Completion<Ran> {
    let last = capacity_blocks(call).saturating_sub(1);
    let mut data = Writer::with_capacity(32);
    data.u64_be(last).u32_be(call.sector_bytes());
    // No protection information; blocks are aligned; LBPME, LBPRZ: thin, and what is unmapped reads as zeros.
    data.u8(0).u8(physical_exponent(call)).u16_be(0xc000).zeros(16);
    ready(Good::bytes(data.bytes, call.cdb.u32::<10>() as usize))
}
