//! The frame: one atomic append to an extent group. A header that proves itself and its predecessor, then payload.
//!
//! Header, little-endian, 96 bytes and then the runs, padded with zeros to 16 bytes:
//!
//! | offset | size | what |
//! |---|---|---|
//! | 0 | 4 | magic `DSFR` |
//! | 4 | 1 | format version, 1 |
//! | 5 | 1 | kind: 1 data, 2 pages, 3 control |
//! | 6 | 2 | flags: bit 0 = a later copy |
//! | 8 | 4 | CRC-32C of the header with this field zero |
//! | 12 | 4 | header length with runs and padding |
//! | 16 | 4 | frame length: header, gap and payload |
//! | 20 | 4 | number of runs |
//! | 24 | 8 | vDisk id |
//! | 32 | 8 | group id |
//! | 40 | 4 | offset of this frame in the group |
//! | 44 | 4 | key id, zero: not encrypted |
//! | 48 | 8 | epoch |
//! | 56 | 8 | sequence |
//! | 64 | 8 | durable_through: the last sequence known to be synced when this frame was written |
//! | 72 | 8 | wall time, ns since 1970 |
//! | 80 | 4 | CRC of the previous frame's header (field at 8): the chain |
//! | 84 | 4 | of a later copy: the field at 8 of the first copy of this frame, else zero |
//! | 88 | 8 | reserved, zero |
//!
//! A run, 24 bytes and then its checksums, 4 bytes each:
//!
//! | offset | size | what |
//! |---|---|---|
//! | 0 | 1 | kind: 1 data, 2 clear (hole), 3 clear (zeros, allocated), 4 map page, 5 control record |
//! | 1 | 1 | level of the map page |
//! | 2 | 1 | codec, zero: raw |
//! | 3 | 1 | reserved |
//! | 4 | 4 | count: blocks (data, clear), else 1 |
//! | 8 | 8 | first block; of a map page its index within the level |
//! | 16 | 4 | payload offset from the start of the frame |
//! | 20 | 4 | payload length |
//!
//! Data runs have one checksum for each block of 4 KiB, pages and control records one, clears none.
//! The chain covers headers only; payloads are proven by the checksums in them.
//!
//! A frame that nothing proves to be stored is appended once more, elsewhere, under the same sequence number. Such a later
//! copy names the first one, whichever copy it was made from: so a reader at a fork of the log knows a second copy from a
//! frame that was written when the first one was gone.

use base::units::{BLOCK, round_up};
use base::{Epoch, GroupId, Reader, Sequence, Truncated, VdiskId, Writer};

