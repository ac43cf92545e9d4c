//! The transmission phase: requests out of bytes, bytes out of replies.
//!
//! Invariants: a [`Tag`] is answered exactly once; what one connection can hold (requests under way, their payload,
//! unsent replies) stays within its [`Limits`]; a payload never pins the buffer it came in. Sizes and the read-only
//! state are those of the device at the time of the request, so after a resize an old connection may reach the new
//! end: NBD has no way to announce it, and a client that never asks beyond the size it was told loses nothing.

mod check;
mod reply;
#[cfg(test)]
mod tests;

pub(crate) use reply::clipped;

use crate::wire::{REQUEST_HEADER, RequestHeader, command};
use crate::{Errno, Output};
use base::{Held, Room};
use block::{Geometry, Request};
use bytes::{Bytes, BytesMut};
use check::Verdict;
use reply::Part;
use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

/// Longest payload of a read or a write, bytes: what the specification asks every server to take, and what it asks
/// clients to stay within.
pub const PAYLOAD_BYTES_MAX: u32 = 32 << 20;
/// Descriptors in one block status reply (128 KiB of them). A client that wants more asks again from there.
const EXTENTS_MAX: u32 = 16 << 10;

/// What one connection may have under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub requests: u32,
    /// Payload of reads and writes under way plus bytes of replies not yet sent.
    pub room: Room,
}

impl Default for Limits {
    /// 256 requests keep any disk busy (libnbd's limit is 64, the kernel's queue 128); 64 MiB are two largest requests.
    fn default() -> Self {
        let room = Room { payload_bytes: 64 << 20, single_bytes: PAYLOAD_BYTES_MAX.into() };
        Limits { requests: 256, room }
    }
}

/// A request that waits for its reply.
#[derive(Debug)]
#[must_use = "every request is answered"]
pub struct Tag {
    header: RequestHeader,
    source: Source,
    /// Of a block status of several contexts: how many have no answer yet, this one included. The last one ends the reply.
    unanswered: Option<Rc<Cell<u32>>>,
}

impl Tag {
    fn new(header: RequestHeader) -> Tag {
        Tag { header, source: Source::Export, unanswered: None }
    }

    /// What the request is about.
    pub fn source(&self) -> Source {
        self.source
    }
}

/// Which device a request is to be submitted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The export.
    Export,
    /// A dirty bitmap, by its place among those that were selected: a device whose block status says `Data` for what is
    /// dirty. It is asked for nothing else.
    Bitmap(u32),
}

/// The metadata contexts that a client selected for its export.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Selected {
    pub allocation: bool,
    /// Number of dirty bitmaps.
    pub bitmaps: u32,
}

impl Selected {
    fn sources(self) -> impl Iterator<Item = Source> {
        self.allocation.then_some(Source::Export).into_iter().chain((0..self.bitmaps).map(Source::Bitmap))
    }
}

/// What came out of the input.
#[derive(Debug)]
pub enum Next {
    /// To be submitted to what the tag's source is; the reply goes to [`Session::reply`].
    Request(Tag, Request),
    /// All input was used; a partial message is kept inside.
    Starved,
    /// The limits are reached. The input stays where it is until something was answered and sent.
    Full,
    /// The client is done: answer what is under way, send it, close. Nothing more is parsed.
    Disconnect,
    /// The client does not speak the protocol: close. Nothing more is parsed.
    Broken(&'static str),
}

#[derive(Debug)]
enum State {
    Header,
    /// A header that waits for room.
    Held(RequestHeader),
    /// A write whose payload has arrived in part.
    Payload(RequestHeader, BytesMut),
    /// A refused write, and how much of its payload is still to come.
    Skip(Refused, u32),
    Disconnected,
    Broken,
}

/// A write that gets an error for its answer as soon as its payload has gone by: libnbd hangs up over a reply to a
/// request that it is still sending.
#[derive(Debug)]
struct Refused {
    header: RequestHeader,
    errno: Errno,
    text: &'static str,
}

/// One connection in the transmission phase.
#[derive(Debug)]
pub struct Session {
    structured: bool,
    selected: Selected,
    /// May be changed at any time; what is under way already stays.
    pub limits: Limits,
    state: State,
    /// The rest of a block status of several contexts, to be handed out before anything else.
    parts: VecDeque<(Tag, Request)>,
    /// The first bytes of a header that has not arrived wholly.
    partial: Vec<u8>,
    requests: u32,
    payload_bytes: u64,
}

impl Session {
    pub(crate) fn new(structured: bool, selected: Selected, limits: Limits) -> Self {
        Session {
            structured,
            selected,
            limits,
            state: State::Header,
            parts: VecDeque::new(),
            partial: Vec::new(),
            requests: 0,
            payload_bytes: 0,
        }
    }

