//! Single-threaded meeting points for tasks of one worker: a one-shot value, a notification, a semaphore.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

struct OneshotState<T> {
    value: Option<T>,
    closed: bool,
    waker: Option<Waker>,
}

/// Sends one value to a [`OneshotReceiver`]; dropping it unsent is seen there as `None`.
pub struct OneshotSender<T>(Rc<RefCell<OneshotState<T>>>);
/// A future of `Some(value)`, or `None` if the sender went away.
pub struct OneshotReceiver<T>(Rc<RefCell<OneshotState<T>>>);

pub fn oneshot<T>() -> (OneshotSender<T>, OneshotReceiver<T>) {
    let state = Rc::new(RefCell::new(OneshotState { value: None, closed: false, waker: None }));
    (OneshotSender(state.clone()), OneshotReceiver(state))
}

impl<T> OneshotSender<T> {
    pub fn send(self, value: T) {
        self.0.borrow_mut().value = Some(value);
    }
}

impl<T> Drop for OneshotSender<T> {
    fn drop(&mut self) {
        let waker = {
            let mut state = self.0.borrow_mut();
            state.closed = true;
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Future for OneshotReceiver<T> {
    type Output = Option<T>;
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = self.0.borrow_mut();
        if let Some(value) = state.value.take() {
            return Poll::Ready(Some(value));
        }
        if state.closed {
            return Poll::Ready(None);
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

/// Wakes every task that waits; a wake-up with nobody waiting is remembered for the next [`Notify::notified`].
/// Wake-ups may be spurious: whoever waits looks at the state that it waits for.
#[derive(Default)]
pub struct Notify {
    /// Counts the wake-ups: a waiter is done when it has moved.
    count: Cell<u64>,
    /// No waiter has returned since the last wake-up.
    remembered: Cell<bool>,
    wakers: RefCell<Vec<Waker>>,
}

impl Notify {
    pub fn new() -> Rc<Self> {
        Rc::new(Self::default())
    }

    pub fn notify(&self) {
        self.count.set(self.count.get() + 1);
        self.remembered.set(true);
        let wakers = std::mem::take(&mut *self.wakers.borrow_mut());
        wakers.into_iter().for_each(Waker::wake);
    }

    pub async fn notified(&self) {
        let start = self.count.get();
        poll_fn(|context| {
            if self.remembered.get() || self.count.get() != start {
                self.remembered.set(false);
                return Poll::Ready(());
            }
            let mut wakers = self.wakers.borrow_mut();
            // A waiter that is polled again for another reason is already in the list.
            if !wakers.iter().any(|waker| waker.will_wake(context.waker())) {
                wakers.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await
    }
}

/// Counts permits, served first come first served.
pub struct Semaphore {
    free: Cell<u64>,
    queue: RefCell<VecDeque<(u64, OneshotSender<()>)>>,
}

/// Permits that go back when it is dropped.
pub struct Permit {
    semaphore: Rc<Semaphore>,
    count: u64,
}

impl Semaphore {
    pub fn new(permits: u64) -> Rc<Self> {
        Rc::new(Semaphore { free: Cell::new(permits), queue: RefCell::default() })
    }

    /// `count` must not be larger than what the semaphore was made with, or the wait never ends.
    pub async fn acquire(self: &Rc<Self>, count: u64) -> Permit {
        if let Some(permit) = self.try_acquire(count) {
            return permit;
        }
        let (sender, receiver) = oneshot();
        self.queue.borrow_mut().push_back((count, sender));
        // The permits were taken for us before the sender fired. A receiver that is dropped in between would lose
        // them; tasks of a worker run to their end, so that this cannot happen outside a crash of the whole node.
        receiver.await;
        Permit { semaphore: self.clone(), count }
    }

    pub fn try_acquire(self: &Rc<Self>, count: u64) -> Option<Permit> {
        if self.queue.borrow().is_empty() && self.free.get() >= count {
            self.free.set(self.free.get() - count);
            return Some(Permit { semaphore: self.clone(), count });
        }
        None
    }

    fn release(&self, count: u64) {
        self.free.set(self.free.get() + count);
        loop {
            let sender = {
                let mut queue = self.queue.borrow_mut();
                match queue.front() {
                    Some((wanted, _)) if *wanted <= self.free.get() => {
                        self.free.set(self.free.get() - *wanted);
                        queue.pop_front().expect("front was there").1
                    }
                    _ => return,
                }
            };
            sender.send(());
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.semaphore.release(self.count);
    }
}

#[cfg(test)]
mod tests;
