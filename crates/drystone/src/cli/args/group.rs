//! `drystone group`: its commands, flags and help texts.

use super::snapshot::{SnapshotArgs, SnapshotDeleteArgs};
use clap::Subcommand;

#[derive(Subcommand, Debug)]
pub enum Group {
    /// Create a consistency group of VMs, of which snapshots are taken at one instant
    Create {
        name: String,
        /// A VM; may be given several times
        #[arg(long, value_name = "VM", required = true)]
        vm: Vec<String>,
    },
    /// List all consistency groups
    #[command(visible_alias = "ls")]
    List,
    /// Show a consistency group
    Show { name: String },
    /// Add a VM
    Add { name: String, vm: String },
    /// Remove a VM, but not the last one
    Remove { name: String, vm: String },
    /// Delete a group; its VMs stay, and its snapshots as theirs
    #[command(visible_alias = "rm")]
    Delete { name: String },
    /// Take a snapshot of all vDisks of all VMs of a group at one instant, also while they are written
    Snapshot {
        #[command(flatten)]
        of: SnapshotArgs,
    },
    /// List the snapshots of a group, the oldest first
    Snapshots { name: String },
    /// Delete a snapshot of a group, all of it
    SnapshotDelete {
        #[command(flatten)]
        delete: SnapshotDeleteArgs,
    },
    /// Make a snapshot what is there now, on all VMs; what it replaces is kept as the snapshot before-rollback-TIME
    #[command(
        after_help = "The VMs must be stopped. The group must have the VMs that it had then, and these their vDisks."
    )]
    Rollback {
        name: String,
        /// Name of the snapshot
        snapshot: String,
    },
}
