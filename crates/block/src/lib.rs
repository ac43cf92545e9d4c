//! The narrow waist: what every front-end asks and every engine answers.
//!
//! A front-end sees a [`BlockDevice`] and nothing behind it; an engine sees [`Request`]s and nothing of NBD or SCSI.
//! Layers that wrap one device in another (trace, policy, QoS, faults) live here too.

mod device;
mod error;
mod request;

pub use device::{BlockDevice, Geometry, LEND_BYTES_MAX, Lent};
pub use error::{Error, Kind, Result};
pub use request::{Allocation, Reply, Request, Segment, Status, WriteZeroes};
