//! Making a pool on a disk, and starting one: superblock first, then the headers of every slot.

use crate::ballast::{self, Ballast};
use crate::config::COUNTER_END;
use crate::ids::{BATCH, FIRST, Ids};
use crate::pool::{Group, Opened, Parts, Peeked};
use crate::scan::{Scan, scan};
use crate::space::Space;
use crate::superblock::{Found, Superblock, SuperblockFile};
use crate::{Error, GroupHeader, Identity, Kind, Pool, PoolConfig, Result, SlabId};
use std::rc::Rc;
use world::{Disk, World};

impl Pool {
    /// Makes an empty pool on a disk. Refuses (`Invalid`) if a superblock or a slab is there; what a crash left of an
    /// earlier attempt is made good. `Full` if the disk has no room for the ballast.
    pub async fn format(world: &World, disk: &Rc<dyn Disk>, config: &PoolConfig, identity: &Identity) -> Result<()> {
        config.check()?;
        identity.check()?;
        let refuse = |what: &str| Err(Error::new(Kind::Invalid, format!("the disk is in use: it holds {what}")));
        if !slab_names(disk).await?.is_empty() {
            return refuse("slab files");
        }
        match SuperblockFile::read(disk).await {
            // Both copies unreadable and no slab: the attempt before ended in the middle.
            Ok(None) => {}
            Err(e) if e.kind == Kind::Corrupt => {}
            Ok(Some(_)) => return refuse("a superblock"),
            Err(e) => return Err(e),
        }
        let reserve = Ballast::new(disk.clone(), config.ballast_bytes);
        reserve.grow(u64::MAX).await?;
        if !reserve.is_whole() {
            let text = format!("the disk has no room for the reserve of {} bytes", config.ballast_bytes);
            disk.remove(ballast::NAME).await.map_err(|e| Error::from_disk("cannot remove the ballast", e))?;
            return Err(Error::new(Kind::Full, text));
        }
        let first = Superblock {
            identity: identity.clone(),
            serial: 1,
            generation: 0,
            group_size: config.group_size,
            clean: true,
            is_sharing: false,
            groups_reserved: FIRST,
            vdisks_reserved: FIRST,
            created_wall_ns: world.clock.wall().0,
        };
        SuperblockFile::create(disk, &first).await
    }

    /// What a disk says of itself that is not started. `None`: there is no superblock.
    pub async fn peek(disk: &Rc<dyn Disk>) -> Result<Option<Peeked>> {
        let found = SuperblockFile::read(disk).await?;
        Ok(found.map(|found| {
            let Superblock { identity, generation, is_sharing, .. } = found.superblock;
            Peeked { identity, generation: generation + u64::from(found.one_copy_damaged), is_sharing }
        }))
    }

    /// Starts a pool. Before anything else the generation is raised, durably. `NotFound`: never formatted; `Corrupt`:
    /// the superblock is lost; `UnsupportedFormat`: written by a newer build.
    pub async fn open(world: World, disk: Rc<dyn Disk>, config: PoolConfig) -> Result<Opened> {
        config.check()?;
        let Some(found) = SuperblockFile::read(&disk).await? else {
            return Err(no_superblock(!slab_names(&disk).await?.is_empty()));
        };
        let started = Started::begin(found).await?;
        let scan = scan(&disk, &started.superblock, config.slots_per_slab_max, started.clean).await?;
        let (started, was_old) = started.catch_up(&scan).await?;
        Ok(assemble(world, disk, config, started, scan, was_old).await)
    }
}

fn no_superblock(slabs: bool) -> Error {
    if slabs {
        let text = "the superblock is missing, but extent groups are there; `drystone recover` rebuilds it from them";
        return Error::new(Kind::Corrupt, text);
    }
    Error::new(Kind::NotFound, "the disk holds no pool: format it first")
}

pub(crate) async fn slab_names(disk: &Rc<dyn Disk>) -> Result<Vec<SlabId>> {
    let entries = disk.list().await.map_err(|e| Error::from_disk("cannot list the disk", e))?;
    Ok(entries.iter().filter_map(|entry| SlabId::from_file_name(&entry.name)).collect())
}

/// A start whose generation is durable.
struct Started {
    file: SuperblockFile,
    superblock: Superblock,
    group_next: u32,
    vdisk_next: u32,
    generation_before: u64,
    clean: bool,
    copy_damaged: bool,
}

impl Started {
    async fn begin(found: Found) -> Result<Started> {
        let Found { file, mut superblock, one_copy_damaged } = found;
        let (generation_before, clean) = (superblock.generation, superblock.clean && !one_copy_damaged);
        // The copy that cannot be read may be the newer one. Then it is one write ahead: one start and one batch.
        let missed = u32::from(one_copy_damaged);
        let group_next = (superblock.groups_reserved + missed * BATCH).min(COUNTER_END);
        let vdisk_next = (superblock.vdisks_reserved + missed * BATCH).min(COUNTER_END);
        // The copy that stays is to be on the medium while the other is written.
        file.write_again(&superblock).await?;
        superblock.generation += 1 + u64::from(missed);
        superblock.serial += 1 + u64::from(missed);
        superblock.clean = false;
        // The first batch comes with the write that is due anyway.
        superblock.groups_reserved = (group_next + BATCH).min(COUNTER_END);
        superblock.vdisks_reserved = (vdisk_next + BATCH).min(COUNTER_END);
        file.write(&superblock).await?;
        // Once more, over the other copy: whichever rots later, the one that is left knows of this start.
        superblock.serial += 1;
        file.write(&superblock).await?;
        Ok(Started {
            file,
            superblock,
            group_next,
            vdisk_next,
            generation_before,
            clean,
            copy_damaged: one_copy_damaged,
        })
    }

