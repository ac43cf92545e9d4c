//! The iSCSI protocol (RFC 7143, with the additions of RFC 7144), target side, sans I/O: PDU codec, text negotiation,
//! login and the full feature phase.
//!
//! Bytes go in, bytes and effects come out; whoever owns the socket does what the effects say. A connection starts as a
//! [`Login`]; [`Login::accept`] turns it into a [`Session`], which parses requests ([`Session::next`]), gathers the data
//! of writes, and encodes what the device server answers ([`Session::respond`]). ErrorRecoveryLevel is 0 and a session
//! has one connection. Everything that an initiator can make grow has a limit ([`Limits`], [`TEXT_BYTES_MAX`]).
//! Knows `scsi`'s border types and `block`'s segments, no device server, no sockets, no clock.

mod chap;
mod encode;
mod keys;
mod login;
mod session;
#[cfg(test)]
mod testing;
pub mod text;
pub mod wire;

pub use chap::Secret;
pub use encode::Digests;
pub use keys::{Parameters, RECEIVE_BYTES_MAX};
pub use login::{Access, Advertised, Chosen, Directory, Entropy, Initiator, Login, Step};
pub use session::{Begin, Cdb, Execute, Limits, ManageTag, Next, Notice, Scope, Session, Tag, TextTag};
pub use text::TEXT_BYTES_MAX;
