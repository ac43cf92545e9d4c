//! Format, open, ids, and disks that come with something wrong.

use super::*;
use base::Epoch;
use std::collections::BTreeSet;

#[test]
fn a_disk_is_formatted_once() {
    let bench = Bench::new(small());
    assert_eq!(kind(bench.format()), Kind::Invalid);
    assert_eq!(bench.disk.file_names(), ["ballast", "superblock"]);
    let pool = bench.pool();
    assert_eq!(*pool.identity(), identity());
    assert_eq!((pool.group_size(), pool.epoch()), (SIZE, Epoch(1)));
    bench.disk.delete("superblock");
    let mut group = bench.group(&pool);
    bench.fill(&mut group, 1);
    assert_eq!(kind(bench.format()), Kind::Invalid, "somebody's groups are there");
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let check = |change: fn(&mut PoolConfig)| {
        let mut config = small();
        change(&mut config);
        let bench = Bench { disk: MemDisk::new(), turns: Turns::new(), config };
        assert_eq!(kind(bench.format()), Kind::Invalid);
        assert!(bench.disk.file_names().is_empty(), "nothing was begun");
    };
    check(|c| c.group_size = 5000);
    check(|c| c.group_size = 512 << 20);
    check(|c| c.slots_per_slab_max = 0);
    check(|c| c.ballast_bytes = 1);
    check(|c| c.capacity_bytes = Some(c.ballast_bytes));
    let bench = Bench { disk: MemDisk::new(), turns: Turns::new(), config: small() };
    let check = |identity: Identity| {
        let done = bench.turns.run(Pool::format(&bench.turns.world(), &bench.handle(), &bench.config, &identity));
        assert_eq!(kind(done), Kind::Invalid);
    };
    check(Identity { shard: 64, ..identity() });
    check(Identity { pool: "x".repeat(256), ..identity() });
}

#[test]
fn a_disk_without_a_pool_says_so() {
    let bench = Bench { disk: MemDisk::new(), turns: Turns::new(), config: small() };
    assert_eq!(kind(bench.try_open()), Kind::NotFound);
    bench.disk.capacity_bytes.set(Some(100_000));
    assert_eq!(kind(bench.format()), Kind::Full, "no room for the reserve");
    assert_eq!(bench.disk.used_bytes(), 0);
    bench.disk.capacity_bytes.set(None);
    bench.format().expect("now there is room");
    bench.open();
}

/// Whatever a power loss leaves of an attempt to format, the next one succeeds, or finds that it was done.
#[test]
fn a_format_that_was_cut_short_is_done_again() {
    for seed in 0..200 {
        let bench = Bench { disk: MemDisk::new(), turns: Turns::new(), config: small() };
        let (world, handle, identity) = (bench.turns.world(), bench.handle(), identity());
        let mut format = Box::pin(Pool::format(&world, &handle, &bench.config, &identity));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let numbers = disk::Numbers::new(seed);
        for _ in 0..numbers.below(5) {
            if format.as_mut().poll(&mut context).is_ready() {
                break;
            }
        }
        drop(format);
        bench.disk.crash(&numbers);
        if bench.try_open().is_err() {
            bench.format().expect("again");
        }
        bench.open();
    }
}

#[test]
fn each_start_has_its_own_epoch() {
    let bench = Bench::new(small());
    let mut before = Epoch(0);
    for seed in 0..20 {
        let opened = bench.open();
        assert!(opened.pool.epoch() > before);
        assert_eq!(opened.generation_before, before.0);
        before = opened.pool.epoch();
        bench.turns.drop_tasks();
        bench.disk.crash(&disk::Numbers::new(seed));
    }
    bench.turns.run(bench.pool().close()).expect("the disk works");
    assert!(bench.open().clean);
    assert!(!bench.open().clean);
}

#[test]
fn ids_never_come_twice_whatever_is_lost() {
    let bench = Bench::new(small());
    let (mut groups, mut vdisks) = (BTreeSet::new(), BTreeSet::new());
    let numbers = disk::Numbers::new(5);
    for round in 0..12 {
        let pool = bench.pool();
        for _ in 0..numbers.below(2500) {
            let group = bench.group(&pool);
            assert_eq!((group.id().node(), group.id().counter() >> 26), (7, 3));
            assert!(groups.insert(group.id()), "{}", group.id());
            let id = bench.turns.run(pool.next_vdisk_id()).expect("plenty");
            assert!(vdisks.insert(id), "{id}");
        }
        match round % 3 {
            0 => bench.disk.crash(&numbers),
            1 => bench.turns.run(pool.close()).expect("the disk works"),
            // A second start beside nothing: the process was killed.
            _ => {}
        }
        if round % 3 == 1 {
            // Who goes on after `close` gets new ids all the same.
            assert!(groups.insert(bench.group(&pool).id()));
        }
        if round == 6 {
            let used = usize::try_from(vdisks.last().expect("some").counter() & 0x3ff_ffff).expect("small");
            assert!(used < vdisks.len() + 1024 * 7, "a start loses one batch at most");
        }
    }
}

