//! One io_uring of one worker: operations in, results out, buffers kept alive in between.
//!
//! An operation is queued when it is started and goes to the kernel once per turn of the event loop: the driver task is
//! woken by the first one and runs behind the tasks that are runnable already, so that all that they start leaves in one
//! system call; with nothing else to do it runs at once. Completions come back through an eventfd in tokio's epoll.
//!
//! Invariant: whatever the kernel may still touch for an operation (buffer, path, descriptor) belongs to its slot until
//! its completion was seen, also if the future that waits for it was dropped, and the ring waits for all of them before
//! it goes.

mod operations;
#[cfg(test)]
mod tests;

pub(crate) use operations::{ADVICE_BYTES_MAX, Descriptors, ReadInto, Resources};

use io_uring::{IoUring, squeue};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use tokio::io::unix::AsyncFd;

/// Submission entries: what leaves in one system call. More than this started in one turn leaves in several.
const SUBMISSION_ENTRIES: u32 = 256;
/// Operations in the kernel at a time. Not more than fit the completion queue, or the kernel starts a slow side list.
/// The others wait in the backlog, which is as long as there are callers that wait: each entry belongs to a future.
const COMPLETION_ENTRIES: u32 = 4096;

pub(crate) struct Ring {
    inner: RefCell<Inner>,
    /// The task in [`Ring::drive`].
    driver: RefCell<Option<Waker>>,
}

struct Inner {
    uring: IoUring,
    slots: Vec<Slot>,
    free: Vec<u32>,
    backlog: VecDeque<u32>,
    /// Pushed to the submission queue and not completed.
    under_way: u32,
    /// The driver task was woken and has not run yet.
    driver_woken: bool,
}

struct Slot {
    stage: Stage,
    waker: Option<Waker>,
    /// No future waits for the result any more.
    abandoned: bool,
    resources: Resources,
}

enum Stage {
    Free,
    Backlog(squeue::Entry),
    /// Given up while it was in the backlog, which still lists it.
    Cancelled,
    UnderWay,
    Done(i32),
}

/// What an operation ends with: the kernel's result (bytes, a descriptor, 0) and what was lent to it.
pub(crate) struct Outcome {
    pub(crate) result: Result<u32, Errno>,
    pub(crate) resources: Resources,
}

/// A started operation. Dropped early it runs on without anybody waiting, or is not begun if it was in the backlog.
pub(crate) struct Operation {
    ring: Rc<Ring>,
    /// `None` once the outcome was handed out: the slot may be another's then.
    slot: Option<u32>,
}

impl Ring {
    /// A ring for the calling thread, which must stay the only one to use it, and the eventfd for [`Ring::drive`].
    pub(crate) fn new() -> io::Result<(Rc<Ring>, OwnedFd)> {
        let uring = build()?;
        let completed = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        uring.submitter().register_eventfd(completed.as_raw_fd())?;
        let inner = Inner {
            uring,
            slots: Vec::new(),
            free: Vec::new(),
            backlog: VecDeque::new(),
            under_way: 0,
            driver_woken: false,
        };
        Ok((Rc::new(Ring { inner: RefCell::new(inner), driver: RefCell::new(None) }), completed))
    }

    /// Queues the entry. Its user data is set here.
    ///
    /// # Safety
    /// Every pointer and descriptor in `entry` must stay valid as long as `resources` lives unchanged, wherever it is
    /// moved to.
    unsafe fn start(self: &Rc<Self>, entry: squeue::Entry, resources: Resources) -> Operation {
        let (slot, wake) = self.inner.borrow_mut().start(entry, resources);
        if let (Wake::Needed, Some(driver)) = (wake, &*self.driver.borrow()) {
            driver.wake_by_ref();
        }
        Operation { ring: self.clone(), slot: Some(slot) }
    }

