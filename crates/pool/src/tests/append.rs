//! Appends, syncs and their failures.

use super::*;
use std::collections::BTreeSet;
use std::future::Future;
use std::task::{Context, Poll, Waker};
use world::Completion;

#[test]
fn what_was_appended_is_read_and_found_again() {
    let bench = Bench::new(small());
    let opened = bench.open();
    assert!(opened.groups.is_empty() && opened.clean);
    let pool = opened.pool;
    let predecessor = Some(Predecessor { group: GroupId::new(1, 2), sealed_len: 3, chain: 4 });
    let new = NewGroup { predecessor, durable_through: Sequence(8), first_sequence: Sequence(9), ..new_group() };
    let mut group = bench.turns.run(pool.open_group(new)).expect("room");
    assert_eq!((group.tail(), group.room()), (4096, SIZE - 4096));
    assert_eq!(kind(bench.read(&pool, group.id(), 0, 16)), Kind::NotFound, "nothing is there yet");
    bench.fill(&mut group, 1000);
    bench.fill(&mut group, 24);
    let id = group.id();
    bench.append(&mut group, 8192, &content(id, 8192, 5000)).expect("room");
    assert_eq!(group.tail(), 13192);
    let header = *group.header();
    assert_eq!(bench.read(&pool, id, 4096, 1024).expect("stored"), content(id, 4096, 1024));
    assert_eq!(bench.read(&pool, id, 8192, 5000).expect("stored"), content(id, 8192, 5000));
    assert_eq!(bench.read(&pool, id, 5120, 3072).expect("stored"), vec![0; 3072], "padding");
    assert_eq!(decode_slot_page(&bench.read(&pool, id, 0, 4096).expect("stored")), SlotPage::Group(header));
    assert_eq!(kind(bench.read(&pool, id, SIZE - 1, 2)), Kind::Invalid);
    assert_eq!(kind(bench.read(&pool, id, u32::MAX, 2)), Kind::Invalid);
    let opened = bench.open();
    assert_eq!(opened.groups, vec![header]);
    assert!(!opened.clean && opened.pool.epoch() > header.epoch);
    assert_eq!(bench.turns.run(opened.pool.data_end(id)).expect("stored"), 16384);
}

/// Longer than a batch of ids and many slabs. Only the first group makes its slab itself.
#[test]
fn a_group_is_open_at_once_since_ids_and_slots_are_prepared() {
    let config = PoolConfig { ballast_bytes: 0, ..small() };
    let bench = Bench::new(config);
    let pool = bench.pool();
    drop(bench.group(&pool));
    let mut groups = Vec::new();
    for count in 0..2500 {
        let mut opening = Box::pin(pool.open_group(new_group()));
        let Poll::Ready(group) = opening.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("group {count} is waited for");
        };
        let mut group = group.expect("room");
        bench.fill(&mut group, 100);
        groups.push(group);
        bench.turns.idle();
    }
    bench.turns.run(pool.close()).expect("the disk works");
    bench.turns.idle();
    let opened = bench.open();
    assert!(opened.clean, "what is prepared does not undo a clean end");
    assert_eq!(opened.groups.len(), 2500);
}

/// Who needs a group does himself what could not be prepared, or what is just being prepared.
#[test]
fn a_slot_that_could_not_be_prepared_is_made_by_who_needs_it() {
    for fails in [false, true] {
        let bench = Bench::new(small());
        let pool = bench.pool();
        let mut groups: Vec<OpenGroup> = (0..3).map(|_| bench.group(&pool)).collect();
        if fails {
            bench.disk.faults.write_error.replace(Some("slab-0001".into()));
        }
        groups.push(bench.group(&pool));
        if fails {
            bench.turns.idle();
            assert!(bench.disk.faults.write_error.borrow().is_none(), "it was tried");
        }
        groups.extend((0..2).map(|_| bench.group(&pool)));
        groups.iter_mut().for_each(|group| bench.fill(group, 100));
        assert_eq!(groups.iter().map(slab).collect::<BTreeSet<_>>(), BTreeSet::from([SlabId(0), SlabId(1)]));
        bench.turns.run(pool.close()).expect("the disk works");
        let opened = bench.open();
        assert!(opened.clean && opened.quarantined.is_empty());
        assert_eq!(opened.groups.len(), 6);
    }
}

