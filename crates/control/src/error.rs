//! The error of every verb: a kind that says what the caller may do, and a message that says what to do.

/// One variant for each thing a caller does differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Nothing of that name.
    NotFound,
    /// The name is taken.
    Exists,
    /// The request can never succeed as it stands.
    Invalid,
    /// In use: mostly clients are connected; disconnect them or use force.
    Busy,
    /// No space left.
    Full,
    /// The vDisk is switched to read-only.
    ReadOnly,
    /// Stored bytes fail their checksum and no good copy is left.
    Damaged,
    /// Not served at this moment (starting, recovering, shutting down); the same request may succeed later.
    Unavailable,
    /// Anything else; the log of the controller has the details.
    Internal,
}

/// `message` is for people: a sentence that names what was refused and what to do instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub kind: Kind,
    pub message: String,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error { kind, message: message.into() }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Error::new(Kind::Invalid, message)
    }

    pub fn not_found(name: &str) -> Self {
        Error::new(Kind::NotFound, format!("there is no vDisk {name:?}; `drystone vdisk list` shows those there are"))
    }

    pub fn no_group(name: &str) -> Self {
        let text = format!("there is no initiator group {name:?}; `drystone iscsi group list` shows those there are");
        Error::new(Kind::NotFound, text)
    }

    pub fn group_in_use(name: &str, vdisks: &[String]) -> Self {
        let text = format!(
            "the initiator group {name:?} is used by {}; give them other rules first (`drystone iscsi access`)",
            vdisks.join(", ")
        );
        Error::new(Kind::Invalid, text)
    }

    pub fn no_session(id: u64) -> Self {
        let text = format!("there is no iSCSI session {id}; `drystone iscsi sessions` shows those there are");
        Error::new(Kind::NotFound, text)
    }

    pub fn exists(name: &str) -> Self {
        Error::new(
            Kind::Exists,
            format!("a vDisk {name:?} exists already; choose another name, or delete that one first"),
        )
    }

    /// A vDisk of this name is to be made.
    pub fn planned(name: &str, vm: &str) -> Self {
        let text = format!(
            "the name {name:?} is for a vDisk of VM {vm:?}, which is still being made (`drystone status` says what is in the way); \
             choose another name"
        );
        Error::new(Kind::Exists, text)
    }

    pub fn busy(name: &str, connections: u32) -> Self {
        let clients = if connections == 1 { "client is" } else { "clients are" };
        Error::new(
            Kind::Busy,
            format!(
                "{connections} {clients} connected to vDisk {name:?}; disconnect first, or use --force (force=true)"
            ),
        )
    }

    pub fn no_snapshot(vdisk: &str, name: &str) -> Self {
        let text =
            format!("vDisk {vdisk:?} has no snapshot {name:?}; `drystone vdisk snapshots {vdisk}` shows those it has");
        Error::new(Kind::NotFound, text)
    }

    pub fn snapshot_exists(vdisk: &str, name: &str) -> Self {
        let text = format!(
            "vDisk {vdisk:?} has a snapshot {name:?} already; choose another name, or delete that one first \
             (`drystone vdisk snapshot-delete {vdisk} {name}`)"
        );
        Error::new(Kind::Exists, text)
    }

    pub fn snapshot_busy(vdisk: &str, name: &str, connections: u32) -> Self {
        let clients = if connections == 1 { "client reads" } else { "clients read" };
        let text = format!(
            "{connections} {clients} snapshot {name:?} of vDisk {vdisk:?}; disconnect first, or use --force (force=true)"
        );
        Error::new(Kind::Busy, text)
    }

    pub fn has_snapshots(vdisk: &str, count: usize) -> Self {
        let snapshots = if count == 1 { "snapshot" } else { "snapshots" };
        Error::invalid(format!(
            "vDisk {vdisk:?} has {count} {snapshots}, which would go with it; delete them first, or say --snapshots (snapshots=true)"
        ))
    }

    pub fn rollback_while_connected(vdisk: &str, connections: u32) -> Self {
        let clients = if connections == 1 { "client is" } else { "clients are" };
        let text = format!(
            "{connections} {clients} connected to vDisk {vdisk:?}; a rollback would change its content under them: stop the VM first"
        );
        Error::new(Kind::Busy, text)
    }

    pub fn rollback_while_sanitizing(vdisk: &str) -> Self {
        let text = format!(
            "a sanitize operation on vDisk {vdisk:?} is not complete; a rollback would bring back a part of what it is to destroy \
             (a clone of the snapshot can be made at once)"
        );
        Error::new(Kind::Busy, text)
    }

    pub fn rollback_pending(vdisk: &str) -> Self {
        let text = format!(
            "vDisk {vdisk:?} is in a rollback that is not complete and is tried again; `drystone status` says what is in the way"
        );
        Error::new(Kind::Unavailable, text)
    }

    pub fn rollback_of_gone_vm(vdisk: &str) -> Self {
        let text = format!(
            "vDisk {vdisk:?} is in the rollback of a VM that is gone; make an empty VM to give it up by (`drystone vm create X`), \
             and attach the vDisk to that"
        );
        Error::new(Kind::Unavailable, text)
    }

    pub fn vm_rollback_pending(vm: &str) -> Self {
        let text = format!(
            "VM {vm:?} is in a rollback that is not complete and is tried again; give it up first \
             (`drystone vm rollback-abort {vm}`)"
        );
        Error::new(Kind::Unavailable, text)
    }

    pub fn no_rollback(vm: &str) -> Self {
        Error::new(
            Kind::NotFound,
            format!("VM {vm:?} has no rollback that is not complete; `drystone status` tells of each"),
        )
    }

    /// Of a snapshot that something on record has to be made from.
    pub fn snapshot_needed(name: &str, what: &str) -> Self {
        let text = format!(
            "snapshot {name:?} is needed for {what}; it can be deleted when that is complete (`drystone status` says what is \
             in the way)"
        );
        Error::new(Kind::Busy, text)
    }

    pub fn vdisk_needed(vdisk: &str, what: &str) -> Self {
        let text = format!(
            "vDisk {vdisk:?} is needed for {what}; it can be deleted when that is complete (`drystone status` says what is \
             in the way)"
        );
        Error::new(Kind::Busy, text)
    }

    /// Of a snapshot of several vDisks.
    pub fn set_not_gone(name: &str, error: &Error) -> Self {
        let text = format!(
            "snapshot {name:?} is not there any more for anybody, but not all of it is gone: {error}; that is tried again"
        );
        Error::new(error.kind, text)
    }

    pub fn no_vm(name: &str) -> Self {
        Error::new(Kind::NotFound, format!("there is no VM {name:?}; `drystone vm list` shows those there are"))
    }

    pub fn vm_exists(name: &str) -> Self {
        let text = format!("a VM {name:?} exists already; choose another name, or delete that one first");
        Error::new(Kind::Exists, text)
    }

    /// Of VMs all of whose vDisks are made; `name`: the first one.
    pub fn vm_on_record(name: &str, count: usize, error: &Error) -> Self {
        let what =
            if count == 1 { format!("VM {name:?} is") } else { format!("{count} VMs, of which {name:?} is one, are") };
        let text = format!(
            "{what} on record, and there as soon as the metadata store can be written (`drystone status` says when not): {error}"
        );
        Error::new(Kind::Unavailable, text)
    }

    /// Of a VM that is to be made.
    pub fn vm_planned(name: &str) -> Self {
        let text = format!(
            "the name {name:?} is for a VM that is still being made (`drystone status` says what is in the way); choose another name"
        );
        Error::new(Kind::Exists, text)
    }

    /// Of a vDisk that a VM is to have that is being made.
    pub fn vdisk_taken(vdisk: &str, vm: &str) -> Self {
        let text = format!(
            "vDisk {vdisk:?} is to be one of VM {vm:?}, which is still being made (`drystone status` says what is in the way)"
        );
        Error::new(Kind::Busy, text)
    }

    /// Of a vDisk that was made, or renamed, for a VM that could not be made.
    pub fn vdisk_left(vdisk: &str, vm: &str) -> Self {
        let text = format!(
            "vDisk {vdisk:?} is left of VM {vm:?}, which could not be made; that is being undone (`drystone status` says what is in the way)"
        );
        Error::new(Kind::Busy, text)
    }

    pub fn no_vm_group(name: &str) -> Self {
        let text = format!("there is no group {name:?} of VMs; `drystone group list` shows those there are");
        Error::new(Kind::NotFound, text)
    }

    pub fn vm_group_exists(name: &str) -> Self {
        let text = format!("a group {name:?} of VMs exists already; choose another name, or delete that one first");
        Error::new(Kind::Exists, text)
    }

    pub fn no_container(name: &str) -> Self {
        let text = format!("there is no container {name:?}; `drystone container list` shows those there are");
        Error::new(Kind::NotFound, text)
    }

    pub fn container_exists(name: &str) -> Self {
        let text = format!("a container {name:?} exists already; choose another name, or delete that one first");
        Error::new(Kind::Exists, text)
    }

    pub fn default_container() -> Self {
        Error::invalid("the container \"default\" is always there and cannot be deleted")
    }

    pub fn container_in_use(name: &str, vdisks: usize) -> Self {
        let are = if vdisks == 1 { "vDisk is" } else { "vDisks are" };
        Error::invalid(format!(
            "{vdisks} {are} in container {name:?}; delete them, or move them elsewhere (`drystone vdisk move`)"
        ))
    }

    /// `vm`: one that is to be made there.
    pub fn container_planned(name: &str, vm: &str) -> Self {
        Error::invalid(format!(
            "VM {vm:?} is being made in container {name:?}; `drystone status` says what is in the way"
        ))
    }

    /// Sizes are for people.
    pub fn container_full(name: &str, capacity: &str, used: &str) -> Self {
        let text = format!(
            "container {name:?} has a capacity of {capacity}, and its vDisks hold {used}; delete or trim some, move them \
             elsewhere, or raise the capacity (`drystone container set {name} --capacity SIZE`)"
        );
        Error::invalid(text)
    }

    pub fn not_in_group(vm: &str, group: &str) -> Self {
        let text = format!("VM {vm:?} is not in group {group:?}; `drystone group show {group}` shows which are");
        Error::new(Kind::NotFound, text)
    }

    pub fn no_group_snapshot(group: &str, name: &str) -> Self {
        let text =
            format!("group {group:?} has no snapshot {name:?}; `drystone group snapshots {group}` shows those it has");
        Error::new(Kind::NotFound, text)
    }

    pub fn group_snapshot_exists(group: &str, name: &str) -> Self {
        let text = format!(
            "group {group:?} has a snapshot {name:?} already; choose another name, or delete that one first \
             (`drystone group snapshot-delete {group} {name}`)"
        );
        Error::new(Kind::Exists, text)
    }

    /// Of the snapshot of a VM.
    pub fn part_of_group_snapshot(vm: &str, name: &str, group: &str) -> Self {
        Error::invalid(format!(
            "snapshot {name:?} of VM {vm:?} is a part of a snapshot of group {group:?}; delete that one \
             (`drystone group snapshot-delete {group} {name}`)"
        ))
    }

    pub fn no_schedule(name: &str) -> Self {
        let text = format!("there is no schedule {name:?}; `drystone schedule list` shows those there are");
        Error::new(Kind::NotFound, text)
    }

    pub fn schedule_exists(name: &str) -> Self {
        let text = format!("a schedule {name:?} exists already; choose another name, or delete that one first");
        Error::new(Kind::Exists, text)
    }

    pub fn no_vm_snapshot(vm: &str, name: &str) -> Self {
        let text = format!("VM {vm:?} has no snapshot {name:?}; `drystone vm snapshots {vm}` shows those it has");
        Error::new(Kind::NotFound, text)
    }

    pub fn vm_snapshot_exists(vm: &str, name: &str) -> Self {
        let text = format!(
            "VM {vm:?} has a snapshot {name:?} already; choose another name, or delete that one first \
             (`drystone vm snapshot-delete {vm} {name}`)"
        );
        Error::new(Kind::Exists, text)
    }

    pub fn vm_has_snapshots(vm: &str, vdisk: &str, count: usize) -> Self {
        let snapshots = if count == 1 { "snapshot" } else { "snapshots" };
        Error::invalid(format!(
            "the vDisk {vdisk:?} of VM {vm:?} has {count} {snapshots}, which would go with it; delete them first, say \
             --snapshots (snapshots=true), or keep the vDisks (--keep-vdisks, keep_vdisks=true)"
        ))
    }

    pub fn label_exists(vm: &str, label: &str) -> Self {
        let text = format!("VM {vm:?} has a vDisk that it calls {label:?} already; choose another label");
        Error::new(Kind::Exists, text)
    }

    pub fn no_label(vm: &str, label: &str) -> Self {
        let text =
            format!("VM {vm:?} has no vDisk that it calls {label:?}; `drystone vm show {vm}` shows those it has");
        Error::new(Kind::NotFound, text)
    }

    pub fn belongs_to_vm(vdisk: &str, vm: &str) -> Self {
        Error::invalid(format!(
            "vDisk {vdisk:?} belongs to VM {vm:?}; detach it first (`drystone vm detach`), or use the verbs on the VM"
        ))
    }

    pub fn is_template(vm: &str) -> Self {
        let text = format!(
            "VM {vm:?} is a template: clone it (`drystone vm clone {vm} NAME`), or make it a VM again \
             (`drystone vm template {vm} off`)"
        );
        Error::new(Kind::ReadOnly, text)
    }

    pub fn has_no_vdisks(vm: &str) -> Self {
        Error::invalid(format!("VM {vm:?} has no vDisks; attach some first (`drystone vm attach {vm} VDISK`)"))
    }

    /// Of the snapshot of a vDisk.
    pub fn part_of_vm_snapshot(vdisk: &str, name: &str, vm: &str) -> Self {
        Error::invalid(format!(
            "snapshot {name:?} of vDisk {vdisk:?} is a part of a snapshot of VM {vm:?}; delete that one \
             (`drystone vm snapshot-delete {vm} {name}`)"
        ))
    }

    pub fn read_only(name: &str) -> Self {
        Error::new(
            Kind::ReadOnly,
            format!("vDisk {name:?} is read-only; `drystone vdisk set {name} --read-only off` makes it writable"),
        )
    }

    pub fn full(name: &str) -> Self {
        Error::new(
            Kind::Full,
            format!(
                "no space left to write to vDisk {name:?}; delete vDisks, trim in the guest, or enlarge the disk under the data directory"
            ),
        )
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Error::new(Kind::Internal, message)
    }
}
