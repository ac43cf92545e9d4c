//! Which bytes a vDisk's maps reach alone, and which others reach as well: exact, by walking stored maps side by side.
//!
//! An extent or a page is at one place only in whatever map has it, so that maps are compared place by place: what has the
//! same address there is one thing, and what several vDisks share is not looked into. (But for what was copied: where else that is nobody
//! can say, so that all data in the group counts as shared.)

use crate::account::Accounts;
use crate::address::Address;
use crate::image::{Needed, NeededGroups};
use crate::map::{FANOUT, decode_page};
use crate::reclaim::yield_now;
use crate::recovery::needed_at;
use crate::references::Holds;
use crate::snapshot::{Pin, Snapshot};
use crate::stored::page_bytes;
use crate::vdisk::{Checkpoint, Context, Vdisk, meta_hint};
use crate::{Error, Kind, Result};
use base::{GroupId, SnapshotId, VdiskId};
use std::collections::BTreeSet;
use std::rc::Rc;

/// Bytes of extents that maps refer to. (Headers, control records and what is dead are in none of them.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// 4 KiB for each mapped block.
    pub data: u64,
    /// Pages of the map.
    pub pages: u64,
}

/// What one map reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// No other map does: it dies if this one goes.
    pub unique: Reached,
    /// At least one other map does.
    pub shared: Reached,
}

/// What the maps of one vDisk reach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shares {
    /// The content as it is now.
    pub now: Share,
    /// In order of age.
    pub snapshots: Vec<(SnapshotId, Share)>,
    /// No map of another vDisk does: it dies if this vDisk goes with all its snapshots.
    pub alone: Reached,
}

/// A map as it is stored. What it refers to stays as long as this does.
pub struct StoredMap {
    vdisk: VdiskId,
    root: Address,
    height: u8,
    whole: Whole,
    _pin: Pin,
}

/// How much a map reaches in all, or where that is said.
enum Whole {
    Now(Reached),
    /// By the checkpoint that is kept for it.
    Snapshot(SnapshotId, meta_hint::Place),
}

impl Accounts {
    fn reached(&self) -> Reached {
        Reached { data: self.live_data(), pages: self.live_bytes() - self.live_data() }
    }
}

fn sum(needed: &[Needed]) -> Reached {
    let of = |bytes: fn(&Needed) -> u32| needed.iter().map(|needed| u64::from(bytes(needed))).sum();
    Reached { data: of(|needed| needed.data), pages: of(|needed| needed.pages) }
}

impl Reached {
    fn without(self, other: Reached) -> Reached {
        // Accounts are hints: one that says too little must not turn into a huge number.
        Reached { data: self.data.saturating_sub(other.data), pages: self.pages.saturating_sub(other.pages) }
    }
}

impl Vdisk {
    /// Afterwards [`Vdisk::stored_maps`] has everything written before the call, unless snapshots are taken meanwhile. Must not
    /// be dropped half way.
    pub async fn store_maps(self: &Rc<Self>) -> Result<()> {
        if self.is_as_born() { Ok(()) } else { self.checkpoint().await }
    }

    /// A clone in which nothing has changed, or an empty vDisk: its map is stored already.
    fn is_as_born(&self) -> bool {
        let state = self.state.borrow();
        state.checkpoint.is_none() && state.tree.root_if_clean().is_some() && self.next_frozen().is_none()
    }

    /// All its maps as of one moment, snapshots in order of age. `None`: one of them is not stored.
    pub fn stored_maps(&self) -> Option<Vec<StoredMap>> {
        // The first checkpoint of a map may be storing pages that are not synced.
        let _none_under_way = self.one_checkpoint.try_acquire(1)?;
        let state = self.state.borrow();
        let pin = |accounts: &Accounts| {
            Pin::new(Holds::of_list(&self.context.references, &NeededGroups::of(accounts.clone())))
        };
        let (root, height, accounts) = match state.checkpoint {
            Some(Checkpoint { root, height, .. }) => (root, height, &state.checkpoint_accounts),
            None => (state.tree.root_if_clean()?, state.tree.height, &state.accounts),
        };
        let whole = Whole::Now(accounts.reached());
        let mut maps = vec![StoredMap { vdisk: self.id, root, height, whole, _pin: pin(accounts) }];
        let mut snapshots: Vec<&Snapshot> = state.snapshots.values().collect();
        snapshots.sort_unstable_by_key(|snapshot| snapshot.sequence);
        for snapshot in snapshots {
            let kept = snapshot.kept()?;
            let whole = Whole::Snapshot(snapshot.record.id, kept.place);
            let pin = Pin::new(snapshot.holds.again());
            maps.push(StoredMap { vdisk: self.id, root: kept.root, height: kept.height, whole, _pin: pin });
        }
        Some(maps)
    }
}

/// What the maps of `vdisk` reach. `maps`: those of all vDisks of its family, of which no other one may be left out. Costs
/// the pages that it does not share with others, those beside them, and one record for each of its snapshots. `Closed`: not
/// `is_wanted` any more, which is asked at each page.
pub async fn shares(
    context: &Context,
    vdisk: VdiskId,
    maps: &[StoredMap],
    is_wanted: &dyn Fn() -> bool,
) -> Result<Shares> {
    let copied = context.references.copied_groups();
    let is_alone = maps.iter().all(|map| map.vdisk == vdisk) && copied.is_empty();
    let unique = vec![Reached::default(); maps.len()];
    let mut walk = Walk { context, is_wanted, unique, alone: Reached::default(), is_alone, copied };
    let mut roots = Vec::with_capacity(maps.len());
    for (index, map) in maps.iter().enumerate().filter(|(_, map)| map.root.is_stored()) {
        let owners = match map.whole {
            _ if map.vdisk != vdisk => Owners::Others,
            Whole::Now(_) => Owners::Now(index),
            Whole::Snapshot(..) => Owners::Snapshot(index),
        };
        roots.push((map.height, Thing { address: map.root, owners }));
    }
    walk.run(roots).await?;
    let mut shares = Shares { alone: walk.alone, ..Shares::default() };
    for (map, unique) in maps.iter().zip(walk.unique).filter(|(map, _)| map.vdisk == vdisk) {
        match map.whole {
            Whole::Now(all) => {
                shares.now = Share { unique, shared: all.without(unique) };
                if is_alone {
                    shares.alone.data += all.data;
                    shares.alone.pages += all.pages;
                }
            }
            Whole::Snapshot(id, place) => {
                let all = sum(&needed_at(context, vdisk, place).await?);
                shares.snapshots.push((id, Share { unique, shared: all.without(unique) }));
            }
        }
    }
    Ok(shares)
}

