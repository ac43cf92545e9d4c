//! A moment of the past as a snapshot: the map of the last point before it, the log up to it applied again, the changed
//! pages stored, and then one record that makes a snapshot of it. Before that record nothing has changed.

use super::Moment;
use super::points::KnownPoint;
use super::walk::Walk;
use crate::address::Address;
use crate::checkpoint::accounts_of;
use crate::image::Image;
use crate::log::{
    CheckpointRecord, Item, PageWrite, PastRecord, Position, Record, Replaced, SetRecord, SnapshotRecord,
};
use crate::map::{Tree, encode_page};
use crate::recovery::read_checkpoint;
use crate::references::Holds;
use crate::snapshot::{Kept, Snapshot, SnapshotInfo, Stage, holds_of};
use crate::vdisk::{Attributes, Health, State, Vdisk, meta_hint};
use crate::{Error, Kind, Result};
use base::units::BLOCK;
use base::{Sequence, SnapshotId};
use bytes::Bytes;
use std::cell::RefCell;
use std::rc::Rc;

/// Frames that are applied together.
const FRAMES_AT_ONCE: usize = 8192;
/// A failed sync takes the pages with it; after so many the disk is not worth another try.
const TRIES: u32 = 3;

/// What a point and the log behind it need stays while this is there.
pub(super) struct Pin {
    vdisk: Rc<Vdisk>,
    edge: Sequence,
    /// Grows by what is stored.
    holds: Rc<RefCell<Holds>>,
}

impl Pin {
    pub fn new(vdisk: &Rc<Vdisk>, point: &KnownPoint, next: Option<&KnownPoint>) -> Pin {
        let state = vdisk.state.borrow();
        // Of the next point too: between a rollback and the point behind it the map is that point's.
        let ids = [Some(point.id), next.map(|next| next.id)];
        let points = ids.into_iter().flatten().filter_map(|id| state.snapshots.get(&id));
        let held = points.flat_map(|point| point.holds.groups());
        let holds = Holds::new(&vdisk.context.references, held);
        vdisk.history_pins.borrow_mut().push(point.sequence);
        Pin { vdisk: vdisk.clone(), edge: point.sequence, holds: Rc::new(holds.into()) }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.vdisk.history_pins.borrow_mut();
        if let Some(mine) = pins.iter().position(|edge| *edge == self.edge) {
            pins.swap_remove(mine);
        }
        drop(pins);
        self.vdisk.context.references.released.notify();
    }
}

/// A map in the making.
struct Past {
    view: Rc<Vdisk>,
    /// The last frame that it includes.
    at: Position,
    wall_ns: u64,
}

impl Vdisk {
    /// The vDisk as it was at a moment of the window, as a snapshot. Durable when it completes; until then there is none.
    /// `Invalid`: the moment is not in the window.
    pub async fn snapshot_at(self: &Rc<Self>, id: SnapshotId, name: &str, moment: Moment) -> Result<SnapshotInfo> {
        self.take_past(id, name, moment, None).await
    }

    /// The same as a part of a set, with which it counts.
    pub async fn part_at(
        self: &Rc<Self>,
        id: SnapshotId,
        name: &str,
        moment: Moment,
        set: SetRecord,
    ) -> Result<SnapshotInfo> {
        self.take_past(id, name, moment, Some(set)).await
    }

    async fn take_past(
        self: &Rc<Self>,
        id: SnapshotId,
        name: &str,
        moment: Moment,
        set: Option<SetRecord>,
    ) -> Result<SnapshotInfo> {
        self.check_snapshot()?;
        if let Moment::At(wall_ns) = moment
            && wall_ns > self.context.world.clock.wall().0
        {
            return Err(self.outside(describe(moment)));
        }
        let mut tries = 0;
        loop {
            tries += 1;
            // What is synced stays where it is.
            self.flush().await?;
            let rewrites = self.state.borrow().rewrites;
            match self.try_take_past(id, name, moment, set.as_ref(), rewrites).await {
                Err(error) if error.kind == Kind::Io && self.check_rewrites(rewrites).is_err() && tries < TRIES => {
                    tracing::warn!(vdisk = %self.id, %error, "a snapshot of the past is begun again");
                }
                result => return result.map_err(|error| self.unless_deleted(error)),
            }
        }
    }

