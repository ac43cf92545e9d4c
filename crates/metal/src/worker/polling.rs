//! Looking for work for a little while before going to sleep.
//!
//! A client that waits for each of its requests sends the next one 10 to 20 µs after the answer. A worker that sleeps in
//! between has to be woken, and so has the core that it ran on: 20 to 40 µs in a virtual machine, more than the request
//! itself takes. So a worker whose sleeps are short stays awake: it looks at its sockets and its ring for as long as such
//! a sleep takes, and sleeps if nothing came. Sleeps that take longer switch this off, and an idle worker uses no CPU.
//! The rule is that of KVM's halt polling (Documentation/virt/kvm/halt-polling.rst of Linux): a sleep below the maximum
//! doubles the window, a longer one closes it.
//!
//! Each look gives the core to whoever else wants it.

use std::cell::{Cell, RefCell};
use std::task::Waker;
use std::time::{Duration, Instant};

/// The first window after none.
const WINDOW_FIRST: Duration = Duration::from_micros(10);

thread_local! {
    /// Turns of the worker's tasks so far.
    static TURNS: Cell<u64> = const { Cell::new(0) };
    /// [`poll`], while it lets the worker sleep.
    static SLEEPER: RefCell<Option<Waker>> = const { RefCell::new(None) };
}

/// A task of this worker is about to run.
pub(super) fn turn() {
    TURNS.set(TURNS.get() + 1);
    let sleeper = SLEEPER.with_borrow_mut(Option::take);
    if let Some(sleeper) = sleeper {
        sleeper.wake();
    }
}

/// The task of a worker that keeps it from sleeping as long as that pays. Its own turns do not count.
///
/// `max`: the longest that it looks for work in vain; zero for never.
pub(super) async fn poll(max: Duration) {
    if max.is_zero() {
        return;
    }
    let mut window = Duration::ZERO;
    let mut seen = TURNS.get();
    loop {
        let mut begin = Instant::now();
        while begin.elapsed() < window {
            // The other tasks run, and the driver is asked without waiting.
            tokio::task::yield_now().await;
            if TURNS.get() != seen {
                seen = TURNS.get();
                begin = Instant::now();
            } else {
                std::thread::yield_now();
            }
        }
        until_a_turn(seen).await;
        seen = TURNS.get();
        window = next_window(window, begin.elapsed(), max);
    }
}

/// `waited`: since the last turn before.
fn next_window(window: Duration, waited: Duration, max: Duration) -> Duration {
    if waited > max {
        return Duration::ZERO;
    }
    (window * 2).max(WINDOW_FIRST).min(max)
}

async fn until_a_turn(seen: u64) {
    std::future::poll_fn(|context| {
        if TURNS.get() != seen {
            return std::task::Poll::Ready(());
        }
        SLEEPER.with_borrow_mut(|sleeper| *sleeper = Some(context.waker().clone()));
        std::task::Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_sleeps_open_the_window_and_a_long_one_closes_it() {
        let max = Duration::from_micros(250);
        let mut window = Duration::ZERO;
        let mut windows = Vec::new();
        for _ in 0..7 {
            window = next_window(window, Duration::from_micros(249), max);
            windows.push(window.as_micros());
        }
        assert_eq!(windows, [10, 20, 40, 80, 160, 250, 250]);
        assert_eq!(next_window(window, Duration::from_micros(251), max), Duration::ZERO);
    }
}
