//! Recovery: from the groups of a vDisk back to its state, after a clean stop, a kill or a power loss.
//!
//! The last checkpoint that is known to be synced → forward, frame by frame, through the groups that continue it. Where
//! the chain ends is the tail, unless anything that survived says that more had been synced: then it is rot, and the
//! vDisk is served read-only.
//!
//! Frames that something proves to be synced are applied where they are. The rest may be in a cache of the kernel or the
//! disk only, and a sync that succeeds now proves nothing: one that failed may have been reported to the process before
//! us, which is gone. They are appended once more, under the same sequence numbers, and synced, before anything is
//! acknowledged and before anything is freed. A crash on the way leaves a fork of which either branch will do.

mod chain;
mod read;
pub(crate) mod replay;
mod void;

use crate::flush::groups_of;
use crate::log::frame::FrameKind;
use crate::log::{CheckpointRecord, GroupWalk, Item, Record, Step};
use crate::vdisk::{Attributes, Context, Health, Index, Vdisk, meta_hint};
use crate::{Kind, Result};
use base::units::BLOCK;
use base::{GroupId, Sequence, VdiskId};
use pool::GroupHeader;
use read::{Read, Recovery};
pub(crate) use read::{needed_at, read_checkpoint};
use replay::Replayed;
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
    /// The metadata store knows that this frame, in this group, and all before it were synced. A newest group whose header
    /// rotted is no group any more, and the log would look shorter without anything missing. (`NONE`: in any group.)
    pub synced_through: Option<(GroupId, Sequence)>,
    /// A group header on this disk could not be read at all; what of.
    pub unread: Option<String>,
    /// Nobody has asked for it: it counts among those that are recovered in the background.
    pub in_background: bool,
    /// Nothing is to be written: the state is looked at, not continued.
    pub look_only: bool,
}

pub struct Recovered {
    pub vdisk: Rc<Vdisk>,
    /// Groups of this vDisk that nothing needs any more; to be freed in this order.
    pub void: Vec<GroupId>,
    /// The last frame that was found.
    pub end: Sequence,
    pub replayed_frames: u64,
    pub replayed_bytes: u64,
    pub checkpoint: Option<meta_hint::Place>,
    pub attributes: Attributes,
}

/// The end of a log behind which there may be frames. If this start could not read them and the next one can, what they have taken
/// over comes back, which nobody holds then.
#[derive(Clone, Copy)]
pub(crate) struct OpenEnd {
    pub sequence: Sequence,
    /// Something could not be read, and may be of them.
    pub is_unread: bool,
}

/// How often a log is read when it changes under the reader.
const READS_MAX: u32 = 4;

/// As long as a recovery waits for its last sync.
struct StoringAgain<'a> {
    context: &'a Context,
    background: usize,
    bytes: u64,
}

impl StoringAgain<'_> {
    fn new<'a>(context: &'a Context, found: &Found, bytes: u64) -> StoringAgain<'a> {
        let (load, background) = (&context.load, usize::from(found.in_background));
        load.storing_again.set(load.storing_again.get() + background);
        load.storing_again_bytes.set(load.storing_again_bytes.get() + bytes);
        load.log_read.notify();
        StoringAgain { context, background, bytes }
    }
}

impl Drop for StoringAgain<'_> {
    fn drop(&mut self) {
        let load = &self.context.load;
        load.storing_again.set(load.storing_again.get() - self.background);
        load.storing_again_bytes.set(load.storing_again_bytes.get() - self.bytes);
        load.log_read.notify();
    }
}

/// A checkpoint record and where it lies.
type PlacedRecord = (CheckpointRecord, meta_hint::Place);

