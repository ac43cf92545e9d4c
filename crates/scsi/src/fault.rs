//! Why a command does not end with GOOD, and what the engine's errors are called in SCSI.

#[cfg(test)]
mod tests;

use crate::Status;
use crate::sense::{Code, Condition, Key};
use block::{Error, Kind};

/// The end of a command that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Check(Condition),
    /// A status without sense data.
    Status(Status),
    /// The task was aborted while it ran: it goes no further.
    Aborted,
}

impl From<Condition> for Fault {
    fn from(condition: Condition) -> Fault {
        Fault::Check(condition)
    }
}

/// What the initiator is told of an error of the device. `offset` is where the request began, in bytes.
pub(crate) fn condition(error: &Error, offset: u64, sector_bytes: u32) -> Condition {
    let at = error.at.unwrap_or(offset);
    let lba = at / u64::from(sector_bytes.max(1));
    match error.kind {
        // Everything was checked before it was submitted: either the device shrank, or it disagrees about a limit.
        Kind::Invalid => Condition::illegal(Code::INVALID_FIELD_IN_CDB),
        Kind::Corrupt => Condition::new(Key::MediumError, Code::UNRECOVERED_READ).information(lba),
        // Not a fault of the path: a multipath driver must not try the same on the other one.
        Kind::Io => Condition::new(Key::HardwareError, Code::INTERNAL_TARGET_FAILURE),
        Kind::Full => Condition::new(Key::DataProtect, Code::SPACE_ALLOCATION_FAILED),
        Kind::ReadOnly => Condition::new(Key::DataProtect, Code::WRITE_PROTECTED),
        Kind::Unavailable => Condition::new(Key::NotReady, Code::BECOMING_READY),
        // Here the vDisk is served no more, elsewhere it is: what a multipath driver takes for a path that failed.
        Kind::Fenced => Condition::new(Key::NotReady, Code::PORT_UNAVAILABLE),
        // Where in the data, not where on the medium (SBC-3 5.2).
        Kind::Miscompare => Condition::new(Key::Miscompare, Code::MISCOMPARE).information(at.saturating_sub(offset)),
        Kind::Unsupported => Condition::illegal(Code::INVALID_OPCODE),
    }
}
