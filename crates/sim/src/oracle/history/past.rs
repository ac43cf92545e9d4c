//! What a vDisk held at moments of the past, over crashes and rollbacks: its eras, each of which began with a known content.
//!
//! Moments lie between two events: behind one, before the next. What was acknowledged before a moment is in, what was sent
//! after it is not; of an era that a power loss ended, what was acknowledged last may be missing, as it is missing
//! afterwards.

use super::{BASE, History, Image, Time, Version};
use std::cell::Cell;
use std::rc::Rc;

/// Between the event before and this one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct BeforeEvent(pub Time);

#[derive(Clone, Debug)]
struct Era {
    begun: Time,
    /// The crash or the rollback that ended it.
    ended: Time,
    /// What was acknowledged before is in the log for ever.
    survived: Time,
    history: History,
}

/// A size that the vDisk had or may have had.
#[derive(Clone, Copy, Debug)]
struct Size {
    begun: Time,
    acknowledged: Option<Time>,
    bytes: u64,
}

/// All eras of one vDisk but the one it is in.
#[derive(Clone, Debug, Default)]
pub struct Past {
    eras: Vec<Era>,
    /// When the era it is in began.
    begun: Time,
    sizes: Vec<Size>,
    /// When a rollback began that is under way or in doubt.
    pub rollback_begun: Option<Time>,
}

impl Past {
    pub fn of_size(bytes: u64) -> Past {
        let first = Size { begun: 0, acknowledged: Some(0), bytes };
        Past { sizes: vec![first], ..Past::default() }
    }

    /// A crash has ended the era, and `history` is what was known then; a new one begins with the content that was found.
    pub fn crashed(&mut self, history: History, survived: Time, ended: Time, now: Time) {
        self.close(Era { begun: self.begun, ended, survived, history }, now);
    }

    /// A rollback took effect: everything before it stays in the log.
    pub fn rolled_back(&mut self, history: History, now: Time) {
        let ended = self.rollback_begun.take().expect("it was begun");
        self.close(Era { begun: self.begun, ended, survived: Time::MAX, history }, now);
    }

    fn close(&mut self, era: Era, now: Time) {
        self.eras.push(era);
        self.begun = now;
        self.rollback_begun = None;
    }

    pub fn resize_begins(&mut self, now: Time, bytes: u64) {
        self.sizes.push(Size { begun: now, acknowledged: None, bytes });
    }

    /// `now`: it was acknowledged. `None`: it was refused, and nothing was done.
    pub fn resize_ends(&mut self, now: Option<Time>) {
        match now {
            Some(now) => self.sizes.last_mut().expect("it was begun").acknowledged = Some(now),
            None => drop(self.sizes.pop()),
        }
    }

    /// After a start it has this size.
    pub fn settle_size(&mut self, now: Time, bytes: u64) {
        self.sizes.retain(|size| size.bytes <= bytes);
        self.sizes.iter_mut().for_each(|size| size.acknowledged = size.acknowledged.or(Some(now)));
    }

    /// Sizes that it may have had then. (It never shrinks.)
    pub fn sizes_at(&self, moment: BeforeEvent) -> Vec<u64> {
        let surely = |size: &&Size| size.acknowledged.is_some_and(|time| time < moment.0);
        let least = self.sizes.iter().filter(surely).map(|size| size.bytes).max().unwrap_or(0);
        self.sizes.iter().filter(|size| size.begun < moment.0 && size.bytes >= least).map(|size| size.bytes).collect()
    }

    /// What a snapshot of that moment may show. `now`: of the era it is in. `None`: nothing is known of that moment, it was
    /// down or being rolled back.
    pub fn image(&self, now: &History, moment: BeforeEvent, size_bytes: u64) -> Option<Image> {
        let BeforeEvent(until) = moment;
        if self.rollback_begun.is_some_and(|begun| begun < until) {
            return None;
        }
        if self.begun < until {
            return Some(now.capture_at(until, until, size_bytes));
        }
        let era = self.eras.iter().rev().find(|era| era.begun < until)?;
        let is_within = until <= era.ended;
        is_within.then(|| era.history.capture_at(until.min(era.survived), until, size_bytes))
    }

    /// Whether all that was in the log at that moment still is.
    pub fn is_kept(&self, moment: BeforeEvent) -> bool {
        let era = self.eras.iter().rev().find(|era| era.begun < moment.0);
        self.begun < moment.0 || era.is_some_and(|era| moment.0 < era.survived && moment.0 <= era.ended)
    }
}