#[test]
fn appends_that_make_no_sense_are_refused_and_harm_nothing() {
    let bench = Bench::new(small());
    let pool = bench.pool();
    let mut group = bench.group(&pool);
    bench.fill(&mut group, 5000);
    assert_eq!(kind(bench.append(&mut group, 9000, b"x")), Kind::Invalid, "behind the tail");
    assert_eq!(kind(bench.append(&mut group, SIZE, b"x")), Kind::Invalid, "beyond the end");
    assert_eq!(kind(bench.append(&mut group, u32::MAX, b"x")), Kind::Invalid, "beyond every end");
    assert_eq!(kind(bench.turns.run(group.append(9096, &[Bytes::from_static(b"xyz")], 4))), Kind::Invalid, "length");
    assert_eq!(kind(bench.turns.run(group.reserve(SIZE, Purpose::Normal))), Kind::Invalid);
    assert!(!group.is_sealed());
    let room = group.room();
    bench.fill(&mut group, room);
    assert_eq!(group.room(), 0, "to the last byte");
    assert_eq!(kind(bench.append(&mut group, SIZE, b"x")), Kind::Invalid);
}

#[test]
fn a_half_append_seals_the_group() {
    for short in [false, true] {
        let bench = Bench::new(small());
        let pool = bench.pool();
        let mut group = bench.group(&pool);
        bench.fill(&mut group, 100);
        let fault = if short { &bench.disk.faults.short_write } else { &bench.disk.faults.write_error };
        fault.replace(Some("slab-0000".into()));
        assert_eq!(kind(bench.append(&mut group, 4196, b"lost")), Kind::Io);
        assert_eq!(group.tail(), 4196, "the tail has not moved");
        assert!(group.is_sealed());
        assert_eq!(kind(bench.append(&mut group, 4196, b"again")), Kind::Sealed);
        assert_eq!(kind(bench.turns.run(group.reserve(1, Purpose::Normal))), Kind::Sealed);
        assert_eq!(bench.read(&pool, group.id(), 4096, 100).expect("stored"), content(group.id(), 4096, 100));
        let mut next = bench.group(&pool);
        bench.fill(&mut next, 100);
        bench.sync(&pool, next.id()).expect("the rest goes on");
    }
}

/// A task that goes away while its append is under way cannot know what became of it: the group takes no more.
#[test]
fn an_append_that_nobody_waits_for_seals_the_group() {
    let bench = Bench::new(small());
    let pool = bench.pool();
    let mut group = bench.group(&pool);
    bench.fill(&mut group, 100);
    bench.disk.slow.set(true);
    let mut append = Box::pin(group.append(4196, &[Bytes::from_static(b"abc")], 3));
    assert!(matches!(append.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending));
    assert_eq!(kind(bench.append(&mut group, 4196, b"x")), Kind::Invalid, "one at a time");
    drop(append);
    assert!(group.is_sealed());
    assert_eq!(kind(bench.append(&mut group, 4196, b"x")), Kind::Sealed);
}

#[test]
fn slow_disks_answer_later() {
    let bench = Bench::new(small());
    bench.disk.slow.set(true);
    let pool = bench.pool();
    let mut group = bench.group(&pool);
    assert!(matches!(group.append(4096, &[], 0), Completion::Pending(_)));
    let mut group = bench.group(&pool);
    bench.turns.run(group.reserve(9000, Purpose::Normal)).expect("room");
    for _ in 0..5 {
        bench.fill(&mut group, 3000);
    }
    assert_eq!(bench.read(&pool, group.id(), 4096, 15000).expect("stored"), content(group.id(), 4096, 15000));
}

/// Space is taken in steps, and before an append needs it: hardly any of many has to wait for it.
#[test]
fn space_is_there_before_an_append_needs_it() {
    let bench = Bench::new(PoolConfig { group_size: 64 << 20, ..small() });
    bench.disk.slow.set(true);
    let pool = bench.pool();
    let mut group = bench.group(&pool);
    bench.fill(&mut group, 100 << 10);
    let first = pool.usage().allocated_bytes - small().ballast_bytes - 4096;
    assert!((100 << 10..=512 << 10).contains(&first), "small steps first: {first}");
    let mut waits = 0;
    while group.room() > 256 << 10 {
        waits += u32::from(matches!(group.reserve(256 << 10, Purpose::Normal), Completion::Pending(_)));
        bench.fill(&mut group, 256 << 10);
    }
    assert!(waits <= 4, "{waits} of 250: while steps are small, then none");
    let len = group.tail() - 4096;
    let bytes = bench.read(&pool, group.id(), 4096, len).expect("stored");
    assert!(bytes == content(group.id(), 4096, len));
}

