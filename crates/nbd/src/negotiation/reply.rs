//! Replies to options.

use super::options::Choice;
use super::{Export, block_sizes};
use crate::Output;
use crate::wire::{self, info, option_reply};
use base::Writer;

fn put(option: u32, kind: u32, data: &[u8], out: &mut Output) {
    let mut header = Writer::with_capacity(20);
    header.u64_be(wire::OPTION_REPLY_MAGIC).u32_be(option).u32_be(kind).u32_be(data.len() as u32);
    out.put(&header.bytes);
    out.put(data);
}

pub(super) fn ack(option: u32, out: &mut Output) {
    put(option, option_reply::ACK, &[], out);
}

pub(super) fn error(option: u32, kind: u32, text: &str, out: &mut Output) {
    put(option, kind, crate::session::clipped(text).as_bytes(), out);
}

pub(super) fn invalid(option: u32, text: &str, out: &mut Output) {
    error(option, option_reply::ERR_INVALID, text, out);
}

pub(super) fn list(exports: &[(String, String)], out: &mut Output) {
    for (name, description) in exports {
        let mut data = Writer::default();
        data.u32_be(name.len() as u32).put(name.as_bytes()).put(description.as_bytes());
        put(wire::option::LIST, option_reply::SERVER, &data.bytes, out);
    }
    ack(wire::option::LIST, out);
}

/// `name`: namespace and leaf, one behind the other.
pub(super) fn meta_context(option: u32, id: u32, name: &[&str; 2], out: &mut Output) {
    let mut data = Writer::default();
    data.u32_be(id).put(name[0].as_bytes()).put(name[1].as_bytes());
    put(option, option_reply::META_CONTEXT, &data.bytes, out);
}

/// Everything about an export that the client asked for, then the acknowledgement.
pub(super) fn info(choice: &Choice, export: &Export, flags: u16, out: &mut Output) {
    let mut send = |kind: u16, fill: &dyn Fn(&mut Writer)| {
        let mut data = Writer::default();
        data.u16_be(kind);
        fill(&mut data);
        put(choice.option, option_reply::INFO, &data.bytes, out);
    };
    send(info::EXPORT, &|data| {
        data.u64_be(export.geometry.size_bytes).u16_be(flags);
    });
    // Sent unasked too, as our minimum is not the protocol's default of 1.
    send(info::BLOCK_SIZE, &|data| {
        for size in block_sizes(&export.geometry) {
            data.u32_be(size);
        }
    });
    if choice.asked.contains(&info::NAME) {
        send(info::NAME, &|data| {
            data.put(export.name.as_bytes());
        });
    }
    if choice.asked.contains(&info::DESCRIPTION) {
        send(info::DESCRIPTION, &|data| {
            data.put(crate::session::clipped(&export.description).as_bytes());
        });
    }
    ack(choice.option, out);
}

/// The reply to NBD_OPT_EXPORT_NAME, which has no header.
pub(super) fn export_name(export: &Export, flags: u16, no_zeroes: bool, out: &mut Output) {
    out.put(&export.geometry.size_bytes.to_be_bytes());
    out.put(&flags.to_be_bytes());
    if !no_zeroes {
        out.put_zeros(124);
    }
}
