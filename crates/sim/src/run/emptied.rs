//! The end of a run: everything is deleted in any order, and nothing may be left of it.

use super::client::Shared;
use super::snapshots::ids;
use crate::engine::Node;
use crate::oracle::snapshots::Presence;
use crate::rng::Rng;
use std::collections::BTreeSet;
use std::rc::Rc;

/// A vDisk takes its snapshots with it, unless they went before.
pub async fn delete_everything(model: Shared, node: Rc<dyn Node>, mut rng: Rng) -> Result<(), String> {
    let mut left: BTreeSet<(usize, Option<usize>)> = {
        let model = model.borrow();
        let vdisks = (0..model.slots.len()).filter(|slot| model.entries[*slot].current().is_some());
        let there = model.snapshots.iter().enumerate().filter(|(_, snapshot)| snapshot.is_there());
        vdisks.map(|slot| (slot, None)).chain(there.map(|(number, snapshot)| (snapshot.slot, Some(number)))).collect()
    };
    while !left.is_empty() {
        let next = left.iter().copied().nth(rng.below(left.len() as u64) as usize).expect("it is not empty");
        left.remove(&next);
        let (slot, number) = next;
        let deleted = match number {
            Some(number) => {
                let (vdisk, id) = ids(&model, number);
                model.borrow_mut().snapshots[number].entry.presence = Presence::Gone;
                node.delete_snapshot(vdisk, id, false).await
            }
            None => {
                // Its snapshots go with it.
                left.retain(|(other, _)| *other != slot);
                let id = {
                    let mut model = model.borrow_mut();
                    model.slots[slot].device = None;
                    model.entries[slot].begin(None);
                    model.entries[slot].succeed();
                    model.entries[slot].id.expect("it is there")
                };
                node.delete(id).await
            }
        };
        deleted.map_err(|error| format!("deleting {next:?}: {:?}, {error}", error.kind))?;
    }
    Ok(())
}
