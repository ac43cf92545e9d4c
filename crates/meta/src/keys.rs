//! Keys, built so that one prefix lists one kind, in order of numbers.

use base::VdiskId;
use bytes::Bytes;

/// The one [`crate::NodeRecord`].
pub const NODE: &[u8] = b"node";
/// Prefix of all [`crate::ShardRecord`]s.
pub const SHARDS: &[u8] = b"shard/";
/// Prefix of all [`crate::VdiskRecord`]s.
pub const VDISKS: &[u8] = b"vdisk/";
/// Prefix of all [`crate::NoteRecord`]s.
pub const NOTES: &[u8] = b"note/";
/// Prefix of all [`crate::InitiatorGroupRecord`]s.
pub const INITIATOR_GROUPS: &[u8] = b"initiators/";
/// Prefix of the index from names to ids, which keeps names unique: create a vDisk with a compare for `None`.
pub const NAMES: &[u8] = b"name/";

pub fn shard(shard: u16) -> Bytes {
    format!("shard/{shard:04x}").into_bytes().into()
}

pub fn vdisk(id: VdiskId) -> Bytes {
    format!("vdisk/{:012x}", id.raw()).into_bytes().into()
}

pub fn note(id: VdiskId, kind: u8) -> Bytes {
    format!("note/{:012x}/{kind:02x}", id.raw()).into_bytes().into()
}

pub fn initiator_group(name: &str) -> Bytes {
    format!("initiators/{name}").into_bytes().into()
}

/// Holds the key that [`vdisk`] makes of the id.
pub fn name(name: &str) -> Bytes {
    format!("name/{name}").into_bytes().into()
}
