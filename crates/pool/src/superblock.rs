//! The superblock: who the disk is, which start of it this is, and how far the ids have been used up.
//!
//! File `superblock`: two pages of 4 KiB, copy A at 0 and copy B at 4096, written alternately and synced each time, so
//! that the one that is not being written is always whole. The copy with the higher serial counts.
//!
//! | offset | field |
//! |---|---|
//! | 0 | magic `DRYSUPER` |
//! | 8 | format version u32 = 1, or 2 with flag bit 1 |
//! | 12 | node number u16 |
//! | 14 | shard u16 |
//! | 16 | disk id u64 |
//! | 24 | serial u64: counts the writes of the superblock |
//! | 32 | generation u64: counts the starts; the epoch of everything written during one |
//! | 40 | group size u32, bytes |
//! | 44 | flags u32: bit 0 = closed cleanly, bit 1 = any vDisk may need groups of any other |
//! | 48 | group counter u32: ids below may have been used |
//! | 52 | vDisk counter u32: ids below may have been used |
//! | 56 | created u64, ns since 1970 |
//! | 64 | six texts, each u16 length and UTF-8: pool, tier, and the fault domains disk, node, rack, site |
//! | .. | zeros up to 4092 |
//! | 4092 | crc32c u32 of bytes 0 to 4091 |
//!
//! Magic, version and checksum keep their places in every later version.

use crate::config::COUNTER_END;
use crate::{Error, FaultDomains, Identity, Kind, Result};
use base::{DiskId, Reader, Truncated, Writer};
use bytes::Bytes;
use std::cell::Cell;
use std::rc::Rc;
use world::{Disk, File};

pub(crate) const NAME: &str = "superblock";
const PAGE: usize = 4096;
const MAGIC: [u8; 8] = *b"DRYSUPER";
const VERSION: u32 = 1;
/// Of a disk whose vDisks share extents. Builds from before there was that would free what others need: they refuse it.
pub(crate) const SHARING: u32 = 2;
const FLAG_CLEAN: u32 = 1;
const FLAG_SHARING: u32 = 2;
/// Six texts of this length fit into a page many times over; longer names are somebody's mistake.
pub(crate) const TEXT_LEN_MAX: usize = 255;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub identity: Identity,
    pub serial: u64,
    pub generation: u64,
    pub group_size: u32,
    pub clean: bool,
    /// vDisks that are no family may need each other's groups. Never taken back.
    pub is_sharing: bool,
    pub groups_reserved: u32,
    pub vdisks_reserved: u32,
    pub created_wall_ns: u64,
}

/// What one page holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Page {
    Valid(Box<Superblock>),
    Newer(u32),
    Damaged,
}

impl Superblock {
    pub fn encode(&self) -> Bytes {
        let id = &self.identity;
        let mut w = Writer::with_capacity(PAGE);
        let version = if self.is_sharing { SHARING } else { VERSION };
        w.put(&MAGIC).u32_le(version).u16_le(id.node).u16_le(id.shard).u64_le(id.disk.0);
        w.u64_le(self.serial).u64_le(self.generation).u32_le(self.group_size);
        let sharing = if self.is_sharing { FLAG_SHARING } else { 0 };
        w.u32_le(sharing | if self.clean { FLAG_CLEAN } else { 0 });
        w.u32_le(self.groups_reserved).u32_le(self.vdisks_reserved).u64_le(self.created_wall_ns);
        for text in [&id.pool, &id.tier, &id.domains.disk, &id.domains.node, &id.domains.rack, &id.domains.site] {
            w.u16_le(text.len() as u16).put(text.as_bytes());
        }
        w.zeros(PAGE - 4 - w.bytes.len());
        let crc = base::crc::crc32c(&w.bytes);
        w.u32_le(crc);
        w.bytes.into()
    }
}

pub(crate) fn decode(page: &[u8]) -> Page {
    if page.len() != PAGE {
        return Page::Damaged;
    }
    crate::header::checked(page).and_then(|body| decode_body(body).ok()).unwrap_or(Page::Damaged)
}

fn decode_body(body: &[u8]) -> std::result::Result<Page, Truncated> {
    let mut r = Reader::new(body);
    if r.array::<8>()? != MAGIC {
        return Ok(Page::Damaged);
    }
    let version = r.u32_le()?;
    if !matches!(version, VERSION | SHARING) {
        return Ok(Page::Newer(version));
    }
    let (node, shard, disk) = (r.u16_le()?, r.u16_le()?, DiskId(r.u64_le()?));
    let (serial, generation, group_size, flags) = (r.u64_le()?, r.u64_le()?, r.u32_le()?, r.u32_le()?);
    let (groups_reserved, vdisks_reserved, created_wall_ns) = (r.u32_le()?, r.u32_le()?, r.u64_le()?);
    let mut texts: [String; 6] = Default::default();
    for text in &mut texts {
        let len = usize::from(r.u16_le()?);
        let Ok(read) = std::str::from_utf8(r.take(len)?) else { return Ok(Page::Damaged) };
        *text = read.to_string();
    }
    let sharing = if version == SHARING { FLAG_SHARING } else { 0 };
    if flags & !FLAG_CLEAN != sharing
        || crate::config::check_group_size(group_size).is_err()
        || groups_reserved > COUNTER_END
    {
        return Ok(Page::Damaged);
    }
    let [pool, tier, disk_domain, node_domain, rack, site] = texts;
    let domains = FaultDomains { disk: disk_domain, node: node_domain, rack, site };
    Ok(Page::Valid(Box::new(Superblock {
        identity: Identity { disk, node, shard, pool, tier, domains },
        serial,
        generation,
        group_size,
        clean: flags & FLAG_CLEAN != 0,
        is_sharing: version == SHARING,
        groups_reserved,
        vdisks_reserved,
        created_wall_ns,
    })))
}

