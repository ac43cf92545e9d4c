//! The iSCSI server: sockets and tasks around the `iscsi` crate's protocol and the `scsi` crate's device server.

mod seam;
mod sessions;

pub use seam::{FoundTarget, Targets, Unit, Units};
pub use sessions::{SessionInfo, Sessions};
