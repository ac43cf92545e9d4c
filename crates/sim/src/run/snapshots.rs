//! Snapshots of a run: taken, read, deleted; each tells the oracle what it may change.

use super::client::{Shared, bytes_of};
use super::model::Snapshot;
use crate::engine::Node;
use crate::oracle::history::{SharedCut, Time};
use crate::oracle::pattern::SECTOR;
use crate::oracle::snapshots::{Entry, Presence};
use crate::rng::{Chance, Rng};
use block::{Allocation, BlockDevice, Error, Kind, Reply, Request, Result};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;

/// Of one read, when all is read.
const READ_SECTORS: u64 = 64;
/// Of one vDisk.
const SNAPSHOTS_MAX: usize = 5;

pub async fn step(model: &Shared, node: &Rc<dyn Node>, live: &[usize], step: u64, rng: &mut Rng) {
    match rng.below(100) {
        0..28 => create(model, node, rng).await,
        28..48 => read(model, node, rng).await,
        48..58 => delete(model, node, rng).await,
        58..68 => super::clones::clone(model, node, rng).await,
        68..76 => super::clones::roll_back(model, node, rng).await,
        76..84 => super::sets::cut(model, node, rng).await,
        84..92 => super::sets::chain(model, live, step, rng).await,
        _ => super::diff::compare(model, node, rng).await,
    }
}

/// The number of a snapshot that can be worked with, on a vDisk that can.
pub fn any(model: &Shared, rng: &mut Rng) -> Option<usize> {
    let model = model.borrow();
    let live = model.live();
    let usable = |(_, snapshot): &(usize, &Snapshot)| snapshot.is_there() && live.contains(&snapshot.slot);
    let usable: Vec<usize> = model.snapshots.iter().enumerate().filter(usable).map(|(number, _)| number).collect();
    rng.pick(&usable).copied()
}

/// As the node names them: the vDisk and the snapshot.
pub fn ids(model: &Shared, number: usize) -> (u64, u64) {
    let model = model.borrow();
    let snapshot = &model.snapshots[number];
    let vdisk = model.entries[snapshot.slot].id.expect("it has a snapshot");
    (vdisk, snapshot.entry.id.expect("it was acknowledged or found"))
}

/// Names are few, so that deleted ones come back.
pub fn free_name(model: &Shared, slots: &[usize], rng: &mut Rng) -> Option<String> {
    let model = model.borrow();
    let name = format!("s{}", rng.below(10));
    let is_left = |snapshot: &&Snapshot| snapshot.entry.presence != Presence::Gone;
    let left = |slot: usize| model.snapshots.iter().filter(is_left).filter(move |snapshot| snapshot.slot == slot);
    let has_room = |slot: &usize| {
        let count = left(*slot).count();
        count < SNAPSHOTS_MAX && !left(*slot).any(|snapshot| snapshot.entry.name == name)
    };
    slots.iter().all(has_room).then_some(name)
}

pub fn note(model: &Shared, what: &'static str, slot: usize, numbers: [u64; 3]) {
    let journal = model.borrow().disk.journal();
    journal.event("client snapshot", &Rc::from(format!("{what} v{}", slot + 1)), numbers);
}

/// A cut that begins now.
pub fn new_cut(model: &Shared) -> SharedCut {
    Rc::new(Cell::new((model.borrow_mut().tick(), Time::MAX)))
}

/// A creation begins; the number of the new snapshot.
pub fn begin(model: &Shared, slot: usize, name: &str, cut: &SharedCut, set: Option<u64>) -> usize {
    let mut model = model.borrow_mut();
    model.slots[slot].cutting += 1;
    model.snapshots.push(Snapshot {
        slot,
        entry: Entry::begin(cut.get().0, name.to_string()),
        cut: cut.clone(),
        image: None,
        set,
        reader: None,
        attached: 0,
        reading: 0,
        users: 0,
    });
    model.snapshots.len() - 1
}

/// A creation was answered.
pub fn answer(model: &Shared, number: usize, result: &Result<u64>) {
    let mut model = model.borrow_mut();
    let now = model.tick();
    let model = &mut *model;
    let snapshot = &mut model.snapshots[number];
    let slot = &mut model.slots[snapshot.slot];
    slot.cutting -= 1;
    let (since, until) = snapshot.cut.get();
    snapshot.cut.set((since, until.min(now)));
    let size = model.entries[snapshot.slot].current().map_or(0, |a| a.size_bytes);
    snapshot.image = Some(slot.history.capture(snapshot.cut.clone(), size));
    match result {
        Ok(id) => {
            snapshot.entry.created(now, *id);
            // Synced, and with it everything that it is behind.
            slot.history.flushed(snapshot.entry.begun, now);
        }
        Err(error) if error.kind == Kind::Full && snapshot.set.is_none() => snapshot.entry.presence = Presence::Gone,
        // In doubt until the next start.
        Err(_) => {}
    }
}

