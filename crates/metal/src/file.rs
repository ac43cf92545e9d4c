//! A file of a directory: small writes into the page cache, large ones and reads past it.

#[cfg(test)]
mod tests;

use crate::directory::Shared;
use crate::error::{Optional, error};
use crate::read::RangeRead;
use crate::ring::Descriptors;
use crate::write::{to_be_copied, write_all, write_behind, write_direct};
use base::buffer::ALIGN;
use bytes::Bytes;
use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use world::{Completion, File, LocalFuture, Result};

/// A write of at least this much, aligned to 4 KiB, goes past the page cache: a copy, the allocation of its pages and the
/// write-back by another core cost more than the device takes for it. Smaller ones are answered sooner by the cache.
const DIRECT_WRITE_BYTES_MIN: u64 = 256 << 10;
/// What of it is not aligned in memory is copied. With more than this to copy the cache does it as well, and without buffers
/// that live as long as the device takes.
const DIRECT_COPY_BYTES_MAX: usize = 32 << 10;

pub(crate) struct DiskFile {
    directory: Rc<Shared>,
    descriptors: Rc<Descriptors>,
    name: Rc<str>,
}

impl DiskFile {
    pub(crate) fn new(directory: Rc<Shared>, name: &str, buffered: OwnedFd, direct: Option<OwnedFd>) -> Self {
        let descriptors = Rc::new(Descriptors::new(buffered, direct, directory.helper.clone()));
        DiskFile { directory, descriptors, name: name.into() }
    }

    /// A write that goes through the ring.
    fn written(&self, write: impl Future<Output = std::result::Result<(), Errno>> + 'static) -> Completion<Result<()>> {
        let name = self.name.clone();
        Completion::pending(async move { write.await.map_err(|errno| error("write", &name, errno, Optional::No)) })
    }

    /// fallocate through the ring: it may wait for the file system's journal.
    fn change_space(&self, verb: &'static str, mode: FallocateFlags, offset: u64, len: u64) -> LocalFuture<Result<()>> {
        let Some(end) = offset.checked_add(len).filter(|&end| i64::try_from(end).is_ok()) else {
            let error = error(verb, &self.name, Errno::FBIG, Optional::Yes);
            return Box::pin(std::future::ready(Err(error)));
        };
        if len == 0 {
            return Box::pin(std::future::ready(Ok(())));
        }
        let (ring, descriptors, name) = (self.directory.ring.clone(), self.descriptors.clone(), self.name.clone());
        let first = ring.fallocate(&descriptors, mode, offset..end);
        Box::pin(async move {
            let mut operation = first;
            loop {
                match operation.await.result {
                    Ok(_) => return Ok(()),
                    Err(Errno::INTR | Errno::AGAIN) => operation = ring.fallocate(&descriptors, mode, offset..end),
                    Err(errno) => return Err(error(verb, &name, errno, Optional::Yes)),
                }
            }
        })
    }
}

impl File for DiskFile {
    /// Inline: ext4 and others cannot write to the page cache without leave to block, so a ring would pass each write on
    /// to a kernel thread (10 µs and more) where the copy itself takes 1 to 3 µs per 4 KiB.
    /// Not while space of the same file is given or taken: that locks the inode, for 15 ms at worst when measured on a
    /// busy ext4, and such a write leaves the waiting to the ring.
    fn write(&self, offset: u64, parts: &[Bytes]) -> Completion<Result<()>> {
        let len: u64 = parts.iter().map(|part| part.len() as u64).sum();
        if offset.checked_add(len).is_none_or(|end| i64::try_from(end).is_err()) {
            return Completion::Ready(Err(error("write", &self.name, Errno::FBIG, Optional::No)));
        }
        let aligned = offset % ALIGN as u64 == 0 && len % ALIGN as u64 == 0;
        let direct = len >= DIRECT_WRITE_BYTES_MIN && aligned && self.descriptors.for_direct_writes().is_some();
        if direct && to_be_copied(parts) <= DIRECT_COPY_BYTES_MAX {
            return self.written(write_direct(&self.directory.ring, &self.descriptors, offset, parts));
        }
        if self.descriptors.space_changes() > 0 {
            return self.written(write_behind(&self.directory.ring, &self.descriptors, offset, parts));
        }
        let written = write_all(self.descriptors.buffered(), offset, parts);
        Completion::Ready(written.map_err(|errno| error("write", &self.name, errno, Optional::No)))
    }

