//! One machine with one disk, one shard and its metadata store, under exact control: nothing happens unasked, it dies
//! when the test says so, and between two lives the test may change any byte of the disk.

use crate::tap::{Tap, TapDisk, TapStore};
use base::units::{BLOCK, GIB, KIB, MIB};
use base::{GroupId, VdiskId};
use block::Segment;
use bytes::Bytes;
use meta::MemStore;
use node::{BornWith, Shard, ShardConfig};
use pool::{Cache, GroupHeader, HEADER_PAGE, PoolConfig, SlotPage, decode_slot_page};
use sim::disk::{Crash, DiskOptions, InFlight, SimDisk};
use sim::executor::{Domain, Executor, Order, Stop};
use sim::journal::Journal;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use vdisk::log::frame::{self, Frame, NotAFrame, RunKind};
use vdisk::{Health, Settings, Vdisk};
use world::Disk;

pub const GROUP: u32 = 64 << 10;
const HOUR_NS: u64 = 3_600_000_000_000;
/// A frame with one block: header of 128 bytes and payload.
pub const FRAME: u32 = 128 + BLOCK as u32;

/// Nothing happens unasked: no sync by age, no checkpoint, no re-packing.
pub fn manual() -> ShardConfig {
    ShardConfig {
        pool: PoolConfig {
            group_size: GROUP,
            slots_per_slab_max: 64,
            recycled_bytes_max: MIB,
            recycled_percent_busy: 0,
            ballast_bytes: 256 * KIB,
            capacity_bytes: None,
        },
        settings: Settings {
            frame_payload_bytes_max: 16 * KIB as u32,
            overlap_bytes_min: 256 * KIB as u32,
            unsynced_bytes_soft: 64 * MIB,
            unsynced_bytes_max: 64 * MIB,
            unsynced_age_ns_max: HOUR_NS,
            checkpoint_log_bytes_max: GIB,
            checkpoint_log_bytes_min: GIB,
            checkpoint_quiet_ns: HOUR_NS,
            shard_log_bytes_max: GIB,
            space_percent: 120,
            space_slack_bytes: GIB,
            contents_bytes_max: 1 << 20,
            map_bytes_max: 64 * MIB,
            cache_write_bytes_max: 0,
        },
    }
}

/// A group as it lies on the disk.
#[derive(Clone, Debug)]
pub struct Placed {
    pub header: GroupHeader,
    pub file: String,
    /// Of its slot in the file.
    pub start: u64,
}

/// Every byte of a disk that takes space, by file: its size and its ranges of data.
pub type Image = BTreeMap<String, Vec<(u64, Bytes)>>;

pub struct Machine {
    pub executor: Rc<Executor>,
    pub disk: SimDisk,
    pub tap: Rc<Tap>,
    pub store: RefCell<MemStore>,
    pub config: ShardConfig,
    /// Bytes of the cache; 0: every read is one of the disk.
    pub cache_bytes: Cell<u64>,
    domain: Cell<Domain>,
    shard: RefCell<Option<Rc<Shard>>>,
}

impl Machine {
    /// Formatted and open, with an empty vDisk "v" of 4 MiB.
    pub fn new() -> Machine {
        Machine::with(manual(), 1)
    }

    pub fn with(config: ShardConfig, seed: u64) -> Machine {
        let machine = Machine::bare(config, seed);
        let (world, disk, config) = (machine.world(), machine.mount(), machine.config.clone());
        machine.run(async move { Shard::format(&world, &disk, &config, 1, 0).await }).expect("an empty disk");
        machine.open();
        machine.create("v", 4 * MIB);
        machine
    }

    pub fn bare(config: ShardConfig, seed: u64) -> Machine {
        let executor = Executor::new(seed, Order::Fifo, Journal::new());
        let options = DiskOptions { instant_percent: 100, ..DiskOptions::default() };
        let disk = SimDisk::new(executor.clone(), seed, options);
        let domain = executor.new_domain();
        let store = MemStore::new(executor.world(domain, seed).clock, 0);
        Machine {
            executor,
            disk,
            tap: Rc::default(),
            store: store.into(),
            config,
            cache_bytes: Cell::new(0),
            domain: domain.into(),
            shard: RefCell::default(),
        }
    }