/// Reports an error that nothing excuses.
pub fn refused(model: &Shared, what: &str, number: usize, error: &Error, changes: bool) {
    let mut model = model.borrow_mut();
    let journal = model.disk.journal();
    journal.event("client error", &Rc::from(format!("{what}: {:?} {}", error.kind, error.context)), [0; 3]);
    let snapshot = &model.snapshots[number];
    let is_going = !snapshot.is_there() && matches!(error.kind, Kind::Unavailable | Kind::Invalid);
    // Once it is answered for, whose creation is in doubt.
    let is_going = is_going && snapshot.entry.presence != Presence::Begun;
    if !is_going && !model.excuses(error.kind, snapshot.slot, changes) {
        let entry = &snapshot.entry;
        let what = format!("{what} of {entry:?} was refused without need: {:?}, {error}", error.kind);
        model.fail(what);
    }
}

async fn create(model: &Shared, node: &Rc<dyn Node>, rng: &mut Rng) {
    let settled = model.borrow().settled();
    let Some(slot) = rng.pick(&settled).copied() else { return };
    let Some(name) = free_name(model, &[slot], rng) else { return };
    let id = model.borrow().entries[slot].id.expect("a live vDisk has an id");
    let cut = new_cut(model);
    let number = begin(model, slot, &name, &cut, None);
    note(model, "create", slot, [number as u64, cut.get().0, 0]);
    let result = node.snapshot(id, name).await;
    answer(model, number, &result);
    note(model, "created", slot, [number as u64, u64::from(result.is_ok()), 0]);
    if let Err(error) = result {
        refused(model, "snapshot", number, &error, true);
    }
}

async fn attach(model: &Shared, node: &Rc<dyn Node>, number: usize) -> Option<Rc<dyn BlockDevice>> {
    if let Some(reader) = model.borrow().snapshots[number].reader.clone() {
        return Some(reader);
    }
    let (vdisk, id) = ids(model, number);
    model.borrow_mut().snapshots[number].attached += 1;
    match node.snapshot_device(vdisk, id).await {
        Ok(device) => {
            let size = model.borrow().snapshots[number].image.as_ref().map(|image| image.size_bytes);
            let geometry = device.geometry();
            if !geometry.read_only || Some(geometry.size_bytes) != size {
                model.borrow_mut().fail(format!("a snapshot of {size:?} bytes is served as {geometry:?}"));
            }
            Some(device)
        }
        Err(error) => {
            // It is stored before it is read: on a full disk that is a change.
            refused(model, "reading", number, &error, error.kind == Kind::Full);
            None
        }
    }
}

async fn read(model: &Shared, node: &Rc<dyn Node>, rng: &mut Rng) {
    let kept: Vec<usize> = {
        let model = model.borrow();
        (0..model.snapshots.len()).filter(|number| model.snapshots[*number].reader.is_some()).collect()
    };
    // Those that are kept open even if the snapshot is gone.
    let kept = if rng.chance(Chance::HALF) { rng.pick(&kept).copied() } else { None };
    let Some(number) = kept.or_else(|| any(model, rng)) else { return };
    model.borrow_mut().snapshots[number].reading += 1;
    if let Some(device) = attach(model, node, number).await {
        for _ in 0..rng.between(1, 4) {
            read_some(model, &device, number, rng).await;
        }
        let mut model = model.borrow_mut();
        let snapshot = &mut model.snapshots[number];
        snapshot.reader = if rng.chance(Chance::HALF) && snapshot.is_there() { Some(device) } else { None };
    }
    model.borrow_mut().snapshots[number].reading -= 1;
}

async fn read_some(model: &Shared, device: &Rc<dyn BlockDevice>, number: usize, rng: &mut Rng) {
    let (slot, sectors) = {
        let model = model.borrow();
        let snapshot = &model.snapshots[number];
        let image = snapshot.image.as_ref().expect("it was acknowledged or found");
        (snapshot.slot, image.size_bytes / SECTOR)
    };
    let first = if rng.chance(Chance::HALF) { 0 } else { rng.below(sectors) };
    let count = rng.between(1, 128).min(sectors - first);
    let (offset, len) = (first * SECTOR, count * SECTOR);
    note(model, "read", slot, [number as u64, offset, len]);
    let request = match rng.below(10) {
        0 => Request::Write { offset, data: vec![1; len as usize].into(), fua: false },
        1 => Request::BlockStatus { offset, len, extents_max: 8 },
        _ => Request::Read { offset, len: len as u32 },
    };
    ask(model, device, number, first, request).await;
}

