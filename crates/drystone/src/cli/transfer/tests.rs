//! Every byte once; a failure ends it.

use super::*;
use std::sync::atomic::AtomicU64;

#[test]
fn every_byte_is_copied_once() {
    let runs = [0..1, 4096..CHUNK_BYTES * 3 + 5, CHUNK_BYTES * 5..CHUNK_BYTES * 6, 9..9];
    let seen = Mutex::new(Vec::new());
    run(&runs, &Progress::silent(), |offset, buffer| {
        assert!(buffer.len() as u64 <= CHUNK_BYTES);
        seen.lock().expect("fine").push(offset..offset + buffer.len() as u64);
        Ok(())
    })
    .expect("nothing fails");
    let mut seen = seen.into_inner().expect("fine");
    seen.sort_by_key(|chunk| chunk.start);
    assert_eq!(seen.len(), 1 + 4 + 1);
    let count = |ranges: &[Range<u64>]| ranges.iter().map(|range| range.end - range.start).sum::<u64>();
    assert_eq!(count(&seen), count(&runs));
    assert!(seen.is_sorted_by(|a, b| a.end <= b.start), "{seen:?}");
}

#[test]
fn the_first_failure_stops_the_rest() {
    let whole = 0..CHUNK_BYTES * 1000;
    let calls = AtomicU64::new(0);
    let result = run(std::slice::from_ref(&whole), &Progress::silent(), |offset, _| {
        calls.fetch_add(1, Ordering::Relaxed);
        if offset == CHUNK_BYTES * 10 { Err(anyhow!("chunk ten")) } else { Ok(()) }
    });
    assert_eq!(result.expect_err("failed").to_string(), "chunk ten");
    assert!(calls.load(Ordering::Relaxed) < 1000);
}
