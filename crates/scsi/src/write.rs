//! WRITE 6, 10, 12 and 16 (SBC-3 5.32 to 5.35).

#[cfg(test)]
mod tests;

use crate::call::{Call, Good, Ran, failed, ready};
use crate::fault::Fault;
use crate::range;
use crate::sense::{Code, Condition, Key};
use block::Request;
use bytes::Bytes;
use world::Completion;

pub(crate) fn check(call: &Call) -> Result<u32, Fault> {
    writable(call)?;
    let range = range::named(&call.cdb).transferable(call)?;
    Ok(range.bytes(call.sector_bytes()) as u32)
}

/// DATA PROTECT for a vDisk that is read-only, and for one that the initiators made so (SWP).
pub(crate) fn writable(call: &Call) -> Result<(), Condition> {
    if call.unit.geometry().read_only {
        return Err(Condition::new(Key::DataProtect, Code::WRITE_PROTECTED));
    }
    if call.unit.mode.get().software_write_protect {
        return Err(Condition::new(Key::DataProtect, Code::SOFTWARE_WRITE_PROTECTED));
    }
    Ok(())
}

/// FUA, which a write without a cache (WCE is zero) always has.
pub(crate) fn fua(call: &Call, bit: u8) -> bool {
    call.cdb.has::<1>(bit) || !call.unit.mode.get().write_cache
}

/// The blocks that an initiator offered, if it offered less than its CDB asks for: those are written, and the transport reports the
/// rest as residual overflow (RFC 7143 11.4.5.1). Part of a block is an invalid field in the information unit that brought the command.
pub(crate) fn whole_blocks(call: &Call, data: &Bytes) -> Result<(), Condition> {
    if data.len() % call.sector_bytes() as usize != 0 {
        return Err(Condition::illegal(Code::INVALID_INFORMATION_UNIT));
    }
    Ok(())
}

pub(crate) fn execute(call: &Call, data: Bytes) -> Completion<Ran> {
    if let Err(condition) = whole_blocks(call, &data) {
        return failed(condition);
    }
    if data.is_empty() {
        return ready(Good::NOTHING);
    }
    let offset = range::named(&call.cdb).range.offset(call.sector_bytes());
    // Byte 1 of the six-byte CDB belongs to the address.
    let fua = fua(call, if call.cdb.opcode() == 0x0a { 0 } else { 0x08 });
    call.submit(Request::Write { offset, data, fua }, offset, |_| Good::NOTHING)
}
