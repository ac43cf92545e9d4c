//! After a crash: is what an audit found one of the states that the floor allows?

use super::{BASE, History, Outcome, Request, RequestId, Time, Version, check_blocks};
use crate::oracle::pattern::Value;
use std::collections::{BTreeMap, BTreeSet};

/// How much must be left after a crash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Floor {
    /// Everything acknowledged: the process died, the machine did not.
    Acknowledged,
    /// Everything flushed, and of the rest a prefix.
    Flushed,
    /// As `Flushed`, up to the last flush that later frames bear witness of: one damaged place may hide the rest.
    FlushedBefore,
    /// Any prefix, and any older value: damage was reported.
    Nothing,
}

/// Everything acknowledged before this time has survived; and the sector that proves it, if it is not the floor.
type Cut = (Time, Option<u64>);

/// A sector that an audit read: its value, or nothing if the read failed with a medium error.
pub type Observed = BTreeMap<u64, Option<Value>>;

impl History {
    /// After a crash and a recovery: is what an audit saw a legal state? If so it becomes the new base.
    pub fn check_recovered(&mut self, floor: Floor, now: Time, observed: &Observed) -> Result<(), String> {
        let witnessed = if floor <= Floor::Flushed { self.witnessed_until } else { 0 };
        let mut cut = (self.certain_until(floor, now).max(witnessed), None);
        let shown = loop {
            let (shown, needed) = self.explain(floor, cut, observed)?;
            if needed.0 <= cut.0 {
                break shown;
            }
            cut = needed;
        };
        check_blocks(&self.requests, &shown)?;
        self.survived = cut.0;
        self.rebase(observed);
        Ok(())
    }

    /// Everything acknowledged before this time must have survived.
    fn certain_until(&self, floor: Floor, now: Time) -> Time {
        let fua = |request: &&Request| request.fua && request.outcome == Outcome::Acknowledged;
        let fua = self.requests.iter().filter(fua).map(|request| request.submitted).max().unwrap_or(0);
        match floor {
            Floor::Acknowledged => now,
            Floor::Flushed => fua.max(self.flushes.last().map_or(0, |flush| flush.submitted)),
            Floor::FlushedBefore => self.proven_flush().unwrap_or(0),
            Floor::Nothing => 0,
        }
    }

    /// The last flush that something flushed later can bear witness of: a request that was submitted after the flush
    /// had been answered, and was itself flushed.
    fn proven_flush(&self) -> Option<Time> {
        let last = self.flushes.last()?.submitted;
        let is_witness = |request: &&Request| request.acknowledged_before(last) && !request.sectors.is_empty();
        let witnessed = self.requests.iter().filter(is_witness).map(|request| request.submitted).max()?;
        self.flushes.iter().filter(|flush| flush.answered < witnessed).map(|flush| flush.submitted).max()
    }

    /// Finds for each sector the requests it can have come from if everything acknowledged before `cut` survived, and
    /// the cut that this in turn implies: the log is in order, so what was acknowledged before a survivor was even
    /// submitted has survived too.
    fn explain(
        &self,
        floor: Floor,
        (cut, cause): Cut,
        seen: &Observed,
    ) -> Result<(BTreeMap<u64, RequestId>, Cut), String> {
        let mut shown = BTreeMap::new();
        let mut needed = (cut, cause);
        let reaches_back = match floor {
            Floor::Acknowledged | Floor::Flushed => false,
            Floor::FlushedBefore => self.proven_flush().is_none(),
            Floor::Nothing => true,
        };
        let of_the_past = |sector: u64, value: Value| {
            reaches_back && self.past.get(&sector).is_some_and(|past| past.contains(&value))
        };
        for (sector, value) in seen.iter().filter_map(|(sector, value)| value.map(|value| (*sector, value))) {
            if of_the_past(sector, value) {
                continue; // It may be older than the base, and then says nothing about what came after it.
            }
            let base = [Version { request: BASE, value: Value::Zero, seen: None, gone: None }];
            let versions = self.versions.get(&sector).map_or(&base[..], Vec::as_slice);
            let survives = |request: &&Request| {
                request.acknowledged_before(cut)
                    || floor <= Floor::Flushed && request.fua && request.outcome == Outcome::Acknowledged
            };
            let requests = versions.iter().map(|version| &self.requests[version.request.0]);
            let newest = requests.filter(survives).map(|request| request.submitted).max().unwrap_or(0);
            let legal = |version: &&Version| {
                let request = &self.requests[version.request.0];
                let overwritten = request.outcome != Outcome::UnderWay && request.answered < newest;
                version.value == value && !overwritten
            };
            let found: Vec<RequestId> = versions.iter().filter(legal).map(|version| version.request).collect();
            match found[..] {
                [] => {
                    let cause = cause.map_or(String::new(), |sector| {
                        format!("\n    because of a survivor in sector {sector}:{}", self.describe(sector))
                    });
                    return Err(format!(
                        "sector {sector} of vDisk tag {} holds {value:?} after recovery, which is not legal: {floor:?}, \
                         everything acknowledged before {cut} must be there{}{cause}",
                        self.tag,
                        self.describe(sector)
                    ));
                }
                [only] => {
                    shown.insert(sector, only);
                }
                _ => {}
            }
            let implied = found.iter().map(|id| self.requests[id.0].submitted).min().unwrap_or(0);
            if implied > needed.0 {
                needed = (implied, Some(sector));
            }
        }
        Ok((shown, needed))
    }

    /// Damage may bring these back.
    pub(super) fn remember(&mut self, old: &BTreeMap<u64, Vec<Version>>) {
        for (sector, versions) in old {
            let past = self.past.entry(*sector).or_insert_with(|| BTreeSet::from([Value::Zero]));
            past.extend(versions.iter().map(|version| version.value));
        }
    }

    fn rebase(&mut self, observed: &Observed) {
        let old = std::mem::take(&mut self.versions);
        if self.keeps_past {
            self.remember(&old);
        }
        self.forget();
        let version = |value| Version { request: BASE, value, seen: None, gone: None };
        for (sector, value) in observed {
            match value {
                Some(Value::Zero) | None if !old.contains_key(sector) => {}
                Some(value) => {
                    self.versions.insert(*sector, vec![version(*value)]);
                }
                // Unreadable now: still any of what it could have been.
                None => {
                    let values: BTreeSet<Value> =
                        old.get(sector).into_iter().flatten().map(|version| version.value).collect();
                    self.versions.insert(*sector, values.into_iter().map(version).collect());
                }
            }
        }
    }
}