pub const MAGIC: u32 = u32::from_le_bytes(*b"DSFR");
pub const VERSION: u8 = 1;
pub const FIXED_LEN: usize = 96;
const RUN_LEN: usize = 24;
const LATER_COPY: u16 = 1;
/// Longest header that is believed: 64 Ki runs of one block. Larger values can only be rot.
pub const HEADER_LEN_MAX: usize = 2 << 20;
/// Frames whose payload reaches this start header and payload on 4 KiB boundaries: at 256 KiB that costs at most 1.6 %
/// and lets large reads and punching work on whole pages. Smaller frames are packed.
pub const ALIGN_FROM: u32 = 256 << 10;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum FrameKind {
    Data = 1,
    Pages = 2,
    Control = 3,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum RunKind {
    Data = 1,
    ClearHole = 2,
    ClearZeros = 3,
    Page = 4,
    Control = 5,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    pub kind: RunKind,
    pub level: u8,
    pub count: u32,
    pub block: u64,
    /// From the start of the frame.
    pub payload_offset: u32,
    pub payload_len: u32,
    /// Index of the run's first checksum in [`Frame::crcs`].
    pub crc_first: u32,
}

impl Run {
    pub fn crc_count(&self) -> usize {
        match self.kind {
            RunKind::Data => self.count as usize,
            RunKind::Page | RunKind::Control => 1,
            RunKind::ClearHole | RunKind::ClearZeros => 0,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    pub kind: FrameKind,
    pub vdisk: VdiskId,
    pub group: GroupId,
    pub offset: u32,
    /// Header, gap and payload.
    pub len: u32,
    pub epoch: Epoch,
    pub sequence: Sequence,
    pub durable_through: Sequence,
    pub wall_ns: u64,
    pub previous_crc: u32,
    /// Of a later copy: `crc` of the first one.
    pub copy_of: Option<u32>,
    /// Set by [`encode`] and [`decode`]: what the next frame names as `previous_crc`.
    pub crc: u32,
    pub runs: Vec<Run>,
    pub crcs: Vec<u32>,
}

impl Frame {
    /// The checksum of the first copy of this frame: what all its copies have in common.
    pub fn origin(&self) -> u32 {
        self.copy_of.unwrap_or(self.crc)
    }
}

/// Length of the header (with padding to 16) for these runs.
pub fn header_len(runs: &[Run]) -> u32 {
    let len = FIXED_LEN + runs.iter().map(|run| RUN_LEN + 4 * run.crc_count()).sum::<usize>();
    round_up(len as u64, 16) as u32
}

/// Where the payload starts, from the start of the frame.
pub fn payload_start(header_len: u32, payload_len: u32) -> u32 {
    if payload_len >= ALIGN_FROM { round_up(header_len.into(), BLOCK) as u32 } else { header_len }
}

/// The header's bytes; stores the checksum in `frame.crc`.
pub fn encode(frame: &mut Frame) -> Vec<u8> {
    let len = header_len(&frame.runs);
    let mut w = Writer::with_capacity(len as usize);
    let flags = if frame.copy_of.is_some() { LATER_COPY } else { 0 };
    w.u32_le(MAGIC).u8(VERSION).u8(frame.kind as u8).u16_le(flags).u32_le(0).u32_le(len).u32_le(frame.len);
    w.u32_le(frame.runs.len() as u32)
        .u64_le(frame.vdisk.raw())
        .u64_le(frame.group.raw())
        .u32_le(frame.offset)
        .u32_le(0);
    w.u64_le(frame.epoch.0).u64_le(frame.sequence.0).u64_le(frame.durable_through.0).u64_le(frame.wall_ns);
    w.u32_le(frame.previous_crc).u32_le(frame.copy_of.unwrap_or(0)).zeros(8);
    for run in &frame.runs {
        w.u8(run.kind as u8).u8(run.level).u8(0).u8(0).u32_le(run.count).u64_le(run.block);
        w.u32_le(run.payload_offset).u32_le(run.payload_len);
        let first = run.crc_first as usize;
        for crc in &frame.crcs[first..first + run.crc_count()] {
            w.u32_le(*crc);
        }
    }
    w.align(16);
    frame.crc = base::crc::crc32c(&w.bytes);
    w.bytes[8..12].copy_from_slice(&frame.crc.to_le_bytes());
    w.bytes
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAFrame {
    #[error("the header ends after {0} bytes, more than there are")]
    Incomplete(usize),
    #[error("no frame header")]
    NoMagic,
    #[error("format version {0}, this build reads {VERSION}")]
    Version(u8),
    #[error("the header fails its checksum")]
    Checksum,
    #[error("a field has a value that is not allowed")]
    Field,
}

impl From<Truncated> for NotAFrame {
    fn from(_: Truncated) -> NotAFrame {
        NotAFrame::Field
    }
}

/// Reads a header from the front of `bytes`, which may be longer. `Incomplete(n)`: call again with `n` bytes.
pub fn decode(bytes: &[u8]) -> Result<Frame, NotAFrame> {
    let fixed = bytes.get(..FIXED_LEN).ok_or(NotAFrame::Incomplete(FIXED_LEN))?;
    let mut r = Reader::new(fixed);
    if r.u32_le()? != MAGIC {
        return Err(NotAFrame::NoMagic);
    }
    let version = r.u8()?;
    let kind = r.u8()?;
    let flags = r.u16_le()?;
    let crc = r.u32_le()?;
    let header_len = r.u32_le()? as usize;
    if !(FIXED_LEN..=HEADER_LEN_MAX).contains(&header_len) || header_len % 16 != 0 {
        return Err(NotAFrame::Field);
    }
    let header = bytes.get(..header_len).ok_or(NotAFrame::Incomplete(header_len))?;
    if checksum(header) != crc {
        return Err(NotAFrame::Checksum);
    }
    // The checksum holds: from here on a strange value is a newer writer's, not rot.
    if version != VERSION {
        return Err(NotAFrame::Version(version));
    }
    let kind = match kind {
        1 => FrameKind::Data,
        2 => FrameKind::Pages,
        3 => FrameKind::Control,
        _ => return Err(NotAFrame::Field),
    };
    let len = r.u32_le()?;
    let run_count = r.u32_le()? as usize;
    let vdisk = VdiskId::from_raw(r.u64_le()?).ok_or(NotAFrame::Field)?;
    let group = GroupId::from_raw(r.u64_le()?).ok_or(NotAFrame::Field)?;
    let offset = r.u32_le()?;
    let key = r.u32_le()?;
    let mut frame = Frame {
        kind,
        vdisk,
        group,
        offset,
        len,
        epoch: Epoch(r.u64_le()?),
        sequence: Sequence(r.u64_le()?),
        durable_through: Sequence(r.u64_le()?),
        wall_ns: r.u64_le()?,
        previous_crc: r.u32_le()?,
        copy_of: None,
        crc,
        runs: Vec::new(),
        crcs: Vec::new(),
    };
    let first_copy = r.u32_le()?;
    frame.copy_of = (flags == LATER_COPY).then_some(first_copy);
    let flags_fit = flags == LATER_COPY || (flags == 0 && first_copy == 0);
    if !flags_fit || key != 0 || (len as usize) < header_len || run_count > header_len / RUN_LEN {
        return Err(NotAFrame::Field);
    }
    decode_runs(&mut frame, &header[FIXED_LEN..], run_count, header_len as u32)?;
    Ok(frame)
}

fn checksum(header: &[u8]) -> u32 {
    let crc = base::crc::crc32c(&header[..8]);
    let crc = base::crc::crc32c_append(crc, &[0; 4]);
    base::crc::crc32c_append(crc, &header[12..])
}

fn decode_runs(frame: &mut Frame, bytes: &[u8], run_count: usize, header_len: u32) -> Result<(), NotAFrame> {
    let mut r = Reader::new(bytes);
    for _ in 0..run_count {
        let kind = match r.u8()? {
            1 => RunKind::Data,
            2 => RunKind::ClearHole,
            3 => RunKind::ClearZeros,
            4 => RunKind::Page,
            5 => RunKind::Control,
            _ => return Err(NotAFrame::Field),
        };
        let level = r.u8()?;
        let codec = r.u8()?;
        r.skip(1)?;
        let run = Run {
            kind,
            level,
            count: r.u32_le()?,
            block: r.u64_le()?,
            payload_offset: r.u32_le()?,
            payload_len: r.u32_le()?,
            crc_first: frame.crcs.len() as u32,
        };
        check_run(&run, codec, header_len, frame.len)?;
        if run.crc_count() * 4 > r.rest().len() {
            return Err(NotAFrame::Field);
        }
        for _ in 0..run.crc_count() {
            frame.crcs.push(r.u32_le()?);
        }
        frame.runs.push(run);
    }
    if r.rest().len() >= 16 || r.rest().iter().any(|&byte| byte != 0) {
        return Err(NotAFrame::Field);
    }
    Ok(())
}

fn check_run(run: &Run, codec: u8, header_len: u32, frame_len: u32) -> Result<(), NotAFrame> {
    let has_payload = run.crc_count() > 0;
    let end = u64::from(run.payload_offset) + u64::from(run.payload_len);
    let inside = !has_payload || (run.payload_offset >= header_len && end <= u64::from(frame_len));
    let len_fits = match run.kind {
        RunKind::Data => u64::from(run.payload_len) == u64::from(run.count) * BLOCK && run.payload_offset % 16 == 0,
        RunKind::Page => u64::from(run.payload_len) == BLOCK && run.payload_offset % 16 == 0 && run.level < 8,
        RunKind::Control => true,
        RunKind::ClearHole | RunKind::ClearZeros => run.payload_len == 0,
    };
    let blocks_fit = run.block.checked_add(run.count.into()).is_some_and(|end| end <= 1 << 40);
    if codec != 0 || run.count == 0 || !inside || !len_fits || !blocks_fit {
        return Err(NotAFrame::Field);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
