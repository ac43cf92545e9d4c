//! Copies of schedules in the logs of the vDisks that they take snapshots of: they outlive the metadata store there. Which
//! snapshots a schedule took they do not say: after such a loss nobody can tell these from those that a user took, so that
//! they stay.

use crate::controller::errors::from_node;
use crate::controller::exports::shard_of;
use crate::controller::verbs::Verbs;
use base::VdiskId;
use bytes::Bytes;
use control::Result;
use meta::{ScheduleNote, ScheduleRecord, ScheduleTarget, VmRecord};
use std::collections::BTreeMap;
use vdisk::NoteKind;

/// What the logs are known to say.
#[derive(Default)]
pub(super) struct Noted {
    by_vdisk: BTreeMap<VdiskId, Bytes>,
    /// What was logged of those that do not say it yet.
    troubles: BTreeMap<VdiskId, String>,
}

impl Noted {
    fn retain(&mut self, is_there: impl Fn(&VdiskId) -> bool) {
        self.by_vdisk.retain(|vdisk, _| is_there(vdisk));
        self.troubles.retain(|vdisk, _| is_there(vdisk));
    }

    fn says(&mut self, vdisk: VdiskId, bytes: Bytes) {
        self.by_vdisk.insert(vdisk, bytes);
        self.troubles.remove(&vdisk);
    }

    /// Whether that is news.
    fn fails(&mut self, vdisk: VdiskId, error: &str) -> bool {
        self.troubles.insert(vdisk, error.to_string()).as_deref() != Some(error)
    }
}

impl Verbs {
    pub(super) fn vdisks_of_target(&self, target: &ScheduleTarget) -> Vec<VdiskId> {
        let of_vm = |vm: VmRecord| vm.vdisks.into_iter().map(|member| member.vdisk);
        match target {
            ScheduleTarget::Vdisk(id) => vec![*id],
            ScheduleTarget::Container(id) => self.vdisks_in(*id),
            ScheduleTarget::Vm(id) => self.vms.find_id(*id).into_iter().flat_map(of_vm).collect(),
            ScheduleTarget::Group(name) => {
                self.vms_of_group(name).unwrap_or_default().into_iter().flat_map(of_vm).collect()
            }
        }
    }

    /// What the log of each vDisk is to say: what the user said of each schedule, and not the snapshots that it took, of which
    /// there are many.
    pub(super) fn wanted_notes(&self) -> BTreeMap<VdiskId, Vec<ScheduleRecord>> {
        let mut wanted: BTreeMap<VdiskId, Vec<ScheduleRecord>> =
            self.directory.all().into_iter().map(|(_, listed)| (listed.id, Vec::new())).collect();
        for made in self.schedules.each(|_, schedule| schedule.record.as_made()) {
            for vdisk in self.vdisks_of_target(&made.target) {
                wanted.entry(vdisk).and_modify(|all| all.push(made.clone()));
            }
        }
        wanted
    }

    /// In the logs of these vDisks, or of all. What does not succeed is tried again at the next call.
    pub(super) async fn note_schedules(&self, only: Option<&[VdiskId]>) {
        let mut noted = self.schedules.noted.lock().await;
        let wanted = self.wanted_notes();
        noted.retain(|vdisk| wanted.contains_key(vdisk));
        for (vdisk, schedules) in wanted.into_iter().filter(|(vdisk, _)| only.is_none_or(|only| only.contains(vdisk))) {
            let bytes = ScheduleNote(schedules).encode();
            if noted.by_vdisk.get(&vdisk) == Some(&bytes) || self.is_stopping() {
                continue;
            }
            match self.note_schedules_of(vdisk, bytes.clone()).await {
                Ok(()) => noted.says(vdisk, bytes),
                Err(error) if noted.fails(vdisk, &error.message) => {
                    tracing::warn!(%vdisk, %error, "its log does not say yet which schedules take snapshots of it");
                }
                Err(_) => {}
            }
        }
    }

    async fn note_schedules_of(&self, vdisk: VdiskId, bytes: Bytes) -> Result<()> {
        let noted = self.shards.on(shard_of(vdisk), move |shard| {
            Box::pin(async move {
                let before = shard.note(vdisk, NoteKind::Schedules).await.map_err(from_node)?;
                if before.unwrap_or_default() == bytes {
                    return Ok(());
                }
                shard.set_note(vdisk, NoteKind::Schedules, bytes).await.map_err(from_node)
            })
        });
        noted.await
    }
}

/// The newest of several copies of a schedule.
pub fn newest(copies: impl Iterator<Item = ScheduleRecord>) -> Vec<ScheduleRecord> {
    let mut newest: BTreeMap<String, ScheduleRecord> = BTreeMap::new();
    for copy in copies {
        let known = newest.entry(copy.name.clone()).or_insert_with(|| copy.clone());
        if (copy.created_wall_ns, copy.serial) > (known.created_wall_ns, known.serial) {
            *known = copy;
        }
    }
    newest.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_told_once() {
        let (mut noted, one, other) = (Noted::default(), VdiskId::new(1, 1), VdiskId::new(1, 2));
        assert!(noted.fails(one, "it is lost") && !noted.fails(one, "it is lost"));
        assert!(noted.fails(other, "it is lost") && noted.fails(one, "it is full"));
        noted.says(one, Bytes::new());
        assert!(noted.fails(one, "it is full"));
        noted.retain(|vdisk| *vdisk == one);
        assert!(noted.fails(other, "it is lost") && !noted.fails(one, "it is full"));
    }

    #[test]
    fn the_newest_copy_counts() {
        let copy = |name: &str, created_wall_ns: u64, serial: u64| {
            let target = ScheduleTarget::Group("g".into());
            ScheduleRecord { serial, ..ScheduleRecord::new(name, created_wall_ns, target, Vec::new()) }
        };
        // One of this name was deleted, and another one made.
        let all = [copy("a", 5, 9), copy("a", 6, 1), copy("a", 6, 2), copy("b", 1, 1), copy("a", 6, 1)];
        assert_eq!(newest(all.into_iter()), [copy("a", 6, 2), copy("b", 1, 1)]);
    }
}
