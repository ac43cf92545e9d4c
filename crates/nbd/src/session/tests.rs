//! Requests and replies of the transmission phase, whole, cut anywhere, garbled, and more than there is room for.

use super::*;
use crate::testing::{Command, Heard, SIZE, answer, content, converse, expect_request, geometry, hear, take};
use crate::wire::command_flag::*;
use base::Reader;
use block::{Error, Kind, Segment, WriteZeroes};
use proptest::prelude::*;

fn session(structured: bool) -> Session {
    Session::new(structured, Selected { allocation: structured, bitmaps: 0 }, Limits::default())
}

/// What the client hears for one command, with and without structured replies.
fn ask(command: &Command, structured: bool) -> Heard {
    let (_, sent, end) = converse(&mut session(structured), &command.encode(), &[]);
    assert!(end.is_none(), "{end:?}");
    let mut reader = Reader::new(&sent);
    let heard = hear(&mut reader, command, structured);
    assert!(reader.is_empty(), "bytes after the reply to {command:?}");
    heard
}

fn errno(heard: Heard) -> Option<Errno> {
    let Heard::Error { errno, .. } = heard else { return None };
    [Errno::Perm, Errno::Io, Errno::Inval, Errno::NoSpc, Errno::Overflow, Errno::NotSup, Errno::Shutdown]
        .into_iter()
        .find(|known| known.code() == errno)
}

#[test]
fn reads_bring_the_content_in_both_modes() {
    for (offset, len) in
        [(0, 4096), (4096, 4096), (512, 512), (0, 65536), (3584, 9728), (SIZE - 512, 512), (8192, 8192)]
    {
        let command = Command::new(command::READ, offset, len);
        for structured in [false, true] {
            let Heard::Done { data, .. } = ask(&command, structured) else { panic!("{command:?} failed") };
            assert!(data == content(offset, u64::from(len)), "{command:?} structured: {structured}");
        }
        let Heard::Done { data, chunks } = ask(&command.clone().flags(DF), true) else { panic!("DF failed") };
        assert!(data == content(offset, u64::from(len)) && chunks == 1, "{command:?} with DF: {chunks} chunks");
    }
    // Blocks 0, 3, 6, ... are holes: runs of data between them are one chunk each.
    let Heard::Done { chunks, .. } = ask(&Command::new(command::READ, 0, 7 * 4096), true) else { panic!("failed") };
    assert_eq!(chunks, 5);
}

#[test]
fn short_zero_runs_are_sent_as_data() {
    let mut session = session(true);
    let mut out = Output::new();
    let command = Command::new(command::READ, 0, 3 * 512);
    let (tag, _) = expect_request(&mut session, &mut command.encode().as_slice(), &mut out);
    let sector = || Segment::Bytes(Bytes::from(vec![1; 512]));
    let reply = block::Reply::Data(vec![sector(), Segment::Zeros(512), sector()]);
    session.reply(tag, Ok(reply), &mut out);
    let sent = take(&mut out);
    let Heard::Done { data, chunks } = hear(&mut Reader::new(&sent), &command, true) else { panic!("failed") };
    assert_eq!((chunks, data.iter().map(|byte| u32::from(*byte)).sum::<u32>()), (1, 1024));
}

