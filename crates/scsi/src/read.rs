//! READ 6, 10, 12 and 16 (SBC-3 5.8 to 5.11).

use crate::Status;
use crate::call::{Call, Good, Ran, ready};
use crate::fault::Fault;
use crate::range;
use block::{Reply, Request};
use bytes::Bytes;
use world::Completion;

/// FUA of a read: what is in the cache is what is stored or will be, and a read sees every write that was acknowledged. The bit says
/// that the medium has to be asked; as nothing else can change the medium, the answer would be the same.
pub(crate) fn check(call: &Call) -> Result<u32, Fault> {
    range::named(&call.cdb).transferable(call)?;
    Ok(0)
}

pub(crate) fn execute(call: &Call, _: Bytes) -> Completion<Ran> {
    let range = range::named(&call.cdb).range;
    if range.blocks == 0 {
        return ready(Good::NOTHING);
    }
    let sector_bytes = call.sector_bytes();
    let offset = range.offset(sector_bytes);
    // `check` saw that it is at most `transfer_bytes_max`.
    let len = range.bytes(sector_bytes) as u32;
    call.submit(Request::Read { offset, len }, offset, |reply| match reply {
        Reply::Data(data) => Good { status: Status::Good, data },
        other => panic!("the device answered a read with {other:?}"),
    })
}
