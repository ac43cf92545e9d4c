//! The map: a copy-on-write radix tree from block number to extent address.
//!
//! In memory a persistent tree: keeping the `Rc` of a root keeps that state for ever, and writers copy what they touch.
//! On disk 4 KiB pages of 256 entries of 16 bytes. Pages that are not in memory are asked for by [`NeedPage`]; nothing
//! here reads a disk.

mod node;
mod page;
mod tree;

pub use node::{Child, Leaf, MapMemory, Node};
pub use page::{FANOUT, PAGE_LEN, PageError, address_at, decode_page, encode_page};
pub use tree::{NeedPage, PagePlace, PageState, Sink, Tree, height_for};

#[cfg(test)]
mod tests;
