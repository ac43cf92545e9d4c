//! `drystone group`: one request each, and a table or JSON of what came back.

use super::args::group::Group;
use super::args::snapshot::{SnapshotArgs, SnapshotDeleteArgs};
use super::client::Client;
use super::output::{Printer, columns, pairs, time};
use super::vdisk::Deleted;
use anyhow::Result;
use control::{CreateVmGroup, GroupSnapshotInfo, VmGroupInfo};

pub fn run(verb: Group, client: &Client, printer: &Printer) -> Result<()> {
    let has = |info: &VmGroupInfo| format!("{} has {}\n", info.name, info.vms.join(", "));
    let gone = |gone: &Deleted| format!("deleted {}\n", gone.deleted);
    match verb {
        Group::Create { name, vm } => printer.print(&client.create_group(&CreateVmGroup { name, vms: vm })?, has),
        Group::List => printer.print(&client.groups()?, |groups| list_table(groups)),
        Group::Show { name } => printer.print(&client.group(&name)?, |info| {
            pairs(&[
                ("name", info.name.clone()),
                ("VMs", info.vms.join(", ")),
                ("snapshots", info.snapshots.to_string()),
            ])
        }),
        Group::Add { name, vm } => printer.print(&client.add_to_group(&name, vm)?, has),
        Group::Remove { name, vm } => printer.print(&client.remove_from_group(&name, &vm)?, has),
        Group::Delete { name } => {
            client.delete_group(&name)?;
            printer.print(&Deleted { deleted: name }, gone)
        }
        Group::Snapshot { of: SnapshotArgs { name, snapshot } } => {
            let taken = client.create_group_snapshot(&name, snapshot)?;
            printer.print(&taken, |taken| format!("took {} of {} VMs\n", taken.name, taken.vms.len()))
        }
        Group::Snapshots { name } => {
            printer.print(&client.group_snapshots(&name)?, |taken| snapshots_table(&name, taken))
        }
        Group::SnapshotDelete { delete: SnapshotDeleteArgs { of: SnapshotArgs { name, snapshot }, force } } => {
            client.delete_group_snapshot(&name, &snapshot, force)?;
            printer.print(&Deleted { deleted: format!("{name}@{snapshot}") }, gone)
        }
        Group::Rollback { name, snapshot } => {
            let text = format!("the VMs of {name} are as they were at {snapshot}");
            printer.print(&client.roll_back_group(&name, snapshot)?, |done| {
                format!("{text}; what was there before is the snapshot {}\n", done.kept.name)
            })
        }
    }
}

fn list_table(groups: &[VmGroupInfo]) -> String {
    if groups.is_empty() {
        return "no groups yet; make one: drystone group create NAME --vm VM --vm VM\n".to_string();
    }
    let row = |info: &VmGroupInfo| [info.name.clone(), info.snapshots.to_string(), info.vms.join(", ")];
    columns(["GROUP", "SNAPSHOTS", "VMS"], &groups.iter().map(row).collect::<Vec<_>>())
}

fn snapshots_table(name: &str, snapshots: &[GroupSnapshotInfo]) -> String {
    if snapshots.is_empty() {
        return format!("no snapshots of {name} yet; take one: drystone group snapshot {name} NAME\n");
    }
    let row = |one: &GroupSnapshotInfo| {
        let vms: Vec<&str> = one.vms.iter().map(|vm| vm.vm.as_str()).collect();
        [one.name.clone(), time(one.created_unix_ms), vms.join(", ")]
    };
    columns(["SNAPSHOT", "TAKEN", "VMS"], &snapshots.iter().map(row).collect::<Vec<_>>())
}
