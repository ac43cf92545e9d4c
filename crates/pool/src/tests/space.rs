//! Space: full disks, the reserve, recycling and giving back.

use super::*;
use base::units::KIB;

const SLOT: u64 = SIZE as u64;

/// A disk that has room for the reserve, the fixed files and this many groups.
fn tight(groups: u64) -> Bench {
    let bench = Bench::new(small());
    let fixed = 3 * 4096 + small().ballast_bytes;
    bench.disk.capacity_bytes.set(Some(fixed + groups * SLOT));
    bench
}

fn fill_up(bench: &Bench, group: &mut OpenGroup) {
    let room = group.room();
    bench.fill(group, room);
}

#[test]
fn a_full_disk_refuses_and_harms_nothing() {
    let bench = tight(2);
    let pool = bench.pool();
    let (mut first, mut second, mut third) = (bench.group(&pool), bench.group(&pool), bench.group(&pool));
    bench.fill(&mut first, 10);
    fill_up(&bench, &mut second);
    assert_eq!(kind(bench.turns.run(third.reserve(1, Purpose::Normal))), Kind::Full);
    assert_eq!(kind(bench.append(&mut third, 4096, b"x")), Kind::Full);
    assert!(!third.is_sealed(), "the append was not tried");
    assert!(pool.usage().ballast_whole, "and the reserve was not touched");
    let asked = bench.disk.allocations.get();
    assert_eq!(kind(bench.append(&mut third, 4096, b"x")), Kind::Full);
    assert_eq!(bench.disk.allocations.get(), asked, "a full disk is not asked all the time");
    fill_up(&bench, &mut first);
    bench.sync(&pool, first.id()).expect("the disk works");
    // Space that comes back is used without a new start.
    bench.free(&pool, second.id());
    bench.fill(&mut third, 10);
    assert_eq!(bench.read(&pool, first.id(), 4096, 1000).expect("stored"), content(first.id(), 4096, 1000));
}

/// Deletes, trims and checkpoints go through when nothing else does, as long as the reserve lasts; and the reserve
/// comes back before ordinary appends get anything.
#[test]
fn there_is_always_room_to_make_room() {
    let bench = tight(1);
    let pool = bench.pool();
    let mut first = bench.group(&pool);
    fill_up(&bench, &mut first);
    let mut normal = bench.group(&pool);
    assert_eq!(kind(bench.append(&mut normal, 4096, b"x")), Kind::Full);
    let mut emergency = bench.turns.run(pool.open_group(NewGroup { purpose: Purpose::Emergency, ..new_group() }));
    let emergency = emergency.as_mut().expect("a slot");
    for _ in 0..5 {
        bench.fill(emergency, 1000);
    }
    bench.turns.run(normal.reserve(1000, Purpose::Emergency)).expect("the reserve");
    assert!(!pool.usage().ballast_whole);
    let held = bench.disk.used_bytes_of("ballast");
    assert!(held >= small().ballast_bytes - (64 << 10), "no more was given up than was needed");
    let mut other = bench.group(&pool);
    assert_eq!(kind(bench.append(&mut other, 4096, b"x")), Kind::Full, "the rest is not for everyone");
    bench.turns.run(pool.replenish()).expect("the disk works");
    assert!(!pool.usage().ballast_whole, "no group was freed yet");
    assert!(bench.disk.used_bytes_of("ballast") > held, "but what was left over did");
    bench.free(&pool, first.id());
    bench.turns.run(pool.replenish()).expect("the disk works");
    assert!(pool.usage().ballast_whole, "first of all the reserve");
    assert_eq!(bench.disk.used_bytes_of("ballast"), small().ballast_bytes);
    bench.fill(&mut other, 10);
}

/// Another store on the same file system can ask for room too, step by step, until there is none.
#[test]
fn the_reserve_serves_other_stores_of_the_disk() {
    let bench = tight(1);
    let pool = bench.pool();
    let mut first = bench.group(&pool);
    fill_up(&bench, &mut first);
    assert!(!bench.turns.run(pool.make_room_for(Purpose::Normal)).expect("the disk works"));
    assert!(pool.usage().ballast_whole);
    let mut steps = 0;
    while bench.turns.run(pool.make_room_for(Purpose::Emergency)).expect("the disk works") {
        steps += 1;
        assert_eq!(bench.disk.used_bytes_of("ballast"), small().ballast_bytes - steps * (64 << 10));
    }
    assert_eq!(steps, 4);
}

