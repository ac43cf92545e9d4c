//! A vDisk of another worker as a block device of this one, for copies between vDisks: a task over there visits it, and takes
//! one request after the other between whatever else that worker has to do, so that a copy gets no more than its turn.

use super::exports::{Exported, shard_of};
use super::targets::{Here, visit};
use base::VdiskId;
use base::units::BLOCK;
use block::{BlockDevice, Error, Geometry, Kind, Reply, Request, Result};
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use world::Completion;

/// Requests of one copy that were not begun over there. A copy waits for each before it goes on; more is a mistake of ours.
const WAITING_MAX: usize = 16;

pub(super) struct Remote {
    exported: Arc<Exported>,
    id: VdiskId,
    /// Dropping it ends the visit.
    requests: mpsc::Sender<Asked>,
}

struct Asked {
    request: Request,
    answer: oneshot::Sender<Result<Reply>>,
}

impl Remote {
    /// For a copy of this initiator port. `None`: it cannot be reached.
    pub async fn open(exported: Arc<Exported>, id: VdiskId, initiator_port: String) -> Option<Rc<dyn BlockDevice>> {
        let (requests, asked) = mpsc::channel(WAITING_MAX);
        let (opened, is_open) = oneshot::channel();
        let there = exported.clone();
        let posted = exported.shards.workers.run(
            exported.shards.worker_of(shard_of(id)),
            Box::new(move |context| {
                let units = Here { world: context.world.clone(), exported: there };
                Box::pin(async move {
                    match visit(id, &units, &initiator_port).await {
                        Ok(device) if opened.send(()).is_ok() => serve(&*device, asked).await,
                        // It cannot be reached, or whoever asked has gone.
                        Ok(_) | Err(_) => {}
                    }
                })
            }),
        );
        posted.ok()?;
        is_open.await.ok()?;
        Some(Rc::new(Remote { exported, id, requests }))
    }
}

/// On the vDisk's worker, until the copy has ended.
async fn serve(device: &dyn BlockDevice, mut asked: mpsc::Receiver<Asked>) {
    while let Some(Asked { request, answer }) = asked.recv().await {
        // Whoever asked may have gone.
        let _ = answer.send(device.submit(request).await);
    }
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
        let gone = || Error::new(Kind::Unavailable, "the other worker does not take requests any more");
        let (answer, answered) = oneshot::channel();
        // Posted at once: dropping the completion does not cancel it.
        match self.requests.try_send(Asked { request, answer }) {
            Ok(()) => Completion::pending(async move { answered.await.unwrap_or_else(|_| Err(gone())) }),
            Err(_) => Completion::Ready(Err(gone())),
        }
    }
}
