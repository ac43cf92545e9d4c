//! The production world: worker threads, io_uring, slab files, clock.
//!
//! One worker is one thread with a tokio current-thread runtime and one io_uring; everything on it is `Rc` and no state
//! is shared with another worker. Blocking calls that no ring can take run on helper threads ([`Actor`]).
//! Linux only (5.15 or newer, see `ring`). Knows nothing of vDisks, logs or protocols.

mod actor;
mod clock;
mod directory;
mod error;
mod file;
pub mod process;
mod random;
mod read;
mod ring;
mod worker;
mod write;

pub use actor::{Actor, Stopped};
pub use directory::Directory;
pub use worker::{Job, Refused, WorkerContext, Workers};
