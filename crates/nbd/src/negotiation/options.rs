//! The data of those options that have some.

use crate::wire::{ALLOCATION_CONTEXT, STRING_BYTES_MAX};
use base::{Reader, Truncated};

/// NBD_OPT_GO, NBD_OPT_INFO, or (without information requests) NBD_OPT_EXPORT_NAME.
#[derive(Debug)]
pub(super) struct Choice {
    pub option: u32,
    pub name: String,
    /// NBD_INFO types that the client asked for.
    pub asked: Vec<u16>,
}

impl Choice {
    pub fn parse(option: u32, data: &[u8]) -> Result<Choice, Truncated> {
        let mut reader = Reader::new(data);
        let name = string(&mut reader)?.to_string();
        let count = reader.u16_be()?;
        let mut asked = Vec::new();
        for _ in 0..count {
            asked.push(reader.u16_be()?);
        }
        if reader.is_empty() { Ok(Choice { option, name, asked }) } else { Err(Truncated) }
    }
}

/// NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT.
#[derive(Debug)]
pub(super) struct MetaQuery {
    pub name: String,
    count: u32,
    allocation: bool,
    wildcard: bool,
}

impl MetaQuery {
    pub fn parse(data: &[u8]) -> Result<MetaQuery, Truncated> {
        let mut reader = Reader::new(data);
        let name = string(&mut reader)?.to_string();
        let count = reader.u32_be()?;
        let mut query = MetaQuery { name, count, allocation: false, wildcard: false };
        for _ in 0..count {
            // Other namespaces and unknown leaf names are to be ignored.
            match string(&mut reader)? {
                ALLOCATION_CONTEXT => query.allocation = true,
                "base:" => query.wildcard = true,
                _ => {}
            }
        }
        if reader.is_empty() { Ok(query) } else { Err(Truncated) }
    }

    pub fn lists_allocation(&self) -> bool {
        self.count == 0 || self.allocation || self.wildcard
    }

    /// A wildcard selects nothing ("the server MUST ignore this form").
    pub fn selects_allocation(&self) -> bool {
        self.allocation
    }
}

/// A length of 32 bits and so much UTF-8.
fn string<'a>(reader: &mut Reader<'a>) -> Result<&'a str, Truncated> {
    let len = reader.u32_be()? as usize;
    if len > STRING_BYTES_MAX {
        return Err(Truncated);
    }
    std::str::from_utf8(reader.take(len)?).map_err(|_| Truncated)
}
