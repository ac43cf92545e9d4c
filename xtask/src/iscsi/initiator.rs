//! A small blocking initiator (RFC 7143), for checks and bad behaviour: one connection, no digests, one command at a time.
//! Not built from the project's own codec, so that an error there cannot cancel itself out.

use anyhow::{Context, Result, bail, ensure};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Longest that an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// What goes with a command: less than any target's first burst.
const IMMEDIATE_MAX: usize = 8192;

pub const TARGET: &str = "iqn.2026-11.io.drystone:";

pub struct Initiator {
    pub stream: TcpStream,
    command: u32,
    expected: u32,
    tag: u32,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    pub status: u8,
    pub data: Vec<u8>,
    /// Key, additional code, qualifier.
    pub sense: Option<(u8, u8, u8)>,
    /// What fixed sense data names (SPC-4 4.5.3): the LBA of a medium error.
    pub information: Option<u32>,
}

impl Ended {
    pub fn good(self) -> Result<Vec<u8>> {
        ensure!(self.status == 0, "ended with {self:?}");
        Ok(self.data)
    }
}

/// A PDU: its basic header and its data.
pub struct Pdu {
    pub header: [u8; 48],
    pub data: Vec<u8>,
}

impl Pdu {
    pub fn opcode(&self) -> u8 {
        self.header[0] & 0x3f
    }
    fn word(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.header[at..at + 4].try_into().expect("four bytes"))
    }
}

