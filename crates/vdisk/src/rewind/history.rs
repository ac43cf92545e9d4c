//! What is of note in the history: points, quiet moments, bursts of overwriting. Read from the headers of the log, and from
//! the map of the first point, which says what was there to be overwritten.

use super::past::Pin;
use super::points::KnownPoint;
use super::walk::Walk;
use crate::Result;
use crate::address::Address;
use crate::log::Position;
use crate::map::{FANOUT, NeedPage, Tree};
use crate::recovery::replay::{Addresses, Change, Replayed};
use crate::snapshot::Kept;
use crate::vdisk::Vdisk;
use base::Sequence;
use base::units::{BLOCK, MIB};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// Nothing was written for so long: 10 s, twice as long as file systems keep what they are about to write (ext4: 5 s).
const QUIET_NS: u64 = 10_000_000_000;
/// Overwriting is counted by spans of this length, ns.
const SPAN_NS: u64 = 10_000_000_000;
/// The vDisk's own normal is the mean of so many spans before: ten minutes. With fewer than the least there is none yet.
const SPANS: usize = 60;
const SPANS_MIN: usize = 6;
/// A burst is this many times the normal, and at least so much: what overwrites files one by one writes tens of MiB a second.
const BURST_FACTOR: u64 = 8;
const BURST_BYTES_MIN: u64 = 64 * MIB;

/// Something of note.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Point {
    pub kind: PointKind,
    /// Wall time.
    pub at_ns: u64,
    /// [`super::Moment::Before`] this is the moment.
    pub sequence: Sequence,
    /// How long it was quiet, or the burst lasted.
    pub len_ns: u64,
    /// What was written since the moment before in the list; of a burst what it has overwritten.
    pub bytes: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PointKind {
    /// The log is read from here: quickly had.
    Checkpoint,
    /// Nothing was written for a while after it.
    Quiet,
    /// Far more than usual was overwritten from here on.
    Overwriting,
}

impl Vdisk {
    /// What is of note between two wall times, in the order of the log.
    pub async fn history(self: &Rc<Self>, from_ns: u64, to_ns: u64) -> Result<Vec<Point>> {
        // The normal is that of what comes before.
        let early_ns = from_ns.saturating_sub(SPANS as u64 * SPAN_NS);
        loop {
            let points = self.points();
            let first = points.iter().rposition(|point| point.through_ns <= early_ns).unwrap_or(0);
            let Some(begin) = points.get(first) else { return Ok(Vec::new()) };
            let _pin = Pin::new(self, begin, None);
            self.flush().await?;
            let until = self.state.borrow().durable;
            match self.point_record(begin.id).await {
                Ok((record, kept)) => {
                    let found = self.read_history(&points[first..], record.covers, kept, until).await;
                    let mut found = found.map_err(|error| self.unless_deleted(error))?;
                    found.retain(|point| (from_ns..=to_ns).contains(&point.at_ns));
                    found.sort_by_key(|point| point.sequence);
                    return Ok(found);
                }
                // It went before it was stored. What is left of the window, which may be nothing, begins with a later one.
                Err(_) if !self.points().iter().any(|point| point.id == begin.id) => {}
                Err(error) => return Err(self.unless_deleted(error)),
            }
        }
    }

    /// From the first of the points on.
    async fn read_history(
        self: &Rc<Self>,
        points: &[KnownPoint],
        from: Position,
        kept: Kept,
        until: Position,
    ) -> Result<Vec<Point>> {
        let mut at = from;
        let mut reader = Reader::new(self, Tree::new(kept.root, kept.height, self.context.load.map.clone()));
        let mut marks: VecDeque<_> = points.iter().copied().collect();
        let mut walk = Walk::between(self, at, until).await?;
        loop {
            while marks.front().is_some_and(|mark| mark.sequence <= at.sequence) {
                let mark = marks.pop_front().expect("looked at it");
                reader.mark(mark.created_ns, mark.sequence.next());
            }
            let Some(frame) = walk.next().await? else { break };
            at = frame.at;
            reader.frame(&frame).await?;
        }
        reader.end(self.context.world.clock.wall().0);
        Ok(reader.found)
    }
}

struct Reader<'a> {
    vdisk: &'a Vdisk,
    /// As of the first point.
    tree: Tree,
    /// What is mapped, by leaf: as of the first point when it is first asked for.
    mapped: BTreeMap<u64, [u64; FANOUT / 64]>,
    found: Vec<Point>,
    /// The last frame with writes: its wall time, and the number behind it.
    last: Option<(u64, Sequence)>,
    bytes: u64,
    span: Option<Span>,
    /// Overwritten in the spans before, bursts left out.
    before: VecDeque<u64>,
    burst: Option<Point>,
}

struct Span {
    start_ns: u64,
    first: (u64, Sequence),
    overwritten: u64,
}

