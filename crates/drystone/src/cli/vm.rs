//! `drystone vm`: one request each, and a table or JSON of what came back.

use super::args::snapshot::{SnapshotArgs, SnapshotDeleteArgs};
use super::args::vm::Vm;
use super::client::Client;
use super::image::Options;
use super::output::{Printer, columns, pairs, time};
use super::vdisk::Deleted;
use super::vm_backup;
use super::vm_images;
use super::vm_parts;
use crate::config::OnOff;
use anyhow::{Result, bail};
use api::PatchVm;
use base::units::format_size;
use control::{
    AttachVdisk, ClonesOfPast, CreateVm, DeleteVm, MakeClones, RollBackToPast, SnapshotOfPast, VmInfo, VmSnapshotInfo,
    rules,
};

pub fn run(verb: Vm, client: &Client, printer: &Printer) -> Result<()> {
    match verb {
        Vm::Create { name, vdisk, container, rewind } => {
            super::rewind::check(rewind)?;
            let info = client.create_vm(&CreateVm { name, vdisks: vdisk, container, existing: Vec::new() })?;
            vm_parts::set_rewind(client, &info, rewind)?;
            printer.print(&info, |info| format!("created {} with {}\n", info.name, vdisks(info)))
        }
        Vm::Set { name, rewind } => {
            super::rewind::check(rewind)?;
            let changed = vm_parts::set_rewind(client, &client.vm(&name)?, rewind)?;
            printer.print(&changed, |changed| vm_parts::rewind_table(changed))
        }
        Vm::VerifyBackup { folders } => vm_backup::verify(printer, &folders),
        Vm::History { name, from, to } => vm_parts::history(client, printer, &name, from.as_deref(), to.as_deref()),
        Vm::Space { name } => vm_parts::space(client, printer, &name),
        Vm::Diff { name, from, to } => vm_parts::diff(client, printer, &name, from, to),
        Vm::List => printer.print(&client.vms()?, |vms| list_table(vms)),
        Vm::Show { name } => printer.print(&client.vm(&name)?, show_table),
        Vm::Rename { name, new_name } => {
            let patch = PatchVm { name: Some(new_name), ..PatchVm::default() };
            printer.print(&client.patch_vm(&name, &patch)?, |info| format!("{name} is {} now\n", info.name))
        }
        Vm::Template { name, on } => {
            let patch = PatchVm { template: Some(on == OnOff::On), ..PatchVm::default() };
            printer.print(&client.patch_vm(&name, &patch)?, |info| {
                format!("{} is a {} now\n", info.name, if info.template { "template" } else { "VM" })
            })
        }
        Vm::Attach { name, vdisk, label } => {
            let attach = AttachVdisk { vdisk, label };
            printer.print(&client.attach_vdisk(&name, &attach)?, |info| format!("{name} has {}\n", vdisks(info)))
        }
        Vm::Detach { name, label } => {
            printer.print(&client.detach_vdisk(&name, &label)?, |info| format!("{name} has {}\n", vdisks(info)))
        }
        Vm::Delete { name, force, snapshots, keep_vdisks } => {
            client.delete_vm(&name, DeleteVm { force, snapshots, keep_vdisks })?;
            printer.print(&Deleted { deleted: name }, |gone| format!("deleted {}\n", gone.deleted))
        }
        Vm::Snapshot { of: SnapshotArgs { name, snapshot }, at } => {
            let taken = match at {
                Some(_) => {
                    client.snapshot_vm_past(&name, &SnapshotOfPast { name: snapshot, at, before_write: None })?
                }
                None => client.create_vm_snapshot(&name, snapshot)?,
            };
            printer.print(&taken, |taken| format!("took {}@{}\n", taken.vm, taken.name))
        }
        Vm::Snapshots { name } => printer.print(&client.vm_snapshots(&name)?, |taken| snapshots_table(&name, taken)),
        Vm::SnapshotDelete { delete: SnapshotDeleteArgs { of: SnapshotArgs { name, snapshot }, force } } => {
            client.delete_vm_snapshot(&name, &snapshot, force)?;
            let deleted = Deleted { deleted: format!("{name}@{snapshot}") };
            printer.print(&deleted, |gone| format!("deleted {}\n", gone.deleted))
        }
        Vm::Backup { source, since, folder } => vm_backup::backup(client, printer, &source, since.as_deref(), &folder),
        Vm::Import { name, disk, container, image } => {
            let options = Options { format: image.format, allow_backing: image.allow_backing };
            vm_images::import(client, printer, &name, &disk, container.as_deref(), options)
        }
        Vm::Export { source, folder, format } => vm_images::export(client, printer, &source, &folder, format),
        Vm::Restore { folders, name, container } => {
            vm_backup::restore(client, printer, &folders, &name, container.as_deref())
        }
        Vm::Clone { source, new, at } => make_clones(client, printer, &source, new, at),
        Vm::RollbackAbort { name } => abort_rollback(client, printer, &name),
        Vm::Rollback { name, snapshot, at } => {
            let text =
                format!("{name} is as it was at {}", at.as_ref().or(snapshot.as_ref()).map_or("", String::as_str));
            let done = match snapshot {
                Some(snapshot) => client.roll_back_vm(&name, snapshot)?,
                None => client.roll_vm_back_to_past(&name, &RollBackToPast { at, before_write: None })?,
            };
            printer.print(&done, |done| format!("{text}; what was there before is {name}@{}\n", done.kept.name))
        }
    }
}