/// The file, and which of its copies counts.
pub(crate) struct SuperblockFile {
    file: Rc<dyn File>,
    newest: Cell<usize>,
    poisoned: Cell<bool>,
}

/// What reading the file found.
pub(crate) struct Found {
    pub file: SuperblockFile,
    pub superblock: Superblock,
    /// The other copy cannot be read, so that what counts may be one write old.
    pub one_copy_damaged: bool,
}

impl SuperblockFile {
    /// Writes both copies of a new superblock into an empty or half-made file.
    pub async fn create(disk: &Rc<dyn Disk>, first: &Superblock) -> Result<()> {
        let context = "cannot write the superblock";
        let opened = match disk.open(NAME).await {
            Err(e) if e.kind == world::Kind::NotFound => disk.create(NAME).await,
            other => other,
        };
        let file = opened.map_err(|e| Error::from_disk(context, e))?;
        let page = first.encode();
        file.write(0, &[page.clone(), page]).await.map_err(|e| Error::from_disk(context, e))?;
        file.sync().await.map_err(|e| Error::sync_failed("the superblock", e))
    }

    /// `Ok(None)`: there is no such file.
    pub async fn read(disk: &Rc<dyn Disk>) -> Result<Option<Found>> {
        let file = match disk.open(NAME).await {
            Ok(file) => file,
            Err(e) if e.kind == world::Kind::NotFound => return Ok(None),
            Err(e) => return Err(Error::from_disk("cannot open the superblock", e)),
        };
        let mut pages = Vec::new();
        for copy in 0..2 {
            let read = file.read((copy * PAGE) as u64, PAGE).await;
            // A copy that the medium refuses to give is as good as a damaged one, as long as the other is there.
            pages.push(read.map_or(Page::Damaged, |bytes| decode(&bytes)));
        }
        if let Some(version) = pages.iter().find_map(|p| if let Page::Newer(v) = p { Some(*v) } else { None }) {
            return Err(Error::new(
                Kind::UnsupportedFormat,
                format!(
                    "the disk was written in format version {version}; this build reads up to {SHARING}: \
                     start it with a build at least as new as the one that wrote it"
                ),
            ));
        }
        let one_copy_damaged = pages.contains(&Page::Damaged);
        let valid = pages.into_iter().enumerate().filter_map(|(i, page)| match page {
            Page::Valid(superblock) => Some((i, *superblock)),
            _ => None,
        });
        let Some((newest, superblock)) = valid.max_by_key(|(_, s)| s.serial) else {
            return Err(Error::new(
                Kind::Corrupt,
                "both copies of the superblock are damaged; `drystone recover` rebuilds it from the extent groups",
            ));
        };
        Ok(Some(Found {
            file: SuperblockFile { file, newest: Cell::new(newest), poisoned: Cell::new(false) },
            superblock,
            one_copy_damaged,
        }))
    }

    /// Replaces the older copy, durably. After a failed sync it refuses for the rest of this run.
    pub async fn write(&self, superblock: &Superblock) -> Result<()> {
        if self.poisoned.get() {
            let text = "the superblock takes no writes until the next start, because a sync of it failed";
            return Err(Error::new(Kind::SyncFailed, text));
        }
        let older = 1 - self.newest.get();
        self.write_copy(older, superblock).await?;
        self.newest.set(older);
        Ok(())
    }

    /// Writes the copy that counts once more, as it is, durably: what was read may be in a cache only, clean, since a sync
    /// of it failed, and another sync would not store it. A torn write leaves the same bytes.
    pub async fn write_again(&self, superblock: &Superblock) -> Result<()> {
        self.write_copy(self.newest.get(), superblock).await
    }

    async fn write_copy(&self, copy: usize, superblock: &Superblock) -> Result<()> {
        let written = self.file.write((copy * PAGE) as u64, &[superblock.encode()]).await;
        written.map_err(|e| Error::from_disk("cannot write the superblock", e))?;
        self.sync().await
    }

    pub async fn sync(&self) -> Result<()> {
        self.file.sync().await.map_err(|e| {
            self.poisoned.set(true);
            Error::sync_failed("the superblock", e)
        })
    }
}

#[cfg(test)]
mod tests;
