//! Emptying a group: large dead ranges are punched, or what lives moves to the end of the log.

use super::view::View;
use super::{extents, yield_now};
use crate::account::GroupAccount;
use crate::address::Address;
use crate::contents::{Held, Listed, Runs, held_by};
use crate::log::frame::RunKind;
use crate::log::{GroupWalk, Item, Move, Step, WalkedFrame, closed};
use crate::map::{NeedPage, PagePlace};
use crate::stats::Stats;
use crate::vdisk::Vdisk;
use crate::{Error, Result};
use base::GroupId;
use base::units::{BLOCK, round_down, round_up};
use bytes::Bytes;
use std::rc::Rc;
use world::local::{OneshotReceiver, oneshot};

/// Blocks moved by one frame: 192 KiB, so that clients wait behind little. (From 256 KiB on they would wait for the device:
/// such frames go past the page cache.)
const MOVES_MAX: usize = 48;
/// Shortest dead range that is punched: below, the file system's bookkeeping costs more than the space is worth.
const PUNCH_BLOCKS_MIN: usize = 16;

/// Blocks that the log task has been asked to move, one frame of them at a time.
#[derive(Default)]
struct Moving {
    under_way: Option<OneshotReceiver<Result<u64>>>,
}

impl Moving {
    async fn next(&mut self, vdisk: &Vdisk, moves: Vec<Move>) -> Result<()> {
        self.end().await?;
        let (done, receiver) = oneshot();
        vdisk.enqueue(Item::Relocate { moves, done });
        self.under_way = Some(receiver);
        Ok(())
    }

    async fn end(&mut self) -> Result<()> {
        match self.under_way.take() {
            Some(receiver) => receiver.await.unwrap_or_else(|| Err(closed())).map(drop),
            None => Ok(()),
        }
    }
}

impl Vdisk {
    /// Punches where that is enough, else moves everything that lives in the group to the end of the log.
    pub(super) async fn empty_group(self: &Rc<Self>, group: GroupId) -> Result<()> {
        let account = self.state.borrow().accounts.groups.get(&group).copied().unwrap_or_default();
        let half_full = account.live() * 2 >= account.occupied();
        if half_full && self.punch_dead_ranges(group, account).await? {
            return Ok(());
        }
        let mut walk = GroupWalk::whole(self.context.pool.clone(), self.id, group, account.len);
        let mut moving = Moving::default();
        let collected = self.move_what_lives(&mut walk, &mut moving).await;
        // Whatever has failed, nothing is under way any more.
        let moved = moving.end().await;
        let listed = collected?;
        moved?;
        let mut state = self.state.borrow_mut();
        if walk.at.end < account.len {
            tracing::error!(vdisk = %self.id, %group, at = walk.at.end, len = account.len, "a sealed group cannot be read to its end");
            state.unreadable.insert(group);
        } else {
            self.contents.borrow_mut().emptied(group, listed);
            // All that lived here has moved: now the counter can be made exact. (Unless something was copied meanwhile.)
            let account = state.accounts.of(group);
            if account.copied_at.is_none() {
                state.accounts.data_dead(group, account.data);
            }
        }
        Ok(())
    }

    /// Returns what the group holds. While the log task has some blocks, the next are collected.
    async fn move_what_lives(self: &Rc<Self>, walk: &mut GroupWalk, moving: &mut Moving) -> Result<Listed> {
        let (mut moves, mut held, mut first) = (Vec::new(), Runs::default(), None);
        while let Step::Frame(walked) = walk.next().await? {
            yield_now().await;
            first.get_or_insert(walked.frame.sequence);
            walked.frame.runs.iter().filter_map(held_by).for_each(|run| held.push(run));
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
                    moving.next(self, std::mem::replace(&mut moves, rest)).await?;
                }
            }
        }
        if !moves.is_empty() {
            moving.next(self, moves).await?;
        }
        Ok(Listed { first: first.unwrap_or_default(), held })
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
        let is_long = |run: Held| run.level.is_none() && run.count as usize >= PUNCH_BLOCKS_MIN;
        if self.contents.borrow().of(group).is_some_and(|listed| !listed.held.iter().any(is_long)) {
            return Ok(false);
        }
        let mut views = vec![View::new(&self.context, checkpoint.root, checkpoint.height)];
        let mut walk = GroupWalk::headers(self.context.pool.clone(), self.id, group, account.len);
        let (mut ranges, mut first) = (Vec::new(), None);
        while let Step::Frame(walked) = walk.next().await? {
            if walked.frame.sequence > checkpoint.covers.sequence {
                break;
            }
            if first.replace(walked.frame.sequence).is_none() {
                let roots = self.context.references.roots_of(self.id, walked.frame.sequence);
                let others = roots.into_iter().filter(|root| root.address != checkpoint.root);
                views.extend(others.map(|root| View::new(&self.context, root.address, root.height)));
            }
            for run in walked.frame.runs.iter().filter(|run| run.kind == RunKind::Data) {
                if run.count as usize >= PUNCH_BLOCKS_MIN {
                    self.find_dead_ranges(&walked, run, &mut views, &mut ranges).await?;
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
            if !self.is_own(group, &account) || !self.may_free() {
                return Ok(false);
            }
            self.context.pool.punch(group, offset, len).await?;
        }
        // Ranges that were punched before are in the sum again.
        let fresh = bytes.saturating_sub(account.punched.into()) as u32;
        Stats::add(&self.stats.bytes_punched, fresh.into());
        self.state.borrow_mut().accounts.punched(group, fresh);
        if fresh > 0 {
            self.context.load.room_came();
        }
        Ok(fresh > 0)
    }

    async fn find_dead_ranges(
        &self,
        walked: &WalkedFrame,
        run: &crate::log::frame::Run,
        views: &mut [View<'_>],
        ranges: &mut Vec<(u32, u32)>,
    ) -> Result<()> {
        let mut start = None;
        let extents = extents(walked, run);
        for i in 0..=extents.len() {
            let dead = match extents.get(i) {
                None => false,
                Some(address) => {
                    let block = run.block + i as u64;
                    let mut dead = self.lookup(block).await? != *address;
                    for view in views.iter_mut() {
                        dead = dead && view.block(block).await? != *address;
                    }
                    dead
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
