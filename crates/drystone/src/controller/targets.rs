//! The vDisks, snapshots and VMs as the iSCSI server sees them.

use super::directory::{Directory, Listed};
use super::exports::{AttachHere, Exported, shard_of};
use super::groups::Groups;
use super::remote::Remote;
use super::shards::here;
use crate::frontend::{Attach, Attached, Found, Job, Workers};
use crate::iscsi::{FoundTarget, FoundUnit, PORTS_OF_VMS, Targets, Unit, Units};
use base::{VdiskId, VmId};
use block::{BlockDevice, Geometry, Lent, Reply, Request};
use control::rules::snapshots::SEPARATOR;
use control::{
    ChapSecret, IscsiAccess, TARGET_OF_SNAPSHOT, TARGET_OF_VM, TARGET_PREFIX, snapshot_target_name, target_name,
    vm_target_name,
};
use meta::VmRecord;
use node::{Attachment, Hold};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::{oneshot, watch};
use vdisk::NoteKind;
use world::{Completion, LocalFuture, World};

impl Exported {
    /// `None`: its rules cannot be read, so that nobody may see it.
    fn target(&self, name: String, listed: Listed) -> Option<FoundTarget> {
        let target_name = target_name(&name);
        self.of_one(target_name, self.access(&listed)?, self.found(name, listed))
    }

    fn access(&self, listed: &Listed) -> Option<IscsiAccess> {
        Some(listed.access.as_ref().ok()?.resolve(&self.groups))
    }

    fn of_one(&self, target_name: String, access: IscsiAccess, found: Found) -> Option<FoundTarget> {
        Some(FoundTarget {
            key: found.snapshot.unwrap_or(found.key),
            worker: found.worker,
            name: found.name.clone(),
            target_name,
            first_port: 0,
            chap: access.chap.clone(),
            mutual: access.mutual.clone(),
            units: vec![FoundUnit { lun: 0, found, access }],
        })
    }

    /// By the rules of its vDisk.
    fn snapshot_target(&self, rest: &str) -> Option<FoundTarget> {
        let (vdisk, snapshot) = rest.split_once(':')?;
        let (vdisk, listed) = self.find_vdisk(vdisk)?;
        let exact = listed.snapshots.get_key_value(snapshot);
        let (snapshot, about) = exact.or_else(|| {
            let mut found = listed.snapshots.iter().filter(|(name, _)| name.eq_ignore_ascii_case(snapshot));
            found.next().filter(|_| found.next().is_none())
        })?;
        let found = self.found_snapshot(&vdisk, &listed, snapshot, *about);
        self.of_one(snapshot_target_name(&vdisk, snapshot), self.access(&listed)?, found)
    }

    fn find_vdisk(&self, name: &str) -> Option<(String, Listed)> {
        let exact = self.directory.find(name).map(|listed| (name.to_string(), listed));
        exact.or_else(|| self.directory.find_ignoring_case(name))
    }

    /// Its vDisks but for those whose rules cannot be read.
    fn vm_units(&self, vm: &VmRecord) -> Vec<FoundUnit> {
        let unit = |member: &meta::VmVdisk| {
            let (name, listed) = self.directory.find_id(member.vdisk)?;
            let access = self.access(&listed)?;
            Some(FoundUnit { lun: member.lun.into(), access, found: self.found(name, listed) })
        };
        let mut units: Vec<FoundUnit> = vm.vdisks.iter().filter_map(unit).collect();
        units.sort_unstable_by_key(|unit| unit.lun);
        units
    }

    /// The error says why nobody can log in.
    pub(super) fn vm_target(&self, vm: &VmRecord) -> Result<FoundTarget, &'static str> {
        let units = self.vm_units(vm);
        let (chap, mutual) = secrets(units.iter().map(|unit| &unit.access))?;
        Ok(FoundTarget {
            key: vm.id.raw(),
            worker: units.first().map_or(0, |unit| unit.found.worker),
            name: format!("{TARGET_OF_VM}{}", vm.name),
            target_name: vm_target_name(&vm.name),
            first_port: PORTS_OF_VMS,
            chap,
            mutual,
            units,
        })
    }

    /// By what hosts know the vDisk again, or its snapshot.
    fn identity(&self, id: VdiskId, name: &str) -> scsi::Identity {
        scsi::Identity { id: id.raw(), realm: self.realm(id), name: name.to_string(), target_name: target_name(name) }
    }

    fn realm(&self, id: VdiskId) -> u64 {
        self.realms.get(usize::from(shard_of(id))).copied().unwrap_or_default()
    }
}

