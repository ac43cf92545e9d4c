//! Points of the history: when one is taken, which of them go, and what is kept for those that stay.
//!
//! Every state between a point and the next is made of extents that the point's map has and of what was written behind it,
//! since a map only ever changes by writing. The one exception is a rollback, which brings back what may have been dead: a
//! point follows it directly.

use super::Rewind;
use crate::account::GroupAccount;
use crate::log::{CheckpointRecord, GroupEntry, Item, PointRecord, Record, RewindEntry, SnapshotEntry, SnapshotRecord};
use crate::snapshot::Snapshot;
use crate::vdisk::{State, Vdisk};
use crate::{Error, Kind, Result};
use base::units::GIB;
use base::{Sequence, SnapshotId};
use std::rc::Rc;

/// A window has so many points, and as many more as what is written makes due: a moment is read from the last one before it, and
/// what is too old goes by as much as lies between two of them.
const POINTS: u64 = 32;
/// No more often than this, ns: each is a checkpoint.
const INTERVAL_NS_MIN: u64 = 1_000_000_000;
/// Of the limit, a part goes at a time.
const LIMIT_PARTS: u64 = 16;
/// Log between two points: about a second's reading.
const STEP_BYTES_MAX: u64 = GIB;
/// More than this are taken by time only: each is 60 bytes of every checkpoint. 512 are half a TiB of log.
const POINTS_MAX: usize = 512;
/// The pool is nearly full when less than this many groups have room: what is freed takes a checkpoint to come free.
const ROOM_GROUPS: u64 = 8;
/// What is fuller than this holds nothing for the history that would come free without it: it is not re-packed either.
const FULL_PERCENT: u64 = 90;

/// What a vDisk that keeps its past knows of it, besides the points.
pub(crate) struct History {
    pub rewind: Rewind,
    pub cut_short: bool,
    /// The highest wall time of any frame since the last point.
    pub high_ns: u64,
    /// A point comes before anything else.
    pub needs_point: bool,
    /// Log since the last point, and since the pool was looked at.
    pub written_bytes: u64,
    pub unlooked_bytes: u64,
}

/// A point, as it is chosen by.
#[derive(Clone, Copy, Debug)]
pub(super) struct KnownPoint {
    pub id: SnapshotId,
    pub sequence: Sequence,
    pub created_ns: u64,
    /// The highest wall time of any frame since the first point: never goes back.
    pub through_ns: u64,
}

impl History {
    fn new(rewind: Rewind) -> History {
        let (cut_short, high_ns, needs_point) = (false, 0, true);
        History { rewind, cut_short, high_ns, needs_point, written_bytes: 0, unlooked_bytes: 0 }
    }

    /// As of a checkpoint. What was written between the last point and that is in no frame that is read again: the maps tell
    /// whether there is any.
    pub fn of_checkpoint(record: &CheckpointRecord) -> Option<History> {
        let RewindEntry { rewind, cut_short, high_ns } = record.rewind?;
        let points = record.snapshots.iter().filter(|entry| entry.record.point.is_some());
        let last = points.max_by_key(|entry| entry.sequence);
        let written_bytes = last.map_or(0, |last| written_since(record, last));
        Some(History { cut_short, high_ns, needs_point: false, written_bytes, ..History::new(rewind) })
    }

    pub fn entry(&self) -> RewindEntry {
        RewindEntry { rewind: self.rewind, cut_short: self.cut_short, high_ns: self.high_ns }
    }

    fn interval_ns(&self) -> u64 {
        (self.rewind.window_ns / POINTS).max(INTERVAL_NS_MIN)
    }

    fn step_bytes(&self, group_size: u32) -> u64 {
        match self.rewind.limit_bytes {
            0 => STEP_BYTES_MAX,
            limit => (limit / LIMIT_PARTS).clamp(group_size.into(), STEP_BYTES_MAX),
        }
    }
}

/// Log between the point and the checkpoint, if that has another map: the groups that were written to behind the point, none
/// of which was freed. (An empty map says nothing: what was written may be discarded again.)
fn written_since(record: &CheckpointRecord, point: &SnapshotEntry) -> u64 {
    let is_same = (point.root, point.height) == (record.root, record.height);
    if is_same && record.root.is_stored() {
        return 0;
    }
    let behind = |group: &&GroupEntry| group.last_sequence > point.sequence;
    record.groups.iter().filter(behind).map(|group| u64::from(group.len)).sum()
}