    /// The worker's task that submits and completes; ends only if the eventfd fails.
    pub(crate) async fn drive(self: Rc<Self>, completed: OwnedFd) -> io::Result<()> {
        // SAFETY: an OwnedFd keeps its one descriptor open as long as it lives, and it moves into the AsyncFd.
        let completed = unsafe { AsyncFd::register_with_interest(completed, tokio::io::Interest::READABLE) }?;
        poll_fn(|context| {
            *self.driver.borrow_mut() = Some(context.waker().clone());
            loop {
                // epoll reports the eventfd by edges, so it needs no reading: its counter only ever grows.
                let signalled = match completed.poll_read_ready(context) {
                    Poll::Ready(Ok(mut ready)) => {
                        ready.clear_ready();
                        true
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => false,
                };
                self.turn(context);
                if !signalled {
                    return Poll::Pending;
                }
            }
        })
        .await
    }

    /// Hands out results, submits what is queued, and hands out what was finished by that.
    fn turn(&self, context: &mut Context<'_>) {
        let mut finished = Finished::default();
        let retry = self.inner.borrow_mut().turn(&mut finished);
        finished.deliver();
        if retry {
            context.waker().wake_by_ref();
        }
    }

    /// Waits until the kernel is done with every operation. Blocks: for the end of a worker only.
    fn drain(&self) {
        let mut inner = self.inner.borrow_mut();
        let mut finished = Finished::default();
        while inner.under_way > 0 {
            match inner.uring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                // The buffers may still be written to: leaking them is the one safe thing that is left.
                Err(_) => return std::mem::forget(std::mem::take(&mut inner.slots)),
            }
            inner.reap(&mut finished);
        }
        drop(inner);
        finished.deliver();
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.drain();
    }
}

/// The cheapest mode that the kernel knows. Cooperative completion (5.19) needs no interrupt of the worker; deferring it
/// further to a call of our own (DEFER_TASKRUN) was measured as well: 0.2 to 0.4 µs more CPU per read at depth 32 and the
/// same latency, since that call comes on top of the epoll_wait which everything else needs anyway.
fn build() -> io::Result<IoUring> {
    let mut cooperative = IoUring::builder();
    cooperative.setup_coop_taskrun().setup_single_issuer();
    let mut plain = IoUring::builder();
    let mut last = None;
    for builder in [&mut cooperative, &mut plain] {
        match builder.setup_cqsize(COMPLETION_ENTRIES).setup_clamp().dontfork().build(SUBMISSION_ENTRIES) {
            Ok(uring) => return Ok(uring),
            Err(error) => last = Some(error),
        }
    }
    let error = last.expect("two attempts were made");
    Err(io::Error::new(
        error.kind(),
        format!(
            "cannot set up io_uring ({error}); it needs Linux 5.15 or newer, /proc/sys/kernel/io_uring_disabled = 0 and, \
             in a container, a seccomp profile that allows it"
        ),
    ))
}

/// Whether the driver has to be woken for an operation, or was already.
enum Wake {
    Needed,
    Done,
}

