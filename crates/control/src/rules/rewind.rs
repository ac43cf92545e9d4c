//! What windows may be, and what a moment is.

use crate::{Error, Moment, Result, SetRewind};
use base::units::GIB;
use base::utc;

/// Points of the history are taken every 32nd part of a window: no more often than every two seconds.
pub const WINDOW_SECONDS_MIN: u64 = 60;
/// 90 days: beyond that it is an archive, which backups are for.
pub const WINDOW_SECONDS_MAX: u64 = 90 * 86_400;
/// Less than this goes within seconds on a busy vDisk.
pub const LIMIT_BYTES_MIN: u64 = GIB;

pub fn check_rewind(set: &SetRewind) -> Result<()> {
    let SetRewind { window_seconds, limit_bytes } = *set;
    if !(WINDOW_SECONDS_MIN..=WINDOW_SECONDS_MAX).contains(&window_seconds) {
        return Err(Error::invalid(format!("a rewind window of {window_seconds} s: it is between 60 s and 90 days")));
    }
    if limit_bytes != 0 && limit_bytes < LIMIT_BYTES_MIN {
        return Err(Error::invalid(format!(
            "a rewind limit of {limit_bytes} bytes: it is at least 1 GiB, or 0 for none"
        )));
    }
    Ok(())
}

/// A moment that was named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Nanoseconds since 1970.
    At(u64),
    Before(u64),
}

pub fn moment(moment: &Moment) -> Result<Wanted> {
    match (&moment.at, moment.before_write) {
        (Some(at), None) => utc::parse_ns(at).map(Wanted::At).ok_or_else(|| {
            Error::invalid(format!(
                "{at:?} is no moment; write it like 2026-11-20T10:31:07Z, or with an offset: +01:00"
            ))
        }),
        (None, Some(write)) => Ok(Wanted::Before(write)),
        (None, None) => Err(Error::invalid("no moment is named: give `at` or `before_write`")),
        (Some(_), Some(_)) => Err(Error::invalid("two moments are named: give `at` or `before_write`, not both")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_and_limits() {
        let set = |window_seconds, limit_bytes| check_rewind(&SetRewind { window_seconds, limit_bytes });
        assert!(set(60, 0).is_ok() && set(90 * 86_400, GIB).is_ok());
        for (window, limit) in [(59, 0), (90 * 86_400 + 1, 0), (0, 0), (3600, 1), (3600, GIB - 1)] {
            assert!(set(window, limit).is_err(), "{window} {limit}");
        }
    }

    #[test]
    fn moments() {
        let of = |at: Option<&str>, before_write| moment(&Moment { at: at.map(str::to_string), before_write });
        assert_eq!(of(Some("1970-01-01T00:00:01Z"), None).expect("good"), Wanted::At(1_000_000_000));
        assert_eq!(of(None, Some(7)).expect("good"), Wanted::Before(7));
        for (at, write) in [(None, None), (Some("1970-01-01T00:00:01Z"), Some(7)), (Some("yesterday"), None)] {
            assert!(of(at, write).is_err(), "{at:?} {write:?}");
        }
    }
}
