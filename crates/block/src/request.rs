//! Requests and replies: byte ranges of one device.

use bytes::Bytes;

/// Offsets and lengths are bytes, multiples of 512 and inside the device (else `Kind::Invalid`); a length of zero is
/// answered at once. Overlapping requests under way at once may take effect in either order, each block whole, and
/// requests of whole blocks up to `Geometry::atomic_bytes_max` whole altogether.
#[derive(Debug, Clone)]
pub enum Request {
    Read {
        offset: u64,
        len: u32,
    },
    /// `data` is the concatenation; `fua`: acknowledged only when it survives power loss.
    Write {
        offset: u64,
        data: Bytes,
        fua: bool,
    },
    /// Everything acknowledged before, on any connection, survives power loss.
    Flush,
    /// Writes `data` if the range holds `expected` (of the same length, at most `Geometry::atomic_bytes_max`), else fails
    /// with [`crate::Kind::Miscompare`]. Nothing comes between the comparison and the write, and the write is all or nothing.
    CompareAndWrite {
        offset: u64,
        expected: Bytes,
        data: Bytes,
        fua: bool,
    },
    /// Writes what the range holds ORed with `data` (at most `Geometry::atomic_bytes_max`). Nothing comes in between, and the
    /// write is all or nothing.
    OrWrite {
        offset: u64,
        data: Bytes,
        fua: bool,
    },
    /// The range reads as zeros afterwards (whole 4 KiB blocks; ragged edges keep their content) and its space is freed.
    Trim {
        offset: u64,
        len: u64,
        fua: bool,
    },
    WriteZeroes {
        offset: u64,
        len: u64,
        how: WriteZeroes,
        fua: bool,
    },
    /// Bring the range into the cache.
    Prefetch {
        offset: u64,
        len: u64,
    },
    /// Which parts hold data. The answer starts at `offset` and covers at least one byte and at most `len`; it may end
    /// early after `extents_max` entries.
    BlockStatus {
        offset: u64,
        len: u64,
        extents_max: u32,
    },
}

/// What becomes of the space of a range that is written with zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteZeroes {
    /// Space may be given back.
    Unmap,
    /// The range stays allocated (NBD_CMD_FLAG_NO_HOLE).
    KeepAllocated,
}

#[derive(Debug, Clone)]
pub enum Reply {
    Done,
    /// In order, covering the whole range of the read.
    Data(Vec<Segment>),
    Status(Vec<Status>),
}

/// A run of bytes of a read reply.
#[derive(Debug, Clone)]
pub enum Segment {
    Bytes(Bytes),
    Zeros(u64),
}

impl Segment {
    pub fn len(&self) -> u64 {
        match self {
            Segment::Bytes(bytes) => bytes.len() as u64,
            Segment::Zeros(len) => *len,
        }
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A run of `len` bytes with the same state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    pub len: u64,
    pub allocation: Allocation,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocation {
    Data,
    /// Reads as zeros, takes no space (NBD: hole and zero).
    Hole,
    /// Reads as zeros, counts as allocated (NBD: zero).
    Zero,
}
