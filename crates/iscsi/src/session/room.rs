//! What a session may hold: commands under way, data that came unasked and waits, and what is not sent yet.

use super::{Limits, Session};
use base::{Held, Output};

/// What may always be unsent, however small the limits are: answers that a window of commands makes. As much may always
/// have come unasked: the first burst of a command.
const UNSENT_BYTES_MIN: u64 = 64 << 10;

impl<T> Session<T> {
    /// Payload under way, data that waits for room, and bytes not yet sent: what the limits are measured against.
    pub fn held_bytes(&self, out: &Output) -> u64 {
        self.payload_bytes + self.waiting_bytes + self.early.bytes() + out.pending_bytes()
    }

    /// Whether [`Session::next`] gets on without input, or is held up by nothing but the want of it.
    pub fn has_room(&self, out: &Output) -> bool {
        self.has_room_within(&self.limits, out)
    }

    /// The same if these were the limits.
    pub fn has_room_within(&self, limits: &Limits, out: &Output) -> bool {
        let admitted = match self.waiting.front().and_then(|(task, _)| self.tasks.get(task)) {
            Some(task) => self.admits(limits, task.room(), task.held, out),
            None => true,
        };
        admitted && !self.is_too_much_unsent(limits, out)
    }

    /// Whether a command that waited for room would get it now.
    pub fn can_admit(&self, out: &Output) -> bool {
        !self.waiting.is_empty() && self.has_room(out)
    }

    pub(super) fn is_too_much_unsent(&self, limits: &Limits, out: &Output) -> bool {
        out.pending_bytes() >= limits.room.payload_bytes.max(UNSENT_BYTES_MIN)
    }

    /// Whether a command that takes `wanted` may be started, of which it holds `own` already. What waits behind it does not
    /// hold it up when nothing is under way: else neither would ever get on.
    pub(super) fn admits(&self, limits: &Limits, wanted: u64, own: u64, out: &Output) -> bool {
        let under_way = self.payload_bytes + out.pending_bytes();
        let beside = if under_way == 0 { 0 } else { self.held_bytes(out) - own };
        limits.room.admits(wanted, Held(beside))
    }

    /// Whether so much more that came unasked may be kept until there is room for its command.
    pub(super) fn keeps(&self, bytes: u64, out: &Output) -> bool {
        bytes == 0 || self.held_bytes(out) + bytes <= self.limits.room.payload_bytes.max(UNSENT_BYTES_MIN)
    }
}
