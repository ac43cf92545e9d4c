//! The lock that keeps a second controller out of a data directory.

use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

const FILE_NAME: &str = "lock";

/// Held as long as this lives, and by the kernel's word no longer than the process: a `kill -9` leaves no stale lock.
#[derive(Debug)]
pub struct LockGuard {
    _file: File,
}

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("another controller{} is using {}", pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default(), directory.display())]
    Taken { directory: PathBuf, pid: Option<u32> },
    #[error("cannot lock {}", directory.display())]
    Io { directory: PathBuf, source: io::Error },
}

/// Takes the lock of `directory`, which must exist, with flock(2) on its file `lock`; that file names our pid then.
pub fn lock(directory: &Path) -> Result<LockGuard, LockError> {
    let failed = |source| LockError::Io { directory: directory.to_owned(), source };
    let path = directory.join(FILE_NAME);
    // Not truncated on opening: while the lock is taken it holds the other's pid.
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            return Err(LockError::Taken { directory: directory.to_owned(), pid: read_pid(&mut file) });
        }
        Err(errno) => return Err(failed(errno.into())),
    }
    write_pid(&mut file).map_err(failed)?;
    Ok(LockGuard { _file: file })
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    writeln!(file, "{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_is_refused_and_names_the_first() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let first = lock(directory.path()).expect("nobody holds it");
        let refused = lock(directory.path()).expect_err("it is held");
        assert_eq!(
            refused.to_string(),
            format!("another controller (pid {}) is using {}", std::process::id(), directory.path().display())
        );
        drop(first);
        lock(directory.path()).expect("it was given back");
    }

    #[test]
    fn a_pid_of_an_earlier_life_does_not_lock() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(directory.path().join(FILE_NAME), "123456789012345").expect("written");
        let _guard = lock(directory.path()).expect("nobody holds it");
        let text = std::fs::read_to_string(directory.path().join(FILE_NAME)).expect("readable");
        assert_eq!(text, format!("{}\n", std::process::id()));
    }

    #[test]
    fn a_missing_directory_is_an_error_that_names_it() {
        let error = lock(Path::new("/nonexistent/data")).expect_err("it does not exist");
        assert_eq!(error.to_string(), "cannot lock /nonexistent/data");
    }
}
