//! SCSI device server: what a target does with a command, whatever transport brought it.
//!
//! A transport hands in [`Command`]s and [`Function`]s of one I_T nexus ([`Nexus`]) and sends back [`Response`]s and [`Outcome`]s.
//! Knows `block` and nothing of iSCSI. Sources: SAM-5, SPC-4, SBC-3 (T10).
//!
//! A command goes through [`Nexus::start`] (everything that can be said without its data), then, if [`Task::data_out_bytes`] asks for
//! data, the transport gathers that, then [`Task::run`].

mod absent;
mod atomic;
mod attention;
mod call;
mod capacity;
mod cdb;
mod command;
mod copy;
mod event;
mod fault;
mod host;
mod identity;
mod inquiry;
mod lba_status;
mod limits;
mod lun;
mod manage;
mod medium;
mod mode;
mod nexus;
mod path;
mod prefetch;
mod range;
mod read;
mod ready;
mod report;
mod request_sense;
mod reservation;
mod sanitize;
mod saved;
mod sense;
mod synchronize;
mod table;
mod task;
mod task_set;
mod unit;
mod unmap;
mod verify;
mod visit;
mod write;
mod write_same;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use command::{Attribute, Command, Ended, Function, Outcome, Response, Status};
pub use event::Event;
pub use host::Host;
pub use identity::Identity;
pub use lun::decode as lun_number;
pub use nexus::{Leaving, Nexus, Target, TargetPort};
pub use sense::{Key, Sense};
pub use task::{Task, memory_bytes};
pub use unit::{LogicalUnit, SavedStateError};
pub use visit::Visit;
