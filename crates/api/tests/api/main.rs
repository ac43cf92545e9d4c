//! The real router behind a real socket, over the model of the control plane.

mod client;
mod containers;
mod data;
mod document;
mod iscsi;
mod metrics;
mod problems;
mod server;
mod snapshots;
mod vdisks;
mod vms;
