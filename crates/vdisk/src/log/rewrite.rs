//! Appending frames once more, elsewhere, that a failed sync or a crash leaves without proof that they are stored.

use super::append::CopyOf;
use super::frame::FrameKind;
use super::piece::{Piece, old_addresses, run_addresses};
use super::{Frozen, Position, Record};
use crate::address::Address;
use crate::map::{NeedPage, Node};
use crate::stats::Stats;
use crate::vdisk::{Health, State, Vdisk};
use crate::{Error, Kind, Result};
use base::{Sequence, SnapshotId};
use bytes::Bytes;
use pool::Purpose;
use std::rc::Rc;

/// A frame that is not known to be synced, kept whole: after a failed sync it is appended again elsewhere.
#[derive(Clone)]
pub(crate) struct Unsynced {
    pub at: Position,
    pub offset: u32,
    pub bytes: u64,
    /// Checksum of the header of its first copy.
    pub origin: u32,
    pub wall_ns: u64,
    /// What the frame says to be synced.
    pub durable_through: Sequence,
    pub kind: FrameKind,
    pub pieces: Vec<Piece>,
    /// Pages: the node and what was stored for it before.
    pub pages: Vec<(Rc<Node>, Address)>,
}

impl Unsynced {
    /// The block of data at this address, if it is one of the frame's.
    fn block(&self, address: Address) -> Option<&[u8]> {
        let payload: usize = self.pieces.iter().filter_map(Piece::payload).map(Bytes::len).sum();
        let mut from = address.offset().checked_sub(self.at.end - payload as u32)? as usize;
        for payload in self.pieces.iter().filter_map(Piece::payload) {
            if from < payload.len() {
                return payload.get(from..from + address.len() as usize);
            }
            from -= payload.len();
        }
        None
    }
}

impl Vdisk {
    /// A block that is in memory, since nothing proves yet that it is stored: after a failed sync it may be nowhere else
    /// until it is written again.
    pub(crate) fn kept_block(&self, address: Address) -> Option<Bytes> {
        let state = self.state.borrow();
        let of_group = |frame: &&Unsynced| frame.at.group == address.group();
        let mut frames = state.unsynced.iter().chain(&state.to_rewrite).filter(of_group);
        let block = frames.find_map(|frame| frame.block(address))?;
        (base::crc::crc32c(block) == address.crc()).then(|| Bytes::copy_from_slice(block))
    }

    /// Everything that is not provably stored, after a failed sync or a crash, is appended again in another group under
    /// the same sequence numbers. Map pages are not: they hold addresses that are changing; their checkpoint starts again.
    /// `Full`: what is left waits in `to_rewrite`, and nothing else is appended before it.
    pub(crate) async fn rewrite_unsynced(self: &Rc<Self>) -> Result<()> {
        if let Health::Failed(reason) = &self.state.borrow().health {
            return Err(Error::new(Kind::Io, reason.clone()));
        }
        let failed = self.collect_unsynced();
        let mut count = 0;
        loop {
            // It stays in the list until its copy is in the map: whoever reads has it from there.
            let next = self.state.borrow().to_rewrite.front().cloned();
            let Some(frame) = next else { break };
            match self.rewrite_frame(&frame).await {
                Ok(()) => {
                    self.state.borrow_mut().to_rewrite.pop_front();
                    count += 1;
                }
                Err(error) if error.kind == Kind::Full => {
                    self.state.borrow_mut().to_rewrite.iter_mut().take(1).for_each(|frame| frame.pages.clear());
                    self.context.load.full.notify();
                    return Err(error);
                }
                Err(error) => {
                    // Nothing may take the place of the frame that failed.
                    let reason = format!("unsynced frames could not be written elsewhere: {error}");
                    tracing::error!(vdisk = %self.id, %error, "unsynced frames are lost to this run; refusing writes and flushes");
                    self.fail(reason.clone());
                    return Err(Error::new(Kind::Io, reason));
                }
            }
        }
        if failed {
            Stats::add(&self.stats.sync_failures_survived, 1);
            tracing::warn!(vdisk = %self.id, frames = count, "sync failed; unsynced frames were written to another group");
        }
        Ok(())
    }

    /// If the sync of any unsynced frame failed, all of them are to be rewritten: the log goes back to what is durable.
    fn collect_unsynced(&self) -> bool {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        if !state.unsynced.iter().any(|frame| self.context.pool.is_poisoned(frame.at.group)) {
            return false;
        }
        state.rewrites += 1;
        state.open = None;
        state.position = state.durable;
        let load = &self.context.load.unsynced_bytes;
        load.set(load.get() - state.unsynced_bytes);
        state.unsynced_bytes = 0;
        let mut frames = std::mem::take(&mut state.unsynced);
        frames.append(&mut state.to_rewrite);
        state.to_rewrite = frames;
        true
    }

    /// What is still to be rewritten comes before any new frame: its sequence numbers do. Then what the history needs
    /// before it.
    pub(super) async fn rewrite_first(self: &Rc<Self>) -> Result<()> {
        if !self.state.borrow().to_rewrite.is_empty() {
            self.rewrite_unsynced().await?;
        }
        self.point_first().await
    }

