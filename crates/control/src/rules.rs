//! What a name, a size and a range may be: pure functions, one place, messages that say what to do.

pub mod containers;
pub mod groups;
pub mod iscsi;
pub mod rewind;
pub mod schedules;
pub mod snapshots;
pub mod vms;

use crate::{Error, Result};
use base::units::{BLOCK, MIB, SECTOR, VDISK_SIZE_MAX, format_size, round_down, round_up};

/// A name fits a DNS label and a file name with room for a suffix.
pub const NAME_LEN_MAX: usize = 63;
/// Longest read or write of the data plane, bytes: the largest request that common NBD clients send, so both doors have
/// the same limit.
pub const TRANSFER_BYTES_MAX: u32 = 32 * MIB as u32;
/// What guests of any age can boot from.
pub const SECTOR_BYTES_DEFAULT: u32 = 512;
/// vDisks on one page of the list: some 400 bytes of JSON each.
pub const LIST_LIMIT_MAX: u32 = 1_000;

/// `[A-Za-z0-9][A-Za-z0-9._-]*`, 1 to 63 characters.
pub fn check_name(name: &str) -> Result<()> {
    let refuse = |why: String| {
        Err(Error::invalid(format!(
            "{name:?} cannot be the name of a vDisk: {why}; use 1 to {NAME_LEN_MAX} letters, digits, '.', '_' or '-', starting with a letter or a digit"
        )))
    };
    let Some(first) = name.chars().next() else { return refuse("it is empty".into()) };
    if let Some(bad) = name.chars().find(|c| !c.is_ascii_alphanumeric() && !"._-".contains(*c)) {
        return refuse(format!("it contains {bad:?}"));
    }
    if !first.is_ascii_alphanumeric() {
        return refuse(format!("it starts with {first:?}"));
    }
    if name.len() > NAME_LEN_MAX {
        return refuse(format!("it has {} characters", name.len()));
    }
    Ok(())
}

/// What stands between the name that is wanted and a number of 8 digits while an import, or a restore, is not complete.
pub const IMPORTING: &str = ".importing-";
pub const UNFINISHED: &str = ".unfinished-";

/// Content that is not complete yet, or never will be.
pub fn is_unfinished(name: &str) -> bool {
    let is_number = |text: &str| text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    [IMPORTING, UNFINISHED].iter().any(|infix| name.rsplit_once(infix).is_some_and(|(_, number)| is_number(number)))
}

/// Positive, a multiple of 4096, at most 64 TiB. Nothing is rounded in silence: the message names the neighbours.
pub fn check_size(size_bytes: u64) -> Result<()> {
    if size_bytes == 0 {
        return Err(Error::invalid("a vDisk cannot have size 0; give a size such as 20GiB"));
    }
    if size_bytes > VDISK_SIZE_MAX {
        return Err(Error::invalid(format!(
            "{size_bytes} bytes is more than a vDisk can have; the largest size is {} ({VDISK_SIZE_MAX} bytes)",
            format_size(VDISK_SIZE_MAX)
        )));
    }
    if !size_bytes.is_multiple_of(BLOCK) {
        let (below, above) = (round_down(size_bytes, BLOCK), round_up(size_bytes, BLOCK));
        let neighbours = if below == 0 { format!("{above}") } else { format!("{below} or {above}") };
        return Err(Error::invalid(format!(
            "a size must be a multiple of {BLOCK} bytes and {size_bytes} is not; use {neighbours}"
        )));
    }
    Ok(())
}

/// 512 or 4096.
pub fn check_sector(sector_bytes: u32) -> Result<()> {
    match sector_bytes {
        512 | 4096 => Ok(()),
        _ => Err(Error::invalid(format!("a sector of {sector_bytes} bytes is not supported; use 512 or 4096"))),
    }
}

/// Names, size and sector of a new vDisk.
pub fn check_create(request: &crate::CreateVdisk) -> Result<()> {
    check_name(&request.name)?;
    request.near.as_deref().map_or(Ok(()), check_name)?;
    check_size(request.size_bytes)?;
    check_sector(request.sector_bytes)?;
    request.rewind.flatten().as_ref().map_or(Ok(()), rewind::check_rewind)
}

/// Growing, or the same size again.
pub fn check_resize(current_bytes: u64, new_bytes: u64) -> Result<()> {
    check_size(new_bytes)?;
    if new_bytes < current_bytes {
        return Err(Error::invalid(format!(
            "a vDisk cannot shrink: it has {} ({current_bytes} bytes), {} ({new_bytes} bytes) was asked for; create a smaller one and copy to it",
            format_size(current_bytes),
            format_size(new_bytes)
        )));
    }
    Ok(())
}

/// `offset .. offset + len` lies inside the vDisk, in units of 512 bytes.
pub fn check_range(size_bytes: u64, offset: u64, len: u64) -> Result<()> {
    for (what, value) in [("offset", offset), ("length", len)] {
        if !value.is_multiple_of(SECTOR) {
            return Err(Error::invalid(format!("{what} {value} is not a multiple of {SECTOR}")));
        }
    }
    match offset.checked_add(len) {
        Some(end) if end <= size_bytes => Ok(()),
        _ => Err(Error::invalid(format!(
            "offset {offset} and length {len} reach beyond the end of the vDisk, which has {size_bytes} bytes"
        ))),
    }
}

/// [`check_range`], and not longer than one transfer.
pub fn check_transfer(size_bytes: u64, offset: u64, len: u64) -> Result<()> {
    if len > u64::from(TRANSFER_BYTES_MAX) {
        return Err(Error::invalid(format!(
            "{len} bytes is too long for one request; the longest is {} ({TRANSFER_BYTES_MAX} bytes)",
            format_size(u64::from(TRANSFER_BYTES_MAX))
        )));
    }
    check_range(size_bytes, offset, len)
}

/// 1 to [`LIST_LIMIT_MAX`].
pub fn check_list_limit(limit: u32) -> Result<()> {
    if (1..=LIST_LIMIT_MAX).contains(&limit) {
        return Ok(());
    }
    Err(Error::invalid(format!("limit {limit} is not between 1 and {LIST_LIMIT_MAX}")))
}

#[cfg(test)]
mod tests;
