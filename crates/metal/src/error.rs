//! From errno to what the engine may do about it.

use rustix::io::Errno;
use world::{Error, Kind};

/// Whether the operation has leave to answer `Unsupported`: reading, writing and syncing have not.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Optional {
    Yes,
    No,
}

pub(crate) fn error(verb: &str, name: &str, errno: Errno, optional: Optional) -> Error {
    Error {
        kind: kind(errno, optional),
        context: format!("{verb} {name}"),
        detail: std::io::Error::from_raw_os_error(errno.raw_os_error()).to_string(),
    }
}

fn kind(errno: Errno, optional: Optional) -> Kind {
    match errno {
        Errno::NOSPC | Errno::DQUOT => Kind::Full,
        Errno::NOENT => Kind::NotFound,
        Errno::EXIST => Kind::Exists,
        Errno::OPNOTSUPP | Errno::NOSYS if optional == Optional::Yes => Kind::Unsupported,
        _ => Kind::Io,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errno_becomes_what_the_caller_may_do() {
        let check = |errno, optional, expect| assert_eq!(kind(errno, optional), expect, "{errno:?}");
        check(Errno::NOSPC, Optional::No, Kind::Full);
        check(Errno::DQUOT, Optional::No, Kind::Full);
        check(Errno::NOENT, Optional::No, Kind::NotFound);
        check(Errno::EXIST, Optional::No, Kind::Exists);
        check(Errno::IO, Optional::Yes, Kind::Io);
        check(Errno::OPNOTSUPP, Optional::Yes, Kind::Unsupported);
        check(Errno::OPNOTSUPP, Optional::No, Kind::Io);
    }
}
