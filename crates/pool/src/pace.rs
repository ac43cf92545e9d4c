//! How much is appended between two syncs: the decision whether to write ahead of the tail.

/// Below this mean the journal commit that each sync into fresh space costs outweighs writing the space twice.
const OFTEN_BYTES: u64 = 128 << 10;
/// One sync tells nothing of the rate.
const SYNCS_MIN: u32 = 2;

/// The mean over the last few syncs, weighted 1 : 3.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    tail_at_sync: u32,
    mean_bytes: u64,
    syncs: u32,
}

impl Pace {
    /// A sync covered everything below `tail`. One that had nothing new to cover does not count.
    pub fn synced(&mut self, tail: u32) {
        let bytes = u64::from(tail.saturating_sub(self.tail_at_sync));
        if bytes == 0 {
            return;
        }
        self.mean_bytes = if self.syncs == 0 { bytes } else { (3 * self.mean_bytes + bytes) / 4 };
        self.tail_at_sync = tail;
        self.syncs = self.syncs.saturating_add(1);
    }

    pub fn is_syncing_often(&self) -> bool {
        self.syncs >= SYNCS_MIN && self.mean_bytes < OFTEN_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_syncs_are_often_and_large_ones_are_not() {
        let check = |step: u32, count: u32| {
            let mut pace = Pace::default();
            (1..=count).for_each(|i| pace.synced(4096 + i * step));
            pace.is_syncing_often()
        };
        assert!(!check(4096, 1), "one sync tells nothing");
        assert!(check(4096, 2));
        assert!(check(100 << 10, 50));
        assert!(!check(200 << 10, 50));
        let mut pace = Pace::default();
        pace.synced(4096);
        (0..10).for_each(|_| pace.synced(4096));
        assert!(!pace.is_syncing_often(), "syncs of nothing do not count");
        (1..20).for_each(|i| pace.synced(4096 + i * 1_000_000));
        assert!(!pace.is_syncing_often());
        (1..20).for_each(|i| pace.synced(19_004_096 + i * 4096));
        assert!(pace.is_syncing_often(), "the mean follows");
    }
}
