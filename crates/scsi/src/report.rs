//! What a target tells of itself: REPORT LUNS (SPC-4 6.33), REPORT TARGET PORT GROUPS (6.36), REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS
//! (6.38); the commands are in `commands`.

#[cfg(test)]
mod tests;

mod commands;

pub(crate) use commands::{check_commands, commands};

use crate::call::{Call, Good, Ran, ready};
use crate::fault::Fault;
use crate::lun;
use crate::sense::Condition;
use base::Writer;
use bytes::Bytes;
use world::Completion;

/// All target ports are of one group.
pub(crate) const PORT_GROUP: u16 = 1;

/// SELECT REPORT: 0 and 2 mean all there are, 1 well known logical units, of which there are none. An allocation length below 16 is an error.
pub(crate) fn check_luns(call: &Call) -> Result<u32, Fault> {
    if call.cdb.u8::<2>() > 2 {
        return Err(Condition::cdb(2).into());
    }
    if call.cdb.u32::<6>() < 16 {
        return Err(Condition::cdb(6).into());
    }
    Ok(0)
}

pub(crate) fn luns(call: &Call, _: Bytes) -> Completion<Ran> {
    ready(list(&call.path.luns.borrow(), call.cdb.u8::<2>(), call.cdb.u32::<6>()))
}

pub(crate) fn list(luns: &[u64], select: u8, allocation_bytes: u32) -> Good {
    let luns = if select == 1 { &[] } else { luns };
    let mut data = Writer::with_capacity(8 + luns.len() * 8);
    data.u32_be(luns.len() as u32 * 8).u32_be(0);
    for lun in luns {
        data.put(&lun::encode(*lun));
    }
    Good::bytes(data.bytes, allocation_bytes as usize)
}

/// Format 1 has a header that is longer by four bytes.
pub(crate) fn check_port_groups(call: &Call) -> Result<u32, Fault> {
    if call.cdb.u8::<1>() >> 5 > 1 {
        return Err(Condition::cdb_bit(1, 7).into());
    }
    Ok(0)
}

/// One group with all ports, active and optimized; no other state is ever reported.
pub(crate) fn port_groups(call: &Call, _: Bytes) -> Completion<Ran> {
    let ports = call.unit.target_ports(call.path.ports.relative_target_port);
    let mut group = Writer::default();
    group.u8(0).u8(0x01).u16_be(PORT_GROUP).u8(0).u8(0).u8(0).u8(ports.len().min(255) as u8);
    for port in ports.iter().take(255) {
        group.u16_be(0).u16_be(*port);
    }
    let mut data = Writer::default();
    if call.cdb.u8::<1>() >> 5 == 1 {
        data.u32_be(group.bytes.len() as u32 + 4).u8(0x10).zeros(3).put(&group.bytes);
    } else {
        data.u32_be(group.bytes.len() as u32).put(&group.bytes);
    }
    ready(Good::bytes(data.bytes, call.cdb.u32::<6>() as usize))
}

pub(crate) fn check_functions(call: &Call) -> Result<u32, Fault> {
    if call.cdb.u32::<6>() < 4 {
        return Err(Condition::cdb(6).into());
    }
    Ok(0)
}

/// ATS, ATSS, CTSS, LURS, QTS, TRS; QAES, QTSS, ITNRS. With REPD no times are told.
pub(crate) fn functions(call: &Call, _: Bytes) -> Completion<Ran> {
    let mut data = vec![0xde, 0x07, 0, 0];
    if call.cdb.has::<2>(0x80) {
        data[3] = 12;
        data.resize(16, 0);
    }
    ready(Good::bytes(data, call.cdb.u32::<6>() as usize))
}
