//! SCSI device server: what a target does with a command, whatever transport brought it.
//!
//! A transport hands in [`Command`]s and [`Function`]s of one I_T nexus and sends back [`Response`]s and [`Outcome`]s.
//! Knows `block` and nothing of iSCSI. Sources: SAM-5, SPC-4, SBC-3 (T10).

mod command;
mod sense;

pub use command::{Attribute, Command, Ended, Function, Outcome, Response, Status};
pub use sense::{Key, Sense};