#[test]
fn even_the_reserve_ends() {
    let bench = tight(0);
    let pool = bench.pool();
    let mut groups = Vec::new();
    let failed = loop {
        let new = NewGroup { purpose: Purpose::Emergency, ..new_group() };
        let mut group = match bench.turns.run(pool.open_group(new)) {
            Ok(group) => group,
            Err(e) => break e,
        };
        fill_up(&bench, &mut group);
        groups.push(group);
    };
    assert_eq!((failed.kind, groups.len()), (Kind::Full, 4));
    assert_eq!(pool.usage().allocated_bytes, 4 * SLOT + 4096);
    for group in &groups {
        let len = SIZE - 4096;
        assert_eq!(bench.read(&pool, group.id(), 4096, len).expect("stored"), content(group.id(), 4096, len));
    }
}

#[test]
fn the_limit_is_kept_as_a_full_disk_is() {
    let config = PoolConfig { capacity_bytes: Some(small().ballast_bytes + 4096 + 2 * SLOT), ..small() };
    let bench = Bench::new(config.clone());
    let pool = bench.pool();
    let (mut first, mut second) = (bench.group(&pool), bench.group(&pool));
    fill_up(&bench, &mut first);
    fill_up(&bench, &mut second);
    let mut third = bench.group(&pool);
    assert_eq!(kind(bench.append(&mut third, 4096, b"x")), Kind::Full);
    bench.turns.run(third.reserve(1, Purpose::Emergency)).expect("from the reserve");
    assert!(!pool.usage().ballast_whole);
    assert!(bench.disk.used_bytes() <= config.capacity_bytes.expect("set") + 8192);
    bench.turns.run(pool.replenish()).expect("the disk works");
    assert!(!pool.usage().ballast_whole, "the limit holds for the reserve too");
    bench.free(&pool, first.id());
    bench.turns.run(pool.replenish()).expect("the disk works");
    assert!(pool.usage().ballast_whole);
    // The next start counts the same.
    let pool = bench.pool();
    assert!(pool.usage().ballast_whole);
    let mut fourth = bench.group(&pool);
    fill_up(&bench, &mut fourth);
    let mut fifth = bench.group(&pool);
    assert_eq!(kind(bench.append(&mut fifth, 4096, b"x")), Kind::Full);
}

/// What a busy pool frees it needs again soon; what nobody needed between two looks goes back, but for the usual rest.
#[test]
fn a_busy_pool_keeps_more_until_nobody_has_used_it_for_a_while() {
    let config = PoolConfig { recycled_bytes_max: SLOT, recycled_percent_busy: 75, slots_per_slab_max: 8, ..small() };
    let bench = Bench::new(config);
    let pool = bench.pool();
    let mut groups: Vec<OpenGroup> = (0..8).map(|_| bench.group(&pool)).collect();
    groups.iter_mut().for_each(|group| fill_up(&bench, group));
    groups[..4].iter().for_each(|group| bench.free(&pool, group.id()));
    assert_eq!(pool.usage().slots_recycled, 4);
    let look = || bench.turns.run(pool.replenish()).expect("the disk works");
    look();
    assert_eq!(pool.usage().slots_recycled, 4, "they were freed since the last look");
    // Three of them are used: one was not needed, and that is what is always kept.
    let mut again: Vec<OpenGroup> = (0..3).map(|_| bench.group(&pool)).collect();
    again.iter_mut().for_each(|group| fill_up(&bench, group));
    again.iter().for_each(|group| bench.free(&pool, group.id()));
    look();
    assert_eq!(pool.usage().slots_recycled, 4);
    look();
    assert_eq!(pool.usage().slots_recycled, 1, "nobody used any between the looks");
    assert_eq!(bench.disk.used_bytes_of("slab-0000"), 4096 + 5 * SLOT);
}

