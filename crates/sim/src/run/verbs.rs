//! Control verbs of a run: create, delete, rename, resize, read-only; each tells the catalog what it may change.

use super::client::Shared;
use crate::engine::Node;
use crate::oracle::catalog::{Attributes, State};
use crate::oracle::history::past::Past;
use crate::rng::{Chance, Rng};
use block::{Kind, Result};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;

/// Names are few, so that deleted ones come back.
pub fn free_name(model: &Shared, rng: &mut Rng) -> Option<String> {
    let model = model.borrow();
    let name = format!("vm-{}", rng.below(12));
    let taken = model.entries.iter().any(|entry| entry.may_have_name(&name));
    (!taken).then_some(name)
}

fn size_bytes(model: &Shared, rng: &mut Rng) -> u64 {
    let max = model.borrow().profile.vdisk_bytes_max;
    (4096 * rng.between(1, max / 4096)).max(16 << 10)
}

pub async fn create(model: &Shared, node: &Rc<dyn Node>, rng: &mut Rng) {
    let (Some(name), size_bytes) = (free_name(model, rng), size_bytes(model, rng)) else { return };
    let index = model.borrow_mut().add_slot();
    note(model, "create", index, size_bytes);
    model.borrow_mut().slots[index].is_busy = true;
    model.borrow_mut().entries[index].begin(Some(Attributes {
        name: name.clone(),
        size_bytes,
        read_only: false,
        notes: BTreeMap::new(),
    }));
    // Known from the start: a creation that a crash cuts off may have come about.
    model.borrow_mut().slots[index].past = Past::of_size(size_bytes);
    let created = node.create(name, size_bytes).await;
    let Some(id) = settle(model, index, "create", created) else { return };
    model.borrow_mut().entries[index].id = Some(id);
    let opened = node.device(id).await;
    let mut model = model.borrow_mut();
    match opened {
        Ok(device) => model.slots[index].device = Some(device),
        Err(error) => model.fail(format!("no device for the vDisk just created: {error}")),
    }
}

pub async fn step(model: &Shared, node: &Rc<dyn Node>, live: &[usize], rng: &mut Rng) {
    let index = *rng.pick(live).expect("the caller saw one");
    let kind = rng.below(13);
    let vdisks_max = model.borrow().profile.vdisks_max;
    if kind < 3 && live.len() < vdisks_max {
        return create(model, node, rng).await;
    }
    let (id, now) = {
        let model = model.borrow();
        let entry = &model.entries[index];
        let (Some(id), Some(now)) = (entry.id, entry.current()) else { return };
        if model.slots[index].is_busy || !entry.is_settled() {
            return;
        }
        (id, now.clone())
    };
    match kind {
        0..3 if live.len() > 1 && rng.chance(Chance::HALF) => {
            model.borrow_mut().slots[index].is_closing = true;
            verb(model, index, "delete", None, node.delete(id)).await;
        }
        0..5 => {
            let Some(name) = free_name(model, rng) else { return };
            let state = Some(Attributes { name: name.clone(), ..now });
            verb(model, index, "rename", state, node.rename(id, name)).await;
        }
        // The size of a snapshot under way would be in doubt.
        5..8 if model.borrow().slots[index].cutting > 0 => {}
        5..8 => {
            let size_bytes = now.size_bytes + 4096 * rng.between(1, 64);
            verb(model, index, "resize", Some(Attributes { size_bytes, ..now }), node.resize(id, size_bytes)).await;
        }
        10.. => {
            let note = rng.between(1, 2) as u8;
            let bytes: Bytes = vec![rng.below(256) as u8; rng.below(3000) as usize * rng.below(2) as usize].into();
            let mut notes = now.notes.clone();
            match bytes.is_empty() {
                true => drop(notes.remove(&note)),
                false => drop(notes.insert(note, bytes.clone())),
            }
            verb(model, index, "set note", Some(Attributes { notes, ..now }), node.set_note(id, note, bytes)).await;
        }
        _ => {
            let read_only = !now.read_only;
            model.borrow_mut().slots[index].was_switched = true;
            let state = Some(Attributes { read_only, ..now });
            verb(model, index, "set read-only", state, node.set_read_only(id, read_only)).await;
        }
    }
}

async fn verb(model: &Shared, index: usize, what: &'static str, state: State, done: impl Future<Output = Result<()>>) {
    let size = state.as_ref().map_or(0, |state| state.size_bytes);
    note(model, what, index, size);
    {
        let mut model = model.borrow_mut();
        model.entries[index].begin(state);
        let slot = &mut model.slots[index];
        slot.is_busy = true;
        slot.verbs += 1;
        if what == "resize" {
            let now = model.tick();
            model.slots[index].past.resize_begins(now, size);
        }
    }
    let result = done.await;
    if what == "resize" {
        let mut model = model.borrow_mut();
        let now = model.tick();
        let past = &mut model.slots[index].past;
        match &result {
            Ok(()) => past.resize_ends(Some(now)),
            Err(error) if error.kind == Kind::Full => past.resize_ends(None),
            // In doubt.
            Err(_) => {}
        }
    }
    settle(model, index, what, result);
}

fn note(model: &Shared, what: &'static str, index: usize, size: u64) {
    let journal = model.borrow().disk.journal();
    journal.event("client verb", &Rc::from(format!("{what} v{}", index + 1)), [size, 0, 0]);
}

/// Books the answer of a verb. One that failed leaves both states possible until the next restart, unless the error
/// says that nothing was done.
fn settle<T>(model: &Shared, index: usize, what: &str, result: Result<T>) -> Option<T> {
    let mut model = model.borrow_mut();
    let excused = match &result {
        Ok(_) => true,
        Err(error) => model.excuses(error.kind, index, true),
    };
    model.slots[index].is_busy = false;
    match result {
        Ok(value) => {
            model.entries[index].succeed();
            return Some(value);
        }
        Err(error) if !excused => model.fail(format!("{what} was refused without need: {:?}, {error}", error.kind)),
        Err(error) if error.kind == Kind::Full => {
            model.entries[index].refuse();
            model.slots[index].is_closing = false;
        }
        // In doubt: no further verb on it, and no I/O if it may be gone.
        Err(_) => {}
    }
    None
}
