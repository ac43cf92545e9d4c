//! A strict initiator over a socket, written from RFC 7143 and without the codec.

use base::crc::crc32c;
use md5::{Digest, Md5};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub struct Pdu {
    pub basic: [u8; 48],
    pub data: Vec<u8>,
}

impl Pdu {
    pub fn new(opcode: u8, flags: u8) -> Pdu {
        let mut basic = [0; 48];
        (basic[0], basic[1]) = (opcode, flags);
        Pdu { basic, data: Vec::new() }
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
    pub fn get(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.basic[at..at + 4].try_into().expect("four bytes"))
    }
    pub fn opcode(&self) -> u8 {
        self.basic[0]
    }
    /// As text.
    pub fn pairs(&self) -> Vec<String> {
        let parts = self.data.split(|byte| *byte == 0).filter(|part| !part.is_empty());
        parts.map(|part| String::from_utf8(part.to_vec()).expect("text")).collect()
    }
    pub fn value(&self, key: &str) -> Option<String> {
        self.pairs().iter().find_map(|pair| pair.strip_prefix(&format!("{key}=")).map(str::to_string))
    }
}

pub struct Initiator {
    pub stream: TcpStream,
    pub name: String,
    pub isid: [u8; 6],
    /// Where commands go to.
    pub lun: u8,
    pub number: u32,
    pub task: u32,
    pub header_digest: bool,
    pub data_digest: bool,
    /// The last number of the window.
    pub window_end: u32,
    pub tsih: u16,
}

pub fn text(pairs: &[&str]) -> Vec<u8> {
    pairs.iter().flat_map(|pair| [pair.as_bytes(), &[0]].concat()).collect()
}

impl Initiator {
    pub fn connect(portal: SocketAddr) -> Initiator {
        let stream = TcpStream::connect(portal).expect("the portal listens");
        stream.set_nodelay(true).expect("set");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
        Initiator {
            stream,
            name: "iqn.2000-01.test:guest".to_string(),
            isid: [0x80, 0, 0, 1, 2, 3],
            lun: 0,
            number: 1,
            task: 1,
            header_digest: false,
            data_digest: false,
            window_end: 0,
            tsih: 0,
        }
    }

    /// Logged in to "disk" with defaults.
    pub fn disk(portal: SocketAddr) -> Initiator {
        Initiator::connect(portal).logged_in("disk", &[])
    }

    pub fn logged_in(mut self, target: &str, keys: &[&str]) -> Initiator {
        let answer = self.log_in(target, keys);
        assert_eq!(answer.basic[36..38], [0, 0], "{:?}", answer.pairs());
        self
    }

    /// Logs in without security; the last answer.
    pub fn log_in(&mut self, target: &str, keys: &[&str]) -> Pdu {
        let (name, target) =
            (format!("InitiatorName={}", self.name), format!("TargetName={}{target}", super::rig::PREFIX));
        let mut all = vec![name.as_str(), target.as_str()];
        all.extend_from_slice(keys);
        let answer = self.login(0x87, &all);
        self.entered(&answer, keys);
        answer
    }

    /// Logs in with CHAP, both ways if `mutual` is there: the last answer.
    pub fn log_in_with_chap(&mut self, user: &str, secret: &str, mutual: Option<&str>) -> Pdu {
        let (name, target) = (format!("InitiatorName={}", self.name), format!("TargetName={}disk", super::rig::PREFIX));
        let answer = self.login(0x00, &[&name, &target, "AuthMethod=CHAP"]);
        assert_eq!(answer.value("AuthMethod").as_deref(), Some("CHAP"));
        let answer = self.login(0x00, &["CHAP_A=5"]);
        let identifier: u8 = answer.value("CHAP_I").and_then(|text| text.parse().ok()).expect("an identifier");
        let challenge = bytes(&answer.value("CHAP_C").expect("a challenge"));
        let (user, response) = (format!("CHAP_N={user}"), format!("CHAP_R={}", chap(identifier, secret, &challenge)));
        let mut keys = vec![user.as_str(), response.as_str()];
        if mutual.is_some() {
            keys.extend(["CHAP_I=77", "CHAP_C=0x0102030405060708090a0b0c0d0e0f10"]);
        }
        let answer = self.login(0x83, &keys);
        if let (Some(mutual), 0) = (mutual, answer.basic[36]) {
            let challenge: Vec<u8> = (1..=16).collect();
            assert_eq!(
                answer.value("CHAP_R"),
                Some(chap(77, mutual, &challenge)),
                "the target does not know its secret"
            );
        }
        self.entered(&answer, &[]);
        answer
    }

