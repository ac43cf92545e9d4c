//! The simulated world: seeded executor and clock, faulty disks, models and checkers.
