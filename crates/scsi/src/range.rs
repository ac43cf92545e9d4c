//! The blocks that a CDB names, and what is wrong with them.

use crate::call::Call;
use crate::cdb::Cdb;
use crate::sense::{Code, Condition};

/// Logical blocks; inside the medium once checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub lba: u64,
    pub blocks: u64,
}

/// As they stand in a CDB.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Named {
    pub range: Range,
    /// The byte at which the number of blocks begins.
    pub blocks_at: u16,
}

/// Of a CDB of 6, 10, 12 or 16 bytes in the layout that all block commands share (SBC-3 chapter 5); which one, its group code says.
pub(crate) fn named(cdb: &Cdb) -> Named {
    let (lba, blocks, blocks_at) = match cdb.opcode() >> 5 {
        0 => {
            let blocks = match cdb.u8::<4>() {
                0 => 256,
                blocks => blocks.into(),
            };
            (u64::from(cdb.u24::<1>() & 0x1f_ffff), blocks, 4)
        }
        4 => (cdb.u64::<2>(), cdb.u32::<10>().into(), 10),
        5 => (cdb.u32::<2>().into(), cdb.u32::<6>().into(), 6),
        _ => (cdb.u32::<2>().into(), cdb.u16::<7>().into(), 7),
    };
    Named { range: Range { lba, blocks }, blocks_at }
}

impl Range {
    pub(crate) fn offset(&self, sector_bytes: u32) -> u64 {
        self.lba * u64::from(sector_bytes)
    }
    pub(crate) fn bytes(&self, sector_bytes: u32) -> u64 {
        self.blocks * u64::from(sector_bytes)
    }
}

/// How many logical blocks the medium has.
pub(crate) fn capacity_blocks(call: &Call) -> u64 {
    let geometry = call.unit.geometry();
    geometry.size_bytes / u64::from(geometry.sector_bytes)
}

impl Named {
    /// Inside the medium; a range of no blocks may begin at its end.
    pub(crate) fn inside(self, call: &Call) -> Result<Range, Condition> {
        let end = self.range.lba.checked_add(self.range.blocks);
        if end.is_none_or(|end| end > capacity_blocks(call)) {
            return Err(Condition::illegal(Code::LBA_OUT_OF_RANGE));
        }
        Ok(self.range)
    }
    /// Inside, and of at most the MAXIMUM TRANSFER LENGTH (SBC-3 6.5.3).
    pub(crate) fn transferable(self, call: &Call) -> Result<Range, Condition> {
        let range = self.inside(call)?;
        let geometry = call.unit.geometry();
        if range.bytes(geometry.sector_bytes) > geometry.transfer_bytes_max.into() {
            return Err(Condition::cdb(self.blocks_at));
        }
        Ok(range)
    }
}