    pub fn world(&self) -> world::World {
        self.executor.world(self.domain.get(), 1)
    }

    pub fn domain(&self) -> Domain {
        self.domain.get()
    }

    pub fn mount(&self) -> Rc<dyn Disk> {
        let inner = self.disk.mount(self.domain.get());
        Rc::new(TapDisk { inner, disk: self.disk.clone(), tap: self.tap.clone(), clock: self.world().clock })
    }

    /// Runs to the end. `None`: the machine died first.
    pub fn attempt<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Option<T> {
        let slot = Rc::new(RefCell::new(None));
        let target = slot.clone();
        self.executor.spawn(self.domain.get(), Box::pin(async move { *target.borrow_mut() = Some(future.await) }));
        let dead = || self.disk.crash_reached() || self.tap.died.get();
        let stop = self.executor.run(5_000_000, 10 * HOUR_NS, || slot.borrow().is_some() || dead());
        assert_eq!(stop, Stop::Done, "hangs:\n{}", self.disk.journal().tail(40));
        let value = slot.borrow_mut().take();
        value.filter(|_| !dead())
    }

    pub fn run<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> T {
        self.attempt(future).expect("no rule lets the machine die here")
    }

    /// Goes on beside what is asked for later, as long as the machine lives.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.executor.spawn(self.domain.get(), Box::pin(task));
    }

    /// Lets time pass: everything that is due happens.
    pub fn idle(&self, ns: u64) {
        let clock = self.world().clock;
        self.run(async move { clock.sleep(ns).await });
    }

    /// It goes on recovering.
    pub fn begin(&self) -> Rc<Shard> {
        self.try_open_until(|_| true).expect("no rule lets the machine die here").expect("a good disk")
    }

    pub fn try_open(&self) -> Option<node::Result<Rc<Shard>>> {
        self.try_open_until(|shard| shard.summary().to_recover == 0)
    }

    fn try_open_until(&self, is_enough: fn(&Shard) -> bool) -> Option<node::Result<Rc<Shard>>> {
        assert!(self.shard.borrow().is_none(), "it is open");
        let (world, disk, config) = (self.world(), self.mount(), self.config.clone());
        let store = Rc::new(TapStore { inner: self.store.borrow().clone(), tap: self.tap.clone() });
        let cache = Arc::new(Cache::new(self.cache_bytes.get()));
        let clock = world.clock.clone();
        let opened = self.attempt(async move {
            let shard = Shard::open(world, disk, store, cache, config, Rc::new(|_, _| {})).await?;
            while !is_enough(&shard) {
                clock.sleep(1_000_000).await;
            }
            Ok(shard)
        })?;
        if let Ok(shard) = &opened {
            self.shard.replace(Some(shard.clone()));
        }
        Some(opened)
    }

    pub fn open(&self) -> Rc<Shard> {
        self.try_open().expect("no rule lets the machine die here").expect("a good disk")
    }

    pub fn shard(&self) -> Rc<Shard> {
        self.shard.borrow().clone().expect("it is open")
    }

    pub fn create(&self, name: &'static str, size_bytes: u64) -> Rc<Vdisk> {
        let shard = self.shard();
        let id =
            self.run(async move { shard.create(name, size_bytes, 512, BornWith::default()).await }).expect("room").id;
        self.vdisk_by_id(id).expect("just created")
    }

    pub fn id(&self, name: &str) -> VdiskId {
        let records = self.shard().records();
        records.iter().find(|record| record.name == name).expect("it is in the index").id
    }

    pub fn vdisk_by_id(&self, id: VdiskId) -> node::Result<Rc<Vdisk>> {
        let shard = self.shard();
        self.run(async move { shard.vdisk(id).await })
    }

    /// The vDisk "v".
    pub fn vdisk(&self) -> Rc<Vdisk> {
        self.vdisk_by_id(self.id("v")).expect("it can be served")
    }

    /// A clean stop.
    pub fn close(&self) {
        let shard = self.shard.take().expect("it is open");
        self.run(async move { shard.close().await }).expect("a good disk");
        self.end(Crash::Kill, InFlight::Done);
    }

    pub fn kill(&self) {
        self.end(Crash::Kill, InFlight::Undone);
    }

    /// Only what was synced is left.
    pub fn lose_power(&self) {
        self.end(Crash::PowerLoss(sim::disk::Survival::Nothing), InFlight::Undone);
    }

    pub fn end(&self, crash: Crash, in_flight: InFlight) {
        self.executor.kill(self.domain.get());
        self.shard.take();
        self.store.borrow().crash();
        self.disk.crash(crash, in_flight);
        self.domain.set(self.executor.new_domain());
        self.tap.clear();
    }

    /// Kill, and start again.
    pub fn restart(&self) -> Rc<Vdisk> {
        self.kill();
        self.open();
        self.vdisk()
    }

    /// The metadata store is lost; `drystone recover` makes a new one, under a new node number.
    pub fn rebuild(&self, node: u16) -> node::Rebuilt {
        self.store.replace(MemStore::new(self.world().clock, 0));
        let (world, disk, config) = (self.world(), self.mount(), self.config.clone());
        let store = Rc::new(TapStore { inner: self.store.borrow().clone(), tap: self.tap.clone() });
        let cache = Arc::new(Cache::new(0));
        let rebuilt = self.run(async move { Shard::rebuild(world, disk, store, cache, config, node).await });
        self.end(Crash::Kill, InFlight::Done);
        rebuilt.expect("a good disk")
    }
}

