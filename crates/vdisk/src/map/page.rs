//! A map page on disk: 256 entries of 16 bytes, little-endian, no header: the parent's entry holds its checksum.

use crate::address::Address;

pub const FANOUT: usize = 256;
pub const PAGE_LEN: usize = FANOUT * 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    #[error("a map page is {0} bytes long, not 4096")]
    Length(usize),
    #[error("entry {0} of a map page has a form that this build does not know")]
    Entry(usize),
}

pub fn encode_page(addresses: impl Iterator<Item = Address>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PAGE_LEN);
    for address in addresses {
        bytes.extend_from_slice(&address.raw().to_le_bytes());
    }
    assert_eq!(bytes.len(), PAGE_LEN, "a page has 256 entries");
    bytes
}

pub fn decode_page(bytes: &[u8]) -> Result<Box<[Address; FANOUT]>, PageError> {
    if bytes.len() != PAGE_LEN {
        return Err(PageError::Length(bytes.len()));
    }
    let mut addresses = Box::new([Address::NONE; FANOUT]);
    for (index, (to, from)) in addresses.iter_mut().zip(bytes.chunks_exact(16)).enumerate() {
        let raw = u128::from_le_bytes(from.try_into().expect("chunks of 16 bytes"));
        *to = Address::from_raw(raw).ok_or(PageError::Entry(index))?;
    }
    Ok(addresses)
}

/// One entry of a page that is still bytes.
pub fn address_at(page: &[u8], index: usize) -> Option<Address> {
    let bytes = page.get(index * 16..index * 16 + 16)?;
    Address::from_raw(u128::from_le_bytes(bytes.try_into().ok()?))
}
