//! Which slots of one slab are used, recycled or blank. Pure; the lowest comes first, so that files stay short.
//!
//! A freed slot is in *limbo* until a sync covered its FREE mark (or its punch): only then is it handed out again, so
//! that after a power loss no header of a dead group stands above frames of its successor.

use std::collections::{BTreeMap, BTreeSet};

/// What a slot holds on the medium, bytes from its start or in sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Blocks {
    /// Blocks that the slot is taken to occupy; an estimate from above.
    pub charged: u32,
    /// Up to here every byte can be written without `Full`.
    pub allocated_to: u32,
    /// Up to here every byte was written once, so that writing it again changes no file system metadata.
    pub written_to: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Slots {
    max: u32,
    /// Slots at and above were never handed out.
    fresh: u32,
    blank: BTreeSet<u32>,
    recycled: BTreeMap<u32, Blocks>,
    /// Freed since the last sync began.
    limbo: Vec<(u32, Blocks)>,
    /// Freed before the sync that is under way.
    syncing: Vec<(u32, Blocks)>,
    /// Of `recycled`, `limbo` and `syncing`: those with blocks, and the bytes of these.
    keeping: (u32, u64),
    used: u32,
    quarantined: u32,
}

/// A slot to put a group into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken {
    pub slot: u32,
    pub blocks: Blocks,
}

impl Slots {
    pub fn new(max: u32) -> Self {
        Slots { max, ..Slots::default() }
    }

    /// What a scan found, in order of slots.
    pub fn found_used(&mut self, slot: u32) {
        self.found(slot);
        self.used += 1;
    }
    pub fn found_quarantined(&mut self, slot: u32) {
        self.found(slot);
        self.quarantined += 1;
    }
    /// `durable`: the run before ended with a sync. If not, its FREE mark may be in nothing but the kernel's memory.
    pub fn found_free(&mut self, slot: u32, blocks: Blocks, durable: bool) {
        self.found(slot);
        self.keep(blocks);
        if durable {
            self.put_back(slot, blocks);
        } else {
            self.limbo.push((slot, blocks));
        }
    }
    fn found(&mut self, slot: u32) {
        assert_eq!(slot, self.fresh, "slots are found in order");
        self.fresh += 1;
    }

    fn keep(&mut self, blocks: Blocks) {
        self.keeping.0 += u32::from(blocks.charged > 0);
        self.keeping.1 += u64::from(blocks.charged);
    }

    /// A recycled slot leaves.
    fn take(&mut self, (slot, blocks): (u32, Blocks)) -> Taken {
        self.keeping.0 -= 1;
        self.keeping.1 -= u64::from(blocks.charged);
        self.used += 1;
        Taken { slot, blocks }
    }

    fn put_back(&mut self, slot: u32, blocks: Blocks) {
        if blocks.charged == 0 {
            self.blank.insert(slot);
        } else {
            self.recycled.insert(slot, blocks);
        }
    }

    pub fn take_recycled(&mut self) -> Option<Taken> {
        let first = self.recycled.pop_first()?;
        Some(self.take(first))
    }

    pub fn take_blank(&mut self) -> Option<Taken> {
        let slot = match self.blank.pop_first() {
            Some(slot) => slot,
            None if self.fresh < self.max => {
                self.fresh += 1;
                self.fresh - 1
            }
            None => return None,
        };
        self.used += 1;
        Some(Taken { slot, blocks: Blocks::default() })
    }

    /// A used slot that was never written since it was taken.
    pub fn untake(&mut self, slot: u32, blocks: Blocks) {
        self.used -= 1;
        self.keep(blocks);
        self.put_back(slot, blocks);
    }

    /// A used slot whose FREE mark or punch was written.
    pub fn freed(&mut self, slot: u32, blocks: Blocks) {
        self.used -= 1;
        self.keep(blocks);
        self.limbo.push((slot, blocks));
    }

    /// A used slot of which nothing is known any more: left alone until the next start looks at it.
    pub fn lost(&mut self) {
        self.used -= 1;
        self.quarantined += 1;
    }

    /// The last recycled slot leaves, to be punched; it comes back through [`Slots::freed`].
    pub fn take_for_punch(&mut self) -> Option<Taken> {
        let last = self.recycled.pop_last()?;
        Some(self.take(last))
    }

    pub fn sync_begins(&mut self) {
        assert!(self.syncing.is_empty(), "one sync at a time");
        self.syncing = std::mem::take(&mut self.limbo);
    }

    pub fn sync_succeeded(&mut self) {
        for (slot, blocks) in std::mem::take(&mut self.syncing) {
            self.put_back(slot, blocks);
        }
    }

    /// A group can be put into it now.
    pub fn has_free(&self) -> bool {
        !self.recycled.is_empty() || !self.blank.is_empty() || self.fresh < self.max
    }

    pub fn used(&self) -> u32 {
        self.used
    }
    pub fn quarantined(&self) -> u32 {
        self.quarantined
    }
    pub fn has_limbo(&self) -> bool {
        !self.limbo.is_empty()
    }

    pub fn has_limbo_with_blocks(&self) -> bool {
        self.limbo.iter().any(|(_, blocks)| blocks.charged > 0)
    }

    /// (slots, bytes) that are free and still hold blocks, those in limbo included.
    pub fn recycled(&self) -> (u32, u64) {
        self.keeping
    }
}

#[cfg(test)]
mod tests;
