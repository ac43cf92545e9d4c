//! What the clients of a run share: the oracle's knowledge of every vDisk, the clock of events, the first failure.

use super::profile::Profile;
use super::rewind::Windows;
use crate::disk::{Damage, SimDisk};
use crate::executor::Executor;
use crate::oracle::catalog::Entry;
use crate::oracle::history::past::Past;
use crate::oracle::history::{History, Image, SharedCut, Time};
use crate::oracle::pattern::WriteId;
use crate::oracle::snapshots;
use crate::oracle::walls::Walls;
use crate::rng::Chance;
use block::{BlockDevice, Kind};
use std::collections::BTreeMap;
use std::rc::Rc;
use world::local::Notify;

/// Half of the disk.
const NEARLY_FULL_BYTES: u64 = 32 << 20;

/// A vDisk as the workload drives it; its catalog entry is `entries` at the same index.
pub struct Slot {
    pub history: History,
    pub device: Option<Rc<dyn BlockDevice>>,
    /// A verb is under way.
    pub is_busy: bool,
    /// It was switched to read-only or back since the node started.
    pub was_switched: bool,
    /// It is being deleted, or nobody knows whether it is.
    pub is_closing: bool,
    /// Verbs begun so far: tells whether an attribute held all the time.
    pub verbs: u64,
    /// The node reports it as damaged.
    pub is_damaged: bool,
    /// Where sequential requests go on.
    pub next_sector: u64,
    /// Requests under way, and rung when there are none.
    pub in_flight: u64,
    pub quiet: Rc<Notify>,
    /// Snapshots of it under way.
    pub cutting: u32,
    /// A rollback is under way or in doubt: no I/O.
    pub is_held: bool,
    /// What it holds if that rollback took effect, and the snapshot that it goes back to.
    pub rollback: Option<(History, usize)>,
    /// The snapshot that its content came from since the last audit.
    pub origin: Option<usize>,
    pub past: Past,
    pub windows: Windows,
}

impl Slot {
    pub fn request_ends(&mut self) {
        self.in_flight -= 1;
        if self.in_flight == 0 {
            self.quiet.notify();
        }
    }
}

/// A snapshot as the workload knows it.
pub struct Snapshot {
    /// Its vDisk.
    pub slot: usize,
    pub entry: snapshots::Entry,
    pub cut: SharedCut,
    /// From the answer to its creation on, or from the crash that came first.
    pub image: Option<Image>,
    pub set: Option<u64>,
    /// A device that is kept open.
    pub reader: Option<Rc<dyn BlockDevice>>,
    /// Devices ever opened, and those open for a moment.
    pub attached: u64,
    pub reading: u32,
    /// Verbs under way that need it.
    pub users: u32,
}

impl Snapshot {
    pub fn is_there(&self) -> bool {
        self.entry.presence == snapshots::Presence::There
    }
}

pub struct Model {
    pub seed: u64,
    pub profile: Profile,
    pub disk: SimDisk,
    pub entries: Vec<Entry>,
    pub slots: Vec<Slot>,
    pub snapshots: Vec<Snapshot>,
    /// Sets of snapshots begun so far.
    pub sets: u64,
    /// vDisks that are to come into being together or not at all.
    pub clones: Vec<Vec<usize>>,
    pub failure: Option<String>,
    /// Steps taken so far, in all rounds.
    pub steps: u64,
    /// Where the current round ends.
    pub steps_end: u64,
    /// For reports: what waits for an answer.
    pub under_way: BTreeMap<u64, String>,
    /// The disk's damage when the incarnation began.
    pub damage_before: Damage,
    /// The metadata store was rebuilt since the last audit.
    pub was_rebuilt: bool,
    /// The disk is, or has just been, too small.
    pub is_tight: bool,
    pub shutting_down: bool,
    pub executor: Rc<Executor>,
    /// Kept where the past is asked for.
    pub walls: Walls,
    /// Of the disk, ever: then the past may go for want of room.
    pub was_nearly_full: bool,
    /// The first crash since the last audit.
    pub crashed: Option<Time>,
    time: Time,
    writes: u64,
}

impl Model {
    pub fn new(seed: u64, profile: Profile, disk: SimDisk, executor: Rc<Executor>) -> Self {
        Model {
            seed,
            profile,
            disk,
            entries: Vec::new(),
            slots: Vec::new(),
            snapshots: Vec::new(),
            sets: 0,
            clones: Vec::new(),
            failure: None,
            steps: 0,
            steps_end: 0,
            under_way: BTreeMap::new(),
            damage_before: Damage::default(),
            was_rebuilt: false,
            is_tight: false,
            shutting_down: false,
            executor,
            walls: Walls::default(),
            was_nearly_full: false,
            crashed: None,
            time: 0,
            writes: 0,
        }
    }