#[test]
fn freed_slots_keep_their_blocks_up_to_the_limit_and_are_used_first() {
    let bench = Bench::new(small());
    let pool = bench.pool();
    let mut groups: Vec<OpenGroup> = (0..4).map(|_| bench.group(&pool)).collect();
    groups.iter_mut().for_each(|group| fill_up(&bench, group));
    assert_eq!(bench.disk.used_bytes_of("slab-0000"), 4096 + 4 * SLOT);
    for group in &groups {
        bench.free(&pool, group.id());
        bench.free(&pool, group.id());
        assert!(!pool.knows(group.id()));
        assert_eq!(kind(bench.read(&pool, group.id(), 0, 1)), Kind::NotFound);
    }
    assert_eq!(bench.disk.used_bytes_of("slab-0000"), 4096 + 2 * SLOT, "two recycled, two punched");
    assert_eq!(decode_slot_page(&bench.disk.bytes("slab-0000", SLOT, 4096)), SlotPage::Free(groups[0].id()));
    let syncs = pool.usage().syncs;
    assert_eq!(slab(&bench.group(&pool)), SlabId(0));
    assert_eq!(pool.usage().syncs, syncs, "the marks were synced before the punches");
    let usage = pool.usage();
    assert_eq!((usage.slots_used, usage.slots_recycled), (0, 2));
    let mut again = bench.group(&pool);
    assert_eq!(slab(&again), SlabId(0));
    let used = bench.disk.used_bytes_of("slab-0000");
    fill_up(&bench, &mut again);
    assert_eq!(bench.disk.used_bytes_of("slab-0000"), used, "into the blocks of the first");
    assert_eq!(bench.open().groups, vec![*again.header()]);
}

/// The mark that a killed process wrote may be in nothing but the kernel's memory: no new group stands there before a
/// sync.
#[test]
fn slots_freed_before_a_kill_wait_for_a_sync_too() {
    let bench = Bench::new(small());
    let pool = bench.pool();
    let mut group = bench.group(&pool);
    bench.fill(&mut group, 10);
    bench.sync(&pool, group.id()).expect("the disk works");
    bench.free(&pool, group.id());
    let pool = bench.pool();
    let mut next = bench.group(&pool);
    bench.fill(&mut next, 10);
    assert_eq!(pool.usage().syncs, 0);
    assert_eq!(decode_slot_page(&bench.disk.bytes("slab-0000", SLOT, 4096)), SlotPage::Free(group.id()));
    assert_eq!(decode_slot_page(&bench.disk.bytes("slab-0000", 2 * SLOT, 4096)), SlotPage::Group(*next.header()));
}

/// The read that was under way when its group was freed gets the group's bytes, not those of the next one.
#[test]
fn a_slot_waits_for_the_reads_under_way() {
    use std::future::Future;
    let bench = Bench::new(small());
    let pool = bench.pool();
    let mut group = bench.group(&pool);
    bench.fill(&mut group, 100);
    bench.disk.slow.set(true);
    let mut read = Box::pin(pool.read(group.id(), 4096, 100));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(read.as_mut().poll(&mut context).is_pending());
    let mut free = pool.free(group.id());
    for _ in 0..10 {
        assert!(free.as_mut().poll(&mut context).is_pending());
    }
    assert_eq!(bench.turns.run(read).expect("stored"), content(group.id(), 4096, 100));
    bench.turns.run(free).expect("the disk works");
}

#[test]
fn an_abandoned_group_leaves_nothing_and_a_short_one_no_tail() {
    let config = PoolConfig { group_size: 4 << 20, ..small() };
    let bench = Bench::new(config);
    let pool = bench.pool();
    let mut group = bench.group(&pool);
    let id = group.id();
    bench.turns.run(group.reserve(100, Purpose::Normal)).expect("room");
    drop(group);
    assert!(!pool.knows(id));
    let usage = pool.usage();
    assert_eq!((usage.slots_used, usage.slots_recycled), (0, 1), "its blocks serve the next one");
    let mut group = bench.group(&pool);
    bench.fill(&mut group, 10_000);
    assert!(bench.disk.used_bytes_of("slab-0000") >= 64 << 10, "space is taken in steps");
    let id = group.id();
    drop(group);
    assert!(pool.knows(id));
    bench.turns.run(pool.replenish()).expect("the disk works");
    assert_eq!(bench.disk.used_bytes_of("slab-0000"), 4096 + 4096 + 12288);
    assert_eq!(bench.read(&pool, id, 4096, 10_000).expect("stored"), content(id, 4096, 10_000));
    assert_eq!(pool.usage().allocated_bytes, small().ballast_bytes + 4096 + 4096 + 12288);
}

