//! A vDisk of another worker as a block device of this one, for copies between vDisks: each request is a job over there,
//! queued behind what that worker already has to do, so that a copy takes no more than its turn.

use super::exports::{Exported, shard_of};
use super::targets::{Here, copy_request};
use base::VdiskId;
use base::units::BLOCK;
use block::{BlockDevice, Error, Geometry, Kind, Reply, Request, Result};
use std::sync::Arc;
use world::Completion;

pub(super) struct Remote {
    pub exported: Arc<Exported>,
    pub id: VdiskId,
    /// For whom the copy is.
    pub initiator_port: String,
}

impl BlockDevice for Remote {
    /// As the directory has it: it follows resizes and switches.
    fn geometry(&self) -> Geometry {
        match self.exported.directory.find_id(self.id) {
            Some((name, listed)) => self.exported.found(name, listed).geometry,
            None => Geometry {
                size_bytes: 0,
                sector_bytes: 512,
                preferred_bytes: BLOCK as u32,
                transfer_bytes_max: control::rules::TRANSFER_BYTES_MAX,
                atomic_bytes_max: BLOCK as u32,
                read_only: true,
            },
        }
    }

    fn submit(&self, request: Request) -> Completion<Result<Reply>> {
        let (shards, id) = (self.exported.shards.clone(), self.id);
        let (exported, initiator_port) = (self.exported.clone(), self.initiator_port.clone());
        let (answer, answered) = tokio::sync::oneshot::channel();
        // Posted at once: dropping the completion does not cancel it.
        let posted = shards.workers.run(
            shards.worker_of(shard_of(id)),
            Box::new(move |context| {
                let units = Here { world: context.world.clone(), exported };
                Box::pin(async move {
                    // Whoever asked may have gone.
                    let _ = answer.send(there(id, &units, &initiator_port, request).await);
                })
            }),
        );
        let gone = || Error::new(Kind::Unavailable, "the controller is shutting down");
        match posted {
            Ok(()) => Completion::pending(async move { answered.await.unwrap_or_else(|_| Err(gone())) }),
            Err(_) => Completion::Ready(Err(gone())),
        }
    }
}

/// On the vDisk's worker.
async fn there(id: VdiskId, units: &Here, initiator_port: &str, request: Request) -> Result<Reply> {
    let gone = || Error::new(Kind::Unavailable, "the vDisk is not there any more");
    let shard = super::shards::here(shard_of(id)).ok_or_else(gone)?;
    let vdisk = shard.vdisk(id).await?;
    copy_request(id, vdisk.device(), units, initiator_port, request).await
}
