//! What is said of consistency groups: VMs of which snapshots are taken at one instant.

use crate::{VmInfo, VmSnapshotInfo};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateVmGroup {
    /// As the name of a vDisk.
    #[cfg_attr(feature = "openapi", schema(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$", example = "shop"))]
    pub name: String,
    /// Names of VMs: a group is there as long as a VM is in it.
    #[cfg_attr(feature = "openapi", schema(min_items = 1, max_items = 64))]
    pub vms: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AddVm {
    pub vm: String,
}

/// A consistency group of VMs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VmGroupInfo {
    #[cfg_attr(feature = "openapi", schema(example = "shop"))]
    pub name: String,
    /// In the order of names.
    pub vms: Vec<String>,
    /// Snapshots of the group.
    pub snapshots: u32,
}

/// All vDisks of all VMs of a group at one instant. It is a snapshot of each of these VMs, too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GroupSnapshotInfo {
    /// The `set` of the vDisks' snapshots.
    #[cfg_attr(feature = "openapi", schema(example = "s1.9"))]
    pub id: String,
    pub group: String,
    #[cfg_attr(feature = "openapi", schema(example = "before-upgrade"))]
    pub name: String,
    /// Milliseconds since 1970 (UTC).
    pub created_unix_ms: u64,
    /// What it is of each VM that is still there.
    pub vms: Vec<VmSnapshotInfo>,
}

/// A group after a rollback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GroupRolledBack {
    pub vms: Vec<VmInfo>,
    /// Has what was there before.
    pub kept: GroupSnapshotInfo,
}
