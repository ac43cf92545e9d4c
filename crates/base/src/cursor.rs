//! Little-endian (and, for network protocols, big-endian) reading and writing of bytes that came from outside.

use crate::varint;

/// The bytes ended before the value did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Truncated;

impl std::fmt::Display for Truncated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the bytes end before the value does")
    }
}

impl std::error::Error for Truncated {}

/// Reads values from the front of a slice; never panics, never indexes.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

macro_rules! read_integers {
    ($($le:ident $be:ident $type:ty),*) => { $(
        pub fn $le(&mut self) -> Result<$type, Truncated> {
            Ok(<$type>::from_le_bytes(self.array()?))
        }
        pub fn $be(&mut self) -> Result<$type, Truncated> {
            Ok(<$type>::from_be_bytes(self.array()?))
        }
    )* };
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], Truncated> {
        let (head, tail) = self.rest.split_at_checked(len).ok_or(Truncated)?;
        self.rest = tail;
        Ok(head)
    }
    pub fn skip(&mut self, len: usize) -> Result<(), Truncated> {
        self.take(len).map(|_| ())
    }
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Truncated> {
        let (head, tail) = self.rest.split_first_chunk::<N>().ok_or(Truncated)?;
        self.rest = tail;
        Ok(*head)
    }
    read_integers!(u8_le u8_be u8, u16_le u16_be u16, u32_le u32_be u32, u64_le u64_be u64, u128_le u128_be u128);
    pub fn u8(&mut self) -> Result<u8, Truncated> {
        self.u8_le()
    }
    /// As [`varint::take`].
    pub fn varint(&mut self) -> Option<u64> {
        varint::take(&mut self.rest)
    }
}

/// Appends values to a growing buffer.
#[derive(Debug, Default)]
pub struct Writer {
    pub bytes: Vec<u8>,
}

macro_rules! write_integers {
    ($($le:ident $be:ident $type:ty),*) => { $(
        pub fn $le(&mut self, value: $type) -> &mut Self {
            self.bytes.extend_from_slice(&value.to_le_bytes());
            self
        }
        pub fn $be(&mut self, value: $type) -> &mut Self {
            self.bytes.extend_from_slice(&value.to_be_bytes());
            self
        }
    )* };
}

impl Writer {
    pub fn with_capacity(capacity: usize) -> Self {
        Writer { bytes: Vec::with_capacity(capacity) }
    }
    write_integers!(u8_le u8_be u8, u16_le u16_be u16, u32_le u32_be u32, u64_le u64_be u64, u128_le u128_be u128);
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.u8_le(value)
    }
    pub fn varint(&mut self, number: u64) -> &mut Self {
        varint::put(&mut self.bytes, number);
        self
    }
    pub fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }
    pub fn zeros(&mut self, len: usize) -> &mut Self {
        self.bytes.resize(self.bytes.len() + len, 0);
        self
    }
    /// Zeros up to the next multiple of `unit`.
    pub fn align(&mut self, unit: usize) -> &mut Self {
        let len = self.bytes.len().div_ceil(unit) * unit;
        self.bytes.resize(len, 0);
        self
    }
}
