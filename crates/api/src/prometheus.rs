//! Metrics as Prometheus text, format 0.0.4: names end in their unit, times are seconds.

use control::{EngineMetrics, Histogram, Metrics, OperationMetrics, ProcessMetrics, ScheduleMetrics, VdiskMetrics};
use std::fmt::{Display, Write};

/// All of it: the build, every vDisk, the engine.
pub(crate) fn render(metrics: &Metrics) -> String {
    let mut page = Page { text: String::new() };
    page.family("drystone_build_info", "gauge", "Always 1; the label says which version runs.");
    page.sample("drystone_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    vdisks(&mut page, &metrics.vdisks);
    operations(&mut page, &metrics.vdisks);
    schedules(&mut page, &metrics.schedules);
    engine(&mut page, &metrics.engine);
    if let Some(of_process) = &metrics.process {
        process(&mut page, of_process);
    }
    page.text
}

struct Page {
    text: String,
}

impl Page {
    /// HELP and TYPE; the samples of the family follow, without others between them.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {}", help.replace('\\', "\\\\").replace('\n', "\\n")));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        if labels.is_empty() {
            return self.line(format_args!("{name} {value}"));
        }
        let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escape(value))).collect();
        self.line(format_args!("{name}{{{}}} {value}", labels.join(",")));
    }

    /// A family of one sample.
    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    /// Cumulative buckets, sum and count of one series.
    fn histogram(&mut self, name: &str, labels: &[(&str, &str)], histogram: &Histogram) {
        let bounds = base::latency::BOUNDS_US.iter().map(|us| format!("{}", *us as f64 / 1e6));
        let mut below = 0;
        for (bound, count) in bounds.chain(std::iter::once("+Inf".to_string())).zip(histogram.buckets) {
            below += count;
            let with_bound = [labels, &[("le", bound.as_str())]].concat();
            self.sample(&format!("{name}_bucket"), &with_bound, below);
        }
        self.sample(&format!("{name}_sum"), labels, seconds(histogram.sum_ns));
        self.sample(&format!("{name}_count"), labels, below);
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.text, "{line}").expect("a string takes everything");
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

fn schedules(page: &mut Page, schedules: &[ScheduleMetrics]) {
    type Read = fn(&ScheduleMetrics) -> u64;
    let families: [(&str, &str, &str, Read); 3] = [
        (
            "drystone_schedule_last_success_timestamp_seconds",
            "gauge",
            "When the last snapshot was taken, since 1970; 0 before the first.",
            |schedule| schedule.last_success_unix_seconds,
        ),
        ("drystone_schedule_failures_total", "counter", "Attempts that failed.", |schedule| schedule.failures),
        ("drystone_schedule_snapshots", "gauge", "Snapshots of it.", |schedule| schedule.snapshots.into()),
    ];
    if schedules.is_empty() {
        return;
    }
    for (name, kind, help, read) in families {
        page.family(name, kind, help);
        for schedule in schedules {
            page.sample(name, &[("schedule", &schedule.name)], read(schedule));
        }
    }
    page.family("drystone_schedule_state", "gauge", "1 for the state that the schedule is in.");
    for schedule in schedules {
        let labels = [("schedule", schedule.name.as_str()), ("state", schedule.state.as_str())];
        page.sample("drystone_schedule_state", &labels, 1);
    }
}

