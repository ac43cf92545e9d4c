//! Reservations: who may do what while a nexus has reserved the logical unit (SPC-4 5.13; RESERVE and RELEASE of SPC-2).

#[cfg(test)]
mod tests;

mod change;
mod legacy;
mod read;
mod state;
mod transport_id;
mod write;

pub(crate) use change::REGISTRANTS_MAX;
pub(crate) use legacy::{release, reserve};
pub(crate) use read::{capabilities, full_status, keys, reservation};
pub(crate) use state::{Kind, Registrant, Reservation, Reservations};
pub(crate) use write::{check, execute};

use crate::call::Call;
use crate::table::Access;

/// Whether a command with this access may go on; else RESERVATION CONFLICT.
pub(crate) fn admits(call: &Call, access: Access) -> bool {
    if matches!(access, Access::Always | Access::Own) {
        return true;
    }
    if call.unit.reserved.get().is_some_and(|holder| holder != call.path.id) {
        return false;
    }
    call.unit.reservations.borrow().admits(&call.path.ports, access)
}
