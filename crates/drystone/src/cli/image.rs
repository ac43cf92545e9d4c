//! Disk images of other programs, read and written through QEMU's tools.
//!
//! `qemu-img` says what an image is and proves it, `qemu-nbd` serves its content; raw images need neither. The format is
//! never guessed by QEMU: a guest writes the first bytes of its raw disk, and could make it look like an image that refers to
//! any file of the host.

mod format;
mod inspect;
mod nbd;
mod qemu;
mod source;
mod target;

pub use format::Format;
pub use source::{Options, Source};
pub use target::Target;