#[test]
fn a_clean_end_loses_no_ids() {
    let bench = Bench::new(small());
    for round in 1..50 {
        let pool = bench.pool();
        let id = bench.turns.run(pool.next_vdisk_id()).expect("plenty");
        assert_eq!(id.counter() & 0x3ff_ffff, round);
        assert_eq!(bench.group(&pool).id().counter() & 0x3ff_ffff, round);
        bench.turns.run(pool.close()).expect("the disk works");
    }
}

#[test]
fn a_new_node_number_begins_new_counters() {
    let bench = Bench::new(small());
    let pool = bench.pool();
    let mut group = bench.group(&pool);
    bench.fill(&mut group, 1);
    bench.turns.run(pool.set_node(8)).expect("the disk works");
    assert_eq!(bench.group(&pool).id(), GroupId::new(8, 3 << 26 | 1));
    bench.turns.run(pool.set_node(8)).expect("asked again");
    assert_eq!(bench.group(&pool).id(), GroupId::new(8, 3 << 26 | 2), "not begun again");
    bench.disk.crash(&disk::Numbers::new(1));
    let pool = bench.pool();
    assert_eq!(pool.identity().node, 8);
    assert!(bench.group(&pool).id() > GroupId::new(8, 3 << 26 | 2));
}

#[test]
fn counters_that_end_say_so() {
    let bench = Bench::new(small());
    let mut superblock = match crate::superblock::decode(&bench.disk.bytes("superblock", 0, 4096)) {
        crate::superblock::Page::Valid(superblock) => *superblock,
        other => panic!("{other:?}"),
    };
    superblock.groups_reserved = (1 << 26) - 3;
    let page = superblock.encode();
    bench.disk.overwrite("superblock", 0, &[&page[..], &page[..]].concat());
    let pool = bench.pool();
    for n in 0..3 {
        assert_eq!(bench.group(&pool).id().counter(), (4 << 26) - 3 + n);
    }
    assert_eq!(kind(bench.turns.run(pool.open_group(new_group()))), Kind::IdsExhausted);
    bench.turns.run(pool.set_node(9)).expect("the disk works");
    assert_eq!(bench.group(&pool).id(), GroupId::new(9, 3 << 26 | 1));
}

#[test]
fn a_newer_format_is_refused_with_what_this_build_reads() {
    let bench = Bench::new(small());
    let mut page = bench.disk.bytes("superblock", 4096, 4096);
    page[8] = 3;
    let crc = base::crc::crc32c(&page[..4092]);
    page[4092..].copy_from_slice(&crc.to_le_bytes());
    bench.disk.overwrite("superblock", 4096, &page);
    let error = bench.try_open().err().expect("an error");
    assert_eq!(error.kind, Kind::UnsupportedFormat);
    assert!(error.to_string().contains("format version 3; this build reads up to 2"), "{error}");
    assert_eq!(kind(bench.format()), Kind::UnsupportedFormat, "and is not formatted over");
}

#[test]
fn that_vdisks_share_extents_is_known_whichever_copy_rots_and_when_none_can_be_believed() {
    let is_sharing_again = |bench: &Bench| bench.pool().is_sharing();
    for copy in [0, 4096] {
        let bench = Bench::new(small());
        let pool = bench.pool();
        assert!(!pool.is_sharing());
        bench.turns.run(pool.begin_sharing()).expect("the disk works");
        assert!(pool.is_sharing());
        bench.disk.crash(&disk::Numbers::new(1));
        bench.disk.overwrite("superblock", copy + 100, b"rot");
        assert!(is_sharing_again(&bench) && is_sharing_again(&bench));
    }
    // One that is one start older than the disk, and of which a copy rots then.
    for copy in [0, 4096] {
        let bench = Bench::new(small());
        let backup = bench.disk.durable_file("superblock");
        let pool = bench.pool();
        let mut group = bench.group(&pool);
        bench.fill(&mut group, 1);
        assert!(!pool.is_sharing());
        drop((group, pool));
        bench.disk.overwrite("superblock", 0, &backup);
        assert!(is_sharing_again(&bench));
        bench.disk.overwrite("superblock", copy + 100, b"rot");
        assert!(is_sharing_again(&bench), "{copy}");
    }
}

