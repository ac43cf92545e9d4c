//! SCSI commands: from their PDU to the device server, as soon as there is room for their data.

use super::reply::Condition;
use super::{Cdb, EXPECTED_BYTES_MAX, Execute, IMMEDIATE_MAX, Next, Session, Stage, Tag, Task, Waiting};
use crate::wire::{Header, RESERVED_TAG, Reason, additional, flag};
use base::Output;
use bytes::BytesMut;
use scsi::Attribute;

impl<T> Session<T> {
    pub(super) fn command(&mut self, header: Header, mut data: BytesMut, out: &mut Output) -> Option<Next<T>> {
        let number = header.task();
        if self.is_discovery() {
            return self.reject_none(&header, Reason::Protocol, out);
        }
        if number == RESERVED_TAG || self.tasks.contains_key(&number) {
            return self.reject_none(&header, Reason::TaskInProgress, out);
        }
        if header.immediate() && self.immediate >= IMMEDIATE_MAX {
            return self.reject_none(&header, Reason::TooManyImmediate, out);
        }
        let Some(segments) = header.segments() else {
            return self.reject_none(&header, Reason::InvalidField, out);
        };
        let extended = segments.iter().find(|(kind, _)| *kind == additional::EXTENDED_CDB);
        let bidirectional = segments.iter().any(|(kind, _)| *kind == additional::BIDIRECTIONAL);
        let cdb = match extended {
            // Its first byte is reserved (11.2.2.3).
            Some((_, rest)) => {
                Cdb::Extended([header.array::<16>(32).as_slice(), rest.get(1..).unwrap_or_default()].concat())
            }
            None => Cdb::Short(header.array(32)),
        };
        let (reads, writes) = (header.flags() & flag::READ != 0, header.flags() & flag::WRITE != 0);
        let expected = if reads || writes { header.fifth() } else { 0 };
        let unsolicited_max = expected.min(self.parameters.first_burst_bytes_max);
        let came = header.data_bytes() as u32;
        let unexpected = came > 0 && (!self.parameters.immediate_data || came > unsolicited_max && writes);
        if !writes {
            data.clear();
        }
        let announced = writes && !header.is_final() && !self.parameters.initial_r2t && came < unsolicited_max;
        let serial = self.next_serial();
        let mut task = Task {
            serial,
            lun: header.lun(),
            immediate: header.immediate(),
            reads,
            writes,
            expected,
            wanted: 0,
            held: 0,
            received: data.len() as u32,
            data,
            unsolicited: announced.then_some(0),
            r2t_number: 0,
            damaged: unexpected.then_some(Condition::UnexpectedData),
            stage: Stage::Shown,
        };
        self.count(header.immediate());
        if bidirectional || reads && writes {
            // One direction at a time.
            self.tasks.insert(number, task);
            self.fail(number, Condition::Bidirectional, out);
            return None;
        }
        let (attribute, room) = (attribute(header.flags()), task.room());
        if !self.waiting.is_empty() || !self.admits(&self.limits, room, 0, out) {
            // What is announced is on its way already.
            task.held = if announced { unsolicited_max.into() } else { task.data.len() as u64 };
            if !self.keeps(task.held, out) {
                self.uncount(task.immediate);
                self.refuse_full(&header, out);
                return None;
            }
            self.waiting_bytes += task.held;
            task.stage = Stage::Waiting(Box::new(Waiting { cdb, attribute }));
            self.tasks.insert(number, task);
            self.waiting.push_back((number, serial));
            return None;
        }
        let next = self.show(number, &mut task, Waiting { cdb, attribute });
        self.tasks.insert(number, task);
        Some(next)
    }

    fn show(&mut self, number: u32, task: &mut Task<T>, waiting: Waiting) -> Next<T> {
        let Waiting { cdb, attribute } = waiting;
        task.held = task.room();
        self.payload_bytes += task.held;
        self.started += 1;
        let offered = if task.writes { task.expected } else { 0 };
        let tag = Tag { task: number, serial: task.serial };
        Next::Command { tag, lun: task.lun, cdb, attribute, offered }
    }

