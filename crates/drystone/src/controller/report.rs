//! What is said of vDisks and of the node: summaries of the shards in the control plane's words.

use super::containers::Containers;
use super::layout::shard_path;
use super::verbs::Verbs;
use base::VdiskId;
use control::{
    BytesWritten, DiskState, DiskStatus, EngineMetrics, Histogram, MemoryStatus, Metrics, NodeStatus, OperationKind,
    OperationMetrics, ProcessMetrics, Result, ShardStatus, VdiskCounts, VdiskInfo, VdiskMetrics, VdiskState, rules,
};
use node::{Shard, ShardSummary, Totals, VdiskSummary};
use pool::{PoolConfig, Usage};
use std::time::UNIX_EPOCH;
use vdisk::Health as EngineHealth;

/// Bytes of a map page in memory.
const PAGE_BYTES: u64 = 4096;

/// Less room than a write of the largest size needs: from here on writes fail, large ones first. A threshold beside
/// "the reserve was touched" because refused writes touch no reserve.
const ROOM_BYTES_MIN: u64 = rules::TRANSFER_BYTES_MAX as u64;

/// The disk's free space as it is now; what the engine saw last may be half a minute old. If the disk does not tell,
/// the maintenance loop logs that.
pub async fn look_at_space(shard: &Shard) {
    let _ = shard.context.pool.refresh_usage().await;
}

/// What is set aside on each disk. It is allocated, but holds nothing.
fn reserve_bytes() -> u64 {
    PoolConfig::default().ballast_bytes
}

/// What extent groups take. Of a reserve that was touched the rest counts too: the disk is full then.
fn used_bytes(usage: &Usage) -> u64 {
    usage.allocated_bytes.saturating_sub(if usage.ballast_whole { reserve_bytes() } else { 0 })
}

/// What may still be written. Nothing, while the reserve waits for space of its own.
fn available_bytes(usage: &Usage) -> u64 {
    if usage.ballast_whole { usage.disk.free_bytes + usage.recycled_bytes } else { 0 }
}

pub(super) fn is_full(usage: &Usage) -> bool {
    // A disk that does not tell has the capacity 0.
    usage.disk.capacity_bytes > 0 && available_bytes(usage) < ROOM_BYTES_MIN
}

pub fn info(shard: &Shard, id: VdiskId, containers: &Containers) -> Option<VdiskInfo> {
    let summary = shard.summary_of(id)?;
    let state = state(&summary, &shard.context.pool.usage());
    let record = summary.record;
    let rewind = shard.rewind_info(id).map(super::rewind::rewind_info);
    Some(VdiskInfo {
        id: record.id.to_string(),
        name: record.name,
        size_bytes: record.size_bytes,
        sector_bytes: record.sector_bytes,
        read_only: record.read_only,
        state,
        mapped_bytes: summary.space.mapped_bytes,
        stored_bytes: summary.space.stored_bytes,
        created_unix_ms: record.created_wall_ns / 1_000_000,
        connections: summary.connections,
        shard: shard.number.into(),
        epoch: summary.epoch,
        rewind,
        container: containers.name_of(id),
        rewind_inherited: containers.member(id).map_or(rewind.is_none(), |member| member.inherits),
    })
}

fn state(summary: &VdiskSummary, usage: &Usage) -> VdiskState {
    if let Some(reason) = &summary.broken {
        return VdiskState::Damaged { reason: reason.clone() };
    }
    match &summary.health {
        Some(EngineHealth::Damaged(reason) | EngineHealth::Failed(reason)) => {
            return VdiskState::Damaged { reason: reason.clone() };
        }
        Some(EngineHealth::Online | EngineHealth::Deleted) => {}
        None if summary.opening => return VdiskState::Recovering { percent: 0 },
        None => {}
    }
    if summary.record.read_only {
        return VdiskState::ReadOnly;
    }
    if is_full(usage) { VdiskState::Full } else { VdiskState::Online }
}

