//! Maps as they are stored: their pages, and what differs between two of them.

use crate::address::Address;
use crate::map::{FANOUT, decode_page};
use crate::vdisk::{Context, Vdisk};
use crate::{Error, Result};
use base::SnapshotId;
use base::units::BLOCK;
use bytes::Bytes;
use std::rc::Rc;

/// Looks at leaves for one page of differences: about 10 ms with the pages in the cache, so that a worker is not stalled.
const LEAVES_MAX: usize = 2048;

/// The bytes of a map page, checked.
pub(crate) async fn page_bytes(context: &Context, address: Address) -> Result<Bytes> {
    let cache = &context.cache;
    if let Some(bytes) = cache.get(address.group(), address.grain()) {
        return Ok(bytes);
    }
    let bytes = context.pool.read(address.group(), address.offset(), address.len()).await?;
    if base::crc::crc32c(&bytes) != address.crc() {
        return Err(Error::corrupt(format!("map page at {address:?} fails its checksum")));
    }
    let bytes = Bytes::copy_from_slice(&bytes);
    cache.insert(address.group(), address.grain(), bytes.clone());
    Ok(bytes)
}

/// A range in which two maps differ, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    pub offset: u64,
    pub len: u64,
    /// The newer map has something there; else it reads as zeros.
    pub data: bool,
}

/// Differences from one block on, in order; `next`: the block to go on from, if there may be more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    pub ranges: Vec<Difference>,
    pub next: Option<u64>,
}

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Before anything was written.
    Empty,
    Snapshot(SnapshotId),
    /// As it is when the call comes.
    Now,
}

impl Vdisk {
    /// What differs from byte `offset` on, a multiple of 4 KiB, in at most `ranges_max` ranges. Never too little; blocks that
    /// were stored anew with the same content are in it. (`next` of the result counts blocks.)
    pub async fn changed(
        self: &Rc<Self>,
        old: Version,
        new: Version,
        offset: u64,
        ranges_max: usize,
    ) -> Result<Differences> {
        let (old, new) = (self.root_at(old).await?, self.root_at(new).await?);
        differences(&self.context, old, new, offset / BLOCK, ranges_max).await
    }

    async fn root_at(self: &Rc<Self>, version: Version) -> Result<(Address, u8)> {
        match version {
            Version::Empty => Ok((Address::NONE, 1)),
            Version::Snapshot(id) => self.root_of(id).await,
            Version::Now => self.current_root().await,
        }
    }
}

/// Compares two stored maps, each a root and a height, from block `from` on. Subtrees that both share are skipped unread;
/// blocks whose extents were stored anew count as different, whatever they hold.
pub(crate) async fn differences(
    context: &Context,
    old: (Address, u8),
    new: (Address, u8),
    from: u64,
    ranges_max: usize,
) -> Result<Differences> {
    let height = old.1.max(new.1);
    let mut walk = Walk { context, found: Differences::default(), from, ranges_max: ranges_max.max(1), leaves: 0 };
    let (old, new) = (Side::root(old, height), Side::root(new, height));
    walk.compare(old, new, height - 1, 0).await?;
    Ok(walk.found)
}

struct Walk<'a> {
    context: &'a Context,
    found: Differences,
    from: u64,
    ranges_max: usize,
    leaves: usize,
}

/// A subtree: stored, or what all of it is; a lower tree's root hangs below empty levels.
#[derive(Clone)]
enum Side {
    At(Address),
    /// The first child's first child and so on, this many times, is that page.
    Below(u8, Address),
}

impl Side {
    fn root((address, height): (Address, u8), above: u8) -> Side {
        if height == above { Side::At(address) } else { Side::Below(above - height, address) }
    }

    fn is_same(&self, other: &Side) -> bool {
        match (self, other) {
            (Side::At(one), Side::At(two)) => one == two,
            (Side::Below(depth, one), Side::Below(other, two)) => depth == other && one == two,
            _ => false,
        }
    }

    async fn children(&self, context: &Context) -> Result<Rc<[Side]>> {
        let first = |child: Side| -> Rc<[Side]> {
            let rest = (1..FANOUT).map(|_| Side::At(Address::NONE));
            [child].into_iter().chain(rest).collect()
        };
        match self {
            Side::Below(1, address) => Ok(first(Side::At(*address))),
            Side::Below(depth, address) => Ok(first(Side::Below(depth - 1, *address))),
            Side::At(address) if !address.is_stored() => Ok(vec![Side::At(*address); FANOUT].into()),
            Side::At(address) => {
                let bytes = page_bytes(context, *address).await?;
                let entries =
                    decode_page(&bytes).map_err(|error| Error::corrupt(format!("map page at {address:?}: {error}")))?;
                Ok(entries.iter().map(|entry| Side::At(*entry)).collect())
            }
        }
    }
}

impl Walk<'_> {
    fn is_full(&self) -> bool {
        self.found.next.is_some()
    }

    /// Blocks below a page of this level.
    fn span(level: u8) -> u64 {
        1 << (8 * (u32::from(level) + 1))
    }

    /// `index`: of the pages among those of their level.
    fn compare<'s>(
        &'s mut self,
        old: Side,
        new: Side,
        level: u8,
        index: u64,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<()>> + 's>> {
        Box::pin(async move {
            let end = (index + 1) * Walk::span(level);
            if self.is_full() || end <= self.from || old.is_same(&new) {
                return Ok(());
            }
            if level == 0 {
                self.leaves += 1;
            }
            let (olds, news) = (old.children(self.context).await?, new.children(self.context).await?);
            for (slot, (old, new)) in olds.iter().zip(news.iter()).enumerate() {
                let child = index * FANOUT as u64 + slot as u64;
                if level == 0 {
                    self.block(child, old, new);
                } else {
                    self.compare(old.clone(), new.clone(), level - 1, child).await?;
                }
                if self.is_full() {
                    return Ok(());
                }
            }
            if level == 0 && self.leaves >= LEAVES_MAX {
                self.found.next = Some(end);
            }
            Ok(())
        })
    }

    fn block(&mut self, block: u64, old: &Side, new: &Side) {
        if block < self.from || old.is_same(new) {
            return;
        }
        let Side::At(new) = new else { return };
        let (offset, data) = (block * BLOCK, new.is_stored());
        let count = self.found.ranges.len();
        match self.found.ranges.last_mut() {
            Some(last) if last.offset + last.len == offset && last.data == data => last.len += BLOCK,
            _ if count >= self.ranges_max => self.found.next = Some(block),
            _ => self.found.ranges.push(Difference { offset, len: BLOCK, data }),
        }
    }
}
