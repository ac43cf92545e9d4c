//! The verbs on the past of a vDisk.

use super::ShardNode;
use crate::engine::{Kept, Moment, Past, Window};
use base::Sequence;
use block::Result;
use vdisk::{Rewind, RewindInfo};
use world::LocalFuture;

impl Past for ShardNode {
    fn keep(&self, id: u64, window: Option<Window>) -> LocalFuture<Result<()>> {
        let rewind = window.map(|Window { length_ns, limit_bytes }| Rewind { window_ns: length_ns, limit_bytes });
        self.verb(id, move |shard, id| async move { Ok(shard.vdisk(id).await?.set_rewind(rewind).await?) })
    }

    fn kept(&self, id: u64) -> LocalFuture<Result<Option<Kept>>> {
        self.verb(id, |shard, id| async move { Ok(shard.vdisk(id).await?.rewind_info().map(kept_of)) })
    }

    fn snapshot(&self, id: u64, name: String, moment: Moment) -> LocalFuture<Result<u64>> {
        let moment = match moment {
            Moment::At(wall_ns) => vdisk::Moment::At(wall_ns),
            Moment::Before(sequence) => vdisk::Moment::Before(Sequence(sequence)),
        };
        self.verb(id, move |shard, id| async move {
            let vdisk = shard.vdisk(id).await?;
            let snapshot = shard.context.pool.next_snapshot_id().await?;
            Ok(vdisk.snapshot_at(snapshot, &name, moment).await?.id.raw())
        })
    }

    fn history(&self, id: u64) -> LocalFuture<Result<Vec<u64>>> {
        self.verb(id, |shard, id| async move {
            let found = shard.vdisk(id).await?.history(0, u64::MAX).await?;
            Ok(found.into_iter().map(|point| point.sequence.0).collect())
        })
    }

    fn last_write(&self, id: u64) -> Option<u64> {
        let open = self.shard.open_vdisks();
        open.iter().find(|vdisk| vdisk.id.raw() == id).map(|vdisk| vdisk.sequence().0)
    }
}

fn kept_of(info: RewindInfo) -> Kept {
    Kept {
        window: Window { length_ns: info.rewind.window_ns, limit_bytes: info.rewind.limit_bytes },
        since_ns: info.since_ns,
        since: info.since.map(|sequence| sequence.0),
        held_bytes: info.held_bytes,
        cut_short: info.cut_short,
    }
}
