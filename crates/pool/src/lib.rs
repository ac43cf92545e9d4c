//! Disks, extent groups, sync, space and the RAM cache: where appended bytes are kept.
