//! Every command, flag and help text.

pub mod container;
pub mod group;
pub mod rewind;
pub mod schedule;
pub mod snapshot;
pub mod vm;

use self::rewind::{MomentFlags, RewindFlags};
use self::snapshot::{SnapshotArgs, SnapshotDeleteArgs};
use super::image::Format;
use super::output;
use crate::config::{OnOff, UpFlags};
use crate::logging::LogFormat;
use base::units::parse_size;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

#[derive(Parser, Debug)]
#[command(
    name = "drystone",
    version,
    about = "Thin virtual disks for VMs, served over NBD and iSCSI",
    after_help = "Examples:\n  \
        drystone up --demo                          start a controller with a 20 GiB vDisk \"demo\"\n  \
        drystone vdisk create web --size 40GiB      create a thin vDisk\n  \
        drystone vdisk import web image.qcow2       copy an image into it\n  \
        qemu-system-x86_64 -drive file=nbd://127.0.0.1:10809/web,format=raw,if=virtio\n  \
        drystone status                             how the controller is\n\n\
        Exit codes: 0 done, 1 failed, 2 used wrongly."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub connection: Connection,
    #[command(flatten)]
    pub output: Output,
    #[command(flatten)]
    pub logs: Logs,
}

/// Where the controller is and how to be let in.
#[derive(Args, Debug, Clone, Default)]
pub struct Connection {
    /// Controller to talk to [default: http://127.0.0.1:7480]
    #[arg(long, global = true, value_name = "URL", env = "DRYSTONE_SERVER", help_heading = "Connection")]
    pub server: Option<String>,
    /// Token of the API; other users of this machine can see it on the command line, so prefer the variable or --data
    #[arg(
        long,
        global = true,
        value_name = "TOKEN",
        env = "DRYSTONE_TOKEN",
        hide_env_values = true,
        help_heading = "Connection"
    )]
    pub token: Option<String>,
    /// Data directory; its file `token` opens the API [default: ./drystone-data]
    #[arg(long, global = true, value_name = "DIR", env = "DRYSTONE_DATA", help_heading = "Connection")]
    pub data: Option<PathBuf>,
}

#[derive(Args, Debug, Clone)]
pub struct Output {
    /// How to print results
    #[arg(short, long, global = true, value_enum, default_value = "table", help_heading = "Output")]
    pub output: output::Format,
}

