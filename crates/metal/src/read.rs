//! Reading a range that needs no alignment, through reads that do.

use crate::error::{Optional, error};
use crate::ring::{Descriptors, Operation, ReadInto, Ring};
use base::AlignedBuffer;
use base::buffer::ALIGN;
use bytes::Bytes;
use rustix::io::Errno;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

/// The bytes `[offset, offset + len)`: the range rounded outward to 4 KiB is read, the middle handed out.
pub(crate) struct RangeRead {
    ring: Rc<Ring>,
    file: Rc<Descriptors>,
    name: Rc<str>,
    operation: Operation,
    /// What the running operation reads past the page cache.
    direct: bool,
    /// Where in the file the buffer starts.
    file_offset: u64,
    filled_bytes: usize,
    /// The part of the buffer that was asked for.
    skip_bytes: usize,
    len: usize,
}

impl RangeRead {
    pub(crate) fn start(ring: &Rc<Ring>, file: &Rc<Descriptors>, name: &Rc<str>, offset: u64, len: usize) -> Self {
        let skip_bytes = (offset % ALIGN as u64) as usize;
        let file_offset = offset - skip_bytes as u64;
        let buffer = AlignedBuffer::to_be_filled((skip_bytes + len).next_multiple_of(ALIGN));
        let direct = file.reads_direct();
        let operation = ring.read(file, ReadInto { buffer, filled_bytes: 0, file_offset });
        RangeRead {
            ring: ring.clone(),
            file: file.clone(),
            name: name.clone(),
            operation,
            direct,
            file_offset,
            filled_bytes: 0,
            skip_bytes,
            len,
        }
    }

    fn go_on(&mut self, buffer: AlignedBuffer) {
        // A direct read goes on where a block starts; a few bytes are then read twice.
        self.direct = self.file.reads_direct();
        if self.direct {
            self.filled_bytes -= self.filled_bytes % ALIGN;
        }
        let into = ReadInto { buffer, filled_bytes: self.filled_bytes, file_offset: self.file_offset };
        self.operation = self.ring.read(&self.file, into);
    }

    /// Everything is there, or the rest lies beyond the end and is zeros.
    fn is_complete(&self, read_bytes: usize) -> Result<bool, Errno> {
        if read_bytes == 0 || self.filled_bytes >= self.skip_bytes + self.len {
            return Ok(true);
        }
        let size_bytes = rustix::fs::fstat(self.file.buffered())?.st_size as u64;
        Ok(self.file_offset + self.filled_bytes as u64 >= size_bytes)
    }
}

impl Future for RangeRead {
    type Output = world::Result<Bytes>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let outcome = ready!(Pin::new(&mut self.operation).poll(context));
            let (result, mut buffer) = (outcome.result, outcome.resources.into_read());
            let complete = match result {
                Ok(read_bytes) => {
                    self.filled_bytes += read_bytes as usize;
                    self.is_complete(read_bytes as usize)
                }
                Err(Errno::INTR | Errno::AGAIN) => Ok(false),
                Err(Errno::INVAL) if self.direct => {
                    // Some file systems open with O_DIRECT and then want an alignment that 4 KiB is not.
                    self.file.direct_refused.set(true);
                    crate::file::warn_not_direct(&self.name);
                    Ok(false)
                }
                Err(errno) => Err(errno),
            };
            match complete {
                Ok(true) => {
                    // Beyond the end of the file: zeros, whatever the buffer held before.
                    let end = self.filled_bytes.min(buffer.len());
                    buffer[end..].fill(0);
                    let range = self.skip_bytes..self.skip_bytes + self.len;
                    return Poll::Ready(Ok(buffer.into_bytes().slice(range)));
                }
                Ok(false) => self.go_on(buffer),
                Err(errno) => return Poll::Ready(Err(error("read", &self.name, errno, Optional::No))),
            }
        }
    }
}
