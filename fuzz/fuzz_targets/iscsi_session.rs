//! A session that is mostly right: requests put together from small numbers, so that commands, data, functions and texts
//! meet each other; digests on or off, and now and then a byte that is wrong. No panic, every command answered once.
#![no_main]

use base::Output;
use base::crc::crc32c;
use drystone_fuzz::bounded;
use iscsi::{Begin, Digests, Limits, Next, Parameters, Session, Tag};
use libfuzzer_sys::fuzz_target;
use scsi::{Outcome, Response, Status};
use std::collections::BTreeMap;

const LIMITS: Limits = Limits { commands: 6, room: base::Room { payload_bytes: 16 << 10, single_bytes: 32 << 10 } };

struct Host {
    session: Session<u8>,
    out: Output,
    digests: Digests,
    number: u32,
    running: BTreeMap<u64, Tag>,
    gathering: Vec<u64>,
    seen: BTreeMap<u64, u32>,
}

impl Host {
    fn send(&mut self, header: &[u8; 48], data: &[u8], wrong: Option<usize>) -> bool {
        let mut bytes = header.to_vec();
        bytes[5..8].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
        if self.digests.header {
            bytes.extend_from_slice(&crc32c(&bytes).to_le_bytes());
        }
        let start = bytes.len();
        bytes.extend_from_slice(data);
        bytes.resize(start + data.len().next_multiple_of(4), 0);
        if self.digests.data && !data.is_empty() {
            let crc = crc32c(&bytes[start..]);
            bytes.extend_from_slice(&crc.to_le_bytes());
        }
        if let Some(at) = wrong {
            let at = at % bytes.len();
            bytes[at] ^= 0x41;
        }
        let mut input = bytes.as_slice();
        loop {
            match self.session.next(&mut input, &mut self.out) {
                Next::Command { tag, cdb, .. } => {
                    let number = tag.number();
                    assert_eq!(self.seen.insert(number, 0), None, "shown twice");
                    let wanted = u32::from(cdb.as_slice()[1]) * 256;
                    match self.session.gather(tag, wanted, cdb.as_slice()[0], &mut self.out) {
                        Some(execute) => drop(self.running.insert(execute.tag.number(), execute.tag)),
                        None => self.gathering.push(number),
                    }
                }
                Next::Execute(execute) => {
                    let number = execute.tag.number();
                    assert!(self.gathering.contains(&number), "executed without having been gathered");
                    self.running.insert(number, execute.tag);
                }
                Next::Manage { tag, function, .. } => {
                    // The device server tells of those that it stops.
                    if matches!(function, scsi::Function::LogicalUnitReset) {
                        for number in std::mem::take(&mut self.gathering) {
                            if let Some(execute) = self.session.stop_gathering(number) {
                                self.session.forget(execute.tag);
                            }
                        }
                    }
                    self.session.managed(tag, Outcome::Complete, &mut self.out);
                }
                Next::Targets(tag, _) => self.session.advertise(tag, &[], &mut self.out),
                Next::Starved | Next::Full => return true,
                Next::Logout | Next::Broken(_) => return false,
            }
        }
    }

    fn answer(&mut self, all: bool) {
        while let Some((_, tag)) = self.running.pop_first() {
            let response = Response { status: Status::Good, sense: None, data: vec![block::Segment::Zeros(512)] };
            self.session.respond(tag, response, &mut self.out);
            if !all {
                break;
            }
        }
        let pending = self.out.pending_bytes() as usize;
        self.out.advance(pending);
    }
}

fuzz_target!(|input: &[u8]| bounded(input, one));

fn one(input: &[u8]) {
    let Some(([flags], input)) = input.split_first_chunk::<1>() else { return };
    let digests = Digests { header: flags & 1 != 0, data: flags & 2 != 0 };
    let parameters = Parameters {
        digests,
        initial_r2t: flags & 4 != 0,
        first_burst_bytes_max: 1024,
        burst_bytes_max: 2048,
        outstanding_r2t_max: 3,
        send_bytes_max: 512,
        protocol_level: 2,
        ..Parameters::default()
    };
    let begin = Begin {
        parameters,
        limits: LIMITS,
        command_number: 0,
        status_number: 1,
        connection: 0,
        own_target: Some("t".to_string()),
    };
    let mut host = Host {
        session: Session::new(begin),
        out: Output::new(),
        digests,
        number: 0,
        running: BTreeMap::new(),
        gathering: Vec::new(),
        seen: BTreeMap::new(),
    };
    for step in input.chunks_exact(4) {
        let [what, a, b, c] = step else { unreachable!("four bytes") };
        let mut header = [0; 48];
        header[19] = a % 8;
        let immediate = what & 0x40 != 0;
        let wrong = (what & 0x80 != 0 && c % 5 == 0).then_some(usize::from(*b));
        let mut data = Vec::new();
        match what % 8 {
            0 | 1 => {
                header[0] = 1;
                header[1] = if what % 8 == 0 { 0x20 } else { 0x40 } | (b & 0x80);
                header[22] = b & 0x0f;
                (header[32], header[33]) = (*c, b & 0x0f);
                if what % 8 == 0 {
                    data = vec![*c; usize::from(b & 3) * 256];
                }
            }
            2 | 3 => {
                header[0] = 5;
                header[1] = b & 0x80;
                header[20..24].copy_from_slice(&if c & 0x80 != 0 { [255; 4] } else { [0, 0, 0, c & 0x1f] });
                header[39] = b & 3;
                header[42] = c & 0x0f;
                data = vec![*c; usize::from(b & 7) * 256];
            }
            4 => {
                header[0] = 2;
                header[1] = 0x80 | (b % 13);
                header[23] = c % 8;
                header[32..36].copy_from_slice(&host.number.wrapping_sub(u32::from(b >> 5)).to_be_bytes());
            }
            5 => header[20..24].copy_from_slice(&[255; 4]),
            6 => {
                host.answer(b % 2 == 0);
                continue;
            }
            _ => {
                header[0] = 4;
                header[1] = 0x80;
                header[20..24].copy_from_slice(&[255; 4]);
                data = b"SendTargets=\0".to_vec();
            }
        }
        let number = host.number.wrapping_add(if c % 7 == 6 { u32::from(b & 3) } else { 0 });
        header[24..28].copy_from_slice(&number.to_be_bytes());
        if immediate {
            header[0] |= 0x40;
        } else if header[0] != 5 && number == host.number {
            host.number += 1;
        }
        if !host.send(&header, &data, wrong) {
            return;
        }
        assert!(host.session.commands_under_way() <= LIMITS.commands + 16);
    }
    host.answer(true);
}