#[derive(Args, Debug, Clone, Default)]
pub struct Logs {
    /// Log level, or directives such as info,api=debug [default: info]
    #[arg(long, global = true, value_name = "LEVEL", env = "DRYSTONE_LOG", help_heading = "Output")]
    pub log: Option<String>,
    /// How to log [default: text]
    #[arg(long, global = true, value_enum, value_name = "FORMAT", help_heading = "Output")]
    pub log_format: Option<LogFormat>,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Start a controller on this machine, and serve until it is told to stop
    #[command(after_help = "Examples:\n  \
        drystone up --demo\n  \
        drystone up --data /srv/drystone --memory 2GiB --nbd-socket /run/drystone/nbd.sock\n  \
        drystone up --config /etc/drystone.toml\n  \
        drystone up --nbd 0.0.0.0:10809 --nbd-tls-cert cert.pem --nbd-tls-key key.pem --nbd-tls-require\n  \
        drystone up --iscsi 10.0.0.1:3260 --iscsi 10.1.0.1:3260          two paths for multipath")]
    Up(UpFlags),
    /// Create, list, change, copy and delete vDisks, their snapshots and clones
    #[command(after_help = "Examples:\n  \
        drystone vdisk create web --size 40GiB\n  \
        drystone vdisk list -o json\n  \
        drystone vdisk resize web --size 60GiB\n  \
        drystone vdisk set web --read-only on\n  \
        drystone vdisk snapshot web monday             read it as the NBD export web@monday\n  \
        drystone vdisk clone web@monday 'desk-{001..500}'\n  \
        drystone vdisk rollback web monday\n  \
        drystone vdisk export web web.raw\n  \
        drystone vdisk delete web")]
    Vdisk {
        #[command(subcommand)]
        verb: Vdisk,
    },
    /// Create, list, change and delete VMs, which are named sets of vDisks; their snapshots, clones, templates
    #[command(after_help = "Examples:\n  \
        drystone vm create web01 --vdisk root=20GiB --vdisk data=100GiB\n  \
        drystone vm snapshot web01 before-upgrade\n  \
        drystone vm rollback web01 before-upgrade\n  \
        drystone vm template desktop on\n  \
        drystone vm clone desktop 'desk-{001..500}'")]
    Vm {
        #[command(subcommand)]
        verb: vm::Vm,
    },
    /// Create, list, change and delete containers: sets of vDisks with settings in common
    #[command(after_help = "Examples:\n  \
        drystone container create gold --rewind 24h --capacity 10TiB\n  \
        drystone vdisk create web --size 40GiB --container gold\n  \
        drystone vdisk move old-web --container gold\n  \
        drystone container show gold")]
    Container {
        #[command(subcommand)]
        verb: container::Container,
    },
    /// Create, list, change and delete consistency groups of VMs; their snapshots
    #[command(after_help = "Examples:\n  \
        drystone group create shop --vm web01 --vm db01\n  \
        drystone group snapshot shop before-upgrade")]
    Group {
        #[command(subcommand)]
        verb: group::Group,
    },
    /// Take snapshots regularly, and keep some of them
    #[command(after_help = "Examples:\n  \
        drystone schedule create web --vm web01 --hourly 24 --daily 7 --weekly 4\n  \
        drystone schedule list")]
    Schedule {
        #[command(subcommand)]
        verb: schedule::Schedule,
    },
    /// Say who may use vDisks over iSCSI, and who does
    #[command(after_help = "Examples:\n  \
        drystone iscsi show\n  \
        drystone iscsi access web --initiator iqn.1993-08.org.debian:01:8f3a2b\n  \
        drystone iscsi access web --chap guest --chap-secret-file secret.txt\n  \
        drystone iscsi group create esx --initiator iqn.1998-01.com.vmware:esx1\n  \
        drystone iscsi access web --group esx\n  \
        drystone iscsi sessions")]
    Iscsi {
        #[command(subcommand)]
        verb: Iscsi,
    },
    /// Say how the controller is: health, disks, memory, vDisks
    Status,
    /// Rebuild the metadata store of a stopped controller from its disks alone, and say what was found
    #[command(after_help = "Examples:\n  \
        drystone recover --data /srv/drystone\n\n\
        The controller must not be running. Nothing that was written is changed; the metadata store is only an index\n\
        of it and may be missing, old or damaged.")]
    Recover(RecoverFlags),
    /// Print completions for a shell
    #[command(after_help = "Examples:\n  \
        drystone completions bash > ~/.local/share/bash-completion/completions/drystone\n  \
        drystone completions zsh > ~/.zfunc/_drystone")]
    Completions { shell: clap_complete::Shell },
}

