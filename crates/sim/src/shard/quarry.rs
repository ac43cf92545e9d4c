//! Part of what clients write comes as a copy: it is written to a vDisk that the workload does not know, and taken over from
//! there. What the clients see is the same, so that everything that is checked of writes is checked of copies.
//!
//! The quarry changes all the time, and goes now and then with all that was copied from it.

use super::to_block;
use base::VdiskId;
use base::units::{BLOCK, MIB};
use block::{BlockDevice, Error, Geometry, Kind, Lent, Reply, Request, Result};
use bytes::Bytes;
use node::{BornWith, Shard};
use std::rc::Rc;
use world::local::Semaphore;
use world::{Completion, World};

const NAME: &str = "quarry";
const BYTES: u64 = MIB;
/// One write of so many is a copy.
const COPIES: u64 = 2;
/// One copy of so many is the last from this quarry.
const LAST: u64 = 40;

pub struct Quarry {
    shard: Rc<Shard>,
    world: World,
    /// Nobody else changes what is about to be lent.
    one_at_a_time: Rc<Semaphore>,
}

pub fn is_quarry(record: &meta::VdiskRecord) -> bool {
    record.name == NAME
}

impl Quarry {
    pub fn new(shard: &Rc<Shard>) -> Rc<Quarry> {
        let world = shard.context.world.clone();
        Rc::new(Quarry { shard: shard.clone(), world, one_at_a_time: Semaphore::new(1) })
    }

    pub fn serve(self: &Rc<Self>, device: Rc<dyn BlockDevice>) -> Rc<dyn BlockDevice> {
        Rc::new(Quarried { device, quarry: self.clone() })
    }

    fn rolls(&self, one_of: u64) -> bool {
        self.world.random.next_u64().is_multiple_of(one_of)
    }

    async fn open(&self) -> Result<(VdiskId, Rc<dyn BlockDevice>)> {
        let known = self.shard.records().into_iter().find(is_quarry);
        let id = match known {
            Some(record) => record.id,
            None => self.shard.create(NAME, BYTES, 512, BornWith::default()).await.map_err(to_block)?.id,
        };
        Ok((id, self.shard.attach(id).await.map_err(to_block)?.device))
    }

    /// What is lent is `data`.
    async fn quarried(&self, data: Bytes) -> Result<Lent> {
        let _alone = self.one_at_a_time.acquire(1).await;
        let (id, device) = self.open().await?;
        let (len, blocks) = (data.len() as u64, BYTES / BLOCK);
        let offset = self.world.random.next_u64() % (blocks - len / BLOCK) * BLOCK;
        device.submit(Request::Write { offset, data, fua: false }).await?;
        let lent = device.lend(offset, len as u32).await?;
        if self.rolls(3) {
            let other = Request::Write { offset, data: vec![1; len as usize].into(), fua: self.rolls(2) };
            device.submit(other).await?;
        }
        if self.rolls(LAST) {
            self.shard.delete(id, true).await.map_err(to_block)?;
        }
        Ok(lent)
    }

    /// With the last of the others the quarry goes, too.
    pub async fn deleted(&self) -> node::Result<()> {
        let left = self.shard.records();
        match left.iter().all(is_quarry).then(|| left.first()).flatten() {
            Some(quarry) => self.shard.delete(quarry.id, true).await,
            None => Ok(()),
        }
    }
}

struct Quarried {
    device: Rc<dyn BlockDevice>,
    quarry: Rc<Quarry>,
}

impl BlockDevice for Quarried {
    fn geometry(&self) -> Geometry {
        self.device.geometry()
    }

    fn submit(&self, request: Request) -> Completion<Result<Reply>> {
        let (offset, data, fua) = match &request {
            Request::Write { offset, data, fua }
                if offset % BLOCK == 0
                    && !data.is_empty()
                    && data.len() as u64 % BLOCK == 0
                    && (data.len() as u64) < BYTES
                    && self.quarry.rolls(COPIES) =>
            {
                (*offset, data.clone(), *fua)
            }
            _ => return self.device.submit(request),
        };
        let (device, quarry) = (self.device.clone(), self.quarry.clone());
        Completion::pending(async move {
            // Whatever keeps the quarry from being used is none of the client's business.
            let Ok(lent) = quarry.quarried(data).await else { return device.submit(request).await };
            match device.take(offset, lent).await {
                Err(Error { kind: Kind::Unsupported | Kind::Full, .. }) => return device.submit(request).await,
                taken => taken?,
            }
            if fua { device.submit(Request::Flush).await } else { Ok(Reply::Done) }
        })
    }
}
