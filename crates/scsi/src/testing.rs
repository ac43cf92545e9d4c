//! What the tests share: a device in memory, a host, and an initiator that talks to a logical unit.

use crate::{Attribute, Command, Ended, Host, Identity, LogicalUnit, Nexus, Response, Sense, Status, Target, Task};
use block::{Allocation, BlockDevice, Error, Geometry, Kind, LEND_BYTES_MAX, Lent, Reply, Request, Segment};
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use world::local::{OneshotSender, oneshot};
use world::{Completion, LocalFuture};

pub(crate) const BLOCK: usize = 4096;

/// Blocks of 4 KiB that were written; what is not there is a hole.
pub(crate) struct Memory {
    pub geometry: Cell<Geometry>,
    pub content: RefCell<Vec<u8>>,
    pub allocated: RefCell<Vec<bool>>,
    /// Requests wait until they are let go.
    pub held: Cell<bool>,
    waiting: RefCell<VecDeque<OneshotSender<()>>>,
    /// Every request fails with this.
    pub fails: RefCell<Option<Error>>,
    pub requests: RefCell<Vec<Request>>,
    /// It lends and takes: what it has lent, and taken over.
    pub lends: Cell<bool>,
    pub lent: RefCell<Vec<(u64, u32)>>,
    pub taken: RefCell<Vec<(u64, usize)>>,
}

impl Memory {
    pub(crate) fn new(size_bytes: usize, sector_bytes: u32) -> Rc<Memory> {
        let geometry = Geometry {
            size_bytes: size_bytes as u64,
            sector_bytes,
            preferred_bytes: 4096,
            transfer_bytes_max: 4 << 20,
            atomic_bytes_max: 1 << 20,
            read_only: false,
        };
        Rc::new(Memory {
            geometry: Cell::new(geometry),
            content: RefCell::new(vec![0; size_bytes]),
            allocated: RefCell::new(vec![false; size_bytes.div_ceil(BLOCK)]),
            held: Cell::new(false),
            waiting: RefCell::default(),
            fails: RefCell::default(),
            requests: RefCell::default(),
            lends: Cell::new(false),
            lent: RefCell::default(),
            taken: RefCell::default(),
        })
    }

    /// Lets the oldest request that waits go on.
    pub(crate) fn release(&self) {
        let sender = self.waiting.borrow_mut().pop_front();
        sender.expect("a request waits").send(());
    }

