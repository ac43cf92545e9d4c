//! Command numbers (RFC 7143 section 4.2.2.1): what is whose turn.

use super::{Session, State};
use crate::wire::{Header, before, request};
use bytes::BytesMut;
use std::collections::BTreeMap;

pub(super) enum Turn {
    Now,
    /// Immediate, or of a kind that has no number.
    Unnumbered,
    /// Inside the window, and others are missing before it.
    Early,
    /// Outside the window: a duplicate, or more than was allowed.
    Ignored,
}

/// Requests that came before their turn, by number; at most a window of them. `None`: this number is not to be waited
/// for, as the initiator has given the request up.
#[derive(Debug, Default)]
pub(super) struct Early(BTreeMap<u32, Option<(Header, BytesMut)>>);

impl Early {
    pub fn keep(&mut self, header: Header, data: BytesMut) {
        // The first one of a number counts.
        self.0.entry(header.command_number()).or_insert(Some((header, data)));
    }

    /// Data that is kept. Hardly ever is there any.
    pub fn bytes(&self) -> u64 {
        self.0.values().flatten().map(|(_, data)| data.len() as u64).sum()
    }

    /// What is kept under this number.
    pub fn take(&mut self, number: u32) -> Option<Option<(Header, BytesMut)>> {
        if self.0.is_empty() { None } else { self.0.remove(&number) }
    }

    /// Gives up the request with this number, whether it came or not.
    pub fn give_up(&mut self, number: u32) {
        self.0.insert(number, None);
    }

    /// Gives up the commands that `which` names.
    pub fn give_up_where(&mut self, which: impl Fn(&Header) -> bool) -> bool {
        let mut any = false;
        for kept in self.0.values_mut() {
            if kept.as_ref().is_some_and(|(header, _)| header.opcode() == request::COMMAND && which(header)) {
                *kept = None;
                any = true;
            }
        }
        any
    }
}

impl<T> Session<T> {
    pub(super) fn turn_of(&self, header: &Header) -> Turn {
        let has_number = matches!(
            header.opcode(),
            request::COMMAND | request::TASK_MANAGEMENT | request::NOP_OUT | request::TEXT | request::LOGOUT
        );
        let number = header.command_number();
        if header.immediate() || !has_number {
            Turn::Unnumbered
        } else if before(number, self.expected_command) || before(self.window_end(), number) {
            Turn::Ignored
        } else if number == self.expected_command {
            Turn::Now
        } else {
            Turn::Early
        }
    }

    /// The request that is next in turn, if it came early.
    pub(super) fn take_early(&mut self) -> Option<(Header, BytesMut)> {
        while let Some(kept) = self.early.take(self.expected_command) {
            self.expected_command = self.expected_command.wrapping_add(1);
            if kept.is_some() {
                return kept;
            }
        }
        None
    }

    pub(super) fn is_open(&self) -> bool {
        self.state == State::Open
    }
}
