//! The operations that the engine's files need, each with what it lends to the kernel.

use super::{Operation, Ring};
use crate::actor::Actor;
use base::AlignedBuffer;
use bytes::Bytes;
use io_uring::{opcode, types};
use rustix::fs::{FallocateFlags, Mode, OFlags};
use std::cell::Cell;
use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

/// An open file: one descriptor for writes through the page cache, one for reads past it.
pub(crate) struct Descriptors {
    /// `Some` until the drop.
    buffered: Option<OwnedFd>,
    direct: Option<OwnedFd>,
    /// The file system opened the second descriptor and refuses to read through it.
    pub(crate) direct_refused: Cell<bool>,
    /// The same for writing.
    pub(crate) direct_write_refused: Cell<bool>,
    space_changes: Cell<usize>,
    closer: Actor<()>,
}

impl Descriptors {
    pub(crate) fn new(buffered: OwnedFd, direct: Option<OwnedFd>, closer: Actor<()>) -> Self {
        Descriptors {
            buffered: Some(buffered),
            direct,
            direct_refused: Cell::new(false),
            direct_write_refused: Cell::new(false),
            space_changes: Cell::new(0),
            closer,
        }
    }

    pub(crate) fn buffered(&self) -> &OwnedFd {
        self.buffered.as_ref().expect("taken only by the drop")
    }

    pub(crate) fn for_reading(&self) -> &OwnedFd {
        match &self.direct {
            Some(direct) if !self.direct_refused.get() => direct,
            _ => self.buffered(),
        }
    }

    /// Whether [`Self::for_reading`] goes to the medium.
    pub(crate) fn reads_direct(&self) -> bool {
        self.direct.is_some() && !self.direct_refused.get()
    }

    /// For writes past the page cache, if there can be any.
    pub(crate) fn for_direct_writes(&self) -> Option<&OwnedFd> {
        self.direct.as_ref().filter(|_| !self.direct_refused.get() && !self.direct_write_refused.get())
    }
}

impl Descriptors {
    /// fallocates under way, each of which may hold the inode's lock.
    pub(crate) fn space_changes(&self) -> usize {
        self.space_changes.get()
    }
}

/// Counts in [`Descriptors::space_changes`] as long as the kernel is at it.
pub(crate) struct SpaceChange(Rc<Descriptors>);

impl SpaceChange {
    fn begin(file: &Rc<Descriptors>) -> Self {
        file.space_changes.set(file.space_changes.get() + 1);
        SpaceChange(file.clone())
    }
}

impl Drop for SpaceChange {
    fn drop(&mut self) {
        self.0.space_changes.set(self.0.space_changes.get() - 1);
    }
}

impl Drop for Descriptors {
    /// The last close of a removed file gives back its space, milliseconds for a large one: not on the worker.
    fn drop(&mut self) {
        let descriptors = (self.buffered.take(), self.direct.take());
        self.closer.submit(Box::new(move |()| drop(descriptors)));
    }
}

/// What the kernel was lent for one operation.
#[expect(dead_code, reason = "most of it is only kept alive, not looked at")]
pub(crate) enum Resources {
    None,
    File(Rc<Descriptors>),
    SpaceChange(SpaceChange),
    Write(Rc<Descriptors>, Vec<Bytes>, Vec<libc::iovec>),
    Read(Rc<Descriptors>, AlignedBuffer),
    /// A folder's descriptor and a name in it.
    Path(Rc<OwnedFd>, CString),
    /// As `Path`; the result is a new descriptor.
    Open(Rc<OwnedFd>, CString),
    Folder(Rc<OwnedFd>),
}

impl Resources {
    /// The parts of a write.
    pub(crate) fn into_written(self) -> Vec<Bytes> {
        match self {
            Resources::Write(_, parts, _) => parts,
            _ => unreachable!("a write was started and gives back what a write was lent"),
        }
    }

    /// The buffer of a read.
    pub(crate) fn into_read(self) -> AlignedBuffer {
        match self {
            Resources::Read(_, buffer) => buffer,
            _ => unreachable!("a read was started and gives back what a read was lent"),
        }
    }
}

/// A read into a buffer that is partly filled already.
pub(crate) struct ReadInto {
    pub(crate) buffer: AlignedBuffer,
    /// Where in the buffer to go on.
    pub(crate) filled_bytes: usize,
    /// Where in the file the buffer's first byte lies.
    pub(crate) file_offset: u64,
}

/// Bytes of one read: the kernel cuts at 2 GiB less a page, and what is left is read by the next one.
const READ_BYTES_MAX: usize = 1 << 30;
/// The same for advice, whose length field has 32 bits on older kernels.
pub(crate) const ADVICE_BYTES_MAX: u64 = 1 << 30;
/// IOV_MAX of Linux.
const PARTS_MAX: usize = 1024;

