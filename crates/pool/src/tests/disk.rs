//! A disk in memory that forgets what was not synced, and fails when told to.

use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use world::{Clock, Completion, Disk, DiskUsage, Error, File, FileEntry, Instant, Kind, LocalFuture};
use world::{Random, Result, Spawn, WallTime, World};

const SECTOR: u64 = 512;
const BLOCK: u64 = 4096;
type Sector = [u8; SECTOR as usize];

/// xorshift64*: the same numbers for the same seed.
pub struct Numbers(Cell<u64>);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Numbers(Cell::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1))
    }
    pub fn next(&self) -> u64 {
        let mut x = self.0.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.0.set(x);
        x.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    pub fn below(&self, end: u64) -> u64 {
        self.next() % end
    }
}

/// What the disk is to do wrong, by name of file.
#[derive(Default)]
pub struct Faults {
    /// The next write to the file fails before anything is written.
    pub write_error: RefCell<Option<String>>,
    /// The next write to the file writes its first half, then fails.
    pub short_write: RefCell<Option<String>>,
    pub sync_error: RefCell<Option<String>>,
    /// Every read of these bytes fails.
    pub read_error: RefCell<Option<(String, u64)>>,
    /// Allocate and punch are unknown to the file system.
    pub plain: Cell<bool>,
}

fn hit(fault: &RefCell<Option<String>>, name: &str) -> bool {
    let is = fault.borrow().as_deref() == Some(name);
    if is {
        fault.replace(None);
    }
    is
}

#[derive(Default)]
struct Content {
    now: BTreeMap<u64, Sector>,
    durable: BTreeMap<u64, Sector>,
    dirty: BTreeSet<u64>,
    blocks: BTreeSet<u64>,
    size: u64,
    durable_size: u64,
}

#[derive(Default)]
pub struct MemDisk {
    files: RefCell<BTreeMap<String, Rc<RefCell<Content>>>>,
    pub faults: Faults,
    pub capacity_bytes: Cell<Option<u64>>,
    pub syncs: Cell<u64>,
    pub allocations: Cell<u64>,
    /// Every operation is answered later, not at once.
    pub slow: Cell<bool>,
    pub writes: RefCell<Vec<(String, u64, u64)>>,
    /// Ranges that the disk was told to begin with.
    pub written_back: RefCell<Vec<(u64, u64)>>,
}

fn error(kind: Kind, context: &str) -> Error {
    Error { kind, context: context.into(), detail: "injected".into() }
}

impl MemDisk {
    pub fn new() -> Rc<MemDisk> {
        Rc::default()
    }

    pub fn used_bytes(&self) -> u64 {
        self.files.borrow().values().map(|f| f.borrow().blocks.len() as u64 * BLOCK).sum()
    }
    pub fn used_bytes_of(&self, name: &str) -> u64 {
        self.files.borrow().get(name).map_or(0, |f| f.borrow().blocks.len() as u64 * BLOCK)
    }

    /// Power loss: of every sector that was not synced, the old or the new content is left.
    pub fn crash(&self, numbers: &Numbers) {
        for content in self.files.borrow().values() {
            let mut c = content.borrow_mut();
            // Sometimes all of one kind: uniform chance alone would hardly ever keep everything, or nothing.
            let style = numbers.below(4);
            for sector in std::mem::take(&mut c.dirty) {
                let keep_new = style == 0 || style > 1 && numbers.below(2) == 0;
                if keep_new {
                    let new = c.now.get(&sector).copied();
                    set(&mut c.durable, sector, new);
                    c.durable_size = c.durable_size.max(c.size.min((sector + 1) * SECTOR));
                }
            }
            c.now = c.durable.clone();
            // What a punch gave back that did not last is taken again.
            let taken: Vec<u64> = c.now.keys().map(|sector| sector * SECTOR / BLOCK).collect();
            c.blocks.extend(taken);
            c.size = c.durable_size;
        }
    }

