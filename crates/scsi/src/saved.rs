//! What survives a restart, as bytes: registrations with APTPL, a sanitize operation that is under way or has failed, and mode
//! parameters that were saved.
//!
//! | bytes | |
//! |---|---|
//! | 4 | `DSLU` |
//! | 2 | version: 1, or 2 with saved mode parameters |
//! | 1 | 1: registrations follow (APTPL), 0: none are kept |
//! | 2 | number of registrations, then of each: key (8), relative target port (2), length of the name (2), name |
//! | 1 | type of the reservation, 0: none |
//! | 2 | its holder, by number of the registration |
//! | 1 | sanitize: 0 idle, 1 erase under way, 2 overwrite under way, 3 failed |
//! | 1 | AUSE |
//! | 1 + 1 + 2 | of an overwrite: inverts, passes, bytes of the block; then the block |
//! | 1 | version 2: 1 WCE, 2 D_SENSE, 4 SWP, 8 TAS |
//! | 4 | CRC32C of everything before |
//!
//! Little-endian. No bytes at all: nothing is kept.

#[cfg(test)]
mod tests;

use crate::SavedStateError;
use crate::mode::Parameters;
use crate::path::Ports;
use crate::reservation::{Kind, REGISTRANTS_MAX, Registrant, Reservation, Reservations};
use crate::sanitize::{Exit, Plan, Sanitize};
use crate::unit::LogicalUnit;
use base::{Reader, Truncated, Writer, crc};
use std::rc::Rc;

const MAGIC: &[u8; 4] = b"DSLU";
/// Mode parameters are the defaults.
const VERSION: u16 = 1;
const WITH_MODE: u16 = 2;

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Saved {
    pub reservations: Reservations,
    pub sanitize: Sanitize,
    pub mode: Parameters,
}

/// Lets the host keep what a change leads to, if it differs from what it keeps. Whoever calls has the turn of `LogicalUnit::saving`.
pub(crate) async fn store(unit: &LogicalUnit, reservations: &Reservations, sanitize: &Sanitize) -> block::Result<()> {
    store_all(unit, reservations, sanitize, unit.saved_mode.get()).await
}

/// The same with other mode parameters.
pub(crate) async fn store_all(
    unit: &LogicalUnit,
    reservations: &Reservations,
    sanitize: &Sanitize,
    mode: Parameters,
) -> block::Result<()> {
    let bytes = encode(reservations, sanitize, mode);
    if *unit.saved.borrow() == bytes {
        return Ok(());
    }
    unit.host.save_state(bytes.clone()).await?;
    unit.saved.replace(bytes);
    Ok(())
}

pub(crate) fn encode(reservations: &Reservations, sanitize: &Sanitize, mode: Parameters) -> Vec<u8> {
    let kept = reservations.aptpl && !reservations.registrants.is_empty();
    let has_mode = mode != Parameters::default();
    if !kept && *sanitize == Sanitize::Idle && !has_mode {
        return Vec::new();
    }
    let none = Reservations::default();
    let mut bytes = Writer::default();
    bytes.put(MAGIC).u16_le(if has_mode { WITH_MODE } else { VERSION }).u8(u8::from(kept));
    encode_reservations(&mut bytes, if kept { reservations } else { &none });
    encode_sanitize(&mut bytes, sanitize);
    if has_mode {
        bytes.u8(mode_bits(mode));
    }
    let sum = crc::crc32c(&bytes.bytes);
    bytes.u32_le(sum);
    bytes.bytes
}

fn mode_bits(mode: Parameters) -> u8 {
    u8::from(mode.write_cache)
        | u8::from(mode.descriptor_sense) << 1
        | u8::from(mode.software_write_protect) << 2
        | u8::from(mode.task_aborted_status) << 3
}

fn mode_of(bits: u8) -> Option<Parameters> {
    let has = |bit: u8| bits & bit != 0;
    (bits < 16).then(|| Parameters {
        write_cache: has(1),
        descriptor_sense: has(2),
        software_write_protect: has(4),
        task_aborted_status: has(8),
    })
}

fn encode_reservations(bytes: &mut Writer, reservations: &Reservations) {
    bytes.u16_le(reservations.registrants.len() as u16);
    for registrant in &reservations.registrants {
        let name = registrant.ports.initiator.as_bytes();
        bytes.u64_le(registrant.key).u16_le(registrant.ports.relative_target_port);
        bytes.u16_le(name.len() as u16).put(name);
    }
    let Some(reservation) = &reservations.reservation else {
        bytes.u8(0).u16_le(0);
        return;
    };
    let holder = reservations.registrants.iter().position(|one| one.ports == reservation.holder);
    bytes.u8(reservation.kind as u8).u16_le(holder.expect("the holder is registered") as u16);
}

