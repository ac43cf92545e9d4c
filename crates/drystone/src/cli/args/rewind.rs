//! Flags about the past of vDisks.

use base::units::parse_size;
use clap::Args;
use control::Moment;

/// How much of its past a vDisk keeps.
#[derive(Args, Debug, Clone, Copy)]
pub struct RewindFlags {
    /// Keep the past: any second of this window can be a snapshot, a clone, or rolled back to [60s to 90d]
    #[arg(long, value_name = "DURATION|off|inherit", value_parser = parse_window)]
    pub rewind: Option<Window>,
    /// What the past may take; at this limit the oldest of it goes [default: what the disk has]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, requires = "rewind")]
    pub rewind_limit: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    Off,
    /// That of the container.
    Inherit,
    Seconds(u64),
}

/// A moment of the past.
#[derive(Args, Debug, Clone)]
pub struct MomentFlags {
    /// As it was at this time, for example 2026-11-20T10:31:07Z
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
    /// As it was before this write, a number that `drystone vdisk history` prints
    #[arg(long, value_name = "ID", conflicts_with = "at")]
    pub before_write: Option<u64>,
}

impl MomentFlags {
    /// `None`: as it is now.
    pub fn moment(self) -> Option<Moment> {
        let MomentFlags { at, before_write } = self;
        (at.is_some() || before_write.is_some()).then_some(Moment { at, before_write })
    }
}

fn parse_window(text: &str) -> Result<Window, String> {
    if text == "off" {
        return Ok(Window::Off);
    }
    if text == "inherit" {
        return Ok(Window::Inherit);
    }
    let refuse = || format!("{text:?} is no duration; write, for example, 24h, 90m or 7d, or off or inherit");
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).ok_or_else(refuse)?;
    let unit = match &text[digits..] {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(refuse()),
    };
    let number: u64 = text[..digits].parse().map_err(|_| refuse())?;
    number.checked_mul(unit).map(Window::Seconds).ok_or_else(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows() {
        for (text, expect) in [
            ("off", Window::Off),
            ("inherit", Window::Inherit),
            ("60s", Window::Seconds(60)),
            ("90m", Window::Seconds(5_400)),
            ("24h", Window::Seconds(86_400)),
            ("7d", Window::Seconds(604_800)),
        ] {
            assert_eq!(parse_window(text), Ok(expect), "{text}");
        }
        for bad in ["", "24", "h", "1w", "-1h", "1.5h", "99999999999999999999s", "99999999999999999d", "on"] {
            assert!(parse_window(bad).is_err(), "{bad}");
        }
    }
}
