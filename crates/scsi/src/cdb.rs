//! A command descriptor block of at most 16 bytes, read without indexing into what came from outside.

/// Longest CDB of the commands that are implemented.
pub(crate) const CDB_BYTES_MAX: usize = 16;

/// Zero behind its end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cdb([u8; CDB_BYTES_MAX]);

impl Cdb {
    /// Whatever lies behind the 16th byte is cut off.
    pub(crate) fn new(bytes: &[u8]) -> Cdb {
        let mut cdb = [0; CDB_BYTES_MAX];
        let len = bytes.len().min(CDB_BYTES_MAX);
        cdb[..len].copy_from_slice(&bytes[..len]);
        Cdb(cdb)
    }
    pub(crate) fn bytes(&self) -> &[u8; CDB_BYTES_MAX] {
        &self.0
    }
    pub(crate) fn opcode(&self) -> u8 {
        self.0[0]
    }
    /// Big-endian integers at a fixed place; the callers' offsets are constants within 16 bytes.
    pub(crate) fn u8<const AT: usize>(&self) -> u8 {
        const { assert!(AT < CDB_BYTES_MAX) };
        self.0[AT]
    }
    pub(crate) fn u16<const AT: usize>(&self) -> u16 {
        u16::from_be_bytes(self.array::<AT, 2>())
    }
    pub(crate) fn u24<const AT: usize>(&self) -> u32 {
        let [a, b, c] = self.array::<AT, 3>();
        u32::from_be_bytes([0, a, b, c])
    }
    pub(crate) fn u32<const AT: usize>(&self) -> u32 {
        u32::from_be_bytes(self.array::<AT, 4>())
    }
    pub(crate) fn u64<const AT: usize>(&self) -> u64 {
        u64::from_be_bytes(self.array::<AT, 8>())
    }
    fn array<const AT: usize, const N: usize>(&self) -> [u8; N] {
        const { assert!(AT + N <= CDB_BYTES_MAX) };
        std::array::from_fn(|index| self.0[AT + index])
    }
    pub(crate) fn has<const AT: usize>(&self, mask: u8) -> bool {
        self.u8::<AT>() & mask != 0
    }
}
