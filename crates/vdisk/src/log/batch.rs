//! Gathering what waits in the foreground into one frame: large requests are cut, partial blocks filled up, and what is
//! promised to be all or nothing is left whole.

use super::frame;
use super::payload::Payload;
use super::piece::Piece;
use super::queue::{Done, Item};
use crate::address::Address;
use crate::vdisk::Vdisk;
use crate::write::ATOMIC_BYTES_MAX;
use crate::{Error, Result};
use base::units::BLOCK;
use bytes::{Bytes, BytesMut};
use std::rc::Rc;

/// Runs of one frame: bounds the header at about 40 KiB.
const PIECES_MAX: usize = 1024;
/// Alignment and header of a frame with a large payload, from above unless it has very many runs.
const LARGE_HEADER: u32 = 12 << 10;
/// Cleared by one frame at most: 1 GiB, whose 1,024 leaves may have to be read first.
const CLEAR_BLOCKS_MAX: u64 = 1 << 18;

#[derive(Default)]
pub(super) struct Batch {
    pub pieces: Vec<Piece>,
    dones: Vec<Done>,
    pub payload_bytes: u64,
    pub clears: bool,
    /// The last item continues in the next frame.
    pub unfinished: bool,
}

impl Batch {
    fn push(&mut self, piece: Piece) {
        self.payload_bytes += piece.payload().map_or(0, |bytes| bytes.len() as u64);
        self.pieces.push(piece);
    }
    pub fn touches(&self, blocks: std::ops::Range<u64>) -> bool {
        self.pieces.iter().any(|piece| piece.blocks().start < blocks.end && blocks.start < piece.blocks().end)
    }
    /// A frame takes at least one request, or it would never be taken.
    pub fn has_room(&self, blocks: &std::ops::Range<u64>, payload_max: u64) -> bool {
        self.pieces.is_empty() || self.payload_bytes + (blocks.end - blocks.start) * BLOCK <= payload_max
    }
    /// Adds all of a request. The frame may take more.
    pub fn add_whole(&mut self, piece: Piece, done: Done) -> bool {
        self.push(piece);
        self.dones.push(done);
        true
    }
    pub fn finish(self, result: Result<()>) {
        for done in self.dones {
            done.send(result.clone());
        }
    }
}

impl Vdisk {
    /// Takes items until the frame is full, an item needs a block that the frame itself changes, or none is left.
    pub(super) async fn fill(self: &Rc<Self>, batch: &mut Batch) {
        let payload_max = u64::from(self.payload_that_fits());
        let pieces_max = PIECES_MAX.min(self.context.pool.group_size() as usize / 256);
        loop {
            let item = self.queue.borrow_mut().user.pop_front();
            let Some(item) = item else { return };
            if matches!(item, Item::Take { .. }) {
                // A frame of its own.
                return self.queue.borrow_mut().user.push_front(item);
            }
            let is_clear = matches!(item, Item::Clear { .. });
            let full = batch.payload_bytes >= payload_max || batch.pieces.len() + 4 > pieces_max;
            if !batch.pieces.is_empty() && (full || is_clear != batch.clears) {
                return self.queue.borrow_mut().user.push_front(item);
            }
            batch.clears = is_clear;
            let more = match item {
                Item::Write { offset, data, done } => self.add_write(batch, offset, data, done, payload_max).await,
                Item::Combine { offset, data, how, done } => {
                    self.add_combined(batch, offset, data, how, done, payload_max).await
                }
                Item::Clear { block, count, fill, done } => self.add_clear(batch, block, count, fill, done),
                _ => unreachable!("the foreground queue holds writes and clears"),
            };
            if !more {
                return;
            }
        }
    }

    /// Adds a write or the first part of it. `false`: the frame is to be written now.
    async fn add_write(&self, batch: &mut Batch, offset: u64, mut data: Payload, done: Done, payload_max: u64) -> bool {
        let first = offset / BLOCK;
        let end = offset + data.len() as u64;
        let ragged = offset % BLOCK != 0 || end % BLOCK != 0;
        let blocks = first..end.div_ceil(BLOCK);
        let is_atomic = data.len() as u64 <= u64::from(self.atomic_bytes_max());
        if ragged && batch.touches(blocks.clone()) || is_atomic && !batch.has_room(&blocks, payload_max) {
            self.queue.borrow_mut().user.push_front(Item::Write { offset, data, done });
            return false;
        }
        // What is not to be cut may go beyond by the rest of its last block.
        let payload_max = if is_atomic { payload_max.max((blocks.end - blocks.start) * BLOCK) } else { payload_max };
        let before = (batch.pieces.len(), batch.payload_bytes);
        if offset % BLOCK != 0 {
            let head_len = (BLOCK - offset % BLOCK).min(data.len() as u64);
            let (head, _) = data.split_to(head_len as usize);
            match self.merge(first, (offset % BLOCK) as usize, &head).await {
                Ok(bytes) => batch.push(Piece::data(first, bytes)),
                Err(error) => return fail(done, error),
            }
            if data.is_empty() {
                batch.dones.push(done);
                return true;
            }
            return self.add_aligned(batch, before, offset + head_len, data, done, payload_max).await;
        }
        self.add_aligned(batch, before, offset, data, done, payload_max).await
    }

