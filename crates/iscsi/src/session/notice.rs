//! What is said without having been asked: pings, asynchronous messages, and the goodbye.

use super::{Next, Session, State};
use crate::encode;
use crate::wire::{Answer, Header, RESERVED_TAG, Reason, flag, response};
use base::Output;
use bytes::BytesMut;
use scsi::Sense;

/// An asynchronous message (RFC 7143 section 11.9).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// From the logical unit.
    Sense { lun: [u8; 8], sense: Sense },
    /// The initiator is to log out within so many seconds.
    RequestLogout { seconds: u16 },
    /// The session is ended now.
    Dropped,
}

/// Logout responses (11.15.1).
const LOGGED_OUT: u8 = 0;
const NO_CONNECTION: u8 = 1;
const NO_RECOVERY: u8 = 2;

impl<T> Session<T> {
    pub fn notify(&mut self, notice: &Notice, out: &mut Output) {
        let answer = Answer::new(response::ASYNCHRONOUS, flag::FINAL).task(u32::MAX);
        let (answer, data) = match notice {
            Notice::Sense { lun, sense } => {
                let len = (sense.bytes.len() as u16).to_be_bytes();
                (answer.lun(lun), [&len, sense.bytes.as_slice()].concat())
            }
            Notice::RequestLogout { seconds } => (answer.byte(36, 1).half(42, *seconds), Vec::new()),
            // Nothing is retained: the last parameter stays zero.
            Notice::Dropped => (answer.byte(36, 3).half(40, self.parameters.time2wait), Vec::new()),
        };
        let answer = self.status_numbers(answer);
        encode::put_bytes(answer, &data, self.parameters.digests, out);
    }

    /// Asks the initiator for a sign of life.
    pub fn ping(&mut self, out: &mut Output) {
        let tag = self.next_transfer_tag();
        self.ping = Some(tag);
        let answer = Answer::new(response::NOP_IN, flag::FINAL).task(RESERVED_TAG).word(20, tag);
        encode::put_bytes(self.numbers(answer), &[], self.parameters.digests, out);
    }

    /// Whether a ping was not answered yet.
    pub fn awaits_pong(&self) -> bool {
        self.ping.is_some()
    }

    pub(super) fn nop_out(&mut self, header: &Header, data: BytesMut, out: &mut Output) -> Option<Next<T>> {
        if header.task() == RESERVED_TAG {
            if self.ping == Some(header.fifth()) {
                self.ping = None;
            }
            return None;
        }
        let data = data.get(..data.len().min(self.parameters.send_bytes_max as usize)).unwrap_or_default();
        let answer = Answer::new(response::NOP_IN, flag::FINAL).lun(&header.lun()).task(header.task());
        let answer = self.status_numbers(answer.word(20, RESERVED_TAG));
        encode::put_bytes(answer, data, self.parameters.digests, out);
        None
    }

    pub(super) fn logout(&mut self, header: &Header, out: &mut Output) -> Option<Next<T>> {
        let connection = u16::from_be_bytes(header.array(20));
        let code = match header.flags() & 0x7f {
            0 => LOGGED_OUT,
            1 if connection == self.connection => LOGGED_OUT,
            1 => NO_CONNECTION,
            2 => NO_RECOVERY,
            _ => return self.reject_none(header, Reason::InvalidField, out),
        };
        if code == LOGGED_OUT {
            self.state = State::LoggingOut(header.task());
            return None;
        }
        self.logout_response(header.task(), code, out);
        None
    }

    /// The last word, when everything else was answered. Said once.
    pub fn logged_out(&mut self, out: &mut Output) {
        if let State::LoggingOut(task) = self.state {
            self.state = State::Broken("the session is over");
            self.logout_response(task, LOGGED_OUT, out);
        }
    }

    fn logout_response(&mut self, task: u32, code: u8, out: &mut Output) {
        let answer = Answer::new(response::LOGOUT, flag::FINAL).byte(2, code).task(task);
        let answer = answer.half(40, self.parameters.time2wait);
        let answer = self.status_numbers(answer);
        encode::put_bytes(answer, &[], self.parameters.digests, out);
    }
}
