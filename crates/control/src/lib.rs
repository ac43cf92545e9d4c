//! The verbs of the control plane: one object-safe trait that the API serves and the node implements, and its plain types.
//!
//! Knows nothing of HTTP, of engines or of threads. What is said of an argument here (names, sizes, ranges) is checked by
//! the pure functions of [`rules`], which every implementer calls first, so that all of them refuse the same things in
//! the same words.

mod container;
mod error;
mod group;
mod iscsi;
mod metrics;
#[cfg(feature = "model")]
pub mod model;
mod rewind;
pub mod rules;
mod schedule;
mod snapshot;
mod status;
pub use base::utc;
mod vdisk;
mod verbs;
mod vm;

pub use container::{ContainerInfo, CreateContainer, SetContainer};
pub use error::{Error, Kind, Result};
pub use group::{AddVm, CreateVmGroup, GroupRolledBack, GroupSnapshotInfo, VmGroupInfo};
pub use iscsi::{
    ChapSecret, InitiatorGroup, InitiatorGroupInfo, IscsiAccess, IscsiPortal, IscsiReach, IscsiRules, IscsiSession,
    IscsiTarget, SetChap, SetIscsiAccess, TARGET_OF_SNAPSHOT, TARGET_OF_VM, TARGET_PREFIX, snapshot_target_name,
    target_name, vm_target_name,
};
pub use metrics::{
    BytesWritten, EngineMetrics, Histogram, Metrics, OperationKind, OperationMetrics, ProcessMetrics, ScheduleMetrics,
    VdiskMetrics,
};
pub use rewind::{
    ClonesOfPast, HistoryKind, HistoryPoint, Moment, RewindInfo, RollBackToPast, SetRewind, SnapshotOfPast,
};
pub use schedule::{CreateSchedule, ScheduleInfo, ScheduleRule, ScheduleState, ScheduleTarget};
pub use snapshot::{
    Change, ChangesPage, CreateSnapshot, ListChanges, MakeClones, RollBack, RolledBack, SnapshotInfo, SnapshotSpace,
    SpaceShare, VdiskSpace,
};
pub use status::{
    DiskState, DiskStatus, Health, Listener, MemoryStatus, NodeStatus, Protocol, ShardStatus, VdiskCounts,
};
pub use vdisk::{CreateVdisk, DeleteVdisk, Extent, ExtentPage, ListVdisks, SetVdisk, VdiskInfo, VdiskPage, VdiskState};
pub use verbs::{
    ContainerControl, Control, ControlFuture, GroupControl, IscsiControl, RewindControl, ScheduleControl,
    SnapshotControl, VmControl,
};
pub use vm::{
    AttachVdisk, CreateVm, DeleteVm, ExistingVdisk, ListVms, NewVmVdisk, VmInfo, VmPage, VmRolledBack, VmSnapshotInfo,
    VmVdisk,
};