    pub fn bytes(&self, name: &str, at: u64, len: usize) -> Vec<u8> {
        read(&self.files.borrow()[name].borrow(), at, len)
    }
    /// Changes bytes on the medium behind everybody's back.
    pub fn overwrite(&self, name: &str, at: u64, bytes: &[u8]) {
        let files = self.files.borrow();
        let mut c = files[name].borrow_mut();
        put(&mut c, at, bytes);
        c.durable = c.now.clone();
    }
    pub fn file_names(&self) -> Vec<String> {
        self.files.borrow().keys().cloned().collect()
    }
    pub fn delete(&self, name: &str) {
        self.files.borrow_mut().remove(name);
    }
    /// A copy of what is durable, as a backup would hold it.
    pub fn durable_file(&self, name: &str) -> Vec<u8> {
        let files = self.files.borrow();
        let c = files[name].borrow();
        let mut bytes = vec![0; c.durable_size as usize];
        for (i, sector) in &c.durable {
            let at = (i * SECTOR) as usize;
            let end = bytes.len().min(at + SECTOR as usize);
            bytes[at..end].copy_from_slice(&sector[..end - at]);
        }
        bytes
    }
}

fn set(map: &mut BTreeMap<u64, Sector>, sector: u64, value: Option<Sector>) {
    match value {
        Some(value) => map.insert(sector, value),
        None => map.remove(&sector),
    };
}

fn put(c: &mut Content, at: u64, bytes: &[u8]) {
    let (mut place, mut rest) = (at, bytes);
    while !rest.is_empty() {
        let inside = (place % SECTOR) as usize;
        let (head, tail) = rest.split_at(rest.len().min(SECTOR as usize - inside));
        let sector = c.now.entry(place / SECTOR).or_insert([0; SECTOR as usize]);
        sector[inside..inside + head.len()].copy_from_slice(head);
        c.dirty.insert(place / SECTOR);
        place += head.len() as u64;
        rest = tail;
    }
    c.size = c.size.max(at + bytes.len() as u64);
}

fn read(c: &Content, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let end = at + len as u64;
    for (i, sector) in c.now.range(at / SECTOR..end.div_ceil(SECTOR)) {
        let start = i * SECTOR;
        let (from, to) = (start.max(at), (start + SECTOR).min(end));
        bytes[(from - at) as usize..(to - at) as usize]
            .copy_from_slice(&sector[(from - start) as usize..(to - start) as usize]);
    }
    bytes
}

pub struct MemFile {
    name: String,
    disk: Rc<MemDisk>,
    content: Rc<RefCell<Content>>,
}

/// The disk as the pool holds it.
pub struct Handle(pub Rc<MemDisk>);

impl Handle {
    fn file(&self, name: &str, content: &Rc<RefCell<Content>>) -> Rc<dyn File> {
        Rc::new(MemFile { name: name.into(), disk: self.0.clone(), content: content.clone() })
    }
}

impl Disk for Handle {
    fn create(&self, name: &str) -> LocalFuture<Result<Rc<dyn File>>> {
        let mut files = self.0.files.borrow_mut();
        let result = if files.contains_key(name) {
            Err(error(Kind::Exists, name))
        } else {
            let content = files.entry(name.to_string()).or_default();
            Ok(self.file(name, content))
        };
        Box::pin(async move { result })
    }
    fn open(&self, name: &str) -> LocalFuture<Result<Rc<dyn File>>> {
        let files = self.0.files.borrow();
        let result = files.get(name).map(|c| self.file(name, c)).ok_or_else(|| error(Kind::NotFound, name));
        Box::pin(async move { result })
    }
    fn remove(&self, name: &str) -> LocalFuture<Result<()>> {
        let result = self.0.files.borrow_mut().remove(name).map(|_| ()).ok_or_else(|| error(Kind::NotFound, name));
        Box::pin(async move { result })
    }
    fn list(&self) -> LocalFuture<Result<Vec<FileEntry>>> {
        let files = self.0.files.borrow();
        let entry =
            |(name, c): (&String, &Rc<RefCell<Content>>)| FileEntry { name: name.clone(), size_bytes: c.borrow().size };
        let list = files.iter().map(entry).collect();
        Box::pin(async move { Ok(list) })
    }
    fn usage(&self) -> LocalFuture<Result<DiskUsage>> {
        let capacity_bytes = self.0.capacity_bytes.get().unwrap_or(1 << 40);
        let free_bytes = capacity_bytes.saturating_sub(self.0.used_bytes());
        Box::pin(async move { Ok(DiskUsage { capacity_bytes, free_bytes }) })
    }
}

