//! GET LBA STATUS (SBC-3 5.4).

#[cfg(test)]
mod tests;

use crate::call::{Call, Good, Ran};
use crate::fault::Fault;
use crate::range::capacity_blocks;
use crate::sense::{Code, Condition};
use base::Writer;
use block::{Allocation, Reply, Request, Status};
use bytes::Bytes;
use world::Completion;

/// 16 KiB of them; an initiator that wants more asks again from there.
const DESCRIPTORS_MAX: u32 = 1024;
const HEADER_BYTES: u32 = 8;
const DESCRIPTOR_BYTES: u32 = 16;

pub(crate) fn check(call: &Call) -> Result<u32, Fault> {
    if call.cdb.u64::<2>() >= capacity_blocks(call) {
        return Err(Condition::illegal(Code::LBA_OUT_OF_RANGE).into());
    }
    Ok(0)
}

/// A run of blocks with the same state.
struct Run {
    lba: u64,
    blocks: u64,
    mapped: bool,
}

pub(crate) fn execute(call: &Call, _: Bytes) -> Completion<Ran> {
    let (lba, allocation_bytes) = (call.cdb.u64::<2>(), call.cdb.u32::<10>());
    let room = allocation_bytes.saturating_sub(HEADER_BYTES) / DESCRIPTOR_BYTES;
    let count = room.clamp(1, DESCRIPTORS_MAX) as usize;
    let call = call.clone();
    Completion::pending(async move {
        let runs = runs(&call, lba, count).await?;
        let mut data = Writer::with_capacity(8 + runs.len() * 16);
        data.u32_be(4 + runs.len() as u32 * DESCRIPTOR_BYTES).u32_be(0);
        for run in runs {
            // Deallocated is 1h, mapped 0h.
            data.u64_be(run.lba).u32_be(run.blocks as u32).u8(u8::from(!run.mapped)).zeros(3);
        }
        Ok(Good::bytes(data.bytes, allocation_bytes as usize))
    })
}

/// Up to `count` of them from `lba` on, neighbours with the same state put together.
async fn runs(call: &Call, lba: u64, count: usize) -> Result<Vec<Run>, Fault> {
    let sector_bytes = u64::from(call.sector_bytes());
    let end = capacity_blocks(call) * sector_bytes;
    let mut offset = lba * sector_bytes;
    let mut runs: Vec<Run> = Vec::new();
    while offset < end {
        let request = Request::BlockStatus { offset, len: end - offset, extents_max: DESCRIPTORS_MAX };
        let parts = match call.request(request, offset).await? {
            Reply::Status(parts) => parts,
            other => panic!("the device answered a status request with {other:?}"),
        };
        assert!(!parts.is_empty(), "the device says nothing of {offset}");
        for Status { len, allocation } in parts {
            let mapped = allocation != Allocation::Hole;
            let blocks = len / sector_bytes;
            let full = runs.len() == count;
            match runs.last_mut() {
                // The field has 32 bits.
                Some(last) if last.mapped == mapped && last.blocks + blocks <= u64::from(u32::MAX) => {
                    last.blocks += blocks;
                }
                _ if full => return Ok(runs),
                _ => push(&mut runs, Run { lba: offset / sector_bytes, blocks, mapped }),
            }
            offset += len;
        }
    }
    runs.truncate(count);
    Ok(runs)
}

fn push(runs: &mut Vec<Run>, mut run: Run) {
    while run.blocks > u64::from(u32::MAX) {
        // A multiple of every power of two that a block of the device may have in sectors.
        let blocks = 1 << 31;
        runs.push(Run { lba: run.lba, blocks, mapped: run.mapped });
        run.lba += blocks;
        run.blocks -= blocks;
    }
    runs.push(run);
}
