//! Plain lines.

use super::*;

#[test]
fn a_line_says_how_far_how_fast_and_how_long() {
    const M: u64 = 1 << 20;
    for (done, total, seconds, expect) in [
        (100 * M, 400 * M, 2, "imported 100 MiB of 400 MiB (25 %), 50 MiB/s, 6s left"),
        (0, 0, 1, "imported 0 B of 0 B (100 %), 0 B/s, 0s left"),
        (0, M, 0, "imported 0 B of 1 MiB (0 %), 0 B/s, 12d 3h left"),
    ] {
        assert_eq!(line("imported", done, total, Duration::from_secs(seconds)), expect);
    }
}