impl MemFile {
    /// Blocks of the range, as many as there is room for; how many bytes of the range have one now.
    fn take_blocks(&self, at: u64, len: u64) -> u64 {
        let mut free_bytes = self.disk.capacity_bytes.get().map(|all| all.saturating_sub(self.disk.used_bytes()));
        for block in at / BLOCK..(at + len).div_ceil(BLOCK) {
            let mut c = self.content.borrow_mut();
            if !c.blocks.contains(&block) {
                match &mut free_bytes {
                    Some(free) if *free < BLOCK => return (block * BLOCK).saturating_sub(at),
                    Some(free) => *free -= BLOCK,
                    None => {}
                }
                c.blocks.insert(block);
            }
        }
        len
    }

    fn answer<T: 'static>(&self, value: Result<T>) -> Completion<Result<T>> {
        if !self.disk.slow.get() {
            return Completion::Ready(value);
        }
        Completion::pending(async move {
            later(3).await;
            value
        })
    }
}

impl File for MemFile {
    fn write(&self, offset: u64, parts: &[Bytes]) -> Completion<Result<()>> {
        let faults = &self.disk.faults;
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        if hit(&faults.write_error, &self.name) {
            return self.answer(Err(error(Kind::Io, &self.name)));
        }
        let mut len = self.take_blocks(offset, bytes.len() as u64);
        let mut result = if len < bytes.len() as u64 { Err(error(Kind::Full, &self.name)) } else { Ok(()) };
        if hit(&faults.short_write, &self.name) {
            (len, result) = (len / 2, Err(error(Kind::Io, &self.name)));
        }
        put(&mut self.content.borrow_mut(), offset, &bytes[..len as usize]);
        self.disk.writes.borrow_mut().push((self.name.clone(), offset, len));
        self.answer(result)
    }

    fn read(&self, offset: u64, len: usize) -> Completion<Result<Bytes>> {
        if let Some((name, at)) = &*self.disk.faults.read_error.borrow()
            && *name == self.name
            && (offset..offset + len as u64).contains(at)
        {
            return self.answer(Err(error(Kind::Io, &self.name)));
        }
        let bytes = read(&self.content.borrow(), offset, len);
        self.answer(Ok(bytes.into()))
    }

    fn sync(&self) -> LocalFuture<Result<()>> {
        self.disk.syncs.set(self.disk.syncs.get() + 1);
        let content = self.content.clone();
        let failing = hit(&self.disk.faults.sync_error, &self.name);
        // Just what was written before the call, however long it takes.
        let (sectors, size) = {
            let mut c = content.borrow_mut();
            let dirty = std::mem::take(&mut c.dirty);
            (dirty.into_iter().map(|s| (s, c.now.get(&s).copied())).collect::<Vec<_>>(), c.size)
        };
        let name = self.name.clone();
        Box::pin(async move {
            later(3).await;
            if failing {
                return Err(error(Kind::Io, &name));
            }
            let mut c = content.borrow_mut();
            for (sector, value) in sectors {
                set(&mut c.durable, sector, value);
            }
            c.durable_size = c.durable_size.max(size);
            Ok(())
        })
    }

    fn allocate(&self, offset: u64, len: u64) -> Completion<Result<()>> {
        if self.disk.faults.plain.get() {
            return self.answer(Err(error(Kind::Unsupported, &self.name)));
        }
        self.disk.allocations.set(self.disk.allocations.get() + 1);
        let before = self.content.borrow().blocks.clone();
        if self.take_blocks(offset, len) < len {
            self.content.borrow_mut().blocks = before;
            return self.answer(Err(error(Kind::Full, &self.name)));
        }
        self.answer(Ok(()))
    }