/// One shard's part of every report, taken on its worker.
pub(super) struct ShardReport {
    pub(super) number: u16,
    pub(super) summary: ShardSummary,
    pub(super) usage: Usage,
    pub(super) totals: Totals,
    disk: String,
    groups: u64,
    pub(super) infos: Vec<VdiskInfo>,
    metrics: Vec<VdiskMetrics>,
    replay_bytes: u64,
    replay_ns: u64,
    pub(super) quarantined: usize,
    pub(super) troubles: Vec<String>,
    holding_up: u64,
}

fn report(shard: &Shard, containers: &Containers, with_metrics: bool) -> ShardReport {
    let records = shard.records();
    let infos: Vec<VdiskInfo> = records.iter().filter_map(|record| info(shard, record.id, containers)).collect();
    let usage = shard.context.pool.usage();
    let metrics = if with_metrics { vdisk_metrics(shard, &infos) } else { Vec::new() };
    ShardReport {
        number: shard.number,
        summary: shard.summary(),
        groups: usage.slots_used,
        usage,
        totals: shard.totals(),
        disk: shard.context.pool.identity().disk.to_string(),
        infos,
        metrics,
        replay_bytes: shard.replayed_bytes.get(),
        replay_ns: shard.replay_ns.get(),
        quarantined: shard.quarantined,
        troubles: troubles(shard),
        holding_up: shard.holding_up().len() as u64,
    }
}

fn troubles(shard: &Shard) -> Vec<String> {
    let of_vdisks = shard.open_vdisks().into_iter().filter_map(|vdisk| {
        let trouble = vdisk.trouble()?;
        Some(format!("vDisk {}: {trouble}", vdisk.attributes().name))
    });
    of_vdisks.chain(shard.broken_unknown()).chain(shard.holding_up()).collect()
}

fn vdisk_metrics(shard: &Shard, infos: &[VdiskInfo]) -> Vec<VdiskMetrics> {
    let open = shard.open_vdisks();
    let metrics = infos.iter().map(|info| {
        let vdisk = open.iter().find(|vdisk| vdisk.id.to_string() == info.id);
        VdiskMetrics {
            name: info.name.clone(),
            state: info.state.word().to_string(),
            size_bytes: info.size_bytes,
            mapped_bytes: info.mapped_bytes,
            stored_bytes: info.stored_bytes,
            copied_dead_bytes: vdisk.map_or(0, |vdisk| vdisk.copied_dead_bytes()),
            connections: info.connections,
            iscsi_sessions: 0,
            snapshots: 0,
            rewind: info.rewind,
            in_flight: vdisk.map_or(0, |vdisk| vdisk.stats.in_flight.get() as u32),
            operations: vdisk.map_or_else(Vec::new, |vdisk| operations(&vdisk.stats)),
        }
    });
    metrics.collect()
}

fn operations(stats: &vdisk::Stats) -> Vec<OperationMetrics> {
    let recorded = OperationKind::ALL.into_iter().zip(stats.operations());
    recorded
        .filter(|(_, of_kind)| of_kind.count > 0)
        .map(|(operation, of_kind)| OperationMetrics {
            operation,
            bytes: of_kind.bytes,
            errors: of_kind.errors,
            latency: Histogram { buckets: of_kind.buckets, sum_ns: of_kind.total_ns },
        })
        .collect()
}

impl Verbs {
    pub(super) async fn reports(&self, with_metrics: bool) -> Result<Vec<ShardReport>> {
        let mut reports = Vec::new();
        for number in self.shards.numbers() {
            let containers = self.containers.clone();
            let one = self.shards.on(number, move |shard| {
                Box::pin(async move {
                    look_at_space(&shard).await;
                    Ok(report(&shard, &containers, with_metrics))
                })
            });
            reports.push(one.await?);
        }
        Ok(reports)
    }

