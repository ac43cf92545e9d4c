//! One incarnation's view of a simulated disk: `world::Disk` and `world::File` with latency and faults.

use super::fault::{Fault, Verb};
use super::operation::Effect;
use super::pages::{bytes_of, pieces};
use super::{FileCell, INSTANT_RUN_MAX, SimDisk, Store, Unfinished};
use crate::executor::Domain;
use bytes::{Bytes, BytesMut};
use std::rc::Rc;
use world::local::oneshot;
use world::{Completion, Disk, DiskUsage, Error, File, FileEntry, Kind, LocalFuture, Result};

#[derive(Clone)]
pub(super) struct Mount {
    pub disk: SimDisk,
    pub domain: Domain,
    pub incarnation: u64,
}

struct Handle {
    mount: Mount,
    file: Rc<FileCell>,
}

/// How an operation that has just started is to go on.
struct Start {
    number: u64,
    fault: Option<Fault>,
    /// `None`: complete within the call.
    delay_ns: Option<u64>,
}

/// Typical times of an NVMe disk behind a file system; what matters is that they differ and overlap.
fn delay_range_ns(verb: Verb) -> (u64, u64) {
    match verb {
        Verb::Write => (3_000, 80_000),
        Verb::Read => (5_000, 120_000),
        Verb::Sync => (40_000, 4_000_000),
        Verb::Create | Verb::Remove => (20_000, 500_000),
        Verb::Open | Verb::List | Verb::Ranges => (2_000, 50_000),
        Verb::Allocate | Verb::Punch => (5_000, 200_000),
    }
}

impl Store {
    fn start(&mut self, verb: Verb, name: &Rc<str>, offset: u64, len: u64, content: u64) -> Start {
        let changes = !matches!(verb, Verb::Open | Verb::List | Verb::Read | Verb::Ranges);
        let number = if changes { self.operations } else { u64::MAX };
        self.operations += u64::from(changes);
        let fault = self.plan.decide(verb, number, &mut self.rng);
        let (low, high) = delay_range_ns(verb);
        let delay_ns = match fault {
            Some(Fault::Stall) => Some(self.rng.between(1_000_000_000, 10_000_000_000)),
            _ if self.instant_run < INSTANT_RUN_MAX && self.rng.below(100) < self.options.instant_percent as u64 => {
                None
            }
            _ => Some(self.rng.between(low, high)),
        };
        self.instant_run = if delay_ns.is_none() { self.instant_run + 1 } else { 0 };
        if changes && self.crash_at == Some(number) {
            self.crash_reached = true;
            self.journal.note("disk crash point", [number, 0, 0]);
        }
        let what = match verb {
            Verb::Create => "disk create",
            Verb::Open => "disk open",
            Verb::Remove => "disk remove",
            Verb::List => "disk list",
            Verb::Write => "disk write",
            Verb::Read => "disk read",
            Verb::Sync => "disk sync",
            Verb::Allocate => "disk allocate",
            Verb::Punch => "disk punch",
            Verb::Ranges => "disk ranges",
        };
        self.journal.event(what, name, [offset, len, content]);
        if let Some(fault) = fault {
            self.journal.event("disk fault", &Rc::from(format!("{fault:?} {name}")), [number, 0, 0]);
        }
        Start { number, fault, delay_ns }
    }
}

impl Mount {
    fn is_gone(&self) -> bool {
        let store = self.disk.store.borrow();
        store.incarnation != self.incarnation || store.crash_reached
    }

