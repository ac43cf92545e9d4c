//! Real command lines through the real parser, against the real API over the model of the control plane.

mod backups;
mod containers;
mod copies;
mod iscsi;
mod lines;
mod server;
mod snapshots;
mod vms;
