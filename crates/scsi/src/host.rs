//! What a logical unit needs of whoever serves it.

use block::BlockDevice;
use std::rc::Rc;
use world::{Completion, LocalFuture};

/// Implemented by the controller, one for each vDisk.
pub trait Host {
    /// Keeps what has to survive a restart (persistent registrations with APTPL, a sanitize operation under way, saved mode parameters); it has replaced what was
    /// kept before, durably, when it completes. Handed to [`crate::LogicalUnit::new`] at the next start. At most 256 KiB; empty: there is
    /// nothing to keep. Called again only after the last call has completed.
    fn save_state(&self, bytes: Vec<u8>) -> Completion<block::Result<()>>;

    /// The vDisk of this controller with this designator (a NAA, EUI-64 or T10 designator of VPD page 83h without its
    /// header), for a third-party copy that an initiator port asks for (named as in [`crate::Target::nexus`]); `None`: not
    /// here, or nothing that this initiator may use. What is opened lets through what the initiator could do there itself
    /// and nothing else, and what task management does there stops it: it is a [`crate::Visit`] of its logical unit.
    /// [`crate::Identity::matches`] compares.
    fn open(&self, designator: &[u8], initiator_port: &str) -> Completion<Option<Rc<dyn BlockDevice>>>;

    /// Completes `duration_ns` from now, not before: what goes on in the background leaves the device to others in between.
    fn sleep(&self, duration_ns: u64) -> LocalFuture<()>;

    /// Runs what goes on after its command was answered, or whose command nobody waits for any more, until it ends.
    fn spawn(&self, task: LocalFuture<()>);
}