impl Ring {
    pub(crate) fn read(self: &Rc<Self>, file: &Rc<Descriptors>, into: ReadInto) -> Operation {
        let ReadInto { mut buffer, filled_bytes, file_offset } = into;
        let rest = &mut buffer[filled_bytes..];
        let len = rest.len().min(READ_BYTES_MAX) as u32;
        let entry = opcode::Read::new(types::Fd(file.for_reading().as_raw_fd()), rest.as_mut_ptr(), len)
            .offset(file_offset + filled_bytes as u64)
            .build();
        // SAFETY: the buffer's memory does not move with it, `len` ends within it, nobody else can reach it while it is
        // in the resources; the descriptor is one of the file's, which lives in the resources too.
        unsafe { self.start(entry, Resources::Read(file.clone(), buffer)) }
    }

    /// Writes some of the parts, at most 1,024 of them, through the page cache.
    pub(crate) fn write(self: &Rc<Self>, file: &Rc<Descriptors>, offset: u64, parts: Vec<Bytes>) -> Operation {
        self.write_through(types::Fd(file.buffered().as_raw_fd()), file, offset, parts)
    }

    /// The same past the page cache if the file can. Then offset, and address and length of each part, are multiples of
    /// 4 KiB.
    pub(crate) fn write_direct(self: &Rc<Self>, file: &Rc<Descriptors>, offset: u64, parts: Vec<Bytes>) -> Operation {
        let descriptor = file.for_direct_writes().unwrap_or_else(|| file.buffered()).as_raw_fd();
        self.write_through(types::Fd(descriptor), file, offset, parts)
    }

    /// `descriptor`: one of the file's.
    fn write_through(
        self: &Rc<Self>,
        descriptor: types::Fd,
        file: &Rc<Descriptors>,
        offset: u64,
        parts: Vec<Bytes>,
    ) -> Operation {
        let vector = |part: &Bytes| libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() };
        let vectors: Vec<libc::iovec> = parts.iter().take(PARTS_MAX).map(vector).collect();
        let entry = opcode::Writev::new(descriptor, vectors.as_ptr(), vectors.len() as u32).offset(offset).build();
        // SAFETY: the vectors are on the heap and point to what the parts refer to, neither of which moves with the
        // handles; a write only reads them; parts, vectors and the file are in the resources.
        unsafe { self.start(entry, Resources::Write(file.clone(), parts, vectors)) }
    }

    pub(crate) fn sync_data(self: &Rc<Self>, file: &Rc<Descriptors>) -> Operation {
        let entry =
            opcode::Fsync::new(types::Fd(file.buffered().as_raw_fd())).flags(types::FsyncFlags::DATASYNC).build();
        // SAFETY: the descriptor belongs to the file in the resources; there are no pointers.
        unsafe { self.start(entry, Resources::File(file.clone())) }
    }

    pub(crate) fn fallocate(
        self: &Rc<Self>,
        file: &Rc<Descriptors>,
        mode: FallocateFlags,
        range: std::ops::Range<u64>,
    ) -> Operation {
        let entry = opcode::Fallocate::new(types::Fd(file.buffered().as_raw_fd()), range.end - range.start)
            .offset(range.start)
            .mode(mode.bits() as i32)
            .build();
        // SAFETY: the descriptor belongs to the file in the resources; there are no pointers.
        unsafe { self.start(entry, Resources::SpaceChange(SpaceChange::begin(file))) }
    }

    /// POSIX_FADV_DONTNEED over at most [`ADVICE_BYTES_MAX`].
    pub(crate) fn forget_cached(self: &Rc<Self>, file: &Rc<Descriptors>, range: std::ops::Range<u64>) -> Operation {
        let len = (range.end - range.start).min(ADVICE_BYTES_MAX) as libc::off_t;
        let entry = opcode::Fadvise::new(types::Fd(file.buffered().as_raw_fd()), len, libc::POSIX_FADV_DONTNEED)
            .offset(range.start)
            .build();
        // SAFETY: the descriptor belongs to the file in the resources; there are no pointers.
        unsafe { self.start(entry, Resources::File(file.clone())) }
    }

    /// The outcome's result is the new descriptor, which the caller then owns.
    pub(crate) fn open(self: &Rc<Self>, folder: &Rc<OwnedFd>, name: &CString, flags: OFlags, mode: Mode) -> Operation {
        let name = name.clone();
        let entry = opcode::OpenAt::new(types::Fd(folder.as_raw_fd()), name.as_ptr())
            .flags((flags | OFlags::CLOEXEC).bits() as i32)
            .mode(mode.bits())
            .build();
        // SAFETY: the name's bytes are on the heap and stay where they are; name and folder are in the resources.
        unsafe { self.start(entry, Resources::Open(folder.clone(), name)) }
    }

    pub(crate) fn unlink(self: &Rc<Self>, folder: &Rc<OwnedFd>, name: &CString) -> Operation {
        let name = name.clone();
        let entry = opcode::UnlinkAt::new(types::Fd(folder.as_raw_fd()), name.as_ptr()).build();
        // SAFETY: the name's bytes are on the heap and stay where they are; name and folder are in the resources.
        unsafe { self.start(entry, Resources::Path(folder.clone(), name)) }
    }

    pub(crate) fn sync_folder(self: &Rc<Self>, folder: &Rc<OwnedFd>) -> Operation {
        let entry = opcode::Fsync::new(types::Fd(folder.as_raw_fd())).build();
        // SAFETY: the descriptor is in the resources; there are no pointers.
        unsafe { self.start(entry, Resources::Folder(folder.clone())) }
    }
}
