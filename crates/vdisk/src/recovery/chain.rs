//! Reading a log back: frames in order from a position on, through group after group, and at a fork the right branch.
//!
//! A fork is two continuations of one position. It comes from a rewrite: after a failed sync, or by a recovery, frames
//! that were not provably stored are appended once more under the same sequence numbers, in a group that names the last
//! frame before them. While the rewrite is not complete, the first copy is the longer one and holds everything; once the
//! rewrite has gone on with frames of its own, the first copy is void.

use super::read::read_checkpoint;
use super::replay::{Replayed, all, take};
use super::{Found, PlacedRecord};
use crate::log::frame::{FrameKind, RunKind};
use crate::log::{CheckpointRecord, GroupWalk, Position, Record, Step, WalkedFrame};
use crate::vdisk::{Context, meta_hint};
use crate::{Kind, Result};
use base::{Epoch, GroupId, Sequence, VdiskId};
use pool::{GroupHeader, HEADER_PAGE};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::rc::Rc;

/// Windows ahead in a group that is walked when it is its turn: enough to keep a disk busy.
const WINDOWS_AHEAD: usize = 4;
/// Groups that are walked side by side: headers far from each other are read one by one, and a disk wants several at a time. Where
/// frames are small each has one window ahead, 12 MiB in all.
const LANES: usize = 6;
/// Shorter logs are walked group by group: a thousand of them may be read at once.
const LONG_LOG: usize = 3;

/// The log of one vDisk as its groups are on the disk.
pub(super) struct Chain<'a> {
    context: &'a Context,
    id: VdiskId,
    /// Groups by the group that they continue; `NONE`: the first of a log. Newest first.
    continuations: BTreeMap<GroupId, Vec<GroupHeader>>,
    headers: &'a [GroupHeader],
    /// Groups that were walked before it was their turn, each with where it was entered.
    walked: RefCell<BTreeMap<GroupId, (Entry, Vec<Replayed>)>>,
    /// The log that was followed last has a fork.
    forked: Cell<bool>,
}

/// Orders groups by when they were made.
type Age = (Epoch, GroupId);

fn age(header: &GroupHeader) -> Age {
    (header.epoch, header.group)
}

/// Where a group that continues the log is entered.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Entry {
    group: GroupId,
    offset: u32,
    /// What its first frame continues.
    at: Position,
}

/// What is known to be synced while a log is followed.
#[derive(Clone, Copy)]
struct Pass {
    /// Frames up to this one are taken by their headers.
    through: Sequence,
    /// Frames up to this one were synced, in one branch or another.
    proof: Sequence,
}

