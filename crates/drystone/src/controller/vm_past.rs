//! Moments of the past of VMs: that of each vDisk at one wall time, as snapshots that live as long as the call.
//!
//! The clock is one for all shards, and a frame has its time before it is acknowledged: of two writes of which the second was
//! issued when the first had been acknowledged, no moment has the second alone, unless the clock was set back over it.
//! A start deletes what a crash leaves of such snapshots, after it has carried out what was planned with them.

use super::errors::from_node;
use super::exports::shard_of;
use super::sets::{now_wall_ns, set_vm};
use super::snapshots::now_unix_ms;
use super::verbs::Verbs;
use base::{SnapshotId, VdiskId};
use control::rules::rewind::{Wanted, moment};
use control::rules::snapshots as names;
use control::rules::vms as rules;
use control::{Error, MakeClones, Moment, Result, VmInfo, VmRolledBack, VmSnapshotInfo};
use futures_util::future::join_all;
use meta::{SetMember, SetRecord, SetVm, VmRecord};
use node::SnapshotSummary;

impl Verbs {
    pub(super) async fn clone_past_of_vm(
        &self,
        name: &str,
        names: Vec<String>,
        wanted: &Moment,
    ) -> Result<Vec<VmInfo>> {
        let at_ns = time_of(wanted)?;
        let clones = MakeClones { snapshot: None, names };
        names::clone_names(&clones)?;
        let _one = self.changing.lock().await;
        let vm = self.find_vm(name)?;
        self.check_whole(&vm)?;
        let labels: Vec<String> = vm.vdisks.iter().map(|member| member.label.clone()).collect();
        if labels.is_empty() {
            return Err(Error::has_no_vdisks(name));
        }
        let vms = rules::vm_clone_names(&clones, &labels)?;
        self.check_names(&vms, &labels)?;
        let past = self.take_past(&vm, at_ns).await?;
        let made = self.clone_set(&vm, &past, vms).await;
        self.drop_past(&past).await;
        Ok(made?.iter().map(|vm| self.vm_info(vm)).collect())
    }

    /// A set like others, of the time that its parts show.
    pub(super) async fn take_past_of_vm(&self, name: &str, snapshot: &str, wanted: &Moment) -> Result<VmSnapshotInfo> {
        let at_ns = time_of(wanted)?;
        names::check_snapshot_name(snapshot)?;
        let _one = self.changing.lock().await;
        let vm = self.find_vm(name)?;
        self.check_new_set(&vm, snapshot)?;
        let id = self.new_set_id().await?;
        let members: Vec<VdiskId> = vm.vdisks.iter().map(|member| member.vdisk).collect();
        let by_shard = self.by_shard(members.iter().copied());
        let parts = vm.vdisks.iter().map(|member| {
            let (vdisk, name, members) = (member.vdisk, snapshot.to_string(), members.clone());
            let taken = self.shards.on(shard_of(vdisk), move |shard| {
                Box::pin(async move { shard.part_at(vdisk, &name, at_ns, id, members).await.map_err(from_node) })
            });
            let vm = &vm;
            async move { taken.await.map_err(|error| of_part(vm, &member.label, &error)) }
        });
        let taken: Result<Vec<SnapshotSummary>> = join_all(parts).await.into_iter().collect();
        let taken = match taken {
            Ok(taken) => taken,
            Err(error) => {
                self.take_back_set(id, &by_shard).await;
                return Err(error);
            }
        };
        let (name, vms) = (snapshot.to_string(), vec![set_vm(&vm, &taken)]);
        let set = SetRecord { id, name, created_wall_ns: at_ns, deleting: false, group: None, vms };
        Ok(self.set_info(&vm, &self.put_on_record(set, &by_shard).await?))
    }

    pub(super) async fn roll_vm_back_to_past(&self, name: &str, wanted: &Moment) -> Result<VmRolledBack> {
        let at_ns = time_of(wanted)?;
        let _one = self.changing.lock().await;
        let vm = self.find_vm(name)?;
        if vm.vdisks.is_empty() {
            return Err(Error::has_no_vdisks(name));
        }
        // What refuses the rollback refuses it before the logs are read.
        self.check_stopped(&vm).await?;
        let past = self.take_past(&vm, at_ns).await?;
        let done = self.roll_vm_back_to(&vm, &past).await;
        self.drop_past(&past).await;
        done
    }

    /// As a set that is on no record.
    async fn take_past(&self, vm: &VmRecord, at_ns: u64) -> Result<SetRecord> {
        let name = names::temporary_name(now_unix_ms());
        let taken = vm.vdisks.iter().map(|member| {
            let (id, name) = (member.vdisk, name.clone());
            self.shards.on(shard_of(id), move |shard| {
                Box::pin(async move {
                    let taken = shard.snapshot_at(id, &name, vdisk::Moment::At(at_ns)).await;
                    taken.map(|taken| taken.id).map_err(from_node)
                })
            })
        });
        let (mut members, mut failed) = (Vec::new(), None);
        for (taken, member) in join_all(taken).await.into_iter().zip(&vm.vdisks) {
            let label = member.label.clone();
            match taken {
                Ok(snapshot) => members.push(SetMember { label, vdisk: member.vdisk, snapshot }),
                Err(error) => failed = Some(of_part(vm, &label, &error)),
            }
        }
        let vms = vec![SetVm { vm: vm.id, members }];
        let past =
            SetRecord { id: SnapshotId::NONE, name, created_wall_ns: now_wall_ns(), deleting: false, group: None, vms };
        if let Some(error) = failed {
            self.drop_past(&past).await;
            return Err(error);
        }
        Ok(past)
    }

    /// But for what is on record still and has to be made from it.
    async fn drop_past(&self, past: &SetRecord) {
        let members = past.vms.iter().flat_map(|vm| &vm.members);
        let dropped = members.filter(|member| !self.vms.is_needed(member.snapshot)).map(|member| {
            let (id, snapshot) = (member.vdisk, member.snapshot);
            self.shards.on(shard_of(id), move |shard| {
                Box::pin(async move { shard.delete_snapshot(id, snapshot, true).await.map_err(from_node) })
            })
        });
        for dropped in join_all(dropped).await {
            if let Err(error) = dropped {
                tracing::warn!(%error, "a snapshot of the past that was needed for a moment is not deleted yet; the next start does it");
            }
        }
    }
}

fn of_part(vm: &VmRecord, label: &str, error: &Error) -> Error {
    Error::new(error.kind, format!("{label} of VM {:?}: {error}", vm.name))
}

/// Numbers of writes are those of one vDisk.
fn time_of(wanted: &Moment) -> Result<u64> {
    match moment(wanted)? {
        Wanted::At(ns) => Ok(ns),
        Wanted::Before(_) => Err(Error::invalid(
            "writes are numbered for each vDisk; of a VM name a time (`--at`), or clone its vDisks one by one",
        )),
    }
}
