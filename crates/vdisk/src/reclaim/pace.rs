//! Clients in step with re-packing: where it falls behind, they append no faster than space comes free.
//!
//! Random overwriting makes dead faster than a re-packing that has only its turn can move what lives beside it, and nothing
//! else holds writers back before the disk is full. How fast space comes free is measured over whole turns of re-packing, with
//! the checkpoints and the lookups before anything is freed, so that clients go on evenly meanwhile.
//!
//! Nobody is stopped: a frame waits for so long at most, and where a read of the disk hangs, clients go on as fast as before.

use std::cell::Cell;

/// What clients may append for 100 bytes that come free. At the limit: so much that most vDisks never feel it. A whole band above
/// it: half, so that space comes back.
const PERCENT_AT_LIMIT: u64 = 250;
const PERCENT_BEHIND: u64 = 50;
/// Credit does not grow beyond this, so that a pause is not paid for by a burst.
const CREDIT_BYTES_MAX: i64 = 1 << 20;
/// Nor debt beyond this, so that a burst is soon forgotten: two large frames are under way at once, and each is spent when it ends.
const DEBT_BYTES_MAX: i64 = 4 << 20;
/// How long a frame waits, ns: about as long as a disk that is being flushed keeps one waiting anyway.
const HELD_NS_MAX: u64 = 20_000_000;
/// What is measured counts for about so many groups, or two turns if they are longer.
const GROUPS_MIN: u64 = 8;
/// Longer than this nothing counts that a group takes, ns, nor the checkpoint before it: a clock that jumped, a read that hung.
const GROUP_NS_MAX: u64 = 60_000_000_000;

/// Of one vDisk.
#[derive(Default)]
pub(crate) struct Pace {
    /// `None`: nobody is held back.
    percent: Cell<Option<u64>>,
    /// Bytes that came free, and the time that took, ns; what is long past counts less.
    freed: Cell<(u64, u64)>,
    /// When that was measured last, while it goes on.
    measured_ns: Cell<Option<u64>>,
    /// Bytes that clients may append, as of then; below 0 they wait.
    credit: Cell<(i64, u64)>,
    /// The next frame has waited since then, ns.
    held_since_ns: Cell<Option<u64>>,
}

/// How far re-packing is behind.
#[derive(Clone, Copy)]
pub(crate) struct Behind {
    /// Above what the groups may hold.
    pub over_bytes: u64,
    /// From the pace at the limit to the slowest.
    pub band_bytes: u64,
}

impl Pace {
    /// Re-packing begins or goes on.
    pub fn set(&self, behind: Behind, now_ns: u64) {
        let Behind { over_bytes, band_bytes } = behind;
        self.measured_ns.set(Some(self.measured_ns.get().unwrap_or(now_ns)));
        if over_bytes == 0 {
            self.percent.set(None);
            return;
        }
        if self.percent.get().is_none() {
            self.credit.set((0, now_ns));
        }
        let fall = (PERCENT_AT_LIMIT - PERCENT_BEHIND) * over_bytes.min(band_bytes) / band_bytes.max(1);
        self.percent.set(Some(PERCENT_AT_LIMIT - fall));
    }

    /// It ends.
    pub fn lift(&self) {
        self.percent.set(None);
        self.measured_ns.set(None);
    }

    /// So many bytes of a group will come free, the only one since the last time. A turn has about so many groups.
    pub fn freed(&self, bytes: u64, turn_groups: u64, now_ns: u64) {
        let Some(since_ns) = self.measured_ns.replace(Some(now_ns)) else { return };
        let (all_bytes, all_ns) = self.freed.get();
        let took_ns = now_ns.saturating_sub(since_ns).min(GROUP_NS_MAX);
        let groups = GROUPS_MIN.max(2 * turn_groups);
        let less = |sum: u64| sum - sum / groups;
        self.freed.set((less(all_bytes) + bytes, less(all_ns) + took_ns));
    }

    /// Bytes a second that clients may append. `None`: as many as they like.
    fn rate(&self) -> Option<u64> {
        let (bytes, ns) = self.freed.get();
        let percent = self.percent.get()?;
        let rate = u128::from(bytes) * 1_000_000_000 * u128::from(percent) / 100 / u128::from(ns.max(1));
        (ns > 0).then_some(rate as u64)
    }

    /// A client's frame was appended.
    pub fn spend(&self, bytes: u32) {
        let (credit_bytes, then_ns) = self.credit.get();
        self.credit.set(((credit_bytes - i64::from(bytes)).max(-DEBT_BYTES_MAX), then_ns));
    }

    pub fn holds(&self) -> bool {
        self.rate().is_some() && self.credit.get().0 < 0
    }

    /// The frame that was next is being appended.
    pub fn goes(&self) {
        self.held_since_ns.set(None);
    }

