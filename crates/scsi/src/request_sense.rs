//! REQUEST SENSE (SPC-4 6.39): sense data that no command brought, as every command brings its own.

use crate::call::{Call, Good, Ran, ready};
use crate::sanitize;
use crate::sense::{Code, Condition, Format, Key};
use bytes::Bytes;
use world::Completion;

pub(crate) fn execute(call: &Call, _: Bytes) -> Completion<Ran> {
    let attention = call.path.take_attention().map(|attention| attention.condition());
    let condition = attention.or_else(|| sanitize::pollable(&call.unit));
    let condition = condition.unwrap_or(Condition::new(Key::NoSense, Code::NONE));
    // DESC asks for a format of its own, whatever D_SENSE is.
    let format = if call.cdb.has::<1>(0x01) { Format::Descriptor } else { Format::Fixed };
    ready(Good::bytes(condition.encode(format).bytes, call.cdb.u8::<4>().into()))
}
