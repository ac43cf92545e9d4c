//! What the log of a vDisk says: the checkpoint to start from, the frames behind it, how far they are proven to be synced,
//! and what is missing.

use super::chain::Chain;
use super::replay::{self, Change, Replayed};
use super::{Found, PlacedRecord};
use crate::address::Address;
use crate::checkpoint::accounts_of;
use crate::image::NeededGroups;
use crate::log::frame::{FrameKind, RunKind};
use crate::log::{
    CheckpointRecord, GroupWalk, Position, Record, SnapshotEntry, Step, Unsynced, WalkedFrame, frames_beyond,
};
use crate::map::Tree;
use crate::rewind::History;
use crate::snapshot::Snapshot;
use crate::vdisk::{Attributes, Checkpoint, Context, State, Vdisk, meta_hint};
use crate::{Error, Kind, Result};
use base::units::BLOCK;
use base::{GroupId, Sequence, VdiskId};
use pool::GroupHeader;
use std::collections::VecDeque;
use std::rc::Rc;

/// What the log says.
pub(super) struct Read {
    pub record: Option<PlacedRecord>,
    pub start: Position,
    pub frames: Vec<Replayed>,
    /// Frames, from the first on, that something proves to be synced.
    pub proven: usize,
    /// Frames that stay where they are; the others are written again.
    pub stored: usize,
    pub unproven: VecDeque<Unsynced>,
    pub state: State,
    pub damage: String,
    pub tombstone: Option<GroupId>,
}

impl Read {
    pub fn is_complete(&self) -> bool {
        self.stored + self.unproven.len() == self.frames.len()
    }
}

pub(super) struct Recovery<'a> {
    pub context: &'a Context,
    pub id: VdiskId,
    pub found: &'a Found,
    pub damage: Vec<String>,
}

