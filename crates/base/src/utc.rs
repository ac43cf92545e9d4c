//! The civil time of a moment, UTC, for names and for tables.

/// A moment to the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Utc {
    pub year: i64,
    pub month: i64,
    pub day: i64,
    pub hour: u64,
    pub minute: u64,
    pub second: u64,
}

impl Utc {
    pub fn of_unix_seconds(seconds: u64) -> Utc {
        let (days, second) = ((seconds / 86_400) as i64, seconds % 86_400);
        // Days to a civil date after Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        Utc { year, month, day, hour: second / 3600, minute: second / 60 % 60, second: second % 60 }
    }

    /// `20261120T100908Z`: sorts, and may stand in a name (ISO 8601, basic format).
    pub fn compact(&self) -> String {
        let Utc { year, month, day, hour, minute, second } = self;
        format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
    }
}

/// `2026-11-20T10:31:07Z`, with as many digits of the second as it has (RFC 3339).
pub fn format_ns(ns: u64) -> String {
    let Utc { year, month, day, hour, minute, second } = Utc::of_unix_seconds(ns / NS);
    let fraction = format!("{:09}", ns % NS);
    let fraction = fraction.trim_end_matches('0');
    let dot = if fraction.is_empty() { "" } else { "." };
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{dot}{fraction}Z")
}

/// Nanoseconds since 1970 of a text as [`format_ns`] makes it, with an offset instead of `Z` if it has one
/// (`2026-11-20T12:31:07+02:00`). `None`: it is none, or of a time before 1970 or after 2500.
pub fn parse_ns(text: &str) -> Option<u64> {
    let (date, rest) = text.split_once(['T', 't', ' '])?;
    let zone_at = rest.find(['Z', 'z', '+', '-'])?;
    let (time, zone) = rest.split_at(zone_at);
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let (time, fraction) = time.split_once('.').map_or((time, ""), |(time, fraction)| (time, fraction));
    let [hour, minute, second] = numbers(time, ':', [2, 2, 2])?;
    let offset = match zone {
        "Z" | "z" => 0,
        _ => {
            let [hours, minutes] = numbers(&zone[1..], ':', [2, 2])?;
            let sign = if zone.starts_with('-') { -1 } else { 1 };
            (hours < 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))?
        }
    };
    let in_range =
        (1970..=2500).contains(&year) && (1..=12).contains(&month) && hour < 24 && minute < 60 && second < 60;
    if !in_range || day < 1 || day > days_of(year, month) || fraction.len() > 9 {
        return None;
    }
    let digits = fraction.bytes().all(|digit| digit.is_ascii_digit()) && time.len() == 8;
    let dotted = rest[..zone_at].contains('.');
    if !digits || dotted && fraction.is_empty() {
        return None;
    }
    let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset;
    let fraction: u64 = format!("{fraction:0<9}").parse().ok()?;
    Some(u64::try_from(seconds).ok()? * NS + fraction)
}

const NS: u64 = 1_000_000_000;

fn numbers<const N: usize>(text: &str, separator: char, digits: [usize; N]) -> Option<[i64; N]> {
    let mut parts = text.split(separator);
    let mut found = [0; N];
    for (number, digits) in found.iter_mut().zip(digits) {
        let part =
            parts.next().filter(|part| part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit()))?;
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(found)
}

fn days_of(year: i64, month: i64) -> i64 {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 => 28 + i64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// The way back of [`Utc::of_unix_seconds`].
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let shifted_month = (month + 9) % 12;
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_back() {
        for (text, ns) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2026-11-20T10:31:07Z", 1_795_170_667 * NS),
            ("2000-02-29T00:00:00.5Z", 951_782_400 * NS + NS / 2),
            ("2099-12-31T23:59:59.000000001Z", 4_102_444_799 * NS + 1),
        ] {
            assert_eq!(parse_ns(text), Some(ns), "{text}");
            assert_eq!(format_ns(ns), text);
        }
        assert_eq!(parse_ns("2026-11-20T12:31:07+02:00"), parse_ns("2026-11-20T10:31:07Z"));
        assert_eq!(parse_ns("2026-11-20 08:01:07-02:30"), parse_ns("2026-11-20T10:31:07Z"));
        for day in 0..200_000 {
            let Utc { year, month, day: of_month, .. } = Utc::of_unix_seconds(day * 86_400);
            assert_eq!(days_since_1970(year, month, of_month), day as i64);
        }
        for bad in [
            "",
            "now",
            "2026-11-20",
            "2026-11-20T10:31:07",
            "2026-11-20T10:31Z",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-11-20T24:00:00Z",
            "2026-11-20T10:31:07.Z",
            "2026-11-20T10:31:07.1234567891Z",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+01:00",
            "2026-11-20T10:31:07+2",
            "2026-11-20T10:31:+7Z",
            "26-11-20T10:31:07Z",
            "2026-11-20T10:31:07+é",
        ] {
            assert_eq!(parse_ns(bad), None, "{bad}");
        }
    }

    #[test]
    fn moments() {
        for (seconds, expect) in [
            (0, "19700101T000000Z"),
            (951_782_400, "20000229T000000Z"),
            (1_700_000_000, "20231114T221320Z"),
            (4_102_444_799, "20991231T235959Z"),
        ] {
            assert_eq!(Utc::of_unix_seconds(seconds).compact(), expect);
        }
    }
}
