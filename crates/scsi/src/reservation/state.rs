//! Registrations and the persistent reservation, and which commands they admit. Knows nothing of commands' bytes.

use crate::path::Ports;
use crate::table::Access;

/// SPC-4 6.15.3.4, table 166; the value is the TYPE field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    WriteExclusive = 1,
    ExclusiveAccess = 3,
    WriteExclusiveRegistrantsOnly = 5,
    ExclusiveAccessRegistrantsOnly = 6,
    WriteExclusiveAllRegistrants = 7,
    ExclusiveAccessAllRegistrants = 8,
}

impl Kind {
    pub(crate) const ALL: [Kind; 6] = [
        Kind::WriteExclusive,
        Kind::ExclusiveAccess,
        Kind::WriteExclusiveRegistrantsOnly,
        Kind::ExclusiveAccessRegistrantsOnly,
        Kind::WriteExclusiveAllRegistrants,
        Kind::ExclusiveAccessAllRegistrants,
    ];
    pub(crate) fn from_code(code: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| *kind as u8 == code)
    }
    /// Every registered nexus holds it.
    pub(crate) fn all_registrants(self) -> bool {
        matches!(self, Kind::WriteExclusiveAllRegistrants | Kind::ExclusiveAccessAllRegistrants)
    }
    /// Every registered nexus may do what the holder may.
    pub(crate) fn for_registrants(self) -> bool {
        !matches!(self, Kind::WriteExclusive | Kind::ExclusiveAccess)
    }
    fn admits_reads(self) -> bool {
        matches!(self, Kind::WriteExclusive | Kind::WriteExclusiveRegistrantsOnly | Kind::WriteExclusiveAllRegistrants)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Registrant {
    pub ports: Ports,
    /// Never zero.
    pub key: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reservation {
    pub kind: Kind,
    /// Who made it, or took it over; with an all registrants type it is held by the others as well.
    pub holder: Ports,
}

/// Invariants: one registration for each pair of ports; the holder is registered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Reservations {
    /// PRGENERATION: counts changes of registrations, from zero at each power on.
    pub generation: u32,
    /// The last REGISTER asked for what is here to survive a restart.
    pub aptpl: bool,
    /// In order of registration.
    pub registrants: Vec<Registrant>,
    pub reservation: Option<Reservation>,
}

impl Reservations {
    pub(crate) fn key_of(&self, ports: &Ports) -> Option<u64> {
        self.registrants.iter().find(|registrant| registrant.ports == *ports).map(|registrant| registrant.key)
    }
    pub(crate) fn holds(&self, ports: &Ports) -> bool {
        self.reservation.as_ref().is_some_and(|reservation| {
            if reservation.kind.all_registrants() { self.key_of(ports).is_some() } else { reservation.holder == *ports }
        })
    }

    /// SPC-4 table 66 and SBC-3 table 14, in the three classes of [`Access`].
    pub(crate) fn admits(&self, ports: &Ports, access: Access) -> bool {
        let Some(reservation) = &self.reservation else { return true };
        let kind = reservation.kind;
        match access {
            Access::Always | Access::Status | Access::Own => true,
            Access::Read if kind.admits_reads() => true,
            Access::Read | Access::Write => {
                self.holds(ports) || (kind.for_registrants() && self.key_of(ports).is_some())
            }
        }
    }
}
