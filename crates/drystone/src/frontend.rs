//! What every front-end asks of the rest of the controller: vDisks to be found, and to be attached on their workers.

pub mod channel;
pub mod input;
pub mod line;
pub mod payload;
pub mod socket;
#[cfg(test)]
pub mod testing;
pub mod tls;

use block::{BlockDevice, Geometry};
use std::any::Any;
use std::rc::Rc;
use world::LocalFuture;

/// A vDisk that can be attached.
#[derive(Debug, Clone)]
pub struct Found {
    /// Index of the worker that owns it.
    pub worker: usize,
    /// Its id, given back to [`Attach::attach`].
    pub key: u64,
    /// The id of the snapshot of it that is meant instead, given back likewise.
    pub snapshot: Option<u64>,
    /// At most 4096 bytes.
    pub name: String,
    /// For people; may be empty.
    pub description: String,
    /// As far as known without opening it; what a client is served is the geometry of the attached device.
    pub geometry: Geometry,
}

/// Opens vDisks for connections; lives on one worker.
pub trait Attach {
    /// May take as long as the recovery of the vDisk. The error's text is shown to the client.
    fn attach(&self, key: u64, snapshot: Option<u64>) -> LocalFuture<block::Result<Attached>>;

    /// A device whose block status says `Data` where the vDisk, or its snapshot `snapshot`, may differ from its snapshot
    /// `base`, and `Hole` where it does not.
    fn attach_difference(&self, _key: u64, _snapshot: Option<u64>, _base: u64) -> LocalFuture<block::Result<Attached>> {
        let never = block::Error::new(block::Kind::Unsupported, "there are no differences here");
        Box::pin(std::future::ready(Err(never)))
    }
}

/// One connection's hold on a vDisk.
pub struct Attached {
    pub device: Rc<dyn BlockDevice>,
    /// Completes when the connection is to end: a forced delete, a shutdown. What is under way is still answered.
    pub closed: LocalFuture<()>,
    /// Dropped when the connection has ended. Requests that a client left behind may still be under way in the device.
    pub hold: Box<dyn Any>,
}

/// Runs on the worker's thread and returns the task that goes on there. `Here` is what the front-end uses of the worker.
pub type Job<Here> = Box<dyn FnOnce(Rc<Here>) -> LocalFuture<()> + Send>;

pub trait Workers<Here: ?Sized>: Send + Sync {
    /// Calls `job` on that worker's thread, inside its tokio runtime (with I/O and time enabled), and runs the task it
    /// returns there. Never waits. A job that cannot be taken is dropped, which closes its connection.
    fn run(&self, worker: usize, job: Job<Here>);
}
