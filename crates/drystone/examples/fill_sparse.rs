//! Fills a vDisk of a stopped controller with zeros, through the engine, at the speed of memory: a terabyte for benchmarks.
//!
//! Every block is written and mapped like any other: extents with checksums in extent groups, frames, checkpoints, map pages.
//! Only that what is all zeros is not written to the slab files, in which it is a hole and reads as zeros all the same. So
//! the disk holds the headers and the map, which is some 4 GiB for each TiB.
//!
//!     cargo run --release -p drystone --example fill_sparse -- DATA_DIRECTORY VDISK

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use meta::{RedbCore, RedbStore, Store};
use metal::{Actor, Directory, WorkerContext, Workers};
use node::{Shard, ShardConfig};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use world::{Completion, Disk, DiskUsage, File, FileEntry, LocalFuture};

const CHUNK: usize = 1 << 20;
const PAGE: usize = 4096;
/// Writes under way: two frames overlap, the next ones wait.
const DEPTH: usize = 4;
/// More than any vDisk takes, and all of it stays free.
const DISK_BYTES: u64 = 1 << 47;
static ZEROS: [u8; CHUNK] = [0; CHUNK];

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (data, name) = (arguments.next().context("which data directory?")?, arguments.next().context("which vDisk?")?);
    let workers = Workers::start(1, Duration::ZERO)?;
    let (answer, answered) = std::sync::mpsc::channel();
    let job = move |context: WorkerContext| -> LocalFuture<()> {
        Box::pin(async move {
            let _ = answer.send(fill(&context, Path::new(&data), &name).await);
        })
    };
    workers.run(0, Box::new(job))?;
    answered.recv()?
}

struct ToStore(Actor<RedbCore>);

impl meta::Submit for ToStore {
    fn submit(&self, job: meta::Job) {
        self.0.submit(job);
    }
}

async fn fill(context: &WorkerContext, data: &Path, name: &str) -> Result<()> {
    let store = Actor::start("metadata", RedbCore::open(&data.join("meta.redb"))?)?;
    let mut folders: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(data)? {
        folders.push(entry?.path());
    }
    folders.retain(|path| path.join("superblock").exists());
    folders.sort();
    let mut filled = false;
    for folder in folders {
        let disk = Rc::new(Sparse { inner: Directory::open(context, &folder)? });
        let shard = open(context, disk, &store).await?;
        let record = shard.records().into_iter().find(|record| record.name == name);
        if let Some(record) = record {
            let vdisk = shard.vdisk(record.id).await?;
            let mut waiting: VecDeque<LocalFuture<std::result::Result<(), vdisk::Error>>> = VecDeque::new();
            for chunk in 0..record.size_bytes / CHUNK as u64 {
                if waiting.len() == DEPTH {
                    waiting.pop_front().expect("it is full").await?;
                }
                let (vdisk, offset) = (vdisk.clone(), chunk * CHUNK as u64);
                let (done, receiver) = world::local::oneshot();
                context.world.spawn(async move {
                    done.send(vdisk.write(offset, Bytes::from_static(&ZEROS)).await);
                });
                waiting.push_back(Box::pin(async move { receiver.await.expect("it answers") }));
                if chunk % (1 << 16) == 0 {
                    eprintln!("{} GiB", chunk >> 10);
                }
            }
            for last in waiting {
                last.await?;
            }
            filled = true;
        }
        shard.close().await?;
    }
    ensure!(filled, "there is no vDisk {name:?}");
    Ok(())
}

async fn open(context: &WorkerContext, disk: Rc<dyn Disk>, store: &Actor<RedbCore>) -> Result<Rc<Shard>> {
    let config = ShardConfig {
        pool: Default::default(),
        settings: vdisk::Settings { map_bytes_max: 1 << 30, ..Default::default() },
    };
    let store: Rc<dyn Store> = Rc::new(RedbStore::new(Box::new(ToStore(store.clone()))));
    let cache = Arc::new(pool::Cache::new(16 << 20));
    Ok(Shard::open(context.world.clone(), disk, store, cache, config, Rc::new(|_, _| {})).await?)
}

/// A disk with endless room that writes no zeros where nothing else was.
struct Sparse {
    inner: Rc<dyn Disk>,
}

struct SparseFile {
    inner: Rc<dyn File>,
    /// Pages that were written, or may have been before; a bit each.
    written: RefCell<Vec<u64>>,
    size_bytes: Cell<u64>,
}

