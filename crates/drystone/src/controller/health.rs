//! Whether the promises are kept at this moment, and a line in the log whenever that changes: whoever reads the log
//! need not be the one who asks `/healthz`, and a monitor that asks every second must not fill the log.

use super::report::{ShardReport, is_full};
use super::verbs::Verbs;
use control::{Health, VdiskState};
use std::sync::Arc;
use std::time::Duration;

/// How late a change may be logged. A look costs a millisecond with a thousand vDisks.
const LOOK_PAUSE: Duration = Duration::from_secs(5);

/// Logs changes until it is aborted.
pub async fn watch(verbs: Arc<Verbs>) {
    let mut known = Vec::new();
    loop {
        // Fails only while the workers end.
        if let Ok(reports) = verbs.reports(false).await {
            match verbs.health(&reports) {
                Health::Healthy => log_change(&mut known, Vec::new()),
                Health::Degraded { reasons } => log_change(&mut known, reasons),
                Health::Starting { .. } => {}
                Health::Stopping => return,
            }
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

fn log_change(known: &mut Vec<String>, reasons: Vec<String>) {
    for reason in reasons.iter().filter(|reason| !known.contains(reason)) {
        tracing::warn!(reason, "degraded");
    }
    if reasons.is_empty() && !known.is_empty() {
        tracing::info!("healthy again");
    }
    *known = reasons;
}

impl Verbs {
    pub(super) fn health(&self, reports: &[ShardReport]) -> Health {
        if self.is_stopping() {
            return Health::Stopping;
        }
        let mut reasons = Vec::new();
        // All shards lie in one data directory, so this is said once.
        if reports.iter().any(|report| is_full(&report.usage)) {
            reasons.push("the disk is full, or too full for large writes; they fail until space is freed".to_string());
        }
        for report in reports {
            let number = report.number;
            if report.usage.poisoned_slabs > 0 {
                reasons.push(format!("shard {number}: a sync of the disk failed; restart after checking the disk"));
            }
            if report.quarantined > 0 {
                let places = report.quarantined;
                reasons.push(format!("shard {number}: {places} places on the disk cannot be read and are kept aside"));
            }
            reasons.extend(report.troubles.iter().map(|trouble| format!("shard {number}: {trouble}")));
            for info in &report.infos {
                if let VdiskState::Damaged { reason } = &info.state {
                    reasons.push(format!("vDisk {}: {reason}", info.name));
                }
            }
            if report.totals.checksum_failures > 0 {
                let count = report.totals.checksum_failures;
                reasons.push(format!("shard {number}: {count} reads met bytes that fail their checksum"));
            }
        }
        reasons.extend(self.vms.pending_troubles());
        reasons.extend(self.schedule_troubles());
        reasons.extend(self.container_troubles());
        let recovering: usize = reports.iter().map(|report| report.summary.to_recover).sum();
        match (reasons.is_empty(), recovering) {
            (false, _) => Health::Degraded { reasons },
            (true, 0) => Health::Healthy,
            (true, _) => Health::Starting { reasons: vec![format!("{recovering} vDisks are being recovered")] },
        }
    }
}
