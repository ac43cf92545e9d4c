//! The 128-bit map entry: where an extent is stored, how long it is, and the checksum that proves it.
//!
//! | bits | what |
//! |---|---|
//! | 0..32 | CRC-32C of the stored bytes |
//! | 32..80 | group id (node 16, counter 32) |
//! | 80..104 | offset in the group, in units of 16 bytes |
//! | 104..118 | stored length, in units of 16 bytes |
//! | 118..122 | codec |
//! | 122..127 | block index within the extent |
//! | 127 | spare, zero |
//!
//! All zero: nothing is mapped, the block reads as zeros. Inner pages of the map hold the same for their child pages, so
//! that every page is verified by its parent.

use base::GroupId;
use base::units::GRAIN;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Address(u128);

/// How the stored bytes become the block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Codec {
    /// The bytes themselves.
    Raw = 0,
    /// No bytes are stored; the block reads as zeros but counts as allocated (NBD_CMD_FLAG_NO_HOLE).
    Zeros = 1,
}

impl Address {
    pub const NONE: Address = Address(0);
    /// Reads as zeros, counts as allocated. In an inner page: the same for the whole subtree.
    pub const ZEROS: Address = Address((Codec::Zeros as u128) << 118);

    /// `offset` and `len` are bytes and multiples of 16; at most 256 MiB and 256 KiB.
    pub fn new(group: GroupId, offset: u32, len: u32, crc: u32) -> Address {
        assert!(u64::from(offset) % GRAIN == 0 && u64::from(len) % GRAIN == 0, "unaligned extent {offset}+{len}");
        assert!(offset < 1 << 28 && len < 1 << 18, "extent {offset}+{len} does not fit an entry");
        Address(
            u128::from(crc)
                | u128::from(group.raw()) << 32
                | u128::from(offset / GRAIN as u32) << 80
                | u128::from(len / GRAIN as u32) << 104,
        )
    }

    pub fn raw(self) -> u128 {
        self.0
    }

    /// `None` for codecs and bits that this build does not know: such a page is from a newer format, or rotten.
    pub fn from_raw(raw: u128) -> Option<Address> {
        let address = Address(raw);
        let codec = (raw >> 118) & 0xf;
        let known = raw == 0 || address == Address::ZEROS || (codec == 0 && !address.group().is_none());
        (known && raw >> 122 == 0).then_some(address)
    }

    pub fn is_none(self) -> bool {
        self.0 == 0
    }
    /// Bytes are stored for it.
    pub fn is_stored(self) -> bool {
        !self.group().is_none()
    }
    pub fn crc(self) -> u32 {
        self.0 as u32
    }
    pub fn group(self) -> GroupId {
        GroupId::from_raw((self.0 >> 32) as u64 & ((1 << 48) - 1)).expect("masked to 48 bits")
    }
    /// Offset in units of 16 bytes.
    pub fn grain(self) -> u32 {
        (self.0 >> 80) as u32 & 0xff_ffff
    }
    /// Bytes from the start of the group.
    pub fn offset(self) -> u32 {
        self.grain() * GRAIN as u32
    }
    /// Stored bytes.
    pub fn len(self) -> u32 {
        ((self.0 >> 104) as u32 & 0x3fff) * GRAIN as u32
    }
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_none() {
            return f.write_str("none");
        }
        if *self == Address::ZEROS {
            return f.write_str("zeros");
        }
        write!(f, "{}+{:#x}/{} crc {:08x}", self.group(), self.offset(), self.len(), self.crc())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bits() {
        let address = Address::new(GroupId::new(0x1234, 0x89ab_cdef), 0x123_4560, 4096, 0xdead_beef);
        assert_eq!(address.raw(), 0x0001_0012_3456_1234_89ab_cdef_dead_beef);
        assert_eq!(address.group(), GroupId::new(0x1234, 0x89ab_cdef));
        assert_eq!((address.offset(), address.len(), address.crc()), (0x123_4560, 4096, 0xdead_beef));
        assert_eq!(Address::from_raw(address.raw()), Some(address));
        assert_eq!(Address::from_raw(Address::ZEROS.raw()), Some(Address::ZEROS));
    }

    #[test]
    fn unknown_bits_are_refused() {
        let good = Address::new(GroupId::new(1, 1), 4096, 4096, 1).raw();
        for bit in [118, 119, 120, 121, 122, 126, 127] {
            assert_eq!(Address::from_raw(good | 1 << bit), None, "bit {bit}");
        }
        assert_eq!(Address::from_raw(5), None, "a checksum without a group");
    }
}
