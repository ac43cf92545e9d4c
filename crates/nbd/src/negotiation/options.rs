//! The data of those options that have some.

use crate::wire::{ALLOCATION_CONTEXT, BITMAP_CONTEXT_PREFIX, STRING_BYTES_MAX};
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
    allocation: bool,
    /// Names of dirty bitmaps, in the order in which they were asked for, none twice.
    bitmaps: Vec<String>,
    /// Everything, or everything of a namespace: means something when contexts are listed only.
    any_of_base: bool,
    any_bitmap: bool,
}

impl MetaQuery {
    pub fn parse(data: &[u8]) -> Result<MetaQuery, Truncated> {
        let mut reader = Reader::new(data);
        let name = string(&mut reader)?.to_string();
        let count = reader.u32_be()?;
        let any = count == 0;
        let mut query = MetaQuery { name, allocation: false, bitmaps: Vec::new(), any_of_base: any, any_bitmap: any };
        for _ in 0..count {
            // Other namespaces and unknown leaf names are to be ignored.
            match string(&mut reader)? {
                ALLOCATION_CONTEXT => query.allocation = true,
                "base:" => query.any_of_base = true,
                "qemu:" | BITMAP_CONTEXT_PREFIX => query.any_bitmap = true,
                other => {
                    let bitmap = other.strip_prefix(BITMAP_CONTEXT_PREFIX).unwrap_or_default();
                    if !bitmap.is_empty() && !query.bitmaps.iter().any(|known| known == bitmap) {
                        query.bitmaps.push(bitmap.to_string());
                    }
                }
            }
        }
        if reader.is_empty() { Ok(query) } else { Err(Truncated) }
    }

    /// What the queries name of what there is. `bitmaps`: the dirty bitmaps of the export.
    pub fn lists(&self, bitmaps: Vec<String>) -> Contexts {
        let asked = |name: &String| self.any_bitmap || self.bitmaps.contains(name);
        let bitmaps = bitmaps.into_iter().filter(asked).collect();
        Contexts { allocation: self.allocation || self.any_of_base, bitmaps }
    }

    /// The same without wildcards, which select nothing ("the server MUST ignore this form").
    pub fn selects(&self, bitmaps: &[String]) -> Contexts {
        let known = self.bitmaps.iter().filter(|name| bitmaps.contains(name)).cloned().collect();
        Contexts { allocation: self.allocation, bitmaps: known }
    }
}

/// Metadata contexts of one export.
#[derive(Debug, Default)]
pub(super) struct Contexts {
    pub allocation: bool,
    /// By name, without the prefix.
    pub bitmaps: Vec<String>,
}

/// A length of 32 bits and so much UTF-8.
fn string<'a>(reader: &mut Reader<'a>) -> Result<&'a str, Truncated> {
    let len = reader.u32_be()? as usize;
    if len > STRING_BYTES_MAX {
        return Err(Truncated);
    }
    std::str::from_utf8(reader.take(len)?).map_err(|_| Truncated)
}
