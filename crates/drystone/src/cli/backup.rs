//! `drystone vdisk backup` and `verify-backup`: a snapshot, or what changed since another one, into a file that proves itself.

use super::client::Client;
use super::output::{Printer, columns, time};
use super::progress::Progress;
use super::sparse;
use super::transfer;
use super::unfinished::Unfinished;
use anyhow::{Context, Result, bail};
use backup::{Header, Identity, Point, Summary, Verified, Writer};
use base::units::format_size;
use control::{SnapshotInfo, rules};
use serde::Serialize;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Of writes to the file: pipes take no more at once.
const BUFFER_BYTES: usize = 1 << 20;
/// The file name that stands for standard output.
const STDOUT: &str = "-";

/// What `-o json` prints.
#[derive(Serialize)]
pub struct Made {
    pub vdisk: String,
    pub snapshot: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    pub size_bytes: u64,
    /// Bytes of the vDisk in the file.
    pub data_bytes: u64,
    /// Bytes that it says read as zeros since.
    pub zero_bytes: u64,
    pub file_bytes: u64,
    pub seconds: f64,
}

/// `source`: NAME@SNAPSHOT.
pub fn run(client: &Client, printer: &Printer, source: &str, since: Option<&str>, path: &Path) -> Result<()> {
    let made = if path == Path::new(STDOUT) {
        let (sink, made) = make(client, source, since, std::io::stdout().lock())?;
        drop(sink);
        // Standard output is the backup.
        eprint!("{}", made_text(&made, "standard output"));
        return Ok(());
    } else {
        make_file(client, source, since, path)?
    };
    printer.print(&made, |made| made_text(made, &path.display().to_string()))
}

/// The file appears when it is complete and synced.
pub fn make_file(client: &Client, source: &str, since: Option<&str>, path: &Path) -> Result<Made> {
    let unfinished = Unfinished::create(path)?;
    let (_, made) = make(client, source, since, &unfinished.file)?;
    unfinished.finish(path)?;
    Ok(made)
}

fn make<W: Write>(client: &Client, source: &str, since: Option<&str>, sink: W) -> Result<(W, Made)> {
    let (name, snapshot) = rules::snapshots::split(source);
    let Some(snapshot) = snapshot else {
        bail!(
            "a backup is made of a snapshot, which stands still; take one and name it: \
             drystone vdisk snapshot {name} monday; drystone vdisk backup {name}@monday FILE"
        );
    };
    let header = header(client, name, snapshot, since)?;
    let pieces = pieces(client, name, snapshot, since)?;
    let export = format!("{name}{}{snapshot}", rules::snapshots::SEPARATOR);
    let bytes = pieces.iter().filter(|piece| piece.data).map(|piece| piece.range.end - piece.range.start).sum();

    let progress = Progress::start("backed up", bytes);
    let written = write(client, &export, &header, &pieces, sink, &progress);
    let seconds = progress.end();
    let (sink, Summary { data_bytes, zero_bytes, file_bytes, .. }) = written?;
    let made = Made {
        vdisk: name.to_string(),
        snapshot: snapshot.to_string(),
        since: since.map(str::to_string),
        size_bytes: header.to.size_bytes,
        data_bytes,
        zero_bytes,
        file_bytes,
        seconds,
    };
    Ok((sink, made))
}

fn write<W: Write>(
    client: &Client,
    export: &str,
    header: &Header,
    pieces: &[Piece],
    sink: W,
    progress: &Progress,
) -> Result<(W, Summary)> {
    let failed = || "cannot write the backup";
    let sink = BufWriter::with_capacity(BUFFER_BYTES, sink);
    let mut writer = Writer::begin(sink, header).with_context(failed)?;
    let fetch = |piece: &Piece| {
        let mut buffer = vec![0; if piece.data { (piece.range.end - piece.range.start) as usize } else { 0 }];
        if piece.data {
            client.read(export, piece.range.start, &mut buffer)?;
        }
        Ok(buffer)
    };
    transfer::in_order(pieces, fetch, |piece, bytes| {
        let (start, mut done) = (piece.range.start, 0);
        for run in sparse::non_zero_runs(&bytes) {
            if run.start > done {
                writer.zeros(start + done as u64, (run.start - done) as u64).with_context(failed)?;
            }
            done = run.end;
            writer.data(start + run.start as u64, &bytes[run]).with_context(failed)?;
        }
        if start + (done as u64) < piece.range.end {
            writer.zeros(start + done as u64, piece.range.end - start - done as u64).with_context(failed)?;
        }
        progress.add(bytes.len() as u64);
        Ok(())
    })?;
    let (sink, summary) = writer.finish().with_context(failed)?;
    Ok((sink.into_inner().map_err(|error| error.into_error()).with_context(failed)?, summary))
}

/// A part that is in the file, at most as long as one request may be.
struct Piece {
    range: Range<u64>,
    /// Else it reads as zeros.
    data: bool,
}

fn pieces(client: &Client, name: &str, snapshot: &str, since: Option<&str>) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    client.changes(name, since, Some(snapshot), |changes| {
        for change in changes {
            let range = change.offset..change.offset + change.len;
            if change.data {
                let chunks = transfer::chunks(std::slice::from_ref(&range)).collect::<Vec<_>>();
                pieces.extend(chunks.into_iter().map(|range| Piece { range, data: true }));
            } else {
                pieces.push(Piece { range, data: false });
            }
        }
        Ok(())
    })?;
    Ok(pieces)
}