    fn carry_out(&self, request: Request) -> block::Result<Reply> {
        if let Some(error) = &*self.fails.borrow() {
            return Err(error.clone());
        }
        let geometry = self.geometry.get();
        let mut content = self.content.borrow_mut();
        let range = |offset: u64, len: u64| {
            assert!(offset % 512 == 0 && len % 512 == 0, "misaligned: {offset} {len}");
            assert!(offset + len <= geometry.size_bytes, "beyond the end: {offset} {len}");
            offset as usize..(offset + len) as usize
        };
        let touch = |offset: u64, len: u64, state: bool| {
            let mut allocated = self.allocated.borrow_mut();
            let blocks = if state {
                offset as usize / BLOCK..(offset + len).div_ceil(BLOCK as u64) as usize
            } else {
                (offset.div_ceil(BLOCK as u64)) as usize..((offset + len) as usize / BLOCK)
            };
            for block in blocks {
                allocated[block] = state;
            }
        };
        Ok(match request {
            Request::Read { offset, len } => {
                assert!(len <= geometry.transfer_bytes_max);
                Reply::Data(vec![Segment::Bytes(Bytes::copy_from_slice(&content[range(offset, len.into())]))])
            }
            Request::Write { offset, data, .. } => {
                assert!(data.len() <= geometry.transfer_bytes_max as usize);
                content[range(offset, data.len() as u64)].copy_from_slice(&data);
                touch(offset, data.len() as u64, true);
                Reply::Done
            }
            Request::CompareAndWrite { offset, expected, data, .. } => {
                assert!(data.len() <= geometry.atomic_bytes_max as usize && data.len() == expected.len());
                let own = &mut content[range(offset, data.len() as u64)];
                if let Some(at) = own.iter().zip(&expected).position(|(a, b)| a != b) {
                    return Err(Error::new(Kind::Miscompare, "differs").at(offset + at as u64));
                }
                own.copy_from_slice(&data);
                touch(offset, data.len() as u64, true);
                Reply::Done
            }
            Request::OrWrite { offset, data, .. } => {
                assert!(data.len() <= geometry.atomic_bytes_max as usize);
                let own = &mut content[range(offset, data.len() as u64)];
                own.iter_mut().zip(&data).for_each(|(own, data)| *own |= data);
                touch(offset, data.len() as u64, true);
                Reply::Done
            }
            Request::Trim { offset, len, .. } => {
                let range = range(offset, len);
                let whole = range.start.next_multiple_of(BLOCK)..range.end / BLOCK * BLOCK;
                if whole.start < whole.end {
                    content[whole].fill(0);
                }
                touch(offset, len, false);
                Reply::Done
            }
            Request::WriteZeroes { offset, len, .. } => {
                content[range(offset, len)].fill(0);
                touch(offset, len, false);
                Reply::Done
            }
            Request::Prefetch { offset, len } => {
                range(offset, len);
                Reply::Done
            }
            Request::Flush => Reply::Done,
            Request::BlockStatus { offset, len, extents_max } => {
                let range = range(offset, len);
                let allocated = self.allocated.borrow();
                let mut runs: Vec<block::Status> = Vec::new();
                for sector in range.step_by(512) {
                    let allocation = if allocated[sector / BLOCK] { Allocation::Data } else { Allocation::Hole };
                    let full = runs.len() == extents_max as usize;
                    match runs.last_mut() {
                        Some(last) if last.allocation == allocation => last.len += 512,
                        _ if full => break,
                        _ => runs.push(block::Status { len: 512, allocation }),
                    }
                }
                Reply::Status(runs)
            }
        })
    }
}

/// A device that its tests can reach as well.
pub(crate) struct Handle(pub Rc<Memory>);

impl BlockDevice for Handle {
    fn geometry(&self) -> Geometry {
        self.0.geometry.get()
    }
    fn submit(&self, request: Request) -> Completion<block::Result<Reply>> {
        self.0.requests.borrow_mut().push(request.clone());
        if !self.0.held.get() {
            return Completion::Ready(self.0.carry_out(request));
        }
        let (sender, receiver) = oneshot();
        self.0.waiting.borrow_mut().push_back(sender);
        let memory = self.0.clone();
        Completion::pending(async move {
            receiver.await;
            memory.carry_out(request)
        })
    }
    fn lend(&self, offset: u64, len: u32) -> Completion<block::Result<Lent>> {
        if !self.0.lends.get() {
            return Completion::Ready(Err(Error::new(Kind::Unsupported, "not here")));
        }
        assert!(offset % 4096 == 0 && len % 4096 == 0 && len > 0 && len <= LEND_BYTES_MAX, "{offset}+{len}");
        self.0.lent.borrow_mut().push((offset, len));
        let bytes = self.0.content.borrow()[offset as usize..][..len as usize].to_vec();
        Completion::Ready(Ok(Lent(Rc::new(bytes))))
    }
    fn take(&self, offset: u64, lent: Lent) -> Completion<block::Result<()>> {
        if !self.0.lends.get() {
            return Completion::Ready(Err(Error::new(Kind::Unsupported, "not here")));
        }
        let bytes = lent.0.downcast::<Vec<u8>>().expect("lent by another one like this");
        assert!(offset % 4096 == 0, "{offset}");
        self.0.taken.borrow_mut().push((offset, bytes.len()));
        self.0.content.borrow_mut()[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
        Completion::Ready(Ok(()))
    }
}

/// Keeps what is saved, and runs what is spawned when it is told to.
#[derive(Default)]
pub(crate) struct Keeper {
    pub saved: RefCell<Option<Vec<u8>>>,
    pub saves: Cell<u32>,
    pub save_fails: Cell<bool>,
    /// What is saved is there when it is let go.
    pub save_held: Cell<bool>,
    held_saves: RefCell<VecDeque<OneshotSender<()>>>,
    /// Initiator ports for which nothing is opened.
    pub strangers: RefCell<Vec<String>>,
    pub others: RefCell<Vec<(Identity, Rc<Memory>)>>,
    /// Other logical units, to be visited.
    pub units: RefCell<Vec<Rc<LogicalUnit>>>,
    tasks: RefCell<Vec<LocalFuture<()>>>,
}

impl Keeper {
    /// What was saved longest ago is there.
    pub(crate) fn release_save(&self) {
        self.held_saves.borrow_mut().pop_front().expect("something is being saved").send(());
    }

