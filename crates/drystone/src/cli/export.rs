//! `drystone vdisk export`: a vDisk or a snapshot into an image that appears when it is complete.

use super::client::Client;
use super::image::{Format, Target};
use super::output::Printer;
use super::progress::Progress;
use super::{sparse, transfer};
use anyhow::{Context, Result};
use base::units::format_size;
use control::rules;
use serde::Serialize;
use std::ops::Range;
use std::path::Path;

/// What `-o json` prints.
#[derive(Serialize)]
pub struct Exported {
    vdisk: String,
    format: &'static str,
    /// Size of the disk in the image.
    file_bytes: u64,
    /// Bytes that were fetched; the rest are holes.
    data_bytes: u64,
    seconds: f64,
}

/// `name`: NAME or NAME@SNAPSHOT.
pub fn run(client: &Client, printer: &Printer, name: &str, path: &Path, format: Option<Format>) -> Result<()> {
    let exported = to_file(client, name, path, format.unwrap_or_else(|| Format::of_name(path)))?;
    printer.print(&exported, |exported| {
        let [size, data] = [exported.file_bytes, exported.data_bytes].map(format_size);
        let seconds = exported.seconds;
        format!("exported {name} to {}: {size}, {data} of it data, in {seconds:.1} s\n", path.display())
    })
}

/// The file appears when it is complete and synced.
pub fn to_file(client: &Client, name: &str, path: &Path, format: Format) -> Result<Exported> {
    let size_bytes = size_of(client, name)?;
    let extents = client.extents(name, size_bytes)?;
    let runs: Vec<Range<u64>> =
        extents.iter().filter(|extent| extent.data).map(|extent| extent.offset..extent.offset + extent.len).collect();
    let data_bytes = runs.iter().map(|run| run.end - run.start).sum();

    let target = Target::create(path, format, size_bytes)?;
    let progress = Progress::start("exported", data_bytes);
    let copied = transfer::run(&runs, &progress, |offset, buffer| {
        client.read(name, offset, buffer)?;
        for run in sparse::non_zero_runs(buffer) {
            let at = offset + run.start as u64;
            target.write(at, &buffer[run]).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    });
    let seconds = progress.end();
    copied?;
    target.finish(path)?;
    Ok(Exported { vdisk: name.to_string(), format: format.name(), file_bytes: size_bytes, data_bytes, seconds })
}

fn size_of(client: &Client, name: &str) -> Result<u64> {
    let (vdisk, snapshot) = rules::snapshots::split(name);
    let Some(snapshot) = snapshot else {
        let info = client.show(name)?;
        if info.connections > 0 {
            eprintln!(
                "note: {} clients are connected; what they write now may be in the copy or not",
                info.connections
            );
        }
        return Ok(info.size_bytes);
    };
    let all = client.snapshots(vdisk)?;
    let found = all.iter().find(|info| info.name == snapshot);
    Ok(found.with_context(|| format!("vDisk {vdisk:?} has no snapshot {snapshot:?}"))?.size_bytes)
}
