//! What the commands on snapshots have in common, be they of a vDisk, a VM or a group of VMs.

use clap::Args;

/// One snapshot.
#[derive(Args, Debug)]
pub struct SnapshotArgs {
    pub name: String,
    /// Name of the snapshot
    pub snapshot: String,
}

/// One that is to go.
#[derive(Args, Debug)]
pub struct SnapshotDeleteArgs {
    #[command(flatten)]
    pub of: SnapshotArgs,
    /// Disconnect who reads it first
    #[arg(long)]
    pub force: bool,
}
