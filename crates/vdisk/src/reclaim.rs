//! Making room: freeing groups in which nothing lives, punching large dead ranges, re-packing what is left of a group.
//!
//! Counters only choose where to look. A group is freed when a *synced* checkpoint does not reach any extent of it,
//! found out by looking up every extent that the group's frames name. Extents are moved by appending them again in this
//! vDisk's own log, if the map still says what it said.

use crate::account::GroupAccount;
use crate::address::Address;
use crate::contents::{Held, held_by, push};
use crate::log::frame::RunKind;
use crate::log::{GroupWalk, Item, Move, Step, WalkedFrame, run_addresses};
use crate::map::{NeedPage, PagePlace, address_at};
use crate::stats::Stats;
use crate::vdisk::{Checkpoint, Vdisk};
use crate::{Error, Kind, Result};
use base::GroupId;
use base::units::{BLOCK, round_down, round_up};
use bytes::Bytes;
use std::rc::Rc;

/// Blocks moved by one frame: 256 KiB, so that clients wait behind little.
const MOVES_MAX: usize = 64;
/// Shortest dead range that is punched: below, the file system's bookkeeping costs more than the space is worth.
const PUNCH_BLOCKS_MIN: usize = 16;
/// A group that is fuller than this is not re-packed for space.
const FULL_PERCENT: u64 = 90;
/// Part of the live bytes that may lie dead until a checkpoint lets them go: each checkpoint of a vDisk that is written
/// all over stores its whole map, 0.4 % of the live bytes.
const DEAD_PART: u64 = 7;
/// How often the space rule is looked at, bytes of log.
const LOOK_EVERY: u64 = 8 << 20;

impl Vdisk {
    /// Whether it is worth waking the maintenance: cheap, asked after each frame of a client. Frames of the maintenance
    /// itself do not count, or it would be the reason for more of it.
    pub(crate) fn space_is_due(&self) -> bool {
        if self.user_log_bytes.get() < self.next_space_look.get() {
            return false;
        }
        let state = self.state.borrow();
        let live = state.accounts.live_bytes();
        let over = state.accounts.occupied_bytes() > self.space_limit(live);
        let many = state.accounts.groups.len() as u64 > self.groups_limit(live);
        if over || many {
            self.look_later();
        }
        over || many
    }

    fn look_later(&self) {
        let every = LOOK_EVERY.min(self.context.settings.space_slack_bytes / 4);
        self.next_space_look.set(self.user_log_bytes.get() + every);
    }

    /// Dead bytes that may wait for a checkpoint that comes anyway.
    fn dead_limit(&self) -> u64 {
        if self.urgent.get() {
            return 0;
        }
        let live = self.state.borrow().accounts.live_bytes();
        (self.context.settings.space_slack_bytes / 2).max(live / DEAD_PART)
    }

    fn space_limit(&self, live: u64) -> u64 {
        if self.urgent.get() {
            return live + live / 20 + u64::from(self.context.pool.group_size());
        }
        live * self.context.settings.space_percent / 100 + self.context.settings.space_slack_bytes
    }

    /// Groups are to stay within three times what the live bytes would fill; re-packing starts at two.
    fn groups_limit(&self, live: u64) -> u64 {
        2 * live.div_ceil(self.context.pool.group_size().into()) + 4
    }

    /// Frees what is dead and re-packs until the groups hold no more than they may.
    pub async fn make_room(self: &Rc<Self>) -> Result<()> {
        let _one = self.one_reclaim.acquire(1).await;
        if self.closing.get() {
            return Ok(());
        }
        let before = self.state.borrow().accounts.occupied_bytes();
        self.free_dead_groups().await?;
        while let Some(victim) = self.pick_victim() {
            self.state.borrow_mut().emptied.insert(victim);
            match self.empty_group(victim).await {
                Err(error) if matches!(error.kind, Kind::Io | Kind::Corrupt) => {
                    tracing::error!(vdisk = %self.id, group = %victim, %error, "a group cannot be emptied; it is kept");
                    self.state.borrow_mut().unreadable.insert(victim);
                }
                result => result?,
            }
            // Space comes back with the next checkpoint; do not run far ahead of it.
            if self.closing.get() || self.dead_bytes() > self.dead_limit() {
                break;
            }
        }
        if self.dead_bytes() > self.dead_limit() {
            self.checkpoint().await?;
            self.free_dead_groups().await?;
        }
        self.look_later();
        // Go on only while it pays: moving what lives and a checkpoint write too, and could feed each other for ever.
        let after = self.state.borrow().accounts.occupied_bytes();
        if after + u64::from(self.context.pool.group_size()) / 2 < before && self.pick_victim().is_some() {
            self.maintenance.notify();
        }
        Ok(())
    }