impl Recovery<'_> {
    pub async fn read(mut self) -> Result<Read> {
        let (record, mut frames) = self.read_log().await?;
        let start = record.as_ref().map_or(Position::default(), |(record, _)| record.covers);
        // Of the checkpoint that was chosen it is known that it is synced.
        let known = record.as_ref().map_or(Sequence(0), |(_, place)| place.sequence);
        let (cut, proof) = self.cut(start, &frames, known).await?;
        frames.truncate(frames.partition_point(|frame| frame.sequence <= cut.sequence));
        let proven = frames.partition_point(|frame| frame.sequence <= proof);
        let mut state = initial_state(self.context, record.as_ref());
        self.forget_freed_groups(&mut state);
        self.find_missing_sources(&frames);
        state.proof_logged = frames[..proven].iter().map(|frame| frame.durable).max().unwrap_or_default();
        let tombstone = if self.damage.is_empty() { self.cut_off_tombstone(cut).await? } else { None };
        let rewrites = self.damage.is_empty() && tombstone.is_none() && !self.found.look_only;
        let stored = if rewrites { proven } else { frames.len() };
        let unproven = replay::to_rewrite(self.context, &frames[stored..]).await?;
        Ok(Read { record, start, frames, proven, stored, unproven, state, damage: self.damage.join("; "), tombstone })
    }

    /// What anything but the frames themselves says to be synced.
    fn proof(&self) -> Sequence {
        let of_headers = self.found.headers.iter().map(|header| header.durable_through).max().unwrap_or_default();
        of_headers.max(self.found.clean_tail.unwrap_or_default()).max(self.synced_through())
    }

    fn synced_through(&self) -> Sequence {
        self.found.synced_through.map_or(Sequence(0), |(_, sequence)| sequence)
    }

    /// The checkpoint to start from, and every frame behind what it covers.
    async fn read_log(&mut self) -> Result<(Option<PlacedRecord>, Vec<Replayed>)> {
        let chain = Chain::new(self.context, self.id, self.found);
        let proof = self.proof();
        // What the index names was synced before the index was told, and nothing it needs is freed before a later one
        // is named.
        if let Some(hinted) = self.hinted_checkpoint().await? {
            let frames = chain.follow(hinted.0.covers, proof).await?;
            return Ok((Some(hinted), frames));
        }
        if let Some((record, frames)) = chain.last_proven_checkpoint(proof).await? {
            return Ok((Some(record), frames));
        }
        if chain.has_beginning() {
            return Ok((None, chain.follow(Position::default(), proof).await?));
        }
        // The first groups are gone, so there was a checkpoint. What the last one that can be found holds can be read.
        let Some(last) = chain.any_checkpoint().await? else {
            let text = format!("vDisk {}: no chain of groups leads back to its birth or to a checkpoint", self.id);
            return Err(Error::corrupt(text));
        };
        let covers = last.0.covers;
        self.damage.push(format!(
            "no chain of groups connects to the last checkpoint, which covers the log to {} {:#x}",
            covers.group, covers.end
        ));
        Ok((Some(last), Vec::new()))
    }

    /// `Io` is for another try: what cannot be read today may tomorrow.
    async fn hinted_checkpoint(&mut self) -> Result<Option<PlacedRecord>> {
        let Some(place) = self.found.checkpoint else { return Ok(None) };
        match read_checkpoint(self.context, self.id, place).await {
            Ok(record) => Ok(Some((record, place))),
            Err(error) if error.kind == Kind::Io => Err(error),
            Err(error) => {
                self.damage.push(format!("the last checkpoint cannot be read: {error}"));
                Ok(None)
            }
        }
    }

    /// The checkpoint's list has groups that were freed after it. One that was not empty should be there, though. While a
    /// header on the disk cannot be read, it may be that of a group in which only snapshots, clones and the history have
    /// something, or of which something was copied: such a one stays on the lists of checkpoints, or the next start would find a
    /// group that nobody knows, or that nobody holds.
    fn forget_freed_groups(&mut self, state: &mut State) {
        let gone: Vec<GroupId> =
            state.accounts.groups.keys().copied().filter(|group| !self.context.pool.knows(*group)).collect();
        for group in gone {
            let account = state.accounts.of(group);
            if account.live() > 0 {
                self.damage.push(format!("group {group} with {} bytes in use is missing", account.live()));
            }
            let is_listed = !account.is_foreign() || account.copied_at.is_some();
            if account.live() == 0 && self.found.unread.is_some() && is_listed {
                state.accounts.becomes_absent(group, account);
            } else {
                state.accounts.remove(group);
            }
            state.checkpoint_accounts.remove(group);
        }
    }

    /// Whoever takes anything over of a group holds it until a checkpoint behind that frame is proven, from which a recovery
    /// begins. What was deleted holds nothing.
    fn find_missing_sources(&mut self, frames: &[Replayed]) {
        let is_deleted =
            |frame: &Replayed| matches!(&frame.change, Change::Record(record) if **record == Record::Delete);
        if frames.last().is_some_and(is_deleted) {
            return;
        }
        for frame in frames {
            let mut missing = frame.taken_over().map(|extent| extent.group());
            if let Some(group) = missing.find(|group| !self.context.pool.knows(*group)) {
                let number = frame.sequence.0;
                self.damage
                    .push(format!("group {group}, of which frame {number} has taken something over, is missing"));
            }
        }
    }

    /// The group of the delete record, if there is one behind groups that are missing: a deletion was cut short while it
    /// freed them. (It was synced before the first of them was freed; what a power loss took left no such record.)
    async fn cut_off_tombstone(&self, cut: Position) -> Result<Option<GroupId>> {
        let is_there = |group: GroupId| self.found.headers.iter().any(|header| header.group == group);
        let is_cut_off = |header: &&GroupHeader| {
            header.first_sequence > cut.sequence && header.predecessor.is_some_and(|before| !is_there(before.group))
        };
        let mut behind: Vec<GroupHeader> = self.found.headers.iter().filter(is_cut_off).copied().collect();
        while let Some(more) = self.found.headers.iter().find(|header| {
            let follows = |other: &GroupHeader| header.predecessor.is_some_and(|before| before.group == other.group);
            behind.iter().any(follows) && !behind.iter().any(|other| other.group == header.group)
        }) {
            behind.push(*more);
        }
        Vdisk::find_tombstone(self.context, self.id, &behind).await
    }

    /// Groups that are newer than the one in which the chain ends, and whose own way back is broken, may say that more was
    /// synced.
    async fn proof_beyond(&self, end: GroupId) -> Result<Sequence> {
        let mut proof = Sequence(0);
        let age = |header: &GroupHeader| (header.epoch, header.group);
        let last = self.found.headers.iter().find(|header| header.group == end).map(age);
        for header in self.found.headers.iter().filter(|header| Some(age(header)) > last) {
            let mut walk = GroupWalk::headers(self.context.pool.clone(), self.id, header.group, u32::MAX);
            while let Step::Frame(walked) = walk.next().await? {
                proof = proof.max(walked.frame.durable_through);
            }
        }
        Ok(proof)
    }

    /// The last frame that counts: whole, and with everything before it whole, as far as it was not known to be synced.
    /// And through which frame the log is known to be synced.
    async fn cut(&mut self, start: Position, walked: &[Replayed], known: Sequence) -> Result<(Position, Sequence)> {
        let end = walked.last().map_or(start, |frame| frame.at);
        let mut proof = self.proof().max(known).max(walked.iter().map(|frame| frame.durable).max().unwrap_or_default());
        if self.found.clean_tail.is_none() && !end.group.is_none() && self.context.pool.knows(end.group) {
            proof = proof.max(frames_beyond(&self.context.pool, self.id, end.group, end.end).await?.durable);
        }
        proof = proof.max(self.proof_beyond(end.group).await?);
        let mut cut = end;
        for frame in walked.iter().filter(|frame| !frame.whole) {
            if frame.sequence > proof {
                cut = frame.before;
                break;
            }
            if let FrameKind::Control = frame.kind {
                self.damage.push(format!("control frame {} fails its checksum", frame.sequence.0));
            }
        }
        if cut.sequence < proof {
            let headers: Vec<_> =
                self.found.headers.iter().map(|h| (h.group, h.epoch.0, h.first_sequence.0, h.predecessor)).collect();
            let frames: Vec<_> =
                walked.iter().map(|f| (f.sequence.0, f.at.group, f.at.end, f.whole, f.durable.0)).collect();
            tracing::debug!(vdisk = %self.id, ?start, ?headers, ?frames, found = ?(self.found.synced_through, self.found.clean_tail, self.found.checkpoint), "the log is shorter than it was");
            self.damage.push(format!(
                "the log can be read through frame {} only, but was synced through frame {} ({} at {:#x})",
                cut.sequence.0, proof.0, cut.group, cut.end
            ));
        }
        if let Some((group, sequence)) = self.found.synced_through.filter(|(group, _)| !group.is_none()) {
            let is_other = |frame: &Replayed| frame.sequence == sequence && frame.at.group != group;
            if !self.context.pool.knows(group) && walked.iter().any(is_other) {
                self.damage.push(format!("group {group}, which holds the synced frame {}, is missing", sequence.0));
            }
        }
        match &self.found.unread {
            Some(unread) if self.found.synced_through.is_none() && self.found.clean_tail.is_none() => {
                self.damage.push(format!("{unread}, and it may hold the newest frames of this vDisk"));
            }
            _ => {}
        }
        Ok((cut, proof))
    }
}

