//! The store on a disk that loses power: a commit that was answered is there, one that was not is there whole or not at all.

use crate::{Outcome, RedbCore, Transaction};
use bytes::Bytes;
use redb::StorageBackend;
use std::io;
use std::sync::{Arc, Mutex};

const SECTOR: usize = 512;
const COMMITS: u64 = 8;

/// What a program asks of the disk.
#[derive(Clone, Debug)]
enum Asked {
    Write(u64, Vec<u8>),
    SetLen(u64),
}

#[derive(Debug, Default)]
struct State {
    /// As the program sees it.
    now: Vec<u8>,
    /// What no power loss takes.
    synced: Vec<u8>,
    unsynced: Vec<Asked>,
    syncs: u64,
    operations: u64,
    /// The power goes at this operation.
    ends_at: Option<u64>,
}

#[derive(Clone, Debug, Default)]
struct Disk(Arc<Mutex<State>>);

impl Disk {
    fn of(image: Vec<u8>) -> Disk {
        Disk(Arc::new(Mutex::new(State { now: image.clone(), synced: image, ..State::default() })))
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.0.lock().expect("no panic under the lock"))
    }

    fn changes(&self, work: impl FnOnce(&mut State)) -> io::Result<()> {
        self.with(|state| {
            if state.ends_at.is_some_and(|end| state.operations >= end) {
                return Err(io::Error::other("no power"));
            }
            state.operations += 1;
            work(state);
            Ok(())
        })
    }

    /// Of what was not synced each sector is there or not.
    fn after_power_loss(&self, seed: u64) -> Vec<u8> {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut survives = move || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            // All, none, or any.
            seed % 4 != 0 && (seed % 4 == 1 || random.is_multiple_of(2))
        };
        self.with(|state| {
            let mut image = state.synced.clone();
            for asked in &state.unsynced {
                match asked {
                    Asked::SetLen(len) if survives() => image.resize(*len as usize, 0),
                    Asked::SetLen(_) => {}
                    Asked::Write(offset, data) => {
                        for (index, sector) in data.chunks(SECTOR).enumerate() {
                            let start = *offset as usize + index * SECTOR;
                            if survives() && start + sector.len() <= image.len() {
                                image[start..start + sector.len()].copy_from_slice(sector);
                            }
                        }
                    }
                }
            }
            image
        })
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.with(|state| state.now.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.with(|state| {
            let from = offset as usize;
            let bytes = state.now.get(from..from + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            out.copy_from_slice(bytes);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.changes(|state| {
            state.now.resize(len as usize, 0);
            state.unsynced.push(Asked::SetLen(len));
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.changes(|state| {
            state.syncs += 1;
            state.synced = state.now.clone();
            state.unsynced.clear();
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.changes(|state| {
            let start = offset as usize;
            state.now[start..start + data.len()].copy_from_slice(data);
            state.unsynced.push(Asked::Write(offset, data.to_vec()));
        })
    }
}

/// Two keys that have to agree, a value that grows and goes, and one that stays.
fn transaction(number: u64) -> Transaction {
    let bytes = |number: u64| Bytes::from(number.to_le_bytes().to_vec());
    let transaction = Transaction::new().put(Bytes::from_static(b"a"), bytes(number));
    let transaction = transaction.put(Bytes::from_static(b"b"), bytes(number));
    let transaction =
        transaction.put(Bytes::from(format!("large/{number}")), vec![number as u8; 3000 * number as usize]);
    let transaction = transaction.put(Bytes::from(format!("small/{number}")), bytes(number));
    if number > 1 { transaction.delete(Bytes::from(format!("large/{}", number - 1))) } else { transaction }
}

fn check(core: &mut RedbCore, answered: u64, context: &str) {
    let number = |bytes: Bytes| u64::from_le_bytes(bytes[..].try_into().expect("8 bytes"));
    let mut get = |key: &[u8]| core.get(key).expect(context).map(number);
    let (a, b) = (get(b"a"), get(b"b"));
    assert_eq!(a, b, "{context}");
    let last = a.unwrap_or(0);
    assert!(last == answered || last == answered + 1, "{context}: {answered} were answered, {last} are there");
    let small = core.scan(b"small/", None, 100).expect(context).len() as u64;
    let large = core.scan(b"large/", None, 100).expect(context);
    assert_eq!((small, large.len() as u64), (last, last.min(1)), "{context}");
    assert!(large.iter().all(|(_, value)| value.iter().all(|byte| u64::from(*byte) == last)), "{context}");
}

#[test]
fn a_power_loss_anywhere_leaves_what_was_answered() {
    let empty = Disk::default();
    drop(RedbCore::with_backend(empty.clone()).expect("a new store"));
    let begun = empty.with(|state| state.now.clone());
    for ends_at in 0.. {
        let disk = Disk::of(begun.clone());
        disk.with(|state| state.ends_at = Some(ends_at));
        let mut answered = 0;
        let mut core = RedbCore::with_backend(disk.clone()).ok();
        if let Some(core) = &mut core {
            while answered < COMMITS && matches!(core.commit(&transaction(answered + 1)), Ok(Outcome::Committed)) {
                answered += 1;
            }
        }
        // Where nothing, all or some of what was not synced is there.
        for seed in [ends_at % 2, 2 + ends_at % 2] {
            // Before it is closed, which would tell it that all is well.
            let image = disk.after_power_loss(ends_at * 4 + seed);
            let context = format!("operation {ends_at}, seed {seed}");
            let mut found = RedbCore::with_backend(Disk::of(image)).expect(&context);
            check(&mut found, answered, &context);
        }
        if answered == COMMITS {
            assert!(ends_at > 4 * COMMITS, "it died before: {ends_at}");
            return;
        }
    }
}

/// Clients wait for each of them.
#[test]
fn a_commit_takes_two_syncs() {
    let disk = Disk::default();
    let mut core = RedbCore::with_backend(disk.clone()).expect("a new store");
    for number in 1..=3 {
        let before = disk.with(|state| state.syncs);
        assert_eq!(core.commit(&transaction(number)).expect("room"), Outcome::Committed);
        assert_eq!(disk.with(|state| state.syncs) - before, 2);
    }
}
