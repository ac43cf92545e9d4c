//! `drystone recover`: the metadata store is built anew from the disks alone.

use super::access::AccessNote;
use super::errors::from_node;
use super::groups::{self, Group};
use super::layout::{FORMAT, memory, shard_config, shard_path, shards_on_disk, store_path};
use super::recover_vms::{self, AllTold, FoundRecords};
use super::shards::Shards;
use super::start::{ToStore, sync_directory};
use crate::cli::{Recovered, RecoveredVdisk};
use crate::config::Config;
use anyhow::{Context, Result, anyhow, bail};
use meta::{NodeRecord, Outcome, RedbCore, RedbStore, Store, Transaction, keys};
use metal::{Actor, Directory, Workers};
use node::{Rebuilt, Shard, ShardConfig};
use pool::Cache;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use vdisk::NoteKind;

/// VMs, and schedules, that are told by name; `drystone vm list` and `schedule list` have all of them.
const NAMES_TOLD: usize = 10;

/// Rebuilds the metadata store from the disks. A store that is there is kept beside the new one as `meta.redb.replaced`.
pub fn recover(config: &Config) -> Result<Recovered> {
    let numbers = shards_on_disk(&config.data).with_context(|| format!("cannot read {}", config.data.display()))?;
    let Some(last) = numbers.last() else {
        bail!("{} has no shard folders: it is no data directory, or nothing is left of it", config.data.display());
    };
    let count = last + 1;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?;
    let workers = Workers::start(1, std::time::Duration::ZERO).context("cannot start a worker")?;
    let shards = Shards { workers, count };
    let result = runtime.block_on(rebuild(config, &shards, &numbers));
    shards.workers.stop();
    result
}

async fn rebuild(config: &Config, shards: &Shards, numbers: &[u16]) -> Result<Recovered> {
    let settings = shard_config(config, shards.count);
    let node = free_node(config, shards, numbers, &settings).await?;
    let fresh = config.data.join("meta.redb.rebuilding");
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).context("cannot begin anew"),
        _ => {}
    }
    let mut core = RedbCore::open(&fresh)?;
    let record = NodeRecord { node, shards: shards.count, format: FORMAT };
    let outcome = core.commit(&Transaction::new().put(keys::NODE, record.encode()))?;
    anyhow::ensure!(outcome == Outcome::Committed, "the first record could not be written");
    let store = Actor::start("metadata", core).context("cannot start the metadata store's thread")?;
    let cache = Arc::new(Cache::new(memory(config).cache_bytes));
    let mut recovered = Recovered { vdisks: Vec::new(), groups: 0, groups_quarantined: 0, node, notes: Vec::new() };
    let mut groups = BTreeMap::new();
    let mut told = AllTold::new();
    for number in numbers {
        let rebuilt = rebuild_shard(config, shards, *number, &settings, &store, &cache, node).await?;
        find_groups(&rebuilt, &mut groups);
        told.extend(rebuilt.vdisks.iter().map(|vdisk| (vdisk.id, recover_vms::told(vdisk))));
        add(&mut recovered, rebuilt);
    }
    store_groups(shards, &store, groups, &mut recovered).await?;
    store_vms(shards, &store, &told, &mut recovered).await?;
    store.stop();
    let path = store_path(&config.data);
    if path.exists() {
        let kept = config.data.join("meta.redb.replaced");
        std::fs::rename(&path, &kept).context("cannot set the old metadata store aside")?;
        recovered.notes.push(format!("the store that was there is kept as {}", kept.display()));
    }
    std::fs::rename(&fresh, &path).context("cannot put the new metadata store in its place")?;
    sync_directory(&config.data)?;
    recovered.vdisks.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(recovered)
}

/// A node number that nothing on these disks was made under.
async fn free_node(config: &Config, shards: &Shards, numbers: &[u16], settings: &ShardConfig) -> Result<u16> {
    let mut highest = 0;
    for number in numbers {
        let (path, settings, number) = (shard_path(&config.data, *number), settings.clone(), *number);
        let from = highest + 2;
        let found = shards.on_worker(number, move |context| {
            Box::pin(async move {
                let disk = open_disk(&context, &path)?;
                Shard::highest_node(context.world.clone(), disk, &settings, number, from).await.map_err(from_node)
            })
        });
        highest = highest.max(found.await.map_err(|error| anyhow!("shard {number}: {error}"))?);
    }
    highest.checked_add(1).context("node numbers are used up")
}

fn open_disk(context: &metal::WorkerContext, path: &Path) -> control::Result<Rc<dyn world::Disk>> {
    Directory::open(context, path).map_err(|error| control::Error::new(control::Kind::Internal, error.to_string()))
}

