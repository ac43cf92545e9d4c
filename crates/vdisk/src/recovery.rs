//! Recovery: from the groups of a vDisk back to its state, after a clean stop, a kill or a power loss.
//!
//! Newest group header → back along the predecessors to the last checkpoint → forward again, frame by frame. Where the
//! chain ends is the tail, unless anything that survived says that more had been synced: then it is rot, and the vDisk
//! is served read-only. Nothing on the disk is changed here, so a crash during recovery changes nothing either; the
//! recovered tail is never appended to, the next frame opens a new group that names it.

use crate::account::{Accounts, GroupAccount};
use crate::address::Address;
use crate::checkpoint::accounts_of;
use crate::log::frame::{FrameKind, RunKind};
use crate::log::{
    CheckpointRecord, GroupWalk, Position, Queue, Record, Step, WalkedFrame, apply_record, frame_beyond, run_addresses,
};
use crate::map::{NeedPage, Tree};
use crate::vdisk::{Attributes, Checkpoint, Context, Health, Index, State, Vdisk, meta_hint};
use crate::{Error, Result};
use base::units::BLOCK;
use base::{GroupId, Sequence, VdiskId};
use pool::{GroupHeader, HEADER_PAGE, SlabId};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// What is known of a vDisk before its log is read.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Headers of all its groups, in any order.
    pub headers: Vec<GroupHeader>,
    /// Where the metadata store says that the last checkpoint is.
    pub checkpoint: Option<meta_hint::Place>,
    /// The last frame, if the vDisk was closed cleanly and nothing can follow it.
    pub clean_tail: Option<Sequence>,
    /// The metadata store knows that the log was synced at least this far. A newest group whose header rotted is no group
    /// any more, and the log would look shorter without anything missing.
    pub synced_through: Option<Sequence>,
}

pub struct Recovered {
    pub vdisk: Rc<Vdisk>,
    /// Groups of this vDisk that nothing needs any more; to be freed in this order.
    pub void: Vec<GroupId>,
    pub replayed_frames: u64,
    pub replayed_bytes: u64,
    /// Frames behind the last checkpoint that were cut off as an unsynced tail: 0 or more, as far as they can be seen.
    pub checkpoint: Option<meta_hint::Place>,
    pub attributes: Attributes,
}

/// A run of the log to be applied again.
struct Replayed {
    sequence: Sequence,
    /// The frame's `durable_through`.
    durable: Sequence,
    before: Position,
    at: Position,
    whole: bool,
    change: Change,
}

enum Change {
    Runs(Vec<(u64, Addresses)>),
    Record(Box<Record>),
    /// Pages and fillers: nothing to do.
    Nothing,
}

enum Addresses {
    Data(Vec<Address>),
    Clear(u64, Address),
}

impl Vdisk {
    /// Rebuilds the vDisk from its groups and starts its tasks. An error means that not even a read-only view can be had.
    pub async fn recover(context: Context, index: Rc<dyn Index>, id: VdiskId, found: Found) -> Result<Recovered> {
        let started = context.world.now();
        let clean = found.clean_tail.is_some();
        if !clean {
            // What the process before us wrote may be in the kernel only. After this sync, what is read back from the
            // medium is proof of what is stored.
            let mut slabs: Vec<SlabId> = found.headers.iter().filter_map(|h| context.pool.slab_of(h.group)).collect();
            slabs.sort_unstable();
            slabs.dedup();
            context.pool.sync(&slabs).await?;
        }
        let mut recovery = Recovery { context: &context, id, found: &found, damage: Vec::new() };
        let (path, record) = recovery.path_and_checkpoint().await?;
        let mut walked = recovery.walk(&path, record.as_ref().map(|(record, _)| record)).await?;
        let start = record.as_ref().map_or(Position::default(), |(record, _)| record.covers);
        if !clean {
            recovery.take_longer_first_copy(&path, start, &mut walked).await?;
        }
        let cut = recovery.cut(start, &walked).await?;
        let mut state = initial_state(&context, record.as_ref());
        recovery.forget_freed_groups(&mut state);
        let damage = recovery.damage.join("; ");
        let mut bytes = 0;
        let mut frames = 0;
        let vdisk = Vdisk::assemble(context.clone(), index, id, state);
        for frame in walked.into_iter().take_while(|frame| frame.sequence <= cut.sequence) {
            // A checkpoint's own pages and record lie behind what it covers: passed over, not replayed.
            if !matches!(frame.change, Change::Nothing) {
                let from = if frame.before.group == frame.at.group { frame.before.end } else { HEADER_PAGE };
                frames += 1;
                bytes += u64::from(frame.at.end.saturating_sub(from));
            }
            vdisk.replay(frame).await?;
        }
        {
            let mut state = vdisk.state.borrow_mut();
            state.position = cut;
            state.durable = cut;
            state.acknowledged = cut.sequence;
            if !damage.is_empty() && state.health == Health::Online {
                tracing::error!(vdisk = %id, name = state.attributes.name, damage, "the log is damaged; serving reads only");
                state.health = Health::Damaged(damage);
            }
        }
        let load = &context.load.log_bytes;
        load.set(load.get() + vdisk.state.borrow().log_bytes);
        vdisk.stats.replayed_bytes.set(bytes);
        vdisk.stats.replay_ns.set(context.world.now().since_ns(started));
        let void = vdisk.void_groups(&found, cut);
        vdisk.start();
        if !clean && vdisk.state.borrow().log_bytes > 0 {
            vdisk.arm_quiet_checkpoint();
        }
        Ok(Recovered {
            void,
            replayed_frames: frames,
            replayed_bytes: bytes,
            checkpoint: record.map(|(_, place)| place),
            attributes: vdisk.attributes(),
            vdisk,
        })
    }