impl<'a> Reader<'a> {
    fn new(vdisk: &'a Vdisk, tree: Tree) -> Reader<'a> {
        let (mapped, found, before) = (BTreeMap::new(), Vec::new(), VecDeque::new());
        Reader { vdisk, tree, mapped, found, last: None, bytes: 0, span: None, before, burst: None }
    }

    fn mark(&mut self, at_ns: u64, sequence: Sequence) {
        let bytes = std::mem::take(&mut self.bytes);
        self.found.push(Point { kind: PointKind::Checkpoint, at_ns, sequence, len_ns: 0, bytes });
    }

    async fn frame(&mut self, frame: &Replayed) -> Result<()> {
        let Change::Runs(runs) = &frame.change else { return Ok(()) };
        self.quiet_until(frame.wall_ns);
        self.last = Some((frame.wall_ns, frame.sequence.next()));
        self.spans_until(frame);
        for (block, addresses) in runs.iter() {
            match addresses {
                Addresses::Data(new) | Addresses::Copied(new) => self.written(*block, new.len() as u64).await?,
                Addresses::Clear(count, _) => self.cleared(*block, *count),
            }
        }
        Ok(())
    }

    fn quiet_until(&mut self, now_ns: u64) {
        let Some((at_ns, sequence)) = self.last else { return };
        let len_ns = now_ns.saturating_sub(at_ns);
        if len_ns >= QUIET_NS {
            let bytes = std::mem::take(&mut self.bytes);
            self.found.push(Point { kind: PointKind::Quiet, at_ns, sequence, len_ns, bytes });
        }
    }

    /// Closes the spans that end before the frame.
    fn spans_until(&mut self, frame: &Replayed) {
        if let Some(span) = &self.span {
            let passed = frame.wall_ns.saturating_sub(span.start_ns) / SPAN_NS;
            if passed == 0 {
                return;
            }
            self.close_span();
            // Spans in which nothing was written.
            for _ in 1..passed.min(SPANS as u64) {
                self.close_burst();
                self.remember(0);
            }
        }
        let start_ns = frame.wall_ns / SPAN_NS * SPAN_NS;
        self.span = Some(Span { start_ns, first: (frame.wall_ns, frame.sequence), overwritten: 0 });
    }

    fn close_span(&mut self) {
        let Some(span) = self.span.take() else { return };
        let normal = self.before.iter().sum::<u64>() / (self.before.len() as u64).max(1);
        let is_burst = self.before.len() >= SPANS_MIN
            && span.overwritten >= BURST_BYTES_MIN.max(normal.saturating_mul(BURST_FACTOR));
        if !is_burst {
            self.close_burst();
            return self.remember(span.overwritten);
        }
        let (at_ns, sequence) = span.first;
        let burst =
            self.burst.get_or_insert(Point { kind: PointKind::Overwriting, at_ns, sequence, len_ns: 0, bytes: 0 });
        burst.bytes += span.overwritten;
        burst.len_ns = (span.start_ns + SPAN_NS).saturating_sub(burst.at_ns);
    }

    fn close_burst(&mut self) {
        self.found.extend(self.burst.take());
    }

    fn remember(&mut self, overwritten: u64) {
        self.before.push_back(overwritten);
        if self.before.len() > SPANS {
            self.before.pop_front();
        }
    }

    async fn written(&mut self, block: u64, count: u64) -> Result<()> {
        self.bytes += count * BLOCK;
        for block in block..block + count {
            let leaf = block / FANOUT as u64;
            if !self.mapped.contains_key(&leaf) {
                let mapped = self.mapped_in(leaf).await?;
                self.mapped.insert(leaf, mapped);
            }
            let words = self.mapped.get_mut(&leaf).expect("put there");
            let (word, bit) = (block as usize % FANOUT / 64, 1 << (block % 64));
            if words[word] & bit != 0 {
                self.span.iter_mut().for_each(|span| span.overwritten += BLOCK);
            }
            words[word] |= bit;
        }
        Ok(())
    }

    /// (What is cleared in a leaf that nothing was written to before counts as it was: too much is seen, not too little.)
    fn cleared(&mut self, block: u64, count: u64) {
        let first = block / FANOUT as u64;
        let last = (block + count).div_ceil(FANOUT as u64);
        for (leaf, words) in self.mapped.range_mut(first..last) {
            for at in 0..FANOUT {
                if (block..block + count).contains(&(leaf * FANOUT as u64 + at as u64)) {
                    words[at / 64] &= !(1 << (at % 64));
                }
            }
        }
    }

    async fn mapped_in(&mut self, leaf: u64) -> Result<[u64; FANOUT / 64]> {
        let mut words = [0; FANOUT / 64];
        if leaf >> (8 * u32::from(self.tree.height - 1)) != 0 {
            return Ok(words);
        }
        let mut entries = [Address::NONE; FANOUT];
        loop {
            let need: NeedPage = match self.tree.lookup_run(leaf * FANOUT as u64, &mut entries) {
                Ok(()) => break,
                Err(need) => need,
            };
            let page = self.vdisk.page_entries(need).await?;
            self.tree.attach(need, &page);
        }
        let stored = entries.iter().enumerate().filter(|(_, entry)| entry.is_stored());
        stored.for_each(|(at, _)| words[at / 64] |= 1 << (at % 64));
        // Each leaf is looked at once.
        let mut hand = 0;
        self.tree.evict(&mut hand, u64::MAX);
        Ok(words)
    }

    fn end(&mut self, now_ns: u64) {
        self.quiet_until(now_ns);
        self.close_span();
        self.close_burst();
    }
}