    /// The disk is full: everything that is dead comes free now, and what is half dead is re-packed.
    pub async fn make_room_urgently(self: &Rc<Self>) -> Result<()> {
        self.urgent.set(true);
        let done = async {
            match self.checkpoint().await {
                // What an earlier checkpoint has left dead may still come free.
                Err(error) if error.kind != Kind::Full => Err(error),
                _ => self.make_room().await,
            }
        };
        let result = done.await;
        self.urgent.set(false);
        result
    }

    /// Bytes in groups in which nothing lives, but which the last checkpoint may still need.
    fn dead_bytes(&self) -> u64 {
        let state = self.state.borrow();
        let dead = state.accounts.groups.iter().filter(|(id, account)| {
            **id != state.position.group && (account.live() == 0 || state.emptied.contains(*id))
        });
        dead.map(|(_, account)| account.occupied()).sum()
    }

    fn pick_victim(&self) -> Option<GroupId> {
        let dead = self.dead_bytes();
        let state = self.state.borrow();
        let live = state.accounts.live_bytes();
        let over = state.accounts.occupied_bytes().saturating_sub(dead) > self.space_limit(live);
        let living =
            state.accounts.groups.iter().filter(|(id, account)| account.live() > 0 && !state.emptied.contains(*id));
        let living = living.count() as u64;
        let many = living > self.groups_limit(live);
        if !over && !many {
            return None;
        }
        let open = state.open.as_ref().map(|group| group.id());
        let fullness = |account: &GroupAccount| account.live() * 1000 / account.occupied().max(1);
        let candidates = state.accounts.groups.iter().filter(|(id, account)| {
            let settled = **id != state.position.group
                && Some(**id) != open
                && !state.unreadable.contains(*id)
                && !state.emptied.contains(*id);
            let worth =
                fullness(account) < FULL_PERCENT * 10 || (many && account.len < self.context.pool.group_size() / 2);
            settled && account.live() > 0 && worth
        });
        // Ties are broken by id: the choice does not depend on the order of a hash map.
        let key = |account: &GroupAccount| if over { fullness(account) } else { account.live() };
        candidates.min_by_key(|(id, account)| (key(account), **id)).map(|(id, _)| *id)
    }

    /// Frees every group that the last checkpoint proves dead. Returns how many.
    pub(crate) async fn free_dead_groups(self: &Rc<Self>) -> Result<u64> {
        let mut freed = 0;
        self.free_superseded().await?;
        for (group, account) in self.dead_candidates() {
            let Some(checkpoint) = self.state.borrow().checkpoint else { return Ok(freed) };
            let found = match self.find_reachable(group, account.len, checkpoint).await {
                // One bad sector must not keep everything else from coming free.
                Err(error) => Some(error.to_string()),
                Ok(found) => found,
            };
            match found {
                None => {
                    self.prove_in_log(checkpoint).await?;
                    self.state.borrow_mut().accounts.remove(group);
                    self.contents.borrow_mut().forget(group);
                    self.context.pool.free(group).await?;
                    Stats::add(&self.stats.groups_freed, 1);
                    Stats::add(&self.stats.bytes_freed, account.occupied());
                    freed += 1;
                }
                Some(why) => {
                    tracing::error!(vdisk = %self.id, %group, why, "a group cannot be shown to be dead; it is kept");
                    self.state.borrow_mut().unreadable.insert(group);
                }
            }
        }
        Ok(freed)
    }

    async fn free_superseded(&self) -> Result<()> {
        let groups = {
            let mut state = self.state.borrow_mut();
            if state.durable.sequence < state.superseded.0 {
                return Ok(());
            }
            std::mem::take(&mut state.superseded.1)
        };
        for group in groups {
            self.context.pool.free(group).await?;
        }
        Ok(())
    }

