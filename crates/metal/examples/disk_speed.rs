//! Measures one worker's disk: 4 KiB reads at depth 1 and 32 next to plain pread, inline writes, syncs, cache release.
//!
//! `cargo run -p metal --release --example disk_speed -- [DIRECTORY] [SECONDS]`; makes and removes a 1 GiB file there.

use bytes::Bytes;
use metal::{Directory, WorkerContext, Workers};
use std::cell::{Cell, RefCell};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};
use world::{File, World};

const FILE_BYTES: u64 = 1 << 30;
const BLOCK: u64 = 4096;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().unwrap_or_else(|| ".".to_owned()));
    let seconds = arguments.next().map_or(3, |text| text.parse().expect("SECONDS is a number"));
    let duration = Duration::from_secs(seconds);
    let workers = Workers::start(1, std::time::Duration::from_micros(250)).expect("a worker starts");
    let (done, wait) = std::sync::mpsc::channel();
    let of_worker = directory.clone();
    let job: metal::Job = Box::new(move |context| {
        Box::pin(async move {
            measure(&context, &of_worker, duration).await;
            done.send(()).expect("main waits");
        })
    });
    workers.run(0, job).expect("the worker takes a job");
    wait.recv().expect("the job ends");
    workers.stop();
}

async fn measure(context: &WorkerContext, directory: &std::path::Path, duration: Duration) {
    let disk = Directory::open(context, directory).expect("the directory opens");
    let name = format!("disk-speed-{}", std::process::id());
    let file = disk.create(&name).await.expect("created");
    fill(&file).await;
    let plain = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(directory.join(&name))
        .expect("opens with O_DIRECT");
    // A B A B: what else goes on in the machine then meets both.
    for _ in 0..2 {
        plain_reads(&context.world, &plain, duration);
        reads(&context.world, &file, Load { depth: 1, len: BLOCK as usize }, duration).await;
    }
    for (depth, len) in [(32, BLOCK as usize), (256, BLOCK as usize), (8, 256 << 10)] {
        reads(&context.world, &file, Load { depth, len }, duration).await;
    }
    writes(&context.world, &file, 1);
    writes(&context.world, &file, 32);
    for other in [Other::Nothing, Other::Sync, Other::Allocate, Other::Punch] {
        writes_beside(&context.world, &file, other, duration).await;
    }
    syncs(&context.world, &file, duration).await;
    release(&context.world, &file, &directory.join(&name)).await;
    disk.remove(&name).await.expect("removed");
}

async fn fill(file: &Rc<dyn File>) {
    let part = Bytes::from(vec![0x5a; 1 << 20]);
    for offset in (0..FILE_BYTES).step_by(1 << 20) {
        file.write(offset, std::slice::from_ref(&part)).await.expect("written");
    }
    file.sync().await.expect("synced");
    file.release(0, FILE_BYTES);
}

fn random_block(world: &World) -> u64 {
    world.random.next_u64() % (FILE_BYTES / BLOCK) * BLOCK
}

/// CPU time of this thread (helpers of the kernel not counted).
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

struct Sample {
    started: Instant,
    cpu: Duration,
    latencies: Vec<Duration>,
}

impl Sample {
    fn start() -> Self {
        Sample { started: Instant::now(), cpu: cpu(), latencies: Vec::new() }
    }

    fn print(&mut self, what: &str) {
        let (elapsed, cpu, count) = (self.started.elapsed(), cpu() - self.cpu, self.latencies.len());
        println!(
            "{}  {:9.0}/s  CPU {:5.2} µs each",
            self.times(what),
            count as f64 / elapsed.as_secs_f64(),
            cpu.as_secs_f64() * 1e6 / count as f64
        );
    }

    fn times(&mut self, what: &str) -> String {
        self.latencies.sort();
        let last = self.latencies.len() - 1;
        let at = |share: f64| self.latencies[(last as f64 * share) as usize].as_nanos() as f64 / 1e3;
        format!("{what:28} p50 {:7.1} µs  p99 {:7.1} µs", at(0.5), at(0.99))
    }
}

fn plain_reads(world: &World, file: &std::fs::File, duration: Duration) {
    let mut buffer = base::AlignedBuffer::zeroed(BLOCK as usize);
    let mut sample = Sample::start();
    while sample.started.elapsed() < duration {
        let before = Instant::now();
        file.read_exact_at(&mut buffer, random_block(world)).expect("read");
        sample.latencies.push(before.elapsed());
    }
    sample.print("read 4k depth 1, pread");
}

/// Random reads.
struct Load {
    depth: usize,
    len: usize,
}

