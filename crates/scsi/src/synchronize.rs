//! SYNCHRONIZE CACHE 10 and 16 (SBC-3 5.24): everything acknowledged survives power loss, whatever range was named.

use crate::call::{Call, Good, Ran, ready};
use crate::fault::Fault;
use crate::range;
use block::Request;
use bytes::Bytes;
use world::Completion;

/// No blocks: all from the address on.
pub(crate) fn check(call: &Call) -> Result<u32, Fault> {
    range::named(&call.cdb).inside(call)?;
    Ok(0)
}

pub(crate) fn execute(call: &Call, _: Bytes) -> Completion<Ran> {
    let flush = call.submit(Request::Flush, 0, |_| Good::NOTHING);
    // IMMED: answered as soon as the CDB is known to be right.
    if call.cdb.has::<1>(0x02) && matches!(flush, Completion::Pending(_)) {
        call.unit.host.spawn(Box::pin(async move {
            // Whether it failed, the next SYNCHRONIZE CACHE tells: a failed sync is not forgotten by the device.
            let _unheard = flush.await;
        }));
        return ready(Good::NOTHING);
    }
    flush
}
