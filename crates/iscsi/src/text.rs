//! `key=value` text (RFC 7143 section 6.1): parsed, gathered over several PDUs, written.

/// Longest name of a key, bytes (6.1).
const NAME_BYTES_MAX: usize = 63;
/// Longest value that any key here may have: a CHAP challenge of 1024 bytes in hexadecimal, and lists far shorter.
const VALUE_BYTES_MAX: usize = 8192;
/// Text of one negotiation step, gathered over PDUs with the C bit. Initiators send hundreds of bytes.
pub const TEXT_BYTES_MAX: usize = 16 << 10;
/// Pairs in one step. All the keys there are make 30.
const PAIRS_MAX: usize = 100;

pub const NOT_UNDERSTOOD: &str = "NotUnderstood";
pub const IRRELEVANT: &str = "Irrelevant";
pub const REJECT: &str = "Reject";

/// Why text is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// The pairs of `text`, in order.
pub fn parse(text: &[u8]) -> Result<Vec<(&str, &str)>, Malformed> {
    let mut pairs = Vec::new();
    let Some(text) = text.strip_suffix(&[0]).or(text.is_empty().then_some(text)) else {
        return Err(Malformed("text does not end with a zero byte"));
    };
    // Some initiators pad with more of them.
    for pair in text.split(|byte| *byte == 0).filter(|pair| !pair.is_empty()) {
        let pair = std::str::from_utf8(pair).map_err(|_| Malformed("text is not UTF-8"))?;
        let (key, value) = pair.split_once('=').ok_or(Malformed("a key has no value"))?;
        if key.is_empty() || key.len() > NAME_BYTES_MAX || !key.bytes().all(is_in_names) {
            return Err(Malformed("a key has no proper name"));
        }
        if value.len() > VALUE_BYTES_MAX {
            return Err(Malformed("a value is too long"));
        }
        if pairs.len() == PAIRS_MAX {
            return Err(Malformed("too many keys"));
        }
        pairs.push((key, value));
    }
    Ok(pairs)
}

fn is_in_names(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'+' | b'@' | b'_' | b'/' | b'#' | b',' | b':')
}

/// Text that is being put together.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Text {
    pub bytes: Vec<u8>,
}

impl Text {
    pub fn put(&mut self, key: &str, value: impl std::fmt::Display) {
        use std::io::Write;
        write!(self.bytes, "{key}={value}\0").expect("writing to memory does not fail");
    }

    /// Adds what one PDU brought of a longer text.
    pub fn gather(&mut self, part: &[u8]) -> Result<(), Malformed> {
        if self.bytes.len() + part.len() > TEXT_BYTES_MAX {
            return Err(Malformed("the text is too long"));
        }
        self.bytes.extend_from_slice(part);
        Ok(())
    }
}

/// A number as 6.1 writes it: decimal or `0x` and hexadecimal.
pub fn number(value: &str) -> Option<u64> {
    let hexadecimal = value.strip_prefix("0x").or_else(|| value.strip_prefix("0X"));
    let (digits, radix) = hexadecimal.map_or((value, 10), |digits| (digits, 16));
    // from_str_radix would take a sign.
    if digits.is_empty() || !digits.bytes().all(|byte| char::from(byte).is_digit(radix)) {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

/// A large binary value: `0x` and hexadecimal digits, or `0b` and base64.
pub fn binary(value: &str) -> Option<Vec<u8>> {
    let (kind, digits) = value.split_at_checked(2)?;
    match kind {
        "0x" | "0X" => from_hexadecimal(digits.as_bytes()),
        "0b" | "0B" => from_base64(digits.as_bytes()),
        _ => None,
    }
}

fn from_hexadecimal(digits: &[u8]) -> Option<Vec<u8>> {
    let nibble = |byte: u8| char::from(byte).to_digit(16).map(|value| value as u8);
    let mut bytes = Vec::with_capacity(digits.len() / 2 + 1);
    let (odd, pairs) = digits.split_at(digits.len() % 2);
    if let [first] = odd {
        bytes.push(nibble(*first)?);
    }
    for pair in pairs.chunks_exact(2) {
        let [high, low] = pair else { return None };
        bytes.push(nibble(*high)? << 4 | nibble(*low)?);
    }
    (!bytes.is_empty()).then_some(bytes)
}

fn from_base64(digits: &[u8]) -> Option<Vec<u8>> {
    let sextet = |byte: u8| {
        Some(u32::from(match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        }))
    };
    if digits.is_empty() || digits.len() % 4 != 0 {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() / 4 * 3);
    let padded = digits.iter().rev().take(2).take_while(|byte| **byte == b'=').count();
    let text = digits.get(..digits.len() - padded)?;
    for group in text.chunks(4) {
        let mut word = 0;
        for byte in group {
            word = word << 6 | sextet(*byte)?;
        }
        word <<= 6 * (4 - group.len());
        let [_, first, second, third] = u32::to_be_bytes(word);
        bytes.extend([first, second, third].iter().take(group.len() - 1));
    }
    Some(bytes)
}

pub fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(2 + 2 * bytes.len());
    text.push_str("0x");
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing to memory does not fail");
    }
    text
}

#[cfg(test)]
mod tests;