/// The copy that rotted may have been the newer one: no id of the batch that only it knew is given out again.
#[test]
fn one_copy_of_the_superblock_is_enough() {
    for copy in [0, 4096] {
        let bench = Bench::new(small());
        let pool = bench.pool();
        let mut used = BTreeSet::new();
        for _ in 0..2000 {
            used.insert(bench.group(&pool).id());
        }
        let epoch = pool.epoch();
        bench.disk.overwrite("superblock", copy + 100, b"rot");
        let opened = bench.open();
        assert!(opened.superblock_copy_damaged && !opened.superblock_was_old);
        assert_eq!(opened.generation_before, epoch.0, "either copy knows of the last start");
        assert!(opened.pool.epoch() > epoch);
        for _ in 0..1100 {
            assert!(used.insert(bench.group(&opened.pool).id()));
        }
        let opened = bench.open();
        assert!(!opened.superblock_copy_damaged, "the next write has healed it");
    }
}

#[test]
fn without_a_superblock_the_way_back_is_named_and_works() {
    for lost in [false, true] {
        let bench = Bench::new(small());
        let pool = bench.pool();
        let mut group = bench.group(&pool);
        bench.fill(&mut group, 5000);
        bench.sync(&pool, group.id()).expect("the disk works");
        if lost {
            bench.disk.delete("superblock");
        } else {
            bench.disk.overwrite("superblock", 0, &[7; 8192]);
        }
        let error = bench.try_open().err().expect("an error");
        assert_eq!(error.kind, Kind::Corrupt);
        assert!(error.to_string().contains("drystone recover"), "{error}");
        let rebuild = |node| {
            let identity = Identity { node, disk: DiskId(1), ..identity() };
            bench.turns.run(Pool::rebuild(&bench.turns.world(), &bench.handle(), &identity))
        };
        assert_eq!(kind(rebuild(7)), Kind::Invalid, "a node number that was in use");
        rebuild(8).expect("a new one");
        assert_eq!(kind(rebuild(9)), Kind::Invalid, "there is nothing to rebuild any more");
        let opened = bench.open();
        assert_eq!(opened.groups, vec![*group.header()]);
        assert!(opened.pool.epoch() > pool.epoch());
        assert_eq!(opened.pool.identity().disk, identity().disk);
        assert_eq!(bench.read(&opened.pool, group.id(), 4096, 5000).expect("stored"), content(group.id(), 4096, 5000));
        assert!(bench.group(&opened.pool).id() != group.id());
    }
}

#[test]
fn a_superblock_from_a_backup_is_noticed() {
    let bench = Bench::new(small());
    drop(bench.pool());
    let backup = bench.disk.durable_file("superblock");
    let mut used = BTreeSet::new();
    let mut epoch = Epoch(0);
    for _ in 0..3 {
        let pool = bench.pool();
        epoch = pool.epoch();
        for _ in 0..2 {
            let mut group = bench.group(&pool);
            bench.fill(&mut group, 1);
            used.insert(group.id());
        }
    }
    bench.disk.overwrite("superblock", 0, &backup);
    let opened = bench.open();
    assert!(opened.superblock_was_old);
    assert!(opened.pool.epoch() > epoch, "no epoch comes again");
    assert!(used.insert(bench.group(&opened.pool).id()), "no id in sight comes again");
    assert!(!bench.open().superblock_was_old);
}