#[test]
fn every_refusal_has_its_number() {
    use command::*;
    let over = PAYLOAD_BYTES_MAX + 512;
    for (command, simple, structured) in [
        (Command::new(READ, SIZE, 512), Errno::Inval, Errno::Inval),
        (Command::new(READ, SIZE - 512, 1024), Errno::Inval, Errno::Inval),
        (Command::new(READ, u64::MAX - 511, 512), Errno::Inval, Errno::Inval),
        (Command::new(READ, 1, 512), Errno::Inval, Errno::Inval),
        (Command::new(READ, 0, 511), Errno::Inval, Errno::Inval),
        (Command::new(READ, 0, over), Errno::Inval, Errno::Inval),
        (Command::new(READ, 0, 512).flags(NO_HOLE), Errno::Inval, Errno::Inval),
        (Command::new(WRITE, SIZE, 512), Errno::NoSpc, Errno::NoSpc),
        (Command::new(WRITE, u64::MAX - 511, 512), Errno::NoSpc, Errno::NoSpc),
        (Command::new(WRITE, 0, 100), Errno::Inval, Errno::Inval),
        (Command::new(WRITE, 0, 512).flags(1 << 9), Errno::Inval, Errno::Inval),
        (Command::new(WRITE_ZEROES, SIZE, 512), Errno::NoSpc, Errno::NoSpc),
        (Command::new(TRIM, SIZE, 512), Errno::Inval, Errno::Inval),
        (Command::new(TRIM, 0, 512).flags(FAST_ZERO), Errno::Inval, Errno::Inval),
        (Command::new(CACHE, SIZE, 512), Errno::Inval, Errno::Inval),
        (Command::new(FLUSH, 512, 0), Errno::Inval, Errno::Inval),
        (Command::new(FLUSH, 0, 512), Errno::Inval, Errno::Inval),
        (Command::new(BLOCK_STATUS, 0, 0), Errno::Inval, Errno::Inval),
        (Command::new(BLOCK_STATUS, SIZE, 512), Errno::Inval, Errno::Inval),
        (Command::new(8, 0, 0), Errno::Inval, Errno::Inval),
        (Command::new(u16::MAX, 0, 512), Errno::Inval, Errno::Inval),
    ] {
        assert_eq!(errno(ask(&command, false)), Some(simple), "{command:?}");
        assert_eq!(errno(ask(&command, true)), Some(structured), "{command:?} structured");
    }
    // Flags and contexts that were not negotiated.
    assert_eq!(errno(ask(&Command::new(READ, 0, 512).flags(DF), false)), Some(Errno::Inval));
    assert_eq!(errno(ask(&Command::new(BLOCK_STATUS, 0, 512), false)), Some(Errno::Inval));
}

#[test]
fn a_read_that_is_too_long_is_an_overflow_where_that_is_allowed() {
    let big = Geometry { size_bytes: 1 << 40, ..geometry() };
    for (structured, expect) in [(false, Errno::Inval), (true, Errno::Overflow)] {
        let command = Command::new(command::READ, 0, PAYLOAD_BYTES_MAX + 512);
        let mut out = Output::new();
        let next = session(structured).next(&mut command.encode().as_slice(), &big, &mut out);
        assert!(matches!(next, Next::Starved), "{next:?}");
        let sent = take(&mut out);
        assert_eq!(errno(hear(&mut Reader::new(&sent), &command, structured)), Some(expect));
    }
}

#[test]
fn a_read_only_vdisk_takes_no_writes() {
    let read_only = Geometry { read_only: true, ..geometry() };
    for kind in [command::WRITE, command::TRIM, command::WRITE_ZEROES] {
        let command = Command::new(kind, 0, 512);
        let mut out = Output::new();
        let next = session(true).next(&mut command.encode().as_slice(), &read_only, &mut out);
        assert!(matches!(next, Next::Starved), "{next:?}");
        let sent = take(&mut out);
        assert_eq!(errno(hear(&mut Reader::new(&sent), &command, true)), Some(Errno::Perm));
    }
}

#[test]
fn nothing_to_do_is_done_at_once() {
    use command::*;
    for kind in [READ, WRITE, TRIM, CACHE, WRITE_ZEROES] {
        for structured in [false, true] {
            let heard = ask(&Command::new(kind, 0, 0), structured);
            assert_eq!(heard, Heard::Done { data: Vec::new(), chunks: 0 }, "{kind} structured: {structured}");
        }
    }
}

