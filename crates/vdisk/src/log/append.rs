//! Appending one frame to the open group, and what it changes in memory.

use super::Position;
use super::frame::{self, Frame, FrameKind, Run, RunKind};
use super::piece::{Piece, gather, run_addresses};
use super::rewrite::Unsynced;
use crate::address::Address;
use crate::map::Node;
use crate::stats::Stats;
use crate::vdisk::{State, Vdisk};
use crate::{Kind, Result};
use base::units::{BLOCK, round_up};
use base::{GroupId, Sequence};
use bytes::Bytes;
use pool::{NewGroup, Predecessor, Purpose};
use std::rc::Rc;
use world::Completion;

/// A frame that is appended once more.
#[derive(Clone, Copy)]
pub(super) struct CopyOf {
    /// Checksum of the header of its first copy.
    pub origin: u32,
    pub wall_ns: u64,
}

/// A frame on its way to the disk.
pub(super) struct Submitted {
    pub frame: Frame,
    pub completion: Completion<pool::Result<()>>,
}

impl Vdisk {
    /// Brings every map page that applying `piece` will touch into memory: after the append nothing may fail.
    pub(super) async fn prepare(&self, piece: &Piece) -> Result<()> {
        loop {
            let checked = {
                let state = self.state.borrow();
                let blocks = piece.blocks();
                match piece {
                    Piece::Data { .. } => state.tree.check_run(blocks.start, blocks.end - blocks.start),
                    Piece::Clear { .. } => state.tree.check_clear(blocks.start, blocks.end - blocks.start),
                    Piece::Page { .. } | Piece::Control { .. } => Ok(()),
                }
            };
            let Err(need) = checked else { return Ok(()) };
            self.load(need).await?;
        }
    }

    /// Appends one frame; on a failed append once more in another group. The position moves, the map does not.
    pub(super) async fn append(self: &Rc<Self>, kind: FrameKind, pieces: &[Piece], purpose: Purpose) -> Result<Frame> {
        self.append_copy(kind, pieces, purpose, None).await
    }

    pub(super) async fn append_copy(
        self: &Rc<Self>,
        kind: FrameKind,
        pieces: &[Piece],
        purpose: Purpose,
        copy_of: Option<CopyOf>,
    ) -> Result<Frame> {
        match self.try_append(kind, pieces, purpose, copy_of).await {
            Err(error) if error.kind == Kind::Io => {
                tracing::warn!(vdisk = %self.id, %error, "append failed, going on in another group");
                self.abandon_open_group();
                self.try_append(kind, pieces, purpose, copy_of).await
            }
            other => other,
        }
    }

    async fn try_append(
        self: &Rc<Self>,
        kind: FrameKind,
        pieces: &[Piece],
        purpose: Purpose,
        copy_of: Option<CopyOf>,
    ) -> Result<Frame> {
        let frame = self.draft(kind, pieces, copy_of);
        // Behind the tail: up to 4 KiB of alignment.
        self.open_for(frame.len + BLOCK as u32, purpose).await?;
        let after = self.state.borrow().position;
        let Submitted { frame, completion } = self.submit(frame, pieces, after, false);
        // A large frame has pages of its own. It takes as long as the device does, and the next one may be waiting already.
        self.appending.set(u64::from(frame.offset) % BLOCK != 0);
        let appended = completion.await;
        self.appending.set(false);
        self.appended.notify();
        if let Err(error) = appended {
            self.abandon_open_group();
            return Err(error.into());
        }
        self.has_appended(&frame, pieces);
        Ok(frame)
    }

    /// An append to it has failed. If that was its first, it is no part of the log, but it may be on the disk all the same,
    /// with what was to go into it: nobody but this list knows of it.
    pub(super) fn abandon_open_group(&self) {
        let mut state = self.state.borrow_mut();
        let Some(group) = state.open.take() else { return };
        if !state.accounts.groups.contains_key(&group.id()) {
            state.superseded.push((Sequence::default(), group.id()));
        }
    }

