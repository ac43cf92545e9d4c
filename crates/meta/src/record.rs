//! Typed records and their keys.

use crate::Result;
use base::{DiskId, Epoch, GroupId, Sequence, VdiskId};
use bytes::Bytes;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    pub node: u16,
    pub shards: u16,
    /// Of the data directory as a whole.
    pub format: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardRecord {
    pub disk: DiskId,
    pub generation: u64,
    pub clean: bool,
}

/// Where the newest known checkpoint frame stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointHint {
    pub group: GroupId,
    pub offset: u32,
    pub len: u32,
    pub sequence: Sequence,
}

/// Where the log ended when the record was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TailHint {
    pub group: GroupId,
    pub len: u32,
    pub sequence: Sequence,
    pub chain: u32,
    pub clean: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VdiskRecord {
    pub id: VdiskId,
    pub name: String,
    pub size_bytes: u64,
    pub sector_bytes: u32,
    pub read_only: bool,
    pub created_wall_ns: u64,
    pub shard: u16,
    pub epoch: Epoch,
    pub checkpoint: Option<CheckpointHint>,
    pub tail: Option<TailHint>,
    pub deleted: bool,
}

macro_rules! provisional {
    ($($t:ty),*) => {$(impl $t {
        pub fn encode(&self) -> Bytes { Bytes::new() }
        pub fn decode(_bytes: &[u8]) -> Result<Self> { Err(crate::Error::new(crate::Kind::Corrupt, "provisional")) }
    })*};
}
provisional!(NodeRecord, ShardRecord, VdiskRecord);

pub mod keys {
    //! Keys, so built that one prefix lists one kind.
    use base::VdiskId;
    use bytes::Bytes;
    pub const NODE: &[u8] = b"node";
    pub const SHARDS: &[u8] = b"shard/";
    pub const VDISKS: &[u8] = b"vdisk/";
    pub fn shard(shard: u16) -> Bytes {
        format!("shard/{shard:04x}").into_bytes().into()
    }
    pub fn vdisk(id: VdiskId) -> Bytes {
        format!("vdisk/{:012x}", id.raw()).into_bytes().into()
    }
}
