//! The state of one vDisk and what it is allowed to know of its surroundings.
//!
//! Invariants, between events:
//! - frames are appended one at a time; `tree`, `accounts` and `position` are those after frame `position.sequence`;
//! - `durable.sequence <= position.sequence`, and every frame in between is in `unsynced`, in order;
//! - only the log task (`log/writer.rs`) appends, changes the tree's content or moves `position`.

use crate::account::Accounts;
use crate::address::Address;
use crate::contents::Contents;
use crate::lifecycle::gone;
use crate::log::{Position, Queue, Room, Unsynced};
use crate::map::{FANOUT, MapMemory, NeedPage, Tree, decode_page};
use crate::notes::Notes;
use crate::reclaim::{CopiesTrouble, Pace};
use crate::recovery::OpenEnd;
use crate::references::{Holds, References, ToldMaps};
use crate::rewind::History;
use crate::snapshot::{LettingGo, Snapshot};
use crate::stats::Stats;
use crate::stored::page_bytes;
use crate::{Error, Kind, Result, Settings};
use base::units::BLOCK;
use base::{GroupId, Sequence, SnapshotId, VdiskId};
use bytes::Bytes;
use pool::{Cache, OpenGroup, Pool};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use world::World;
use world::local::{Notify, Semaphore};

/// What the vDisks of one shard share.
#[derive(Clone)]
pub struct Context {
    pub world: World,
    pub pool: Rc<Pool>,
    pub cache: Arc<Cache>,
    pub settings: Rc<Settings>,
    pub load: Rc<Load>,
    pub references: Rc<References>,
}

/// Sums over the vDisks of a shard, and the bell that wakes its maintenance.
#[derive(Default)]
pub struct Load {
    pub map: Rc<MapMemory>,
    /// Log behind the checkpoints.
    pub log_bytes: Cell<u64>,
    /// Frames not synced yet: all of them are kept in memory.
    pub unsynced_bytes: Cell<u64>,
    /// Lists of what recent groups hold.
    pub contents_bytes: Rc<Cell<u64>>,
    /// Rung after each sync, for writers that wait for room among the unsynced.
    pub synced: Notify,
    /// Rung when a client's write found the disk full.
    pub full: Notify,
    /// Grows with everything that comes free, and rung then: for client's frames that wait for room.
    pub(crate) freed: Cell<u64>,
    pub(crate) room_came: Notify,
    /// Grows with everything that may let a history of the shard hold more.
    pub(crate) history_changes: Cell<u64>,
    /// How far these changes, and releases of groups, had come when no history held anything.
    pub(crate) histories_were_empty: Cell<Option<(u64, u64)>>,
    /// Rung when map pages have left memory.
    pub map_freed: Notify,
    /// The map is over its limit and nothing can be done about it: no checkpoint succeeds.
    pub map_stuck: Cell<bool>,
    /// Rung when a sum passes its limit.
    pub over_limit: Notify,
    /// Recoveries in the background that have read their log and wait until its end is stored once more, and the bytes of all
    /// such ends. They share their syncs, and the disk has time for others to read.
    pub storing_again: Cell<usize>,
    pub storing_again_bytes: Cell<u64>,
    /// Rung when one begins to wait, and when it ends.
    pub log_read: Notify,
}

/// What a user set; a part of the log, so that it survives everything else.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attributes {
    pub name: String,
    pub size_bytes: u64,
    /// 512 or 4096.
    pub sector_bytes: u32,
    pub read_only: bool,
    pub created_ns: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Health {
    Online,
    /// Bytes that were once synced are missing or rotten: reads only, so that nothing makes it worse.
    Damaged(String),
    /// A sync failed and its frames could not be rewritten: no write and no flush is believed until a restart.
    Failed(String),
    Deleted,
}

/// Bytes of a vDisk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Data blocks that are mapped.
    pub mapped_bytes: u64,
    /// What its groups occupy, dead bytes and headers included.
    pub stored_bytes: u64,
    pub live_bytes: u64,
    pub groups: u64,
    /// Log behind the last checkpoint.
    pub log_bytes: u64,
}

