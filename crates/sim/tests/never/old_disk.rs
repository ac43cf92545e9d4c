//! Never: an old disk believed. Generations, node numbers and chains tell what is newer: copies of the disk, of its
//! superblock and of the metadata store, slots that hold the frames of an earlier group, groups that nobody knows.

use crate::machine::{Image, Machine, manual};
use crate::tap::{Fate, Verb};
use base::units::MIB;
use base::{Epoch, GroupId, Sequence, VdiskId};
use meta::MemStore;
use pool::{GroupHeader, HEADER_PAGE, Predecessor, SlotPage, decode_slot_page};
use sim::disk::{Crash, InFlight, Survival};
use std::collections::BTreeSet;
use world::WallTime;

type Content = std::collections::BTreeMap<bytes::Bytes, bytes::Bytes>;

fn restore_store(machine: &Machine, content: Content) {
    machine.store.replace(MemStore::restore(machine.world().clock, 0, content));
}

/// Blocks 0 to 19 with tags from 1 on, flushed, a checkpoint, and something behind it.
fn used() -> Machine {
    used_with(manual(), 1)
}

fn used_with(config: node::ShardConfig, seed: u64) -> Machine {
    let machine = Machine::with(config, seed);
    let vdisk = machine.vdisk();
    (0..20).for_each(|block| machine.write(&vdisk, block, block + 1));
    machine.checkpoint(&vdisk);
    machine.write(&vdisk, 0, 50);
    machine.flush(&vdisk);
    machine
}

fn expected() -> Vec<u64> {
    (0..20).map(|block| if block == 0 { 50 } else { block + 1 }).collect()
}

#[test]
fn an_old_copy_of_the_disk_is_refused() {
    for clean in [false, true] {
        let machine = used();
        if clean {
            machine.close()
        } else {
            machine.kill()
        }
        let old: Image = machine.image();
        machine.open();
        machine.write(&machine.vdisk(), 1, 99);
        machine.flush(&machine.vdisk());
        if clean {
            machine.close()
        } else {
            machine.kill()
        }
        let current = machine.image();
        machine.restore(&old);
        let refused = machine.try_open().expect("it lives").err().expect("refused");
        assert_eq!(refused.kind, node::Kind::Damaged);
        assert!(refused.context.contains("old copy"), "{refused}");
        // The right one is believed.
        machine.kill();
        machine.restore(&current);
        machine.open();
        assert_eq!(machine.read(&machine.vdisk(), 1), 99);
    }
}

#[test]
fn an_older_metadata_store_is_not_believed() {
    let machine = used();
    machine.kill();
    machine.open();
    let old = machine.store.borrow().snapshot();
    machine.kill();
    machine.open();
    let vdisk = machine.vdisk();
    // Its checkpoints and its groups are not those of the old store.
    for round in 0..4 {
        (0..20).for_each(|block| machine.write(&vdisk, block, 1000 * round + block + 1));
        machine.checkpoint(&vdisk);
        machine.make_room(&vdisk);
    }
    machine.write(&vdisk, 3, 77);
    let (shard, id) = (machine.shard(), machine.id("v"));
    machine.run(async move { shard.resize(id, 8 << 20).await }).expect("it grows");
    machine.create("w", MIB);
    let ids: BTreeSet<u64> = machine.shard().records().iter().map(|record| record.id.raw()).collect();
    machine.kill();
    let groups: BTreeSet<GroupId> = machine.groups().iter().map(|placed| placed.header.group).collect();
    restore_store(&machine, old);
    machine.open();
    let vdisk = machine.vdisk();
    machine.assert_online(&vdisk);
    let expect: Vec<u64> = (0..20).map(|block| if block == 3 { 77 } else { 3001 + block }).collect();
    assert_eq!(machine.reads(&vdisk, 0..20), expect);
    assert_eq!(vdisk.attributes().size_bytes, 8 << 20, "the log's size counts");
    assert_eq!(machine.shard().records().len(), 2, "what was created since is found in the log");
    // Nothing made from now on has an id that was there before.
    let third = machine.create("x", MIB);
    assert!(!ids.contains(&third.id.raw()));
    machine.write(&vdisk, 0, 1);
    assert!(
        vdisk.groups().iter().chain(&third.groups()).all(|group| !groups.contains(group) || *group < third.groups()[0])
    );
    assert!(third.groups().iter().all(|group| !groups.contains(group)));
}

