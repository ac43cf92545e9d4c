//! PDUs as the simulated initiator writes and reads them: from RFC 7143, without the codec of the project.

use super::weather::Covered;
use base::crc::crc32c;

pub const HEADER: usize = 48;
const DIGEST: usize = 4;

#[derive(Clone, Copy, Default, Debug)]
pub struct Digests {
    pub header: bool,
    pub data: bool,
}

pub struct Pdu(pub [u8; HEADER]);

/// A digest is wrong.
#[derive(Debug)]
pub struct Damaged;

impl Pdu {
    pub fn new(opcode: u8, flags: u8) -> Pdu {
        let mut basic = [0; HEADER];
        (basic[0], basic[1]) = (opcode, flags);
        Pdu(basic)
    }
    pub fn word(mut self, at: usize, value: u32) -> Pdu {
        self.0[at..at + 4].copy_from_slice(&value.to_be_bytes());
        self
    }
    pub fn get(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.0[at..at + 4].try_into().expect("four bytes"))
    }
}

impl Digests {
    fn header_len(self) -> usize {
        HEADER + if self.header { DIGEST } else { 0 }
    }

    pub fn encode(self, pdu: &Pdu, data: &[u8]) -> Vec<u8> {
        let mut bytes = pdu.0.to_vec();
        bytes[5..8].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
        if self.header {
            bytes.extend_from_slice(&crc32c(&bytes).to_le_bytes());
        }
        let start = bytes.len();
        bytes.extend_from_slice(data);
        bytes.resize(start + data.len().next_multiple_of(4), 0);
        if self.data && !data.is_empty() {
            let crc = crc32c(&bytes[start..]);
            bytes.extend_from_slice(&crc.to_le_bytes());
        }
        bytes
    }

    /// The next PDU, once it is whole.
    pub fn decode(self, buffer: &mut Vec<u8>) -> Option<Result<(Pdu, Vec<u8>), Damaged>> {
        let header = self.header_len();
        let basic: [u8; HEADER] = *buffer.get(..header)?.first_chunk()?;
        if self.header && buffer[HEADER..header] != crc32c(&basic).to_le_bytes() {
            return Some(Err(Damaged));
        }
        let len = self.data_len(&basic);
        let padded = len.next_multiple_of(4);
        let digest = self.len_of(&basic) - header - padded;
        let whole = buffer.get(header..header + padded + digest)?;
        let (data, crc) = whole.split_at(padded);
        if digest > 0 && crc != crc32c(data).to_le_bytes() {
            return Some(Err(Damaged));
        }
        let data = data[..len].to_vec();
        buffer.drain(..header + padded + digest);
        Some(Ok((Pdu(basic), data)))
    }

    fn data_len(self, basic: &[u8]) -> usize {
        u32::from_be_bytes([0, basic[5], basic[6], basic[7]]) as usize
    }

    /// Bytes of the PDU that begins so, digests included; it has no additional header segments.
    pub fn len_of(self, basic: &[u8]) -> usize {
        let data = self.data_len(basic);
        self.header_len() + data.next_multiple_of(4) + if self.data && data > 0 { DIGEST } else { 0 }
    }

    /// What they cover of a PDU of `len` bytes.
    pub fn cover(self, len: usize) -> Covered {
        let data = self.header_len()..len;
        Covered {
            header: if self.header { 0..self.header_len() } else { 0..0 },
            data: if self.data { data } else { 0..0 },
        }
    }
}