fn header(client: &Client, name: &str, snapshot: &str, since: Option<&str>) -> Result<Header> {
    let vdisk = client.show(name)?;
    let all = client.snapshots(name)?;
    let find = |wanted: &str| {
        let found = all.iter().position(|info| info.name == wanted);
        found.with_context(|| format!("vDisk {name:?} has no snapshot {wanted:?}"))
    };
    let to = find(snapshot)?;
    let from = since.map(&find).transpose()?;
    // They are listed in the order of their age.
    if let Some(since) = since.filter(|_| from.is_some_and(|from| from >= to)) {
        bail!("snapshot {since:?} is not older than {snapshot:?}; name an older one with --since");
    }
    let made = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Ok(Header {
        vdisk: Identity { id: vdisk.id, name: vdisk.name, created_unix_ms: vdisk.created_unix_ms },
        sector_bytes: vdisk.sector_bytes,
        from: from.map(|from| point(&all[from])),
        to: point(&all[to]),
        made_unix_ms: made.map_or(0, |since| since.as_millis() as u64),
    })
}

fn point(info: &SnapshotInfo) -> Point {
    Point {
        id: info.id.clone(),
        name: info.name.clone(),
        created_unix_ms: info.created_unix_ms,
        size_bytes: info.size_bytes,
    }
}

fn made_text(made: &Made, file: &str) -> String {
    let [data, bytes] = [made.data_bytes, made.file_bytes].map(format_size);
    let since = made.since.as_ref().map(|since| format!(" since {since}")).unwrap_or_default();
    format!(
        "backed up {}@{}{since} to {file}: {data} of data, {bytes}, in {:.1} s\n",
        made.vdisk, made.snapshot, made.seconds
    )
}

/// A file that was proven, for `-o json`.
#[derive(Serialize)]
struct Proven {
    file: PathBuf,
    vdisk: String,
    vdisk_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    snapshot: String,
    snapshot_unix_ms: u64,
    size_bytes: u64,
    data_bytes: u64,
    file_bytes: u64,
    /// SHA-256 of the file up to its digest.
    sha256: String,
}

/// Reads all of every file; a file that is not what was written is an error, and so is an order in which they cannot be
/// restored.
pub fn verify(printer: &Printer, paths: &[PathBuf]) -> Result<()> {
    let files = prove(paths)?;
    if files.len() > 1 {
        check_chain(paths, &files)?;
    }
    print_sound(printer, paths, &files)
}

pub fn print_sound(printer: &Printer, paths: &[PathBuf], files: &[Verified]) -> Result<()> {
    let proven: Vec<Proven> = paths.iter().zip(files).map(|(path, file)| proven(path, file)).collect();
    printer.print(&proven, |proven| {
        let rows: Vec<_> = proven
            .iter()
            .map(|one| {
                [
                    one.vdisk.clone(),
                    one.since.clone().unwrap_or_else(|| "(full)".into()),
                    one.snapshot.clone(),
                    time(one.snapshot_unix_ms),
                    format_size(one.file_bytes),
                    one.file.display().to_string(),
                ]
            })
            .collect();
        columns(["VDISK", "SINCE", "SNAPSHOT", "TAKEN", "BYTES", "SOUND FILE"], &rows)
    })
}

fn proven(path: &Path, file: &Verified) -> Proven {
    let Verified { header, summary, digest } = file;
    Proven {
        file: path.to_path_buf(),
        vdisk: header.vdisk.name.clone(),
        vdisk_id: header.vdisk.id.clone(),
        since: header.from.as_ref().map(|from| from.name.clone()),
        snapshot: header.to.name.clone(),
        snapshot_unix_ms: header.to.created_unix_ms,
        size_bytes: header.to.size_bytes,
        data_bytes: summary.data_bytes,
        file_bytes: summary.file_bytes,
        sha256: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

/// Each file on its own, read to its end.
pub fn prove(paths: &[PathBuf]) -> Result<Vec<Verified>> {
    let bytes = paths.iter().map(|path| std::fs::metadata(path).map_or(0, |metadata| metadata.len())).sum();
    let progress = Progress::start("verified", bytes);
    let verified = paths.iter().map(|path| {
        let file = open(path)?;
        let verified = backup::verify(Counting { file, progress: &progress });
        verified.with_context(|| format!("{} is refused", path.display()))
    });
    let verified = verified.collect();
    progress.end();
    verified
}

pub fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("cannot open {}", path.display()))
}

/// In the order in which they were given they lead from nothing to the last one's snapshot.
pub fn check_chain(paths: &[PathBuf], files: &[Verified]) -> Result<()> {
    let headers: Vec<&Header> = files.iter().map(|file| &file.header).collect();
    backup::check_chain(&headers).map_err(|error| {
        let which = error.file().and_then(|at| paths.get(at)).map(|path| format!("{} is refused: ", path.display()));
        anyhow::anyhow!("{}{error}", which.unwrap_or_default())
    })
}

/// Tells the progress what is read.
struct Counting<'a> {
    file: File,
    progress: &'a Progress,
}

impl std::io::Read for Counting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.progress.add(count as u64);
        Ok(count)
    }
}