/// What a killed process had reserved behind its tails goes back at the next start, and nothing else does.
#[test]
fn a_start_after_a_crash_gives_back_what_was_reserved() {
    let config = PoolConfig { group_size: 4 << 20, ..small() };
    let bench = Bench::new(config);
    let pool = bench.pool();
    let mut group = bench.group(&pool);
    bench.fill(&mut group, 10_000);
    let opened = bench.open();
    assert!(bench.disk.used_bytes_of("slab-0000") >= 64 << 10);
    bench.turns.run(opened.pool.replenish()).expect("the disk works");
    assert_eq!(bench.disk.used_bytes_of("slab-0000"), 4096 + 4096 + 12288);
    assert_eq!(bench.read(&opened.pool, group.id(), 4096, 10_000).expect("stored"), content(group.id(), 4096, 10_000));
}

#[test]
fn dead_ranges_are_punched_inward() {
    let bench = Bench::new(small());
    let pool = bench.pool();
    let mut group = bench.group(&pool);
    fill_up(&bench, &mut group);
    let id = group.id();
    let used = |bench: &Bench| bench.disk.used_bytes_of("slab-0000") - 4096;
    bench.turns.run(pool.punch(id, 4097, 8191)).expect("the disk works");
    assert_eq!(used(&bench), SLOT - 4096);
    assert_eq!(bench.read(&pool, id, 4096, 4096).expect("stored"), content(id, 4096, 4096));
    assert_eq!(bench.read(&pool, id, 8192, 4096).expect("stored"), vec![0; 4096]);
    assert_eq!(bench.read(&pool, id, 12288, 4096).expect("stored"), content(id, 12288, 4096));
    bench.turns.run(pool.punch(id, 0, 100)).expect("nothing whole");
    bench.turns.run(pool.punch(id, 20000, 4000)).expect("nothing whole");
    assert_eq!(used(&bench), SLOT - 4096);
    bench.turns.run(pool.punch(id, 0, u32::MAX)).expect("all but the header");
    assert_eq!(used(&bench), 4096);
    assert_eq!(bench.open().groups.len(), 1, "the header stays");
    bench.turns.run(pool.punch(GroupId::new(1, 1), 0, 100)).expect("unknown is dead");
}

/// A recycled slot whose blocks were punched in the middle is reserved anew from there: no append meets `Full`.
#[test]
fn holes_in_recycled_slots_are_reserved_again() {
    let bench = tight(2);
    let pool = bench.pool();
    let mut group = bench.group(&pool);
    fill_up(&bench, &mut group);
    bench.turns.run(pool.punch(group.id(), 48 << 10, 8 << 10)).expect("the disk works");
    bench.free(&pool, group.id());
    bench.turns.run(pool.sync_all()).expect("the disk works");
    assert_eq!(pool.usage().slots_recycled, 1);
    let mut other = bench.group(&pool);
    let mut third = bench.group(&pool);
    fill_up(&bench, &mut third);
    let reserved = bench.turns.run(other.reserve(SIZE - 4096, Purpose::Normal));
    reserved.expect("its own blocks and the hole");
    fill_up(&bench, &mut other);
    assert!(!other.is_sealed());
    assert!(bench.disk.used_bytes() <= bench.disk.capacity_bytes.get().expect("set"));
}

