//! The clocks of the machine.

use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;
use world::{Clock, Instant, LocalFuture, WallTime};

/// CLOCK_MONOTONIC and CLOCK_REALTIME; sleeping is tokio's timer wheel, which rounds up to the next millisecond.
pub(crate) struct MachineClock;

fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    // Neither clock is negative on a machine that knows a year after 1970; 0 is as good as any before that.
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}

impl Clock for MachineClock {
    fn now(&self) -> Instant {
        Instant(nanoseconds(ClockId::Monotonic))
    }
    fn wall(&self) -> WallTime {
        WallTime(nanoseconds(ClockId::Realtime))
    }
    fn sleep(&self, duration_ns: u64) -> LocalFuture<()> {
        Box::pin(tokio::time::sleep(Duration::from_nanos(duration_ns)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sleep_never_ends_early_and_the_clock_moves_on() {
        let clock = MachineClock;
        for duration_ns in [0, 300_000, 2_000_000, 7_100_000] {
            let before = clock.now();
            clock.sleep(duration_ns).await;
            let slept_ns = clock.now().since_ns(before);
            assert!(slept_ns >= duration_ns, "{slept_ns} of {duration_ns}");
        }
        let std_wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        let apart_ns = u128::from(clock.wall().0).abs_diff(std_wall.as_nanos());
        assert!(apart_ns < 10_000_000_000, "{apart_ns}");
    }
}
