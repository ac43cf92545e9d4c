//! Reads: from the map and the cache at once where possible, else from the pool, always against the checksum.

use crate::address::Address;
use crate::lifecycle::gone;
use crate::map::{FANOUT, NeedPage};
use crate::stats::Stats;
use crate::vdisk::Vdisk;
use crate::write::TRANSFER_BYTES_MAX;
use crate::{Error, Kind, Result};
use base::units::BLOCK;
use block::{Allocation, Segment, Status};
use bytes::Bytes;
use std::cell::Cell;
use std::rc::Rc;

/// Adjacent extents are read together up to this many bytes.
const READ_TOGETHER_MAX: u32 = 1 << 20;
/// A read whose extent was moved meanwhile is looked up again; each time the log has gone on, so a handful is plenty.
const LOOKUPS_MAX: u32 = 16;

/// Levels of the map of the largest vDisk (64 TiB), from above.
const MAP_LEVELS_MAX: usize = 5;

/// Looks at the map for one block status reply: about 2 ms.
const STATUS_LOOKS_MAX: u32 = 1 << 16;

impl Vdisk {
    /// The whole range if map, other maps' leaves, and cache have it, without waiting. `Ok(None)`: [`Vdisk::read`] has to wait for
    /// something.
    pub(crate) fn read_now(&self, offset: u64, len: u32) -> Result<Option<Vec<Segment>>> {
        self.check_range(offset, len.into())?;
        if len > TRANSFER_BYTES_MAX {
            return Err(Error::new(Kind::Invalid, format!("{len} bytes are more than a request may have")));
        }
        let mut segments = Vec::with_capacity(len as usize / BLOCK as usize + 2);
        let end = offset + u64::from(len);
        let mut at = offset;
        let mut addresses = [Address::NONE; FANOUT];
        while at < end {
            let block = at / BLOCK;
            let leaf_end = (block / FANOUT as u64 + 1) * FANOUT as u64;
            let count = (end.div_ceil(BLOCK).min(leaf_end) - block) as usize;
            let run = &mut addresses[..count];
            Stats::add(&self.stats.map_lookups, 1);
            if !self.look_now(block, run) {
                return Ok(None);
            }
            for (i, address) in run.iter().enumerate() {
                let start = (block + i as u64) * BLOCK;
                let (from, to) = (at.max(start) - start, end.min(start + BLOCK) - start);
                if !address.is_stored() {
                    push_zeros(&mut segments, to - from);
                } else if let Some(bytes) = self.context.cache.get(address.group(), address.grain()) {
                    segments.push(Segment::Bytes(if to - from == BLOCK {
                        bytes
                    } else {
                        bytes.slice(from as usize..to as usize)
                    }));
                } else {
                    return Ok(None);
                }
                at = start + to;
            }
        }
        Ok(Some(segments))
    }

    /// Within one leaf.
    fn look_now(&self, block: u64, run: &mut [Address]) -> bool {
        let looked = self.state.borrow().tree.lookup_run(block, run);
        match looked {
            Ok(()) => true,
            Err(need) => self.share(need) && self.state.borrow().tree.lookup_run(block, run).is_ok(),
        }
    }

    pub async fn read(self: &Rc<Self>, offset: u64, len: u32) -> Result<Vec<Segment>> {
        if let Some(segments) = self.read_now(offset, len)? {
            return Ok(segments);
        }
        let end = offset + u64::from(len);
        let first = offset / BLOCK;
        let count = end.div_ceil(BLOCK) - first;
        let blocks = self.read_blocks(first, count as usize).await?;
        let mut segments = Vec::with_capacity(blocks.len());
        for (i, bytes) in blocks.into_iter().enumerate() {
            let start = (first + i as u64) * BLOCK;
            let (from, to) = (offset.max(start) - start, end.min(start + BLOCK) - start);
            match bytes {
                Some(bytes) => segments.push(Segment::Bytes(bytes.slice(from as usize..to as usize))),
                None => push_zeros(&mut segments, to - from),
            }
        }
        Ok(segments)
    }

