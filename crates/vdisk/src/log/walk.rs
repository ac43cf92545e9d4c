//! Walking the frames of a group, as they lie on the disk.

use super::Position;
use super::frame::{self, Frame, FrameKind, NotAFrame};
use crate::Result;
use base::units::{BLOCK, round_up};
use base::{GroupId, Sequence, VdiskId};
use bytes::{Bytes, BytesMut};
use pool::{HEADER_PAGE, Pool};
use std::collections::VecDeque;
use std::rc::Rc;
use world::Completion;

/// Read from the disk at a time, and ahead of what is looked at.
const WINDOW: u32 = 1 << 20;
/// Read where only the next header is wanted: the page that it begins in and one more.
const HEADER_WINDOW: u32 = 8 << 10;
/// A payload of this much that nobody needs is passed over. Reading 64 KiB takes a disk of 1 GB/s as long as it takes to
/// answer another read; shorter frames are read through.
const PASS_OVER_FROM: u32 = 64 << 10;
/// The same near a place that cannot be read.
const CAREFUL_WINDOW: u32 = 64 << 10;

/// A frame that was found on the disk.
pub struct WalkedFrame {
    pub frame: Frame,
    /// The whole frame, header included; nothing if its payload was passed over.
    pub bytes: Bytes,
}

impl WalkedFrame {
    pub fn position(&self) -> Position {
        Position::behind(&self.frame)
    }

    /// The payload was not read, since the walk was told that headers are enough.
    pub fn is_passed_over(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Payload of a run. Panics if it was passed over.
    pub fn payload(&self, run: &frame::Run) -> Bytes {
        self.bytes.slice(run.payload_offset as usize..(run.payload_offset + run.payload_len) as usize)
    }

    /// Every checksum of the payload holds. Panics if it was passed over.
    pub fn payload_is_whole(&self) -> bool {
        self.frame.runs.iter().all(|run| {
            let payload = self.payload(run);
            let first = run.crc_first as usize;
            let crcs = &self.frame.crcs[first..first + run.crc_count()];
            match run.crc_count() {
                0 => true,
                1 => base::crc::crc32c(&payload) == crcs[0],
                _ => payload.chunks(BLOCK as usize).zip(crcs).all(|(block, crc)| base::crc::crc32c(block) == *crc),
            }
        })
    }
}

pub enum Step {
    Frame(Box<WalkedFrame>),
    /// No frame that continues the chain starts here.
    End,
}

/// Reads forward through one group; each frame must continue the chain.
pub struct GroupWalk {
    pool: Rc<Pool>,
    vdisk: VdiskId,
    group: GroupId,
    /// Where the last frame ended, and what the next one must continue.
    pub at: Position,
    /// Nothing is believed from here on.
    limit: u32,
    window: Bytes,
    window_start: u32,
    /// What follows the window, in order, being read.
    ahead: VecDeque<Completion<pool::Result<Bytes>>>,
    /// What is read ahead ends here.
    ahead_end: u32,
    /// A window that was read ahead was needed.
    is_long: bool,
    /// Windows ahead of what is looked at, once that is known.
    windows_ahead: usize,
    /// Of data frames up to this one the headers are enough.
    headers_through: Sequence,
    /// Only headers are being looked at, far from each other.
    passes_over: bool,
    /// A window could not be read: no more than is needed is, from here on.
    careful: bool,
    /// The first frame is taken as it is: what it must continue is not known.
    first_is_free: bool,
}

impl GroupWalk {
    /// Walks a sealed group from its first frame on, up to its sealed length.
    pub fn whole(pool: Rc<Pool>, vdisk: VdiskId, group: GroupId, limit: u32) -> GroupWalk {
        let mut walk = GroupWalk::new(pool, vdisk, group, Position::default(), HEADER_PAGE, limit);
        walk.first_is_free = true;
        walk
    }

    /// The same of headers: what data frames hold is passed over.
    pub fn headers(pool: Rc<Pool>, vdisk: VdiskId, group: GroupId, limit: u32) -> GroupWalk {
        GroupWalk::whole(pool, vdisk, group, limit).headers_through(Sequence(u64::MAX))
    }

