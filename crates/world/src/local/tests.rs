//! The meeting points, polled by hand.

use super::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn poll<F: Future>(future: Pin<&mut F>, count: &Arc<Count>) -> Poll<F::Output> {
    let waker = Waker::from(count.clone());
    future.poll(&mut Context::from_waker(&waker))
}

#[test]
fn a_oneshot_delivers_once_and_tells_of_a_sender_that_went_away() {
    let count = Arc::new(Count::default());
    let (sender, receiver) = oneshot();
    let mut receiver = std::pin::pin!(receiver);
    assert!(poll(receiver.as_mut(), &count).is_pending());
    sender.send(5);
    assert_eq!(count.0.load(Ordering::SeqCst), 1);
    assert_eq!(poll(receiver.as_mut(), &count), Poll::Ready(Some(5)));

    let (sender, receiver) = oneshot::<u8>();
    let mut receiver = std::pin::pin!(receiver);
    assert!(poll(receiver.as_mut(), &count).is_pending());
    drop(sender);
    assert_eq!(poll(receiver.as_mut(), &count), Poll::Ready(None));
}

#[test]
fn a_notification_reaches_all_who_wait_and_is_remembered_for_one_who_comes_later() {
    let notify = Notify::new();
    let counts = [Arc::new(Count::default()), Arc::new(Count::default())];
    let mut a = Box::pin(notify.notified());
    let mut b = Box::pin(notify.notified());
    assert!(poll(a.as_mut(), &counts[0]).is_pending());
    assert!(poll(b.as_mut(), &counts[1]).is_pending());
    notify.notify();
    assert!(poll(a.as_mut(), &counts[0]).is_ready());
    assert!(poll(b.as_mut(), &counts[1]).is_ready(), "the first waiter must not take it from the second");
    let mut c = Box::pin(notify.notified());
    assert!(poll(c.as_mut(), &counts[0]).is_pending(), "it was used up");

    drop(c);
    notify.notify();
    let mut d = Box::pin(notify.notified());
    assert!(poll(d.as_mut(), &counts[0]).is_ready(), "a waiter that went away must not swallow it");
}

#[test]
fn permits_are_given_in_order_and_come_back() {
    let count = Arc::new(Count::default());
    let semaphore = Semaphore::new(2);
    let first = semaphore.try_acquire(2).expect("all are free");
    let mut big = Box::pin(semaphore.acquire(2));
    assert!(poll(big.as_mut(), &count).is_pending());
    assert!(semaphore.try_acquire(1).is_none(), "nobody overtakes the one who waits");
    drop(first);
    let Poll::Ready(permit) = poll(big.as_mut(), &count) else { panic!("both permits are free") };
    assert!(semaphore.try_acquire(1).is_none());
    drop(permit);
    assert!(semaphore.try_acquire(2).is_some());
}