    /// Hands out the command that has waited longest, if there is room for it.
    pub(super) fn admit(&mut self, out: &mut Output) -> Option<Next<T>> {
        loop {
            let (number, serial) = *self.waiting.front()?;
            let waits = |task: &&Task<T>| task.serial == serial && matches!(task.stage, Stage::Waiting(_));
            let Some((room, own)) = self.tasks.get(&number).filter(waits).map(|task| (task.room(), task.held)) else {
                // It was aborted.
                self.waiting.pop_front();
                continue;
            };
            if !self.admits(&self.limits, room, own, out) {
                return None;
            }
            self.waiting.pop_front();
            self.waiting_bytes -= own;
            let mut task = self.tasks.remove(&number).expect("it was found above");
            let Stage::Waiting(waiting) = std::mem::replace(&mut task.stage, Stage::Shown) else {
                unreachable!("it was seen to wait")
            };
            let next = self.show(number, &mut task, *waiting);
            self.tasks.insert(number, task);
            return Some(next);
        }
    }

    /// The command takes this much memory, which may be more than the initiator expects to transfer: it is counted, so that
    /// the next one waits. To be called before [`Session::gather`].
    pub fn takes(&mut self, tag: &Tag, memory_bytes: u64) {
        let task = self.tasks.get_mut(&tag.task).filter(|task| task.serial == tag.serial);
        if let Some(task) = task {
            let more = memory_bytes.saturating_sub(task.held);
            task.held += more;
            self.payload_bytes += more;
        }
    }

    /// The device server wants `wanted` bytes of data-out for a command. What comes back is to be executed at once; if
    /// nothing does, [`Session::next`] will hand it out when the initiator has sent so much, or all that it offers.
    pub fn gather(&mut self, tag: Tag, wanted: u32, task: T, out: &mut Output) -> Option<Execute<T>> {
        let Some(entry) = self.tasks.get_mut(&tag.task).filter(|task| task.serial == tag.serial) else {
            // It was aborted while it was shown; dropping `task` tells the device server.
            self.started -= 1;
            return None;
        };
        entry.wanted = wanted;
        let total = if entry.writes { wanted.min(entry.expected) } else { 0 };
        entry.data.truncate(total as usize);
        if entry.unsolicited.is_none() && entry.damaged.is_none() && entry.data.len() as u32 >= total {
            entry.stage = Stage::Running;
            let data = std::mem::take(&mut entry.data).freeze();
            return Some(Execute { tag, task, data });
        }
        self.started -= 1;
        self.begin_gathering(tag.task, total, task, out);
        None
    }

    /// What a command wanted in truth, where [`Session::gather`] had to be told without knowing: what is left over of what the
    /// initiator offered is computed from it. To be called before [`Session::respond`].
    pub fn wanted(&mut self, tag: &Tag, bytes: u32) {
        if let Some(task) = self.tasks.get_mut(&tag.task).filter(|task| task.serial == tag.serial) {
            task.wanted = bytes;
        }
    }

    /// Takes a command off the books that ended without a response.
    pub fn forget(&mut self, tag: Tag) {
        self.started -= 1;
        if self.tasks.get(&tag.task).is_some_and(|task| task.serial == tag.serial) {
            self.remove(tag.task);
        }
    }

    /// The device server has aborted the command of this [`Tag::number`] while its data was gathered: it is to be
    /// executed with what there is, which tells how it ends.
    pub fn stop_gathering(&mut self, number: u64) -> Option<Execute<T>> {
        let (number, _) = self.tasks.iter().find(|(_, task)| task.serial == number)?;
        let number = *number;
        self.take_gathered(number)
    }

    /// A task that leaves, with its place in the window and its room.
    pub(super) fn remove(&mut self, number: u32) -> Option<Task<T>> {
        let task = self.tasks.remove(&number)?;
        *if task.is_waiting() { &mut self.waiting_bytes } else { &mut self.payload_bytes } -= task.held;
        self.uncount(task.immediate);
        Some(task)
    }

    pub(super) fn count(&mut self, immediate: bool) {
        *if immediate { &mut self.immediate } else { &mut self.numbered } += 1;
    }

    pub(super) fn uncount(&mut self, immediate: bool) {
        *if immediate { &mut self.immediate } else { &mut self.numbered } -= 1;
    }
}

impl<T> Task<T> {
    /// What it takes of the limits. An absurd length is bounded: no command moves more than that.
    pub(super) fn room(&self) -> u64 {
        u64::from(self.expected.min(EXPECTED_BYTES_MAX))
    }
}

/// 11.3.1.
fn attribute(flags: u8) -> Attribute {
    match flags & 7 {
        2 => Attribute::Ordered,
        3 => Attribute::HeadOfQueue,
        4 => Attribute::Aca,
        // Untagged, simple, and the reserved ones.
        _ => Attribute::Simple,
    }
}