#[test]
fn a_deleted_metadata_store_is_asked_for_and_rebuilt_under_a_new_node_number() {
    let machine = used();
    machine.create("w", MIB);
    machine.kill();
    let before = machine.groups();
    restore_store(&machine, Content::new());
    let refused = machine.try_open().expect("it lives").err().expect("refused");
    assert_eq!(refused.kind, node::Kind::NeedsRecover);
    machine.kill();
    let rebuilt = machine.rebuild(2);
    assert_eq!((rebuilt.vdisks.len(), rebuilt.lost.len(), rebuilt.quarantined), (2, 0, 0));
    assert_eq!(machine.groups().len(), before.len(), "a rebuild frees nothing");
    machine.open();
    assert_eq!(machine.reads(&machine.vdisk(), 0..20), expected());
    machine.write(&machine.vdisk(), 1, 2);
    let third = machine.create("x", MIB);
    assert_eq!((third.id.node(), third.groups()[0].node()), (2, 2));
}

#[test]
fn a_rebuild_that_is_cut_short_is_done_again() {
    for crash in [Crash::Kill, Crash::PowerLoss(Survival::Nothing), Crash::PowerLoss(Survival::Everything)] {
        for dies_at in 0..8 {
            let machine = used();
            machine.kill();
            let mut seen = 0;
            machine.tap.set_rule(move |operation| {
                seen += u64::from(operation.changes());
                if operation.changes() && seen > dies_at { Fate::Dies } else { Fate::Happens }
            });
            machine.store.replace(MemStore::new(machine.world().clock, 0));
            let (world, disk, config) = (machine.world(), machine.mount(), machine.config.clone());
            let store = std::rc::Rc::new(machine.store.borrow().clone());
            let cache = std::sync::Arc::new(pool::Cache::new(0));
            machine
                .attempt(async move { node::Shard::rebuild(world, disk, store, cache, config, 2).await.map(|_| ()) });
            machine.end(crash, InFlight::Chance);
            machine.rebuild(3);
            machine.open();
            machine.assert_online(&machine.vdisk());
            assert_eq!(machine.reads(&machine.vdisk(), 0..20), expected(), "{crash:?} at {dies_at}");
        }
    }
}

#[test]
fn an_old_superblock_on_a_newer_disk_gives_out_no_id_twice() {
    for rebuild in [false, true] {
        let machine = used();
        machine.kill();
        let old = machine.bytes("superblock", 0, 8192);
        let mut ids = BTreeSet::new();
        for round in 0..3 {
            machine.open();
            machine.write(&machine.vdisk(), 30 + round, 31 + round);
            machine.flush(&machine.vdisk());
            ids.extend(machine.vdisk().groups());
            machine.kill();
        }
        let last_epoch = machine.groups().iter().map(|placed| placed.header.epoch).max().expect("groups");
        machine.put("superblock", 0, old);
        if rebuild {
            machine.rebuild(2);
        } else {
            // With the metadata store at hand it is an old disk, and refused.
            assert!(machine.try_open().expect("it lives").is_err());
            machine.kill();
            // A store that was restored together with it knows no better; the groups do.
            let content = machine.store.borrow().snapshot();
            let older = content.into_iter().map(|(key, value)| (key.clone(), older_generation(&key, value)));
            restore_store(&machine, older.collect());
        }
        machine.open();
        let vdisk = machine.vdisk();
        machine.assert_online(&vdisk);
        assert_eq!(machine.reads(&vdisk, 30..33), [31, 32, 33]);
        assert!(machine.shard().context.pool.epoch() > last_epoch);
        machine.write(&vdisk, 40, 41);
        let fresh: Vec<GroupId> = vdisk.groups().into_iter().filter(|group| !ids.contains(group)).collect();
        assert!(!fresh.is_empty(), "the new frame is in a group of a new id");
        assert_eq!(machine.reads(&machine.restart(), 30..33), [31, 32, 33]);
    }
}

