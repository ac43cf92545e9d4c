//! The logical units of a worker: one for each vDisk, shared by all its sessions, so that reservations, task sets and
//! unit attentions are common to all paths.

use super::seam::{Unit, Units};
use block::{BlockDevice, Kind};
use scsi::{LogicalUnit, Target};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use tokio::sync::Mutex;

#[derive(Default)]
struct Slot {
    /// Held while the unit is made, so that it is made once.
    making: Mutex<()>,
    unit: RefCell<Weak<LogicalUnit>>,
}

thread_local! {
    static HERE: RefCell<BTreeMap<u64, Rc<Slot>>> = const { RefCell::new(BTreeMap::new()) };
}

/// The target of this vDisk on this worker, with the vDisk as LUN 0. To be dropped with the session.
pub(super) async fn target(key: u64, device: Rc<dyn BlockDevice>, units: &dyn Units) -> block::Result<Rc<Target>> {
    let slot = HERE.with_borrow_mut(|slots| {
        // Nobody holds what is gone; there are never more slots than vDisks with sessions.
        slots
            .retain(|other, slot| *other == key || Rc::strong_count(slot) > 1 || slot.unit.borrow().strong_count() > 0);
        slots.entry(key).or_default().clone()
    });
    let _making = slot.making.lock().await;
    let there = slot.unit.borrow().upgrade();
    let unit = match there {
        Some(unit) => unit,
        None => {
            let Unit { identity, host, saved } = units.unit(key).await?;
            // To serve without what was saved would let a node write that has been fenced.
            let unit = LogicalUnit::new(device, identity, host, &saved)
                .map_err(|error| block::Error::new(Kind::Corrupt, error.to_string()))?;
            *slot.unit.borrow_mut() = Rc::downgrade(&unit);
            unit
        }
    };
    Ok(Target::new(BTreeMap::from([(0, unit)])))
}
