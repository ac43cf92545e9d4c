//! The production world: worker threads, io_uring, slab files, clock.
