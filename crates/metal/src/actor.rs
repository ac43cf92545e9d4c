//! A thread that owns a value and runs blocking jobs on it, one after the other.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

/// Jobs that wait for the thread. A queue of this length means that the thread (a metadata commit, a slow disk) is
/// seconds behind; then whoever submits waits with it instead of filling the memory.
const JOBS_WAITING_MAX: usize = 16_384;

type ActorJob<T> = Box<dyn FnOnce(&mut T) + Send>;

/// A handle; clones speak to the same thread. The thread ends after [`Actor::stop`], or when the last handle is dropped,
/// in both cases after the jobs that were submitted before.
pub struct Actor<T> {
    handle: Arc<Handle<T>>,
}

impl<T> Clone for Actor<T> {
    fn clone(&self) -> Self {
        Actor { handle: self.handle.clone() }
    }
}

/// The actor was stopped before the job could run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the helper thread has been stopped")]
pub struct Stopped;

/// Closes the queue when the last [`Actor`] goes; the thread itself holds only the queue.
struct Handle<T> {
    queue: Arc<Queue<T>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Queue<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
    drained: Condvar,
}

struct State<T> {
    jobs: VecDeque<ActorJob<T>>,
    closed: bool,
}

impl<T: Send + 'static> Actor<T> {
    /// `name` is the thread's name (at most 15 bytes are seen by the kernel).
    pub fn start(name: &str, mut owned: T) -> io::Result<Actor<T>> {
        let queue = Arc::new(Queue {
            state: Mutex::new(State { jobs: VecDeque::new(), closed: false }),
            filled: Condvar::new(),
            drained: Condvar::new(),
        });
        let of_thread = queue.clone();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let abort = crate::worker::AbortOnPanic;
            while let Some(job) = of_thread.next() {
                job(&mut owned);
            }
            drop(owned);
            std::mem::forget(abort);
        })?;
        Ok(Actor { handle: Arc::new(Handle { queue, thread: Mutex::new(Some(thread)) }) })
    }

    /// Runs `job` after all that were submitted before it. Waits only while 16,384 jobs are waiting already. After
    /// [`Actor::stop`] the job is dropped unrun (what it captured, a reply channel for instance, goes with it).
    pub fn submit(&self, job: Box<dyn FnOnce(&mut T) + Send>) {
        let queue = &self.handle.queue;
        let mut state = queue.lock();
        while state.jobs.len() >= JOBS_WAITING_MAX && !state.closed {
            state = queue.drained.wait(state).expect("a panic under the lock ends the process");
        }
        if !state.closed {
            state.jobs.push_back(job);
            queue.filled.notify_one();
        }
    }

    /// Runs `job` and hands its result back to the calling task, whatever runtime that belongs to.
    pub async fn call<R: Send + 'static>(&self, job: impl FnOnce(&mut T) -> R + Send + 'static) -> Result<R, Stopped> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.submit(Box::new(move |owned| {
            // Nobody waits for the answer any more if the caller's future was dropped; that is his choice.
            let _ = sender.send(job(owned));
        }));
        receiver.await.map_err(|_| Stopped)
    }

    /// Lets the waiting jobs run, drops the value on its thread and waits for both. Blocks; not for async code.
    pub fn stop(&self) {
        self.handle.queue.close();
        let thread = self.handle.thread.lock().expect("a panic under the lock ends the process").take();
        if let Some(thread) = thread {
            thread.join().expect("a panic on the thread ends the process");
        }
    }
}

impl<T> Queue<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().expect("a panic under the lock ends the process")
    }

    fn next(&self) -> Option<ActorJob<T>> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                // Whoever waits for room is one of few; wake them all rather than lose one.
                if state.jobs.len() + 1 >= JOBS_WAITING_MAX {
                    self.drained.notify_all();
                }
                return Some(job);
            }
            if state.closed {
                return None;
            }
            state = self.filled.wait(state).expect("a panic under the lock ends the process");
        }
    }

    fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
        self.drained.notify_all();
    }
}

impl<T> Drop for Handle<T> {
    fn drop(&mut self) {
        self.queue.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn runs_jobs_in_order_and_stop_waits_for_them() {
        let (sender, receiver) = mpsc::channel();
        let actor = Actor::start("test-actor", Vec::new()).expect("a thread starts");
        for number in 0..1000 {
            let sender = sender.clone();
            actor.clone().submit(Box::new(move |seen: &mut Vec<u32>| {
                seen.push(number);
                if number == 999 {
                    sender.send(seen.clone()).expect("the test listens");
                }
            }));
        }
        actor.stop();
        assert_eq!(receiver.try_recv(), Ok((0..1000).collect::<Vec<u32>>()));
        actor.submit(Box::new(move |_| drop(sender)));
        assert_eq!(receiver.try_recv(), Err(mpsc::TryRecvError::Disconnected), "dropped unrun");
    }

    #[tokio::test]
    async fn answers_a_call_until_it_is_stopped() {
        let actor = Actor::start("test-actor", 40).expect("a thread starts");
        assert_eq!(
            actor
                .call(|number| {
                    *number += 2;
                    *number
                })
                .await,
            Ok(42)
        );
        actor.stop();
        assert_eq!(actor.call(|number| *number).await, Err(Stopped));
    }

    #[test]
    fn a_full_queue_makes_the_submitter_wait() {
        let actor = Actor::start("test-actor", 0_usize).expect("a thread starts");
        let (open, gate) = mpsc::channel::<()>();
        let (started, begun) = mpsc::channel();
        actor.submit(Box::new(move |_| {
            started.send(()).expect("the test listens");
            gate.recv().expect("the test opens the gate");
        }));
        begun.recv().expect("the first job runs");
        for _ in 0..JOBS_WAITING_MAX {
            actor.submit(Box::new(|count| *count += 1));
        }
        let (done, one_more) = mpsc::channel();
        let other = actor.clone();
        let thread = std::thread::spawn(move || {
            other.submit(Box::new(|count| *count += 1));
            done.send(()).expect("the test listens");
        });
        assert!(one_more.recv_timeout(std::time::Duration::from_millis(100)).is_err(), "it must wait");
        open.send(()).expect("the job waits");
        one_more.recv().expect("room came");
        thread.join().expect("no panic");
        let (sender, receiver) = mpsc::channel();
        actor.submit(Box::new(move |count| sender.send(*count).expect("the test listens")));
        assert_eq!(receiver.recv(), Ok(JOBS_WAITING_MAX + 1));
    }
}
