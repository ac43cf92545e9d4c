//! Errors of the engine, by what the caller may do about them.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// No space for the append; nothing was changed.
    Full,
    /// The disk refused; what was not flushed before may be lost.
    Io,
    /// Stored bytes fail their checksum.
    Corrupt,
    /// The vDisk is read-only, or serves reads only because its log is damaged.
    ReadOnly,
    /// Malformed request or argument.
    Invalid,
    /// Bytes are not what they were expected to be; nothing was written.
    Miscompare,
    /// The vDisk is being closed or was deleted.
    Closed,
    /// Nothing was done; there is another way.
    Unsupported,
}

#[derive(Debug, Clone, thiserror::Error)]
#[error("{context}")]
pub struct Error {
    pub kind: Kind,
    pub context: String,
    /// Byte address on the vDisk, where one is known.
    pub at: Option<u64>,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn new(kind: Kind, context: impl Into<String>) -> Error {
        Error { kind, context: context.into(), at: None }
    }
    pub fn corrupt(context: impl Into<String>) -> Error {
        Error::new(Kind::Corrupt, context)
    }
}

impl From<pool::Error> for Error {
    fn from(error: pool::Error) -> Error {
        let kind = match error.kind {
            pool::Kind::Full => Kind::Full,
            // A group that the map names and the disk does not know: its header rotted.
            pool::Kind::Corrupt | pool::Kind::NotFound => Kind::Corrupt,
            pool::Kind::Invalid => Kind::Invalid,
            _ => Kind::Io,
        };
        Error::new(kind, error.to_string())
    }
}

impl From<Error> for block::Error {
    fn from(error: Error) -> block::Error {
        let kind = match error.kind {
            Kind::Full => block::Kind::Full,
            Kind::Io => block::Kind::Io,
            Kind::Corrupt => block::Kind::Corrupt,
            Kind::ReadOnly => block::Kind::ReadOnly,
            Kind::Invalid => block::Kind::Invalid,
            Kind::Miscompare => block::Kind::Miscompare,
            Kind::Closed => block::Kind::Unavailable,
            Kind::Unsupported => block::Kind::Unsupported,
        };
        block::Error { kind, context: error.context, at: error.at }
    }
}
