//! `drystone vm import` and `export`: images of other programs as the vDisks of a VM, and the other way round.

use super::args::vm::LabelledImage;
use super::client::Client;
use super::export;
use super::image::{Format, Options, Source};
use super::import::Place;
use super::output::Printer;
use super::temporary::vm_of;
use super::unfinished::UnfinishedFolder;
use super::vm_backup::vdisk_name;
use anyhow::{Context, Result, bail, ensure};
use control::{ExistingVdisk, rules};
use std::collections::BTreeSet;
use std::path::Path;

/// All images are looked at before anything is made; the VM is there when all of them are in.
pub fn import(
    client: &Client,
    printer: &Printer,
    name: &str,
    images: &[LabelledImage],
    container: Option<&str>,
    options: Options,
) -> Result<()> {
    rules::check_name(name)?;
    ensure!(client.vms()?.iter().all(|vm| vm.name != name), "VM {name:?} exists already; import under another name");
    let mut labels = BTreeSet::new();
    let mut sources = Vec::new();
    for LabelledImage { label, file } in images {
        ensure!(labels.insert(label), "the label {label:?} is given twice");
        let vdisk = vdisk_name(name, label);
        rules::check_name(&vdisk)?;
        if client.find(&vdisk)?.is_some() {
            bail!("vDisk {vdisk:?} exists already; import under another name, or attach it: drystone vm attach");
        }
        sources.push((label, vdisk, Source::open(file, options)?));
    }
    let mut filled = Vec::new();
    for (label, vdisk, source) in &sources {
        let place = Place::new(client, vdisk, source, container)?;
        place.fill(client, vdisk, source)?;
        filled.push(ExistingVdisk { label: label.to_string(), vdisk: place.vdisk });
    }
    let all = filled.iter().map(|one| one.vdisk.as_str()).collect::<Vec<_>>().join(", ");
    let made = client.create_vm(&vm_of(name, filled)).with_context(|| {
        format!("the images are in the vDisks {all}; the same command goes on with them, or give them up: drystone vdisk delete")
    })?;
    printer.print(&made, |vm| format!("imported {} with {} vDisks\n", vm.name, vm.vdisks.len()))
}

/// `source`: VM or VM@SNAPSHOT. The folder appears when all images in it are complete.
pub fn export(client: &Client, printer: &Printer, source: &str, folder: &Path, format: Format) -> Result<()> {
    let (name, snapshot) = rules::snapshots::split(source);
    let vdisks = client.vm(name)?.vdisks;
    let labels = match snapshot {
        None => vdisks.iter().map(|one| one.label.clone()).collect(),
        Some(snapshot) => {
            let all = client.vm_snapshots(name)?;
            let taken = all.into_iter().find(|info| info.name == snapshot);
            taken.with_context(|| format!("VM {name:?} has no snapshot {snapshot:?}"))?.labels
        }
    };
    let unfinished = UnfinishedFolder::create(folder)?;
    let mut exported = Vec::new();
    for label in &labels {
        let found = vdisks.iter().find(|one| one.label == *label);
        let vdisk = &found.with_context(|| format!("VM {name:?} has no vDisk {label:?} any more"))?.vdisk;
        let whole = snapshot.map_or_else(|| vdisk.clone(), |snapshot| format!("{vdisk}@{snapshot}"));
        let file = unfinished.path.join(format!("{label}.{}", format.name()));
        exported.push(export::to_file(client, &whole, &file, format)?);
    }
    unfinished.finish(folder)?;
    printer
        .print(&exported, |exported| format!("exported {source} to {}: {} images\n", folder.display(), exported.len()))
}
