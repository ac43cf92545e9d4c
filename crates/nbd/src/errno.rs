//! What a block error is called on the wire. The only place where the two vocabularies meet.

use block::Kind;

/// Error values of the protocol ("Error values" in the specification); the numbers are Linux's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Errno {
    Perm = 1,
    Io = 5,
    Inval = 22,
    NoSpc = 28,
    Overflow = 75,
    NotSup = 95,
    Shutdown = 108,
}

impl Errno {
    pub fn code(self) -> u32 {
        self as u32
    }

    /// `fast_zero`: the request carried NBD_CMD_FLAG_FAST_ZERO, the only one that may be told ENOTSUP.
    pub(crate) fn of(kind: Kind, fast_zero: FastZero) -> Errno {
        match kind {
            Kind::Invalid => Errno::Inval,
            Kind::Corrupt | Kind::Io => Errno::Io,
            Kind::Full => Errno::NoSpc,
            Kind::ReadOnly => Errno::Perm,
            // The client is to disconnect; on a new connection it may find the new owner.
            Kind::Unavailable | Kind::Fenced => Errno::Shutdown,
            // The protocol has no request that compares.
            Kind::Miscompare => Errno::Inval,
            Kind::Unsupported => match fast_zero {
                FastZero::Asked => Errno::NotSup,
                FastZero::No => Errno::Inval,
            },
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FastZero {
    Asked,
    No,
}