    /// Before anything goes that an earlier checkpoint may need, the log itself says that this one is synced: who has
    /// nothing but the log starts from the last checkpoint of which that can be said.
    async fn prove_in_log(self: &Rc<Self>, checkpoint: Checkpoint) -> Result<()> {
        if self.state.borrow().proof_logged >= checkpoint.place.sequence {
            return Ok(());
        }
        let sequence = self.ask(|done| Item::Proof { done }).await??;
        self.flush_through(sequence).await
    }

    fn dead_candidates(&self) -> Vec<(GroupId, GroupAccount)> {
        let state = self.state.borrow();
        let Some(checkpoint) = state.checkpoint else { return Vec::new() };
        let open = state.open.as_ref().map(|group| group.id());
        let dead_then =
            |group: &GroupId| state.checkpoint_accounts.groups.get(group).is_none_or(|then| then.live() == 0);
        let mut dead: Vec<(GroupId, GroupAccount)> = state
            .accounts
            .groups
            .iter()
            .filter(|(id, account)| {
                account.live() == 0
                    && account.last_sequence <= checkpoint.covers.sequence
                    && dead_then(id)
                    && **id != state.position.group
                    && **id != state.durable.group
                    && Some(**id) != open
                    && **id != checkpoint.place.group
                    && !state.unreadable.contains(*id)
            })
            .map(|(id, account)| (*id, *account))
            .collect();
        dead.sort_unstable_by_key(|(id, _)| *id);
        dead
    }

    /// Looks every extent of the group up in the checkpoint's tree. `Some`: something lives, or cannot be ruled out.
    async fn find_reachable(&self, group: GroupId, len: u32, checkpoint: Checkpoint) -> Result<Option<String>> {
        let mut view = View { vdisk: self, root: checkpoint.root, height: checkpoint.height, leaf: None };
        let known = self.contents.borrow().of(group).map(<[Held]>::to_vec);
        if let Some(held) = known {
            return view.find_any(group, held).await;
        }
        let mut walk = GroupWalk::whole(self.context.pool.clone(), self.id, group, len);
        while let Step::Frame(walked) = walk.next().await? {
            let frame = &walked.frame;
            yield_now().await;
            for run in &frame.runs {
                for (i, address) in extents(&walked, run).into_iter().enumerate() {
                    let found = match run.kind {
                        RunKind::Page => view.page(PagePlace { level: run.level, index: run.block }).await?,
                        _ => view.block(run.block + i as u64).await?,
                    };
                    if found == address {
                        return Ok(Some(format!("{:?} {} + {i} is at {address:?}", run.kind, run.block)));
                    }
                }
            }
        }
        if walk.at.end < len {
            return Ok(Some(format!("its frames can be read up to {:#x} of {len:#x} only", walk.at.end)));
        }
        Ok(None)
    }

    /// Punches where that is enough, else moves everything that lives in the group to the end of the log.
    async fn empty_group(self: &Rc<Self>, group: GroupId) -> Result<()> {
        let account = self.state.borrow().accounts.groups.get(&group).copied().unwrap_or_default();
        let half_full = account.live() * 2 >= account.occupied();
        if half_full && self.punch_dead_ranges(group, account).await? {
            return Ok(());
        }
        let mut walk = GroupWalk::whole(self.context.pool.clone(), self.id, group, account.len);
        let (mut moves, mut held) = (Vec::new(), Vec::new());
        while let Step::Frame(walked) = walk.next().await? {
            yield_now().await;
            walked.frame.runs.iter().filter_map(held_by).for_each(|run| push(&mut held, run));
            for run in walked.frame.runs.clone() {
                match run.kind {
                    RunKind::Data => self.collect_moves(&walked, &run, &mut moves).await?,
                    RunKind::Page => {
                        let address = extents(&walked, &run).pop().expect("a page has one extent");
                        self.touch_page(PagePlace { level: run.level, index: run.block }, address).await?;
                    }
                    RunKind::ClearHole | RunKind::ClearZeros | RunKind::Control => {}
                }
                while moves.len() >= MOVES_MAX {
                    let rest = moves.split_off(MOVES_MAX);
                    let now = std::mem::replace(&mut moves, rest);
                    self.ask(|done| Item::Relocate { moves: now, done }).await??;
                }
            }
        }
        if !moves.is_empty() {
            self.ask(|done| Item::Relocate { moves, done }).await??;
        }
        let mut state = self.state.borrow_mut();
        if walk.at.end < account.len {
            tracing::error!(vdisk = %self.id, %group, at = walk.at.end, len = account.len, "a sealed group cannot be read to its end");
            state.unreadable.insert(group);
        } else {
            self.contents.borrow_mut().learn(group, held);
            // All that lived here has moved: now the counter can be made exact.
            let left = state.accounts.groups.get(&group).map_or(0, |account| account.data);
            state.accounts.data_dead(group, left);
        }
        Ok(())
    }