    /// A session as it is after the negotiation of these two, for tests of what comes after it.
    pub fn negotiated(structured: bool, selected: Selected, limits: Limits) -> Self {
        Session::new(structured, selected, limits)
    }

    /// Requests that were handed out and not answered. A write whose data has not come is none: of a client that has hung up
    /// it never will.
    pub fn requests_under_way(&self) -> u32 {
        self.requests - u32::from(matches!(self.state, State::Payload(..)))
    }

    /// Whether [`Session::next`] would get beyond [`Next::Full`] now.
    pub fn has_room(&self, out: &Output) -> bool {
        self.has_room_within(&self.limits, out)
    }

    /// The same if these were the limits.
    pub fn has_room_within(&self, limits: &Limits, out: &Output) -> bool {
        let wanted = match &self.state {
            State::Held(header) => payload_len(header),
            _ => 0,
        };
        self.admits(limits, wanted, out)
    }

    /// Payload under way and bytes of replies not yet sent: what the limits are measured against.
    pub fn held_bytes(&self, out: &Output) -> u64 {
        self.payload_bytes + out.pending_bytes()
    }

    /// The rest of a write's payload that is under way: `buffer` takes `missing` more bytes. An owner of a plain socket
    /// may read straight into it, which saves large payloads a copy, and then calls [`Session::next`].
    pub fn payload(&mut self) -> Option<(&mut BytesMut, usize)> {
        match &mut self.state {
            State::Payload(header, buffer) => {
                let missing = header.len as usize - buffer.len();
                Some((buffer, missing))
            }
            _ => None,
        }
    }

    /// Takes the next request from the front of `input`. Those that are refused, and those that need no device, are
    /// answered into `out` on the way.
    pub fn next(&mut self, input: &mut &[u8], geometry: &Geometry, out: &mut Output) -> Next {
        if let Some((tag, request)) = self.parts.pop_front() {
            return Next::Request(tag, request);
        }
        loop {
            match &mut self.state {
                State::Header => match self.header(input) {
                    Ok(Some(header)) => {
                        if !self.admits(&self.limits, payload_len(&header), out) {
                            self.state = State::Held(header);
                            return Next::Full;
                        }
                        if let Some(next) = self.begin(header, input, geometry, out) {
                            return next;
                        }
                    }
                    Ok(None) => return Next::Starved,
                    Err(()) => self.state = State::Broken,
                },
                State::Held(header) => {
                    let header = *header;
                    if !self.admits(&self.limits, payload_len(&header), out) {
                        return Next::Full;
                    }
                    self.state = State::Header;
                    if let Some(next) = self.begin(header, input, geometry, out) {
                        return next;
                    }
                }
                State::Payload(header, buffer) => {
                    let (head, tail) = input.split_at((header.len as usize - buffer.len()).min(input.len()));
                    buffer.extend_from_slice(head);
                    *input = tail;
                    if buffer.len() < header.len as usize {
                        return Next::Starved;
                    }
                    let header = *header;
                    let data = std::mem::take(buffer).freeze();
                    self.state = State::Header;
                    return Next::Request(Tag::new(header), check::write(&header, data));
                }
                State::Skip(refused, left) => {
                    let gone = (*left as usize).min(input.len());
                    *input = input.get(gone..).unwrap_or_default();
                    *left -= gone as u32;
                    if *left > 0 {
                        return Next::Starved;
                    }
                    reply::error(&refused.header, refused.errno, refused.text, None, self.structured, Part::Last, out);
                    self.state = State::Header;
                }
                State::Disconnected => return Next::Disconnect,
                State::Broken => return Next::Broken("a request has a wrong magic number"),
            }
        }
    }

    /// Encodes the answer of the device. Panics if it is not one to that request: a read answered with a status, or
    /// with more or fewer bytes than were asked for.
    pub fn reply(&mut self, tag: Tag, result: block::Result<block::Reply>, out: &mut Output) {
        self.requests -= 1;
        self.payload_bytes -= payload_len(&tag.header);
        let left = tag.unanswered.as_ref().map_or(0, |unanswered| {
            unanswered.set(unanswered.get() - 1);
            unanswered.get()
        });
        let part = if left == 0 { Part::Last } else { Part::More };
        reply::put(&tag.header, result, self.structured, tag.source, part, out);
    }

