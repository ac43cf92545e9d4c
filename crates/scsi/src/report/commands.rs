//! REPORT SUPPORTED OPERATION CODES (SPC-4 6.35): the table of commands, told.

use crate::call::{Call, Good, Ran, failed, ready};
use crate::fault::Fault;
use crate::sense::Condition;
use crate::table::{Entry, TABLE};
use base::Writer;
use bytes::Bytes;
use world::Completion;

/// What REPORTING OPTIONS asks for.
enum Asked {
    All,
    /// `None`: no such command.
    One(Option<&'static Entry>),
}

fn asked(call: &Call) -> Result<Asked, Condition> {
    let (opcode, action) = (call.cdb.u8::<3>(), call.cdb.u16::<4>());
    let mut entries = TABLE.iter().filter(|entry| entry.opcode == opcode);
    let has_actions = TABLE.iter().any(|entry| entry.opcode == opcode && entry.action.is_some());
    let is_known = TABLE.iter().any(|entry| entry.opcode == opcode);
    let of_action = |entry: &&Entry| entry.action.is_some_and(|own| u16::from(own) == action);
    match call.cdb.u8::<2>() & 0x07 {
        0 => Ok(Asked::All),
        1 if has_actions => Err(Condition::cdb_bit(2, 2)),
        1 => Ok(Asked::One(entries.next())),
        2 if is_known && !has_actions => Err(Condition::cdb_bit(2, 2)),
        2 => Ok(Asked::One(entries.find(of_action))),
        3 if has_actions => Ok(Asked::One(entries.find(of_action))),
        3 => Ok(Asked::One(entries.next().filter(|_| action == 0))),
        _ => Err(Condition::cdb_bit(2, 2)),
    }
}

pub(crate) fn check_commands(call: &Call) -> Result<u32, Fault> {
    asked(call)?;
    Ok(0)
}

pub(crate) fn commands(call: &Call, _: Bytes) -> Completion<Ran> {
    let timeouts = call.cdb.has::<2>(0x80);
    let data = match asked(call) {
        Ok(Asked::All) => all(timeouts),
        Ok(Asked::One(entry)) => one(entry, timeouts),
        Err(condition) => return failed(condition),
    };
    ready(Good::bytes(data, call.cdb.u32::<6>() as usize))
}

fn all(timeouts: bool) -> Vec<u8> {
    let mut list = Writer::default();
    for entry in TABLE {
        // CTDP, SERVACTV.
        let flags = if timeouts { 0x02 } else { 0 } | u8::from(entry.action.is_some());
        list.u8(entry.opcode).u8(0).u16_be(entry.action.unwrap_or(0).into()).u8(0).u8(flags);
        list.u16_be(entry.cdb_bytes() as u16);
        if timeouts {
            timeouts_descriptor(&mut list);
        }
    }
    let mut data = Writer::default();
    data.u32_be(list.bytes.len() as u32).put(&list.bytes);
    data.bytes
}

fn one(entry: Option<&Entry>, timeouts: bool) -> Vec<u8> {
    // SUPPORT: 1h no, 3h as the standard says.
    let Some(entry) = entry else { return vec![0, 1, 0, 0] };
    let mut data = Writer::default();
    data.u8(0).u8(if timeouts { 0x83 } else { 0x03 }).u16_be(entry.cdb_bytes() as u16);
    data.u8(entry.opcode).put(entry.usage);
    if let Some(action) = entry.action {
        // In place of the bits of a service action stands the service action.
        data.bytes[5] |= action;
    }
    if timeouts {
        timeouts_descriptor(&mut data);
    }
    data.bytes
}

/// SPC-4 6.35.4: no times are told.
fn timeouts_descriptor(data: &mut Writer) {
    data.u16_be(10).zeros(10);
}
