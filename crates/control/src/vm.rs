//! What is said of VMs and of their snapshots, and the arguments of their verbs.

use serde::{Deserialize, Serialize};

/// A VM to be made, with new vDisks: that of the label `root` of the VM `web01` is called `web01-root`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateVm {
    /// As the name of a vDisk.
    #[cfg_attr(feature = "openapi", schema(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$", example = "web01"))]
    pub name: String,
    /// At most 64.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(max_items = 64))]
    pub vdisks: Vec<NewVmVdisk>,
    /// The container that its vDisks are to be in. Absent: `default`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub container: Option<String>,
    /// vDisks that are there already, of no VM. They become the VM's, and are called as its others from then on. With `vdisks` at most
    /// 64.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    #[cfg_attr(feature = "openapi", schema(max_items = 64))]
    pub existing: Vec<ExistingVdisk>,
}

/// A vDisk that a new VM takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ExistingVdisk {
    /// What the VM calls it; as the name of a vDisk.
    #[cfg_attr(feature = "openapi", schema(example = "root"))]
    pub label: String,
    /// Its name until then.
    #[cfg_attr(feature = "openapi", schema(example = "golden"))]
    pub vdisk: String,
}

/// A vDisk that is made with its VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewVmVdisk {
    /// What the VM calls it; as the name of a vDisk.
    #[cfg_attr(feature = "openapi", schema(example = "root"))]
    pub label: String,
    /// A multiple of 4096, at most 64 TiB.
    #[cfg_attr(feature = "openapi", schema(minimum = 4096, maximum = 70368744177664_i64, multiple_of = 4096))]
    pub size_bytes: u64,
    /// 512 or 4096.
    #[serde(default = "default_sector_bytes")]
    #[cfg_attr(feature = "openapi", schema(default = 512, example = 512, minimum = 512, maximum = 4096))]
    pub sector_bytes: u32,
}

fn default_sector_bytes() -> u32 {
    crate::rules::SECTOR_BYTES_DEFAULT
}

/// Which page of the list. `limit` is 1 to [`crate::rules::LIST_LIMIT_MAX`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListVms {
    /// Names greater than this one; `None` from the start.
    pub after: Option<String>,
    pub limit: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VmPage {
    pub vms: Vec<VmInfo>,
    /// Pass this as `after` to get the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next: Option<String>,
}

/// A named set of vDisks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VmInfo {
    /// For ever, across renames; never reused.
    #[cfg_attr(feature = "openapi", schema(example = "m1.5"))]
    pub id: String,
    #[cfg_attr(feature = "openapi", schema(example = "web01"))]
    pub name: String,
    /// It cannot be written, only cloned and read.
    pub template: bool,
    /// Milliseconds since 1970 (UTC).
    pub created_unix_ms: u64,
    /// In the order in which they were attached.
    pub vdisks: Vec<VmVdisk>,
    /// What it is called over iSCSI: each of its vDisks is a logical unit there.
    #[cfg_attr(feature = "openapi", schema(example = "iqn.2026-11.io.drystone:vm:web01"))]
    pub target_name: String,
    /// Why nobody can log in to that target; absent if those can whom the vDisks' rules let in.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub target_closed: Option<String>,
    /// Snapshots of the VM.
    pub snapshots: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VmVdisk {
    /// What the VM calls it.
    #[cfg_attr(feature = "openapi", schema(example = "root"))]
    pub label: String,
    /// Its name as a vDisk: the NBD export.
    #[cfg_attr(feature = "openapi", schema(example = "web01-root"))]
    pub vdisk: String,
    pub size_bytes: u64,
    /// Its logical unit number in the VM's iSCSI target: its own as long as it belongs to the VM.
    pub lun: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AttachVdisk {
    /// Name of a vDisk that belongs to no VM.
    pub vdisk: String,
    /// What the VM is to call it. Absent: its name, without that of the VM and a `-` in front.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub label: Option<String>,
}

/// What else may go with a VM that is deleted; what is not named here is in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeleteVm {
    /// Clients are disconnected first.
    pub force: bool,
    /// Its snapshots, and those of its vDisks, go with it. Clones stay.
    pub snapshots: bool,
    /// Its vDisks stay, and all their snapshots.
    pub keep_vdisks: bool,
}

/// The vDisks of a VM at one instant: of two writes of which the second was issued when the first had been acknowledged, no
/// snapshot has the second without the first, whichever vDisks they went to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VmSnapshotInfo {
    /// The `set` of the vDisks' snapshots.
    #[cfg_attr(feature = "openapi", schema(example = "s1.9"))]
    pub id: String,
    pub vm: String,
    #[cfg_attr(feature = "openapi", schema(example = "before-upgrade"))]
    pub name: String,
    /// Milliseconds since 1970 (UTC).
    pub created_unix_ms: u64,
    /// Labels of the vDisks that the VM had then.
    pub labels: Vec<String>,
    /// The group of VMs that it was taken of; absent if of this VM alone.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub group: Option<String>,
}

/// A VM after a rollback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VmRolledBack {
    pub vm: VmInfo,
    /// Has what was there before.
    pub kept: VmSnapshotInfo,
}