async fn reads(world: &World, file: &Rc<dyn File>, load: Load, duration: Duration) {
    let Load { depth, len } = load;
    let sample = Rc::new(RefCell::new(Sample::start()));
    let left = Rc::new(Cell::new(depth));
    let finished = world::local::Notify::new();
    for _ in 0..depth {
        let (world, file, sample) = (world.clone(), file.clone(), sample.clone());
        let (left, finished) = (left.clone(), finished.clone());
        let started = sample.borrow().started;
        world.clone().spawn(async move {
            while started.elapsed() < duration {
                let before = Instant::now();
                let read = file.read(random_block(&world).min(FILE_BYTES - len as u64), len).await.expect("read");
                assert_eq!(read[0], 0x5a);
                sample.borrow_mut().latencies.push(before.elapsed());
            }
            left.set(left.get() - 1);
            finished.notify();
        });
    }
    while left.get() > 0 {
        finished.notified().await;
    }
    let mut sample = Rc::into_inner(sample).expect("the readers are gone").into_inner();
    sample.print(&format!("read {}k depth {depth}, ring", len >> 10));
}

fn writes(world: &World, file: &Rc<dyn File>, blocks: usize) {
    let parts = vec![Bytes::from(vec![0x5a; BLOCK as usize]); blocks];
    let mut sample = Sample::start();
    for _ in 0..8192 / blocks {
        let before = Instant::now();
        let world::Completion::Ready(result) = file.write(random_block(world), &parts) else {
            panic!("a write is inline");
        };
        result.expect("written");
        sample.latencies.push(before.elapsed());
    }
    sample.print(&format!("write {}k, inline", blocks * 4));
}

/// What goes on in the same file while it is written to.
#[derive(Clone, Copy, Debug)]
enum Other {
    Nothing,
    Sync,
    Allocate,
    Punch,
}

/// For how long a write holds the worker. Writes are inline, so what others do to the file must not block writes: ext4 takes the inode's lock for a write
/// as well as for a change of space.
async fn writes_beside(world: &World, file: &Rc<dyn File>, other: Other, duration: Duration) {
    let stop = Rc::new(Cell::new(false));
    let stopped = world::local::Notify::new();
    let task = (world.clone(), file.clone(), stop.clone(), stopped.clone());
    world.spawn(async move {
        let (world, file, stop, stopped) = task;
        let mut round = 0;
        while !stop.get() {
            round += 1;
            match other {
                Other::Nothing => {}
                Other::Sync => file.sync().await.expect("synced"),
                Other::Allocate => file.allocate(FILE_BYTES + (round << 20), 1 << 20).await.expect("allocated"),
                Other::Punch => file.punch((round % 1024) << 20, 128 << 10).await.expect("punched"),
            }
            world.clock.sleep(1).await;
        }
        stopped.notify();
    });
    let part = Bytes::from(vec![0x5a; BLOCK as usize]);
    let mut sample = Sample::start();
    while sample.started.elapsed() < duration {
        // In the upper half of each MiB; the lower one is punched.
        let offset = (random_block(world) & !((1 << 20) - 1)) + (512 << 10);
        let before = Instant::now();
        let write = file.write(offset, std::slice::from_ref(&part));
        sample.latencies.push(before.elapsed());
        write.await.expect("written");
        world.clock.sleep(100_000).await;
    }
    let longest = sample.latencies.iter().max().copied().unwrap_or_default();
    println!("{}  longest {longest:?}", sample.times(&format!("worker held, {other:?} beside")));
    stop.set(true);
    stopped.notified().await;
}

async fn syncs(world: &World, file: &Rc<dyn File>, duration: Duration) {
    file.sync().await.expect("synced");
    let part = Bytes::from(vec![0x5a; BLOCK as usize]);
    let mut sample = Sample::start();
    while sample.started.elapsed() < duration {
        file.write(random_block(world), std::slice::from_ref(&part)).await.expect("written");
        let before = Instant::now();
        file.sync().await.expect("synced");
        sample.latencies.push(before.elapsed());
    }
    sample.print("sync after a 4k write, ring");
}

/// What dropping 1 MiB of clean pages costs: the worker through the ring, and the call itself.
async fn release(world: &World, file: &Rc<dyn File>, path: &std::path::Path) {
    let plain = std::fs::File::open(path).expect("opens");
    let mut sample = Sample::start();
    let mut inline = Sample::start();
    let part = Bytes::from(vec![0x5a; 1 << 20]);
    for round in 0..200 {
        let offset = (round % (FILE_BYTES >> 20)) << 20;
        file.write(offset, std::slice::from_ref(&part)).await.expect("written");
        file.sync().await.expect("synced");
        let before = Instant::now();
        if round % 2 == 0 {
            file.release(offset, 1 << 20);
            sample.latencies.push(before.elapsed());
        } else {
            let len = std::num::NonZeroU64::new(1 << 20);
            rustix::fs::fadvise(&plain, offset, len, rustix::fs::Advice::DontNeed).expect("a hint is taken");
            inline.latencies.push(before.elapsed());
        }
        world.clock.sleep(1).await;
    }
    println!("{}", sample.times("release 1 MiB, ring"));
    println!("{}", inline.times("release 1 MiB, inline call"));
}