fn vdisks(page: &mut Page, vdisks: &[VdiskMetrics]) {
    type Read = fn(&VdiskMetrics) -> u64;
    let gauges: [(&str, &str, Read); 8] = [
        ("drystone_vdisk_size_bytes", "Size that the client sees.", |vdisk| vdisk.size_bytes),
        ("drystone_vdisk_mapped_bytes", "Bytes of the address space that hold data.", |vdisk| vdisk.mapped_bytes),
        ("drystone_vdisk_stored_bytes", "Bytes that its extent groups take on disk.", |vdisk| vdisk.stored_bytes),
        (
            "drystone_vdisk_copied_dead_bytes",
            "Bytes of them that it does not need, beside what copies have taken over.",
            |vdisk| vdisk.copied_dead_bytes,
        ),
        ("drystone_vdisk_connections", "NBD connections and iSCSI sessions.", |vdisk| vdisk.connections.into()),
        ("drystone_vdisk_iscsi_sessions", "iSCSI sessions.", |vdisk| vdisk.iscsi_sessions.into()),
        ("drystone_vdisk_snapshots", "Snapshots of it.", |vdisk| vdisk.snapshots.into()),
        ("drystone_vdisk_in_flight", "Requests taken and not yet answered.", |vdisk| vdisk.in_flight.into()),
    ];
    for (name, help, read) in gauges {
        page.family(name, "gauge", help);
        for vdisk in vdisks {
            page.sample(name, &[("vdisk", &vdisk.name)], read(vdisk));
        }
    }
    type ReadRewind = fn(&control::RewindInfo) -> u64;
    let gauges: [(&str, &str, ReadRewind); 3] = [
        ("drystone_vdisk_rewind_held_bytes", "What its history holds.", |rewind| rewind.held_bytes),
        ("drystone_vdisk_rewind_since_seconds", "The oldest moment that can be had, since 1970.", |rewind| {
            rewind.since_unix_ms.unwrap_or(0) / 1000
        }),
        ("drystone_vdisk_rewind_cut_short", "1 if its history went for space.", |rewind| rewind.cut_short.into()),
    ];
    for (name, help, read) in gauges {
        page.family(name, "gauge", help);
        for (vdisk, rewind) in vdisks.iter().filter_map(|vdisk| Some((vdisk, vdisk.rewind.as_ref()?))) {
            page.sample(name, &[("vdisk", &vdisk.name)], read(rewind));
        }
    }
    page.family("drystone_vdisk_state", "gauge", "1 for the state that the vDisk is in.");
    for vdisk in vdisks {
        page.sample("drystone_vdisk_state", &[("vdisk", &vdisk.name), ("state", &vdisk.state)], 1);
    }
}

fn operations(page: &mut Page, vdisks: &[VdiskMetrics]) {
    type Read = fn(&OperationMetrics) -> u64;
    let counters: [(&str, &str, Read); 3] = [
        ("drystone_vdisk_operations_total", "Requests answered.", |operation| operation.latency.count()),
        ("drystone_vdisk_operation_bytes_total", "Bytes of successful requests.", |operation| operation.bytes),
        ("drystone_vdisk_operation_errors_total", "Requests answered with an error.", |operation| operation.errors),
    ];
    let series = || vdisks.iter().flat_map(|vdisk| vdisk.operations.iter().map(move |operation| (vdisk, operation)));
    for (name, help, read) in counters {
        page.family(name, "counter", help);
        for (vdisk, operation) in series() {
            page.sample(name, &[("vdisk", &vdisk.name), ("operation", operation.operation.word())], read(operation));
        }
    }
    let name = "drystone_vdisk_operation_duration_seconds";
    page.family(name, "histogram", "Time from taking a request to its answer.");
    for (vdisk, operation) in series() {
        page.histogram(name, &[("vdisk", &vdisk.name), ("operation", operation.operation.word())], &operation.latency);
    }
}

fn engine(page: &mut Page, engine: &EngineMetrics) {
    page.family("drystone_written_bytes_total", "counter", "Bytes written to disk, by class.");
    for (class, bytes) in engine.bytes_written.by_class() {
        page.sample("drystone_written_bytes_total", &[("class", class)], bytes);
    }
    if let Some(amplification) = engine.write_amplification() {
        let help = "Bytes written to disk for each byte that clients wrote, since the start.";
        page.single("drystone_write_amplification", "gauge", help, amplification);
    }
    for (name, help, value) in engine_counters(engine) {
        page.single(name, "counter", help, value);
    }
    for (name, help, value) in engine_gauges(engine) {
        page.single(name, "gauge", help, value);
    }
    let help = "Time spent on replay, summed over vDisks.";
    page.single("drystone_replay_seconds_total", "counter", help, seconds(engine.replay_ns));
    let help = "Time for which writes were held back since re-packing was behind, summed over vDisks.";
    page.single("drystone_writes_held_back_seconds_total", "counter", help, seconds(engine.writes_held_back_ns));
    page.family("drystone_sync_duration_seconds", "histogram", "Time that syncs of the disk took.");
    page.histogram("drystone_sync_duration_seconds", &[], &engine.sync_latency);
    let help = "Time for which the vDisks of a shard held back writes for a snapshot of a VM.";
    page.family("drystone_snapshot_hold_seconds", "histogram", help);
    page.histogram("drystone_snapshot_hold_seconds", &[], &engine.snapshot_hold);
}

