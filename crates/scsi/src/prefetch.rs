//! PRE-FETCH 10 and 16 (SBC-3 5.7): a hint. GOOD rather than CONDITION MET, as the cache promises nothing.

use crate::call::{Call, Good, Ran, ready};
use crate::fault::Fault;
use crate::range::{self, capacity_blocks};
use block::Request;
use bytes::Bytes;
use world::Completion;

/// More than this would push out of the cache what is in use.
const PREFETCH_BYTES_MAX: u64 = 64 << 20;

pub(crate) fn check(call: &Call) -> Result<u32, Fault> {
    range::named(&call.cdb).inside(call)?;
    Ok(0)
}

/// No blocks: all from the address on.
pub(crate) fn execute(call: &Call, _: Bytes) -> Completion<Ran> {
    let mut range = range::named(&call.cdb).range;
    if range.blocks == 0 {
        range.blocks = capacity_blocks(call).saturating_sub(range.lba);
    }
    let sector_bytes = call.sector_bytes();
    let (offset, len) = (range.offset(sector_bytes), range.bytes(sector_bytes).min(PREFETCH_BYTES_MAX));
    let prefetch = call.submit(Request::Prefetch { offset, len }, offset, |_| Good::NOTHING);
    // IMMED.
    if call.cdb.has::<1>(0x02) && matches!(prefetch, Completion::Pending(_)) {
        call.unit.host.spawn(Box::pin(async move {
            // A hint that came to nothing.
            let _unheard = prefetch.await;
        }));
        return ready(Good::NOTHING);
    }
    prefetch
}
