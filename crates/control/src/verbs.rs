//! The trait between those who ask (REST, tests) and those who do (the running node).

use crate::{AttachVdisk, CreateVm, DeleteVm, ListVms, VmInfo, VmPage, VmRolledBack, VmSnapshotInfo};
use crate::{ChangesPage, ListChanges, MakeClones, RolledBack, SnapshotInfo};
use crate::{ContainerInfo, CreateContainer, SetContainer};
use crate::{CreateSchedule, CreateVmGroup, GroupRolledBack, GroupSnapshotInfo, ScheduleInfo, VmGroupInfo};
use crate::{
    CreateVdisk, DeleteVdisk, ExtentPage, ListVdisks, Metrics, NodeStatus, Result, SetVdisk, VdiskInfo, VdiskPage,
    VdiskSpace,
};
use crate::{HistoryPoint, Moment, SetRewind};
use crate::{InitiatorGroup, InitiatorGroupInfo, IscsiPortal, IscsiSession, IscsiTarget, SetIscsiAccess};
use bytes::Bytes;
use std::future::Future;
use std::pin::Pin;

/// What every verb returns: boxed, so that the trait is object safe, and `Send`, since its callers run on many threads.
pub type ControlFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// The verbs. Dropping a future does not undo what it began: a verb that reached the log takes effect.
///
/// Names are those of vDisks; an unknown one is `Kind::NotFound`. [`Control::read`] and [`Control::extents`] take
/// `NAME@SNAPSHOT` as well. A verb that changes something is durable when its
/// future completes. Offsets and lengths are bytes, multiples of 512 and inside the vDisk, else `Kind::Invalid`; a read or
/// a write is at most [`crate::rules::TRANSFER_BYTES_MAX`] long.
pub trait Control: Send + Sync {
    /// `Kind::Exists` if the name is taken.
    fn create_vdisk(&self, request: CreateVdisk) -> ControlFuture<'_, VdiskInfo>;

    /// In the order of names (bytewise), those after `request.after`, at most `request.limit`.
    fn list_vdisks(&self, request: ListVdisks) -> ControlFuture<'_, VdiskPage>;

    fn show_vdisk<'a>(&'a self, name: &'a str) -> ControlFuture<'a, VdiskInfo>;

    /// Growing only, while connected too; the same size again is no error.
    fn resize_vdisk<'a>(&'a self, name: &'a str, size_bytes: u64) -> ControlFuture<'a, VdiskInfo>;

    /// Connected clients stay connected. `Kind::Exists` if `new_name` is taken by another vDisk.
    fn rename_vdisk<'a>(&'a self, name: &'a str, new_name: &'a str) -> ControlFuture<'a, VdiskInfo>;

    fn set_vdisk<'a>(&'a self, name: &'a str, set: SetVdisk) -> ControlFuture<'a, VdiskInfo>;

    /// `Kind::Busy` while clients are connected, `Kind::Invalid` while it has snapshots, unless `delete` says what to do then.
    /// `Kind::Invalid` while it belongs to a VM.
    fn delete_vdisk<'a>(&'a self, name: &'a str, delete: DeleteVdisk) -> ControlFuture<'a, ()>;

    fn read<'a>(&'a self, name: &'a str, offset: u64, len: u32) -> ControlFuture<'a, Bytes>;

    /// `data.len()` is the length. Survives power loss only after a flush.
    fn write<'a>(&'a self, name: &'a str, offset: u64, data: Bytes) -> ControlFuture<'a, ()>;

    /// The range reads as zeros afterwards and its space is freed. `len` may reach over the whole vDisk.
    fn write_zeroes<'a>(&'a self, name: &'a str, offset: u64, len: u64) -> ControlFuture<'a, ()>;

    /// All writes acknowledged before survive power loss.
    fn flush<'a>(&'a self, name: &'a str) -> ControlFuture<'a, ()>;

    /// Which parts of `offset .. offset + len` hold data; adjacent runs of the same kind are merged where that is cheap.
    /// A page covers at least one byte; `ExtentPage::next` says where to go on.
    fn extents<'a>(&'a self, name: &'a str, offset: u64, len: u64) -> ControlFuture<'a, ExtentPage>;

    fn snapshots(&self) -> &dyn SnapshotControl;

    fn rewind(&self) -> &dyn RewindControl;

    fn vms(&self) -> &dyn VmControl;

    fn containers(&self) -> &dyn ContainerControl;

    fn vm_groups(&self) -> &dyn GroupControl;

    fn schedules(&self) -> &dyn ScheduleControl;

    fn iscsi(&self) -> &dyn IscsiControl;

    fn status(&self) -> ControlFuture<'_, NodeStatus>;

    fn metrics(&self) -> ControlFuture<'_, Metrics>;
}

