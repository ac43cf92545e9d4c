//! SANITIZE (SBC-3 5.22, 4.11): an operation on all of the medium that goes on whatever becomes of the command, the nexus, or the
//! process that began it. While it runs, and after it failed, hardly anything else is answered.

#[cfg(test)]
mod tests;

mod operation;

pub(crate) use operation::{Plan, resume};

use crate::call::{Call, Good, Ran, failed, ready};
use crate::fault::{self, Fault};
use crate::sense::{Code, Condition, Key, Specific};
use crate::table::Entry;
use crate::unit::LogicalUnit;
use crate::write;
use base::Reader;
use bytes::Bytes;
use std::rc::Rc;
use world::Completion;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Sanitize {
    #[default]
    Idle,
    Running {
        plan: Rc<Plan>,
        exit: Exit,
        /// Parts of 65,536.
        progress: u16,
    },
    Failed {
        exit: Exit,
    },
}

/// AUSE: whether EXIT FAILURE MODE leads out of a sanitize operation that failed, or only another one that succeeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Restricted,
    Unrestricted,
}

pub(crate) const OPCODE: u8 = 0x48;
const HEADER_BYTES: usize = 4;

/// Whether a command may be carried out beside it.
pub(crate) fn admits(unit: &LogicalUnit, entry: &Entry) -> Result<(), Fault> {
    if entry.despite_sanitize {
        return Ok(());
    }
    match &*unit.sanitize.borrow() {
        Sanitize::Idle => Ok(()),
        Sanitize::Running { progress, .. } => Err(in_progress(*progress).into()),
        Sanitize::Failed { .. } if entry.opcode == OPCODE => Ok(()),
        Sanitize::Failed { .. } => Err(FAILED.into()),
    }
}

const FAILED: Condition = Condition::new(Key::MediumError, Code::SANITIZE_FAILED);

fn in_progress(progress: u16) -> Condition {
    Condition::new(Key::NotReady, Code::SANITIZE_IN_PROGRESS).specific(Specific::Progress(progress))
}

/// What REQUEST SENSE tells of it.
pub(crate) fn pollable(unit: &LogicalUnit) -> Option<Condition> {
    match &*unit.sanitize.borrow() {
        Sanitize::Idle => None,
        Sanitize::Running { progress, .. } => Some(in_progress(*progress)),
        Sanitize::Failed { .. } => Some(FAILED),
    }
}

fn exit(call: &Call) -> Exit {
    if call.cdb.has::<1>(0x20) { Exit::Unrestricted } else { Exit::Restricted }
}

/// Header and an initialization pattern of one byte to one block.
pub(crate) fn check_overwrite(call: &Call) -> Result<u32, Fault> {
    write::writable(call)?;
    let list_bytes = usize::from(call.cdb.u16::<7>());
    if list_bytes <= HEADER_BYTES || list_bytes > HEADER_BYTES + call.sector_bytes() as usize {
        return Err(Condition::cdb(7).into());
    }
    Ok(list_bytes as u32)
}

pub(crate) fn overwrite(call: &Call, data: Bytes) -> Completion<Ran> {
    match parse_overwrite(&data, call.sector_bytes() as usize, call.cdb.u16::<7>().into()) {
        Ok(plan) => start(call, plan),
        Err(condition) => failed(condition),
    }
}

fn parse_overwrite(list: &[u8], sector_bytes: usize, list_bytes: usize) -> Result<Plan, Condition> {
    let truncated = |_| Condition::list_length();
    if list.len() < list_bytes {
        return Err(Condition::list_length());
    }
    let mut reader = Reader::new(list);
    let flags = reader.u8().map_err(truncated)?;
    // TEST other than zero is a vendor's own.
    if flags & 0x60 != 0 {
        return Err(Condition::list_bit(0, 6));
    }
    let passes = flags & 0x1f;
    if passes == 0 {
        return Err(Condition::list_bit(0, 4));
    }
    if reader.u8().map_err(truncated)? != 0 {
        return Err(Condition::list(1));
    }
    let pattern_bytes = usize::from(reader.u16_be().map_err(truncated)?);
    if pattern_bytes == 0 || pattern_bytes > sector_bytes || pattern_bytes + HEADER_BYTES != list_bytes {
        return Err(Condition::list(2));
    }
    let pattern = reader.take(pattern_bytes).map_err(truncated)?;
    let block = pattern.iter().copied().cycle().take(sector_bytes).collect::<Vec<u8>>();
    Ok(Plan::Overwrite { block: block.into(), invert: flags & 0x80 != 0, passes })
}

pub(crate) fn check_erase(call: &Call) -> Result<u32, Fault> {
    write::writable(call)?;
    Ok(0)
}

/// BLOCK ERASE and CRYPTOGRAPHIC ERASE: everything is unmapped; nothing of it can be read through this interface any more.
pub(crate) fn erase(call: &Call, _: Bytes) -> Completion<Ran> {
    start(call, Plan::Erase)
}

/// With IMMED the command ends when the operation has begun, else with it; aborting the command ends the wait, not the operation.
fn start(call: &Call, plan: Plan) -> Completion<Ran> {
    // At once: between the check that nothing is under way and this, another command could begin one as well, and the
    // first of the two to end would let commands in that the other one then overwrites.
    let signs = operation::begin(call, plan, exit(call));
    let call = call.clone();
    Completion::pending(async move {
        match call.until_aborted(signs.begun).await? {
            Some(Ok(())) => {}
            Some(Err(error)) => return Err(fault::condition(&error, 0, call.sector_bytes()).into()),
            None => return Err(Condition::new(Key::HardwareError, Code::INTERNAL_TARGET_FAILURE).into()),
        }
        if call.cdb.has::<1>(0x80) {
            return Ok(Good::NOTHING);
        }
        match call.until_aborted(signs.finished).await? {
            Some(true) => Ok(Good::NOTHING),
            Some(false) | None => Err(FAILED.into()),
        }
    })
}

pub(crate) fn exit_failure_mode(call: &Call, _: Bytes) -> Completion<Ran> {
    let state = call.unit.sanitize.borrow().clone();
    match state {
        Sanitize::Failed { exit: Exit::Restricted } => failed(Condition::cdb_bit(1, 4)),
        Sanitize::Failed { exit: Exit::Unrestricted } => {
            let call = call.clone();
            Completion::pending(async move {
                operation::forget(&call.unit).await?;
                Ok(Good::NOTHING)
            })
        }
        Sanitize::Idle | Sanitize::Running { .. } => ready(Good::NOTHING),
    }
}
