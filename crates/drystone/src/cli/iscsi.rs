//! `drystone iscsi`: one request each, and a table or JSON of what came back.

use super::args::{Access, Group, Iscsi};
use super::client::Client;
use super::output::{Printer, columns, duration, pairs};
use super::secret;
use anyhow::{Result, bail};
use base::units::format_size;
use control::{
    InitiatorGroup, InitiatorGroupInfo, IscsiPortal, IscsiReach, IscsiSession, IscsiTarget, SetChap, SetIscsiAccess,
};
use serde::Serialize;
use std::time::{SystemTime, UNIX_EPOCH};

pub fn run(verb: Iscsi, client: &Client, printer: &Printer) -> Result<()> {
    match verb {
        Iscsi::Show { name: None } => printer.print(&client.iscsi_targets()?, |targets| targets_table(targets)),
        Iscsi::Show { name: Some(name) } => printer.print(&client.iscsi_target(&name)?, target_table),
        Iscsi::Access(access) => {
            let (name, set) = changes(access)?;
            printer.print(&client.set_iscsi_access(&name, &set)?, target_table)
        }
        Iscsi::Sessions => printer.print(&client.iscsi_sessions()?, |sessions| sessions_table(sessions)),
        Iscsi::Drop { session } => {
            client.drop_iscsi_session(session)?;
            printer.print(&Dropped { dropped: session }, |gone| format!("dropped session {}\n", gone.dropped))
        }
        Iscsi::Portals => printer.print(&client.iscsi_portals()?, |portals| portals_table(portals)),
        Iscsi::Group { verb } => group(verb, client, printer),
    }
}

fn group(verb: Group, client: &Client, printer: &Printer) -> Result<()> {
    match verb {
        Group::List => printer.print(&client.iscsi_groups()?, |groups| groups_table(groups)),
        Group::Create { name, initiator } => {
            let group = InitiatorGroup { name, initiators: initiator };
            printer.print(&client.create_iscsi_group(&group)?, |group| format!("created {}\n", group.name))
        }
        Group::Set { name, initiator } => {
            printer.print(&client.set_iscsi_group(&name, initiator)?, |group| match group.vdisks.len() {
                0 => format!("{} is changed\n", group.name),
                _ => format!("{} is changed, and with it {}\n", group.name, group.vdisks.join(", ")),
            })
        }
        Group::Delete { name } => {
            client.delete_iscsi_group(&name)?;
            printer.print(&Deleted { deleted: name }, |gone| format!("deleted {}\n", gone.deleted))
        }
    }
}

#[derive(Serialize)]
struct Dropped {
    dropped: u64,
}

#[derive(Serialize)]
struct Deleted {
    deleted: String,
}

/// A list that is given replaces both lists: who may log in is what the command line says.
fn changes(access: Access) -> Result<(String, SetIscsiAccess)> {
    let mut set = SetIscsiAccess::default();
    if access.any_initiator || !access.initiator.is_empty() || !access.group.is_empty() {
        set.initiators = Some(access.initiator);
        set.groups = Some(access.group);
    }
    if access.no_chap {
        (set.chap, set.mutual) = (Some(None), Some(None));
    }
    if access.no_mutual {
        set.mutual = Some(None);
    }
    if let Some(user) = access.chap {
        let secret = secret::read(access.chap_secret_file.as_deref(), &format!("Secret of {user}"))?;
        set.chap = Some(Some(SetChap { user, secret }));
    }
    if let Some(user) = access.mutual {
        let secret = secret::read(access.mutual_secret_file.as_deref(), &format!("Secret of the target, as {user}"))?;
        set.mutual = Some(Some(SetChap { user, secret }));
    }
    if set == SetIscsiAccess::default() {
        bail!("nothing to change; see `drystone iscsi access --help`, or `drystone iscsi show {}`", access.name);
    }
    Ok((access.name, set))
}

fn who(target: &IscsiTarget) -> String {
    let groups = target.groups.iter().map(|group| format!("group {group}"));
    let named: Vec<String> = target.initiators.iter().cloned().chain(groups).collect();
    match named.len() {
        0 => "any initiator".to_string(),
        1..=2 => named.join(", "),
        count => format!("{} and {} more", named[0], count - 1),
    }
}