    fn punch(&self, offset: u64, len: u64) -> LocalFuture<Result<()>> {
        if self.disk.faults.plain.get() {
            let unsupported = error(Kind::Unsupported, &self.name);
            return Box::pin(async move { Err(unsupported) });
        }
        assert_eq!((offset % BLOCK, len % BLOCK), (0, 0), "the pool punches whole blocks");
        let mut c = self.content.borrow_mut();
        for sector in offset / SECTOR..(offset + len) / SECTOR {
            if c.now.remove(&sector).is_some() {
                c.dirty.insert(sector);
            }
        }
        for block in offset / BLOCK..(offset + len) / BLOCK {
            c.blocks.remove(&block);
        }
        Box::pin(async { Ok(()) })
    }

    fn release(&self, _offset: u64, _len: u64) {}

    fn write_back(&self, offset: u64, len: u64) {
        self.disk.written_back.borrow_mut().push((offset, len));
    }

    fn data_ranges(&self) -> LocalFuture<Result<Vec<(u64, u64)>>> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for sector in self.content.borrow().now.keys() {
            let block = sector * SECTOR / BLOCK * BLOCK;
            match ranges.last_mut() {
                Some((_, end)) if *end >= block => *end = block + BLOCK,
                _ => ranges.push((block, block + BLOCK)),
            }
        }
        Box::pin(async move { Ok(ranges) })
    }

    fn size_bytes(&self) -> u64 {
        self.content.borrow().size
    }
}

/// Pending this many times.
pub async fn later(turns: u32) {
    let mut left = turns;
    poll_fn(move |_| {
        if left == 0 {
            return Poll::Ready(());
        }
        left -= 1;
        Poll::Pending
    })
    .await
}

/// Runs futures and spawned tasks in turns, without a clock of its own.
#[derive(Default)]
pub struct Turns {
    tasks: RefCell<Vec<LocalFuture<()>>>,
    now: Cell<u64>,
    numbers: Cell<u64>,
}

impl Turns {
    pub fn new() -> Rc<Turns> {
        Rc::default()
    }
    pub fn world(self: &Rc<Self>) -> World {
        World { clock: self.clone(), random: self.clone(), spawn: self.clone() }
    }

    pub fn run<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = Box::pin(future);
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..100_000 {
            if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
                return value;
            }
            self.turn(&mut context);
        }
        panic!("the future never ends");
    }

    fn turn(&self, context: &mut Context<'_>) {
        self.now.set(self.now.get() + 1000);
        let tasks = std::mem::take(&mut *self.tasks.borrow_mut());
        for mut task in tasks {
            if Pin::new(&mut task).poll(context).is_pending() {
                self.tasks.borrow_mut().push(task);
            }
        }
    }
    /// Until every task has ended.
    pub fn idle(&self) {
        self.run(std::future::poll_fn(
            |_| if self.tasks.borrow().is_empty() { Poll::Ready(()) } else { Poll::Pending },
        ));
    }
    /// What a crash does to the tasks of a process.
    pub fn drop_tasks(&self) {
        let tasks = std::mem::take(&mut *self.tasks.borrow_mut());
        drop(tasks);
    }
}

impl Clock for Turns {
    fn now(&self) -> Instant {
        Instant(self.now.get())
    }
    fn wall(&self) -> WallTime {
        WallTime(1_700_000_000_000_000_000 + self.now.get())
    }
    fn sleep(&self, duration_ns: u64) -> LocalFuture<()> {
        Box::pin(later((duration_ns / 1000) as u32))
    }
}
impl Random for Turns {
    fn next_u64(&self) -> u64 {
        self.numbers.set(self.numbers.get() + 1);
        self.numbers.get()
    }
}
impl Spawn for Turns {
    fn spawn(&self, task: LocalFuture<()>) {
        self.tasks.borrow_mut().push(task);
    }
}