    /// Applies one frame again, as the log task did.
    async fn replay(&self, frame: Replayed) -> Result<()> {
        let len = frame.at.end - if frame.before.group == frame.at.group { frame.before.end } else { HEADER_PAGE };
        {
            let mut state = self.state.borrow_mut();
            state.accounts.appended(frame.at.group, frame.at.end, frame.sequence);
            if !matches!(frame.change, Change::Nothing) {
                state.log_bytes += u64::from(len);
            }
        }
        match frame.change {
            Change::Nothing => {}
            Change::Record(record) => apply_record(&mut self.state.borrow_mut(), &record),
            Change::Runs(runs) => {
                for (block, addresses) in runs {
                    while let Err(need) = self.replay_run(block, &addresses) {
                        self.load(need).await?;
                    }
                }
            }
        }
        Ok(())
    }

    fn replay_run(&self, block: u64, addresses: &Addresses) -> std::result::Result<(), NeedPage> {
        let mut state = self.state.borrow_mut();
        let State { tree, accounts, .. } = &mut *state;
        match addresses {
            Addresses::Clear(count, fill) => {
                tree.clear(block, *count, *fill, &mut |old: Address| accounts.data_dead(old.group(), old.len()))
            }
            Addresses::Data(new) => {
                tree.check_run(block, new.len() as u64)?;
                tree.set_run(block, new, &mut |old: Address| accounts.data_dead(old.group(), old.len()))?;
                if let Some(first) = new.first() {
                    accounts.data_live(first.group(), new.len() as u32 * BLOCK as u32);
                }
                Ok(())
            }
        }
    }

    /// Groups on the disk that the recovered state does not know. None of a damaged vDisk: they may be what is missing.
    fn void_groups(&self, found: &Found, cut: Position) -> Vec<GroupId> {
        let state = self.state.borrow();
        let mut ids: Vec<GroupId> = found.headers.iter().map(|header| header.group).collect();
        ids.sort_unstable();
        match &state.health {
            Health::Damaged(_) | Health::Failed(_) => Vec::new(),
            Health::Online => ids.into_iter().filter(|id| !state.accounts.groups.contains_key(id)).collect(),
            Health::Deleted => {
                // The tombstone's group goes last: while any other survives, it must say that they are to go.
                ids.retain(|id| *id != cut.group);
                ids.push(cut.group);
                ids
            }
        }
    }
}

fn initial_state(context: &Context, record: Option<&(CheckpointRecord, meta_hint::Place)>) -> State {
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
    state.checkpoint_accounts = accounts.clone();
    state.accounts = accounts;
    state.checkpoint =
        Some(Checkpoint { covers: record.covers, root: record.root, height: record.height, place: *place });
    state
}

