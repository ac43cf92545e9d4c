//! Text requests of the full feature phase (RFC 7143 sections 11.10, 11.11 and appendix C): SendTargets, and a new
//! MaxRecvDataSegmentLength.

use super::{Next, Session};
use crate::encode;
use crate::login::Advertised;
use crate::text::{self, NOT_UNDERSTOOD, REJECT, Text};
use crate::wire::{Answer, Header, RESERVED_TAG, Reason, flag, response};
use base::Output;
use bytes::BytesMut;

/// Longest data segment of a text response, so that a long list does not go out in one piece.
const TEXT_SEGMENT_MAX: usize = 64 << 10;

/// Whose addresses are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    All,
    Target(String),
}

/// A text request that waits for its answer.
#[derive(Debug)]
#[must_use = "every request is answered"]
pub struct TextTag {
    header: Header,
    answers: Text,
}

/// An exchange of texts over several PDUs. There is one at a time; a new one ends it.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    /// Names it to the initiator.
    tag: Option<u32>,
    request: Text,
    /// The part of the answer that was not sent.
    rest: Vec<u8>,
}

impl<T> Session<T> {
    pub(super) fn text(&mut self, header: Header, data: BytesMut, out: &mut Output) -> Option<Next<T>> {
        match header.fifth() {
            RESERVED_TAG => self.exchange = Exchange::default(),
            tag if self.exchange.tag == Some(tag) => {}
            _ => return self.reject_none(&header, Reason::Protocol, out),
        }
        if self.exchange.request.gather(&data).is_err() {
            self.exchange = Exchange::default();
            return self.reject_none(&header, Reason::InvalidField, out);
        }
        if header.flags() & flag::CONTINUE != 0 {
            self.put_text(&header, &[], out);
            return None;
        }
        if !self.exchange.rest.is_empty() {
            // The initiator asks for more of a long answer.
            let rest = std::mem::take(&mut self.exchange.rest);
            self.put_text(&header, &rest, out);
            return None;
        }
        let request = std::mem::take(&mut self.exchange.request);
        let Ok(pairs) = text::parse(&request.bytes) else {
            return self.reject_none(&header, Reason::InvalidField, out);
        };
        let mut answers = Text::default();
        let mut scope = None;
        for (key, value) in pairs {
            match key {
                "SendTargets" => match self.scope(value) {
                    Some(wanted) => scope = Some(wanted),
                    None => answers.put(key, REJECT),
                },
                "MaxRecvDataSegmentLength" => match text::number(value) {
                    Some(bytes @ 512..=0x00ff_ffff) => self.parameters.send_bytes_max = bytes as u32,
                    _ => answers.put(key, REJECT),
                },
                "InitiatorAlias" => {}
                _ if value == NOT_UNDERSTOOD || value == REJECT => {}
                _ if crate::keys::is_of_login(key) => answers.put(key, REJECT),
                _ => answers.put(key, NOT_UNDERSTOOD),
            }
        }
        match scope {
            Some(scope) => Some(Next::Targets(TextTag { header, answers }, scope)),
            None => {
                self.put_text(&header, &answers.bytes, out);
                None
            }
        }
    }

    /// Appendix C: a discovery session may ask for all or for one, a normal one for its own only.
    fn scope(&self, value: &str) -> Option<Scope> {
        match (&self.own_target, value) {
            (None, "All") => Some(Scope::All),
            (None, "") => None,
            (None, name) => Some(Scope::Target(name.to_lowercase())),
            (Some(own), "") => Some(Scope::Target(own.clone())),
            (Some(own), name) if name.eq_ignore_ascii_case(own) => Some(Scope::Target(own.clone())),
            (Some(_), _) => None,
        }
    }

    /// Answers a question for targets.
    pub fn advertise(&mut self, tag: TextTag, targets: &[Advertised], out: &mut Output) {
        let TextTag { header, mut answers } = tag;
        for target in targets {
            answers.put("TargetName", &target.name);
            for (address, group) in &target.portals {
                answers.put("TargetAddress", format_args!("{address},{group}"));
            }
        }
        self.put_text(&header, &answers.bytes, out);
    }

    /// Sends as much as fits, and keeps the rest.
    fn put_text(&mut self, header: &Header, text: &[u8], out: &mut Output) {
        let part = text.len().min(self.parameters.send_bytes_max as usize).min(TEXT_SEGMENT_MAX);
        let (part, rest) = text.split_at(part);
        self.exchange.rest = rest.to_vec();
        let ends = rest.is_empty() && header.is_final() && header.flags() & flag::CONTINUE == 0;
        let flags = match (ends, rest.is_empty()) {
            (true, _) => flag::FINAL,
            (false, true) => 0,
            (false, false) => flag::CONTINUE,
        };
        self.exchange.tag = (!ends).then(|| self.next_transfer_tag());
        let answer = Answer::new(response::TEXT, flags).lun(&header.lun()).task(header.task());
        let answer = answer.word(20, self.exchange.tag.unwrap_or(RESERVED_TAG));
        let answer = self.status_numbers(answer);
        encode::put_bytes(answer, part, self.parameters.digests, out);
    }
}
