//! Random histories against a model: what was synced survives every power loss, what was appended every kill, and
//! what was freed for good never comes back.

use super::*;
use disk::Numbers;
use std::collections::{BTreeMap, BTreeSet};

struct Known {
    header: GroupHeader,
    tail: u32,
    durable: u32,
    slab: SlabId,
    /// Bytes that were declared dead.
    punched: Vec<(u32, u32)>,
    freed: bool,
    free_durable: bool,
    /// Ranges at the tail were never appended: skipped by alignment.
    gaps: Vec<(u32, u32)>,
    /// Its first append failed: the header may be there or not.
    doubtful: bool,
}

struct History {
    bench: Bench,
    numbers: Numbers,
    pool: Rc<Pool>,
    open: Vec<OpenGroup>,
    known: BTreeMap<GroupId, Known>,
    ids: BTreeSet<GroupId>,
    log: Vec<String>,
    /// The disk is small, and appends fail now and then.
    hard: bool,
}

impl History {
    fn new(seed: u64, hard: bool) -> History {
        let bench = Bench::new(PoolConfig { slots_per_slab_max: 3, ..small() });
        let pool = bench.pool();
        let numbers = Numbers::new(seed);
        bench.disk.slow.set(numbers.below(4) == 0);
        if hard {
            let fixed = 8192 + small().ballast_bytes + 4 * 4096;
            bench.disk.capacity_bytes.set(Some(fixed + (2 + numbers.below(5)) * u64::from(SIZE)));
        }
        let (open, known, ids, log) = (Vec::new(), BTreeMap::new(), BTreeSet::new(), Vec::new());
        History { bench, numbers, pool, open, known, ids, log, hard }
    }

    fn step(&mut self) {
        match self.numbers.below(100) {
            0..15 => self.open_group(),
            15..60 => self.append(),
            60..75 => self.sync(),
            75..83 => self.free(),
            83..86 => self.punch(),
            86..90 => self.drop_handle(),
            90..94 => self.bench.turns.run(self.pool.replenish()).expect("the disk works"),
            94..96 => self.restart("power loss"),
            96..98 => self.restart("kill"),
            98 => self.restart("close"),
            _ => self.fail_sync(),
        }
    }

    fn open_group(&mut self) {
        if self.open.len() == 4 {
            return;
        }
        match self.bench.turns.run(self.pool.open_group(new_group())) {
            Ok(group) => {
                assert!(self.ids.insert(group.id()), "{} came twice", group.id());
                self.open.push(group);
            }
            Err(e) => assert!(self.hard && e.kind == Kind::Full, "{e}"),
        }
    }

    fn append(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let i = self.numbers.below(self.open.len() as u64) as usize;
        let group = &mut self.open[i];
        let tail = group.tail();
        let offset = if self.numbers.below(3) == 0 { tail.next_multiple_of(4096) } else { tail };
        let len = (self.numbers.below(9000) as u32).min(SIZE - offset);
        if self.hard && self.numbers.below(3) == 0 {
            let result = self.bench.turns.run(group.reserve(len, Purpose::Emergency));
            assert!(result.as_ref().err().is_none_or(|e| e.kind == Kind::Full), "{result:?}");
        }
        let faults = &self.bench.disk.faults;
        match self.numbers.below(if self.hard { 30 } else { 1 }) {
            1 => faults.write_error.replace(Some(slab(group).file_name())),
            2 => faults.short_write.replace(Some(slab(group).file_name())),
            _ => None,
        };
        let bytes = content(group.id(), offset, len);
        let result = self.bench.append(group, offset, &bytes);
        faults.write_error.replace(None);
        faults.short_write.replace(None);
        if matches!(&result, Err(e) if e.kind == Kind::Full) {
            assert!(self.hard && !group.is_sealed() && group.tail() == tail);
            return;
        }
        let known = self.known.entry(group.id()).or_insert_with(|| Known {
            header: *group.header(),
            tail: 4096,
            durable: 0,
            slab: slab(group),
            punched: Vec::new(),
            freed: false,
            free_durable: false,
            gaps: Vec::new(),
            doubtful: result.is_err(),
        });
        match result {
            Ok(()) => {
                known.gaps.push((tail, offset));
                known.tail = offset + len;
            }
            Err(e) => {
                assert!(self.hard && e.kind == Kind::Io && group.is_sealed(), "{e}");
                self.open.remove(i);
            }
        }
    }

    fn sync(&mut self) {
        let Some(id) = self.pick() else { return };
        self.bench.sync(&self.pool, id).expect("the disk works");
        self.synced(self.known[&id].slab);
    }

    fn synced(&mut self, slab: SlabId) {
        for known in self.known.values_mut().filter(|known| known.slab == slab) {
            known.durable = known.tail;
            known.free_durable |= known.freed;
        }
        self.open.iter_mut().filter(|group| crate::tests::slab(group) == slab).for_each(OpenGroup::synced);
    }

    fn pick(&self) -> Option<GroupId> {
        let live: Vec<GroupId> = self.known.iter().filter(|(_, known)| !known.freed).map(|(&id, _)| id).collect();
        live.get(self.numbers.below(live.len().max(1) as u64) as usize).copied()
    }

    fn free(&mut self) {
        let Some(id) = self.pick() else { return };
        self.open.retain(|group| group.id() != id);
        self.bench.free(&self.pool, id);
        self.known.get_mut(&id).expect("picked").freed = true;
        assert!(!self.pool.knows(id));
    }