impl State {
    pub(crate) fn new(attributes: Attributes, tree: Tree) -> State {
        State {
            attributes,
            health: Health::Online,
            tree,
            accounts: Accounts::default(),
            position: Position::default(),
            durable: Position::default(),
            acknowledged: Sequence(0),
            tombstone: None,
            unsynced: VecDeque::new(),
            unsynced_bytes: 0,
            open: None,
            new_sector: true,
            failed_slabs: Vec::new(),
            checkpoint: None,
            checkpoint_failed: false,
            checkpoint_accounts: Accounts::default(),
            log_bytes: 0,
            emptied: Default::default(),
            unreadable: Default::default(),
            rewrites: 0,
            evict_hand: 0,
        }
    }
}

struct Recovery<'a> {
    context: &'a Context,
    id: VdiskId,
    found: &'a Found,
    damage: Vec<String>,
}

impl Recovery<'_> {
    /// The groups from the one with the last checkpoint's position to the newest, oldest first.
    async fn path_and_checkpoint(
        &mut self,
    ) -> Result<(Vec<GroupHeader>, Option<(CheckpointRecord, meta_hint::Place)>)> {
        let hinted = self.hinted_checkpoint().await;
        let by_id: BTreeMap<GroupId, GroupHeader> = self.found.headers.iter().map(|h| (h.group, *h)).collect();
        let mut candidates: Vec<GroupHeader> = self.found.headers.clone();
        candidates.sort_unstable_by_key(|header| std::cmp::Reverse((header.epoch, header.group)));
        for newest in &candidates {
            let chain = back_from(*newest, &by_id);
            // What the index names was synced before the index was told, and nothing it needs is freed before a later one
            // is named.
            let checkpoint = match &hinted {
                Some(checkpoint) => Some(checkpoint.clone()),
                None => self.latest_checkpoint(&chain).await?,
            };
            if let Some(path) = connect(&chain, checkpoint.as_ref().map(|(record, _)| &record.covers)) {
                return Ok((path, checkpoint));
            }
        }
        // Groups are missing in between. What the last checkpoint that can be found holds can still be read.
        let last = match hinted {
            Some(checkpoint) => Some(checkpoint),
            None => self.any_checkpoint().await?,
        };
        if let Some(checkpoint) = last {
            let headers: Vec<_> = self.found.headers.iter().map(|h| (h.group, h.epoch.0, h.predecessor)).collect();
            let covers = checkpoint.0.covers;
            tracing::debug!(vdisk = %self.id, ?covers, ?headers, "nothing connects");
            self.damage.push(format!(
                "no chain of groups connects to the last checkpoint, which covers the log to {} {:#x}",
                covers.group, covers.end
            ));
            return Ok((Vec::new(), Some(checkpoint)));
        }
        Err(Error::corrupt(format!("vDisk {}: no chain of groups leads back to its birth or to a checkpoint", self.id)))
    }

    async fn hinted_checkpoint(&mut self) -> Option<(CheckpointRecord, meta_hint::Place)> {
        let place = self.found.checkpoint?;
        match self.read_checkpoint(place).await {
            Ok(record) => Some((record, place)),
            Err(error) => {
                self.damage.push(format!("the last checkpoint cannot be read: {error}"));
                None
            }
        }
    }

    async fn read_checkpoint(&self, place: meta_hint::Place) -> Result<CheckpointRecord> {
        let bytes = self.context.pool.read(place.group, place.offset, place.len).await?;
        let frame = crate::log::frame::decode(&bytes).map_err(|error| Error::corrupt(error.to_string()))?;
        let bad =
            |what: &str| Error::corrupt(format!("checkpoint record at {} {:#x}: {what}", place.group, place.offset));
        if frame.len != place.len {
            return Err(bad("its length is not the one on record"));
        }
        if frame.vdisk != self.id || frame.sequence != place.sequence || frame.group != place.group {
            return Err(bad("a frame of something else lies there"));
        }
        let run = frame.runs.first().copied().ok_or_else(|| bad("no payload"))?;
        let walked = WalkedFrame { frame, bytes };
        if run.kind != RunKind::Control || !walked.payload_is_whole() {
            return Err(bad("its payload fails the checksum"));
        }
        match Record::decode(&walked.payload(&run)) {
            Ok(Record::Checkpoint(record)) => Ok(*record),
            Ok(_) => Err(bad("another record lies there")),
            Err(error) => Err(bad(&error.to_string())),
        }
    }

    /// The last checkpoint in `chain` (newest first) that was complete on the medium: its record is whole, and so is every
    /// frame before it that is not known to be synced: its pages, and the data that its map refers to. A power loss can
    /// keep a record and tear what comes before; then the checkpoint before that is the last one.
    async fn latest_checkpoint(&self, chain: &[GroupHeader]) -> Result<Option<(CheckpointRecord, meta_hint::Place)>> {
        let mut proof = self.found.headers.iter().map(|header| header.durable_through).max().unwrap_or_default();
        proof = proof.max(self.found.synced_through.unwrap_or_default());
        for (i, header) in chain.iter().enumerate() {
            let limit = match i {
                0 => u32::MAX,
                _ => chain[i - 1].predecessor.map_or(u32::MAX, |p| p.sealed_len),
            };
            let mut walk = self.walk_group(header, limit);
            let mut found = Vec::new();
            while let Step::Frame(walked) = walk.next().await? {
                proof = proof.max(walked.frame.durable_through);
                found.extend(checkpoint_in(&walked));
            }
            for (record, place) in found.into_iter().rev() {
                let connected = connect(chain, Some(&record.covers)).is_some();
                if connected && self.is_whole_through(&chain[i..], proof, place.sequence).await? {
                    return Ok(Some((record, place)));
                }
            }
        }
        Ok(None)
    }

    /// Is every frame behind `proof` and up to `last` there, payload and all? `chain`: newest first, from the group that
    /// holds `last` on.
    async fn is_whole_through(&self, chain: &[GroupHeader], proof: Sequence, last: Sequence) -> Result<bool> {
        let mut whole = 0;
        for (i, header) in chain.iter().enumerate() {
            let limit = if i == 0 { u32::MAX } else { chain[i - 1].predecessor.map_or(u32::MAX, |p| p.sealed_len) };
            let mut walk = self.walk_group(header, limit);
            while let Step::Frame(walked) = walk.next().await? {
                let counts = proof < walked.frame.sequence && walked.frame.sequence <= last;
                whole += u64::from(counts && walked.payload_is_whole());
            }
            if header.first_sequence <= proof.next() {
                break;
            }
        }
        Ok(whole == last.0.saturating_sub(proof.0))
    }

    /// The latest checkpoint record in any group, connected or not.
    async fn any_checkpoint(&self) -> Result<Option<(CheckpointRecord, meta_hint::Place)>> {
        let mut last: Option<(CheckpointRecord, meta_hint::Place)> = None;
        for header in &self.found.headers {
            let mut walk = GroupWalk::whole(self.context.pool.clone(), self.id, header.group, u32::MAX);
            while let Step::Frame(walked) = walk.next().await? {
                let Some(found) = checkpoint_in(&walked) else { continue };
                if last.as_ref().is_none_or(|(_, place)| place.sequence < found.1.sequence) {
                    last = Some(found);
                }
            }
        }
        Ok(last)
    }

    fn walk_group(&self, header: &GroupHeader, limit: u32) -> GroupWalk {
        let before = Position {
            group: header.group,
            end: HEADER_PAGE,
            chain: header.predecessor.map_or(0, |p| p.chain),
            sequence: Sequence(header.first_sequence.0.saturating_sub(1)),
        };
        GroupWalk::new(self.context.pool.clone(), self.id, header.group, before, HEADER_PAGE, limit)
    }

    /// Every frame behind the checkpoint that continues the chain.
    async fn walk(&self, path: &[GroupHeader], record: Option<&CheckpointRecord>) -> Result<Vec<Replayed>> {
        let mut at = record.map_or(Position::default(), |record| record.covers);
        let mut walked = Vec::new();
        for (i, header) in path.iter().enumerate() {
            let sealed = path.get(i + 1).and_then(|next| next.predecessor);
            let limit = sealed.map_or(u32::MAX, |p| p.sealed_len);
            let start = if header.group == at.group { at.end } else { HEADER_PAGE };
            if header.group != at.group && header.first_sequence != at.sequence.next() {
                break;
            }
            let pool = self.context.pool.clone();
            let mut walk = GroupWalk::new(pool, self.id, header.group, at, start, limit);
            loop {
                let Step::Frame(frame) = walk.next().await? else { break };
                let before = std::mem::replace(&mut at, frame.position());
                walked.push(take(*frame, before)?);
            }
            if sealed
                .is_some_and(|sealed| (at.group, at.end, at.chain) != (sealed.group, sealed.sealed_len, sealed.chain))
            {
                break;
            }
        }
        Ok(walked)
    }

    /// A rewrite after a failed sync that was cut short: the new group has some of the frames, the first copies, void once
    /// the rewrite is complete, may be there with more of them. They are the same frames under the same numbers; the longer
    /// chain is the one that loses nothing. Only within one epoch: what a recovery cut off stays cut off.
    async fn take_longer_first_copy(
        &self,
        path: &[GroupHeader],
        start: Position,
        walked: &mut Vec<Replayed>,
    ) -> Result<()> {
        let reach = |frames: &[Replayed]| {
            frames.iter().take_while(|frame| frame.whole).last().map_or(start.sequence, |frame| frame.sequence)
        };
        for pair in path.windows(2) {
            let (header, next) = (&pair[0], &pair[1]);
            let Some(sealed) = next.predecessor.filter(|_| header.epoch == next.epoch) else { continue };
            let before = walked.iter().map(|frame| frame.at).chain([start]);
            let mut ends = before.filter(|at| at.group == sealed.group && at.end == sealed.sealed_len);
            let Some(mut at) = ends.next() else { continue };
            let keep = walked.iter().take_while(|frame| frame.sequence <= at.sequence).count();
            let pool = self.context.pool.clone();
            let mut walk = GroupWalk::new(pool, self.id, header.group, at, at.end, u32::MAX);
            let mut first_copy = Vec::new();
            while let Step::Frame(frame) = walk.next().await? {
                let before = std::mem::replace(&mut at, frame.position());
                first_copy.push(take(*frame, before)?);
            }
            if reach(&first_copy) > reach(walked) {
                tracing::warn!(vdisk = %self.id, group = %header.group, "a rewrite was cut short; its first copy is longer");
                walked.truncate(keep);
                walked.extend(first_copy);
                return Ok(());
            }
        }
        Ok(())
    }

    /// The checkpoint's list has groups that were freed after it. One that was not empty should be there, though.
    fn forget_freed_groups(&mut self, state: &mut State) {
        let gone: Vec<GroupId> =
            state.accounts.groups.keys().copied().filter(|group| !self.context.pool.knows(*group)).collect();
        for group in gone {
            let live = state.accounts.groups.get(&group).map_or(0, GroupAccount::live);
            if live > 0 {
                self.damage.push(format!("group {group} with {live} bytes in use is missing"));
            }
            state.accounts.remove(group);
            state.checkpoint_accounts.remove(group);
        }
    }

    /// The last frame that counts: whole, and with everything before it whole, as far as it was not known to be synced.
    async fn cut(&mut self, start: Position, walked: &[Replayed]) -> Result<Position> {
        let end = walked.last().map_or(start, |frame| frame.at);
        let mut proof = self.found.headers.iter().map(|header| header.durable_through).max().unwrap_or_default();
        proof = proof.max(self.found.clean_tail.unwrap_or_default());
        proof = proof.max(self.found.synced_through.unwrap_or_default());
        proof = proof.max(walked.iter().map(|frame| frame.durable).max().unwrap_or_default());
        if self.found.clean_tail.is_none() && !end.group.is_none() && self.context.pool.knows(end.group) {
            proof = proof.max(frame_beyond(&self.context.pool, self.id, end.group, end.end).await?);
        }
        let mut cut = end;
        for frame in walked.iter().filter(|frame| !frame.whole) {
            if frame.sequence > proof {
                cut = frame.before;
                break;
            }
            if let Change::Record(_) = frame.change {
                self.damage.push(format!("control frame {} fails its checksum", frame.sequence.0));
            }
        }
        if cut.sequence < proof {
            self.damage.push(format!(
                "the log can be read through frame {} only, but was synced through frame {} ({} at {:#x})",
                cut.sequence.0, proof.0, cut.group, cut.end
            ));
        }
        Ok(cut)
    }
}