/// The newer copy of the superblock rotted, and the write of the other one by the same start was lost.
#[test]
fn a_rotten_superblock_copy_beside_one_of_the_start_before_is_no_old_disk() {
    const COPY: u64 = 4096;
    for rotten in [0, 1] {
        let machine = used();
        machine.kill();
        let mut before = vec![machine.bytes("superblock", 0, 2 * COPY)];
        for tag in [51, 52] {
            machine.open();
            machine.write(&machine.vdisk(), 1, tag);
            machine.flush(&machine.vdisk());
            machine.kill();
            before.push(machine.bytes("superblock", 0, 2 * COPY));
        }
        let last_epoch = machine.groups().iter().map(|placed| placed.header.epoch).max().expect("groups");
        let refused = |what: &str| {
            let refused = machine.try_open().expect("it lives").err().unwrap_or_else(|| panic!("{what} is believed"));
            assert!(refused.kind == node::Kind::Damaged && refused.context.contains("old copy"), "{what}: {refused}");
            machine.kill();
        };
        let page = (1 - rotten) * COPY;
        let other = |starts_ago: usize| before[2 - starts_ago].slice(page as usize..(page + COPY) as usize);
        machine.put("superblock", 0, before[1].clone());
        refused("a superblock of the start before, whole");
        machine.flip("superblock", rotten * COPY + 40);
        machine.put("superblock", page, other(2));
        refused("a copy of two starts before");
        machine.put("superblock", page, other(1));
        machine.open();
        machine.assert_online(&machine.vdisk());
        assert_eq!(machine.reads(&machine.vdisk(), 0..3), [50, 52, 3]);
        assert!(machine.shard().context.pool.epoch() > last_epoch);
    }
}

fn older_generation(key: &[u8], value: bytes::Bytes) -> bytes::Bytes {
    if !key.starts_with(meta::keys::SHARDS) {
        return value;
    }
    let record = meta::ShardRecord::decode(&value).expect("a good record");
    meta::ShardRecord { generation: 1, ..record }.encode()
}

/// Nothing comes free that it might need, so it is told of, though it has no name any more.
#[test]
fn a_deleted_vdisk_that_cannot_be_read_is_told_of() {
    let machine = used();
    let (shard, id) = (machine.shard(), machine.id("v"));
    machine.run(async move { shard.delete(id, false).await }).expect("deleted");
    machine.kill();
    let group_size = u64::from(machine.config.pool.group_size);
    let groups: Vec<(String, u64)> = machine.groups().into_iter().map(|placed| (placed.file, placed.start)).collect();
    assert!(!groups.is_empty(), "none of it is left");
    machine.tap.set_rule(move |o| {
        let is_in = |start: u64| o.offset >= start + u64::from(HEADER_PAGE) && o.offset < start + group_size;
        let is_there = groups.iter().any(|(file, start)| *o.file == **file && is_in(*start));
        if o.verb == Verb::Read && is_there { Fate::Fails } else { Fate::Happens }
    });
    machine.open();
    machine.settle();
    let told = machine.shard().broken_unknown();
    assert!(told.len() == 1 && told[0].contains(&format!("the deleted vDisk {id}")), "{told:?}");
    machine.kill();
    machine.tap.clear();
    machine.open();
    machine.idle(60_000_000_000);
    assert_eq!((machine.shard().broken_unknown().len(), machine.shard().context.pool.usage().slots_used), (0, 0));
}

#[test]
fn groups_of_a_vdisk_that_nobody_knows_are_kept() {
    let machine = used();
    machine.kill();
    // A group in the middle of some vDisk's log, whose other groups are elsewhere.
    let stranger = GroupHeader {
        group: GroupId::new(1, 900),
        vdisk: VdiskId::new(1, 700),
        epoch: Epoch(1),
        first_sequence: Sequence(40),
        durable_through: Sequence(39),
        predecessor: Some(Predecessor { group: GroupId::new(1, 800), sealed_len: 9000, chain: 7 }),
        wall: WallTime(1),
    };
    let last = machine.groups().pop().expect("groups");
    let size = u64::from(machine.config.pool.group_size);
    let start = last.start + size;
    machine.put(&last.file, start, stranger.encode());
    for _ in 0..3 {
        machine.open();
        let vdisk = machine.vdisk();
        (0..40).for_each(|block| machine.write(&vdisk, 100 + block, block + 1));
        machine.checkpoint(&vdisk);
        machine.make_room(&vdisk);
        assert_eq!(machine.shard().broken_unknown().len(), 1, "it is told of");
        machine.close();
        assert_eq!(machine.bytes(&last.file, start, HEADER_PAGE.into()), stranger.encode());
    }
    machine.rebuild(2);
    assert_eq!(machine.bytes(&last.file, start, HEADER_PAGE.into()), stranger.encode());
}