#[test]
fn flags_reach_the_device() {
    use command::*;
    let zeroes = |how, fua| Request::WriteZeroes { offset: 512, len: 1024, how, fua };
    for (kind, flags, expect) in [
        (WRITE, FUA, Request::Write { offset: 512, data: vec![7; 1024].into(), fua: true }),
        (WRITE, 0, Request::Write { offset: 512, data: vec![7; 1024].into(), fua: false }),
        (TRIM, FUA, Request::Trim { offset: 512, len: 1024, fua: true }),
        (READ, FUA, Request::Read { offset: 512, len: 1024 }),
        (CACHE, 0, Request::Prefetch { offset: 512, len: 1024 }),
        (WRITE_ZEROES, FUA | NO_HOLE, zeroes(WriteZeroes::KeepAllocated, true)),
        (WRITE_ZEROES, FAST_ZERO, zeroes(WriteZeroes::Unmap, false)),
        (BLOCK_STATUS, REQ_ONE, Request::BlockStatus { offset: 512, len: 1024, extents_max: 1 }),
        (BLOCK_STATUS, 0, Request::BlockStatus { offset: 512, len: 1024, extents_max: EXTENTS_MAX }),
    ] {
        let input = Command::new(kind, 512, 1024).flags(flags).encode();
        let (requests, _, _) = converse(&mut session(true), &input, &[]);
        assert_eq!(format!("{requests:?}"), format!("[{expect:?}]"));
    }
    let input = Command::new(FLUSH, 0, 0).flags(FUA).encode();
    assert!(matches!(converse(&mut session(true), &input, &[]).0.as_slice(), [Request::Flush]));
}

#[test]
fn block_status_merges_and_ends() {
    let hole = crate::wire::STATE_HOLE | crate::wire::STATE_ZERO;
    for (command, expect) in [
        (Command::new(command::BLOCK_STATUS, 0, 16384), vec![(4096, hole), (8192, 0), (4096, hole)]),
        (Command::new(command::BLOCK_STATUS, 512, 4096), vec![(3584, hole), (512, 0)]),
        (Command::new(command::BLOCK_STATUS, 0, 16384).flags(REQ_ONE), vec![(4096, hole)]),
        (Command::new(command::BLOCK_STATUS, 4096, 512).flags(REQ_ONE), vec![(512, 0)]),
    ] {
        assert_eq!(ask(&command, true), Heard::Status(expect), "{command:?}");
    }
}

#[test]
fn block_status_of_several_contexts_is_one_reply() {
    let selected = Selected { allocation: true, bitmaps: 2 };
    let mut session = Session::new(true, selected, Limits::default());
    let (mut out, command) = (Output::new(), Command::new(command::BLOCK_STATUS, 0, 16384));
    let input = command.encode();
    let mut rest = input.as_slice();
    let mut asked: Vec<(Tag, Request)> = (0..3).map(|_| expect_request(&mut session, &mut rest, &mut out)).collect();
    assert!(matches!(session.next(&mut rest, &geometry(), &mut out), Next::Starved));
    let sources: Vec<Source> = asked.iter().map(|(tag, _)| tag.source()).collect();
    assert_eq!(sources, [Source::Export, Source::Bitmap(0), Source::Bitmap(1)]);
    // In another order than they were asked in: the last answer ends the reply, whichever it is.
    asked.rotate_left(1);
    for (tag, request) in asked {
        session.reply(tag, answer(&request), &mut out);
    }
    let hole = crate::wire::STATE_HOLE | crate::wire::STATE_ZERO;
    let dirty = vec![(4096, 0), (8192, crate::wire::STATE_DIRTY), (4096, 0)];
    let expect = [(1, vec![(4096, hole), (8192, 0), (4096, hole)]), (2, dirty.clone()), (3, dirty)];
    let sent = take(&mut out);
    assert_eq!(hear(&mut Reader::new(&sent), &command, true), Heard::Statuses(expect.into()));
    assert_eq!(session.requests_under_way(), 0);
}