/// The checkpoint record of the vDisk at `place`, checked.
pub(crate) async fn read_checkpoint(
    context: &Context,
    vdisk: VdiskId,
    place: meta_hint::Place,
) -> Result<CheckpointRecord> {
    match read_record(context, vdisk, place).await? {
        Record::Checkpoint(record) => Ok(Rc::unwrap_or_clone(record)),
        _ => Err(Error::corrupt(format!("another record lies at {} {:#x}", place.group, place.offset))),
    }
}

/// What a kept map needs of each group, as the record at `place` says that keeps it.
pub(crate) async fn needed_at(context: &Context, vdisk: VdiskId, place: meta_hint::Place) -> Result<NeededGroups> {
    match read_record(context, vdisk, place).await? {
        Record::Checkpoint(record) => Ok(record.needed()),
        Record::Past(past) => Ok(past.image.groups),
        _ => Err(Error::corrupt(format!("another record lies at {} {:#x}", place.group, place.offset))),
    }
}

async fn read_record(context: &Context, vdisk: VdiskId, place: meta_hint::Place) -> Result<Record> {
    let bytes = context.pool.read(place.group, place.offset, place.len).await?;
    let frame = crate::log::frame::decode(&bytes).map_err(|error| Error::corrupt(error.to_string()))?;
    let bad = |what: &str| Error::corrupt(format!("checkpoint record at {} {:#x}: {what}", place.group, place.offset));
    if frame.len != place.len {
        return Err(bad("its length is not the one on record"));
    }
    if frame.vdisk != vdisk || frame.sequence != place.sequence || frame.group != place.group {
        return Err(bad("a frame of something else lies there"));
    }
    let run = frame.runs.first().copied().ok_or_else(|| bad("no payload"))?;
    let walked = WalkedFrame { frame, bytes };
    if run.kind != RunKind::Control || !walked.payload_is_whole() {
        return Err(bad("its payload fails the checksum"));
    }
    Record::decode(&walked.payload(&run)).map_err(|error| bad(&error.to_string()))
}

fn initial_state(context: &Context, record: Option<&PlacedRecord>) -> State {
    let memory = context.load.map.clone();
    let Some((record, place)) = record else {
        let nameless =
            Attributes { name: String::new(), size_bytes: 0, sector_bytes: 512, read_only: false, created_ns: 0 };
        return State::new(nameless, Tree::new(Address::NONE, 1, memory));
    };
    let accounts = accounts_of(record);
    let mut tree = Tree::new(record.root, record.height, memory);
    tree.grow(record.attributes.size_bytes / BLOCK);
    let mut state = State::new(record.attributes.clone(), tree);
    state.notes = record.notes.clone();
    state.lineage = record.lineage.clone();
    let snapshot = |entry: &SnapshotEntry| (entry.record.id, Snapshot::of_entry(entry, *place, &context.references));
    state.snapshots = record.snapshots.iter().map(snapshot).collect();
    state.history = History::of_checkpoint(record);
    state.checkpoint_accounts = accounts.clone();
    state.accounts = accounts;
    state.checkpoint =
        Some(Checkpoint { covers: record.covers, root: record.root, height: record.height, place: *place });
    state
}
