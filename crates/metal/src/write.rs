//! Writing many parts one behind the other: at once, through the ring, or past the page cache.

#[cfg(test)]
mod tests;

use crate::ring::{Descriptors, Operation, Ring};
use base::AlignedBuffer;
use base::buffer::ALIGN;
use bytes::{Buf, Bytes};
use rustix::io::Errno;
use std::future::Future;
use std::io::IoSlice;
use std::os::fd::AsFd;
use std::rc::Rc;

/// Parts handed to one pwritev. The kernel takes 1,024; 64 blocks are 256 KiB, where the call's own cost is gone in that
/// of the copy, and the array stays small on the stack.
const PARTS_PER_WRITE: usize = 64;

/// A direct write is handed to the disk in parts of this much, side by side: one request of 1 MiB at a time leaves a disk
/// idle between two (1.6 GB/s where several reach 3.1).
const DIRECT_PART_BYTES: usize = 256 << 10;

/// One or more pwritev until all parts are written; an error may leave any part of them in the file.
pub(crate) fn write_all(file: impl AsFd, offset: u64, parts: &[Bytes]) -> std::result::Result<(), Errno> {
    write_all_with(offset, parts, |slices, offset| rustix::io::pwritev(&file, slices, offset))
}

/// `write` writes some of the slices' bytes, at least one, and says how many.
fn write_all_with(
    mut offset: u64,
    mut parts: &[Bytes],
    mut write: impl FnMut(&[IoSlice<'_>], u64) -> std::result::Result<usize, Errno>,
) -> std::result::Result<(), Errno> {
    // Bytes of the first part that are written already.
    let mut skip = 0;
    let mut slices = [IoSlice::new(&[]); PARTS_PER_WRITE];
    loop {
        while let Some(first) = parts.first()
            && skip >= first.len()
        {
            skip -= first.len();
            parts = &parts[1..];
        }
        let Some(first) = parts.first() else { return Ok(()) };
        let count = parts.len().min(PARTS_PER_WRITE);
        for (slice, part) in slices.iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
        }
        slices[0] = IoSlice::new(&first[skip..]);
        match write(&slices[..count], offset) {
            Ok(0) => return Err(Errno::IO),
            Ok(written) => {
                offset += written as u64;
                skip += written;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// The same through the ring, for a file whose inode somebody may have locked for milliseconds. Begins at once.
pub(crate) fn write_behind(
    ring: &Rc<Ring>,
    file: &Rc<Descriptors>,
    mut offset: u64,
    parts: &[Bytes],
) -> impl Future<Output = std::result::Result<(), Errno>> + use<> {
    let (ring, file) = (ring.clone(), file.clone());
    let mut operation = ring.write(&file, offset, parts.iter().filter(|part| !part.is_empty()).cloned().collect());
    async move {
        loop {
            let outcome = operation.await;
            let mut parts = outcome.resources.into_written();
            if parts.is_empty() {
                return Ok(());
            }
            match outcome.result {
                Ok(0) => return Err(Errno::IO),
                Ok(written) => {
                    offset += u64::from(written);
                    drop_front(&mut parts, written as usize);
                }
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(errno) => return Err(errno),
            }
            if parts.is_empty() {
                return Ok(());
            }
            operation = ring.write(&file, offset, parts);
        }
    }
}

/// Past the page cache, from where `parts` lie where that is aligned, and from a copy of the others. Whatever the file
/// system does not take that way goes through the page cache. Offset and length in sum are multiples of 4 KiB. Ends when no
/// part is under way any more; after an error any of it may be in the file.
pub(crate) fn write_direct(
    ring: &Rc<Ring>,
    file: &Rc<Descriptors>,
    offset: u64,
    parts: &[Bytes],
) -> impl Future<Output = std::result::Result<(), Errno>> + use<> {
    let (ring, file) = (ring.clone(), file.clone());
    let mut begun = Vec::new();
    let mut at = offset;
    for part in side_by_side(aligned(parts)) {
        let len: usize = part.iter().map(Bytes::len).sum();
        begun.push((at, ring.write_direct(&file, at, part)));
        at += len as u64;
    }
    async move {
        let mut result = Ok(());
        for (offset, operation) in begun {
            let ended = end_direct(&ring, &file, offset, operation).await;
            result = result.and(ended);
        }
        result
    }
}

/// Waits for one part, and sees to what the file system did not take.
async fn end_direct(
    ring: &Rc<Ring>,
    file: &Rc<Descriptors>,
    offset: u64,
    operation: Operation,
) -> std::result::Result<(), Errno> {
    let outcome = operation.await;
    let mut parts = outcome.resources.into_written();
    let written = match outcome.result {
        Ok(written) => written,
        Err(Errno::INTR | Errno::AGAIN) => 0,
        Err(Errno::INVAL) => {
            // Some file systems open with O_DIRECT and then want an alignment that 4 KiB is not.
            file.direct_write_refused.set(true);
            0
        }
        Err(errno) => return Err(errno),
    };
    drop_front(&mut parts, written as usize);
    if parts.is_empty() {
        return Ok(());
    }
    write_behind(ring, file, offset + u64::from(written), &parts).await
}

/// Cuts aligned parts into writes of [`DIRECT_PART_BYTES`] or little more; none but an only one is smaller.
fn side_by_side(parts: Vec<Bytes>) -> Vec<Vec<Bytes>> {
    let mut left: usize = parts.iter().map(Bytes::len).sum();
    let mut writes = vec![Vec::new()];
    let mut room = DIRECT_PART_BYTES;
    for mut part in parts {
        while !part.is_empty() {
            if room == 0 && left >= DIRECT_PART_BYTES {
                writes.push(Vec::new());
                room = DIRECT_PART_BYTES;
            }
            let now = if left < DIRECT_PART_BYTES || room == 0 { part.len() } else { part.len().min(room) };
            writes.last_mut().expect("there is one at least").push(part.split_to(now));
            left -= now;
            room = room.saturating_sub(now);
        }
    }
    writes
}

/// Bytes of `parts` that [`write_direct`] would copy.
pub(crate) fn to_be_copied(parts: &[Bytes]) -> usize {
    parts.iter().filter(|part| !is_aligned(part)).map(Bytes::len).sum()
}

fn is_aligned(part: &Bytes) -> bool {
    part.as_ptr() as usize % ALIGN == 0 && part.len() % ALIGN == 0
}

/// The same bytes in parts whose addresses and lengths are multiples of 4 KiB.
fn aligned(parts: &[Bytes]) -> Vec<Bytes> {
    let mut whole = Vec::with_capacity(parts.len() + 1);
    let mut from = 0;
    let mut ragged = 0;
    for (at, part) in parts.iter().enumerate() {
        if ragged % ALIGN == 0 && is_aligned(part) {
            whole.extend(copied(&parts[from..at], ragged));
            whole.extend((!part.is_empty()).then(|| part.clone()));
            (from, ragged) = (at + 1, 0);
        } else {
            ragged += part.len();
        }
    }
    whole.extend(copied(&parts[from..], ragged));
    whole
}

/// `len`: of the parts in sum.
fn copied(parts: &[Bytes], len: usize) -> Option<Bytes> {
    if len == 0 {
        return None;
    }
    let mut buffer = AlignedBuffer::to_be_filled(len);
    let mut rest = &mut buffer[..];
    for part in parts {
        let (here, behind) = rest.split_at_mut(part.len());
        here.copy_from_slice(part);
        rest = behind;
    }
    Some(buffer.into_bytes())
}

/// What is left of `parts` without their first `count` bytes.
fn drop_front(parts: &mut Vec<Bytes>, mut count: usize) {
    let whole = parts.iter().take_while(|part| {
        let fits = part.len() <= count;
        count -= if fits { part.len() } else { 0 };
        fits
    });
    let whole = whole.count();
    parts.drain(..whole);
    if let Some(first) = parts.first_mut() {
        first.advance(count);
    }
}