/// The verbs on the past of vDisks. `Kind::Invalid` if a moment is not in the window; the message says what is.
pub trait RewindControl: Send + Sync {
    /// From then on it is its own, whatever its container says. `None`: the past is not kept any more, and what was kept is
    /// given back.
    fn set_rewind<'a>(&'a self, vdisk: &'a str, set: Option<SetRewind>) -> ControlFuture<'a, VdiskInfo>;

    /// What its container says holds for it again.
    fn inherit_rewind<'a>(&'a self, vdisk: &'a str) -> ControlFuture<'a, VdiskInfo>;

    /// What is of note between two times, RFC 3339, in the order in which it was written.
    fn history<'a>(
        &'a self,
        vdisk: &'a str,
        from: Option<&'a str>,
        to: Option<&'a str>,
    ) -> ControlFuture<'a, Vec<HistoryPoint>>;

    /// `Kind::Exists` if the vDisk has a snapshot of this name.
    fn snapshot_past<'a>(&'a self, vdisk: &'a str, name: &'a str, moment: Moment) -> ControlFuture<'a, SnapshotInfo>;

    /// All of them are made, or none.
    fn clone_past<'a>(
        &'a self,
        vdisk: &'a str,
        names: Vec<String>,
        moment: Moment,
    ) -> ControlFuture<'a, Vec<VdiskInfo>>;

    /// What is there before is kept as a snapshot first. `Kind::Busy` while clients are connected.
    fn roll_back_to_past<'a>(&'a self, vdisk: &'a str, moment: Moment) -> ControlFuture<'a, RolledBack>;

    /// A snapshot of a VM as it was, all its vDisks at one time. `Kind::Exists` if it has one of this name.
    fn snapshot_vm_past<'a>(&'a self, vm: &'a str, name: &'a str, moment: Moment) -> ControlFuture<'a, VmSnapshotInfo>;

    /// VMs as one was, all its vDisks at one time. `Kind::Invalid` if the window of one of them does not reach that far.
    fn clone_vm_past<'a>(&'a self, vm: &'a str, names: Vec<String>, moment: Moment) -> ControlFuture<'a, Vec<VmInfo>>;

    /// All its vDisks at one time. What is there before is kept as a snapshot first.
    fn roll_vm_back_to_past<'a>(&'a self, vm: &'a str, moment: Moment) -> ControlFuture<'a, VmRolledBack>;
}

/// The verbs on snapshots of single vDisks, and on clones.
pub trait SnapshotControl: Send + Sync {
    /// In order of age.
    fn list_snapshots<'a>(&'a self, vdisk: &'a str) -> ControlFuture<'a, Vec<SnapshotInfo>>;

    /// `Kind::Exists` if the vDisk has one of this name.
    fn create_snapshot<'a>(&'a self, vdisk: &'a str, name: &'a str) -> ControlFuture<'a, SnapshotInfo>;

    /// `Kind::Busy` while somebody reads it, unless `force`. Clones of it stay; space comes back in the background.
    fn delete_snapshot<'a>(&'a self, vdisk: &'a str, name: &'a str, force: bool) -> ControlFuture<'a, ()>;

    /// All or none; in the order in which they were named.
    fn make_clones<'a>(&'a self, vdisk: &'a str, clones: MakeClones) -> ControlFuture<'a, Vec<VdiskInfo>>;

    /// What is there before is kept as a snapshot first. `Kind::Busy` while clients are connected.
    fn roll_back<'a>(&'a self, vdisk: &'a str, snapshot: &'a str) -> ControlFuture<'a, RolledBack>;

    /// What differs between two snapshots of a vDisk, or between one and what is there now.
    fn changes<'a>(&'a self, vdisk: &'a str, request: ListChanges) -> ControlFuture<'a, ChangesPage>;

    /// What it takes, now and in its snapshots, and how much of that others share. `Kind::Damaged` if one that may share it
    /// cannot be read. Ends soon after nobody waits for it any more.
    fn space<'a>(&'a self, vdisk: &'a str) -> ControlFuture<'a, VdiskSpace>;
}

