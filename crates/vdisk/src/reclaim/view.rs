//! Lookups in the map of a checkpoint, as it is stored.

use super::yield_now;
use crate::address::Address;
use crate::contents::Held;
use crate::map::{PagePlace, address_at};
use crate::vdisk::Vdisk;
use crate::{Error, Result};
use base::GroupId;
use bytes::Bytes;

/// Lookups in the tree of a checkpoint, page by page through the cache.
pub(super) struct View<'a> {
    pub vdisk: &'a Vdisk,
    pub root: Address,
    pub height: u8,
    /// The leaf looked at last, with its index.
    pub leaf: Option<(u64, Option<Bytes>)>,
}

impl View<'_> {
    /// Does the checkpoint reach anything in `group`, which holds `held`? `Some`: that.
    pub async fn find_any(&mut self, group: GroupId, mut held: Vec<Held>) -> Result<Option<String>> {
        // Neighbours share a page of the map.
        held.sort_unstable();
        for run in held {
            yield_now().await;
            for block in run.block..run.block + u64::from(run.count) {
                let found = match run.level {
                    Some(level) => self.page(PagePlace { level, index: block }).await?,
                    None => self.block(block).await?,
                };
                if found.is_stored() && found.group() == group {
                    return Ok(Some(format!("{run:?}: {block} is at {found:?}")));
                }
            }
        }
        Ok(None)
    }

    pub async fn block(&mut self, block: u64) -> Result<Address> {
        let index = block >> 8;
        if self.leaf.as_ref().is_none_or(|(have, _)| *have != index) {
            let address = self.page(PagePlace { level: 0, index }).await?;
            let bytes = if address.is_stored() { Some(self.vdisk.page_bytes(address).await?) } else { None };
            self.leaf = Some((index, bytes));
        }
        match &self.leaf {
            Some((_, Some(bytes))) => entry(bytes, (block & 0xff) as usize),
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
            let bytes = self.vdisk.page_bytes(address).await?;
            let slot = place.index >> (8 * u32::from(level - 1 - place.level)) & 0xff;
            address = entry(&bytes, slot as usize)?;
        }
        Ok(address)
    }
}

fn entry(page: &Bytes, slot: usize) -> Result<Address> {
    address_at(page, slot).ok_or_else(|| Error::corrupt("a map page has an entry of unknown form"))
}
