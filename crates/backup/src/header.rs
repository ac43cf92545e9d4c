//! What a backup file says of itself: which vDisk, which snapshot, since which one.

use base::crc::crc32c;
use base::{Reader, Truncated, Writer};

pub(crate) const MAGIC: &[u8; 8] = b"DRYBACKP";
pub(crate) const VERSION: u32 = 1;
/// Magic, version, length: what has to be read to know how long the header is.
pub(crate) const PREFIX: usize = 16;
/// Longest header. Six texts of at most 255 bytes and some numbers stay far below.
pub(crate) const HEADER_BYTES_MAX: usize = 4096;
/// Longest id or name, bytes.
const TEXT_BYTES_MAX: usize = 255;

/// A vDisk, as nothing else is: its id is never used twice by one installation, and the time tells installations apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub id: String,
    /// As it was when the file was made.
    pub name: String,
    pub created_unix_ms: u64,
}

/// A snapshot of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    pub id: String,
    pub name: String,
    pub created_unix_ms: u64,
    /// Size of the vDisk then; a multiple of 4096.
    pub size_bytes: u64,
}

impl Point {
    /// The same snapshot, whatever its name is by now.
    pub fn is_same(&self, other: &Point) -> bool {
        (&self.id, self.created_unix_ms, self.size_bytes) == (&other.id, other.created_unix_ms, other.size_bytes)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub vdisk: Identity,
    /// Logical sector, bytes.
    pub sector_bytes: u32,
    /// `None`: a full backup, where what no record names reads as zeros. Else what no record names is as it was then.
    pub from: Option<Point>,
    pub to: Point,
    /// When the file was begun.
    pub made_unix_ms: u64,
}

/// Why bytes are no header.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("its header fails its checksum")]
    Checksum,
    #[error("its header {0}")]
    Content(&'static str),
}

impl From<Truncated> for Malformed {
    fn from(_: Truncated) -> Malformed {
        Malformed::Content("ends too early")
    }
}

impl Header {
    /// Panics if an id or a name is longer than 255 bytes, which no controller gives.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Writer::default();
        bytes.put(MAGIC).u32_le(VERSION).u32_le(0);
        bytes.u64_le(self.made_unix_ms).u32_le(self.sector_bytes).u32_le(u32::from(self.from.is_some()));
        text(&mut bytes, &self.vdisk.id);
        text(&mut bytes, &self.vdisk.name);
        bytes.u64_le(self.vdisk.created_unix_ms);
        for point in [Some(&self.to), self.from.as_ref()].into_iter().flatten() {
            text(&mut bytes, &point.id);
            text(&mut bytes, &point.name);
            bytes.u64_le(point.created_unix_ms).u64_le(point.size_bytes);
        }
        let len = bytes.bytes.len() as u32 + 4;
        bytes.bytes[12..PREFIX].copy_from_slice(&len.to_le_bytes());
        let crc = crc32c(&bytes.bytes);
        bytes.u32_le(crc);
        bytes.bytes
    }

    /// `bytes`: all of it, prefix and checksum included.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Header, Malformed> {
        let (body, crc) = bytes.split_last_chunk::<4>().ok_or(Truncated)?;
        if crc32c(body) != u32::from_le_bytes(*crc) {
            return Err(Malformed::Checksum);
        }
        let mut reader = Reader::new(body);
        reader.skip(PREFIX)?;
        let (made_unix_ms, sector_bytes, kind) = (reader.u64_le()?, reader.u32_le()?, reader.u32_le()?);
        let vdisk =
            Identity { id: read_text(&mut reader)?, name: read_text(&mut reader)?, created_unix_ms: reader.u64_le()? };
        let to = read_point(&mut reader)?;
        let from = match kind {
            0 => None,
            1 => Some(read_point(&mut reader)?),
            _ => return Err(Malformed::Content("has a kind that this build does not know")),
        };
        if !reader.is_empty() {
            return Err(Malformed::Content("is longer than what it says"));
        }
        if !matches!(sector_bytes, 512 | 4096) {
            return Err(Malformed::Content("has a sector of neither 512 nor 4096 bytes"));
        }
        if from.as_ref().is_some_and(|from| from.size_bytes > to.size_bytes) {
            return Err(Malformed::Content("has a vDisk that shrank"));
        }
        Ok(Header { vdisk, sector_bytes, from, to, made_unix_ms })
    }
}

fn text(bytes: &mut Writer, text: &str) {
    assert!(text.len() <= TEXT_BYTES_MAX, "{text:?} is too long for a backup's header");
    bytes.u16_le(text.len() as u16).put(text.as_bytes());
}

fn read_text(reader: &mut Reader<'_>) -> Result<String, Malformed> {
    let len = usize::from(reader.u16_le()?);
    if len > TEXT_BYTES_MAX {
        return Err(Malformed::Content("has a text that is too long"));
    }
    let bytes = reader.take(len)?;
    std::str::from_utf8(bytes).map(str::to_string).map_err(|_| Malformed::Content("has a text that is none"))
}

fn read_point(reader: &mut Reader<'_>) -> Result<Point, Malformed> {
    let (id, name) = (read_text(reader)?, read_text(reader)?);
    let (created_unix_ms, size_bytes) = (reader.u64_le()?, reader.u64_le()?);
    let is_size = size_bytes > 0 && size_bytes % base::units::BLOCK == 0 && size_bytes <= base::units::VDISK_SIZE_MAX;
    if !is_size {
        return Err(Malformed::Content("has a size that no vDisk has"));
    }
    Ok(Point { id, name, created_unix_ms, size_bytes })
}