    async fn rewrite_frame(self: &Rc<Self>, old: &Unsynced) -> Result<()> {
        for (node, before) in &old.pages {
            let lost = node.stored.get();
            let mut state = self.state.borrow_mut();
            state.accounts.page_dead(lost.group(), lost.len());
            if before.is_stored() {
                state.accounts.page_live(before.group(), before.len());
            }
            node.mark_lost(*before);
        }
        let is_checkpoint = old.kind == FrameKind::Control
            && matches!(&old.pieces[..], [Piece::Control { bytes }] if matches!(Record::decode(bytes), Ok(Record::Checkpoint(_))));
        // A frame without runs keeps the sequence without a gap.
        let pieces = if old.kind == FrameKind::Pages || is_checkpoint { Vec::new() } else { old.pieces.clone() };
        let kind = if pieces.is_empty() { FrameKind::Data } else { old.kind };
        let old_addresses = old_addresses(&pieces, &old.at, old.offset);
        let first = CopyOf { origin: old.origin, wall_ns: old.wall_ns };
        let frame = self.append_copy(kind, &pieces, Purpose::Emergency, Some(first)).await?;
        let is_delete =
            |piece: &Piece| matches!(piece, Piece::Control { bytes } if Record::decode(bytes) == Ok(Record::Delete));
        if pieces.iter().any(is_delete) {
            self.state.borrow_mut().tombstone = Some(frame.group);
        }
        let now = Position::behind(&frame);
        for (index, (piece, run)) in pieces.iter().zip(&frame.runs).enumerate() {
            if let Piece::Data { block, .. } = piece {
                let new = run_addresses(&frame, run);
                self.replace_addresses(*block, &old_addresses[index], &new).await?;
                self.replace_in_frozen(*block, &old_addresses[index], &new, now.sequence).await?;
            }
        }
        self.frames_moved(now, frame.offset);
        self.note_unsynced(frame, pieces, Vec::new());
        Ok(())
    }

    async fn replace_addresses(&self, block: u64, old: &[Address], new: &[Address]) -> Result<()> {
        for (i, (old, new)) in old.iter().zip(new).enumerate() {
            let block = block + i as u64;
            loop {
                let replaced = {
                    let mut state = self.state.borrow_mut();
                    let State { tree, accounts, .. } = &mut *state;
                    match tree.lookup(block) {
                        Ok(here) if here == *old => tree
                            .set_run(block, &[*new], &mut |dead: Address| accounts.data_dead(dead.group(), dead.len()))
                            .map(|()| accounts.data_live(new.group(), new.len())),
                        Ok(_) => Ok(()),
                        Err(need) => Err(need),
                    }
                };
                match replaced {
                    Ok(()) => break,
                    Err(need) => self.load(need).await?,
                }
            }
        }
        Ok(())
    }

    /// The same in every map that was frozen behind the frame `sequence` and is not stored yet.
    async fn replace_in_frozen(&self, block: u64, old: &[Address], new: &[Address], sequence: Sequence) -> Result<()> {
        for (id, frozen) in self.frozen_since(sequence) {
            for (i, (old, new)) in old.iter().zip(new).enumerate() {
                let block = block + i as u64;
                loop {
                    let replaced = replace_one(&frozen, block, *old, *new);
                    match replaced {
                        Ok(()) => break,
                        Err(need) => {
                            let entries = self.page_entries(need).await?;
                            frozen.tree.borrow_mut().attach(need, &entries);
                        }
                    }
                }
            }
            if let (Some(snapshot), Some(new)) = (self.state.borrow_mut().snapshots.get_mut(&id), new.first()) {
                snapshot.holds.add(new.group());
            }
        }
        Ok(())
    }

    fn frozen_since(&self, sequence: Sequence) -> Vec<(SnapshotId, Rc<Frozen>)> {
        let state = self.state.borrow();
        let frozen = state.snapshots.iter().filter_map(|(id, snapshot)| Some((*id, snapshot.frozen()?.clone())));
        frozen.filter(|(_, frozen)| frozen.covers.get().sequence >= sequence).collect()
    }

    /// The frame of this number is at another place now.
    fn frames_moved(&self, now: Position, offset: u32) {
        self.past_moved(now, offset);
        for (_, frozen) in self.frozen_since(now.sequence) {
            if frozen.covers.get().sequence == now.sequence {
                frozen.covers.set(now);
            }
        }
    }
}

fn replace_one(frozen: &Frozen, block: u64, old: Address, new: Address) -> std::result::Result<(), NeedPage> {
    let (mut tree, mut accounts) = (frozen.tree.borrow_mut(), frozen.accounts.borrow_mut());
    if tree.lookup(block)? != old {
        return Ok(());
    }
    tree.set_run(block, &[new], &mut |dead: Address| accounts.data_dead(dead.group(), dead.len()))?;
    accounts.data_live(new.group(), new.len());
    Ok(())
}