    async fn collect_moves(
        &self,
        walked: &WalkedFrame,
        run: &crate::log::frame::Run,
        moves: &mut Vec<Move>,
    ) -> Result<()> {
        let payload = walked.payload(run);
        for (i, address) in extents(walked, run).into_iter().enumerate() {
            let block = run.block + i as u64;
            if self.lookup(block).await? != address {
                continue;
            }
            let bytes = &payload[i * BLOCK as usize..(i + 1) * BLOCK as usize];
            if base::crc::crc32c(bytes) != address.crc() {
                // It stays where it is: a read answers with a medium error, and the group is never given back.
                Stats::add(&self.stats.checksum_failures, 1);
                tracing::error!(vdisk = %self.id, block, extent = ?address, "extent fails its checksum and cannot be moved");
                self.state.borrow_mut().unreadable.insert(address.group());
                return Err(Error::corrupt(format!("extent {address:?} of block {block} fails its checksum")));
            }
            moves.push(Move { block, from: address, data: Bytes::copy_from_slice(bytes) });
        }
        Ok(())
    }

    async fn lookup(&self, block: u64) -> Result<Address> {
        loop {
            let found = self.state.borrow().tree.lookup(block);
            match found {
                Ok(address) => return Ok(address),
                Err(need) => self.load(need).await?,
            }
        }
    }

    /// A page of the map that lies in the group is marked, so that the next checkpoint stores it elsewhere.
    async fn touch_page(&self, place: PagePlace, address: Address) -> Result<()> {
        loop {
            let touched: std::result::Result<(), NeedPage> = {
                let mut state = self.state.borrow_mut();
                match state.tree.page_is_at(place, address) {
                    Ok(true) => state.tree.touch(place),
                    Ok(false) => Ok(()),
                    Err(need) => Err(need),
                }
            };
            match touched {
                Ok(()) => return Ok(()),
                Err(need) => self.load(need).await?,
            }
        }
    }

    /// Gives back dead ranges of at least 64 KiB inside the payload of frames that no replay needs. `true`: that was
    /// most of what is dead.
    async fn punch_dead_ranges(self: &Rc<Self>, group: GroupId, account: GroupAccount) -> Result<bool> {
        let Some(checkpoint) = self.state.borrow().checkpoint else { return Ok(false) };
        let mut view = View { vdisk: self, root: checkpoint.root, height: checkpoint.height, leaf: None };
        let mut walk = GroupWalk::whole(self.context.pool.clone(), self.id, group, account.len);
        let mut ranges = Vec::new();
        while let Step::Frame(walked) = walk.next().await? {
            if walked.frame.sequence > checkpoint.covers.sequence {
                break;
            }
            for run in walked.frame.runs.iter().filter(|run| run.kind == RunKind::Data) {
                if run.count as usize >= PUNCH_BLOCKS_MIN {
                    self.find_dead_ranges(&walked, run, &mut view, &mut ranges).await?;
                }
            }
        }
        let bytes: u64 = ranges.iter().map(|(_, len)| u64::from(*len)).sum();
        let dead = account.occupied().saturating_sub(account.live());
        if bytes * 2 < dead || bytes == 0 {
            return Ok(false);
        }
        self.prove_in_log(checkpoint).await?;
        for (offset, len) in ranges {
            self.context.pool.punch(group, offset, len).await?;
        }
        // Ranges that were punched before are in the sum again.
        let fresh = bytes.saturating_sub(account.punched.into()) as u32;
        Stats::add(&self.stats.bytes_punched, fresh.into());
        self.state.borrow_mut().accounts.punched(group, fresh);
        Ok(fresh > 0)
    }

