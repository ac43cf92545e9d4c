//! A vDisk in memory and workers to put it on, for tests of front-ends over real sockets.

use super::{Attach, Attached, Found, Job, Workers};
use block::{Allocation, BlockDevice, Error, Geometry, Kind, Reply, Request, Segment, Status};
use bytes::Bytes;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use world::{Completion, LocalFuture};

pub const SIZE: u64 = 64 << 20;

/// What a test can see and turn while the server runs.
pub struct Controls {
    pub size_bytes: AtomicU64,
    /// While false, requests stay under way.
    pub open: watch::Sender<bool>,
    /// While true, every request takes a trip through the executor.
    pub pending: AtomicBool,
    pub fail: Mutex<Option<Kind>>,
    /// How long each submission blocks the worker.
    pub think: Mutex<Duration>,
    pub attach_error: Mutex<Option<String>>,
    pub attach_delay: Mutex<Duration>,
    /// Ends every connection.
    pub close: watch::Sender<bool>,
    pub submitted: AtomicU64,
    pub attached: AtomicU64,
}

impl Controls {
    pub fn new() -> Arc<Controls> {
        Arc::new(Controls {
            size_bytes: AtomicU64::new(SIZE),
            open: watch::Sender::new(true),
            pending: AtomicBool::new(false),
            fail: Mutex::new(None),
            think: Mutex::new(Duration::ZERO),
            attach_error: Mutex::new(None),
            attach_delay: Mutex::new(Duration::ZERO),
            close: watch::Sender::new(false),
            submitted: AtomicU64::new(0),
            attached: AtomicU64::new(0),
        })
    }
}

struct Memory {
    controls: Arc<Controls>,
    sectors: RefCell<BTreeMap<u64, Bytes>>,
}

const SECTOR: u64 = 512;

impl Memory {
    fn answer(&self, request: Request) -> block::Result<Reply> {
        if let Some(kind) = *self.controls.fail.lock().expect("no panics") {
            return Err(Error::new(kind, "as the test asked"));
        }
        let mut sectors = self.sectors.borrow_mut();
        match request {
            Request::Read { offset, len } => {
                let segment = |number| match sectors.get(&number) {
                    Some(bytes) => Segment::Bytes(bytes.clone()),
                    None => Segment::Zeros(SECTOR),
                };
                let numbers = offset / SECTOR..(offset + u64::from(len)) / SECTOR;
                return Ok(Reply::Data(numbers.map(segment).collect()));
            }
            Request::Write { offset, data, .. } => {
                for (index, sector) in data.chunks(SECTOR as usize).enumerate() {
                    sectors.insert(offset / SECTOR + index as u64, data.slice_ref(sector));
                }
            }
            Request::Trim { offset, len, .. } | Request::WriteZeroes { offset, len, .. } => {
                (offset / SECTOR..(offset + len) / SECTOR).for_each(|number| drop(sectors.remove(&number)));
            }
            Request::BlockStatus { offset, len, extents_max } => {
                let allocation = |number| match sectors.contains_key(&number) {
                    true => Allocation::Data,
                    false => Allocation::Hole,
                };
                let numbers = offset / SECTOR..(offset + len) / SECTOR;
                let all = numbers.map(|number| Status { len: SECTOR, allocation: allocation(number) });
                return Ok(Reply::Status(all.take(extents_max as usize).collect()));
            }
            Request::CompareAndWrite { .. } | Request::OrWrite { .. } => panic!("no test asks for it"),
            Request::Flush | Request::Prefetch { .. } => {}
        }
        Ok(Reply::Done)
    }
}

/// The device as a worker's connections share it.
#[derive(Clone)]
struct Shared(Rc<Memory>);

impl BlockDevice for Shared {
    fn geometry(&self) -> Geometry {
        Geometry {
            size_bytes: self.0.controls.size_bytes.load(Ordering::SeqCst),
            sector_bytes: 512,
            preferred_bytes: 4096,
            transfer_bytes_max: 32 << 20,
            atomic_bytes_max: 128 << 10,
            read_only: false,
        }
    }

