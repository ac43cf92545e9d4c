//! The metadata store's error.

/// What the caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The store's disk is full.
    Full,
    /// The store's disk or its driver refused.
    Io,
    /// The store's file or one of its records is damaged: rebuild it (`drystone recover`).
    Corrupt,
    /// Another process has the store open.
    Locked,
    /// Written by a newer build.
    UnsupportedFormat,
    /// The transaction breaks a rule of the trait, or a record cannot be written as it is.
    Invalid,
    /// The store was shut down.
    Closed,
}

#[derive(Debug, Clone, thiserror::Error)]
#[error("{context}")]
pub struct Error {
    pub kind: Kind,
    pub context: String,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn new(kind: Kind, context: impl Into<String>) -> Self {
        Error { kind, context: context.into() }
    }
}
