//! Whether the initiator is still there: when it is asked, and when it is given up. Pure; the connection brings the time.

use crate::iscsi::Timeouts;
use std::time::{Duration, Instant};

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Alive,
    /// A ping is to be sent.
    Ask,
    /// It owes us something and does not move.
    Stuck,
    /// It does not answer.
    Dead,
}

pub(super) struct Timing {
    timeouts: Timeouts,
    /// A byte moved, or it was not the initiator's turn.
    pub moved: Instant,
    /// Since when nothing came, as far as that was looked at; `None`: something came since.
    pub heard: Option<Instant>,
    asked: Option<Instant>,
}

impl Timing {
    pub fn new(timeouts: Timeouts, now: Instant) -> Timing {
        Timing { timeouts, moved: now, heard: Some(now), asked: None }
    }

    /// How long nothing has to be looked at.
    pub fn next_look(&self, now: Instant) -> Duration {
        let Timeouts { ping_after, pong_within, stuck_after } = self.timeouts;
        let pinged = match (self.asked, self.heard) {
            (Some(asked), Some(_)) => (asked + pong_within).saturating_duration_since(now),
            _ => ping_after,
        };
        pinged.min(stuck_after).max(Duration::from_millis(1))
    }

    pub fn judge(&mut self, now: Instant, waits_for_initiator: bool, awaits_pong: bool) -> Verdict {
        let Timeouts { ping_after, pong_within, stuck_after } = self.timeouts;
        if waits_for_initiator && now.duration_since(self.moved) >= stuck_after {
            return Verdict::Stuck;
        }
        let Some(heard) = self.heard else {
            (self.heard, self.asked) = (Some(now), None);
            return Verdict::Alive;
        };
        match self.asked {
            Some(asked) if awaits_pong && now.duration_since(asked) >= pong_within => Verdict::Dead,
            Some(_) if awaits_pong => Verdict::Alive,
            _ if now.duration_since(heard) >= ping_after => {
                self.asked = Some(now);
                Verdict::Ask
            }
            _ => Verdict::Alive,
        }
    }
}

#[cfg(test)]
mod tests;