/// The verbs on VMs: named sets of vDisks. A verb takes effect on all of them or on none, across a crash too.
///
/// An unknown name is `Kind::NotFound`. A template's vDisks are read-only, and nothing about it changes but its name.
pub trait VmControl: Send + Sync {
    /// With new vDisks. `Kind::Exists` if the name of the VM or of one of them is taken.
    fn create_vm(&self, create: CreateVm) -> ControlFuture<'_, VmInfo>;

    /// In the order of names (bytewise), those after `request.after`, at most `request.limit`.
    fn list_vms(&self, request: ListVms) -> ControlFuture<'_, VmPage>;

    fn show_vm<'a>(&'a self, name: &'a str) -> ControlFuture<'a, VmInfo>;

    /// Its vDisks keep their names.
    fn rename_vm<'a>(&'a self, name: &'a str, new_name: &'a str) -> ControlFuture<'a, VmInfo>;

    /// `Kind::Busy` while clients are connected. A VM that is a template no more can be written, all of it.
    fn set_template<'a>(&'a self, name: &'a str, template: bool) -> ControlFuture<'a, VmInfo>;

    /// `Kind::Busy` while clients are connected, `Kind::Invalid` while there are snapshots, unless `delete` says what to do
    /// then.
    fn delete_vm<'a>(&'a self, name: &'a str, delete: DeleteVm) -> ControlFuture<'a, ()>;

    /// `Kind::Invalid` if the vDisk belongs to a VM already.
    fn attach_vdisk<'a>(&'a self, name: &'a str, attach: AttachVdisk) -> ControlFuture<'a, VmInfo>;

    /// The vDisk stays.
    fn detach_vdisk<'a>(&'a self, name: &'a str, label: &'a str) -> ControlFuture<'a, VmInfo>;

    /// In order of age.
    fn vm_snapshots<'a>(&'a self, name: &'a str) -> ControlFuture<'a, Vec<VmSnapshotInfo>>;

    /// All its vDisks at one instant.
    fn create_vm_snapshot<'a>(&'a self, name: &'a str, snapshot: &'a str) -> ControlFuture<'a, VmSnapshotInfo>;

    /// `Kind::Busy` while somebody reads it, unless `force`.
    fn delete_vm_snapshot<'a>(&'a self, name: &'a str, snapshot: &'a str, force: bool) -> ControlFuture<'a, ()>;

    /// VMs with the content of a snapshot, or of what is there now.
    fn clone_vm<'a>(&'a self, name: &'a str, clones: MakeClones) -> ControlFuture<'a, Vec<VmInfo>>;

    /// What is there before is kept as a snapshot first. `Kind::Busy` while clients are connected, `Kind::Invalid` if the VM
    /// has other vDisks now.
    fn roll_back_vm<'a>(&'a self, name: &'a str, snapshot: &'a str) -> ControlFuture<'a, VmRolledBack>;

    /// Gives up a rollback that was cut short and cannot be completed, of all that it is of: what was rolled back stays so, the
    /// rest stays as it was. `Kind::NotFound` if there is none.
    fn abort_rollback<'a>(&'a self, name: &'a str) -> ControlFuture<'a, VmInfo>;
}

/// The verbs on containers: sets of vDisks with settings that are theirs as long as they have none of their own. An unknown name
/// is `Kind::NotFound`. What would make a vDisk in one whose capacity is used up, let one grow there, or move one to it is
/// `Kind::Invalid`, as that is no disk that is full; writes are not refused.
pub trait ContainerControl: Send + Sync {
    /// `Kind::Exists` if there is one of this name.
    fn create_container(&self, create: CreateContainer) -> ControlFuture<'_, ContainerInfo>;

    /// In the order of names; `default` is always among them.
    fn list_containers(&self) -> ControlFuture<'_, Vec<ContainerInfo>>;

    fn show_container<'a>(&'a self, name: &'a str) -> ControlFuture<'a, ContainerInfo>;

    /// Takes effect at once, and is then carried out on all its vDisks; what does not succeed is tried again.
    fn set_container<'a>(&'a self, name: &'a str, set: SetContainer) -> ControlFuture<'a, ContainerInfo>;

    /// `Kind::Invalid` while it has vDisks, and for `default`.
    fn delete_container<'a>(&'a self, name: &'a str) -> ControlFuture<'a, ()>;

    /// Its own window stays its own; one that it had of its container becomes that of the new one, and what that does not keep
    /// goes at once. `Kind::Unavailable`: it is on record, and not carried out yet.
    fn move_vdisk<'a>(&'a self, vdisk: &'a str, container: &'a str) -> ControlFuture<'a, VdiskInfo>;
}