    /// `at`: the position behind which to start; `at.group` may be the predecessor, then `start` is the group's first
    /// frame. `limit`: the sealed length, or the group's size.
    pub fn new(pool: Rc<Pool>, vdisk: VdiskId, group: GroupId, at: Position, start: u32, limit: u32) -> GroupWalk {
        let limit = limit.min(pool.group_size());
        let at = Position { group, end: start, ..at };
        GroupWalk {
            pool,
            vdisk,
            group,
            at,
            limit,
            window: Bytes::new(),
            window_start: 0,
            ahead: VecDeque::new(),
            ahead_end: 0,
            is_long: false,
            windows_ahead: 1,
            headers_through: Sequence(0),
            passes_over: false,
            careful: false,
            first_is_free: false,
        }
    }

    /// Reads this many windows ahead in a group that turns out to be long.
    pub fn reading_ahead(mut self, windows: usize) -> GroupWalk {
        self.windows_ahead = windows;
        self
    }

    /// Passes over the payload of data frames up to this one.
    pub fn headers_through(mut self, last: Sequence) -> GroupWalk {
        (self.headers_through, self.passes_over) = (last, last > Sequence(0));
        self
    }

    /// The frame behind `at`: packed directly behind it, or on the next sector if a sync came between.
    pub async fn next(&mut self) -> Result<Step> {
        let packed = round_up(self.at.end.into(), 16) as u32;
        let sector = round_up(self.at.end.into(), BLOCK) as u32;
        for offset in [packed, sector] {
            match self.frame_at(offset).await? {
                Step::End => {}
                found => return Ok(found),
            }
            if packed == sector {
                break;
            }
        }
        Ok(Step::End)
    }

    async fn frame_at(&mut self, offset: u32) -> Result<Step> {
        let mut need = frame::FIXED_LEN;
        let frame = loop {
            let Some(bytes) = self.bytes(offset, need as u32).await? else { return Ok(Step::End) };
            match frame::decode(&bytes) {
                Ok(frame) => break frame,
                Err(NotAFrame::Incomplete(more)) if more > need => need = more,
                Err(NotAFrame::Version(version)) => {
                    return Err(crate::Error::corrupt(format!(
                        "group {} at {offset:#x}: a frame of format version {version}; this build reads {}",
                        self.group,
                        frame::VERSION
                    )));
                }
                Err(_) => return Ok(Step::End),
            }
        };
        let continues = frame.vdisk == self.vdisk
            && frame.group == self.group
            && frame.offset == offset
            && (self.first_is_free
                || (frame.sequence == self.at.sequence.next() && frame.previous_crc == self.at.chain));
        if !continues {
            return Ok(Step::End);
        }
        let at = Position::behind(&frame);
        let bytes = if frame.kind == FrameKind::Data && frame.sequence <= self.headers_through {
            self.passes_over = frame.len >= PASS_OVER_FROM;
            (at.end <= self.limit).then(Bytes::new)
        } else {
            self.passes_over = false;
            self.bytes(offset, frame.len).await?
        };
        let Some(bytes) = bytes else { return Ok(Step::End) };
        self.first_is_free = false;
        self.at = at;
        Ok(Step::Frame(Box::new(WalkedFrame { frame, bytes })))
    }

    /// `len` bytes at `offset`, or nothing if that is beyond the limit.
    async fn bytes(&mut self, offset: u32, len: u32) -> Result<Option<Bytes>> {
        let Some(end) = offset.checked_add(len).filter(|end| *end <= self.limit) else { return Ok(None) };
        let window_end = self.window_end();
        if self.window_start <= offset && end <= window_end {
            self.read_ahead(offset);
            return Ok(Some(self.slice(offset, len)));
        }
        // A place nobody needs may be bad: what is needed is read by itself then.
        if let Some(ahead) = self.ahead.pop_front()
            && let Ok(next) = ahead.await
        {
            self.is_long = true;
            let next_end = window_end + next.len() as u32;
            let head =
                (self.window_start..window_end).contains(&offset).then(|| self.slice(offset, window_end - offset));
            if offset <= window_end && window_end <= end && end <= next_end {
                (self.window, self.window_start) = (next, window_end);
                let Some(head) = head else { return Ok(Some(self.slice(offset, len))) };
                let mut whole = BytesMut::with_capacity(len as usize);
                whole.extend_from_slice(&head);
                whole.extend_from_slice(&self.window[..(end - window_end) as usize]);
                return Ok(Some(whole.freeze()));
            }
        }
        self.ahead.clear();
        // Reads of one length at whole blocks: their buffers are used again.
        let start = offset / BLOCK as u32 * BLOCK as u32;
        let window = match (self.passes_over, self.careful) {
            (true, _) => HEADER_WINDOW,
            (false, true) => CAREFUL_WINDOW,
            (false, false) => WINDOW,
        };
        let want = (end - start).max(window).min(self.limit - start);
        self.window = match self.pool.read(self.group, start, want).await {
            Err(_) if want > end - start => {
                self.careful = true;
                self.pool.read(self.group, start, end - start).await?
            }
            read => read?,
        };
        self.window_start = start;
        Ok(Some(self.slice(offset, len)))
    }

