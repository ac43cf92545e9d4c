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
use crate::path::Ports;
use crate::table::Access;
use crate::unit::LogicalUnit;

/// Whether a reservation lets a copy for this initiator port through. The port through which the initiator reaches this logical
/// unit is not known, and it may have another ISID there: what one of its ports may do, the initiator may.
pub(crate) fn admits_copy(unit: &LogicalUnit, initiator_port: &str, writes: bool) -> bool {
    let access = if writes { Access::Write } else { Access::Read };
    let own = initiator_name(initiator_port);
    let is_own = |ports: &Ports| initiator_name(&ports.initiator) == own;
    let holder = unit.reserved.get();
    let others_reserved = holder.is_some_and(|holder| !unit.ids_of(is_own).contains(&holder));
    let reservations = unit.reservations.borrow();
    let unregistered = Ports { initiator: initiator_port.into(), relative_target_port: 0 };
    let registered = reservations.registrants.iter().map(|registrant| &registrant.ports).filter(|ports| is_own(ports));
    let admitted = registered.chain([&unregistered]).any(|ports| reservations.admits(ports, access));
    !others_reserved && admitted
}

/// The initiator's name without the ISID of its port.
pub(crate) fn initiator_name(port: &str) -> &str {
    port.split_once(",i,0x").map_or(port, |(name, _)| name)
}

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
