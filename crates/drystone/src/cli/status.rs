//! `drystone status`.

use super::client::Client;
use super::output::{Printer, columns, duration, pairs};
use anyhow::Result;
use base::units::format_size;
use control::{DiskState, Health, NodeStatus, Protocol};

pub fn run(client: &Client, printer: &Printer) -> Result<()> {
    printer.print(&client.status()?, table)
}

fn table(status: &NodeStatus) -> String {
    let memory = &status.memory;
    let mut rows = vec![
        ("health", health(&status.health)),
        ("version", status.version.clone()),
        ("data", status.data_directory.clone()),
        ("up for", duration(status.uptime_seconds)),
        ("memory", format!("{} of {}", format_size(memory.used_bytes), format_size(memory.budget_bytes))),
        ("vDisks", counts(status)),
        ("connections", status.connections.to_string()),
    ];
    rows.extend(status.listeners.iter().map(|listener| {
        let name = match listener.protocol {
            Protocol::Api => "API",
            Protocol::Nbd | Protocol::NbdUnix => "NBD",
            Protocol::Iscsi => "iSCSI",
        };
        (name, format!("{}{}", listener.address, if listener.tls { " (TLS)" } else { "" }))
    }));
    let mut text = pairs(&rows);
    if !status.disks.is_empty() {
        text.push('\n');
        text += &disks(status);
    }
    text
}

fn disks(status: &NodeStatus) -> String {
    let rows: Vec<_> = status
        .disks
        .iter()
        .map(|disk| {
            let state = match &disk.state {
                DiskState::Online => "online".to_string(),
                DiskState::Full => "full".to_string(),
                DiskState::Failed { reason } => format!("failed: {reason}"),
            };
            let sizes = [disk.used_bytes, disk.available_bytes, disk.capacity_bytes].map(format_size);
            let [used, available, capacity] = sizes;
            [disk.id.clone(), used, available, capacity, disk.groups.to_string(), disk.path.clone(), state]
        })
        .collect();
    columns(["DISK", "USED", "AVAILABLE", "CAPACITY", "GROUPS", "PATH", "STATE"], &rows)
}

fn health(health: &Health) -> String {
    match health {
        Health::Healthy => "healthy".to_string(),
        Health::Starting { reasons } => reasoned("starting", reasons),
        Health::Degraded { reasons } => reasoned("degraded", reasons),
        Health::Stopping => "stopping".to_string(),
    }
}

fn reasoned(word: &str, reasons: &[String]) -> String {
    if reasons.is_empty() { word.to_string() } else { format!("{word}: {}", reasons.join("; ")) }
}

/// `12 (10 online, 2 damaged)`: what is zero is left out.
fn counts(status: &NodeStatus) -> String {
    let counts = &status.vdisks;
    let parts = [
        (counts.online, "online"),
        (counts.recovering, "recovering"),
        (counts.damaged, "damaged"),
        (counts.read_only, "read-only"),
        (counts.full, "full"),
    ];
    let parts: Vec<_> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}")).collect();
    if parts.is_empty() { counts.total.to_string() } else { format!("{} ({})", counts.total, parts.join(", ")) }
}
