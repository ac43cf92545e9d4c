//! EXTENDED COPY (LID1) and RECEIVE COPY RESULTS (SPC-4 6.3, 6.4, 6.20 to 6.23): blocks from one vDisk of this controller to another one, or
//! within one. The bytes go through here in pieces.

#[cfg(test)]
mod tests;

mod list;
mod results;
mod segment;

pub(crate) use results::{Copies, check_results, copy_status, failed_segment, held_data, operating_parameters};

use crate::call::{Call, Good, Ran, failed, ready};
use crate::fault::Fault;
use crate::sense::{Code, Condition};
use crate::write;
use bytes::Bytes;
use list::CopyList;
use results::{Outcome, Progress};
use world::Completion;

/// Two devices and then some: ESXi names at most two.
pub(crate) const TARGETS_MAX: u16 = 16;
pub(crate) const SEGMENTS_MAX: u16 = 256;
/// All of these, and room for one more of each, so that too many are told apart from too much.
pub(crate) const DESCRIPTORS_BYTES_MAX: u32 = 8192;
/// A segment's count of blocks has 16 bits.
pub(crate) const SEGMENT_BYTES_MAX: u32 = 0xffff * 512;
/// Under way at once for one logical unit; each holds one piece in memory.
pub(crate) const COPIES_MAX: u32 = 8;
/// Block to block, and the identification descriptor.
pub(crate) const DESCRIPTOR_KINDS: [u8; 2] = [0x02, 0xe4];
pub(crate) const RECEIVE_ACTIONS: [u8; 4] = [0x00, 0x01, 0x03, 0x04];

pub(crate) fn check(call: &Call) -> Result<u32, Fault> {
    let list_bytes = call.cdb.u32::<10>();
    if list_bytes > DESCRIPTORS_BYTES_MAX + list::HEADER_BYTES as u32 + list::SLACK_BYTES {
        return Err(Condition::list_length().into());
    }
    Ok(list_bytes)
}

pub(crate) fn execute(call: &Call, data: Bytes) -> Completion<Ran> {
    let list_bytes = call.cdb.u32::<10>() as usize;
    if list_bytes == 0 {
        return ready(Good::NOTHING);
    }
    if data.len() < list_bytes {
        return failed(Condition::list_length());
    }
    let list = match CopyList::parse(&data) {
        Ok(list) => list,
        Err(condition) => return failed(condition),
    };
    if call.path.copies.in_progress(list.id) {
        return failed(Condition::illegal(Code::OPERATION_IN_PROGRESS));
    }
    if call.unit.copies.get() >= COPIES_MAX {
        return failed(Condition::illegal(Code::INSUFFICIENT_RESOURCES));
    }
    let turn = Turn::new(call);
    let call = call.clone();
    Completion::pending(async move {
        let _turn = turn;
        let progress = Progress::begin(&call.path, list.id);
        let result = segment::copy(&call, &list, &progress).await;
        progress.end(match &result {
            Ok(()) => Outcome::Completed,
            Err(Fault::Check(condition)) => Outcome::Failed(Some(*condition)),
            Err(_) => Outcome::Failed(None),
        });
        result.map(|()| Good::NOTHING)
    })
}

/// One of the copies that may be under way.
struct Turn(Call);

impl Turn {
    fn new(call: &Call) -> Turn {
        call.unit.copies.set(call.unit.copies.get() + 1);
        Turn(call.clone())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.unit.copies.set(self.0.unit.copies.get() - 1);
    }
}

/// Writing to the own device is refused as any other write is.
fn writable(call: &Call) -> Result<(), Fault> {
    Ok(write::writable(call)?)
}
