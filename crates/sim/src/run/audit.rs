//! Reads back everything after a start and asks the oracle whether it may be so.

use super::client::{Shared, bytes_of};
use crate::engine::{Node, VdiskInfo};
use crate::oracle::catalog::check_list;
use crate::oracle::history::{Floor, Observed};
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
    let count = model.borrow().slots.len();
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
        let observed = read_all(&model, index, &info, &*device, Rng::new(seed, index as u64)).await?;
        let model = &mut *model.borrow_mut();
        let now = model.tick();
        let slot = &mut model.slots[index];
        slot.is_damaged = info.damaged;
        slot.is_busy = false;
        slot.was_switched = false;
        slot.is_closing = false;
        slot.history.check_recovered(floor, now, &observed).map_err(|what| format!("{info:?}: {what}"))?;
        slot.device = Some(device);
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

/// Units worth reading, by their first sector.
fn units(model: &Shared, index: usize, size: u64, rng: &mut Rng) -> BTreeSet<u64> {
    let sectors = size / SECTOR;
    if size <= WHOLE_BYTES_MAX {
        return (0..sectors).step_by(UNIT_SECTORS as usize).collect();
    }
    let mut units: BTreeSet<u64> =
        model.borrow().slots[index].history.touched().map(|s| s / UNIT_SECTORS * UNIT_SECTORS).collect();
    units.extend((0..8).map(|_| rng.below(sectors) / UNIT_SECTORS * UNIT_SECTORS));
    units
}

async fn read_all(
    model: &Shared,
    index: usize,
    info: &VdiskInfo,
    device: &dyn BlockDevice,
    mut rng: Rng,
) -> Result<Observed, String> {
    let mut observed = Observed::new();
    for first in units(model, index, info.size_bytes, &mut rng) {
        let end = (first + UNIT_SECTORS).min(info.size_bytes / SECTOR);
        read_range(model, index, device, first, end, &mut observed).await?;
    }
    Ok(observed)
}

/// A range that fails with a medium error is read again sector by sector, to lose no more than is lost.
async fn read_range(
    model: &Shared,
    index: usize,
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
                let model = model.borrow();
                let history = &model.slots[index].history;
                for (sector, bytes) in (start..).zip(bytes.chunks(SECTOR as usize)) {
                    let value =
                        decode(history.tag, sector, bytes).map_err(|foreign| history.foreign(sector, foreign))?;
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
