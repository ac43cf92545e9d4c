//! Maps as they are stored: their pages, and what differs between two of them.

use crate::address::Address;
use crate::map::{FANOUT, NeedPage, PagePlace, PageState, decode_page};
use crate::vdisk::{Context, Vdisk};
use crate::{Error, Kind, Result};
use base::SnapshotId;
use base::units::BLOCK;
use bytes::Bytes;
use std::rc::Rc;

/// How often a page that moved while it was read is looked for again. Each time a checkpoint has come between, and what it
/// left dead was freed: seconds lie between two of them.
const LOOKS_MAX: usize = 8;
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

/// The blocks that are compared, and how many ranges are wanted at most.
#[derive(Clone, Copy, Debug)]
pub struct Compared {
    pub first: u64,
    /// Behind the last one.
    pub end: u64,
    pub ranges_max: usize,
}

impl Vdisk {
    /// What differs. Never too little: against [`Version::Now`] everything is in it that was acknowledged before the call
    /// and differs; what is written meanwhile may be. Blocks that were stored anew with the same content are in it.
    /// (`next` of the result counts blocks.)
    pub async fn changed(self: &Rc<Self>, old: Version, new: Version, compared: Compared) -> Result<Differences> {
        let old = self.root_at(old).await?;
        let (new, new_height) = match new {
            Version::Now => (Newer::Live, self.state.borrow().tree.height),
            stored => {
                let (address, height) = self.root_at(stored).await?;
                (Newer::Stored(Side::root((address, height), height.max(old.1))), height)
            }
        };
        let height = old.1.max(new_height);
        let mut walk = Walk { vdisk: self, found: Differences::default(), compared, leaves: 0 };
        walk.compare(Side::root(old, height), new, height - 1, 0).await?;
        Ok(walk.found)
    }

    /// Root and height of a stored map. What is there now has none.
    async fn root_at(self: &Rc<Self>, version: Version) -> Result<(Address, u8)> {
        match version {
            Version::Snapshot(id) => self.root_of(id).await,
            Version::Empty => Ok((Address::NONE, 1)),
            Version::Now => Err(Error::new(Kind::Invalid, "what is there now is no older side")),
        }
    }

    /// The page of the live map; pages above it that are not in memory are brought there.
    async fn live_page(&self, place: PagePlace) -> Result<PageState> {
        let mut failed: Vec<NeedPage> = Vec::new();
        loop {
            let looked = self.state.borrow().tree.page_state(place);
            let need = match looked {
                Ok(state) => return Ok(state),
                Err(need) => need,
            };
            if let Err(error) = self.load(need).await {
                // Freed while it was read, if the map names another place by now.
                if failed.contains(&need) || failed.len() >= LOOKS_MAX {
                    return Err(error);
                }
                failed.push(need);
            }
        }
    }
}

/// Compares two maps. Subtrees that both share are skipped unread; blocks whose extents were stored anew count as
/// different, whatever they hold.
struct Walk<'a> {
    vdisk: &'a Vdisk,
    found: Differences,
    /// `first` goes on with the walk, so that a part of it can be repeated.
    compared: Compared,
    leaves: usize,
}

/// The newer side.
#[derive(Clone)]
enum Newer {
    Stored(Side),
    /// The map in memory. It changes while the walk waits for a disk, so each page is looked up when its turn comes, and
    /// what is stored there is taken for the page only as long as the map says so: behind a checkpoint its place is freed.
    Live,
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
        new: Newer,
        level: u8,
        index: u64,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<()>> + 's>> {
        Box::pin(async move {
            let Compared { first, end, .. } = self.compared;
            if self.is_full() || (index + 1) * Walk::span(level) <= first || end <= index * Walk::span(level) {
                return Ok(());
            }
            match new {
                Newer::Stored(new) => self.compare_stored(old, new, level, index).await,
                Newer::Live => self.compare_live(old, level, index).await,
            }
        })
    }

    async fn compare_stored(&mut self, old: Side, new: Side, level: u8, index: u64) -> Result<()> {
        if old.is_same(&new) {
            return Ok(());
        }
        let context = &self.vdisk.context;
        let (olds, news) = (old.children(context).await?, new.children(context).await?);
        if level == 0 {
            self.leaf(index, &olds, |slot| news[slot].clone());
            return Ok(());
        }
        for (slot, (old, new)) in olds.iter().zip(news.iter()).enumerate() {
            let child = index * FANOUT as u64 + slot as u64;
            self.compare(old.clone(), Newer::Stored(new.clone()), level - 1, child).await?;
        }
        Ok(())
    }

    async fn compare_live(&mut self, old: Side, level: u8, index: u64) -> Result<()> {
        let place = PagePlace { level, index };
        for looks in 1..=LOOKS_MAX {
            let PageState::Stored(address) = self.vdisk.live_page(place).await? else { break };
            let new = Newer::Stored(Side::At(address));
            match self.compare(old.clone(), new, level, index).await {
                Ok(()) => return Ok(()),
                // Freed while it was read, if it is somewhere else by now; `first` says how far the walk came.
                Err(error) => {
                    let moved = self.vdisk.live_page(place).await? != PageState::Stored(address);
                    if !moved || looks == LOOKS_MAX {
                        return Err(error);
                    }
                }
            }
        }
        let olds = old.children(&self.vdisk.context).await?;
        if level == 0 {
            let news = self.live_entries(index).await?;
            self.leaf(index, &olds, |slot| Side::At(news[slot]));
            return Ok(());
        }
        for (slot, old) in olds.iter().enumerate() {
            self.compare(old.clone(), Newer::Live, level - 1, index * FANOUT as u64 + slot as u64).await?;
        }
        Ok(())
    }

    async fn live_entries(&self, index: u64) -> Result<[Address; FANOUT]> {
        let mut entries = [Address::NONE; FANOUT];
        loop {
            // Of a leaf that was stored and left memory meanwhile it is known where it is.
            self.vdisk.live_page(PagePlace { level: 0, index }).await?;
            let looked = self.vdisk.state.borrow().tree.lookup_run(index * FANOUT as u64, &mut entries);
            match looked {
                Ok(()) => return Ok(entries),
                Err(need) => self.vdisk.load(need).await?,
            }
        }
    }

    fn leaf(&mut self, index: u64, olds: &[Side], new: impl Fn(usize) -> Side) {
        let end = (index + 1) * FANOUT as u64;
        for (slot, old) in olds.iter().enumerate() {
            self.block(index * FANOUT as u64 + slot as u64, old, &new(slot));
            if self.is_full() {
                return;
            }
        }
        self.compared.first = end;
        self.leaves += 1;
        if self.leaves >= LEAVES_MAX && end < self.compared.end {
            self.found.next = Some(end);
        }
    }

    fn block(&mut self, block: u64, old: &Side, new: &Side) {
        let Compared { first, end, ranges_max } = self.compared;
        if !(first..end).contains(&block) || old.is_same(new) {
            return;
        }
        let Side::At(new) = new else { return };
        let (offset, data) = (block * BLOCK, new.is_stored());
        let count = self.found.ranges.len();
        match self.found.ranges.last_mut() {
            Some(last) if last.offset + last.len == offset && last.data == data => last.len += BLOCK,
            _ if count >= ranges_max.max(1) => self.found.next = Some(block),
            _ => self.found.ranges.push(Difference { offset, len: BLOCK, data }),
        }
    }
}