#[test]
fn one_sync_serves_all_who_wait() {
    let bench = Bench::new(small());
    let pool = bench.pool();
    let mut groups: Vec<OpenGroup> = (0..4).map(|_| bench.group(&pool)).collect();
    groups.iter_mut().for_each(|group| bench.fill(group, 10));
    let id = groups[0].id();
    bench.turns.idle();
    let before = bench.disk.syncs.get();
    let all: Vec<_> = groups.iter().map(|group| pool.sync(&[group.id()])).collect();
    for future in all {
        bench.turns.run(future).expect("the disk works");
    }
    assert_eq!(bench.disk.syncs.get() - before, 1);
    bench.sync(&pool, id).expect("the disk works");
    assert_eq!(bench.disk.syncs.get() - before, 1, "nothing new to sync");
    // Who writes while one is under way gets the next one, with everybody else who did.
    bench.fill(&mut groups[0], 10);
    let mut first = pool.sync(&[id]);
    let mut context = Context::from_waker(Waker::noop());
    assert!(first.as_mut().poll(&mut context).is_pending());
    bench.turns.run(disk::later(1));
    let shares = pool.sync(&[id]);
    bench.fill(&mut groups[1], 10);
    let (second, third) = (pool.sync(&[id]), pool.sync(&[id]));
    for future in [first, shares, second, third] {
        bench.turns.run(future).expect("the disk works");
    }
    assert_eq!(bench.disk.syncs.get() - before, 3);
    assert_eq!(pool.usage().syncs, 2 + 1);
}

#[test]
fn a_sync_survives_the_waiter_that_asked_for_it() {
    let bench = Bench::new(small());
    let pool = bench.pool();
    let mut group = bench.group(&pool);
    bench.fill(&mut group, 10);
    let first = pool.sync(&[group.id()]);
    let second = pool.sync(&[group.id()]);
    drop(first);
    bench.turns.run(second).expect("the disk works");
}

#[test]
fn a_failed_sync_is_never_forgotten() {
    let bench = Bench::new(small());
    let pool = bench.pool();
    let (mut old, mut group, mut doomed) = (bench.group(&pool), bench.group(&pool), bench.group(&pool));
    bench.fill(&mut old, 700);
    bench.fill(&mut doomed, 1);
    bench.sync(&pool, old.id()).expect("the disk works");
    bench.fill(&mut group, 10);
    bench.disk.faults.sync_error.replace(Some("slab-0000".into()));
    let waiters: Vec<_> = (0..3).map(|_| pool.sync(&[group.id()])).collect();
    for waiter in waiters {
        assert_eq!(kind(bench.turns.run(waiter)), Kind::SyncFailed);
    }
    let (syncs, writes) = (bench.disk.syncs.get(), bench.disk.writes.borrow().len());
    assert_eq!(kind(bench.sync(&pool, group.id())), Kind::SyncFailed, "also for who comes later");
    assert_eq!(kind(bench.append(&mut group, 4106, b"x")), Kind::SyncFailed);
    assert_eq!(kind(bench.turns.run(old.reserve(1, Purpose::Emergency))), Kind::SyncFailed);
    assert!(group.is_sealed());
    bench.free(&pool, doomed.id());
    bench.turns.run(pool.punch(old.id(), 4096, 60000)).expect("a hint");
    assert_eq!((bench.disk.syncs.get(), bench.disk.writes.borrow().len()), (syncs, writes), "the file is left alone");
    assert_eq!(bench.read(&pool, old.id(), 4096, 700).expect("reads go on"), content(old.id(), 4096, 700));
    let mut next = bench.group(&pool);
    assert_ne!(slab(&next), slab(&group), "new groups go elsewhere");
    bench.fill(&mut next, 10);
    bench.sync(&pool, next.id()).expect("the rest goes on");
    assert_eq!(kind(bench.turns.run(pool.sync(&[next.id(), group.id()]))), Kind::SyncFailed);
    let usage = pool.usage();
    assert_eq!((usage.poisoned_slabs, usage.sync_failures), (1, 1));
    assert_eq!(kind(bench.turns.run(pool.close())), Kind::SyncFailed);
    assert!(!bench.open().clean, "a close that failed is no clean end");
    assert_eq!(bench.open().pool.usage().poisoned_slabs, 0, "the next start begins anew");
}

