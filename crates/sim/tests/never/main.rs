//! What may never happen: each line of that list (architecture, section 4) and the tests that construct it.
//!
//! | never | tests |
//! |---|---|
//! | rot taken for a tail | `rot`: headers, payloads, pages, records and whole groups damaged at and below what was synced, and above it; one flipped bit anywhere |
//! | a short seal | `seal`: the seal of a recovery, of a full group, of a rewrite that was cut short (with one replica there is nothing to leave out) |
//! | a forked chain | `fork`: epochs, recovered groups, cut tails, recoveries that are cut short themselves, void groups that come back |
//! | a forgotten failed sync | `sync`: rewritten elsewhere, or every flush fails; what bounds the unsynced; checkpoints that were under way |
//! | a half append | `append`: refused, half done, done in whole though refused; with and without a crash behind it |
//! | reclaim on the word of memory | `reclaim`: the order of operations, a crash at each of them, wrong counters, groups that cannot be read |
//! | no room to make room | `room`: a full disk takes trims, deletions, checkpoints, starts, and goes on |
//! | an old disk believed | `old_disk`: copies of the disk, of the superblock, of the metadata store; none; recycled slots, torn marks, strangers |
//!
//! `again` is about what has to be written once more, after a crash or a failed sync, `copies` about which copy of it counts
//! then, `deletion` about tombstones.
//! `found` has faults that these tests were not exact enough for at first. Beyond the list: `space` (accounts against a full walk of the map, nothing leaks) and `bounds` (the replay in sum
//! over many vDisks, punching).
//!
//! `overlap` is about two frames that are under way, `kept` about snapshots and clones, `cut` about taking and deleting snapshots, `family` about what comes of them and in which
//! order it goes, `barrier` about sets of several vDisks, `held` about the space that all of them take, `shares` about which of it
//! each takes alone.
//!
//! `rewind` is about moments of the past, `moments` about what is kept for one and which time counts, `history` about what is
//! said of the past and when it goes, `room_of_history` about a full disk that histories would make room on.
//!
//! `needed` is about who needs a group that looks dead, `taken` about what copies that share extents hold, `unheard` about who is waited for before anything
//! comes free, `thin` about what is left of copies on a full disk, and about work that cannot free anything.
//!
//! `lists` is about lists of many groups in records, and those of older builds; `notes` is about what front-ends leave in the log; `order` is about the order of requests and those that nobody waits for; `atomic` is about requests that are whole: those that compare first, writes of several blocks, and readers beside them.
//!
//! Every situation is exact: the simulated disk does what the test says, and between two lives of the machine the test
//! changes the bytes itself.

mod keeper;
mod machine;
mod tap;
mod unheard;

mod again;
mod append;
mod atomic;
mod barrier;
mod bounds;
mod copies;
mod cut;
mod deletion;
mod family;
mod fork;
mod found;
mod held;
mod history;
mod kept;
mod lists;
mod moments;
mod needed;
mod notes;
mod old_disk;
mod order;
mod overlap;
mod reclaim;
mod rewind;
mod room;
mod room_of_history;
mod rot;
mod seal;
mod shares;
mod space;
mod sync;
mod taken;
mod thin;
