//! Worker threads: one per core, each with a tokio current-thread runtime and one ring.

mod polling;
#[cfg(test)]
pub(crate) mod tests;

use crate::actor::Actor;
use crate::clock::MachineClock;
use crate::random::KernelRandom;
use crate::ring::Ring;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, mpsc as thread_channel};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use world::{LocalFuture, Spawn, World};

/// Jobs handed to a worker that it has not started. It starts them all in each turn of its loop, so this is reached only
/// by a worker that is stuck.
const JOBS_WAITING_MAX: usize = 4096;

/// Runs on the worker and gives the task that goes on there.
pub type Job = Box<dyn FnOnce(WorkerContext) -> LocalFuture<()> + Send>;

/// The running workers; clones speak to the same ones.
#[derive(Clone)]
pub struct Workers {
    shared: Arc<Shared>,
}

struct Shared {
    workers: Vec<Remote>,
    /// For the blocking calls that no ring takes: reading folders, closing files.
    helper: Actor<()>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Remote {
    jobs: mpsc::Sender<Job>,
    stop: Arc<Notify>,
}

/// What a job gets: the worker's world, and through [`crate::Directory::open`] its disks.
#[derive(Clone)]
pub struct WorkerContext {
    pub index: usize,
    pub world: World,
    pub(crate) ring: Rc<Ring>,
    pub(crate) helper: Actor<()>,
}

/// Why a job was not taken. It is dropped, with the connection or reply channel that it carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the worker has been stopped")]
    Stopped,
    #[error("the worker has {JOBS_WAITING_MAX} jobs waiting")]
    Busy,
}

impl Workers {
    /// Starts `count` threads and waits until each has its runtime and its ring. A worker whose sleeps are shorter than
    /// `poll_max` stays awake and looks for work as long as that pays; zero: it always sleeps at once.
    pub fn start(count: usize, poll_max: Duration) -> io::Result<Workers> {
        assert!(count > 0, "work needs a worker");
        let helper = Actor::start("disk-helper", ())?;
        let mut workers = Vec::new();
        let mut threads = Vec::new();
        for index in 0..count {
            let (jobs, of_worker) = mpsc::channel(JOBS_WAITING_MAX);
            let stop = Arc::new(Notify::new());
            let (report, ready) = thread_channel::channel();
            let seat = Seat { index, jobs: of_worker, stop: stop.clone(), helper: helper.clone(), poll_max };
            let thread =
                std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || seat.work(report))?;
            // The workers started before this one end by themselves when their senders are dropped.
            ready.recv().map_err(|_| io::Error::other("a worker ended before it was ready"))??;
            workers.push(Remote { jobs, stop });
            threads.push(thread);
        }
        Ok(Workers { shared: Arc::new(Shared { workers, helper, threads: Mutex::new(threads) }) })
    }

    pub fn count(&self) -> usize {
        self.shared.workers.len()
    }

    /// Calls `job` on worker `index` and runs the task that it returns there. Never waits.
    pub fn run(&self, index: usize, job: Job) -> Result<(), Refused> {
        let worker = self.shared.workers.get(index).expect("the caller counts the workers");
        worker.jobs.try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Refused::Busy,
            mpsc::error::TrySendError::Closed(_) => Refused::Stopped,
        })
    }

    /// Ends every worker between two turns of its loop, whatever its tasks were doing (they are dropped), after the
    /// operations that the kernel has begun; then the helper. Blocks: not to be called from a worker.
    pub fn stop(&self) {
        for worker in &self.shared.workers {
            worker.stop.notify_one();
        }
        let threads =
            std::mem::take(&mut *self.shared.threads.lock().expect("a panic under the lock ends the process"));
        for thread in threads {
            assert_ne!(thread.thread().id(), std::thread::current().id(), "a worker cannot wait for its own end");
            thread.join().expect("a panic on a worker ends the process");
        }
        self.shared.helper.stop();
    }
}

/// Everything that a worker thread starts with.
struct Seat {
    index: usize,
    jobs: mpsc::Receiver<Job>,
    stop: Arc<Notify>,
    helper: Actor<()>,
    poll_max: Duration,
}

impl Seat {
    fn work(self, report: thread_channel::Sender<io::Result<()>>) {
        let abort = AbortOnPanic;
        match self.prepare() {
            Ok((runtime, ring, completed)) => {
                // A caller of `start` that is gone lets the channel of jobs go too, and with that the worker.
                let _ = report.send(Ok(()));
                let driver = ring.clone();
                runtime.block_on(self.serve(ring.clone(), async move {
                    let error = driver.drive(completed).await;
                    panic!("the ring's eventfd failed, no operation would complete any more: {error:?}");
                }));
                // Tasks first, so that the ring's last operations are known when it waits for them.
                drop(runtime);
                drop(ring);
            }
            Err(error) => {
                let _ = report.send(Err(error));
            }
        }
        std::mem::forget(abort);
    }

    fn prepare(&self) -> io::Result<(tokio::runtime::LocalRuntime, Rc<Ring>, std::os::fd::OwnedFd)> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default())?;
        let (ring, completed) = Ring::new()?;
        Ok((runtime, ring, completed))
    }

    async fn serve(mut self, ring: Rc<Ring>, drive: impl Future<Output = ()> + 'static) {
        spawn_guarded(Box::pin(drive));
        tokio::task::spawn_local(polling::poll(self.poll_max));
        let world =
            World { clock: Rc::new(MachineClock), random: Rc::new(KernelRandom::new()), spawn: Rc::new(OnWorker) };
        let context = WorkerContext { index: self.index, world, ring, helper: self.helper };
        loop {
            tokio::select! {
                biased;
                () = self.stop.notified() => return,
                job = self.jobs.recv() => match job {
                    Some(job) => spawn_guarded(job(context.clone())),
                    None => return,
                },
            }
        }
    }
}

/// Spawns on the worker that calls it.
struct OnWorker;

impl Spawn for OnWorker {
    fn spawn(&self, task: LocalFuture<()>) {
        spawn_guarded(task);
    }
}

fn spawn_guarded(task: LocalFuture<()>) {
    tokio::task::spawn_local(Guarded(task));
}

/// tokio keeps a task's panic in its join handle; here it must not be kept from anybody.
struct Guarded(LocalFuture<()>);

impl Future for Guarded {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        polling::turn();
        let abort = AbortOnPanic;
        let ready = self.0.as_mut().poll(context);
        std::mem::forget(abort);
        ready
    }
}

/// Dropped by an unwinding stack it ends the process: a controller that lost half of its state must not go on
/// acknowledging writes. (Release builds abort by themselves.)
pub(crate) struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}
