//! Any bytes in an iSCSI session: no panic, bounded memory, answers that can be told apart, and the same outcome however
//! the bytes are cut.
#![no_main]

use base::Output;
use block::Segment;
use drystone_fuzz::bounded;
use iscsi::{Begin, Digests, Execute, Limits, Next, Parameters, Session};
use libfuzzer_sys::fuzz_target;
use scsi::{Outcome, Response, Status};
use std::io::IoSlice;

const LIMITS: Limits = Limits { commands: 8, room: base::Room { payload_bytes: 128 << 10, single_bytes: 1 << 20 } };

fn begin(flags: u8) -> Begin {
    let parameters = Parameters {
        initial_r2t: flags & 2 != 0,
        immediate_data: flags & 4 == 0,
        digests: Digests { header: false, data: false },
        first_burst_bytes_max: 2048,
        burst_bytes_max: if flags & 8 != 0 { 4096 } else { 65_536 },
        outstanding_r2t_max: 1 + u32::from(flags >> 6),
        protocol_level: 2,
        ..Parameters::default()
    };
    Begin {
        parameters,
        limits: LIMITS,
        command_number: 0,
        status_number: 1,
        connection: 0,
        own_target: (flags & 1 == 0).then(|| "t".to_string()),
    }
}

fn take(out: &mut Output, sent: &mut Vec<u8>) {
    while !out.is_empty() {
        let mut slices = [IoSlice::new(&[]); 4];
        let filled = out.slices(&mut slices);
        let count = slices[..filled].iter().map(|slice| slice.len()).sum();
        slices[..filled].iter().for_each(|slice| sent.extend_from_slice(slice));
        out.advance(count);
    }
}

/// What the session did with the input, `step` bytes at a time: events in order, bytes sent, the end.
fn converse(flags: u8, input: &[u8], step: usize) -> (Vec<String>, Vec<u8>, &'static str) {
    let mut session: Session<u32> = Session::new(begin(flags));
    let (mut out, mut sent, mut events) = (Output::new(), Vec::new(), Vec::new());
    let run = |session: &mut Session<u32>, execute: Execute<u32>, events: &mut Vec<String>, out: &mut Output| {
        let Execute { tag, task, data } = execute;
        events.push(format!("{task} runs with {} bytes", data.len()));
        if task % 7 == 6 {
            return session.forget(tag);
        }
        let segments =
            vec![Segment::Zeros(u64::from(task % 3) * 700), Segment::Bytes(vec![1; (task % 2) as usize * 999].into())];
        session.respond(tag, Response { status: Status::Good, sense: None, data: segments }, out);
    };
    for piece in input.chunks(step) {
        let mut rest = piece;
        loop {
            assert!(session.commands_under_way() <= LIMITS.commands + 16, "more than the window");
            match session.next(&mut rest, &mut out) {
                Next::Command { tag, cdb, .. } => {
                    let wanted = u32::from(cdb.as_slice()[1]) * 64;
                    let task = u32::from(cdb.as_slice()[0]);
                    events.push(format!("{task} wants {wanted}"));
                    if let Some(execute) = session.gather(tag, wanted, task, &mut out) {
                        run(&mut session, execute, &mut events, &mut out);
                    }
                }
                Next::Execute(execute) => run(&mut session, execute, &mut events, &mut out),
                Next::Manage { tag, lun, function } => {
                    events.push(format!("{function:?} of {lun:?}"));
                    let outcome = if lun[2] % 2 == 0 { Outcome::Complete } else { Outcome::TaskDoesNotExist };
                    session.managed(tag, outcome, &mut out);
                }
                Next::Targets(tag, scope) => {
                    events.push(format!("{scope:?}"));
                    session.advertise(tag, &[], &mut out);
                }
                Next::Starved => break,
                Next::Full => assert!(!out.is_empty(), "stuck"),
                Next::Logout => {
                    session.logged_out(&mut out);
                    take(&mut out, &mut sent);
                    return (events, sent, "logout");
                }
                Next::Broken(_) => return (events, sent, "broken"),
            }
            assert!(session.held_bytes(&out) <= (8 << 20), "{} bytes are held", session.held_bytes(&out));
            take(&mut out, &mut sent);
        }
        assert!(rest.is_empty(), "starved with input left");
    }
    take(&mut out, &mut sent);
    (events, sent, "starved")
}

/// Answers can be told apart without knowing the requests.
fn decode(sent: &[u8]) {
    let mut rest = sent;
    while let Some((header, tail)) = rest.split_first_chunk::<48>() {
        assert!(matches!(header[0], 0x20..=0x26 | 0x31 | 0x32 | 0x3f), "{:02x} is no answer", header[0]);
        let len = u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize;
        rest = tail.get(len.next_multiple_of(4)..).expect("all of its data");
    }
    assert!(rest.is_empty());
}

fuzz_target!(|input: &[u8]| bounded(input, one));

fn one(input: &[u8]) {
    let Some(([flags, step], input)) = input.split_first_chunk::<2>() else { return };
    let whole = converse(*flags, input, input.len().max(1));
    decode(&whole.1);
    let cut = converse(*flags, input, usize::from(*step) + 1);
    assert_eq!((&whole.0, whole.2), (&cut.0, cut.2));
    assert!(whole.1 == cut.1);
}
