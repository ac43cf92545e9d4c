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
    /// Clients are connected; disconnect them or use force.
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