#[test]
fn block_status_of_a_bitmap_alone() {
    let mut session = Session::new(true, Selected { allocation: false, bitmaps: 1 }, Limits::default());
    let command = Command::new(command::BLOCK_STATUS, 0, 8192);
    let (requests, sent, _) = converse(&mut session, &command.encode(), &[]);
    assert_eq!(requests.len(), 1);
    let dirty = vec![(4096, 0), (4096, crate::wire::STATE_DIRTY)];
    assert_eq!(hear(&mut Reader::new(&sent), &command, true), Heard::Statuses([(2, dirty)].into()));
}

#[test]
fn a_bitmap_that_fails_fails_the_block_status() {
    let mut session = Session::new(true, Selected { allocation: true, bitmaps: 1 }, Limits::default());
    let (mut out, command) = (Output::new(), Command::new(command::BLOCK_STATUS, 0, 8192));
    let input = command.encode();
    let mut rest = input.as_slice();
    let (export, _) = expect_request(&mut session, &mut rest, &mut out);
    let (bitmap, request) = expect_request(&mut session, &mut rest, &mut out);
    session.reply(export, answer(&request), &mut out);
    session.reply(bitmap, Err(Error::new(Kind::Io, "why")), &mut out);
    let sent = take(&mut out);
    let expect = Heard::Error { errno: Errno::Io.code(), text: "why".into(), at: None };
    assert_eq!(hear(&mut Reader::new(&sent), &command, true), expect);
}

#[test]
fn block_errors_on_the_wire() {
    use command::*;
    let error = |kind| Err(Error::new(kind, "why").at(4096));
    for (command, kind, expect, at) in [
        (Command::new(READ, 4096, 512), Kind::Corrupt, Errno::Io, Some(4096)),
        (Command::new(READ, 0, 8192), Kind::Io, Errno::Io, Some(4096)),
        (Command::new(READ, 0, 4096), Kind::Io, Errno::Io, None),
        (Command::new(WRITE, 4096, 512), Kind::Full, Errno::NoSpc, Some(4096)),
        (Command::new(TRIM, 4096, 512), Kind::ReadOnly, Errno::Perm, Some(4096)),
        (Command::new(FLUSH, 0, 0), Kind::Io, Errno::Io, None),
        (Command::new(CACHE, 4096, 512), Kind::Invalid, Errno::Inval, Some(4096)),
        (Command::new(READ, 4096, 512), Kind::Unavailable, Errno::Shutdown, Some(4096)),
        (Command::new(WRITE, 4096, 512), Kind::Fenced, Errno::Shutdown, Some(4096)),
        (Command::new(WRITE_ZEROES, 4096, 512), Kind::Unsupported, Errno::Inval, Some(4096)),
        (Command::new(WRITE_ZEROES, 4096, 512).flags(FAST_ZERO), Kind::Unsupported, Errno::NotSup, Some(4096)),
        (Command::new(BLOCK_STATUS, 4096, 512), Kind::Io, Errno::Io, Some(4096)),
    ] {
        for structured in [false, true] {
            if !structured && command.command == BLOCK_STATUS {
                continue;
            }
            let mut session = session(structured);
            let mut out = Output::new();
            let (tag, _) = expect_request(&mut session, &mut command.encode().as_slice(), &mut out);
            session.reply(tag, error(kind), &mut out);
            let sent = take(&mut out);
            let heard = hear(&mut Reader::new(&sent), &command, structured);
            if structured {
                assert_eq!(heard, Heard::Error { errno: expect.code(), text: "why".into(), at }, "{command:?}");
            } else {
                assert_eq!(errno(heard), Some(expect), "{command:?}");
            }
        }
    }
}

#[test]
fn an_error_text_is_cut_to_what_the_protocol_allows() {
    let mut session = session(true);
    let mut out = Output::new();
    let command = Command::new(command::FLUSH, 0, 0);
    let (tag, _) = expect_request(&mut session, &mut command.encode().as_slice(), &mut out);
    session.reply(tag, Err(Error::new(Kind::Io, "\u{e9}".repeat(5000))), &mut out);
    let sent = take(&mut out);
    let Heard::Error { text, .. } = hear(&mut Reader::new(&sent), &command, true) else { panic!("no error") };
    assert_eq!(text.len(), 4096);
}

