//! What is said of a vDisk, and the arguments of its verbs.

use crate::SetRewind;
use serde::{Deserialize, Serialize};

/// A vDisk to be made. Thin: it takes space when it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateVdisk {
    /// 1 to 63 characters: letters, digits, `.`, `_`, `-`; the first one is a letter or a digit.
    #[cfg_attr(feature = "openapi", schema(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$", example = "demo"))]
    pub name: String,
    /// A multiple of 4096, at most 64 TiB.
    #[cfg_attr(
        feature = "openapi",
        schema(minimum = 4096, maximum = 70368744177664_i64, multiple_of = 4096, example = 21474836480_i64)
    )]
    pub size_bytes: u64,
    /// Logical sector presented to the client: 512 or 4096.
    #[serde(default = "default_sector_bytes")]
    #[cfg_attr(feature = "openapi", schema(default = 512, example = 512, minimum = 512, maximum = 4096))]
    pub sector_bytes: u32,
    /// The container that it is to be in. Absent: `default`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[cfg_attr(feature = "openapi", schema(example = "default"))]
    pub container: Option<String>,
    /// A vDisk on whose shard it is to be: copies between the two (EXTENDED COPY) share extents then. Absent: the shard with the
    /// fewest vDisks.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[cfg_attr(feature = "openapi", schema(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$", example = "demo"))]
    pub near: Option<String>,
    /// How much of its past it keeps, from its first moment on. null: nothing. Absent: what its container says.
    #[serde(skip_serializing_if = "Option::is_none", default, deserialize_with = "crate::container::present")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<SetRewind>))]
    pub rewind: Option<Option<SetRewind>>,
}

fn default_sector_bytes() -> u32 {
    crate::rules::SECTOR_BYTES_DEFAULT
}

/// Which page of the list. `limit` is 1 to [`crate::rules::LIST_LIMIT_MAX`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListVdisks {
    /// Names greater than this one; `None` from the start.
    pub after: Option<String>,
    pub limit: u32,
    /// Only those of this container.
    pub container: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VdiskPage {
    pub vdisks: Vec<VdiskInfo>,
    /// Pass this as `after` to get the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next: Option<String>,
}

/// What to change; `None` leaves it as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetVdisk {
    pub read_only: Option<bool>,
}

/// What else may go with a vDisk that is deleted; what is not named here is in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeleteVdisk {
    /// Clients are disconnected first.
    pub force: bool,
    /// Its snapshots are deleted with it. Clones of them stay.
    pub snapshots: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VdiskInfo {
    /// For ever, across renames; never reused.
    #[cfg_attr(feature = "openapi", schema(example = "v1.2"))]
    pub id: String,
    #[cfg_attr(feature = "openapi", schema(example = "demo"))]
    pub name: String,
    #[cfg_attr(feature = "openapi", schema(example = 21474836480_i64))]
    pub size_bytes: u64,
    #[cfg_attr(feature = "openapi", schema(example = 512))]
    pub sector_bytes: u32,
    /// Switched to read-only by its administrator.
    pub read_only: bool,
    pub state: VdiskState,
    /// Bytes of its address space that hold data: what a full copy would read.
    pub mapped_bytes: u64,
    /// Bytes that its extent groups take on disk, dead ones and map pages included.
    pub stored_bytes: u64,
    /// Milliseconds since 1970 (UTC).
    pub created_unix_ms: u64,
    /// NBD connections and iSCSI sessions at this moment.
    pub connections: u32,
    /// The worker it lives on, counted from 0.
    pub shard: u32,
    /// Raised by every start; fences what earlier ones may still have under way.
    pub epoch: u64,
    /// Absent: its past is not kept (or, after a start, its log was not read yet).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rewind: Option<crate::RewindInfo>,
    /// The container that it is in.
    #[cfg_attr(feature = "openapi", schema(example = "default", required = true))]
    #[serde(default)]
    pub container: String,
    /// How much of its past is kept is what the container says, not its own. (After a start, of one of which nothing is said, as
    /// soon as its log was read.)
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required = true))]
    pub rewind_inherited: bool,
}

/// Whether it can be used, and if not, why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum VdiskState {
    Online,
    /// Its log is being replayed; I/O waits until that is done.
    Recovering {
        /// 0 to 100.
        percent: u8,
    },
    /// Stored bytes are corrupt: served read-only as far as possible, or not at all.
    Damaged {
        reason: String,
    },
    /// By its administrator.
    ReadOnly,
    /// Writes fail until space is freed, large ones already when 32 MiB are left; reads go on.
    Full,
}

impl VdiskState {
    /// The word for tables and metrics.
    pub fn word(&self) -> &'static str {
        match self {
            VdiskState::Online => "online",
            VdiskState::Recovering { .. } => "recovering",
            VdiskState::Damaged { .. } => "damaged",
            VdiskState::ReadOnly => "read_only",
            VdiskState::Full => "full",
        }
    }
}

/// A run of a vDisk's address space, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Extent {
    pub offset: u64,
    #[serde(rename = "length")]
    pub len: u64,
    /// False: reads as zeros and holds no data.
    pub data: bool,
}

/// In order, without gaps, from the offset that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ExtentPage {
    pub extents: Vec<Extent>,
    /// Offset at which to ask for the rest; absent when the range is covered.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next: Option<u64>,
}