impl State {
    /// A frame of this wall time was appended, or read again.
    pub(crate) fn passes(&mut self, wall_ns: u64) {
        if let Some(history) = &mut self.history {
            history.high_ns = history.high_ns.max(wall_ns);
        }
    }

    pub(crate) fn written_since_point(&mut self, bytes: u64) {
        if let Some(history) = &mut self.history {
            history.written_bytes += bytes;
            history.unlooked_bytes += bytes;
        }
    }
}

/// What the log task does.
impl Vdisk {
    /// What is next in the log begins a new stretch of the history.
    pub(crate) fn needs_point(&self) {
        if let Some(history) = &mut self.state.borrow_mut().history {
            history.needs_point = true;
        }
    }

    pub(crate) fn rewind_becomes(&self, rewind: Option<Rewind>, at: Sequence) {
        {
            let mut state = self.state.borrow_mut();
            match (rewind, &mut state.history) {
                // What went for space is missing from a window of any other length too.
                (Some(rewind), Some(history)) => history.rewind = rewind,
                (Some(rewind), history) => *history = Some(History::new(rewind)),
                (None, history) => *history = None,
            }
        }
        if rewind.is_none() {
            let all = self.points();
            all.iter().for_each(|point| self.unkeep(point.id, at));
        }
    }

    /// The history begins with `first` from here on.
    pub(crate) fn edge_becomes(&self, first: SnapshotId, cut_short: bool, at: Sequence) {
        let points = self.points();
        let Some(first) = points.iter().find(|point| point.id == first) else { return };
        let before = points.iter().filter(|point| point.sequence < first.sequence);
        before.for_each(|point| self.unkeep(point.id, at));
        if let Some(history) = &mut self.state.borrow_mut().history {
            // What went by age alone was older than the window: nothing is missing from that any more.
            history.cut_short = cut_short;
        }
    }

    pub(crate) fn point_taken(&self, snapshot: &SnapshotRecord) {
        if snapshot.point.is_none() {
            return;
        }
        self.last_point_ns.set(self.context.world.now().0 as i64);
        if let Some(history) = &mut self.state.borrow_mut().history {
            (history.high_ns, history.written_bytes, history.needs_point) = (0, 0, false);
        }
    }

    /// Nothing comes before a point that is needed.
    pub(crate) async fn point_first(self: &Rc<Self>) -> Result<()> {
        let needs = self.state.borrow().history.as_ref().is_some_and(|history| history.needs_point);
        let appended = if needs { self.append_point().await } else { Ok(()) };
        appended.inspect_err(|error| {
            if error.kind == Kind::Full {
                self.context.load.full.notify();
            }
        })
    }

    pub(crate) async fn append_point(self: &Rc<Self>) -> Result<()> {
        if self.state.borrow().history.is_none() {
            return Ok(());
        }
        if !self.state.borrow().to_rewrite.is_empty() {
            self.rewrite_unsynced().await?;
        }
        let id = self.context.pool.next_snapshot_id().await?;
        let mut snapshot = self.snapshot_record(id, "", None);
        {
            let state = self.state.borrow();
            let high_ns = state.history.as_ref().map_or(0, |history| history.high_ns);
            snapshot.point = Some(PointRecord { high_ns });
            snapshot.size_bytes = state.attributes.size_bytes;
        }
        self.append_record(&Record::Snapshot(snapshot)).await?;
        Ok(())
    }
}

/// What is kept.
impl Vdisk {
    /// In the order of the log.
    pub(super) fn points(&self) -> Vec<KnownPoint> {
        let state = self.state.borrow();
        let mut points: Vec<&Snapshot> = state.snapshots.values().filter(|snapshot| snapshot.is_point()).collect();
        points.sort_unstable_by_key(|point| point.sequence);
        let mut through_ns = 0;
        let known = points.into_iter().enumerate().map(|(index, point)| {
            let (created_ns, high_ns) = (point.record.created_ns, point.record.point.map_or(0, |point| point.high_ns));
            // What lies before the first is not in the history.
            through_ns = through_ns.max(created_ns).max(if index == 0 { 0 } else { high_ns });
            KnownPoint { id: point.record.id, sequence: point.sequence, created_ns, through_ns }
        });
        known.collect()
    }

