//! Sizes that the whole project agrees on, and how sizes are read and written by people.

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;
pub const TIB: u64 = 1 << 40;

/// Unit of a vDisk's address space, bytes.
pub const BLOCK: u64 = 4096;
/// Smallest unit of I/O that is accepted, bytes.
pub const SECTOR: u64 = 512;
/// Unit in which the map counts offsets and lengths inside an extent group, bytes. 24 bits of it reach 256 MiB.
pub const GRAIN: u64 = 16;
/// Largest vDisk, bytes.
pub const VDISK_SIZE_MAX: u64 = 64 * TIB;

pub const fn round_up(value: u64, unit: u64) -> u64 {
    value.div_ceil(unit) * unit
}

pub const fn round_down(value: u64, unit: u64) -> u64 {
    value / unit * unit
}

/// A size that could not be read; the text says what is accepted.
#[derive(Debug, PartialEq, Eq)]
pub struct BadSize(pub String);

impl std::fmt::Display for BadSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} is not a size; write for example 20GiB, 512MiB, 1TiB or a number of bytes", self.0)
    }
}

impl std::error::Error for BadSize {}

/// Reads `20GiB`, `20G`, `512 MiB`, `4096`. Units are powers of 1024; `GB` (powers of 1000) is accepted too.
pub fn parse_size(text: &str) -> Result<u64, BadSize> {
    let bad = || BadSize(text.to_string());
    let trimmed = text.trim();
    let split = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(split);
    let number: u64 = number.parse().map_err(|_| bad())?;
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => KIB,
        "m" | "mib" => MIB,
        "g" | "gib" => GIB,
        "t" | "tib" => TIB,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(bad()),
    };
    number.checked_mul(factor).ok_or_else(bad)
}

/// `20 GiB`, `1.5 MiB`, `512 B`: at most one decimal, binary units.
pub fn format_size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)];
    for (name, unit) in UNITS {
        if bytes >= unit {
            return if bytes.is_multiple_of(unit) {
                format!("{} {name}", bytes / unit)
            } else {
                format!("{:.1} {name}", bytes as f64 / unit as f64)
            };
        }
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        for (text, expect) in [
            ("20GiB", Some(20 * GIB)),
            ("20g", Some(20 * GIB)),
            ("4096", Some(4096)),
            ("1 TiB", Some(TIB)),
            ("10GB", Some(10_000_000_000)),
            ("", None),
            ("GiB", None),
            ("-1", None),
            ("1.5GiB", None),
            ("99999999999TiB", None),
            ("1XiB", None),
        ] {
            assert_eq!(parse_size(text).ok(), expect, "{text}");
        }
        assert_eq!(format_size(20 * GIB), "20 GiB");
        assert_eq!(format_size(1536), "1.5 KiB");
        assert_eq!(format_size(7), "7 B");
    }
}
