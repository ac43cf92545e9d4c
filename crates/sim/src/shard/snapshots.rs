//! The verbs on snapshots, as a front-end and the control plane use them: a device counts as a connection until it is
//! dropped or asked to end, a set is cut when all its members are paused.

use super::{id_of, to_block};
use crate::engine::{Changed, Side, SnapshotInfo};
use base::{SnapshotId, VdiskId};
use block::{BlockDevice, Error, Geometry, Kind, Reply, Request, Result};
use node::{Attachment, Shard};
use std::cell::RefCell;
use std::rc::Rc;
use world::{Completion, World};

/// Few enough that a comparison has many pages.
const RANGES_MAX: usize = 3;

pub fn snapshot_of(id: u64) -> Result<SnapshotId> {
    SnapshotId::from_raw(id).ok_or_else(|| Error::new(Kind::Invalid, "no id of a snapshot"))
}

fn side_of(side: Side) -> Result<node::Side> {
    Ok(match side {
        Side::Empty => node::Side::Empty,
        Side::Now => node::Side::Now,
        Side::Snapshot(id) => node::Side::Snapshot(snapshot_of(id)?),
    })
}

pub async fn list(shard: Rc<Shard>, id: VdiskId) -> node::Result<Vec<SnapshotInfo>> {
    let info = |summary: node::SnapshotSummary| SnapshotInfo {
        id: summary.id.raw(),
        name: summary.name,
        size_bytes: summary.size_bytes,
    };
    Ok(shard.snapshots(id).await?.into_iter().map(info).collect())
}

pub async fn changed(shard: Rc<Shard>, id: u64, from: Side, to: Side) -> Result<Vec<Changed>> {
    let (id, from, to) = (id_of(id)?, side_of(from)?, side_of(to)?);
    let (mut offset, mut ranges) = (0, Vec::new());
    loop {
        let page = shard.changed(id, from, to, offset, RANGES_MAX).await.map_err(to_block)?;
        let is_sound = page.ranges.len() <= RANGES_MAX && page.next.is_none_or(|next| next > offset);
        assert!(is_sound, "a page from {offset} on: {page:?}");
        ranges.extend(page.ranges.iter().map(|r| Changed { offset: r.offset, len: r.len, data: r.data }));
        match page.next {
            Some(next) => offset = next,
            None => return Ok(ranges),
        }
    }
}

pub async fn pause(shard: Rc<Shard>, name: String, ids: Vec<u64>) -> Result<u64> {
    let set = shard.context.pool.next_snapshot_id().await.map_err(|error| to_block(error.into()))?;
    let ids = ids.into_iter().map(id_of).collect::<Result<_>>()?;
    shard.pause(set, &name, ids).await.map_err(to_block)?;
    Ok(set.raw())
}

pub async fn cut(shard: Rc<Shard>, set: u64, name: String, ids: Vec<u64>) -> Result<Vec<u64>> {
    let members: Vec<VdiskId> = ids.into_iter().map(id_of).collect::<Result<_>>()?;
    let made = shard.cut(snapshot_of(set)?, &name, members.clone()).await.map_err(to_block)?;
    shard.confirm(snapshot_of(set)?, members.clone()).await.map_err(to_block)?;
    let of = |member| {
        let mut snapshots = made.iter().filter(|summary| summary.vdisk == member);
        let only = snapshots.next().expect("each member has its snapshot");
        assert!(snapshots.next().is_none(), "two snapshots of {member} in one set");
        only.id.raw()
    };
    Ok(members.into_iter().map(of).collect())
}

/// What a connection has: dropped when it ends, and with it the hold. Requests under way have it too.
type Attached = Rc<(Rc<dyn BlockDevice>, node::Hold)>;

/// A reader that lets go when it is asked to.
pub struct Reader {
    attached: Rc<RefCell<Option<Attached>>>,
    geometry: Geometry,
}

impl Reader {
    pub fn serve(world: &World, attachment: Attachment) -> Rc<dyn BlockDevice> {
        let Attachment { device, closed, hold } = attachment;
        let geometry = device.geometry();
        let attached = Rc::new(RefCell::new(Some(Rc::new((device, hold)))));
        let asked = Rc::downgrade(&attached);
        world.spawn(async move {
            closed.await;
            if let Some(attached) = asked.upgrade() {
                attached.take();
            }
        });
        Rc::new(Reader { attached, geometry })
    }
}

impl BlockDevice for Reader {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn submit(&self, request: Request) -> Completion<Result<Reply>> {
        let Some(attached) = self.attached.borrow().clone() else {
            return Completion::Ready(Err(Error::new(Kind::Unavailable, "the connection has ended")));
        };
        let answer = attached.0.submit(request);
        Completion::pending(async move {
            let answer = answer.await;
            drop(attached);
            answer
        })
    }
}
