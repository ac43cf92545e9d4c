//! Backup files: what a vDisk held at a snapshot, or what changed between two, in a form that proves itself.
//!
//! A file is a header, records in order of their offsets, and an end with a digest of everything before it; the bytes are
//! described in `docs/format.md`. A [`Writer`] only appends and a [`Reader`] only goes forward, so that both work on pipes.
//! Whoever restores proves each file with [`verify`] and their order with [`check_chain`] before anything is changed.
//!
//! Must not know: files, vDisks, the controller.

mod chain;
mod header;
mod reader;
mod record;
mod writer;

pub use chain::{ChainError, check_chain};
pub use header::{Header, Identity, Point};
pub use reader::{Error, Read, Reader, Result, Verified, verify};
pub use record::{DATA_BYTES_MAX, UNIT};
pub use writer::{Summary, Writer};

#[cfg(test)]
mod tests;
