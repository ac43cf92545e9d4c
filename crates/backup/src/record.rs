//! The heads of records: what follows, where it belongs, and that nothing before is missing.

use base::crc::crc32c_append;
use base::{Reader, Truncated, Writer};

/// Offsets and lengths of records are multiples of this; the block of a vDisk.
pub const UNIT: u64 = base::units::BLOCK;
/// Longest payload of one record: what a reader keeps in memory, and what one flipped bit makes useless.
pub const DATA_BYTES_MAX: u64 = 4 << 20;

pub(crate) const HEAD: usize = 32;
pub(crate) const DIGEST: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// As many bytes follow as it is long.
    Data,
    /// Reads as zeros now, and did not before. In incremental files only.
    Zeros,
    /// A digest follows, and nothing else. `offset`: number of records before; `len`: bytes of data in them.
    End,
}

/// 32 bytes, little-endian: kind (1), zeros (7), offset (8), length (8), checksum of the payload (4), checksum (4) of the
/// head of the record before (its last field; the header's checksum for the first), continued over the 28 bytes here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub kind: Kind,
    pub offset: u64,
    pub len: u64,
    pub payload_crc: u32,
}

impl Head {
    /// The bytes, and what the next head continues.
    pub fn encode(&self, chain: u32) -> ([u8; HEAD], u32) {
        let kind = match self.kind {
            Kind::Data => 1,
            Kind::Zeros => 2,
            Kind::End => 3,
        };
        let mut bytes = Writer::with_capacity(HEAD);
        bytes.u8(kind).zeros(7).u64_le(self.offset).u64_le(self.len).u32_le(self.payload_crc);
        let crc = crc32c_append(chain, &bytes.bytes);
        bytes.u32_le(crc);
        (bytes.bytes.try_into().expect("the fields add up to 32 bytes"), crc)
    }

    /// The head and what the next one continues; why not, if it is none behind `chain`.
    pub fn decode(bytes: &[u8; HEAD], chain: u32) -> Result<(Head, u32), &'static str> {
        let (body, crc) = bytes.split_last_chunk::<4>().expect("32 bytes are there");
        let crc = u32::from_le_bytes(*crc);
        if crc32c_append(chain, body) != crc {
            return Err("a record does not continue what is before it");
        }
        let fields = || {
            let mut reader = Reader::new(body);
            let (kind, zeros) = (reader.u8()?, reader.array::<7>()?);
            Ok::<_, Truncated>((kind, zeros, reader.u64_le()?, reader.u64_le()?, reader.u32_le()?))
        };
        let (kind, zeros, offset, len, payload_crc) = fields().map_err(|_| "a record is too short")?;
        let kind = match kind {
            1 => Kind::Data,
            2 => Kind::Zeros,
            3 => Kind::End,
            _ => return Err("a record is of a kind that this build does not know"),
        };
        if zeros != [0; 7] || (kind != Kind::Data && payload_crc != 0) {
            return Err("a record has something where zeros belong");
        }
        Ok((Head { kind, offset, len, payload_crc }, crc))
    }
}
