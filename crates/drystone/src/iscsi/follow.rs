//! A session of a VM's target follows the VM: its vDisks come and go as logical units.

use super::access::View;
use super::router::Router;
use super::seam::{FoundTarget, FoundUnit};
use super::sessions::Counters;
use control::ChapSecret;
use std::time::Duration;
use tokio::sync::watch;

/// How soon it is tried again to attach a vDisk that was busy; twice as long each time, up to the longest.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LONGEST: Duration = Duration::from_secs(30);

/// Who the session is for, and what it has proven.
pub(super) struct Follower<'a> {
    pub view: View<'a>,
    pub key: u64,
    pub initiator: String,
    pub chap: Option<ChapSecret>,
}

impl Follower<'_> {
    pub fn new<'a>(view: View<'a>, found: &FoundTarget, initiator: &str) -> Follower<'a> {
        Follower { view, key: found.key, initiator: initiator.to_string(), chap: found.chap.clone() }
    }

    /// Until the VM is gone.
    pub async fn follow(&self, router: &Router, mut changes: watch::Receiver<u64>, counters: &Counters) {
        let mut retry = RETRY_FIRST;
        loop {
            let Some(units) = self.view.targets.units(self.key) else { return };
            let wanted: Vec<FoundUnit> = units.into_iter().filter(|unit| self.sees(unit, router)).collect();
            let settled = router.become_like(&wanted).await;
            counters.sees(router);
            let again = tokio::time::sleep(retry);
            tokio::pin!(again);
            // Meanwhile a vDisk that goes away is let go of.
            retry = loop {
                tokio::select! {
                    changed = changes.changed() => match changed {
                        Ok(()) => break RETRY_FIRST,
                        // Nothing changes any more: the controller stops.
                        Err(_) => std::future::pending().await,
                    },
                    () = &mut again, if !settled => break (retry * 2).min(RETRY_LONGEST),
                    lun = router.here.next_closed() => {
                        router.here.take(lun).await;
                        counters.sees(router);
                    }
                }
            };
        }
    }

    /// What it has it keeps, whatever the rules are now, as the session itself.
    fn sees(&self, unit: &FoundUnit, router: &Router) -> bool {
        router.luns().get(&unit.lun) == Some(&unit.unit_key()) || self.may_see(unit)
    }

    pub fn may_see(&self, unit: &FoundUnit) -> bool {
        let proven = unit.access.chap.is_none() || unit.access.chap == self.chap;
        proven && self.view.may_use(unit, &self.initiator)
    }
}
