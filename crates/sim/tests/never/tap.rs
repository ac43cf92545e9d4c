//! A disk and a metadata store that tell what was asked of them, in order, and obey a rule: this operation fails, that
//! one is half done, at this one the machine dies.

use bytes::Bytes;
use meta::{MemStore, Outcome, Store, Transaction};
use sim::disk::{Fault, FaultPlan, SimDisk};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use world::{Clock, Completion, Disk, DiskUsage, Error, File, FileEntry, Kind, LocalFuture, Result};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    Create,
    Remove,
    Read,
    Write,
    Sync,
    Allocate,
    Punch,
    /// Of the metadata store.
    Commit,
}

#[derive(Clone, Debug)]
pub struct Operation {
    pub verb: Verb,
    pub file: Rc<str>,
    pub offset: u64,
    pub len: u64,
    /// What is written.
    pub data: Bytes,
}

impl Operation {
    pub fn end(&self) -> u64 {
        self.offset + self.len
    }
    pub fn is_slab(&self) -> bool {
        self.file.starts_with("slab-")
    }
    pub fn changes(&self) -> bool {
        self.verb != Verb::Read
    }
}

/// What becomes of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    Happens,
    /// Nothing happens, and the caller is told so. A sync forgets what it was to store, as Linux does.
    Fails,
    /// A commit finds no room, or what is to be allocated.
    Full,
    /// It happens, but the caller is told that it failed.
    FailsWhole,
    /// The same of a sync, a while later. Of a read nothing comes.
    FailsWholeLater,
    /// Of a write the first bytes happen; the caller is told that it failed.
    FailsAfter(u64),
    /// A read is answered, a write done, a sync begun, a while later, with what is there then.
    Waits,
    /// A read, a write or a sync never ends.
    Hangs,
    /// The machine dies before it happens.
    Dies,
}

type Rule = Box<dyn FnMut(&Operation) -> Fate>;

#[derive(Default)]
pub struct Tap {
    rule: RefCell<Option<Rule>>,
    log: RefCell<Vec<Operation>>,
    /// The machine died at a commit of the metadata store.
    pub died: Cell<bool>,
}

impl Tap {
    pub fn set_rule(&self, rule: impl FnMut(&Operation) -> Fate + 'static) {
        self.rule.replace(Some(Box::new(rule)));
    }

    pub fn clear(&self) {
        self.rule.replace(None);
        self.log.borrow_mut().clear();
        self.died.set(false);
    }

    /// What was asked since the last time, oldest first.
    pub fn take(&self) -> Vec<Operation> {
        std::mem::take(&mut *self.log.borrow_mut())
    }

    fn decide(&self, operation: Operation) -> Fate {
        let rule = self.rule.take();
        let Some(mut rule) = rule else {
            self.log.borrow_mut().push(operation);
            return Fate::Happens;
        };
        let fate = rule(&operation);
        self.log.borrow_mut().push(operation);
        self.rule.borrow_mut().get_or_insert(rule);
        fate
    }
}

fn is_full(file: &str) -> Error {
    Error { kind: Kind::Full, context: format!("file {file}"), detail: "ENOSPC by the test's rule".into() }
}

fn refused(file: &str) -> Error {
    Error { kind: Kind::Io, context: format!("file {file}"), detail: "EIO by the test's rule".into() }
}

pub struct TapDisk {
    pub inner: Rc<dyn Disk>,
    pub disk: SimDisk,
    pub tap: Rc<Tap>,
    pub clock: Rc<dyn Clock>,
}

impl TapDisk {
    fn name(&self, verb: Verb, name: &str) -> Option<Error> {
        let operation = Operation { verb, file: Rc::from(name), offset: 0, len: 0, data: Bytes::new() };
        match self.tap.decide(operation) {
            Fate::Happens => None,
            Fate::Dies => {
                die(&self.disk);
                None
            }
            _ => Some(refused(name)),
        }
    }