/// Names and meanings as in Prometheus' "Writing client libraries", section "Process metrics".
fn process(page: &mut Page, process: &ProcessMetrics) {
    let help = "User and system CPU time of all threads.";
    page.single("process_cpu_seconds_total", "counter", help, process.cpu_seconds);
    let help = "When the process started, seconds since 1970.";
    page.single("process_start_time_seconds", "gauge", help, process.started_unix_seconds);
    for (name, help, value) in [
        ("process_resident_memory_bytes", "Resident memory.", process.resident_bytes),
        ("process_open_fds", "Open file descriptors.", process.open_descriptors),
        ("process_max_fds", "Limit of open file descriptors.", process.descriptors_max),
        ("process_threads", "Threads.", process.threads),
    ] {
        page.single(name, "gauge", help, value);
    }
}

type Single = (&'static str, &'static str, u64);

fn engine_counters(engine: &EngineMetrics) -> [Single; 12] {
    [
        ("drystone_client_written_bytes_total", "Bytes that clients wrote.", engine.client_bytes_written),
        ("drystone_map_cache_hits_total", "Map pages found in memory.", engine.map_cache_hits),
        ("drystone_map_cache_misses_total", "Map pages read from disk.", engine.map_cache_misses),
        ("drystone_ram_cache_hits_total", "Extents found in memory.", engine.ram_cache_hits),
        ("drystone_ram_cache_misses_total", "Extents read from disk.", engine.ram_cache_misses),
        ("drystone_checkpoints_total", "Checkpoints committed.", engine.checkpoints),
        ("drystone_replay_bytes_total", "Bytes of log replayed since the start.", engine.replay_bytes),
        ("drystone_sync_errors_total", "Syncs that failed.", engine.sync_errors),
        ("drystone_repack_freed_bytes_total", "Dead bytes given back by re-packing.", engine.repack_freed_bytes),
        ("drystone_checksum_errors_total", "Extents whose checksum failed.", engine.checksum_errors),
        (
            "drystone_connections_accepted_total",
            "NBD connections and iSCSI sessions begun.",
            engine.connections_accepted,
        ),
        ("drystone_iscsi_sessions_begun_total", "iSCSI sessions begun.", engine.iscsi_sessions_begun),
    ]
}

fn engine_gauges(engine: &EngineMetrics) -> [Single; 14] {
    [
        ("drystone_log_bytes", "Log that a crash now would replay.", engine.log_bytes),
        ("drystone_map_cache_bytes", "Memory of cached map pages.", engine.map_cache_bytes),
        ("drystone_ram_cache_bytes", "Memory of cached extents.", engine.ram_cache_bytes),
        ("drystone_slabs_poisoned", "Slabs whose sync failed.", engine.slabs_poisoned),
        ("drystone_groups_quarantined", "Extent groups that nobody knows.", engine.groups_quarantined),
        (
            "drystone_space_held_up",
            "vDisks that keep space of others from coming free: what they need is not known.",
            engine.space_held_up,
        ),
        ("drystone_connections", "NBD connections and iSCSI sessions.", engine.connections),
        ("drystone_vms", "VMs, templates among them.", engine.vms),
        ("drystone_iscsi_sessions", "iSCSI sessions.", engine.iscsi_sessions),
        ("drystone_memory_budget_bytes", "Memory that may be used.", engine.memory_budget_bytes),
        ("drystone_memory_used_bytes", "Memory that is used.", engine.memory_used_bytes),
        ("drystone_disk_capacity_bytes", "Size of the disk.", engine.disk_capacity_bytes),
        ("drystone_disk_used_bytes", "Bytes taken by extent groups.", engine.disk_used_bytes),
        ("drystone_disk_available_bytes", "Bytes that may still be written.", engine.disk_available_bytes),
    ]
}