    /// Polls everything that was spawned until none of it goes on by itself.
    pub(crate) fn run(&self) {
        let mut left = Vec::new();
        let mut tasks = std::mem::take(&mut *self.tasks.borrow_mut());
        while let Some(mut task) = tasks.pop() {
            if poll(&mut task).is_pending() {
                left.push(task);
            }
            tasks.append(&mut self.tasks.borrow_mut());
        }
        *self.tasks.borrow_mut() = left;
    }
}

impl Host for Keeper {
    fn save_state(&self, bytes: Vec<u8>) -> Completion<block::Result<()>> {
        if self.save_fails.get() {
            return Completion::Ready(Err(Error::new(Kind::Io, "the disk of the saved state is broken")));
        }
        *self.saved.borrow_mut() = Some(bytes);
        self.saves.set(self.saves.get() + 1);
        if !self.save_held.get() {
            return Completion::Ready(Ok(()));
        }
        let (sender, receiver) = oneshot();
        self.held_saves.borrow_mut().push_back(sender);
        Completion::pending(async move {
            receiver.await;
            Ok(())
        })
    }
    fn open(&self, designator: &[u8], initiator_port: &str) -> Completion<Option<Rc<dyn BlockDevice>>> {
        if self.strangers.borrow().iter().any(|stranger| stranger == initiator_port) {
            return Completion::Ready(None);
        }
        let visited = self.units.borrow().iter().find(|unit| unit.identity().matches(designator)).cloned();
        if let Some(unit) = visited {
            return Completion::Ready(Some(Rc::new(unit.visit(initiator_port))));
        }
        let others = self.others.borrow();
        let found = others.iter().find(|(identity, _)| identity.matches(designator));
        Completion::Ready(found.map(|(_, memory)| Rc::new(Handle(memory.clone())) as Rc<dyn BlockDevice>))
    }
    fn sleep(&self, _duration_ns: u64) -> LocalFuture<()> {
        Box::pin(std::future::ready(()))
    }
    fn spawn(&self, task: LocalFuture<()>) {
        self.tasks.borrow_mut().push(task);
    }
}

pub(crate) fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}
/// What is there without waiting.
pub(crate) fn now<F: Future + Unpin>(mut future: F) -> F::Output {
    match poll(&mut future) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("it waits"),
    }
}

/// Polls it, and what was spawned, until it is there.
pub(crate) fn finish<F: Future + Unpin>(keeper: &Keeper, mut future: F) -> F::Output {
    for _ in 0..100 {
        if let Poll::Ready(value) = poll(&mut future) {
            return value;
        }
        keeper.run();
    }
    panic!("it waits for ever");
}

pub(crate) fn identity(id: u64) -> Identity {
    Identity {
        id,
        realm: 0x1122_3344_5566_7788,
        name: format!("vdisk-{id}"),
        target_name: format!("iqn.2026-11.io.drystone:vdisk-{id}"),
    }
}

/// A logical unit as LUN 0 of a target, and what it stands on.
pub(crate) struct Bench {
    pub memory: Rc<Memory>,
    pub keeper: Rc<Keeper>,
    pub unit: Rc<LogicalUnit>,
    pub target: Rc<Target>,
}

pub(crate) const LUN0: [u8; 8] = [0; 8];