impl Vdisk {
    /// The group that holds the tombstone of a deleted vDisk, if there is one among `headers`. For vDisks some of whose
    /// groups are freed already, so that no chain is left to recover.
    pub async fn find_tombstone(context: &Context, id: VdiskId, headers: &[GroupHeader]) -> Result<Option<GroupId>> {
        for header in headers {
            let mut walk = GroupWalk::whole(context.pool.clone(), id, header.group, u32::MAX);
            while let Step::Frame(walked) = walk.next().await? {
                let is_control = walked.frame.kind == FrameKind::Control && walked.payload_is_whole();
                let record =
                    walked.frame.runs.first().filter(|_| is_control).map(|run| Record::decode(&walked.payload(run)));
                if let Some(Ok(Record::Delete)) = record {
                    return Ok(Some(header.group));
                }
            }
        }
        Ok(None)
    }
}

/// The whole checkpoint record in a frame, with its place.
fn checkpoint_in(walked: &WalkedFrame) -> Option<(CheckpointRecord, meta_hint::Place)> {
    let frame = &walked.frame;
    let run = frame.runs.first().filter(|_| frame.kind == FrameKind::Control && walked.payload_is_whole())?;
    let Ok(Record::Checkpoint(record)) = Record::decode(&walked.payload(run)) else { return None };
    let place = meta_hint::Place { group: frame.group, offset: frame.offset, len: frame.len, sequence: frame.sequence };
    Some((*record, place))
}