    fn submit(&self, request: Request) -> Completion<block::Result<Reply>> {
        let controls = &self.0.controls;
        controls.submitted.fetch_add(1, Ordering::SeqCst);
        let think = *controls.think.lock().expect("no panics");
        if !think.is_zero() {
            std::thread::sleep(think);
        }
        let mut open = controls.open.subscribe();
        if *open.borrow() && !controls.pending.load(Ordering::SeqCst) {
            return Completion::Ready(self.0.answer(request));
        }
        let memory = self.0.clone();
        Completion::pending(async move {
            tokio::task::yield_now().await;
            open.wait_for(|open| *open).await.expect("the sender lives in the controls");
            memory.answer(request)
        })
    }
}

struct Hold(Arc<Controls>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.attached.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Attaches the vDisk of one worker.
pub struct Opener {
    controls: Arc<Controls>,
    memory: Rc<Memory>,
    worker: usize,
}

impl Attach for Opener {
    fn attach(&self, key: u64, snapshot: Option<u64>) -> LocalFuture<block::Result<Attached>> {
        assert_eq!((key, snapshot), (7 + self.worker as u64, None));
        let (controls, memory) = (self.controls.clone(), self.memory.clone());
        Box::pin(async move {
            let delay = *controls.attach_delay.lock().expect("no panics");
            tokio::time::sleep(delay).await;
            if let Some(text) = controls.attach_error.lock().expect("no panics").take() {
                return Err(Error::new(Kind::Unavailable, text));
            }
            controls.attached.fetch_add(1, Ordering::SeqCst);
            let mut close = controls.close.subscribe();
            let closed = Box::pin(async move {
                let _ = close.wait_for(|close| *close).await;
            });
            Ok(Attached { device: Rc::new(Shared(memory)), closed, hold: Box::new(Hold(controls)) })
        })
    }
}

/// "disk" on worker 0 and "other" on worker 1.
pub fn found() -> Vec<Found> {
    let found = |name: &str, worker: usize| Found {
        worker,
        key: 7 + worker as u64,
        snapshot: None,
        name: name.to_string(),
        description: "for tests".to_string(),
        geometry: Geometry {
            size_bytes: SIZE,
            sector_bytes: 512,
            preferred_bytes: 4096,
            transfer_bytes_max: 32 << 20,
            atomic_bytes_max: 128 << 10,
            read_only: false,
        },
    };
    vec![found("disk", 0), found("other", 1)]
}

/// Worker threads; `Here` is what a front-end uses of one.
pub struct Threads<Here: ?Sized>(Vec<mpsc::UnboundedSender<Job<Here>>>);

impl<Here: ?Sized + 'static> Threads<Here> {
    /// Two of them, and the handles to join.
    pub fn start(
        controls: &Arc<Controls>,
        here: impl Fn(Opener) -> Rc<Here> + Send + Clone + 'static,
    ) -> (Threads<Here>, Vec<JoinHandle<()>>) {
        let (mut senders, mut threads) = (Vec::new(), Vec::new());
        for index in 0..2 {
            let (sender, jobs) = mpsc::unbounded_channel();
            let (controls, here) = (controls.clone(), here.clone());
            senders.push(sender);
            threads.push(std::thread::spawn(move || {
                let memory = Rc::new(Memory { controls: controls.clone(), sectors: RefCell::default() });
                worker(here(Opener { controls, memory, worker: index }), jobs);
            }));
        }
        (Threads(senders), threads)
    }
}

impl<Here: ?Sized + 'static> Workers<Here> for Threads<Here> {
    fn run(&self, worker: usize, job: Job<Here>) {
        // A worker that is gone drops the job.
        let _ = self.0[worker].send(job);
    }
}

fn worker<Here: ?Sized + 'static>(here: Rc<Here>, mut jobs: mpsc::UnboundedReceiver<Job<Here>>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async move {
        while let Some(job) = jobs.recv().await {
            tokio::task::spawn_local(job(here.clone()));
        }
    });
}