fn authentication(target: &IscsiTarget) -> &'static str {
    match (&target.chap_user, &target.mutual_user) {
        (None, _) => "none",
        (Some(_), None) => "CHAP",
        (Some(_), Some(_)) => "mutual CHAP",
    }
}

fn targets_table(targets: &[IscsiTarget]) -> String {
    if targets.is_empty() {
        return "no vDisks yet; make one: drystone vdisk create NAME --size 20GiB\n".to_string();
    }
    let rows: Vec<_> = targets
        .iter()
        .map(|target| {
            let served = target.portals.iter().filter(|portal| portal.served).count();
            [
                target.target_name.clone(),
                who(target),
                authentication(target).to_string(),
                format!("{served} of {}", target.portals.len()),
                target.sessions.to_string(),
            ]
        })
        .collect();
    let mut text = columns(["TARGET", "WHO", "AUTHENTICATION", "PORTALS", "SESSIONS"], &rows);
    let hidden = targets.iter().filter(|target| target.portals.iter().any(|portal| !portal.served)).count();
    if hidden > 0 {
        text += "\nnot served at every portal: `drystone iscsi show VDISK` says why\n";
    }
    text
}

fn target_table(target: &IscsiTarget) -> String {
    let mut rows = vec![
        ("target", target.target_name.clone()),
        ("LUN", "0".to_string()),
        ("authentication", authentication(target).to_string()),
    ];
    rows.extend(target.chap_user.iter().map(|user| ("user", user.clone())));
    rows.extend(target.mutual_user.iter().map(|user| ("target's user", user.clone())));
    rows.extend(target.initiators.iter().map(|name| ("initiator", name.clone())));
    rows.extend(target.groups.iter().map(|name| ("group", name.clone())));
    if target.initiators.is_empty() && target.groups.is_empty() {
        rows.push(("initiator", "any".to_string()));
    }
    rows.extend(target.portals.iter().map(|portal| ("portal", reach(portal))));
    if target.portals.is_empty() {
        rows.push(("portal", "none: iSCSI is switched off".to_string()));
    }
    rows.push(("sessions", target.sessions.to_string()));
    pairs(&rows)
}

fn reach(portal: &IscsiReach) -> String {
    match &portal.reason {
        None => portal.address.clone(),
        Some(reason) => format!("{}: not served, {reason}", portal.address),
    }
}

fn sessions_table(sessions: &[IscsiSession]) -> String {
    if sessions.is_empty() {
        return "no iSCSI sessions\n".to_string();
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let rows: Vec<_> = sessions
        .iter()
        .map(|session| {
            let digests = match (session.header_digest, session.data_digest) {
                (false, false) => "none",
                (true, false) => "header",
                (false, true) => "data",
                (true, true) => "both",
            };
            [
                session.id.to_string(),
                session.vdisk.clone(),
                session.initiator.clone(),
                session.address.clone(),
                session.portal.clone(),
                digests.to_string(),
                session.commands_in_flight.to_string(),
                format_size(session.read_bytes),
                format_size(session.written_bytes),
                duration(now.saturating_sub(session.since_unix_ms) / 1000),
            ]
        })
        .collect();
    let head =
        ["SESSION", "VDISK", "INITIATOR", "FROM", "PORTAL", "DIGESTS", "IN FLIGHT", "READ", "WRITTEN", "LOGGED IN FOR"];
    columns(head, &rows)
}

fn portals_table(portals: &[IscsiPortal]) -> String {
    if portals.is_empty() {
        return "iSCSI is switched off; start the controller with --iscsi HOST:PORT\n".to_string();
    }
    let rows: Vec<_> = portals
        .iter()
        .map(|portal| {
            let serves = if portal.serves_open { "all vDisks" } else { "vDisks with CHAP or a list of initiators" };
            [portal.address.clone(), portal.group_tag.to_string(), serves.to_string()]
        })
        .collect();
    columns(["PORTAL", "GROUP TAG", "SERVES"], &rows)
}

fn groups_table(groups: &[InitiatorGroupInfo]) -> String {
    if groups.is_empty() {
        return "no initiator groups; make one: drystone iscsi group create NAME --initiator IQN\n".to_string();
    }
    let rows: Vec<_> = groups
        .iter()
        .map(|group| [group.name.clone(), group.vdisks.len().to_string(), group.initiators.join(", ")])
        .collect();
    columns(["GROUP", "VDISKS", "INITIATORS"], &rows)
}