    fn read(&self, offset: u64, len: usize) -> Completion<Result<Bytes>> {
        if len == 0 {
            return Completion::Ready(Ok(Bytes::new()));
        }
        let end = offset.checked_add(len as u64).and_then(|end| end.checked_next_multiple_of(1 << 20));
        if end.is_none_or(|end| i64::try_from(end).is_err()) {
            return Completion::Ready(Err(error("read", &self.name, Errno::OVERFLOW, Optional::No)));
        }
        let read = RangeRead::start(&self.directory.ring, &self.descriptors, &self.name, offset, len);
        Completion::Pending(Box::pin(read))
    }

    fn sync(&self) -> LocalFuture<Result<()>> {
        // Started here, not at the first poll: what was written before this call is covered, whenever it is awaited.
        let operation = self.directory.ring.sync_data(&self.descriptors);
        let name = self.name.clone();
        Box::pin(async move {
            // No second try, not even after EINTR: an error may have been reported by the first and forgotten since.
            operation.await.result.map(|_| ()).map_err(|errno| error("sync", &name, errno, Optional::No))
        })
    }

    /// Grows the file to the end of the range: later writes within it then change no size, and their sync no inode.
    fn allocate(&self, offset: u64, len: u64) -> Completion<Result<()>> {
        Completion::Pending(self.change_space("allocate", FallocateFlags::empty(), offset, len))
    }

    fn punch(&self, offset: u64, len: u64) -> LocalFuture<Result<()>> {
        self.change_space("punch", FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len)
    }

    /// Through the ring and unwatched: dropping pages that another core touched last makes the kernel wait for all cores.
    fn release(&self, offset: u64, len: u64) {
        let end = offset.saturating_add(len);
        let mut start = offset;
        while start < end {
            let stop = end.min(start.saturating_add(crate::ring::ADVICE_BYTES_MAX));
            self.directory.ring.forget_cached(&self.descriptors, start..stop).detach();
            start = stop;
        }
    }

    fn write_back(&self, offset: u64, len: u64) {
        if let Ok(len) = u32::try_from(len) {
            self.directory.ring.begin_write_back(&self.descriptors, offset, len).detach();
        }
    }

    fn data_ranges(&self) -> LocalFuture<Result<Vec<(u64, u64)>>> {
        let (helper, name) = (self.directory.helper.clone(), self.name.clone());
        let descriptor = self.descriptors.buffered().try_clone();
        Box::pin(async move {
            let failed = |errno| error("find the data of", &name, errno, Optional::No);
            let descriptor = descriptor.map_err(|error| failed(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
            let ranges = helper.call(move |()| data_ranges(&descriptor)).await.unwrap_or(Err(Errno::CANCELED));
            ranges.map_err(failed)
        })
    }

    fn size_bytes(&self) -> u64 {
        // fstat of an open local file reads the inode in memory; its errors (EBADF, EFAULT) are bugs of ours.
        let stat = rustix::fs::fstat(self.descriptors.buffered()).expect("an open file has a size");
        u64::try_from(stat.st_size).expect("a size is not negative")
    }
}

/// By SEEK_DATA and SEEK_HOLE; one range over everything where the file system does not know them.
fn data_ranges(file: &OwnedFd) -> std::result::Result<Vec<(u64, u64)>, Errno> {
    let size_bytes = u64::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or(0);
    let mut ranges = Vec::new();
    let mut position = 0;
    while position < size_bytes {
        let start = match rustix::fs::seek(file, SeekFrom::Data(position)) {
            Ok(start) => start,
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(vec![(0, size_bytes)]),
            Err(errno) => return Err(errno),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))?;
        if end <= start {
            // The file was cut meanwhile.
            break;
        }
        ranges.push((start, end));
        position = end;
    }
    Ok(ranges)
}

/// Once per process: it is the same for all files of a disk, and a hint for the operator, not an event.
pub(crate) fn warn_not_direct(name: &str) {
    static WARNED: AtomicBool = AtomicBool::new(false);
    if !WARNED.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            file = name,
            "the file system refuses direct reads; data is read through the page cache, so it is cached twice and a check \
             after a sync may see memory instead of the disk"
        );
    }
}