    /// Gives the frame its place behind `after` in the open group, which has room for it, and begins to write it.
    /// `own_pages`: it begins on one of its own, whatever its length.
    pub(super) fn submit(&self, mut frame: Frame, pieces: &[Piece], after: Position, own_pages: bool) -> Submitted {
        let header_len = frame::header_len(&frame.runs);
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let group = state.open.as_mut().expect("the caller has opened it");
        let sector = own_pages || state.new_sector || frame.len - header_len >= frame::ALIGN_FROM;
        frame.offset = round_up(group.tail().into(), if sector { BLOCK } else { 16 }) as u32;
        frame.group = group.id();
        frame.sequence = after.sequence.next();
        frame.durable_through = state.durable.sequence;
        frame.previous_crc = after.chain;
        let parts = gather(&mut frame, header_len, pieces);
        state.new_sector = false;
        let completion = group.append(frame.offset, &parts, frame.len);
        Submitted { frame, completion }
    }

    /// What an append that succeeded changes, but for the map.
    pub(super) fn has_appended(&self, frame: &Frame, pieces: &[Piece]) {
        let at = Position::behind(frame);
        {
            let mut state = self.state.borrow_mut();
            state.position = at;
            if frame.kind == FrameKind::Data && !pieces.is_empty() {
                state.data_through = at.sequence;
            }
            state.acknowledged = state.acknowledged.max(at.sequence);
            state.accounts.appended(at.group, at.end, at.sequence);
            state.passes(frame.wall_ns);
        }
        self.contents.borrow_mut().appended(frame);
        self.count(frame, pieces);
    }

    /// Log that the next checkpoint will save from being replayed. A checkpoint's own frames do not count, or each would
    /// be the reason for another.
    pub(super) fn count_log(&self, frame: &Frame) {
        // Small frames take memory and time at a replay too.
        self.count_log_bytes(u64::from(frame.len).max(BLOCK));
    }

    pub(crate) fn count_log_bytes(&self, bytes: u64) {
        self.state.borrow_mut().log_bytes += bytes;
        let load = &self.context.load;
        load.log_bytes.set(load.log_bytes.get() + bytes);
    }

    /// The same of a frame that changes the content: there is something to be taken back.
    pub(super) fn count_content(&self, frame: &Frame) {
        self.count_content_bytes(u64::from(frame.len).max(BLOCK));
    }

    pub(super) fn count_content_bytes(&self, bytes: u64) {
        self.count_log_bytes(bytes);
        self.state.borrow_mut().written_since_point(bytes);
        self.history_grows();
    }

    fn count(&self, frame: &Frame, pieces: &[Piece]) {
        let payload: u64 = pieces.iter().filter_map(Piece::payload).map(|bytes| bytes.len() as u64).sum();
        Stats::add(&self.stats.frames, 1);
        Stats::add(&self.stats.header_bytes, u64::from(frame.len) - payload);
        match frame.kind {
            FrameKind::Data => Stats::add(&self.stats.data_bytes, payload),
            FrameKind::Pages => Stats::add(&self.stats.page_bytes, payload),
            FrameKind::Control => Stats::add(&self.stats.control_bytes, payload),
        }
    }

    /// The frame but for its place, with lengths final.
    pub(super) fn draft(&self, kind: FrameKind, pieces: &[Piece], copy_of: Option<CopyOf>) -> Frame {
        let mut runs = Vec::with_capacity(pieces.len());
        let mut crcs = Vec::with_capacity(pieces.len());
        let mut payload_len = 0;
        for piece in pieces {
            let crc_first = crcs.len() as u32;
            let len = piece.payload().map_or(0, |bytes| bytes.len()) as u32;
            let (kind, level, block, count) = match piece {
                Piece::Data { block, bytes, sums } => {
                    sums.push_to(&mut crcs, bytes);
                    (RunKind::Data, 0, *block, len / BLOCK as u32)
                }
                Piece::Clear { block, count, fill } => {
                    let kind = if *fill == Address::ZEROS { RunKind::ClearZeros } else { RunKind::ClearHole };
                    (kind, 0, *block, *count)
                }
                Piece::Page { place, bytes } => {
                    crcs.push(base::crc::crc32c(bytes));
                    (RunKind::Page, place.level, place.index, 1)
                }
                Piece::Control { bytes } => {
                    crcs.push(base::crc::crc32c(bytes));
                    (RunKind::Control, 0, 0, 1)
                }
            };
            runs.push(Run { kind, level, count, block, payload_offset: payload_len, payload_len: len, crc_first });
            payload_len += len;
        }
        let header_len = frame::header_len(&runs);
        let start = frame::payload_start(header_len, payload_len);
        for run in runs.iter_mut() {
            run.payload_offset = if run.crc_count() == 0 { 0 } else { run.payload_offset + start };
        }
        Frame {
            kind,
            vdisk: self.id,
            group: GroupId::NONE,
            offset: 0,
            len: start + payload_len,
            epoch: self.context.pool.epoch(),
            sequence: Sequence(0),
            durable_through: Sequence(0),
            // A copy says when its content came.
            wall_ns: copy_of.map_or_else(|| self.context.world.clock.wall().0, |first| first.wall_ns),
            previous_crc: 0,
            copy_of: copy_of.map(|first| first.origin),
            crc: 0,
            runs,
            crcs,
        }
    }

