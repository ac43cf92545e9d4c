//! The NBD protocol, server side, sans I/O: fixed newstyle negotiation and the transmission session.
//!
//! Source: the NetworkBlockDevice project's `doc/proto.md`; names of constants follow it. Bytes go in, bytes and
//! effects come out; whoever owns the socket does what the effects say. Nothing here blocks, and every buffer that a
//! client can make grow has a limit ([`Limits`], [`OPTION_BYTES_MAX`]).
//!
//! A connection starts as a [`Negotiation`]. When the client has chosen an export, [`Negotiation::accept`] turns it
//! into a [`Session`], which parses requests ([`Session::next`]) and encodes replies ([`Session::reply`]) into an
//! [`Output`]. Knows `block` and nothing of storage.

mod errno;
mod negotiation;
mod session;
#[cfg(test)]
mod testing;
pub mod wire;

pub use base::Output;
pub use errno::Errno;
pub use negotiation::{Directory, Export, Negotiation, OPTION_BYTES_MAX, Refusal, Step, TlsPolicy};
pub use session::{Limits, Next, PAYLOAD_BYTES_MAX, Selected, Session, Source, Tag};
