//! The vDisks as the iSCSI server sees them.

use super::directory::Listed;
use super::exports::{AttachHere, Exported, shard_of};
use super::remote::Remote;
use super::shards::here;
use crate::frontend::{Attach, Attached, Job, Workers};
use crate::iscsi::{FoundTarget, Targets, Unit, Units};
use base::VdiskId;
use block::BlockDevice;
use control::{IscsiAccess, TARGET_PREFIX};
use std::rc::Rc;
use std::sync::Arc;
use vdisk::NoteKind;
use world::{Completion, LocalFuture, World};

pub fn target_name(vdisk: &str) -> String {
    format!("{TARGET_PREFIX}{vdisk}")
}

impl Exported {
    /// `None`: its rules cannot be read, so that nobody may see it.
    fn target(&self, name: String, listed: Listed) -> Option<FoundTarget> {
        let access = listed.access.clone().ok()?.resolve(&self.groups);
        Some(FoundTarget { target_name: target_name(&name), access, found: self.found(name, listed) })
    }

    /// By what hosts know the vDisk again.
    fn identity(&self, id: VdiskId, name: &str) -> scsi::Identity {
        let realm = self.realms.get(usize::from(shard_of(id))).copied().unwrap_or_default();
        scsi::Identity { id: id.raw(), realm, name: name.to_string(), target_name: target_name(name) }
    }
}

impl Targets for Exported {
    fn list(&self) -> Vec<FoundTarget> {
        self.directory.all().into_iter().filter_map(|(name, listed)| self.target(name, listed)).collect()
    }

    fn find(&self, target_name: &str) -> Option<FoundTarget> {
        let (prefix, name) = target_name.split_at_checked(TARGET_PREFIX.len())?;
        if !prefix.eq_ignore_ascii_case(TARGET_PREFIX) {
            return None;
        }
        let exact = self.directory.find(name).map(|listed| (name.to_string(), listed));
        let (name, listed) = exact.or_else(|| self.directory.find_ignoring_case(name))?;
        if listed.held { None } else { self.target(name, listed) }
    }
}

/// For iSCSI a worker needs to know the other vDisks, too.
pub struct IscsiWorkers(pub Arc<Exported>);

impl Workers<dyn Units> for IscsiWorkers {
    fn run(&self, worker: usize, job: Job<dyn Units>) {
        let exported = self.0.clone();
        // Refused: the job is dropped, and with it the connection.
        let _ = self
            .0
            .shards
            .workers
            .run(worker, Box::new(move |context| job(Rc::new(Here { world: context.world.clone(), exported }))));
    }
}

/// One worker, for iSCSI.
pub(super) struct Here {
    pub world: World,
    pub exported: Arc<Exported>,
}

impl Attach for Here {
    fn attach(&self, key: u64, snapshot: Option<u64>) -> LocalFuture<block::Result<Attached>> {
        AttachHere.attach(key, snapshot)
    }
}

impl Units for Here {
    fn unit(&self, key: u64) -> LocalFuture<block::Result<Unit>> {
        let (world, exported) = (self.world.clone(), self.exported.clone());
        Box::pin(async move {
            let id = VdiskId::from_raw(key).ok_or_else(gone)?;
            let shard = here(shard_of(id)).ok_or_else(gone)?;
            let saved = shard.note(id, NoteKind::Reservations).await?.unwrap_or_default().to_vec();
            let (name, _) = exported.directory.find_id(id).ok_or_else(gone)?;
            let identity = exported.identity(id, &name);
            Ok(Unit { identity, host: Rc::new(Host { id, world, exported }), saved })
        })
    }

    fn exists(&self, key: u64) -> bool {
        VdiskId::from_raw(key).is_some_and(|id| self.exported.directory.find_id(id).is_some())
    }
}

fn gone() -> block::Error {
    block::Error::new(block::Kind::Unavailable, "the vDisk is not there any more")
}

/// What a logical unit asks of the controller.
struct Host {
    id: VdiskId,
    world: World,
    exported: Arc<Exported>,
}

impl scsi::Host for Host {
    fn save_state(&self, bytes: Vec<u8>) -> Completion<block::Result<()>> {
        let id = self.id;
        Completion::pending(async move {
            let shard = here(shard_of(id)).ok_or_else(gone)?;
            Ok(shard.set_note(id, NoteKind::Reservations, bytes.into()).await?)
        })
    }

    fn open(&self, designator: &[u8], initiator_port: &str) -> Completion<Option<Rc<dyn BlockDevice>>> {
        let is_it = |(name, listed): &(String, Listed)| self.exported.identity(listed.id, name).matches(designator);
        let found = self.exported.directory.all().into_iter().find(is_it);
        let Some((_, listed)) = found.filter(|(_, listed)| self.may_use_too(listed, initiator_port)) else {
            return Completion::Ready(None);
        };
        let (exported, id, initiator_port) = (self.exported.clone(), listed.id, initiator_port.to_string());
        if here(listed.shard).is_none() {
            return Completion::pending(Remote::open(exported, id, initiator_port));
        }
        let units = Here { world: self.world.clone(), exported };
        Completion::pending(async move { visit(id, &units, &initiator_port).await.ok() })
    }

    fn sleep(&self, duration_ns: u64) -> LocalFuture<()> {
        self.world.clock.sleep(duration_ns)
    }

    fn spawn(&self, task: LocalFuture<()>) {
        self.world.spawn.spawn(task);
    }
}

impl Host {
    /// A third-party copy must not reach a vDisk that its initiator could not log in to.
    fn may_use_too(&self, listed: &Listed, initiator_port: &str) -> bool {
        let resolve = |listed: &Listed| listed.access.as_ref().ok().map(|note| note.resolve(&self.exported.groups));
        let own = self.exported.directory.find_id(self.id).and_then(|(_, own)| resolve(&own));
        let both = own.zip(resolve(listed));
        both.is_some_and(|(own, other)| lets_in_too(&own, &other, initiator_port))
    }
}

/// Whether who was let in by the rules `own` would be by `other`, too: it is on the list, and the secret that it has proven
/// to know is the one that is asked for. A vDisk that asks for nothing is not served at every portal: it is in reach of
/// those that use one like it.
fn lets_in_too(own: &IscsiAccess, other: &IscsiAccess, initiator_port: &str) -> bool {
    let initiator = initiator_port.split_once(",i,0x").map_or(initiator_port, |(name, _)| name);
    let named = other.initiators.is_empty() || other.initiators.iter().any(|name| name.eq_ignore_ascii_case(initiator));
    let proven = other.chap.is_none() || other.chap == own.chap;
    named && proven && (own.is_open() || !other.is_open())
}

/// A vDisk of this worker for a copy that another one's unit carries out.
pub(super) async fn visit(id: VdiskId, units: &Here, initiator_port: &str) -> block::Result<Rc<dyn BlockDevice>> {
    let shard = here(shard_of(id)).ok_or_else(gone)?;
    let device = shard.vdisk(id).await?.device();
    crate::iscsi::visit(id.raw(), device, units, initiator_port).await
}

#[cfg(test)]
mod tests;
