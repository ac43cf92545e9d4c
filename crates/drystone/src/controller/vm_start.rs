//! What a start does about VMs: what calls that were cut short had promised on record is carried out.

use super::errors::from_node;
use super::exports::shard_of;
use super::sets::STORING_SHARD;
use super::verbs::Verbs;
use super::vms::{self, Stored};
use base::VdiskId;
use bytes::Bytes;
use control::Result;
use meta::{PlanRecord, RollbackRecord, SetRecord, Transaction, VmRecord, keys};
use std::collections::BTreeMap;
use vdisk::NoteKind;

impl Verbs {
    pub(super) async fn load_vms(&self) -> Result<Stored> {
        let stored = self.shards.on(STORING_SHARD, |shard| {
            Box::pin(async move { vms::load(&*shard.store()).await.map_err(|error| from_node(error.into())) })
        });
        let mut stored = stored.await?;
        self.vms.fill(std::mem::take(&mut stored.vms), std::mem::take(&mut stored.sets));
        self.schedules.fill(std::mem::take(&mut stored.schedules));
        self.vms.need(vms::sources(&stored.plans));
        self.vms.need(stored.rollbacks.iter().flat_map(vms::targets));
        Ok(stored)
    }

    /// Before anybody can connect: a VM that is half rolled back is no VM.
    pub(super) async fn finish_rollbacks(&self, rollbacks: &[RollbackRecord]) {
        let _one = self.changing.lock().await;
        for rollback in rollbacks {
            match self.finish_rollback(rollback).await {
                Ok(()) => {
                    self.vms.no_longer_need(vms::targets(rollback));
                    tracing::info!(vm = %rollback.vm, "a rollback that was cut short is complete");
                }
                Err(error) => tracing::error!(
                    vm = %rollback.vm, %error,
                    "a rollback that was cut short cannot go on; the VM's vDisks cannot be connected to until a start succeeds with it"
                ),
            }
        }
    }

    /// The rest, beside what is served.
    pub(super) async fn finish_vms(&self, stored: Stored) {
        self.finish_plans(&stored.plans).await;
        self.finish_deletions().await;
        self.finish_templates().await;
        self.learn_snapshots().await;
        self.finish_notes().await;
    }

    /// VMs that were being made are made; then the snapshots go that they were made from.
    async fn finish_plans(&self, plans: &[PlanRecord]) {
        let _one = self.changing.lock().await;
        if !plans.is_empty() {
            let carried_out = async {
                let (taken, plans): (Vec<_>, Vec<_>) =
                    plans.iter().cloned().partition(|plan| self.vms.find(&plan.name).is_some());
                let given_up = taken.iter().fold(Transaction::new(), |all, plan| all.delete(keys::plan(plan.vm)));
                self.commit(given_up).await?;
                self.make_vdisks(&plans, &mut Vec::new()).await?;
                self.commit_vms(&plans).await
            };
            match carried_out.await {
                Ok(made) => {
                    self.vms.no_longer_need(vms::sources(plans));
                    tracing::info!(vms = made.len(), "VMs that were being made when the last run ended are there");
                }
                Err(error) => {
                    tracing::error!(%error, "VMs that were being made when the last run ended are not there yet; the next start tries again")
                }
            }
        }
        let is_needed = |set: &SetRecord| {
            set.vms.iter().flat_map(|vm| &vm.members).any(|member| self.vms.is_needed(member.snapshot))
        };
        for set in self.vms.sets_to_go().into_iter().filter(|set| !is_needed(set)) {
            if let Err(error) = self.delete_set(&set).await {
                tracing::warn!(set = %set.id, %error, "a snapshot of several vDisks is not deleted yet");
            }
        }
    }

    async fn finish_deletions(&self) {
        let _one = self.changing.lock().await;
        for vm in self.vms.deleting() {
            match self.finish_deletion(&vm, true).await {
                Ok(()) => tracing::info!(vm = vm.name, "its deletion, which was cut short, is complete"),
                Err(error) => tracing::error!(vm = vm.name, %error, "its deletion is not complete yet"),
            }
        }
    }

    /// The vDisks of templates are read-only, however far the call came that was to see to it.
    async fn finish_templates(&self) {
        let _one = self.changing.lock().await;
        for vm in self.vms.all().into_iter().filter(|vm| vm.template) {
            let writable = |member: &meta::VmVdisk| {
                self.directory.find_id(member.vdisk).is_some_and(|(_, listed)| !listed.read_only)
            };
            let vdisks = vm.vdisks.iter().filter(|member| writable(member)).cloned().collect();
            if let Err(error) = self.set_read_only(&VmRecord { vdisks, ..vm.clone() }, true).await {
                tracing::error!(vm = vm.name, %error, "a vDisk of this template can still be written");
            }
        }
    }

    /// The logs say to which VM each vDisk belongs.
    async fn finish_notes(&self) {
        let wanted: BTreeMap<VdiskId, Bytes> = self
            .vms
            .all()
            .iter()
            .flat_map(|vm| vm.vdisks.iter().map(|member| (member.vdisk, vm.encode())).collect::<Vec<_>>())
            .collect();
        for (_, listed) in self.directory.all() {
            match self.finish_note(listed.id, wanted.get(&listed.id).cloned().unwrap_or_default()).await {
                _ if self.is_stopping() => return,
                Err(error) => {
                    tracing::warn!(vdisk = %listed.id, %error, "its log does not say yet to which VM it belongs")
                }
                Ok(()) => {}
            }
        }
    }

    async fn finish_note(&self, id: VdiskId, wanted: Bytes) -> Result<()> {
        let noted = self.shards.on(shard_of(id), move |shard| {
            Box::pin(async move { shard.note(id, NoteKind::Vm).await.map_err(from_node) })
        });
        if noted.await?.unwrap_or_default() == wanted {
            return Ok(());
        }
        let _one = self.changing.lock().await;
        // It may have changed since.
        let now = self.vms.of_vdisk(id).map(|vm| vm.encode()).unwrap_or_default();
        self.note(vec![(id, now)]).await;
        Ok(())
    }
}
