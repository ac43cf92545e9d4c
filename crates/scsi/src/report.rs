//! REPORT LUNS (SPC-4 6.33).

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
    ready(list(&call.path.luns, call.cdb.u8::<2>(), call.cdb.u32::<6>()))
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
