//! After a start: which snapshots are there, what they hold, and what came of clones and sets that were cut off.

use super::{listed, read_all, units};
use crate::engine::{Node, VdiskInfo};
use crate::oracle::pattern::Value;
use crate::oracle::snapshots::{Presence, check_list};
use crate::rng::Rng;
use crate::run::client::Shared;
use crate::run::model::{Slot, Snapshot};
use block::Kind;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Clones of one verb that was cut off are all there or none is. What they have in common is on record only: if that is
/// lost at the same time, those that were born are there.
pub fn check_clones(model: &Shared, is_damaged: bool) -> Result<(), String> {
    let mut model = model.borrow_mut();
    for slots in std::mem::take(&mut model.clones) {
        let there = slots.iter().filter(|slot| model.entries[**slot].current().is_some()).count();
        if there != 0 && there != slots.len() && !is_damaged && !model.was_rebuilt {
            let names: Vec<_> = slots.iter().map(|slot| model.entries[*slot].current()).collect();
            return Err(format!("of clones made together only some are there: {names:?}"));
        }
    }
    Ok(())
}

/// The vDisk's content came from a snapshot, of which more is known by now.
pub fn narrow(slot: &mut Slot, snapshots: &[Snapshot]) {
    let image = |number: usize| snapshots[number].image.as_ref().expect("something came of it");
    if let Some(origin) = slot.origin.take() {
        slot.history.narrow(image(origin));
    }
    if let Some((history, origin)) = &mut slot.rollback {
        history.narrow(image(*origin));
    }
}

pub async fn run(model: &Shared, node: &Rc<dyn Node>, list: &[VdiskInfo]) -> Result<(), String> {
    let doubtful = doubtful_sets(model, list);
    let count = model.borrow().slots.len();
    for slot in 0..count {
        match listed(model, slot, list) {
            Some(info) => check_vdisk(model, node, slot, &info).await.map_err(|what| format!("{info:?}: {what}"))?,
            None => {
                let mut model = model.borrow_mut();
                let of_it = model.snapshots.iter_mut().filter(|snapshot| snapshot.slot == slot);
                of_it.for_each(|snapshot| snapshot.entry.presence = Presence::Gone);
            }
        }
    }
    let is_damaged = model.borrow().disk.damage().corruptions > 0;
    let is_split = |numbers: &&Vec<usize>| {
        let model = model.borrow();
        let there = numbers.iter().filter(|number| model.snapshots[**number].is_there()).count();
        there != 0 && there != numbers.len() && !is_damaged
    };
    match doubtful.values().find(is_split) {
        Some(numbers) => {
            let model = model.borrow();
            let entries: Vec<_> = numbers.iter().map(|number| &model.snapshots[*number].entry).collect();
            Err(format!("of a set that was cut off only some are there: {entries:?}"))
        }
        None => Ok(()),
    }
}

/// Members, on vDisks that are there, of sets of which nobody knows whether they are.
fn doubtful_sets(model: &Shared, list: &[VdiskInfo]) -> BTreeMap<u64, Vec<usize>> {
    let mut sets: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (number, snapshot) in model.borrow().snapshots.iter().enumerate() {
        if let Some(set) = snapshot.set
            && snapshot.entry.presence == Presence::Begun
            && listed(model, snapshot.slot, list).is_some()
        {
            sets.entry(set).or_default().push(number);
        }
    }
    sets
}

async fn check_vdisk(model: &Shared, node: &Rc<dyn Node>, slot: usize, info: &VdiskInfo) -> Result<(), String> {
    let is_damaged = model.borrow().disk.damage().corruptions > 0;
    let found = match node.snapshots(info.id).await {
        Ok(found) => found,
        // Nothing is served of it, and the list of vDisks says so.
        Err(_) if is_damaged && info.damaged => return Ok(()),
        Err(error) => return Err(format!("the list of snapshots failed: {error}")),
    };
    let there: Vec<usize> = {
        let mut model = model.borrow_mut();
        let of_it = model.snapshots.iter_mut().filter(|snapshot| snapshot.slot == slot);
        let mut entries: Vec<_> = of_it.map(|snapshot| &mut snapshot.entry).collect();
        check_list(&mut entries, &found, is_damaged)?;
        let is_there = |number: &usize| model.snapshots[*number].slot == slot && model.snapshots[*number].is_there();
        (0..model.snapshots.len()).filter(is_there).collect()
    };
    for number in there {
        check_content(model, node, number).await.map_err(|what| format!("snapshot {number}: {what}"))?;
    }
    Ok(())
}

async fn check_content(model: &Shared, node: &Rc<dyn Node>, number: usize) -> Result<(), String> {
    let (vdisk, id) = crate::run::snapshots::ids(model, number);
    let is_damaged = model.borrow().disk.damage().corruptions > 0;
    let device = match node.snapshot_device(vdisk, id).await {
        Ok(device) => device,
        Err(error) if is_damaged && error.kind == Kind::Corrupt => return Ok(()),
        // It is stored before it is read.
        Err(error) if error.kind == Kind::Full && model.borrow().is_tight => return Ok(()),
        Err(error) => return Err(format!("it is listed, but cannot be read: {:?}, {error}", error.kind)),
    };
    let (tag, size, units) = {
        let model = model.borrow();
        let image = model.snapshots[number].image.as_ref().expect("it was answered or cut off");
        (image.tag, image.size_bytes, units(image.touched(), image.size_bytes, Rng::new(model.seed, number as u64)))
    };
    let geometry = device.geometry();
    if geometry.size_bytes != size || !geometry.read_only {
        return Err(format!("{size} bytes were cut, served is {geometry:?}"));
    }
    let observed = read_all(model, tag, size, units, &*device).await?;
    let values: BTreeMap<u64, Value> =
        observed.into_iter().filter_map(|(sector, value)| value.map(|value| (sector, value))).collect();
    let mut model = model.borrow_mut();
    let snapshot = &mut model.snapshots[number];
    let image = snapshot.image.as_mut().expect("seen above");
    image.check_values(&values)?;
    let (slot, witnessed) = (snapshot.slot, image.certain_until());
    let history = &mut model.slots[slot].history;
    history.witnessed_until = history.witnessed_until.max(witnessed);
    Ok(())
}
