//! The vDisks as the iSCSI server sees them.

use super::directory::Listed;
use super::exports::{AttachHere, Exported, shard_of};
use super::remote::Remote;
use super::shards::here;
use crate::frontend::{Attach, Attached, Job, Workers};
use crate::iscsi::{FoundTarget, Targets, Unit, Units};
use base::VdiskId;
use block::BlockDevice;
use control::TARGET_PREFIX;
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
        self.target(name, listed)
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
struct Here {
    world: World,
    exported: Arc<Exported>,
}

impl Attach for Here {
    fn attach(&self, key: u64) -> LocalFuture<block::Result<Attached>> {
        AttachHere.attach(key)
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

    fn open(&self, designator: &[u8]) -> Completion<Option<Rc<dyn BlockDevice>>> {
        let is_it = |(name, listed): &(String, Listed)| self.exported.identity(listed.id, name).matches(designator);
        let Some((_, listed)) = self.exported.directory.all().into_iter().find(is_it) else {
            return Completion::Ready(None);
        };
        match here(listed.shard) {
            Some(shard) => Completion::pending(async move {
                let opened = shard.vdisk(listed.id).await;
                opened.ok().map(|vdisk| vdisk.device())
            }),
            None => Completion::Ready(Some(Rc::new(Remote { exported: self.exported.clone(), id: listed.id }))),
        }
    }

    fn sleep(&self, duration_ns: u64) -> LocalFuture<()> {
        self.world.clock.sleep(duration_ns)
    }

    fn spawn(&self, task: LocalFuture<()>) {
        self.world.spawn.spawn(task);
    }
}
