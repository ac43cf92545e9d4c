//! What is said of schedules, which take snapshots and delete the oldest that they took, and the arguments of their verbs.

use serde::{Deserialize, Serialize};

/// What a schedule takes snapshots of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "kind", content = "name", rename_all = "snake_case")]
pub enum ScheduleTarget {
    Vdisk(String),
    Vm(String),
    /// A consistency group of VMs.
    Group(String),
    /// Each VM that has a vDisk in it, and each vDisk in it that belongs to no VM.
    Container(String),
}

/// How often, and how many of these are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ScheduleRule {
    /// Seconds; at most 366 days. Periods begin at multiples of it since 1970 (UTC); those of whole weeks on Mondays.
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 31622400, example = 3600))]
    pub every_seconds: u32,
    /// The first snapshot of each of so many periods stays, the newest periods that have one.
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 512, example = 24))]
    pub keep: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateSchedule {
    /// 1 to 40 characters as in the name of a vDisk; its snapshots are called NAME-TIME.
    #[cfg_attr(feature = "openapi", schema(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$", example = "nightly"))]
    pub name: String,
    pub target: ScheduleTarget,
    /// A snapshot is taken in each period of the shortest; what any of them keeps is kept.
    #[cfg_attr(feature = "openapi", schema(min_items = 1, max_items = 8))]
    pub rules: Vec<ScheduleRule>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ScheduleInfo {
    pub name: String,
    /// By the name that it has now. Absent: it was deleted.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub target: Option<ScheduleTarget>,
    pub rules: Vec<ScheduleRule>,
    pub state: ScheduleState,
    /// Milliseconds since 1970 (UTC).
    pub created_unix_ms: u64,
    /// When the last snapshot was taken; absent before the first. Of a container, that of the member whose last one is the oldest.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_success_unix_ms: Option<u64>,
    /// Attempts that failed since the start of the controller.
    pub failures: u64,
    /// Names of its snapshots, in order of age; of a container with what each is of: `MEMBER@SNAPSHOT`.
    pub snapshots: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ScheduleState {
    /// The snapshot of this period is there.
    Good,
    /// That of this period is to be taken.
    Due,
    /// Nothing is taken and nothing deleted.
    Paused,
    /// The last attempt did not succeed; it is tried again. Nothing is deleted meanwhile.
    Failing { reason: String },
    /// What it took snapshots of was deleted.
    WithoutTarget,
}

impl ScheduleState {
    pub fn word(&self) -> &'static str {
        match self {
            ScheduleState::Good => "good",
            ScheduleState::Due => "due",
            ScheduleState::Paused => "paused",
            ScheduleState::Failing { .. } => "failing",
            ScheduleState::WithoutTarget => "without-target",
        }
    }
}
