//! `/metrics` read by a strict parser of the Prometheus text format.

use crate::client::{Call, Server, TOKEN};
use api::{Patience, Settings, Token};
use control::model::Model;
use control::{
    Control, ControlFuture, Histogram, Metrics, OperationKind, OperationMetrics, ProcessMetrics, VdiskMetrics,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

type Labels = BTreeMap<String, String>;

#[derive(Debug)]
struct Sample {
    name: String,
    labels: Labels,
    value: f64,
}

#[derive(Debug, Default)]
struct Family {
    kind: String,
    help: String,
    samples: Vec<Sample>,
}

/// Panics at the first line that the format (prometheus.io, "Text-based format") does not allow.
fn parse(text: &str) -> BTreeMap<String, Family> {
    assert!(text.ends_with('\n'), "the last line ends in a newline");
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("HELP has a text");
            assert!(!families.contains_key(name), "{name} twice: its samples must stand together");
            current = name.to_string();
            families.insert(current.clone(), Family { help: help.to_string(), ..Family::default() });
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("TYPE has a kind");
            assert_eq!(name, current, "TYPE follows HELP");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            families.get_mut(name).expect("HELP came before").kind = kind.to_string();
        } else {
            let sample = parse_sample(line);
            let family = families.get_mut(&current).expect("HELP and TYPE come first");
            let suffix = sample.name.strip_prefix(&current).unwrap_or_else(|| panic!("{line} among {current}"));
            let allowed: &[&str] = if family.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(allowed.contains(&suffix), "{line} in a {}", family.kind);
            assert!(family.kind != "counter" || current.ends_with("_total"), "counter {current}");
            family.samples.push(sample);
        }
    }
    check_unique(&families);
    families
        .iter()
        .filter(|(_, family)| family.kind == "histogram")
        .for_each(|(name, family)| check_buckets(name, family));
    families
}

fn parse_sample(line: &str) -> Sample {
    let name_end = line.find(['{', ' ']).unwrap_or_else(|| panic!("no value: {line}"));
    let (name, mut rest) = line.split_at(name_end);
    assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'), "{line}");
    let mut labels = Labels::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (key, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("no label: {line}"));
            assert!(key.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{line}");
            let (value, after) = unquote(after, line);
            assert!(labels.insert(key.to_string(), value).is_none(), "{key} twice: {line}");
            if let Some(end) = after.strip_prefix('}') {
                rest = end;
                break;
            }
            rest = after.strip_prefix(',').unwrap_or_else(|| panic!("no comma: {line}"));
        }
    }
    let value = rest.strip_prefix(' ').unwrap_or_else(|| panic!("no space: {line}"));
    let value = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
    Sample { name: name.to_string(), labels, value }
}

fn unquote<'a>(text: &'a str, line: &str) -> (String, &'a str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => match chars.next().map(|(_, c)| c) {
                Some('n') => value.push('\n'),
                Some(c @ ('\\' | '"')) => value.push(c),
                other => panic!("escape {other:?}: {line}"),
            },
            c => value.push(c),
        }
    }
    panic!("no closing quote: {line}")
}

fn check_unique(families: &BTreeMap<String, Family>) {
    let mut seen = BTreeSet::new();
    for sample in families.values().flat_map(|family| &family.samples) {
        assert!(seen.insert((&sample.name, &sample.labels)), "{sample:?} occurs twice");
    }
}

/// Buckets rise to +Inf, which equals the count.
fn check_buckets(name: &str, family: &Family) {
    #[derive(Default)]
    struct Series {
        buckets: Vec<(f64, f64)>,
        sum: Option<f64>,
        count: Option<f64>,
    }
    let mut series: BTreeMap<Labels, Series> = BTreeMap::new();
    for sample in &family.samples {
        let mut labels = sample.labels.clone();
        let bound = labels.remove("le");
        let entry = series.entry(labels).or_default();
        match (sample.name.strip_prefix(name), bound) {
            (Some("_bucket"), Some(bound)) => entry.buckets.push((bound.parse().expect("a bound"), sample.value)),
            (Some("_sum"), None) => entry.sum = Some(sample.value),
            (Some("_count"), None) => entry.count = Some(sample.value),
            _ => panic!("{sample:?}"),
        }
    }
    for (labels, Series { buckets, sum, count }) in series {
        assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{name} {labels:?}: {buckets:?}");
        let last = buckets.last().expect("buckets");
        assert_eq!((last.0, Some(last.1)), (f64::INFINITY, count), "{name} {labels:?}");
        assert!(sum.is_some(), "{name} {labels:?} has no sum");
    }
}