#[test]
fn a_payload_has_memory_of_its_own() {
    let mut input = Command::new(command::WRITE, 0, 4096).encode();
    input.resize(256 << 10, 0);
    let mut session = session(false);
    let mut rest = input.as_slice();
    let (tag, request) = expect_request(&mut session, &mut rest, &mut Output::new());
    let Request::Write { data, .. } = request else { panic!("{request:?}") };
    assert!(!input.as_ptr_range().contains(&data.as_ptr()));
    session.forget(tag);
    // One that arrives in part is filled in place, by whoever has the bytes.
    let command = Command::new(command::WRITE, 0, 8192).encode();
    let next = session.next(&mut &command[..1028], &geometry(), &mut Output::new());
    assert!(matches!(next, Next::Starved), "{next:?}");
    let (buffer, missing) = session.payload().expect("a payload is under way");
    assert_eq!(missing, 7192);
    buffer.extend_from_slice(&[7; 7192]);
    let (_tag, request) = expect_request(&mut session, &mut [].as_slice(), &mut Output::new());
    assert!(matches!(&request, Request::Write { data, .. } if data.len() == 8192 && data.iter().all(|b| *b == 7)));
    assert!(session.payload().is_none());
}

#[test]
fn a_huge_refused_write_is_dropped_as_it_comes() {
    let header = Command::new(command::WRITE, 0, 512).encode();
    let len = u32::MAX - 511;
    let mut input = header[..24].to_vec();
    input.extend(len.to_be_bytes());
    let mut session = session(false);
    let mut out = Output::new();
    let big = Geometry { size_bytes: 1 << 40, ..geometry() };
    assert!(matches!(session.next(&mut input.as_slice(), &big, &mut out), Next::Starved));
    let zeros = vec![0; 1 << 20];
    let mut left = len as usize;
    while left > 0 {
        let piece = left.min(zeros.len());
        assert!(session.payload().is_none());
        assert!(out.is_empty(), "an error before the client has sent its payload");
        assert!(matches!(session.next(&mut &zeros[..piece], &big, &mut out), Next::Starved));
        left -= piece;
    }
    assert_eq!(take(&mut out).len(), 16);
    let read = Command::new(command::READ, 0, 512);
    assert!(matches!(expect_request(&mut session, &mut read.encode().as_slice(), &mut out).1, Request::Read { .. }));
}

#[test]
fn the_number_of_requests_under_way_is_limited() {
    let limits = Limits { requests: 3, room: Room { payload_bytes: 1 << 20, single_bytes: 32 << 20 } };
    let mut session = Session::new(false, Selected::default(), limits);
    let input: Vec<u8> = (0..5).flat_map(|_| Command::new(command::FLUSH, 0, 0).encode()).collect();
    let mut rest = input.as_slice();
    let mut out = Output::new();
    let mut tags: Vec<Tag> = (0..3).map(|_| expect_request(&mut session, &mut rest, &mut out).0).collect();
    for _ in 0..2 {
        assert!(matches!(session.next(&mut rest, &geometry(), &mut out), Next::Full));
        assert!(!session.has_room(&out));
        session.reply(tags.pop().expect("three tags"), Ok(block::Reply::Done), &mut out);
        assert!(session.has_room(&out));
        tags.push(expect_request(&mut session, &mut rest, &mut out).0);
    }
    assert_eq!((rest.len(), session.requests_under_way()), (0, 3));
}

#[test]
fn a_write_is_under_way_when_its_data_has_come() {
    let mut session = Session::new(false, Selected::default(), Limits::default());
    let (mut out, mut header) = (Output::new(), 0x2560_9513_0000_0001_u64.to_be_bytes().to_vec());
    header.extend([[0; 8], [0; 8]].concat());
    header.extend(4096u32.to_be_bytes());
    let data = [1; 4096];
    for part in [&header[..], &data[..4095]] {
        assert!(matches!(session.next(&mut &*part, &geometry(), &mut out), Next::Starved));
        assert_eq!(session.requests_under_way(), 0);
    }
    assert_eq!(session.held_bytes(&out), 4096);
    let (tag, request) = expect_request(&mut session, &mut &data[4095..], &mut out);
    assert_eq!(session.requests_under_way(), 1);
    session.reply(tag, answer(&request), &mut out);
    assert_eq!(session.requests_under_way(), 0);
}

