//! Ids, epochs and sequence numbers as types of their own, so that none is taken for another.

use std::fmt;

macro_rules! id_from_node_and_counter {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        /// 48 bits: node number (16) and a counter local to that node (32). Never reused. Zero means "none".
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(u64);

        impl $name {
            pub const NONE: $name = $name(0);

            pub const fn new(node: u16, counter: u32) -> Self {
                $name((node as u64) << 32 | counter as u64)
            }
            /// `None` if more than 48 bits are set.
            pub const fn from_raw(raw: u64) -> Option<Self> {
                if raw >> 48 == 0 { Some($name(raw)) } else { None }
            }
            pub const fn raw(self) -> u64 {
                self.0
            }
            pub const fn node(self) -> u16 {
                (self.0 >> 32) as u16
            }
            pub const fn counter(self) -> u32 {
                self.0 as u32
            }
            pub const fn is_none(self) -> bool {
                self.0 == 0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{:x}.{:x}"), self.node(), self.counter())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

id_from_node_and_counter!(
    /// A vDisk.
    VdiskId,
    "v"
);
id_from_node_and_counter!(
    /// A snapshot of a vDisk, or a set of snapshots that were taken at one instant. From the same numbers as vDisks: no
    /// snapshot has the number of a vDisk.
    SnapshotId,
    "s"
);
id_from_node_and_counter!(
    /// A VM: a named set of vDisks. From the same numbers as vDisks.
    VmId,
    "m"
);
id_from_node_and_counter!(
    /// A container: a set of vDisks with settings in common. From the same numbers as vDisks; none: the container `default`.
    ContainerId,
    "c"
);
id_from_node_and_counter!(
    /// An extent group.
    GroupId,
    "g"
);

/// A disk of a storage pool: random at creation, never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct DiskId(pub u64);

impl fmt::Display for DiskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "d{:016x}", self.0)
    }
}
impl fmt::Debug for DiskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The number that fences all earlier owners of a vDisk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Epoch(pub u64);

/// Position of a frame in its vDisk's log; the first frame is 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Sequence(pub u64);

impl Sequence {
    pub const fn next(self) -> Sequence {
        Sequence(self.0 + 1)
    }
}
