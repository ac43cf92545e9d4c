//! The buckets of every latency histogram: one table, so that counts of engine, pool and API can be added and shown.

/// Upper bounds, microseconds, inclusive; one more bucket takes what is longer.
/// From a cached read (10 µs) to a disk that hangs (10 s): about two buckets a factor of two and a half, 19 in all, which
/// keeps one histogram at 22 lines of Prometheus text.
pub const BOUNDS_US: [u64; 19] = [
    10, 25, 50, 100, 150, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 10_000_000,
];
pub const BUCKETS: usize = BOUNDS_US.len() + 1;

/// Index of the bucket that counts what took `ns`; below [`BUCKETS`].
pub fn bucket(ns: u64) -> usize {
    let us = ns.div_ceil(1_000);
    BOUNDS_US.partition_point(|bound| *bound < us)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_falls_into_the_bucket_of_its_bound() {
        for (ns, expect) in [
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
            assert_eq!(bucket(ns), expect, "{ns} ns");
        }
    }
}