/// The bytes of a PDU with its data, padded.
pub fn encode(header: &[u8; 48], data: &[u8]) -> Vec<u8> {
    let mut bytes = header.to_vec();
    bytes[5..8].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// A login request that asks for everything at once.
pub fn login_request(initiator: &str, isid: u8, target: &str) -> Vec<u8> {
    let mut header = [0; 48];
    // Immediate login; transit from operational negotiation to the full feature phase.
    (header[0], header[1]) = (0x43, 0x87);
    // The format of ISIDs for random numbers.
    (header[8], header[13]) = (0x80, isid);
    let keys = [
        &format!("InitiatorName={initiator}"),
        "SessionType=Normal",
        &format!("TargetName={TARGET}{target}"),
        "HeaderDigest=None",
        "DataDigest=None",
        "InitialR2T=No",
        "ImmediateData=Yes",
        "MaxRecvDataSegmentLength=262144",
    ];
    encode(&header, (keys.join("\0") + "\0").as_bytes())
}

impl Initiator {
    /// Logs in. An error names the status class and detail.
    pub fn login(address: &str, initiator: &str, isid: u8, vdisk: &str) -> Result<Initiator> {
        let stream = TcpStream::connect(address).with_context(|| format!("no iSCSI at {address}"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let mut new = Initiator { stream, command: 0, expected: 0, tag: 1 };
        new.stream.write_all(&login_request(initiator, isid, vdisk))?;
        let answer = new.receive()?;
        ensure!(answer.opcode() == 0x23, "a login was answered with opcode {:#x}", answer.opcode());
        let status = (answer.header[36], answer.header[37]);
        ensure!(status == (0, 0), "the login was refused: {:#04x}{:02x}", status.0, status.1);
        ensure!(answer.header[1] == 0x87, "no full feature phase: {:#x}", answer.header[1]);
        (new.command, new.expected) = (answer.word(28), answer.word(24).wrapping_add(1));
        Ok(new)
    }

    pub fn receive(&mut self) -> Result<Pdu> {
        let mut header = [0; 48];
        self.stream.read_exact(&mut header).context("the target closed, or does not answer")?;
        let more = usize::from(header[4]) * 4;
        let len = u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize;
        let mut data = vec![0; more + len.next_multiple_of(4)];
        self.stream.read_exact(&mut data)?;
        data.truncate(more + len);
        Ok(Pdu { header, data: data.split_off(more) })
    }

    fn send_command(&mut self, cdb: &[u8], out: &[u8], expect: usize) -> Result<()> {
        ensure!(out.len() <= IMMEDIATE_MAX && cdb.len() <= 16 && (out.is_empty() || expect == 0));
        let mut header = [0; 48];
        header[0] = 0x01;
        header[1] = 0x80 | if out.is_empty() { 0x40 } else { 0x20 };
        header[16..20].copy_from_slice(&self.tag.to_be_bytes());
        header[20..24].copy_from_slice(&(out.len().max(expect) as u32).to_be_bytes());
        header[24..28].copy_from_slice(&self.command.to_be_bytes());
        header[28..32].copy_from_slice(&self.expected.to_be_bytes());
        header[32..32 + cdb.len()].copy_from_slice(cdb);
        self.command = self.command.wrapping_add(1);
        Ok(self.stream.write_all(&encode(&header, out))?)
    }

    /// One command to LUN 0: `out` is what it writes, `expect` how much it may read.
    pub fn command(&mut self, cdb: &[u8], out: &[u8], expect: usize) -> Result<Ended> {
        self.send_command(cdb, out, expect)?;
        let mut data = Vec::new();
        loop {
            let pdu = self.receive()?;
            match pdu.opcode() {
                0x25 => {
                    data.extend_from_slice(&pdu.data);
                    if pdu.header[1] & 1 != 0 {
                        return Ok(self.ended(&pdu, data, &[]));
                    }
                }
                0x21 => {
                    ensure!(pdu.header[2] == 0, "the target failed: response {:#x}", pdu.header[2]);
                    // A length, then the sense data.
                    return Ok(self.ended(&pdu, data, pdu.data.get(2..).unwrap_or_default()));
                }
                // A ping that wants an answer, or an event: neither is what this waits for.
                0x20 => self.pong(&pdu)?,
                0x32 => {}
                opcode => bail!("a command was answered with opcode {opcode:#x}"),
            }
        }
    }

    fn ended(&mut self, pdu: &Pdu, data: Vec<u8>, sense: &[u8]) -> Ended {
        self.expected = pdu.word(24).wrapping_add(1);
        self.tag += 1;
        let sense = Some(sense).filter(|sense| sense.len() >= 14);
        let is_valid = |sense: &&[u8]| sense[0] == 0xf0;
        Ended {
            status: pdu.header[3],
            data,
            sense: sense.map(|sense| match sense[0] & 0x7f {
                0x70 => (sense[2] & 0xf, sense[12], sense[13]),
                _ => (sense[1] & 0xf, sense[2], sense[3]),
            }),
            information: sense.filter(is_valid).map(|s| u32::from_be_bytes([s[3], s[4], s[5], s[6]])),
        }
    }

    fn pong(&mut self, ping: &Pdu) -> Result<()> {
        if ping.header[20..24] == [0xff; 4] {
            return Ok(());
        }
        let mut header = [0; 48];
        (header[0], header[1]) = (0x40, 0x80);
        header[16..20].copy_from_slice(&[0xff; 4]);
        header[20..24].copy_from_slice(&ping.header[20..24]);
        header[24..28].copy_from_slice(&self.command.to_be_bytes());
        header[28..32].copy_from_slice(&self.expected.to_be_bytes());
        Ok(self.stream.write_all(&encode(&header, &[]))?)
    }

    /// Begins a write of twice `len` bytes and sends so many of them, as the target asks for them.
    pub fn half_a_write(&mut self, len: usize) -> Result<()> {
        let mut header = [0; 48];
        (header[0], header[1]) = (0x01, 0xa0);
        header[16..20].copy_from_slice(&self.tag.to_be_bytes());
        header[20..24].copy_from_slice(&(2 * len as u32).to_be_bytes());
        header[24..28].copy_from_slice(&self.command.to_be_bytes());
        header[28..32].copy_from_slice(&self.expected.to_be_bytes());
        header[32..].copy_from_slice(&cdb16(0x8a, 0, 2 * len));
        self.command = self.command.wrapping_add(1);
        self.stream.write_all(&encode(&header, &[]))?;
        let mut sent = 0;
        while sent < len {
            let asked = self.receive()?;
            match asked.opcode() {
                0x31 => sent += self.send_data(&asked, len - sent)?,
                0x20 => self.pong(&asked)?,
                0x32 => {}
                opcode => bail!("a write without its data was answered with opcode {opcode:#x}"),
            }
        }
        Ok(())
    }

    /// What an R2T asks for, up to `most` bytes. How many that were.
    fn send_data(&mut self, asked: &Pdu, most: usize) -> Result<usize> {
        let (offset, len) = (asked.word(40), most.min(asked.word(44) as usize));
        let mut bytes = Vec::new();
        for (number, start) in (0..len).step_by(IMMEDIATE_MAX).enumerate() {
            let part = IMMEDIATE_MAX.min(len - start);
            let mut header = [0; 48];
            header[0] = 0x05;
            header[1] = if start + part == asked.word(44) as usize { 0x80 } else { 0 };
            header[16..20].copy_from_slice(&asked.header[16..20]);
            header[20..24].copy_from_slice(&asked.header[20..24]);
            header[28..32].copy_from_slice(&self.expected.to_be_bytes());
            header[36..40].copy_from_slice(&(number as u32).to_be_bytes());
            header[40..44].copy_from_slice(&(offset + start as u32).to_be_bytes());
            bytes.extend(encode(&header, &vec![9; part]));
        }
        self.stream.write_all(&bytes)?;
        Ok(len)
    }

    /// LOGICAL UNIT RESET of LUN 0, as an immediate request.
    pub fn reset_unit(&mut self) -> Result<()> {
        let mut header = [0; 48];
        (header[0], header[1]) = (0x42, 0x85);
        header[16..20].copy_from_slice(&self.tag.to_be_bytes());
        header[20..24].copy_from_slice(&[0xff; 4]);
        header[24..28].copy_from_slice(&self.command.to_be_bytes());
        header[28..32].copy_from_slice(&self.expected.to_be_bytes());
        self.stream.write_all(&encode(&header, &[]))?;
        self.tag += 1;
        loop {
            let pdu = self.receive()?;
            match pdu.opcode() {
                0x22 => {
                    self.expected = pdu.word(24).wrapping_add(1);
                    ensure!(pdu.header[2] == 0, "the reset ended with response {}", pdu.header[2]);
                    return Ok(());
                }
                0x20 => self.pong(&pdu)?,
                0x32 => {}
                opcode => bail!("a reset was answered with opcode {opcode:#x}"),
            }
        }
    }

    /// Past the unit attentions that a new nexus hears of.
    pub fn ready(&mut self) -> Result<()> {
        for _ in 0..8 {
            if self.command(&[0; 6], &[], 0)?.status == 0 {
                return Ok(());
            }
        }
        bail!("the unit does not become ready")
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<Ended> {
        self.command(&cdb16(0x8a, offset, data.len()), data, 0)
    }

    pub fn read(&mut self, offset: u64, len: usize) -> Result<Ended> {
        self.command(&cdb16(0x88, offset, len), &[], len)
    }

    pub fn compare_and_write(&mut self, offset: u64, expected: &[u8], data: &[u8]) -> Result<Ended> {
        let mut cdb = [0; 16];
        cdb[0] = 0x89;
        cdb[2..10].copy_from_slice(&(offset / 512).to_be_bytes());
        cdb[13] = (data.len() / 512) as u8;
        self.command(&cdb, &[expected, data].concat(), 0)
    }

    /// PERSISTENT RESERVE OUT (SPC-4 6.16) with APTPL.
    pub fn reserve_out(&mut self, action: u8, kind: u8, key: u64, new_key: u64) -> Result<Ended> {
        let mut parameters = [0; 24];
        parameters[..8].copy_from_slice(&key.to_be_bytes());
        parameters[8..16].copy_from_slice(&new_key.to_be_bytes());
        parameters[20] = u8::from(action == 0);
        self.command(&[0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0], &parameters, 0)
    }

    /// The keys that are registered.
    pub fn keys(&mut self) -> Result<Vec<u64>> {
        let data = self.command(&[0x5e, 0, 0, 0, 0, 0, 0, 1, 0, 0], &[], 256)?.good()?;
        let len = u32::from_be_bytes(data.get(4..8).context("a short answer")?.try_into()?) as usize;
        let keys = data.get(8..8 + len).context("a short answer")?;
        Ok(keys.chunks_exact(8).map(|key| u64::from_be_bytes(key.try_into().expect("eight bytes"))).collect())
    }
}

fn cdb16(opcode: u8, offset: u64, len: usize) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = opcode;
    cdb[2..10].copy_from_slice(&(offset / 512).to_be_bytes());
    cdb[10..14].copy_from_slice(&((len / 512) as u32).to_be_bytes());
    cdb
}
