//! The header page of an extent group.

use base::{Epoch, GroupId, Sequence, VdiskId};
use world::WallTime;

/// Bytes of the header page; the first frame stands behind it.
pub const HEADER_PAGE: u32 = 4096;

/// The group that a vDisk wrote before this one. What it holds beyond `sealed_len` is void.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Predecessor {
    pub group: GroupId,
    pub sealed_len: u32,
    /// Checksum of the last frame header in it.
    pub chain: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupHeader {
    pub group: GroupId,
    pub vdisk: VdiskId,
    pub epoch: Epoch,
    pub first_sequence: Sequence,
    /// The last sequence known to be synced when the header was written.
    pub durable_through: Sequence,
    pub predecessor: Option<Predecessor>,
    pub wall: WallTime,
}