impl Vdisk {
    /// Rebuilds the vDisk from its groups and starts its tasks. An error means that not even a read-only view can be had.
    pub async fn recover(context: Context, index: Rc<dyn Index>, id: VdiskId, found: Found) -> Result<Recovered> {
        let started = context.world.now();
        let mut attempts = 0;
        let read = loop {
            attempts += 1;
            let read = Recovery { context: &context, id, found: &found, damage: Vec::new() }.read().await?;
            // What a cache had may be gone a moment later; then another copy of it may count.
            if read.is_complete() || attempts == READS_MAX {
                break read;
            }
        };
        let is_complete = read.is_complete();
        let Read { record, start, mut frames, proven, stored, unproven, state, damage, tombstone } = read;
        frames.truncate(stored + unproven.len());
        let end = frames.last().map_or(start.sequence, |frame| frame.sequence);
        let vdisk = Vdisk::assemble(context.clone(), index, id, state);
        // Before the replay: what is deleted in it is let go like anything else.
        vdisk.hold_snapshots().await;
        vdisk.hold_foreign();
        vdisk.tell_checkpoint();
        vdisk.replay(&frames).await?;
        vdisk.hold_foreign();
        vdisk.find_last_point();
        {
            let mut state = vdisk.state.borrow_mut();
            let at = |count: usize| frames[..count].last().map_or(start, |frame| frame.at);
            state.data_through = end;
            (state.position, state.durable, state.acknowledged) = (at(stored), at(proven.min(stored)), end);
            state.to_rewrite = unproven;
            if tombstone.is_some() {
                state.health = Health::Deleted;
            }
        }
        if !damage.is_empty() {
            vdisk.found_damaged(damage);
        }
        // A checkpoint's own pages and record lie behind what it covers: passed over, not replayed.
        let replayed = || frames.iter().filter(|frame| !frame.is_nothing());
        let (count, bytes) = (replayed().count() as u64, replayed().map(Replayed::len).sum());
        let load = &context.load.log_bytes;
        load.set(load.get() + vdisk.state.borrow().log_bytes);
        vdisk.stats.replayed_bytes.set(bytes);
        vdisk.start();
        // A disk that does not take the rest of the log is just one that may not have given all of it.
        let needs_fence = vdisk.needs_fence(&found);
        if stored < frames.len() {
            let bytes = frames[stored..].iter().map(Replayed::len).sum();
            let _waits = StoringAgain::new(&context, &found, bytes);
            if let Err(error) = vdisk.flush_through(end).await {
                // It stays as it is: readable, and tried again before anything else is written.
                tracing::warn!(vdisk = %id, %error, "the unsynced end of the log could not be written once more yet");
                vdisk.sync_in_place().await;
            }
        }
        if needs_fence {
            let is_unread = !is_complete || found.unread.is_some();
            vdisk.open_end.set(Some(OpenEnd { sequence: end, is_unread }));
        }
        vdisk.stats.replay_ns.set(context.world.now().since_ns(started));
        let mut void = vdisk.void_groups(&found, tombstone);
        if vdisk.health() == Health::Online && vdisk.state.borrow().durable.sequence < end {
            void = vdisk.keep_needed(void, &found, &frames[stored..]).await;
        }
        if vdisk.health() == Health::Online && vdisk.context.pool.is_sharing() {
            // Whoever may need them is to be heard first.
            std::mem::take(&mut void).into_iter().for_each(|group| vdisk.free_later(group));
        }
        if found.clean_tail.is_none() && vdisk.state.borrow().log_bytes > 0 {
            vdisk.arm_quiet_checkpoint();
        }
        Ok(Recovered {
            void,
            end,
            replayed_frames: count,
            replayed_bytes: bytes,
            checkpoint: record.map(|(_, place)| place),
            attributes: vdisk.attributes(),
            vdisk,
        })
    }

    fn needs_fence(&self, found: &Found) -> bool {
        let is_writable = self.health() == Health::Online && self.size_blocks() > 0 && !found.look_only;
        is_writable && found.clean_tail.is_none() && self.context.pool.is_sharing()
    }

    /// Something can be done for it to be known what it needs of others.
    pub fn has_open_end(&self) -> bool {
        self.open_end.get().is_some()
    }

    /// Does what it can for that. `true`: it holds all that it may need.
    pub async fn becomes_sure(self: &Rc<Self>) -> bool {
        let _one = self.one_hearing.acquire(1).await;
        let is_sure = !self.closing.get() && self.finds_what_it_needs().await;
        self.is_unheard.set(!is_sure);
        is_sure
    }

    /// That was tried, and failed.
    pub fn is_unheard(&self) -> bool {
        self.is_unheard.get()
    }

    async fn finds_what_it_needs(self: &Rc<Self>) -> bool {
        self.hold_snapshots_again().await;
        let fenced = match self.fence().await {
            Ok(()) => true,
            // What was read is held. No room would come if others waited for this.
            Err(error) if error.kind == Kind::Full => self.open_end.get().is_none_or(|end| !end.is_unread),
            Err(error) => {
                tracing::warn!(vdisk = %self.id, %error, "the end of the log could not be made sure yet; it is tried again");
                false
            }
        };
        fenced && !self.may_need_more()
    }

    /// A synced frame takes the number of any that lies behind the end: such a one does not continue the log any more.
    pub(crate) async fn fence(self: &Rc<Self>) -> Result<()> {
        let Some(end) = self.open_end.get() else { return Ok(()) };
        if self.state.borrow().durable.sequence <= end.sequence {
            let sequence = self.ask(|done| Item::Proof { done }).await??;
            self.flush_through(sequence).await?;
            // A checkpoint lets go of the group that it is in.
            self.count_log_bytes(BLOCK);
            self.arm_quiet_checkpoint();
        }
        self.open_end.set(None);
        Ok(())
    }

    /// What could not be written once more is read by clients from where it is: it is to be there after a power loss as
    /// well, as far as a sync without proof can see to that.
    async fn sync_in_place(&self) {
        let groups = groups_of(&self.state.borrow().to_rewrite);
        if let Err(error) = self.context.pool.sync(&groups).await {
            tracing::warn!(vdisk = %self.id, %error, "the unsynced end of the log could not be synced where it is");
        }
    }

    fn found_damaged(&self, damage: String) {
        let mut state = self.state.borrow_mut();
        if state.health == Health::Online {
            let name = state.attributes.name.clone();
            tracing::error!(vdisk = %self.id, name, damage, "the log is damaged; serving reads only");
            state.health = Health::Damaged(damage);
        }
    }

    /// The group that holds the tombstone of a deleted vDisk, if there is one among `headers`. For vDisks some of whose
    /// groups are freed already, so that no chain is left to recover.
    pub async fn find_tombstone(context: &Context, id: VdiskId, headers: &[GroupHeader]) -> Result<Option<GroupId>> {
        for header in headers {
            let mut walk = GroupWalk::headers(context.pool.clone(), id, header.group, u32::MAX);
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