#[test]
fn a_file_of_another_disk_is_left_alone() {
    let machine = used();
    machine.kill();
    let other = used();
    other.kill();
    let mut image = machine.image();
    let slab = image["slab-0000"].clone();
    // The same slab under another number, and a slab of a disk of its own.
    image.insert("slab-0003".into(), slab);
    let mut foreign = other.image()["slab-0000"].clone();
    let header = pool_header_of_another_disk(&foreign[0].1);
    foreign[0].1 = header;
    image.insert("slab-0007".into(), foreign);
    machine.restore(&image);
    let shard = machine.open();
    assert_eq!(shard.quarantined, 2);
    machine.assert_online(&machine.vdisk());
    assert_eq!(machine.reads(&machine.vdisk(), 0..20), expected());
    let vdisk = machine.vdisk();
    for round in 0..3 {
        (0..40).for_each(|block| machine.write(&vdisk, block, 100 * round + block + 1));
        machine.checkpoint(&vdisk);
        machine.make_room(&vdisk);
    }
    machine.close();
    let now = machine.image();
    assert!(now["slab-0003"] == image["slab-0003"] && now["slab-0007"] == image["slab-0007"]);
}

/// Both copies of the slab's record, with another disk id and the checksum that goes with it.
fn pool_header_of_another_disk(bytes: &[u8]) -> bytes::Bytes {
    let mut bytes = bytes.to_vec();
    for copy in [0, 2048] {
        bytes[copy + 16] ^= 1;
        let crc = base::crc::crc32c(&bytes[copy..copy + 508]);
        bytes[copy + 508..copy + 512].copy_from_slice(&crc.to_le_bytes());
    }
    bytes.into()
}

/// A slot that was given away again holds, right behind the new group's last frame, whole frames of the vDisk's old group.
#[test]
fn old_frames_in_a_recycled_slot_are_not_of_this_group() {
    for rebuild in [false, true] {
        let mut config = manual();
        config.pool.recycled_bytes_max = MIB;
        let machine = Machine::with(config, 1);
        let vdisk = machine.vdisk();
        // Frames of one block, each behind a sync, so that they lie at the same places in every group.
        for round in 0..6 {
            for block in 0..24 {
                machine.write(&vdisk, block, 100 * round + block + 1);
                machine.flush(&vdisk);
            }
            machine.checkpoint(&vdisk);
            machine.make_room(&vdisk);
        }
        let slots = machine.disk.files().into_iter().map(|(_, len)| len).sum::<u64>();
        for step in 0..10 {
            machine.write(&vdisk, 30 + step, step + 1);
            machine.flush(&vdisk);
        }
        assert_eq!(machine.disk.files().into_iter().map(|(_, len)| len).sum::<u64>(), slots, "slots are used again");
        machine.kill();
        let newest = machine.groups().pop().expect("groups");
        let slot = machine.bytes(&newest.file, newest.start, machine.config.pool.group_size.into());
        let end = machine.frames(&newest).last().map(|frame| frame.offset + frame.len).expect("it has frames");
        let next = vdisk::log::frame::decode(&slot[end.next_multiple_of(4096) as usize..]).expect("an old frame");
        assert_ne!(next.group, newest.header.group, "just where the walk looks for the next one");
        if rebuild {
            machine.rebuild(2);
        }
        machine.open();
        let vdisk = machine.vdisk();
        machine.assert_online(&vdisk);
        assert_eq!(machine.reads(&vdisk, 0..24), (501..525).collect::<Vec<u64>>());
        assert_eq!(machine.reads(&vdisk, 30..40), (1..11).collect::<Vec<u64>>());
    }
}

/// Or else the header of a dead group could stand above the frames of its successor after a power loss.
#[test]
fn a_freed_slot_is_used_again_only_behind_a_sync() {
    let mut config = manual();
    config.pool.recycled_bytes_max = MIB;
    let machine = Machine::with(config, 1);
    let vdisk = machine.vdisk();
    for round in 0..8 {
        (0..24).for_each(|block| machine.write(&vdisk, block, 100 * round + block + 1));
        machine.checkpoint(&vdisk);
        machine.make_room(&vdisk);
    }
    // Where a FREE mark stands that no sync has covered.
    let (mut marked, mut reused) = (BTreeSet::new(), 0);
    let mut freed = BTreeSet::new();
    for operation in machine.tap.take().into_iter().filter(|o| o.is_slab()) {
        let place = (operation.file.clone(), operation.offset);
        match (operation.verb, decode_slot_page(&operation.data[..operation.data.len().min(4096)])) {
            (Verb::Sync, _) => marked.retain(|(file, _)| *file != operation.file),
            (Verb::Write, SlotPage::Free(_)) => {
                freed.insert(place.clone());
                marked.insert(place);
            }
            (Verb::Write, SlotPage::Group(header)) => {
                assert!(!marked.contains(&place), "{header:?}");
                reused += u32::from(freed.contains(&place));
            }
            _ => {}
        }
    }
    assert!(reused > 4, "{reused}");
}

