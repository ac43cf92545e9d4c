//! Commands to a logical unit that is not there (SAM-5 4.7, SPC-4 6.4.1): three of them are answered all the same.

use crate::call::Good;
use crate::cdb::Cdb;
use crate::nexus::{Nexus, fixed};
use crate::sense::{Code, Condition, Format};
use crate::{Response, inquiry, report};

const NOT_SUPPORTED: Condition = Condition::illegal(Code::LUN_NOT_SUPPORTED);

pub(crate) fn answer(nexus: &Nexus, bytes: &[u8]) -> Response {
    let cdb = Cdb::new(bytes);
    match (cdb.opcode(), bytes.len()) {
        (0x03, 6..) => {
            let format = if cdb.has::<1>(0x01) { Format::Descriptor } else { Format::Fixed };
            Good::bytes(NOT_SUPPORTED.encode(format).bytes, cdb.u8::<4>().into()).response()
        }
        // EVPD and page code are those of a logical unit.
        (0x12, 6..) if !cdb.has::<1>(0x01) && cdb.u8::<2>() == 0 => {
            Good::bytes(inquiry::absent(), cdb.u16::<3>().into()).response()
        }
        (0xa0, 12..) if cdb.u8::<2>() <= 2 && cdb.u32::<6>() >= 16 => {
            report::list(&nexus.luns(), cdb.u8::<2>(), cdb.u32::<6>()).response()
        }
        _ => fixed(&NOT_SUPPORTED),
    }
}
