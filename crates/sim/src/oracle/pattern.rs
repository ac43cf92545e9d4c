//! What the workload writes: 512-byte sectors that say who wrote them, and where.
//!
//! So a read proves not only that bytes are intact but that they belong there, and which write they came from.

use base::{Reader, Writer};

pub const SECTOR: u64 = 512;

/// The number of one write request, never used twice in a run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct WriteId(pub u64);

/// What a sector holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Value {
    Zero,
    Data(WriteId),
}

/// Why bytes cannot have come from the place that was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Foreign {
    /// Neither zeros nor a whole sector of ours.
    Garbage,
    /// A whole sector that was written to another vDisk or another place.
    Elsewhere { vdisk: u64, sector: u64, write: WriteId },
}

/// The sector's bytes: vDisk, sector number, write, then a filler that depends on all three.
pub fn sector_bytes(vdisk: u64, sector: u64, write: WriteId) -> [u8; SECTOR as usize] {
    let mut writer = Writer::with_capacity(SECTOR as usize);
    writer.u64_le(vdisk).u64_le(sector).u64_le(write.0);
    let mut filler = crate::rng::mix(vdisk ^ sector.rotate_left(20) ^ write.0.rotate_left(40));
    while writer.bytes.len() < SECTOR as usize {
        writer.u64_le(filler);
        filler = filler.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
    }
    writer.bytes.try_into().expect("512 is a multiple of 8")
}

/// The bytes of a whole request that starts at `sector`.
pub fn request_bytes(vdisk: u64, sector: u64, sectors: u64, write: WriteId) -> bytes::Bytes {
    let mut data = Vec::with_capacity((sectors * SECTOR) as usize);
    (sector..sector + sectors).for_each(|sector| data.extend_from_slice(&sector_bytes(vdisk, sector, write)));
    data.into()
}

pub fn decode(vdisk: u64, sector: u64, bytes: &[u8]) -> Result<Value, Foreign> {
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(Value::Zero);
    }
    let mut reader = Reader::new(bytes);
    let (Ok(found_vdisk), Ok(found_sector), Ok(write)) = (reader.u64_le(), reader.u64_le(), reader.u64_le()) else {
        return Err(Foreign::Garbage);
    };
    let write = WriteId(write);
    if sector_bytes(found_vdisk, found_sector, write) != bytes {
        return Err(Foreign::Garbage);
    }
    if (found_vdisk, found_sector) != (vdisk, sector) {
        return Err(Foreign::Elsewhere { vdisk: found_vdisk, sector: found_sector, write });
    }
    Ok(Value::Data(write))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sector_names_its_write_and_nothing_else_passes() {
        let write = WriteId(77);
        let bytes = sector_bytes(3, 9, write);
        assert_eq!(decode(3, 9, &bytes), Ok(Value::Data(write)));
        assert_eq!(decode(3, 9, &[0; 512]), Ok(Value::Zero));
        assert_eq!(decode(3, 8, &bytes), Err(Foreign::Elsewhere { vdisk: 3, sector: 9, write }));
        assert_eq!(decode(4, 9, &bytes), Err(Foreign::Elsewhere { vdisk: 3, sector: 9, write }));
        for at in [0, 100, 511] {
            let mut torn = bytes;
            torn[at] ^= 1;
            assert_eq!(decode(3, 9, &torn), Err(Foreign::Garbage), "byte {at}");
        }
    }
}