    fn punch(&mut self) {
        let Some(id) = self.pick() else { return };
        let known = self.known.get_mut(&id).expect("picked");
        let start = 4096 + self.numbers.below(u64::from(known.tail - 4096) + 1) as u32;
        let len = self.numbers.below(u64::from(known.tail - start) + 1) as u32;
        if known.punched.iter().any(|&(from, to)| start < to && from < start + len) {
            // What is punched twice is given back once, which the estimate of space does not notice.
            return;
        }
        known.punched.push((start, start + len));
        self.bench.turns.run(self.pool.punch(id, start, len)).expect("the disk works");
    }

    fn drop_handle(&mut self) {
        if !self.open.is_empty() {
            let i = self.numbers.below(self.open.len() as u64) as usize;
            self.open.remove(i);
        }
    }

    /// The slab takes no more: the handles go, and what was not synced is in doubt until the next start.
    fn fail_sync(&mut self) {
        let Some(group) = self.open.first() else { return };
        let (id, slab) = (group.id(), slab(group));
        self.bench.disk.faults.sync_error.replace(Some(slab.file_name()));
        let result = self.bench.sync(&self.pool, id);
        self.bench.disk.faults.sync_error.replace(None);
        if result.is_err() {
            self.open.retain(|group| crate::tests::slab(group) != slab);
            // The disk in memory has dropped what it should have synced; a restart shows what is left.
            self.restart("power loss");
        }
    }

    fn restart(&mut self, how: &str) {
        self.log.push(how.into());
        if how == "close" {
            self.open.clear();
            self.bench.turns.run(self.pool.close()).expect("the disk works");
            let slabs: BTreeSet<SlabId> = self.known.values().map(|known| known.slab).collect();
            slabs.into_iter().for_each(|slab| self.synced(slab));
        }
        self.bench.turns.drop_tasks();
        if how != "kill" {
            self.bench.disk.crash(&self.numbers);
        }
        // The handles of the process that died must not touch the disk any more.
        self.open.drain(..).for_each(std::mem::forget);
        let opened = self.bench.open();
        assert!(opened.pool.epoch() > self.pool.epoch());
        assert_eq!((opened.clean, opened.superblock_was_old), (how == "close", false));
        assert_eq!(opened.quarantined, []);
        std::mem::forget(std::mem::replace(&mut self.pool, opened.pool.clone()));
        let found: BTreeMap<GroupId, GroupHeader> = opened.groups.iter().map(|h| (h.group, *h)).collect();
        for id in found.keys() {
            assert!(self.known.contains_key(id), "{id} was never written");
        }
        let all = std::mem::take(&mut self.known);
        for (id, mut known) in all {
            let survives = if how == "kill" { known.tail } else { known.durable };
            match found.get(&id) {
                Some(header) => {
                    assert_eq!(*header, known.header);
                    assert!(!(known.freed && (known.free_durable || how == "kill")), "{id} was freed for good");
                    if known.freed {
                        // Its vDisk finds it dead, as it did before, and frees it again.
                        self.bench.free(&self.pool, id);
                    } else {
                        self.check(&known, survives);
                        known.tail = survives.max(4096);
                        known.durable = known.durable.min(survives);
                    }
                    self.known.insert(id, known);
                }
                // The mark that a killed process wrote may still be lost.
                None if how == "kill" && known.freed && !known.free_durable => {
                    self.known.insert(id, known);
                }
                None => assert!(known.freed || known.doubtful || survives == 0, "{id} is lost"),
            }
        }
    }

    fn check(&self, known: &Known, end: u32) {
        let id = known.header.group;
        let Some(len) = end.checked_sub(4096).filter(|&len| len > 0) else { return };
        let bytes = self.bench.read(&self.pool, id, 4096, len).expect("stored");
        let expect = content(id, 4096, len);
        let excused: Vec<(u32, u32)> = known.punched.iter().chain(&known.gaps).copied().collect();
        for (i, (found, expect)) in bytes.iter().zip(&expect).enumerate() {
            let at = 4096 + i as u32;
            let excuse = || excused.iter().any(|&(start, end)| (start..end).contains(&at));
            assert!(found == expect || excuse(), "{id} at {at}: {found} instead of {expect}");
        }
    }

    fn check_all(&self) {
        for known in self.known.values().filter(|known| !known.freed) {
            self.check(known, known.tail);
        }
        let usage = self.pool.usage();
        let used = self.bench.disk.used_bytes() - 8192;
        assert_eq!(usage.slots_quarantined, 0);
        // A later start does not see space that was reserved and never written.
        let estimated = self.log.is_empty();
        assert!(usage.allocated_bytes >= used || !estimated, "estimate {} of {used}", usage.allocated_bytes);
    }
}

fn run(seed: u64, hard: bool) {
    let mut history = History::new(seed, hard);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for step in 0..120 {
            history.step();
            if step % 20 == 0 {
                history.check_all();
            }
        }
        history.check_all();
        history.restart("kill");
        history.restart("power loss");
    }));
    if let Err(panic) = result {
        eprintln!("seed {seed} failed after {:?}", history.log);
        std::mem::forget(history);
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn random_histories() {
    (1..=200).for_each(|seed| run(seed, false));
}

/// On a disk that is full again and again, and that fails appends.
#[test]
fn random_histories_of_a_bad_disk() {
    (1..=200).for_each(|seed| run(seed, true));
}