#[test]
fn a_file_system_without_punch_and_allocate_serves_too() {
    let bench = Bench { disk: MemDisk::new(), turns: Turns::new(), config: small() };
    bench.disk.faults.plain.set(true);
    bench.format().expect("zeros are written instead");
    assert_eq!(bench.disk.used_bytes_of("ballast"), small().ballast_bytes);
    bench.disk.capacity_bytes.set(Some(3 * 4096 + small().ballast_bytes + 3 * SLOT));
    let pool = bench.pool();
    let mut groups: Vec<OpenGroup> = (0..3).map(|_| bench.group(&pool)).collect();
    groups.iter_mut().for_each(|group| fill_up(&bench, group));
    let mut fourth = bench.group(&pool);
    assert_eq!(kind(bench.append(&mut fourth, 4096, b"x")), Kind::Full);
    assert!(!fourth.is_sealed());
    bench.turns.run(fourth.reserve(1, Purpose::Emergency)).expect("the whole reserve goes");
    assert!(!pool.usage().ballast_whole);
    bench.fill(&mut fourth, 10);
    for group in &groups {
        bench.turns.run(pool.punch(group.id(), 4096, 50_000)).expect("a hint");
        assert_eq!(bench.read(&pool, group.id(), 8192, 100).expect("stored"), content(group.id(), 8192, 100));
        bench.free(&pool, group.id());
    }
    bench.turns.run(pool.sync_all()).expect("the disk works");
    assert_eq!(pool.usage().slots_recycled, 3, "all keep their blocks");
    let opened = bench.open();
    assert_eq!(opened.groups, vec![*fourth.header()]);
}

#[test]
fn a_free_that_fails_leaves_the_slot_alone() {
    let bench = Bench::new(small());
    let pool = bench.pool();
    let mut group = bench.group(&pool);
    bench.fill(&mut group, 100);
    bench.disk.faults.write_error.replace(Some("slab-0000".into()));
    assert_eq!(kind(bench.turns.run(pool.free(group.id()))), Kind::Io);
    bench.turns.run(pool.sync_all()).expect("the disk works");
    assert_eq!(pool.usage().slots_quarantined, 1);
    assert_eq!(bench.open().groups, vec![*group.header()], "found again, to be freed again");
    let vdisk = group.header().vdisk;
    assert_eq!(pool.unfreed_of(vdisk), vec![group.id()]);
    bench.free(&pool, group.id());
    assert_eq!((pool.unfreed_of(vdisk), pool.usage().slots_quarantined), (Vec::new(), 0));
    assert_eq!(bench.open().groups, Vec::new());
}

#[test]
fn a_smaller_reserve_gives_its_rest_back() {
    let mut bench = Bench::new(small());
    drop(bench.pool());
    bench.config.ballast_bytes = 64 * KIB;
    let pool = bench.pool();
    assert!(pool.usage().ballast_whole);
    assert_eq!(pool.usage().allocated_bytes, 64 * KIB);
    bench.config.ballast_bytes = 0;
    assert!(bench.pool().usage().ballast_whole);
}

#[test]
fn usage_counts() {
    let bench = Bench::new(small());
    let pool = bench.pool();
    let mut group = bench.group(&pool);
    bench.fill(&mut group, 100);
    bench.fill(&mut group, 5000);
    bench.sync(&pool, group.id()).expect("the disk works");
    let usage = pool.usage();
    assert_eq!((usage.appended_bytes, usage.padded_bytes), (5100, 4096 + 3092));
    bench.fill(&mut group, 100);
    bench.sync(&pool, group.id()).expect("the disk works");
    assert_eq!(pool.usage().padded_bytes, 4096 + 3092 + 3996, "the last page is written once more");
    bench.disk.capacity_bytes.set(Some(10 << 20));
    bench.turns.run(pool.refresh_usage()).expect("the disk works");
    let usage = pool.usage();
    assert_eq!((usage.syncs, usage.sync_latency.count, usage.slots_used), (2, 2, 1));
    assert!(usage.sync_latency.max_ns > 0 && usage.sync_latency.total_ns >= usage.sync_latency.max_ns);
    assert_eq!(usage.disk.capacity_bytes, 10 << 20);
    assert_eq!(usage.disk.free_bytes, (10 << 20) - bench.disk.used_bytes());
}
