//! One client of a run: takes steps, sends requests, tells the oracle what it sent and what it got.

use super::model::Model;
use crate::engine::Node;
use crate::oracle::history::{Outcome, RequestId, Time};
use crate::oracle::pattern::{SECTOR, Value, request_bytes};
use crate::rng::{Chance, Rng};
use block::{Allocation, BlockDevice, Error, Kind, Reply, Request, Status, WriteZeroes};
use bytes::{Bytes, BytesMut};
use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

pub type Shared = Rc<RefCell<Model>>;

/// Takes steps until the round's are used up or something has failed.
pub async fn run(model: Shared, node: Rc<dyn Node>) {
    loop {
        let step = {
            let mut model = model.borrow_mut();
            if model.steps >= model.steps_end || model.failure.is_some() {
                return;
            }
            model.steps += 1;
            model.steps
        };
        // Each step has chance of its own, so that a run of fewer steps is a prefix of a longer one.
        let mut rng = Rng::new(model.borrow().seed, 0x57e9_0000 + step);
        let (verbs, snapshots, rewinds, live) = {
            let model = model.borrow();
            (model.profile.verbs, model.profile.snapshots, model.profile.rewinds, model.live())
        };
        match rng.pick(&live) {
            None => super::verbs::create(&model, &node, &mut rng).await,
            Some(_) if verbs && rng.chance(Chance::percent(4)) => {
                super::verbs::step(&model, &node, &live, &mut rng).await
            }
            Some(_) if rng.chance(snapshots) => super::snapshots::step(&model, &node, &live, step, &mut rng).await,
            Some(_) if rng.chance(rewinds) => super::rewind::step(&model, &node, &mut rng).await,
            Some(index) => request(&model, *index, step, &mut rng).await,
        }
        model.borrow_mut().under_way.remove(&step);
        node.check();
    }
}

/// Sectors of one request: some at the front (hot), some in order, some anywhere, aligned or not.
fn place(model: &mut Model, index: usize, rng: &mut Rng) -> Range<u64> {
    let size = model.entries[index].current().expect("a live vDisk has attributes").size_bytes / SECTOR;
    let blocks_max = (model.profile.request_bytes_max / 4096).max(1);
    let len = match rng.below(10) {
        0..4 => 8,
        4..7 => rng.between(1, 24),
        7..9 => 8 * rng.between(1, 8.min(blocks_max)),
        _ => 8 * rng.between(1, blocks_max),
    };
    let len = len.min(size);
    let start = match rng.below(10) {
        0..4 => rng.below((size / 8).max(1)),
        4..6 => model.slots[index].next_sector,
        _ => rng.below(size),
    };
    let start = if rng.chance(Chance::percent(70)) { start / 8 * 8 } else { start };
    let start = start.min(size - len);
    model.slots[index].next_sector = (start + len) % size;
    start..start + len
}

async fn request(model: &Shared, index: usize, step: u64, rng: &mut Rng) {
    let (device, sectors) = {
        let mut model = model.borrow_mut();
        let device = model.slots[index].device.clone().expect("a live vDisk has a device");
        (device, place(&mut model, index, rng))
    };
    let (offset, len) = (sectors.start * SECTOR, (sectors.end - sectors.start) * SECTOR);
    let kind = rng.below(100);
    let fua = rng.chance(Chance::percent(8));
    let client = Client::begin_request(model, device, index, step);
    match kind {
        0..45 => client.write(sectors, fua).await,
        45..64 => drop(client.read(sectors, Request::Read { offset, len: len as u32 }).await),
        64..68 => client.compare_and_write(rng).await,
        68..70 => client.rewrite(sectors).await,
        70..78 => client.flush().await,
        78..85 => {
            // Ragged edges of a trim keep their content.
            let whole = sectors.start.next_multiple_of(8)..sectors.end / 8 * 8;
            let whole = if whole.is_empty() { 0..0 } else { whole };
            client.change(whole, Value::Zero, fua, Request::Trim { offset, len, fua }).await;
        }
        85..91 => {
            let how = if rng.chance(Chance::HALF) { WriteZeroes::Unmap } else { WriteZeroes::KeepAllocated };
            client.change(sectors, Value::Zero, fua, Request::WriteZeroes { offset, len, how, fua }).await;
        }
        91..96 => {
            let extents_max = rng.between(1, 8) as u32;
            client.status(offset, len, extents_max).await;
        }
        96..98 => client.prefetch(offset, len).await,
        _ => client.nonsense(rng).await,
    }
    client.end();
}

