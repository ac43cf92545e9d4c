//! What one vDisk may hold: every request since the last audit, and from these the values legal in each sector.
//!
//! Time is a counter of events in the order in which the clients saw them. Request `a` precedes `b` when `a` was
//! answered before `b` was submitted; everything else is concurrent and may take effect in either order, each 4 KiB
//! block whole, and some requests whole altogether.

mod image;
pub mod past;
pub mod recovered;

use super::pattern::{Foreign, SECTOR, Value, WriteId, decode};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

pub use image::{Image, SharedCut};

pub const SECTORS_PER_BLOCK: u64 = base::units::BLOCK / SECTOR;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Flush {
    submitted: Time,
    answered: Time,
}

/// A point in the order of events.
pub type Time = u64;

/// Index into `History::requests`; 0 is whatever was there at the last audit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RequestId(pub usize);

const BASE: RequestId = RequestId(0);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    UnderWay,
    Acknowledged,
    /// Refused in a way that says that nothing was done.
    Refused,
    /// Refused otherwise, or cut off by a crash: it took effect or not, block by block.
    Unknown,
}

#[derive(Clone, Debug)]
pub struct Request {
    pub value: Value,
    pub sectors: Range<u64>,
    pub submitted: Time,
    pub answered: Time,
    pub outcome: Outcome,
    pub fua: bool,
    /// All of it shows or nothing of it, not only block by block.
    pub whole: bool,
}

impl Request {
    fn precedes(&self, later: &Request) -> bool {
        self.outcome != Outcome::UnderWay && self.answered < later.submitted
    }
    fn acknowledged_before(&self, time: Time) -> bool {
        self.outcome == Outcome::Acknowledged && self.answered < time
    }
}

#[derive(Clone, Debug)]
struct Version {
    request: RequestId,
    value: Value,
    /// When a read first returned it.
    seen: Option<Time>,
    /// A later read returned something else: it cannot come back.
    gone: Option<Time>,
}

#[derive(Clone, Debug)]
pub struct History {
    /// What its sectors are marked with; differs from vDisk to vDisk, also between namesakes. A clone has that of its source:
    /// no write's number is used twice, so that what one of them wrote is not legal in the other.
    pub tag: u64,
    requests: Vec<Request>,
    versions: BTreeMap<u64, Vec<Version>>,
    /// Acknowledged flushes, each of which covered something new, in order of submission.
    flushes: Vec<Flush>,
    /// Whether anything was acknowledged since the last flush was submitted.
    unflushed: bool,
    /// Values of earlier audits, kept only while damage may bring them back.
    past: BTreeMap<u64, BTreeSet<Value>>,
    pub keeps_past: bool,
    /// A snapshot that is there proves that everything acknowledged before this time is, too: the log is in order.
    pub witnessed_until: Time,
    /// Writes that a compare-and-write has replaced, by sector, since the start.
    replaced: BTreeSet<(u64, WriteId)>,
    /// At the last recovery: what was acknowledged before this time was there.
    survived: Time,
}

impl History {
    pub fn new(tag: u64) -> Self {
        let mut history = History {
            tag,
            requests: Vec::new(),
            versions: BTreeMap::new(),
            flushes: Vec::new(),
            unflushed: false,
            past: BTreeMap::new(),
            keeps_past: false,
            witnessed_until: 0,
            replaced: BTreeSet::new(),
            survived: 0,
        };
        history.forget();
        history
    }

    fn forget(&mut self) {
        self.requests = vec![Request {
            value: Value::Zero,
            sectors: 0..u64::MAX,
            submitted: 0,
            answered: 0,
            outcome: Outcome::Acknowledged,
            fua: true,
            whole: false,
        }];
        self.flushes.clear();
        self.unflushed = false;
    }

    /// A write or zeroing of whole sectors begins. An empty range has no effect.
    pub fn submit(&mut self, now: Time, sectors: Range<u64>, value: Value, fua: bool) -> RequestId {
        let id = RequestId(self.requests.len());
        self.touch(sectors.clone());
        for sector in sectors.clone() {
            let versions = self.versions.get_mut(&sector).expect("touched above");
            versions.push(Version { request: id, value, seen: None, gone: None });
        }
        let request =
            Request { value, sectors, submitted: now, answered: 0, outcome: Outcome::UnderWay, fua, whole: false };
        self.requests.push(request);
        id
    }

