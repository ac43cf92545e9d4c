//! The record of a copy that shares extents: which blocks take over what.

use super::{LIST_MAX, RecordError};
use crate::address::Address;
use base::units::{BLOCK, VDISK_SIZE_MAX};
use base::{Reader, Writer};
use std::rc::Rc;

/// Runs of blocks in their order, none of them empty.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CopyRecord {
    pub runs: Vec<(u64, CopiedRun)>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CopiedRun {
    /// So many blocks become `NONE` or `ZEROS`.
    Clear(u64, Address),
    /// Block by block, each of them stored.
    Extents(Rc<[Address]>),
}

const HOLE: u8 = 0;
const ZEROS: u8 = 1;
const EXTENTS: u8 = 2;

impl CopiedRun {
    pub fn count(&self) -> u64 {
        match self {
            CopiedRun::Clear(count, _) => *count,
            CopiedRun::Extents(addresses) => addresses.len() as u64,
        }
    }

    fn extents(&self) -> &[Address] {
        if let CopiedRun::Extents(addresses) = self { addresses } else { &[] }
    }
}

impl CopyRecord {
    /// The blocks from `block` on become `addresses`.
    pub fn new(block: u64, addresses: &[Address]) -> CopyRecord {
        let mut runs = Vec::new();
        let mut at = block;
        for alike in addresses.chunk_by(|one, next| kind(*one) == kind(*next)) {
            let run = match kind(alike[0]) {
                EXTENTS => CopiedRun::Extents(alike.into()),
                _ => CopiedRun::Clear(alike.len() as u64, alike[0]),
            };
            runs.push((at, run));
            at += alike.len() as u64;
        }
        CopyRecord { runs }
    }

    /// The extents taken over.
    pub fn extents(&self) -> impl Iterator<Item = Address> {
        self.runs.iter().flat_map(|(_, run)| run.extents()).copied()
    }

    pub(super) fn put(&self, w: &mut Writer) {
        w.u32_le(self.runs.len() as u32);
        for (block, run) in &self.runs {
            let kind = match run {
                CopiedRun::Clear(_, fill) => kind(*fill),
                CopiedRun::Extents(_) => EXTENTS,
            };
            w.u64_le(*block).u32_le(run.count() as u32).u8(kind);
            if let CopiedRun::Extents(addresses) = run {
                addresses.iter().for_each(|address| {
                    w.u128_le(address.raw());
                });
            }
        }
    }

    pub(super) fn take(r: &mut Reader) -> Result<CopyRecord, RecordError> {
        let count = r.u32_le()?;
        let mut runs: Vec<(u64, CopiedRun)> = Vec::new();
        let mut end = 0;
        for _ in 0..count {
            let (block, count, kind) = (r.u64_le()?, r.u32_le()?, r.u8()?);
            let run = match kind {
                HOLE => CopiedRun::Clear(count.into(), Address::NONE),
                ZEROS => CopiedRun::Clear(count.into(), Address::ZEROS),
                EXTENTS => CopiedRun::Extents(take_extents(r, count)?),
                _ => return Err(RecordError::Field),
            };
            let fits = block.checked_add(count.into()).is_some_and(|end| end <= VDISK_SIZE_MAX / BLOCK);
            if count == 0 || block < end || !fits {
                return Err(RecordError::Field);
            }
            end = block + u64::from(count);
            runs.push((block, run));
        }
        if runs.is_empty() { Err(RecordError::Field) } else { Ok(CopyRecord { runs }) }
    }
}

fn take_extents(r: &mut Reader, count: u32) -> Result<Rc<[Address]>, RecordError> {
    if count > LIST_MAX {
        return Err(RecordError::Field);
    }
    let mut extents = Vec::new();
    for _ in 0..count {
        extents.push(Address::from_raw(r.u128_le()?).filter(|address| address.is_stored()).ok_or(RecordError::Field)?);
    }
    Ok(extents.into())
}

fn kind(address: Address) -> u8 {
    match address {
        Address::NONE => HOLE,
        Address::ZEROS => ZEROS,
        _ => EXTENTS,
    }
}
