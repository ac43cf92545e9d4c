//! What a comparison of two sides of a vDisk must report, and what it may.

use super::client::Shared;
use super::snapshots::{note, refused};
use crate::engine::{Changed, Node, Side};
use crate::oracle::history::{SECTORS_PER_BLOCK, Time};
use crate::oracle::pattern::{SECTOR, Value};
use crate::rng::Rng;
use block::Kind;
use std::collections::BTreeSet;
use std::rc::Rc;

/// A side as the oracle knows it, by the number of the snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Known {
    Empty,
    Snapshot(usize),
    Now,
}

pub async fn compare(model: &Shared, node: &Rc<dyn Node>, rng: &mut Rng) {
    let live = model.borrow().live();
    let Some(slot) = rng.pick(&live).copied() else { return };
    let (id, from, to) = {
        let model = model.borrow();
        let is_usable = |number: &usize| model.snapshots[*number].slot == slot && model.snapshots[*number].is_there();
        let mut sides = vec![Known::Empty];
        sides.extend((0..model.snapshots.len()).filter(is_usable).map(Known::Snapshot));
        sides.push(Known::Now);
        let from = rng.below(sides.len() as u64 - 1) as usize;
        let to = rng.between(from as u64, sides.len() as u64 - 1) as usize;
        (model.entries[slot].id.expect("it is live"), sides[from], sides[to])
    };
    let side = |known| match known {
        Known::Empty => Side::Empty,
        Known::Now => Side::Now,
        Known::Snapshot(number) => Side::Snapshot(super::snapshots::ids(model, number).1),
    };
    note(model, "compare", slot, [0; 3]);
    let since = model.borrow_mut().tick();
    // No rollback comes between.
    model.borrow_mut().slots[slot].in_flight += 1;
    let compared = node.changed(id, side(from), side(to)).await;
    model.borrow_mut().slots[slot].request_ends();
    match compared {
        Ok(ranges) => {
            let checked = check(model, slot, since, (from, to), &ranges);
            if let Err(what) = checked {
                let mut model = model.borrow_mut();
                model.fail(format!("v{} from {from:?} to {to:?}: {what}", slot + 1));
            }
        }
        Err(error) => {
            let closing = model.borrow().slots[slot].is_closing;
            let changes = error.kind == Kind::Full || error.kind == Kind::ReadOnly && !closing;
            match (from, to) {
                (Known::Snapshot(number), _) | (_, Known::Snapshot(number)) => {
                    // Either of two may have gone.
                    let is_there =
                        |known| !matches!(known, Known::Snapshot(other) if !model.borrow().snapshots[other].is_there());
                    if is_there(from) && is_there(to) {
                        // What is compared is stored first: on a full disk, or one that is damaged, that is a change.
                        refused(model, "a comparison", number, &error, changes);
                    }
                }
                _ => {
                    let mut model = model.borrow_mut();
                    if !model.excuses(error.kind, slot, changes) {
                        model.fail(format!("a comparison was refused without need: {:?}, {error}", error.kind));
                    }
                }
            }
        }
    }
}

fn check(model: &Shared, slot: usize, since: Time, sides: (Known, Known), ranges: &[Changed]) -> Result<(), String> {
    let model = model.borrow();
    let history = &model.slots[slot].history;
    let image = |number: usize| model.snapshots[number].image.as_ref().expect("it was acknowledged or found");
    let values = |known, sector| match known {
        Known::Empty => BTreeSet::from([Value::Zero]),
        Known::Snapshot(number) => image(number).values(sector),
        Known::Now => history.values(sector, since),
    };
    let mut touched: BTreeSet<u64> = history.touched().collect();
    for known in [sides.0, sides.1] {
        if let Known::Snapshot(number) = known {
            touched.extend(image(number).touched());
        }
    }
    if sides.0 == sides.1 && !ranges.is_empty() {
        return Err(format!("nothing differs from itself: {ranges:?}"));
    }
    check_form(ranges)?;
    let block = |sector: &u64| sector / SECTORS_PER_BLOCK;
    let is_in = |range: &Changed, sector: u64| (range.offset..range.offset + range.len).contains(&(sector * SECTOR));
    for sector in &touched {
        let (old, new) = (values(sides.0, *sector), values(sides.1, *sector));
        match ranges.iter().find(|range| is_in(range, *sector)) {
            None if old.is_disjoint(&new) => {
                return Err(format!("sector {sector} was {old:?} and is {new:?}, which is not reported"));
            }
            Some(range) if !range.data && !new.contains(&Value::Zero) => {
                return Err(format!("sector {sector} is {new:?}, but {range:?} says that it reads as zeros"));
            }
            _ => {}
        }
    }
    let touched: BTreeSet<u64> = touched.iter().map(block).collect();
    let blocks = ranges.iter().flat_map(|range| range.offset / BLOCK..(range.offset + range.len) / BLOCK);
    match blocks.into_iter().find(|block| !touched.contains(block)) {
        Some(block) => Err(format!("block {block} is reported, but nobody ever wrote it")),
        None => Ok(()),
    }
}

const BLOCK: u64 = base::units::BLOCK;

/// Whole blocks, in order, none twice.
fn check_form(ranges: &[Changed]) -> Result<(), String> {
    let mut end = 0;
    for range in ranges {
        if range.offset < end || range.len == 0 || range.offset % BLOCK != 0 || range.len % BLOCK != 0 {
            return Err(format!("{range:?} behind {end} is no part of a comparison: {ranges:?}"));
        }
        end = range.offset + range.len;
    }
    Ok(())
}
