//! An initiator for tests, written from RFC 7143 and without the codec, so that an error there cannot cancel itself out.

use crate::{Access, Directory, Entropy, Limits, Login, Secret, Session, Step};
use base::Output;
use base::crc::crc32c;
use std::io::IoSlice;

/// Everything that is in `out`.
pub fn drain(out: &mut Output) -> Vec<u8> {
    let mut all = Vec::new();
    while !out.is_empty() {
        let mut slices = [IoSlice::new(&[]); 16];
        let filled = out.slices(&mut slices);
        let len = slices[..filled].iter().map(|slice| slice.len()).sum();
        slices[..filled].iter().for_each(|slice| all.extend_from_slice(slice));
        out.advance(len);
    }
    all
}

/// A PDU that is put together byte by byte.
#[derive(Clone)]
pub struct Pdu {
    pub basic: [u8; 48],
    pub additional: Vec<u8>,
    pub data: Vec<u8>,
}

impl Pdu {
    pub fn new(opcode: u8, flags: u8) -> Pdu {
        let mut basic = [0; 48];
        (basic[0], basic[1]) = (opcode, flags);
        Pdu { basic, additional: Vec::new(), data: Vec::new() }
    }
    pub fn at(mut self, at: usize, bytes: &[u8]) -> Pdu {
        self.basic[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }
    pub fn word(self, at: usize, value: u32) -> Pdu {
        self.at(at, &value.to_be_bytes())
    }
    pub fn data(mut self, data: &[u8]) -> Pdu {
        self.data = data.to_vec();
        self
    }
    pub fn immediate(mut self) -> Pdu {
        self.basic[0] |= 0x40;
        self
    }
    pub fn bytes(&self, header_digest: bool, data_digest: bool) -> Vec<u8> {
        let mut bytes = self.basic.to_vec();
        bytes[4] = (self.additional.len() / 4) as u8;
        bytes[5..8].copy_from_slice(&(self.data.len() as u32).to_be_bytes()[1..]);
        bytes.extend_from_slice(&self.additional);
        if header_digest {
            bytes.extend_from_slice(&crc32c(&bytes).to_le_bytes());
        }
        let mut data = self.data.clone();
        data.resize(data.len().div_ceil(4) * 4, 0);
        bytes.extend_from_slice(&data);
        if data_digest && !data.is_empty() {
            bytes.extend_from_slice(&crc32c(&data).to_le_bytes());
        }
        bytes
    }
    pub fn plain(&self) -> Vec<u8> {
        self.bytes(false, false)
    }
    pub fn get(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.basic[at..at + 4].try_into().expect("four bytes"))
    }
}

impl std::fmt::Debug for Pdu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:02x?} + {} bytes", self.basic, self.data.len())
    }
}

/// The PDUs in `bytes`, which must end with the last one.
pub fn parse(bytes: &[u8], header_digest: bool, data_digest: bool) -> Vec<Pdu> {
    let mut rest = bytes;
    let mut take = |len: usize| {
        let (head, tail) = rest.split_at(len);
        rest = tail;
        head
    };
    let mut found = Vec::new();
    let mut left = bytes.len();
    while left > 0 {
        let basic: [u8; 48] = take(48).try_into().expect("a header");
        assert_eq!(basic[4], 0, "additional segments of a target");
        let len = u32::from_be_bytes([0, basic[5], basic[6], basic[7]]) as usize;
        let padded = len.div_ceil(4) * 4;
        if header_digest {
            assert_eq!(take(4), crc32c(&basic).to_le_bytes(), "header digest");
        }
        let data = take(padded);
        if data_digest && len > 0 {
            assert_eq!(take(4), crc32c(data).to_le_bytes(), "data digest");
        }
        assert!(data[len..].iter().all(|byte| *byte == 0), "padding");
        found.push(Pdu { basic, additional: Vec::new(), data: data[..len].to_vec() });
        left -= 48 + padded + if header_digest { 4 } else { 0 } + if data_digest && len > 0 { 4 } else { 0 };
    }
    found
}

/// Text with a zero byte behind each pair.
pub fn text(pairs: &[&str]) -> Vec<u8> {
    pairs.iter().flat_map(|pair| [pair.as_bytes(), &[0]].concat()).collect()
}

pub fn pairs(text: &[u8]) -> Vec<String> {
    let parts = text.split(|byte| *byte == 0).filter(|part| !part.is_empty());
    parts.map(|part| String::from_utf8(part.to_vec()).expect("text")).collect()
}

/// What the directory of the tests knows.
pub struct Targets {
    pub number: u64,
    /// Lets nobody in.
    pub forbids: bool,
    pub chap: Option<Secret>,
    pub mutual: Option<Secret>,
}

pub const TARGET: &str = "iqn.2026-11.io.drystone:disk";
pub const ENTROPY: Entropy = Entropy { identifier: 42, challenge: [0x5a; 32] };

impl Directory for Targets {
    fn access(&self, target: &str, initiator: &str) -> Access {
        match (target, initiator) {
            _ if self.forbids => Access::Forbidden,
            (TARGET, "iqn.2000-01.bad:guest") => Access::Forbidden,
            (TARGET, _) => {
                Access::Granted { target: self.number, chap: self.chap.clone(), mutual: self.mutual.clone() }
            }
            ("iqn.2026-11.io.drystone:later", _) => Access::Unavailable,
            _ => Access::NotFound,
        }
    }
    fn discovery_secrets(&self, _initiator: &str) -> Vec<Secret> {
        self.chap.iter().cloned().collect()
    }
    fn has_session(&self, tsih: u16) -> bool {
        tsih == 7
    }
}

pub fn open_targets() -> Targets {
    Targets { number: 1, forbids: false, chap: None, mutual: None }
}

/// A login request: transit, current stage, next stage.
pub fn login(flags: u8, keys: &[&str]) -> Pdu {
    let isid = [0x80, 1, 2, 3, 4, 5];
    Pdu::new(0x43, flags).at(8, &isid).word(16, 9).at(20, &[0, 1]).word(24, 100).data(&text(keys))
}

/// Sends one request; the answer, if there is one, and what is to be done.
pub fn step(login: &mut Login, request: &Pdu, directory: &Targets) -> (Step, Option<Pdu>) {
    let mut out = Output::new();
    let bytes = request.plain();
    let mut input = bytes.as_slice();
    let step = login.step(&mut input, directory, &mut out);
    assert!(input.is_empty(), "{} bytes were left", input.len());
    let mut answers = parse(&drain(&mut out), false, false);
    assert!(answers.len() <= 1, "{answers:?}");
    (step, answers.pop())
}

/// A session that was logged in with these operational keys.
pub fn session<T>(keys: &[&str], limits: Limits) -> Session<T> {
    let target = format!("TargetName={TARGET}");
    let mut all = vec!["InitiatorName=iqn.2000-01.test:guest", target.as_str()];
    all.extend_from_slice(keys);
    let mut machine = Login::new(1, ENTROPY);
    let (entered, _) = step(&mut machine, &login(0x87, &all), &open_targets());
    assert!(matches!(entered, Step::Enter(_)), "{entered:?}");
    let mut out = Output::new();
    let session = machine.accept(3, limits, &mut out);
    let answers = parse(&drain(&mut out), false, false);
    assert_eq!(answers[0].basic[36..38], [0, 0], "{answers:?}");
    session
}