/// One group is dead and marked free; the mark is torn so that one copy of the old header is left.
#[test]
fn a_torn_free_mark_frees_nothing_that_lives_and_leaks_nothing() {
    for copy in [0, 2048] {
        let mut config = manual();
        config.pool.recycled_bytes_max = MIB;
        let machine = Machine::with(config, 1);
        let vdisk = machine.vdisk();
        (0..24).for_each(|block| machine.write(&vdisk, block, block + 1));
        machine.kill();
        let before = machine.groups();
        let first = machine.bytes(&before[0].file, before[0].start, HEADER_PAGE.into());
        machine.open();
        let vdisk = machine.vdisk();
        (0..24).for_each(|block| machine.write(&vdisk, block, block + 101));
        machine.checkpoint(&vdisk);
        machine.make_room(&vdisk);
        machine.kill();
        let freed: Vec<_> = before
            .iter()
            .filter(|old| !machine.groups().iter().any(|now| now.header.group == old.header.group))
            .collect();
        assert!(freed.iter().any(|placed| placed.header.group == before[0].header.group), "the first one is dead");
        machine.put(&before[0].file, before[0].start + copy, first.slice(copy as usize..copy as usize + 512));
        assert!(machine.groups().iter().any(|placed| placed.header.group == before[0].header.group), "it is back");
        machine.open();
        let vdisk = machine.vdisk();
        machine.assert_online(&vdisk);
        assert_eq!(machine.reads(&vdisk, 0..24), (101..125).collect::<Vec<u64>>());
        assert_eq!(machine.shard().context.pool.usage().slots_used, vdisk.groups().len() as u64, "freed once more");
    }
}

/// A new group's header page over an old FREE mark, torn by sectors.
#[test]
fn a_torn_group_header_is_the_group_or_a_tail() {
    let mut config = manual();
    config.pool.recycled_bytes_max = MIB;
    for (lost, synced) in [(vec![0], true), (vec![2048], true), (vec![0, 2048], false)] {
        let machine = Machine::with(config.clone(), 1);
        let vdisk = machine.vdisk();
        for round in 0..3 {
            (0..24).for_each(|block| machine.write(&vdisk, block, 100 * round + block + 1));
            machine.checkpoint(&vdisk);
            machine.make_room(&vdisk);
        }
        machine.flush(&vdisk);
        let groups = vdisk.groups().len();
        // Into a recycled slot. In the last case nobody was told that it is safe.
        machine.close();
        machine.open();
        let vdisk = machine.vdisk();
        machine.write(&vdisk, 40, 41);
        if synced {
            machine.flush(&vdisk);
        }
        assert_eq!(vdisk.groups().len(), groups + 1);
        machine.kill();
        let new = machine.groups().pop().expect("groups");
        let mut free = bytes::BytesMut::zeroed(512);
        free[..8].copy_from_slice(b"DRYFREED");
        free[8] = 1;
        free[16..24].copy_from_slice(&5_u64.to_le_bytes());
        let crc = base::crc::crc32c(&free[..508]);
        free[508..].copy_from_slice(&crc.to_le_bytes());
        for at in &lost {
            machine.put(&new.file, new.start + at, free.clone().freeze());
        }
        machine.open();
        let vdisk = machine.vdisk();
        machine.assert_online(&vdisk);
        assert_eq!(machine.reads(&vdisk, 0..24), (201..225).collect::<Vec<u64>>(), "{lost:?}");
        assert_eq!(machine.read(&vdisk, 40), if synced { 41 } else { 0 }, "{lost:?}");
    }
}

