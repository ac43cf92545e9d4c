//! TEST UNIT READY (SPC-4 6.47), START STOP UNIT (SBC-3 5.25), PREVENT ALLOW MEDIUM REMOVAL (SBC-3 5.15) and the self-test
//! (SEND DIAGNOSTIC, RECEIVE DIAGNOSTIC RESULTS; SPC-4 6.42, 6.31).

#[cfg(test)]
mod tests;

use crate::call::{Call, Good, Ran, failed, ready};
use crate::fault::Fault;
use crate::sense::Condition;
use crate::table::Access;
use crate::{Status, reservation};
use block::Request;
use bytes::Bytes;
use world::Completion;

/// A sanitize operation under way was seen before.
pub(crate) fn test_unit_ready(_: &Call, _: Bytes) -> Completion<Ran> {
    ready(Good::NOTHING)
}

fn reserved_against(call: &Call, access: Access) -> Result<(), Fault> {
    let admitted = reservation::admits(call, access);
    if admitted { Ok(()) } else { Err(Fault::Status(Status::ReservationConflict)) }
}

const START: u8 = 0x01;
const LOEJ: u8 = 0x02;
const NO_FLUSH: u8 = 0x04;

/// There is nothing to be ejected, and no power to be saved.
pub(crate) fn check_start_stop(call: &Call) -> Result<u32, Fault> {
    let starts = call.cdb.has::<4>(START) && call.cdb.u8::<4>() >> 4 == 0;
    reserved_against(call, if starts { Access::Status } else { Access::Write })?;
    if call.cdb.u8::<4>() >> 4 != 0 {
        return Err(Condition::cdb_bit(4, 7).into());
    }
    if call.cdb.has::<4>(LOEJ) {
        return Err(Condition::cdb_bit(4, 1).into());
    }
    Ok(0)
}

/// A vDisk has no motor: stopping it writes out the cache, and it stays ready.
pub(crate) fn start_stop(call: &Call, _: Bytes) -> Completion<Ran> {
    if call.cdb.has::<4>(START | NO_FLUSH) {
        return ready(Good::NOTHING);
    }
    call.submit(Request::Flush, 0, |_| Good::NOTHING)
}

pub(crate) fn check_prevent(call: &Call) -> Result<u32, Fault> {
    let prevents = call.cdb.has::<4>(0x01);
    reserved_against(call, if prevents { Access::Write } else { Access::Always })?;
    Ok(0)
}

/// Remembered, and without effect: nothing can be removed.
pub(crate) fn prevent(call: &Call, _: Bytes) -> Completion<Ran> {
    call.path.prevents_removal.set(call.cdb.has::<4>(0x01));
    ready(Good::NOTHING)
}

const SELFTEST: u8 = 0x04;

/// The default self-test; no pages can be sent.
pub(crate) fn check_send_diagnostic(call: &Call) -> Result<u32, Fault> {
    if call.cdb.has::<1>(SELFTEST) { Ok(0) } else { Err(Condition::cdb_bit(1, 2).into()) }
}

/// Whether the device answers.
pub(crate) fn send_diagnostic(call: &Call, _: Bytes) -> Completion<Ran> {
    call.submit(Request::Read { offset: 0, len: call.sector_bytes() }, 0, |_| Good::NOTHING)
}

/// PCV, and the page of supported pages, which is the only one.
pub(crate) fn check_receive_diagnostic(call: &Call) -> Result<u32, Fault> {
    if !call.cdb.has::<1>(0x01) {
        return Err(Condition::cdb_bit(1, 0).into());
    }
    if call.cdb.u8::<2>() != 0 {
        return Err(Condition::cdb(2).into());
    }
    Ok(0)
}

pub(crate) fn receive_diagnostic(call: &Call, _: Bytes) -> Completion<Ran> {
    ready(Good::bytes(vec![0, 0, 0, 1, 0], call.cdb.u16::<3>().into()))
}

/// READ DEFECT DATA 10 and 12 (SBC-3 5.16, 5.17): both lists are there, and empty.
pub(crate) fn defects_10(call: &Call, _: Bytes) -> Completion<Ran> {
    defects(&[0, call.cdb.u8::<2>() & 0x1f, 0, 0], call.cdb.u16::<7>().into())
}
pub(crate) fn defects_12(call: &Call, _: Bytes) -> Completion<Ran> {
    if call.cdb.u32::<2>() != 0 {
        return failed(Condition::cdb(2));
    }
    defects(&[0, call.cdb.u8::<1>() & 0x1f, 0, 0, 0, 0, 0, 0], call.cdb.u32::<6>() as usize)
}

fn defects(header: &[u8], allocation_bytes: usize) -> Completion<Ran> {
    ready(Good::bytes(header.to_vec(), allocation_bytes))
}
