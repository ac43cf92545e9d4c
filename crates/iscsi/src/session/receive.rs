//! Bytes into PDUs: headers, digests, and data that goes where it belongs without a detour.
//!
//! A data segment is appended to a buffer of its own size, or to that of the write it belongs to; an owner of a plain
//! socket may read straight into it ([`Session::payload`]). What nobody wants is dropped as it comes in.

use super::order::Turn;
use super::{EXPECTED_BYTES_MAX, Session, State};
use crate::encode::Digests;
use crate::keys::RECEIVE_BYTES_MAX;
use crate::wire::{DIGEST, HEADER, Header, additional_bytes, padding, request};
use base::Output;
use base::crc::{crc32c, crc32c_append};
use base::payload::buffer;
use bytes::BytesMut;

/// A PDU whose data has arrived in part.
#[derive(Debug)]
struct Amid {
    header: Header,
    /// Where the data goes: behind what is in it. `None`: nowhere.
    buffer: Option<BytesMut>,
    /// Bytes at the end of the data segment that are nobody's.
    skip: usize,
    /// Data that is still to come.
    left: usize,
    /// Of what came, as far as it was covered.
    crc: u32,
    /// Bytes of the buffer that are covered.
    covered: usize,
}

#[derive(Debug)]
pub(super) struct Receiver {
    digests: Digests,
    /// The part of a header, or of what follows the data, that has arrived.
    partial: Vec<u8>,
    amid: Option<Amid>,
}

impl Receiver {
    pub fn new(digests: Digests) -> Receiver {
        Receiver { digests, partial: Vec::new(), amid: None }
    }

    /// Whether a PDU has arrived in part.
    pub fn is_amid(&self) -> bool {
        self.amid.is_some() || !self.partial.is_empty()
    }

    /// The header that is next in the input, once it is whole; an error if its digest is wrong or it cannot be one.
    fn header(&mut self, input: &mut &[u8]) -> Result<Option<Header>, &'static str> {
        let digest = if self.digests.header { DIGEST } else { 0 };
        if self.partial.is_empty()
            && let Some((head, tail)) = input.split_at_checked(HEADER + digest)
            && let Some(basic) = head.first_chunk::<HEADER>()
            && additional_bytes(basic) == 0
        {
            *input = tail;
            check_digest(basic, head.get(HEADER..).unwrap_or_default())?;
            return Ok(Some(Header { basic: *basic, additional: Vec::new() }));
        }
        if !gather(&mut self.partial, input, HEADER) {
            return Ok(None);
        }
        let basic = *self.partial.first_chunk::<HEADER>().expect("a whole header was gathered");
        let whole = HEADER + additional_bytes(&basic);
        if !gather(&mut self.partial, input, whole + digest) {
            return Ok(None);
        }
        let (head, tail) = self.partial.split_at(whole);
        check_digest(head, tail)?;
        let additional = head.get(HEADER..).unwrap_or_default().to_vec();
        self.partial.clear();
        Ok(Some(Header { basic, additional }))
    }

    /// Takes what has come of the data that is under way; `None`: not all of it. False: its digest is wrong.
    fn go_on(&mut self, input: &mut &[u8]) -> Option<bool> {
        let amid = self.amid.as_mut().expect("a PDU is under way");
        if let Some(buffer) = &mut amid.buffer {
            // What the owner read in place since.
            amid.left -= buffer.len() - amid.covered;
            let (head, tail) = input.split_at(amid.left.saturating_sub(amid.skip).min(input.len()));
            buffer.extend_from_slice(head);
            *input = tail;
            amid.left -= head.len();
            if self.digests.data {
                amid.crc = crc32c_append(amid.crc, buffer.get(amid.covered..).unwrap_or_default());
            }
            amid.covered = buffer.len();
        }
        if amid.buffer.is_none() || amid.left <= amid.skip {
            let (head, tail) = input.split_at(amid.left.min(input.len()));
            if self.digests.data {
                amid.crc = crc32c_append(amid.crc, head);
            }
            amid.left -= head.len();
            *input = tail;
        }
        if amid.left > 0 {
            return None;
        }
        let (len, crc) = (amid.header.data_bytes(), amid.crc);
        self.trailer(input, len, crc)
    }

    /// Padding and digest behind the data; `None`: not all there. False: the digest is wrong.
    fn trailer(&mut self, input: &mut &[u8], len: usize, crc: u32) -> Option<bool> {
        let pad = padding(len);
        let digest = if self.digests.data && len > 0 { DIGEST } else { 0 };
        if !gather(&mut self.partial, input, pad + digest) {
            return None;
        }
        let (zeros, digest) = self.partial.split_at(pad);
        let right = digest.is_empty() || crc32c_append(crc, zeros).to_le_bytes() == digest;
        self.partial.clear();
        Some(right)
    }
}