/// The last checkpoint that is synced and recorded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Checkpoint {
    pub covers: Position,
    pub root: Address,
    pub height: u8,
    /// Where its record is.
    pub place: meta_hint::Place,
}

pub mod meta_hint {
    //! Where a checkpoint's record lies, for the metadata store.
    use base::{GroupId, Sequence};

    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Place {
        pub group: GroupId,
        pub offset: u32,
        pub len: u32,
        pub sequence: Sequence,
    }
}

pub(crate) struct State {
    pub attributes: Attributes,
    pub notes: Notes,
    pub health: Health,
    pub tree: Tree,
    pub accounts: Accounts,
    pub position: Position,
    pub durable: Position,
    /// The highest sequence ever reached. `position` goes back for a moment while unsynced frames are being rewritten;
    /// what was acknowledged stays acknowledged.
    pub acknowledged: Sequence,
    /// Where the delete record is.
    pub tombstone: Option<GroupId>,
    pub unsynced: VecDeque<Unsynced>,
    pub unsynced_bytes: u64,
    /// Acknowledged frames behind `position` that are where nothing proves them stored: to be appended again, under the
    /// numbers that they have, before anything else is.
    pub to_rewrite: VecDeque<Unsynced>,
    /// Groups with other copies of such frames, or that never became part of the log: void when the log is durable through
    /// the sequence.
    pub superseded: Vec<(Sequence, GroupId)>,
    pub open: Option<OpenGroup>,
    /// A sync has started since the last append: the next frame starts on a new physical sector, so that a torn sector
    /// cannot take flushed bytes with it.
    pub new_sector: bool,
    pub checkpoint: Option<Checkpoint>,
    /// Frames up to this one are synced, and a synced frame says so: who has nothing but the log knows it too.
    pub proof_logged: Sequence,
    /// The last frame that may have stored data.
    pub data_through: Sequence,
    /// The last try failed after it may have stored pages.
    pub checkpoint_failed: bool,
    /// What the groups held as of `checkpoint`: a group that it still needs is not free, whatever has happened since.
    pub checkpoint_accounts: Accounts,
    pub log_bytes: u64,
    /// Of a clone: whose groups its map may refer to besides its own, oldest first.
    pub lineage: Vec<VdiskId>,
    pub snapshots: BTreeMap<SnapshotId, Snapshot>,
    /// One was deleted since the last checkpoint.
    pub snapshots_changed: bool,
    /// What deleted snapshots held, until a checkpoint without them is proven.
    pub letting_go: Vec<LettingGo>,
    /// Of a vDisk that keeps its past.
    pub history: Option<History>,
    /// Groups that were emptied since the last checkpoint: what still counts as living there is map pages, which move with
    /// the next one.
    pub emptied: BTreeSet<GroupId>,
    /// Groups that cannot be emptied: something in them cannot be read. Kept for ever, never chosen again.
    pub unreadable: BTreeSet<GroupId>,
    /// Raised when unsynced frames were rewritten: a checkpoint under way has lost pages and must start again.
    pub rewrites: u64,
    pub evict_hand: u64,
}

