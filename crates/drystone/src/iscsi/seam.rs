//! What the iSCSI server asks of the rest of the controller, besides what every front-end does.

use crate::frontend::{Attach, Found};
use control::IscsiAccess;
use std::rc::Rc;
use world::LocalFuture;

/// A vDisk as a target.
#[derive(Debug, Clone)]
pub struct FoundTarget {
    pub found: Found,
    /// `iqn.2026-11.io.drystone:<vdisk>`, at most 223 bytes.
    pub target_name: String,
    pub access: IscsiAccess,
}

/// The targets by name. Called on the threads that log initiators in, so that it must not block.
pub trait Targets: Send + Sync {
    /// All of them, in the order in which initiators are to see them; who may see which is decided here.
    fn list(&self) -> Vec<FoundTarget>;
    /// The target of exactly this name.
    fn find(&self, target_name: &str) -> Option<FoundTarget>;
}

/// What a worker has for iSCSI connections.
pub trait Units: Attach {
    /// What belongs to the logical unit of a vDisk. Asked once for all connections that share the unit, after one of
    /// them was attached.
    fn unit(&self, key: u64) -> LocalFuture<block::Result<Unit>>;
    /// Whether the vDisk still exists: what is remembered of one that was deleted is forgotten.
    fn exists(&self, key: u64) -> bool;
}

/// What a logical unit has besides its blocks.
pub struct Unit {
    /// By what hosts know the unit again, whatever the path.
    pub identity: scsi::Identity,
    pub host: Rc<dyn scsi::Host>,
    /// What [`scsi::Host::save_state`] was given last; empty: nothing yet.
    pub saved: Vec<u8>,
}
