//! What is said of a vDisk's history, and the arguments of the verbs on moments of it.

use serde::{Deserialize, Serialize};

/// How much of its past a vDisk is to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SetRewind {
    /// At least 60, at most 90 days.
    #[cfg_attr(feature = "openapi", schema(minimum = 60, maximum = 7776000, example = 86400))]
    pub window_seconds: u64,
    /// What the history may hold; at this limit the oldest of it goes. 0: no limit but that of the disk. At least 1 GiB.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(example = 107374182400_i64))]
    pub limit_bytes: u64,
}

/// The history of a vDisk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RewindInfo {
    pub window_seconds: u64,
    /// 0: none.
    pub limit_bytes: u64,
    /// The oldest moment that can be had, milliseconds since 1970 (UTC); absent: none yet.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub since_unix_ms: Option<u64>,
    /// About what would come free without the history.
    pub held_bytes: u64,
    /// The history does not reach as far back as it should: the oldest of it went for space.
    pub cut_short: bool,
}

/// A moment of the past: one of the two.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Moment {
    /// RFC 3339, such as `2026-11-20T10:31:07Z`.
    pub at: Option<String>,
    /// A number that the history prints: everything that was written before it, and not that.
    pub before_write: Option<u64>,
}

/// A snapshot of what was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SnapshotOfPast {
    #[cfg_attr(
        feature = "openapi",
        schema(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$", example = "before-the-virus")
    )]
    pub name: String,
    /// RFC 3339. This, or `before_write`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[cfg_attr(feature = "openapi", schema(example = "2026-11-20T10:31:07Z"))]
    pub at: Option<String>,
    /// As the history prints it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub before_write: Option<u64>,
}

/// Copies of what was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ClonesOfPast {
    /// As of other clones.
    #[cfg_attr(feature = "openapi", schema(min_items = 1, example = json!(["web-1031"])))]
    pub names: Vec<String>,
    /// RFC 3339. This, or `before_write`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub before_write: Option<u64>,
}

/// Which moment is to be what is there now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RollBackToPast {
    /// RFC 3339. This, or `before_write`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub before_write: Option<u64>,
}

/// Something of note in the history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HistoryPoint {
    pub kind: HistoryKind,
    /// RFC 3339.
    #[cfg_attr(feature = "openapi", schema(example = "2026-11-20T10:31:07.120481993Z"))]
    pub at: String,
    /// For `before_write`: of a burst, what was there before it.
    pub before_write: u64,
    /// How long it was quiet, or the burst lasted.
    pub seconds: u64,
    /// What was written since the moment before in the list; of a burst what it has overwritten.
    pub bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum HistoryKind {
    /// The log is read from here: quickly had.
    Checkpoint,
    /// Nothing was written for 10 s or more after it: a good moment to roll back to.
    Quiet,
    /// Far more than usual was overwritten from here on: what encrypts files looks like this.
    Overwriting,
}

impl HistoryKind {
    /// The word for tables.
    pub fn word(self) -> &'static str {
        match self {
            HistoryKind::Checkpoint => "checkpoint",
            HistoryKind::Quiet => "quiet",
            HistoryKind::Overwriting => "overwriting",
        }
    }
}
