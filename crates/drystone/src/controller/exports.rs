//! The vDisks as the NBD server sees them.

use super::directory::{Directory, Listed, ListedSnapshot};
use super::groups::Groups;
use super::shards::{Shards, here};
use super::vms::Vms;
use crate::frontend::{Attach, Attached, Found, Job, Workers};
use crate::nbd::Exports;
use base::units::BLOCK;
use base::{SnapshotId, VdiskId};
use control::rules::snapshots::{SEPARATOR, split};
use node::{Attachment, Shard};
use std::rc::Rc;
use std::sync::Arc;
use world::LocalFuture;

pub struct Exported {
    pub directory: Arc<Directory>,
    pub shards: Shards,
    pub groups: Arc<Groups>,
    pub vms: Arc<Vms>,
    /// By shard: a random number that its disk keeps for ever.
    pub realms: Vec<u64>,
}

impl Exported {
    pub(super) fn found(&self, name: String, listed: Listed) -> Found {
        Found {
            worker: self.shards.worker_of(listed.shard),
            key: listed.id.raw(),
            snapshot: None,
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

    /// `NAME@SNAPSHOT`, read-only.
    pub(super) fn found_snapshot(&self, vdisk: &str, listed: &Listed, name: &str, snapshot: ListedSnapshot) -> Found {
        let whole = self.found(format!("{vdisk}{SEPARATOR}{name}"), listed.clone());
        let ListedSnapshot { id, size_bytes, sector_bytes } = snapshot;
        Found {
            snapshot: Some(id.raw()),
            description: format!("Drystone snapshot {id} of vDisk {}", listed.id),
            geometry: block::Geometry { size_bytes, sector_bytes, read_only: true, ..whole.geometry },
            ..whole
        }
    }

    /// The vDisk, and behind it its snapshots in order of names.
    fn with_snapshots(&self, name: String, listed: Listed) -> Vec<Found> {
        let snapshots = listed.snapshots.clone();
        let of_it = snapshots.iter().map(|(snapshot, about)| self.found_snapshot(&name, &listed, snapshot, *about));
        let of_it: Vec<Found> = of_it.collect();
        std::iter::once(self.found(name, listed)).chain(of_it).collect()
    }
}

impl Exports for Exported {
    fn list(&self) -> Vec<Found> {
        self.directory.all().into_iter().flat_map(|(name, listed)| self.with_snapshots(name, listed)).collect()
    }

    fn find(&self, name: &str) -> Option<Found> {
        let (vdisk, snapshot) = split(name);
        let listed = self.directory.find(vdisk)?;
        match snapshot {
            None if listed.held => None,
            None => Some(self.found(name.to_string(), listed)),
            Some(snapshot) => {
                let about = *listed.snapshots.get(snapshot)?;
                Some(self.found_snapshot(vdisk, &listed, snapshot, about))
            }
        }
    }

    fn bases(&self, name: &str) -> Vec<(String, u64)> {
        let (vdisk, shown) = split(name);
        let Some(listed) = self.directory.find(vdisk) else { return Vec::new() };
        let others = listed.snapshots.iter().filter(|(name, _)| shown != Some(name.as_str()));
        others.map(|(name, about)| (name.clone(), about.id.raw())).collect()
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
    fn attach(&self, key: u64, snapshot: Option<u64>) -> LocalFuture<block::Result<Attached>> {
        Box::pin(async move {
            let (id, shard) = find_here(key)?;
            Ok(attached(match snapshot {
                None => shard.attach(id).await?,
                Some(snapshot) => shard.attach_snapshot(id, snapshot_of(snapshot)?).await?,
            }))
        })
    }

    fn attach_difference(&self, key: u64, snapshot: Option<u64>, base: u64) -> LocalFuture<block::Result<Attached>> {
        Box::pin(async move {
            let (id, shard) = find_here(key)?;
            let snapshot = snapshot.map(snapshot_of).transpose()?;
            Ok(attached(shard.attach_difference(id, snapshot, snapshot_of(base)?).await?))
        })
    }
}

fn gone() -> block::Error {
    block::Error::new(block::Kind::Unavailable, "the vDisk is not there any more")
}

fn find_here(key: u64) -> block::Result<(VdiskId, Rc<Shard>)> {
    let id = VdiskId::from_raw(key).ok_or_else(gone)?;
    Ok((id, here(shard_of(id)).ok_or_else(gone)?))
}

fn snapshot_of(id: u64) -> block::Result<SnapshotId> {
    SnapshotId::from_raw(id).ok_or_else(gone)
}

fn attached(attachment: Attachment) -> Attached {
    Attached { device: attachment.device, closed: attachment.closed, hold: Box::new(attachment.hold) }
}

/// The shard's number is in the upper six bits of the id's counter.
pub(super) fn shard_of(id: VdiskId) -> u16 {
    (id.counter() >> 26) as u16
}