    /// Something is written that changes nothing.
    pub fn touch(&mut self, sectors: Range<u64>) {
        for sector in sectors {
            let base = Version { request: BASE, value: Value::Zero, seen: None, gone: None };
            self.versions.entry(sector).or_insert_with(|| vec![base]);
        }
    }

    /// The request is small enough to be all or nothing.
    pub fn keep_whole(&mut self, id: RequestId) {
        self.requests[id.0].whole = true;
    }

    /// A compare-and-write that expected `bytes` from sector `first` on is about to be answered with success: they must have
    /// been there meanwhile, and each write can have been replaced by one such request only.
    pub fn replaced(&mut self, id: RequestId, now: Time, bytes: &[u8]) -> Result<(), String> {
        let Request { submitted, sectors, .. } = self.requests[id.0].clone();
        self.check_read(submitted, now, sectors.start, bytes)?;
        for (sector, bytes) in sectors.zip(bytes.chunks(SECTOR as usize)) {
            if let Ok(Value::Data(write)) = decode(self.tag, sector, bytes)
                && !self.replaced.insert((sector, write))
            {
                return Err(format!("sector {sector}: {write:?} was replaced twice{}", self.describe(sector)));
            }
        }
        Ok(())
    }

    /// Whether another request than `id` can have changed the sectors since `since`.
    pub fn may_have_changed(&self, id: RequestId, since: Time) -> bool {
        let sectors = &self.requests[id.0].sectors;
        let overlaps = |other: &Request| other.sectors.start < sectors.end && sectors.start < other.sectors.end;
        let is_new = |other: &Request| other.outcome == Outcome::UnderWay || other.answered > since;
        self.requests.iter().enumerate().skip(1).any(|(index, other)| index != id.0 && overlaps(other) && is_new(other))
    }

    pub fn answer(&mut self, now: Time, id: RequestId, outcome: Outcome) {
        let request = &mut self.requests[id.0];
        request.answered = now;
        request.outcome = outcome;
        self.unflushed |= outcome == Outcome::Acknowledged;
        if outcome == Outcome::Refused {
            for sector in request.sectors.clone() {
                let versions = self.versions.get_mut(&sector).expect("it was submitted");
                versions.retain(|version| version.request != id);
            }
        }
    }

    /// A flush that was submitted at `submitted` has been acknowledged.
    pub fn flushed(&mut self, submitted: Time, now: Time) {
        if self.unflushed {
            self.flushes.push(Flush { submitted, answered: now });
            self.flushes.sort_unstable();
            let all = |request: &Request| request.outcome != Outcome::Acknowledged || request.answered < submitted;
            self.unflushed = !self.requests.iter().all(all);
        }
    }

    /// The node died: what was under way may or may not have happened.
    pub fn crash(&mut self, now: Time) {
        for request in self.requests.iter_mut().filter(|request| request.outcome == Outcome::UnderWay) {
            request.outcome = Outcome::Unknown;
            request.answered = now;
        }
        // What was not flushed may be undone, and replaced once more.
        self.replaced.clear();
    }

    /// At the last recovery: what was acknowledged before this time was there.
    pub fn survived(&self) -> Time {
        self.survived
    }

    /// Sectors that were ever touched.
    pub fn touched(&self) -> impl Iterator<Item = u64> {
        self.versions.keys().copied()
    }

    /// A read submitted at `submitted` has returned `bytes`, beginning at `first`.
    pub fn check_read(&mut self, submitted: Time, now: Time, first: u64, bytes: &[u8]) -> Result<(), String> {
        let mut shown = BTreeMap::new();
        for (sector, bytes) in (first..).zip(bytes.chunks(SECTOR as usize)) {
            let value = decode(self.tag, sector, bytes).map_err(|foreign| self.foreign(sector, foreign))?;
            if let Some(request) = self.check_sector(submitted, now, sector, value)? {
                shown.insert(sector, request);
            }
        }
        check_blocks(&self.requests, &shown)
    }

    pub fn foreign(&self, sector: u64, foreign: Foreign) -> String {
        let what = match foreign {
            Foreign::Garbage => "bytes that nobody wrote".to_string(),
            Foreign::Elsewhere { vdisk, sector, write } => {
                format!("sector {sector} of vDisk tag {vdisk} as {write:?} left it")
            }
        };
        format!("sector {sector} of vDisk tag {}: {what}{}", self.tag, self.describe(sector))
    }

