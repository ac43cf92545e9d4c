//! The vDisks as the NBD server sees them.

use super::directory::{Directory, Listed};
use super::groups::Groups;
use super::shards::{Shards, here};
use crate::frontend::{Attach, Attached, Found, Job, Workers};
use crate::nbd::Exports;
use base::VdiskId;
use base::units::BLOCK;
use std::rc::Rc;
use std::sync::Arc;
use world::LocalFuture;

pub struct Exported {
    pub directory: Arc<Directory>,
    pub shards: Shards,
    pub groups: Arc<Groups>,
    /// By shard: a random number that its disk keeps for ever.
    pub realms: Vec<u64>,
}

impl Exported {
    pub(super) fn found(&self, name: String, listed: Listed) -> Found {
        Found {
            worker: self.shards.worker_of(listed.shard),
            key: listed.id.raw(),
            description: format!("Drystone vDisk {}", listed.id),
            geometry: block::Geometry {
                size_bytes: listed.size_bytes,
                sector_bytes: listed.sector_bytes,
                preferred_bytes: BLOCK as u32,
                transfer_bytes_max: control::rules::TRANSFER_BYTES_MAX,
                // Of the engine's default settings; what is attached says it again.
                atomic_bytes_max: vdisk::ATOMIC_BYTES_MAX,
                read_only: listed.read_only,
            },
            name,
        }
    }
}

impl Exports for Exported {
    fn list(&self) -> Vec<Found> {
        self.directory.all().into_iter().map(|(name, listed)| self.found(name, listed)).collect()
    }

    fn find(&self, name: &str) -> Option<Found> {
        let listed = self.directory.find(name)?;
        Some(self.found(name.to_string(), listed))
    }
}

impl Workers<dyn Attach> for Shards {
    fn run(&self, worker: usize, job: Job<dyn Attach>) {
        // Refused: the job is dropped, and with it the connection.
        let _ = self.workers.run(worker, Box::new(move |_| job(Rc::new(AttachHere))));
    }
}

pub(super) struct AttachHere;

impl Attach for AttachHere {
    fn attach(&self, key: u64) -> LocalFuture<block::Result<Attached>> {
        Box::pin(async move {
            let gone = || block::Error::new(block::Kind::Unavailable, "the vDisk is not there any more");
            let id = VdiskId::from_raw(key).ok_or_else(gone)?;
            let shard = here(shard_of(id)).ok_or_else(gone)?;
            let attachment = shard.attach(id).await?;
            Ok(Attached { device: attachment.device, closed: attachment.closed, hold: Box::new(attachment.hold) })
        })
    }
}

/// The shard's number is in the upper six bits of the id's counter.
pub(super) fn shard_of(id: VdiskId) -> u16 {
    (id.counter() >> 26) as u16
}