/// What a write with this tag puts into a block: no two blocks and no two tags alike. Tag 0: zeros.
pub fn content(block: u64, tag: u64) -> Bytes {
    if tag == 0 {
        return Bytes::from(vec![0; BLOCK as usize]);
    }
    let words = (0..BLOCK / 8).map(|i| if i == 0 { tag } else { sim::rng::mix(tag ^ block << 20 ^ i << 44) });
    words.flat_map(u64::to_le_bytes).collect()
}

/// In tags that know the block they were written to, wherever a copy has put them.
const HOMED: u64 = 1 << 63;

/// Such a tag.
pub fn homed(block: u64, tag: u64) -> u64 {
    HOMED | block << 32 | tag
}

/// Where what is found in `block` was written.
pub fn home(block: u64, tag: u64) -> u64 {
    if tag & HOMED == 0 { block } else { (tag & !HOMED) >> 32 }
}

/// Requests by whole blocks.
impl Machine {
    pub fn try_write(&self, vdisk: &Rc<Vdisk>, block: u64, tags: &[u64]) -> Option<vdisk::Result<()>> {
        let data: Vec<Bytes> = (block..).zip(tags).map(|(block, tag)| content(block, *tag)).collect();
        let (vdisk, data) = (vdisk.clone(), Bytes::from(data.concat()));
        self.attempt(async move { vdisk.write(block * BLOCK, data).await })
    }

    /// One frame.
    pub fn write(&self, vdisk: &Rc<Vdisk>, block: u64, tag: u64) {
        self.try_write(vdisk, block, &[tag]).expect("it lives").expect("room");
    }

    pub fn try_flush(&self, vdisk: &Rc<Vdisk>) -> Option<vdisk::Result<()>> {
        let vdisk = vdisk.clone();
        self.attempt(async move { vdisk.flush().await })
    }

    pub fn flush(&self, vdisk: &Rc<Vdisk>) {
        self.try_flush(vdisk).expect("it lives").expect("the disk works");
    }

    pub fn checkpoint(&self, vdisk: &Rc<Vdisk>) {
        let vdisk = vdisk.clone();
        self.run(async move { vdisk.checkpoint().await }).expect("the disk works");
    }

    pub fn make_room(&self, vdisk: &Rc<Vdisk>) {
        let vdisk = vdisk.clone();
        self.run(async move { vdisk.make_room().await }).expect("the disk works");
    }

    pub fn trim(&self, vdisk: &Rc<Vdisk>, block: u64, count: u64) {
        let vdisk = vdisk.clone();
        self.run(async move { vdisk.trim(block * BLOCK, count * BLOCK).await }).expect("room");
    }

