//! The past of a shard's vDisks: what is kept of it, and moments of it as snapshots.

use crate::snapshots::{SnapshotSummary, check_new};
use crate::{Result, Shard};
use base::{SnapshotId, VdiskId};
use std::rc::Rc;
use vdisk::{Moment, Point, Rewind, RewindInfo, SetRecord};

impl Shard {
    /// Durable when it completes. `None`: the past is let go.
    pub async fn set_rewind(self: &Rc<Self>, vdisk: VdiskId, rewind: Option<Rewind>) -> Result<()> {
        Ok(self.vdisk(vdisk).await?.set_rewind(rewind).await?)
    }

    /// `None`: the past is not kept, or the log was not read yet.
    pub fn rewind_info(&self, vdisk: VdiskId) -> Option<RewindInfo> {
        let open = self.open_vdisks();
        open.iter().find(|open| open.id == vdisk)?.rewind_info()
    }

    /// What is of note between two wall times, in the order of the log.
    pub async fn history(self: &Rc<Self>, vdisk: VdiskId, from_ns: u64, to_ns: u64) -> Result<Vec<Point>> {
        Ok(self.vdisk(vdisk).await?.history(from_ns, to_ns).await?)
    }

    /// The vDisk as it was, as a snapshot. Durable when it completes. `Exists` if the vDisk has a snapshot of this name,
    /// `Invalid` if the moment is outside of the window.
    pub async fn snapshot_at(self: &Rc<Self>, vdisk: VdiskId, name: &str, moment: Moment) -> Result<SnapshotSummary> {
        let vdisk = self.vdisk(vdisk).await?;
        check_new(&vdisk, name)?;
        let id = self.context.pool.next_snapshot_id().await?;
        let info = vdisk.snapshot_at(id, name, moment).await?;
        Ok(self.snapshot_summary(&vdisk, info))
    }

    /// The same as a part of a set with these members, on whatever shard. It counts when the metadata store has the set's record,
    /// and is to be taken back with [`Shard::delete_snapshot`] if it cannot be written.
    pub async fn part_at(
        self: &Rc<Self>,
        vdisk: VdiskId,
        name: &str,
        wall_ns: u64,
        set: SnapshotId,
        members: Vec<VdiskId>,
    ) -> Result<SnapshotSummary> {
        let vdisk = self.vdisk(vdisk).await?;
        check_new(&vdisk, name)?;
        let id = self.context.pool.next_snapshot_id().await?;
        let set = SetRecord { id: set, members, confirmed: false };
        let info = vdisk.part_at(id, name, Moment::At(wall_ns), set).await?;
        Ok(self.snapshot_summary(&vdisk, info))
    }
}
