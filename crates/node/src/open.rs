//! Making a shard, starting one, and stopping it cleanly.

use crate::index::{MetaIndex, synced_tail};
use crate::recover::Asking;
use crate::shard::{Entry, Listener, is_damaged};
use crate::{Error, Kind, Result, Shard};
use base::{DiskId, VdiskId};
use meta::{BirthsRecord, ShardRecord, Store, TailHint, Transaction, VdiskRecord};
use pool::{Cache, FaultDomains, GroupHeader, Identity, Opened, Peeked, Pool, PoolConfig};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use vdisk::{Context, Load, Settings};
use world::local::Semaphore;
use world::{Disk, World};

/// vDisks whose logs are read at once in the background: enough to keep a disk busy, few enough that one asked for is not
/// behind many.
const RECOVER_AT_ONCE: usize = 4;
/// Those and the ones that wait until the end of their log is stored once more: what one sync of the disk covers. Of a
/// thousand vDisks that were made just before a crash each has such an end.
const RECOVERIES_MAX: usize = 64;
/// Bytes of such ends, all of them in memory.
const STORING_AGAIN_MAX: u64 = 16 << 20;
/// vDisks that find out at once what they need of others. Each has a commit of the metadata store, one after the other, and a client
/// that wants one meanwhile waits for as many.
const HEARING_AT_ONCE: u64 = 4;

#[derive(Clone)]
pub struct ShardConfig {
    pub pool: PoolConfig,
    pub settings: Settings,
}

impl Shard {
    /// Makes the pool of a new shard. `node`: the number that goes into every id.
    pub async fn format(world: &World, disk: &Rc<dyn Disk>, config: &ShardConfig, node: u16, shard: u16) -> Result<()> {
        let identity = Identity {
            disk: DiskId(world.random.next_u64()),
            node,
            shard,
            pool: "default".into(),
            tier: "ssd".into(),
            domains: FaultDomains::default(),
        };
        Ok(Pool::format(world, disk, &config.pool, &identity).await?)
    }

    /// Starts a shard. `NeedsRecover` if the metadata store does not know this disk although it holds data.
    pub async fn open(
        world: World,
        disk: Rc<dyn Disk>,
        store: Rc<dyn Store>,
        cache: Arc<Cache>,
        config: ShardConfig,
        listener: Listener,
    ) -> Result<Rc<Shard>> {
        check_generation(&disk, &store).await?;
        let opened = Pool::open(world.clone(), disk, config.pool.clone()).await?;
        let identity = opened.pool.identity();
        let index = MetaIndex::load(store, identity.shard, opened.pool.clone()).await?;
        let known = index.shard_record().await?;
        match &known {
            None if !opened.groups.is_empty() => {
                return Err(Error::new(
                    Kind::NeedsRecover,
                    "the metadata store knows nothing of this disk, which holds data; run `drystone recover --data DIR`",
                ));
            }
            Some(record) if record.disk != identity.disk => {
                return Err(Error::new(
                    Kind::NeedsRecover,
                    format!("the metadata store belongs to disk {}, this one is {}", record.disk, identity.disk),
                ));
            }
            _ => {}
        }
        if opened.superblock_copy_damaged {
            tracing::warn!(shard = identity.shard, "one copy of the superblock could not be read; it was written anew");
        }
        if opened.superblock_was_old {
            // Ids of groups that were freed might come again under the old number.
            let of_groups = opened.groups.iter().map(|header| header.group.node()).max().unwrap_or(0);
            let node = identity.node.max(of_groups) + 1;
            opened.pool.set_node(node).await?;
            tracing::warn!(
                shard = identity.shard,
                node,
                "the superblock was older than the disk; a new node number was taken"
            );
        }
        // A store that is behind the disk was restored, or a crash came between the two: its hints may be stale.
        let hints_are_good = known.as_ref().is_some_and(|record| record.generation == opened.generation_before);
        let clean = opened.clean && hints_are_good && known.as_ref().is_some_and(|record| record.clean);
        if !hints_are_good {
            index.forget_hints().await?;
        }
        let unread = unread(&opened.quarantined);
        let was_hiding = known.as_ref().is_some_and(|record| record.may_hide);
        let knows_all = hints_are_good || known.as_ref().is_some_and(|record| was_cut_short(record, &opened));
        let may_hide = unread.is_some() && opened.pool.is_sharing() && (was_hiding || !knows_all);
        let generation = opened.pool.epoch().0;
        let record = ShardRecord { disk: identity.disk, generation, clean: false, begun: 0, may_hide };
        index.put_shard(record).await?;
        for place in &opened.quarantined {
            tracing::warn!(?place, "a slot cannot be read; it is kept and not used");
        }
        let context = Context {
            world,
            pool: opened.pool,
            cache,
            settings: Rc::new(config.settings),
            load: Rc::new(Load::default()),
            references: Rc::default(),
        };
        let heard_ns = Cell::new(context.world.now().0);
        let shard = Rc::new(Shard {
            number: identity.shard,
            context,
            entries: Default::default(),
            headers: by_vdisk(opened.groups).into(),
            hints_are_good,
            unread,
            was_hiding,
            may_hide,
            hearing: Semaphore::new(HEARING_AT_ONCE),
            heard_ns,
            generation_before: opened.generation_before,
            opened: Default::default(),
            attachments: Default::default(),
            leftovers: Default::default(),
            refused: Default::default(),
            views: Default::default(),
            leaving: Default::default(),
            rolling_back: Default::default(),
            held: Default::default(),
            paused: Default::default(),
            hold_times: Default::default(),
            listener,
            stopping: Default::default(),
            quarantined: opened.quarantined.len(),
            to_recover: Default::default(),
            replayed_bytes: Default::default(),
            replay_ns: Default::default(),
            gone: Default::default(),
            index,
        });
        shard.list_entries();
        shard.start_recovery(clean);
        // Nobody is to see them gone before they are, durably, nor to take a name that one of them has.
        shard.end_births().await;
        shard.take_over().await;
        shard.context.world.spawn(shard.clone().run_maintenance());
        Ok(shard)
    }