    async fn find_dead_ranges(
        &self,
        walked: &WalkedFrame,
        run: &crate::log::frame::Run,
        view: &mut View<'_>,
        ranges: &mut Vec<(u32, u32)>,
    ) -> Result<()> {
        let mut start = None;
        let extents = extents(walked, run);
        for i in 0..=extents.len() {
            let dead = match extents.get(i) {
                None => false,
                Some(address) => {
                    let block = run.block + i as u64;
                    self.lookup(block).await? != *address && view.block(block).await? != *address
                }
            };
            match (dead, start) {
                (true, None) => start = Some(i),
                (false, Some(first)) => {
                    if i - first >= PUNCH_BLOCKS_MIN {
                        // Small frames are packed: what a ragged end shares with its neighbour stays.
                        let offset = walked.frame.offset + run.payload_offset + first as u32 * BLOCK as u32;
                        let end = round_down(u64::from(offset) + (i - first) as u64 * BLOCK, BLOCK) as u32;
                        let start = round_up(offset.into(), BLOCK) as u32;
                        ranges.push((start, end - start));
                    }
                    start = None;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Lets the worker's other tasks run: a window of a group holds a thousand frames, clients must not wait for them all.
async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return std::task::Poll::Ready(());
        }
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await
}

fn extents(walked: &WalkedFrame, run: &crate::log::frame::Run) -> Vec<Address> {
    match run.kind {
        RunKind::Data | RunKind::Page => run_addresses(&walked.frame, run),
        RunKind::ClearHole | RunKind::ClearZeros | RunKind::Control => Vec::new(),
    }
}

/// Lookups in the tree of a checkpoint, page by page through the cache.
struct View<'a> {
    vdisk: &'a Vdisk,
    root: Address,
    height: u8,
    /// The leaf looked at last, with its index.
    leaf: Option<(u64, Option<Bytes>)>,
}

impl View<'_> {
    /// Does the checkpoint reach anything in `group`, which holds `held`? `Some`: that.
    async fn find_any(&mut self, group: GroupId, mut held: Vec<Held>) -> Result<Option<String>> {
        // Neighbours share a page of the map.
        held.sort_unstable();
        for run in held {
            yield_now().await;
            for block in run.block..run.block + u64::from(run.count) {
                let found = match run.level {
                    Some(level) => self.page(PagePlace { level, index: block }).await?,
                    None => self.block(block).await?,
                };
                if found.is_stored() && found.group() == group {
                    return Ok(Some(format!("{run:?}: {block} is at {found:?}")));
                }
            }
        }
        Ok(None)
    }

    async fn block(&mut self, block: u64) -> Result<Address> {
        let index = block >> 8;
        if self.leaf.as_ref().is_none_or(|(have, _)| *have != index) {
            let address = self.page(PagePlace { level: 0, index }).await?;
            let bytes = if address.is_stored() { Some(self.vdisk.page_bytes(address).await?) } else { None };
            self.leaf = Some((index, bytes));
        }
        match &self.leaf {
            Some((_, Some(bytes))) => entry(bytes, (block & 0xff) as usize),
            // Nothing there, or zeros: no extent either way.
            _ => Ok(Address::NONE),
        }
    }

    async fn page(&mut self, place: PagePlace) -> Result<Address> {
        let mut address = self.root;
        if place.level >= self.height || place.index >> (8 * u32::from(self.height - 1 - place.level)) != 0 {
            return Ok(Address::NONE);
        }
        for level in (place.level + 1..self.height).rev() {
            if !address.is_stored() {
                return Ok(address);
            }
            let bytes = self.vdisk.page_bytes(address).await?;
            let slot = place.index >> (8 * u32::from(level - 1 - place.level)) & 0xff;
            address = entry(&bytes, slot as usize)?;
        }
        Ok(address)
    }
}

fn entry(page: &Bytes, slot: usize) -> Result<Address> {
    address_at(page, slot).ok_or_else(|| Error::corrupt("a map page has an entry of unknown form"))
}
