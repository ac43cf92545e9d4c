//! The NBD server: sockets, TLS and tasks around the `nbd` crate's protocol.
//!
//! A connection negotiates on the control runtime ([`negotiate`]). When the client has chosen a vDisk it moves, socket,
//! TLS state, unread bytes and all, to the worker thread that owns the vDisk, attaches there, and is served by one task
//! ([`connection`]) until it ends. What the rest of the controller has to bring is in [`seam`] and
//! [`crate::frontend`]; this folder knows nothing else of it. A resize is not announced (the protocol cannot): new connections see the new size, and requests
//! of old ones are measured against the current size, not the one they were told.

mod connection;
mod listen;
mod negotiate;
mod seam;

#[cfg(test)]
mod tests;

pub use listen::Server;
pub use seam::Exports;