impl<'a> Chain<'a> {
    pub fn new(context: &'a Context, id: VdiskId, found: &'a Found) -> Chain<'a> {
        let mut continuations: BTreeMap<GroupId, Vec<GroupHeader>> = BTreeMap::new();
        for header in &found.headers {
            let before = header.predecessor.map_or(GroupId::NONE, |predecessor| predecessor.group);
            continuations.entry(before).or_default().push(*header);
        }
        for groups in continuations.values_mut() {
            groups.sort_unstable_by_key(|header| std::cmp::Reverse(age(header)));
        }
        Chain {
            context,
            id,
            continuations,
            headers: &found.headers,
            walked: RefCell::default(),
            forked: Cell::default(),
        }
    }

    /// Every frame behind `start` that continues the chain. `proof`: frames up to this one were synced, so that a bad
    /// checksum in one of them is rot and not where the log ends.
    pub async fn follow(&self, start: Position, proof: Sequence) -> Result<Vec<Replayed>> {
        let entry = Entry { group: start.group, offset: start.end, at: start };
        self.walk_ahead(entry, proof).await;
        self.forked.set(false);
        let mut frames = self.branch(entry, Pass { through: proof, proof }).await;
        self.walked.borrow_mut().clear();
        if self.forked.get() {
            // A proof is a number, and two branches have the same numbers. The payload of the one that was given up may be
            // what a failed sync took, so it is looked at.
            frames = self.branch(entry, Pass { through: Sequence(0), proof }).await;
        }
        frames
    }

    /// Walks the groups from `entry` to the newest side by side, since their headers say where each is entered. Best effort:
    /// a group that cannot be read now, or turns out to be entered elsewhere, is walked when it is its turn.
    async fn walk_ahead(&self, entry: Entry, proof: Sequence) {
        let entries = self.entries_from(entry);
        if entries.len() < LONG_LOG {
            return;
        }
        let next = Cell::new(0);
        let lane = async || {
            while let Some(entry) = entries.get(next.replace(next.get() + 1)) {
                let mut frames = Vec::new();
                if self.walk_group(*entry, proof, 1, &mut frames).await.is_ok() {
                    self.walked.borrow_mut().insert(entry.group, (*entry, frames));
                }
            }
            Ok(())
        };
        // Nothing in it fails.
        let _ = all((0..LANES).map(|_| lane()).collect()).await;
    }

    /// The groups on the way back from the newest one to `entry`, oldest first; none if the way does not lead there.
    fn entries_from(&self, entry: Entry) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut header = self.headers.iter().max_by_key(|header| age(header));
        while let Some(here) = header.filter(|here| here.group != entry.group && entries.len() < self.headers.len()) {
            let Some(before) = here.predecessor else { return Vec::new() };
            let sequence = Sequence(here.first_sequence.0.saturating_sub(1));
            let at = Position { group: before.group, end: before.sealed_len, chain: before.chain, sequence };
            entries.push(Entry { group: here.group, offset: HEADER_PAGE, at });
            header = self.headers.iter().find(|other| other.group == before.group);
        }
        if header.is_none_or(|last| last.group != entry.group) {
            return Vec::new();
        }
        entries.push(entry);
        entries.reverse();
        entries
    }

    /// From `entry` on. Recursion is as deep as there are forks, of which each rewrite makes one.
    fn branch(&self, entry: Entry, pass: Pass) -> Pin<Box<dyn Future<Output = Result<Vec<Replayed>>> + '_>> {
        Box::pin(async move {
            let (mut entry, mut frames) = (entry, Vec::new());
            loop {
                let first = frames.len();
                self.walk_group(entry, pass.through, WINDOWS_AHEAD, &mut frames).await?;
                let next = self.next_groups(entry, &frames[first..]);
                match next[..] {
                    [] => return Ok(frames),
                    [(kept, header)] if first + kept == frames.len() => {
                        let at = frames.last().map_or(entry.at, |frame| frame.at);
                        entry = Entry { group: header.group, offset: HEADER_PAGE, at };
                    }
                    _ => {
                        let own = frames.split_off(first);
                        self.forked.set(true);
                        frames.extend(self.at_fork(entry, own, next, pass).await?);
                        return Ok(frames);
                    }
                }
            }
        })
    }

    async fn walk_group(
        &self,
        entry: Entry,
        proof: Sequence,
        windows: usize,
        frames: &mut Vec<Replayed>,
    ) -> Result<()> {
        let walked = self.walked.borrow_mut().remove(&entry.group);
        if let Some((_, walked)) = walked.filter(|(entered, _)| *entered == entry) {
            frames.extend(walked);
            return Ok(());
        }
        if entry.group.is_none() || !self.context.pool.knows(entry.group) {
            return Ok(());
        }
        let pool = self.context.pool.clone();
        let walk = GroupWalk::new(pool, self.id, entry.group, entry.at, entry.offset, u32::MAX);
        // What the payload of a synced frame is worth is decided when it is read.
        let mut walk = walk.reading_ahead(windows).headers_through(proof);
        let mut before = entry.at;
        while let Step::Frame(walked) = walk.next().await? {
            let at = walked.position();
            frames.push(take(*walked, before)?);
            before = at;
        }
        Ok(())
    }

    /// The groups that continue the entered one, newest first, each with the number of `frames` that it keeps.
    fn next_groups(&self, entry: Entry, frames: &[Replayed]) -> Vec<(usize, GroupHeader)> {
        let Some(continuations) = self.continuations.get(&entry.group) else { return Vec::new() };
        let keeps = |header: &GroupHeader| -> Option<usize> {
            let continues = |at: &Position| {
                header.first_sequence == at.sequence.next()
                    && header.predecessor.map(|p| (p.group, p.sealed_len, p.chain))
                        == (!at.group.is_none()).then_some((at.group, at.end, at.chain))
            };
            if continues(&entry.at) {
                return Some(0);
            }
            frames.iter().position(|frame| continues(&frame.at)).map(|last| last + 1)
        };
        continuations.iter().filter_map(|header| keeps(header).map(|kept| (kept, *header))).collect()
    }

    /// One of several branches: the newest, unless an older one has the same frames and more of them.
    async fn at_fork(
        &self,
        entry: Entry,
        own: Vec<Replayed>,
        next: Vec<(usize, GroupHeader)>,
        pass: Pass,
    ) -> Result<Vec<Replayed>> {
        let mut best: Option<Vec<Replayed>> = None;
        for (kept, header) in next {
            let mut frames = own[..kept].to_vec();
            let at = frames.last().map_or(entry.at, |frame| frame.at);
            frames.extend(self.branch(Entry { group: header.group, offset: HEADER_PAGE, at }, pass).await?);
            best = Some(better(best, frames, pass.proof));
        }
        Ok(better(best, own, pass.proof))
    }

    /// The last checkpoint that the log proves to be synced: a frame behind it says so. Its map, and the data that the
    /// map refers to, are on the medium then, and nothing that it needs was freed: [`crate::reclaim`] frees only what a
    /// checkpoint with such a proof does not need. With the frames behind what it covers.
    pub async fn last_proven_checkpoint(&self, proof: Sequence) -> Result<Option<(PlacedRecord, Vec<Replayed>)>> {
        // What groups say to be synced, with their age. An older one may mean another branch with the same numbers.
        let mut said: Vec<(Age, Sequence)> = Vec::new();
        for (header, limit) in self.newest_first() {
            // Where they are only: a group has hundreds, of a terabyte each of 650 KB in memory.
            let (mut places, mut durable) = (Vec::new(), header.durable_through);
            let mut walk = GroupWalk::headers(self.context.pool.clone(), self.id, header.group, limit);
            while let Step::Frame(walked) = walk.next().await? {
                durable = durable.max(walked.frame.durable_through);
                places.extend(checkpoint_in(&walked).map(|(_, place)| place));
            }
            said.push((age(&header), durable));
            let since = said.iter().filter(|(other, _)| *other >= age(&header)).map(|(_, durable)| *durable);
            let proven = since.max().unwrap_or_default();
            for place in places.into_iter().rev().filter(|place| place.sequence <= proven) {
                let record = match read_checkpoint(self.context, self.id, place).await {
                    Ok(record) => record,
                    Err(error) if error.kind == Kind::Io => return Err(error),
                    // Not what it was a moment ago.
                    Err(_) => continue,
                };
                let frames = self.follow(record.covers, proof).await?;
                let at = (place.group, place.offset, place.sequence);
                if frames.iter().any(|frame| (frame.at.group, frame.offset, frame.sequence) == at) {
                    return Ok(Some(((record, place), frames)));
                }
            }
        }
        Ok(None)
    }

    /// The newest group and back from it along the predecessors, each with the length up to which the next one continues
    /// it. Then the same from the newest that is left: a power loss can take a group that was not synced and leave one
    /// that continues it. (A branch of what was seen already may be among them: no checkpoint in it
    /// is one of the log.)
    fn newest_first(&self) -> Vec<(GroupHeader, u32)> {
        let mut left: BTreeMap<GroupId, GroupHeader> =
            self.headers.iter().map(|header| (header.group, *header)).collect();
        let mut all = Vec::with_capacity(left.len());
        while let Some(newest) = left.values().max_by_key(|header| age(header)).map(|header| header.group) {
            let mut chain = Vec::new();
            let mut next = Some((newest, u32::MAX));
            while let Some((group, limit)) = next
                && let Some(header) = left.remove(&group)
            {
                chain.push((header, limit));
                next = header.predecessor.map(|before| (before.group, before.sealed_len));
            }
            all.extend(chain);
            if next.is_none() {
                // Back to the birth: everything else is a branch.
                break;
            }
        }
        all
    }

    /// The latest checkpoint record in any group, connected or not.
    pub async fn any_checkpoint(&self) -> Result<Option<PlacedRecord>> {
        let mut last: Option<PlacedRecord> = None;
        for header in self.headers {
            let mut walk = GroupWalk::headers(self.context.pool.clone(), self.id, header.group, u32::MAX);
            while let Step::Frame(walked) = walk.next().await? {
                let Some(found) = checkpoint_in(&walked) else { continue };
                if last.as_ref().is_none_or(|(_, place)| place.sequence < found.1.sequence) {
                    last = Some(found);
                }
            }
        }
        Ok(last)
    }

    /// The first group of the log is there.
    pub fn has_beginning(&self) -> bool {
        self.continuations.contains_key(&GroupId::NONE)
    }
}