struct Client<'a> {
    model: &'a Shared,
    device: Rc<dyn BlockDevice>,
    index: usize,
    step: u64,
}

/// Writes one block somewhere at the front, where others write too.
pub async fn write_block(model: &Shared, index: usize, step: u64, rng: &mut Rng) {
    let (device, size) = {
        let model = model.borrow();
        let device = model.slots[index].device.clone().expect("a live vDisk has a device");
        (device, model.entries[index].current().expect("a live vDisk has attributes").size_bytes)
    };
    let first = 8 * rng.below(16.min(size / 4096));
    let client = Client::begin_request(model, device, index, step);
    client.write(first..first + 8, rng.chance(Chance::percent(20))).await;
    client.end();
}

impl<'a> Client<'a> {
    fn begin_request(model: &'a Shared, device: Rc<dyn BlockDevice>, index: usize, step: u64) -> Client<'a> {
        model.borrow_mut().slots[index].in_flight += 1;
        Client { model, device, index, step }
    }

    /// Everything that was sent is answered.
    fn end(&self) {
        self.model.borrow_mut().slots[self.index].request_ends();
    }

    async fn write(&self, sectors: Range<u64>, fua: bool) {
        let write = self.model.borrow_mut().fresh_write();
        let tag = self.model.borrow().slots[self.index].history.tag;
        let (offset, count) = (sectors.start * SECTOR, sectors.end - sectors.start);
        let data = request_bytes(tag, sectors.start, count, write);
        self.change(sectors, Value::Data(write), fua, Request::Write { offset, data, fua }).await;
    }

    fn begin(&self, what: &'static str, offset: u64, len: u64) -> Time {
        let mut model = self.model.borrow_mut();
        let text = format!("{what} of {len} bytes at {offset} on vDisk tag {}", self.index + 1);
        let journal = model.disk.journal();
        journal.event("client", &Rc::from(format!("{what} v{}", self.index + 1)), [offset, len, self.step]);
        model.under_way.insert(self.step, text);
        model.tick()
    }

    /// Reports an error that nothing excuses.
    fn refused(&self, error: &Error, changes: bool) {
        let mut model = self.model.borrow_mut();
        let journal = model.disk.journal();
        journal.event("client error", &Rc::from(format!("{:?} {}", error.kind, error.context)), [0, 0, self.step]);
        if !model.excuses(error.kind, self.index, changes) {
            let what = model.under_way.get(&self.step).cloned().unwrap_or_default();
            model.fail(format!("{what} was refused without need: {:?}, {error}", error.kind));
        }
    }

    async fn change(&self, sectors: Range<u64>, value: Value, fua: bool, request: Request) {
        let what = match (&request, fua) {
            (Request::Write { .. }, false) => "write",
            (Request::Write { .. }, true) => "write fua",
            (Request::Trim { .. }, _) => "trim",
            _ => "zero",
        };
        let whole = matches!(request, Request::Write { .. }) && self.is_whole(&sectors);
        let now = self.begin(what, sectors.start * SECTOR, (sectors.end - sectors.start) * SECTOR);
        let (id, verbs, read_only): (RequestId, u64, bool) = {
            let mut model = self.model.borrow_mut();
            let entry = &model.entries[self.index];
            let read_only = entry.is_settled() && entry.current().is_some_and(|a| a.read_only);
            let slot = &mut model.slots[self.index];
            // FUA is a promise about the request's own bytes: where there are none, it promises nothing.
            let id = slot.history.submit(now, sectors.clone(), value, fua && !sectors.is_empty());
            if whole {
                slot.history.keep_whole(id);
            }
            (id, slot.verbs, read_only)
        };
        let result = self.device.submit(request).await;
        {
            let mut model = self.model.borrow_mut();
            let (now, wall_ns) = (model.tick(), model.executor.wall_ns());
            let outcome = if result.is_ok() { Outcome::Acknowledged } else { Outcome::Unknown };
            let slot = &mut model.slots[self.index];
            slot.history.answer(now, id, outcome);
            if outcome == Outcome::Acknowledged {
                slot.windows.changed(wall_ns);
            }
            if read_only && result.is_ok() && slot.verbs == verbs && !sectors.is_empty() {
                model.fail(format!("a {what} to a read-only vDisk was acknowledged"));
            }
        }
        match result {
            Ok(Reply::Done) => {}
            Ok(other) => self.model.borrow_mut().fail(format!("a {what} was answered with {other:?}")),
            Err(error) => {
                self.refused(&error, true);
                let is_there = {
                    let model = self.model.borrow();
                    model.profile.over_iscsi.is_some() && !model.slots[self.index].is_closing
                };
                if is_there && error.kind == Kind::Unavailable && self.step.is_multiple_of(2) {
                    // It took effect or not, and what is seen now stays.
                    let (offset, len) = (sectors.start * SECTOR, ((sectors.end - sectors.start) * SECTOR) as u32);
                    self.read(sectors, Request::Read { offset, len }).await;
                }
            }
        }
    }

    /// What was read, if it was and may be so.
    async fn read(&self, sectors: Range<u64>, request: Request) -> Option<Bytes> {
        let len = (sectors.end - sectors.start) * SECTOR;
        let submitted = self.begin("read", sectors.start * SECTOR, len);
        match self.device.submit(request).await {
            Ok(reply) => {
                let mut model = self.model.borrow_mut();
                let now = model.tick();
                let history = &mut model.slots[self.index].history;
                let checked = bytes_of(reply, len).and_then(|bytes| {
                    history.check_read(submitted, now, sectors.start, &bytes)?;
                    Ok(bytes.freeze())
                });
                let fail = |what| model.fail(format!("read of {len} bytes at sector {}: {what}", sectors.start));
                checked.map_err(fail).ok()
            }
            Err(error) => {
                self.refused(&error, false);
                None
            }
        }
    }

    /// Whole blocks, few enough to be written all or nothing.
    fn is_whole(&self, sectors: &Range<u64>) -> bool {
        let max = u64::from(self.device.geometry().atomic_bytes_max) / SECTOR;
        sectors.start % 8 == 0 && sectors.end % 8 == 0 && sectors.end - sectors.start <= max
    }

    /// Replaces what it has just read, unless somebody else comes first; mostly where others do the same.
    async fn compare_and_write(&self, rng: &mut Rng) {
        let geometry = self.device.geometry();
        let size = geometry.size_bytes / SECTOR;
        let few =
            if rng.chance(Chance::HALF) { 1 } else { rng.between(1, u64::from(geometry.atomic_bytes_max) / SECTOR) };
        let len = few.min(size);
        let start = if rng.chance(Chance::percent(70)) { rng.below(12) } else { rng.below(size) };
        let start = start.min(size - len);
        let fua = rng.chance(Chance::percent(8));
        let (offset, len) = (start * SECTOR, len * SECTOR);
        let since = self.model.borrow_mut().tick();
        let Some(expected) = self.read(start..start + len / SECTOR, Request::Read { offset, len: len as u32 }).await
        else {
            return;
        };
        let now = self.begin("compare and write", offset, len);
        let (id, data) = {
            let mut model = self.model.borrow_mut();
            let write = model.fresh_write();
            let history = &mut model.slots[self.index].history;
            let id = history.submit(now, start..start + len / SECTOR, Value::Data(write), fua);
            history.keep_whole(id);
            (id, request_bytes(history.tag, start, len / SECTOR, write))
        };
        let request = Request::CompareAndWrite { offset, expected: expected.clone(), data, fua };
        let result = self.device.submit(request).await;
        let mut model = self.model.borrow_mut();
        let now = model.tick();
        let history = &mut model.slots[self.index].history;
        let wrong = match &result {
            Ok(Reply::Done) => history.replaced(id, now, &expected).err(),
            Ok(other) => Some(format!("a compare and write was answered with {other:?}")),
            Err(error) if error.kind == Kind::Miscompare => {
                let inside = error.at.is_some_and(|at| (offset..offset + len).contains(&at));
                let excused = inside && history.may_have_changed(id, since);
                (!excused).then(|| format!("what was just read at {offset} is not there any more: {error:?}"))
            }
            Err(_) => None,
        };
        let outcome = match &result {
            Ok(_) => Outcome::Acknowledged,
            Err(error) if error.kind == Kind::Miscompare => Outcome::Refused,
            Err(_) => Outcome::Unknown,
        };
        history.answer(now, id, outcome);
        if let Some(wrong) = wrong {
            model.fail(wrong);
        }
        drop(model);
        match result {
            Err(error) if error.kind != Kind::Miscompare => self.refused(&error, true),
            _ => {}
        }
    }

    /// ORs zeros to what is there: nothing may change, and nothing that was written meanwhile may be undone.
    async fn rewrite(&self, sectors: Range<u64>) {
        let max = u64::from(self.device.geometry().atomic_bytes_max) / SECTOR;
        let (offset, len) = (sectors.start * SECTOR, (sectors.end - sectors.start).min(max) * SECTOR);
        self.begin("or-write", offset, len);
        let touched = sectors.start..sectors.start + len / SECTOR;
        self.model.borrow_mut().slots[self.index].history.touch(touched);
        let data = vec![0; len as usize].into();
        match self.device.submit(Request::OrWrite { offset, data, fua: false }).await {
            Ok(Reply::Done) => {}
            Ok(other) => self.model.borrow_mut().fail(format!("an or-write was answered with {other:?}")),
            Err(error) => self.refused(&error, true),
        }
    }

    async fn flush(&self) {
        let submitted = self.begin("flush", 0, 0);
        match self.device.submit(Request::Flush).await {
            Ok(_) => {
                let mut model = self.model.borrow_mut();
                let journal = model.disk.journal();
                journal.note("client flushed", [0, 0, self.step]);
                let now = model.tick();
                model.slots[self.index].history.flushed(submitted, now);
            }
            // It may have to store what a crash left unsynced once more, for which there may be no room.
            Err(error) => self.refused(&error, true),
        }
    }

    async fn prefetch(&self, offset: u64, len: u64) {
        self.begin("prefetch", offset, len);
        if let Err(error) = self.device.submit(Request::Prefetch { offset, len }).await {
            self.refused(&error, false);
        }
    }

    /// What is said to be zero must be legal as a read of zeros.
    async fn status(&self, offset: u64, len: u64, extents_max: u32) {
        let submitted = self.begin("status", offset, len);
        let statuses = match self.device.submit(Request::BlockStatus { offset, len, extents_max }).await {
            Ok(Reply::Status(statuses)) => statuses,
            Ok(other) => return self.model.borrow_mut().fail(format!("a block status was answered with {other:?}")),
            Err(error) => return self.refused(&error, false),
        };
        let mut model = self.model.borrow_mut();
        let covered: u64 = statuses.iter().map(|status| status.len).sum();
        let sound = |status: &Status| status.len > 0 && status.len.is_multiple_of(SECTOR);
        if covered == 0 || covered > len || statuses.len() > extents_max as usize || !statuses.iter().all(sound) {
            return model.fail(format!("block status of {len} bytes, {extents_max} entries: {statuses:?}"));
        }
        let now = model.tick();
        let mut at = offset / SECTOR;
        for status in statuses {
            let zeros = vec![0; status.len as usize];
            let history = &mut model.slots[self.index].history;
            if status.allocation != Allocation::Data
                && let Err(what) = history.check_read(submitted, now, at, &zeros)
            {
                return model.fail(format!("block status says {status:?} at sector {at}: {what}"));
            }
            at += status.len / SECTOR;
        }
    }

    /// Requests that must be refused as malformed.
    async fn nonsense(&self, rng: &mut Rng) {
        let (size, is_settled, verbs) = {
            let model = self.model.borrow();
            let entry = &model.entries[self.index];
            let size = entry.current().map_or(0, |a| a.size_bytes);
            (size, entry.is_settled(), model.slots[self.index].verbs)
        };
        let request = match rng.below(4) {
            0 => Request::Read { offset: size, len: 4096 },
            1 => Request::Read { offset: 100, len: 512 },
            2 => Request::Trim { offset: size - 512, len: 1024, fua: false },
            _ => Request::Read { offset: u64::MAX - 511, len: 512 },
        };
        self.begin("nonsense", size, 0);
        let result = self.device.submit(request.clone()).await;
        let mut model = self.model.borrow_mut();
        // A verb that was under way may have ended meanwhile, or took effect before it was answered.
        let resized = !is_settled || model.slots[self.index].verbs != verbs;
        match result {
            _ if resized => {}
            Err(error) if error.kind == Kind::Invalid => {}
            Err(error) if model.excuses(error.kind, self.index, true) => {}
            Err(error) => model.fail(format!("{request:?} on a vDisk of {size} bytes: {:?}, {error}", error.kind)),
            Ok(_) => model.fail(format!("{request:?} on a vDisk of {size} bytes was answered")),
        }
    }
}

/// The bytes of a read's reply, which must be as long as was asked for.
pub fn bytes_of(reply: Reply, len: u64) -> Result<BytesMut, String> {
    let Reply::Data(segments) = reply else { return Err(format!("a read was answered with {reply:?}")) };
    let mut data = BytesMut::with_capacity(len as usize);
    for segment in segments {
        match segment {
            block::Segment::Bytes(bytes) => data.extend_from_slice(&bytes),
            block::Segment::Zeros(len) => data.resize(data.len() + len as usize, 0),
        }
    }
    if data.len() as u64 == len { Ok(data) } else { Err(format!("asked for {len} bytes, got {}", data.len())) }
}
