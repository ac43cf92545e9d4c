//! The trait between front-ends and engines.

use crate::{Reply, Request, Result};
use world::Completion;

/// Sizes in bytes. May change while connected: `size_bytes` grows on resize, `read_only` can be switched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    pub size_bytes: u64,
    /// Logical sector that the device presents: 512 or 4096. I/O of 512 is accepted either way.
    pub sector_bytes: u32,
    /// Best unit and alignment of I/O.
    pub preferred_bytes: u32,
    /// Longest read or write.
    pub transfer_bytes_max: u32,
    /// A write of whole 4 KiB blocks up to this is all or nothing, also after a crash and for readers; a multiple of 4096.
    pub atomic_bytes_max: u32,
    pub read_only: bool,
}

/// One vDisk (or a layer around one), used by one worker's tasks only.
pub trait BlockDevice {
    fn geometry(&self) -> Geometry;
    /// Takes the request at once, in order of calls; dropping the completion does not cancel it.
    fn submit(&self, request: Request) -> Completion<Result<Reply>>;
}
