//! Requests that look at what is there before they write: compare and write, or-write.
//!
//! The log task looks and writes in one step: between two frames nothing changes the map, and a block that the frame
//! under construction changes is waited for. So nothing of this vDisk comes in between, and no lock is needed.

use super::batch::{Batch, fail};
use super::piece::Piece;
use super::queue::{Done, Item};
use crate::vdisk::Vdisk;
use crate::{Error, Kind, Result};
use base::units::BLOCK;
use bytes::{Bytes, BytesMut};

/// How new bytes and old ones become what is stored.
pub(crate) enum Combine {
    /// The new ones, if the old ones are these.
    IfEqual(Bytes),
    /// Both, ORed.
    Or,
}

impl Vdisk {
    /// Adds the whole request to the frame, or answers it. `false`: the frame is to be written first.
    pub(super) async fn add_combined(
        &self,
        batch: &mut Batch,
        offset: u64,
        data: Bytes,
        how: Combine,
        done: Done,
        payload_max: u64,
    ) -> bool {
        let blocks = offset / BLOCK..(offset + data.len() as u64).div_ceil(BLOCK);
        if batch.touches(blocks.clone()) || !batch.has_room(&blocks, payload_max) {
            self.queue.borrow_mut().user.push_front(Item::Combine { offset, data, how, done });
            return false;
        }
        match self.combined(offset, &data, &how).await {
            Ok(bytes) => batch.add_whole(Piece::data(blocks.start, bytes), done),
            Err(error) => fail(done, error),
        }
    }

    /// The blocks of the range as they are to be stored.
    async fn combined(&self, offset: u64, data: &[u8], how: &Combine) -> Result<Bytes> {
        let first = offset / BLOCK;
        let count = (offset + data.len() as u64).div_ceil(BLOCK) - first;
        let mut bytes = BytesMut::zeroed((count * BLOCK) as usize);
        let old = self.read_blocks(first, count as usize).await?;
        for (block, old) in bytes.chunks_exact_mut(BLOCK as usize).zip(&old) {
            old.iter().for_each(|old| block.copy_from_slice(old));
        }
        let at = (offset - first * BLOCK) as usize;
        let range = &mut bytes[at..at + data.len()];
        match how {
            Combine::IfEqual(expected) => {
                if let Some(differs) = range.iter().zip(expected).position(|(is, expected)| is != expected) {
                    let context = format!("byte {differs} of {} is not what was expected", data.len());
                    return Err(Error { kind: Kind::Miscompare, context, at: Some(offset + differs as u64) });
                }
                range.copy_from_slice(data);
            }
            Combine::Or => range.iter_mut().zip(data).for_each(|(is, new)| *is |= new),
        }
        Ok(bytes.freeze())
    }
}
