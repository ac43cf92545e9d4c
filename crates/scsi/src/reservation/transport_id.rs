//! TransportIDs of iSCSI initiator ports (SPC-4 7.6.4.6).

use crate::sense::Condition;
use base::Reader;

/// Protocol identifier 5h, format 01b: with the ISID.
const PORT: u8 = 0x45;
/// Format 00b: of a device, all of its ports.
const DEVICE: u8 = 0x05;
const LEN_BYTES_MIN: usize = 20;
/// Longest iSCSI name (RFC 7143 4.2.7.1): what is registered has to fit into what is kept of it.
const NAME_BYTES_MAX: usize = 223;

/// The name ends with a zero and is padded to a multiple of four.
pub(super) fn encode(initiator_port: &str) -> Vec<u8> {
    let format = if initiator_port.contains(",i,0x") { PORT } else { DEVICE };
    let len = (initiator_port.len() + 1).next_multiple_of(4).max(LEN_BYTES_MIN);
    let mut bytes = vec![format, 0];
    bytes.extend((len as u16).to_be_bytes());
    bytes.extend_from_slice(initiator_port.as_bytes());
    bytes.resize(4 + len, 0);
    bytes
}

/// The next one of a list that begins at byte `at` of the parameter list. Only ports can be registered.
pub(super) fn decode(reader: &mut Reader<'_>, at: u16) -> Result<String, Condition> {
    let truncated = |_| Condition::list_length();
    if reader.u8().map_err(truncated)? != PORT {
        return Err(Condition::list(at));
    }
    reader.skip(1).map_err(truncated)?;
    let len = usize::from(reader.u16_be().map_err(truncated)?);
    if len < LEN_BYTES_MIN || len % 4 != 0 {
        return Err(Condition::list(at + 2));
    }
    let name = reader.take(len).map_err(truncated)?;
    let end = name.iter().position(|byte| *byte == 0).ok_or(Condition::list(at + 4))?;
    let name = name.get(..end).and_then(|name| std::str::from_utf8(name).ok()).ok_or(Condition::list(at + 4))?;
    let (_, isid) = name.rsplit_once(",i,0x").ok_or(Condition::list(at + 4))?;
    let named = name.len() - isid.len() - ",i,0x".len();
    if named == 0 || named > NAME_BYTES_MAX || isid.len() != 12 || !isid.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Condition::list(at + 4));
    }
    // As the transport names ports: a registration under another spelling would be nobody's.
    Ok(name.to_lowercase())
}
