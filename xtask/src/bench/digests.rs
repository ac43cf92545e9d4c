//! A reading initiator of its own, for what iscsi-perf does not do: data digests. One thread, blocking; it checks every
//! digest, as any initiator would.

use super::tgt::Unit;
use crate::iscsi::initiator::encode;
use crate::random::Random;
use anyhow::{Context, Result, bail, ensure};
use base::crc::{crc32c, crc32c_append};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const HEADER: usize = 48;
const BLOCK: u32 = 4096;
const SECTOR: u64 = 512;
const INPUT: usize = 256 << 10;
/// Unit attentions that a new nexus may hear of.
const COMPLAINTS_MAX: u32 = 8;

struct Reader {
    stream: TcpStream,
    unit: Unit,
    digests: bool,
    command: u32,
    expected: u32,
    random: Random,
    blocks: u64,
    out: Vec<u8>,
    completed: u64,
    complaints: u32,
}

/// Random reads of 4 KiB over `size_bytes`, per second.
pub fn read(unit: &Unit, size_bytes: u64, depth: u32, digests: bool, time: Duration, seed: u64) -> Result<f64> {
    let mut reader = Reader::login(unit, size_bytes, digests, seed)?;
    let mut input = vec![0; INPUT];
    let (mut filled, begin) = (0, Instant::now());
    for tag in 0..depth {
        reader.ask(tag);
    }
    while begin.elapsed() < time {
        reader.stream.write_all(&reader.out)?;
        reader.out.clear();
        match reader.stream.read(&mut input[filled..]).context("no answer")? {
            0 => bail!("the target hung up"),
            read => filled += read,
        }
        let mut used = 0;
        while let Some(len) = reader.take(&input[used..filled])? {
            used += len;
        }
        input.copy_within(used..filled, 0);
        filled -= used;
    }
    Ok(reader.completed as f64 / begin.elapsed().as_secs_f64())
}

impl Reader {
    fn login(unit: &Unit, size_bytes: u64, digests: bool, seed: u64) -> Result<Reader> {
        let mut stream = TcpStream::connect(&unit.portal)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut header = [0; HEADER];
        // Immediate; from operational negotiation to the full feature phase; an ISID of the random format.
        (header[0], header[1], header[8], header[13]) = (0x43, 0x87, 0x80, 7);
        let digest = if digests { "CRC32C" } else { "None" };
        let keys = format!(
            "InitiatorName=iqn.2026-11.io.drystone.bench:reader\0SessionType=Normal\0TargetName={}\0HeaderDigest={digest}\0\
             DataDigest={digest}\0MaxRecvDataSegmentLength=262144\0",
            unit.target
        );
        stream.write_all(&encode(&header, keys.as_bytes()))?;
        let mut answer = [0; HEADER];
        stream.read_exact(&mut answer)?;
        let mut text = vec![0; data_bytes(&answer).next_multiple_of(4)];
        stream.read_exact(&mut text)?;
        let text = String::from_utf8_lossy(&text);
        ensure!(answer[0] == 0x23 && answer[36] == 0 && answer[1] == 0x87, "the login was refused: {answer:?} {text}");
        for key in ["HeaderDigest", "DataDigest"] {
            let agreed = text.contains(&format!("{key}=CRC32C"));
            ensure!(agreed == digests, "{key} was answered with {text}");
        }
        Ok(Reader {
            stream,
            unit: unit.clone(),
            digests,
            command: word(&answer, 28),
            expected: word(&answer, 24).wrapping_add(1),
            random: Random::new(seed),
            blocks: size_bytes / u64::from(BLOCK),
            out: Vec::new(),
            completed: 0,
            complaints: 0,
        })
    }

    /// READ(16) of any block.
    fn ask(&mut self, tag: u32) {
        let sector = self.random.below(self.blocks) * (u64::from(BLOCK) / SECTOR);
        let mut header = [0; HEADER];
        (header[0], header[1], header[9]) = (0x01, 0xc1, self.unit.lun);
        header[16..20].copy_from_slice(&tag.to_be_bytes());
        header[20..24].copy_from_slice(&BLOCK.to_be_bytes());
        header[24..28].copy_from_slice(&self.command.to_be_bytes());
        header[28..32].copy_from_slice(&self.expected.to_be_bytes());
        header[32] = 0x88;
        header[34..42].copy_from_slice(&sector.to_be_bytes());
        header[42..46].copy_from_slice(&(BLOCK / SECTOR as u32).to_be_bytes());
        self.command = self.command.wrapping_add(1);
        self.out.extend_from_slice(&header);
        if self.digests {
            self.out.extend_from_slice(&crc32c(&header).to_le_bytes());
        }
    }

    /// Deals with the PDU at the front of `input`: its length; `None`: not all of it is there.
    fn take(&mut self, input: &[u8]) -> Result<Option<usize>> {
        let digest = if self.digests { 4 } else { 0 };
        let Some(header) = input.first_chunk::<HEADER>() else { return Ok(None) };
        let len = data_bytes(header);
        let padded = len.next_multiple_of(4);
        let data_at = HEADER + digest;
        let whole = data_at + padded + if len > 0 { digest } else { 0 };
        if input.len() < whole {
            return Ok(None);
        }
        if self.digests {
            ensure!(crc32c(header).to_le_bytes() == input[HEADER..data_at], "a header digest is wrong");
            if len > 0 {
                let crc = crc32c_append(0, &input[data_at..data_at + padded]);
                ensure!(crc.to_le_bytes() == input[data_at + padded..whole], "a data digest is wrong");
            }
        }
        let ends = match header[0] & 0x3f {
            0x25 => header[1] & 1 != 0,
            0x21 => true,
            _ => false,
        };
        if ends {
            self.expected = word(header, 24).wrapping_add(1);
            match header[3] {
                0 => self.completed += 1,
                status => {
                    self.complaints += 1;
                    ensure!(self.complaints <= COMPLAINTS_MAX, "reads end with status {status:#x}");
                }
            }
            self.ask(word(header, 16));
        }
        Ok(Some(whole))
    }
}

fn word(header: &[u8; HEADER], at: usize) -> u32 {
    u32::from_be_bytes(header[at..at + 4].try_into().expect("four bytes"))
}

fn data_bytes(header: &[u8; HEADER]) -> usize {
    u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize
}
