//! The client's side of the protocol, and a small device, for the tests of this crate.

use crate::wire::{self, chunk, command};
use crate::{Directory, Export, Next, Output, Session, Tag};
use base::{Reader, Writer};
use block::{Allocation, Geometry, Reply, Request, Segment, Status};
use std::collections::BTreeMap;
use std::io::IoSlice;

pub const SIZE: u64 = 1 << 20;

pub fn geometry() -> Geometry {
    Geometry {
        size_bytes: SIZE,
        sector_bytes: 512,
        preferred_bytes: 4096,
        transfer_bytes_max: 32 << 20,
        atomic_bytes_max: 128 << 10,
        read_only: false,
    }
}

pub fn export(name: &str) -> Export {
    Export { name: name.to_string(), description: format!("about {name}"), geometry: geometry() }
}

pub struct Fixed(pub Vec<Export>);

impl Directory for Fixed {
    fn list(&self) -> Vec<(String, String)> {
        self.0.iter().map(|export| (export.name.clone(), export.description.clone())).collect()
    }
    fn find(&self, name: &str) -> Option<Export> {
        self.0.iter().find(|export| export.name == name).cloned()
    }
    fn bitmaps(&self, name: &str) -> Vec<String> {
        ["monday", "tuesday"].iter().filter(|_| name == "alpha").map(|name| name.to_string()).collect()
    }
}

pub fn take(out: &mut Output) -> Vec<u8> {
    let mut all = Vec::new();
    while !out.is_empty() {
        let mut slices = [IoSlice::new(&[]); 3];
        let filled = out.slices(&mut slices);
        let part: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.iter().copied()).collect();
        out.advance(part.len());
        all.extend(part);
    }
    all
}

pub fn option(kind: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = Writer::default();
    bytes.u64_be(wire::IHAVEOPT).u32_be(kind).u32_be(data.len() as u32).put(data);
    bytes.bytes
}

pub fn go_data(name: &str, asked: &[u16]) -> Vec<u8> {
    let mut data = Writer::default();
    data.u32_be(name.len() as u32).put(name.as_bytes()).u16_be(asked.len() as u16);
    asked.iter().for_each(|kind| {
        data.u16_be(*kind);
    });
    data.bytes
}

pub fn meta_data(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = Writer::default();
    data.u32_be(name.len() as u32).put(name.as_bytes()).u32_be(queries.len() as u32);
    queries.iter().for_each(|query| {
        data.u32_be(query.len() as u32).put(query.as_bytes());
    });
    data.bytes
}

#[derive(Debug, PartialEq, Eq, Clone)]
pub struct OptionReply {
    pub option: u32,
    pub kind: u32,
    pub data: Vec<u8>,
}

pub fn option_replies(bytes: &[u8]) -> Vec<OptionReply> {
    let mut reader = Reader::new(bytes);
    let mut replies = Vec::new();
    while !reader.is_empty() {
        assert_eq!(reader.u64_be(), Ok(wire::OPTION_REPLY_MAGIC));
        let (option, kind) = (reader.u32_be().expect("option"), reader.u32_be().expect("kind"));
        let len = reader.u32_be().expect("length") as usize;
        replies.push(OptionReply { option, kind, data: reader.take(len).expect("data").to_vec() });
    }
    replies
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    pub flags: u16,
    pub command: u16,
    pub cookie: u64,
    pub offset: u64,
    pub len: u32,
}

impl Command {
    pub fn new(command: u16, offset: u64, len: u32) -> Self {
        Command { flags: 0, command, cookie: 7, offset, len }
    }
    pub fn flags(mut self, flags: u16) -> Self {
        self.flags = flags;
        self
    }
    /// The header, and for a write a payload of `cookie`s.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Writer::default();
        bytes.u32_be(wire::REQUEST_MAGIC).u16_be(self.flags).u16_be(self.command).u64_be(self.cookie);
        bytes.u64_be(self.offset).u32_be(self.len);
        if self.command == command::WRITE {
            let len = bytes.bytes.len() + self.len as usize;
            bytes.bytes.resize(len, self.cookie as u8);
        }
        bytes.bytes
    }
}

