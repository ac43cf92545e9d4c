//! The verbs on the past of vDisks: a moment becomes a snapshot, which for clones and rollbacks lives as long as the call.

use super::errors::from_node;
use super::snapshots::{Source, info, now_unix_ms};
use super::verbs::Verbs;
use base::{VdiskId, utc};
use control::rules::rewind::{Wanted, check_rewind, moment};
use control::rules::snapshots as rules;
use control::{
    ControlFuture, Error, HistoryKind, HistoryPoint, MakeClones, Moment, Result, RewindControl, RolledBack, SetRewind,
    SnapshotInfo, VdiskInfo, VmInfo, VmRolledBack, VmSnapshotInfo,
};
use meta::{ContainerRewind, MemberRecord};
use node::Shard;
use std::rc::Rc;
use vdisk::{Point, PointKind, Rewind};
use world::LocalFuture;

pub(super) fn of_container(ContainerRewind { window_seconds, limit_bytes }: ContainerRewind) -> Rewind {
    Rewind { window_ns: window_seconds.saturating_mul(SECOND_NS), limit_bytes }
}

pub(super) fn of_request(SetRewind { window_seconds, limit_bytes }: SetRewind) -> Rewind {
    Rewind { window_ns: window_seconds.saturating_mul(SECOND_NS), limit_bytes }
}

const SECOND_NS: u64 = 1_000_000_000;

fn of_engine(wanted: Wanted) -> vdisk::Moment {
    match wanted {
        Wanted::At(ns) => vdisk::Moment::At(ns),
        Wanted::Before(write) => vdisk::Moment::Before(base::Sequence(write)),
    }
}

pub(super) fn rewind_info(info: vdisk::RewindInfo) -> control::RewindInfo {
    control::RewindInfo {
        window_seconds: info.rewind.window_ns / SECOND_NS,
        limit_bytes: info.rewind.limit_bytes,
        since_unix_ms: info.since_ns.map(|ns| ns / 1_000_000),
        held_bytes: info.held_bytes,
        cut_short: info.cut_short,
    }
}

fn point(point: Point) -> HistoryPoint {
    HistoryPoint {
        kind: match point.kind {
            PointKind::Checkpoint => HistoryKind::Checkpoint,
            PointKind::Quiet => HistoryKind::Quiet,
            PointKind::Overwriting => HistoryKind::Overwriting,
        },
        at: utc::format_ns(point.at_ns),
        before_write: point.sequence.0,
        seconds: point.len_ns / SECOND_NS,
        bytes: point.bytes,
    }
}

fn time(text: Option<&str>, without: u64) -> Result<u64> {
    let Some(text) = text else { return Ok(without) };
    match moment(&Moment { at: Some(text.to_string()), before_write: None })? {
        Wanted::At(ns) => Ok(ns),
        Wanted::Before(_) => unreachable!("a time was given"),
    }
}

impl Verbs {
    /// Its own window could not be given to it. The error is passed on, with what is left of it.
    async fn inherit_again(&self, vdisk: VdiskId, error: Error) -> Error {
        let again = async {
            let own = self.member_now(vdisk).await?;
            self.store_member(MemberRecord { inherits: true, ..own }).await
        };
        match again.await {
            Ok(()) => error,
            Err(also) => {
                let text = format!(
                    "{error}; and the window that it has now is its own from here on, as that cannot be taken back: {also} \
                     (`drystone vdisk set NAME --rewind inherit`)"
                );
                Error::new(error.kind, text)
            }
        }
    }
}

impl Source {
    async fn snapshot_past(&self, name: &str, wanted: Wanted) -> Result<SnapshotInfo> {
        self.check_new(name).await?;
        let made = self.shard.snapshot_at(self.id, name, of_engine(wanted)).await.map_err(from_node)?;
        Ok(info(&self.name, made))
    }

    async fn clone_past(&self, names: Vec<String>, wanted: Wanted) -> Result<Vec<meta::VdiskRecord>> {
        let past = self.temporary(wanted).await?;
        self.clone_temporary(past, names).await
    }

    async fn roll_back_to_past(&self, wanted: Wanted) -> Result<SnapshotInfo> {
        // What refuses the rollback refuses it before the log is read.
        self.check_roll_back()?;
        let past = self.temporary(wanted).await?;
        let done = self.roll_back_to(past).await;
        self.forget(past).await;
        done
    }

    async fn temporary(&self, wanted: Wanted) -> Result<base::SnapshotId> {
        let name = rules::temporary_name(now_unix_ms());
        Ok(self.shard.snapshot_at(self.id, &name, of_engine(wanted)).await.map_err(from_node)?.id)
    }
}