    /// Starts an operation that changes something. It goes on whether or not anybody waits for it.
    fn change(&self, verb: Verb, name: &Rc<str>, at: (u64, u64, u64), effect: Effect) -> Completion<Result<()>> {
        if self.disk.store.borrow().incarnation != self.incarnation {
            return Completion::pending(std::future::pending());
        }
        let start = self.disk.store.borrow_mut().start(verb, name, at.0, at.1, at.2);
        let crashing = self.disk.store.borrow().crash_reached;
        let Some(delay_ns) = start.delay_ns.filter(|_| !crashing) else {
            if crashing {
                self.keep_unfinished(start.number, effect);
                return Completion::pending(std::future::pending());
            }
            return Completion::Ready(self.finish(start.number, effect, start.fault));
        };
        self.keep_unfinished(start.number, effect);
        let (sender, receiver) = oneshot();
        let mount = self.clone();
        self.disk.executor.spawn(
            self.domain,
            Box::pin(async move {
                mount.disk.executor.sleep(delay_ns).await;
                if mount.is_gone() {
                    return;
                }
                let unfinished = mount.disk.store.borrow_mut().unfinished.remove(&start.number);
                let effect = unfinished.expect("only this task and a crash take it out").effect;
                sender.send(mount.finish(start.number, effect, start.fault));
            }),
        );
        Completion::pending(async move {
            match receiver.await {
                Some(result) => result,
                None => std::future::pending().await,
            }
        })
    }

    fn keep_unfinished(&self, number: u64, effect: Effect) {
        self.disk.store.borrow_mut().unfinished.insert(number, Unfinished { number, effect });
    }

    fn finish(&self, number: u64, effect: Effect, fault: Option<Fault>) -> Result<()> {
        let result = self.disk.store.borrow_mut().apply(&effect, fault);
        if let Effect::Write { file, offset, .. } = &effect {
            file.writing.borrow_mut().retain(|range| range.0 != *offset);
        }
        self.disk.executor.journal.count(number, u64::from(result.is_ok()));
        result
    }

    /// Starts an operation that only looks; `look` runs when it completes.
    fn look<T: 'static>(
        &self,
        verb: Verb,
        name: &Rc<str>,
        at: (u64, u64),
        look: impl FnOnce(&mut Store) -> Result<T> + 'static,
    ) -> Completion<Result<T>> {
        if self.is_gone() {
            return Completion::pending(std::future::pending());
        }
        let start = self.disk.store.borrow_mut().start(verb, name, at.0, at.1, 0);
        if start.fault == Some(Fault::Error) {
            self.disk.store.borrow_mut().damage.errors += 1;
            let error =
                Error { kind: Kind::Io, context: format!("{verb:?} {name}"), detail: "EIO by the fault plan".into() };
            return Completion::Ready(Err(error));
        }
        let Some(delay_ns) = start.delay_ns else {
            return Completion::Ready(look(&mut self.disk.store.borrow_mut()));
        };
        let mount = self.clone();
        Completion::pending(async move {
            mount.disk.executor.sleep(delay_ns).await;
            if mount.is_gone() {
                std::future::pending::<()>().await;
            }
            look(&mut mount.disk.store.borrow_mut())
        })
    }
}

impl Disk for Mount {
    fn create(&self, name: &str) -> LocalFuture<Result<Rc<dyn File>>> {
        let (mount, name) = (self.clone(), name.to_string());
        let effect = Effect::Create { name: name.clone() };
        let created = self.change(Verb::Create, &Rc::from(name.as_str()), (0, 0, 0), effect);
        Box::pin(async move {
            created.await?;
            let file = mount.disk.store.borrow().files.get(&name).cloned();
            let file = file.expect("just created, and nobody else removes it before its creator has seen it");
            Ok(Rc::new(Handle { mount, file }) as Rc<dyn File>)
        })
    }

    fn open(&self, name: &str) -> LocalFuture<Result<Rc<dyn File>>> {
        let (mount, key) = (self.clone(), name.to_string());
        Box::pin(self.look(Verb::Open, &Rc::from(name), (0, 0), move |store| match store.files.get(&key) {
            Some(file) => Ok(Rc::new(Handle { mount, file: file.clone() }) as Rc<dyn File>),
            None => Err(Error { kind: Kind::NotFound, context: format!("open {key}"), detail: "ENOENT".into() }),
        }))
    }

    fn remove(&self, name: &str) -> LocalFuture<Result<()>> {
        let effect = Effect::Remove { name: name.to_string() };
        Box::pin(self.change(Verb::Remove, &Rc::from(name), (0, 0, 0), effect))
    }