/// The verbs on consistency groups: VMs of which snapshots are taken at one instant. An unknown name is `Kind::NotFound`.
pub trait GroupControl: Send + Sync {
    /// `Kind::Exists` if there is one of this name.
    fn create_vm_group(&self, create: CreateVmGroup) -> ControlFuture<'_, VmGroupInfo>;

    /// In the order of names.
    fn list_vm_groups(&self) -> ControlFuture<'_, Vec<VmGroupInfo>>;

    fn show_vm_group<'a>(&'a self, name: &'a str) -> ControlFuture<'a, VmGroupInfo>;

    fn add_to_group<'a>(&'a self, name: &'a str, vm: &'a str) -> ControlFuture<'a, VmGroupInfo>;

    /// `Kind::Invalid` for the last one.
    fn remove_from_group<'a>(&'a self, name: &'a str, vm: &'a str) -> ControlFuture<'a, VmGroupInfo>;

    /// Its VMs stay, and its snapshots as snapshots of these.
    fn delete_vm_group<'a>(&'a self, name: &'a str) -> ControlFuture<'a, ()>;

    /// In order of age.
    fn group_snapshots<'a>(&'a self, name: &'a str) -> ControlFuture<'a, Vec<GroupSnapshotInfo>>;

    /// All vDisks of all its VMs at one instant. `Kind::Exists` if one of these has a snapshot of this name.
    fn create_group_snapshot<'a>(&'a self, name: &'a str, snapshot: &'a str) -> ControlFuture<'a, GroupSnapshotInfo>;

    /// `Kind::Busy` while somebody reads it, unless `force`.
    fn delete_group_snapshot<'a>(&'a self, name: &'a str, snapshot: &'a str, force: bool) -> ControlFuture<'a, ()>;

    /// All of its VMs, or none. What is there before is kept as a snapshot first. `Kind::Busy` while clients are connected,
    /// `Kind::Invalid` if the group has other VMs now, or one of these other vDisks.
    fn roll_back_group<'a>(&'a self, name: &'a str, snapshot: &'a str) -> ControlFuture<'a, GroupRolledBack>;
}

/// The verbs on schedules. An unknown name is `Kind::NotFound`.
pub trait ScheduleControl: Send + Sync {
    /// The first snapshot is taken at once. `Kind::Exists` if there is one of this name.
    fn create_schedule(&self, create: CreateSchedule) -> ControlFuture<'_, ScheduleInfo>;

    /// In the order of names.
    fn list_schedules(&self) -> ControlFuture<'_, Vec<ScheduleInfo>>;

    fn show_schedule<'a>(&'a self, name: &'a str) -> ControlFuture<'a, ScheduleInfo>;

    fn pause_schedule<'a>(&'a self, name: &'a str, paused: bool) -> ControlFuture<'a, ScheduleInfo>;

    /// Its snapshots stay, and nobody deletes them any more but whoever asks for it.
    fn delete_schedule<'a>(&'a self, name: &'a str) -> ControlFuture<'a, ()>;
}

/// The verbs on iSCSI: who may log in to which vDisk, and who is.
pub trait IscsiControl: Send + Sync {
    /// In the order of the vDisks' names.
    fn targets(&self) -> ControlFuture<'_, Vec<IscsiTarget>>;

    fn target<'a>(&'a self, name: &'a str) -> ControlFuture<'a, IscsiTarget>;

    /// Sessions that are logged in stay; `Kind::Invalid` if a group does not exist.
    fn set_access<'a>(&'a self, name: &'a str, set: SetIscsiAccess) -> ControlFuture<'a, IscsiTarget>;

    /// In the order of names.
    fn groups(&self) -> ControlFuture<'_, Vec<InitiatorGroupInfo>>;

    /// `Kind::Exists` if there is one of this name.
    fn create_group(&self, group: InitiatorGroup) -> ControlFuture<'_, InitiatorGroupInfo>;

    /// Replaces its list; all vDisks that refer to it follow.
    fn set_group(&self, group: InitiatorGroup) -> ControlFuture<'_, InitiatorGroupInfo>;

    /// `Kind::Invalid` while a vDisk refers to it.
    fn delete_group<'a>(&'a self, name: &'a str) -> ControlFuture<'a, ()>;

    /// In order of login.
    fn sessions(&self) -> ControlFuture<'_, Vec<IscsiSession>>;

    /// Ends a session; its initiator may log in again.
    fn drop_session(&self, id: u64) -> ControlFuture<'_, ()>;

    /// Where it listens.
    fn portals(&self) -> ControlFuture<'_, Vec<IscsiPortal>>;
}