pub struct Vdisk {
    pub id: VdiskId,
    pub(crate) context: Context,
    pub(crate) state: RefCell<State>,
    pub(crate) contents: RefCell<Contents>,
    pub(crate) queue: RefCell<Queue>,
    /// Rung when something was queued.
    pub(crate) queued: Notify,
    /// An append is under way in a page that holds other frames, and rung when any ends.
    pub(crate) appending: Cell<bool>,
    pub(crate) appended: Notify,
    /// The log task has ended: nothing is queued any more.
    pub(crate) ended: Cell<bool>,
    /// Groups with synced frames that the index is just being told of, and rung when it was.
    pub(crate) telling: Cell<u32>,
    pub(crate) told: Notify,
    /// What a client's frame waits for that found the disk full, and rung when it need not.
    pub(crate) room: Cell<Room>,
    pub(crate) room_searched: Notify,
    /// The disk is full: collect garbage that is not worth it otherwise.
    pub(crate) urgent: Cell<bool>,
    /// Rung when an unasked sync should not wait for the age limit.
    pub(crate) synced_early: Notify,
    /// Rung when a checkpoint or re-packing is due.
    pub(crate) maintenance: Notify,
    /// The log task is between looking at the map and having changed it: pages may not be evicted.
    pub(crate) log_busy: Cell<bool>,
    /// Reads whose pages left memory before all of them had come: none may be evicted until they have looked.
    pub(crate) map_readers: Cell<u32>,
    pub(crate) closing: Cell<bool>,
    pub(crate) stopped: Cell<bool>,
    /// Log written for clients since the start, and where the space rule is looked at again.
    pub(crate) user_log_bytes: Cell<u64>,
    pub(crate) next_space_look: Cell<u64>,
    /// Holds clients back while re-packing is behind.
    pub(crate) pace: Pace,
    /// Group and range whose bytes are synced and that the kernel may still keep a copy of.
    pub(crate) releasable: Cell<(GroupId, u32, u32)>,
    pub(crate) sync_timer: Cell<bool>,
    pub(crate) quiet_timer: Cell<bool>,
    pub(crate) last_write_ns: Cell<u64>,
    /// One checkpoint, one reclaim pass at a time.
    pub(crate) one_checkpoint: Rc<Semaphore>,
    pub(crate) one_reclaim: Rc<Semaphore>,
    /// ToldMaps of every checkpoint before anything it makes free is freed.
    pub(crate) index: Rc<dyn Index>,
    /// Groups of others that the map, or that of the last checkpoint, refers to.
    pub(crate) foreign: RefCell<Holds>,
    /// Where its maps are, for those who free what they refer to.
    pub(crate) maps: ToldMaps,
    /// The record of a snapshot could not be read: what it needs is not known.
    pub(crate) unsure: Cell<bool>,
    /// Until a frame of this start is synced, on a disk with copies, behind a log that was not closed.
    pub(crate) open_end: Cell<Option<OpenEnd>>,
    /// One who finds out what it needs at a time, and none while it is closed.
    pub(crate) one_hearing: Rc<Semaphore>,
    /// The last who tried to has failed.
    pub(crate) is_unheard: Cell<bool>,
    /// Why what was copied does not come free.
    pub(crate) copies_trouble: RefCell<Option<CopiesTrouble>>,
    /// A rollback waits for a reclaim that is under way.
    pub(crate) rollback_waits: Cell<bool>,
    /// Of points that are being read.
    pub(crate) history_pins: RefCell<Vec<Sequence>>,
    /// Where what is kept of the log begins, but for pins.
    pub(crate) history_edge: Cell<Option<Sequence>>,
    /// When the last point was taken, ns since the start; negative: before it.
    pub(crate) last_point_ns: Cell<i64>,
    pub stats: Stats,
}

/// The metadata store, as the engine sees it: an index of what the log says.
pub trait Index {
    /// Durable when it completes: the next start may look for this checkpoint and no earlier one.
    fn checkpointed(&self, vdisk: VdiskId, place: meta_hint::Place) -> world::LocalFuture<Result<()>>;
    /// Frames up to `sequence` are synced, the last of them is the first in `group`. Flushes wait for it; if the index
    /// cannot be told, it is what has less to say after a crash, and they succeed all the same.
    fn synced_into(&self, vdisk: VdiskId, group: GroupId, sequence: Sequence) -> world::LocalFuture<()>;
}

impl Load {
    /// Something came free: frames that wait for room are tried again.
    pub fn room_came(&self) {
        self.freed.set(self.freed.get() + 1);
        self.room_came.notify();
    }
}

impl Context {
    /// Some history of the shard may have something to give up: asked for each frame that finds the disk full, so nobody looks.
    pub fn may_give_history(&self) -> bool {
        let is_any = self.load.history_changes.get() > 0;
        is_any && self.load.histories_were_empty.get() != Some(self.history_state())
    }

    /// Somebody has looked, when all was searched that histories had held.
    pub fn histories_are_empty(&self, are_empty: bool) {
        self.load.histories_were_empty.set(are_empty.then(|| self.history_state()));
    }

    fn history_state(&self) -> (u64, u64) {
        (self.load.history_changes.get(), self.references.releases())
    }
}

