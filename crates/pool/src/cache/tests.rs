//! The cache against its invariants and against what eviction is to achieve.

use super::part::Part;
use super::*;

fn group(n: u32) -> GroupId {
    GroupId::new(1, n)
}

fn value(key: Key, len: usize) -> Bytes {
    vec![(key.grain ^ key.group.counter()) as u8; len].into()
}

#[test]
fn what_was_inserted_is_found_until_its_group_is_removed() {
    let cache = Cache::new(64 << 20);
    for n in 0..100 {
        let key = Key { group: group(n % 10), grain: n * 40_000 };
        cache.insert(key.group, key.grain, value(key, 4096));
        assert_eq!(cache.get(key.group, key.grain), Some(value(key, 4096)));
    }
    assert_eq!(cache.get(group(1), 1), None);
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses, stats.evictions, stats.entries), (100, 1, 0, 100));
    assert_eq!((stats.bytes, stats.budget_bytes), (100 * (4096 + 128), 64 << 20));
    cache.remove_group(group(3));
    assert_eq!(cache.get(group(3), 13 * 40_000), None);
    assert!(cache.get(group(4), 14 * 40_000).is_some());
    assert_eq!(cache.stats().entries, 90);
}

#[test]
fn the_longer_of_two_values_of_a_place_stays() {
    let cache = Cache::new(1 << 20);
    let long = Bytes::from_static(b"abcd");
    cache.insert(group(1), 1, long.slice(..2));
    cache.insert(group(1), 1, long.clone());
    cache.insert(group(1), 1, long.slice(..3));
    assert_eq!(cache.get(group(1), 1), Some(long));
    assert_eq!(cache.stats().bytes, 128 + 4);
}

#[test]
fn a_budget_is_kept_whatever_comes() {
    for budget in [0, 100, 1000, 1 << 20, 9 << 20] {
        let cache = Cache::new(budget);
        for n in 0..3000 {
            cache.insert(group(n % 7), n * 70_000, vec![0; (n as usize * 37) % 8192].into());
            assert!(cache.stats().bytes <= budget);
        }
        cache.insert(group(1), 1, vec![0; budget as usize].into());
        assert_eq!(cache.get(group(1), 1), None, "too large to keep");
        cache.set_budget(budget / 4);
        assert!(cache.stats().bytes <= budget / 4);
    }
}

/// A working set that is in use survives a scan of ten times the cache.
#[test]
fn a_scan_does_not_wash_out_what_is_in_use() {
    let cache = Cache::new(4 << 20);
    let page = || Bytes::from(vec![0; 4096]);
    let in_use: Vec<u32> = (0..300).collect();
    for _ in 0..3 {
        for &grain in &in_use {
            if cache.get(group(1), grain).is_none() {
                cache.insert(group(1), grain, page());
            }
        }
    }
    for grain in 0..10_000 {
        cache.insert(group(2), grain, page());
    }
    let left = in_use.iter().filter(|&&grain| cache.get(group(1), grain).is_some()).count();
    assert!(left > 290, "{left} of 300");
}

/// What was evicted too early is let into the main queue when it comes again.
#[test]
fn who_comes_back_soon_is_kept() {
    let mut part = Part::new(1 << 20);
    let key = |grain| Key { group: group(1), grain };
    let page = || Bytes::from(vec![0; 4096]);
    (0..300).for_each(|grain| part.insert(key(grain), page()));
    assert!(part.get(key(0)).is_none(), "it was evicted");
    part.insert(key(0), page());
    (300..600).for_each(|grain| part.insert(key(grain), page()));
    assert!(part.get(key(0)).is_some(), "its ghost remembered it");
    part.check();
}

#[test]
fn random_operations_keep_the_invariants() {
    for seed in 1..=30_u64 {
        let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut next = |end: u64| {
            x ^= x >> 12;
            x ^= x << 25;
            x ^= x >> 27;
            (x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % end
        };
        let mut part = Part::new(20_000);
        for _ in 0..1500 {
            let key = Key { group: group(next(4) as u32), grain: next(40) as u32 };
            match next(20) {
                0..9 => part.insert(key, value(key, next(2500) as usize)),
                9..18 => {
                    if let Some(bytes) = part.get(key) {
                        assert_eq!(bytes, value(key, bytes.len()), "seed {seed}");
                    }
                }
                18 => {
                    part.remove_group(key.group);
                    (0..40).for_each(|grain| assert!(part.get(Key { group: key.group, grain }).is_none()));
                }
                _ => part.set_budget(10_000 + next(10_000)),
            }
            part.check();
        }
    }
}

/// Removing group after group without ever filling the cache must not grow its tables.
#[test]
fn removed_groups_leave_nothing_behind() {
    let mut part = Part::new(1 << 20);
    for n in 0..2000 {
        for grain in 0..10 {
            part.insert(Key { group: group(n), grain }, Bytes::from_static(b"x"));
        }
        part.remove_group(group(n));
    }
    part.check();
    let places = part.places();
    assert!(places < 200, "{places}");
}