impl Bench {
    pub(crate) fn new() -> Bench {
        Bench::with(Memory::new(1 << 20, 512), Rc::default(), &[])
    }
    pub(crate) fn with(memory: Rc<Memory>, keeper: Rc<Keeper>, saved: &[u8]) -> Bench {
        Bench::of(7, memory, keeper, saved)
    }
    pub(crate) fn of(id: u64, memory: Rc<Memory>, keeper: Rc<Keeper>, saved: &[u8]) -> Bench {
        let device = Rc::new(Handle(memory.clone()));
        let unit = LogicalUnit::new(device, identity(id), keeper.clone(), saved).expect("the saved state is good");
        let target = Target::new(BTreeMap::from([(0, unit.clone())]));
        Bench { memory, keeper, unit, target }
    }
    /// An initiator that has heard of the power on already.
    pub(crate) fn initiator(&self, name: &str) -> Initiator {
        Bench::told(self.target.nexus(name, 1))
    }
    /// The same through one port of a target that has all of these.
    pub(crate) fn initiator_at(&self, name: &str, port: u16, all: &[u16]) -> Initiator {
        let nexus = Nexus::new(name, port, None).with_ports(all);
        nexus.report(vec![0]);
        nexus.put(0, self.unit.clone());
        Bench::told(nexus)
    }
    fn told(nexus: Nexus) -> Initiator {
        let initiator = Initiator { nexus, next_tag: Cell::new(1) };
        // Whatever is reserved, REQUEST SENSE tells of it.
        assert_eq!(initiator.good(&[0x03, 0, 0, 0, 18, 0], &[])[2] & 0x0f, 6);
        initiator
    }
}

pub(crate) struct Initiator {
    pub nexus: Nexus,
    next_tag: Cell<u64>,
}

impl Initiator {
    pub(crate) fn start(&self, cdb: &[u8], attribute: Attribute, offered: usize) -> (u64, Task) {
        let tag = self.next_tag.get();
        self.next_tag.set(tag + 1);
        let data_out_offered = offered as u32;
        (tag, self.nexus.start(Command { tag, lun: LUN0, cdb, attribute, data_out_offered }))
    }
    /// Starts and runs it with the data that it wants, or what there is of that.
    pub(crate) fn submit(&self, cdb: &[u8], data: &[u8]) -> Completion<Ended> {
        let (_, task) = self.start(cdb, Attribute::Simple, data.len());
        let wanted = data.len().min(task.data_out_bytes() as usize);
        task.run(Bytes::copy_from_slice(&data[..wanted]))
    }
    pub(crate) fn send(&self, cdb: &[u8], data: &[u8]) -> Response {
        match now(self.submit(cdb, data)) {
            Ended::Response(response) => response,
            Ended::Aborted => panic!("aborted: {cdb:02x?}"),
        }
    }
    /// The same for a command that waits for what the host runs.
    pub(crate) fn send_with(&self, keeper: &Keeper, cdb: &[u8], data: &[u8]) -> Response {
        match finish(keeper, self.submit(cdb, data)) {
            Ended::Response(response) => response,
            Ended::Aborted => panic!("aborted: {cdb:02x?}"),
        }
    }
    /// Data-in of a command that has to succeed.
    pub(crate) fn good(&self, cdb: &[u8], data: &[u8]) -> Vec<u8> {
        let response = self.send(cdb, data);
        assert_eq!(response.status, Status::Good, "{cdb:02x?}: {:02x?}", response.sense);
        flat(&response)
    }
    /// Sense of a command that has to end with CHECK CONDITION.
    pub(crate) fn check(&self, cdb: &[u8], data: &[u8]) -> Sense {
        let response = self.send(cdb, data);
        assert_eq!(response.status, Status::CheckCondition, "{cdb:02x?}");
        response.sense.expect("CHECK CONDITION comes with sense data")
    }
    /// The sense key and the additional codes.
    pub(crate) fn codes(&self, cdb: &[u8], data: &[u8]) -> (u8, u8, u8) {
        let sense = self.check(cdb, data);
        (sense.key as u8, sense.asc, sense.ascq)
    }
}

pub(crate) fn flat(response: &Response) -> Vec<u8> {
    let mut bytes = Vec::new();
    for segment in &response.data {
        match segment {
            Segment::Bytes(data) => bytes.extend_from_slice(data),
            Segment::Zeros(len) => bytes.resize(bytes.len() + *len as usize, 0),
        }
    }
    bytes
}
