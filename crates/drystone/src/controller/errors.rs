//! From the engine's errors to those of the control plane.

use control::{Error, Kind};

pub fn from_node(error: node::Error) -> Error {
    let kind = match error.kind {
        node::Kind::NotFound => Kind::NotFound,
        node::Kind::Exists => Kind::Exists,
        node::Kind::Invalid => Kind::Invalid,
        node::Kind::Busy => Kind::Busy,
        node::Kind::Full => Kind::Full,
        node::Kind::ReadOnly => Kind::ReadOnly,
        node::Kind::Damaged | node::Kind::NeedsRecover => Kind::Damaged,
        node::Kind::Unavailable => Kind::Unavailable,
        node::Kind::UnsupportedFormat | node::Kind::Io => Kind::Internal,
    };
    Error::new(kind, error.context)
}

pub fn from_block(error: block::Error) -> Error {
    let kind = match error.kind {
        block::Kind::Invalid => Kind::Invalid,
        block::Kind::Corrupt => Kind::Damaged,
        block::Kind::Full => Kind::Full,
        block::Kind::ReadOnly => Kind::ReadOnly,
        block::Kind::Unavailable | block::Kind::Fenced => Kind::Unavailable,
        block::Kind::Io | block::Kind::Unsupported | block::Kind::Miscompare => Kind::Internal,
    };
    Error::new(kind, error.context)
}
