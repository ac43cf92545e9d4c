//! Runs as tables.

use super::*;
use std::os::unix::fs::FileExt;

#[test]
fn long_zeros_are_left_out() {
    let k = 1024;
    for (size, ones, expect) in [
        (0, &[][..], &[][..]),
        (256 * k, &[], &[]),
        (256 * k, &[0], &[(0, 4 * k)]),
        (256 * k, &[4 * k - 1, 4 * k], &[(0, 8 * k)]),
        (256 * k, &[0, 64 * k], &[(0, 68 * k)]),
        (256 * k, &[0, 68 * k], &[(0, 4 * k), (68 * k, 72 * k)]),
        (256 * k + 512, &[256 * k + 511], &[(256 * k, 256 * k + 512)]),
        (100, &[99], &[(0, 100)]),
    ] {
        let mut data = vec![0; size];
        ones.iter().for_each(|at: &usize| data[*at] = 1);
        let runs: Vec<_> = non_zero_runs(&data).into_iter().map(|run| (run.start, run.end)).collect();
        assert_eq!(runs, expect, "{size} bytes, ones at {ones:?}");
    }
}

#[test]
fn every_bit_counts() {
    for at in 0..4096 {
        let mut data = vec![0; 4096];
        data[at] = 0x80;
        assert_eq!(non_zero_runs(&data).len(), 1, "byte {at}");
    }
}

#[test]
fn holes_of_files_are_found() {
    const M: u64 = 1 << 20;
    let file = tempfile::tempfile().expect("a temporary file");
    file.set_len(16 * M).expect("sparse");
    assert_eq!(data_runs(&file, 16 * M).expect("read"), []);
    for at in [0, 5 * M, 16 * M - 4096] {
        file.write_all_at(&[1; 4096], at).expect("written");
    }
    let runs = data_runs(&file, 16 * M).expect("read");
    for at in [0, 5 * M, 16 * M - 4096] {
        assert!(runs.iter().any(|run| run.contains(&at) && run.contains(&(at + 4095))), "{at} in {runs:?}");
    }
    let sum: u64 = runs.iter().map(|run| run.end - run.start).sum();
    assert!(sum <= 3 * M, "{runs:?}");
    assert!(runs.iter().all(|run| run.end <= 16 * M));
}