impl Inner {
    fn start(&mut self, entry: squeue::Entry, resources: Resources) -> (u32, Wake) {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.slots.push(Slot { stage: Stage::Free, waker: None, abandoned: false, resources: Resources::None });
                u32::try_from(self.slots.len() - 1).expect("memory ends before four billion operations")
            }
        };
        let entry = entry.user_data(u64::from(slot));
        let at = &mut self.slots[slot as usize];
        at.resources = resources;
        at.stage = Stage::Backlog(entry);
        self.backlog.push_back(slot);
        self.fill_queue();
        (slot, if std::mem::replace(&mut self.driver_woken, true) { Wake::Done } else { Wake::Needed })
    }

    /// Moves entries from the backlog to the submission queue as far as that and the completion queue have room.
    fn fill_queue(&mut self) {
        if self.backlog.is_empty() {
            return;
        }
        let completion_room = self.uring.params().cq_entries();
        let mut queue = self.uring.submission();
        while self.under_way < completion_room && !queue.is_full() {
            let Some(slot) = self.backlog.pop_front() else { break };
            let at = &mut self.slots[slot as usize];
            let Stage::Backlog(entry) = std::mem::replace(&mut at.stage, Stage::UnderWay) else {
                at.stage = Stage::Free;
                self.free.push(slot);
                continue;
            };
            // SAFETY: `Ring::start` asks its caller that the entry stays valid as long as the resources, and the slot
            // keeps those untouched until the completion.
            unsafe { queue.push(&entry) }.expect("the queue is not full");
            self.under_way += 1;
        }
    }

    /// `true` if the kernel was short of something and the rest must be tried again.
    fn turn(&mut self, finished: &mut Finished) -> bool {
        self.driver_woken = false;
        self.reap(finished);
        loop {
            self.fill_queue();
            match self.submit() {
                Ok(()) => {}
                Err(Errno::INTR) => continue,
                // EAGAIN, EBUSY: no memory for requests, or the completion queue is full.
                Err(_) => {
                    self.reap(finished);
                    return true;
                }
            }
            self.reap(finished);
            if self.backlog.is_empty() && self.uring.submission().is_empty() {
                return false;
            }
            if self.under_way >= self.uring.params().cq_entries() {
                // The completion of one of them wakes the driver again.
                return false;
            }
        }
    }

    fn submit(&mut self) -> Result<(), Errno> {
        let queue = self.uring.submission();
        let nothing_to_do = queue.is_empty() && !queue.cq_overflow();
        drop(queue);
        if nothing_to_do {
            return Ok(());
        }
        match self.uring.submit() {
            Ok(_) => Ok(()),
            Err(error) => Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
        }
    }

    fn reap(&mut self, finished: &mut Finished) {
        for completion in self.uring.completion() {
            let index = completion.user_data() as usize;
            let slot = &mut self.slots[index];
            self.under_way -= 1;
            if slot.abandoned {
                slot.abandoned = false;
                slot.stage = Stage::Free;
                let resources = std::mem::replace(&mut slot.resources, Resources::None);
                finished.orphans.push((resources, completion.result()));
                self.free.push(index as u32);
            } else {
                slot.stage = Stage::Done(completion.result());
                finished.wakers.extend(slot.waker.take());
            }
        }
    }

    /// The result, if it is there; the slot is free then.
    fn take(&mut self, index: u32, context: &mut Context<'_>) -> Poll<Outcome> {
        let slot = &mut self.slots[index as usize];
        let Stage::Done(result) = slot.stage else {
            match &mut slot.waker {
                Some(waker) => waker.clone_from(context.waker()),
                None => slot.waker = Some(context.waker().clone()),
            }
            return Poll::Pending;
        };
        slot.stage = Stage::Free;
        let resources = std::mem::replace(&mut slot.resources, Resources::None);
        self.free.push(index);
        let result = u32::try_from(result).map_err(|_| Errno::from_raw_os_error(-result));
        Poll::Ready(Outcome { result, resources })
    }

    /// The future that waited is gone.
    fn abandon(&mut self, index: u32) -> Option<(Resources, i32)> {
        let slot = &mut self.slots[index as usize];
        slot.waker = None;
        let result = match slot.stage {
            Stage::Free | Stage::Cancelled => return None,
            Stage::UnderWay => {
                slot.abandoned = true;
                return None;
            }
            Stage::Backlog(_) => {
                slot.stage = Stage::Cancelled;
                -libc::ECANCELED
            }
            Stage::Done(result) => {
                slot.stage = Stage::Free;
                self.free.push(index);
                result
            }
        };
        Some((std::mem::replace(&mut slot.resources, Resources::None), result))
    }
}

/// What a turn found; delivered after the borrow has ended, since wakers and destructors are other people's code.
#[derive(Default)]
struct Finished {
    wakers: Vec<Waker>,
    orphans: Vec<(Resources, i32)>,
}

impl Finished {
    fn deliver(self) {
        for waker in self.wakers {
            waker.wake();
        }
        for (resources, result) in self.orphans {
            bury(resources, result);
        }
    }
}

/// Drops what nobody waits for any more; an opened descriptor is closed.
fn bury(resources: Resources, result: i32) {
    if let (Resources::Open(..), 0..) = (&resources, result) {
        // SAFETY: the kernel made this descriptor for an operation that nobody will hear of, so it is ours alone.
        drop(unsafe { OwnedFd::from_raw_fd(result) });
    }
}

impl Operation {
    /// Lets it run to its end without anybody waiting.
    pub(crate) fn detach(mut self) {
        if let Some(index) = self.slot
            && let Some(slot) = self.ring.inner.borrow_mut().slots.get_mut(index as usize)
            && matches!(slot.stage, Stage::Backlog(_) | Stage::UnderWay)
        {
            slot.abandoned = true;
            slot.waker = None;
            self.slot = None;
        }
    }
}

impl Future for Operation {
    type Output = Outcome;
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let slot = self.slot.expect("an operation is not polled after its end");
        let outcome = std::task::ready!(self.ring.inner.borrow_mut().take(slot, context));
        self.slot = None;
        Poll::Ready(outcome)
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        let Some(slot) = self.slot else { return };
        let left = self.ring.inner.borrow_mut().abandon(slot);
        if let Some((resources, result)) = left {
            bury(resources, result);
        }
    }
}
