//! `drystone vm backup` and `restore`: a folder with a backup file for each vDisk, and a manifest that says what belongs together.

use super::backup::{Made, check_chain, make_file, print_sound, prove};
use super::client::Client;
use super::output::Printer;
use super::restore::fill;
use super::temporary::become_vm;
use super::unfinished::UnfinishedFolder;
use anyhow::{Context, Result, bail, ensure};
use backup::Verified;
use base::crc::crc32c;
use base::units::format_size;
use control::rules;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

const MANIFEST: &str = "manifest.json";
const MANIFEST_BYTES_MAX: u64 = 1 << 20;
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct Manifest {
    format: u32,
    vm: String,
    snapshot: String,
    since: Option<String>,
    vdisks: Vec<Entry>,
}

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct Entry {
    label: String,
    vdisk: String,
    file: String,
    /// The digest at the end of the file.
    sha256: String,
}

/// The manifest with a checksum of itself, written without spaces.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Checked {
    manifest: Manifest,
    crc32c: u32,
}

/// `source`: VM@SNAPSHOT. The folder appears when everything in it is complete and synced.
pub fn backup(client: &Client, printer: &Printer, source: &str, since: Option<&str>, folder: &Path) -> Result<()> {
    let (vm, snapshot) = rules::snapshots::split(source);
    let Some(snapshot) = snapshot else {
        bail!(
            "a backup is made of a snapshot; take one and name it: drystone vm snapshot {vm} monday; drystone vm backup {vm}@monday DIR"
        );
    };
    let all = client.vm_snapshots(vm)?;
    let taken = all.iter().find(|info| info.name == snapshot);
    let taken = taken.with_context(|| format!("VM {vm:?} has no snapshot {snapshot:?}"))?;
    let partial = UnfinishedFolder::create(folder)?;
    let vdisks = client.vm(vm)?.vdisks;
    let (mut entries, mut made) = (Vec::new(), Vec::new());
    for label in &taken.labels {
        let found = vdisks.iter().find(|one| one.label == *label);
        let vdisk = &found.with_context(|| format!("VM {vm:?} has no vDisk {label:?} any more"))?.vdisk;
        // A vDisk that came later has no such snapshot: all of it is new.
        let has_since = |since: &&str| client.snapshots(vdisk).map(|all| all.iter().any(|info| info.name == *since));
        let since = match since {
            Some(since) if has_since(&since)? => Some(since),
            _ => None,
        };
        let file = format!("{label}.dbk");
        let path = partial.path.join(&file);
        made.push(make_file(client, &format!("{vdisk}@{snapshot}"), since, &path)?);
        let proven = prove(std::slice::from_ref(&path))?.pop().context("one file was proven")?;
        entries.push(Entry { label: label.clone(), vdisk: vdisk.clone(), file, sha256: hex(&proven.digest) });
    }
    let manifest = Manifest {
        format: FORMAT,
        vm: vm.to_string(),
        snapshot: snapshot.to_string(),
        since: since.map(str::to_string),
        vdisks: entries,
    };
    write_manifest(&partial.path.join(MANIFEST), manifest)?;
    partial.finish(folder)?;
    printer.print(&made, |made: &Vec<Made>| {
        let bytes = made.iter().map(|one| one.file_bytes).sum();
        format!("backed up {source} to {}: {} vDisks, {}\n", folder.display(), made.len(), format_size(bytes))
    })
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn write_manifest(path: &Path, manifest: Manifest) -> Result<()> {
    let crc32c = crc32c(&serde_json::to_vec(&manifest)?);
    let text = serde_json::to_string_pretty(&Checked { manifest, crc32c })? + "\n";
    let mut file = File::create_new(path).with_context(|| format!("cannot create {}", path.display()))?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    written.with_context(|| format!("cannot write {}", path.display()))
}

fn read_manifest(folder: &Path) -> Result<Manifest> {
    let path = folder.join(MANIFEST);
    let failed = || format!("{} is refused", path.display());
    let len = std::fs::metadata(&path).with_context(|| format!("{} is no backup of a VM", folder.display()))?.len();
    ensure!(len <= MANIFEST_BYTES_MAX, "{}: it is too long", failed());
    let text = std::fs::read(&path).with_context(failed)?;
    let Checked { manifest, crc32c: expect } = serde_json::from_slice(&text).with_context(failed)?;
    ensure!(manifest.format == FORMAT, "{}: it has format {}, not {FORMAT}", failed(), manifest.format);
    ensure!(crc32c(&serde_json::to_vec(&manifest)?) == expect, "{}: it fails its checksum", failed());
    for entry in &manifest.vdisks {
        let is_plain = Path::new(&entry.file).file_name().is_some_and(|name| *name == *entry.file);
        ensure!(is_plain, "{}: {:?} is not the name of a file in it", failed(), entry.file);
    }
    Ok(manifest)
}

/// The backup files of one vDisk, proven and in their order.
struct Disk {
    label: String,
    files: Vec<PathBuf>,
    proven: Vec<Verified>,
}

/// Everything is proven first; the VM is there when all of its vDisks are.
pub fn restore(
    client: &Client,
    printer: &Printer,
    folders: &[PathBuf],
    name: &str,
    container: Option<&str>,
) -> Result<()> {
    rules::check_name(name)?;
    ensure!(client.vms()?.iter().all(|vm| vm.name != name), "VM {name:?} exists already; restore under another name");
    let disks = prove_folders(folders)?;
    for disk in &disks {
        let vdisk = vdisk_name(name, &disk.label);
        rules::check_name(&vdisk)?;
        ensure!(client.find(&vdisk)?.is_none(), "vDisk {vdisk:?} exists already; restore the VM under another name");
    }
    let mut filled = Vec::new();
    for disk in &disks {
        let vdisk = vdisk_name(name, &disk.label);
        filled.push((disk.label.clone(), fill(client, &disk.files, &disk.proven, &vdisk, container)?));
    }
    let made = become_vm(client, name, filled)?;
    printer.print(&made, |vm| format!("restored {} with {} vDisks\n", vm.name, vm.vdisks.len()))
}

/// As a VM calls the vDisks that are made for it.
pub fn vdisk_name(vm: &str, label: &str) -> String {
    format!("{vm}-{label}")
}

/// Everything in the folders is read. Several have to be what can be restored in this order.
pub fn verify(printer: &Printer, folders: &[PathBuf]) -> Result<()> {
    let manifests = read_manifests(folders)?;
    let labels: BTreeSet<&str> = manifests.iter().flat_map(|one| &one.vdisks).map(|entry| &*entry.label).collect();
    let (mut paths, mut proven) = (Vec::new(), Vec::new());
    for label in labels {
        let disk = prove_disk(label, &manifests, folders)?;
        if folders.len() > 1 {
            disk.check()?;
        }
        paths.extend(disk.files);
        proven.extend(disk.proven);
    }
    print_sound(printer, &paths, &proven)
}

fn prove_folders(folders: &[PathBuf]) -> Result<Vec<Disk>> {
    let manifests = read_manifests(folders)?;
    let last = manifests.last().context("a folder is needed")?;
    let disks = last.vdisks.iter().map(|wanted| {
        let disk = prove_disk(&wanted.label, &manifests, folders)?;
        disk.check()?;
        Ok(disk)
    });
    disks.collect()
}

/// All of one VM.
fn read_manifests(folders: &[PathBuf]) -> Result<Vec<Manifest>> {
    let manifests = folders.iter().map(|folder| read_manifest(folder)).collect::<Result<Vec<_>>>()?;
    let last = manifests.last().context("a folder is needed")?;
    if let Some((other, folder)) = manifests.iter().zip(folders).find(|(manifest, _)| manifest.vm != last.vm) {
        bail!("{} is of VM {:?}, the last folder of {:?}", folder.display(), other.vm, last.vm);
    }
    Ok(manifests)
}

/// From its last full file on; those before that are read too.
fn prove_disk(label: &str, manifests: &[Manifest], folders: &[PathBuf]) -> Result<Disk> {
    let (mut files, mut proven) = (Vec::new(), Vec::new());
    for (manifest, folder) in manifests.iter().zip(folders) {
        let Some(entry) = manifest.vdisks.iter().find(|entry| entry.label == label) else { continue };
        let path = folder.join(&entry.file);
        let found = prove(std::slice::from_ref(&path))?.pop().context("one file was proven")?;
        if hex(&found.digest) != entry.sha256 {
            bail!("{} is refused: it is another file than the one that {MANIFEST} beside it names", path.display());
        }
        if found.header.from.is_none() {
            (files, proven) = (Vec::new(), Vec::new());
        }
        files.push(path);
        proven.push(found);
    }
    Ok(Disk { label: label.to_string(), files, proven })
}

impl Disk {
    fn check(&self) -> Result<()> {
        check_chain(&self.files, &self.proven)
    }
}
