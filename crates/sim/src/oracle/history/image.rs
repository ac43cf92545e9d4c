//! What a snapshot may hold: one cut of its vDisk's order of requests, somewhere between the snapshot's request and its
//! answer.
//!
//! For each sector it keeps every value that was legal at some point of that time; each read through the snapshot, or of
//! what came of it, narrows that down: what was shown once stays. And all that was shown must fit one cut: what is in was
//! submitted before it, what is not in although it was acknowledged was answered after it. Snapshots of one set share
//! their cut, which is how writes that caused each other on different vDisks are told.

use super::{BASE, History, Outcome, Request, RequestId, Time, Version, check_blocks};
use crate::oracle::pattern::{Foreign, SECTOR, Value, decode};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// The cut lies behind the first and before the second of these times.
pub type SharedCut = Rc<Cell<(Time, Time)>>;

#[derive(Clone, Debug)]
pub struct Image {
    /// What the sectors are marked with.
    pub tag: u64,
    pub size_bytes: u64,
    requests: Vec<Request>,
    sectors: BTreeMap<u64, Vec<Version>>,
    cut: SharedCut,
}

impl History {
    /// The image of a snapshot that was asked for at the beginning of `cut` and is answered now, at its end.
    pub fn capture(&self, cut: SharedCut, size_bytes: u64) -> Image {
        let (since, _) = cut.get();
        let sectors = self.versions.iter().map(|(sector, versions)| {
            let legal = self.legal(versions, since).into_iter().map(|index| versions[index].clone());
            (*sector, legal.collect())
        });
        Image::new(self, size_bytes, sectors.collect(), cut)
    }

    /// A new vDisk with the content of a snapshot.
    pub fn of_image(image: &Image) -> History {
        let mut history = History::new(image.tag);
        history.become_image(image);
        history
    }

    /// The content is that of a snapshot from now on, durably; what was there before is over.
    pub fn become_image(&mut self, image: &Image) {
        let base = |value| Version { request: BASE, value, seen: None, gone: None };
        let old = std::mem::take(&mut self.versions);
        if self.keeps_past {
            self.remember(&old);
        }
        self.forget();
        self.replaced.clear();
        // What the snapshot does not know reads as zeros; it stays touched, so that it is looked at.
        self.versions = old.keys().map(|sector| (*sector, vec![base(Value::Zero)])).collect();
        for (sector, versions) in &image.sectors {
            let values: BTreeSet<Value> = versions.iter().map(|version| version.value).collect();
            self.versions.insert(*sector, values.into_iter().map(base).collect());
        }
    }

    /// What the content came from is known better by now.
    pub fn narrow(&mut self, image: &Image) {
        for (sector, versions) in &mut self.versions {
            versions.retain(|version| version.request != BASE || image.values(*sector).contains(&version.value));
        }
    }

    /// What a sector may hold, for somebody who looks between `since` and now.
    pub fn values(&self, sector: u64, since: Time) -> BTreeSet<Value> {
        match self.versions.get(&sector) {
            Some(versions) => self.legal(versions, since).into_iter().map(|index| versions[index].value).collect(),
            None => BTreeSet::from([Value::Zero]),
        }
    }
}

impl Image {
    pub(super) fn new(of: &History, size_bytes: u64, sectors: BTreeMap<u64, Vec<Version>>, cut: SharedCut) -> Image {
        Image { tag: of.tag, size_bytes, requests: of.requests.clone(), sectors, cut }
    }

    /// What a sector may hold.
    pub fn values(&self, sector: u64) -> BTreeSet<Value> {
        match self.sectors.get(&sector) {
            Some(versions) => versions.iter().map(|version| version.value).collect(),
            None => BTreeSet::from([Value::Zero]),
        }
    }

    pub fn cut(&self) -> SharedCut {
        self.cut.clone()
    }

    /// Sectors that were ever touched.
    pub fn touched(&self) -> impl Iterator<Item = u64> {
        self.sectors.keys().copied()
    }

    /// Everything that was acknowledged before this time is in.
    pub fn certain_until(&self) -> Time {
        self.cut.get().0
    }

    /// Bytes that were read from sector `first` on.
    pub fn check(&mut self, first: u64, bytes: &[u8]) -> Result<(), String> {
        let mut observed = BTreeMap::new();
        for (sector, bytes) in (first..).zip(bytes.chunks(SECTOR as usize)) {
            let value = decode(self.tag, sector, bytes).map_err(|foreign| foreign_text(sector, &foreign))?;
            observed.insert(sector, value);
        }
        self.check_values(&observed)
    }

    pub fn check_values(&mut self, observed: &BTreeMap<u64, Value>) -> Result<(), String> {
        let mut shown = BTreeMap::new();
        for (sector, value) in observed {
            if let Some(request) = self.check_sector(*sector, *value)? {
                shown.insert(*sector, request);
            }
        }
        check_blocks(&self.requests, &shown)
    }

    /// Says which request the value comes from, if that is certain.
    fn check_sector(&mut self, sector: u64, value: Value) -> Result<Option<RequestId>, String> {
        let Some(versions) = self.sectors.get(&sector) else {
            let untouched = || format!("sector {sector}: {value:?}, but it was never written");
            return if value == Value::Zero { Ok(Some(BASE)) } else { Err(untouched()) };
        };
        let found: Vec<RequestId> = versions.iter().filter(|v| v.value == value).map(|v| v.request).collect();
        if found.is_empty() {
            return Err(format!(
                "sector {sector} shows {value:?}, which is not in this snapshot{}",
                self.describe(sector)
            ));
        }
        let only = if let [only] = found[..] { Some(only) } else { None };
        if let Some(only) = only {
            self.move_cut(sector, only)?;
        }
        let versions = self.sectors.get_mut(&sector).expect("found above");
        versions.retain(|version| version.value == value);
        Ok(only)
    }

    /// `only` is in, and whatever must have replaced it there is not.
    fn move_cut(&self, sector: u64, only: RequestId) -> Result<(), String> {
        let shown = &self.requests[only.0];
        let others = self.sectors[&sector].iter().map(|version| &self.requests[version.request.0]);
        let left_out = others.filter(|other| other.outcome == Outcome::Acknowledged && shown.precedes(other));
        let before = left_out.map(|other| other.answered).min().unwrap_or(Time::MAX);
        let (after, until) = self.cut.get();
        let (after, before) = (after.max(shown.submitted), until.min(before));
        if after >= before {
            return Err(format!(
                "the snapshot is of no one instant: sector {sector} shows request {}, so that all in it would have \
                 to be submitted before {before}, but something in it, or in another one of its set, was at {after}{}",
                only.0,
                self.describe(sector)
            ));
        }
        self.cut.set((after, before));
        Ok(())
    }

    /// What may be in a sector, for a report.
    fn describe(&self, sector: u64) -> String {
        let mut text = String::new();
        for version in self.sectors.get(&sector).into_iter().flatten() {
            let Request { sectors, submitted, answered, outcome, .. } = &self.requests[version.request.0];
            let (value, number) = (version.value, version.request.0);
            text += &format!(
                "\n      {value:?} by request {number} on sectors {sectors:?}, submitted {submitted}, answered {answered} ({outcome:?})"
            );
        }
        text + &format!("\n      the cut lies within {:?}", self.cut.get())
    }
}

fn foreign_text(sector: u64, foreign: &Foreign) -> String {
    format!("sector {sector} of a snapshot: {foreign:?}")
}