async fn ask(model: &Shared, device: &Rc<dyn BlockDevice>, number: usize, first: u64, request: Request) {
    let len = match &request {
        Request::Read { len, .. } => u64::from(*len),
        Request::Write { data, .. } => data.len() as u64,
        _ => 0,
    };
    let writes = matches!(request, Request::Write { .. });
    let answer = device.submit(request).await;
    let checked = match answer {
        Ok(_) if writes => Err("a write to a snapshot was acknowledged".to_string()),
        Ok(reply) => check_reply(model, number, first, len, reply),
        Err(error) if writes && error.kind == Kind::ReadOnly => Ok(()),
        Err(error) => {
            refused(model, "reading", number, &error, false);
            Ok(())
        }
    };
    if let Err(what) = checked {
        let mut model = model.borrow_mut();
        let what = format!("snapshot {number}, {:?}: {what}", model.snapshots[number].entry);
        model.fail(what);
    }
}

fn check_reply(model: &Shared, number: usize, first: u64, len: u64, reply: Reply) -> std::result::Result<(), String> {
    let mut model = model.borrow_mut();
    let image = model.snapshots[number].image.as_mut().expect("it is being read");
    let Reply::Status(statuses) = reply else {
        return image.check(first, &bytes_of(reply, len)?);
    };
    let mut at = first;
    for status in statuses {
        if status.allocation != Allocation::Data {
            image.check(at, &vec![0; status.len as usize])?;
        }
        at += status.len / SECTOR;
    }
    Ok(())
}

async fn delete(model: &Shared, node: &Rc<dyn Node>, rng: &mut Rng) {
    let Some(number) = any(model, rng) else { return };
    delete_one(model, node, number, rng).await;
}

/// All that may hold something, and what lies between.
pub async fn read_whole(model: &Shared, node: &Rc<dyn Node>, number: usize) {
    if !model.borrow().snapshots[number].is_there() {
        return;
    }
    model.borrow_mut().snapshots[number].reading += 1;
    if let Some(device) = attach(model, node, number).await {
        let (sectors, touched) = {
            let model = model.borrow();
            let image = model.snapshots[number].image.as_ref().expect("it was acknowledged or found");
            (image.size_bytes / SECTOR, image.touched().map(|sector| sector / READ_SECTORS).collect::<BTreeSet<u64>>())
        };
        for first in touched.into_iter().map(|part| part * READ_SECTORS).filter(|first| *first < sectors) {
            let count = READ_SECTORS.min(sectors - first);
            let request = Request::Read { offset: first * SECTOR, len: (count * SECTOR) as u32 };
            ask(model, &device, number, first, request).await;
        }
    }
    model.borrow_mut().snapshots[number].reading -= 1;
}

pub async fn delete_one(model: &Shared, node: &Rc<dyn Node>, number: usize, rng: &mut Rng) {
    if !model.borrow().snapshots[number].is_there() {
        return;
    }
    let (vdisk, id) = ids(model, number);
    let force = rng.chance(Chance::HALF);
    let (slot, kept, attached) = {
        let mut model = model.borrow_mut();
        let snapshot = &mut model.snapshots[number];
        snapshot.entry.presence = Presence::Ending;
        (snapshot.slot, snapshot.reader.clone(), snapshot.attached)
    };
    note(model, "delete", slot, [number as u64, u64::from(force), 0]);
    let result = node.delete_snapshot(vdisk, id, force).await;
    note(model, "deleted", slot, [number as u64, u64::from(result.is_ok()), 0]);
    let busy = {
        let mut model = model.borrow_mut();
        let snapshot = &mut model.snapshots[number];
        let was_read = kept.is_some() || snapshot.reading > 0 || snapshot.attached != attached;
        let busy = is_busy(&result) && (was_read && !force || snapshot.users > 0);
        let same = |reader: &Rc<dyn BlockDevice>| kept.as_ref().is_some_and(|kept| Rc::ptr_eq(kept, reader));
        let under_reader = !force && result.is_ok() && snapshot.reader.as_ref().is_some_and(same);
        let full = result.as_ref().is_err_and(|error| error.kind == Kind::Full);
        match &result {
            Ok(()) => snapshot.entry.presence = Presence::Gone,
            Err(_) if busy || full => snapshot.entry.presence = Presence::There,
            Err(_) => {}
        }
        if under_reader {
            model.fail(format!("snapshot {number} was deleted under somebody who reads it"));
        }
        busy
    };
    if let Err(error) = result
        && !busy
    {
        let mut model = model.borrow_mut();
        if !model.excuses(error.kind, slot, true) {
            model.fail(format!("deletion of snapshot {number} was refused: {:?}, {error}", error.kind));
        }
    }
}

pub fn is_busy<T>(result: &Result<T>) -> bool {
    result.as_ref().is_err_and(|error| error.kind == Kind::Unavailable && error.context.starts_with("Busy"))
}
