//! The handlers, by what they are about. Each parses, calls one verb, and answers.

pub mod containers;
pub mod data;
pub mod groups;
pub mod iscsi;
pub mod node;
pub mod rewind;
pub mod schedules;
pub mod snapshots;
pub mod vdisks;
pub mod vms;