/// Content of the device's block `number`: every third one is a hole.
fn is_hole(number: u64) -> bool {
    number.is_multiple_of(3)
}

pub fn content(offset: u64, len: u64) -> Vec<u8> {
    let byte = |at: u64| if is_hole(at / 4096) { 0 } else { (at / 512) as u8 | 1 };
    (offset..offset + len).map(byte).collect()
}

/// Blocks of `offset..offset + len` as (hole, start, length).
fn runs(offset: u64, len: u64) -> Vec<(bool, u64, u64)> {
    let mut runs = Vec::new();
    let mut at = offset;
    while at < offset + len {
        let end = (at / 4096 + 1) * 4096;
        let run = end.min(offset + len) - at;
        runs.push((is_hole(at / 4096), at, run));
        at += run;
    }
    runs
}

/// What the device answers; it keeps no writes.
pub fn answer(request: &Request) -> block::Result<Reply> {
    match request {
        Request::Read { offset, len } => {
            let segment = |(hole, at, len): (bool, u64, u64)| match hole {
                true => Segment::Zeros(len),
                false => Segment::Bytes(content(at, len).into()),
            };
            Ok(Reply::Data(runs(*offset, u64::from(*len)).into_iter().map(segment).collect()))
        }
        Request::BlockStatus { offset, len, extents_max } => {
            let status =
                |(hole, _, len)| Status { len, allocation: if hole { Allocation::Hole } else { Allocation::Data } };
            Ok(Reply::Status(runs(*offset, *len).into_iter().take(*extents_max as usize).map(status).collect()))
        }
        _ => Ok(Reply::Done),
    }
}

/// Everything that comes out of `input`, offered in pieces that end at `cuts`; each request is answered at once.
pub fn converse(session: &mut Session, input: &[u8], cuts: &[usize]) -> (Vec<Request>, Vec<u8>, Option<Next>) {
    let mut out = Output::new();
    let (mut requests, mut sent) = (Vec::new(), Vec::new());
    let mut start = 0;
    for cut in cuts.iter().copied().chain([input.len()]) {
        let mut piece = &input[start..cut];
        start = cut;
        loop {
            match session.next(&mut piece, &geometry(), &mut out) {
                Next::Request(tag, request) => {
                    let result = answer(&request);
                    requests.push(request);
                    session.reply(tag, result, &mut out);
                }
                Next::Starved => break,
                Next::Full => assert!(!out.is_empty(), "full with nothing under way and nothing to send"),
                end @ (Next::Disconnect | Next::Broken(_)) => {
                    sent.extend(take(&mut out));
                    return (requests, sent, Some(end));
                }
            }
            sent.extend(take(&mut out));
        }
        assert!(piece.is_empty());
        sent.extend(take(&mut out));
    }
    (requests, sent, None)
}

/// Hands out the next request, which must be there.
pub fn expect_request(session: &mut Session, input: &mut &[u8], out: &mut Output) -> (Tag, Request) {
    match session.next(input, &geometry(), out) {
        Next::Request(tag, request) => (tag, request),
        other => panic!("no request: {other:?}"),
    }
}

/// A reply as the client understands it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// `data` of a read; empty for everything else. Chunks are counted.
    Done {
        data: Vec<u8>,
        chunks: usize,
    },
    Error {
        errno: u32,
        text: String,
        at: Option<u64>,
    },
    /// Of base:allocation alone.
    Status(Vec<(u32, u32)>),
    /// By id of the context, where others were selected too.
    Statuses(BTreeMap<u32, Vec<(u32, u32)>>),
}

