//! The running controller: shards on worker threads, front-ends, and the verbs over them.
//!
//! Everything on a worker is single-threaded; this module is what crosses threads: it posts closures to workers and
//! waits for their answers.

mod access;
mod container_verbs;
mod containers;
mod directory;
mod errors;
mod exports;
mod group_verbs;
mod groups;
mod health;
mod iscsi;
mod layout;
mod pending;
mod recover;
mod recover_vms;
mod remote;
mod report;
mod resume;
mod rewind;
mod schedules;
mod sets;
mod shards;
mod snapshots;
mod start;
mod targets;
mod verbs;
mod vm_copies;
mod vm_past;
mod vm_start;
mod vm_verbs;
mod vms;

pub use recover::recover;
pub use start::start;

#[cfg(test)]
mod tests;
