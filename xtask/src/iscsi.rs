//! iSCSI on the real binary: other people's initiators, access rules, what survives, bad initiators.

mod access;
mod copy;
pub mod initiator;
mod rude;
mod survive;
mod tools;
mod vms;

use crate::clients::{Group, Options, run_groups};
use crate::server::Subject;
use crate::steps::Done;
use anyhow::Result;

const GROUPS: &[Group] = &[
    Group::new("tools", tools::CHECKS),
    Group::new("access", access::CHECKS),
    Group::new("copy", copy::CHECKS),
    Group::new("vms", vms::CHECKS),
    Group::new("survive", survive::CHECKS),
    Group::with_little_memory("rude", rude::CHECKS),
];

pub fn run(check: Option<String>) -> Result<Done> {
    run_groups("iscsi", Subject::Drystone, GROUPS, &Options { check, peer: false })
}

pub fn run_alone(check: Option<String>) -> Result<()> {
    crate::server::build()?;
    let done = run(check)?;
    println!("{} checks: {}", done.checks, done.said);
    Ok(())
}