#[derive(Subcommand, Debug)]
pub enum Vdisk {
    /// Create a thin vDisk: it takes space when it is written
    Create {
        name: String,
        /// Size, for example 20GiB; a multiple of 4096 bytes, at most 64TiB
        #[arg(long, value_name = "SIZE", value_parser = parse_size)]
        size: u64,
        /// Logical sector that clients see
        #[arg(long, value_name = "BYTES", value_parser = ["512", "4096"], default_value = "512")]
        sector: String,
        /// Container that it is to be in [default: default]
        #[arg(long, value_name = "NAME")]
        container: Option<String>,
        /// On the shard of this vDisk: copies between the two that iSCSI hosts ask for move no bytes [default: the shard
        /// with the fewest vDisks]
        #[arg(long, value_name = "VDISK")]
        near: Option<String>,
        #[command(flatten)]
        rewind: RewindFlags,
    },
    /// List all vDisks
    #[command(visible_alias = "ls")]
    List {
        /// Only those of this container
        #[arg(long, value_name = "NAME")]
        container: Option<String>,
    },
    /// Show everything about one vDisk
    Show { name: String },
    /// Grow a vDisk, also while it is connected
    Resize {
        name: String,
        /// New size; not smaller than the old one
        #[arg(long, value_name = "SIZE", value_parser = parse_size)]
        size: u64,
    },
    /// Give a vDisk another name; connected clients stay connected
    Rename { name: String, new_name: String },
    /// Move a vDisk to another container, also while it is connected; no data is copied
    #[command(
        after_help = "A window of its own stays; one that it has of its container becomes that of the new one, and\n\
        what that does not keep of the past goes at once."
    )]
    Move {
        name: String,
        /// Container that it is to be in
        #[arg(long, value_name = "NAME")]
        container: String,
    },
    /// Change settings of a vDisk; what is not named stays as it is
    #[command(after_help = "Examples:\n  \
        drystone vdisk set web --read-only on\n  \
        drystone vdisk set web --rewind 24h --rewind-limit 100GiB      any second of the last day can be had\n  \
        drystone vdisk set web --rewind off                            what was kept for it comes free\n  \
        drystone vdisk set web --rewind inherit                        what its container says holds again")]
    Set {
        name: String,
        /// Refuse writes, or take them again
        #[arg(long, value_enum, value_name = "SWITCH", required_unless_present = "rewind")]
        read_only: Option<OnOff>,
        #[command(flatten)]
        rewind: RewindFlags,
    },
    /// Delete a vDisk and its data, for ever
    #[command(visible_alias = "rm")]
    Delete {
        name: String,
        /// Disconnect clients first
        #[arg(long)]
        force: bool,
        /// Delete its snapshots with it; clones of them stay
        #[arg(long)]
        snapshots: bool,
    },
    /// Take a snapshot of a vDisk, also while it is written: one small write, whatever the size
    Snapshot {
        #[command(flatten)]
        of: SnapshotArgs,
        #[command(flatten)]
        moment: MomentFlags,
    },
    /// Print what is of note in the past that is kept: checkpoints, quiet moments, bursts of overwriting
    #[command(after_help = "Examples:\n  \
        drystone vdisk history web --from 2026-11-20T10:00:00Z\n  \
        drystone vdisk snapshot web before-the-virus --before-write 48213\n\n\
        Quiet: nothing was written for 10 s or more; a file system was at rest then. Overwriting: in 10 s at least 64 MiB\n\
        of data were overwritten, and eight times as much as in the ten minutes before on average; what encrypts files\n\
        looks like this. Its BEFORE WRITE is what was there before it.")]
    History {
        name: String,
        /// Earliest time, for example 2026-11-20T10:31:07Z [default: the oldest that is kept]
        #[arg(long, value_name = "TIME")]
        from: Option<String>,
        /// Latest time [default: now]
        #[arg(long, value_name = "TIME")]
        to: Option<String>,
    },
    /// List the snapshots of a vDisk, the oldest first
    Snapshots { name: String },
    /// Delete a snapshot; clones of it stay, its space comes back in the background
    SnapshotDelete {
        #[command(flatten)]
        delete: SnapshotDeleteArgs,
    },
    /// Count what a vDisk and its snapshots take on disk: alone, and shared with others
    #[command(after_help = "ALONE is what deleting that one would free; SHARED is what others need as well.")]
    Space { name: String },
    /// Make vDisks with the content of a snapshot, or of a vDisk as it is now; they share its space
    #[command(after_help = "Examples:\n  \
        drystone vdisk clone web copy\n  \
        drystone vdisk clone web@monday 'desk-{001..500}'      five hundred in one call\n\n\
        All are made, or none. Clones belong to themselves: they and their source are deleted in any order.")]
    Clone {
        /// NAME or NAME@SNAPSHOT
        #[arg(value_name = "NAME[@SNAPSHOT]")]
        source: String,
        /// Names of the clones; {001..500} in one stands for 500 of them
        #[arg(required = true)]
        new: Vec<String>,
        #[command(flatten)]
        moment: MomentFlags,
    },
    /// Make a snapshot what is there now; what it replaces is kept as the snapshot before-rollback-TIME
    #[command(after_help = "The vDisk must not be connected: stop the VM first. Its size stays as it is.")]
    Rollback {
        name: String,
        /// Name of the snapshot
        #[arg(required_unless_present_any = ["at", "before_write"], conflicts_with_all = ["at", "before_write"])]
        snapshot: Option<String>,
        #[command(flatten)]
        moment: MomentFlags,
    },
    /// Print which bytes may differ between two snapshots, one range of JSON on each line
    #[command(after_help = "Examples:\n  \
        drystone vdisk diff web monday tuesday\n  \
        drystone vdisk diff web monday              what changed since\n  \
        drystone vdisk diff web \"\" monday           all that holds data in it")]
    Diff {
        name: String,
        /// The older snapshot; \"\": before anything was written
        #[arg(value_name = "A")]
        from: String,
        /// The newer snapshot [default: what is there now]
        #[arg(value_name = "B")]
        to: Option<String>,
    },
    /// Write a snapshot, or what changed since an older one, to a file that proves itself
    #[command(after_help = "Examples:\n  \
        drystone vdisk backup web@monday web-monday.dbk\n  \
        drystone vdisk backup web@tuesday --since monday web-tuesday.dbk\n  \
        drystone vdisk backup web@monday - | ssh vault 'cat > web-monday.dbk'\n\n\
        The file appears under its name when it is complete and synced. Keep the snapshot until the next backup since it\n\
        is made. Other tools find the same changes over NBD, as the dirty bitmap qemu:dirty-bitmap:SNAPSHOT.")]
    Backup {
        #[arg(value_name = "NAME@SNAPSHOT")]
        source: String,
        /// Only what changed since this older snapshot: an incremental backup
        #[arg(long, value_name = "SNAPSHOT")]
        since: Option<String>,
        /// File to write; - is standard output
        file: PathBuf,
    },
    /// Make a new vDisk of backup files: a full one, and the incremental ones that follow it, in their order
    #[command(after_help = "Examples:\n  \
        drystone vdisk restore web-monday.dbk web-tuesday.dbk web-restored\n\n\
        Every file is read to its end and proven, and so is their order, before anything is made. The vDisk gets its name\n\
        when all of its content is there; what an interruption leaves is called NAME.unfinished-NUMBER, and can be deleted.")]
    Restore {
        #[arg(required = true, num_args = 1.., value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Name of the new vDisk
        #[arg(required = true)]
        name: String,
        /// Container that it is to be in [default: default]
        #[arg(long, value_name = "NAME")]
        container: Option<String>,
    },
    /// Prove that backup files are whole, and in the order in which they are restored
    VerifyBackup {
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Copy an image into a vDisk, which is created if it is missing; holes and zeros take no space
    #[command(after_help = "Examples:\n  \
        drystone vdisk import web image.raw\n  \
        drystone vdisk import web image.qcow2          also vmdk and vhdx, with the help of qemu-img\n\n\
        The format is what the name ends in, or what --format says; it is never guessed from the content. A damaged or\n\
        truncated image is refused before anything is created. A new vDisk has its name when all of the image is in it;\n\
        if the import was cut short, the same command goes on where it stopped, unless the image was changed. Of a vDisk\n\
        that is there already the content is replaced where it is.")]
    Import {
        name: String,
        /// Image, or (raw) a block device
        file: PathBuf,
        /// Container that a new vDisk is to be in [default: default]
        #[arg(long, value_name = "NAME")]
        container: Option<String>,
        #[command(flatten)]
        image: Image,
    },
    /// Copy a vDisk or a snapshot into an image; holes stay holes
    #[command(after_help = "Examples:\n  \
        drystone vdisk export web web.raw\n  \
        drystone vdisk export web@monday web.qcow2     also vmdk and vhdx, with the help of qemu-img\n\n\
        The file appears under its name when it is complete and synced; one that was there before is replaced.\n\
        What is written to the vDisk meanwhile may be in the copy or not: export a snapshot for a clean one.")]
    Export {
        #[arg(value_name = "NAME[@SNAPSHOT]")]
        name: String,
        /// File to write
        file: PathBuf,
        /// Format of the image [default: what the file's name ends in, else raw]
        #[arg(long, value_enum)]
        format: Option<Format>,
    },
}

