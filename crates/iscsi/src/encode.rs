//! PDUs into an [`Output`]: header, header digest, data, padding, data digest.

use crate::wire::{Answer, HEADER, padding};
use base::Output;
use base::crc::{crc32c, crc32c_append};
use block::Segment;

/// Which digests a connection sends and checks (RFC 7143 section 13.1); both are CRC-32C.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Digests {
    pub header: bool,
    pub data: bool,
}

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// `data` in order; its length goes into the header. Longest: 2^24 - 1 bytes.
pub(crate) fn put(answer: Answer, data: impl Iterator<Item = Segment>, len: u32, digests: Digests, out: &mut Output) {
    header(answer, len, digests, out);
    if len == 0 {
        return;
    }
    let mut crc = 0;
    let mut left = u64::from(len);
    for segment in data {
        left -= segment.len();
        if digests.data {
            crc = append(crc, &segment);
        }
        match segment {
            Segment::Bytes(bytes) => out.put_shared(bytes),
            Segment::Zeros(len) => out.put_zeros(len),
        }
    }
    assert_eq!(left, 0, "a PDU of {len} bytes is short of data");
    trailer(crc, len, digests, out);
}

/// The same for data in one piece that is copied.
pub(crate) fn put_bytes(answer: Answer, data: &[u8], digests: Digests, out: &mut Output) {
    header(answer, data.len() as u32, digests, out);
    if !data.is_empty() {
        out.put(data);
        trailer(if digests.data { crc32c(data) } else { 0 }, data.len() as u32, digests, out);
    }
}

fn header(answer: Answer, len: u32, digests: Digests, out: &mut Output) {
    assert!(len < 1 << 24, "a data segment of {len} bytes");
    let Answer(basic) = answer.word(4, len);
    if digests.header {
        let mut both = [0; HEADER + 4];
        both[..HEADER].copy_from_slice(&basic);
        both[HEADER..].copy_from_slice(&crc32c(&basic).to_le_bytes());
        out.put(&both);
    } else {
        out.put(&basic);
    }
}

fn trailer(crc: u32, len: u32, digests: Digests, out: &mut Output) {
    let pad = padding(len as usize);
    let zeros = ZEROS.get(..pad).expect("at most three");
    out.put(zeros);
    if digests.data {
        out.put(&crc32c_append(crc, zeros).to_le_bytes());
    }
}

fn append(crc: u32, segment: &Segment) -> u32 {
    match segment {
        Segment::Bytes(bytes) => crc32c_append(crc, bytes),
        Segment::Zeros(len) => {
            let mut crc = crc;
            let mut left = *len;
            while left > 0 {
                let part = left.min(ZEROS.len() as u64);
                crc = crc32c_append(crc, ZEROS.get(..part as usize).expect("limited to its length"));
                left -= part;
            }
            crc
        }
    }
}

#[cfg(test)]
mod tests;