/// `newer`, continued by `older` if that holds the same frames and more of them. What both have is taken from the newer,
/// of which more is known to be synced.
fn better(newer: Option<Vec<Replayed>>, older: Vec<Replayed>, proof: Sequence) -> Vec<Replayed> {
    let Some(mut newer) = newer else { return older };
    let newer_reach = newer.iter().take_while(|frame| frame.whole || frame.sequence <= proof).count();
    let older_reach = older.iter().take_while(|frame| frame.whole).count();
    let agrees = || newer.iter().zip(&older).take(newer_reach).all(|(again, first)| again.repeats(first));
    if older_reach > newer_reach && agrees() {
        newer.truncate(newer_reach);
        newer.extend(older.into_iter().skip(newer_reach));
    }
    newer
}

/// The whole checkpoint record in a frame, with its place.
fn checkpoint_in(walked: &WalkedFrame) -> Option<(CheckpointRecord, meta_hint::Place)> {
    let frame = &walked.frame;
    let is_control = |run: &&crate::log::frame::Run| run.kind == RunKind::Control && frame.kind == FrameKind::Control;
    let run = frame.runs.first().filter(is_control).filter(|_| walked.payload_is_whole())?;
    let Ok(Record::Checkpoint(record)) = Record::decode(&walked.payload(run)) else { return None };
    let place = meta_hint::Place { group: frame.group, offset: frame.offset, len: frame.len, sequence: frame.sequence };
    Some((Rc::unwrap_or_clone(record), place))
}