    /// The tag of what is in the block, every byte of which must be right.
    pub fn try_read(&self, vdisk: &Rc<Vdisk>, block: u64) -> vdisk::Result<u64> {
        let vdisk = vdisk.clone();
        let segments = self.run(async move { vdisk.read(block * BLOCK, BLOCK as u32).await })?;
        let bytes: Vec<u8> = segments.iter().flat_map(bytes_of).collect();
        let tag = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes"));
        assert!(
            bytes == content(home(block, tag), tag),
            "block {block} is of no write: it begins with {:02x?}",
            &bytes[..16]
        );
        Ok(tag)
    }

    pub fn read(&self, vdisk: &Rc<Vdisk>, block: u64) -> u64 {
        self.try_read(vdisk, block).expect("readable")
    }

    pub fn reads(&self, vdisk: &Rc<Vdisk>, blocks: std::ops::Range<u64>) -> Vec<u64> {
        blocks.map(|block| self.read(vdisk, block)).collect()
    }
}

pub fn bytes_of(segment: &Segment) -> Vec<u8> {
    match segment {
        Segment::Bytes(bytes) => bytes.to_vec(),
        Segment::Zeros(len) => vec![0; *len as usize],
    }
}

/// The disk, byte by byte. Only while nothing is open.
impl Machine {
    pub fn bytes(&self, file: &str, at: u64, len: u64) -> Bytes {
        let (disk, file) = (self.disk.mount(self.domain.get()), file.to_string());
        self.run(async move { disk.open(&file).await?.read(at, len as usize).await }).expect("it is there")
    }

    /// As if the medium had held this all the time.
    pub fn put(&self, file: &str, at: u64, bytes: impl Into<Bytes>) {
        assert!(self.shard.borrow().is_none(), "stop the shard first");
        let (disk, file, bytes) = (self.disk.mount(self.domain.get()), file.to_string(), bytes.into());
        let put = async move {
            let file = disk.open(&file).await?;
            file.write(at, &[bytes]).await?;
            file.sync().await
        };
        self.run(put).expect("the disk works");
    }

    pub fn zero(&self, file: &str, at: u64, len: u64) {
        self.put(file, at, vec![0; len as usize]);
    }

    pub fn flip(&self, file: &str, at: u64) {
        let byte = self.bytes(file, at, 1)[0];
        self.put(file, at, vec![byte ^ 0x10]);
    }

    pub fn image(&self) -> Image {
        let disk = self.disk.mount(self.domain.get());
        let copy = async move {
            let mut image = Image::new();
            for entry in disk.list().await? {
                let file = disk.open(&entry.name).await?;
                let mut parts = Vec::new();
                for (start, end) in file.data_ranges().await? {
                    parts.push((start, file.read(start, (end - start) as usize).await?));
                }
                image.insert(entry.name, parts);
            }
            world::Result::Ok(image)
        };
        self.run(copy).expect("the disk works")
    }

    /// Another disk's bytes instead of these.
    pub fn restore(&self, image: &Image) {
        assert!(self.shard.borrow().is_none(), "stop the shard first");
        let (disk, image) = (self.disk.mount(self.domain.get()), image.clone());
        let copy = async move {
            for entry in disk.list().await? {
                disk.remove(&entry.name).await?;
            }
            for (name, parts) in image {
                let file = disk.create(&name).await?;
                for (at, bytes) in parts {
                    file.write(at, &[bytes]).await?;
                }
                file.sync().await?;
            }
            world::Result::Ok(())
        };
        self.run(copy).expect("the disk works");
    }

    /// Every group on the disk, in order of ids.
    pub fn groups(&self) -> Vec<Placed> {
        let mut groups = Vec::new();
        let slots_start = u64::from(self.config.pool.group_size).min(MIB);
        let size = u64::from(self.config.pool.group_size);
        for (file, len) in self.disk.files().into_iter().filter(|(name, _)| name.starts_with("slab-")) {
            for start in (slots_start..len).step_by(size as usize) {
                let page = self.bytes(&file, start, HEADER_PAGE.into());
                if let SlotPage::Group(header) = decode_slot_page(&page) {
                    groups.push(Placed { header, file: file.clone(), start });
                }
            }
        }
        groups.sort_by_key(|placed| placed.header.group);
        groups
    }

