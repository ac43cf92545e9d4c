//! Answers to commands: Data-In, status, sense data, residual counts; and what is refused without the device server.

use super::{Next, Session, Tag};
use crate::encode;
use crate::wire::{Answer, Header, Reason, flag, response};
use base::Output;
use block::Segment;
use scsi::{Response, Status};

/// Why a command ends here (RFC 7143 section 11.4.7.2), with the sense key and codes that stand for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    UnexpectedData,
    IncorrectAmount,
    /// Protocol service CRC error, which is also what a lost PDU amounts to.
    Damaged,
    /// Data in both directions.
    Bidirectional,
}

impl Condition {
    fn codes(self) -> [u8; 3] {
        match self {
            Condition::UnexpectedData => [0x0b, 0x0c, 0x0c],
            Condition::IncorrectAmount => [0x0b, 0x0c, 0x0d],
            Condition::Damaged => [0x0b, 0x47, 0x05],
            Condition::Bidirectional => [0x05, 0x0e, 0x03],
        }
    }

    /// Fixed format (SPC-4 4.5.3).
    fn sense(self) -> [u8; 18] {
        let [key, asc, ascq] = self.codes();
        [0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, asc, ascq, 0, 0, 0, 0]
    }
}

/// How what was moved differs from what was expected.
#[derive(Clone, Copy)]
struct Residual {
    flags: u8,
    count: u32,
}

impl Residual {
    fn new(moved: u64, expected: u32) -> Residual {
        let expected = u64::from(expected);
        let flags = match moved.cmp(&expected) {
            std::cmp::Ordering::Greater => flag::OVERFLOW,
            std::cmp::Ordering::Less => flag::UNDERFLOW,
            std::cmp::Ordering::Equal => 0,
        };
        Residual { flags, count: moved.abs_diff(expected).min(u64::from(u32::MAX)) as u32 }
    }
}

impl<T> Session<T> {
    /// Encodes the answer of the device server. A command that task management has ended meanwhile gets none.
    pub fn respond(&mut self, tag: Tag, response: Response, out: &mut Output) {
        self.started -= 1;
        if self.tasks.get(&tag.task).is_none_or(|task| task.serial != tag.serial) {
            return;
        }
        let Some(task) = self.remove(tag.task) else { return };
        let found: u64 = response.data.iter().map(Segment::len).sum();
        let (expected_in, expected_out) =
            (if task.reads { task.expected } else { 0 }, if task.writes { task.expected } else { 0 });
        let residual = if task.writes || task.wanted > 0 {
            Residual::new(u64::from(task.wanted).max(found), expected_out)
        } else {
            Residual::new(found, expected_in)
        };
        let sent = found.min(u64::from(expected_in)) as u32;
        let mut pdus = task.r2t_number;
        if sent > 0 {
            let status = (response.status == Status::Good && response.sense.is_none()).then_some(residual);
            pdus += self.data_in(tag.task, response.data, sent, status, out);
            if status.is_some() {
                return;
            }
        }
        let sense = response.sense.map(|sense| sense.bytes).unwrap_or_default();
        self.status(tag.task, response.status as u8, residual, &sense, pdus, out);
    }

    /// Sends `len` bytes of data, with the status in the last PDU if it may be there. Returns the number of PDUs.
    fn data_in(&mut self, task: u32, data: Vec<Segment>, len: u32, status: Option<Residual>, out: &mut Output) -> u32 {
        let mut pieces = Pieces { rest: data.into_iter(), current: None };
        let (mut offset, mut number, mut in_burst) = (0, 0, 0);
        while offset < len {
            let burst_left = self.parameters.burst_bytes_max - in_burst;
            let part = (len - offset).min(self.parameters.send_bytes_max).min(burst_left);
            in_burst += part;
            let last = offset + part == len;
            let ends = last || in_burst == self.parameters.burst_bytes_max;
            if ends {
                in_burst = 0;
            }
            let flags = if ends { flag::FINAL } else { 0 };
            let mut answer = Answer::new(response::DATA_IN, flags).task(task).word(20, u32::MAX);
            match status {
                Some(residual) if last => {
                    answer = answer.byte(1, flags | flag::STATUS | residual.flags).word(44, residual.count);
                    answer = self.status_numbers(answer);
                }
                _ => answer = self.numbers(answer).word(24, 0),
            }
            let answer = answer.word(36, number).word(40, offset);
            encode::put(answer, pieces.by_ref_take(part), part, self.parameters.digests, out);
            offset += part;
            number += 1;
        }
        number
    }

