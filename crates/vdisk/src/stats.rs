//! Counters of one vDisk: plain cells, read by the metrics.

use base::latency;
use std::cell::{Cell, RefCell};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum OperationKind {
    Read = 0,
    Write = 1,
    Flush = 2,
    Trim = 3,
    WriteZeroes = 4,
    Prefetch = 5,
    BlockStatus = 6,
    CompareAndWrite = 7,
    OrWrite = 8,
    Lend = 9,
    Take = 10,
}

pub const KINDS: usize = 11;

#[derive(Clone, Copy, Default, Debug)]
pub struct Histogram {
    pub count: u64,
    pub errors: u64,
    pub bytes: u64,
    pub total_ns: u64,
    pub buckets: [u64; latency::BUCKETS],
}

#[derive(Default)]
pub struct Stats {
    operations: RefCell<[Histogram; KINDS]>,
    pub in_flight: Cell<u64>,
    /// Bytes appended, by what they are. `header_bytes` has headers and alignment of all kinds.
    pub data_bytes: Cell<u64>,
    pub relocated_bytes: Cell<u64>,
    pub page_bytes: Cell<u64>,
    pub control_bytes: Cell<u64>,
    pub header_bytes: Cell<u64>,
    pub frames: Cell<u64>,
    pub checkpoints: Cell<u64>,
    pub checkpoint_failures: Cell<u64>,
    pub groups_freed: Cell<u64>,
    pub bytes_freed: Cell<u64>,
    pub bytes_punched: Cell<u64>,
    /// Looks at a leaf of the map; `map_page_loads` of them had to read a page first.
    pub map_lookups: Cell<u64>,
    pub map_page_loads: Cell<u64>,
    pub checksum_failures: Cell<u64>,
    pub sync_failures_survived: Cell<u64>,
    pub unasked_sync_failures: Cell<u64>,
    /// Clients' frames waited so long, in sum, since re-packing was behind.
    pub held_back_ns: Cell<u64>,
    pub replayed_bytes: Cell<u64>,
    pub replay_ns: Cell<u64>,
}

impl Stats {
    pub fn add(cell: &Cell<u64>, value: u64) {
        cell.set(cell.get() + value);
    }

    pub fn operations(&self) -> [Histogram; KINDS] {
        *self.operations.borrow()
    }

    pub fn record(&self, kind: OperationKind, bytes: u64, ns: u64, ok: bool) {
        let mut operations = self.operations.borrow_mut();
        let histogram = &mut operations[kind as usize];
        histogram.count += 1;
        histogram.bytes += bytes;
        histogram.total_ns += ns;
        histogram.errors += u64::from(!ok);
        histogram.buckets[latency::bucket(ns)] += 1;
    }
}