#[test]
fn slots_that_nobody_can_read_are_left_alone() {
    let bench = Bench::new(small());
    let pool = bench.pool();
    let mut groups: Vec<OpenGroup> = (0..3).map(|_| bench.group(&pool)).collect();
    groups.iter_mut().for_each(|group| bench.fill(group, 10));
    let slot = |n: u64| u64::from(SIZE) * (n + 1);
    bench.disk.overwrite("slab-0000", slot(1), &[7; 4096]);
    let opened = bench.open();
    assert_eq!(opened.groups, vec![*groups[0].header(), *groups[2].header()]);
    let place = &opened.quarantined[0];
    assert_eq!((place.slab, place.slot), (SlabId(0), Some(1)));
    assert_eq!(opened.pool.usage().slots_quarantined, 1);
    let places: Vec<OpenGroup> = (0..3).map(|_| bench.group(&opened.pool)).collect();
    assert_eq!(places.iter().map(slab).collect::<Vec<_>>(), [SlabId(0), SlabId(1), SlabId(1)]);
    assert_eq!(bench.disk.bytes("slab-0000", slot(1), 4096), [7; 4096]);
    // A second group of the same id, as a misdirected write would leave it.
    let page = groups[0].header().encode();
    bench.disk.overwrite("slab-0000", slot(2), &page);
    let opened = bench.open();
    assert_eq!(opened.quarantined.len(), 2);
    assert!(opened.quarantined[1].reason.contains("a second group"), "{:?}", opened.quarantined);
    // A header that the medium does not give.
    bench.disk.faults.read_error.replace(Some(("slab-0000".into(), slot(0))));
    let opened = bench.open();
    assert!(opened.quarantined[0].reason.contains("cannot be read"), "{:?}", opened.quarantined);
}

#[test]
fn slabs_that_are_not_ours_are_left_alone_and_damaged_ones_only_read() {
    let bench = Bench::new(small());
    let pool = bench.pool();
    let mut group = bench.group(&pool);
    bench.fill(&mut group, 10);
    let page = bench.disk.bytes("slab-0000", 0, 4096);
    let header = crate::slab::SlabHeader { slab: SlabId(0), disk: DiskId(1), group_size: SIZE };
    bench.disk.overwrite("slab-0000", 0, &header.encode());
    let opened = bench.open();
    assert!(opened.groups.is_empty());
    assert_eq!((opened.quarantined[0].slab, opened.quarantined[0].slot), (SlabId(0), None));
    assert_eq!(slab(&bench.group(&opened.pool)), SlabId(1));

    bench.disk.overwrite("slab-0000", 0, &[1; 4096]);
    let opened = bench.open();
    assert_eq!(opened.groups, vec![*group.header()]);
    assert_eq!(bench.read(&opened.pool, group.id(), 4096, 10).expect("stored"), content(group.id(), 4096, 10));
    assert_eq!(slab(&bench.group(&opened.pool)), SlabId(1));

    let mut newer = page.clone();
    newer[8] = 9;
    let crc = base::crc::crc32c(&newer[..508]);
    newer[508..512].copy_from_slice(&crc.to_le_bytes());
    bench.disk.overwrite("slab-0000", 0, &newer);
    assert_eq!(kind(bench.try_open()), Kind::UnsupportedFormat);
}

#[test]
fn a_slab_that_was_only_created_is_finished() {
    let bench = Bench::new(small());
    bench.turns.run(bench.handle().create("slab-0000")).expect("room");
    let pool = bench.pool();
    let mut group = bench.group(&pool);
    assert_eq!(slab(&group), SlabId(0));
    bench.fill(&mut group, 10);
    assert_eq!(bench.open().groups.len(), 1);
}

#[test]
fn two_who_need_a_slab_at_once_share_it() {
    let bench = Bench::new(small());
    bench.disk.slow.set(true);
    let pool = bench.pool();
    let (mut first, mut second) = (Box::pin(pool.open_group(new_group())), Box::pin(pool.open_group(new_group())));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(std::future::Future::poll(first.as_mut(), &mut context).is_pending());
    assert!(std::future::Future::poll(second.as_mut(), &mut context).is_pending());
    let groups = [bench.turns.run(first).expect("room"), bench.turns.run(second).expect("room")];
    assert_eq!(groups.map(|group| slab(&group)), [SlabId(0), SlabId(0)]);
    assert_eq!(bench.disk.file_names(), ["ballast", "slab-0000", "superblock"]);
}

#[test]
fn a_superblock_that_cannot_be_synced_gives_no_more_ids() {
    let bench = Bench::new(small());
    let pool = bench.pool();
    let mut group = bench.group(&pool);
    bench.disk.faults.sync_error.replace(Some("superblock".into()));
    let failed = (0..3000).find_map(|_| bench.turns.run(pool.open_group(new_group())).err()).expect("the batch ends");
    assert_eq!(failed.kind, Kind::SyncFailed);
    assert_eq!(kind(bench.turns.run(pool.open_group(new_group()))), Kind::SyncFailed, "for the rest of the run");
    bench.fill(&mut group, 10);
    bench.sync(&pool, group.id()).expect("what is open goes on");
}
