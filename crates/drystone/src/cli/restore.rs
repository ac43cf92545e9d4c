//! `drystone vdisk restore`: backup files into a new vDisk, which gets its name when all of it is there.

use super::backup::{check_chain, open, prove};
use super::client::Client;
use super::output::Printer;
use super::progress::Progress;
use super::temporary::Temporary;
use super::transfer;
use anyhow::{Context, Result, bail};
use backup::{Read, Reader, Verified};
use base::units::format_size;
use control::{CreateVdisk, rules};
use serde::Serialize;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What `-o json` prints.
#[derive(Serialize)]
struct Restored {
    vdisk: String,
    /// Of which vDisk and snapshot the content is.
    of: String,
    snapshot: String,
    size_bytes: u64,
    /// Bytes that were written.
    data_bytes: u64,
    seconds: f64,
}

pub fn run(client: &Client, printer: &Printer, files: &[PathBuf], name: &str, container: Option<&str>) -> Result<()> {
    rules::check_name(name)?;
    check_free(client, name)?;
    let proven = prove(files)?;
    check_chain(files, &proven)?;
    let restored = restore(client, files, &proven, name, container)?;
    printer.print(&restored, |restored| {
        format!(
            "restored {}@{} as {name}: {}, {} written, in {:.1} s\n",
            restored.of,
            restored.snapshot,
            format_size(restored.size_bytes),
            format_size(restored.data_bytes),
            restored.seconds
        )
    })
}

fn check_free(client: &Client, name: &str) -> Result<()> {
    if client.find(name)?.is_some() {
        bail!("vDisk {name:?} exists already; restore under another name");
    }
    Ok(())
}

fn restore(
    client: &Client,
    files: &[PathBuf],
    proven: &[Verified],
    name: &str,
    container: Option<&str>,
) -> Result<Restored> {
    let begun = Instant::now();
    let temporary = fill(client, files, proven, name, container)?;
    temporary.become_final(name)?;
    let last = &proven.last().context("there is a file, or it would be no chain")?.header;
    Ok(Restored {
        vdisk: name.to_string(),
        of: last.vdisk.name.clone(),
        snapshot: last.to.name.clone(),
        size_bytes: last.to.size_bytes,
        data_bytes: proven.iter().map(|file| file.summary.data_bytes).sum(),
        seconds: begun.elapsed().as_secs_f64(),
    })
}

/// A vDisk with the content of the files, not named yet. `proven`: what they were found to be, in the order of a chain.
pub fn fill<'a>(
    client: &'a Client,
    files: &[PathBuf],
    proven: &[Verified],
    wanted: &str,
    container: Option<&str>,
) -> Result<Temporary<'a>> {
    let last = &proven.last().context("there is a file, or it would be no chain")?.header;
    let temporary = Temporary::create(client, wanted, |name| CreateVdisk {
        name,
        size_bytes: last.to.size_bytes,
        sector_bytes: last.sector_bytes,
        container: container.map(str::to_string),
        near: None,
        rewind: None,
    })?;
    let progress = Progress::start("restored", proven.iter().map(|file| file.summary.data_bytes).sum());
    let written = files.iter().zip(proven).try_for_each(|(path, file)| {
        let done = write(client, &temporary.name, path, file, &progress);
        done.with_context(|| format!("{} was not restored, and no vDisk {wanted:?} is there", path.display()))
    });
    progress.end();
    written?;
    Ok(temporary)
}

/// What one request does.
enum Write {
    Data(u64, Vec<u8>),
    Zeros(u64, u64),
}

/// All of one file. The next one may only follow when this one is written: they overlap.
fn write(client: &Client, vdisk: &str, path: &Path, proven: &Verified, progress: &Progress) -> Result<()> {
    let mut reader = Reader::open(BufReader::with_capacity(1 << 20, open(path)?))?;
    let next = || {
        Ok(reader.next()?.map(|read| match read {
            Read::Data { offset, bytes } => Write::Data(offset, bytes.to_vec()),
            Read::Zeros { offset, len } => Write::Zeros(offset, len),
        }))
    };
    transfer::spread(next, |write| match write {
        Write::Data(offset, bytes) => {
            client.write(vdisk, offset, &bytes)?;
            progress.add(bytes.len() as u64);
            Ok(())
        }
        Write::Zeros(offset, len) => client.write_zeroes(vdisk, offset, len),
    })?;
    // It is the file that was proven, from its beginning to its end.
    if reader.verified().as_ref() != Some(proven) {
        bail!("it is another file than the one that was verified before");
    }
    Ok(())
}
