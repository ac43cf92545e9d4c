//! A login that reaches the worker of its vDisk: what it takes the place of ends, then its session begins.

use super::connection::{self, End, Served};
use super::listen::Shared;
use super::login::Parted;
use super::seam::{FoundTarget, Units};
use super::sessions::{Entered, Listed, SessionInfo};
use super::units;
use crate::frontend::payload::Part;
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
        let vdisk = found.found.name.clone();
        let mut stop = shared.stop.clone();
        let attached = tokio::select! {
            attached = units.attach(found.found.key, found.found.snapshot) => attached,
            _ = stop.wait_for(|stop| *stop) => return client.refuse(LoginStatus::ServiceUnavailable).await,
        };
        let unit = async {
            let attached = attached?;
            let used = units::target(found.found.key, attached.device.clone(), &*units).await?;
            block::Result::Ok((attached, used))
        };
        let (attached, used) = match unit.await {
            Ok(ready) => ready,
            Err(error) => {
                warn!(%peer, vdisk, %error, "a vDisk could not be attached");
                return client.refuse(LoginStatus::ServiceUnavailable).await;
            }
        };
        let info = client.describe(&found);
        let Some(listed) = enter(&shared, &info).await else {
            return client.refuse(LoginStatus::OutOfResources).await;
        };
        // From here on whoever changes the rules sees the session in the list.
        if let Err(status) = client.recheck(&shared) {
            drop(listed);
            return client.refuse(status).await;
        }
        let (channel, login, unread, about) = client.into_parts();
        let port = port_name(login.initiator());
        let mut out = Output::new();
        let own = shared.view(&about).advertised(&found);
        let session = login.accept(listed.tsih, Limits::default(), &mut out);
        info!(%peer, vdisk, initiator = info.initiator, "iSCSI session began");
        let key = found.found.key;
        let others = shared.sessions.clone();
        let served = Served {
            nexus: used.target.nexus(&port, about.portal.group),
            own,
            listed,
            part: Part::join(shared.worker_payload_bytes),
            timeouts: shared.timeouts,
            closed: attached.closed,
            stopped: Box::pin(async move {
                // An error says that the server is gone, which is as good a reason.
                let _ = stop.wait_for(|stop| *stop).await;
            }),
            end_others: Box::new(move || others.end_all_of(key)),
            hold: Box::new((used, attached.hold)),
        };
        match connection::serve(channel, session, out, unread, served).await {
            End::Silent(why) | End::Broken(why) => {
                info!(%peer, vdisk, initiator = info.initiator, why, "an iSCSI session was cut off");
            }
            end => info!(%peer, vdisk, initiator = info.initiator, ?end, "iSCSI session ended"),
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