/// What whoever logs in to all of these at once must prove to know, and what is proven to it; the error says why nobody can.
/// One without a secret is in reach of those who know that of the others: they are fewer.
fn secrets<'a>(
    units: impl Iterator<Item = &'a IscsiAccess> + Clone,
) -> Result<(Option<ChapSecret>, Option<ChapSecret>), &'static str> {
    if units.clone().next().is_none() {
        return Err("it has no vDisks that can be logged in to");
    }
    let chap = only(units.clone().filter_map(|access| access.chap.as_ref()));
    let mutual = only(units.filter_map(|access| access.mutual.as_ref()));
    match (chap, mutual) {
        (None, _) => Err("its vDisks ask for different secrets"),
        (_, None) => Err("its vDisks prove themselves by different secrets"),
        (Some(chap), Some(mutual)) => Ok((chap.cloned(), mutual.cloned())),
    }
}

/// The secret that all of them are; `None`: there are several.
fn only<'a>(mut secrets: impl Iterator<Item = &'a ChapSecret>) -> Option<Option<&'a ChapSecret>> {
    let first = secrets.next();
    secrets.all(|other| Some(other) == first).then_some(first)
}

/// Why nobody can log in to the VM's target.
pub(super) fn vm_target_closed(vm: &VmRecord, directory: &Directory, groups: &Groups) -> Option<String> {
    let access = |member: &meta::VmVdisk| {
        let (_, listed) = directory.find_id(member.vdisk)?;
        Some(listed.access.ok()?.resolve(groups))
    };
    let all: Vec<IscsiAccess> = vm.vdisks.iter().filter_map(access).collect();
    secrets(all.iter()).err().map(str::to_string)
}

impl Targets for Exported {
    /// Snapshots are not told of: whoever logs in to all that there is would log in to a thousand of them.
    fn list(&self) -> Vec<FoundTarget> {
        let vdisks = self.directory.all().into_iter().filter_map(|(name, listed)| self.target(name, listed));
        let vms = self.vms.all();
        vdisks.chain(vms.iter().filter_map(|vm| self.vm_target(vm).ok())).collect()
    }

    fn find(&self, target_name: &str) -> Option<FoundTarget> {
        let (prefix, name) = target_name.split_at_checked(TARGET_PREFIX.len())?;
        if !prefix.eq_ignore_ascii_case(TARGET_PREFIX) {
            return None;
        }
        if let Some(vm) = name.strip_prefix(TARGET_OF_VM) {
            let vm = self.vms.find(vm).or_else(|| self.vms.find_ignoring_case(vm))?;
            let is_held =
                |member: &meta::VmVdisk| self.directory.find_id(member.vdisk).is_some_and(|(_, one)| one.held);
            return if vm.vdisks.iter().any(is_held) { None } else { self.vm_target(&vm).ok() };
        }
        if let Some(rest) = name.strip_prefix(TARGET_OF_SNAPSHOT) {
            return self.snapshot_target(rest);
        }
        let (name, listed) = self.find_vdisk(name)?;
        if listed.held { None } else { self.target(name, listed) }
    }

