//! The simulated world: seeded executor and clock, faulty disks, models and checkers.

pub mod disk;
pub mod engine;
pub mod executor;
pub mod iscsi;
pub mod journal;
pub mod oracle;
pub mod rng;
pub mod run;
pub mod shard;
pub mod toy;
