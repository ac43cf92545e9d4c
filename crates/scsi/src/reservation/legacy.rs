//! RESERVE and RELEASE 6 and 10 (SPC-2 7.21 to 7.24): of the whole logical unit, until the nexus is lost or something is reset.

use crate::Status;
use crate::call::{Call, Good, Ran, failed, ready};
use crate::fault::Fault;
use bytes::Bytes;
use world::Completion;

/// Who uses the persistent kind has no use for this one, and the other way round (CRH is zero; SPC-4 5.13.3).
fn registered(call: &Call) -> bool {
    !call.unit.reservations.borrow().registrants.is_empty()
}

pub(crate) fn reserve(call: &Call, _: Bytes) -> Completion<Ran> {
    let reserved = call.unit.reserved.get();
    if registered(call) || reserved.is_some_and(|holder| holder != call.path.id) {
        return failed(Fault::Status(Status::ReservationConflict));
    }
    call.unit.reserved.set(Some(call.path.id));
    ready(Good::NOTHING)
}

/// One who holds nothing releases nothing.
pub(crate) fn release(call: &Call, _: Bytes) -> Completion<Ran> {
    if registered(call) {
        return failed(Fault::Status(Status::ReservationConflict));
    }
    if call.unit.reserved.get() == Some(call.path.id) {
        call.unit.reserved.set(None);
    }
    ready(Good::NOTHING)
}
