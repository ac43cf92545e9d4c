//! A byte buffer whose address is a multiple of 4 KiB, as O_DIRECT asks for.

use bytes::Bytes;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

pub const ALIGN: usize = 4096;

/// Owned, zeroed at creation, 4 KiB aligned, length fixed (a multiple of nothing in particular).
pub struct AlignedBuffer {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the buffer owns its memory and has no interior mutability, like Box<[u8]>.
unsafe impl Send for AlignedBuffer {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for AlignedBuffer {}

/// Freed buffers that a thread keeps for its next reads: memory from the kernel costs a page fault and 4 KiB of zeros for
/// each page, more than the read itself.
const KEPT_BYTES_MAX: usize = 16 << 20;
const KEPT_BUFFERS_MAX: usize = 256;

#[derive(Default)]
struct Kept {
    buffers: Vec<AlignedBuffer>,
    bytes: usize,
}

thread_local! {
    static KEPT: std::cell::RefCell<Kept> = std::cell::RefCell::default();
}

impl AlignedBuffer {
    /// Content is what some earlier buffer of this thread held, or zeros: for a reader that fills all of it.
    pub fn to_be_filled(len: usize) -> Self {
        let kept = KEPT.try_with(|kept| {
            let mut kept = kept.borrow_mut();
            let at = kept.buffers.iter().rposition(|buffer| buffer.len == len)?;
            kept.bytes -= len;
            Some(kept.buffers.swap_remove(at))
        });
        kept.ok().flatten().unwrap_or_else(|| Self::zeroed(len))
    }

    pub fn zeroed(len: usize) -> Self {
        let layout = Self::layout(len);
        // SAFETY: the layout has a size above zero.
        let start = unsafe { alloc_zeroed(layout) };
        match NonNull::new(start) {
            Some(start) => AlignedBuffer { start, len },
            None => handle_alloc_error(layout),
        }
    }

    fn layout(len: usize) -> Layout {
        Layout::from_size_align(len.max(1), ALIGN).expect("a buffer is far smaller than isize::MAX")
    }

    /// Hands the memory over without a copy.
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: start points to len initialised bytes that we own.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in deref, and we are borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl AsRef<[u8]> for AlignedBuffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        // Fails while the thread ends; a buffer that is pushed out of the list frees itself below.
        let kept = KEPT.try_with(|kept| {
            let Ok(mut kept) = kept.try_borrow_mut() else { return false };
            let fits = kept.bytes + self.len <= KEPT_BYTES_MAX && kept.buffers.len() < KEPT_BUFFERS_MAX;
            if fits && self.len > 0 {
                kept.bytes += self.len;
                kept.buffers.push(AlignedBuffer { start: self.start, len: self.len });
            }
            fits && self.len > 0
        });
        if kept == Ok(true) {
            return;
        }
        // SAFETY: allocated in zeroed with this very layout.
        unsafe { dealloc(self.start.as_ptr(), Self::layout(self.len)) }
    }
}

impl std::fmt::Debug for AlignedBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBuffer({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_buffer_is_used_again_and_a_zeroed_one_is_zero() {
        let mut buffer = AlignedBuffer::zeroed(12_288);
        buffer.fill(7);
        let address = buffer.as_ptr();
        drop(buffer);
        let again = AlignedBuffer::to_be_filled(12_288);
        assert_eq!(again.as_ptr(), address, "no new memory");
        drop(again);
        assert!(AlignedBuffer::zeroed(12_288).iter().all(|&byte| byte == 0));
        // More than is kept goes back to the allocator; nothing is freed twice.
        let many: Vec<AlignedBuffer> = (0..40).map(|_| AlignedBuffer::zeroed(1 << 20)).collect();
        drop(many);
        assert!(KEPT.with(|kept| kept.borrow().bytes) <= KEPT_BYTES_MAX);
    }

    #[test]
    fn is_aligned_zeroed_and_becomes_bytes_without_a_copy() {
        let mut buffer = AlignedBuffer::zeroed(5000);
        assert_eq!(buffer.as_ptr() as usize % ALIGN, 0);
        assert!(buffer.iter().all(|&b| b == 0));
        buffer[4999] = 7;
        let address = buffer.as_ptr();
        let bytes = buffer.into_bytes();
        assert_eq!((bytes.as_ptr(), bytes.len(), bytes[4999]), (address, 5000, 7));
    }
}
