//! Keys, built so that one prefix lists one kind, in order of numbers.

use base::{ContainerId, SnapshotId, VdiskId, VmId};
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
/// Prefix of all [`crate::VmRecord`]s.
pub const VMS: &[u8] = b"vm/";
/// Prefix of all [`crate::SetRecord`]s.
pub const SETS: &[u8] = b"set/";
/// Prefix of all [`crate::PlanRecord`]s.
pub const PLANS: &[u8] = b"plan/";
/// Prefix of all [`crate::RollbackRecord`]s.
pub const ROLLBACKS: &[u8] = b"rollback/";
/// Prefix of all [`crate::ScheduleRecord`]s.
pub const SCHEDULES: &[u8] = b"schedule/";
/// Prefix of all [`crate::ContainerRecord`]s.
pub const CONTAINERS: &[u8] = b"container/";
/// Prefix of all [`crate::MemberRecord`]s.
pub const MEMBERS: &[u8] = b"member/";
/// Prefix of all [`crate::BirthsRecord`]s.
pub const BIRTHS: &[u8] = b"births/";
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

pub fn vm(id: VmId) -> Bytes {
    format!("vm/{:012x}", id.raw()).into_bytes().into()
}

pub fn set(id: SnapshotId) -> Bytes {
    format!("set/{:012x}", id.raw()).into_bytes().into()
}

/// Of the VM that is being made.
pub fn plan(id: VmId) -> Bytes {
    format!("plan/{:012x}", id.raw()).into_bytes().into()
}

/// Of the VM that is being rolled back.
pub fn rollback(id: VmId) -> Bytes {
    format!("rollback/{:012x}", id.raw()).into_bytes().into()
}

pub fn schedule(name: &str) -> Bytes {
    format!("schedule/{name}").into_bytes().into()
}

pub fn container(id: ContainerId) -> Bytes {
    format!("container/{:012x}", id.raw()).into_bytes().into()
}

pub fn member(id: VdiskId) -> Bytes {
    format!("member/{:012x}", id.raw()).into_bytes().into()
}

/// Of clones of which this is the first.
pub fn births(first: VdiskId) -> Bytes {
    format!("births/{:012x}", first.raw()).into_bytes().into()
}

/// Holds the key that [`vdisk`] makes of the id.
pub fn name(name: &str) -> Bytes {
    format!("name/{name}").into_bytes().into()
}