    /// A group with room and reserved space for `len` bytes is open afterwards.
    pub(super) async fn open_for(self: &Rc<Self>, len: u32, purpose: Purpose) -> Result<()> {
        let has_room = self.state.borrow().open.as_ref().is_some_and(|group| group.room() >= len);
        if !has_room {
            let new = {
                let mut state = self.state.borrow_mut();
                state.open = None;
                let position = state.position;
                NewGroup {
                    vdisk: self.id,
                    first_sequence: position.sequence.next(),
                    durable_through: state.durable.sequence,
                    predecessor: (!position.group.is_none()).then_some(Predecessor {
                        group: position.group,
                        sealed_len: position.end,
                        chain: position.chain,
                    }),
                    purpose,
                }
            };
            let group = self.context.pool.open_group(new).await?;
            self.contents.borrow_mut().opened(group.id(), new.first_sequence);
            self.state.borrow_mut().open = Some(group);
        }
        let reserved = self.state.borrow_mut().open.as_mut().expect("opened above").reserve(len, purpose);
        Ok(reserved.await?)
    }

    /// Changes the map as the frame says. Cannot fail: [`prepare`] brought the pages, and nothing evicts meanwhile.
    pub(super) fn apply(&self, pieces: &[Piece], frame: &Frame, cache_it: bool) {
        let mut state = self.state.borrow_mut();
        let State { tree, accounts, .. } = &mut *state;
        for (piece, run) in pieces.iter().zip(&frame.runs) {
            let applied = match piece {
                Piece::Data { block, bytes, .. } => {
                    let addresses = run_addresses(frame, run);
                    let set = tree
                        .set_run(*block, &addresses, &mut |old: Address| accounts.data_dead(old.group(), old.len()));
                    accounts.data_live(frame.group, bytes.len() as u32);
                    if cache_it {
                        self.cache_blocks(&addresses, bytes);
                    }
                    set
                }
                Piece::Clear { block, count, fill } => {
                    let mut dead = |old: Address| accounts.data_dead(old.group(), old.len());
                    tree.clear(*block, u64::from(*count), *fill, &mut dead)
                }
                Piece::Page { .. } | Piece::Control { .. } => Ok(()),
            };
            applied.expect("the pages were brought into memory before the append");
        }
        drop(state);
        self.watch_map_memory();
    }

    fn cache_blocks(&self, addresses: &[Address], bytes: &Bytes) {
        let single = bytes.len() == BLOCK as usize;
        for (address, range) in addresses.iter().zip((0..bytes.len()).step_by(BLOCK as usize)) {
            // A slice would keep the whole request's buffer alive for one block of it.
            let block =
                if single { bytes.clone() } else { Bytes::copy_from_slice(&bytes[range..range + BLOCK as usize]) };
            self.context.cache.insert(address.group(), address.grain(), block);
        }
    }

    pub(super) fn note_unsynced(self: &Rc<Self>, frame: Frame, pieces: Vec<Piece>, pages: Vec<(Rc<Node>, Address)>) {
        let at =
            Position { group: frame.group, end: frame.offset + frame.len, chain: frame.crc, sequence: frame.sequence };
        let bytes = u64::from(frame.len);
        {
            let mut state = self.state.borrow_mut();
            state.unsynced_bytes += bytes;
            self.context.load.unsynced_bytes.set(self.context.load.unsynced_bytes.get() + bytes);
            state.unsynced.push_back(Unsynced {
                at,
                offset: frame.offset,
                bytes,
                origin: frame.origin(),
                wall_ns: frame.wall_ns,
                durable_through: frame.durable_through,
                kind: frame.kind,
                pieces,
                pages,
            });
        }
        self.after_append();
    }
}