    /// A superblock that is older than what stands on its disk is moved past it. True: it was.
    async fn catch_up(mut self, scan: &Scan) -> Result<(Started, bool)> {
        let highest = scan.highest(self.superblock.identity.node, self.superblock.identity.shard);
        let old_generation = highest.epoch.0 >= self.superblock.generation;
        let old_groups = highest.group_count.is_some_and(|count| count >= self.group_next);
        let old_vdisks = highest.vdisk_count.is_some_and(|count| count >= self.vdisk_next);
        if !(old_generation || old_groups || old_vdisks) {
            return Ok((self, false));
        }
        let generation = self.superblock.generation;
        tracing::error!(generation, ?highest, "the superblock is older than the groups on its disk");
        let beyond =
            |next: u32, seen: Option<u32>| next.max(seen.map_or(0, |count| count + 1) + BATCH).min(COUNTER_END);
        self.group_next = beyond(self.group_next, highest.group_count);
        self.vdisk_next = beyond(self.vdisk_next, highest.vdisk_count);
        self.superblock.generation = generation.max(highest.epoch.0 + 1);
        // The newer one may have said so.
        self.superblock.is_sharing = true;
        self.superblock.groups_reserved = (self.group_next + BATCH).min(COUNTER_END);
        self.superblock.vdisks_reserved = (self.vdisk_next + BATCH).min(COUNTER_END);
        // In both copies, or whichever is left of them may be the one that does not say so.
        for _copy in 0..2 {
            self.superblock.serial += 1;
            self.file.write(&self.superblock).await?;
        }
        Ok((self, true))
    }
}

async fn assemble(
    world: World,
    disk: Rc<dyn Disk>,
    config: PoolConfig,
    started: Started,
    scan: Scan,
    superblock_was_old: bool,
) -> Opened {
    let reserve = Ballast::new(disk.clone(), config.ballast_bytes);
    let space = Space::new(reserve, config.capacity_bytes, scan.charged_bytes);
    // A reserve that cannot be had now is missed by `usage`, and by ordinary appends; it does not keep the disk from
    // being read.
    if let Err(error) = space.ballast.grow(space.ballast_max()).await {
        tracing::warn!(?error, "the reserve could not be allocated");
    }
    let mut headers: Vec<GroupHeader> = scan.groups.iter().map(|found| found.header).collect();
    headers.sort_by_key(|header| header.group);
    let groups: Vec<Rc<Group>> = scan.groups.into_iter().map(|found| found.group).collect();
    let last_epoch = started.generation_before;
    let of_last_start = |group: &&Rc<Group>| {
        headers.binary_search_by_key(&group.id, |h| h.group).is_ok_and(|i| headers[i].epoch.0 >= last_epoch)
    };
    // Whoever was open when the last run ended without `close` may have reserved space behind its tail.
    let untrimmed = if started.clean { Vec::new() } else { groups.iter().filter(of_last_start).cloned().collect() };
    let group_size = started.superblock.group_size;
    let (generation_before, clean, superblock_copy_damaged) =
        (started.generation_before, started.clean, started.copy_damaged);
    let ids = Ids::new(started.file, started.superblock, started.group_next, started.vdisk_next);
    let (slabs, slab_next) = (scan.slabs, scan.slab_next);
    let pool =
        Pool::assemble(Parts { world, disk, config, group_size, ids, slabs, slab_next, groups, untrimmed, space });
    if let Err(error) = pool.refresh_usage().await {
        tracing::warn!(?error, "the disk's free space is unknown");
    }
    Opened {
        pool,
        groups: headers,
        quarantined: scan.quarantined,
        generation_before,
        clean,
        superblock_copy_damaged,
        superblock_was_old,
    }
}

impl Pool {
    /// Makes a new superblock for a disk that lost its own (`drystone recover`): the disk id comes from the slabs, the
    /// generation from the groups, everything else from `identity`. Its node number must be one that was never in use.
    pub async fn rebuild(world: &World, disk: &Rc<dyn Disk>, identity: &Identity) -> Result<()> {
        identity.check()?;
        match SuperblockFile::read(disk).await {
            Ok(Some(_)) => return Err(Error::new(Kind::Invalid, "the superblock is readable: nothing to rebuild")),
            Err(e) if e.kind != Kind::Corrupt => return Err(e),
            Ok(None) | Err(_) => {}
        }
        let header = crate::scan::any_slab_header(disk).await?;
        let mut first = Superblock {
            identity: Identity { disk: header.disk, ..identity.clone() },
            serial: 1,
            generation: 0,
            group_size: header.group_size,
            clean: false,
            // The one that was lost may have said so.
            is_sharing: true,
            groups_reserved: FIRST,
            vdisks_reserved: FIRST,
            created_wall_ns: world.clock.wall().0,
        };
        let highest = scan(disk, &first, u32::MAX, false).await?.highest(identity.node, identity.shard);
        if highest.group_count.is_some() || highest.vdisk_count.is_some() {
            let text = format!("node number {} was in use on this disk: choose a new one", identity.node);
            return Err(Error::new(Kind::Invalid, text));
        }
        first.generation = highest.epoch.0;
        SuperblockFile::create(disk, &first).await
    }
}
