//! The oracle: what a user was promised, and whether what he sees keeps it.

pub mod catalog;
pub mod history;
pub mod pattern;
pub mod snapshots;
pub mod walls;

#[cfg(test)]
mod tests;
