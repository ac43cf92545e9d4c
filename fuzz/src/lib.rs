//! What every target asks of memory: one input takes a bounded amount, and what it took comes free with it.

use peak_alloc::PeakAlloc;
use std::sync::atomic::{AtomicUsize, Ordering};

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

/// What all inputs of a process may leave behind: tables that are made once. A leak of 16 bytes shows after 4,096 inputs.
const KEPT_BYTES_MAX: usize = 64 << 10;

static KEPT: AtomicUsize = AtomicUsize::new(0);

/// What one input may hold: inputs are a few KiB, and the limits that the targets give to sessions are up to 128 KiB, and one request
/// of 1 MiB whatever else is held. What an input says of lengths is up to 4 GiB.
const BYTES_MAX: usize = 4 << 20;

/// Lets `target` have the input.
pub fn bounded(input: &[u8], target: impl FnOnce(&[u8])) {
    let before = ALLOCATED.current_usage();
    ALLOCATED.reset_peak_usage();
    target(input);
    let (peak, after) = (ALLOCATED.peak_usage() - before, ALLOCATED.current_usage());
    assert!(peak <= BYTES_MAX, "an input of {} bytes took {peak} bytes of memory", input.len());
    let kept = KEPT.fetch_add(after.saturating_sub(before), Ordering::Relaxed);
    assert!(kept <= KEPT_BYTES_MAX, "{kept} bytes of memory did not come free, one input after the other");
}
