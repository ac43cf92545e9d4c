//! What differs between two sides of a vDisk, as a block device of which nothing but the block status can be asked.

use crate::stats::OperationKind;
use crate::stored::{Compared, Difference, Version};
use crate::vdisk::Vdisk;
use crate::{Error, Kind, Result};
use base::units::BLOCK;
use block::{Allocation, BlockDevice, Geometry, Reply, Request, Status};
use std::rc::Rc;
use world::Completion;

/// Of it [`Request::BlockStatus`] says `Data` where the sides may differ, and `Hole` where they certainly do not.
pub struct DifferenceDevice {
    pub vdisk: Rc<Vdisk>,
    pub old: Version,
    pub new: Version,
    /// What the comparison is shown beside.
    pub shown: Rc<dyn BlockDevice>,
}

impl BlockDevice for DifferenceDevice {
    fn geometry(&self) -> Geometry {
        self.shown.geometry()
    }

    fn submit(&self, request: Request) -> Completion<block::Result<Reply>> {
        let Request::BlockStatus { offset, len, extents_max } = request else {
            let text = "of a comparison nothing can be asked but the block status";
            return Completion::Ready(Err(block::Error::new(block::Kind::Unsupported, text)));
        };
        let (vdisk, old, new) = (self.vdisk.clone(), self.old, self.new);
        self.vdisk.pending(OperationKind::BlockStatus, 0, async move {
            Ok(Reply::Status(vdisk.difference_status(old, new, offset, len, extents_max).await?))
        })
    }
}

impl Vdisk {
    async fn difference_status(
        self: &Rc<Self>,
        old: Version,
        new: Version,
        offset: u64,
        len: u64,
        extents_max: u32,
    ) -> Result<Vec<Status>> {
        let beyond = || Error::new(Kind::Invalid, "beyond the last byte that has a number");
        let end = offset.checked_add(len).ok_or_else(beyond)?;
        let ranges_max = extents_max.max(1) as usize;
        let compared = Compared { first: offset / BLOCK, end: end.div_ceil(BLOCK), ranges_max };
        let found = self.changed(old, new, compared).await?;
        let covered = found.next.map_or(end, |block| end.min(block * BLOCK));
        Ok(runs(&found.ranges, offset, covered, ranges_max))
    }
}

/// `offset .. end` in runs that differ and runs that do not, at most `runs_max`.
fn runs(ranges: &[Difference], offset: u64, end: u64, runs_max: usize) -> Vec<Status> {
    let mut runs: Vec<Status> = Vec::new();
    let mut at = offset;
    let mut push = |until: u64, allocation| {
        let until = until.clamp(at, end);
        match runs.last_mut() {
            _ if until == at => {}
            Some(last) if last.allocation == allocation => last.len += until - at,
            _ => runs.push(Status { len: until - at, allocation }),
        }
        at = until;
    };
    for range in ranges {
        push(range.offset, Allocation::Hole);
        push(range.offset + range.len, Allocation::Data);
    }
    push(end, Allocation::Hole);
    runs.truncate(runs_max);
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use Allocation::{Data, Hole};

    #[test]
    fn ranges_become_runs_without_gaps() {
        let range = |first: u64, count: u64, data| Difference { offset: first * BLOCK, len: count * BLOCK, data };
        let ranges = [range(2, 2, true), range(4, 1, false), range(9, 1, true)];
        let told = |offset, end, max| -> Vec<(u64, Allocation)> {
            runs(&ranges, offset, end, max).iter().map(|run| (run.len, run.allocation)).collect()
        };
        let all = [(2 * BLOCK, Hole), (3 * BLOCK, Data), (4 * BLOCK, Hole), (BLOCK, Data), (2 * BLOCK, Hole)];
        assert_eq!(told(0, 12 * BLOCK, 9), all);
        assert_eq!(told(0, 12 * BLOCK, 2), all[..2]);
        assert_eq!(told(2 * BLOCK + 512, 10 * BLOCK, 1), [(3 * BLOCK - 512, Data)], "from inside a range on");
        assert_eq!(told(5 * BLOCK, 9 * BLOCK + 512, 9), [(4 * BLOCK, Hole), (512, Data)], "up to inside one");
        assert_eq!(told(5 * BLOCK, 6 * BLOCK, 9), [(BLOCK, Hole)]);
    }
}
