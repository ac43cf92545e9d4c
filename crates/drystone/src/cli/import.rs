//! `drystone vdisk import`: an image into a vDisk, holes and zeros left out.
//!
//! A new vDisk gets its name when all of its content is there. Until then it is called after the name and a number that
//! the image's files have until they are changed, so that the same command goes on where an earlier one was cut short. How
//! far that came the vDisk says itself: the image is copied front to back, one segment after the other, and a log that
//! kept a later write has every earlier one.

use super::client::Client;
use super::image::{Options, Source};
use super::output::Printer;
use super::progress::Progress;
use super::temporary;
use super::{sparse, transfer};
use anyhow::{Context, Result, bail};
use api::PatchVdisk;
use base::units::{BLOCK, SECTOR, format_size, round_up};
use control::{CreateVdisk, DeleteVdisk, rules};
use serde::Serialize;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Chunks of one segment: 64 MiB, so that the wait for its last one does not count.
const SEGMENT_CHUNKS: usize = 16;

/// What `-o json` prints.
#[derive(Serialize)]
pub struct Imported {
    vdisk: String,
    format: &'static str,
    /// Size of the disk in the image.
    file_bytes: u64,
    /// Bytes that were sent; the rest are zeros, or were there already.
    data_bytes: u64,
    /// Where it went on, if an earlier import was cut short.
    #[serde(skip_serializing_if = "Option::is_none")]
    resumed_at: Option<u64>,
    seconds: f64,
}

pub fn run(
    client: &Client,
    printer: &Printer,
    name: &str,
    path: &Path,
    container: Option<&str>,
    options: Options,
) -> Result<()> {
    rules::check_name(name)?;
    let source = Source::open(path, options)?;
    let place = match client.find(name)? {
        Some(info) => {
            check_stays(&info, container)?;
            Place::replace(client, &info, path, &source)?
        }
        None => Place::new(client, name, &source, container)?,
    };
    let imported = place.fill(client, name, &source)?;
    place.name(client, name)?;
    printer.print(&imported, |imported| imported.text(&path.display().to_string()))
}

impl Imported {
    fn text(&self, path: &str) -> String {
        let [size, data] = [self.file_bytes, self.data_bytes].map(format_size);
        let resumed = self.resumed_at.map(|at| format!(" from {} on", format_size(at))).unwrap_or_default();
        let (name, seconds) = (&self.vdisk, self.seconds);
        format!("imported {path} into {name}{resumed}: {size}, {data} of it data, in {seconds:.1} s\n")
    }
}

/// Where the content goes.
pub struct Place {
    pub vdisk: String,
    kind: Kind,
}

enum Kind {
    /// The vDisk that was there: its content is replaced where it is.
    Replaced,
    /// A new one, or what an earlier import of the same image has left.
    New { was_there: bool },
}

/// What is there already is not moved.
fn check_stays(info: &control::VdiskInfo, container: Option<&str>) -> Result<()> {
    match container {
        Some(container) if container != info.container => bail!(
            "vDisk {:?} is in container {:?}; move it first: drystone vdisk move {} --container {container}",
            info.name,
            info.container,
            info.name
        ),
        _ => Ok(()),
    }
}

/// The controller looks only at what is made.
fn check_room(client: &Client, container: &str) -> Result<()> {
    let info = client.container(container)?;
    rules::containers::check_capacity(&info.name, info.capacity_bytes, info.used_bytes, 0)
        .map_err(|error| anyhow::anyhow!(error.message))
}

impl Place {
    fn replace(client: &Client, info: &control::VdiskInfo, path: &Path, source: &Source) -> Result<Place> {
        check_room(client, &info.container)?;
        empty(client, info, path, round_up(source.size_bytes, BLOCK))?;
        Ok(Place { vdisk: info.name.clone(), kind: Kind::Replaced })
    }

    /// Of a vDisk that is not there.
    pub fn new(client: &Client, name: &str, source: &Source, container: Option<&str>) -> Result<Place> {
        let size_bytes = round_up(source.size_bytes, BLOCK);
        let number = match source.identity {
            Some(identity) => identity,
            None => temporary::random()?,
        };
        let vdisk = temporary::name(name, rules::IMPORTING, number);
        let was_there = match client.find(&vdisk)? {
            Some(info) if info.size_bytes != size_bytes => {
                bail!("vDisk {vdisk:?} is in the way; delete it first: drystone vdisk delete {vdisk}")
            }
            Some(info) => {
                check_stays(&info, container)?;
                true
            }
            None => {
                let container = container.map(str::to_string);
                let sector_bytes = rules::SECTOR_BYTES_DEFAULT;
                client.create(&CreateVdisk {
                    name: vdisk.clone(),
                    size_bytes,
                    sector_bytes,
                    container,
                    near: None,
                    rewind: None,
                })?;
                false
            }
        };
        Ok(Place { vdisk, kind: Kind::New { was_there } })
    }

