//! The bytes of one simulated file in 4 KiB pages: what the kernel shows, what the medium holds, and every version
//! between the two that power loss may leave behind.

use crate::rng::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

pub const PAGE: u64 = 4096;
const SECTOR: usize = 512;
/// Versions of a page kept between two syncs. A page that is rewritten more often loses one of the middle.
const VERSIONS_MAX: usize = 12;

/// `None` is a hole: zeros that take no space.
pub type Content = Option<Rc<[u8; PAGE as usize]>>;

/// Orders writes against syncs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Stamp(pub u64);

/// What power loss does to versions that were not synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Survival {
    /// Only what was synced is left.
    Nothing,
    /// Everything happened to have been written.
    Everything,
    /// Any subset, each page whole.
    Pages,
    /// Any subset of 512-byte sectors.
    Sectors,
    /// As `Pages`, and now and then a page that was not synced holds garbage: a write torn inside the device.
    Garbage,
}

#[derive(Clone, Default)]
struct Page {
    /// What reads see.
    content: Content,
    medium: Content,
    /// Oldest first; the last one is `content`. Empty: clean, whether or not the medium agrees (after a failed sync).
    versions: Vec<(Stamp, Content)>,
}

#[derive(Clone, Default)]
pub struct Pages {
    pages: BTreeMap<u64, Page>,
    dirty: BTreeSet<u64>,
    /// Clean, but the medium holds something else: a failed sync forgot them.
    forgotten: BTreeSet<u64>,
    size: u64,
    size_durable: u64,
    sizes: Vec<(Stamp, u64)>,
}

/// The pages that `[offset, end)` touches, each with the part of it that is meant.
pub fn pieces(offset: u64, end: u64) -> impl Iterator<Item = (u64, usize, usize)> {
    (offset / PAGE..end.div_ceil(PAGE)).map(move |page| {
        let start = page * PAGE;
        (page, offset.saturating_sub(start) as usize, (end - start).min(PAGE) as usize)
    })
}

pub fn bytes_of(content: &Content) -> [u8; PAGE as usize] {
    content.as_ref().map_or([0; PAGE as usize], |page| **page)
}

impl Pages {
    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn content(&self, page: u64) -> Content {
        self.pages.get(&page).and_then(|page| page.content.clone())
    }

    pub fn is_allocated(&self, page: u64) -> bool {
        self.pages.get(&page).is_some_and(|page| page.content.is_some())
    }

    pub fn allocated_pages(&self) -> u64 {
        self.pages.values().filter(|page| page.content.is_some()).count() as u64
    }

    pub fn set(&mut self, index: u64, content: Content, stamp: Stamp) {
        let page = self.pages.entry(index).or_default();
        page.content = content.clone();
        if page.versions.len() == VERSIONS_MAX {
            page.versions.remove(VERSIONS_MAX / 2);
        }
        page.versions.push((stamp, content));
        self.dirty.insert(index);
        self.forgotten.remove(&index);
    }

    pub fn grow(&mut self, size: u64, stamp: Stamp) {
        if size > self.size {
            self.size = size;
            self.sizes.push((stamp, size));
        }
    }

