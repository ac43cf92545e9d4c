//! MODE SENSE and MODE SELECT 6 and 10 (SPC-4 6.11 to 6.14).
//!
//! All pages are shared by all nexuses. A reset or a restart brings back what was saved, which is the defaults at first.

#[cfg(test)]
mod tests;

mod pages;
mod select;

pub(crate) use pages::Parameters;
pub(crate) use select::{check_select_6, check_select_10, select_6, select_10};

use crate::call::{Call, Good, Ran, ready};
use crate::fault::Fault;
use crate::range::capacity_blocks;
use crate::sense::Condition;
use base::Writer;
use bytes::Bytes;
use pages::{Control, PAGES};
use world::Completion;

const ALL_PAGES: u8 = 0x3f;
const ALL_SUBPAGES: u8 = 0xff;

/// Page control, page and subpage stand at the same place in both CDBs.
pub(crate) fn check_sense(call: &Call) -> Result<u32, Fault> {
    let (page, subpage) = (call.cdb.u8::<2>() & 0x3f, call.cdb.u8::<3>());
    let known = match (page, subpage) {
        (ALL_PAGES, 0 | ALL_SUBPAGES) => true,
        // A subpage of all pages means nothing (SPC-4 table 151).
        (ALL_PAGES, _) => return Err(Condition::cdb(3).into()),
        (_, ALL_SUBPAGES) => PAGES.iter().any(|known| known.page == page),
        _ => PAGES.iter().any(|known| (known.page, known.subpage) == (page, subpage)),
    };
    if known {
        return Ok(0);
    }
    let page_known = PAGES.iter().any(|known| known.page == page);
    Err(if page_known { Condition::cdb(3) } else { Condition::cdb_bit(2, 5) }.into())
}

fn control(call: &Call) -> Control {
    match call.cdb.u8::<2>() >> 6 {
        0 => Control::Current,
        1 => Control::Changeable,
        2 => Control::Default,
        _ => Control::Saved,
    }
}

pub(crate) fn sense_6(call: &Call, _: Bytes) -> Completion<Ran> {
    let pages = asked_pages(call);
    let blocks = if call.cdb.has::<1>(0x08) { Vec::new() } else { short_block_descriptor(call) };
    let mut data = Writer::default();
    // Both fit a byte: all pages together are shorter than 200 bytes.
    data.u8((3 + blocks.len() + pages.len()) as u8).u8(0).u8(device_specific(call)).u8(blocks.len() as u8);
    data.put(&blocks).put(&pages);
    ready(Good::bytes(data.bytes, call.cdb.u8::<4>().into()))
}

pub(crate) fn sense_10(call: &Call, _: Bytes) -> Completion<Ran> {
    let pages = asked_pages(call);
    // LLBAA: a descriptor that has room for 64 bits.
    let long = call.cdb.has::<1>(0x10);
    let blocks = match (call.cdb.has::<1>(0x08), long) {
        (true, _) => Vec::new(),
        (false, true) => long_block_descriptor(call),
        (false, false) => short_block_descriptor(call),
    };
    let long_lba = u8::from(long && !blocks.is_empty());
    let mut data = Writer::default();
    data.u16_be((6 + blocks.len() + pages.len()) as u16).u8(0).u8(device_specific(call));
    data.u8(long_lba).u8(0).u16_be(blocks.len() as u16).put(&blocks).put(&pages);
    ready(Good::bytes(data.bytes, call.cdb.u16::<7>().into()))
}

/// WP and DPOFUA (SBC-3 6.4.1).
fn device_specific(call: &Call) -> u8 {
    let protected = call.unit.geometry().read_only || call.unit.mode.get().software_write_protect;
    0x10 | if protected { 0x80 } else { 0 }
}

/// SBC-3 6.4.2.2.
fn short_block_descriptor(call: &Call) -> Vec<u8> {
    let mut descriptor = Writer::with_capacity(8);
    descriptor.u32_be(u32::try_from(capacity_blocks(call)).unwrap_or(u32::MAX)).u32_be(call.sector_bytes());
    descriptor.bytes
}
/// SBC-3 6.4.2.3.
fn long_block_descriptor(call: &Call) -> Vec<u8> {
    let mut descriptor = Writer::with_capacity(16);
    descriptor.u64_be(capacity_blocks(call)).u32_be(0).u32_be(call.sector_bytes());
    descriptor.bytes
}

fn asked_pages(call: &Call) -> Vec<u8> {
    let (page, subpage) = (call.cdb.u8::<2>() & 0x3f, call.cdb.u8::<3>());
    let control = control(call);
    let parameters = match control {
        Control::Current | Control::Changeable => call.unit.mode.get(),
        Control::Saved => call.unit.saved_mode.get(),
        Control::Default => Parameters::default(),
    };
    let asked = PAGES.iter().filter(|known| {
        (page == ALL_PAGES || page == known.page) && (subpage == ALL_SUBPAGES || subpage == known.subpage)
    });
    asked.flat_map(|known| known.encode(control, parameters)).collect()
}