    /// A client's frame is next: it may go (`None`), or waits for so long, ns.
    pub fn hold_ns(&self, now_ns: u64) -> Option<u64> {
        let rate = self.rate()?;
        let (credit_bytes, then_ns) = self.credit.get();
        let earned = u128::from(rate) * u128::from(now_ns.saturating_sub(then_ns)) / 1_000_000_000;
        // What is less than a byte is not lost: the time for it goes on.
        if earned > 0 {
            let credit_bytes = (i128::from(credit_bytes) + earned as i128).min(CREDIT_BYTES_MAX.into());
            self.credit.set((credit_bytes as i64, now_ns));
        }
        let since_ns = self.held_since_ns.get().unwrap_or(now_ns);
        let waited_ns = now_ns.saturating_sub(since_ns);
        let credit_bytes = self.credit.get().0;
        if credit_bytes >= 0 || waited_ns >= HELD_NS_MAX {
            return None;
        }
        self.held_since_ns.set(Some(since_ns));
        let debt_ns = u128::from(credit_bytes.unsigned_abs()) * 1_000_000_000 / u128::from(rate.max(1));
        Some((debt_ns as u64).clamp(1, HELD_NS_MAX - waited_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn behind(over_bytes: u64) -> Behind {
        Behind { over_bytes, band_bytes: 1000 }
    }

    /// A group of 10 MB came free each 100 ms: 100 MB/s.
    fn measured(over_bytes: u64) -> Pace {
        let pace = Pace::default();
        (0..40).for_each(|group| {
            pace.set(behind(over_bytes), group * 100 * MS);
            pace.freed(10_000_000, 2, (group + 1) * 100 * MS);
        });
        pace
    }

    #[test]
    fn clients_append_as_fast_as_space_comes_free() {
        let clients_for = |over_bytes: u64| {
            let pace = measured(over_bytes);
            assert_eq!(pace.hold_ns(4000 * MS), None);
            pace.goes();
            pace.spend(CREDIT_BYTES_MAX as u32);
            let (begun_ns, mut bytes) = (4000 * MS, 0_u64);
            let mut now_ns = begun_ns;
            while now_ns < begun_ns + 2000 * MS {
                match pace.hold_ns(now_ns) {
                    Some(ns) => now_ns += ns,
                    None => {
                        pace.goes();
                        pace.spend(128 << 10);
                        bytes += 128 << 10;
                    }
                }
            }
            (bytes + 1_000_000) / 2_000_000
        };
        assert_eq!([1, 500, 1000, 5000].map(clients_for), [250, 150, 50, 50], "MB/s");
    }

    #[test]
    fn nobody_is_held_where_nothing_is_behind_or_was_measured() {
        let pace = measured(0);
        pace.spend(1 << 20);
        assert_eq!(pace.hold_ns(4000 * MS), None, "within the limit");
        let pace = Pace::default();
        pace.set(behind(1000), 0);
        pace.spend(1 << 20);
        assert_eq!(pace.hold_ns(MS), None, "not measured");
        let pace = measured(1000);
        assert_eq!(pace.hold_ns(4000 * MS), None, "credit");
        pace.spend(2 << 20);
        assert!(pace.holds() && pace.hold_ns(4000 * MS).is_some());
        pace.lift();
        assert!(!pace.holds() && pace.hold_ns(4000 * MS).is_none(), "it has ended");
    }

    #[test]
    fn no_frame_waits_longer_than_it_may() {
        let pace = Pace::default();
        pace.set(behind(1000), 0);
        pace.freed(1000, 2, 1000 * MS);
        let mut now_ns = 1000 * MS;
        for _ in 0..10 {
            pace.spend(2 << 20);
            let begun_ns = now_ns;
            while let Some(ns) = pace.hold_ns(now_ns) {
                assert_eq!(ns, begun_ns + HELD_NS_MAX - now_ns);
                now_ns += ns.min(MS);
            }
            assert_eq!(now_ns - begun_ns, HELD_NS_MAX, "and the next one waits, too");
            assert_eq!(pace.hold_ns(now_ns + MS), None, "something else came before it");
            pace.goes();
        }
        assert_eq!(pace.hold_ns(5), Some(HELD_NS_MAX), "the clock went back");
    }

    #[test]
    fn the_time_between_two_turns_does_not_count() {
        let pace = measured(1000);
        let rate = pace.rate();
        pace.lift();
        pace.set(behind(1000), 50_000 * MS);
        pace.freed(10_000_000, 2, 50_100 * MS);
        assert!(pace.rate().is_some_and(|now| now.abs_diff(rate.unwrap_or(0)) < 100), "{rate:?}, {:?}", pace.rate());
    }
}
