//! `drystone vm`: its commands, flags and help texts.

use super::Image;
use super::rewind::RewindFlags;
use super::snapshot::{SnapshotArgs, SnapshotDeleteArgs};
use crate::cli::image::Format;
use crate::config::OnOff;
use base::units::parse_size;
use clap::Subcommand;
use control::NewVmVdisk;
use control::rules::SECTOR_BYTES_DEFAULT;
use std::path::PathBuf;

#[derive(Subcommand, Debug)]
pub enum Vm {
    /// Create a VM with new thin vDisks: root of web01 is the vDisk web01-root
    Create {
        name: String,
        /// Label and size of a vDisk, for example root=20GiB; may be given several times
        #[arg(long, value_name = "LABEL=SIZE", value_parser = parse_vdisk)]
        vdisk: Vec<NewVmVdisk>,
        /// Container that its vDisks are to be in [default: default]
        #[arg(long, value_name = "NAME")]
        container: Option<String>,
        #[command(flatten)]
        rewind: RewindFlags,
    },
    /// Change how much of their past the vDisks of a VM keep, each for itself
    Set {
        name: String,
        #[command(flatten)]
        rewind: RewindFlags,
    },
    /// List all VMs
    #[command(visible_alias = "ls")]
    List,
    /// Show a VM and its vDisks
    Show { name: String },
    /// Give a VM another name; its vDisks keep theirs
    Rename { name: String, new_name: String },
    /// Attach a vDisk that belongs to no VM
    Attach {
        name: String,
        vdisk: String,
        /// What the VM calls it [default: its name, without the VM's in front]
        #[arg(long)]
        label: Option<String>,
    },
    /// Detach a vDisk, which stays
    Detach {
        name: String,
        /// What the VM calls it
        label: String,
    },
    /// Take a snapshot of all vDisks of a VM at one instant, also while they are written
    Snapshot {
        #[command(flatten)]
        of: SnapshotArgs,
        /// As it was at this time, for example 2026-11-20T10:31:07Z; all its vDisks must keep their past so far back
        #[arg(long, value_name = "TIME")]
        at: Option<String>,
    },
    /// List the snapshots of a VM, the oldest first
    Snapshots { name: String },
    /// Delete a snapshot of a VM; clones of it stay, its space comes back in the background
    SnapshotDelete {
        #[command(flatten)]
        delete: SnapshotDeleteArgs,
    },
    /// List moments of note in the past of all vDisks of a VM, the oldest first
    History {
        name: String,
        /// Earliest time, for example 2026-11-20T10:31:07Z [default: the oldest that is kept]
        #[arg(long, value_name = "TIME")]
        from: Option<String>,
        /// Latest time [default: now]
        #[arg(long, value_name = "TIME")]
        to: Option<String>,
    },
    /// Show what each vDisk of a VM and its snapshots take alone, and what they share
    Space { name: String },
    /// Print what changed between two snapshots of a VM, or since one, as lines of JSON: label, offset, length, whether there is data
    Diff {
        name: String,
        /// The older snapshot; \"\": before anything was written
        #[arg(value_name = "A")]
        from: String,
        /// The newer snapshot [default: what is there now]
        #[arg(value_name = "B")]
        to: Option<String>,
    },
    /// Make VMs with the content of a snapshot, or of a VM as it is now; they share its space
    #[command(after_help = "Examples:\n  \
        drystone vm clone web01 web02\n  \
        drystone vm clone web01@monday 'desk-{001..500}'      five hundred in one call\n\n\
        All are made, or none. Clones belong to themselves: they and their source are deleted in any order.")]
    Clone {
        /// NAME or NAME@SNAPSHOT
        #[arg(value_name = "NAME[@SNAPSHOT]")]
        source: String,
        /// Names of the clones; {001..500} in one stands for 500 of them
        #[arg(required = true)]
        new: Vec<String>,
        /// As it was at this time, for example 2026-11-20T10:31:07Z; all its vDisks must keep their past so far back
        #[arg(long, value_name = "TIME")]
        at: Option<String>,
    },
    /// Write a snapshot of a VM, or what changed since an older one, to a folder of files that prove themselves
    #[command(after_help = "Examples:\n  \
        drystone vm backup web01@monday /backup/web01-monday\n  \
        drystone vm backup web01@tuesday --since monday /backup/web01-tuesday\n\n\
        The folder appears under its name when everything in it is complete and synced.")]
    Backup {
        #[arg(value_name = "VM@SNAPSHOT")]
        source: String,
        /// Only what changed since this older snapshot; vDisks that came later are in it whole
        #[arg(long, value_name = "SNAPSHOT")]
        since: Option<String>,
        /// Folder to make
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Make a new VM of backup folders: a full one, and the incremental ones that follow it, in their order
    #[command(after_help = "Examples:\n  \
        drystone vm restore /backup/web01-monday /backup/web01-tuesday web01-restored\n\n\
        Every file is read to its end and proven before anything is made.")]
    Restore {
        #[arg(required = true, num_args = 1.., value_name = "DIR")]
        folders: Vec<PathBuf>,
        /// Name of the new VM
        #[arg(required = true)]
        name: String,
        /// Container that its vDisks are to be in [default: default]
        #[arg(long, value_name = "NAME")]
        container: Option<String>,
    },
    /// Read backup folders of a VM to the end, and prove that everything in them is what was written
    #[command(
        after_help = "Several have to be a full one and the incremental ones that follow it, in their order. No controller is needed."
    )]
    VerifyBackup {
        #[arg(required = true, num_args = 1.., value_name = "DIR")]
        folders: Vec<PathBuf>,
    },
    /// Make a VM of disk images: raw, and with the help of qemu-img qcow2, vmdk and vhdx
    #[command(after_help = "Examples:\n  \
        drystone vm import web01 --disk root=web01.vmdk --disk data=data.qcow2\n\n\
        Every image is checked before anything is made, and the VM is there when all of them are in it. An import that was\n\
        cut short goes on when the same command is given again.")]
    Import {
        name: String,
        /// Label and image of a vDisk; may be given several times
        #[arg(long, value_name = "LABEL=FILE", required = true, value_parser = parse_image)]
        disk: Vec<LabelledImage>,
        /// Container that its vDisks are to be in [default: default]
        #[arg(long, value_name = "NAME")]
        container: Option<String>,
        #[command(flatten)]
        image: Image,
    },
    /// Copy all vDisks of a VM, or of its snapshot, to images in a new folder
    Export {
        #[arg(value_name = "VM[@SNAPSHOT]")]
        source: String,
        /// Folder to make
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// Format of the images
        #[arg(long, value_enum, default_value = "raw")]
        format: Format,
    },
    /// Make a VM a template, whose vDisks cannot be written, or a VM again
    Template {
        name: String,
        #[arg(value_enum, value_name = "SWITCH")]
        on: OnOff,
    },
    /// Make a snapshot what is there now, on all vDisks; what it replaces is kept as the snapshot before-rollback-TIME
    #[command(after_help = "The VM must be stopped, and must have the vDisks that it had then.")]
    Rollback {
        name: String,
        /// Name of the snapshot
        #[arg(required_unless_present = "at")]
        snapshot: Option<String>,
        /// To what it was at this time, for example 2026-11-20T10:31:07Z
        #[arg(long, value_name = "TIME", conflicts_with = "snapshot")]
        at: Option<String>,
    },
    /// Give up a rollback that was cut short and cannot be completed
    #[command(
        after_help = "Each vDisk stays as it is: rolled back, or as it was. The snapshot before-rollback-TIME has all of it as it\n\
        was. Until then it is tried again every 10 s; `drystone status` says what is in the way."
    )]
    RollbackAbort { name: String },
    /// Delete a VM and its vDisks with their data, for ever
    #[command(visible_alias = "rm")]
    Delete {
        name: String,
        /// Disconnect clients first
        #[arg(long)]
        force: bool,
        /// Delete its snapshots with it; clones of them stay
        #[arg(long)]
        snapshots: bool,
        /// Leave its vDisks, and all their snapshots, where they are
        #[arg(long)]
        keep_vdisks: bool,
    },
}

/// An image that is to be a vDisk of a VM.
#[derive(Clone, Debug)]
pub struct LabelledImage {
    pub label: String,
    pub file: PathBuf,
}

/// `root=disk.qcow2`.
fn parse_image(text: &str) -> Result<LabelledImage, String> {
    let (label, file) = text.split_once('=').ok_or("it is no LABEL=FILE, such as root=disk.qcow2")?;
    Ok(LabelledImage { label: label.to_string(), file: file.into() })
}

/// `root=20GiB`.
fn parse_vdisk(text: &str) -> Result<NewVmVdisk, String> {
    let (label, size) = text.split_once('=').ok_or("it is no LABEL=SIZE, such as root=20GiB")?;
    let size_bytes = parse_size(size).map_err(|error| error.to_string())?;
    Ok(NewVmVdisk { label: label.to_string(), size_bytes, sector_bytes: SECTOR_BYTES_DEFAULT })
}
