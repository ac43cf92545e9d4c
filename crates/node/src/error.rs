//! Errors of a shard, by what the caller may do about them.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    NotFound,
    Exists,
    Invalid,
    Busy,
    Full,
    ReadOnly,
    /// Stored bytes are bad and nothing good is left.
    Damaged,
    Unavailable,
    /// The metadata store is missing or does not belong to this disk: `drystone recover`.
    NeedsRecover,
    /// Written by a newer build.
    UnsupportedFormat,
    Io,
}

#[derive(Debug, Clone, thiserror::Error)]
#[error("{context}")]
pub struct Error {
    pub kind: Kind,
    pub context: String,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn new(kind: Kind, context: impl Into<String>) -> Error {
        Error { kind, context: context.into() }
    }
}

impl From<vdisk::Error> for Error {
    fn from(error: vdisk::Error) -> Error {
        let kind = match error.kind {
            vdisk::Kind::Full => Kind::Full,
            vdisk::Kind::Io => Kind::Io,
            vdisk::Kind::Corrupt => Kind::Damaged,
            vdisk::Kind::ReadOnly => Kind::ReadOnly,
            // No verb compares, or copies extents.
            vdisk::Kind::Invalid | vdisk::Kind::Miscompare | vdisk::Kind::Unsupported => Kind::Invalid,
            vdisk::Kind::Closed => Kind::Unavailable,
        };
        Error::new(kind, error.context)
    }
}

impl From<pool::Error> for Error {
    fn from(error: pool::Error) -> Error {
        let kind = match error.kind {
            pool::Kind::Full => Kind::Full,
            pool::Kind::Corrupt => Kind::Damaged,
            pool::Kind::NotFound => Kind::NotFound,
            pool::Kind::Invalid => Kind::Invalid,
            pool::Kind::UnsupportedFormat => Kind::UnsupportedFormat,
            _ => Kind::Io,
        };
        Error::new(kind, error.to_string())
    }
}

impl From<meta::Error> for Error {
    fn from(error: meta::Error) -> Error {
        let kind = match error.kind {
            meta::Kind::Full => Kind::Full,
            meta::Kind::Corrupt => Kind::NeedsRecover,
            meta::Kind::UnsupportedFormat => Kind::UnsupportedFormat,
            _ => Kind::Io,
        };
        Error::new(kind, format!("metadata store: {error}"))
    }
}

impl From<Error> for block::Error {
    fn from(error: Error) -> block::Error {
        let kind = match error.kind {
            Kind::NotFound | Kind::Unavailable | Kind::Busy | Kind::Exists | Kind::NeedsRecover => {
                block::Kind::Unavailable
            }
            Kind::Invalid => block::Kind::Invalid,
            Kind::Full => block::Kind::Full,
            Kind::ReadOnly => block::Kind::ReadOnly,
            Kind::Damaged => block::Kind::Corrupt,
            Kind::UnsupportedFormat => block::Kind::Unsupported,
            Kind::Io => block::Kind::Io,
        };
        block::Error::new(kind, error.context)
    }
}
