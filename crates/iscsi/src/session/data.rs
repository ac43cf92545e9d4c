//! The data of writes: what comes unasked, what is asked for with R2Ts, and when all of it is there.

use super::reply::Condition;
use super::{Execute, Session, Stage, Tag};
use crate::encode;
use crate::wire::{Answer, Header, RESERVED_TAG, Reason, flag, response};
use base::Output;
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;

/// A command whose data is on its way.
#[derive(Debug)]
pub(super) struct Gathering<T> {
    task: T,
    /// Bytes that are to come in all.
    total: u32,
    /// Bytes that came unasked or were asked for.
    asked: u32,
    transfers: VecDeque<Transfer>,
}

/// What one R2T asked for.
#[derive(Debug)]
struct Transfer {
    tag: u32,
    left: u32,
    /// Number of the next PDU.
    number: u32,
}

impl<T> Session<T> {
    /// A Data-Out whose data is about to come: the buffer that it goes to, and how much at its end is to be dropped.
    /// `None`: all of it; that is also what becomes of data for a command that has ended meanwhile.
    pub(super) fn data_announced(&mut self, header: &Header) -> Result<Option<(BytesMut, usize)>, &'static str> {
        let Some(task) = self.tasks.get_mut(&header.task()) else { return Ok(None) };
        let len = header.data_bytes() as u32;
        let (number, offset) = (header.word(36), header.word(40));
        let (expected_number, left) = match header.fifth() {
            RESERVED_TAG => match task.unsolicited {
                Some(number) => (number, task.expected.min(self.parameters.first_burst_bytes_max) - task.received),
                None => {
                    task.damaged = Some(Condition::UnexpectedData);
                    return Ok(None);
                }
            },
            tag => match &task.stage {
                Stage::Gathering(gathering) => match gathering.transfers.front() {
                    Some(transfer) if transfer.tag == tag => (transfer.number, transfer.left),
                    // Sequences come in the order in which they were asked for.
                    _ => return Err("data came for a transfer that was not next"),
                },
                _ => return Ok(None),
            },
        };
        if len > left {
            return Err("more data came than was asked for");
        }
        if number != expected_number || offset != task.received {
            // Something was lost in between.
            task.damaged = task.damaged.or(Some(Condition::Damaged));
        }
        if task.damaged.is_some() {
            return Ok(None);
        }
        let limit = match &task.stage {
            Stage::Gathering(gathering) => gathering.total,
            _ => task.expected,
        };
        let room = (limit as usize).saturating_sub(task.data.len());
        let mut buffer = std::mem::take(&mut task.data);
        if header.fifth() == RESERVED_TAG {
            // Of a command that waits, once for all that may come unasked.
            buffer.reserve(room.min(left as usize));
        }
        Ok(Some((buffer, (len as usize).saturating_sub(room))))
    }

    /// Such a Data-Out has come to its end; `right`: undamaged.
    pub(super) fn data_arrived(&mut self, header: &Header, buffer: Option<BytesMut>, right: bool, out: &mut Output) {
        if !right {
            self.reject(header, Reason::DataDigest, out);
        }
        let len = header.data_bytes() as u32;
        let number = header.task();
        let first_burst = self.parameters.first_burst_bytes_max;
        let Some(task) = self.tasks.get_mut(&number) else { return };
        if let Some(buffer) = buffer {
            task.data = buffer;
        }
        if !right {
            task.damaged = task.damaged.or(Some(Condition::Damaged));
        }
        if header.fifth() == RESERVED_TAG {
            let Some(count) = &mut task.unsolicited else { return };
            *count += 1;
            task.received += len;
            if header.is_final() || task.received >= task.expected.min(first_burst) {
                task.unsolicited = None;
            }
        } else {
            let Stage::Gathering(gathering) = &mut task.stage else { return };
            let Some(transfer) = gathering.transfers.front_mut() else { return };
            task.received += len;
            transfer.left -= len;
            transfer.number += 1;
            if header.is_final() || transfer.left == 0 {
                if transfer.left > 0 {
                    task.damaged = task.damaged.or(Some(Condition::IncorrectAmount));
                }
                gathering.transfers.pop_front();
            }
        }
        if matches!(task.stage, Stage::Gathering(_)) {
            self.gather_on(number, out);
        }
    }

    pub(super) fn begin_gathering(&mut self, number: u32, total: u32, task: T, out: &mut Output) {
        let entry = self.tasks.get_mut(&number).expect("the caller found it");
        let missing = (total as usize).saturating_sub(entry.data.len());
        if entry.data.capacity() < total as usize && missing > 0 {
            let mut whole = base::payload::buffer(total as usize);
            whole.extend_from_slice(&entry.data);
            entry.data = whole;
        }
        let gathering = Gathering { task, total, asked: 0, transfers: VecDeque::new() };
        entry.stage = Stage::Gathering(Box::new(gathering));
        self.gather_on(number, out);
    }

    /// Asks for more, or goes on with a command whose data is complete.
    fn gather_on(&mut self, number: u32, out: &mut Output) {
        loop {
            let Some(task) = self.tasks.get_mut(&number) else { return };
            let Stage::Gathering(gathering) = &mut task.stage else { return };
            if task.unsolicited.is_some() {
                return;
            }
            gathering.asked = gathering.asked.max(task.received);
            let all_asked = gathering.asked >= gathering.total || task.damaged.is_some();
            if all_asked && gathering.transfers.is_empty() {
                break;
            }
            if all_asked || gathering.transfers.len() as u32 >= self.parameters.outstanding_r2t_max {
                return;
            }
            self.ask(number, out);
        }
        match self.tasks.get(&number).and_then(|task| task.damaged) {
            Some(condition) => self.fail(number, condition, out),
            None => {
                let execute = self.take_gathered(number);
                self.ready.extend(execute);
            }
        }
    }

    /// Sends the next R2T.
    fn ask(&mut self, number: u32, out: &mut Output) {
        let tag = self.next_transfer_tag();
        let Some(task) = self.tasks.get_mut(&number) else { return };
        let Stage::Gathering(gathering) = &mut task.stage else { return };
        let len = (gathering.total - gathering.asked).min(self.parameters.burst_bytes_max);
        let answer = Answer::new(response::READY_TO_TRANSFER, flag::FINAL)
            .lun(&task.lun)
            .task(number)
            .word(20, tag)
            .word(36, task.r2t_number)
            .word(40, gathering.asked)
            .word(44, len);
        task.r2t_number += 1;
        gathering.asked += len;
        gathering.transfers.push_back(Transfer { tag, left: len, number: 0 });
        encode::put_bytes(self.numbers(answer), &[], self.parameters.digests, out);
    }

    /// The command goes to the device server with what came of its data.
    pub(super) fn take_gathered(&mut self, number: u32) -> Option<Execute<T>> {
        let task = self.tasks.get_mut(&number)?;
        match std::mem::replace(&mut task.stage, Stage::Running) {
            Stage::Gathering(gathering) => {
                self.started += 1;
                let data: Bytes = std::mem::take(&mut task.data).freeze();
                Some(Execute { tag: Tag { task: number, serial: task.serial }, task: gathering.task, data })
            }
            other => {
                task.stage = other;
                None
            }
        }
    }
}