    /// Versions that a read that began at `since` and ends now may return.
    fn legal(&self, versions: &[Version], since: Time) -> Vec<usize> {
        // What surely took effect before the read began: acknowledged, or seen by an earlier read.
        let surely = |version: &&Version| {
            self.requests[version.request.0].acknowledged_before(since) || version.seen.is_some_and(|seen| seen < since)
        };
        let newest = versions.iter().filter(surely).map(|v| self.requests[v.request.0].submitted).max().unwrap_or(0);
        let legal = |index: &usize| {
            let version = &versions[*index];
            let request = &self.requests[version.request.0];
            let overwritten = request.outcome != Outcome::UnderWay && request.answered < newest;
            !overwritten && version.gone.is_none_or(|gone| gone >= since)
        };
        (0..versions.len()).filter(legal).collect()
    }

    /// Says which request the value comes from, if that is certain.
    fn check_sector(
        &mut self,
        submitted: Time,
        now: Time,
        sector: u64,
        value: Value,
    ) -> Result<Option<RequestId>, String> {
        let Some(versions) = self.versions.get(&sector) else {
            let untouched = || format!("sector {sector}: {value:?}, but it was never written");
            return if value == Value::Zero { Ok(Some(BASE)) } else { Err(untouched()) };
        };
        let is_value = |index: &usize| versions[*index].value == value;
        let found: Vec<usize> = self.legal(versions, submitted).into_iter().filter(is_value).collect();
        let [only] = found[..] else {
            let stale = || format!("sector {sector}: read {value:?}, which is not legal now{}", self.describe(sector));
            return if found.is_empty() { Err(stale()) } else { Ok(None) };
        };
        let requests = &self.requests;
        let versions = self.versions.get_mut(&sector).expect("found above");
        for (index, version) in versions.iter_mut().enumerate() {
            let request = &requests[version.request.0];
            let over = request.outcome != Outcome::UnderWay && request.answered < submitted;
            if index == only {
                version.seen.get_or_insert(now);
            } else if over || version.seen.is_some_and(|seen| seen < submitted) {
                version.gone.get_or_insert(now);
            }
        }
        Ok(Some(versions[only].request))
    }

    /// The requests that touched a sector, for a report.
    fn describe(&self, sector: u64) -> String {
        let mut text = String::new();
        for version in self.versions.get(&sector).into_iter().flatten() {
            let request = &self.requests[version.request.0];
            text += &format!(
                "\n      {:?} by request {} on sectors {}..{}, submitted {}, answered {} ({:?}){}, seen {:?}",
                version.value,
                version.request.0,
                request.sectors.start,
                request.sectors.end,
                request.submitted,
                request.answered,
                request.outcome,
                if request.fua { ", fua" } else { "" },
                version.seen,
            );
        }
        text + &format!("\n      flushes submitted at {:?}", self.flushes)
    }
}

/// Each block is whole, and each request that is to be: one that shows in one sector of it has taken effect in all
/// that it covers, so that what shows there instead came later.
fn check_blocks(requests: &[Request], shown: &BTreeMap<u64, RequestId>) -> Result<(), String> {
    for (sector, request) in shown.iter().filter(|(_, request)| **request != BASE) {
        let block = sector / SECTORS_PER_BLOCK * SECTORS_PER_BLOCK;
        let covered = &requests[request.0].sectors;
        let whole = requests[request.0].whole;
        let unit = if whole { covered.clone() } else { block..block + SECTORS_PER_BLOCK };
        for (other_sector, other) in shown.range(unit) {
            if other == request || !covered.contains(other_sector) {
                continue;
            }
            let (here, there) = (&requests[request.0], &requests[other.0]);
            let same_block = other_sector / SECTORS_PER_BLOCK == sector / SECTORS_PER_BLOCK;
            // It shows there, so it came later, and then it would show here as well.
            let should_show = there.sectors.contains(sector) && (there.whole || same_block);
            if *other == BASE || there.precedes(here) || should_show {
                let what = if same_block { "block" } else { "write" };
                return Err(format!(
                    "torn {what} at sector {block}: sector {sector} is {here:?}, but sector {other_sector} is {there:?}"
                ));
            }
        }
    }
    Ok(())
}
