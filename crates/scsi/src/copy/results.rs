//! What became of the copies of a nexus, and RECEIVE COPY RESULTS, which tells it.

use super::{COPIES_MAX, DESCRIPTOR_KINDS, DESCRIPTORS_BYTES_MAX, SEGMENT_BYTES_MAX, SEGMENTS_MAX, TARGETS_MAX};
use crate::call::{Call, Good, Ran, failed, ready};
use crate::fault::Fault;
use crate::path::Path;
use crate::sense::Condition;
use base::Writer;
use bytes::Bytes;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use world::Completion;

/// By list identifier: 256 at most, forgotten with the nexus.
#[derive(Debug, Default)]
pub(crate) struct Copies(RefCell<BTreeMap<u8, Entry>>);

#[derive(Debug, Clone)]
struct Entry {
    state: State,
    segments: u16,
    bytes: u64,
}

#[derive(Debug, Clone)]
enum State {
    InProgress,
    Ended(Outcome),
}

#[derive(Debug, Clone)]
pub(super) enum Outcome {
    Completed,
    /// With what the initiator was told.
    Failed(Option<Condition>),
}

impl Copies {
    pub(super) fn in_progress(&self, id: Option<u8>) -> bool {
        let copies = self.0.borrow();
        let entry = id.and_then(|id| copies.get(&id));
        entry.is_some_and(|entry| matches!(entry.state, State::InProgress))
    }
    pub(crate) fn forget_ended(&self) {
        self.0.borrow_mut().retain(|_, entry| matches!(entry.state, State::InProgress));
    }
    fn get(&self, id: u8) -> Option<Entry> {
        self.0.borrow().get(&id).cloned()
    }
}

/// A copy under way; one that is dropped unended has failed.
pub(super) struct Progress {
    path: Rc<Path>,
    id: Option<u8>,
}

impl Progress {
    pub(super) fn begin(path: &Rc<Path>, id: Option<u8>) -> Progress {
        if let Some(id) = id {
            let entry = Entry { state: State::InProgress, segments: 0, bytes: 0 };
            path.copies.0.borrow_mut().insert(id, entry);
        }
        Progress { path: path.clone(), id }
    }
    fn change(&self, change: impl FnOnce(&mut Entry)) {
        let mut copies = self.path.copies.0.borrow_mut();
        if let Some(entry) = self.id.and_then(|id| copies.get_mut(&id)) {
            change(entry);
        }
    }
    pub(super) fn segment_done(&self, bytes: u64) {
        self.change(|entry| {
            entry.segments = entry.segments.saturating_add(1);
            entry.bytes += bytes;
        });
    }
    pub(super) fn end(self, outcome: Outcome) {
        self.change(|entry| entry.state = State::Ended(outcome));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.change(|entry| {
            if matches!(entry.state, State::InProgress) {
                entry.state = State::Ended(Outcome::Failed(None));
            }
        });
    }
}

/// Those that name a list.
pub(crate) fn check_results(call: &Call) -> Result<u32, Fault> {
    if call.path.copies.get(call.cdb.u8::<2>()).is_none() {
        return Err(Condition::cdb(2).into());
    }
    Ok(0)
}

fn answer(call: &Call, bytes: Vec<u8>) -> Completion<Ran> {
    ready(Good::bytes(bytes, call.cdb.u32::<10>() as usize))
}

/// SPC-4 6.20.
pub(crate) fn copy_status(call: &Call, _: Bytes) -> Completion<Ran> {
    let Some(entry) = call.path.copies.get(call.cdb.u8::<2>()) else { return failed(Condition::cdb(2)) };
    let status = match entry.state {
        State::InProgress => 0x00,
        State::Ended(Outcome::Completed) => 0x01,
        State::Ended(Outcome::Failed(_)) => 0x02,
    };
    // In bytes if that fits, else in KiB and so on.
    let (mut unit, mut count) = (0, entry.bytes);
    while count > u64::from(u32::MAX) {
        unit += 1;
        count >>= 10;
    }
    let mut data = Writer::with_capacity(12);
    data.u32_be(8).u8(status).u16_be(entry.segments).u8(unit).u32_be(count as u32);
    answer(call, data.bytes)
}

/// No segment of the supported kinds holds data (SPC-4 6.23).
pub(crate) fn held_data(call: &Call, _: Bytes) -> Completion<Ran> {
    answer(call, vec![0; 4])
}

/// SPC-4 6.21.
pub(crate) fn failed_segment(call: &Call, _: Bytes) -> Completion<Ran> {
    let Some(entry) = call.path.copies.get(call.cdb.u8::<2>()) else { return failed(Condition::cdb(2)) };
    let State::Ended(Outcome::Failed(condition)) = entry.state else { return answer(call, vec![0; 4]) };
    let sense = condition.map(|condition| condition.encode(call.unit.sense_format()).bytes).unwrap_or_default();
    let mut data = Writer::default();
    data.u32_be(56 + sense.len() as u32).zeros(52);
    data.u8(crate::Status::CheckCondition as u8).u8(0).u16_be(sense.len() as u16).put(&sense);
    answer(call, data.bytes)
}

/// SPC-4 6.22.
pub(crate) fn operating_parameters(call: &Call, _: Bytes) -> Completion<Ran> {
    let mut data = Writer::default();
    // SNLID: LIST ID USAGE 11b is understood.
    data.u32_be(40 + DESCRIPTOR_KINDS.len() as u32).u8(0x01).zeros(3);
    data.u16_be(TARGETS_MAX).u16_be(SEGMENTS_MAX).u32_be(DESCRIPTORS_BYTES_MAX).u32_be(SEGMENT_BYTES_MAX);
    // Neither inline nor held data, no streams.
    data.u32_be(0).u32_be(0).u32_be(0).u16_be(0);
    data.u16_be(COPIES_MAX as u16).u8(COPIES_MAX as u8);
    // Granularity 2^9.
    data.u8(9).u8(0).u8(0).zeros(3);
    data.u8(DESCRIPTOR_KINDS.len() as u8).put(&DESCRIPTOR_KINDS);
    answer(call, data.bytes)
}
