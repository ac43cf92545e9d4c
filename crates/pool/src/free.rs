//! Giving space back: whole groups, dead ranges, and groups that nothing was appended to.

use crate::header::encode_free;
use crate::pool::Group;
use crate::slots::Blocks;
use crate::{Error, HEADER_PAGE, Pool, Result};
use base::units::{round_down, round_up};
use base::{GroupId, VdiskId};
use std::rc::Rc;
use world::LocalFuture;

const PAGE: u64 = HEADER_PAGE as u64;

impl Pool {
    /// Frees a group that the caller has proven dead. It is unknown from this call on; its slot is used again after
    /// the reads under way have ended and a sync has covered its FREE mark. A group that is unknown is free already, unless
    /// it is one of [`Pool::unfreed_of`]: then its mark is tried again. After an error it is one of them.
    pub fn free(&self, group: GroupId) -> LocalFuture<Result<()>> {
        let unfreed = || self.unfreed.borrow_mut().remove(&group);
        let Some(group) = self.remove_group(group).or_else(unfreed) else { return Box::pin(async { Ok(()) }) };
        group.sealed.set(true);
        group.freed.set(true);
        let pool = self.rc();
        Box::pin(async move {
            group.until_idle().await;
            pool.free_slot(&group).await
        })
    }

    /// Groups of the vDisk that were to be freed and whose FREE marks are not on the disk, which refused them: their slots
    /// stay out of use, and the next start finds the groups.
    pub fn unfreed_of(&self, vdisk: VdiskId) -> Vec<GroupId> {
        let unfreed = self.unfreed.borrow();
        unfreed.values().filter(|group| group.vdisk == vdisk).map(|group| group.id).collect()
    }

    async fn free_slot(&self, group: &Rc<Group>) -> Result<()> {
        let slab = &group.slab;
        if !group.started.get() {
            self.untake(group);
            return Ok(());
        }
        if slab.poisoned.get() {
            // It cannot be marked. The next start finds the group, and its vDisk frees it again.
            self.unfreed.borrow_mut().insert(group.id, group.clone());
            return Ok(());
        }
        let result = match self.blocks_to_keep(group) {
            Some(keep) => self.mark_free(group).await.map(|()| keep),
            None => self.punch_slot(group).await,
        };
        match result {
            Ok(blocks) => {
                slab.slots.borrow_mut().freed(group.slot, blocks);
                self.space.uncharge(u64::from(group.blocks.get().charged - blocks.charged));
                Ok(())
            }
            Err(e) => {
                self.unfreed.borrow_mut().insert(group.id, group.clone());
                Err(Error::from_disk(format!("cannot free group {}", group.id), e))
            }
        }
    }

    /// The blocks that a freed slot keeps, since space that was written before is faster to sync. `None`: it keeps
    /// none, because there are enough such slots or because too much of it was punched.
    fn blocks_to_keep(&self, group: &Group) -> Option<Blocks> {
        let Blocks { charged, allocated_to, written_to } = group.blocks.get();
        let (_, recycled_bytes) = self.recycled();
        let whole_to = group.hole_at.get().min(allocated_to);
        let (all, kept) = (self.space.charged_bytes(), recycled_bytes + u64::from(charged));
        let was_needed = all <= self.space.in_use_high(all.saturating_sub(recycled_bytes));
        let fits = kept <= self.config.recycled_bytes_max
            || was_needed && kept <= all / 100 * self.config.recycled_percent_busy;
        let keep = Blocks { charged, allocated_to: whole_to, written_to: written_to.min(whole_to) };
        (fits && u64::from(whole_to) * 2 >= u64::from(charged) && charged > 0).then_some(keep)
    }

    /// (slots, bytes) that are free and keep their blocks.
    pub(crate) fn recycled(&self) -> (u64, u64) {
        let each = self.slabs().into_iter().map(|slab| slab.slots.borrow().recycled());
        each.fold((0, 0), |(slots, bytes), one| (slots + u64::from(one.0), bytes + one.1))
    }

    async fn mark_free(&self, group: &Group) -> world::Result<()> {
        let written = group.slab.file.write(group.start, &[encode_free(group.id)]).await;
        group.slab.dirty.set(true);
        written
    }

    /// The mark is synced before the punch: a punch is not one event at a power loss, and half of one could leave a header
    /// with some of the frames behind it gone.
    async fn punch_slot(&self, group: &Group) -> world::Result<Blocks> {
        self.mark_free(group).await?;
        if let Err(error) = self.sync_slab(&group.slab).await {
            let detail = error.to_string();
            return Err(world::Error { kind: world::Kind::Io, context: "before a punch".to_string(), detail });
        }
        let punched = group.slab.file.punch(group.start, group.size.into()).await;
        group.slab.dirty.set(true);
        match punched {
            Ok(()) => Ok(Blocks::default()),
            Err(e) if e.kind == world::Kind::Unsupported => {
                let mut blocks = group.blocks.get();
                blocks.charged = blocks.charged.max(HEADER_PAGE);
                group.blocks.set(blocks);
                Ok(blocks)
            }
            Err(e) => Err(e),
        }
    }

    /// Gives the space of a dead range back, as far as it consists of whole 4 KiB; the header page stays. The caller
    /// guarantees that nobody needs the range. Does nothing where the file system cannot punch.
    pub fn punch(&self, group: GroupId, offset: u32, len: u32) -> LocalFuture<Result<()>> {
        let Some(group) = self.group(group).filter(|group| group.started.get()) else {
            return Box::pin(async { Ok(()) });
        };
        let limit = round_down(group.tail.get().min(group.size).into(), PAGE);
        let start = round_up(offset.into(), PAGE).max(PAGE);
        let end = round_down(u64::from(offset) + u64::from(len), PAGE).min(limit);
        if start >= end || group.slab.poisoned.get() {
            return Box::pin(async { Ok(()) });
        }
        let (pool, busy) = (self.rc(), group.busy());
        Box::pin(async move {
            let _busy = busy;
            group.hole_at.set(group.hole_at.get().min(start as u32));
            let punched = group.slab.file.punch(group.start + start, end - start).await;
            group.slab.dirty.set(true);
            match punched {
                Ok(()) => {
                    let mut blocks = group.blocks.get();
                    let given = (end - start).min(blocks.charged.into());
                    blocks.charged -= given as u32;
                    group.blocks.set(blocks);
                    pool.space.uncharge(given);
                    Ok(())
                }
                Err(e) if e.kind == world::Kind::Unsupported => Ok(()),
                Err(e) => Err(Error::from_disk(format!("cannot punch group {}", group.id), e)),
            }
        })
    }

    /// The handle of a group went away.
    pub(crate) fn abandoned(&self, group: &Rc<Group>, never_begun: bool) {
        if never_begun && self.remove_group(group.id).is_some() {
            group.freed.set(true);
            self.untake(group);
        } else if !group.freed.get() && group.blocks.get().charged > group.tail.get() {
            self.untrimmed.borrow_mut().push(group.clone());
        }
    }

    fn untake(&self, group: &Group) {
        group.slab.slots.borrow_mut().untake(group.slot, group.blocks.get());
    }
}