    async fn try_take_past(
        self: &Rc<Self>,
        id: SnapshotId,
        name: &str,
        moment: Moment,
        set: Option<&SetRecord>,
        rewrites: u64,
    ) -> Result<SnapshotInfo> {
        let (from, to) = self.stretch_of(moment)?;
        let pin = Pin::new(self, &from, to.as_ref());
        let to = to.map(|to| to.id);
        let (past, wall_ns) = {
            let (record, kept) = self.point_record(from.id).await?;
            let until = match to {
                Some(to) => self.point_record(to).await?.0.covers,
                None => self.state.borrow().durable,
            };
            let mut past = self.past_of(&record, kept, &from).await;
            self.bring_forward(&mut past, until, moment, rewrites, &pin).await?;
            let wall_ns = if let Moment::At(wall_ns) = moment { wall_ns } else { past.wall_ns };
            (past, wall_ns)
        };
        self.store_past(&past.view, rewrites, &pin).await?;
        self.flush().await?;
        self.check_rewrites(rewrites)?;
        let record = self.past_record(self.snapshot_record(id, name, set.cloned()), wall_ns, &past);
        self.check_snapshot()?;
        let record = Record::Past(Box::new(record));
        let placed = self.ask(|done| Item::Checkpoint { record, rewrites, done }).await??;
        self.flush_through(placed.at.sequence).await?;
        self.taken(id)
    }

    /// The last point before the moment, and the one behind it.
    fn stretch_of(&self, moment: Moment) -> Result<(KnownPoint, Option<KnownPoint>)> {
        let points = self.points();
        let is_before = |point: &KnownPoint| match moment {
            Moment::At(wall_ns) => point.through_ns <= wall_ns,
            Moment::Before(sequence) => point.sequence < sequence,
        };
        let behind_all = match moment {
            Moment::At(_) => false,
            Moment::Before(sequence) => sequence > self.state.borrow().acknowledged.next(),
        };
        let count = points.iter().take_while(|point| is_before(point)).count();
        let Some(last) = count.checked_sub(1).filter(|_| !behind_all) else {
            return Err(self.outside(describe(moment)));
        };
        Ok((points[last], points.get(count).copied()))
    }

    /// Of a point; it is stored first if it is not yet.
    pub(super) async fn point_record(self: &Rc<Self>, id: SnapshotId) -> Result<(CheckpointRecord, Kept)> {
        let kept = match self.kept_of(id).await {
            Ok((_, kept)) => kept,
            Err(_) if !self.points().iter().any(|point| point.id == id) => {
                return Err(self.outside("what was asked for".to_string()));
            }
            Err(error) => return Err(error),
        };
        Ok((read_checkpoint(&self.context, self.id, kept.place).await?, kept))
    }

    async fn past_of(&self, record: &CheckpointRecord, kept: Kept, point: &KnownPoint) -> Past {
        let mut tree = Tree::new(kept.root, kept.height, self.context.load.map.clone());
        let size_bytes = record.snapshots.iter().find(|entry| entry.record.id == point.id);
        let size_bytes = size_bytes.map_or(record.attributes.size_bytes, |entry| entry.record.size_bytes);
        tree.grow(size_bytes / BLOCK);
        let attributes = Attributes { size_bytes, ..self.attributes() };
        let mut state = State::new(attributes, tree);
        state.accounts = accounts_of(record);
        let view = Vdisk::assemble(self.context.clone(), self.index.clone(), self.id, state);
        // It has no log: nothing is ever queued.
        view.ended.set(true);
        view.stopped.set(true);
        Past { view, at: record.covers, wall_ns: point.created_ns }
    }

    /// Applies the log up to the moment.
    async fn bring_forward(
        self: &Rc<Self>,
        past: &mut Past,
        until: Position,
        moment: Moment,
        rewrites: u64,
        pin: &Pin,
    ) -> Result<()> {
        let mut walk = Walk::between(self, past.at, until).await?;
        let mut batch = Vec::new();
        while let Some(frame) = walk.next().await? {
            let is_behind = match moment {
                Moment::At(wall_ns) => frame.wall_ns > wall_ns,
                Moment::Before(sequence) => frame.sequence >= sequence,
            };
            if is_behind {
                break;
            }
            (past.at, past.wall_ns) = (frame.at, past.wall_ns.max(frame.wall_ns));
            if frame.changes_content() {
                batch.push(frame);
            }
            if batch.len() >= FRAMES_AT_ONCE {
                past.view.replay(&std::mem::take(&mut batch)).await?;
                self.keep_in_memory_bounds(past, rewrites, pin).await?;
            }
        }
        past.view.replay(&batch).await
    }

