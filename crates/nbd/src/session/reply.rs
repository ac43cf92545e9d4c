//! Replies on the wire: simple ones, and the chunks of structured ones.

use super::Source;
use crate::errno::FastZero;
use crate::wire::{self, RequestHeader, chunk, command, command_flag};
use crate::{Errno, Output};
use block::{Allocation, Reply, Segment, Status};

/// A zero run shorter than this, next to data, is sent as data: a chunk of its own costs both sides more.
const HOLE_BYTES_MIN: u64 = 4096;

/// What a reply of several chunks still lacks behind this one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    More,
    Last,
}

impl Part {
    fn flags(self) -> u16 {
        if self == Part::Last { chunk::FLAG_DONE } else { 0 }
    }
}

pub(super) fn put(
    header: &RequestHeader,
    result: block::Result<Reply>,
    structured: bool,
    source: Source,
    part: Part,
    out: &mut Output,
) {
    let reply = match result {
        Ok(reply) => reply,
        Err(error) => {
            let fast = header.command == command::WRITE_ZEROES && header.flags & command_flag::FAST_ZERO != 0;
            let errno = Errno::of(error.kind, if fast { FastZero::Asked } else { FastZero::No });
            return self::error(header, errno, &error.context, error.at, structured, part, out);
        }
    };
    match (header.command, reply) {
        (command::READ, Reply::Data(segments)) => {
            let len: u64 = segments.iter().map(Segment::len).sum();
            assert_eq!(
                len,
                u64::from(header.len),
                "a read of {} bytes at {} was answered wrong",
                header.len,
                header.offset
            );
            if structured { read_chunks(header, segments, out) } else { simple_read(header, segments, out) }
        }
        (command::BLOCK_STATUS, Reply::Status(extents)) => {
            block_status(header, source, part, &extents, out);
        }
        // Without payload a simple reply is allowed in both modes, and is the shorter one.
        (command::READ | command::BLOCK_STATUS, other) => panic!("{header:?} was answered with {other:?}"),
        (_, Reply::Done) => simple(header, 0, out),
        (_, other) => panic!("{header:?} was answered with {other:?}"),
    }
}

/// An error reply; `at` is the byte of the device where it happened, if known.
pub(super) fn error(
    header: &RequestHeader,
    errno: Errno,
    text: &str,
    at: Option<u64>,
    structured: bool,
    part: Part,
    out: &mut Output,
) {
    if !structured {
        return simple(header, errno.code(), out);
    }
    // An offset must lie inside the request, else the client may hang up.
    let inside = |at: &u64| *at >= header.offset && *at - header.offset < u64::from(header.len);
    let at = at.filter(inside);
    let text = clipped(text);
    let len = 6 + text.len() + if at.is_some() { 8 } else { 0 };
    let kind = if at.is_some() { chunk::ERROR_OFFSET } else { chunk::ERROR };
    chunk_header(header, part.flags(), kind, len as u32, out);
    out.put(&errno.code().to_be_bytes());
    out.put(&(text.len() as u16).to_be_bytes());
    out.put(text.as_bytes());
    if let Some(at) = at {
        out.put(&at.to_be_bytes());
    }
}

/// `text` cut to the protocol's longest string.
pub(crate) fn clipped(text: &str) -> &str {
    let end = text.floor_char_boundary(wire::STRING_BYTES_MAX);
    &text[..end]
}

fn simple(header: &RequestHeader, errno: u32, out: &mut Output) {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&wire::SIMPLE_REPLY_MAGIC.to_be_bytes());
    bytes[4..8].copy_from_slice(&errno.to_be_bytes());
    bytes[8..].copy_from_slice(&header.cookie.to_be_bytes());
    out.put(&bytes);
}

fn simple_read(header: &RequestHeader, segments: Vec<Segment>, out: &mut Output) {
    simple(header, 0, out);
    segments.into_iter().for_each(|segment| put_segment(segment, out));
}

fn put_segment(segment: Segment, out: &mut Output) {
    match segment {
        Segment::Bytes(bytes) => out.put_shared(bytes),
        Segment::Zeros(len) => out.put_zeros(len),
    }
}