#[test]
fn payload_under_way_and_unsent_is_limited() {
    let limits = Limits { requests: 100, room: Room { payload_bytes: 10_000, single_bytes: 100_000 } };
    let mut session = Session::new(false, Selected::default(), limits);
    let input: Vec<u8> = (0..3).flat_map(|_| Command::new(command::READ, 4096, 4096).encode()).collect();
    let mut rest = input.as_slice();
    let mut out = Output::new();
    let (first, request) = expect_request(&mut session, &mut rest, &mut out);
    let (second, _) = expect_request(&mut session, &mut rest, &mut out);
    assert!(matches!(session.next(&mut rest, &geometry(), &mut out), Next::Full));
    session.reply(first, answer(&request), &mut out);
    session.reply(second, answer(&request), &mut out);
    // Answered and unsent still counts: a client that does not read gets no further.
    assert!(matches!(session.next(&mut rest, &geometry(), &mut out), Next::Full));
    take(&mut out);
    let (third, _) = expect_request(&mut session, &mut rest, &mut out);
    session.forget(third);
    // One that is larger than the limit is taken alone.
    let large = Command::new(command::READ, 0, 64 << 10).encode();
    let tag = expect_request(&mut session, &mut large.as_slice(), &mut out).0;
    session.forget(tag);
    // Unless it is larger than that limit too.
    let larger = Command::new(command::READ, 0, 128 << 10).encode();
    assert!(matches!(session.next(&mut larger.as_slice(), &geometry(), &mut out), Next::Full));
    let roomy = Limits { room: Room { single_bytes: 128 << 10, ..limits.room }, ..limits };
    assert!(!session.has_room(&out) && session.has_room_within(&roomy, &out));
}

#[test]
fn the_end_of_a_conversation() {
    let mut input = Command::new(command::DISC, 0, 0).encode();
    input.extend(Command::new(command::READ, 0, 512).encode());
    let (requests, sent, end) = converse(&mut session(true), &input, &[]);
    assert!(requests.is_empty() && sent.is_empty() && matches!(end, Some(Next::Disconnect)));
    let (_, _, end) = converse(&mut session(true), b"GET / HTTP/1.1\r\n", &[]);
    assert!(matches!(end, Some(Next::Broken(_))));
}

fn commands() -> impl Strategy<Value = Vec<Command>> {
    let flags = prop::sample::select(vec![0, 0, 0, 0, FUA, DF, REQ_ONE, NO_HOLE, FAST_ZERO, 1 << 12]);
    let near_end = 0u64..SIZE / 512 + 2;
    let command = (0u16..9, flags, near_end, 0u32..40, 0u32..8);
    let command = command.prop_map(|(kind, flags, sector, sectors, odd)| Command {
        flags,
        // DISC would end the conversation.
        command: if kind == command::DISC { 20 } else { kind },
        cookie: 0,
        offset: sector * 512,
        len: sectors * 512 + if odd == 0 { 17 } else { 0 },
    });
    prop::collection::vec(command, 1..12).prop_map(|mut commands| {
        commands.iter_mut().enumerate().for_each(|(index, command)| command.cookie = index as u64 + 1);
        commands
    })
}