fn abort_rollback(client: &Client, printer: &Printer, name: &str) -> Result<()> {
    printer.print(&client.abort_rollback(name)?, |info| {
        format!(
            "the rollback of {} is given up; see which of its vDisks were rolled back before you start it\n",
            info.name
        )
    })
}

fn make_clones(client: &Client, printer: &Printer, source: &str, names: Vec<String>, at: Option<String>) -> Result<()> {
    let (name, snapshot) = rules::snapshots::split(source);
    let made = match at {
        Some(_) if snapshot.is_some() => bail!("{source} names a snapshot, and --at a time: give one of the two"),
        Some(_) => client.clone_vm_past(name, &ClonesOfPast { names, at, before_write: None })?,
        None => client.clone_vm(name, &MakeClones { snapshot: snapshot.map(str::to_string), names })?,
    };
    printer.print(&made, |made| match made.as_slice() {
        [one] => format!("made {}\n", one.name),
        [first, .., last] => format!("made {} VMs, {} to {}\n", made.len(), first.name, last.name),
        [] => String::new(),
    })
}

fn vdisks(info: &VmInfo) -> String {
    if info.vdisks.is_empty() {
        return "no vDisks".to_string();
    }
    info.vdisks.iter().map(|one| one.vdisk.as_str()).collect::<Vec<_>>().join(", ")
}

fn kind(info: &VmInfo) -> &'static str {
    if info.template { "template" } else { "VM" }
}

fn list_table(vms: &[VmInfo]) -> String {
    if vms.is_empty() {
        return "no VMs yet; make one: drystone vm create NAME --vdisk root=20GiB\n".to_string();
    }
    let rows: Vec<_> = vms
        .iter()
        .map(|info| {
            let size_bytes = info.vdisks.iter().map(|one| one.size_bytes).sum();
            let labels: Vec<&str> = info.vdisks.iter().map(|one| one.label.as_str()).collect();
            [
                info.name.clone(),
                kind(info).to_string(),
                format_size(size_bytes),
                info.snapshots.to_string(),
                labels.join(", "),
            ]
        })
        .collect();
    columns(["NAME", "KIND", "SIZE", "SNAPSHOTS", "VDISKS"], &rows)
}

fn show_table(info: &VmInfo) -> String {
    let mut text = pairs(&[
        ("name", info.name.clone()),
        ("id", info.id.clone()),
        ("kind", kind(info).to_string()),
        ("created", time(info.created_unix_ms)),
        ("snapshots", info.snapshots.to_string()),
        ("target", info.target_name.clone()),
        ("not served", info.target_closed.clone().unwrap_or_else(|| "-".to_string())),
    ]);
    if !info.vdisks.is_empty() {
        let row = |one: &control::VmVdisk| {
            [one.label.clone(), one.vdisk.clone(), format_size(one.size_bytes), one.lun.to_string()]
        };
        text.push('\n');
        text += &columns(["LABEL", "VDISK", "SIZE", "LUN"], &info.vdisks.iter().map(row).collect::<Vec<_>>());
    }
    text
}

fn snapshots_table(name: &str, snapshots: &[VmSnapshotInfo]) -> String {
    if snapshots.is_empty() {
        return format!("no snapshots of {name} yet; take one: drystone vm snapshot {name} NAME\n");
    }
    let rows: Vec<_> =
        snapshots.iter().map(|one| [one.name.clone(), time(one.created_unix_ms), one.labels.join(", ")]).collect();
    columns(["SNAPSHOT", "TAKEN", "VDISKS"], &rows)
}