/// What is said of an image that is imported.
#[derive(Args, Debug)]
pub struct Image {
    /// Format of the image [default: what the file's name ends in, else raw]
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// Read other files that the image refers to, too (qcow2 on a backing file, for example)
    #[arg(long)]
    pub allow_backing: bool,
}

#[derive(Subcommand, Debug)]
pub enum Iscsi {
    /// Show vDisks as targets: who may log in, and at which portals they are served
    Show { name: Option<String> },
    /// Say who may log in to a vDisk; what is not named stays as it is
    #[command(after_help = "Examples:\n  \
        drystone iscsi access web --initiator iqn.1993-08.org.debian:01:8f3a2b\n  \
        drystone iscsi access web --chap guest --mutual web             asks for both secrets\n  \
        drystone iscsi access web --any-initiator --no-chap\n\n\
        Secrets are never given on the command line: they are read from a file, or asked for, or are lines of standard\n\
        input. Sessions that are logged in stay; `drystone iscsi drop` ends them.")]
    Access(Access),
    /// List who is logged in
    Sessions,
    /// End a session; its initiator may log in again
    Drop {
        /// From `drystone iscsi sessions`
        session: u64,
    },
    /// List the addresses at which initiators connect
    Portals,
    /// Give lists of initiators a name, to which the rules of vDisks can refer
    Group {
        #[command(subcommand)]
        verb: Group,
    },
}

