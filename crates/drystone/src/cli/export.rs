//! `drystone vdisk export`: a vDisk into a raw image that appears when it is complete.

use super::client::Client;
use super::output::Printer;
use super::progress::Progress;
use super::{sparse, transfer};
use anyhow::{Context, Result, bail};
use base::units::format_size;
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What `-o json` prints.
#[derive(Serialize)]
pub struct Exported {
    vdisk: String,
    file_bytes: u64,
    /// Bytes that were fetched; the rest are holes.
    data_bytes: u64,
    seconds: f64,
}

pub fn run(client: &Client, printer: &Printer, name: &str, path: &Path) -> Result<()> {
    let info = client.show(name)?;
    if info.connections > 0 {
        eprintln!("note: {} clients are connected; what they write now may be in the copy or not", info.connections);
    }
    let extents = client.extents(name, info.size_bytes)?;
    let runs: Vec<Range<u64>> =
        extents.iter().filter(|extent| extent.data).map(|extent| extent.offset..extent.offset + extent.len).collect();
    let data_bytes = runs.iter().map(|run| run.end - run.start).sum();

    let unfinished = Unfinished::create(path)?;
    let file = &unfinished.file;
    file.set_len(info.size_bytes).with_context(|| format!("cannot make {} that long", path.display()))?;
    let progress = Progress::start("exported", data_bytes);
    let copied = transfer::run(&runs, &progress, |offset, buffer| {
        client.read(name, offset, buffer)?;
        for run in sparse::non_zero_runs(buffer) {
            let at = offset + run.start as u64;
            file.write_all_at(&buffer[run], at).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    });
    let seconds = progress.end();
    copied?;
    unfinished.finish(path)?;

    let exported = Exported { vdisk: name.to_string(), file_bytes: info.size_bytes, data_bytes, seconds };
    printer.print(&exported, |exported| {
        let [size, data] = [exported.file_bytes, exported.data_bytes].map(format_size);
        format!("exported {name} to {}: {size}, {data} of it data, in {seconds:.1} s\n", path.display())
    })
}

/// A file under a name of its own beside the final one; removed if it is not finished.
struct Unfinished {
    file: File,
    /// `None` once it has its final name.
    path: Option<PathBuf>,
}

impl Unfinished {
    fn create(target: &Path) -> Result<Unfinished> {
        let name = target.file_name().with_context(|| format!("{} is not the name of a file", target.display()))?;
        if std::fs::metadata(target).is_ok_and(|metadata| !metadata.is_file()) {
            bail!("{} is not a regular file; to fill a device, use nbdcopy or qemu-img convert", target.display());
        }
        let mut partial = name.to_os_string();
        partial.push(format!(".partial-{}", std::process::id()));
        let path = target.with_file_name(partial);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Unfinished { file, path: Some(path) })
    }

    /// Synced, then named, then the name synced: after a power loss there is the whole file or none.
    fn finish(mut self, target: &Path) -> Result<()> {
        self.file.sync_all().with_context(|| format!("cannot sync {}", target.display()))?;
        if let Some(path) = &self.path {
            std::fs::rename(path, target).with_context(|| format!("cannot rename {} to its name", path.display()))?;
        }
        self.path = None;
        let directory = target.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let synced = File::open(directory).and_then(|directory| directory.sync_all());
        synced.with_context(|| format!("cannot sync the directory {}", directory.display()))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // There is nobody left to tell, and what went wrong before matters more.
            let _ = std::fs::remove_file(path);
        }
    }
}
