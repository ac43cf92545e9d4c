//! What a start goes on with, whether or not anybody logs in: sanitize operations that the last run did not finish.

use super::exports::Exported;
use super::shards::here;
use super::targets::Here;
use base::VdiskId;
use std::sync::Arc;
use vdisk::NoteKind;

/// On each worker, in the background: whether there is something to go on with is in the vDisks' logs.
pub(super) fn resume(exported: &Arc<Exported>) {
    let listed: Vec<_> = exported.directory.all().into_iter().map(|(_, listed)| (listed.shard, listed.id)).collect();
    for shard in exported.shards.numbers() {
        let ids: Vec<VdiskId> = listed.iter().filter(|(of, _)| *of == shard).map(|(_, id)| *id).collect();
        let there = exported.clone();
        let posted = exported.shards.workers.run(
            exported.shards.worker_of(shard),
            Box::new(move |context| {
                let units = Here { world: context.world.clone(), exported: there };
                Box::pin(async move {
                    for id in ids {
                        go_on(shard, id, &units).await;
                    }
                })
            }),
        );
        if let Err(error) = posted {
            tracing::warn!(shard, %error, "sanitize operations go on when somebody logs in");
        }
    }
}

async fn go_on(shard: u16, id: VdiskId, units: &Here) {
    let Some(shard) = here(shard) else { return };
    // One that cannot be opened is reported by the shard.
    let Ok(Some(saved)) = shard.note(id, NoteKind::Reservations).await else { return };
    // Of one that is being rolled back the content is another one soon; it goes on when somebody logs in.
    if !scsi::LogicalUnit::goes_on(&saved) || shard.is_held(id) {
        return;
    }
    let woken = async {
        let device = shard.vdisk(id).await?.device();
        crate::iscsi::wake(id.raw(), device, units).await
    };
    match woken.await {
        Ok(()) => tracing::info!(vdisk = %id, "a sanitize operation that was cut short begins anew"),
        Err(error) => tracing::warn!(vdisk = %id, %error, "a sanitize operation that was cut short does not go on"),
    }
}