/// Who reaches a thing. Numbers are those of maps of the vDisk that is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Owners {
    Now(usize),
    Snapshot(usize),
    /// Several snapshots of the vDisk.
    Snapshots,
    /// What is there now, and at least one snapshot.
    NowAndSnapshots,
    /// Another vDisk is among them.
    Others,
}

impl Owners {
    fn and(self, other: Owners) -> Owners {
        use Owners::*;
        match (self, other) {
            (Others, _) | (_, Others) => Others,
            (Snapshot(_) | Snapshots, Snapshot(_) | Snapshots) => Snapshots,
            _ => NowAndSnapshots,
        }
    }
}

/// A page or an extent, and who reaches it at this place.
#[derive(Clone, Copy, Debug)]
struct Thing {
    address: Address,
    owners: Owners,
}

/// Pages of one level at one place, no two alike.
struct Place {
    level: u8,
    /// Roots of lower maps hang below its first child.
    is_first: bool,
    pages: Vec<Thing>,
}

struct Walk<'a> {
    context: &'a Context,
    is_wanted: &'a dyn Fn() -> bool,
    unique: Vec<Reached>,
    alone: Reached,
    /// Groups of which anybody may have anything.
    copied: BTreeSet<GroupId>,
    /// No other vDisk has maps: what is reached now is reached by this vDisk alone, and known without a walk.
    is_alone: bool,
}

impl Walk<'_> {
    /// `roots`: with their heights.
    async fn run(&mut self, roots: Vec<(u8, Thing)>) -> Result<()> {
        let of_height = |height: u8| roots.iter().filter(move |(of, _)| *of == height).map(|(_, root)| *root);
        let Some(height) = roots.iter().map(|(height, _)| *height).max() else { return Ok(()) };
        let top = joined(of_height(height).collect());
        let mut todo = vec![Place { level: height - 1, is_first: true, pages: top }];
        while let Some(place) = todo.pop() {
            place.pages.iter().for_each(|page| self.count(*page, |reached| &mut reached.pages));
            let has_lower = place.is_first && roots.iter().any(|(height, _)| *height <= place.level);
            if !has_lower && place.pages.iter().all(|page| self.is_settled(page.owners)) {
                continue;
            }
            let mut children = self.children(&place.pages).await?;
            if has_lower {
                children[0].extend(of_height(place.level));
            }
            for (slot, things) in children.into_iter().enumerate() {
                let things = joined(things);
                if place.level == 0 {
                    for extent in things {
                        if self.copied.contains(&extent.address.group()) {
                            continue;
                        }
                        self.count(extent, |reached| &mut reached.data);
                    }
                } else if !things.is_empty() || place.is_first && slot == 0 {
                    let is_first = place.is_first && slot == 0;
                    todo.push(Place { level: place.level - 1, is_first, pages: things });
                }
            }
        }
        Ok(())
    }

    /// Nothing below is of interest, whoever else reaches it.
    fn is_settled(&self, owners: Owners) -> bool {
        match owners {
            Owners::Others => true,
            Owners::NowAndSnapshots => self.is_alone,
            Owners::Now(_) | Owners::Snapshot(_) | Owners::Snapshots => false,
        }
    }

    fn count(&mut self, thing: Thing, kind: impl Fn(&mut Reached) -> &mut u64) {
        let bytes = u64::from(thing.address.len());
        if let Owners::Now(map) | Owners::Snapshot(map) = thing.owners {
            *kind(&mut self.unique[map]) += bytes;
        }
        let is_known = self.is_alone && matches!(thing.owners, Owners::Now(_) | Owners::NowAndSnapshots);
        if thing.owners != Owners::Others && !is_known {
            *kind(&mut self.alone) += bytes;
        }
    }

    /// What is stored below the pages, by slot.
    async fn children(&self, pages: &[Thing]) -> Result<Vec<Vec<Thing>>> {
        let mut children = vec![Vec::new(); FANOUT];
        for Thing { address, owners } in pages {
            yield_now().await;
            if !(self.is_wanted)() {
                return Err(Error::new(Kind::Closed, "nobody waits for the answer any more"));
            }
            let bytes = page_bytes(self.context, *address).await?;
            let entries =
                decode_page(&bytes).map_err(|error| Error::corrupt(format!("map page at {address:?}: {error}")))?;
            for (child, address) in children.iter_mut().zip(entries.iter()).filter(|(_, address)| address.is_stored()) {
                child.push(Thing { address: *address, owners: *owners });
            }
        }
        Ok(children)
    }
}

/// What has the same address is one thing.
fn joined(mut things: Vec<Thing>) -> Vec<Thing> {
    things.sort_unstable_by_key(|thing| thing.address.raw());
    things.dedup_by(|next, kept| {
        let is_same = next.address == kept.address;
        if is_same {
            kept.owners = kept.owners.and(next.owners);
        }
        is_same
    });
    things
}