    /// The frame behind which everything is kept: that of the oldest point, of one that is being let go, or of one that is
    /// being read.
    pub(crate) fn edge(&self) -> Option<Sequence> {
        let pinned = self.history_pins.borrow().iter().min().copied();
        self.history_edge.get().into_iter().chain(pinned).min()
    }

    pub(crate) fn find_edge(&self) {
        let state = self.state.borrow();
        let points = state.snapshots.values().filter(|snapshot| snapshot.is_point()).map(|point| point.sequence);
        let going = state.letting_go.iter().filter_map(|going| going.point);
        self.history_edge.set(points.chain(going).min());
    }

    /// The group has something that was written behind the edge.
    pub(crate) fn is_history(&self, account: &GroupAccount) -> bool {
        self.edge().is_some_and(|edge| account.last_sequence > edge)
    }

    /// What the history keeps from coming free if it begins with the point at `edge`: what is dead in groups that are
    /// written to behind it, or that only points from there on hold.
    pub(super) fn held_since(&self, edge: Sequence) -> u64 {
        let state = self.state.borrow();
        let points: Vec<&Snapshot> = state.snapshots.values().filter(|point| point.is_point()).collect();
        let own = state.accounts.groups.iter().filter(|(_, account)| !account.is_foreign());
        let held = own.filter(|(group, account)| {
            if account.live() * 100 >= account.occupied() * FULL_PERCENT {
                return false;
            }
            let holders = self.context.references.holders(**group);
            let holds = |point: &&&Snapshot| point.holds.contains(**group);
            let mine = if holders == 0 { 0 } else { points.iter().filter(holds).count() };
            let later = points.iter().filter(|point| point.sequence >= edge).filter(holds);
            // What others hold as well stays without us.
            holders == mine && (account.last_sequence > edge || (mine > 0 && later.count() > 0))
        });
        held.map(|(_, account)| account.occupied().saturating_sub(account.live())).sum()
    }
}

/// What maintenance does.
impl Vdisk {
    /// Cheap: asked after each frame.
    pub(crate) fn history_is_due(&self) -> bool {
        let state = self.state.borrow();
        let Some(history) = &state.history else { return false };
        self.point_is_due(history) || history.unlooked_bytes >= u64::from(self.context.pool.group_size())
    }

    fn point_is_due(&self, history: &History) -> bool {
        history.written_bytes > 0
            && (self.since_last_point_ns() >= history.interval_ns()
                || history.written_bytes >= history.step_bytes(self.context.pool.group_size()))
    }

    fn since_last_point_ns(&self) -> u64 {
        (self.context.world.now().0 as i64).saturating_sub(self.last_point_ns.get()).max(0) as u64
    }

    /// After the log was read: by the wall clock, or a controller that is started often would never take a point.
    pub(crate) fn find_last_point(&self) {
        if let Some(last) = self.points().last() {
            let clock = &self.context.world.clock;
            let since_ns = clock.wall().0.saturating_sub(last.created_ns);
            self.last_point_ns.set((clock.now().0 as i64).saturating_sub_unsigned(since_ns));
        }
    }

    /// Wakes the maintenance if something is to be done, though nothing is written here: others may have filled the disk.
    pub fn look_at_history(&self) {
        let is_wanted = || self.is_nearly_full() && self.history_gives_bytes() > 0;
        if self.history_is_due() || self.too_old().is_some() || is_wanted() {
            self.maintenance.notify();
        }
    }

    /// Lets go of what is too old or too much, and takes a point if one is due.
    pub(crate) async fn tend_history(self: &Rc<Self>) -> Result<()> {
        if self.rewind().is_none() {
            return Ok(());
        }
        if let Some(first) = self.too_old() {
            self.move_edge(first, false).await?;
        }
        self.keep_within_limit().await?;
        self.make_room_by_history().await?;
        let is_due = {
            let state = self.state.borrow();
            let points = state.snapshots.values().filter(|snapshot| snapshot.is_point()).count();
            let due = |history: &History| {
                let in_time = self.since_last_point_ns() >= history.interval_ns();
                self.point_is_due(history) && (points < POINTS_MAX || in_time)
            };
            state.history.as_ref().is_some_and(due)
        };
        if is_due {
            self.ask(|done| Item::Point { done }).await??;
            self.checkpoint().await?;
        }
        Ok(())
    }

