//! One contract for every store, and what is particular to each.

mod contract;
mod embedded;
mod memory;
mod power;

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use world::{Clock, Instant, LocalFuture, WallTime};

/// Time passes while somebody waits.
#[derive(Default)]
struct TestClock(Rc<Cell<u64>>);

impl Clock for TestClock {
    fn now(&self) -> Instant {
        Instant(self.0.get())
    }
    fn wall(&self) -> WallTime {
        WallTime(self.0.get())
    }
    fn sleep(&self, duration_ns: u64) -> LocalFuture<()> {
        let (now, due) = (self.0.clone(), self.0.get() + duration_ns);
        Box::pin(poll_fn(move |_| {
            if now.get() >= due {
                return Poll::Ready(());
            }
            now.set(now.get() + 1);
            Poll::Pending
        }))
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..100_000 {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
    }
    panic!("the future never ends");
}

/// Runs jobs at once, on the core that it owns.
struct AtOnce(RefCell<crate::RedbCore>);

impl crate::Submit for AtOnce {
    fn submit(&self, job: crate::Job) {
        job(&mut self.0.borrow_mut());
    }
}
