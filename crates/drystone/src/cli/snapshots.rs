//! `drystone vdisk` on snapshots: take, list, delete, clone, roll back, compare.

use super::args::snapshot::{SnapshotArgs, SnapshotDeleteArgs};
use super::client::Client;
use super::output::{Printer, columns, time};
use super::vdisk::Deleted;
use anyhow::Result;
use base::units::format_size;
use control::{MakeClones, SnapshotInfo, SpaceShare, VdiskInfo, VdiskSpace, rules};

pub fn take(client: &Client, printer: &Printer, name: &str, snapshot: String) -> Result<()> {
    printer.print(&client.create_snapshot(name, snapshot)?, |info| format!("took {}@{}\n", info.vdisk, info.name))
}

pub fn list(client: &Client, printer: &Printer, name: &str) -> Result<()> {
    printer.print(&client.snapshots(name)?, |snapshots| table(name, snapshots))
}

pub fn delete(client: &Client, printer: &Printer, delete: SnapshotDeleteArgs) -> Result<()> {
    let SnapshotDeleteArgs { of: SnapshotArgs { name, snapshot }, force } = delete;
    client.delete_snapshot(&name, &snapshot, force)?;
    let deleted = Deleted { deleted: format!("{name}@{snapshot}") };
    printer.print(&deleted, |gone| format!("deleted {}\n", gone.deleted))
}

pub fn make_clones(client: &Client, printer: &Printer, source: &str, names: Vec<String>) -> Result<()> {
    let (name, snapshot) = rules::snapshots::split(source);
    let clones = MakeClones { snapshot: snapshot.map(str::to_string), names };
    printer.print(&client.make_clones(name, &clones)?, |made| made_text(made))
}

pub(super) fn made_text(made: &[VdiskInfo]) -> String {
    match made {
        [one] => format!("made {}\n", one.name),
        [first, .., last] => format!("made {} clones, {} to {}\n", made.len(), first.name, last.name),
        [] => String::new(),
    }
}

pub fn roll_back(client: &Client, printer: &Printer, name: &str, snapshot: String) -> Result<()> {
    let text = format!("{name} is as it was at {snapshot}");
    printer.print(&client.roll_back(name, snapshot)?, |done| {
        format!("{text}; what was there before is {name}@{}\n", done.kept.name)
    })
}

/// An empty name on the older side means the time before anything was written.
pub fn diff(client: &Client, printer: &Printer, name: &str, from: String, to: Option<String>) -> Result<()> {
    let from = Some(from.as_str()).filter(|from| !from.is_empty());
    client.changes(name, from, to.as_deref(), |changes| printer.print_lines(changes))
}

fn table(name: &str, snapshots: &[SnapshotInfo]) -> String {
    if snapshots.is_empty() {
        return format!("no snapshots of {name} yet; take one: drystone vdisk snapshot {name} NAME\n");
    }
    let rows: Vec<_> = snapshots
        .iter()
        .map(|snapshot| {
            [
                snapshot.name.clone(),
                time(snapshot.created_unix_ms),
                format_size(snapshot.size_bytes),
                format_size(snapshot.mapped_bytes),
                snapshot.connections.to_string(),
            ]
        })
        .collect();
    columns(["SNAPSHOT", "TAKEN", "SIZE", "DATA", "READERS"], &rows)
}

pub fn space(client: &Client, printer: &Printer, name: &str) -> Result<()> {
    printer.print(&client.space(name)?, space_table)
}

fn space_table(space: &VdiskSpace) -> String {
    let row = |name: &str, share: &SpaceShare| {
        [name.to_string(), format_size(share.unique_bytes), format_size(share.shared_bytes)]
    };
    let snapshots = space.snapshots.iter().map(|snapshot| row(&snapshot.name, &snapshot.share));
    let rows: Vec<_> = [row("(now)", &space.now)].into_iter().chain(snapshots).collect();
    let VdiskSpace { vdisk, alone_bytes, .. } = space;
    let sum = format!("deleting {vdisk} with its snapshots would free {}\n", format_size(*alone_bytes));
    columns(["CONTENT", "ALONE", "SHARED"], &rows) + &sum
}