    /// The point with which the window begins, if there are older ones. The order is that of the log: a clock that was
    /// wrong for a while does not keep the past for ever.
    fn too_old(&self) -> Option<SnapshotId> {
        let window_ns = self.rewind()?.window_ns;
        let old_ns = self.context.world.clock.wall().0.checked_sub(window_ns)?;
        let points = self.points();
        let first = points.iter().rposition(|point| point.created_ns <= old_ns).filter(|first| *first > 0)?;
        Some(points[first].id)
    }

    async fn move_edge(self: &Rc<Self>, first: SnapshotId, cut_short: bool) -> Result<()> {
        let record = Record::Edge(first, cut_short);
        self.ask(|done| Item::Control { record, done }).await??;
        Ok(())
    }

    /// Over the limit the oldest history goes, until what is left is within it.
    async fn keep_within_limit(self: &Rc<Self>) -> Result<()> {
        let limit = self.rewind().map_or(0, |rewind| rewind.limit_bytes);
        if limit == 0 {
            return Ok(());
        }
        let points = self.points();
        let Some(first) = points.first() else { return Ok(()) };
        if self.held_since(first.sequence) <= limit {
            return Ok(());
        }
        match points[1..].iter().find(|point| self.held_since(point.sequence) <= limit) {
            Some(first) => self.move_edge(first.id, true).await,
            None => self.begin_anew().await,
        }
    }

    /// All of the past goes; what comes from here on is kept again.
    async fn begin_anew(self: &Rc<Self>) -> Result<()> {
        let written = self.state.borrow().history.as_ref().is_some_and(|history| history.written_bytes > 0);
        if written {
            self.ask(|done| Item::Point { done }).await??;
        }
        let points = self.points();
        match points.last() {
            Some(last) if points.len() > 1 => self.move_edge(last.id, true).await,
            _ => Ok(()),
        }
    }

    /// Nearly nothing can be written any more: before a write is refused, history goes, half of it at a time.
    async fn make_room_by_history(self: &Rc<Self>) -> Result<()> {
        if let Some(history) = &mut self.state.borrow_mut().history {
            history.unlooked_bytes = 0;
        }
        self.context.pool.refresh_usage().await?;
        if !self.is_nearly_full() || self.context.pool.only_reserve_is_missing().await {
            return Ok(());
        }
        if self.history_gives_bytes() == 0 {
            return Ok(());
        }
        let points = self.points();
        tracing::warn!(vdisk = %self.id, "the disk is nearly full: the oldest history goes");
        if points.len() > 1 { self.move_edge(points[points.len() / 2].id, true).await } else { self.begin_anew().await }
    }

    fn is_nearly_full(&self) -> bool {
        let pool = &self.context.pool;
        pool.room_bytes().is_some_and(|room| room < ROOM_GROUPS * u64::from(pool.group_size()))
    }

    /// The disk is full: all of the history goes. What it held comes free with the next checkpoint.
    pub async fn give_up_history(self: &Rc<Self>) -> Result<()> {
        tracing::warn!(vdisk = %self.id, "the disk is full: the history goes");
        self.begin_anew().await
    }

    /// What comes free when the history begins anew, about.
    pub fn history_gives_bytes(&self) -> u64 {
        let written = self.state.borrow().history.as_ref().is_some_and(|history| history.written_bytes > 0);
        let points = self.points();
        let first = points.first().filter(|_| points.len() > 1 || written);
        first.map_or(0, |first| self.held_since(first.sequence))
    }

    /// Whoever finds the disk full may wait for what this vDisk gives up.
    pub fn history_grows(&self) {
        if self.state.borrow().history.is_some() {
            let changes = &self.context.load.history_changes;
            changes.set(changes.get() + 1);
        }
    }

    /// The bounds of the window, for those who asked for a moment outside of it.
    pub(super) fn outside(&self, what: String) -> Error {
        let points = self.points();
        let text = match points.first() {
            None => format!("{what}: the vDisk keeps no history"),
            Some(first) => format!(
                "{what} is outside the window, which reaches from {} (frame {}) to now (frame {})",
                base::utc::format_ns(first.created_ns),
                first.sequence.next().0,
                self.state.borrow().acknowledged.next().0,
            ),
        };
        Error::new(Kind::Invalid, text)
    }
}
