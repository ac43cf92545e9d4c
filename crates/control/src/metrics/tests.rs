//! Histograms add up, and so does what was written.

use super::*;

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