/// Who asked for the next sync while one was under way that then failed, hears of it too.
#[test]
fn a_failed_sync_reaches_those_who_wait_for_the_next() {
    let bench = Bench::new(small());
    let pool = bench.pool();
    let (mut first, mut second) = (bench.group(&pool), bench.group(&pool));
    bench.fill(&mut first, 10);
    bench.disk.faults.sync_error.replace(Some("slab-0000".into()));
    let before = bench.disk.syncs.get();
    let early = pool.sync(&[first.id()]);
    bench.turns.run(disk::later(1));
    bench.fill(&mut second, 10);
    let late = pool.sync(&[second.id()]);
    assert_eq!(kind(bench.turns.run(early)), Kind::SyncFailed);
    assert_eq!(kind(bench.turns.run(late)), Kind::SyncFailed);
    assert_eq!(bench.disk.syncs.get(), before + 1, "not tried again");
}

#[test]
fn frequent_syncs_get_space_that_is_written_ahead() {
    let config = PoolConfig { group_size: 16 << 20, ..small() };
    let bench = Bench::new(config);
    let pool = bench.pool();
    let mut group = bench.group(&pool);
    // A group that is not small any more: zeros are written ahead only where space was taken.
    bench.turns.run(group.reserve(4 << 20, Purpose::Normal)).expect("room");
    let sync = |group: &mut OpenGroup, len| {
        bench.fill(group, len);
        bench.sync(&pool, group.id()).expect("the disk works");
        group.synced();
        pool.usage().prewritten_bytes
    };
    assert_eq!(sync(&mut group, 4096), 0);
    assert_eq!(sync(&mut group, 4096), 0);
    let ahead = sync(&mut group, 4096);
    assert!((1 << 19..=1 << 20).contains(&ahead), "{ahead}");
    for _ in 0..100 {
        assert_eq!(sync(&mut group, 4096), ahead, "once for many");
    }
    let (id, len) = (group.id(), group.tail() - 4096);
    assert_eq!(bench.read(&pool, id, 4096, len).expect("stored"), content(id, 4096, len), "nothing was written over");
    for _ in 0..12 {
        sync(&mut group, 1 << 20);
    }
    let ahead = pool.usage().prewritten_bytes;
    sync(&mut group, 1 << 20);
    assert_eq!(pool.usage().prewritten_bytes, ahead, "not for who syncs seldom");
    let len = group.tail() - 4096;
    assert_eq!(bench.read(&pool, id, 4096, len).expect("stored"), content(id, 4096, len));
}

/// Whoever flushes each of his writes, and is alone, waits for half of it only: the disk has begun when he asks.
#[test]
fn the_disk_begins_early_with_what_will_be_synced_alone() {
    let bench = Bench::new(small());
    let pool = bench.pool();
    let mut group = bench.group(&pool);
    let id = group.id();
    let told = || std::mem::take(&mut *bench.disk.written_back.borrow_mut());
    let mut append = |count: usize| {
        for _ in 0..count {
            bench.fill(&mut group, 100);
            group.answered();
            group.answered();
        }
        bench.sync(&pool, id).expect("the disk works");
        group.synced();
    };
    (0..4).for_each(|_| append(1));
    assert_eq!(told(), [], "not before it is known");
    append(1);
    append(1);
    let begun = told();
    assert_eq!(begun.len(), 2, "once each: {begun:?}");
    assert!(begun.iter().all(|(offset, len)| (offset + len) % 4096 == 0), "whole pages: {begun:?}");
    append(2);
    assert_eq!(told().len(), 1, "the second was not expected to be alone");
    append(1);
    assert_eq!(told(), [], "it starts anew");
    (0..5).for_each(|_| append(1));
    assert!(!told().is_empty());
    bench.fill(&mut group, 100);
    bench.disk.faults.sync_error.replace(Some("slab-0000".into()));
    bench.sync(&pool, id).expect_err("the disk was told to fail");
    group.answered();
    assert_eq!(told(), [], "nothing more is written to a slab whose sync failed");
}
