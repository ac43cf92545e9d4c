//! What comes of a run's snapshots: clones, and vDisks that go back to one.

use super::client::Shared;
use super::snapshots::{any, ids, is_busy, note, refused};
use crate::engine::Node;
use crate::oracle::catalog::Attributes;
use crate::oracle::history::History;
use crate::oracle::history::past::Past;
use crate::rng::Rng;
use block::{Kind, Result};
use std::collections::BTreeMap;
use std::rc::Rc;

/// vDisks that clones may add to those of the profile.
const CLONES_MAX: usize = 4;

pub async fn clone(model: &Shared, node: &Rc<dyn Node>, rng: &mut Rng) {
    let Some(number) = any(model, rng) else { return };
    let (vdisk, id) = ids(model, number);
    let clones = begin_clones(model, number, rng.between(1, 3), rng);
    if clones.is_empty() {
        return;
    }
    let names = {
        let mut model = model.borrow_mut();
        model.snapshots[number].users += 1;
        model.clones.push(clones.iter().map(|(slot, _)| *slot).collect());
        clones.iter().map(|(_, name)| name.clone()).collect()
    };
    for (slot, _) in &clones {
        note(model, "clone", *slot, [number as u64, 0, 0]);
    }
    let result = node.clone_snapshot(vdisk, id, names).await;
    model.borrow_mut().snapshots[number].users -= 1;
    match result {
        Ok(ids) => {
            let slots = clones.iter().map(|(slot, _)| *slot);
            cloned(model, node, &slots.zip(ids).collect::<Vec<_>>()).await;
        }
        Err(error) => {
            // Births may be in the logs all the same, and if the store is lost before the next start, nothing says that they
            // are to go.
            refused(model, "cloning", number, &error, true);
        }
    }
}

fn begin_clones(model: &Shared, number: usize, count: u64, rng: &mut Rng) -> Vec<(usize, String)> {
    let mut clones = Vec::new();
    let room = {
        let model = model.borrow();
        (model.profile.vdisks_max + CLONES_MAX).saturating_sub(model.live().len())
    };
    for _ in 0..count.min(room as u64) {
        let Some(name) = super::verbs::free_name(model, rng) else { continue };
        let mut model = model.borrow_mut();
        let image = model.snapshots[number].image.clone().expect("it was acknowledged or found");
        let slot = model.add_slot();
        let keeps_past = model.can_corrupt();
        let mut history = History::of_image(&image);
        history.keeps_past = keeps_past;
        model.slots[slot].history = history;
        model.slots[slot].origin = Some(number);
        model.slots[slot].past = Past::of_size(image.size_bytes);
        let (size_bytes, notes) = (image.size_bytes, BTreeMap::new());
        model.entries[slot].begin(Some(Attributes { name: name.clone(), size_bytes, read_only: false, notes }));
        model.slots[slot].is_busy = true;
        clones.push((slot, name));
    }
    clones
}

async fn cloned(model: &Shared, node: &Rc<dyn Node>, clones: &[(usize, u64)]) {
    {
        let mut model = model.borrow_mut();
        model.clones.retain(|slots| slots[0] != clones[0].0);
        for (slot, id) in clones {
            model.entries[*slot].succeed();
            model.entries[*slot].id = Some(*id);
            model.slots[*slot].is_busy = false;
        }
    }
    for (slot, id) in clones {
        let opened = node.device(*id).await;
        let mut model = model.borrow_mut();
        match opened {
            Ok(device) => model.slots[*slot].device = Some(device),
            Err(error) => model.fail(format!("no device for the clone just made: {error}")),
        }
    }
}

pub async fn roll_back(model: &Shared, node: &Rc<dyn Node>, rng: &mut Rng) {
    let Some(number) = any(model, rng) else { return };
    let (vdisk, id) = ids(model, number);
    let slot = {
        let mut model = model.borrow_mut();
        let index = model.snapshots[number].slot;
        if !model.settled().contains(&index) || model.slots[index].cutting > 0 {
            return;
        }
        model.snapshots[number].users += 1;
        let slot = &mut model.slots[index];
        (slot.is_busy, slot.is_held, slot.verbs) = (true, true, slot.verbs + 1);
        index
    };
    until_quiet(model, slot).await;
    note(model, "roll back", slot, [number as u64, 0, 0]);
    {
        let mut model = model.borrow_mut();
        let image = model.snapshots[number].image.clone().expect("it was acknowledged or found");
        let mut history = model.slots[slot].history.clone();
        history.become_image(&image);
        model.slots[slot].rollback = Some((history, number));
        let now = model.tick();
        model.slots[slot].past.rollback_begun = Some(now);
    }
    let result = node.rollback(vdisk, id).await;
    note(model, "rolled back", slot, [number as u64, u64::from(result.is_ok()), 0]);
    rolled_back(model, number, slot, &result);
    if let Err(error) = result {
        refused(model, "rollback", number, &error, true);
    }
}

async fn until_quiet(model: &Shared, slot: usize) {
    let quiet = model.borrow().slots[slot].quiet.clone();
    while model.borrow().slots[slot].in_flight > 0 {
        quiet.notified().await;
    }
}

fn rolled_back(model: &Shared, number: usize, slot: usize, result: &Result<()>) {
    let mut model = model.borrow_mut();
    let now = model.tick();
    let model = &mut *model;
    let snapshot = &mut model.snapshots[number];
    snapshot.users -= 1;
    let slot = &mut model.slots[slot];
    slot.is_busy = false;
    match result {
        Ok(()) => {
            let (history, origin) = slot.rollback.take().expect("it was begun");
            let before = std::mem::replace(&mut slot.history, history);
            (slot.origin, slot.is_held) = (Some(origin), false);
            slot.past.rolled_back(before, now);
        }
        Err(error) if error.kind == Kind::Full || is_busy(result) && !snapshot.is_there() => {
            (slot.rollback, slot.is_held, slot.past.rollback_begun) = (None, false, None);
        }
        // In doubt until the next start: no I/O.
        Err(_) => {}
    }
}
