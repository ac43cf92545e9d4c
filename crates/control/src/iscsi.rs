//! Who may use a vDisk over iSCSI, who does, and where. Secrets are never shown: neither by `Debug` nor in a listing, whose
//! types have no place for them.

use crate::rules::iscsi as rules;
use crate::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;

/// What comes before the vDisk's name in its target name.
pub const TARGET_PREFIX: &str = "iqn.2026-11.io.drystone:";
/// What follows it in the names of VMs' targets, and of snapshots': no vDisk's name has a colon.
pub const TARGET_OF_VM: &str = "vm:";
pub const TARGET_OF_SNAPSHOT: &str = "snapshot:";

pub fn target_name(vdisk: &str) -> String {
    format!("{TARGET_PREFIX}{vdisk}")
}

pub fn vm_target_name(vm: &str) -> String {
    format!("{TARGET_PREFIX}{TARGET_OF_VM}{vm}")
}

/// Names of targets cannot have the `@` of exports (RFC 3722).
pub fn snapshot_target_name(vdisk: &str, snapshot: &str) -> String {
    format!("{TARGET_PREFIX}{TARGET_OF_SNAPSHOT}{vdisk}:{snapshot}")
}

/// Who may log in to a vDisk's target, as the transport asks for it: groups are resolved.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IscsiAccess {
    /// Names of initiators; empty: any.
    pub initiators: Vec<String>,
    /// What an initiator must prove to know.
    pub chap: Option<ChapSecret>,
    /// What the target proves to an initiator that asks for it. Only with `chap`.
    pub mutual: Option<ChapSecret>,
}

impl IscsiAccess {
    /// Whether anybody may log in.
    pub fn is_open(&self) -> bool {
        self.initiators.is_empty() && self.chap.is_none()
    }
}

#[derive(Clone, PartialEq, Eq)]
pub struct ChapSecret {
    pub user: String,
    pub secret: String,
}

impl fmt::Debug for ChapSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChapSecret").field("user", &self.user).finish_non_exhaustive()
    }
}

/// The access rules of a vDisk as they are kept. Always as [`rules`] want them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IscsiRules {
    /// In lower case, without repetition.
    pub initiators: Vec<String>,
    /// Names of initiator groups.
    pub groups: Vec<String>,
    pub chap: Option<ChapSecret>,
    pub mutual: Option<ChapSecret>,
}

impl IscsiRules {
    /// The rules after a change, or why it is refused. Whether the groups exist is for the caller to check.
    pub fn changed(&self, set: SetIscsiAccess) -> Result<IscsiRules> {
        let chap = |change: Option<Option<SetChap>>, now: &Option<ChapSecret>| match change {
            None => Ok(now.clone()),
            Some(None) => Ok(None),
            Some(Some(SetChap { user, secret })) => {
                rules::check_chap(&user, &secret).map(|()| Some(ChapSecret { user, secret }))
            }
        };
        let changed = IscsiRules {
            initiators: match set.initiators {
                None => self.initiators.clone(),
                Some(initiators) => rules::initiators(&initiators)?,
            },
            groups: match set.groups {
                None => self.groups.clone(),
                Some(groups) => rules::group_names(groups)?,
            },
            chap: chap(set.chap, &self.chap)?,
            mutual: chap(set.mutual, &self.mutual)?,
        };
        match (&changed.chap, &changed.mutual) {
            (None, Some(_)) => Err(Error::invalid(
                "a target that proves who it is must ask the initiator first; set --chap as well (RFC 7143, 9.2.1)",
            )),
            (Some(chap), Some(mutual)) if chap.secret == mutual.secret => Err(Error::invalid(
                "the target's secret must differ from the initiator's: who knows the one must not be able to play the other",
            )),
            _ => Ok(changed),
        }
    }

    pub fn is_open(&self) -> bool {
        self.initiators.is_empty() && self.groups.is_empty() && self.chap.is_none()
    }
}

/// What to change; what is absent stays. An empty list of both kinds lets any initiator in; `null` takes a secret away.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SetIscsiAccess {
    /// Names of initiators: `iqn.`, `eui.` or `naa.`; at most 32.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[cfg_attr(feature = "openapi", schema(max_items = 32, example = json!(["iqn.1993-08.org.debian:01:abc"])))]
    pub initiators: Option<Vec<String>>,
    /// Names of initiator groups; at most 7.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[cfg_attr(feature = "openapi", schema(max_items = 7))]
    pub groups: Option<Vec<String>>,
    /// What initiators must prove to know.
    #[serde(skip_serializing_if = "Option::is_none", default, deserialize_with = "some")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<SetChap>))]
    pub chap: Option<Option<SetChap>>,
    /// What the target proves to initiators that ask for it; only with `chap`, and another secret.
    #[serde(skip_serializing_if = "Option::is_none", default, deserialize_with = "some")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<SetChap>))]
    pub mutual: Option<Option<SetChap>>,
}