    pub(super) async fn node_status(&self) -> Result<NodeStatus> {
        let reports = self.reports(false).await?;
        let started = self.started_wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(NodeStatus {
            version: env!("CARGO_PKG_VERSION").to_string(),
            node: self.node,
            data_directory: self.config.data.display().to_string(),
            started_unix_ms: started.as_millis() as u64,
            uptime_seconds: self.started.elapsed().as_secs(),
            health: self.health(&reports),
            listeners: self.all_listeners(),
            shards: reports.iter().map(shard_status).collect(),
            disks: reports.iter().map(|report| self.disk_status(report)).collect(),
            memory: self.memory(&reports),
            vdisks: counts(&reports),
            connections: reports.iter().map(|report| report.summary.connections).sum(),
        })
    }

    fn all_listeners(&self) -> Vec<control::Listener> {
        let api = control::Listener {
            protocol: control::Protocol::Api,
            address: self.config.api.listen.to_string(),
            tls: false,
        };
        std::iter::once(api).chain(self.listeners.iter().cloned()).collect()
    }

    fn disk_status(&self, report: &ShardReport) -> DiskStatus {
        let usage = &report.usage;
        let state = if usage.poisoned_slabs > 0 {
            DiskState::Failed { reason: "a sync failed".to_string() }
        } else if is_full(usage) {
            DiskState::Full
        } else {
            DiskState::Online
        };
        DiskStatus {
            id: report.disk.clone(),
            path: shard_path(&self.config.data, report.number).display().to_string(),
            state,
            capacity_bytes: usage.disk.capacity_bytes,
            used_bytes: used_bytes(usage),
            available_bytes: available_bytes(usage),
            reserve_bytes: reserve_bytes(),
            groups: report.groups,
        }
    }

    fn memory(&self, reports: &[ShardReport]) -> MemoryStatus {
        let cache = self.cache.stats();
        let map: u64 = reports.iter().map(|report| report.summary.map_bytes).sum();
        let dirty: u64 = reports.iter().map(|report| report.summary.dirty_pages * PAGE_BYTES).sum::<u64>().min(map);
        let buffers: u64 = reports.iter().map(|report| report.summary.unsynced_bytes).sum();
        MemoryStatus {
            budget_bytes: self.config.memory_bytes,
            used_bytes: cache.bytes + map + buffers,
            cache_bytes: cache.bytes + map - dirty,
            dirty_map_bytes: dirty,
            buffer_bytes: buffers,
        }
    }

    pub(super) async fn all_metrics(&self) -> Result<Metrics> {
        let reports = self.reports(true).await?;
        let engine = self.engine_metrics(&reports);
        let mut vdisks: Vec<VdiskMetrics> = reports.into_iter().flat_map(|report| report.metrics).collect();
        let sessions = self.sessions.list();
        for vdisk in &mut vdisks {
            let Some(listed) = self.directory.find(&vdisk.name) else { continue };
            vdisk.snapshots = listed.snapshots.len() as u32;
            let sees = |session: &&crate::iscsi::SessionInfo| session.units.contains(&listed.id.raw());
            vdisk.iscsi_sessions = sessions.iter().filter(sees).count() as u32;
        }
        Ok(Metrics { vdisks, schedules: self.schedule_metrics(), engine, process: self.process_metrics() })
    }

    fn process_metrics(&self) -> Option<ProcessMetrics> {
        let stats = metal::process::stats().ok()?;
        let started = self.started_wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        Some(ProcessMetrics {
            cpu_seconds: stats.cpu_seconds,
            resident_bytes: stats.resident_bytes,
            open_descriptors: stats.open_descriptors,
            descriptors_max: stats.descriptors_max,
            threads: stats.threads,
            started_unix_seconds: started.as_secs_f64(),
        })
    }

