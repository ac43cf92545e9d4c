//! Workers run jobs, end when told, take the process down with a panic, and sleep when there is nothing to do.

use super::*;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::Duration;

/// Runs `task` on a worker of its own and returns what it gives.
pub(crate) fn on_worker<R, F>(task: impl FnOnce(WorkerContext) -> F + Send + 'static) -> R
where
    R: Send + 'static,
    F: Future<Output = R> + 'static,
{
    let workers = Workers::start(1, std::time::Duration::from_micros(250)).expect("a worker starts");
    let (sender, receiver) = thread_channel::channel();
    let job: Job = Box::new(move |context| {
        let task = task(context);
        Box::pin(async move { sender.send(task.await).expect("the test waits") })
    });
    workers.run(0, job).expect("the worker takes jobs");
    let result = receiver.recv().expect("the task ends");
    workers.stop();
    result
}

/// Beside the test binary, and so most likely on a disk: /tmp may be memory, where nothing is direct, cached or synced.
pub(crate) fn test_directory() -> tempfile::TempDir {
    let binary = std::env::current_exe().expect("a test has a binary");
    let beside = binary.parent().expect("a binary lies in a folder").to_owned();
    let place = std::env::var_os(TEST_DIRECTORY).map_or(beside, Into::into);
    tempfile::tempdir_in(place).expect("a temporary directory")
}

/// Names another place for [`test_directory`].
pub(crate) const TEST_DIRECTORY: &str = "METAL_TEST_DIRECTORY";

/// Runs the test `name` of this binary once more, in a process of its own that has `variable` set.
pub(crate) fn child(name: &str, variable: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a test has a binary"));
    command.args(["--exact", name, "--nocapture"]).env(variable, "1");
    command
}

#[test]
fn every_worker_runs_its_jobs_on_its_own_named_thread() {
    let workers = Workers::start(3, std::time::Duration::from_micros(250)).expect("workers start");
    let (sender, receiver) = thread_channel::channel();
    for index in 0..3 {
        let sender = sender.clone();
        let job: Job = Box::new(move |context| {
            Box::pin(async move {
                let (inner, done) = world::local::oneshot();
                context.world.spawn(async move {
                    let name = std::thread::current().name().map(str::to_owned);
                    inner.send((context.index, name));
                });
                sender.send(done.await.expect("the spawned task runs")).expect("the test waits");
            })
        });
        workers.run(index, job).expect("the worker takes jobs");
    }
    let mut seen: Vec<_> = receiver.iter().take(3).collect();
    seen.sort();
    assert_eq!(seen, (0..3).map(|index| (index, Some(format!("worker-{index}")))).collect::<Vec<_>>());
    workers.stop();
    let late = workers.run(0, Box::new(|_| unreachable!("it has been stopped")));
    assert_eq!(late, Err(Refused::Stopped));
}

#[test]
fn a_worker_that_is_stuck_refuses_more_jobs() {
    let workers = Workers::start(1, std::time::Duration::from_micros(250)).expect("a worker starts");
    let (open, gate) = thread_channel::channel::<()>();
    let (started, begun) = thread_channel::channel();
    let stuck: Job = Box::new(move |_| {
        started.send(()).expect("the test waits");
        let _ = gate.recv();
        Box::pin(async {})
    });
    workers.run(0, stuck).expect("the worker takes jobs");
    begun.recv().expect("the job runs");
    let taken = (0..JOBS_WAITING_MAX + 1).filter(|_| workers.run(0, Box::new(|_| Box::pin(async {}))).is_ok()).count();
    assert_eq!(taken, JOBS_WAITING_MAX);
    assert_eq!(workers.run(0, Box::new(|_| Box::pin(async {}))), Err(Refused::Busy));
    drop(open);
    workers.stop();
}

#[test]
fn stopping_drops_tasks_that_wait_for_ever() {
    let workers = Workers::start(1, std::time::Duration::from_micros(250)).expect("a worker starts");
    let (sender, receiver) = thread_channel::channel::<()>();
    let job: Job = Box::new(move |context| {
        Box::pin(async move {
            context.world.clock.sleep(u64::MAX / 2).await;
            drop(sender);
        })
    });
    workers.run(0, job).expect("the worker takes jobs");
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(receiver.try_recv(), Err(thread_channel::TryRecvError::Empty));
    workers.stop();
    assert_eq!(receiver.try_recv(), Err(thread_channel::TryRecvError::Disconnected));
}

#[test]
fn a_panic_in_a_task_ends_the_process() {
    const NAME: &str = "worker::tests::a_panic_in_a_task_ends_the_process";
    const CHILD: &str = "METAL_TEST_PANIC_IN_A_TASK";
    if std::env::var_os(CHILD).is_some() {
        on_worker(|_| async { panic!("on purpose") })
    }
    let output = child(NAME, CHILD).output().expect("the test binary runs");
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("on purpose"), "{output:?}");
}

#[test]
fn a_panic_in_an_actor_ends_the_process() {
    const NAME: &str = "worker::tests::a_panic_in_an_actor_ends_the_process";
    const CHILD: &str = "METAL_TEST_PANIC_IN_AN_ACTOR";
    if std::env::var_os(CHILD).is_some() {
        let actor = Actor::start("test-actor", ()).expect("a thread starts");
        actor.submit(Box::new(|()| panic!("on purpose")));
        std::thread::sleep(Duration::from_secs(60));
    }
    let output = child(NAME, CHILD).output().expect("the test binary runs");
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{output:?}");
}

/// Voluntary and other context switches of a thread of this process so far.
fn context_switches(thread: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/self/task/{thread}/status")).expect("the thread lives");
    let counts = status.lines().filter(|line| line.contains("ctxt_switches"));
    counts.filter_map(|line| line.split_ascii_whitespace().last()?.parse::<u64>().ok()).sum()
}

#[test]
fn an_idle_worker_sleeps() {
    let workers = Workers::start(1, std::time::Duration::from_micros(250)).expect("a worker starts");
    let (sender, receiver) = thread_channel::channel();
    let job: Job = Box::new(move |context| {
        Box::pin(async move {
            let directory = test_directory();
            let disk = crate::Directory::open(&context, directory.path()).expect("it exists");
            let file = disk.create("file").await.expect("created");
            file.read(0, 4096).await.expect("read");
            // Timers that are pending must not make it tick.
            context.world.spawn(context.world.clock.sleep(3_600_000_000_000));
            sender.send(rustix::thread::gettid().as_raw_nonzero().get()).expect("the test waits");
        })
    });
    workers.run(0, job).expect("the worker takes jobs");
    let thread = receiver.recv().expect("the job runs");
    std::thread::sleep(Duration::from_millis(300));
    let before = context_switches(thread);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(context_switches(thread) - before, 0, "wake-ups in 1.5 s with nothing to do");
    workers.stop();
}
