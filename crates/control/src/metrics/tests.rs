//! Buckets take what their bound says.

use super::*;

#[test]
fn latencies_fall_into_their_bucket() {
    for (ns, bucket) in [
        (0, 0),
        (1, 0),
        (10_000, 0),
        (10_001, 1),
        (25_000, 1),
        (1_000_000, 7),
        (1_000_001, 8),
        (10_000_000_000, 18),
        (10_000_000_001, 19),
        (u64::MAX, 19),
    ] {
        let mut histogram = Histogram::default();
        histogram.record_ns(ns);
        assert_eq!(histogram.buckets.iter().position(|count| *count == 1), Some(bucket), "{ns} ns");
        assert_eq!((histogram.count(), histogram.sum_ns), (1, ns));
    }
}

#[test]
fn histograms_add_up() {
    let (mut a, mut b) = (Histogram::default(), Histogram::default());
    a.record_ns(5_000);
    b.record_ns(5_000);
    b.record_ns(60_000_000);
    a.merge(&b);
    assert_eq!((a.count(), a.sum_ns, a.buckets[0]), (3, 60_010_000, 2));
}

#[test]
fn write_amplification_counts_every_class() {
    let mut engine = EngineMetrics::default();
    assert_eq!(engine.write_amplification(), None);
    engine.client_bytes_written = 10;
    engine.bytes_written = BytesWritten { data: 10, headers: 1, pages: 2, control: 3, repacked: 4, padding: 5 };
    assert_eq!(engine.write_amplification(), Some(2.5));
}
