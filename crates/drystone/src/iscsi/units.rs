//! The logical units of a worker: one for each vDisk, and for each snapshot that is used, shared by all its sessions, so that reservations, task sets and
//! unit attentions are common to all paths.

use super::seam::{FoundUnit, Unit, Units};
use block::{BlockDevice, Geometry, Kind, Lent, Reply, Request};
use scsi::{LogicalUnit, Visit};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use tokio::sync::Mutex;
use world::Completion;

#[derive(Default)]
struct Slot {
    /// Held while the unit is made, so that it is made once.
    making: Mutex<()>,
    unit: RefCell<Weak<LogicalUnit>>,
    /// Set while something of the unit has to outlive its sessions: persistent registrations.
    kept: RefCell<Option<Rc<LogicalUnit>>>,
}

thread_local! {
    static HERE: RefCell<BTreeMap<u64, Rc<Slot>>> = const { RefCell::new(BTreeMap::new()) };
}

/// The size of the vDisk, or whether it can be written, is another one now: initiators are told. On the vDisk's worker.
pub fn geometry_may_have_changed(key: u64) {
    if let Some(unit) = here(key) {
        unit.geometry_may_have_changed();
    }
}

/// Its logical unit writes to it, and goes on when nobody is logged in any more. On the vDisk's worker.
pub fn is_sanitizing(key: u64) -> bool {
    here(key).is_some_and(|unit| unit.is_sanitizing())
}

fn here(key: u64) -> Option<Rc<LogicalUnit>> {
    HERE.with_borrow(|slots| slots.get(&key).and_then(|slot| slot.unit.borrow().upgrade()))
}

/// Goes on with what the logical unit of a vDisk has to do though nobody uses it: it is kept until that has ended. On the
/// worker of the vDisk.
pub async fn wake(key: u64, device: Rc<dyn BlockDevice>, units: &dyn Units) -> block::Result<()> {
    used(key, key, None, device, units).await.map(drop)
}

/// This vDisk for a copy that another one's unit carries out for this initiator port. On the worker of this one.
pub async fn visit(
    key: u64,
    device: Rc<dyn BlockDevice>,
    units: &dyn Units,
    initiator_port: &str,
) -> block::Result<Rc<dyn BlockDevice>> {
    let used = used(key, key, None, device, units).await?;
    Ok(Rc::new(Visited { visit: used.unit.visit(initiator_port), _used: used }))
}

struct Visited {
    visit: Visit,
    /// Dropped after the visit.
    _used: Used,
}

impl BlockDevice for Visited {
    fn geometry(&self) -> Geometry {
        self.visit.geometry()
    }
    fn submit(&self, request: Request) -> Completion<block::Result<Reply>> {
        self.visit.submit(request)
    }
    fn lend(&self, offset: u64, len: u32) -> Completion<block::Result<Lent>> {
        self.visit.lend(offset, len)
    }
    fn take(&self, offset: u64, lent: Lent) -> Completion<block::Result<()>> {
        self.visit.take(offset, lent)
    }
}

/// A session's use of a logical unit.
pub(super) struct Used {
    pub unit: Rc<LogicalUnit>,
    slot: Rc<Slot>,
}

impl Drop for Used {
    fn drop(&mut self) {
        let kept = (!self.unit.is_as_new()).then(|| self.unit.clone());
        *self.slot.kept.borrow_mut() = kept;
    }
}

/// The logical unit of this vDisk, or of this snapshot, on this worker. To be dropped after the paths to it.
pub(super) async fn unit(found: &FoundUnit, device: Rc<dyn BlockDevice>, units: &dyn Units) -> block::Result<Used> {
    used(found.unit_key(), found.found.key, found.found.snapshot, device, units).await
}

async fn used(
    unit_key: u64,
    key: u64,
    snapshot: Option<u64>,
    device: Rc<dyn BlockDevice>,
    units: &dyn Units,
) -> block::Result<Used> {
    let slot = HERE.with_borrow_mut(|slots| {
        // There are never more slots than units that have sessions, or have something that outlives them.
        let used = |slot: &Rc<Slot>| Rc::strong_count(slot) > 1;
        slots.retain(|other, slot| used(slot) || slot.kept.borrow().is_some() && units.exists(*other));
        slots.entry(unit_key).or_default().clone()
    });
    let making = slot.making.lock().await;
    let there = slot.unit.borrow().upgrade();
    let unit = match there {
        Some(unit) => unit,
        None => {
            let Unit { identity, host, saved } = units.unit(key, snapshot).await?;
            // To serve without what was saved would let a node write that has been fenced.
            let unit = LogicalUnit::new(device, identity, host, &saved)
                .map_err(|error| block::Error::new(Kind::Corrupt, error.to_string()))?;
            *slot.unit.borrow_mut() = Rc::downgrade(&unit);
            unit
        }
    };
    drop(making);
    Ok(Used { unit, slot })
}
