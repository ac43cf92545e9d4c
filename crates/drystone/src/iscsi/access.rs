//! Which targets an initiator sees, and whether it may log in: the rules of each vDisk, seen from one portal.

use super::seam::{FoundTarget, FoundUnit, Targets};
use super::sessions::Sessions;
use crate::frontend::socket::is_local;
use control::IscsiAccess;
use iscsi::{Access, Advertised, Directory, Secret};
use std::net::SocketAddr;

/// A listening address, and the portal group that it is: each portal is a group of its own, as a session does not span
/// two of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Portal {
    pub listen: SocketAddr,
    pub group: u16,
}

/// The targets as they are seen through one portal.
pub(super) struct View<'a> {
    pub targets: &'a dyn Targets,
    pub sessions: &'a Sessions,
    pub portals: &'a [Portal],
    /// The one where the initiator came in.
    pub portal: Portal,
    /// The address that the initiator reached.
    pub local: SocketAddr,
    /// Targets that ask nobody for anything may be used through every portal, not only through those of this machine.
    pub allow_open: bool,
}

impl View<'_> {
    /// What discovery tells this initiator.
    pub fn visible(&self, initiator: &str) -> Vec<Advertised> {
        let seen = |found: &FoundTarget| self.may_see(found, initiator);
        self.targets.list().into_iter().filter(seen).map(|found| self.advertised(&found)).collect()
    }

    /// With the portals at which it is served: an initiator that is told of others tries them, and fails.
    pub fn advertised(&self, found: &FoundTarget) -> Advertised {
        let serves = |portal: &Portal| found.units.iter().any(|unit| self.serves(portal, &unit.access));
        let portals = self.portals.iter().filter(|portal| serves(portal) && self.reaches(portal));
        let portals = portals.map(|portal| (self.address(portal.listen), portal.group)).collect();
        Advertised { name: found.target_name.clone(), portals }
    }

    /// What discovery tells this initiator of this target, which [`View::visible`] may not tell of.
    pub fn visible_by_name(&self, target: &str, initiator: &str) -> Option<Advertised> {
        let found = self.targets.find(&target.to_lowercase()).filter(|found| self.may_see(found, initiator))?;
        Some(self.advertised(&found))
    }

    /// What asks nobody for anything is for this machine only, unless that is allowed by name.
    fn serves(&self, portal: &Portal, access: &IscsiAccess) -> bool {
        !access.is_open() || self.allow_open || is_local(&portal.listen)
    }

    /// To other machines our loopback address is their own.
    fn reaches(&self, portal: &Portal) -> bool {
        is_local(&self.local) || !is_local(&portal.listen)
    }

    /// A portal that listens on all addresses is reached by the one that reached us.
    fn address(&self, listen: SocketAddr) -> SocketAddr {
        if listen.ip().is_unspecified() {
            return SocketAddr::new(self.local.ip().to_canonical(), listen.port());
        }
        listen
    }

    fn may_see(&self, found: &FoundTarget, initiator: &str) -> bool {
        found.units.iter().any(|unit| self.may_use(unit, initiator))
    }

    /// Whether an initiator that proves what the target asks for sees the unit in it.
    pub fn may_use(&self, unit: &FoundUnit, initiator: &str) -> bool {
        let named = &unit.access.initiators;
        let known = named.is_empty() || named.iter().any(|name| name.eq_ignore_ascii_case(initiator));
        known && self.serves(&self.portal, &unit.access)
    }
}

impl Directory for View<'_> {
    fn access(&self, target: &str, initiator: &str) -> Access {
        let Some(found) = self.targets.find(target) else { return Access::NotFound };
        if !self.may_see(&found, initiator) {
            return Access::Forbidden;
        }
        let (chap, mutual) = (found.chap.map(secret), found.mutual.map(secret));
        Access::Granted { target: found.key, chap, mutual }
    }

    fn discovery_secrets(&self, initiator: &str) -> Vec<Secret> {
        let seen = self.targets.list().into_iter().filter(|found| self.may_see(found, initiator));
        seen.filter_map(|found| found.chap).map(secret).collect()
    }

    fn has_session(&self, tsih: u16) -> bool {
        self.sessions.has_tsih(tsih)
    }
}

fn secret(chap: control::ChapSecret) -> Secret {
    Secret { user: chap.user, secret: chap.secret.into_bytes() }
}