    /// Only those of VMs change.
    fn units(&self, key: u64) -> Option<Vec<FoundUnit>> {
        VmId::from_raw(key).and_then(|id| self.vms.find_id(id)).map(|vm| self.vm_units(&vm))
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.vms.changes()
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
    fn unit(&self, key: u64, snapshot: Option<u64>) -> LocalFuture<block::Result<Unit>> {
        let (world, exported) = (self.world.clone(), self.exported.clone());
        Box::pin(async move {
            let id = VdiskId::from_raw(key).ok_or_else(gone)?;
            let shard = here(shard_of(id)).ok_or_else(gone)?;
            let (name, listed) = exported.directory.find_id(id).ok_or_else(gone)?;
            let Some(snapshot) = snapshot else {
                let saved = shard.note(id, NoteKind::Reservations).await?.unwrap_or_default().to_vec();
                let identity = exported.identity(id, &name);
                return Ok(Unit { identity, host: Rc::new(Host { id, saves: true, world, exported }), saved });
            };
            let mut of_it = listed.snapshots.iter().filter(|(_, about)| about.id.raw() == snapshot);
            let (of, _) = of_it.next().ok_or_else(gone)?;
            let identity = scsi::Identity {
                id: snapshot,
                realm: exported.realm(id),
                name: format!("{name}{SEPARATOR}{of}"),
                target_name: snapshot_target_name(&name, of),
            };
            Ok(Unit { identity, host: Rc::new(Host { id, saves: false, world, exported }), saved: Vec::new() })
        })
    }

    fn exists(&self, unit_key: u64) -> bool {
        let is_it = |listed: &Listed| {
            listed.id.raw() == unit_key || listed.snapshots.values().any(|snapshot| snapshot.id.raw() == unit_key)
        };
        self.exported.directory.all().iter().any(|(_, listed)| is_it(listed))
    }
}

fn gone() -> block::Error {
    block::Error::new(block::Kind::Unavailable, "the vDisk is not there any more")
}

/// What a logical unit asks of the controller.
struct Host {
    id: VdiskId,
    /// A snapshot has nothing that could be changed, and no log of its own.
    saves: bool,
    world: World,
    exported: Arc<Exported>,
}

impl scsi::Host for Host {
    fn save_state(&self, bytes: Vec<u8>) -> Completion<block::Result<()>> {
        let id = self.id;
        if !self.saves {
            let why = "a snapshot keeps no reservations across a restart";
            let refused = Err(block::Error::new(block::Kind::Unsupported, why));
            return Completion::Ready(if bytes.is_empty() { Ok(()) } else { refused });
        }
        Completion::pending(async move {
            let shard = here(shard_of(id)).ok_or_else(gone)?;
            Ok(shard.set_note(id, NoteKind::Reservations, bytes.into()).await?)
        })
    }

    fn open(&self, designator: &[u8], initiator_port: &str) -> Completion<Option<Rc<dyn BlockDevice>>> {
        let is_it = |(name, listed): &(String, Listed)| self.exported.identity(listed.id, name).matches(designator);
        let found = self.exported.directory.all().into_iter().find(is_it);
        let may_use = |(_, listed): &(String, Listed)| !listed.held && self.may_use_too(listed, initiator_port);
        let Some((_, listed)) = found.filter(may_use) else {
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
    let Attachment { device, closed, hold } = shard.attach(id).await?;
    let device = crate::iscsi::visit(id.raw(), device, units, initiator_port).await?;
    let geometry = device.geometry();
    let open = Rc::new(RefCell::new(Some((device, hold))));
    let (ends, ended) = oneshot::channel();
    let visiting = Visiting { open: open.clone(), geometry, _ends: ends };
    units.world.spawn.spawn(Box::pin(async move {
        tokio::select! {
            () = closed => {
                let cut_off = open.borrow_mut().take();
                drop(cut_off);
            }
            _ = ended => {}
        }
    }));
    Ok(Rc::new(visiting))
}

/// What a visit has as long as nobody ends it.
type Visited = (Rc<dyn BlockDevice>, Hold);

/// A copy counts as a client of the vDisk: nobody rolls it back under the copy, and what ends connections ends the copy.
struct Visiting {
    open: Rc<RefCell<Option<Visited>>>,
    geometry: Geometry,
    /// Dropped with the visit.
    _ends: oneshot::Sender<()>,
}

impl BlockDevice for Visiting {
    fn geometry(&self) -> Geometry {
        self.open.borrow().as_ref().map_or(self.geometry, |(device, _)| device.geometry())
    }

    fn submit(&self, request: Request) -> Completion<block::Result<Reply>> {
        match &*self.open.borrow() {
            Some((device, _)) => device.submit(request),
            None => Completion::Ready(Err(gone())),
        }
    }

    fn lend(&self, offset: u64, len: u32) -> Completion<block::Result<Lent>> {
        match &*self.open.borrow() {
            Some((device, _)) => device.lend(offset, len),
            None => Completion::Ready(Err(gone())),
        }
    }

    fn take(&self, offset: u64, lent: Lent) -> Completion<block::Result<()>> {
        match &*self.open.borrow() {
            Some((device, _)) => device.take(offset, lent),
            None => Completion::Ready(Err(gone())),
        }
    }
}

#[cfg(test)]
mod tests;
