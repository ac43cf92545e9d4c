//! A vDisk in memory, workers to put it on, and a server in front.

use crate::config::{Config, NbdConfig, NbdTls};
use crate::frontend::{Attach, Attached, Found, Job, Workers};
use crate::nbd::{Exports, Server};
use block::{Allocation, BlockDevice, Error, Geometry, Kind, Reply, Request, Segment, Status};
use bytes::Bytes;
use std::cell::{Cell, RefCell};
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
    fn new() -> Arc<Controls> {
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
            Request::CompareAndWrite { .. } | Request::OrWrite { .. } => panic!("NBD has no such request"),
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

struct Opener {
    controls: Arc<Controls>,
    memory: Rc<Memory>,
    worker: usize,
}

impl Attach for Opener {
    fn attach(&self, key: u64) -> LocalFuture<block::Result<Attached>> {
        assert_eq!(key, 7 + self.worker as u64);
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
struct Names;

impl Exports for Names {
    fn list(&self) -> Vec<Found> {
        let found = |name: &str, worker: usize| Found {
            worker,
            key: 7 + worker as u64,
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
    fn find(&self, name: &str) -> Option<Found> {
        let wanted = if name.is_empty() { "disk" } else { name };
        self.list().into_iter().find(|found| found.name == wanted)
    }
}

struct Threads(Vec<mpsc::UnboundedSender<Job<dyn Attach>>>);

impl Workers<dyn Attach> for Threads {
    fn run(&self, worker: usize, job: Job<dyn Attach>) {
        // A worker that is gone drops the job.
        let _ = self.0[worker].send(job);
    }
}

fn worker(index: usize, controls: Arc<Controls>, mut jobs: mpsc::UnboundedReceiver<Job<dyn Attach>>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let local = tokio::task::LocalSet::new();
    let memory = Rc::new(Memory { controls: controls.clone(), sectors: RefCell::default() });
    let attach: Rc<dyn Attach> = Rc::new(Opener { controls, memory, worker: index });
    local.block_on(&runtime, async move {
        let running = Rc::new(Cell::new(0));
        while let Some(job) = jobs.recv().await {
            let (task, count) = (job(attach.clone()), running.clone());
            tokio::task::spawn_local(async move {
                count.set(count.get() + 1);
                task.await;
                count.set(count.get() - 1);
            });
        }
    });
}

/// A server on a port of its own and on a unix socket, with two workers.
pub struct Running {
    pub controls: Arc<Controls>,
    pub tcp: std::net::SocketAddr,
    pub folder: tempfile::TempDir,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
pub struct Setup {
    pub tls: Option<NbdTls>,
    pub connections_max: Option<u32>,
    pub negotiation_timeout: Option<Duration>,
}

impl Running {
    pub fn start(setup: Setup) -> Running {
        let controls = Controls::new();
        let folder = tempfile::tempdir().expect("a folder");
        let mut threads = Vec::new();
        let mut senders = Vec::new();
        for index in 0..2 {
            let (sender, jobs) = mpsc::unbounded_channel();
            let controls = controls.clone();
            senders.push(sender);
            threads.push(std::thread::spawn(move || worker(index, controls, jobs)));
        }
        let config = NbdConfig {
            listen: Some("127.0.0.1:0".parse().expect("an address")),
            socket: Some(folder.path().join("nbd.sock")),
            tls: setup.tls,
            connections_max: setup.connections_max.unwrap_or(100),
            ..Config::defaults().nbd
        };
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (report, address) = std::sync::mpsc::channel();
        threads.push(std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let mut server = Server::bind(&config, 256 << 20).await.expect("the server listens");
                if let Some(timeout) = setup.negotiation_timeout {
                    server.negotiation_timeout = timeout;
                }
                report.send(server.tcp_address().expect("TCP is on")).expect("the test waits");
                let stop = async {
                    let _ = stopped.await;
                };
                server.serve(Arc::new(Names), Arc::new(Threads(senders)), stop).await;
            });
        }));
        let tcp = address.recv().expect("the server reports");
        Running { controls, tcp, folder, stop: Some(stop), threads }
    }

    /// Asks the server to stop, without waiting.
    pub fn ask_to_stop(&mut self) {
        drop(self.stop.take());
    }

    /// Whether serving has ended.
    pub fn is_over(&self) -> bool {
        self.threads.last().is_some_and(JoinHandle::is_finished)
    }

    /// Waits until `done` holds; panics after ten seconds.
    pub fn wait_until(&self, what: &str, mut done: impl FnMut(&Controls) -> bool) {
        for _ in 0..1000 {
            if done(&self.controls) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("did not happen: {what}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.ask_to_stop();
        if std::thread::panicking() {
            return;
        }
        self.threads.drain(..).for_each(|thread| thread.join().expect("no thread panics"));
        assert_eq!(self.controls.attached.load(Ordering::SeqCst), 0, "a hold was not dropped");
    }
}
