//! One shard's pool.

use crate::{Error, GroupHeader, Identity, Kind, NewGroup, OpenGroup, PoolConfig, Result, Usage};
use base::{Epoch, GroupId, VdiskId};
use bytes::Bytes;
use std::rc::Rc;
use world::{Completion, Disk, LocalFuture, World};

/// Number of a slab file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlabId(pub u16);

/// Where something was found that nobody can read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub slab: SlabId,
    pub slot: u32,
    pub reason: String,
}

/// What a start found.
pub struct Opened {
    pub pool: Rc<Pool>,
    /// Every group on the disk, in order of ids.
    pub groups: Vec<GroupHeader>,
    pub quarantined: Vec<Place>,
    /// The generation that the disk had before this start raised it.
    pub generation_before: u64,
}

pub struct Pool {
    identity: Rc<Identity>,
    config: PoolConfig,
}

impl Pool {
    /// Makes an empty pool on a disk; refuses if a superblock is there.
    pub async fn format(
        _world: &World,
        _disk: &Rc<dyn Disk>,
        _config: &PoolConfig,
        _identity: &Identity,
    ) -> Result<()> {
        Err(Error::new(Kind::Invalid, "provisional"))
    }
    pub async fn open(_world: World, _disk: Rc<dyn Disk>, _config: PoolConfig) -> Result<Opened> {
        Err(Error::new(Kind::Invalid, "provisional"))
    }
    pub fn identity(&self) -> Rc<Identity> {
        self.identity.clone()
    }
    pub fn epoch(&self) -> Epoch {
        Epoch(0)
    }
    pub fn group_size(&self) -> u32 {
        self.config.group_size
    }
    pub async fn set_node(&self, _node: u16) -> Result<()> {
        Ok(())
    }
    pub async fn next_vdisk_id(&self) -> Result<VdiskId> {
        Err(Error::new(Kind::IdsExhausted, "provisional"))
    }
    pub async fn open_group(self: &Rc<Self>, _new: NewGroup) -> Result<OpenGroup> {
        Err(Error::new(Kind::Full, "provisional"))
    }
    pub fn read(&self, _group: GroupId, _offset: u32, _len: u32) -> Completion<Result<Bytes>> {
        Completion::Ready(Err(Error::new(Kind::NotFound, "provisional")))
    }
    pub fn knows(&self, _group: GroupId) -> bool {
        false
    }
    pub fn slab_of(&self, _group: GroupId) -> Option<SlabId> {
        None
    }
    pub async fn data_end(&self, _group: GroupId) -> Result<u32> {
        Ok(0)
    }
    pub fn sync(&self, _slabs: &[SlabId]) -> LocalFuture<Result<()>> {
        Box::pin(async { Ok(()) })
    }
    pub fn free(&self, _group: GroupId) -> LocalFuture<Result<()>> {
        Box::pin(async { Ok(()) })
    }
    pub fn punch(&self, _group: GroupId, _offset: u32, _len: u32) -> LocalFuture<Result<()>> {
        Box::pin(async { Ok(()) })
    }
    pub fn release(&self, _group: GroupId, _offset: u32, _len: u32) {}
    pub fn usage(&self) -> Usage {
        Usage::default()
    }
    pub async fn refresh_usage(&self) -> Result<()> {
        Ok(())
    }
    pub async fn replenish(&self) -> Result<()> {
        Ok(())
    }
    pub async fn close(&self) -> Result<()> {
        Ok(())
    }
}
