//! Errors of a block device, by what the initiator is to be told. Each front-end maps them by an exhaustive match.

/// What went wrong, as far as the initiator can act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request is malformed: beyond the end, not a multiple of the sector, too long.
    Invalid,
    /// Stored bytes fail their checksum and no good copy is left: a medium error.
    Corrupt,
    /// The disk refused (EIO), or a sync failed: what was not flushed before may be lost.
    Io,
    /// No space left.
    Full,
    /// The device cannot be written: read-only by policy, or damaged.
    ReadOnly,
    /// The device is going away or is not served yet; the same request may succeed later on another connection.
    Unavailable,
    /// Another owner has taken over; never retried here.
    Fenced,
    /// [`crate::Request::CompareAndWrite`] found something else; `at` is the first byte that differs. Nothing was written.
    Miscompare,
    /// The device never does this.
    Unsupported,
}

#[derive(Debug, Clone, thiserror::Error)]
#[error("{context}")]
pub struct Error {
    pub kind: Kind,
    pub context: String,
    /// Byte address on the device at which it went wrong, where one is known.
    pub at: Option<u64>,
}

impl Error {
    pub fn new(kind: Kind, context: impl Into<String>) -> Self {
        Error { kind, context: context.into(), at: None }
    }
    pub fn at(mut self, offset: u64) -> Self {
        self.at = Some(offset);
        self
    }
}

pub type Result<T> = std::result::Result<T, Error>;
