//! What the NBD server asks of the rest of the controller, besides what every front-end does.

use crate::frontend::Found;

/// The vDisks by name. Called on the threads that negotiate, so that it must not block.
pub trait Exports: Send + Sync {
    /// In the order in which clients are to see them.
    fn list(&self) -> Vec<Found>;
    /// The vDisk of exactly this name. An empty name asks for the default one, if there is one.
    fn find(&self, name: &str) -> Option<Found>;
    /// The snapshots with which the export of this name can be compared: names, and ids for
    /// [`crate::frontend::Attach::attach_difference`].
    fn bases(&self, name: &str) -> Vec<(String, u64)>;
}
