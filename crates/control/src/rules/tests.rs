//! Tables: input, and a part of the message that refuses it (or none).

use super::*;
use crate::Kind;
use base::units::{GIB, TIB};

fn check(result: Result<()>, expect: Option<&str>, input: &str) {
    match (result, expect) {
        (Ok(()), None) => {}
        (Err(error), Some(part)) => {
            assert_eq!(error.kind, Kind::Invalid, "{input}");
            assert!(error.message.contains(part), "{input}: {:?} does not say {part:?}", error.message);
        }
        (result, expect) => panic!("{input}: {result:?}, expected {expect:?}"),
    }
}

#[test]
fn names() {
    let longest = "n".repeat(63);
    let too_long = "n".repeat(64);
    for (name, expect) in [
        ("demo", None),
        ("0", None),
        ("Web-01.root_a", None),
        (longest.as_str(), None),
        (too_long.as_str(), Some("64 characters")),
        ("", Some("empty")),
        (".hidden", Some("starts with '.'")),
        ("-rf", Some("starts with '-'")),
        ("..", Some("starts with '.'")),
        ("a b", Some("contains ' '")),
        ("a/b", Some("contains '/'")),
        ("a\0b", Some("contains '\\0'")),
        ("wäsche", Some("contains 'ä'")),
        ("a\n", Some("contains '\\n'")),
    ] {
        check(check_name(name), expect, &format!("{name:?}"));
    }
}

#[test]
fn sizes() {
    for (size, expect) in [
        (4096, None),
        (20 * GIB, None),
        (64 * TIB, None),
        (64 * TIB + 4096, Some("64 TiB")),
        (u64::MAX, Some("64 TiB")),
        (0, Some("size 0")),
        (1, Some("use 4096")),
        (4097, Some("use 4096 or 8192")),
        (10_000_000_000 + 512, Some("use 9999998976 or 10000003072")),
    ] {
        check(check_size(size), expect, &format!("{size}"));
    }
}

#[test]
fn sectors() {
    for (sector, expect) in
        [(512, None), (4096, None), (0, Some("512 or 4096")), (1024, Some("512 or 4096")), (8192, Some("512 or 4096"))]
    {
        check(check_sector(sector), expect, &format!("{sector}"));
    }
}

#[test]
fn resizes() {
    for (current, new, expect) in [
        (8192, 8192, None),
        (8192, 12288, None),
        (8192, 4096, Some("cannot shrink")),
        (8192, 0, Some("size 0")),
        (8192, 8193, Some("multiple of 4096")),
    ] {
        check(check_resize(current, new), expect, &format!("{current} to {new}"));
    }
}

#[test]
fn ranges_and_transfers() {
    for (offset, len, expect) in [
        (0, 0, None),
        (0, 8192, None),
        (7680, 512, None),
        (8192, 0, None),
        (7680, 1024, Some("beyond the end")),
        (u64::MAX - 511, 512, Some("beyond the end")),
        (1, 512, Some("offset 1 is not")),
        (0, 100, Some("length 100 is not")),
    ] {
        check(check_range(8192, offset, len), expect, &format!("{offset}+{len}"));
    }
    let longest = u64::from(TRANSFER_BYTES_MAX);
    check(check_transfer(GIB, 0, longest), None, "longest");
    check(check_transfer(GIB, 0, longest + 512), Some("longest is 32 MiB"), "too long");
    check(check_transfer(longest, 512, longest), Some("beyond the end"), "beyond");
}

#[test]
fn list_limits() {
    for (limit, expect) in
        [(1, None), (1000, None), (0, Some("between 1 and 1000")), (1001, Some("between 1 and 1000"))]
    {
        check(check_list_limit(limit), expect, &format!("{limit}"));
    }
}