impl RewindControl for Verbs {
    fn set_rewind<'a>(&'a self, vdisk: &'a str, set: Option<SetRewind>) -> ControlFuture<'a, VdiskInfo> {
        let vdisk = vdisk.to_string();
        self.to_its_end(move |verbs| async move {
            set.as_ref().map_or(Ok(()), check_rewind)?;
            let rewind = set.map(of_request);
            let listed = verbs.find(&vdisk)?;
            let id = listed.id;
            let _turn = verbs.turn_of_containers(id).await?;
            let before = verbs.member_now(id).await?;
            // On record first: what the container says does not come back over it. Of `default` nothing is said before that has
            // settings.
            let inherited = before.inherits && before.serial > 0;
            if inherited {
                verbs.store_member(MemberRecord { inherits: false, ..before }).await?;
            }
            if let Err(error) = verbs.give_window(id, rewind).await {
                return Err(if inherited { verbs.inherit_again(id, error).await } else { error });
            }
            verbs.info(&vdisk, &listed).await
        })
    }

    fn inherit_rewind<'a>(&'a self, vdisk: &'a str) -> ControlFuture<'a, VdiskInfo> {
        let vdisk = vdisk.to_string();
        self.to_its_end(move |verbs| async move {
            let listed = verbs.find(&vdisk)?;
            {
                let _turn = verbs.turn_of_containers(listed.id).await?;
                let before = verbs.member_now(listed.id).await?;
                if !before.inherits && before.serial > 0 {
                    verbs.store_member(MemberRecord { inherits: true, ..before }).await?;
                } else if !before.inherits {
                    verbs.give_window(listed.id, None).await?;
                }
            }
            verbs.carry_out_now(listed.id).await?;
            verbs.info(&vdisk, &listed).await
        })
    }

    fn history<'a>(
        &'a self,
        vdisk: &'a str,
        from: Option<&'a str>,
        to: Option<&'a str>,
    ) -> ControlFuture<'a, Vec<HistoryPoint>> {
        Box::pin(async move {
            let (from_ns, to_ns) = (time(from, 0)?, time(to, u64::MAX)?);
            let listed = self.find(vdisk)?;
            let id = listed.id;
            let work = move |shard: Rc<Shard>| -> LocalFuture<Result<Vec<HistoryPoint>>> {
                Box::pin(async move {
                    let found = shard.history(id, from_ns, to_ns).await.map_err(from_node)?;
                    Ok(found.into_iter().map(point).collect())
                })
            };
            self.shards.on(listed.shard, work).await
        })
    }

    fn snapshot_past<'a>(&'a self, vdisk: &'a str, name: &'a str, wanted: Moment) -> ControlFuture<'a, SnapshotInfo> {
        let (vdisk, name) = (vdisk.to_string(), name.to_string());
        self.to_its_end(|verbs| async move {
            rules::check_snapshot_name(&name)?;
            let wanted = moment(&wanted)?;
            let made = verbs.change_snapshots(&vdisk, move |source| {
                Box::pin(async move { source.snapshot_past(&name, wanted).await })
            });
            made.await
        })
    }

    fn clone_past<'a>(
        &'a self,
        vdisk: &'a str,
        names: Vec<String>,
        wanted: Moment,
    ) -> ControlFuture<'a, Vec<VdiskInfo>> {
        let vdisk = vdisk.to_string();
        self.to_its_end(|verbs| async move {
            let wanted = moment(&wanted)?;
            let names = rules::clone_names(&MakeClones { snapshot: None, names })?;
            let make = move |source: Source, names| -> LocalFuture<Result<Vec<meta::VdiskRecord>>> {
                Box::pin(async move { source.clone_past(names, wanted).await })
            };
            verbs.clone_as(&vdisk, None, names, make).await
        })
    }

    fn roll_back_to_past<'a>(&'a self, vdisk: &'a str, wanted: Moment) -> ControlFuture<'a, RolledBack> {
        let vdisk = vdisk.to_string();
        self.to_its_end(|verbs| async move {
            let wanted = moment(&wanted)?;
            let kept = verbs.change_snapshots(&vdisk, move |source| {
                Box::pin(async move { source.roll_back_to_past(wanted).await })
            });
            let kept = kept.await?;
            let info = verbs.info(&vdisk, &verbs.find(&vdisk)?).await?;
            Ok(RolledBack { vdisk: info, kept })
        })
    }

    fn snapshot_vm_past<'a>(&'a self, vm: &'a str, name: &'a str, wanted: Moment) -> ControlFuture<'a, VmSnapshotInfo> {
        let (vm, name) = (vm.to_string(), name.to_string());
        self.to_its_end(|verbs| async move { verbs.take_past_of_vm(&vm, &name, &wanted).await })
    }

    fn clone_vm_past<'a>(&'a self, vm: &'a str, names: Vec<String>, wanted: Moment) -> ControlFuture<'a, Vec<VmInfo>> {
        let vm = vm.to_string();
        self.to_its_end(|verbs| async move { verbs.clone_past_of_vm(&vm, names, &wanted).await })
    }

    fn roll_vm_back_to_past<'a>(&'a self, vm: &'a str, wanted: Moment) -> ControlFuture<'a, VmRolledBack> {
        let vm = vm.to_string();
        self.to_its_end(|verbs| async move { verbs.roll_vm_back_to_past(&vm, &wanted).await })
    }
}
