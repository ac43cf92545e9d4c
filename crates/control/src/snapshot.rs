//! What is said of snapshots, clones, rollbacks and differences, and the arguments of their verbs.

use crate::VdiskInfo;
use serde::{Deserialize, Serialize};

/// A vDisk's content at one instant. It can be read as the export `VDISK@NAME`, and cloned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SnapshotInfo {
    /// For ever; never reused.
    #[cfg_attr(feature = "openapi", schema(example = "s1.7"))]
    pub id: String,
    #[cfg_attr(feature = "openapi", schema(example = "demo"))]
    pub vdisk: String,
    #[cfg_attr(feature = "openapi", schema(example = "before-upgrade"))]
    pub name: String,
    /// Milliseconds since 1970 (UTC).
    pub created_unix_ms: u64,
    /// Size of the vDisk then.
    pub size_bytes: u64,
    pub sector_bytes: u32,
    /// Bytes of its address space that hold data.
    pub mapped_bytes: u64,
    /// The same for all snapshots that were taken at one instant; absent if it was taken alone.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[cfg_attr(feature = "openapi", schema(example = "s1.9"))]
    pub set: Option<String>,
    /// What it is called over iSCSI, where it is logical unit 0. Discovery does not tell of it.
    #[cfg_attr(feature = "openapi", schema(example = "iqn.2026-11.io.drystone:snapshot:demo:before-upgrade"))]
    pub target_name: String,
    /// Connections that read it at this moment.
    pub connections: u32,
}

/// Bytes on disk that one content refers to: data and pages of its map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SpaceShare {
    /// Nothing else refers to them: deleting it frees them.
    pub unique_bytes: u64,
    /// A snapshot, a clone or a vDisk that this one is a clone of refers to them as well.
    pub shared_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SnapshotSpace {
    #[cfg_attr(feature = "openapi", schema(example = "before-upgrade"))]
    pub name: String,
    #[serde(flatten)]
    pub share: SpaceShare,
}

/// What a vDisk and its snapshots take, counted by walking their maps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VdiskSpace {
    #[cfg_attr(feature = "openapi", schema(example = "demo"))]
    pub vdisk: String,
    /// No other vDisk refers to them: deleting this one with all its snapshots frees them.
    pub alone_bytes: u64,
    /// Its content.
    pub now: SpaceShare,
    /// In order of age.
    pub snapshots: Vec<SnapshotSpace>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateSnapshot {
    /// As the name of a vDisk; one vDisk has one snapshot of a name.
    #[cfg_attr(feature = "openapi", schema(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$", example = "before-upgrade"))]
    pub name: String,
}

/// Copies to be made: of a snapshot, or of what is there now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct MakeClones {
    /// Absent: of what is there now.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub snapshot: Option<String>,
    /// Names of the clones. One range each is expanded: `desk-{001..500}` makes 500. Together at most 1000; all are made,
    /// or none.
    #[cfg_attr(feature = "openapi", schema(min_items = 1, example = json!(["desk-{001..500}"])))]
    pub names: Vec<String>,
}

/// Which snapshot is to be what is there now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RollBack {
    pub snapshot: String,
}

/// A vDisk after a rollback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RolledBack {
    pub vdisk: VdiskInfo,
    /// Has what was there before.
    pub kept: SnapshotInfo,
}

/// Which page of a comparison. `limit` is 1 to [`crate::rules::snapshots::CHANGES_LIMIT_MAX`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListChanges {
    /// The older side; `None`: before anything was written.
    pub from: Option<String>,
    /// The newer side; `None`: what is there now.
    pub to: Option<String>,
    pub offset: u64,
    pub limit: u32,
}

/// Bytes that may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Change {
    pub offset: u64,
    #[serde(rename = "length")]
    pub len: u64,
    /// False: reads as zeros on the newer side and holds no data there.
    pub data: bool,
}

/// In order; what lies between is the same on both sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ChangesPage {
    pub changes: Vec<Change>,
    /// Offset at which to ask for the rest; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next: Option<u64>,
}