impl Vdisk {
    pub fn attributes(&self) -> Attributes {
        self.state.borrow().attributes.clone()
    }
    pub fn health(&self) -> Health {
        self.state.borrow().health.clone()
    }
    pub(crate) fn is_deleted(&self) -> bool {
        self.state.borrow().health == Health::Deleted
    }
    pub fn size_blocks(&self) -> u64 {
        self.state.borrow().attributes.size_bytes / BLOCK
    }
    pub fn space(&self) -> Space {
        let state = self.state.borrow();
        Space {
            mapped_bytes: state.accounts.live_data(),
            stored_bytes: state.accounts.occupied_bytes(),
            live_bytes: state.accounts.live_bytes(),
            groups: state.accounts.groups.len() as u64,
            log_bytes: state.log_bytes,
        }
    }
    /// What keeps the vDisk from being as good as promised, though it is online.
    pub fn trouble(&self) -> Option<String> {
        let state = self.state.borrow();
        if !state.unreadable.is_empty() {
            return Some(format!("{} extent groups cannot be read and never come free", state.unreadable.len()));
        }
        if state.checkpoint_failed {
            return Some("the last checkpoint failed; it is being tried again".to_string());
        }
        self.copies_trouble.borrow().as_ref().map(|trouble| trouble.text.clone())
    }
    pub fn sequence(&self) -> Sequence {
        self.state.borrow().position.sequence
    }
    pub fn durable_sequence(&self) -> Sequence {
        self.state.borrow().durable.sequence
    }
    pub fn groups(&self) -> Vec<GroupId> {
        self.state.borrow().accounts.groups.keys().copied().collect()
    }
    pub fn unsynced_bytes(&self) -> u64 {
        self.state.borrow().unsynced_bytes
    }

    pub(crate) fn writable(&self) -> Result<()> {
        if self.closing.get() {
            return Err(Error::new(Kind::Closed, "the vDisk is being closed"));
        }
        let state = self.state.borrow();
        match &state.health {
            Health::Online if state.attributes.read_only => {
                Err(Error::new(Kind::ReadOnly, format!("vDisk {} is set read-only", state.attributes.name)))
            }
            Health::Online => Ok(()),
            Health::Damaged(reason) => Err(Error::new(Kind::ReadOnly, format!("served read-only: {reason}"))),
            Health::Failed(reason) => Err(Error::new(Kind::Io, format!("not written until a restart: {reason}"))),
            Health::Deleted => Err(gone()),
        }
    }

    /// Brings a page of the map into memory.
    pub(crate) async fn load(&self, need: NeedPage) -> Result<()> {
        if self.share(need) {
            return Ok(());
        }
        self.attach_bytes(need, &self.page_bytes(need.address).await?)
    }

    /// The same, at once, if it is a leaf that another tree of this worker has in memory.
    pub(crate) fn share(&self, need: NeedPage) -> bool {
        let found = if need.place.level == 0 { self.context.load.map.leaf(need.address) } else { None };
        let Some(leaf) = found else { return false };
        self.state.borrow_mut().tree.attach_leaf(need, leaf);
        self.watch_map_memory();
        true
    }

    /// What a page says that is not in the tree: from the memory of another tree of this worker, or read.
    pub(crate) async fn page_entries(&self, need: NeedPage) -> Result<Box<[Address; FANOUT]>> {
        if let Some(leaf) = self.context.load.map.leaf(need.address) {
            return Ok(Box::new(*leaf.entries()));
        }
        self.entries_of(need, &self.page_bytes(need.address).await?)
    }

    /// `bytes`: the page, checked.
    pub(crate) fn attach_bytes(&self, need: NeedPage, bytes: &[u8]) -> Result<()> {
        let entries = self.entries_of(need, bytes)?;
        self.attach(need, &entries);
        Ok(())
    }

    fn attach(&self, need: NeedPage, entries: &[Address; FANOUT]) {
        self.state.borrow_mut().tree.attach(need, entries);
        self.watch_map_memory();
    }

    fn entries_of(&self, need: NeedPage, bytes: &[u8]) -> Result<Box<[Address; FANOUT]>> {
        Stats::add(&self.stats.map_page_loads, 1);
        decode_page(bytes)
            .map_err(|error| Error::corrupt(format!("map page {:?} at {:?}: {error}", need.place, need.address)))
    }

