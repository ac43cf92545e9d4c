//! Any bytes in the NBD transmission phase: no panic, only requests that a device may get, bounded memory, replies that
//! can be decoded, and the same outcome however the bytes are cut.
#![no_main]

use base::Reader;
use block::{Allocation, Error, Geometry, Kind, Reply, Request, Segment, Status};
use drystone_fuzz::bounded;
use libfuzzer_sys::fuzz_target;
use nbd::{Limits, Next, Output, Selected, Session, Tag, wire};
use std::io::IoSlice;

const SIZE: u64 = 128 << 10;
const LIMITS: Limits = Limits { requests: 5, room: base::Room { payload_bytes: 64 << 10, single_bytes: 32 << 20 } };

fn geometry() -> Geometry {
    Geometry {
        size_bytes: SIZE,
        sector_bytes: 512,
        preferred_bytes: 4096,
        transfer_bytes_max: 32 << 20,
        atomic_bytes_max: 128 << 10,
        read_only: false,
    }
}

/// Checks what a device relies on, and answers: by content, by holes, or with an error, all from the offset.
fn answer(request: &Request) -> block::Result<Reply> {
    let (offset, len) = match request {
        Request::Flush => (0, 512),
        Request::Read { offset, len } => (*offset, u64::from(*len)),
        Request::Write { offset, data, .. } => (*offset, data.len() as u64),
        Request::CompareAndWrite { .. } | Request::OrWrite { .. } => panic!("NBD has no {request:?}"),
        Request::Trim { offset, len, .. }
        | Request::WriteZeroes { offset, len, .. }
        | Request::Prefetch { offset, len }
        | Request::BlockStatus { offset, len, .. } => (*offset, *len),
    };
    assert!(offset % 512 == 0 && len % 512 == 0 && len > 0 && offset + len <= SIZE, "{request:?}");
    if offset % 7 == 3 {
        return Err(Error::new(Kind::Corrupt, "rot").at(offset + offset % len));
    }
    Ok(match request {
        Request::Read { .. } => {
            let run = |at: u64| match at / 512 % 5 {
                0 | 1 => Segment::Zeros(512),
                _ => Segment::Bytes(vec![at as u8; 512].into()),
            };
            Reply::Data((0..len / 512).map(|sector| run(offset + sector * 512)).collect())
        }
        Request::BlockStatus { extents_max, .. } => {
            let run = |index: u64| Status {
                len: 512,
                allocation: [Allocation::Data, Allocation::Hole, Allocation::Zero][index as usize % 3],
            };
            Reply::Status((0..len / 512).map(run).take(*extents_max as usize).collect())
        }
        _ => Reply::Done,
    })
}

fn take(out: &mut Output, sent: &mut Vec<u8>) {
    while !out.is_empty() {
        let mut slices = [IoSlice::new(&[]); 4];
        let filled = out.slices(&mut slices);
        let mut count = 0;
        for slice in &slices[..filled] {
            sent.extend_from_slice(slice);
            count += slice.len();
        }
        out.advance(count);
    }
}

/// What the session did with the input, `step` bytes at a time: requests in order, bytes sent, the end.
fn converse(structured: bool, selected: Selected, input: &[u8], step: usize) -> (Vec<String>, Vec<u8>, &'static str) {
    let mut session = Session::negotiated(structured, selected, LIMITS);
    let (mut out, mut sent) = (Output::new(), Vec::new());
    let mut under_way: Vec<(Tag, Request)> = Vec::new();
    let mut requests = Vec::new();
    for piece in input.chunks(step) {
        let mut rest = piece;
        loop {
            let next = session.next(&mut rest, &geometry(), &mut out);
            let mut end = None;
            match next {
                Next::Request(tag, request) => {
                    requests.push(format!("{request:?}"));
                    under_way.push((tag, request));
                    assert!(under_way.len() as u32 <= LIMITS.requests + selected.bitmaps);
                    continue;
                }
                Next::Starved => end = Some(None),
                Next::Full => assert!(!under_way.is_empty() || !out.is_empty(), "stuck"),
                Next::Disconnect => end = Some(Some("disconnect")),
                Next::Broken(_) => end = Some(Some("broken")),
            }
            for (tag, request) in under_way.drain(..) {
                session.reply(tag, answer(&request), &mut out);
            }
            take(&mut out, &mut sent);
            match end {
                None => {}
                Some(None) => break,
                Some(Some(end)) => return (requests, sent, end),
            }
        }
        assert!(rest.is_empty(), "starved with input left");
    }
    (requests, sent, "starved")
}

/// Structured replies can be told apart without knowing the requests.
fn decode(sent: &[u8]) {
    let mut reader = Reader::new(sent);
    while !reader.is_empty() {
        match reader.u32_be().expect("a magic number") {
            wire::SIMPLE_REPLY_MAGIC => reader.skip(12).expect("a simple reply"),
            wire::STRUCTURED_REPLY_MAGIC => {
                reader.skip(12).expect("flags, type, cookie");
                let len = reader.u32_be().expect("a length");
                reader.skip(len as usize).expect("a payload");
            }
            magic => panic!("{magic:08x} is no reply"),
        }
    }
}

fuzz_target!(|input: &[u8]| bounded(input, one));

fn one(input: &[u8]) {
    let Some(([structured, step], input)) = input.split_first_chunk::<2>() else { return };
    let selected = if structured % 2 == 1 {
        Selected { allocation: structured & 2 == 0, bitmaps: u32::from(structured >> 2 & 3) }
    } else {
        Selected::default()
    };
    let structured = structured % 2 == 1;
    let whole = converse(structured, selected, input, input.len().max(1));
    if structured {
        decode(&whole.1);
    }
    let cut = converse(structured, selected, input, usize::from(*step) + 1);
    assert_eq!((&whole.0, whole.2), (&cut.0, cut.2));
    // Refusals are sent at once and replies later, so that only the amount is the same.
    assert_eq!(whole.1.len(), cut.1.len());
}
