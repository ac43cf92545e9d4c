//! `drystone container`: its commands, flags and help texts.

use super::rewind::RewindFlags;
use base::units::parse_size;
use clap::Subcommand;

#[derive(Subcommand, Debug)]
pub enum Container {
    /// Create a container: settings for the vDisks in it that have none of their own
    #[command(after_help = "Examples:\n  \
        drystone container create gold --rewind 24h --rewind-limit 100GiB --capacity 10TiB\n  \
        drystone vdisk create web --size 40GiB --container gold\n\n\
        At its capacity, which counts the data of its vDisks as `vdisk show` does (not that of snapshots), no vDisk is made in\n\
        it (created, cloned, imported, restored), grown, or moved to it. Writes to those that are there are not refused.")]
    Create {
        name: String,
        #[command(flatten)]
        rewind: RewindFlags,
        /// Once its vDisks hold so much data, none is made in it, grown, or moved to it [default: no limit]
        #[arg(long, value_name = "SIZE", value_parser = parse_size)]
        capacity: Option<u64>,
        /// A line of text
        #[arg(long, value_name = "TEXT")]
        comment: Option<String>,
    },
    /// List all containers
    #[command(visible_alias = "ls")]
    List,
    /// Show a container, and on how many of its vDisks it is not carried out yet
    Show { name: String },
    /// Change settings of a container; what is not named stays as it is
    #[command(after_help = "Examples:\n  \
        drystone container set gold --rewind 48h\n  \
        drystone container set gold --capacity 0          no limit\n  \
        drystone container set default --rewind 1h        for all vDisks that are in no other one\n\n\
        It holds at once for each vDisk that has no window of its own (`vdisk set --rewind`; `--rewind inherit` gives that up).\n\
        What cannot be carried out on one of them is tried again every 10 s; `container show` says on how many.")]
    Set {
        name: String,
        #[command(flatten)]
        rewind: RewindFlags,
        /// Once its vDisks hold so much data, none is made in it, grown, or moved to it; 0: no limit
        #[arg(long, value_name = "SIZE", value_parser = parse_size)]
        capacity: Option<u64>,
        /// A line of text; \"\": none
        #[arg(long, value_name = "TEXT", required_unless_present_any = ["rewind", "capacity"])]
        comment: Option<String>,
    },
    /// Give a container another name
    Rename { name: String, new_name: String },
    /// Delete a container that has no vDisks
    #[command(visible_alias = "rm")]
    Delete { name: String },
}
