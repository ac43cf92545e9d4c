//! What the iSCSI server asks of the rest of the controller, besides what every front-end does.

use crate::frontend::{Attach, Found};
use control::{ChapSecret, IscsiAccess};
use std::rc::Rc;
use tokio::sync::watch;
use world::LocalFuture;

/// What the relative target port identifiers of VMs' targets begin with: a logical unit that is seen through its own target
/// and through its VM's has ports of both, and a persistent registration belongs to one. Portal groups are fewer.
pub const PORTS_OF_VMS: u16 = 0x400;

/// What an initiator can log in to: a vDisk, a snapshot, or a VM with its vDisks.
#[derive(Debug, Clone)]
pub struct FoundTarget {
    /// The id of the vDisk, snapshot or VM: no other has it, ever.
    pub key: u64,
    /// Index of the worker on which its sessions live.
    pub worker: usize,
    /// For people.
    pub name: String,
    /// `iqn.2026-11.io.drystone:…`, at most 223 bytes.
    pub target_name: String,
    /// A relative target port identifier is a portal group's number and this.
    pub first_port: u16,
    /// What whoever logs in must prove to know. Who may do so, each unit says.
    pub chap: Option<ChapSecret>,
    pub mutual: Option<ChapSecret>,
    /// In the order of their numbers, which differ.
    pub units: Vec<FoundUnit>,
}

#[derive(Debug, Clone)]
pub struct FoundUnit {
    pub lun: u64,
    pub found: Found,
    /// An initiator sees it only if these rules would let it log in to this unit alone.
    pub access: IscsiAccess,
}

impl FoundUnit {
    /// By which a worker knows the logical unit: the id of the vDisk, or of the snapshot.
    pub fn unit_key(&self) -> u64 {
        self.found.snapshot.unwrap_or(self.found.key)
    }
}

impl FoundTarget {
    /// Whether this is the target that the unit belongs to, rather than one more in which it is seen.
    pub fn is_own(&self) -> bool {
        self.first_port == 0
    }
}

/// The targets by name. Called on the threads that log initiators in, so that it must not block.
pub trait Targets: Send + Sync {
    /// Those that discovery tells of, in the order in which initiators are to see them; who may see which is decided here.
    fn list(&self) -> Vec<FoundTarget>;
    /// The target of exactly this name.
    fn find(&self, target_name: &str) -> Option<FoundTarget>;
    /// What the target of this key consists of now; `None`: it is gone.
    fn units(&self, key: u64) -> Option<Vec<FoundUnit>>;
    /// Changes when the units of a target may have changed.
    fn changes(&self) -> watch::Receiver<u64>;
}

/// What a worker has for iSCSI connections.
pub trait Units: Attach {
    /// What belongs to the logical unit of a vDisk, or of its snapshot. Asked once for all connections that share the unit,
    /// after one of them was attached.
    fn unit(&self, key: u64, snapshot: Option<u64>) -> LocalFuture<block::Result<Unit>>;
    /// Whether what has this [`FoundUnit::unit_key`] still exists: what is remembered of one that was deleted is forgotten.
    fn exists(&self, unit_key: u64) -> bool;
}

/// What a logical unit has besides its blocks.
pub struct Unit {
    /// By what hosts know the unit again, whatever the path.
    pub identity: scsi::Identity,
    pub host: Rc<dyn scsi::Host>,
    /// What [`scsi::Host::save_state`] was given last; empty: nothing yet.
    pub saved: Vec<u8>,
}
