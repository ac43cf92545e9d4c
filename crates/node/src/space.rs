//! Which bytes a vDisk and its snapshots reach alone, over its whole family: all that descend from one vDisk.

use crate::{Error, Kind, Result, Shard};
use base::VdiskId;
use std::rc::Rc;
use vdisk::{Shares, StoredMap, Vdisk, shares};

/// Snapshots and clones that are made while the maps are being stored: then all is looked at once more, this often.
const LOOKS_MAX: u32 = 8;

impl Shard {
    /// As of one moment for each vDisk, not before the call. `Damaged`: one of the family is. `Unavailable`: `is_wanted` says
    /// no, or snapshots and clones are made without end. To be awaited to its end.
    pub async fn shares(self: &Rc<Self>, vdisk: VdiskId, is_wanted: impl Fn() -> bool) -> Result<Shares> {
        for _ in 0..LOOKS_MAX {
            let family = self.family_of(vdisk).await?;
            // Syncs that begin together are shared.
            let stored: Vec<_> = family.iter().map(|member| self.started(store_maps(member.clone()))).collect();
            for stored in stored {
                stored.await.ok_or_else(|| Error::new(Kind::Unavailable, "the shard is shutting down"))??;
            }
            if let Some(maps) = self.stored_maps(vdisk, &family) {
                return Ok(shares(&self.context, vdisk, &maps, &is_wanted).await?);
            }
        }
        Err(Error::new(Kind::Unavailable, "snapshots and clones are being made all the time; try again"))
    }

    /// Itself among them.
    async fn family_of(self: &Rc<Self>, vdisk: VdiskId) -> Result<Vec<Rc<Vdisk>>> {
        let mut family = Vec::new();
        for id in self.family_ids(vdisk)? {
            match self.vdisk(id).await {
                Ok(member) => family.push(member),
                // Deleted meanwhile.
                Err(error) if error.kind == Kind::NotFound && id != vdisk => {}
                Err(error) => {
                    let text = format!("vDisk {id}, which may share its bytes, cannot be read: {}", error.context);
                    return Err(Error::new(error.kind, text));
                }
            }
        }
        Ok(family)
    }

    fn family_ids(&self, vdisk: VdiskId) -> Result<Vec<VdiskId>> {
        let family_of = |record: &meta::VdiskRecord| record.clone.map_or(record.id, |clone| clone.family);
        let records = self.records();
        let missing = || Error::new(Kind::NotFound, format!("there is no vDisk {vdisk}"));
        let family = records.iter().find(|record| record.id == vdisk).map(family_of).ok_or_else(missing)?;
        Ok(records.iter().filter(|record| family_of(record) == family).map(|record| record.id).collect())
    }

    /// Of the whole family as it is at this moment. `None`: it is not `known`, or not stored.
    fn stored_maps(&self, vdisk: VdiskId, known: &[Rc<Vdisk>]) -> Option<Vec<StoredMap>> {
        let mut maps = Vec::new();
        for id in self.family_ids(vdisk).ok()? {
            let member = known.iter().find(|member| member.id == id)?;
            maps.extend(member.stored_maps()?);
        }
        Some(maps)
    }
}

async fn store_maps(vdisk: Rc<Vdisk>) -> Result<()> {
    let stored = vdisk.store_maps().await;
    stored.map_err(|error| {
        let error = Error::from(error);
        Error::new(error.kind, format!("the map of vDisk {} cannot be stored: {}", vdisk.id, error.context))
    })
}
