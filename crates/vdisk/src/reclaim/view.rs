//! Lookups in a map as it is stored.

use super::yield_now;
use crate::address::Address;
use crate::contents::Held;
use crate::map::{PagePlace, address_at};
use crate::stored::page_bytes;
use crate::vdisk::Context;
use crate::{Error, Result};
use base::GroupId;
use bytes::Bytes;
use std::collections::BTreeSet;

/// What is done before the worker's other tasks have their turn, which may take as long as a hundred lookups: some tens of
/// µs. In blocks of a page that is at hand; another page takes as long as this many of them.
const WORK_AT_ONCE: u32 = 1024;
const WORK_OF_RUN: u32 = 16;

/// Lookups in a stored tree, page by page through the cache.
pub(super) struct View<'a> {
    context: &'a Context,
    root: Address,
    height: u8,
    leaf: Option<Leaf>,
}

/// The leaf looked at last.
struct Leaf {
    index: u64,
    address: Address,
    /// `None`: nothing is there, or zeros, or nothing that is looked for.
    bytes: Option<Bytes>,
}

impl<'a> View<'a> {
    pub fn new(context: &'a Context, root: Address, height: u8) -> View<'a> {
        View { context, root, height, leaf: None }
    }

    /// Does the map reach anything in `group`, which holds `held`, in order? `Some`: that. `seen`: leaves of other maps in
    /// which nothing was found for the same `held`; those of this one are added.
    pub async fn find_any(
        &mut self,
        group: GroupId,
        held: &[Held],
        seen: &mut BTreeSet<u128>,
    ) -> Result<Option<String>> {
        let mut mine = BTreeSet::new();
        let mut work = WORK_AT_ONCE;
        for run in held {
            work += WORK_OF_RUN;
            for block in run.block..run.block + u64::from(run.count) {
                work += 1;
                if work > WORK_AT_ONCE {
                    yield_now().await;
                    work = 0;
                }
                let found = match run.level {
                    Some(level) => self.page(PagePlace { level, index: block }).await?,
                    None => self.block_unless(block, seen).await?,
                };
                if found.is_stored() && found.group() == group {
                    return Ok(Some(format!("{run:?}: {block} is at {found:?}")));
                }
                if let Some(leaf) = self.leaf.as_ref().filter(|leaf| leaf.bytes.is_some()) {
                    mine.insert(leaf.address.raw());
                }
            }
        }
        seen.append(&mut mine);
        Ok(None)
    }

    /// Where the block is.
    pub async fn block(&mut self, block: u64) -> Result<Address> {
        self.block_unless(block, &BTreeSet::new()).await
    }

    /// As [`View::block`]; nothing, if its leaf is one of `seen`.
    async fn block_unless(&mut self, block: u64, seen: &BTreeSet<u128>) -> Result<Address> {
        let index = block >> 8;
        if self.leaf.as_ref().is_none_or(|leaf| leaf.index != index) {
            let address = self.page(PagePlace { level: 0, index }).await?;
            let wanted = address.is_stored() && !seen.contains(&address.raw());
            let bytes = if wanted { Some(page_bytes(self.context, address).await?) } else { None };
            self.leaf = Some(Leaf { index, address, bytes });
        }
        match &self.leaf {
            Some(Leaf { bytes: Some(bytes), .. }) => entry(bytes, (block & 0xff) as usize),
            // Nothing there, or zeros: no extent either way.
            _ => Ok(Address::NONE),
        }
    }

    pub async fn page(&mut self, place: PagePlace) -> Result<Address> {
        let mut address = self.root;
        if place.level >= self.height || place.index >> (8 * u32::from(self.height - 1 - place.level)) != 0 {
            return Ok(Address::NONE);
        }
        for level in (place.level + 1..self.height).rev() {
            if !address.is_stored() {
                return Ok(address);
            }
            let bytes = page_bytes(self.context, address).await?;
            let slot = place.index >> (8 * u32::from(level - 1 - place.level)) & 0xff;
            address = entry(&bytes, slot as usize)?;
        }
        Ok(address)
    }
}

fn entry(page: &Bytes, slot: usize) -> Result<Address> {
    address_at(page, slot).ok_or_else(|| Error::corrupt("a map page has an entry of unknown form"))
}