/// A model whose metrics are given.
struct Fixed(Model, Metrics);

macro_rules! pass_on {
    ($($verb:ident($($arg:ident: $kind:ty),*) -> $out:ty;)*) => {
        impl Control for Fixed {
            $(fn $verb<'a>(&'a self, $($arg: $kind),*) -> ControlFuture<'a, $out> { self.0.$verb($($arg),*) })*
            fn snapshots(&self) -> &dyn control::SnapshotControl {
                &self.0
            }
            fn containers(&self) -> &dyn control::ContainerControl {
                &self.0
            }
            fn rewind(&self) -> &dyn control::RewindControl {
                &self.0
            }
            fn vms(&self) -> &dyn control::VmControl {
                &self.0
            }
            fn vm_groups(&self) -> &dyn control::GroupControl {
                &self.0
            }
            fn schedules(&self) -> &dyn control::ScheduleControl {
                &self.0
            }
            fn iscsi(&self) -> &dyn control::IscsiControl {
                &self.0
            }
            fn metrics(&self) -> ControlFuture<'_, Metrics> {
                let metrics = self.1.clone();
                Box::pin(std::future::ready(Ok(metrics)))
            }
        }
    };
}

pass_on! {
    create_vdisk(request: control::CreateVdisk) -> control::VdiskInfo;
    list_vdisks(request: control::ListVdisks) -> control::VdiskPage;
    show_vdisk(name: &'a str) -> control::VdiskInfo;
    resize_vdisk(name: &'a str, size_bytes: u64) -> control::VdiskInfo;
    rename_vdisk(name: &'a str, new_name: &'a str) -> control::VdiskInfo;
    set_vdisk(name: &'a str, set: control::SetVdisk) -> control::VdiskInfo;
    delete_vdisk(name: &'a str, delete: control::DeleteVdisk) -> ();
    read(name: &'a str, offset: u64, len: u32) -> bytes::Bytes;
    write(name: &'a str, offset: u64, data: bytes::Bytes) -> ();
    write_zeroes(name: &'a str, offset: u64, len: u64) -> ();
    flush(name: &'a str) -> ();
    extents(name: &'a str, offset: u64, len: u64) -> control::ExtentPage;
    status() -> control::NodeStatus;
}

fn some_metrics() -> Metrics {
    let mut latency = Histogram::default();
    for ns in [5_000, 20_000, 20_000, 3_000_000, 60_000_000_000] {
        latency.record_ns(ns);
    }
    let read = OperationMetrics { operation: OperationKind::Read, bytes: 4096, errors: 1, latency };
    let flush = OperationMetrics { operation: OperationKind::Flush, bytes: 0, errors: 0, latency };
    let mut metrics = Metrics::default();
    // Names never look like this; labels are escaped all the same.
    for name in ["demo", "quote\" back\\ line\n"] {
        let operations = vec![read.clone(), flush.clone()];
        metrics.vdisks.push(VdiskMetrics {
            name: name.to_string(),
            state: "online".to_string(),
            iscsi_sessions: 1,
            in_flight: 3,
            operations,
            ..VdiskMetrics::default()
        });
    }
    metrics.engine.client_bytes_written = 100;
    metrics.engine.bytes_written.data = 100;
    metrics.engine.bytes_written.pages = 50;
    metrics.engine.replay_ns = 1_500_000_000;
    metrics.engine.writes_held_back_ns = 2_500_000_000;
    metrics.engine.sync_latency = latency;
    metrics.engine.snapshot_hold = latency;
    metrics.process = Some(ProcessMetrics { cpu_seconds: 2.5, open_descriptors: 40, ..ProcessMetrics::default() });
    metrics
}

async fn served(metrics: Metrics) -> BTreeMap<String, Family> {
    let control: Arc<dyn Control> = Arc::new(Fixed(Model::default(), metrics));
    let token = Token::new(TOKEN).expect("not empty");
    let settings = Settings { token, request_timeout: Duration::from_secs(5) };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let ended = tokio::spawn(api::serve(
        listener,
        api::router(control, settings),
        Patience::with_connections(8),
        std::future::pending(),
    ));
    let server = Server { address, model: Arc::default(), stop: None, ended };
    let answer = server.send(Call::new("GET", "/metrics")).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "text/plain; version=0.0.4; charset=utf-8"));
    parse(std::str::from_utf8(&answer.body).expect("text"))
}

fn value(families: &BTreeMap<String, Family>, family: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let labels: Labels = labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    let samples = &families.get(family).unwrap_or_else(|| panic!("no family {family}")).samples;
    let found = samples.iter().find(|sample| sample.name == name && sample.labels == labels);
    found.unwrap_or_else(|| panic!("no {name} {labels:?} in {samples:?}")).value
}

#[tokio::test]
async fn metrics_are_well_formed_and_say_what_happened() {
    let families = served(some_metrics()).await;
    let duration = "drystone_vdisk_operation_duration_seconds";
    let odd = "quote\" back\\ line\n";
    for (family, name, labels, expect) in [
        (
            "drystone_vdisk_operations_total",
            "drystone_vdisk_operations_total",
            &[("vdisk", "demo"), ("operation", "read")][..],
            5.0,
        ),
        (
            "drystone_vdisk_operation_bytes_total",
            "drystone_vdisk_operation_bytes_total",
            &[("vdisk", odd), ("operation", "read")],
            4096.0,
        ),
        (
            "drystone_vdisk_operation_errors_total",
            "drystone_vdisk_operation_errors_total",
            &[("vdisk", "demo"), ("operation", "read")],
            1.0,
        ),
        ("drystone_vdisk_in_flight", "drystone_vdisk_in_flight", &[("vdisk", "demo")], 3.0),
        ("drystone_vdisk_state", "drystone_vdisk_state", &[("vdisk", "demo"), ("state", "online")], 1.0),
        ("drystone_written_bytes_total", "drystone_written_bytes_total", &[("class", "pages")], 50.0),
        ("drystone_write_amplification", "drystone_write_amplification", &[], 1.5),
        ("drystone_replay_seconds_total", "drystone_replay_seconds_total", &[], 1.5),
        ("drystone_writes_held_back_seconds_total", "drystone_writes_held_back_seconds_total", &[], 2.5),
        ("drystone_sync_duration_seconds", "drystone_sync_duration_seconds_count", &[], 5.0),
        ("drystone_snapshot_hold_seconds", "drystone_snapshot_hold_seconds_count", &[], 5.0),
        ("process_cpu_seconds_total", "process_cpu_seconds_total", &[], 2.5),
        ("process_open_fds", "process_open_fds", &[], 40.0),
    ] {
        assert_eq!(value(&families, family, name, labels), expect, "{name} {labels:?}");
    }
    let bucket = |le| {
        let labels = [("vdisk", "demo"), ("operation", "flush"), ("le", le)];
        value(&families, duration, &format!("{duration}_bucket"), &labels)
    };
    assert_eq!(
        [bucket("0.00001"), bucket("0.000025"), bucket("0.005"), bucket("10"), bucket("+Inf")],
        [1.0, 3.0, 4.0, 4.0, 5.0]
    );
    assert!(families.values().all(|family| !family.help.is_empty() && !family.kind.is_empty()));
}

#[tokio::test]
async fn metrics_of_a_new_node_are_well_formed() {
    let families = served(Metrics::default()).await;
    assert!(!families.contains_key("drystone_write_amplification"), "nothing was written yet");
    assert_eq!(value(&families, "drystone_checkpoints_total", "drystone_checkpoints_total", &[]), 0.0);
}
