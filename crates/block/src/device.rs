//! The trait between front-ends and engines.

use crate::{Error, Kind, Reply, Request, Result};
use std::any::Any;
use std::rc::Rc;
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
    /// What the range of at most [`LEND_BYTES_MAX`] holds, without reading it, for [`BlockDevice::take`] of a device of the same
    /// engine. It stays as it is while what is lent is kept. A copy that finds this `Unsupported`, or `take`, moves the bytes.
    fn lend(&self, _offset: u64, _len: u32) -> Completion<Result<Lent>> {
        Completion::Ready(Err(Error::new(Kind::Unsupported, "the device lends nothing")))
    }
    /// As a write of what was lent: taken at once, all or nothing.
    fn take(&self, _offset: u64, _lent: Lent) -> Completion<Result<()>> {
        Completion::Ready(Err(Error::new(Kind::Unsupported, "the device takes nothing over")))
    }
}

/// 16 MiB: what a copy that is aborted still does.
pub const LEND_BYTES_MAX: u32 = 16 << 20;

/// Extents of an engine, which alone knows what they are.
#[derive(Clone)]
pub struct Lent(pub Rc<dyn Any>);
