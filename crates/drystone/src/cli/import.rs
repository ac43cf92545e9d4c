//! `drystone vdisk import`: a raw image into a vDisk, holes and zeros left out.

use super::client::Client;
use super::output::Printer;
use super::progress::Progress;
use super::{sparse, transfer};
use anyhow::{Context, Result, bail};
use base::units::{BLOCK, SECTOR, format_size, round_up};
use control::{CreateVdisk, rules};
use serde::Serialize;
use std::fs::File;
use std::io::{ErrorKind, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// What `-o json` prints.
#[derive(Serialize)]
pub struct Imported {
    vdisk: String,
    file_bytes: u64,
    /// Bytes that were sent; the rest are zeros.
    data_bytes: u64,
    seconds: f64,
}

pub fn run(client: &Client, printer: &Printer, name: &str, path: &Path) -> Result<()> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        bail!("{} is a directory; name a raw image", path.display());
    }
    // Not from the metadata: a block device has its size here only.
    let file_bytes = file.seek(SeekFrom::End(0)).with_context(|| format!("{} has no size", path.display()))?;
    let runs = sparse::data_runs(&file, file_bytes).with_context(|| format!("{}", path.display()))?;
    prepare(client, name, path, file_bytes)?;

    let progress = Progress::start("imported", runs.iter().map(|run| run.end - run.start).sum());
    let sent = AtomicU64::new(0);
    let copied = transfer::run(&runs, &progress, |offset, buffer| {
        read_exactly(&file, path, offset, buffer)?;
        for run in sparse::non_zero_runs(buffer) {
            let data = &buffer[run.clone()];
            send(client, name, offset + run.start as u64, data)?;
            sent.fetch_add(data.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    });
    let flushed = copied.and_then(|()| client.flush(name));
    let seconds = progress.end();
    flushed.with_context(|| format!("vDisk {name:?} is incomplete; start the import again, or delete it"))?;

    let imported = Imported { vdisk: name.to_string(), file_bytes, data_bytes: sent.into_inner(), seconds };
    printer.print(&imported, |imported| {
        let [size, data] = [imported.file_bytes, imported.data_bytes].map(format_size);
        format!("imported {} into {name}: {size}, {data} of it data, in {seconds:.1} s\n", path.display())
    })
}

/// Creates the vDisk, or checks the one there is and empties it, so that holes of the file need not be sent.
fn prepare(client: &Client, name: &str, path: &Path, file_bytes: u64) -> Result<()> {
    if file_bytes == 0 {
        bail!("{} is empty; there is nothing to import", path.display());
    }
    let size_bytes = round_up(file_bytes, BLOCK);
    let Some(info) = client.find(name)? else {
        let sector_bytes = rules::SECTOR_BYTES_DEFAULT;
        client.create(&CreateVdisk { name: name.to_string(), size_bytes, sector_bytes })?;
        return Ok(());
    };
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

fn read_exactly(file: &File, path: &Path, offset: u64, buffer: &mut [u8]) -> Result<()> {
    file.read_exact_at(buffer, offset).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => anyhow::anyhow!("{} became shorter while it was read", path.display()),
        _ => anyhow::Error::from(error).context(format!("cannot read {} at offset {offset}", path.display())),
    })
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