    fn wrap(&self, name: &str, opened: LocalFuture<Result<Rc<dyn File>>>) -> LocalFuture<Result<Rc<dyn File>>> {
        let (disk, tap, clock) = (self.disk.clone(), self.tap.clone(), self.clock.clone());
        let name = Rc::from(name);
        Box::pin(async move {
            let inner = opened.await?;
            Ok(Rc::new(TapFile { inner, disk, tap, clock, name }) as Rc<dyn File>)
        })
    }
}

/// The operation that comes next, and all behind it, stay unfinished.
fn die(disk: &SimDisk) {
    disk.crash_at(Some(disk.operations()));
}

impl Disk for TapDisk {
    fn create(&self, name: &str) -> LocalFuture<Result<Rc<dyn File>>> {
        match self.name(Verb::Create, name) {
            Some(error) => Box::pin(std::future::ready(Err(error))),
            None => self.wrap(name, self.inner.create(name)),
        }
    }
    fn open(&self, name: &str) -> LocalFuture<Result<Rc<dyn File>>> {
        self.wrap(name, self.inner.open(name))
    }
    fn remove(&self, name: &str) -> LocalFuture<Result<()>> {
        match self.name(Verb::Remove, name) {
            Some(error) => Box::pin(std::future::ready(Err(error))),
            None => self.inner.remove(name),
        }
    }
    fn list(&self) -> LocalFuture<Result<Vec<FileEntry>>> {
        self.inner.list()
    }
    fn usage(&self) -> LocalFuture<Result<DiskUsage>> {
        self.inner.usage()
    }
}

struct TapFile {
    inner: Rc<dyn File>,
    disk: SimDisk,
    tap: Rc<Tap>,
    clock: Rc<dyn Clock>,
    name: Rc<str>,
}

/// How long what waits waits, ns.
pub const WAIT_NS: u64 = 1_000_000_000;

impl TapFile {
    fn decide(&self, verb: Verb, offset: u64, len: u64, data: Bytes) -> Fate {
        let fate = self.tap.decide(Operation { verb, file: self.name.clone(), offset, len, data });
        if fate == Fate::Dies {
            die(&self.disk);
        }
        fate
    }

    /// `done`: the operation in whole, already under way, if it is to happen.
    fn fail_after(&self, done: Completion<Result<()>>) -> Completion<Result<()>> {
        let error = refused(&self.name);
        Completion::pending(async move {
            done.await?;
            Err(error)
        })
    }
}

