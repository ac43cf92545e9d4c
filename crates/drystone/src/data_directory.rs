//! The data directory as far as every start needs it: made private, locked for one process, and with its token.
//!
//! The files `lock` and `token` are ours; everything else in the directory belongs to the engine.

use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// 256 bits, more than anybody guesses.
const TOKEN_BYTES: usize = 32;

/// Held as long as this process uses the directory; the kernel lets go of the lock when the process ends, however.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    _lock: File,
}

impl DataDirectory {
    /// Creates it if it is missing. Refused while another process holds it.
    pub fn create_or_open(path: &Path) -> Result<DataDirectory> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| format!("cannot create the data directory {}", path.display()))?;
        DataDirectory::open(path)
    }

    /// The directory must exist.
    pub fn open(path: &Path) -> Result<DataDirectory> {
        if !path.is_dir() {
            bail!("there is no data directory {}; name the right one with --data", path.display());
        }
        let file = path.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&file)
            .with_context(|| format!("cannot open {}", file.display()))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(in_use(path, &mut lock)),
            Err(error) => return Err(error).with_context(|| format!("cannot lock {}", file.display())),
        }
        // Only for the message above, so a failure is no reason not to start.
        let _ = lock.set_len(0).and_then(|()| write!(lock, "{}", std::process::id()));
        Ok(DataDirectory { path: path.to_path_buf(), _lock: lock })
    }

    /// The token of the API, made at the first start.
    pub fn token(&self) -> Result<String> {
        let path = self.path.join("token");
        match std::fs::read_to_string(&path) {
            Ok(text) if text.trim().is_empty() => {
                bail!("{} is empty; delete it, and the next start makes a new token", path.display())
            }
            Ok(text) => {
                warn_if_readable(&path);
                Ok(text.trim().to_string())
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => self.make_token(&path),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Complete under its name, or not there: written under another name, synced, renamed.
    fn make_token(&self, path: &Path) -> Result<String> {
        let mut random = [0_u8; TOKEN_BYTES];
        let filled = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        if filled != TOKEN_BYTES {
            bail!("the kernel gave {filled} random bytes instead of {TOKEN_BYTES}");
        }
        let token: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let unfinished = self.path.join("token.new");
        // A left-over of a start that was interrupted may have any mode.
        match std::fs::remove_file(&unfinished) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", unfinished.display()));
            }
            _ => {}
        }
        let write = || -> std::io::Result<()> {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
            writeln!(file, "{token}")?;
            file.sync_all()?;
            std::fs::rename(&unfinished, path)?;
            File::open(&self.path)?.sync_all()
        };
        write().with_context(|| format!("cannot write {}", path.display()))?;
        Ok(token)
    }
}

fn in_use(path: &Path, lock: &mut File) -> anyhow::Error {
    let mut process = String::new();
    let _ = lock.take(20).read_to_string(&mut process);
    let by = if process.is_empty() { "another process".to_string() } else { format!("process {process}") };
    anyhow!("{} is in use by {by}; stop that one first, or give this one another directory with --data", path.display())
}

fn warn_if_readable(path: &Path) {
    let mode = std::fs::metadata(path).map(|metadata| metadata.permissions().mode()).unwrap_or(0o600);
    if mode & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "others may read the token; chmod 600 it");
    }
}

#[cfg(test)]
mod tests;