/// From the newest header back along the predecessors, as far as they are there.
fn back_from(newest: GroupHeader, by_id: &BTreeMap<GroupId, GroupHeader>) -> Vec<GroupHeader> {
    let mut chain = vec![newest];
    while let Some(header) = chain.last().and_then(|header| header.predecessor).and_then(|p| by_id.get(&p.group)) {
        if chain.len() > by_id.len() {
            break;
        }
        chain.push(*header);
    }
    chain
}

/// The part of `chain` (newest first) that starts at `covers` (or at the birth), oldest first.
fn connect(chain: &[GroupHeader], covers: Option<&Position>) -> Option<Vec<GroupHeader>> {
    let mut path = Vec::new();
    for header in chain {
        path.push(*header);
        let reached = match covers {
            None => header.predecessor.is_none(),
            Some(covers) => {
                header.group == covers.group
                    || header.predecessor.is_some_and(|p| p.group == covers.group && p.sealed_len == covers.end)
            }
        };
        if reached {
            path.reverse();
            return Some(path);
        }
    }
    None
}

fn take(walked: WalkedFrame, before: Position) -> Result<Replayed> {
    let whole = walked.payload_is_whole();
    let frame = &walked.frame;
    let change = match frame.kind {
        FrameKind::Pages => Change::Nothing,
        FrameKind::Control => match frame.runs.first().map(|run| Record::decode(&walked.payload(run))) {
            Some(Ok(Record::Checkpoint(_))) => Change::Nothing,
            Some(Ok(record)) => Change::Record(Box::new(record)),
            // Not whole: cut off or reported as damage; whole and unreadable: of a newer build.
            _ if !whole => Change::Nothing,
            _ => {
                return Err(Error::corrupt(format!(
                    "control frame {} has a form unknown to this build",
                    frame.sequence.0
                )));
            }
        },
        FrameKind::Data => Change::Runs(
            frame
                .runs
                .iter()
                .filter_map(|run| match run.kind {
                    RunKind::Data => Some((run.block, Addresses::Data(run_addresses(frame, run)))),
                    RunKind::ClearHole => Some((run.block, Addresses::Clear(run.count.into(), Address::NONE))),
                    RunKind::ClearZeros => Some((run.block, Addresses::Clear(run.count.into(), Address::ZEROS))),
                    RunKind::Page | RunKind::Control => None,
                })
                .collect(),
        ),
    };
    let at = walked.position();
    Ok(Replayed { sequence: frame.sequence, durable: frame.durable_through, before, at, whole, change })
}

impl Vdisk {
    pub(crate) fn assemble(context: Context, index: Rc<dyn Index>, id: VdiskId, state: State) -> Rc<Vdisk> {
        Rc::new(Vdisk {
            id,
            context,
            state: state.into(),
            queue: Queue::default().into(),
            queued: Default::default(),
            appending: Default::default(),
            appended: Default::default(),
            ended: Default::default(),
            urgent: Default::default(),
            synced_early: Default::default(),
            maintenance: Default::default(),
            log_busy: Default::default(),
            closing: Default::default(),
            stopped: Default::default(),
            user_log_bytes: Default::default(),
            next_space_look: Default::default(),
            sync_timer: Default::default(),
            quiet_timer: Default::default(),
            last_write_ns: Default::default(),
            one_checkpoint: world::local::Semaphore::new(1),
            one_reclaim: world::local::Semaphore::new(1),
            index,
            stats: Default::default(),
        })
    }

    pub(crate) fn start(self: &Rc<Self>) {
        self.context.world.spawn(self.clone().run_log());
        self.context.world.spawn(self.clone().run_maintenance());
    }
}
