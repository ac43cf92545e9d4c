//! INQUIRY (SPC-4 6.4): standard data; the vital product data pages are in `vpd`.

#[cfg(test)]
mod tests;

mod vpd;

use crate::call::{Call, Good, Ran, ready};
use crate::fault::Fault;
use crate::identity::{PRODUCT, VENDOR};
use crate::sense::Condition;
use base::Writer;
use bytes::Bytes;
use world::Completion;

/// SPC-4 6.4.2: standards that are claimed: SAM-5, SPC-4, SBC-3, iSCSI (no version claimed).
const STANDARDS: [u16; 4] = [0x00a0, 0x0460, 0x04c0, 0x0960];
/// Length of the standard data: up to and with the version descriptors and what is reserved behind them.
const STANDARD_BYTES: usize = 96;

pub(crate) fn check(call: &Call) -> Result<u32, Fault> {
    let page = call.cdb.u8::<2>();
    let known = if call.cdb.has::<1>(0x01) { vpd::find(page).is_some() } else { page == 0 };
    if known { Ok(0) } else { Err(Condition::cdb(2).into()) }
}

pub(crate) fn execute(call: &Call, _: Bytes) -> Completion<Ran> {
    let page = if call.cdb.has::<1>(0x01) { vpd::find(call.cdb.u8::<2>()) } else { None };
    let data = match page {
        Some(page) => page.encode(call),
        None => standard(0),
    };
    ready(Good::bytes(data, call.cdb.u16::<3>().into()))
}

/// Of a logical unit that is not there: peripheral qualifier 011b, type 1Fh.
pub(crate) fn absent() -> Vec<u8> {
    standard(0x7f)
}

fn standard(peripheral: u8) -> Vec<u8> {
    let mut data = Writer::with_capacity(STANDARD_BYTES);
    // Not removable; SPC-4; HISUP, response format 2.
    data.u8(peripheral).u8(0).u8(0x06).u8(0x12).u8(STANDARD_BYTES as u8 - 5);
    // TPGS 01b: implicit; 3PC: third-party copy. MULTIP: more than one port. CMDQUE.
    data.u8(0x18).u8(0x10).u8(0x02);
    data.put(format!("{VENDOR:8}{PRODUCT:16}{:4}", revision()).as_bytes());
    data.zeros(22);
    for standard in STANDARDS {
        data.u16_be(standard);
    }
    data.zeros(STANDARD_BYTES - data.bytes.len());
    data.bytes
}

/// Four characters of the version.
fn revision() -> String {
    env!("CARGO_PKG_VERSION").chars().filter(|character| *character != '.').take(4).collect()
}
