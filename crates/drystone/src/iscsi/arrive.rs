//! A login that reaches the worker of its vDisk: what it takes the place of ends, then its session begins.

use super::connection::{self, End, Served};
use super::follow::Follower;
use super::listen::Shared;
use super::login::Parted;
use super::part::Part;
use super::router::{Ports, Router};
use super::seam::{FoundTarget, FoundUnit, Units};
use super::sessions::{Entered, Listed, SessionInfo};
use crate::frontend::payload;
use base::Output;
use iscsi::wire::LoginStatus;
use iscsi::{Initiator, Limits};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tracing::{debug, info, warn};

/// How long the sessions that a login takes the place of may take to end.
const REPLACE_TIME: Duration = Duration::from_secs(10);

impl Parted {
    /// On the worker: attaches the vDisk and serves it, or tells the initiator that it cannot.
    pub async fn arrive(self, shared: Arc<Shared>, found: FoundTarget, units: Rc<dyn Units>) {
        let peer = self.about.peer;
        let client = match self.join() {
            Ok(client) => client,
            Err(error) => return warn!(%peer, %error, "an iSCSI connection could not change threads"),
        };
        let name = found.name.clone();
        let mut stop = shared.stop.clone();
        let initiator = client.initiator().clone();
        let ports = Ports {
            initiator: port_name(&initiator),
            relative_target_port: found.first_port + client.group(),
            target_name: (!found.is_own()).then(|| found.target_name.clone()),
            group: client.group(),
            all_target_ports: shared.portals.iter().map(|portal| found.first_port + portal.group).collect(),
        };
        let part = Part::new(ports.nexus(), units);
        let router = Rc::new(Router::new(part, found.worker, shared.workers.clone(), ports));
        let visible = |mut units: Vec<FoundUnit>| {
            let follower = Follower::new(client.view(&shared), &found, &initiator.name);
            units.retain(|unit| follower.may_see(unit));
            units
        };
        let seen = if found.is_own() { found.units.clone() } else { visible(found.units.clone()) };
        // Before an older session of the same name ends, so that the logical units remember it.
        let settled = tokio::select! {
            settled = router.hold_all(&seen) => settled,
            _ = stop.wait_for(|stop| *stop) => false,
        };
        // Hosts try again soon. One that boots meanwhile would do without a disk that is only busy.
        if !settled || router.luns().is_empty() {
            router.close().await;
            return client.refuse(LoginStatus::ServiceUnavailable).await;
        }
        let closed = if found.is_own() { router.here.take_closed() } else { None };
        let info = SessionInfo { units: router.luns().into_values().collect(), ..client.describe(&found) };
        let Some(listed) = enter(&shared, &info).await else {
            router.close().await;
            return client.refuse(LoginStatus::OutOfResources).await;
        };
        let changes = shared.targets.changes();
        // From here on whoever changes the rules sees the session in the list.
        if let Err(status) = client.recheck(&shared) {
            router.close().await;
            drop(listed);
            return client.refuse(status).await;
        }
        if !found.is_own() {
            router.keep(&visible(shared.targets.units(found.key).unwrap_or_default())).await;
        }
        router.show_all().await;
        let counters = listed.counters.clone();
        counters.sees(&router);
        let (channel, login, unread, about) = client.into_parts();
        let mut out = Output::new();
        let session = login.accept(listed.tsih, Limits::default(), &mut out);
        info!(%peer, target = name, initiator = info.initiator, "iSCSI session began");
        let key = found.key;
        let others = shared.sessions.clone();
        let (gone, is_gone) = tokio::sync::oneshot::channel::<()>();
        let served = Served {
            router: router.clone(),
            own: shared.view(&about).advertised(&found),
            listed,
            part: payload::Part::join(shared.worker_payload_bytes),
            timeouts: shared.timeouts,
            closed: closed.unwrap_or_else(|| {
                Box::pin(async move {
                    // An error says that nobody follows the VM.
                    if is_gone.await.is_err() {
                        std::future::pending::<()>().await;
                    }
                })
            }),
            stopped: Box::pin(async move {
                // An error says that the server is gone, which is as good a reason.
                let _ = stop.wait_for(|stop| *stop).await;
            }),
            end_others: Box::new(move || others.end_all_of(key)),
        };
        let following = async {
            if !found.is_own() {
                Follower::new(shared.view(&about), &found, &initiator.name).follow(&router, changes, &counters).await;
                let _ = gone.send(());
            }
            std::future::pending::<()>().await;
        };
        let end = tokio::select! {
            end = connection::serve(channel, session, out, unread, served) => end,
            () = following => unreachable!("it goes on until the session ends"),
        };
        match end {
            End::Silent(why) | End::Broken(why) => {
                info!(%peer, target = name, initiator = info.initiator, why, "an iSCSI session was cut off");
            }
            end => info!(%peer, target = name, initiator = info.initiator, ?end, "iSCSI session ended"),
        }
        drop(about);
    }
}

/// Ends the sessions whose place this one takes, and enters it. `None`: there are too many, or one does not end.
async fn enter(shared: &Shared, info: &SessionInfo) -> Option<Listed> {
    let entering = async {
        loop {
            match shared.sessions.enter(info.clone()) {
                Entered::Listed(listed) => return Some(listed),
                Entered::Full => return None,
                Entered::After(old) => {
                    debug!(initiator = info.initiator, "an iSCSI session is taken the place of");
                    for mut gone in old {
                        // It never becomes anything: the error is the end.
                        while gone.changed().await.is_ok() {}
                    }
                }
            }
        }
    };
    tokio::time::timeout(REPLACE_TIME, entering).await.ok().flatten()
}

/// The initiator port's name as a TransportID has it (SPC-4 7.6.4.6).
fn port_name(initiator: &Initiator) -> String {
    use std::fmt::Write;
    let mut name = format!("{},i,0x", initiator.name);
    for byte in initiator.isid {
        write!(name, "{byte:02x}").expect("writing to memory does not fail");
    }
    name
}