#[derive(Args, Debug)]
pub struct Access {
    pub name: String,
    /// Let this initiator log in; may be given several times, and replaces who might before
    #[arg(long, value_name = "IQN")]
    pub initiator: Vec<String>,
    /// Let the initiators of this group log in; may be given several times
    #[arg(long, value_name = "GROUP")]
    pub group: Vec<String>,
    /// Let any initiator log in
    #[arg(long, conflicts_with_all = ["initiator", "group"])]
    pub any_initiator: bool,
    /// Ask initiators to prove with a secret that they are this user
    #[arg(long, value_name = "USER")]
    pub chap: Option<String>,
    /// File whose first line is that secret; "-" is standard input
    #[arg(long, value_name = "FILE", requires = "chap")]
    pub chap_secret_file: Option<PathBuf>,
    /// Let initiators ask the target to prove with another secret that it is this user
    #[arg(long, value_name = "USER")]
    pub mutual: Option<String>,
    /// File whose first line is that secret
    #[arg(long, value_name = "FILE", requires = "mutual")]
    pub mutual_secret_file: Option<PathBuf>,
    /// Ask nobody for a secret
    #[arg(long, conflicts_with_all = ["chap", "mutual"])]
    pub no_chap: bool,
    /// Prove nothing to initiators
    #[arg(long, conflicts_with = "mutual")]
    pub no_mutual: bool,
}

#[derive(Subcommand, Debug)]
pub enum Group {
    /// List all groups and how many vDisks refer to them
    #[command(visible_alias = "ls")]
    List,
    /// Create a group
    Create {
        name: String,
        /// May be given several times
        #[arg(long, value_name = "IQN", required = true)]
        initiator: Vec<String>,
    },
    /// Replace the list of a group; the vDisks that refer to it follow
    Set {
        name: String,
        /// May be given several times
        #[arg(long, value_name = "IQN", required = true)]
        initiator: Vec<String>,
    },
    /// Delete a group that no vDisk refers to
    #[command(visible_alias = "rm")]
    Delete { name: String },
}

#[derive(Args, Debug, Clone, Default)]
pub struct RecoverFlags {
    /// TOML file that the controller is started with
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Memory budget [default: a quarter of the machine, at most 4GiB]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    #[arg(skip)]
    pub data: Option<PathBuf>,
}

impl From<RecoverFlags> for UpFlags {
    fn from(flags: RecoverFlags) -> UpFlags {
        UpFlags { data: flags.data, config: flags.config, memory: flags.memory, ..UpFlags::default() }
    }
}