    pub fn group(&self, id: GroupId) -> Placed {
        self.groups().into_iter().find(|placed| placed.header.group == id).expect("it is on the disk")
    }

    /// Whole frame headers of a group, wherever they stand in its slot, in order of offsets.
    pub fn frames(&self, placed: &Placed) -> Vec<Frame> {
        let slot = self.bytes(&placed.file, placed.start, self.config.pool.group_size.into());
        let mut frames = Vec::new();
        for at in (0..slot.len()).step_by(16) {
            match frame::decode(&slot[at..]) {
                Ok(frame) if frame.group == placed.header.group && frame.offset as usize == at => frames.push(frame),
                Ok(_) | Err(NotAFrame::Incomplete(_)) | Err(_) => {}
            }
        }
        frames
    }

    /// The group of the newest frame that writes the block.
    pub fn group_of(&self, block: u64) -> GroupId {
        let all = self.groups().into_iter().flat_map(|placed| self.frames(&placed));
        let writes = all.filter(|frame| frame.runs.iter().any(|run| run.kind == RunKind::Data && run.block == block));
        writes.max_by_key(|frame| frame.sequence).expect("somebody wrote it").group
    }

    /// The frame with this sequence, in the newest group that has one.
    pub fn frame(&self, sequence: u64) -> (Placed, Frame) {
        let groups = self.groups();
        let mut all = groups.into_iter().rev().flat_map(|placed| {
            let frames = self.frames(&placed);
            frames.into_iter().map(move |frame| (placed.clone(), frame))
        });
        all.find(|(_, frame)| frame.sequence.0 == sequence).expect("it is on the disk")
    }

    /// The header of a frame never reached the medium, or rotted.
    pub fn lose_header(&self, sequence: u64) {
        let (placed, frame) = self.frame(sequence);
        let len = frame::header_len(&frame.runs);
        self.zero(&placed.file, placed.start + u64::from(frame.offset), len.into());
    }

    /// A part of a frame's payload (a sector, if it has a whole one) is not what was written.
    pub fn tear_payload(&self, sequence: u64) {
        let (placed, frame) = self.frame(sequence);
        let run = frame.runs.last().expect("a payload");
        let start = placed.start + u64::from(frame.offset + run.payload_offset);
        let end = start + u64::from(run.payload_len);
        let sector = start.next_multiple_of(512);
        let (at, len) = if sector + 512 <= end { (sector, 512) } else { (start, 1) };
        let torn: Vec<u8> = self.bytes(&placed.file, at, len).iter().map(|byte| byte ^ 0x5a).collect();
        self.put(&placed.file, at, torn);
    }

    pub fn assert_online(&self, vdisk: &Vdisk) {
        assert_eq!(vdisk.health(), Health::Online);
    }

    /// Served read-only, and says why.
    /// No vDisk comes back, neither from the logs alone nor by a start, and no slot is used.
    pub fn assert_nothing_is_left(&self, seed: u64) {
        let rebuilt = self.rebuild(2);
        assert!(rebuilt.vdisks.is_empty() && rebuilt.lost.is_empty(), "seed {seed}: {rebuilt:?}");
        let shard = self.open();
        self.idle(1_000_000_000);
        assert_eq!((shard.records().len(), shard.context.pool.usage().slots_used), (0, 0), "seed {seed}");
    }

    pub fn assert_damaged(&self, vdisk: &Rc<Vdisk>, why: &str) {
        match vdisk.health() {
            Health::Damaged(reason) => assert!(reason.contains(why), "{reason}"),
            health => panic!("{health:?}"),
        }
        let refused = self.try_write(vdisk, 0, &[99]).expect("it lives").expect_err("nothing makes it worse");
        assert_eq!(refused.kind, vdisk::Kind::ReadOnly);
    }
}
