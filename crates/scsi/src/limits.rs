//! The limits that VPD page b0h tells, and that the commands keep.

use block::Geometry;

/// Blocks of one UNMAP: all its descriptors together. 1,048,576 blocks of 512 bytes are 512 MiB, what every initiator splits at anyway.
pub(crate) const UNMAP_BLOCKS_MAX: u32 = 1 << 20;
/// One page of descriptors; each becomes a request to the device.
pub(crate) const UNMAP_DESCRIPTORS_MAX: u32 = 255;

/// What is unmapped, and what is written atomically, are whole blocks of the device.
pub(crate) fn granularity_bytes(geometry: &Geometry) -> u32 {
    geometry.preferred_bytes.max(geometry.sector_bytes)
}

/// COMPARE AND WRITE: one byte counts the blocks.
pub(crate) fn compare_blocks_max(geometry: &Geometry) -> u8 {
    (atomic_bytes_max(geometry) / geometry.sector_bytes).min(255) as u8
}

/// Not beyond the longest transfer.
pub(crate) fn atomic_bytes_max(geometry: &Geometry) -> u32 {
    geometry.atomic_bytes_max.min(geometry.transfer_bytes_max)
}

/// Longer transfers are split by nobody and gain nothing.
pub(crate) fn optimal_transfer_bytes(geometry: &Geometry) -> u32 {
    geometry.transfer_bytes_max.min(1 << 20)
}