    /// One whole block; `None`: zeros.
    pub(crate) async fn read_block(&self, block: u64) -> Result<Option<Bytes>> {
        let mut found = self.read_blocks(block, 1).await?;
        Ok(found.pop().expect("asked for one block"))
    }

    /// The range as it was at one moment: a write of several blocks shows whole or not at all.
    pub(crate) async fn read_blocks(&self, first: u64, count: usize) -> Result<Vec<Option<Bytes>>> {
        let mut found: Vec<Option<Bytes>> = vec![None; count];
        let mut last_error = None;
        let mut addresses = self.addresses_of(first, count).await?;
        for _ in 0..LOOKUPS_MAX {
            let mut missing: Vec<(usize, Address)> = Vec::new();
            for (i, address) in addresses.iter().enumerate() {
                if !address.is_stored() || found[i].is_some() {
                    continue;
                }
                match self.context.cache.get(address.group(), address.grain()) {
                    Some(bytes) => found[i] = Some(bytes),
                    None => missing.push((i, *address)),
                }
            }
            if missing.is_empty() {
                return Ok(found);
            }
            let failed = self.fetch(&missing, &mut found).await;
            if failed.is_empty() {
                return Ok(found);
            }
            // An extent that was moved between the look at the map and the read is found at its new place; one that
            // still has its place is bad. What else has a new place has changed, perhaps together with this one.
            let now = self.addresses_of(first, count).await?;
            for (i, was, error) in failed {
                if was == now[i] {
                    return Err(self.bad_extent(first + i as u64, was, error));
                }
                last_error = Some(error);
            }
            for ((found, was), is) in found.iter_mut().zip(&addresses).zip(&now) {
                if was != is {
                    *found = None;
                }
            }
            addresses = now;
        }
        Err(last_error.unwrap_or_else(|| Error::new(Kind::Io, "the extents kept moving")))
    }

    fn bad_extent(&self, block: u64, address: Address, mut error: Error) -> Error {
        if self.is_deleted() {
            return gone();
        }
        tracing::error!(vdisk = %self.id, block, extent = ?address, %error, "extent cannot be read");
        error.at = Some(block * BLOCK);
        error
    }

    /// Where the blocks are, all at one moment.
    async fn addresses_of(&self, first: u64, count: usize) -> Result<Vec<Address>> {
        let mut addresses = vec![Address::NONE; count];
        let pages_max = (count / FANOUT + 2) * MAP_LEVELS_MAX;
        for _ in 0..pages_max {
            let looked = self.look(first, &mut addresses);
            let Err(need) = looked else { return Ok(addresses) };
            self.load(need).await?;
        }
        // More than there are: some left again. Now they stay.
        let _reader = MapReader::new(&self.map_readers);
        loop {
            let looked = self.look(first, &mut addresses);
            let Err(need) = looked else { return Ok(addresses) };
            self.load(need).await?;
        }
    }

    fn look(&self, first: u64, addresses: &mut [Address]) -> std::result::Result<(), NeedPage> {
        let state = self.state.borrow();
        let mut block = first;
        let mut rest = addresses;
        while !rest.is_empty() {
            let in_leaf = (FANOUT - (block % FANOUT as u64) as usize).min(rest.len());
            let (run, behind) = rest.split_at_mut(in_leaf);
            state.tree.lookup_run(block, run)?;
            block += in_leaf as u64;
            rest = behind;
        }
        Ok(())
    }