    /// All of the image, flushed. What goes wrong leaves what the same import goes on with, if it can.
    pub fn fill(&self, client: &Client, name: &str, source: &Source) -> Result<Imported> {
        let chunks: Vec<Range<u64>> = transfer::chunks(&source.runs).collect();
        let resumed = self.resumed(client, source, &chunks)?;
        let rest = &chunks[resumed.unwrap_or(0)..];
        let progress = Progress::start("imported", rest.iter().map(|run| run.end - run.start).sum());
        let sent = AtomicU64::new(0);
        let copied = rest.chunks(SEGMENT_CHUNKS).try_for_each(|segment| {
            transfer::run(segment, &progress, |offset, buffer| {
                source.read(offset, buffer)?;
                for run in sparse::non_zero_runs(buffer) {
                    let data = &buffer[run.clone()];
                    send(client, &self.vdisk, offset + run.start as u64, data)?;
                    sent.fetch_add(data.len() as u64, Ordering::Relaxed);
                }
                Ok(())
            })
        });
        let seconds = progress.end();
        let flushed = copied.and_then(|()| client.flush(&self.vdisk));
        self.judge(client, name, source, flushed)?;
        Ok(Imported {
            vdisk: name.to_string(),
            format: source.format.name(),
            file_bytes: source.size_bytes,
            data_bytes: sent.into_inner(),
            resumed_at: resumed.and_then(|first| chunks.get(first)).map(|chunk| chunk.start),
            seconds,
        })
    }

    /// The chunk from which on everything is to be sent. `None`: nothing is there yet.
    fn resumed(&self, client: &Client, source: &Source, chunks: &[Range<u64>]) -> Result<Option<usize>> {
        if !matches!(self.kind, Kind::New { was_there: true }) {
            return Ok(None);
        }
        let extents = client.extents(&self.vdisk, round_up(source.size_bytes, BLOCK))?;
        let Some(last) = extents.iter().rfind(|extent| extent.data) else { return Ok(None) };
        let reached = chunks.partition_point(|chunk| chunk.start < last.offset + last.len);
        // Of the segment that it was in any chunk may be missing.
        Ok(Some(reached.saturating_sub(1) / SEGMENT_CHUNKS * SEGMENT_CHUNKS))
    }

    fn judge(&self, client: &Client, name: &str, source: &Source, filled: Result<()>) -> Result<()> {
        let vdisk = &self.vdisk;
        if let Kind::Replaced = self.kind {
            return filled
                .with_context(|| format!("vDisk {name:?} is incomplete; start the import again, or delete it"));
        }
        let unchanged = source.check_unchanged();
        if unchanged.is_err() || (source.identity.is_none() && filled.is_err()) {
            // Nothing could go on with it.
            client.delete(vdisk, DeleteVdisk { force: true, snapshots: true })?;
            return filled.and(unchanged).with_context(|| format!("no vDisk {name:?} was made"));
        }
        filled.with_context(|| {
            format!(
                "vDisk {name:?} was not made; the same command goes on where this one stopped, \
                 `drystone vdisk delete {vdisk}` gives it up"
            )
        })
    }

    /// Gives a new vDisk its name, once it is filled.
    pub fn name(&self, client: &Client, name: &str) -> Result<()> {
        if let Kind::New { .. } = self.kind {
            let rename = PatchVdisk { name: Some(name.to_string()), ..PatchVdisk::default() };
            let left = || format!("the image is in vDisk {:?}, which could not be renamed", self.vdisk);
            client.patch(&self.vdisk, &rename).with_context(left)?;
        }
        Ok(())
    }
}

/// Checks the vDisk there is and empties it, so that holes of the file need not be sent.
fn empty(client: &Client, info: &control::VdiskInfo, path: &Path, size_bytes: u64) -> Result<()> {
    let name = &info.name;
    if info.size_bytes < size_bytes {
        bail!(
            "vDisk {name:?} has {} and {} needs {}; enlarge it first: drystone vdisk resize {name} --size {size_bytes}",
            format_size(info.size_bytes),
            path.display(),
            format_size(size_bytes)
        );
    }
    if info.read_only {
        bail!("vDisk {name:?} is read-only; make it writable first: drystone vdisk set {name} --read-only off");
    }
    if info.connections > 0 {
        bail!(
            "{} clients are connected to vDisk {name:?}; disconnect them before its content is replaced",
            info.connections
        );
    }
    if info.mapped_bytes > 0 {
        client.write_zeroes(name, 0, info.size_bytes)?;
    }
    Ok(())
}

/// Requests come in sectors; what the end of the file lacks to a whole one is sent as zeros.
fn send(client: &Client, name: &str, offset: u64, data: &[u8]) -> Result<()> {
    let len = round_up(data.len() as u64, SECTOR) as usize;
    if len == data.len() {
        return client.write(name, offset, data);
    }
    let mut padded = data.to_vec();
    padded.resize(len, 0);
    client.write(name, offset, &padded)
}
