//! An image that is to be imported: how large it is, where it holds data, and its bytes.

use super::format::Format;
use super::inspect::inspect;
use super::qemu::{Access, Served};
use crate::cli::sparse;
use anyhow::{Context, Result, bail};
use base::crc::{crc32c, crc32c_append};
use std::fs::File;
use std::io::{ErrorKind, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// What the user says about it.
#[derive(Clone, Copy, Default)]
pub struct Options {
    pub format: Option<Format>,
    /// Files that the image refers to may be read too.
    pub allow_backing: bool,
}

pub struct Source {
    path: PathBuf,
    pub format: Format,
    pub size_bytes: u64,
    /// Where it holds data, in order and apart.
    pub runs: Vec<Range<u64>>,
    content: Content,
    files: Vec<PathBuf>,
    /// Of the files as they were before anything was read. `None`: they cannot be known again.
    pub identity: Option<u32>,
}

enum Content {
    Raw(File),
    Served(Served),
}

impl Source {
    /// Everything about it that can be found out without reading all of it.
    pub fn open(path: &Path, options: Options) -> Result<Source> {
        let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
            bail!("{} is a directory; name an image", path.display());
        }
        let format = Format::of_file(path, &file, options.format)?;
        let shown = || path.display().to_string();
        if format == Format::Raw {
            // Not from the metadata: a block device has its size here only.
            let size_bytes = file.seek(SeekFrom::End(0)).with_context(|| format!("{} has no size", shown()))?;
            if size_bytes == 0 {
                bail!("{} is empty; there is nothing to import", shown());
            }
            let identity = identity(&[path.to_path_buf()])?;
            let runs = sparse::data_runs(&file, size_bytes).with_context(shown)?;
            let files = vec![path.to_path_buf()];
            return Ok(Source {
                path: path.into(),
                format,
                size_bytes,
                runs,
                content: Content::Raw(file),
                files,
                identity,
            });
        }
        let refused = || format!("{} cannot be imported as a {} image", shown(), format.name());
        let absolute = std::path::absolute(path)?;
        let found = inspect(&absolute, format, options.allow_backing).with_context(refused)?;
        let identity = identity(&found.files).with_context(refused)?;
        let served = Served::start(&absolute, format, Access::Read).with_context(refused)?;
        if served.size_bytes < found.size_bytes {
            bail!("{} became shorter while it was opened", shown());
        }
        let (size_bytes, runs, files) = (found.size_bytes, found.runs, found.files);
        Ok(Source { path: path.into(), format, size_bytes, runs, content: Content::Served(served), files, identity })
    }

    /// Fills `buffer`, or fails.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let failed = || format!("cannot read {} at offset {offset}", self.path.display());
        match &self.content {
            Content::Served(served) => served.with(|client| client.read(offset, buffer)).with_context(failed),
            Content::Raw(file) => file.read_exact_at(buffer, offset).map_err(|error| match error.kind() {
                ErrorKind::UnexpectedEof => anyhow::anyhow!("{} became shorter while it was read", self.path.display()),
                _ => anyhow::Error::from(error).context(failed()),
            }),
        }
    }

    /// Its files are what they were when it was opened.
    pub fn check_unchanged(&self) -> Result<()> {
        if self.identity.is_some() && identity(&self.files)? != self.identity {
            bail!("{} was changed while it was read", self.path.display());
        }
        Ok(())
    }
}

/// Changes whenever a file is replaced, written, or given back an old time. (The time of the last change of its inode cannot
/// be set.) `None`: one is no regular file, whose times say nothing.
fn identity(files: &[PathBuf]) -> Result<Option<u32>> {
    let mut sum = crc32c(b"");
    for file in files {
        let about = std::fs::metadata(file).with_context(|| format!("cannot look at {}", file.display()))?;
        if !about.is_file() {
            return Ok(None);
        }
        let times = [about.mtime(), about.mtime_nsec(), about.ctime(), about.ctime_nsec()].map(|part| part as u64);
        for part in [about.dev(), about.ino(), about.len()].into_iter().chain(times) {
            sum = crc32c_append(sum, &part.to_le_bytes());
        }
    }
    Ok(Some(sum))
}
