//! Which requests are passed on, and what the others are told. Errors as the specification lists them under "Error
//! values".

use crate::wire::{RequestHeader, command, command_flag};
use crate::{Errno, PAYLOAD_BYTES_MAX};
use base::units::SECTOR;
use block::{Geometry, Request, WriteZeroes};
use bytes::Bytes;

pub(super) enum Verdict {
    Submit(Request),
    /// A write: its payload follows, then [`write`] makes the request.
    Payload,
    /// Nothing to do: success at once.
    Done,
    Refuse(Errno, &'static str),
    Disconnect,
}

use Verdict::Refuse;

pub(super) fn check(header: &RequestHeader, geometry: &Geometry, structured: bool, contexts: bool) -> Verdict {
    if header.command == command::DISC {
        return Verdict::Disconnect;
    }
    let Some(flags) = flags_of(header.command, structured) else {
        return Refuse(Errno::Inval, "unknown command");
    };
    if header.flags & !flags != 0 {
        return Refuse(Errno::Inval, "a flag that this command does not have");
    }
    if header.command == command::FLUSH {
        return match (header.offset, header.len) {
            (0, 0) => Verdict::Submit(Request::Flush),
            _ => Refuse(Errno::Inval, "a flush has no offset and no length"),
        };
    }
    let writes = matches!(header.command, command::WRITE | command::TRIM | command::WRITE_ZEROES);
    if writes && geometry.read_only {
        return Refuse(Errno::Perm, "the vDisk is read-only");
    }
    if !header.offset.is_multiple_of(SECTOR) || !u64::from(header.len).is_multiple_of(SECTOR) {
        return Refuse(Errno::Inval, "offset or length is not a multiple of 512");
    }
    let inside = header.offset.checked_add(u64::from(header.len)).is_some_and(|end| end <= geometry.size_bytes);
    if !inside {
        let errno = match header.command {
            command::WRITE | command::WRITE_ZEROES => Errno::NoSpc,
            _ => Errno::Inval,
        };
        return Refuse(errno, "beyond the end of the vDisk");
    }
    match header.command {
        command::BLOCK_STATUS if !contexts => return Refuse(Errno::Inval, "no metadata context was selected"),
        // Success needs at least one extent, and an empty range has none.
        command::BLOCK_STATUS if header.len == 0 => return Refuse(Errno::Inval, "an empty range has no status"),
        _ if header.len == 0 => return Verdict::Done,
        command::READ | command::WRITE if header.len > payload_bytes_max(geometry) => {
            let overflow = structured && header.command == command::READ;
            return Refuse(if overflow { Errno::Overflow } else { Errno::Inval }, "longer than the longest payload");
        }
        _ => {}
    }
    submit(header)
}

/// The request of a write whose payload is complete.
pub(super) fn write(header: &RequestHeader, data: Bytes) -> Request {
    Request::Write { offset: header.offset, data, fua: header.flags & command_flag::FUA != 0 }
}

fn submit(header: &RequestHeader) -> Verdict {
    let (offset, len) = (header.offset, u64::from(header.len));
    let flag = |bit| header.flags & bit != 0;
    let fua = flag(command_flag::FUA);
    Verdict::Submit(match header.command {
        command::READ => Request::Read { offset, len: header.len },
        command::WRITE => return Verdict::Payload,
        command::TRIM => Request::Trim { offset, len, fua },
        command::CACHE => Request::Prefetch { offset, len },
        command::WRITE_ZEROES => {
            let keep = flag(command_flag::NO_HOLE);
            let how = if keep { WriteZeroes::KeepAllocated } else { WriteZeroes::Unmap };
            Request::WriteZeroes { offset, len, how, fua }
        }
        _ => {
            let extents_max = if flag(command_flag::REQ_ONE) { 1 } else { super::EXTENTS_MAX };
            Request::BlockStatus { offset, len, extents_max }
        }
    })
}

/// The flags that a command may carry; FUA is allowed with every one of them. `None` for an unknown command.
fn flags_of(command: u16, structured: bool) -> Option<u16> {
    use command_flag::*;
    Some(match command {
        command::READ if structured => FUA | DF,
        command::READ | command::WRITE | command::FLUSH | command::TRIM | command::CACHE => FUA,
        command::WRITE_ZEROES => FUA | NO_HOLE | FAST_ZERO,
        command::BLOCK_STATUS => FUA | REQ_ONE,
        _ => return None,
    })
}

/// At least what block_sizes of the negotiation promised.
fn payload_bytes_max(geometry: &Geometry) -> u32 {
    geometry.transfer_bytes_max.clamp(geometry.preferred_bytes.clamp(512, 1 << 20), PAYLOAD_BYTES_MAX)
}