    fn status(&mut self, task: u32, status: u8, residual: Residual, sense: &[u8], pdus: u32, out: &mut Output) {
        let answer = Answer::new(response::COMMAND, flag::FINAL | residual.flags)
            .byte(3, status)
            .task(task)
            .word(36, pdus)
            .word(44, residual.count);
        let answer = self.status_numbers(answer);
        if sense.is_empty() {
            return encode::put_bytes(answer, &[], self.parameters.digests, out);
        }
        let len = (sense.len() as u16).to_be_bytes();
        encode::put_bytes(answer, &[&len, sense].concat(), self.parameters.digests, out);
    }

    /// Ends a command without the device server, or instead of it.
    pub(super) fn fail(&mut self, number: u32, condition: Condition, out: &mut Output) {
        let Some(task) = self.remove(number) else { return };
        let residual = Residual::new(0, task.expected);
        self.status(number, Status::CheckCondition as u8, residual, &condition.sense(), task.r2t_number, out);
    }

    /// Ends a command of which no more than the header is to be trusted.
    pub(super) fn refuse_damaged(&mut self, header: &Header, out: &mut Output) {
        let sense = Condition::Damaged.sense();
        let residual = Residual::new(0, header.fifth());
        self.status(header.task(), Status::CheckCondition as u8, residual, &sense, 0, out);
    }

    /// Ends a command for whose data there is no room.
    pub(super) fn refuse_full(&mut self, header: &Header, out: &mut Output) {
        let residual = Residual::new(0, header.fifth());
        self.status(header.task(), Status::TaskSetFull as u8, residual, &[], 0, out);
    }

    pub(super) fn reject(&mut self, header: &Header, reason: Reason, out: &mut Output) {
        let answer = Answer::new(response::REJECT, flag::FINAL).byte(2, reason as u8).task(u32::MAX);
        let answer = self.status_numbers(answer);
        encode::put_bytes(answer, &header.basic, self.parameters.digests, out);
    }

    /// The same where a request ends by it.
    pub(super) fn reject_none(&mut self, header: &Header, reason: Reason, out: &mut Output) -> Option<Next<T>> {
        self.reject(header, reason, out);
        None
    }

    /// Fills in the numbers of an answer that carries a status.
    pub(super) fn status_numbers(&mut self, answer: Answer) -> Answer {
        let answer = self.numbers(answer);
        self.status_number = self.status_number.wrapping_add(1);
        answer
    }

    /// The same of one that carries none: the status number is told and not used up.
    pub(super) fn numbers(&self, answer: Answer) -> Answer {
        answer.word(24, self.status_number).word(28, self.expected_command).word(32, self.window_end())
    }
}

/// Data that is cut into parts without a copy.
struct Pieces {
    rest: std::vec::IntoIter<Segment>,
    current: Option<Segment>,
}

impl Pieces {
    /// The next `len` bytes.
    fn by_ref_take(&mut self, len: u32) -> impl Iterator<Item = Segment> {
        let mut left = u64::from(len);
        std::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            let mut segment = self.current.take().filter(|segment| !segment.is_empty());
            while segment.is_none() {
                segment = Some(self.rest.next()?).filter(|segment| !segment.is_empty());
            }
            let segment = segment?;
            let (head, tail) = split(segment, left);
            self.current = tail;
            left -= head.len();
            Some(head)
        })
    }
}

/// The first `len` bytes, and what is behind them.
fn split(segment: Segment, len: u64) -> (Segment, Option<Segment>) {
    if segment.len() <= len {
        return (segment, None);
    }
    match segment {
        Segment::Bytes(mut bytes) => {
            let head = bytes.split_to(len as usize);
            (Segment::Bytes(head), Some(Segment::Bytes(bytes)))
        }
        Segment::Zeros(all) => (Segment::Zeros(len), Some(Segment::Zeros(all - len))),
    }
}