    fn list_entries(&self) {
        let mut entries = self.entries.borrow_mut();
        let records = self.index.records.borrow();
        let known = records.values().map(|record| record.id);
        let found = self.headers.borrow().keys().copied().collect::<Vec<_>>();
        for id in known.chain(found) {
            entries.insert(id, Entry::Closed);
        }
        let references = &self.context.references;
        if self.may_hide {
            references.expect(VdiskId::NONE, None);
        }
        for id in entries.keys() {
            match records.get(id) {
                None => references.expect(*id, None),
                Some(VdiskRecord { deleted: true, .. }) => {}
                // Any of them may have copied from any other.
                Some(_) if self.context.pool.is_sharing() => references.expect(*id, None),
                Some(VdiskRecord { clone: Some(clone), .. }) => {
                    references.expect(*id, Some(clone.family));
                }
                Some(_) => {}
            }
        }
    }

    /// Opens every vDisk in the background, after a crash with its recovery; one that is asked for comes first. After a
    /// clean stop nothing waits for that: it is a few small reads each, so that space and health can be told.
    fn start_recovery(self: &Rc<Self>, clean: bool) {
        let todo: Vec<(VdiskId, bool)> = {
            let records = self.index.records.borrow();
            let needs = |id: &VdiskId| !clean || records.get(id).is_none_or(|record| record.deleted);
            self.entries.borrow().keys().map(|id| (*id, needs(id))).collect()
        };
        self.to_recover.set(todo.iter().filter(|(_, needs)| *needs).count());
        let shard = self.clone();
        self.context.world.spawn(async move {
            let under_way = Rc::new(Cell::new(0));
            for (id, counted) in todo {
                shard.room_to_recover(&under_way).await;
                if shard.stopping.get() {
                    return;
                }
                under_way.set(under_way.get() + 1);
                let (shard, under_way) = (shard.clone(), under_way.clone());
                shard.context.world.clone().spawn(async move {
                    // Errors are logged there and stay with the entry.
                    let _ = shard.open_vdisk(id, Asking::Start).await;
                    if counted {
                        shard.to_recover.set(shard.to_recover.get() - 1);
                    }
                    under_way.set(under_way.get() - 1);
                    shard.context.load.log_read.notify();
                });
            }
        });
    }

    async fn room_to_recover(&self, under_way: &Cell<usize>) {
        let load = &self.context.load;
        loop {
            let reading = under_way.get().saturating_sub(load.storing_again.get());
            let more = reading < RECOVER_AT_ONCE && under_way.get() < RECOVERIES_MAX;
            if self.stopping.get() || (more && load.storing_again_bytes.get() < STORING_AGAIN_MAX) {
                return;
            }
            load.log_read.notified().await;
        }
    }

    /// What is left of clones that did not come to be is deleted; then their record goes, unless a header that could not be
    /// read may be of one of them.
    async fn end_births(self: &Rc<Self>) {
        let all: Vec<BirthsRecord> = self.index.unborn.borrow().values().cloned().collect();
        for BirthsRecord { vdisks, .. } in all {
            let mut gone = self.unread.is_none();
            for id in &vdisks {
                // Not there: its birth was not stored, or it was deleted.
                gone &= matches!(self.vdisk(*id).await, Ok(_) | Err(Error { kind: Kind::NotFound, .. }));
            }
            if let (true, Some(first)) = (gone, vdisks.first())
                && let Err(error) = self.index.end_births(*first).await
            {
                tracing::warn!(%error, "the record of clones that did not come to be is left until the next start");
            }
        }
    }