    /// Reads extents, adjacent ones together, several at once. Returns those that could not be had.
    async fn fetch(&self, missing: &[(usize, Address)], found: &mut [Option<Bytes>]) -> Vec<(usize, Address, Error)> {
        let mut reads = Vec::new();
        let mut rest = missing;
        while let Some((_, first)) = rest.first() {
            let mut len = first.len();
            let mut count = 1;
            while let Some((_, next)) = rest.get(count) {
                let adjacent = next.group() == first.group() && next.offset() == first.offset() + len;
                if !adjacent || len >= READ_TOGETHER_MAX {
                    break;
                }
                len += next.len();
                count += 1;
            }
            reads.push((&rest[..count], first.offset(), self.context.pool.read(first.group(), first.offset(), len)));
            rest = &rest[count..];
        }
        let mut failed = Vec::new();
        // All reads are under way already where the disk works at once on what it is given; awaiting in order is enough.
        for (extents, start, read) in reads {
            let bytes = read.await.map_err(Error::from);
            for (i, address) in extents {
                match &bytes {
                    Err(error) => match self.kept_block(*address) {
                        Some(block) => found[*i] = Some(block),
                        None => failed.push((*i, *address, error.clone())),
                    },
                    Ok(bytes) => match self.take_extent(bytes, start, *address) {
                        Ok(block) => found[*i] = Some(block),
                        Err(error) => failed.push((*i, *address, error)),
                    },
                }
            }
        }
        failed
    }

    fn take_extent(&self, bytes: &Bytes, start: u32, address: Address) -> Result<Bytes> {
        let at = (address.offset() - start) as usize;
        let extent =
            bytes.get(at..at + address.len() as usize).ok_or_else(|| Error::corrupt("a read came back short"))?;
        if base::crc::crc32c(extent) != address.crc() {
            if let Some(block) = self.kept_block(address) {
                return Ok(block);
            }
            if self.is_deleted() {
                return Err(gone());
            }
            Stats::add(&self.stats.checksum_failures, 1);
            return Err(Error::corrupt(format!("extent {address:?} fails its checksum")));
        }
        let block = Bytes::copy_from_slice(extent);
        self.context.cache.insert(address.group(), address.grain(), block.clone());
        Ok(block)
    }

    /// Runs of equal state from `offset` on, at most `extents_max`, covering at most `len` bytes.
    pub(crate) async fn block_status(&self, offset: u64, len: u64, extents_max: u32) -> Result<Vec<Status>> {
        self.check_range(offset, len)?;
        let end = offset + len;
        let mut runs: Vec<Status> = Vec::new();
        let mut at = offset;
        // Mapped blocks are looked at one by one: an answer that ends early is allowed, a stalled worker is not.
        let mut looks = 0;
        while at < end && (looks < STATUS_LOOKS_MAX || runs.is_empty()) {
            looks += 1;
            let looked = self.state.borrow().tree.state_at(at / BLOCK);
            let (address, blocks) = match looked {
                Ok(found) => found,
                Err(need) => {
                    self.load(need).await?;
                    continue;
                }
            };
            let allocation = match address {
                Address::NONE => Allocation::Hole,
                Address::ZEROS => Allocation::Zero,
                _ => Allocation::Data,
            };
            let next = ((at / BLOCK + blocks) * BLOCK).min(end);
            let count = runs.len();
            match runs.last_mut() {
                Some(last) if last.allocation == allocation => last.len += next - at,
                _ if count >= extents_max.max(1) as usize => break,
                _ => runs.push(Status { len: next - at, allocation }),
            }
            at = next;
        }
        Ok(runs)
    }
}

/// While there is one, no page of the map leaves memory.
struct MapReader<'a>(&'a Cell<u32>);

impl<'a> MapReader<'a> {
    fn new(readers: &'a Cell<u32>) -> MapReader<'a> {
        readers.set(readers.get() + 1);
        MapReader(readers)
    }
}

impl Drop for MapReader<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

fn push_zeros(segments: &mut Vec<Segment>, len: u64) {
    match segments.last_mut() {
        Some(Segment::Zeros(zeros)) => *zeros += len,
        _ => segments.push(Segment::Zeros(len)),
    }
}