    /// The bytes of a map page, checked.
    pub(crate) async fn page_bytes(&self, address: Address) -> Result<Bytes> {
        let read = page_bytes(&self.context, address).await;
        if read.as_ref().is_err_and(|error| error.kind == Kind::Corrupt) {
            Stats::add(&self.stats.checksum_failures, 1);
        }
        read
    }

    pub(crate) fn watch_map_memory(&self) {
        if self.context.load.map.bytes() > self.context.settings.map_bytes_max {
            self.context.load.over_limit.notify();
        }
    }

    /// Takes clean map pages out of memory; returns the bytes freed.
    pub fn evict_map(&self, want_bytes: u64) -> u64 {
        if self.log_busy.get() || self.map_readers.get() > 0 {
            return 0;
        }
        let mut state = self.state.borrow_mut();
        let State { tree, evict_hand, .. } = &mut *state;
        tree.evict(evict_hand, want_bytes)
    }
}

impl State {
    pub(crate) fn new(attributes: Attributes, tree: Tree) -> State {
        State {
            attributes,
            notes: Notes::new(),
            health: Health::Online,
            tree,
            accounts: Accounts::default(),
            position: Position::default(),
            durable: Position::default(),
            acknowledged: Sequence(0),
            tombstone: None,
            unsynced: VecDeque::new(),
            unsynced_bytes: 0,
            to_rewrite: VecDeque::new(),
            superseded: Default::default(),
            open: None,
            new_sector: true,
            checkpoint: None,
            proof_logged: Sequence(0),
            data_through: Sequence(0),
            checkpoint_failed: false,
            checkpoint_accounts: Accounts::default(),
            log_bytes: 0,
            lineage: Vec::new(),
            snapshots: Default::default(),
            snapshots_changed: false,
            letting_go: Vec::new(),
            history: None,
            emptied: Default::default(),
            unreadable: Default::default(),
            rewrites: 0,
            evict_hand: 0,
        }
    }
}

impl Vdisk {
    pub(crate) fn assemble(context: Context, index: Rc<dyn Index>, id: VdiskId, state: State) -> Rc<Vdisk> {
        let foreign = Holds::none(&context.references).into();
        let now_ns = context.world.now().0;
        let maps = ToldMaps::new(&context.references);
        let contents = Contents::new(context.load.contents_bytes.clone(), context.settings.contents_bytes_max);
        Rc::new(Vdisk {
            id,
            context,
            contents: contents.into(),
            state: state.into(),
            queue: Queue::default().into(),
            queued: Default::default(),
            appending: Default::default(),
            appended: Default::default(),
            ended: Default::default(),
            telling: Default::default(),
            told: Default::default(),
            room: Default::default(),
            room_searched: Default::default(),
            urgent: Default::default(),
            synced_early: Default::default(),
            maintenance: Default::default(),
            log_busy: Default::default(),
            map_readers: Default::default(),
            closing: Default::default(),
            stopped: Default::default(),
            user_log_bytes: Default::default(),
            next_space_look: Default::default(),
            pace: Default::default(),
            releasable: Cell::new((GroupId::NONE, 0, 0)),
            sync_timer: Default::default(),
            quiet_timer: Default::default(),
            last_write_ns: Default::default(),
            one_checkpoint: world::local::Semaphore::new(1),
            one_reclaim: world::local::Semaphore::new(1),
            index,
            foreign,
            maps,
            unsure: Default::default(),
            open_end: Default::default(),
            one_hearing: world::local::Semaphore::new(1),
            is_unheard: Default::default(),
            copies_trouble: Default::default(),
            rollback_waits: Default::default(),
            history_pins: Default::default(),
            history_edge: Default::default(),
            last_point_ns: Cell::new(now_ns as i64),
            stats: Default::default(),
        })
    }

    pub(crate) fn start(self: &Rc<Self>) {
        self.history_grows();
        self.context.world.spawn(self.clone().run_log());
        self.context.world.spawn(self.clone().run_maintenance());
    }
}