/// What the specification says of a command, told a second time and independently of the code.
fn expected(command: &Command, structured: bool) -> Option<Errno> {
    use command::*;
    let end = command.offset + u64::from(command.len);
    let allowed = FUA
        | match command.command {
            READ if structured => DF,
            WRITE_ZEROES => NO_HOLE | FAST_ZERO,
            BLOCK_STATUS => REQ_ONE,
            _ => 0,
        };
    match command.command {
        8.. => Some(Errno::Inval),
        _ if command.flags & !allowed != 0 => Some(Errno::Inval),
        FLUSH => (command.offset != 0 || command.len != 0).then_some(Errno::Inval),
        _ if !command.len.is_multiple_of(512) => Some(Errno::Inval),
        WRITE | WRITE_ZEROES if end > SIZE => Some(Errno::NoSpc),
        _ if end > SIZE => Some(Errno::Inval),
        BLOCK_STATUS if !structured || command.len == 0 => Some(Errno::Inval),
        _ => None,
    }
}

proptest! {
    #[test]
    fn any_conversation_is_understood_and_cuts_change_nothing(
        commands in commands(),
        mut cuts in prop::collection::vec(0usize..100_000, 0..12),
        structured: bool,
    ) {
        let input: Vec<u8> = commands.iter().flat_map(Command::encode).collect();
        cuts.iter_mut().for_each(|cut| *cut %= input.len() + 1);
        cuts.sort_unstable();
        let (requests, sent, end) = converse(&mut session(structured), &input, &[]);
        prop_assert!(end.is_none());
        let mut reader = Reader::new(&sent);
        for command in &commands {
            let heard = hear(&mut reader, command, structured);
            let expect = expected(command, structured);
            prop_assert_eq!(errno(heard.clone()), expect, "{:?}", command);
            if let (command::READ, Heard::Done { data, chunks }) = (command.command, heard) {
                prop_assert!(data == content(command.offset, u64::from(command.len)));
                prop_assert!(command.flags & DF == 0 || chunks <= 1);
            }
        }
        prop_assert!(reader.is_empty());
        let cut = converse(&mut session(structured), &input, &cuts);
        prop_assert_eq!(format!("{:?}", cut.0), format!("{requests:?}"));
        prop_assert!(cut.1 == sent);
    }

    #[test]
    fn garbled_input_never_panics_and_cuts_change_nothing(
        commands in commands(),
        flips in prop::collection::vec((any::<usize>(), any::<u8>()), 0..8),
        cut: usize,
        structured: bool,
    ) {
        let mut input: Vec<u8> = commands.iter().flat_map(Command::encode).collect();
        for (at, byte) in flips {
            let at = at % input.len();
            input[at] = byte;
        }
        let whole = converse(&mut session(structured), &input, &[]);
        let cut = converse(&mut session(structured), &input, &[cut % (input.len() + 1)]);
        prop_assert_eq!(format!("{:?}", (whole.0, whole.2)), format!("{:?}", (cut.0, cut.2)));
        prop_assert!(whole.1 == cut.1);
    }
}

#[test]
fn cuts_at_each_byte_and_truncation_at_each_byte() {
    use command::*;
    let commands = [
        Command::new(READ, 0, 8192),
        Command::new(WRITE, 512, 1024).flags(FUA),
        Command::new(WRITE, SIZE, 512),
        Command::new(BLOCK_STATUS, 0, 16384),
        Command::new(FLUSH, 0, 0),
    ];
    let mut input: Vec<u8> = commands.iter().flat_map(Command::encode).collect();
    let whole = converse(&mut session(true), &input, &[]);
    let all = format!("{:?}", whole.0);
    for cut in 0..=input.len() {
        let parts = converse(&mut session(true), &input, &[cut]);
        assert!(format!("{:?}", parts.0) == all && parts.1 == whole.1, "cut at {cut}");
        let (requests, sent, end) = converse(&mut session(true), &input[..cut], &[]);
        assert!(end.is_none() && whole.1.starts_with(&sent) && requests.len() <= whole.0.len(), "ended at {cut}");
    }
    let every: Vec<usize> = (0..input.len()).collect();
    assert!(converse(&mut session(true), &input, &every).1 == whole.1);
    // Nonsense is recognised from four bytes on.
    input.extend(b"nons");
    assert!(matches!(converse(&mut session(true), &input, &[]).2, Some(Next::Broken(_))));
}