async fn rebuild_shard(
    config: &Config,
    shards: &Shards,
    number: u16,
    settings: &ShardConfig,
    store: &Actor<RedbCore>,
    cache: &Arc<Cache>,
    node: u16,
) -> Result<Rebuilt> {
    let path = shard_path(&config.data, number);
    let (settings, store, cache) = (settings.clone(), store.clone(), cache.clone());
    let rebuilt = shards.on_worker(number, move |context| {
        Box::pin(async move {
            let disk = open_disk(&context, &path)?;
            let store: Rc<dyn Store> = Rc::new(RedbStore::new(Box::new(ToStore(store))));
            Shard::rebuild(context.world.clone(), disk, store, cache, settings, node).await.map_err(from_node)
        })
    });
    rebuilt.await.map_err(|error| anyhow!("shard {number}: {error}"))
}

/// Initiator groups belong to no vDisk; those that one refers to are in its log, the newest copy counts.
fn find_groups(rebuilt: &Rebuilt, groups: &mut BTreeMap<String, Group>) {
    let notes = rebuilt.vdisks.iter().filter_map(|vdisk| vdisk.notes.get(&NoteKind::IscsiAccess));
    for (name, found) in notes.filter_map(|bytes| AccessNote::decode(bytes).ok()).flat_map(|note| note.groups) {
        let newest = groups.entry(name).or_insert_with(|| found.clone());
        if found.serial > newest.serial {
            *newest = found;
        }
    }
}

async fn store_groups(
    shards: &Shards,
    store: &Actor<RedbCore>,
    groups: BTreeMap<String, Group>,
    recovered: &mut Recovered,
) -> Result<()> {
    if groups.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = groups.keys().map(String::as_str).collect();
    recovered.notes.push(format!(
        "initiator groups found in the rules of vDisks: {}; groups that no vDisk used are gone",
        names.join(", ")
    ));
    let store = store.clone();
    let stored = shards.on_worker(0, move |_| {
        Box::pin(async move {
            let store = RedbStore::new(Box::new(ToStore(store)));
            for (name, group) in &groups {
                groups::store(&store, name, Some(group)).await.map_err(|error| from_node(error.into()))?;
            }
            Ok(())
        })
    });
    stored.await.map_err(|error| anyhow!("initiator groups: {error}"))
}

/// VMs, containers and schedules are found in the logs of their vDisks, sets of snapshots by their parts.
async fn store_vms(shards: &Shards, store: &Actor<RedbCore>, told: &AllTold, recovered: &mut Recovered) -> Result<()> {
    let found = FoundRecords::of(told);
    let transaction = found.transaction();
    let FoundRecords { vms, schedules, containers, .. } = found;
    if !vms.is_empty() {
        let names = some_names(vms.iter().map(|vm| vm.name.as_str()));
        recovered.notes.push(format!("VMs found in the logs of their vDisks: {names}"));
    }
    let named = containers.iter().map(|container| container.name.as_str());
    let named: Vec<&str> = named.filter(|name| *name != meta::DEFAULT_CONTAINER).collect();
    if !named.is_empty() {
        let names = some_names(named.into_iter());
        recovered.notes.push(format!("containers found in the logs of their vDisks: {names}"));
    }
    if !schedules.is_empty() {
        recovered.notes.push(format!(
            "schedules found in the logs of vDisks: {}; the snapshots that they took before stay, as those of users",
            some_names(schedules.iter().map(|schedule| schedule.name.as_str()))
        ));
    }
    let store = store.clone();
    let stored = shards.on_worker(0, move |_| {
        Box::pin(async move {
            let store = RedbStore::new(Box::new(ToStore(store)));
            store.commit(transaction).await.map_err(|error| from_node(error.into()))
        })
    });
    let outcome = stored.await.map_err(|error| anyhow!("VMs: {error}"))?;
    anyhow::ensure!(outcome == Outcome::Committed, "VMs could not be put on record");
    Ok(())
}

fn some_names<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    let more = names.len().saturating_sub(NAMES_TOLD);
    let told = names.take(NAMES_TOLD).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{told} and {more} more") } else { told }
}

fn add(recovered: &mut Recovered, rebuilt: Rebuilt) {
    recovered.groups += rebuilt.groups as u64;
    recovered.groups_quarantined += rebuilt.quarantined as u64;
    for vdisk in rebuilt.vdisks {
        if let Some(old) = &vdisk.renamed_from {
            recovered
                .notes
                .push(format!("two vDisks had the name {old:?}; {} is called {:?} now", vdisk.id, vdisk.name));
        }
        recovered.vdisks.push(RecoveredVdisk {
            id: vdisk.id.to_string(),
            name: vdisk.name,
            size_bytes: vdisk.size_bytes,
            replayed_bytes: vdisk.replayed_bytes,
            damage: vdisk.damage,
        });
    }
    for id in rebuilt.deleted {
        recovered.notes.push(format!("{id} was deleted; the next start frees its groups"));
    }
    for (id, reason) in rebuilt.lost {
        recovered.notes.push(format!("{id} cannot be read: {reason}; its groups are kept"));
    }
}