    fn window_end(&self) -> u32 {
        self.window_start + self.window.len() as u32
    }

    fn slice(&self, offset: u32, len: u32) -> Bytes {
        let from = (offset - self.window_start) as usize;
        self.window.slice(from..from + len as usize)
    }

    /// Starts to read what follows once half of the window has been looked at: most logs are shorter.
    fn read_ahead(&mut self, offset: u32) {
        let is_due = self.is_long || offset - self.window_start >= self.window.len() as u32 / 2;
        if !is_due || self.careful || self.passes_over {
            return;
        }
        let windows = if self.is_long { self.windows_ahead } else { 1 };
        while self.ahead.len() < windows {
            let start = if self.ahead.is_empty() { self.window_end() } else { self.ahead_end };
            if start >= self.limit {
                break;
            }
            let len = WINDOW.min(self.limit - start);
            self.ahead.push_back(self.pool.read(self.group, start, len));
            self.ahead_end = start + len;
        }
    }
}

/// Frames behind a break.
#[derive(Clone, Copy, Default, Debug)]
pub struct Beyond {
    /// Highest `durable_through`.
    pub durable: Sequence,
    /// Highest sequence.
    pub last: Sequence,
}

/// Is there, behind a break at `from`, a frame of this group that proves the missing one was synced? Reads what may hold
/// data of the group: only done where the chain ends in an unsealed group, and before such a group is given up.
pub async fn frames_beyond(pool: &Rc<Pool>, vdisk: VdiskId, group: GroupId, from: u32) -> Result<Beyond> {
    let end = pool.data_end(group).await?.min(pool.group_size());
    let mut beyond = Beyond::default();
    let mut window = WINDOW;
    let magic = frame::MAGIC.to_le_bytes();
    let mut at = round_up(from.into(), 16) as u32;
    while at < end {
        let len = window.min(end - at);
        let Ok(bytes) = pool.read(group, at, len).await else {
            // This only looks for more proof: what cannot be read gives none. Smaller, then past it.
            at += if std::mem::replace(&mut window, BLOCK as u32) > BLOCK as u32 { 0 } else { len };
            continue;
        };
        let hits = bytes.chunks_exact(16).enumerate().filter(|(_, chunk)| chunk.starts_with(&magic));
        for (offset, _) in hits {
            if let Some(frame) = decode_at(pool, group, at + offset as u32 * 16, end).await?
                && frame.vdisk == vdisk
                && frame.group == group
                && frame.offset == at + offset as u32 * 16
            {
                beyond.durable = beyond.durable.max(frame.durable_through);
                beyond.last = beyond.last.max(frame.sequence);
            }
        }
        at += len;
    }
    Ok(beyond)
}

async fn decode_at(pool: &Rc<Pool>, group: GroupId, at: u32, end: u32) -> Result<Option<Frame>> {
    let mut need = frame::FIXED_LEN as u32;
    while at + need <= end {
        let bytes = BytesMut::from(&pool.read(group, at, need).await?[..]);
        match frame::decode(&bytes) {
            Ok(frame) => return Ok(Some(frame)),
            Err(NotAFrame::Incomplete(more)) if more as u32 > need => need = more as u32,
            Err(_) => return Ok(None),
        }
    }
    Ok(None)
}