fn encode_sanitize(bytes: &mut Writer, sanitize: &Sanitize) {
    let ause = |exit: &Exit| u8::from(*exit == Exit::Unrestricted);
    match sanitize {
        Sanitize::Idle => bytes.u8(0).u8(0),
        Sanitize::Failed { exit } => bytes.u8(3).u8(ause(exit)),
        Sanitize::Running { plan, exit, .. } => match &**plan {
            Plan::Erase => bytes.u8(1).u8(ause(exit)),
            Plan::Overwrite { block, invert, passes } => {
                bytes.u8(2).u8(ause(exit)).u8(u8::from(*invert)).u8(*passes);
                bytes.u16_le(block.len() as u16).put(block)
            }
        },
    };
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Saved, SavedStateError> {
    if bytes.is_empty() {
        return Ok(Saved::default());
    }
    let (body, sum) = bytes.split_last_chunk::<4>().ok_or(SavedStateError("it is too short"))?;
    let mut reader = Reader::new(body);
    if reader.array::<4>() != Ok(*MAGIC) {
        return Err(SavedStateError("it is something else"));
    }
    let version = reader.u16_le();
    if !matches!(version, Ok(VERSION | WITH_MODE)) {
        return Err(SavedStateError("it is of another version"));
    }
    if crc::crc32c(body) != u32::from_le_bytes(*sum) {
        return Err(SavedStateError("its checksum is wrong"));
    }
    let mut saved = decode_body(&mut reader).unwrap_or(Err(SavedStateError("it ends early")))?;
    if version == Ok(WITH_MODE) {
        let mode = reader.u8().ok().and_then(mode_of);
        saved.mode = mode.ok_or(SavedStateError("mode parameters that cannot be"))?;
    }
    if !reader.is_empty() {
        return Err(SavedStateError("something follows it"));
    }
    Ok(saved)
}

fn decode_body(reader: &mut Reader<'_>) -> Result<Result<Saved, SavedStateError>, Truncated> {
    let wrong = |what| Ok(Err(SavedStateError(what)));
    let aptpl = match reader.u8()? {
        0 => false,
        1 => true,
        _ => return wrong("an unknown flag"),
    };
    let mut reservations = Reservations { aptpl, ..Reservations::default() };
    let count = usize::from(reader.u16_le()?);
    if count > REGISTRANTS_MAX {
        return wrong("too many registrations");
    }
    for _ in 0..count {
        let (key, relative_target_port) = (reader.u64_le()?, reader.u16_le()?);
        let len = usize::from(reader.u16_le()?);
        let Ok(name) = std::str::from_utf8(reader.take(len)?) else { return wrong("a name that is no text") };
        let ports = Ports { initiator: name.into(), relative_target_port };
        if key == 0 || reservations.key_of(&ports).is_some() {
            return wrong("a registration that cannot be");
        }
        reservations.registrants.push(Registrant { ports, key });
    }
    let (kind, holder) = (reader.u8()?, usize::from(reader.u16_le()?));
    if kind != 0 {
        let both = Kind::from_code(kind).zip(reservations.registrants.get(holder));
        let Some((kind, holder)) = both else { return wrong("a reservation that cannot be") };
        reservations.reservation = Some(Reservation { kind, holder: holder.ports.clone() });
    }
    let sanitize = match decode_sanitize(reader)? {
        Ok(sanitize) => sanitize,
        Err(error) => return Ok(Err(error)),
    };
    Ok(Ok(Saved { reservations, sanitize, mode: Parameters::default() }))
}

fn decode_sanitize(reader: &mut Reader<'_>) -> Result<Result<Sanitize, SavedStateError>, Truncated> {
    let (state, ause) = (reader.u8()?, reader.u8()?);
    let exit = if ause == 0 { Exit::Restricted } else { Exit::Unrestricted };
    let running = |plan: Plan| Sanitize::Running { plan: Rc::new(plan), exit, progress: 0 };
    Ok(Ok(match state {
        0 => Sanitize::Idle,
        1 => running(Plan::Erase),
        2 => {
            let (invert, passes, len) = (reader.u8()? != 0, reader.u8()?, reader.u16_le()?);
            let block = bytes::Bytes::copy_from_slice(reader.take(len.into())?);
            if block.is_empty() || !block.len().is_power_of_two() || passes == 0 || passes > 31 {
                return Ok(Err(SavedStateError("a sanitize operation that cannot be")));
            }
            running(Plan::Overwrite { block, invert, passes })
        }
        3 => Sanitize::Failed { exit },
        _ => return Ok(Err(SavedStateError("an unknown state of sanitizing"))),
    }))
}
