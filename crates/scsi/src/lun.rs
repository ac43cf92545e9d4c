//! Logical unit numbers as they travel (SAM-5 4.7).

#[cfg(test)]
mod tests;

/// Largest number that fits flat space addressing.
pub(crate) const LUN_MAX: u64 = 0x3fff;

/// `None`: a form, a bus or a level that names no logical unit here.
pub fn decode(lun: [u8; 8]) -> Option<u64> {
    let [first, second, rest @ ..] = lun;
    if rest != [0; 6] {
        return None;
    }
    match first >> 6 {
        0 if first == 0 => Some(second.into()),
        1 => Some(u64::from(first & 0x3f) << 8 | u64::from(second)),
        _ => None,
    }
}

/// Peripheral device addressing below 256, flat space above.
pub(crate) fn encode(lun: u64) -> [u8; 8] {
    assert!(lun <= LUN_MAX, "a logical unit number of {lun} cannot be sent");
    let [high, low] = (lun as u16).to_be_bytes();
    let first = if lun < 256 { 0 } else { 0x40 | high };
    [first, low, 0, 0, 0, 0, 0, 0]
}
