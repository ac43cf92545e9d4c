//! The iSCSI server: sockets and tasks around the `iscsi` crate's protocol and the `scsi` crate's device server.
//!
//! A connection logs in on the control runtime ([`login`]), and discovers there if that is what it wants. When the
//! initiator has chosen a target it moves, socket and all, to the worker thread that owns the vDisk ([`arrive`]), and is
//! served by one task ([`connection`]) until it ends. All sessions of a vDisk share one logical unit ([`units`]), be they
//! logged in to the vDisk's own target or to that of its VM, some of whose vDisks may be on other workers ([`router`]). What
//! the rest of the controller has to bring is in [`seam`] and [`crate::frontend`]; this folder knows nothing else of it.

mod access;
mod arrive;
mod connection;
mod follow;
mod listen;
mod login;
mod part;
mod router;
mod seam;
mod sessions;
mod units;

pub use listen::Server;
pub use seam::{FoundTarget, FoundUnit, PORTS_OF_VMS, Targets, Unit, Units};
pub use sessions::{SessionInfo, Sessions};
pub use units::{geometry_may_have_changed, is_sanitizing, visit, wake};

use std::time::Duration;

/// How long initiators are waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeouts {
    /// An initiator that said nothing for so long is asked whether it is there...
    pub ping_after: Duration,
    /// ...and is gone if it says nothing for so long again.
    pub pong_within: Duration,
    /// One that takes no answers, or does not send what it was asked for, is cut off after so long.
    pub stuck_after: Duration,
}

impl Default for Timeouts {
    /// Linux asks us every five seconds and gives up after another five; a target may be more patient. A network that
    /// stands still for half a minute is as good as gone.
    fn default() -> Self {
        let half_a_minute = Duration::from_secs(30);
        Timeouts { ping_after: half_a_minute, pong_within: Duration::from_secs(15), stuck_after: half_a_minute }
    }
}

#[cfg(test)]
mod tests;
