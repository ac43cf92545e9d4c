//! The full feature phase with an initiator that is put together byte by byte.

mod data;
mod digests;
mod flow;
mod manage;
mod room;

use super::*;
use crate::testing::{Pdu, drain, parse, session};
use block::Segment;
use scsi::{Response, Status};

/// Logical unit zero, and one that is not.
const LUN: [u8; 8] = [0; 8];

struct Host {
    session: Session<u32>,
    out: Output,
    header_digest: bool,
    data_digest: bool,
}

impl Host {
    fn new(keys: &[&str]) -> Host {
        Host::with(keys, Limits::default())
    }
    fn with(keys: &[&str], limits: Limits) -> Host {
        let has = |key: &str| keys.contains(&key);
        Host {
            session: session(keys, limits),
            out: Output::new(),
            header_digest: has("HeaderDigest=CRC32C"),
            data_digest: has("DataDigest=CRC32C"),
        }
    }
    fn encode(&self, pdu: &Pdu) -> Vec<u8> {
        pdu.bytes(self.header_digest, self.data_digest)
    }
    /// What the target says next about these bytes.
    fn bytes(&mut self, bytes: &[u8]) -> Vec<Next<u32>> {
        let mut input = bytes;
        let mut all = Vec::new();
        loop {
            match self.session.next(&mut input, &mut self.out) {
                Next::Starved => break,
                last @ (Next::Full | Next::Broken(_) | Next::Logout) => {
                    all.push(last);
                    return all;
                }
                next => all.push(next),
            }
        }
        assert!(input.is_empty());
        all
    }
    fn send(&mut self, pdu: &Pdu) -> Vec<Next<u32>> {
        let bytes = self.encode(pdu);
        self.bytes(&bytes)
    }
    fn replies(&mut self) -> Vec<Pdu> {
        parse(&drain(&mut self.out), self.header_digest, self.data_digest)
    }
    fn reply(&mut self) -> Pdu {
        let mut replies = self.replies();
        assert_eq!(replies.len(), 1, "{replies:?}");
        replies.remove(0)
    }
    /// Sends a command and has it shown.
    fn command(&mut self, pdu: &Pdu) -> Tag {
        let mut next = self.send(pdu);
        assert_eq!(next.len(), 1, "{next:?}");
        match next.remove(0) {
            Next::Command { tag, .. } => tag,
            other => panic!("{other:?}"),
        }
    }
    /// Sends a command that needs no data, and runs it.
    fn run(&mut self, pdu: &Pdu) -> Tag {
        let tag = self.command(pdu);
        let number = pdu.get(16);
        self.session.gather(tag, 0, number, &mut self.out).expect("nothing to wait for").tag
    }
}

/// A read of `len` bytes with this command number, which is its task tag too.
fn read(number: u32, len: u32) -> Pdu {
    Pdu::new(0x01, 0xc1).word(16, number).word(20, len).word(24, number).at(32, &[0x28])
}

/// A write; `last`: no unsolicited data follows.
fn write(number: u32, len: u32, last: bool, data: &[u8]) -> Pdu {
    let flags = if last { 0xa1 } else { 0x21 };
    Pdu::new(0x01, flags).word(16, number).word(20, len).word(24, number).at(32, &[0x2a]).data(data)
}

/// A Data-Out; `transfer`: all ones for unsolicited data.
fn data_out(task: u32, transfer: u32, number: u32, offset: u32, last: bool, data: &[u8]) -> Pdu {
    let flags = if last { 0x80 } else { 0 };
    Pdu::new(0x05, flags).word(16, task).word(20, transfer).word(36, number).word(40, offset).data(data)
}

fn good(data: &[&[u8]]) -> Response {
    let data = data.iter().map(|bytes| Segment::Bytes(bytes::Bytes::copy_from_slice(bytes))).collect();
    Response { status: Status::Good, sense: None, data }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 512 * 7 + at) as u8).collect()
}