    pub fn login(&mut self, flags: u8, keys: &[&str]) -> Pdu {
        let pdu = self.login_pdu(flags, keys);
        self.send(pdu);
        self.receive()
    }

    pub fn login_pdu(&self, flags: u8, keys: &[&str]) -> Pdu {
        let pdu = Pdu::new(0x43, flags).at(8, &self.isid).word(16, 9).at(20, &[0, 1]).word(24, self.number);
        pdu.data(&text(keys))
    }

    fn entered(&mut self, answer: &Pdu, keys: &[&str]) {
        assert_eq!(answer.opcode(), 0x23);
        self.header_digest = keys.contains(&"HeaderDigest=CRC32C");
        self.data_digest = keys.contains(&"DataDigest=CRC32C");
        self.tsih = u16::from_be_bytes([answer.basic[14], answer.basic[15]]);
    }

    pub fn encode(&self, pdu: &Pdu) -> Vec<u8> {
        let mut bytes = pdu.basic.to_vec();
        bytes[5..8].copy_from_slice(&(pdu.data.len() as u32).to_be_bytes()[1..]);
        if self.header_digest {
            bytes.extend_from_slice(&crc32c(&bytes).to_le_bytes());
        }
        let mut data = pdu.data.clone();
        data.resize(data.len().div_ceil(4) * 4, 0);
        bytes.extend_from_slice(&data);
        if self.data_digest && !data.is_empty() {
            bytes.extend_from_slice(&crc32c(&data).to_le_bytes());
        }
        bytes
    }

    pub fn send(&mut self, pdu: Pdu) {
        let bytes = self.encode(&pdu);
        self.stream.write_all(&bytes).expect("sent");
    }

    pub fn receive(&mut self) -> Pdu {
        self.try_receive().expect("a PDU")
    }

    pub fn try_receive(&mut self) -> std::io::Result<Pdu> {
        let mut basic = [0; 48];
        self.stream.read_exact(&mut basic)?;
        let mut digest = [0; 4];
        if self.header_digest {
            self.stream.read_exact(&mut digest)?;
            assert_eq!(digest, crc32c(&basic).to_le_bytes(), "header digest");
        }
        let len = u32::from_be_bytes([0, basic[5], basic[6], basic[7]]) as usize;
        let mut data = vec![0; len.div_ceil(4) * 4];
        self.stream.read_exact(&mut data)?;
        if self.data_digest && len > 0 {
            self.stream.read_exact(&mut digest)?;
            assert_eq!(digest, crc32c(&data).to_le_bytes(), "data digest");
        }
        data.truncate(len);
        let pdu = Pdu { basic, data };
        self.window_end = pdu.get(32);
        Ok(pdu)
    }

    /// A command PDU with the next numbers.
    pub fn command(&mut self, flags: u8, expected: u32, cdb: &[u8]) -> Pdu {
        self.task += 1;
        self.number += 1;
        let pdu = Pdu::new(0x01, flags).at(9, &[self.lun]);
        pdu.word(16, self.task).word(20, expected).word(24, self.number - 1).at(32, cdb)
    }

    pub fn read_pdu(&mut self, lba: u32, len: u32) -> Pdu {
        let blocks = ((len / 512) as u16).to_be_bytes();
        let [a, b, c, d] = lba.to_be_bytes();
        self.command(0xc1, len, &[0x28, 0, a, b, c, d, 0, blocks[0], blocks[1], 0])
    }

    pub fn write_pdu(&mut self, lba: u32, len: u32) -> Pdu {
        let blocks = ((len / 512) as u16).to_be_bytes();
        let [a, b, c, d] = lba.to_be_bytes();
        self.command(0xa1, len, &[0x2a, 0, a, b, c, d, 0, blocks[0], blocks[1], 0])
    }

