//! Disks as the engine sees them: named flat files with gather writes, explicit sync and explicit space.

use crate::{Completion, LocalFuture};
use bytes::Bytes;
use std::rc::Rc;

/// What the caller may do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// No space left; the operation had no effect that matters, or (write) an unknown part of it.
    Full,
    /// The medium or its driver refused: EIO and everything unexpected.
    Io,
    NotFound,
    /// `create` of a name that exists.
    Exists,
    /// The backend cannot do this at all (punch, allocate on some file systems). Never an answer of read, write, sync.
    Unsupported,
}

#[derive(Debug, Clone, thiserror::Error)]
#[error("{context}: {detail}")]
pub struct Error {
    pub kind: Kind,
    /// Which operation on which file.
    pub context: String,
    /// The operating system's own words.
    pub detail: String,
}

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    pub name: String,
    pub size_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskUsage {
    pub capacity_bytes: u64,
    /// What an ordinary file could still get.
    pub free_bytes: u64,
}

/// A directory (later: a raw device, a remote disk) that keeps files with plain ASCII names and no folders.
pub trait Disk {
    /// Creates an empty file; when it completes the *name* survives power loss.
    fn create(&self, name: &str) -> LocalFuture<Result<Rc<dyn File>>>;
    fn open(&self, name: &str) -> LocalFuture<Result<Rc<dyn File>>>;
    /// Deletes the file; when it completes the deletion survives power loss. Open handles stay usable.
    fn remove(&self, name: &str) -> LocalFuture<Result<()>>;
    /// In order of names.
    fn list(&self) -> LocalFuture<Result<Vec<FileEntry>>>;
    fn usage(&self) -> LocalFuture<Result<DiskUsage>>;
}

/// An open file. Several operations may be under way at once; overlapping writes under way at once are the caller's
/// error. Dropping the last handle closes it.
pub trait File {
    /// Writes the parts one behind the other at `offset`, growing the file if needed. When it completes with `Ok` the
    /// bytes survive the process (they are in the kernel), but power loss only after a later `sync`. On an error any
    /// part of the range may hold old bytes, new bytes, or neither.
    fn write(&self, offset: u64, parts: &[Bytes]) -> Completion<Result<()>>;

    /// Reads exactly `len` bytes; what was never written, holes and what lies beyond the end reads as zeros.
    /// Reads see every completed write. Where the platform can, they come from the medium, not from the kernel's copy
    /// (so that what was read after a sync is proof of what is stored). `offset` and `len` need no alignment.
    fn read(&self, offset: u64, len: usize) -> Completion<Result<Bytes>>;

    /// All writes (and the size they gave the file) that completed before this call survive power loss once it
    /// completes with `Ok`. After an error nothing is known of any byte that was not synced before, and calling it
    /// again proves nothing.
    fn sync(&self) -> LocalFuture<Result<()>>;

    /// Makes sure that the range can be written later without `Full`. Content stays as it is (zeros if never written).
    /// The file may become longer by it, and space that was only allocated may still be called a hole by `data_ranges`.
    fn allocate(&self, offset: u64, len: u64) -> Completion<Result<()>>;

    /// Gives the range's space back; it reads as zeros afterwards. Durable with the next `sync`.
    fn punch(&self, offset: u64, len: u64) -> LocalFuture<Result<()>>;

    /// A hint that the kernel's copy of the range (already synced) is not needed any more. Never fails, may do nothing.
    fn release(&self, offset: u64, len: u64);

    /// A hint that a sync of this range, just written, will follow: the disk may begin. Never fails, may do nothing; the
    /// sync alone says whether it succeeded.
    fn write_back(&self, _offset: u64, _len: u64) {}

    /// Ranges `[start, end)` that may hold data, in order; everything else is a hole. A disk that cannot tell answers
    /// with one range over the whole file.
    fn data_ranges(&self) -> LocalFuture<Result<Vec<(u64, u64)>>>;

    fn size_bytes(&self) -> u64;
}