/// `null` is something else than nothing.
fn some<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// A user and its secret, on their way in; they never come out again.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SetChap {
    /// 1 to 223 printable characters without spaces.
    #[cfg_attr(feature = "openapi", schema(min_length = 1, max_length = 223))]
    pub user: String,
    /// 12 to 255 printable characters without spaces.
    #[cfg_attr(feature = "openapi", schema(min_length = 12, max_length = 255, write_only))]
    pub secret: String,
}

impl fmt::Debug for SetChap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SetChap").field("user", &self.user).finish_non_exhaustive()
    }
}

/// A vDisk as an iSCSI target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct IscsiTarget {
    pub vdisk: String,
    #[cfg_attr(feature = "openapi", schema(example = "iqn.2026-11.io.drystone:demo"))]
    pub target_name: String,
    /// Names of initiators that may log in, besides those of the groups. Both lists empty: any.
    pub initiators: Vec<String>,
    pub groups: Vec<String>,
    /// The user that initiators must prove to be; absent: they are not asked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub chap_user: Option<String>,
    /// The user that the target proves to be, if it is asked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub mutual_user: Option<String>,
    pub portals: Vec<IscsiReach>,
    /// Sessions at this moment.
    pub sessions: u32,
}

/// Whether a target is served at a portal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct IscsiReach {
    #[cfg_attr(feature = "openapi", schema(example = "127.0.0.1:3260"))]
    pub address: String,
    pub served: bool,
    /// Why not, and what to do.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
}

/// An address at which initiators connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct IscsiPortal {
    #[cfg_attr(feature = "openapi", schema(example = "127.0.0.1:3260"))]
    pub address: String,
    /// Target portal group tag: each portal is a group of its own.
    pub group_tag: u16,
    /// Whether targets are served here that ask for no secret and name no initiators.
    pub serves_open: bool,
}

impl IscsiPortal {
    /// Whether a target with these rules is served here, and if not, why.
    pub fn reach(&self, rules: &IscsiRules) -> IscsiReach {
        let served = self.serves_open || !rules.is_open();
        let reason = "it asks for no secret and names no initiators, and this portal is reached from other machines; set one \
                      with `drystone iscsi access`, or accept it with --iscsi-allow-open";
        let reason = (!served).then(|| reason.to_string());
        IscsiReach { address: self.address.clone(), served, reason }
    }
}

/// An initiator that is logged in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct IscsiSession {
    /// For `drop`; never used twice in a run of the controller.
    pub id: u64,
    pub vdisk: String,
    #[cfg_attr(feature = "openapi", schema(example = "iqn.1993-08.org.debian:01:abc"))]
    pub initiator: String,
    /// What the initiator calls itself.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub alias: Option<String>,
    /// The initiator's part of the session's name: 12 hexadecimal digits.
    pub isid: String,
    /// The target's part.
    pub tsih: u16,
    /// The CHAP user that it proved to be.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub user: Option<String>,
    /// Where it comes from, and the portal that it came to.
    pub address: String,
    pub portal: String,
    pub group_tag: u16,
    pub header_digest: bool,
    pub data_digest: bool,
    /// Milliseconds since 1970 (UTC).
    pub since_unix_ms: u64,
    pub commands_in_flight: u32,
    pub read_bytes: u64,
    pub written_bytes: u64,
}

/// Names of initiators under one name, to which access rules refer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct InitiatorGroup {
    /// As the name of a vDisk.
    #[cfg_attr(feature = "openapi", schema(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$", example = "esx"))]
    pub name: String,
    /// 1 to 32.
    #[cfg_attr(feature = "openapi", schema(min_items = 1, max_items = 32))]
    pub initiators: Vec<String>,
}

/// A group and the vDisks whose rules refer to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InitiatorGroupInfo {
    pub name: String,
    pub initiators: Vec<String>,
    pub vdisks: Vec<String>,
}

#[cfg(test)]
mod tests;