impl File for TapFile {
    fn write(&self, offset: u64, parts: &[Bytes]) -> Completion<Result<()>> {
        let data = Bytes::from(parts.concat());
        match self.decide(Verb::Write, offset, data.len() as u64, data.clone()) {
            Fate::Happens | Fate::Dies => self.inner.write(offset, parts),
            Fate::Waits => {
                let (inner, wait, parts) = (self.inner.clone(), self.clock.sleep(WAIT_NS), parts.to_vec());
                Completion::pending(async move {
                    wait.await;
                    inner.write(offset, &parts).await
                })
            }
            Fate::Hangs => Completion::pending(std::future::pending()),
            Fate::Fails | Fate::Full | Fate::FailsWholeLater => Completion::Ready(Err(refused(&self.name))),
            Fate::FailsWhole => self.fail_after(self.inner.write(offset, parts)),
            Fate::FailsAfter(len) => {
                self.fail_after(self.inner.write(offset, &[data.slice(..data.len().min(len as usize))]))
            }
        }
    }
    fn read(&self, offset: u64, len: usize) -> Completion<Result<Bytes>> {
        match self.decide(Verb::Read, offset, len as u64, Bytes::new()) {
            Fate::Happens | Fate::Dies => self.inner.read(offset, len),
            Fate::Waits => {
                let (inner, wait) = (self.inner.clone(), self.clock.sleep(WAIT_NS));
                Completion::pending(async move {
                    wait.await;
                    inner.read(offset, len).await
                })
            }
            Fate::Hangs => Completion::pending(std::future::pending()),
            Fate::FailsWholeLater => {
                let (wait, error) = (self.clock.sleep(WAIT_NS), refused(&self.name));
                Completion::pending(async move {
                    wait.await;
                    Err(error)
                })
            }
            _ => Completion::Ready(Err(refused(&self.name))),
        }
    }
    fn sync(&self) -> LocalFuture<Result<()>> {
        match self.decide(Verb::Sync, 0, 0, Bytes::new()) {
            Fate::Happens | Fate::Dies => self.inner.sync(),
            Fate::FailsWhole => {
                let (done, error) = (self.inner.sync(), refused(&self.name));
                Box::pin(async move {
                    done.await?;
                    Err(error)
                })
            }
            Fate::Hangs => Box::pin(std::future::pending()),
            fate @ (Fate::Waits | Fate::FailsWholeLater) => {
                let (inner, wait, error) = (self.inner.clone(), self.clock.sleep(WAIT_NS), refused(&self.name));
                Box::pin(async move {
                    wait.await;
                    inner.sync().await?;
                    if fate == Fate::Waits { Ok(()) } else { Err(error) }
                })
            }
            Fate::Fails | Fate::Full | Fate::FailsAfter(_) => {
                let at = BTreeMap::from([(self.disk.operations(), Fault::Error)]);
                self.disk.set_faults(FaultPlan { at, ..FaultPlan::none() });
                self.inner.sync()
            }
        }
    }
    fn allocate(&self, offset: u64, len: u64) -> Completion<Result<()>> {
        match self.decide(Verb::Allocate, offset, len, Bytes::new()) {
            Fate::Happens | Fate::Dies => self.inner.allocate(offset, len),
            Fate::Full => Completion::Ready(Err(is_full(&self.name))),
            _ => Completion::Ready(Err(refused(&self.name))),
        }
    }
    fn punch(&self, offset: u64, len: u64) -> LocalFuture<Result<()>> {
        match self.decide(Verb::Punch, offset, len, Bytes::new()) {
            Fate::Happens | Fate::Dies => self.inner.punch(offset, len),
            _ => Box::pin(std::future::ready(Err(refused(&self.name)))),
        }
    }
    fn release(&self, offset: u64, len: u64) {
        self.inner.release(offset, len);
    }
    fn data_ranges(&self) -> LocalFuture<Result<Vec<(u64, u64)>>> {
        self.inner.data_ranges()
    }
    fn size_bytes(&self) -> u64 {
        self.inner.size_bytes()
    }
}

pub struct TapStore {
    pub inner: MemStore,
    pub tap: Rc<Tap>,
}

impl Store for TapStore {
    fn get(&self, key: &[u8]) -> LocalFuture<meta::Result<Option<Bytes>>> {
        self.inner.get(key)
    }
    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> LocalFuture<meta::Result<Vec<(Bytes, Bytes)>>> {
        self.inner.scan(prefix, after, limit)
    }
    fn commit(&self, transaction: Transaction) -> LocalFuture<meta::Result<Outcome>> {
        let key = transaction.puts.first().map(|(key, _)| String::from_utf8_lossy(key).into_owned());
        let file = Rc::from(key.unwrap_or_default());
        let operation = Operation { verb: Verb::Commit, file, offset: 0, len: 0, data: Bytes::new() };
        match self.tap.decide(operation) {
            Fate::Happens => self.inner.commit(transaction),
            Fate::FailsWhole => {
                let done = self.inner.commit(transaction);
                Box::pin(async move {
                    let _ = done.await?;
                    Err(meta::Error::new(meta::Kind::Io, "by the test's rule, though it is done"))
                })
            }
            Fate::Dies => {
                self.tap.died.set(true);
                Box::pin(std::future::pending())
            }
            fate => {
                let kind = if fate == Fate::Full { meta::Kind::Full } else { meta::Kind::Io };
                Box::pin(std::future::ready(Err(meta::Error::new(kind, "by the test's rule"))))
            }
        }
    }
}