    fn engine_metrics(&self, reports: &[ShardReport]) -> EngineMetrics {
        let cache = self.cache.stats();
        let memory = self.memory(reports);
        let sum = |of: fn(&ShardReport) -> u64| reports.iter().map(of).sum::<u64>();
        let (mut sync_latency, mut snapshot_hold) = (Histogram::default(), Histogram::default());
        for report in reports {
            let held = report.summary.hold_times;
            snapshot_hold.merge(&Histogram { buckets: held.buckets, sum_ns: held.total_ns });
            let latency = report.usage.sync_latency;
            sync_latency.merge(&Histogram { buckets: latency.buckets, sum_ns: latency.total_ns });
        }
        EngineMetrics {
            log_bytes: sum(|r| r.summary.log_bytes),
            client_bytes_written: sum(|r| r.totals.client_bytes),
            bytes_written: BytesWritten {
                data: sum(|r| r.totals.data_bytes),
                headers: sum(|r| r.totals.header_bytes),
                pages: sum(|r| r.totals.page_bytes),
                control: sum(|r| r.totals.control_bytes),
                repacked: sum(|r| r.totals.relocated_bytes),
                padding: sum(|r| r.usage.padded_bytes),
            },
            map_cache_hits: sum(|r| r.totals.map_lookups.saturating_sub(r.totals.map_page_loads)),
            map_cache_misses: sum(|r| r.totals.map_page_loads),
            map_cache_bytes: sum(|r| r.summary.map_bytes),
            ram_cache_hits: cache.hits,
            ram_cache_misses: cache.misses,
            ram_cache_bytes: cache.bytes,
            checkpoints: sum(|r| r.totals.checkpoints),
            replay_bytes: sum(|r| r.replay_bytes),
            replay_ns: sum(|r| r.replay_ns),
            sync_latency,
            snapshot_hold,
            sync_errors: sum(|r| r.usage.sync_failures),
            writes_held_back_ns: sum(|r| r.totals.held_back_ns),
            repack_freed_bytes: sum(|r| r.totals.bytes_freed + r.totals.bytes_punched),
            slabs_poisoned: sum(|r| r.usage.poisoned_slabs as u64),
            groups_quarantined: sum(|r| r.usage.slots_quarantined),
            space_held_up: sum(|r| r.holding_up),
            checksum_errors: sum(|r| r.totals.checksum_failures),
            connections: sum(|r| r.summary.connections.into()),
            connections_accepted: sum(|r| r.summary.accepted),
            vms: self.vms.all().len() as u64,
            iscsi_sessions: self.sessions.list().len() as u64,
            iscsi_sessions_begun: self.sessions.begun(),
            memory_budget_bytes: memory.budget_bytes,
            memory_used_bytes: memory.used_bytes,
            disk_capacity_bytes: reports.iter().map(|r| r.usage.disk.capacity_bytes).max().unwrap_or(0),
            disk_used_bytes: sum(|r| used_bytes(&r.usage)),
            // Shards share the disk, not their recycled space.
            disk_available_bytes: reports.iter().map(|r| available_bytes(&r.usage)).max().unwrap_or(0),
        }
    }
}

fn shard_status(report: &ShardReport) -> ShardStatus {
    ShardStatus {
        shard: report.number.into(),
        vdisks: report.summary.vdisks,
        connections: report.summary.connections,
        in_flight: report.summary.in_flight as u32,
    }
}

fn counts(reports: &[ShardReport]) -> VdiskCounts {
    let mut counts = VdiskCounts::default();
    for info in reports.iter().flat_map(|report| &report.infos) {
        counts.total += 1;
        let of_state = match info.state {
            VdiskState::Online => &mut counts.online,
            VdiskState::Recovering { .. } => &mut counts.recovering,
            VdiskState::Damaged { .. } => &mut counts.damaged,
            VdiskState::ReadOnly => &mut counts.read_only,
            VdiskState::Full => &mut counts.full,
        };
        *of_state += 1;
    }
    counts
}
