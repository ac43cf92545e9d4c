//! vDisks over simulated iSCSI: the production session and device server behind a network that loses connections at any
//! PDU and damages bytes, and an initiator that retries what may be retried and manages tasks.
//!
//! [`OverIscsi`] wraps an engine: its vDisks are block devices again, so that the same clients drive them and the same
//! oracle judges. A change whose connection was lost is answered with an error, after the initiator has logged in again:
//! it took effect or not, but never later. So is one that task management has ended; the engine must not see it any more.

mod device;
mod initiator;
mod network;
mod pdu;
mod tap;
mod target;
#[cfg(test)]
mod tests;
pub mod weather;

use crate::disk::Crash;
use crate::engine::{Changed, Engine, Node, Side, SnapshotInfo, VdiskInfo};
use crate::rng::{Chance, Rng};
use crate::run::profile::Network;
use block::{BlockDevice, Result};
use bytes::Bytes;
use device::Device;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use target::Portal;
use weather::Weather;
use world::{Disk, LocalFuture, World};

/// An engine whose vDisks are reached over iSCSI.
pub struct OverIscsi {
    engine: Rc<dyn Engine>,
    weather: Rc<Weather>,
    seed: u64,
}

impl OverIscsi {
    pub fn new(engine: Rc<dyn Engine>, network: Network, seed: u64) -> Rc<OverIscsi> {
        let mut rng = Rng::new(seed, 0x15c5);
        // Some seeds have a calm network, so that commands meet each other more often.
        let rough = network == Network::Mixed && rng.below(4) != 0;
        let (little, often) = (if rough { Chance(3_000) } else { Chance::NEVER }, Chance(20_000));
        let calm = Weather { twice: Chance(10_000), ahead: Chance::HALF, ..Weather::calm(seed) };
        let weather = match network {
            Network::Mixed => Weather { cut: little, damage: little, manage: often, ..calm },
            Network::Cuts => Weather { cut: often, ..calm },
            Network::Manages => Weather { manage: Chance::percent(12), twice: Chance::percent(10), ..calm },
            Network::Damages => Weather { damage: often, manage: Chance(3_000), ..calm },
        };
        OverIscsi::in_weather(engine, Rc::new(weather), seed)
    }

    pub fn in_weather(engine: Rc<dyn Engine>, weather: Rc<Weather>, seed: u64) -> Rc<OverIscsi> {
        Rc::new(OverIscsi { engine, weather, seed })
    }

    fn wrap(&self, world: World, opening: LocalFuture<Result<Rc<dyn Node>>>) -> LocalFuture<Result<Rc<dyn Node>>> {
        let (weather, seed) = (self.weather.clone(), self.seed);
        Box::pin(async move {
            let node = opening.await?;
            let wrapped: Rc<dyn Node> = Rc::new(Reached { node, world, weather, seed, portals: RefCell::default() });
            Ok(wrapped)
        })
    }
}

impl Engine for OverIscsi {
    fn open(&self, world: World, disk: Rc<dyn Disk>) -> LocalFuture<Result<Rc<dyn Node>>> {
        self.wrap(world.clone(), self.engine.open(world, disk))
    }
    fn crash(&self, crash: Crash, rng: &mut Rng) {
        self.engine.crash(crash, rng);
    }
    fn lose_metadata(&self) -> bool {
        self.engine.lose_metadata()
    }
    fn recover(&self, world: World, disk: Rc<dyn Disk>) -> LocalFuture<Result<Rc<dyn Node>>> {
        self.wrap(world.clone(), self.engine.recover(world, disk))
    }
}

/// A running node behind the network.
struct Reached {
    node: Rc<dyn Node>,
    world: World,
    weather: Rc<Weather>,
    seed: u64,
    /// By vDisk: all paths to it lead to one logical unit.
    portals: RefCell<BTreeMap<u64, Rc<Portal>>>,
}

impl Node for Reached {
    fn list(&self) -> LocalFuture<Result<Vec<VdiskInfo>>> {
        self.node.list()
    }
    fn create(&self, name: String, size_bytes: u64) -> LocalFuture<Result<u64>> {
        self.node.create(name, size_bytes)
    }
    fn device(&self, id: u64) -> LocalFuture<Result<Rc<dyn BlockDevice>>> {
        let direct = self.node.device(id);
        let (world, weather, seed) = (self.world.clone(), self.weather.clone(), self.seed);
        let known = self.portals.borrow().get(&id).cloned();
        let portals = &self.portals;
        let portal = known.unwrap_or_else(|| {
            let portal = Portal::new(world.clone(), weather.clone());
            portals.borrow_mut().insert(id, portal.clone());
            portal
        });
        Box::pin(async move {
            let device = direct.await?;
            portal.serve(device.clone(), id);
            let reached: Rc<dyn BlockDevice> = Device::connect(world, portal, device, seed ^ id);
            Ok(reached)
        })
    }
    fn rename(&self, id: u64, name: String) -> LocalFuture<Result<()>> {
        self.node.rename(id, name)
    }
    fn resize(&self, id: u64, size_bytes: u64) -> LocalFuture<Result<()>> {
        self.node.resize(id, size_bytes)
    }
    fn set_read_only(&self, id: u64, read_only: bool) -> LocalFuture<Result<()>> {
        self.node.set_read_only(id, read_only)
    }
    fn set_note(&self, id: u64, kind: u8, bytes: Bytes) -> LocalFuture<Result<()>> {
        self.node.set_note(id, kind, bytes)
    }
    fn delete(&self, id: u64) -> LocalFuture<Result<()>> {
        self.node.delete(id)
    }
    fn snapshots(&self, id: u64) -> LocalFuture<Result<Vec<SnapshotInfo>>> {
        self.node.snapshots(id)
    }
    fn snapshot(&self, id: u64, name: String) -> LocalFuture<Result<u64>> {
        self.node.snapshot(id, name)
    }
    fn delete_snapshot(&self, id: u64, snapshot: u64, force: bool) -> LocalFuture<Result<()>> {
        self.node.delete_snapshot(id, snapshot, force)
    }
    /// Directly: it is for the engine that snapshots are read here.
    fn snapshot_device(&self, id: u64, snapshot: u64) -> LocalFuture<Result<Rc<dyn BlockDevice>>> {
        self.node.snapshot_device(id, snapshot)
    }
    fn clone_snapshot(&self, id: u64, snapshot: u64, names: Vec<String>) -> LocalFuture<Result<Vec<u64>>> {
        self.node.clone_snapshot(id, snapshot, names)
    }
    fn rollback(&self, id: u64, snapshot: u64) -> LocalFuture<Result<()>> {
        self.node.rollback(id, snapshot)
    }
    fn changed(&self, id: u64, from: Side, to: Side) -> LocalFuture<Result<Vec<Changed>>> {
        self.node.changed(id, from, to)
    }
    fn pause(&self, name: String, ids: Vec<u64>) -> LocalFuture<Result<u64>> {
        self.node.pause(name, ids)
    }
    fn cut(&self, set: u64, name: String, ids: Vec<u64>) -> LocalFuture<Result<Vec<u64>>> {
        self.node.cut(set, name, ids)
    }
    fn release(&self, set: u64) {
        self.node.release(set);
    }
    fn groups_used(&self) -> u64 {
        self.node.groups_used()
    }
    fn shutdown(&self) -> LocalFuture<Result<()>> {
        self.node.shutdown()
    }
    fn check(&self) {
        self.node.check();
    }
}
