//! `drystone vm` on what each vDisk of a VM has for itself: its past, the space that it takes, what changed.

use super::args::rewind::RewindFlags;
use super::client::Client;
use super::output::{Printer, columns, duration};
use super::rewind;
use anyhow::{Context, Result};
use base::units::format_size;
use control::{Change, HistoryPoint, SpaceShare, VdiskInfo, VdiskSpace, VmInfo};
use serde::Serialize;

/// Something of one vDisk, under the label that the VM has for it.
#[derive(Serialize)]
struct Of<T> {
    label: String,
    #[serde(flatten)]
    what: T,
}

fn of_each<T>(vm: &VmInfo, look: impl Fn(&str) -> Result<T>) -> Result<Vec<Of<T>>> {
    vm.vdisks.iter().map(|one| Ok(Of { label: one.label.clone(), what: look(&one.vdisk)? })).collect()
}

/// What the flags ask for, on one vDisk after the other. None of it depends on the others, so what is done stays.
pub fn set_rewind(client: &Client, vm: &VmInfo, flags: RewindFlags) -> Result<Vec<VdiskInfo>> {
    let mut changed = Vec::with_capacity(vm.vdisks.len());
    for one in &vm.vdisks {
        let set = rewind::set(client, &one.vdisk, flags).with_context(|| {
            let (vm, done, all) = (&vm.name, changed.len(), vm.vdisks.len());
            format!("{done} of the {all} vDisks of {vm} are changed; give it again for all: drystone vm set {vm} --rewind ...")
        });
        changed.extend(set?);
    }
    Ok(changed)
}

pub fn rewind_table(changed: &[VdiskInfo]) -> String {
    changed.iter().map(|info| format!("rewind of {}: {}\n", info.name, rewind::text(info))).collect()
}

/// That of all vDisks, in order of time.
pub fn history(client: &Client, printer: &Printer, name: &str, from: Option<&str>, to: Option<&str>) -> Result<()> {
    let each = of_each(&client.vm(name)?, |vdisk| client.history(vdisk, from, to))?;
    let points =
        each.into_iter().flat_map(|of| of.what.into_iter().map(move |what| Of { label: of.label.clone(), what }));
    let mut points: Vec<Of<HistoryPoint>> = points.collect();
    // Without the Z a whole second comes before its parts.
    points.sort_by(|one, other| one.what.at.trim_end_matches('Z').cmp(other.what.at.trim_end_matches('Z')));
    printer.print(&points, |points| history_table(name, points))
}

fn history_table(name: &str, points: &[Of<HistoryPoint>]) -> String {
    if points.is_empty() {
        return format!("no history of {name}; keep it from now on: drystone vm set {name} --rewind 24h\n");
    }
    let row = |Of { label, what }: &Of<HistoryPoint>| {
        let len = if what.seconds > 0 { duration(what.seconds) } else { String::new() };
        let (kind, write) = (what.kind.word().to_string(), what.before_write.to_string());
        [what.at.clone(), label.clone(), write, kind, len, format_size(what.bytes)]
    };
    let rows: Vec<_> = points.iter().map(row).collect();
    columns(["TIME", "LABEL", "BEFORE WRITE", "WHAT", "FOR", "WRITTEN"], &rows)
}

pub fn space(client: &Client, printer: &Printer, name: &str) -> Result<()> {
    let each = of_each(&client.vm(name)?, |vdisk| client.space(vdisk))?;
    printer.print(&each, |each| space_table(each))
}

fn space_table(each: &[Of<VdiskSpace>]) -> String {
    let rows = each.iter().flat_map(|Of { label, what }| {
        let row = move |content: &str, share: &SpaceShare| {
            let [alone, shared] = [share.unique_bytes, share.shared_bytes].map(format_size);
            [label.clone(), content.to_string(), alone, shared]
        };
        let snapshots = what.snapshots.iter().map(move |snapshot| row(&snapshot.name, &snapshot.share));
        std::iter::once(row("(now)", &what.now)).chain(snapshots)
    });
    let sums = each.iter().map(|Of { what: VdiskSpace { vdisk, alone_bytes, .. }, .. }| {
        format!("deleting {vdisk} with its snapshots would free {}\n", format_size(*alone_bytes))
    });
    columns(["LABEL", "CONTENT", "ALONE", "SHARED"], &rows.collect::<Vec<_>>()) + &sums.collect::<String>()
}

/// Of the vDisks that the VM has now, one after the other.
pub fn diff(client: &Client, printer: &Printer, name: &str, from: String, to: Option<String>) -> Result<()> {
    let from = Some(from.as_str()).filter(|from| !from.is_empty());
    for one in client.vm(name)?.vdisks {
        let of = |what: &Change| Of { label: one.label.clone(), what: *what };
        client.changes(&one.vdisk, from, to.as_deref(), |changes| {
            printer.print_lines(&changes.iter().map(of).collect::<Vec<_>>())
        })?;
    }
    Ok(())
}