    fn list(&self) -> LocalFuture<Result<Vec<FileEntry>>> {
        Box::pin(self.look(Verb::List, &Rc::from(""), (0, 0), |store| {
            let entry = |(name, file): (&String, &Rc<FileCell>)| FileEntry {
                name: name.clone(),
                size_bytes: file.pages.borrow().size(),
            };
            Ok(store.files.iter().map(entry).collect())
        }))
    }

    fn usage(&self) -> LocalFuture<Result<DiskUsage>> {
        Box::pin(self.look(Verb::List, &Rc::from("usage"), (0, 0), |store| {
            let capacity_bytes = store.options.capacity_bytes;
            Ok(DiskUsage { capacity_bytes, free_bytes: capacity_bytes.saturating_sub(store.allocated_bytes.get()) })
        }))
    }
}

impl Handle {
    fn space_is_controlled(&self) -> Result<()> {
        if self.mount.disk.store.borrow().options.controls_space {
            return Ok(());
        }
        let context = format!("space of {}", self.file.name);
        Err(Error { kind: Kind::Unsupported, context, detail: "EOPNOTSUPP".into() })
    }
}

impl File for Handle {
    fn write(&self, offset: u64, parts: &[Bytes]) -> Completion<Result<()>> {
        let mut data = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
        parts.iter().for_each(|part| data.extend_from_slice(part));
        let data = data.freeze();
        let (end, crc) = (offset + data.len() as u64, base::crc::crc32c(&data));
        {
            let mut writing = self.file.writing.borrow_mut();
            let overlap = writing.iter().find(|(start, stop)| *start < end && offset < *stop);
            assert!(
                overlap.is_none(),
                "writes under way overlap in {}: {offset}..{end} and {overlap:?}",
                self.file.name
            );
            writing.push((offset, end));
        }
        let at = (offset, data.len() as u64, crc as u64);
        self.mount.change(Verb::Write, &self.file.name, at, Effect::Write { file: self.file.clone(), offset, data })
    }

    fn read(&self, offset: u64, len: usize) -> Completion<Result<Bytes>> {
        let file = self.file.clone();
        self.mount.look(Verb::Read, &self.file.name, (offset, len as u64), move |store| {
            if store.rng.below(4) == 0 && store.options.evicts {
                store.evict(&file);
            }
            let mut data = BytesMut::with_capacity(len);
            for (index, from, to) in pieces(offset, offset + len as u64) {
                data.extend_from_slice(&bytes_of(&file.pages.borrow().content(index))[from..to]);
            }
            store.journal.count(base::crc::crc32c(&data) as u64, offset);
            Ok(data.freeze())
        })
    }

    fn sync(&self) -> LocalFuture<Result<()>> {
        let stamp = self.mount.disk.store.borrow_mut().next_stamp();
        let effect = Effect::Sync { file: self.file.clone(), stamp };
        Box::pin(self.mount.change(Verb::Sync, &self.file.name, (stamp.0, 0, 0), effect))
    }

    fn allocate(&self, offset: u64, len: u64) -> Completion<Result<()>> {
        if let Err(error) = self.space_is_controlled() {
            return Completion::Ready(Err(error));
        }
        let effect = Effect::Allocate { file: self.file.clone(), offset, len };
        self.mount.change(Verb::Allocate, &self.file.name, (offset, len, 0), effect)
    }

    fn punch(&self, offset: u64, len: u64) -> LocalFuture<Result<()>> {
        if let Err(error) = self.space_is_controlled() {
            return Box::pin(std::future::ready(Err(error)));
        }
        let effect = Effect::Punch { file: self.file.clone(), offset, len };
        Box::pin(self.mount.change(Verb::Punch, &self.file.name, (offset, len, 0), effect))
    }

    fn release(&self, _offset: u64, _len: u64) {
        let mut store = self.mount.disk.store.borrow_mut();
        if store.options.evicts {
            store.evict(&self.file);
        }
    }

    fn data_ranges(&self) -> LocalFuture<Result<Vec<(u64, u64)>>> {
        let file = self.file.clone();
        Box::pin(self.mount.look(Verb::Ranges, &self.file.name, (0, 0), move |_| Ok(file.pages.borrow().ranges())))
    }

    fn size_bytes(&self) -> u64 {
        self.file.pages.borrow().size()
    }
}