    /// What the store does not know, but for leftovers: a vDisk that was being made when the last run ended.
    async fn take_over(self: &Rc<Self>) {
        let unknown: Vec<VdiskId> = {
            let records = self.index.records.borrow();
            self.entries.borrow().keys().filter(|id| !records.contains_key(id)).copied().collect()
        };
        for id in unknown {
            // Errors are logged there and stay with the entry.
            let _ = self.vdisk(id).await;
        }
    }

    /// Checkpoints every vDisk and closes the pool: the next start replays nothing. New attachments are refused.
    pub async fn close(self: &Rc<Self>) -> Result<()> {
        self.stopping.set(true);
        self.attachments.end(None);
        let mut first_error = None;
        let mut all_known = self.to_recover.get() == 0;
        let epoch = self.context.pool.epoch();
        for vdisk in self.open_vdisks() {
            match vdisk.close().await {
                // The next start is to find what this one found.
                Ok(_) if is_damaged(&vdisk) => {}
                Ok(closed) => {
                    all_known &= closed.tail.is_some();
                    let noted = self
                        .index
                        .update(vdisk.id, |record| {
                            record.checkpoint = closed.checkpoint.map(crate::index::hint);
                            let clean = closed.tail.map(|tail| synced_tail(base::GroupId::NONE, tail));
                            record.tail = match clean {
                                Some(tail) => Some(TailHint { clean: true, ..tail }),
                                None => record.tail.map(|tail| TailHint { clean: false, ..tail }),
                            };
                            record.epoch = epoch;
                        })
                        .await;
                    first_error = first_error.or(noted.err());
                }
                Err(error) => {
                    tracing::error!(vdisk = %vdisk.id, %error, "not closed cleanly; the next start replays its log");
                    first_error = first_error.or(Some(error.into()));
                }
            }
        }
        first_error = first_error.or(self.note_refused().await.err());
        self.context.pool.close().await?;
        self.context.load.log_read.notify();
        self.context.load.over_limit.notify();
        self.context.load.full.notify();
        self.context.references.released.notify();
        if let Some(error) = first_error {
            return Err(error);
        }
        let (disk, generation) = (self.context.pool.identity().disk, epoch.0);
        let may_hide = self.may_hide;
        self.index.put_shard(ShardRecord { disk, generation, clean: all_known, begun: 0, may_hide }).await
    }

    /// How many vDisks are still to be closed.
    pub fn open_count(&self) -> usize {
        self.open_vdisks().len()
    }
}

/// Before anything is written: each start raises the generation, and an old copy that was refused would look like the
/// current disk to the next one. Of a disk with copies the store notes how far this start may raise it: if that is cut short before
/// the store is told, the disk is newer than the record, and yet nobody has written anything.
async fn check_generation(disk: &Rc<dyn Disk>, store: &Rc<dyn Store>) -> Result<()> {
    // What cannot be read is the start's to report.
    let Ok(Some(Peeked { identity, generation, is_sharing })) = Pool::peek(disk).await else { return Ok(()) };
    let key = meta::keys::shard(identity.shard);
    let bytes = store.get(&key).await?;
    let known = bytes.map(|bytes| ShardRecord::decode(&bytes)).transpose()?;
    let Some(record) = known.filter(|record| record.disk == identity.disk) else { return Ok(()) };
    if record.generation > generation {
        return Err(Error::new(
            Kind::Damaged,
            format!(
                "the disk is an old copy: it was last started as generation {generation}, but generation {} is on record; \
                 bring back the current disk, or give up what was written since with `drystone recover`",
                record.generation
            ),
        ));
    }
    if !is_sharing || generation > record.generation.max(record.begun) {
        return Ok(());
    }
    let begun = ShardRecord { begun: generation + 1, ..record };
    if let Err(error) = store.commit(Transaction::new().put(key, begun.encode())).await {
        // If the start is cut short now, the store is taken for an older one, which frees less than it might.
        tracing::warn!(shard = identity.shard, %error, "the metadata store could not be told of a start");
    }
    Ok(())
}

/// The starts since this record came no further than to raise the generation, as far as anybody can see.
fn was_cut_short(record: &ShardRecord, opened: &Opened) -> bool {
    let is_of_this = record.generation < opened.generation_before && opened.generation_before <= record.begun;
    is_of_this && opened.groups.iter().all(|header| header.epoch.0 <= record.generation)
}

/// The first place whose header the disk did not give: a group of any vDisk may be there.
pub(crate) fn unread(quarantined: &[pool::Place]) -> Option<String> {
    let place = quarantined.iter().find(|place| place.unread)?;
    Some(format!(
        "slot {} of {} cannot be read",
        place.slot.map_or("?".into(), |slot| slot.to_string()),
        place.slab.file_name()
    ))
}

pub(crate) fn by_vdisk(groups: Vec<GroupHeader>) -> BTreeMap<VdiskId, Vec<GroupHeader>> {
    let mut by_id: BTreeMap<VdiskId, Vec<GroupHeader>> = BTreeMap::new();
    for header in groups {
        by_id.entry(header.vdisk).or_default().push(header);
    }
    by_id
}