    /// Takes a request off the books without a reply, where the connection is to be closed over it.
    pub fn forget(&mut self, tag: Tag) {
        self.requests -= 1;
        self.payload_bytes -= payload_len(&tag.header);
    }

    fn admits(&self, limits: &Limits, wanted: u64, out: &Output) -> bool {
        self.requests < limits.requests && limits.room.admits(wanted, Held(self.held_bytes(out)))
    }

    /// The next header, `None` if it has not arrived wholly, an error if it is none.
    fn header(&mut self, input: &mut &[u8]) -> Result<Option<RequestHeader>, ()> {
        let parsed = if self.partial.is_empty() {
            match input.split_at_checked(REQUEST_HEADER) {
                Some((head, tail)) => {
                    *input = tail;
                    RequestHeader::parse(head)
                }
                None => {
                    self.partial.extend_from_slice(input);
                    *input = &[];
                    return self.partial_magic();
                }
            }
        } else {
            let missing = (REQUEST_HEADER - self.partial.len()).min(input.len());
            let (head, tail) = input.split_at(missing);
            self.partial.extend_from_slice(head);
            *input = tail;
            if self.partial.len() < REQUEST_HEADER {
                return self.partial_magic();
            }
            let parsed = RequestHeader::parse(&self.partial);
            self.partial.clear();
            parsed
        };
        parsed.expect("a whole header is there").map(Some).ok_or(())
    }

    /// A wrong magic is told from four bytes on, so that a client that talks nonsense is not waited for.
    fn partial_magic(&self) -> Result<Option<RequestHeader>, ()> {
        match self.partial.first_chunk::<4>() {
            Some(magic) if u32::from_be_bytes(*magic) != crate::wire::REQUEST_MAGIC => Err(()),
            _ => Ok(None),
        }
    }

    /// Starts on a request for which there is room. `None`: look for the next one.
    fn begin(
        &mut self,
        header: RequestHeader,
        input: &mut &[u8],
        geometry: &Geometry,
        out: &mut Output,
    ) -> Option<Next> {
        match check::check(&header, geometry, self.structured, self.selected != Selected::default()) {
            Verdict::Submit(request) if header.command == command::BLOCK_STATUS => {
                let unanswered = Rc::new(Cell::new(0));
                for source in self.selected.sources() {
                    self.count(&header);
                    unanswered.set(unanswered.get() + 1);
                    let tag = Tag { header, source, unanswered: Some(unanswered.clone()) };
                    self.parts.push_back((tag, request.clone()));
                }
                let first = self.parts.pop_front();
                return first.map(|(tag, request)| Next::Request(tag, request));
            }
            Verdict::Submit(request) => {
                self.count(&header);
                return Some(Next::Request(Tag::new(header), request));
            }
            Verdict::Payload => {
                self.count(&header);
                match input.split_at_checked(header.len as usize) {
                    Some((payload, tail)) => {
                        *input = tail;
                        let request = check::write(&header, Bytes::copy_from_slice(payload));
                        return Some(Next::Request(Tag::new(header), request));
                    }
                    None => self.state = State::Payload(header, base::payload::buffer(header.len as usize)),
                }
            }
            Verdict::Done => {
                let nothing =
                    if header.command == command::READ { block::Reply::Data(Vec::new()) } else { block::Reply::Done };
                reply::put(&header, Ok(nothing), self.structured, Source::Export, Part::Last, out);
            }
            Verdict::Refuse(errno, text) => self.refuse(header, errno, text, out),
            Verdict::Disconnect => self.state = State::Disconnected,
        }
        None
    }

    fn refuse(&mut self, header: RequestHeader, errno: Errno, text: &'static str, out: &mut Output) {
        if header.command == command::WRITE && header.len > 0 {
            self.state = State::Skip(Refused { header, errno, text }, header.len);
        } else {
            reply::error(&header, errno, text, None, self.structured, Part::Last, out);
        }
    }

    fn count(&mut self, header: &RequestHeader) {
        self.requests += 1;
        self.payload_bytes += payload_len(header);
    }
}

fn payload_len(header: &RequestHeader) -> u64 {
    match header.command {
        // What is longer is refused, and needs no room.
        command::READ | command::WRITE => u64::from(header.len.min(PAYLOAD_BYTES_MAX)),
        _ => 0,
    }
}