fn check_digest(bytes: &[u8], digest: &[u8]) -> Result<(), &'static str> {
    match digest.is_empty() || crc32c(bytes).to_le_bytes() == digest {
        true => Ok(()),
        false => Err("a header digest is wrong"),
    }
}

/// Moves bytes from the front of `input` to `buffer` until that holds `len` of them.
fn gather(buffer: &mut Vec<u8>, input: &mut &[u8], len: usize) -> bool {
    let missing = len.saturating_sub(buffer.len()).min(input.len());
    let (head, tail) = input.split_at(missing);
    buffer.extend_from_slice(head);
    *input = tail;
    buffer.len() >= len
}

impl<T> Session<T> {
    /// The rest of a data segment that is under way: `buffer` takes `missing` more bytes. An owner of a plain socket may
    /// read straight into it, which saves large data a copy, and then calls [`Session::next`].
    pub fn payload(&mut self) -> Option<(&mut BytesMut, usize)> {
        let amid = self.receiver.amid.as_mut()?;
        let buffer = amid.buffer.as_mut()?;
        let missing = amid.left.saturating_sub(amid.skip + (buffer.len() - amid.covered));
        (missing > 0).then_some((buffer, missing))
    }

    /// The next request that has arrived whole. What arrives of the data of writes is dealt with on the way; `None` with
    /// something in `ready` means that it became complete.
    pub(super) fn receive(&mut self, input: &mut &[u8], out: &mut Output) -> Option<(Header, BytesMut)> {
        while self.state == State::Open && self.ready.is_empty() {
            if self.receiver.amid.is_none() {
                let begun = match self.receiver.header(input) {
                    Ok(None) => return None,
                    Ok(Some(header)) => self.begin_data(header, input, out),
                    Err(why) => Err(why),
                };
                if let Err(why) = begun {
                    self.break_off(why);
                    return None;
                }
            }
            let right = self.receiver.go_on(input)?;
            let Amid { header, buffer, .. } = self.receiver.amid.take().expect("it was gone on with");
            match (header.opcode(), right) {
                (request::DATA_OUT, _) => self.data_arrived(&header, buffer, right, out),
                (_, true) => return Some((header, buffer.unwrap_or_default())),
                (_, false) => self.damaged(header, out),
            }
        }
        None
    }

    /// Decides where the data of a request goes.
    fn begin_data(&mut self, header: Header, input: &[u8], out: &Output) -> Result<(), &'static str> {
        let len = header.data_bytes();
        if len > RECEIVE_BYTES_MAX as usize {
            return Err("a data segment is longer than was declared");
        }
        let (buffer, skip) = match header.opcode() {
            request::DATA_OUT => match self.data_announced(&header)? {
                Some((buffer, skip)) => (Some(buffer), skip),
                None => (None, 0),
            },
            request::COMMAND if len > 0 => (self.command_buffer(&header, len, input, out), 0),
            request::NOP_OUT | request::TEXT if len > 0 => (Some(BytesMut::with_capacity(len)), 0),
            // Nothing else has data; what comes with it means nothing.
            _ => (None, 0),
        };
        let covered = buffer.as_ref().map_or(0, BytesMut::len);
        self.receiver.amid = Some(Amid { header, buffer, skip, left: len, crc: 0, covered });
        Ok(())
    }

    /// A command's data becomes the beginning of all the data that it is expected to have, if there is room for that now.
    /// `None`: more than may come unasked, which ends the command.
    fn command_buffer(&self, header: &Header, len: usize, input: &[u8], out: &Output) -> Option<BytesMut> {
        if !self.parameters.immediate_data || len > self.parameters.first_burst_bytes_max as usize {
            return None;
        }
        let whole = header.fifth().min(EXPECTED_BYTES_MAX);
        let is_next = matches!(self.turn_of(header), Turn::Now | Turn::Unnumbered) && self.waiting.is_empty();
        if len < whole as usize && is_next && self.admits(&self.limits, whole.into(), 0, out) {
            return Some(buffer(whole as usize));
        }
        Some(if input.len() >= len { BytesMut::with_capacity(len) } else { buffer(len) })
    }
}
