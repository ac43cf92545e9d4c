//! Whole pools on a disk in memory.

mod append;
pub(crate) mod disk;
mod history;
mod space;
mod start;

use crate::*;
use base::{DiskId, GroupId, Sequence, VdiskId};
use bytes::Bytes;
use disk::{Handle, MemDisk, Turns};
use std::rc::Rc;
use world::Disk;

const SIZE: u32 = 64 << 10;

/// A disk, and whatever runs on it.
struct Bench {
    disk: Rc<MemDisk>,
    turns: Rc<Turns>,
    config: PoolConfig,
}

fn identity() -> Identity {
    let domains = FaultDomains { disk: "d".into(), node: "n".into(), rack: "r".into(), site: "s".into() };
    Identity { disk: DiskId(0x1122_3344_5566_7788), node: 7, shard: 3, pool: "p".into(), tier: "ssd".into(), domains }
}

fn small() -> PoolConfig {
    PoolConfig {
        group_size: SIZE,
        slots_per_slab_max: 4,
        recycled_bytes_max: 2 * u64::from(SIZE),
        recycled_percent_busy: 0,
        ballast_bytes: 256 << 10,
        capacity_bytes: None,
    }
}

impl Bench {
    fn new(config: PoolConfig) -> Bench {
        let bench = Bench { disk: MemDisk::new(), turns: Turns::new(), config };
        bench.format().expect("an empty disk");
        bench
    }
    fn handle(&self) -> Rc<dyn Disk> {
        Rc::new(Handle(self.disk.clone()))
    }
    fn format(&self) -> Result<()> {
        self.turns.run(Pool::format(&self.turns.world(), &self.handle(), &self.config, &identity()))
    }
    fn try_open(&self) -> Result<Opened> {
        self.turns.run(Pool::open(self.turns.world(), self.handle(), self.config.clone()))
    }
    fn open(&self) -> Opened {
        self.try_open().expect("a good disk")
    }
    fn pool(&self) -> Rc<Pool> {
        self.open().pool
    }
    fn group(&self, pool: &Rc<Pool>) -> OpenGroup {
        self.turns.run(pool.open_group(new_group())).expect("room")
    }
    fn append(&self, group: &mut OpenGroup, offset: u32, bytes: &[u8]) -> Result<()> {
        self.turns.run(group.append(offset, &[Bytes::copy_from_slice(bytes)], bytes.len() as u32))
    }
    /// At the tail, content by place.
    fn fill(&self, group: &mut OpenGroup, len: u32) {
        let at = group.tail();
        let bytes = content(group.id(), at, len);
        self.append(group, at, &bytes).expect("room");
    }
    fn read(&self, pool: &Pool, group: GroupId, offset: u32, len: u32) -> Result<Bytes> {
        self.turns.run(pool.read(group, offset, len))
    }
    fn sync(&self, pool: &Pool, group: GroupId) -> Result<()> {
        self.turns.run(pool.sync(&[group]))
    }
    fn free(&self, pool: &Pool, group: GroupId) {
        self.turns.run(pool.free(group)).expect("the disk works");
    }
}

/// Where it lies.
fn slab(group: &OpenGroup) -> SlabId {
    group.group.slab.id
}

fn new_group() -> NewGroup {
    NewGroup {
        vdisk: VdiskId::new(7, 9),
        first_sequence: Sequence(1),
        durable_through: Sequence(0),
        predecessor: None,
        purpose: Purpose::Normal,
    }
}

/// What a group holds at a place: no two places alike.
fn content(group: GroupId, offset: u32, len: u32) -> Vec<u8> {
    let byte = |place: u32| {
        let x = (group.raw() ^ u64::from(place)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (x >> 40) as u8 | 1
    };
    (offset..offset + len).map(byte).collect()
}

fn kind<T>(result: Result<T>) -> Kind {
    result.err().expect("an error").kind
}
