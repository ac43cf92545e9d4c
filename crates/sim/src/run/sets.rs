//! Snapshots of several vDisks at one instant, and writes that cause each other on different vDisks.

use super::client::{Shared, write_block};
use super::snapshots::{answer, begin, free_name, new_cut, note, refused};
use crate::engine::Node;
use crate::oracle::snapshots::Presence;
use crate::rng::Rng;
use block::{Error, Kind, Result};
use std::rc::Rc;

/// Steps of a chain of writes.
const CHAIN_MAX: u64 = 12;

/// Some of the vDisks, in any order.
fn some(all: &[usize], count: u64, rng: &mut Rng) -> Vec<usize> {
    let mut left = all.to_vec();
    let count = count.min(left.len() as u64);
    (0..count).map(|_| left.swap_remove(rng.below(left.len() as u64) as usize)).collect()
}

pub async fn cut(model: &Shared, node: &Rc<dyn Node>, rng: &mut Rng) {
    let settled = model.borrow().settled();
    let slots = some(&settled, rng.between(2, 3), rng);
    let Some(name) = free_name(model, &slots, rng).filter(|_| slots.len() > 1) else { return };
    let set = {
        let mut model = model.borrow_mut();
        model.sets += 1;
        model.sets
    };
    let ids: Vec<u64> = slots.iter().map(|slot| model.borrow().entries[*slot].id.expect("it is live")).collect();
    let cut = new_cut(model);
    let numbers: Vec<usize> = slots.iter().map(|slot| begin(model, *slot, &name, &cut, Some(set))).collect();
    for (slot, number) in slots.iter().zip(&numbers) {
        note(model, "set", *slot, [*number as u64, set, cut.get().0]);
    }
    let give_up = rng.below(100);
    let result = match node.pause(name.clone(), ids.clone()).await {
        // They did not come to rest in time.
        Err(error) if error.kind == Kind::Unavailable => return given_up(model, &numbers),
        Err(error) => Err(error),
        Ok(paused) => match give_up {
            // A second later the vDisks go on by themselves.
            0..8 => return given_up(model, &numbers),
            8..20 => {
                node.release(paused);
                return given_up(model, &numbers);
            }
            _ => node.cut(paused, name, ids).await,
        },
    };
    match result {
        Ok(ids) => numbers.iter().zip(ids).for_each(|(number, id)| answer(model, *number, &Ok(id))),
        Err(error) => failed(model, &numbers, &error),
    }
    note(model, "set done", slots[0], [set, 0, 0]);
}

/// Nothing was cut.
fn given_up(model: &Shared, numbers: &[usize]) {
    for number in numbers {
        answer(model, *number, &Err(Error::new(Kind::Unavailable, "given up")));
        model.borrow_mut().snapshots[*number].entry.presence = Presence::Gone;
    }
}

/// All of it or nothing may have come about.
fn failed(model: &Shared, numbers: &[usize], error: &Error) {
    let excused = {
        let model = model.borrow();
        let too_late = error.kind == Kind::Unavailable;
        too_late || numbers.iter().any(|number| model.excuses(error.kind, model.snapshots[*number].slot, true))
    };
    let result: Result<u64> = Err(error.clone());
    numbers.iter().for_each(|number| answer(model, *number, &result));
    if !excused {
        refused(model, "a set", numbers[0], error, true);
    }
}

/// Each write is sent when the one before is acknowledged: no set may have one without those before it.
pub async fn chain(model: &Shared, live: &[usize], step: u64, rng: &mut Rng) {
    let slots = some(live, rng.between(2, 3), rng);
    for turn in 0..rng.between(3, CHAIN_MAX) {
        let slot = slots[turn as usize % slots.len()];
        if model.borrow().failure.is_some() || !model.borrow().live().contains(&slot) {
            return;
        }
        write_block(model, slot, step, rng).await;
    }
}
