//! Groups of deleted vDisks: freed when no clone needs them, the one with the tombstone last.

use crate::Result;
use crate::reclaim::{find_any_in, list};
use crate::vdisk::Context;
use base::{GroupId, Sequence, VdiskId};
use std::collections::BTreeSet;

/// What is left of a deleted vDisk.
#[derive(Clone, Debug)]
pub struct Leftover {
    pub vdisk: VdiskId,
    /// Of the vDisks that may need it; `None`: not known.
    pub family: Option<VdiskId>,
    /// Without the tombstone's.
    pub groups: Vec<GroupId>,
    /// The group with the delete record.
    pub tombstone: Option<GroupId>,
}

impl Leftover {
    pub fn new(
        vdisk: VdiskId,
        family: Option<VdiskId>,
        mut groups: Vec<GroupId>,
        tombstone: Option<GroupId>,
    ) -> Leftover {
        groups.retain(|group| Some(*group) != tombstone);
        groups.sort_unstable();
        groups.dedup();
        Leftover { vdisk, family, groups, tombstone }
    }
}

/// Frees what nobody needs any more. `true`: nothing is left. The last group goes only when all others that the vDisk ever
/// had are durably gone, those too that it gave up long ago and whose slabs were not synced since, or whose marks the disk
/// did not take: one that came back without the tombstone would pass for a living vDisk.
pub async fn free_deleted(context: &Context, leftover: &mut Leftover) -> Result<bool> {
    let mut kept = Vec::new();
    let mut all: BTreeSet<GroupId> = std::mem::take(&mut leftover.groups).into_iter().collect();
    all.extend(context.pool.unfreed_of(leftover.vdisk));
    all.retain(|group| Some(*group) != leftover.tombstone);
    let mut groups = all.into_iter();
    let mut result = Ok(());
    for group in groups.by_ref() {
        match free_one(context, leftover, group).await {
            Ok(true) => {}
            Ok(false) => kept.push(group),
            Err(error) => {
                kept.push(group);
                result = Err(error);
                break;
            }
        }
    }
    kept.extend(groups);
    leftover.groups = kept;
    result?;
    if !leftover.groups.is_empty() || !context.references.may_free(leftover.family) {
        return Ok(false);
    }
    let is_held = |group: &GroupId| context.pool.knows(*group) && context.references.is_held(*group);
    if let Some(tombstone) = leftover.tombstone.filter(is_held) {
        // It is looked at again whenever anybody lets anything go: not at the price of a sync.
        context.references.becomes_hollow(tombstone, true);
        return Ok(false);
    }
    context.pool.sync_all().await?;
    match leftover.tombstone {
        Some(tombstone) => free_one(context, leftover, tombstone).await,
        None => Ok(true),
    }
}

async fn free_one(context: &Context, leftover: &Leftover, group: GroupId) -> Result<bool> {
    let references = &context.references;
    let is_gone = || !context.pool.unfreed_of(leftover.vdisk).contains(&group);
    if !context.pool.knows(group) {
        // Nobody needed it when it was freed before.
        context.pool.free(group).await?;
        return Ok(is_gone());
    }
    if references.is_held(group) || !references.may_free(leftover.family) {
        references.becomes_hollow(group, true);
        return Ok(false);
    }
    let roots = references.roots_of(leftover.vdisk, Sequence(0));
    if !roots.is_empty() {
        let roots: Vec<_> = roots.iter().map(|root| (root.address, root.height)).collect();
        let found = match list(context, leftover.vdisk, group, None).await? {
            Ok(listed) => find_any_in(context, &roots, group, &listed.held).await?,
            Err(why) => Some(why),
        };
        if let Some(why) = found {
            tracing::error!(vdisk = %leftover.vdisk, %group, why, "a group of a deleted vDisk is needed though nobody holds it; it is kept");
            return Ok(false);
        }
        if references.is_held(group) {
            return Ok(false);
        }
    }
    context.pool.free(group).await?;
    context.load.room_came();
    Ok(is_gone())
}