/// Decodes one reply to `command` from the front, as strictly as libnbd does.
pub fn hear(reader: &mut Reader<'_>, command: &Command, structured: bool) -> Heard {
    let reads = command.command == command::READ;
    match reader.u32_be().expect("a reply") {
        wire::SIMPLE_REPLY_MAGIC => {
            let errno = reader.u32_be().expect("errno");
            assert_eq!(reader.u64_be(), Ok(command.cookie));
            assert!(!(structured && (reads || command.command == command::BLOCK_STATUS)), "needs a structured reply");
            if errno != 0 {
                return Heard::Error { errno, text: String::new(), at: None };
            }
            let len = if reads { command.len as usize } else { 0 };
            Heard::Done { data: reader.take(len).expect("data").to_vec(), chunks: 0 }
        }
        wire::STRUCTURED_REPLY_MAGIC => {
            assert!(structured);
            hear_chunks(reader, command)
        }
        magic => panic!("{magic:x} is no reply"),
    }
}

fn hear_chunks(reader: &mut Reader<'_>, command: &Command) -> Heard {
    let mut data: Vec<Option<u8>> = vec![None; command.len as usize];
    let mut chunks = 0;
    let mut first = true;
    let mut statuses = BTreeMap::new();
    loop {
        if !std::mem::take(&mut first) {
            assert_eq!(reader.u32_be(), Ok(wire::STRUCTURED_REPLY_MAGIC));
        }
        let (flags, kind) = (reader.u16_be().expect("flags"), reader.u16_be().expect("type"));
        assert_eq!(reader.u64_be(), Ok(command.cookie));
        let len = reader.u32_be().expect("length") as usize;
        let mut payload = Reader::new(reader.take(len).expect("payload"));
        let mut fill = |offset: u64, bytes: &[u8]| {
            assert!(!bytes.is_empty());
            let start = (offset - command.offset) as usize;
            data[start..start + bytes.len()].iter_mut().zip(bytes).for_each(|(slot, byte)| {
                assert_eq!(slot.replace(*byte), None, "overlapping chunks");
            });
        };
        match kind {
            chunk::NONE => assert_eq!(len, 0),
            chunk::OFFSET_DATA => fill(payload.u64_be().expect("offset"), payload.rest()),
            chunk::OFFSET_HOLE => {
                let offset = payload.u64_be().expect("offset");
                fill(offset, &vec![0; payload.u32_be().expect("hole") as usize]);
                assert_eq!(len, 12);
            }
            chunk::BLOCK_STATUS => {
                let id = payload.u32_be().expect("an id");
                let mut extents = Vec::new();
                while !payload.is_empty() {
                    extents.push((payload.u32_be().expect("length"), payload.u32_be().expect("flags")));
                }
                assert!(statuses.insert(id, extents).is_none(), "context {id} comes once");
                if flags == 0 {
                    continue;
                }
                assert_eq!(flags, chunk::FLAG_DONE);
                let only = (statuses.len() == 1).then(|| statuses.remove(&wire::ALLOCATION_CONTEXT_ID)).flatten();
                return only.map_or(Heard::Statuses(statuses), Heard::Status);
            }
            chunk::ERROR | chunk::ERROR_OFFSET => {
                assert_eq!(flags, chunk::FLAG_DONE);
                let errno = payload.u32_be().expect("errno");
                assert_ne!(errno, 0);
                let text_len = payload.u16_be().expect("text length") as usize;
                let text = String::from_utf8(payload.take(text_len).expect("text").to_vec()).expect("UTF-8");
                let at = (kind == chunk::ERROR_OFFSET).then(|| payload.u64_be().expect("offset"));
                assert!(payload.is_empty());
                return Heard::Error { errno, text, at };
            }
            other => panic!("chunk type {other}"),
        }
        chunks += usize::from(kind != chunk::NONE);
        if flags & chunk::FLAG_DONE != 0 {
            let data = data.into_iter().map(|byte| byte.expect("every byte is covered")).collect();
            return Heard::Done { data, chunks };
        }
    }
}