impl History {
    /// The image of a moment of the past, before the event at `until`: everything that was acknowledged before `since` is in.
    fn capture_at(&self, since: Time, until: Time, size_bytes: u64) -> Image {
        let is_sent =
            |version: &&Version| version.request == BASE || self.requests[version.request.0].submitted < until;
        let sectors = self.versions.iter().map(|(sector, versions)| {
            let sent: Vec<Version> = versions.iter().filter(is_sent).cloned().collect();
            let legal = self.legal(&sent, since).into_iter().map(|index| sent[index].clone());
            (*sector, legal.collect())
        });
        // Events before `since` are behind the cut's beginning.
        let cut = Rc::new(Cell::new((since.saturating_sub(1), until)));
        Image::new(self, size_bytes, sectors.collect(), cut)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::super::recovered::{Floor, Observed};
    use super::*;
    use crate::oracle::pattern::{SECTOR, Value, WriteId, request_bytes};

    struct Script {
        history: History,
        past: Past,
        now: Time,
    }

    impl Script {
        fn new() -> Script {
            Script { history: History::new(1), past: Past::of_size(1 << 20), now: 0 }
        }

        fn tick(&mut self) -> Time {
            self.now += 1;
            self.now
        }

        /// One block; the events of its request and its answer.
        fn write(&mut self, block: u64, write: u64) -> (Time, Time) {
            let submitted = self.tick();
            let value = Value::Data(WriteId(write));
            let id = self.history.submit(submitted, 8 * block..8 * block + 8, value, false);
            let answered = self.tick();
            self.history.answer(answered, id, Outcome::Acknowledged);
            (submitted, answered)
        }

        /// Power fails; afterwards block `n` holds what `left[n]` wrote.
        fn power_loss(&mut self, left: &[u64]) {
            let ended = self.tick();
            self.history.crash(ended);
            let before = self.history.clone();
            let value = |write: u64| if write == 0 { Value::Zero } else { Value::Data(WriteId(write)) };
            let blocks = (0_u64..).zip(left);
            let observed: Observed = blocks
                .flat_map(|(block, write)| (8 * block..8 * block + 8).map(move |sector| (sector, Some(value(*write)))))
                .collect();
            let now = self.tick();
            self.history.check_recovered(Floor::Flushed, now, &observed).expect("legal");
            self.past.crashed(before, self.history.survived(), ended, now);
        }

        /// Whether blocks from 0 on may have been written by these, just before the event.
        fn may_be(&self, before: Time, writes: &[u64]) -> bool {
            let mut image = self.past.image(&self.history, BeforeEvent(before), 1 << 20).expect("known");
            let blocks = (0_u64..).zip(writes).map(|(block, write)| match write {
                0 => vec![0; 8 * SECTOR as usize],
                _ => request_bytes(1, 8 * block, 8, WriteId(*write)).to_vec(),
            });
            image.check(0, &blocks.collect::<Vec<_>>().concat()).is_ok()
        }
    }

    #[test]
    fn a_moment_is_behind_what_was_acknowledged_and_before_what_was_sent_later() {
        let mut script = Script::new();
        let (_, first) = script.write(0, 1);
        let (sent, second) = script.write(0, 2);
        script.write(0, 3);
        assert!(script.may_be(first + 1, &[1]) && !script.may_be(first + 1, &[2]) && !script.may_be(first + 1, &[0]));
        assert!(script.may_be(second, &[1]) && script.may_be(second, &[2]) && !script.may_be(second, &[3]));
        assert!(script.may_be(second + 1, &[2]) && !script.may_be(second + 1, &[1]));
        assert!(script.may_be(sent, &[1]) && !script.may_be(sent, &[2]));
    }

    #[test]
    fn a_moment_is_one_prefix() {
        let mut script = Script::new();
        script.write(0, 1);
        let submitted = script.tick();
        let late = script.history.submit(submitted, 8..16, Value::Data(WriteId(2)), false);
        let (_, third) = script.write(0, 3);
        let (_, fourth) = script.write(0, 4);
        let now = script.tick();
        script.history.answer(now, late, Outcome::Acknowledged);
        assert!(script.may_be(third + 1, &[3, 0]) && script.may_be(third + 1, &[3, 2]));
        assert!(!script.may_be(fourth + 1, &[3, 2]));
    }

    #[test]
    fn what_a_crash_has_taken_is_not_in_the_past_either_and_what_was_there_is_again() {
        let mut script = Script::new();
        script.write(0, 1);
        let flush = script.tick();
        let now = script.tick();
        script.history.flushed(flush, now);
        let (_, second) = script.write(0, 2);
        let (_, third) = script.write(1, 3);
        script.power_loss(&[2, 0]);
        assert!(!script.may_be(second + 1, &[0, 0]) && script.may_be(second + 1, &[2, 0]));
        // Nothing more is known than that the flushed is there.
        assert!(script.may_be(third + 1, &[2, 0]) && script.may_be(third + 1, &[1, 0]));
        assert!(!script.may_be(third + 1, &[1, 3]), "no prefix");
        let (_, fourth) = script.write(1, 4);
        assert!(script.may_be(fourth + 1, &[2, 4]) && !script.may_be(fourth + 1, &[2, 3]));
        let between = BeforeEvent(third + 2);
        assert!(script.past.image(&script.history, between, 0).is_none(), "it was down");
    }

    #[test]
    fn a_rollback_does_not_change_the_past() {
        let mut script = Script::new();
        let (_, first) = script.write(0, 1);
        let image = script.past.image(&script.history, BeforeEvent(first + 1), 1 << 20).expect("known");
        let (_, second) = script.write(0, 2);
        let before = script.history.clone();
        script.past.rollback_begun = Some(script.tick());
        script.history.become_image(&image);
        let now = script.tick();
        script.past.rolled_back(before, now);
        assert!(script.may_be(second + 1, &[2]) && !script.may_be(second + 1, &[1]));
        assert!(script.may_be(now + 1, &[1]) && !script.may_be(now + 1, &[2]));
        assert!(script.past.image(&script.history, BeforeEvent(now), 0).is_none(), "either may be");
    }

    #[test]
    fn sizes_are_those_that_it_may_have_had() {
        let mut past = Past::of_size(4096);
        past.resize_begins(5, 8192);
        past.resize_ends(Some(7));
        past.resize_begins(9, 12288);
        past.resize_ends(None);
        let at = |time| past.sizes_at(BeforeEvent(time));
        assert_eq!((at(5), at(6), at(8), at(20)), (vec![4096], vec![4096, 8192], vec![8192], vec![8192]));
    }
}