fn chunk_bytes(header: &RequestHeader, flags: u16, kind: u16, len: u32) -> [u8; 20] {
    let mut bytes = [0; 20];
    bytes[..4].copy_from_slice(&wire::STRUCTURED_REPLY_MAGIC.to_be_bytes());
    bytes[4..6].copy_from_slice(&flags.to_be_bytes());
    bytes[6..8].copy_from_slice(&kind.to_be_bytes());
    bytes[8..16].copy_from_slice(&header.cookie.to_be_bytes());
    bytes[16..].copy_from_slice(&len.to_be_bytes());
    bytes
}

fn chunk_header(header: &RequestHeader, flags: u16, kind: u16, len: u32, out: &mut Output) {
    out.put(&chunk_bytes(header, flags, kind, len));
}

/// Runs of data and of zeros become a chunk each; the last one ends the reply.
fn read_chunks(header: &RequestHeader, segments: Vec<Segment>, out: &mut Output) {
    if header.len == 0 {
        return chunk_header(header, chunk::FLAG_DONE, chunk::NONE, 0, out);
    }
    let all_zeros = segments.iter().all(|segment| matches!(segment, Segment::Zeros(_)));
    let hole_min = match (header.flags & command_flag::DF != 0, all_zeros) {
        (true, false) => u64::MAX, // one content chunk, zeros spelled out
        (_, true) => 1,
        (false, false) => HOLE_BYTES_MIN,
    };
    let is_hole = |segment: &Segment| matches!(segment, Segment::Zeros(len) if *len >= hole_min);
    let end = header.offset + u64::from(header.len);
    let mut offset = header.offset;
    let mut rest = segments.into_iter();
    while let Some(first) = rest.as_slice().first() {
        let hole = is_hole(first);
        let count = rest.as_slice().iter().take_while(|segment| is_hole(segment) == hole).count();
        let len: u64 = rest.as_slice().iter().take(count).map(Segment::len).sum();
        let flags = if offset + len == end { chunk::FLAG_DONE } else { 0 };
        if hole {
            chunk_header(header, flags, chunk::OFFSET_HOLE, 12, out);
            out.put(&offset.to_be_bytes());
            out.put(&(len as u32).to_be_bytes());
            rest.by_ref().take(count).for_each(drop);
        } else if len > 0 {
            let mut bytes = [0; 28];
            bytes[..20].copy_from_slice(&chunk_bytes(header, flags, chunk::OFFSET_DATA, len as u32 + 8));
            bytes[20..].copy_from_slice(&offset.to_be_bytes());
            out.put(&bytes);
            rest.by_ref().take(count).for_each(|segment| put_segment(segment, out));
        } else {
            rest.by_ref().take(count).for_each(drop);
        }
        offset += len;
    }
}

fn block_status(header: &RequestHeader, source: Source, part: Part, extents: &[Status], out: &mut Output) {
    let id = match source {
        Source::Export => wire::ALLOCATION_CONTEXT_ID,
        Source::Bitmap(index) => wire::BITMAP_CONTEXT_ID + index,
    };
    let one = header.flags & command_flag::REQ_ONE != 0;
    let mut descriptors: Vec<(u32, u32)> = Vec::with_capacity(extents.len());
    let mut left = header.len;
    for extent in extents {
        let flags = match (source, extent.allocation) {
            (Source::Export, Allocation::Data) => 0,
            (Source::Export, Allocation::Hole) => wire::STATE_HOLE | wire::STATE_ZERO,
            (Source::Export, Allocation::Zero) => wire::STATE_ZERO,
            (Source::Bitmap(_), Allocation::Hole) => 0,
            // What is not certainly clean is dirty.
            (Source::Bitmap(_), Allocation::Data | Allocation::Zero) => wire::STATE_DIRTY,
        };
        let len = extent.len.min(u64::from(left)) as u32;
        left -= len;
        match descriptors.last_mut() {
            Some((last_len, last_flags)) if *last_flags == flags => *last_len += len,
            Some(_) if one => break,
            _ if len == 0 => {}
            _ => descriptors.push((len, flags)),
        }
    }
    assert!(!descriptors.is_empty(), "{header:?} was answered without an extent");
    chunk_header(header, part.flags(), chunk::BLOCK_STATUS, 4 + 8 * descriptors.len() as u32, out);
    out.put(&id.to_be_bytes());
    for (len, flags) in descriptors {
        out.put(&len.to_be_bytes());
        out.put(&flags.to_be_bytes());
    }
}