/// A deletion that is cut short at operation `dies_at`. True: it had so many.
fn delete_cut_short(dies_at: u64, crash: Crash, rebuild: bool) -> bool {
    let machine = used();
    let other = machine.create("w", MIB);
    machine.write(&other, 0, 7);
    machine.flush(&other);
    let vdisk = machine.vdisk();
    (0..40).for_each(|block| machine.write(&vdisk, 100 + block, block + 1));
    machine.flush(&vdisk);
    let mut seen = 0;
    machine.tap.set_rule(move |operation| {
        seen += u64::from(operation.changes());
        if operation.changes() && seen > dies_at { Fate::Dies } else { Fate::Happens }
    });
    let (shard, id, clock) = (machine.shard(), machine.id("v"), machine.world().clock);
    let ended = machine.attempt(async move {
        shard.delete(id, false).await?;
        clock.sleep(1_000_000_000).await;
        node::Result::Ok(())
    });
    let acknowledged = ended.is_some();
    machine.end(crash, InFlight::Chance);
    if rebuild {
        let rebuilt = machine.rebuild(2);
        assert!(rebuilt.lost.is_empty(), "{rebuilt:?}");
    }
    let context = format!("died at {dies_at}, {crash:?}, rebuild {rebuild}");
    for _ in 0..2 {
        let shard = machine.open();
        machine.idle(1_000_000_000);
        let there = shard.records().iter().any(|record| record.name == "v");
        assert!(!(there && acknowledged), "{context}: it is back");
        let mut groups = 0;
        for record in shard.records() {
            let vdisk = machine.vdisk_by_id(record.id).expect("good");
            machine.assert_online(&vdisk);
            groups += vdisk.groups().len() as u64;
            if record.name == "v" {
                assert_eq!(machine.reads(&vdisk, 0..20), expected(), "{context}");
                assert_eq!(machine.reads(&vdisk, 100..140), (1..41).collect::<Vec<u64>>(), "{context}");
            } else {
                assert_eq!(machine.read(&vdisk, 0), 7, "{context}");
            }
        }
        assert_eq!(shard.context.pool.usage().slots_used, groups, "{context}: groups that nobody has");
        machine.lose_power();
    }
    !acknowledged
}

#[test]
fn a_deletion_that_is_cut_short_is_finished_or_never_was() {
    let mut steps = 0;
    for crash in [
        Crash::Kill,
        Crash::PowerLoss(Survival::Nothing),
        Crash::PowerLoss(Survival::Everything),
        Crash::PowerLoss(Survival::Sectors),
    ] {
        for rebuild in [false, true] {
            steps += (0..).take_while(|dies_at| delete_cut_short(*dies_at, crash, rebuild)).count();
        }
    }
    assert!(steps >= 40, "{steps}");
}

#[test]
fn a_deleted_vdisk_does_not_come_back_whatever_a_power_loss_keeps() {
    for seed in 0..60 {
        let mut config = manual();
        config.pool.recycled_bytes_max = MIB;
        let machine = used_with(config, seed);
        let vdisk = machine.vdisk();
        (0..40).for_each(|block| machine.write(&vdisk, 100 + block, block + 1));
        machine.checkpoint(&vdisk);
        let (shard, id) = (machine.shard(), machine.id("v"));
        machine.run(async move { shard.delete(id, false).await }).expect("not in use");
        machine.idle(1_000_000_000);
        machine.end(Crash::PowerLoss(Survival::Pages), InFlight::Chance);
        // The marks of its groups survived in any subset, and nothing else says that it is gone.
        machine.assert_nothing_is_left(seed);
    }
}

/// A copy of the disk from the same start: its generation is the right one, what it lacks was synced.
#[test]
fn a_copy_of_the_disk_from_the_same_start_is_missed_by_what_was_synced() {
    let machine = used();
    let vdisk = machine.vdisk();
    let old = machine.image();
    (0..40).for_each(|block| machine.write(&vdisk, 100 + block, block + 1));
    machine.checkpoint(&vdisk);
    machine.kill();
    machine.restore(&old);
    machine.open();
    machine.assert_damaged(&machine.vdisk(), "");
}

#[test]
fn the_metadata_store_is_told_of_a_generation_before_it_is_used() {
    let machine = used();
    machine.kill();
    machine.open();
    machine.write(&machine.vdisk(), 0, 1);
    let operations = machine.tap.take();
    let told = operations.iter().position(|o| o.verb == Verb::Commit && o.file.starts_with("shard/"));
    let used = operations.iter().position(|o| o.verb == Verb::Write && o.is_slab());
    assert!(told.is_some() && told < used, "{told:?} {used:?}");
}