    pub fn tick(&mut self) -> Time {
        self.time += 1;
        if self.keeps_past() {
            self.walls.note(self.time, self.executor.wall_ns());
            self.was_nearly_full |= self.disk.allocated_bytes() > NEARLY_FULL_BYTES;
        }
        self.time
    }

    pub fn keeps_past(&self) -> bool {
        self.profile.rewinds != Chance::NEVER
    }

    pub fn fresh_write(&mut self) -> WriteId {
        self.writes += 1;
        WriteId(self.writes)
    }

    pub fn add_slot(&mut self) -> usize {
        let tag = self.slots.len() as u64 + 1;
        let mut history = History::new(tag);
        history.keeps_past = self.can_corrupt();
        self.entries.push(Entry::default());
        self.slots.push(Slot {
            history,
            device: None,
            is_busy: false,
            was_switched: false,
            is_closing: false,
            verbs: 0,
            is_damaged: false,
            next_sector: 0,
            in_flight: 0,
            quiet: Notify::new(),
            cutting: 0,
            is_held: false,
            rollback: None,
            origin: None,
            past: Past::default(),
            windows: Windows::default(),
        });
        self.slots.len() - 1
    }

    pub fn can_corrupt(&self) -> bool {
        let faults = &self.profile.faults;
        self.profile.rot_max + u64::from(faults.lost_write.0) + u64::from(faults.misdirected_write.0) > 0
    }

    /// The vDisks that can be given work.
    pub fn live(&self) -> Vec<usize> {
        let live = |index: &usize| {
            let slot = &self.slots[*index];
            slot.device.is_some() && !slot.is_closing && !slot.is_held && self.entries[*index].current().is_some()
        };
        (0..self.slots.len()).filter(live).collect()
    }

    /// Those that have snapshots taken or looked at: nothing is in doubt, and no verb is under way.
    pub fn settled(&self) -> Vec<usize> {
        let settled = |index: &usize| !self.slots[*index].is_busy && self.entries[*index].is_settled();
        self.live().into_iter().filter(settled).collect()
    }

    /// The node died: what was under way may have happened, up to now.
    pub fn crash(&mut self) {
        let now = self.tick();
        self.crashed.get_or_insert(now);
        for snapshot in &mut self.snapshots {
            if snapshot.image.is_none() {
                let size = self.entries[snapshot.slot].current().map_or(0, |a| a.size_bytes);
                snapshot.cut.set((snapshot.cut.get().0, snapshot.cut.get().1.min(now)));
                snapshot.image = Some(self.slots[snapshot.slot].history.capture(snapshot.cut.clone(), size));
            }
            (snapshot.reader, snapshot.reading, snapshot.users) = (None, 0, 0);
        }
        for slot in &mut self.slots {
            (slot.device, slot.in_flight, slot.cutting) = (None, 0, 0);
            slot.history.crash(now);
        }
    }

    /// The first failure is the one that counts.
    pub fn fail(&mut self, what: String) {
        let step = self.steps;
        self.failure.get_or_insert_with(|| format!("after step {step}: {what}"));
    }

    pub fn errors_so_far(&self) -> bool {
        self.disk.damage().errors > self.damage_before.errors
    }

    /// Whether a request may be answered with this error, given what has been done to the disk.
    pub fn excuses(&self, kind: Kind, index: usize, changes: bool) -> bool {
        let slot = &self.slots[index];
        let damage = self.disk.damage();
        match kind {
            Kind::Io => self.errors_so_far() || damage.corruptions > 0,
            Kind::Full => changes && self.is_tight,
            // What a failed sync has forgotten, a read may find gone.
            Kind::Corrupt => damage.corruptions > 0 || damage.failed_syncs > self.damage_before.failed_syncs,
            Kind::ReadOnly => {
                // A request from before the switch back may still be answered after it.
                let by_user = self.entries[index].may_be_read_only() || slot.is_busy || slot.was_switched;
                // Over iSCSI a vDisk that goes away looks write-protected before it looks gone.
                let leaves = self.profile.over_iscsi.is_some() && (slot.is_closing || self.shutting_down);
                // A snapshot that is not stored yet is not stored any more either.
                if slot.is_closing && !changes {
                    return true;
                }
                changes && (by_user || leaves || slot.is_damaged || self.errors_so_far() || damage.corruptions > 0)
            }
            Kind::Unavailable => {
                // A lost connection takes the answers with it.
                slot.is_closing || self.shutting_down || self.errors_so_far() || self.profile.over_iscsi.is_some()
            }
            // Who compares asks the history whether something may have come in between.
            Kind::Miscompare => false,
            Kind::Invalid | Kind::Fenced | Kind::Unsupported => false,
        }
    }
}
