//! Reads back everything after a start and asks the oracle whether it may be so.

mod snapshots;

use super::client::{Shared, bytes_of};
use super::model::Slot;
use crate::engine::{Node, VdiskInfo};
use crate::oracle::catalog::check_list;
use crate::oracle::history::Time;
use crate::oracle::history::recovered::{Floor, Observed};
use crate::oracle::pattern::{SECTOR, decode};
use crate::rng::Rng;
use block::{BlockDevice, Kind, Request};
use std::collections::BTreeSet;
use std::rc::Rc;

/// vDisks up to this size are read whole; of larger ones what was touched, and some of the rest.
const WHOLE_BYTES_MAX: u64 = 2 << 20;
/// Sectors that one read of the audit asks for.
const UNIT_SECTORS: u64 = 64;

pub async fn run(model: Shared, node: Rc<dyn Node>, floor: Floor, seed: u64) -> Result<(), String> {
    let list = node.list().await.map_err(|error| format!("the list of vDisks failed: {error}"))?;
    let is_damaged = model.borrow().disk.damage().corruptions > 0;
    check_list(&mut model.borrow_mut().entries, &list, is_damaged)?;
    node.check();
    snapshots::check_clones(&model, is_damaged)?;
    snapshots::run(&model, &node, &list).await?;
    let count = model.borrow().slots.len();
    let mut to_look_at = Vec::new();
    for index in 0..count {
        let Some(info) = listed(&model, index, &list) else { continue };
        let device = match node.device(info.id).await {
            Ok(device) => device,
            // With one copy of everything rot can take the last way into a log. Then nothing is served, and the list says so.
            Err(error) if is_damaged && info.damaged && error.kind == block::Kind::Corrupt => continue,
            Err(error) => return Err(format!("no device for {info:?}: {error}")),
        };
        let floor = floor.max(floor_of(&model, &info));
        check_geometry(&model, &info, &*device)?;
        let (tag, units) = {
            let model = model.borrow();
            let history = &model.slots[index].history;
            (history.tag, units(history.touched(), info.size_bytes, Rng::new(seed, index as u64)))
        };
        let observed = read_all(&model, tag, info.size_bytes, units, &*device)
            .await
            .map_err(|what| format!("{info:?}: {what}"))?;
        let model = &mut *model.borrow_mut();
        let (now, crashed) = (model.tick(), model.crashed);
        let slot = &mut model.slots[index];
        slot.is_damaged = info.damaged;
        slot.is_busy = false;
        slot.was_switched = false;
        slot.is_closing = false;
        slot.is_held = false;
        snapshots::narrow(slot, &model.snapshots);
        check_content(slot, floor, (crashed, now), &observed).map_err(|what| format!("{info:?}: {what}"))?;
        slot.past.settle_size(now, info.size_bytes);
        to_look_at.push((index, info.id));
        slot.device = Some(device);
    }
    for (index, id) in to_look_at {
        super::rewind::audit(&model, &node, index, id).await.map_err(|what| format!("v{}: {what}", index + 1))?;
    }
    Ok(())
}

fn listed(model: &Shared, index: usize, list: &[VdiskInfo]) -> Option<VdiskInfo> {
    let id = model.borrow().entries[index].id?;
    list.iter().find(|info| info.id == id).cloned()
}

/// One damaged place may hide what the last flush covered; more of them, or damage that is reported, may hide more.
fn floor_of(model: &Shared, info: &VdiskInfo) -> Floor {
    match model.borrow().disk.damage().corruptions {
        0 => Floor::Acknowledged,
        1 if !info.damaged => Floor::FlushedBefore,
        _ => Floor::Nothing,
    }
}

fn check_geometry(model: &Shared, info: &VdiskInfo, device: &dyn BlockDevice) -> Result<(), String> {
    let geometry = device.geometry();
    let damage = model.borrow().disk.damage();
    let read_only_is_fine = geometry.read_only == info.read_only || geometry.read_only && info.damaged;
    if geometry.size_bytes != info.size_bytes || !read_only_is_fine {
        return Err(format!("listed as {info:?}, served as {geometry:?}"));
    }
    if info.damaged && damage.corruptions == 0 && damage.errors == 0 {
        return Err(format!("{info:?} is called damaged, but nothing was done to the disk"));
    }
    Ok(())
}

/// A rollback that was cut off has taken effect, or it has not. `crashed`: when the era ended that ends here, if one did.
fn check_content(
    slot: &mut Slot,
    floor: Floor,
    (crashed, now): (Option<Time>, Time),
    observed: &Observed,
) -> Result<(), String> {
    let before = slot.history.clone();
    let as_it_was = slot.history.check_recovered(floor, now, observed);
    let Some((mut history, _)) = slot.rollback.take().filter(|_| as_it_was.is_err()) else {
        let ended = slot.past.rollback_begun.into_iter().chain(crashed).min().unwrap_or(now);
        slot.past.crashed(before, slot.history.survived(), ended, now);
        return as_it_was;
    };
    match history.check_recovered(floor, now, observed) {
        Ok(()) => {
            slot.past.rolled_back(before, now);
            slot.history = history;
        }
        Err(what) => return Err(format!("neither as before the rollback nor as behind it: {what}")),
    }
    Ok(())
}

/// Units worth reading, by their first sector.
fn units(touched: impl Iterator<Item = u64>, size: u64, mut rng: Rng) -> BTreeSet<u64> {
    let sectors = size / SECTOR;
    if size <= WHOLE_BYTES_MAX {
        return (0..sectors).step_by(UNIT_SECTORS as usize).collect();
    }
    let mut units: BTreeSet<u64> = touched.map(|sector| sector / UNIT_SECTORS * UNIT_SECTORS).collect();
    units.extend((0..8).map(|_| rng.below(sectors) / UNIT_SECTORS * UNIT_SECTORS));
    units
}

/// `tag`: what its sectors are marked with.
async fn read_all(
    model: &Shared,
    tag: u64,
    size: u64,
    units: BTreeSet<u64>,
    device: &dyn BlockDevice,
) -> Result<Observed, String> {
    let mut observed = Observed::new();
    for first in units {
        let end = (first + UNIT_SECTORS).min(size / SECTOR);
        read_range(model, tag, device, first, end, &mut observed).await?;
    }
    Ok(observed)
}

/// A range that fails with a medium error is read again sector by sector, to lose no more than is lost.
async fn read_range(
    model: &Shared,
    tag: u64,
    device: &dyn BlockDevice,
    first: u64,
    end: u64,
    observed: &mut Observed,
) -> Result<(), String> {
    let step = end - first;
    let mut ranges = vec![(first, step)];
    while let Some((start, len)) = ranges.pop() {
        let request = Request::Read { offset: start * SECTOR, len: (len * SECTOR) as u32 };
        match device.submit(request).await {
            Ok(reply) => {
                let bytes = bytes_of(reply, len * SECTOR)?;
                for (sector, bytes) in (start..).zip(bytes.chunks(SECTOR as usize)) {
                    let value = decode(tag, sector, bytes)
                        .map_err(|foreign| format!("sector {sector}, marked with {tag}: {foreign:?}"))?;
                    observed.insert(sector, Some(value));
                }
            }
            Err(error) if error.kind == Kind::Corrupt && model.borrow().disk.damage().corruptions > 0 => {
                if len == 1 {
                    observed.insert(start, None);
                } else {
                    ranges.extend((start..start + len).map(|sector| (sector, 1)));
                }
            }
            Err(error) => {
                return Err(format!("the audit cannot read {len} sectors at {start}: {:?}, {error}", error.kind));
            }
        }
    }
    Ok(())
}