    /// `[start, end)` of consecutive pages that take space, cut at the file's size.
    pub fn ranges(&self) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for index in self.pages.iter().filter(|(_, page)| page.content.is_some()).map(|(index, _)| *index) {
            let (start, end) = (index * PAGE, ((index + 1) * PAGE).min(self.size));
            match ranges.last_mut() {
                _ if start >= end => {}
                Some(last) if last.1 == start => last.1 = end,
                _ => ranges.push((start, end)),
            }
        }
        ranges
    }

    /// Dirty pages that a sync started at `stamp` is answerable for.
    pub fn dirty_at(&self, stamp: Stamp) -> Vec<u64> {
        let covered = |index: &&u64| self.pages[index].versions.first().is_some_and(|(first, _)| *first <= stamp);
        self.dirty.iter().filter(covered).copied().collect()
    }

    /// Everything up to `stamp` reaches the medium, except the pages in `lost`: those are clean like the others, but
    /// the medium keeps what it had.
    pub fn sync(&mut self, stamp: Stamp, lost: &BTreeSet<u64>) {
        for index in self.dirty_at(stamp) {
            let page = self.pages.get_mut(&index).expect("a dirty page exists");
            let newest = page.take_versions(stamp).pop();
            if !lost.contains(&index) {
                page.medium = newest.expect("dirty_at saw one").1;
            } else if page.versions.is_empty() {
                page.content = page.medium.clone();
            }
            if page.versions.is_empty() {
                self.dirty.remove(&index);
            }
        }
        while self.sizes.first().is_some_and(|(first, _)| *first <= stamp) {
            self.size_durable = self.sizes.remove(0).1;
        }
    }

    /// A sync that failed: every page up to `stamp` is clean now; which of them reached the medium is chance, and
    /// `evict` says whether the kernel also dropped its copy at once.
    pub fn fail_sync(&mut self, stamp: Stamp, evict: bool, rng: &mut Rng) {
        for index in self.dirty_at(stamp) {
            let page = self.pages.get_mut(&index).expect("a dirty page exists");
            let mut covered = page.take_versions(stamp);
            let survivor = rng.below(covered.len() as u64 * 2) as usize;
            if survivor < covered.len() {
                page.medium = covered.swap_remove(survivor).1;
            }
            if page.versions.is_empty() {
                self.dirty.remove(&index);
                self.forgotten.insert(index);
            }
        }
        if evict {
            self.evict();
        }
    }

    /// The kernel drops its copy of clean pages; where a failed sync forgot some, the medium shows through.
    pub fn evict(&mut self) {
        for index in std::mem::take(&mut self.forgotten) {
            let page = self.pages.get_mut(&index).expect("a forgotten page exists");
            page.content = page.medium.clone();
        }
    }

    /// Versions of these pages are dropped before any of them can reach the medium.
    pub fn forget(&mut self, lost: &BTreeSet<u64>, stamp: Stamp) {
        for index in lost {
            if let Some(page) = self.pages.get_mut(index) {
                page.take_versions(stamp);
                page.content = page.medium.clone();
                self.dirty.remove(index);
            }
        }
    }

    pub fn lose_power(&mut self, survival: Survival, rng: &mut Rng) {
        self.evict();
        for index in std::mem::take(&mut self.dirty) {
            let page = self.pages.get_mut(&index).expect("a dirty page exists");
            page.lose_power(survival, rng);
        }
        let mut sizes: Vec<u64> = std::iter::once(self.size_durable).chain(self.sizes.drain(..).map(|s| s.1)).collect();
        self.size = match survival {
            Survival::Nothing => sizes.swap_remove(0),
            Survival::Everything => sizes.pop().expect("the durable size is one"),
            _ => *rng.pick(&sizes).expect("the durable size is one"),
        };
        self.size_durable = self.size;
        self.cut_at_size();
    }

    /// Nothing is readable beyond the size; what was allocated there stays so.
    fn cut_at_size(&mut self) {
        let size = self.size;
        for (index, page) in self.pages.range_mut(size / PAGE..) {
            let keep = size.saturating_sub(index * PAGE).min(PAGE) as usize;
            if let Some(content) = &mut page.content {
                Rc::make_mut(content)[keep..].fill(0);
            }
            page.medium = page.content.clone();
        }
    }

    /// Damages a page at rest; what it was is gone. `None` if the file has no bytes.
    pub fn rot(&mut self, rng: &mut Rng) -> Option<u64> {
        let clean: Vec<u64> = self.pages.iter().filter(|(_, p)| p.content.is_some()).map(|(i, _)| *i).collect();
        let index = *rng.pick(&clean)?;
        let page = self.pages.get_mut(&index).expect("just listed");
        let mut bytes = bytes_of(&page.content);
        let bit = rng.below(PAGE * 8);
        bytes[bit as usize / 8] ^= 1 << (bit % 8);
        page.content = Some(Rc::new(bytes));
        page.medium = page.content.clone();
        page.versions.clear();
        self.dirty.remove(&index);
        Some(index * PAGE + bit / 8)
    }
}

impl Page {
    fn take_versions(&mut self, stamp: Stamp) -> Vec<(Stamp, Content)> {
        let later = self.versions.iter().position(|(s, _)| *s > stamp).unwrap_or(self.versions.len());
        self.versions.drain(..later).collect()
    }

    fn lose_power(&mut self, survival: Survival, rng: &mut Rng) {
        let mut candidates = vec![self.medium.clone()];
        candidates.extend(self.versions.drain(..).map(|version| version.1));
        self.content = match survival {
            Survival::Nothing => candidates.swap_remove(0),
            Survival::Everything => candidates.pop().expect("the medium is one"),
            Survival::Pages => rng.pick(&candidates).expect("the medium is one").clone(),
            Survival::Sectors => Some(Rc::new(mixed_sectors(&candidates, rng))),
            Survival::Garbage if rng.below(8) == 0 => Some(Rc::new(garbage(rng))),
            Survival::Garbage => rng.pick(&candidates).expect("the medium is one").clone(),
        };
        self.medium = self.content.clone();
    }
}

fn mixed_sectors(candidates: &[Content], rng: &mut Rng) -> [u8; PAGE as usize] {
    let mut mixed = [0; PAGE as usize];
    for (number, sector) in mixed.chunks_exact_mut(SECTOR).enumerate() {
        let source = rng.pick(candidates).expect("the medium is one");
        if let Some(page) = source {
            sector.copy_from_slice(&page[number * SECTOR..][..SECTOR]);
        }
    }
    mixed
}

pub fn garbage(rng: &mut Rng) -> [u8; PAGE as usize] {
    let mut bytes = [0; PAGE as usize];
    bytes.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&rng.next_u64().to_le_bytes()));
    bytes
}