    /// A long stretch changes more pages than there may be in memory.
    async fn keep_in_memory_bounds(self: &Rc<Self>, past: &Past, rewrites: u64, pin: &Pin) -> Result<()> {
        if self.context.load.map.bytes() > self.context.settings.map_bytes_max {
            self.store_past(&past.view, rewrites, pin).await?;
            past.view.shrink();
            past.view.shrink();
        }
        Ok(())
    }

    /// The changed pages, bottom up.
    async fn store_past(self: &Rc<Self>, view: &Vdisk, rewrites: u64, pin: &Pin) -> Result<()> {
        let pages_max = (self.frame_payload_max() / 4096).min(64) as usize;
        let height = view.state.borrow().tree.height;
        for level in 0..height {
            let mut batch = Vec::new();
            let dirty = view.state.borrow().tree.dirty_pages(level);
            for (place, node) in dirty {
                if node.entries().all(Address::is_none) {
                    view.drop_page(&node.stored);
                    node.set_stored(Address::NONE);
                    continue;
                }
                let bytes = Bytes::from(encode_page(node.entries()));
                batch.push(PageWrite { place, node, bytes });
                if batch.len() == pages_max {
                    self.store_batch(view, std::mem::take(&mut batch), rewrites, pin).await?;
                }
            }
            if !batch.is_empty() {
                self.store_batch(view, batch, rewrites, pin).await?;
            }
        }
        let dropped = std::mem::take(&mut view.state.borrow_mut().tree.dropped);
        dropped.iter().for_each(|stored| view.drop_page(stored));
        Ok(())
    }

    async fn store_batch(self: &Rc<Self>, view: &Vdisk, pages: Vec<PageWrite>, rewrites: u64, pin: &Pin) -> Result<()> {
        let holds = pin.holds.clone();
        let replaced = self.ask(|done| Item::PastPages { pages, rewrites, holds, done }).await??;
        let mut state = view.state.borrow_mut();
        for Replaced { old, new } in replaced {
            if old.is_stored() {
                state.accounts.page_dead(old.group(), old.len());
            }
            state.accounts.page_live(new.group(), new.len());
        }
        Ok(())
    }

    fn past_record(&self, mut snapshot: SnapshotRecord, created_ns: u64, past: &Past) -> PastRecord {
        let state = past.view.state.borrow();
        (snapshot.created_ns, snapshot.size_bytes) = (created_ns, state.attributes.size_bytes);
        PastRecord {
            snapshot,
            sequence: past.at.sequence,
            mapped_bytes: state.accounts.live_data(),
            image: Image {
                root: state.tree.root.address(),
                height: state.tree.height,
                groups: state.accounts.needed().into(),
            },
        }
    }

    /// What the log task does about a snapshot of the past, whose frame begins at `offset`.
    pub(crate) fn keep_past(&self, past: &PastRecord, at: Position, offset: u32) {
        let kept = Kept { root: past.image.root, height: past.image.height, place: place_of(at, offset) };
        let holds = holds_of(&self.context, &past.image.groups, kept.place);
        let snapshot = Snapshot {
            record: past.snapshot.clone(),
            sequence: past.sequence,
            mapped_bytes: past.mapped_bytes,
            stage: Stage::Stored(kept),
            holds,
        };
        self.state.borrow_mut().snapshots.insert(past.snapshot.id, snapshot);
        self.tell_kept(past.snapshot.id, kept);
    }

    /// The frame of this number, which was not synced, is at another place now: so is the record of a snapshot, if that
    /// is what it has.
    pub(crate) fn past_moved(&self, now: Position, offset: u32) {
        let mut state = self.state.borrow_mut();
        for snapshot in state.snapshots.values_mut() {
            if let Stage::Stored(kept) = &mut snapshot.stage
                && kept.place.sequence == now.sequence
            {
                kept.place = place_of(now, offset);
                snapshot.holds.add(now.group);
            }
        }
    }
}

impl Vdisk {
    /// The groups of a vDisk that was deleted meanwhile are gone: that is no damage.
    pub(super) fn unless_deleted(&self, error: Error) -> Error {
        if self.health() == Health::Deleted {
            Error::new(Kind::Closed, "the vDisk was deleted meanwhile")
        } else {
            error
        }
    }
}

fn place_of(at: Position, offset: u32) -> meta_hint::Place {
    meta_hint::Place { group: at.group, offset, len: at.end - offset, sequence: at.sequence }
}

fn describe(moment: Moment) -> String {
    match moment {
        Moment::At(wall_ns) => base::utc::format_ns(wall_ns),
        Moment::Before(sequence) => format!("frame {}", sequence.0),
    }
}
