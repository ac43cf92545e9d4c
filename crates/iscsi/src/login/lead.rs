//! Who the initiator is, which target it wants, and whether that lets it in.

use super::security::Proof;
use super::{Access, Chosen, Directory, Failure, Login};
use crate::wire::LoginStatus;

/// Longest iSCSI name, bytes (4.2.7.1).
const NAME_BYTES_MAX: usize = 223;

impl Login {
    /// The keys that only the first request brings: who wants what.
    pub(super) fn lead(&mut self, pairs: &[(&str, &str)], directory: &dyn Directory) -> Result<(), Failure> {
        let find = |wanted: &str| pairs.iter().find(|(key, _)| *key == wanted).map(|(_, value)| *value);
        let missing = |why| Failure::new(LoginStatus::MissingParameter, why);
        let name = find("InitiatorName").ok_or_else(|| missing("the initiator does not say its name"))?;
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(Failure::new(LoginStatus::InitiatorError, "the initiator's name is none"));
        }
        self.initiator.name = name.to_lowercase();
        self.initiator.alias = find("InitiatorAlias").map(|alias| clipped(alias).to_string());
        let chosen = match find("SessionType") {
            Some("Discovery") => Chosen::Discovery,
            None | Some("Normal") => {
                let target = find("TargetName").ok_or_else(|| missing("the initiator names no target"))?;
                Chosen::Target(target.to_lowercase())
            }
            Some(_) => return Err(Failure::new(LoginStatus::SessionTypeNotSupported, "unknown type of session")),
        };
        match &chosen {
            Chosen::Discovery => {
                self.security.prove(Proof::Discovery(directory.discovery_secrets(&self.initiator.name)))
            }
            Chosen::Target(target) => {
                let access = directory.access(target, &self.initiator.name);
                self.security.prove(proof(&access)?);
                self.access = Some(access);
            }
        }
        match self.identity.map_or(0, |identity| identity.tsih) {
            0 => {}
            tsih if directory.has_session(tsih) => {
                return Err(Failure::new(LoginStatus::TooManyConnections, "a session has one connection"));
            }
            _ => return Err(Failure::new(LoginStatus::SessionDoesNotExist, "there is no such session")),
        }
        self.chosen = Some(chosen);
        Ok(())
    }

    /// Whether the target that was chosen still lets the initiator in by the same rules: between the proof and the session
    /// lie the pauses of the initiator and the recovery of the vDisk. Else how to refuse it.
    pub fn recheck(&self, directory: &dyn Directory) -> Result<(), LoginStatus> {
        let (Some(Chosen::Target(target)), Some(before)) = (&self.chosen, &self.access) else { return Ok(()) };
        let now = directory.access(target, &self.initiator.name);
        proof(&now).map_err(|failure| failure.status)?;
        // By other rules it may be let in, too, but it has to prove that anew: it is told to come again.
        if now == *before { Ok(()) } else { Err(LoginStatus::ServiceUnavailable) }
    }
}

/// What an initiator with such access has to prove.
fn proof(access: &Access) -> Result<Proof, Failure> {
    let refused = |status, why| Err(Failure::new(status, why));
    match access.clone() {
        Access::Granted { chap: Some(chap), mutual, .. } => Ok(Proof::Chap { chap, mutual }),
        Access::Granted { chap: None, .. } => Ok(Proof::Nothing),
        Access::Unavailable => refused(LoginStatus::ServiceUnavailable, "the target is not served for now"),
        Access::Forbidden => refused(LoginStatus::AuthorizationFailure, "the initiator may not use the target"),
        Access::NotFound => refused(LoginStatus::NotFound, "there is no such target"),
    }
}

fn clipped(text: &str) -> &str {
    let end = text.floor_char_boundary(255);
    text.get(..end).unwrap_or_default()
}
