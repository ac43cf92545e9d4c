//! The appending end of one extent group.

use crate::{Error, GroupHeader, HEADER_PAGE, Kind, Predecessor, Result, SlabId};
use base::{GroupId, Sequence, VdiskId};
use bytes::Bytes;
use world::Completion;

/// What space is wanted for: whether the reserve may be touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Normal,
    /// Trims, deletes, checkpoints, metadata, re-packing: what makes room may use the reserve.
    Emergency,
}

#[derive(Debug, Clone, Copy)]
pub struct NewGroup {
    pub vdisk: VdiskId,
    pub first_sequence: Sequence,
    pub durable_through: Sequence,
    pub predecessor: Option<Predecessor>,
    pub purpose: Purpose,
}

pub struct OpenGroup {
    pub(crate) header: GroupHeader,
    pub(crate) slab: SlabId,
    pub(crate) size: u32,
}

impl OpenGroup {
    pub fn id(&self) -> GroupId {
        self.header.group
    }
    pub fn slab(&self) -> SlabId {
        self.slab
    }
    pub fn tail(&self) -> u32 {
        HEADER_PAGE
    }
    pub fn room(&self) -> u32 {
        self.size - HEADER_PAGE
    }
    pub fn header(&self) -> &GroupHeader {
        &self.header
    }
    pub fn reserve(&mut self, _len: u32, _purpose: Purpose) -> Completion<Result<()>> {
        Completion::Ready(Ok(()))
    }
    pub fn append(&mut self, _offset: u32, _parts: &[Bytes], _len: u32) -> Completion<Result<()>> {
        Completion::Ready(Err(Error::new(Kind::Sealed, "provisional")))
    }
    pub fn synced(&mut self) {}
}