impl SparseFile {
    /// Where the file has data now.
    async fn open(inner: Rc<dyn File>) -> world::Result<Rc<dyn File>> {
        let file = SparseFile { written: RefCell::default(), size_bytes: Cell::new(inner.size_bytes()), inner };
        for (start, end) in file.inner.data_ranges().await? {
            file.mark(start, end - start);
        }
        Ok(Rc::new(file))
    }

    fn mark(&self, offset: u64, len: u64) {
        let mut written = self.written.borrow_mut();
        for page in offset / PAGE as u64..(offset + len).div_ceil(PAGE as u64) {
            let (word, bit) = (page as usize / 64, page % 64);
            if written.len() <= word {
                written.resize(word + 1, 0);
            }
            written[word] |= 1 << bit;
        }
    }

    fn is_hole(&self, offset: u64, len: u64) -> bool {
        let written = self.written.borrow();
        let mut pages = offset / PAGE as u64..(offset + len).div_ceil(PAGE as u64);
        pages.all(|page| written.get(page as usize / 64).is_none_or(|word| word >> (page % 64) & 1 == 0))
    }
}

/// What lies in [`ZEROS`] need not be looked at.
fn is_zero(bytes: &[u8]) -> bool {
    ZEROS.as_ptr_range().contains(&bytes.as_ptr()) || bytes.iter().all(|byte| *byte == 0)
}

impl File for SparseFile {
    fn write(&self, offset: u64, parts: &[Bytes]) -> Completion<world::Result<()>> {
        let mut at = offset;
        // Neighbours go together.
        let mut runs: Vec<(u64, Vec<Bytes>)> = Vec::new();
        let mut joined = false;
        for part in parts {
            let len = part.len() as u64;
            if len == 0 {
                continue;
            }
            let hole = is_zero(part) && self.is_hole(at, len);
            if !hole {
                match runs.last_mut().filter(|_| joined) {
                    Some((_, run)) => run.push(part.clone()),
                    None => runs.push((at, vec![part.clone()])),
                }
                self.mark(at, len);
            }
            joined = !hole;
            at += len;
        }
        self.size_bytes.set(self.size_bytes.get().max(at));
        let inner = self.inner.clone();
        Completion::pending(async move {
            for (offset, run) in runs {
                inner.write(offset, &run).await?;
            }
            Ok(())
        })
    }

    fn read(&self, offset: u64, len: usize) -> Completion<world::Result<Bytes>> {
        self.inner.read(offset, len)
    }

    fn sync(&self) -> LocalFuture<world::Result<()>> {
        let (inner, size) = (self.inner.clone(), self.size_bytes.get());
        let last = (inner.size_bytes() < size).then(|| size - 1);
        if let Some(last) = last {
            self.mark(last, 1);
        }
        Box::pin(async move {
            if let Some(last) = last {
                inner.write(last, &[Bytes::from_static(&ZEROS[..1])]).await?;
            }
            inner.sync().await
        })
    }

    fn allocate(&self, offset: u64, len: u64) -> Completion<world::Result<()>> {
        self.size_bytes.set(self.size_bytes.get().max(offset + len));
        Completion::Ready(Ok(()))
    }

    fn punch(&self, offset: u64, len: u64) -> LocalFuture<world::Result<()>> {
        self.inner.punch(offset, len)
    }

    fn release(&self, offset: u64, len: u64) {
        self.inner.release(offset, len);
    }

    fn write_back(&self, offset: u64, len: u64) {
        self.inner.write_back(offset, len);
    }

    fn data_ranges(&self) -> LocalFuture<world::Result<Vec<(u64, u64)>>> {
        self.inner.data_ranges()
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes.get()
    }
}

impl Disk for Sparse {
    fn create(&self, name: &str) -> LocalFuture<world::Result<Rc<dyn File>>> {
        let created = self.inner.create(name);
        Box::pin(async move { SparseFile::open(created.await?).await })
    }

    fn open(&self, name: &str) -> LocalFuture<world::Result<Rc<dyn File>>> {
        let opened = self.inner.open(name);
        Box::pin(async move { SparseFile::open(opened.await?).await })
    }

    fn remove(&self, name: &str) -> LocalFuture<world::Result<()>> {
        self.inner.remove(name)
    }

    fn list(&self) -> LocalFuture<world::Result<Vec<FileEntry>>> {
        self.inner.list()
    }

    fn usage(&self) -> LocalFuture<world::Result<DiskUsage>> {
        Box::pin(async { Ok(DiskUsage { capacity_bytes: DISK_BYTES, free_bytes: DISK_BYTES }) })
    }
}
