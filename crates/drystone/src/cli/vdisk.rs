//! `drystone vdisk`: one request each, and a table or JSON of what came back.

use super::args::Vdisk;
use super::args::snapshot::SnapshotArgs;
use super::client::Client;
use super::image::Options;
use super::output::{Printer, columns, pairs, time};
use super::{backup, export, import, restore, rewind, snapshots};
use crate::config::OnOff;
use anyhow::{Context, Result};
use api::PatchVdisk;
use base::units::format_size;
use control::{CreateVdisk, DeleteVdisk, VdiskInfo, VdiskState};
use serde::Serialize;

pub fn run(verb: Vdisk, client: &Client, printer: &Printer) -> Result<()> {
    match verb {
        Vdisk::Create { name, size, sector, container, near, rewind } => {
            let sector_bytes = sector.parse().context("the parser accepts only numbers")?;
            rewind::check(rewind)?;
            let rewind = rewind::own(rewind);
            let info = client.create(&CreateVdisk { name, size_bytes: size, sector_bytes, container, near, rewind })?;
            printer.print(&info, |info| format!("created {} ({})\n", info.name, format_size(info.size_bytes)))
        }
        Vdisk::List { container } => {
            let infos = client.list(container.as_deref())?;
            printer.print(&infos, |infos| list_table(infos, container.as_deref()))
        }
        Vdisk::Show { name } => printer.print(&client.show(&name)?, show_table),
        Vdisk::Resize { name, size } => {
            let patch = PatchVdisk { size_bytes: Some(size), ..PatchVdisk::default() };
            printer.print(&client.patch(&name, &patch)?, |info| {
                format!("{} has {} now\n", info.name, format_size(info.size_bytes))
            })
        }
        Vdisk::Rename { name, new_name } => {
            let patch = PatchVdisk { name: Some(new_name), ..PatchVdisk::default() };
            printer.print(&client.patch(&name, &patch)?, |info| format!("{name} is {} now\n", info.name))
        }
        Vdisk::Move { name, container } => {
            let patch = PatchVdisk { container: Some(container), ..PatchVdisk::default() };
            printer.print(&client.patch(&name, &patch)?, |info| {
                format!("{} is in container {} now\n", info.name, info.container)
            })
        }
        Vdisk::Set { name, read_only, rewind } => {
            rewind::check(rewind)?;
            let kept = rewind::set(client, &name, rewind)?;
            let patch = PatchVdisk { read_only: read_only.map(|on| on == OnOff::On), ..PatchVdisk::default() };
            let info = if let (None, Some(kept)) = (read_only, kept) { kept } else { client.patch(&name, &patch)? };
            printer.print(&info, |info| {
                let switched = read_only.map(|_| if info.read_only { "read-only" } else { "writable" });
                let lines = [
                    switched.map(|word| format!("{} is {word} now\n", info.name)),
                    rewind.rewind.map(|_| format!("rewind of {}: {}\n", info.name, rewind::text(info))),
                ];
                lines.into_iter().flatten().collect()
            })
        }
        Vdisk::Delete { name, force, snapshots } => {
            client.delete(&name, DeleteVdisk { force, snapshots })?;
            printer.print(&Deleted { deleted: name }, |gone| format!("deleted {}\n", gone.deleted))
        }
        Vdisk::Snapshot { of: SnapshotArgs { name, snapshot }, moment } => match moment.moment() {
            Some(moment) => rewind::snapshot(client, printer, &name, snapshot, moment),
            None => snapshots::take(client, printer, &name, snapshot),
        },
        Vdisk::History { name, from, to } => rewind::history(client, printer, &name, from.as_deref(), to.as_deref()),
        Vdisk::Snapshots { name } => snapshots::list(client, printer, &name),
        Vdisk::Space { name } => snapshots::space(client, printer, &name),
        Vdisk::SnapshotDelete { delete } => snapshots::delete(client, printer, delete),
        Vdisk::Clone { source, new, moment } => match moment.moment() {
            Some(moment) => rewind::make_clones(client, printer, &source, new, moment),
            None => snapshots::make_clones(client, printer, &source, new),
        },
        Vdisk::Rollback { name, snapshot, moment } => match (snapshot, moment.moment()) {
            (_, Some(moment)) => rewind::roll_back(client, printer, &name, moment),
            (snapshot, None) => snapshots::roll_back(client, printer, &name, snapshot.unwrap_or_default()),
        },
        Vdisk::Diff { name, from, to } => snapshots::diff(client, printer, &name, from, to),
        Vdisk::Backup { source, since, file } => backup::run(client, printer, &source, since.as_deref(), &file),
        Vdisk::Restore { files, name, container } => restore::run(client, printer, &files, &name, container.as_deref()),
        Vdisk::VerifyBackup { files } => backup::verify(printer, &files),
        Vdisk::Import { name, file, container, image } => {
            let options = Options { format: image.format, allow_backing: image.allow_backing };
            import::run(client, printer, &name, &file, container.as_deref(), options)
        }
        Vdisk::Export { name, file, format } => export::run(client, printer, &name, &file, format),
    }
}

#[derive(Serialize)]
pub(super) struct Deleted {
    pub deleted: String,
}

fn list_table(infos: &[VdiskInfo], container: Option<&str>) -> String {
    if let (true, Some(container)) = (infos.is_empty(), container) {
        return format!(
            "no vDisks in {container} yet; make one: drystone vdisk create NAME --size 20GiB --container {container}\n"
        );
    }
    if infos.is_empty() {
        return "no vDisks yet; make one: drystone vdisk create NAME --size 20GiB\n".to_string();
    }
    let rows: Vec<_> = infos
        .iter()
        .map(|info| {
            [
                info.name.clone(),
                format_size(info.size_bytes),
                format_size(info.mapped_bytes),
                format_size(info.stored_bytes),
                state(&info.state),
                info.connections.to_string(),
                info.container.clone(),
            ]
        })
        .collect();
    columns(["NAME", "SIZE", "DATA", "ON DISK", "STATE", "CONNECTIONS", "CONTAINER"], &rows)
}

fn show_table(info: &VdiskInfo) -> String {
    pairs(&[
        ("name", info.name.clone()),
        ("id", info.id.clone()),
        ("container", info.container.clone()),
        ("size", format!("{} ({} bytes)", format_size(info.size_bytes), info.size_bytes)),
        ("sector", format!("{} bytes", info.sector_bytes)),
        ("read-only", if info.read_only { "on" } else { "off" }.to_string()),
        ("state", state(&info.state)),
        ("data", format_size(info.mapped_bytes)),
        ("on disk", format_size(info.stored_bytes)),
        ("rewind", rewind::text(info)),
        ("created", time(info.created_unix_ms)),
        ("connections", info.connections.to_string()),
        ("shard", info.shard.to_string()),
        ("epoch", info.epoch.to_string()),
    ])
}

fn state(state: &VdiskState) -> String {
    match state {
        VdiskState::Recovering { percent } => format!("recovering ({percent} %)"),
        VdiskState::Damaged { reason } => format!("damaged: {reason}"),
        VdiskState::ReadOnly => "read-only".to_string(),
        VdiskState::Online | VdiskState::Full => state.word().to_string(),
    }
}