    /// A command without data: its status and sense data. Unit attentions of a new session are passed over.
    pub fn ask(&mut self, flags: u8, expected: u32, cdb: &[u8]) -> (u8, Vec<u8>, Vec<u8>) {
        loop {
            let pdu = self.command(flags, expected, cdb);
            self.send(pdu);
            let (status, sense, data) = self.end_of(self.task);
            if status != 2 || sense.get(4) != Some(&6) {
                return (status, sense, data);
            }
        }
    }

    /// Until TEST UNIT READY is.
    pub fn ready(mut self) -> Initiator {
        assert_eq!(self.ask(0x81, 0, &[0; 6]).0, 0);
        self
    }

    /// What comes for one command up to its status: status, sense data with its length, and data.
    pub fn end_of(&mut self, task: u32) -> (u8, Vec<u8>, Vec<u8>) {
        let mut data = Vec::new();
        loop {
            let pdu = self.receive();
            assert_eq!(pdu.get(16), task, "{:#x}", pdu.opcode());
            match pdu.opcode() {
                0x25 => {
                    assert_eq!(pdu.get(40) as usize, data.len(), "offset");
                    data.extend_from_slice(&pdu.data);
                    if pdu.basic[1] & 1 != 0 {
                        return (pdu.basic[3], Vec::new(), data);
                    }
                }
                0x21 => return (pdu.basic[3], pdu.data, data),
                other => panic!("{other:#x}"),
            }
        }
    }

    pub fn read(&mut self, lba: u32, len: u32) -> Vec<u8> {
        let pdu = self.read_pdu(lba, len);
        self.send(pdu);
        let (status, sense, data) = self.end_of(self.task);
        assert_eq!(status, 0, "{sense:02x?}");
        data
    }

    /// Writes with `immediate` bytes of immediate data and the rest as it is asked for, `segment` bytes at a time.
    pub fn write(&mut self, lba: u32, data: &[u8], immediate: usize, segment: usize) {
        let immediate = immediate.min(data.len());
        let pdu = self.write_pdu(lba, data.len() as u32).data(&data[..immediate]);
        self.send(pdu);
        loop {
            let pdu = self.receive();
            assert_eq!(pdu.get(16), self.task);
            match pdu.opcode() {
                0x31 => self.answer_r2t(&pdu, data, segment),
                0x21 => {
                    assert_eq!(pdu.basic[3], 0, "{:02x?}", pdu.data);
                    return;
                }
                other => panic!("{other:#x}"),
            }
        }
    }

    pub fn answer_r2t(&mut self, r2t: &Pdu, data: &[u8], segment: usize) {
        let (offset, len) = (r2t.get(40) as usize, r2t.get(44) as usize);
        let parts = data[offset..offset + len].chunks(segment);
        let count = parts.len();
        let mut at = offset;
        for (number, part) in parts.enumerate() {
            let flags = if number + 1 == count { 0x80 } else { 0 };
            let pdu = Pdu::new(0x05, flags).word(16, r2t.get(16)).word(20, r2t.get(20));
            self.send(pdu.word(36, number as u32).word(40, at as u32).data(part));
            at += part.len();
        }
    }

    pub fn log_out(&mut self) {
        let pdu = Pdu::new(0x46, 0x80).word(16, 5).word(24, self.number);
        self.send(pdu);
        loop {
            let pdu = self.receive();
            if pdu.opcode() == 0x26 {
                assert_eq!(pdu.basic[2], 0);
                return;
            }
        }
    }

    /// Reads to the end; what came before it.
    pub fn until_closed(&mut self) -> Vec<Pdu> {
        let mut all = Vec::new();
        loop {
            match self.try_receive() {
                Ok(pdu) => all.push(pdu),
                Err(error) => {
                    let timed_out =
                        matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut);
                    assert!(!timed_out, "not closed");
                    return all;
                }
            }
        }
    }
}

fn chap(identifier: u8, secret: &str, challenge: &[u8]) -> String {
    let digest = Md5::digest([&[identifier], secret.as_bytes(), challenge].concat());
    digest.iter().fold("0x".to_string(), |text, byte| format!("{text}{byte:02x}"))
}

fn bytes(hexadecimal: &str) -> Vec<u8> {
    let digits = hexadecimal.strip_prefix("0x").expect("hexadecimal");
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("digits")).collect()
}
