//! The vDisks as the iSCSI server sees them.

use super::exports::{AttachHere, Exported, shard_of};
use super::shards::here;
use crate::frontend::{Attach, Attached};
use crate::iscsi::{FoundTarget, Targets, Unit, Units};
use base::VdiskId;
use block::BlockDevice;
use control::IscsiAccess;
use std::rc::Rc;
use world::{Completion, LocalFuture, World};

/// What comes before the vDisk's name in its target name.
const PREFIX: &str = "iqn.2026-11.io.drystone:";

impl Targets for Exported {
    fn list(&self) -> Vec<FoundTarget> {
        let target = |(name, listed): (String, _)| FoundTarget {
            target_name: format!("{PREFIX}{name}"),
            access: IscsiAccess::default(),
            found: self.found(name, listed),
        };
        self.directory.all().into_iter().map(target).collect()
    }

    fn find(&self, target_name: &str) -> Option<FoundTarget> {
        Targets::list(self).into_iter().find(|target| target.target_name.eq_ignore_ascii_case(target_name))
    }
}

/// One worker, for iSCSI.
pub(super) struct Here(pub World);

impl Attach for Here {
    fn attach(&self, key: u64) -> LocalFuture<block::Result<Attached>> {
        AttachHere.attach(key)
    }
}

impl Units for Here {
    fn exists(&self, key: u64) -> bool {
        let Some(id) = VdiskId::from_raw(key) else { return false };
        here(shard_of(id)).is_some_and(|shard| shard.records().iter().any(|record| record.id == id))
    }

    fn unit(&self, key: u64) -> LocalFuture<block::Result<Unit>> {
        let host = Rc::new(Host(self.0.clone()));
        Box::pin(async move {
            let gone = || block::Error::new(block::Kind::Unavailable, "the vDisk is not there any more");
            let id = VdiskId::from_raw(key).ok_or_else(gone)?;
            let identity = scsi::Identity {
                id: id.raw() & 0xffff_ffff_ffff,
                realm: 0,
                name: id.to_string(),
                target_name: String::new(),
            };
            Ok(Unit { identity, host, saved: Vec::new() })
        })
    }
}

struct Host(World);

impl scsi::Host for Host {
    fn save_state(&self, _bytes: Vec<u8>) -> Completion<block::Result<()>> {
        Completion::Ready(Err(block::Error::new(block::Kind::Unsupported, "nothing is kept beside a vDisk")))
    }
    fn open(&self, _designator: &[u8]) -> Completion<Option<Rc<dyn BlockDevice>>> {
        Completion::Ready(None)
    }
    fn sleep(&self, duration_ns: u64) -> LocalFuture<()> {
        self.0.clock.sleep(duration_ns)
    }
    fn spawn(&self, task: LocalFuture<()>) {
        self.0.spawn.spawn(task);
    }
}
