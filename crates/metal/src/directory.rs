//! A directory of the file system as a disk.

#[cfg(test)]
mod tests;

use crate::actor::Actor;
use crate::error::{Optional, error};
use crate::file::{DiskFile, warn_not_direct};
use crate::ring::{Operation, Ring};
use crate::worker::WorkerContext;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::ffi::CString;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use world::{Disk, DiskUsage, File, FileEntry, LocalFuture, Result};

/// Belongs to the worker of the context that it was opened with.
pub struct Directory {
    shared: Rc<Shared>,
}

/// What its files need as well.
pub(crate) struct Shared {
    pub(crate) ring: Rc<Ring>,
    pub(crate) helper: Actor<()>,
    folder: Rc<OwnedFd>,
}

impl Directory {
    /// `path` must exist. Opens inline, so for the start of a worker.
    pub fn open(context: &WorkerContext, path: &Path) -> Result<Rc<dyn Disk>> {
        let folder = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| error("open directory", &path.display().to_string(), errno, Optional::No))?;
        let shared = Shared { ring: context.ring.clone(), helper: context.helper.clone(), folder: Rc::new(folder) };
        Ok(Rc::new(Directory { shared: Rc::new(shared) }))
    }

    fn open_file(&self, verb: &'static str, name: &str, flags: OFlags) -> LocalFuture<Result<Rc<dyn File>>> {
        let (shared, file_name) = (self.shared.clone(), name.to_owned());
        Box::pin(async move {
            let path = checked(verb, &file_name)?;
            let failed = |errno| error(verb, &file_name, errno, Optional::No);
            let buffered = shared.open(&path, OFlags::RDWR | flags).await.map_err(failed)?;
            let direct = match shared.open(&path, OFlags::RDWR | OFlags::DIRECT).await {
                Ok(direct) => Some(direct),
                Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                    warn_not_direct(&file_name);
                    None
                }
                Err(errno) => return Err(failed(errno)),
            };
            if flags.contains(OFlags::CREATE) {
                shared.ring.sync_folder(&shared.folder).await.result.map_err(failed)?;
            }
            let file: Rc<dyn File> = Rc::new(DiskFile::new(shared, &file_name, buffered, direct));
            Ok(file)
        })
    }
}

impl Disk for Directory {
    fn create(&self, name: &str) -> LocalFuture<Result<Rc<dyn File>>> {
        self.open_file("create", name, OFlags::CREATE | OFlags::EXCL)
    }

    fn open(&self, name: &str) -> LocalFuture<Result<Rc<dyn File>>> {
        self.open_file("open", name, OFlags::empty())
    }

    fn remove(&self, name: &str) -> LocalFuture<Result<()>> {
        let (shared, name) = (self.shared.clone(), name.to_owned());
        Box::pin(async move {
            let path = checked("remove", &name)?;
            let failed = |errno| error("remove", &name, errno, Optional::No);
            retry(|| shared.ring.unlink(&shared.folder, &path)).await.map_err(failed)?;
            shared.ring.sync_folder(&shared.folder).await.result.map_err(failed)?;
            Ok(())
        })
    }

    fn list(&self) -> LocalFuture<Result<Vec<FileEntry>>> {
        self.on_helper("list", list)
    }

    fn usage(&self) -> LocalFuture<Result<DiskUsage>> {
        self.on_helper("ask for the space of", |folder| {
            let stat = rustix::fs::fstatvfs(folder)?;
            Ok(DiskUsage {
                capacity_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
                free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            })
        })
    }
}

impl Directory {
    fn on_helper<R: Send + 'static>(
        &self,
        verb: &'static str,
        job: fn(&OwnedFd) -> std::result::Result<R, Errno>,
    ) -> LocalFuture<Result<R>> {
        let helper = self.shared.helper.clone();
        let folder = self.shared.folder.try_clone();
        Box::pin(async move {
            let failed = |errno| error(verb, "the directory", errno, Optional::No);
            let folder = folder.map_err(|error| failed(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
            helper.call(move |()| job(&folder)).await.unwrap_or(Err(Errno::CANCELED)).map_err(failed)
        })
    }
}

impl Shared {
    async fn open(&self, name: &CString, flags: OFlags) -> std::result::Result<OwnedFd, Errno> {
        // Readable for its owner only: it holds what guests wrote.
        let descriptor =
            retry(|| self.ring.open(&self.folder, name, flags | OFlags::NOFOLLOW, Mode::RUSR | Mode::WUSR)).await?;
        let descriptor = i32::try_from(descriptor).map_err(|_| Errno::IO)?;
        // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
        Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
    }
}

async fn retry(start: impl Fn() -> Operation) -> std::result::Result<u32, Errno> {
    loop {
        match start().await.result {
            Err(Errno::INTR | Errno::AGAIN) => {}
            result => return result,
        }
    }
}

/// A name that cannot lead out of the directory.
fn checked(verb: &str, name: &str) -> Result<CString> {
    let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
    if !plain || name == "." || name == ".." {
        return Err(error(verb, &format!("{name:?}, which is not a plain file name:"), Errno::INVAL, Optional::No));
    }
    CString::new(name).map_err(|_| error(verb, name, Errno::INVAL, Optional::No))
}

fn list(folder: &OwnedFd) -> std::result::Result<Vec<FileEntry>, Errno> {
    let mut entries = Vec::new();
    // Opened anew: a duplicate would share its position with every other listing under way.
    for entry in rustix::fs::Dir::read_from(folder)? {
        let entry = entry?;
        let stat = match rustix::fs::statat(folder, entry.file_name(), rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // Removed since it was read.
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(errno),
        };
        let is_file = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile;
        if let (true, Ok(name)) = (is_file, entry.file_name().to_str()) {
            entries.push(FileEntry { name: name.to_owned(), size_bytes: u64::try_from(stat.st_size).unwrap_or(0) });
        }
    }
    entries.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(entries)
}