    /// `before`: the batch without this write. One that fails here leaves nothing in the frame: what is refused must not
    /// show afterwards.
    async fn add_aligned(
        &self,
        batch: &mut Batch,
        before: (usize, u64),
        offset: u64,
        mut data: Payload,
        done: Done,
        payload_max: u64,
    ) -> bool {
        let room = payload_max.saturating_sub(batch.payload_bytes).max(BLOCK) / BLOCK * BLOCK;
        let whole = (data.len() as u64 / BLOCK * BLOCK).min(room);
        if whole > 0 {
            let (bytes, sums) = data.split_to(whole as usize);
            batch.push(Piece::Data { block: offset / BLOCK, bytes, sums });
        }
        if data.is_empty() {
            batch.dones.push(done);
            return true;
        }
        let offset = offset + whole;
        if data.len() as u64 >= BLOCK {
            // The rest goes into the next frame; it is acknowledged with its last part.
            self.queue.borrow_mut().user.push_front(Item::Write { offset, data, done });
            batch.unfinished = true;
            return false;
        }
        match self.merge(offset / BLOCK, 0, data.bytes()).await {
            Ok(bytes) => batch.push(Piece::data(offset / BLOCK, bytes)),
            Err(error) => {
                batch.pieces.truncate(before.0);
                batch.payload_bytes = before.1;
                return fail(done, error);
            }
        }
        batch.dones.push(done);
        true
    }

    fn add_clear(&self, batch: &mut Batch, block: u64, count: u64, fill: Address, done: Done) -> bool {
        let now = count.min(CLEAR_BLOCKS_MAX);
        batch.push(Piece::Clear { block, count: now as u32, fill });
        if now == count {
            batch.dones.push(done);
            return true;
        }
        let rest = Item::Clear { block: block + now, count: count - now, fill, done };
        self.queue.borrow_mut().user.push_front(rest);
        batch.unfinished = true;
        false
    }

    /// The block with `part` laid over it. Nothing of this vDisk is under way, so what the map says is the truth.
    async fn merge(&self, block: u64, at: usize, part: &[u8]) -> Result<Bytes> {
        let mut bytes = BytesMut::zeroed(BLOCK as usize);
        if let Some(old) = self.read_block(block).await? {
            bytes.copy_from_slice(&old);
        }
        bytes[at..at + part.len()].copy_from_slice(part);
        Ok(bytes.freeze())
    }

    /// Takes whole requests of whole blocks, for which nothing has to be read, up to `payload_max` bytes; nothing if they
    /// are fewer than `payload_min`.
    pub(super) fn fill_with_blocks(&self, payload_min: u64, payload_max: u64) -> Option<Batch> {
        let mut queue = self.queue.borrow_mut();
        let (mut count, mut bytes) = (0, 0);
        for item in queue.user.iter().take(PIECES_MAX) {
            let Item::Write { offset, data, .. } = item else { break };
            let len = data.len() as u64;
            if offset % BLOCK != 0 || len % BLOCK != 0 || bytes + len > payload_max {
                break;
            }
            (count, bytes) = (count + 1, bytes + len);
        }
        if bytes < payload_min.max(1) {
            return None;
        }
        let mut batch = Batch::default();
        for item in queue.user.drain(..count) {
            let Item::Write { offset, mut data, done } = item else { unreachable!("counted above") };
            let (bytes, sums) = data.split_to(data.len());
            batch.push(Piece::Data { block: offset / BLOCK, bytes, sums });
            batch.dones.push(done);
        }
        Some(batch)
    }

    /// To the front of the queue, in their order. Of whole requests, none of which is done.
    pub(super) fn put_back(&self, batch: Batch) {
        let mut queue = self.queue.borrow_mut();
        for (piece, done) in batch.pieces.into_iter().zip(batch.dones).rev() {
            let Piece::Data { block, bytes, sums } = piece else { unreachable!("made of writes of whole blocks") };
            queue.user.push_front(Item::Write { offset: block * BLOCK, data: Payload::again(bytes, sums), done });
        }
    }

    /// As much as the open group still takes, if that is worth a frame: large frames would leave a quarter of each group
    /// empty otherwise.
    fn payload_that_fits(&self) -> u32 {
        let max = self.frame_payload_max();
        let left = self.state.borrow().open.as_ref().map_or(max, |group| group.room().saturating_sub(LARGE_HEADER));
        let fits = left / BLOCK as u32 * BLOCK as u32;
        if fits >= frame::ALIGN_FROM { fits.min(max) } else { max }
    }

    /// Writes up to this are never cut. (As much as there is room for goes into one frame: at least `ALIGN_FROM`, or what
    /// the settings allow.)
    pub(crate) fn atomic_bytes_max(&self) -> u32 {
        const { assert!(ATOMIC_BYTES_MAX <= frame::ALIGN_FROM, "it must fit into every frame") };
        self.frame_payload_max().min(ATOMIC_BYTES_MAX)
    }

    pub(crate) fn frame_payload_max(&self) -> u32 {
        // A frame and its header must fit an empty group several times over.
        let group = self.context.pool.group_size() / 4;
        let max = self.context.settings.frame_payload_bytes_max.min(group);
        (max / BLOCK as u32 * BLOCK as u32).max(BLOCK as u32)
    }
}

pub(super) fn fail(done: Done, error: Error) -> bool {
    done.send(Err(error));
    true
}
