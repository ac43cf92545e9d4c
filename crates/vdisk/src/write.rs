//! Writes, trims and write-zeroes, from the request to the queue of the log task.

use crate::address::Address;
use crate::log::{Combine, Item, Payload};
use crate::vdisk::Vdisk;
use crate::{Error, Kind, Result};
use base::units::{BLOCK, SECTOR, VDISK_SIZE_MAX, round_down, round_up};
use bytes::Bytes;
use std::rc::Rc;
use world::local::{OneshotReceiver, oneshot};

/// Longest read or write, bytes: 32 MiB, as NBD clients expect at least.
pub const TRANSFER_BYTES_MAX: u32 = 32 << 20;

/// Longest write that is all or nothing, bytes: 128 KiB, twice what file systems and databases ask of a disk that writes
/// atomically (64 KiB). Twice as much would no longer fit into what may be left of a group, which would stay empty.
pub const ATOMIC_BYTES_MAX: u32 = 128 << 10;

impl Vdisk {
    /// A multiple of 512 and inside the vDisk.
    pub(crate) fn check_range(&self, offset: u64, len: u64) -> Result<()> {
        let size = self.state.borrow().attributes.size_bytes;
        if offset % SECTOR != 0 || len % SECTOR != 0 {
            return Err(Error::new(Kind::Invalid, format!("{offset}+{len} is not a multiple of {SECTOR} bytes")));
        }
        if len > VDISK_SIZE_MAX || offset.checked_add(len).is_none_or(|end| end > size) {
            return Err(Error::new(Kind::Invalid, format!("{offset}+{len} is beyond the end at {size}")));
        }
        Ok(())
    }

    /// Queues a write; the receiver hears when it is acknowledged.
    pub(crate) fn queue_write(self: &Rc<Self>, offset: u64, data: Bytes) -> Result<OneshotReceiver<Result<()>>> {
        self.check_range(offset, data.len() as u64)?;
        if data.len() > TRANSFER_BYTES_MAX as usize {
            return Err(Error::new(Kind::Invalid, format!("{} bytes are more than a request may have", data.len())));
        }
        self.writable()?;
        let (done, receiver) = oneshot();
        self.enqueue(Item::Write { offset, data: Payload::new(offset, data), done });
        Ok(receiver)
    }

    /// Queues a request that looks before it writes; as [`Vdisk::queue_write`].
    pub(crate) fn queue_combined(
        self: &Rc<Self>,
        offset: u64,
        data: Bytes,
        how: Combine,
    ) -> Result<OneshotReceiver<Result<()>>> {
        self.check_range(offset, data.len() as u64)?;
        if data.len() > self.atomic_bytes_max() as usize {
            let text = format!("{} bytes are more than are done in one step", data.len());
            return Err(Error::new(Kind::Invalid, text));
        }
        if let Combine::IfEqual(expected) = &how
            && expected.len() != data.len()
        {
            let text = format!("{} bytes to compare and {} to write", expected.len(), data.len());
            return Err(Error::new(Kind::Invalid, text));
        }
        self.writable()?;
        let (done, receiver) = oneshot();
        self.enqueue(Item::Combine { offset, data, how, done });
        Ok(receiver)
    }

    pub async fn write(self: &Rc<Self>, offset: u64, data: Bytes) -> Result<()> {
        if data.is_empty() {
            return self.check_range(offset, 0);
        }
        acknowledged(self.queue_write(offset, data)?).await
    }

    /// Whole blocks inside the range read as zeros afterwards; ragged edges keep their content (a trim is advice).
    pub async fn trim(self: &Rc<Self>, offset: u64, len: u64) -> Result<()> {
        all_acknowledged(self.queue_trim(offset, len)?).await
    }

    /// The whole range reads as zeros afterwards, ragged edges too.
    pub async fn write_zeroes(self: &Rc<Self>, offset: u64, len: u64, how: block::WriteZeroes) -> Result<()> {
        all_acknowledged(self.queue_zeroes(offset, len, how)?).await
    }

    /// Queues a trim, as [`Vdisk::queue_write`]; nothing if there is no whole block in it.
    pub(crate) fn queue_trim(self: &Rc<Self>, offset: u64, len: u64) -> Result<Parts> {
        self.check_range(offset, len)?;
        self.writable()?;
        let (first, end) = (round_up(offset, BLOCK), round_down(offset + len, BLOCK));
        let mut parts = Parts::default();
        if first < end {
            parts.push(self.queue_clear(first / BLOCK, (end - first) / BLOCK, Address::NONE));
        }
        Ok(parts)
    }

    /// Queues zeros: the whole blocks, and a write for each ragged edge.
    pub(crate) fn queue_zeroes(self: &Rc<Self>, offset: u64, len: u64, how: block::WriteZeroes) -> Result<Parts> {
        self.check_range(offset, len)?;
        self.writable()?;
        let fill = match how {
            block::WriteZeroes::Unmap => Address::NONE,
            block::WriteZeroes::KeepAllocated => Address::ZEROS,
        };
        let (start, end) = (offset, offset + len);
        let (first, last) = (round_up(start, BLOCK), round_down(end, BLOCK));
        let mut parts = Parts::default();
        if first > last || (first == last && (start != first || end != last)) {
            // Less than a block, or two ragged edges that meet.
            if len > 0 {
                parts.push(self.queue_write(start, zeros(len))?);
            }
            return Ok(parts);
        }
        if start < first {
            parts.push(self.queue_write(start, zeros(first - start))?);
        }
        if first < last {
            parts.push(self.queue_clear(first / BLOCK, (last - first) / BLOCK, fill));
        }
        if last < end {
            parts.push(self.queue_write(last, zeros(end - last))?);
        }
        Ok(parts)
    }

    fn queue_clear(self: &Rc<Self>, block: u64, count: u64, fill: Address) -> OneshotReceiver<Result<()>> {
        let (done, receiver) = oneshot();
        self.enqueue(Item::Clear { block, count, fill, done });
        receiver
    }
}

/// What one request was cut into for the log task: at most whole blocks and two ragged edges.
pub(crate) type Parts = Vec<OneshotReceiver<Result<()>>>;

/// All of them, before one's error is the answer: nothing may take effect after it was answered.
pub(crate) async fn all_acknowledged(parts: Parts) -> Result<()> {
    let mut result = Ok(());
    for receiver in parts {
        result = result.and(acknowledged(receiver).await);
    }
    result
}

/// At most two ragged edges that meet: below 8 KiB.
fn zeros(len: u64) -> Bytes {
    static ZEROS: [u8; 2 * BLOCK as usize] = [0; 2 * BLOCK as usize];
    Bytes::from_static(&ZEROS).slice(..len as usize)
}

pub(crate) async fn acknowledged(receiver: OneshotReceiver<Result<()>>) -> Result<()> {
    receiver.await.unwrap_or_else(|| Err(Error::new(Kind::Closed, "the vDisk was closed before the request was done")))
}
