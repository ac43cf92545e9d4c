//! What calls that were cut short had promised on record is carried out: by a start, and by the running controller until it
//! is done.

use super::errors::from_node;
use super::exports::shard_of;
use super::sets::STORING_SHARD;
use super::verbs::Verbs;
use super::vms::{self, Stored};
use base::{VdiskId, VmId};
use bytes::Bytes;
use control::{Error, Kind, Result};
use meta::{PlanRecord, VmRecord};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use vdisk::NoteKind;

/// Between attempts to carry out what is left; it may be that a disk is full, or that somebody reads what is to go.
const RETRY_PAUSE: Duration = Duration::from_secs(10);

/// Until the controller stops.
pub async fn go_on(verbs: Arc<Verbs>) {
    while !verbs.is_stopping() {
        tokio::time::sleep(RETRY_PAUSE).await;
        verbs.finish_pending().await;
    }
}

impl Verbs {
    pub(super) async fn load_vms(&self) -> Result<()> {
        let stored = self.shards.on(STORING_SHARD, |shard| {
            Box::pin(async move { vms::load(&*shard.store()).await.map_err(|error| from_node(error.into())) })
        });
        let Stored { vms, sets, plans, rollbacks, schedules } = stored.await?;
        self.vms.fill(vms, sets);
        self.vms.put_plans(&plans);
        rollbacks.into_iter().for_each(|rollback| self.vms.put_rollback(rollback));
        self.schedules.fill(schedules);
        Ok(())
    }

    /// Before anybody can connect: a VM that is half rolled back is no VM.
    pub(super) async fn finish_rollbacks(&self) {
        let _one = self.changing.lock().await;
        let all = self.vms.rollbacks();
        let ids: Vec<VdiskId> = all.iter().flat_map(|rolling| &rolling.record.steps).map(|(id, _)| *id).collect();
        self.hold(&ids).await;
        for rolling in all {
            let vm = rolling.record.vm;
            match self.finish_rollback(&rolling).await {
                Ok(()) => tracing::info!(%vm, "a rollback that was cut short is complete"),
                Err(error) => self.is_left(vm, &error),
            }
        }
    }

    /// What is on record of this VM stays there. Told once, however often it is tried.
    pub(super) fn is_left(&self, vm: VmId, error: &Error) {
        if self.vms.set_trouble(vm, &error.message) {
            tracing::error!(%vm, %error, "what a call had promised on record is not done yet; it is tried again");
        }
    }

    /// The same of a VM or a set that is being deleted.
    pub(super) fn is_not_gone(&self, id: u64, error: &Error) {
        if self.vms.set_not_gone(id, &error.message) {
            let what = self.vms.deletion_name(id);
            tracing::error!(what, %error, "it is not complete yet; it is tried again");
        }
    }

    /// The rest, beside what is served.
    pub(super) async fn finish_vms(&self) {
        self.finish_plans().await;
        self.finish_sets().await;
        self.finish_deletions(true).await;
        self.finish_templates().await;
        self.learn_snapshots().await;
        self.finish_notes().await;
    }

    /// What is left of all that, in the running controller: nobody is cut off for it.
    pub(super) async fn finish_pending(&self) {
        if self.vms.is_settled() {
            return;
        }
        let needed = self.vms.needed_vdisks();
        self.finish_rollbacks().await;
        self.finish_plans().await;
        self.finish_sets().await;
        self.finish_deletions(false).await;
        let done: Vec<VdiskId> = needed.difference(&self.vms.needed_vdisks()).copied().collect();
        self.forget_sources(&done).await;
    }

    /// What calls took for themselves goes from these vDisks, as nothing has to be made from it any more.
    pub(super) async fn forget_sources(&self, vdisks: &[VdiskId]) {
        for id in vdisks.iter().copied().filter(|id| self.directory.find_id(*id).is_some()) {
            if let Err(error) = self.learn(shard_of(id), id, false).await {
                tracing::warn!(vdisk = %id, %error, "a snapshot that is not needed any more stays");
            }
        }
    }

    /// VMs that were being made are made; then the snapshots go that they were made from.
    async fn finish_plans(&self) {
        let Err((plans, error)) = self.finish_plans_at_once().await else { return };
        if let [only] = &plans[..] {
            return self.is_left(only.vm, &error);
        }
        // One that cannot be made keeps back no other. Nor does it any other call: that may be what makes room.
        for (at, plan) in plans.iter().enumerate() {
            let _one = self.changing.lock().await;
            if !self.vms.plans().contains(plan) || self.vms.find(&plan.name).is_some() {
                continue;
            }
            let Err(error) = self.carry_out(std::slice::from_ref(plan)).await else { continue };
            if error.kind == Kind::Full {
                return plans.iter().skip(at).for_each(|plan| self.is_left(plan.vm, &error));
            }
            self.is_left(plan.vm, &error);
        }
    }

    /// Together that costs least. An error: those that are not made, and why.
    async fn finish_plans_at_once(&self) -> std::result::Result<(), (Vec<PlanRecord>, Error)> {
        let _one = self.changing.lock().await;
        let plans = self.vms.plans();
        // What a later call has planned under the name counts.
        let is_given_up = |(at, plan): (usize, &PlanRecord)| {
            self.vms.is_given_up(plan.vm)
                || self.vms.find(&plan.name).is_some()
                || plans.iter().skip(at + 1).any(|later| later.name == plan.name && !self.vms.is_given_up(later.vm))
        };
        let given_up: Vec<bool> = plans.iter().enumerate().map(is_given_up).collect();
        let (given_up, plans): (Vec<_>, Vec<_>) = plans.into_iter().zip(given_up).partition(|(_, given_up)| *given_up);
        let [given_up, plans] = [given_up, plans].map(|all| all.into_iter().map(|(plan, _)| plan).collect::<Vec<_>>());
        self.end_plans(&given_up, false).await;
        self.carry_out(&plans).await.map_err(|error| (plans, error))
    }

    async fn carry_out(&self, plans: &[PlanRecord]) -> Result<()> {
        if plans.is_empty() {
            return Ok(());
        }
        let mut just_made = Vec::new();
        self.make_vdisks(plans, &mut just_made).await?;
        let made = self.commit_vms(plans, &just_made).await?;
        tracing::info!(vms = made.len(), "VMs that were being made by a call that was cut short are there");
        Ok(())
    }

    /// Sets that are being deleted, and those that calls took for themselves.
    async fn finish_sets(&self) {
        let _one = self.changing.lock().await;
        let is_needed = |set: &meta::SetRecord| self.needed_part(set).is_some();
        for set in self.vms.sets_to_go().into_iter().filter(|set| !is_needed(set)) {
            // An error stays on record.
            let _ = self.delete_set(&set, false).await;
        }
    }

    async fn finish_deletions(&self, force: bool) {
        let _one = self.changing.lock().await;
        for vm in self.vms.deleting() {
            // An error stays on record.
            if let Ok(()) = self.finish_deletion(&vm, force).await {
                tracing::info!(vm = vm.name, "its deletion, which was cut short, is complete");
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
